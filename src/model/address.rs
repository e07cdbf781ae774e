//! IP addresses as a device carries them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Family, IfName, is_default};

/// Flags of include/uapi/linux/if_addr.h that vmbr names.
pub mod flag {
    /// Made from a router advertisement for privacy (RFC 8981); user space
    /// cannot set it.
    pub const TEMPORARY: u32 = 0x01;
    /// IPv4: another address of the same prefix was there before. The same bit.
    pub const SECONDARY: u32 = 0x01;
    /// No duplicate address detection for this address.
    pub const NODAD: u32 = 0x02;
    /// Duplicate address detection found another owner.
    pub const DADFAILED: u32 = 0x08;
    /// Not preferred any more: no new connection begins with it.
    pub const DEPRECATED: u32 = 0x20;
    /// Duplicate address detection has not ended.
    pub const TENTATIVE: u32 = 0x40;
    /// Temporary addresses are derived from this one.
    pub const MANAGETEMPADDR: u32 = 0x100;
    /// The kernel makes no route to the address's prefix.
    pub const NOPREFIXROUTE: u32 = 0x200;
    const OPTIMISTIC: u32 = 0x04;
    const HOMEADDRESS: u32 = 0x10;
    const MCAUTOJOIN: u32 = 0x400;
    /// What user space can set (`inet6_rtm_newaddr()` in net/ipv6/addrconf.c;
    /// IPv4 takes the last two of them).
    pub const SETTABLE: u32 = NODAD | OPTIMISTIC | HOMEADDRESS | MANAGETEMPADDR | NOPREFIXROUTE | MCAUTOJOIN;
}

/// Scope of an address or a route: RT_SCOPE_* of rtnetlink.h.
pub mod scope {
    /// Valid everywhere.
    pub const UNIVERSE: u8 = 0;
    /// Valid on the link.
    pub const LINK: u8 = 253;
    /// Valid on this host.
    pub const HOST: u8 = 254;
}

/// A lifetime without an end (`INFINITY_LIFE_TIME`).
pub const FOREVER: u32 = u32::MAX;

/// The IPv4 label of an address (`IFA_LABEL`), relative to its device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// The device's own name: what the kernel sets where nothing is said.
    #[default]
    Device,
    /// The device's name and this, `:web` for instance.
    Suffix(String),
    /// Any other text.
    Text(String),
}

impl Label {
    /// Reads the kernel's text for an address on `device`.
    pub fn read(text: &str, device: &IfName) -> Self {
        match text.strip_prefix(device.as_str()) {
            Some("") => Self::Device,
            Some(rest) if rest.starts_with(':') => Self::Suffix(rest.to_owned()),
            _ => Self::Text(text.to_owned()),
        }
    }

    /// The text for an address on `device`. Where name and suffix do not fit
    /// the kernel's 15 bytes, the suffix loses its end.
    pub fn text(&self, device: &IfName) -> String {
        match self {
            Self::Device => device.to_string(),
            Self::Text(text) => text.clone(),
            Self::Suffix(suffix) => {
                let mut text = format!("{device}{suffix}");
                while text.len() > super::ifname::IFNAME_MAX {
                    text.pop();
                }
                text
            }
        }
    }
}

/// An IP address of a device, with all that the kernel lets user space set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The host's own address (`IFA_LOCAL`).
    pub local: IpAddr,
    /// The other end, where it is not `local` (`IFA_ADDRESS`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub peer: Option<IpAddr>,
    /// Length of the prefix in bits; with a peer, of the peer's prefix.
    pub prefix_len: u8,
    /// IPv4's broadcast address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub broadcast: Option<Ipv4Addr>,
    /// IPv4's label.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label: Label,
    /// One of [`scope`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: u8,
    /// `IFA_F_*`, as the kernel shows them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flags: u32,
    /// Seconds for which the address is preferred, or [`FOREVER`].
    #[serde(default = "forever", skip_serializing_if = "is_forever")]
    pub preferred: u32,
    /// Seconds for which the address is valid, or [`FOREVER`].
    #[serde(default = "forever", skip_serializing_if = "is_forever")]
    pub valid: u32,
    /// Metric of the prefix route (`IFA_RT_PRIORITY`), where one was set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metric: Option<u32>,
    /// Who set the address (`IFA_PROTO`, Linux 5.18), where it was said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Option<u8>,
}

fn forever() -> u32 {
    FOREVER
}

fn is_forever(seconds: &u32) -> bool {
    *seconds == FOREVER
}

/// How far two remaining lifetimes of one address may differ, in seconds: the
/// time between two looks, and the kernel's rounding of jiffies.
const LIFETIME_SLACK: u32 = 10;

impl Address {
    /// The address's family.
    pub fn family(&self) -> Family {
        Family::of(&self.local)
    }

    /// Whether both name the same address of a device: the kernel holds at
    /// most one of them (`find_matching_ifa()`, `ipv6_chk_same_addr()`).
    pub fn same_key(&self, other: &Self) -> bool {
        match self.family() {
            Family::V4 => {
                self.local == other.local && self.prefix_len == other.prefix_len && self.peer == other.peer
            }
            Family::V6 => self.local == other.local,
        }
    }

    /// The flags that user space can set.
    pub fn settable_flags(&self) -> u32 {
        self.flags & flag::SETTABLE
    }

    /// Whether the kernel adds a route to the prefix by itself.
    pub fn has_prefix_route(&self) -> bool {
        self.flags & flag::NOPREFIXROUTE == 0
    }

    /// Whether the address lives as long as the device.
    pub fn is_permanent(&self) -> bool {
        self.valid == FOREVER
    }

    /// Whether both are equal in what user space can set. Lifetimes are equal
    /// when they end at about the same time. The protocol counts only where
    /// both have one: kernels before 5.18 have none.
    pub fn same_content(&self, other: &Self) -> bool {
        let near = |a: u32, b: u32| {
            if a == FOREVER || b == FOREVER {
                a == b
            } else {
                a.abs_diff(b) <= LIFETIME_SLACK
            }
        };
        self.same_key(other)
            && self.prefix_len == other.prefix_len
            && self.peer == other.peer
            && self.broadcast == other.broadcast
            && self.label == other.label
            && self.scope == other.scope
            && self.settable_flags() == other.settable_flags()
            && near(self.preferred, other.preferred)
            && near(self.valid, other.valid)
            && self.metric == other.metric
            && (self.protocol == other.protocol || self.protocol.is_none() || other.protocol.is_none())
    }

    /// The prefix that the address puts on the link.
    pub fn on_link(&self) -> super::Prefix {
        super::Prefix::containing(self.peer.unwrap_or(self.local), self.prefix_len)
    }

    /// Whether the address is IPv6 link-local (fe80::/10).
    pub fn is_link_local_v6(&self) -> bool {
        matches!(self.local, IpAddr::V6(address) if is_link_local(&address))
    }
}

/// Whether an IPv6 address is link-local (RFC 4291, fe80::/10).
pub fn is_link_local(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

impl fmt::Display for Address {
    /// `192.0.2.1/24` or `192.0.2.1 peer 192.0.2.2/32`, as `ip address` says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.local, self.prefix_len),
            None => write!(f, "{}/{}", self.local, self.prefix_len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_device() {
        let (eth0, br0): (IfName, IfName) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        assert_eq!(Label::read("eth0", &eth0).text(&br0), "br0");
        assert_eq!(Label::read("eth0:web", &eth0).text(&br0), "br0:web");
        assert_eq!(Label::read("eth01", &eth0), Label::Text("eth01".into()));
        assert_eq!(Label::read("lan", &eth0).text(&br0), "lan");
        let long: IfName = "bridge-of-guest".parse().unwrap();
        assert_eq!(Label::read("eth0:web", &eth0).text(&long), "bridge-of-guest");
    }
}
