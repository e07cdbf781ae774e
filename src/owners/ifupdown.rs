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
        for path in paths {
            let text = file::read(&path, None)
                .map(|kept| kept.text())
                .unwrap_or_default();
            // The files are of every network namespace, the addresses are not.
            let has = |address: &str| address.parse().is_ok_and(|address| scene.has(address));
            let fixed = addresses(&text, &logical)
                .into_iter()
                .find(|address| has(address));
            if let Some(address) = fixed {
                let claim = Claim {
                    evidence: format!("{} gives {address} to {}", path.display(), printable(&logical)),
                    processes: Vec::new(),
                    leases: Vec::new(),
                    outlook: Outlook::Waits(
                        "it is no daemon, but 'ifup' and a reboot put the address on the NIC again, and 'ifdown' takes the NIC down",
                    ),
                    hold: None,
                };
                return Some(claim).into();
            }
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

/// The fixed addresses of a logical interface, without their lengths.
fn addresses<'a>(text: &'a str, logical: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["iface", name, ..] => inside = *name == logical,
            [
                "auto" | "allow-hotplug" | "mapping" | "source" | "source-directory",
                ..,
            ] => inside = false,
            ["address", address, ..] if inside => found.push(address.split('/').next().unwrap_or(address)),
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
        assert_eq!(addresses(text, "home"), ["192.0.2.7", "2001:db8::7"]);
        let eth0: IfName = "eth0".parse().unwrap();
        assert_eq!(logical("lo=lo\neth0=home\n", &eth0).as_deref(), Some("home"));
        assert_eq!(logical("eth01=home\n", &eth0), None);
    }
}
