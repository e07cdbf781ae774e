//! Guests that play DHCP server or router are not heard by the host whose
//! client is on the bridge.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/clients.rs"]
mod clients;
mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;

use std::time::Duration;

use clients::{DHCLIENT, Site};
use common::{Namespace, VethEnd, veth_pair, wait_until};
use lease::Server;
use machine::Machine;

/// Whether the host has the default route of a router that advertises itself.
const ROUTED: &str = "ip -6 route show default | grep -q 'proto ra'";

/// A guest on br0, whose NIC is `lan0`.
fn guest(site: &Site, tap: &str, address: &str) -> Namespace {
    let guest = Namespace::new("guest");
    let ends = [(&site.host.ns, tap), (&guest, "lan0")].map(|(namespace, name)| VethEnd {
        namespace,
        name,
        mac: None,
    });
    veth_pair(&ends[0], &ends[1]);
    site.host.ns.ip(&["link", "set", tap, "master", "br0", "up"]);
    host::script_in(
        &guest,
        &format!(
            "ip link set lan0 up; {address}; until ip link show lan0 | grep -q LOWER_UP; do sleep 0.05; done"
        ),
    );
    guest
}

/// Whether a rule can ask the kernel for the bridge of a frame.
fn knows_bridges(site: &Site) -> bool {
    let script =
        "nft 'add table bridge try; add chain bridge try all; add rule bridge try all meta ibrname br0'
        nft delete table bridge try";
    common::run(site.machine.command("sh").args(["-ec", script]))
        .status
        .success()
}

fn tables(site: &Site) -> String {
    site.machine.sh("nft list tables")
}

#[test]
fn a_guest_that_plays_server_or_router_is_not_heard_by_the_host() {
    let site = Site::new();
    site.machine.sh(DHCLIENT);
    let address = site.address("eth0");
    let dry = site.machine.vmbr(&site.host, &["up", "eth0", "--dry-run"]).ok();
    assert!(dry.contains("nft 'add table bridge vmbr-br0'"), "{dry}");
    let said = site.up();
    let warned = said.contains("a guest on br0 could answer the host in its DHCP server's");
    assert_eq!(warned, !knows_bridges(&site), "{said}");
    if warned {
        // All the other rules, on a host that has no bridge but this one.
        let lines = dry.lines().filter(|line| line.starts_with("nft "));
        let rules: Vec<&str> = lines.filter(|line| !line.contains("ibrname")).collect();
        assert_eq!(rules.len(), 7, "{dry}");
        site.machine.sh(&rules.join("\n"));
    }
    let rogue = guest(
        &site,
        "tap0",
        "ip addr add 192.0.2.66/24 dev lan0; ip addr add 2001:db8:bad::1/64 dev lan0 nodad",
    );
    let server = Server::start(&rogue);
    let play = || {
        server.replace(
            "192.0.2.200,192.0.2.210",
            &[
                "--enable-ra",
                "--dhcp-range=2001:db8:bad::,ra-only",
                "--dhcp-option=option:router,192.0.2.66",
                "--log-dhcp",
                "--log-facility=/run/log",
            ],
        );
    };
    play();
    // A client that asks anew, while the true server is silent.
    site.server.fall_silent();
    assert!(!asks(&site), "{}", server.machine.sh("cat /run/log"));
    let log = server.machine.sh("cat /run/log");
    assert!(log.contains("DHCPOFFER(lan0) 192.0.2.2"), "{log}");
    assert!(log.contains("RTR-ADVERT(lan0)"), "{log}");
    assert!(!routed(&site), "it is the router");
    assert_eq!(site.address("br0"), address);

    // What it says to another guest is their affair.
    let other = guest(&site, "tap1", "true");
    let machine = Machine::new(&other);
    machine.sh("dhclient -4 -1 -pf /run/dhclient.pid lan0");
    machine.until("ip -4 route | grep -q 'default via 192.0.2.66'");
    machine.until(ROUTED);

    // And the host would believe it.
    site.machine.sh("nft delete table bridge vmbr-br0");
    play();
    assert!(asks(&site));
    assert!(wait_until(Duration::from_secs(10), || routed(&site)));
    site.machine
        .sh("ip -6 route flush default; ip -6 route flush 2001:db8:bad::/64; ip -6 addr flush dev br0 scope global");
    server.fall_silent();
    for tap in ["tap0", "tap1"] {
        site.host.ns.ip(&["link", "del", tap]);
    }
    site.server.go_on();
    site.down();
    assert_eq!(site.address("eth0"), address);
    assert!(!tables(&site).contains("vmbr"), "{}", tables(&site));
}

/// Whether a client on br0 is given an address; it is not set.
fn asks(site: &Site) -> bool {
    let mut client = site.machine.command("busybox");
    client.args([
        "udhcpc",
        "-f",
        "-n",
        "-q",
        "-t",
        "3",
        "-T",
        "1",
        "-i",
        "br0",
        "-s",
        "/bin/true",
    ]);
    common::run(&mut client).status.success()
}

fn routed(site: &Site) -> bool {
    let ended = common::run(site.machine.command("sh").args(["-ec", ROUTED]));
    ended.status.success()
}

/// Who has learned nothing so may have its router in a guest; and what was
/// done goes with the bridge.
#[test]
fn a_host_with_fixed_addresses_is_left_as_it_is() {
    let site = Site::new();
    site.machine
        .sh("ip addr add 192.0.2.21/24 dev eth0; ip route add default via 192.0.2.1");
    site.up();
    assert_eq!(tables(&site), "");
    site.down();
    site.machine
        .sh("ip addr flush dev eth0 scope global; dhclient -4 eth0");
    site.address("eth0");
    site.up();
    let made = tables(&site).contains("table bridge vmbr-br0");
    assert_eq!(made, knows_bridges(&site));
    site.down();
    assert_eq!(tables(&site), "");
}
