//! Routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Family, IfName, RawAttribute, is_default};

/// Route protocols (`RTPROT_*`) that vmbr tells apart.
pub mod protocol {
    /// Made by the kernel together with an address.
    pub const KERNEL: u8 = 2;
    /// Learned from a router advertisement.
    pub const RA: u8 = 9;
    /// Added by a DHCP client, which may mark its address so, too (`IFA_PROTO`).
    pub const DHCP: u8 = 16;
}

/// Route types (`RTN_*`) that vmbr tells apart.
pub mod kind {
    /// An ordinary route.
    pub const UNICAST: u8 = 1;
    /// To this host.
    pub const LOCAL: u8 = 2;
    /// To everyone on a link.
    pub const BROADCAST: u8 = 3;
    /// To the nearest of several; IPv6 only.
    pub const ANYCAST: u8 = 4;
    /// To a group.
    pub const MULTICAST: u8 = 5;
}

/// Routing tables (`RT_TABLE_*`) that vmbr tells apart.
pub mod table {
    /// Where ordinary routes are.
    pub const MAIN: u32 = 254;
    /// Where the kernel keeps the host's own addresses.
    pub const LOCAL: u32 = 255;
}

/// The metric of IPv6 prefix routes (`IP6_RT_PRIO_ADDRCONF`).
pub const METRIC_ADDRCONF: u32 = 256;
/// The metric of IPv6 routes where none is said (`IP6_RT_PRIO_USER`).
pub const METRIC_USER_V6: u32 = 1024;

/// A block of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The first address.
    pub address: IpAddr,
    /// Length in bits.
    pub len: u8,
}

impl Prefix {
    /// The block of `len` bits in which `address` is.
    pub fn containing(address: IpAddr, len: u8) -> Self {
        let address = match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        };
        Self { address, len }
    }

    /// The block of all addresses of a family.
    pub fn all(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                address: Ipv4Addr::UNSPECIFIED.into(),
                len: 0,
            },
            Family::V6 => Self {
                address: Ipv6Addr::UNSPECIFIED.into(),
                len: 0,
            },
        }
    }

    /// Whether the block is a single address.
    pub fn is_host(&self) -> bool {
        self.len == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Prefix {
    /// As `ip route` says it: `default`, `192.0.2.1`, `192.0.2.0/24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 0 && self.address.is_unspecified() {
            f.write_str("default")
        } else if self.is_host() {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.len)
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        format!("{}/{}", prefix.address, prefix.len)
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not ADDRESS/LENGTH");
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let len: u8 = len.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if len > most {
            Err(wrong())
        } else {
            Ok(Self { address, len })
        }
    }
}

/// One way out of a route.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hop {
    /// The device; none for a route without one (blackhole).
    #[serde(default, skip_serializing_if = "is_default")]
    pub dev: Option<IfName>,
    /// The gateway, of either family (`RTA_GATEWAY`, `RTA_VIA`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub via: Option<IpAddr>,
    /// Weight among several hops, counted from 0 (`rtnh_hops`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: u8,
    /// The gateway is on the link whatever the routes say (`RTNH_F_ONLINK`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub onlink: bool,
    /// Every other attribute of the hop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rest: Vec<RawAttribute>,
}

/// A metric of a route (`RTAX_*`), other than its priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMetric {
    /// `RTAX_*`.
    pub kind: u16,
    /// Four bytes in host order, or a name for `RTAX_CC_ALGO`.
    pub value: Vec<u8>,
}

/// A route, with all that the kernel lets user space set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: Prefix,
    /// Where from (IPv6 subtrees).
    #[serde(default, skip_serializing_if = "is_default")]
    pub src: Option<Prefix>,
    /// The table's number.
    #[serde(default = "main_table", skip_serializing_if = "is_main_table")]
    pub table: u32,
    /// `RTN_*`, see [`kind`].
    #[serde(default = "unicast", skip_serializing_if = "is_unicast")]
    pub kind: u8,
    /// `RTPROT_*`, see [`protocol`].
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: u8,
    /// Type of service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tos: u8,
    /// Priority, lowest first (`RTA_PRIORITY`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub metric: u32,
    /// Preferred source address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefsrc: Option<IpAddr>,
    /// One hop, or several for a multipath route; of one that uses a nexthop
    /// object, the object's, as far as they are known.
    #[serde(default)]
    pub hops: Vec<Hop>,
    /// `RTA_METRICS`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metrics: Vec<RouteMetric>,
    /// IPv6 router preference (`RTA_PREF`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub preference: Option<u8>,
    /// Seconds until an IPv6 route ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expires: Option<u32>,
    /// The nexthop object that the route uses (`RTA_NH_ID`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub nexthop: Option<u32>,
    /// Every other attribute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rest: Vec<RawAttribute>,
}

fn main_table() -> u32 {
    table::MAIN
}

fn is_main_table(number: &u32) -> bool {
    *number == table::MAIN
}

fn unicast() -> u8 {
    kind::UNICAST
}

fn is_unicast(kind: &u8) -> bool {
    *kind == kind::UNICAST
}

impl Route {
    /// The route's family.
    pub fn family(&self) -> Family {
        Family::of(&self.dst.address)
    }

    /// Whether a hop leaves by `device`.
    pub fn uses(&self, device: &IfName) -> bool {
        self.hops.iter().any(|hop| hop.dev.as_ref() == Some(device))
    }

    /// Whether the kernel alone makes and removes such routes, with addresses
    /// and devices: to the host itself, to broadcast and multicast groups.
    pub fn belongs_to_kernel(&self) -> bool {
        self.protocol == protocol::KERNEL && self.kind != kind::UNICAST
    }

    /// The same route with `to` wherever it leaves by `from`.
    pub fn renamed(&self, from: &IfName, to: &IfName) -> Self {
        let mut route = self.clone();
        for hop in &mut route.hops {
            if hop.dev.as_ref() == Some(from) {
                hop.dev = Some(to.clone());
            }
        }
        route
    }

    /// The same route as a [`super::Network`] has it: where it uses a nexthop
    /// object, its hops are the object's and not its own.
    pub fn without_objects_hops(&self) -> Self {
        let mut route = self.clone();
        if route.nexthop.is_some() {
            route.hops.clear();
        }
        route
    }

    /// Whether both would be chosen for the same packets with the same
    /// priority: one can stand behind the other, or joins it.
    pub fn same_slot(&self, other: &Self) -> bool {
        self.same_slot_but_metric(other) && self.metric == other.metric
    }

    /// As [`Route::same_slot`], whatever the priority.
    pub fn same_slot_but_metric(&self, other: &Self) -> bool {
        self.dst == other.dst && self.src == other.src && self.table == other.table && self.tos == other.tos
    }

    /// Whether both are the same route. The end of their life is compared by
    /// having one: it is renewed all the time.
    pub fn same(&self, other: &Self) -> bool {
        // A host can have thousands, each compared with all others: what
        // tells two apart comes first, and nothing is copied.
        let Self {
            dst,
            src,
            table,
            kind,
            protocol,
            scope,
            tos,
            metric,
            prefsrc,
            hops,
            metrics,
            preference,
            expires,
            nexthop,
            rest,
        } = self;
        *dst == other.dst
            && *metric == other.metric
            && *table == other.table
            && *src == other.src
            && *kind == other.kind
            && *protocol == other.protocol
            && *scope == other.scope
            && *tos == other.tos
            && *prefsrc == other.prefsrc
            && *nexthop == other.nexthop
            && *preference == other.preference
            && expires.is_some() == other.expires.is_some()
            && *hops == other.hops
            && *metrics == other.metrics
            && *rest == other.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_masked() {
        let at = |text: &str, len| Prefix::containing(text.parse().unwrap(), len).to_string();
        assert_eq!(at("192.0.2.77", 24), "192.0.2.0/24");
        assert_eq!(at("192.0.2.77", 32), "192.0.2.77");
        assert_eq!(at("192.0.2.77", 0), "default");
        assert_eq!(at("2001:db8::1", 64), "2001:db8::/64");
        assert_eq!(at("2001:db8::1", 128), "2001:db8::1");
        assert_eq!(at("2001:db8::1", 0), "default");
        assert!(Prefix::try_from("192.0.2.0/33".to_owned()).is_err());
    }
}
