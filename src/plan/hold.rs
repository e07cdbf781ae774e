//! What a network manager holds of the uplink, as it is written down: enough
//! to give it to the bridge, and to give it back.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::resolved::ResolvedHold;

/// How one manager's hand is moved from the uplink to the bridge and back.
///
/// A value that is made before anything is touched, and a part of the
/// [`Record`](super::Record): whoever leads the host back after a crash has
/// nothing else. Names of units, files and profiles that the way makes are
/// therefore chosen here, or derived from the bridge's name, never made up on
/// the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "manager", rename_all = "kebab-case")]
pub enum Hold {
    /// systemd-networkd, and netplan, which writes files for it.
    Networkd(NetworkdHold),
    /// systemd-resolved, where nobody else tells it of the bridge.
    Resolved(ResolvedHold),
}

/// What systemd-networkd is told of the bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkdHold {
    /// The file by which it configures the uplink.
    pub file: String,
    /// The sections of a file for the bridge, without its `[Match]`, with the
    /// uplink's name where they name the device.
    pub sections: String,
    /// What the names of the files begin with that it is given.
    pub prefix: String,
    /// The IPv4 address that a server has leased to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<Ipv4Addr>,
}
