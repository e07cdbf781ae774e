//! The NIC's profile, as the bridge gets it.

use std::collections::HashMap;
use std::net::IpAddr;

use zbus::zvariant::{OwnedValue, Value};

use crate::model::IfName;
use crate::owners::network_manager::client::Settings;
use crate::owners::network_manager::text;
use crate::plan::Record;
use crate::plan::hold::NetworkManager;

use super::Trouble;

/// The parts that the bridge gets from the NIC.
const PARTS: [&str; 3] = ["ipv4", "ipv6", "proxy"];
/// What it gets of the part `connection`: what can be put in force on a device
/// that is active (`can_reapply_change()`).
const OF_CONNECTION: [&str; 7] = [
    "zone",
    "metered",
    "mdns",
    "llmnr",
    "dns-over-tls",
    "dnssec",
    "mptcp-flags",
];
/// For ever (`NM_DHCP_TIMEOUT_INFINITY`, `NM_RA_TIMEOUT_INFINITY`): one that
/// gives up takes the addresses down.
const FOREVER: i32 = i32::MAX;
/// `NM_SETTING_IP6_CONFIG_ADDR_GEN_MODE_EUI64`, to which a token belongs.
const EUI64: i32 = 0;

/// What the bridge gets: of `bridges`, what is in force there, all that has to
/// do with being a bridge; the rest of `nics`, with what NetworkManager makes
/// of a device's name and kind said as it was on the NIC.
pub fn settings(held: &NetworkManager, nics: &Settings, bridges: &Settings, record: &Record) -> Settings {
    let mut settings = copies(bridges);
    for part in PARTS {
        let of_nic = nics.get(part).and_then(copy);
        settings.insert(part.into(), of_nic.unwrap_or_default());
    }
    let of_nic = nics.get("connection");
    let connection = settings.entry("connection".into()).or_default();
    for key in OF_CONNECTION {
        connection.remove(key);
        let value = of_nic.and_then(|part| part.get(key)?.try_clone().ok());
        connection.extend(value.map(|value| (key.to_owned(), value)));
    }
    if let Some(zone) = &record.zone {
        set(connection, "zone", zone.as_str());
    }
    // It must not make the bridge anew when that is gone.
    set(connection, "autoconnect", false);
    let is = |family: &str, method: &str| text(nics, family, "method") == Some(method);
    let (auto4, asks6) = (is("ipv4", "auto"), is("ipv6", "auto") || is("ipv6", "dhcp"));
    if let Some(ipv4) = settings.get_mut("ipv4") {
        set_if(ipv4, "route-metric", held.metric4.map(i64::from));
        if auto4 {
            set(ipv4, "dhcp-timeout", FOREVER);
            set_if(ipv4, "dhcp-client-id", held.client_id.as_deref());
        }
    }
    if let Some(ipv6) = settings.get_mut("ipv6") {
        set_if(ipv6, "route-metric", held.metric6.or(held.metric4).map(i64::from));
        if asks6 {
            set(ipv6, "dhcp-timeout", FOREVER);
            set(ipv6, "ra-timeout", FOREVER);
            set_if(ipv6, "dhcp-duid", held.duid.as_deref());
            set_if(ipv6, "dhcp-iaid", held.iaid.map(|iaid| iaid.to_string()));
            set(ipv6, "addr-gen-mode", EUI64);
            set_if(ipv6, "token", held.token.as_deref());
        }
    }
    settings
}

/// The same for `nmcli device modify`.
pub fn words(held: &NetworkManager) -> Vec<String> {
    let metric6 = held.metric6.or(held.metric4);
    let words = [
        held.metric4.map(|metric| format!("ipv4.route-metric {metric}")),
        held.client_id
            .as_ref()
            .map(|id| format!("ipv4.dhcp-client-id {id}")),
        metric6.map(|metric| format!("ipv6.route-metric {metric}")),
        held.duid.as_ref().map(|duid| format!("ipv6.dhcp-duid {duid}")),
        held.iaid.map(|iaid| format!("ipv6.dhcp-iaid {iaid}")),
        held.token.as_ref().map(|token| format!("ipv6.token {token}")),
    ];
    words.into_iter().flatten().collect()
}

/// Adds the servers of names that the NIC had, for as long as there is no
/// lease.
pub fn add_names(held: &NetworkManager, settings: &mut Settings) {
    let (mut fours, mut sixes) = (Vec::new(), Vec::new());
    for server in &held.servers {
        match server {
            // A number in the network's order, as it lies in memory.
            IpAddr::V4(address) => fours.push(u32::from_ne_bytes(address.octets())),
            IpAddr::V6(address) => sixes.push(address.octets().to_vec()),
        }
    }
    if let Some(ipv4) = settings.get_mut("ipv4").filter(|_| !fours.is_empty()) {
        set(ipv4, "dns", fours);
        set(ipv4, "dns-search", held.searches.clone());
    }
    if let Some(ipv6) = settings.get_mut("ipv6").filter(|_| !sixes.is_empty()) {
        set(ipv6, "dns", sixes);
        set(ipv6, "dns-search", held.searches.clone());
    }
}

/// The profile that stays: what is in force, a name to find it by, and what
/// cannot be put in force, so that nothing is.
pub fn lasting(settings: Settings, bridge: &IfName) -> Result<Settings, Trouble> {
    let mut settings = settings;
    let connection = settings
        .get_mut("connection")
        .ok_or_else(|| format!("its profile of {bridge} has no part 'connection'"))?;
    set(connection, "id", NetworkManager::bridge_profile(bridge));
    set(connection, "auth-retries", 1_i32);
    Ok(settings)
}

/// A profile that never gives up on its DHCP server.
pub fn patient(profile: Settings) -> Settings {
    let mut settings = profile;
    if let Some(ipv4) = settings.get_mut("ipv4") {
        set(ipv4, "dhcp-timeout", FOREVER);
    }
    settings
}

/// What is in force on the NIC, without any IP.
pub fn without_ip(applied: Settings) -> Settings {
    let mut settings = applied;
    for (part, method) in [("ipv4", "disabled"), ("ipv6", "ignore")] {
        let mut bare = HashMap::new();
        set(&mut bare, "method", method);
        settings.insert(part.into(), bare);
    }
    settings
}

fn copies(settings: &Settings) -> Settings {
    let parts = settings.iter();
    parts
        .filter_map(|(name, part)| Some((name.clone(), copy(part)?)))
        .collect()
}

fn copy(part: &HashMap<String, OwnedValue>) -> Option<HashMap<String, OwnedValue>> {
    let all = part
        .iter()
        .map(|(key, value)| Some((key.clone(), value.try_clone().ok()?)));
    all.collect()
}

fn set<'a>(part: &mut HashMap<String, OwnedValue>, key: &str, value: impl Into<Value<'a>>) {
    // Only a descriptor cannot be made one's own.
    if let Ok(value) = OwnedValue::try_from(value.into()) {
        part.insert(key.into(), value);
    }
}

fn set_if<'a>(part: &mut HashMap<String, OwnedValue>, key: &str, value: Option<impl Into<Value<'a>>>) {
    if let Some(value) = value {
        set(part, key, value);
    }
}
