//! As handover_clients, over whole leases of two minutes.
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

use std::thread::sleep;
use std::time::Duration;

use clients::{DHCLIENT, DHCPCD, Site, assert_steady};
use lease::{LEASE, Monitor, Stream};

/// Past two whole leases on the bridge and two on the NIC again.
fn outlives_its_leases(start: &str, program: &str) {
    let site = Site::new();
    site.machine.sh(start);
    let address = site.address("eth0");
    let leased = site.leased(&address);
    let stream = Stream::start(&site.host.lan, &[&address]);
    for (go, dev) in [
        (&Site::up as &dyn Fn(&Site) -> String, "br0"),
        (&Site::down, "eth0"),
    ] {
        go(&site);
        let monitor = Monitor::start(&site.host.ns);
        let defaults = site.defaults();
        for _ in 0..25 {
            sleep(Duration::from_secs(10));
            assert_eq!(site.address(dev), address);
        }
        assert_eq!(site.leased(&address), leased);
        assert_eq!(site.defaults(), defaults);
        assert_eq!(site.processes(program).len(), 1);
        assert_steady(&monitor.end(), &address, dev);
    }
    stream.assert_lost_at_most(2);
}

#[test]
#[ignore = "two leases of two minutes on the bridge, and two on the NIC"]
fn dhclient_outlives_its_leases() {
    outlives_its_leases(DHCLIENT, "dhclient");
}

#[test]
#[ignore = "two leases of two minutes on the bridge, and two on the NIC"]
fn ifupdown_s_dhclient_outlives_its_leases() {
    outlives_its_leases(
        "printf 'auto eth0\\niface eth0 inet dhcp\\n' >/etc/network/interfaces; ifup eth0",
        "dhclient",
    );
}

/// The server is away for the half of a lease in which the client renews.
fn silent_for_half_a_lease(start: &str) {
    let site = Site::new();
    site.machine.sh(start);
    let address = site.address("eth0");
    let stream = Stream::start(&site.host.lan, &[&address]);
    site.up();
    let monitor = Monitor::start(&site.host.ns);
    sleep(Duration::from_secs(45));
    site.server.fall_silent();
    sleep(Duration::from_secs(60));
    site.server.go_on();
    for _ in 0..10 {
        sleep(Duration::from_secs(10));
        assert_eq!(site.address("br0"), address);
    }
    assert!(site.valid("br0") <= LEASE);
    assert_steady(&monitor.end(), &address, "br0");
    stream.assert_lost_at_most(1);
    site.down();
    assert_eq!(site.address("eth0"), address);
}

#[test]
#[ignore = "a lease of two minutes with a silent server"]
fn a_server_that_is_silent_for_half_a_lease_costs_nothing_dhclient() {
    silent_for_half_a_lease(DHCLIENT);
}

#[test]
#[ignore = "a lease of two minutes with a silent server"]
fn a_server_that_is_silent_for_half_a_lease_costs_nothing_dhcpcd() {
    silent_for_half_a_lease(DHCPCD);
}

/// Silent from the hand-over on, for most of what was left of the lease, so
/// that the client has given up asking by then and lives on the old one.
fn silent_at_the_hand_over(start: &str, silence: u64) {
    let site = Site::new();
    site.machine.sh(start);
    let address = site.address("eth0");
    let stream = Stream::start(&site.host.lan, &[&address]);
    sleep(Duration::from_secs(20));
    site.server.fall_silent();
    let said = site.up();
    assert!(said.contains("does not answer"), "{said}");
    let monitor = Monitor::start(&site.host.ns);
    sleep(Duration::from_secs(silence));
    site.server.go_on();
    for _ in 0..15 {
        sleep(Duration::from_secs(10));
        assert_eq!(site.address("br0"), address);
    }
    assert_steady(&monitor.end(), &address, "br0");
    // The same on the way back.
    let monitor = Monitor::start(&site.host.ns);
    site.server.fall_silent();
    let said = site.down();
    assert!(said.contains("does not answer"), "{said}");
    assert_eq!(site.address("eth0"), address);
    sleep(Duration::from_secs(15));
    site.server.go_on();
    for _ in 0..13 {
        sleep(Duration::from_secs(10));
        assert_eq!(site.address("eth0"), address);
    }
    assert_steady(&monitor.end(), &address, "eth0");
    stream.assert_lost_at_most(2);
}

#[test]
#[ignore = "a hand-over while the server is silent, and a lease of two minutes"]
fn a_server_that_is_silent_at_the_hand_over_costs_nothing_dhclient() {
    silent_at_the_hand_over(DHCLIENT, 75);
}

#[test]
#[ignore = "a hand-over while the server is silent, and a lease of two minutes"]
fn a_server_that_is_silent_at_the_hand_over_costs_nothing_dhcpcd() {
    // It asks at ever longer intervals, a minute at most.
    silent_at_the_hand_over(DHCPCD, 45);
}

/// A server that has another address for the client at its renewal: the client
/// takes it on the bridge, and the NIC gets that one back.
fn another_address(start: &str) {
    let site = Site::new();
    site.machine.sh(start);
    let old = site.address("eth0");
    site.up();
    site.server.fall_silent();
    site.server.machine.sh("rm /run/leases");
    site.server.go_on_with(&[
        "--dhcp-host=02:00:00:00:00:21,192.0.2.108",
        "--dhcp-ignore=tag:!known",
    ]);
    let limit = std::time::Instant::now() + Duration::from_secs(150);
    while site.address("br0") == old {
        assert!(std::time::Instant::now() < limit);
        sleep(Duration::from_secs(1));
    }
    assert_eq!(site.address("br0"), "192.0.2.108");
    assert_eq!(site.defaults().lines().count(), 1);
    site.down();
    assert_eq!(site.address("eth0"), "192.0.2.108");
    assert_eq!(site.defaults().lines().count(), 1);
}

#[test]
#[ignore = "waits for the renewals of a lease of two minutes"]
fn another_address_at_renewal_is_taken_dhclient() {
    another_address(DHCLIENT);
}

#[test]
#[ignore = "waits for the renewals of a lease of two minutes"]
fn another_address_at_renewal_is_taken_dhcpcd() {
    another_address(DHCPCD);
}

/// A client that somebody ends or starts anew on the bridge is no hindrance to
/// the way back.
#[test]
#[ignore = "a lease of two minutes without a client"]
fn a_client_that_ends_on_the_bridge_is_started_on_the_nic() {
    let site = Site::new();
    site.machine.sh("dhclient -4 eth0");
    let address = site.address("eth0");
    let before = site.processes("dhclient").len();
    for left in [true, false] {
        site.up();
        let bridges = site
            .machine
            .sh("tr '\\0' '\\n' </proc/$(pgrep -f 'dhclient.* br0$')/cmdline");
        site.machine.sh("kill -9 $(pgrep -f 'dhclient.* br0$')");
        if left {
            sleep(Duration::from_secs(30));
        } else {
            let words: Vec<&str> = bridges.lines().skip(1).collect();
            site.machine.start("dhclient", &words);
            sleep(Duration::from_secs(LEASE + 10));
        }
        assert_eq!(site.address("br0"), address);
        site.down();
        assert_eq!(site.address("eth0"), address);
        assert!(site.valid("eth0") + 2 >= LEASE);
        assert_eq!(site.processes("dhclient").len(), before);
    }
}

#[test]
#[ignore = "two leases of two minutes on the bridge, and two on the NIC"]
fn dhcpcd_outlives_its_leases() {
    outlives_its_leases(DHCPCD, "dhcpcd");
}
