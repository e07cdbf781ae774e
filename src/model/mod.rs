//! Plain values of the host's network: no I/O, no unsafe.
//!
//! Devices are named, not numbered, so that a value reads like the command a
//! person would type and stays meaningful in a file.
#![forbid(unsafe_code)]

pub mod ifname;
pub use ifname::IfName;

pub mod mac;
pub use mac::Mac;

#[cfg(feature = "cli")]
pub mod address;
#[cfg(feature = "cli")]
pub mod bridge;
#[cfg(feature = "cli")]
pub mod host;
#[cfg(feature = "cli")]
pub mod link;
#[cfg(feature = "cli")]
pub mod mark;
#[cfg(feature = "cli")]
pub mod neighbour;
#[cfg(feature = "cli")]
pub mod network;
#[cfg(feature = "cli")]
pub mod nexthop;
#[cfg(feature = "cli")]
pub mod route;
#[cfg(feature = "cli")]
pub mod rule;
#[cfg(feature = "cli")]
pub mod slots;

#[cfg(feature = "cli")]
pub use {
    address::{Address, Label},
    host::HostState,
    link::Link,
    neighbour::Neighbour,
    network::Network,
    nexthop::Nexthop,
    route::{Hop, Prefix, Route},
    rule::Rule,
};

#[cfg(feature = "cli")]
use serde::{Deserialize, Serialize};

/// An address family that carries IP.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

#[cfg(feature = "cli")]
impl Family {
    /// The family of an address.
    pub fn of(address: &std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A netlink attribute that the model carries without understanding it, so
/// that nothing is lost when an object moves to another device.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawAttribute {
    /// The attribute's type, with its flag bits.
    pub kind: u16,
    /// The attribute's payload, without padding.
    pub value: Vec<u8>,
}

/// Whether a value is its type's default: such fields are left out of files.
#[cfg(feature = "cli")]
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
