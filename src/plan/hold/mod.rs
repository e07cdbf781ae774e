//! What a network manager holds of the uplink, as it is written down: enough
//! to give it to the bridge, and to give it back.

mod dhclient;
mod dhcpcd;
mod keeper;
mod network_manager;
mod networkd;
pub mod resolved;

use serde::{Deserialize, Serialize};

use crate::model::IfName;

pub use dhclient::Dhclient;
pub use dhcpcd::Dhcpcd;
pub use keeper::{Client, Extra, Identity, Kept, Sent};
pub use network_manager::NetworkManager;
pub use networkd::NetworkdHold;
pub use resolved::ResolvedHold;

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
    /// A profile of NetworkManager's.
    NetworkManager(NetworkManager),
    /// ISC's dhclient.
    Dhclient(Dhclient),
    /// dhcpcd.
    Dhcpcd(Dhcpcd),
    /// A lease that vmbr's own keeper renews on the bridge.
    Keeper(Kept),
}

impl Hold {
    /// A port that the way makes beside the uplink; it is no guest's.
    pub fn port(&self, bridge: &IfName) -> Option<IfName> {
        match self {
            Self::NetworkManager(held) => held.port(bridge),
            _ => None,
        }
    }

    /// What becomes of the uplink's manager, as the end of a sentence.
    pub fn fate(&self) -> &'static str {
        match self {
            Self::Keeper(kept) if kept.client.is_some() => {
                "it is stopped (SIGSTOP) while the bridge has the network, and a lease keeper of vmbr's stays running and renews the lease in its place"
            }
            Self::Keeper(_) => "a lease keeper of vmbr's stays running and renews the lease on the bridge",
            _ => "it is given the bridge instead",
        }
    }
}
