//! A bridge in mode mac-nat beside real network managers: the uplink stays
//! theirs, and what is vmbr's they leave alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/translated.rs"]
mod translated;

use std::time::Duration;

use common::{run, wait_until};
use host::{Host, STATIC, ping};
use lease::Server;
use machine::Machine;
use serde_json::Value;
use translated::{Guest, UP};

const VMBR: &str = env!("CARGO_BIN_EXE_vmbr");
const PROFILE: &str = "/etc/NetworkManager/system-connections/wired.nmconnection";

#[test]
#[ignore = "waits for NetworkManager and its hooks, twenty seconds"]
fn network_manager_keeps_the_uplink_and_touches_nothing_else() {
    let host = Host::new(
        "air-nm",
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra; ip link set eth0 up",
    );
    let server = Server::both(&host.lan);
    let machine = Machine::with_bus(&host.ns);
    machine.start_udev();
    machine.sh(&format!(
        "printf '[main]\\nplugins=keyfile\\n' >/etc/NetworkManager/NetworkManager.conf
         printf '[connection]\\nid=wired\\nuuid=11111111-2222-3333-4444-555555555555\\ntype=ethernet\\ninterface-name=eth0\\n[ipv4]\\nmethod=auto\\n[ipv6]\\nmethod=auto\\n' >{PROFILE}
         chmod 600 {PROFILE}"
    ));
    machine.start("NetworkManager", &["--no-daemon"]);
    machine.until("nmcli -t device | grep -q '^eth0:ethernet:connected:'");
    // As it is installed, for the vmbr that is tested; its records are the
    // machine's own, for nobody tells a hook of others.
    let hook = include_str!("../scripts/vmbr-sync").replace("/usr/local/bin/vmbr", VMBR);
    let path = host.records().join("hook");
    std::fs::write(&path, hook).unwrap();
    machine.sh(&format!(
        "install -o root -g root -m 755 {} /etc/NetworkManager/dispatcher.d/90-vmbr",
        path.display()
    ));
    let vmbr = |args: &str| machine.sh(&format!("{VMBR} {args}"));
    vmbr(&UP.join(" "));
    let guest = Guest::new(&host, 1);
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    let theirs = machine.sh("nmcli -t device");
    for line in [
        "eth0:ethernet:connected:wired",
        "br0-air:ethernet:unmanaged:",
        "br0-far:ethernet:unmanaged:",
    ] {
        assert!(
            theirs.lines().any(|theirs| theirs == line),
            "no {line} in\n{theirs}"
        );
    }
    assert_eq!(
        host.ns.link("br0").unwrap()["addr_info"].as_array().map(Vec::len),
        None
    );

    // Another address, and another MAC, as on another network.
    guest.claim("192.0.2.99");
    assert!(guest.reaches_as("192.0.2.99"));
    machine.sh(
        "nmcli con mod wired +ipv4.addresses 192.0.2.99/24 ethernet.cloned-mac-address 02:00:00:00:00:98",
    );
    machine.sh("nmcli con up wired");
    let is_told = || {
        let found: Value =
            serde_json::from_str(&run(machine.command(VMBR).args(["doctor", "--json"])).stdout).unwrap();
        !found.to_string().contains("mac-nat-stale")
            && host.ns.link("eth0").unwrap()["address"] == "02:00:00:00:00:98"
    };
    assert!(wait_until(Duration::from_secs(20), is_told), "{}", machine.said());
    assert!(!guest.reaches_as("192.0.2.99"), "the host has it now");
    guest.assert_reaches("192.0.2.2", "2001:db8::2");
    guest.leave(&host);
    vmbr("down");
    assert!(ping(&host.ns, "192.0.2.1"));
    drop(server);
}

/// udev tells vmbr of a NIC that has another name; the rule is for NICs with a
/// device beneath, which a namespace's have not.
#[test]
#[ignore = "waits for a udev of its own, ten seconds"]
fn udev_tells_of_a_nic_with_another_name() {
    let host = Host::new("air-udev", STATIC);
    let machine = Machine::with_bus(&host.ns);
    let rules = include_str!("../scripts/90-vmbr.rules").replace("/usr/local/bin/vmbr", VMBR);
    let rules = rules.replace("TEST==\"device\", ", "");
    let path = host.records().join("rules");
    std::fs::write(&path, rules).unwrap();
    machine.sh(&format!(
        "mkdir -p /run/udev/rules.d; cp {} /run/udev/rules.d/90-vmbr.rules",
        path.display()
    ));
    machine.start_udev();
    machine.sh(&format!("{VMBR} {}", UP.join(" ")));
    machine.sh("ip link set eth0 down; ip link set eth0 name wan0; ip link set wan0 up");
    // It is the record that sync has changed.
    machine.until("grep -q '\"name\": \"wan0\"' /run/vmbr/*/br0.json");
    machine.sh("ip addr replace 192.0.2.21/24 dev wan0; ip route replace default via 192.0.2.1");
    let guest = Guest::new(&host, 1);
    assert!(ping(&guest.ns, "192.0.2.1"));
    guest.leave(&host);
    // A hook that finds nothing to do keeps nobody waiting.
    machine.sh(&format!("{VMBR} down"));
    assert!(host.ns.link("br0").is_none());
}
