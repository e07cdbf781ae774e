//! systemd-networkd, the real one, is given the bridge, and the NIC back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/leased.rs"]
mod leased;
#[path = "common/machine.rs"]
mod machine;

use std::thread::sleep;
use std::time::Duration;

use host::Host;
use leased::{Echoes, Monitor};
use machine::Machine;

/// What netplan writes for `dhcp4: true, dhcp6: true` and a metric.
const DHCP: &str = "[Match]\\nName=eth0\\n\\n[Network]\\nDHCP=yes\\nLinkLocalAddressing=ipv6\\n\\n[DHCP]\\nRouteMetric=100\\nUseMTU=true\\n";

/// A host whose NIC networkd configures by 10-netplan-eth0.network.
fn managed(file: &str) -> (Host, Machine) {
    let host = Host::new("networkd", "ip link set eth0 up");
    let machine = Machine::with_bus(&host.ns);
    // An IAID is made of this name, where there is one.
    machine.sh(&format!(
        "mkdir -p /run/systemd/network /run/systemd/netif
         chown systemd-network /run/systemd/netif
         printf 'I:1\\nE:ID_NET_NAME_PATH=enp1s0\\nV:1\\n' >/run/udev/data/n$(cat /sys/class/net/eth0/ifindex)
         printf '{file}' >/run/systemd/network/10-netplan-eth0.network"
    ));
    start(&machine);
    (host, machine)
}

fn start(machine: &Machine) {
    machine.start("/lib/systemd/systemd-networkd", &[]);
    configured(machine, "eth0");
}

fn configured(machine: &Machine, device: &str) {
    machine.until(&format!(
        "grep -q ADMIN_STATE=configured /run/systemd/netif/links/$(cat /sys/class/net/{device}/ifindex)"
    ));
}

#[test]
fn a_lease_moves_to_the_bridge_and_back() {
    let server;
    let (host, machine) = {
        let host = Host::new("networkd", "ip link set eth0 up");
        server = leased::server(&host.lan, true);
        let machine = Machine::with_bus(&host.ns);
        machine.sh(&format!(
            "mkdir -p /run/systemd/network /run/systemd/netif
             chown systemd-network /run/systemd/netif
             printf 'I:1\\nE:ID_NET_NAME_PATH=enp1s0\\nV:1\\n' >/run/udev/data/n$(cat /sys/class/net/eth0/ifindex)
             printf '{DHCP}' >/run/systemd/network/10-netplan-eth0.network"
        ));
        start(&machine);
        (host, machine)
    };
    machine.until("ip -6 addr show dev eth0 | grep -q /128");
    machine.until("ip -6 route show default | grep -q 'proto ra'");
    let before = host.state();
    println!("{}", machine.sh("ip addr show eth0; ip route; ip -6 route"));
    println!("{}", machine.vmbr(&host, &["up", "eth0", "--dry-run"]).stdout);
    let (four, six) = (Echoes::start(&host.ns, "192.0.2.1"), Echoes::start(&host.ns, "2001:db8::1"));
    let monitor = Monitor::start(&host.ns);
    let up = machine.vmbr(&host, &["up", "eth0"]);
    println!("{up:?}");
    sleep(Duration::from_secs(1));
    println!("{}", monitor.lines().join("\n"));
    four.lost(); six.lost();
    println!("{}", machine.sh("networkctl --no-pager; ip addr show br0; ip route; ip -6 route; ls -la /run/systemd/network; cat /run/systemd/network/00*"));
    println!("{}", leased::leases(&server));
    let (four, six) = (Echoes::start(&host.ns, "192.0.2.1"), Echoes::start(&host.ns, "2001:db8::1"));
    let monitor = Monitor::start(&host.ns);
    let down = machine.vmbr(&host, &["down"]);
    println!("{down:?}");
    sleep(Duration::from_secs(6));
    println!("{}", monitor.lines().join("\n"));
    four.lost(); six.lost();
    println!("{}", machine.sh("networkctl --no-pager; ip addr show eth0; ip route; ip -6 route; find /run/systemd/network"));
    println!("{}", machine.said());
    println!("{}", before.changes(&host.state()).join("\n"));
    panic!();
}
