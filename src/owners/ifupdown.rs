//! ifupdown (interfaces(5)): no daemon. A DHCP client that it started is
//! found by itself, here is what it will do by the file.

use std::path::Path;

use crate::model::IfName;

use super::claim::{Claim, Found, Manager, Outlook, fixed_address};
use super::file;
use super::process::printable;
use super::scene::Scene;

const STATE: &str = "/run/network/ifstate";
const INTERFACES: &str = "/etc/network/interfaces";
const MORE: &str = "/etc/network/interfaces.d";

/// The manager.
pub struct Ifupdown;

impl Manager for Ifupdown {
    fn name(&self) -> &'static str {
        "ifupdown"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let uplink = scene.uplink();
        let Some(logical) = file::read(Path::new(STATE), None).and_then(|kept| logical(&kept.text(), uplink))
        else {
            return Found::default();
        };
        let mut paths = vec![Path::new(INTERFACES).to_owned()];
        let more = std::fs::read_dir(MORE).into_iter().flatten().flatten();
        paths.extend(more.map(|entry| entry.path()));
        // The files are of every network namespace, the addresses are not.
        let has = |address: &str| address.parse().is_ok_and(|address| scene.has(address));
        for path in paths {
            let text = file::read(&path, None)
                .map(|kept| kept.text())
                .unwrap_or_default();
            let stanzas = stanzas(&text, &logical);
            let fixed = stanzas.addresses.into_iter().find(|address| has(address));
            let gives = match fixed {
                Some(address) => address,
                // Its client is a claim of its own.
                None if stanzas.leased && scene.addresses.iter().any(|a| !a.is_permanent()) => {
                    "what a DHCP client gets"
                }
                None => continue,
            };
            let claim = Claim {
                evidence: format!("{} gives {gives} to {}", path.display(), printable(&logical)),
                processes: Vec::new(),
                leases: Vec::new(),
                outlook: Outlook::Waits(
                    "it is no daemon, but 'ifdown' takes the NIC down, and the bridge with it, and 'ifup' and a reboot put the address on the NIC again: 'vmbr down' comes before",
                ),
                hold: None,
            };
            return Some(claim).into();
        }
        Found::default()
    }

    fn fate(&self) -> &'static str {
        "its client would renew the lease on the port"
    }

    fn remedy(&self, _: &IfName) -> String {
        fixed_address("'inet static' in /etc/network/interfaces")
    }
}

/// The name by which a device was configured: `eth0=home` in ifstate.
fn logical(state: &str, uplink: &IfName) -> Option<String> {
    let mut pairs = state.lines().filter_map(|line| line.trim().split_once('='));
    pairs
        .find(|(device, _)| *device == uplink.as_str())
        .map(|(_, name)| name.to_owned())
}

/// What a file says of a logical interface.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stanzas<'a> {
    /// Fixed addresses, without their lengths.
    addresses: Vec<&'a str>,
    /// Whether a DHCP client is started for it.
    leased: bool,
}

fn stanzas<'a>(text: &'a str, logical: &str) -> Stanzas<'a> {
    let mut inside = false;
    let mut found = Stanzas::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["iface", name, rest @ ..] => {
                inside = *name == logical;
                found.leased |= inside && rest.last() == Some(&"dhcp");
            }
            [
                "auto" | "allow-hotplug" | "mapping" | "source" | "source-directory",
                ..,
            ] => inside = false,
            ["address", address, ..] if inside => {
                found.addresses.push(address.split('/').next().unwrap_or(address));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stanza_of_the_device_counts() {
        let text = "auto eth0\niface eth1 inet static\n address 192.0.2.9/24\niface home inet static\n\
                    \taddress 192.0.2.7/24\n address\niface home inet6 static\n address 2001:db8::7\nauto x\naddress 1\n";
        let home = stanzas(text, "home");
        assert_eq!(home.addresses, ["192.0.2.7", "2001:db8::7"]);
        assert!(!home.leased && stanzas("iface home inet dhcp\n", "home").leased);
        let eth0: IfName = "eth0".parse().unwrap();
        assert_eq!(logical("lo=lo\neth0=home\n", &eth0).as_deref(), Some("home"));
        assert_eq!(logical("eth01=home\n", &eth0), None);
    }
}
