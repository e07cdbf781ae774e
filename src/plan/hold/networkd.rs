//! What systemd-networkd holds.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What systemd-networkd is told of the bridge.
///
/// Its files may be for root and networkd alone, and can hold what is secret (an
/// option that proves who the client is, the secret of stable addresses); the
/// record everyone may read. So no text of them is written there: the bridge's
/// is needed by the process alone that has read it, and the uplink's own is
/// kept beside networkd's files until the way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkdHold {
    /// The file by which it configures the uplink.
    pub file: String,
    /// The sections of a file for the bridge, without its `[Match]`, with the
    /// uplink's name where they name the device. Not in the record.
    #[serde(default, skip_serializing)]
    pub sections: String,
    /// What the names of the files begin with that it is given.
    pub prefix: String,
    /// What a file of the uplink's own says that keeps what is there, where a
    /// drop-in of the one that configures it would be of other devices too. Not
    /// in the record.
    #[serde(default, skip_serializing)]
    pub own: Option<String>,
    /// The IPv4 address that a server has leased to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<Ipv4Addr>,
}
