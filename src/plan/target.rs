//! Where a plan leads.

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use crate::model::{IfName, Network};

/// Which of the two devices carries the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// The bridge, with the uplink as its port.
    Bridge,
    /// The uplink itself, and there is no bridge.
    Uplink,
}

/// The bridge that vmbr makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Its MAC: the uplink's.
    pub mac: MacAddr6,
    /// Largest packet in bytes: the uplink's.
    pub mtu: u32,
}

/// The state of the host that a plan leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The NIC.
    pub uplink: IfName,
    /// Whether the NIC is set up in the end.
    pub uplink_up: bool,
    /// The bridge.
    pub bridge: Bridge,
    /// Who carries the network.
    pub holder: Holder,
    /// The network, as the holder carries it.
    pub network: Network,
}

impl Target {
    /// The device that carries the network.
    pub fn holder_name(&self) -> &IfName {
        match self.holder {
            Holder::Bridge => &self.bridge.name,
            Holder::Uplink => &self.uplink,
        }
    }

    /// The device that is left without a network.
    pub fn other_name(&self) -> &IfName {
        match self.holder {
            Holder::Bridge => &self.uplink,
            Holder::Uplink => &self.bridge.name,
        }
    }
}
