//! ISC's dhclient.

use std::net::IpAddr;
use std::path::Path;

use crate::model::{Family, IfName};

use super::claim::{Claim, End, Found, Lease, Manager, Outlook, fixed_address};
use super::file;
use super::process::{Process, printable};
use super::scene::{Scene, complete};

/// Where distributions have it keep its leases, unless it is told by `-lf`.
const LEASES: [&str; 4] = [
    "/var/lib/dhcp/dhclient.leases",
    "/var/lib/dhclient/dhclient.leases",
    "/var/lib/dhcp/dhclient6.leases",
    "/var/lib/dhclient/dhclient6.leases",
];
/// Options that take a value (dhclient(8)).
const VALUED: [&str; 13] = [
    "-p",
    "-D",
    "-e",
    "-lf",
    "-pf",
    "-cf",
    "-sf",
    "-s",
    "-g",
    "-timeout",
    "-I",
    "-lt",
    "--address-prefix-len",
];

/// The manager.
pub struct Dhclient;

impl Manager for Dhclient {
    fn name(&self) -> &'static str {
        "dhclient"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let here = scene.roots("dhclient").filter(|p| serves(p, scene.uplink()));
        Found {
            claims: here.map(|process| claim(process, scene)).collect(),
            doubts: Vec::new(),
        }
    }

    fn fate(&self) -> &'static str {
        "it would renew the lease on the port, and put its address back there, or give the host none at all"
    }

    fn remedy(&self, uplink: &IfName) -> String {
        fixed_address(&format!(
            "/etc/network/interfaces where ifupdown starts it; 'dhclient -x {uplink}' ends it and keeps the address until its lease is over"
        ))
    }
}

/// Whether a process asks for leases on the device. Without a device it does
/// on every one.
fn serves(process: &Process, uplink: &IfName) -> bool {
    let mut devices = Vec::new();
    let mut arguments = process.arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if VALUED.contains(&argument.as_str()) {
            arguments.next();
        } else if ["-r", "-x"].contains(&argument.as_str()) {
            return false;
        } else if !argument.starts_with('-') {
            devices.push(argument);
        }
    }
    devices.is_empty() || devices.into_iter().any(|device| device == uplink.as_str())
}

fn claim(process: &Process, scene: &Scene<'_>) -> Claim {
    let family = if process.arguments.iter().any(|a| a == "-6") {
        Family::V6
    } else {
        Family::V4
    };
    let named = process.value_of("-lf").filter(|path| path.starts_with('/'));
    let paths = named.map_or_else(|| LEASES.to_vec(), |path| vec![path]);
    let written = paths
        .into_iter()
        .filter_map(|path| file::read(Path::new(path), None));
    let leases: Vec<Lease> = written
        .filter_map(|kept| last_lease(&kept.text(), scene.uplink()))
        .filter_map(|lease| scene.lease(lease.address, lease.server, lease.end))
        .collect();
    Claim {
        evidence: format!("process {}: {}", process.id, process.command()),
        processes: vec![process.id],
        leases: complete(leases, scene.renewed(family)),
        outlook: Outlook::Asks("it goes on asking for one, and would put the address on the port"),
        hold: None,
    }
}

/// The last lease of a device in a lease file (dhclient.leases(5)).
fn last_lease(text: &str, uplink: &IfName) -> Option<Lease> {
    let device = format!("interface \"{uplink}\";");
    let blocks = text.split("lease {").skip(1);
    let block = blocks.filter(|block| block.contains(&device)).last()?;
    let block = block.split_once("\n}").map_or(block, |(inside, _)| inside);
    let value = |key: &str| {
        let lines = block.lines().map(str::trim);
        let mut found = lines.filter_map(|line| line.strip_prefix(key)?.strip_suffix(';'));
        found.next().map(str::trim)
    };
    let address: IpAddr = value("fixed-address ")?.parse().ok()?;
    let end = value("expire ").map_or(End::Unknown, |time| {
        // `expire 2 2026/11/24 00:45:12` begins with the day of the week.
        let time = time.split_once(' ').map_or(time, |(_, time)| time);
        End::At(format!("{} UTC", printable(time)))
    });
    Some(Lease {
        address,
        server: value("option dhcp-server-identifier ").and_then(|server| server.parse().ok()),
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_are_what_is_no_option() {
        let eth0: IfName = "eth0".parse().unwrap();
        for (command, expected) in [
            ("dhclient", true),
            ("dhclient eth0", true),
            (
                "dhclient -4 -v -i -pf /run/x.pid -lf /var/lib/eth1 -I -df /x eth0",
                true,
            ),
            ("dhclient -pf eth0 eth1", false),
            ("dhclient -x eth0", false),
            ("dhclient eth1 eth0", true),
        ] {
            assert_eq!(serves(&Process::of_root(command), &eth0), expected, "{command}");
        }
    }

    #[test]
    fn the_last_lease_of_the_device_counts() {
        let eth0: IfName = "eth0".parse().unwrap();
        let lease = |device: &str, address: &str| {
            format!(
                "lease {{\n  interface \"{device}\";\n  fixed-address {address};\n  \
                 option dhcp-server-identifier 192.0.2.1;\n  expire 2 2026/11/24 00:45:12;\n}}\n"
            )
        };
        let text = lease("eth0", "192.0.2.7") + &lease("eth0", "192.0.2.8") + &lease("eth1", "192.0.2.9");
        let found = last_lease(&text, &eth0).unwrap();
        assert_eq!(found.address.to_string(), "192.0.2.8");
        assert_eq!(found.server.unwrap().to_string(), "192.0.2.1");
        assert_eq!(found.end, End::At("2026/11/24 00:45:12 UTC".into()));
        for cut in 0..text.len() {
            let _ = last_lease(&text[..cut], &eth0);
        }
    }
}
