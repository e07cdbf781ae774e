//! What NetworkManager holds of the uplink.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::IfName;

/// A profile of NetworkManager's that is active on the uplink, and of its
/// configuration what follows from the uplink's name or kind, so that the
/// bridge would get another. What else the bridge needs is read from the
/// profile when it is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkManager {
    /// The profile's UUID.
    pub profile: String,
    /// Its name, as people know it.
    pub name: String,
    /// The metric of the uplink's IPv4 routes: a bridge's would be 425.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric4: Option<u32>,
    /// The same of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric6: Option<u32>,
    /// The DHCPv4 client identifier (option 61), as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The DHCPv6 DUID, as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duid: Option<String>,
    /// The DHCPv6 IAID: NetworkManager makes it of the device's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iaid: Option<u32>,
    /// The host part of the uplink's own addresses, where it is not made of
    /// the MAC: a stable-privacy one is made of the device's name, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Whether the profile asks a DHCP server or listens to a router.
    pub asks: bool,
    /// Whether NetworkManager has to let go of the uplink before the network
    /// moves: one whose link-local address was made of the device's name it
    /// gives the next one, at once, when that goes.
    pub first: bool,
    /// The servers of names that it knows there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
    /// The domains to search for names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
}

impl NetworkManager {
    /// The name of the profile that the bridge gets.
    pub fn bridge_profile(bridge: &IfName) -> String {
        format!("vmbr {bridge}")
    }

    /// The TAP that stands beside the uplink on the bridge, if one has to:
    /// NetworkManager asks for no lease on a bridge without a port that it
    /// knows of, and of the uplink it must not know.
    pub fn port(&self, bridge: &IfName) -> Option<IfName> {
        // Twelve characters are twelve bytes: a device's name is ASCII here or
        // it is cut where it can be.
        let name: String = bridge.as_str().chars().take(12).collect();
        self.asks.then(|| format!("nm-{name}").parse().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
    use super::*;

    #[test]
    fn the_port_has_a_name_that_fits() {
        let held = NetworkManager {
            profile: String::new(),
            name: String::new(),
            metric4: None,
            metric6: None,
            client_id: None,
            duid: None,
            iaid: None,
            token: None,
            asks: true,
            first: false,
            servers: Vec::new(),
            searches: Vec::new(),
        };
        let port = |bridge: &str| held.port(&bridge.parse().unwrap()).unwrap();
        assert_eq!(port("br0").as_str(), "nm-br0");
        assert_eq!(port("a-name-of-15-ch").as_str(), "nm-a-name-of-15");
    }
}
