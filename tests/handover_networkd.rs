//! systemd-networkd, the real one, is given the bridge, and the NIC back.
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

use std::thread::sleep;
use std::time::Duration;

use host::Host;
use lease::{Monitor, Server, Stream};
use machine::Machine;

/// What netplan writes for `dhcp4: true, dhcp6: true` and a metric.
const DHCP: &str = "[Match]\\nName=eth0\\n\\n[Network]\\nDHCP=yes\\nLinkLocalAddressing=ipv6\\n\\n[DHCP]\\nRouteMetric=100\\nUseMTU=true\\n";

fn host() -> Host {
    Host::new("networkd", "ip link set eth0 up")
}

/// A machine on the host whose NIC networkd configures by netplan's file.
fn managed(host: &Host, file: &str) -> Machine {
    let machine = Machine::with_bus(&host.ns);
    // An IAID is made of this name, where there is one.
    machine.sh(&format!(
        "mkdir -p /run/systemd/network
         install -d -o systemd-network -g systemd-network /run/systemd/netif
         printf 'I:1\\nE:ID_NET_NAME_PATH=enp1s0\\nV:1\\n' >/run/udev/data/n$(cat /sys/class/net/eth0/ifindex)
         printf '{file}' >/run/systemd/network/10-netplan-eth0.network"
    ));
    machine.start("/lib/systemd/systemd-networkd", &[]);
    configured(&machine, "eth0");
    machine
}

fn configured(machine: &Machine, device: &str) {
    machine.until(&format!(
        "grep -q ADMIN_STATE=configured /run/systemd/netif/links/$(cat /sys/class/net/{device}/ifindex)"
    ));
}

#[test]
fn a_lease_moves_to_the_bridge_and_back() {
    let host = host();
    let server = Server::both(&host.lan);
    let machine = managed(&host, DHCP);
    machine.until("ip -6 addr show dev eth0 | grep -q /128");
    machine.until("ip -6 route show default | grep -q 'proto ra'");
    sleep(Duration::from_secs(2));
    let before = host.state();
    println!("{}", machine.vmbr(&host, &["up", "eth0", "--dry-run"]).stdout);
    let stream = Stream::start(&host.ns, &["192.0.2.1", "2001:db8::1"]);
    let monitor = Monitor::start(&host.ns);
    let up = machine.vmbr(&host, &["up", "eth0"]);
    println!("{up:?}");
    sleep(Duration::from_secs(3));
    println!("{}", monitor.end().join("\n"));
    stream.end();
    println!(
        "{}",
        machine.sh("networkctl --no-pager; ip addr show br0; ip route; ip -6 route")
    );
    println!("{:?}", server.leases());
    let stream = Stream::start(&host.ns, &["192.0.2.1", "2001:db8::1"]);
    let monitor = Monitor::start(&host.ns);
    let down = machine.vmbr(&host, &["down", "-v"]);
    println!("{down:?}");
    sleep(Duration::from_secs(6));
    println!("{}", monitor.end().join("\n"));
    stream.end();
    println!(
        "{}",
        machine
            .sh("networkctl --no-pager; ip addr show eth0; ip route; ip -6 route; find /run/systemd/network")
    );
    println!("{}", machine.said());
    println!("{}", before.changes(&host.state()).join("\n"));
    panic!();
}
