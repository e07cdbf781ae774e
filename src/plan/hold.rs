//! What a network manager holds of the uplink, as it is written down: enough
//! to give it to the bridge, and to give it back.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::model::is_default;

use super::record::Process;
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
    /// ISC's dhclient.
    Dhclient(Dhclient),
    /// dhcpcd.
    Dhcpcd(Dhcpcd),
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

/// A dhclient that works for the uplink alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhclient {
    /// The one that has the uplink.
    pub process: Process,
    /// The file that it was executed from.
    pub program: String,
    /// All of its arguments, its name first.
    pub arguments: Vec<String>,
    /// Those of them that the bridge's is given, too: all that do not name the
    /// uplink, its files, or how it goes to the background.
    pub options: Vec<String>,
    /// Whether it speaks DHCPv6.
    #[serde(default, skip_serializing_if = "is_default")]
    pub v6: bool,
    /// Its lease file.
    pub leases: String,
    /// Where it writes its number, if it does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pid_file: Option<String>,
    /// Its configuration, where that speaks of the uplink by its name: the
    /// bridge's needs another.
    #[serde(default, skip_serializing_if = "is_default")]
    pub configuration: Option<String>,
}

/// A dhcpcd that works for the uplink, or for every device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcpcd {
    /// All of its processes.
    pub processes: Vec<Process>,
    /// The file that they were executed from.
    pub program: String,
    /// Whether it works for the uplink alone.
    pub alone: bool,
    /// `-4` or `-6`, where it keeps to one of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: Option<String>,
    /// Where it keeps its leases.
    pub directory: String,
}
