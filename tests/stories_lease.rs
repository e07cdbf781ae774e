//! What the DHCP clients of others did to a port, told as in `stories`.
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

use std::time::Duration;

use common::wait_until;
use host::{Host, ping};
use lease::Server;
use machine::Machine;

/// When a client renews its lease, in seconds (T1 of RFC 2131), and how long
/// that may take.
const T1: &str = "5";
const RENEWAL: Duration = Duration::from_secs(20);

/// A DHCP server whose leases are renewed every few seconds.
fn server(host: &Host) -> Server {
    let t1 = format!("--dhcp-option-force=58,{T1}");
    Server::with(&host.lan, &[&t1, "--log-dhcp", "--log-facility=/run/log"])
}

/// Leases that the server has given or renewed.
fn given(server: &Server) -> usize {
    let count = server.machine.sh("grep -c DHCPACK /run/log || :");
    count.trim().parse().unwrap()
}

/// A host that dhclient has given its address.
fn leased(hint: &str) -> (Host, Server, Machine, String) {
    let host = Host::new(hint, "ip link set eth0 up");
    let server = server(&host);
    let machine = Machine::new(&host.ns);
    machine.sh("dhclient -4 -pf /run/dhclient.pid eth0");
    machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    let address = addresses(&machine, "eth0").remove(0);
    (host, server, machine, address)
}

/// The IPv4 addresses of a device; none where it is not there.
fn addresses(machine: &Machine, dev: &str) -> Vec<String> {
    let text = machine.sh(&format!("ip -4 -o addr show dev {dev} 2>/dev/null || :"));
    let word = |line: &str| line.split_whitespace().nth(3).unwrap().to_owned();
    text.lines().map(word).collect()
}

/// pimox7 #20 and harvester #845: the client that was left on the NIC renews
/// its lease, and gives the port the address that the bridge has.
#[test]
fn pimox7_20_harvester_845_no_client_gives_the_port_an_address() {
    let (_host, server, machine, address) = leased("lease-script");
    machine.sh(&format!(
        "ip link add br0 type bridge
         ip link set eth0 master br0
         ip addr flush dev eth0
         ip addr add {address} dev br0
         ip link set br0 up
         ip route add default via 192.0.2.1 dev br0"
    ));
    assert!(addresses(&machine, "eth0").is_empty());
    let port_has_one = || !addresses(&machine, "eth0").is_empty();
    assert!(
        wait_until(RENEWAL, port_has_one),
        "the client leaves the script's port as it is: {}",
        server.machine.sh("cat /run/log")
    );

    let (host, server, machine, address) = leased("lease-vmbr");
    let before = host.state();
    let up = machine.vmbr(&host, &["up", "eth0"]);
    // Either the lease is on the bridge and so is who renews it, or nothing
    // was touched.
    let holder = match up.code() {
        0 => "br0",
        _ => {
            assert_eq!(up.code(), 3, "{up:?}");
            assert!(up.stderr.contains("dhclient"), "{up:?}");
            let changed = before.changes(&host.state());
            assert!(changed.is_empty(), "{changed:?}");
            "eth0"
        }
    };
    let first = given(&server);
    let renewed = || given(&server) >= first + 2;
    assert!(
        wait_until(2 * RENEWAL, renewed),
        "nobody renews the lease: {}",
        server.machine.sh("cat /run/log")
    );
    for dev in ["eth0", "br0"] {
        let expected: &[String] = if dev == holder {
            std::slice::from_ref(&address)
        } else {
            &[]
        };
        assert_eq!(addresses(&machine, dev), expected, "{dev}: {up:?}");
    }
    let (local, _) = address.split_once('/').unwrap();
    assert!(ping(&host.lan, local) && ping(&host.ns, "192.0.2.1"));
}
