//! Which frames a guarded guest may send: plain values, no I/O, no unsafe.
//!
//! A guard is a packet filter at the ingress of the guest's TAP, in the
//! kernel's classic BPF ([`program`]), and the MAC pinned to the bridge's port
//! ([`crate::sys::rtnl`] gives both to the kernel).
//!
//! # Why a filter of traffic control, and not nftables
//!
//! - It goes with the port, whoever ends it and however. A chain of nftables
//!   that is hooked at a device stays behind since Linux 6.16, and takes hold
//!   of the next device of that name.
//! - Nobody takes it away by the way: `systemctl restart nftables` begins with
//!   `flush ruleset`.
//! - It takes one message and CAP_NET_ADMIN. vmbr-helper can set it when its
//!   door is closed already: no program is run, no file opened. A program of
//!   the newer BPF would need CAP_BPF, too.
//! - The kernel compiles it, and it sees a frame before anything else does.
//!
//! # What fails is not passed
//!
//! There are two filters: the first says which frames may pass, the second,
//! asked for all others, drops. A frame that ends before what is looked at
//! makes the kernel end the first one with "no".
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use macaddr::MacAddr6;

mod assembler;
mod ipv6;
pub mod program;

pub use assembler::Instruction;

/// The most addresses and prefixes of one guard: the program grows with each.
pub const NETWORKS_MAX: usize = 32;

/// The word for a guard of the MAC alone.
const MAC_ONLY: &str = "mac";

/// An address, or a prefix of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    len: u8,
}

/// What `--guard` says: `mac`, or addresses and prefixes with commas between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    networks: Vec<Network>,
}

/// A guest that speaks as itself only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its MAC.
    pub mac: MacAddr6,
    /// Its addresses; none where only the MAC is held to.
    pub networks: Vec<Network>,
}

impl Rule {
    /// The guard of the guest that has this MAC.
    pub fn of(&self, mac: MacAddr6) -> Guard {
        Guard {
            mac,
            networks: self.networks.clone(),
        }
    }
}

impl Guard {
    /// What it says, without the MAC.
    pub fn rule(&self) -> Rule {
        Rule {
            networks: self.networks.clone(),
        }
    }

    /// The link-local address that the kernel, systemd-networkd and most
    /// images make of the MAC (RFC 4291, appendix A).
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.into_array();
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            pair(a ^ 2, b),
            pair(c, 0xff),
            pair(0xfe, d),
            pair(e, f),
        )
    }
}

impl Network {
    /// A single address.
    pub fn single(address: IpAddr) -> Self {
        let len = if address.is_ipv4() { 32 } else { 128 };
        Self { address, len }
    }

    /// A prefix; none where the length is too long for the family, or bits
    /// are set behind it.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let network = Self { address, len };
        (len <= most && network.masked() == address).then_some(network)
    }

    /// The address, with the bits behind the prefix as 0.
    fn masked(self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits all its addresses share.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether it is one address.
    pub fn is_single(&self) -> bool {
        *self == Self::single(self.address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.len)
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.networks.is_empty() {
            return f.write_str(MAC_ONLY);
        }
        for (place, network) in self.networks.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// Why a text is no guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleError {
    /// A word that is neither `mac` nor an address nor a prefix.
    Word(String),
    /// Bits are set behind a prefix's length.
    HostBits(String, IpAddr),
    /// No guest speaks as this address.
    NoGuests(String),
    /// More than [`NETWORKS_MAX`].
    TooMany,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(
                f,
                "'{word}' is neither '{MAC_ONLY}' nor an address nor a prefix (192.0.2.5, 2001:db8::/64)"
            ),
            Self::HostBits(word, address) => write!(
                f,
                "'{word}' is no prefix: bits are set behind its length; write {address} for the one address"
            ),
            Self::NoGuests(word) => write!(f, "'{word}' is no address that a guest can have"),
            Self::TooMany => write!(f, "a guard has at most {NETWORKS_MAX} addresses and prefixes"),
        }
    }
}

impl std::error::Error for RuleError {}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut networks: Vec<Network> = Vec::new();
        for word in text.split(',') {
            if word == MAC_ONLY {
                continue;
            }
            let network = network(word)?;
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        if networks.len() > NETWORKS_MAX {
            return Err(RuleError::TooMany);
        }
        Ok(Self { networks })
    }
}

fn network(word: &str) -> Result<Network, RuleError> {
    let bad = || RuleError::Word(word.to_owned());
    let (address, len) = match word.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let network = match len {
        None => Network::single(address),
        Some(len) => {
            // "+5" and "05" are numbers to Rust, and a slip here.
            let plain = len.bytes().all(|b| b.is_ascii_digit()) && (len == "0" || !len.starts_with('0'));
            let len: u8 = len.parse().ok().filter(|_| plain).ok_or_else(bad)?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            if len > most {
                return Err(bad());
            }
            Network::new(address, len).ok_or_else(|| RuleError::HostBits(word.to_owned(), address))?
        }
    };
    let whole = network.len == 0;
    let nobody = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.is_loopback(),
    };
    // 0.0.0.0/0 is every address, and not that one.
    if nobody && !whole {
        return Err(RuleError::NoGuests(word.to_owned()));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for text in [
            "mac",
            "192.0.2.5",
            "192.0.2.5,2001:db8::/64",
            "198.51.100.0/24,fe80::/64",
            "0.0.0.0/0",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        let same: Rule = "mac,192.0.2.5,192.0.2.5/32".parse().unwrap();
        assert_eq!(same.to_string(), "192.0.2.5");
        for bad in [
            "",
            "MAC",
            "192.0.2.5,",
            "192.0.2",
            "192.0.2.0/33",
            "2001:db8::/129",
            "192.0.2.0/+5",
            "192.0.2.0/05",
            "192.0.2.5/24",
            "224.0.0.1",
            "::",
            "ff02::1",
            "::1",
            "127.0.0.1",
            "a b",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
        let many: Vec<String> = (0..=NETWORKS_MAX).map(|n| format!("192.0.2.{n}")).collect();
        assert_eq!(many[1..].join(",").parse::<Rule>().map(|_| ()), Ok(()));
        let many: Vec<String> = (1..=NETWORKS_MAX + 1).map(|n| format!("192.0.2.{n}")).collect();
        assert_eq!(many.join(",").parse::<Rule>(), Err(RuleError::TooMany));
    }

    #[test]
    fn the_link_local_address_is_that_of_the_rfc() {
        let guard = Rule::default().of(MacAddr6::new(0x52, 0x54, 0, 0x12, 0x34, 0x56));
        assert_eq!(guard.link_local().to_string(), "fe80::5054:ff:fe12:3456");
    }
}
