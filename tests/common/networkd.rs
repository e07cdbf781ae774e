//! A real systemd-networkd on a host, and what it and the host tell.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use serde_json::Value;

use crate::host::Host;
use crate::machine::Machine;

/// What netplan writes for `dhcp4: true, dhcp6: true` and a metric.
pub const DHCP: &str = "[Match]\\nName=eth0\\n\\n[Network]\\nDHCP=yes\\nLinkLocalAddressing=ipv6\\n\\n\
    [DHCP]\\nRouteMetric=100\\nUseMTU=true\\n";
/// The same for IPv4 alone.
pub const DHCP4: &str =
    "[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\nLinkLocalAddressing=no\\n[DHCPv4]\\nRouteMetric=100\\n";
/// Fixed addresses, and a rule.
pub const STATIC: &str = "[Match]\\nName=eth0\\n[Network]\\nAddress=192.0.2.21/24\\nAddress=2001:db8::21/64\\n\
    Gateway=192.0.2.1\\nGateway=2001:db8::1\\nIPv6AcceptRA=no\\nDNS=192.0.2.53\\n\
    [RoutingPolicyRule]\\nFrom=192.0.2.21\\nTable=77\\nPriority=1000\\n";
/// The file that configures the NIC.
pub const OWN: &str = "10-netplan-eth0.network";

/// A host whose NIC is up.
pub fn host() -> Host {
    Host::new("networkd", "ip link set eth0 up")
}

/// A machine on the host whose NIC networkd configures by netplan's file.
pub fn managed(host: &Host, file: &str) -> Machine {
    let machine = Machine::with_bus(&host.ns);
    // An IAID is made of this name, where there is one.
    machine.sh(&format!(
        "mkdir -p /run/systemd/network
         install -d -o systemd-network -g systemd-network /run/systemd/netif
         printf 'I:1\\nE:ID_NET_NAME_PATH=enp1s0\\nV:1\\n' >/run/udev/data/n$(cat /sys/class/net/eth0/ifindex)
         printf '{file}' >/run/systemd/network/{OWN}"
    ));
    start(&machine);
    configured(&machine, "eth0");
    machine
}

/// Starts networkd.
pub fn start(machine: &Machine) {
    machine.start("/lib/systemd/systemd-networkd", &[]);
}

/// Waits until networkd has configured a device.
pub fn configured(machine: &Machine, device: &str) {
    machine.until(&format!(
        "grep -q ADMIN_STATE=configured /run/systemd/netif/links/$(cat /sys/class/net/{device}/ifindex)"
    ));
}

/// What networkd tells of a device.
pub fn told(machine: &Machine, device: &str, key: &str) -> String {
    let text = machine.sh(&format!(
        "cat /run/systemd/netif/links/$(cat /sys/class/net/{device}/ifindex)"
    ));
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().to_owned()
}

/// The files under /run/systemd/network.
pub fn files(machine: &Machine) -> String {
    machine.sh("cd /run/systemd/network && find . -type f -o -name '*.d' | sort | tr '\\n' ' '")
}

/// The one IPv4 address of a device.
pub fn address(host: &Host, device: &str) -> String {
    let all = host.ns.json(&["-4", "addr", "show", "dev", device]);
    let list = all[0]["addr_info"]
        .as_array()
        .unwrap_or_else(|| panic!("{device} has no address"));
    assert_eq!(list.len(), 1, "{list:?}");
    list[0]["local"].as_str().unwrap().to_owned()
}

/// The seconds for which an address is valid; 2^32 - 1 for ever.
pub fn valid(host: &Host, device: &str, local: &str) -> u64 {
    let all = host.ns.json(&["addr", "show", "dev", device]);
    let list = all[0]["addr_info"].as_array().unwrap();
    let found = list.iter().find(|a| a["local"] == local);
    found.unwrap_or_else(|| panic!("{device} has no {local}: {list:?}"))["valid_life_time"]
        .as_u64()
        .unwrap()
}

/// The default routes of a family: device and metric.
pub fn defaults(host: &Host, family: &str) -> Vec<(String, u64)> {
    let all = host.ns.json(&[family, "route", "show", "default"]);
    let read = |route: &Value| {
        let metric = route["metric"].as_u64().unwrap_or(0);
        (route["dev"].as_str().unwrap().to_owned(), metric)
    };
    all.as_array().unwrap().iter().map(read).collect()
}

/// Asserts that no address and no default route of a device went, as a
/// monitor has heard. A copy one metric behind serves only the way.
pub fn nothing_went(heard: &[String], device: &str) {
    let went = |line: &&String| {
        let copy = line.contains("metric 101 ") || line.contains("metric 1025 ");
        let route = line.contains("Deleted default") && line.contains(&format!("dev {device} ")) && !copy;
        route || (line.contains("Deleted") && line.contains(&format!(" {device}    inet")))
    };
    let gone: Vec<&String> = heard.iter().filter(went).collect();
    assert!(gone.is_empty(), "{gone:#?}");
}
