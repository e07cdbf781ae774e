//! What of the uplink NetworkManager holds, and why it may not be moved.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use futures_util::future::{try_join, try_join3};
use zbus::zvariant::OwnedValue;

use crate::model::{Address, Family, address};
use crate::owners::process::printable;
use crate::owners::scene::Scene;
use crate::plan::hold::NetworkManager;

use super::client::{ACTIVATED, Active, Client, Device, Settings};

/// The oldest that keeps addresses when settings are put in force
/// (`NM_DEVICE_REAPPLY_FLAGS_PRESERVE_EXTERNAL_IP`).
const OLDEST: (u32, u32) = (1, 42);

/// How the profile is moved, or why it is not, as the end of a sentence.
pub async fn held(
    client: &Client,
    device: &Device<'_>,
    active: &Active,
    scene: &Scene<'_>,
) -> zbus::Result<Result<NetworkManager, String>> {
    // Together, as each answer may take a while on a busy host.
    let (version, state, applied) = try_join3(client.version(), device.state(), device.applied()).await?;
    if number(&version).is_none_or(|version| version < OLDEST) {
        return Ok(Err(format!(
            "NetworkManager {version} would take the addresses away for a moment, 1.42 would not"
        )));
    }
    if state != ACTIVATED {
        return Ok(Err("it is still being activated: try again when it is".into()));
    }
    if let Err(why) = movable(&applied, scene.addresses) {
        return Ok(Err(why.into()));
    }
    let routes = try_join(device.routes(false), device.routes(true));
    let names = try_join(device.names(false), device.names(true));
    let leases = try_join(device.lease(false), device.lease(true));
    let ((routes4, routes6), (names4, names6), (v4, v6)) = try_join3(routes, names, leases).await?;
    let asks = ["ipv4", "ipv6"].into_iter().any(|family| {
        let method = text(&applied, family, "method");
        method == Some("auto") || method == Some("dhcp")
    });
    let mut searches = [names4.1, names6.1].concat();
    searches.dedup();
    let mac = scene.link.mac.map(|mac| mac.into_array());
    Ok(Ok(NetworkManager {
        profile: active.uuid.clone(),
        name: printable(&active.name),
        metric4: metric(&routes4),
        metric6: metric(&routes6),
        client_id: option(&v4, "dhcp_client_identifier").filter(|id| is_hex(id)),
        duid: option(&v6, "dhcp6_client_id").filter(|duid| is_hex(duid)),
        iaid: option(&v6, "iaid").and_then(|iaid| from_hex(&iaid)),
        token: token(scene.addresses, mac),
        asks,
        first: scene
            .addresses
            .iter()
            .any(|a| a.is_link_local_v6() && host_part(a) != of_mac(mac)),
        servers: [names4.0, names6.0].concat(),
        searches,
    }))
}

/// Whether the bridge can get the settings that are in force.
fn movable(applied: &Settings, addresses: &[Address]) -> Result<(), &'static str> {
    if text(applied, "connection", "type") != Some("802-3-ethernet") {
        return Err("it is not of a plain Ethernet NIC");
    }
    if applied.contains_key("802-1x") {
        return Err("it is authenticated by 802.1X, which a bridge cannot be");
    }
    if ["ipv4", "ipv6"]
        .iter()
        .any(|family| text(applied, family, "method") == Some("shared"))
    {
        return Err("it shares its network with others (method 'shared')");
    }
    let own = |a: &&Address| a.family() == Family::V6 && !a.is_link_local_v6();
    if text(applied, "ipv6", "method") == Some("ignore") && addresses.iter().any(|a| own(&a)) {
        return Err(
            "it leaves IPv6 to the kernel (method 'ignore'), and NetworkManager would take that from the bridge for a moment",
        );
    }
    Ok(())
}

/// A setting that is a text.
pub fn text<'a>(settings: &'a Settings, part: &str, key: &str) -> Option<&'a str> {
    settings.get(part)?.get(key)?.try_into().ok()
}

fn option(lease: &HashMap<String, OwnedValue>, key: &str) -> Option<String> {
    let value: &str = lease.get(key)?.try_into().ok()?;
    Some(value.to_owned())
}

/// The metric of the default route, or of the first where there is none.
fn metric(routes: &[HashMap<String, OwnedValue>]) -> Option<u32> {
    let number = |route: &HashMap<String, OwnedValue>, key: &str| {
        route.get(key).and_then(|value| u32::try_from(value).ok())
    };
    let leads_out = |route: &&HashMap<String, OwnedValue>| number(route, "prefix") == Some(0);
    let chosen = routes
        .iter()
        .find(leads_out)
        .or_else(|| routes.iter().find(|route| leads_on(route)));
    number(chosen?, "metric")
}

/// Whether a route is more than that of the link-local addresses, which is the
/// kernel's.
fn leads_on(route: &HashMap<String, OwnedValue>) -> bool {
    let dest = route.get("dest").and_then(|value| <&str>::try_from(value).ok());
    dest.is_some_and(|dest| !dest.starts_with("fe80:"))
}

/// Whether a text is bytes, `01:02:00`; any other identifier is in the profile.
fn is_hex(text: &str) -> bool {
    text.split(':')
        .all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
}

/// A number in bytes, `2b:50:67:35`.
fn from_hex(text: &str) -> Option<u32> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    Some(u32::from_be_bytes(bytes?.try_into().ok()?))
}

/// The host part of the addresses that were made of routers' prefixes, where
/// it is not made of the MAC (RFC 4291, appendix A).
fn token(addresses: &[Address], mac: Option<[u8; 6]>) -> Option<String> {
    let made = |a: &&Address| {
        a.prefix_len == 64
            && !a.is_link_local_v6()
            && !a.is_permanent()
            && a.flags & address::flag::TEMPORARY == 0
    };
    let part = addresses.iter().filter(made).find_map(host_part)?;
    (Some(part) != of_mac(mac)).then(|| Ipv6Addr::from(part).to_string())
}

/// The last 64 bits of an IPv6 address.
fn host_part(address: &Address) -> Option<u128> {
    match address.local {
        IpAddr::V6(v6) => Some(u128::from(v6) & u128::from(u64::MAX)),
        IpAddr::V4(_) => None,
    }
}

/// The same as it is made of a MAC.
fn of_mac(mac: Option<[u8; 6]>) -> Option<u128> {
    let [a, b, c, d, e, f] = mac?;
    Some(u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]).into())
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
    use super::*;

    fn settings(parts: &[(&str, &str, &str)]) -> Settings {
        let mut settings = Settings::new();
        for (part, key, value) in parts {
            let value = OwnedValue::try_from(zbus::zvariant::Value::from(*value)).unwrap();
            let part = settings.entry((*part).to_owned()).or_default();
            part.insert((*key).to_owned(), value);
        }
        settings
    }

    #[test]
    fn what_a_bridge_cannot_have_is_not_moved() {
        let wired = ("connection", "type", "802-3-ethernet");
        assert_eq!(movable(&settings(&[wired]), &[]), Ok(()));
        let auto = settings(&[wired, ("ipv4", "method", "auto"), ("ipv6", "method", "ignore")]);
        assert_eq!(movable(&auto, &[]), Ok(()));
        for (part, key, value, why) in [
            ("connection", "type", "802-11-wireless", "plain Ethernet"),
            ("802-1x", "identity", "host", "802.1X"),
            ("ipv4", "method", "shared", "shares"),
        ] {
            let refused = movable(&settings(&[wired, (part, key, value)]), &[]);
            assert!(refused.unwrap_err().contains(why));
        }
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(number("1.42.4"), Some((1, 42)));
        assert_eq!(number("1.9.90-dev"), Some((1, 9)));
        assert!(number("1.8.0").unwrap() < OLDEST);
        assert_eq!(number("new"), None);
    }

    #[test]
    fn an_iaid_is_four_bytes() {
        assert_eq!(from_hex("2b:50:67:35"), Some(726_689_589));
        assert_eq!(from_hex("2b:50:67"), None);
        assert_eq!(from_hex(""), None);
    }
}
