//! `vmbr up --mode mac-nat` and back, on a host with a wired uplink: what a
//! person sees of it. The radio is in tests of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/translated.rs"]
mod translated;

use host::{Host, ping};
use serde_json::json;
use translated::{Guest, STATIC, UP, assert_known_as_uplink, assert_untouched, filters, status};

/// The whole life: up, two guests, down. The host's own network stays as it
/// was all the time.
#[test]
fn guests_join_and_the_host_stays_as_it_was() {
    let host = Host::new("air", STATIC);
    let before = host.state();
    let said = host.vmbr(&UP);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(said.stdout.contains("eth0, which stays as it was"), "{said:?}");
    assert_untouched(&before, &host.state());
    assert_eq!(host.ns.link("br0-air").unwrap()["master"], "br0");

    let one = Guest::new(&host, 1);
    let two = Guest::new(&host, 2);
    // The LAN, this host, each other; and from the LAN to the guest.
    one.assert_reaches("192.0.2.1", "2001:db8::1");
    one.assert_reaches("192.0.2.21", "2001:db8::21");
    one.assert_reaches(&two.v4, &two.v6);
    two.assert_reaches("192.0.2.2", "2001:db8::2");
    for address in [&one.v4, &one.v6, &two.v4, &two.v6] {
        assert!(ping(&host.lan, address), "the LAN does not reach {address}");
        assert!(ping(&host.ns, address), "the host does not reach {address}");
        assert_known_as_uplink(&host, address);
    }
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));

    let again = host.vmbr(&UP);
    assert_eq!(again.code(), 0, "{again:?}");
    assert!(again.stdout.contains("already so"), "{again:?}");
    one.assert_reaches("192.0.2.1", "2001:db8::1");

    let refused = host.vmbr(&["down"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("g1, g2"), "{refused:?}");
    one.leave(&host);
    two.leave(&host);
    let down = host.vmbr(&["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(down.stdout.contains("br0 is gone"), "{down:?}");
    before.assert_same(&host.state());
    assert_eq!(filters(&host.ns, "eth0"), "");
}

#[test]
fn status_tells_how_a_packet_travels() {
    let host = translated::up("picture");
    let guest = Guest::new(&host, 1);
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    let bridge = status(&host);
    assert_eq!(bridge["mode"], "mac-nat");
    assert_eq!(bridge["uplink"], "eth0");
    assert_eq!(bridge["uplink_state"], "up");
    assert_eq!(bridge["mac"], host::MAC);
    let addresses = bridge["addresses"].as_array().unwrap();
    for address in ["192.0.2.21/24", "2001:db8::21/64"] {
        assert!(addresses.contains(&json!(address)), "{bridge}");
    }
    assert_eq!(bridge["gateways"], json!(["192.0.2.1", "2001:db8::1"]));
    assert_eq!(bridge["translation"]["programs"], "attached");
    let ports = bridge["ports"].as_array().unwrap();
    let port = |name: &str| ports.iter().find(|port| port["name"] == name).cloned();
    assert_eq!(ports.len(), 2, "{bridge}");
    assert_eq!(port("br0-air").unwrap()["kind"], "air");
    let guests = port("g1").unwrap()["guests"].clone();
    assert_eq!(guests[0]["mac"], guest.mac, "{bridge}");
    let learned = guests[0]["learned"].as_array().unwrap();
    for address in [&guest.v4, &guest.v6] {
        let one = learned.iter().find(|one| one["address"] == **address);
        let one = one.unwrap_or_else(|| panic!("{address}: {bridge}"));
        assert!(one["age_seconds"].as_u64().unwrap() < 60, "{bridge}");
        assert_eq!(one["pinned"], false);
    }
    let picture = host.vmbr(&["status"]).ok();
    for word in ["eth0", "mac-nat", "this host: 192.0.2.21/24", "g1", &guest.v4] {
        assert!(picture.contains(word), "no {word} in\n{picture}");
    }
    assert!(!picture.contains("br0-far"), "{picture}");
}
