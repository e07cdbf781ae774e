//! Entries of the neighbour tables (ARP and ND).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Family, IfName, is_default};

/// States of include/uapi/linux/neighbour.h that vmbr names.
pub mod state {
    /// Recently confirmed.
    pub const REACHABLE: u16 = 0x02;
    /// Set by a person, never checked.
    pub const PERMANENT: u16 = 0x80;
    /// States in which the link-layer address can be used: reachable, stale,
    /// delay, probe, noarp, permanent (`NUD_VALID`, include/net/neighbour.h).
    pub const VALID: u16 = 0xde;
    /// No resolution is done: multicast and broadcast entries.
    pub const NOARP: u16 = 0x40;
}

/// Flags of include/uapi/linux/neighbour.h that vmbr names.
pub mod flag {
    /// Answered by this host for another.
    pub const PROXY: u8 = 0x08;
    /// Learned by someone outside of the kernel.
    pub const EXT_LEARNED: u8 = 0x10;
    /// The neighbour is an IPv6 router.
    pub const ROUTER: u8 = 0x80;
}

/// A neighbour of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The device on whose link the neighbour is.
    pub dev: IfName,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its link-layer address; none for a proxy entry or an unresolved one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mac: Option<macaddr::MacAddr6>,
    /// `NUD_*`, see [`state`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: u16,
    /// `NTF_*`, see [`flag`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub flags: u8,
}

impl Neighbour {
    /// The family of the neighbour's address.
    pub fn family(&self) -> Family {
        Family::of(&self.address)
    }

    /// Whether the entry answers for another host (`ip neigh add proxy`).
    pub fn is_proxy(&self) -> bool {
        self.flags & flag::PROXY != 0
    }

    /// Whether a person or a program set the entry: it must move with the
    /// network, and not merely be learned again.
    pub fn is_configured(&self) -> bool {
        self.is_proxy() || self.state & state::PERMANENT != 0 || self.flags & flag::EXT_LEARNED != 0
    }

    /// Whether the entry's link-layer address can be used as it is.
    pub fn is_resolved(&self) -> bool {
        self.mac.is_some() && self.state & state::VALID != 0 && self.state & state::NOARP == 0
    }
}
