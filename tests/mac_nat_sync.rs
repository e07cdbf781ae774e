//! `vmbr sync` and `vmbr doctor` on a bridge in mode mac-nat whose host changes
//! under it: another MAC, another address, a NIC that goes and comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/site.rs"]
mod site;
#[path = "common/translated.rs"]
mod translated;

use common::{VethEnd, run, veth_pair};
use host::{Host, MAC, ping, script_in};
use site::Site;
use translated::{Guest, UP, counted, filters, known_as, status};

/// A host with doctor's own /etc, its bridge, and a guest.
fn with_guest(hint: &str) -> (Site, Guest) {
    let site = Site::new(hint, "");
    site.sh(&format!("mkdir {}", site.path("etc/vmbr").display()));
    site.vmbr(&UP).ok();
    let guest = Guest::new(&site, 1);
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    (site, guest)
}

fn sync(site: &Site) -> String {
    site.vmbr(&["sync"]).ok()
}

#[test]
fn another_mac_of_the_uplink() {
    let (site, guest) = with_guest("air-mac");
    site.assert_clean();
    assert!(sync(&site).contains("already so"));
    let random = "3e:00:00:00:00:99";
    site.sh(&format!("ip link set eth0 address {random}"));
    site.only("mac-nat-stale", Some("br0"));
    assert_eq!(status(&site)["translation"]["programs"], "stale");
    assert!(site.vmbr(&["status"]).ok().contains("OUT OF DATE"));
    assert!(sync(&site).contains("br0 is up to date"));
    assert_eq!(status(&site)["translation"]["programs"], "attached");
    site.assert_clean();
    assert!(sync(&site).contains("already so"));
    assert_eq!(status(&site)["mac"], random);
    // The LAN was told: it need not ask anew.
    for address in [&guest.v4, &guest.v6] {
        let known = || known_as(&site, address).as_deref() == Some(random);
        translated::until("the LAN knows an old MAC", known);
    }
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    assert_eq!(known_as(&site, &guest.v4).as_deref(), Some(random));
    assert!(ping(&site.lan, &guest.v6));
    site.sh(&format!("ip link set eth0 address {MAC}"));
    let found = site.doctor(&["--fix"]).1;
    assert_eq!(found[0]["fixed"], true, "{found:?}");
    assert_eq!(status(&site)["mac"], MAC);
}

/// How many addresses are known in all, and how many of the guest at a port.
fn learned(site: &Site, port: &str) -> (usize, usize) {
    let bridge = status(site);
    let all = bridge["translation"]["learned"].as_u64().unwrap() as usize;
    let ports = bridge["ports"].as_array().unwrap();
    let port = ports.iter().find(|one| one["name"] == port);
    let own = port.map_or(0, |port| port["guests"][0]["learned"].as_array().unwrap().len());
    (all, own)
}

/// What is for its addresses would follow a port to another bridge.
#[test]
fn a_port_that_moved_to_another_bridge_is_forgotten() {
    let (site, guest) = with_guest("air-moved");
    let stays = Guest::new(&site, 2);
    stays.assert_reaches("192.0.2.1", "2001:db8::1");
    site.sh(&format!(
        "ip link add other type bridge; ip link set {} master other",
        guest.port
    ));
    let (all, of_stays) = learned(&site, &stays.port);
    assert!(of_stays >= 2 && all >= of_stays + 2, "{all}, {of_stays}");
    site.only("mac-nat-stale", Some("br0"));
    assert!(sync(&site).contains("br0 is up to date"));
    let (all, of_stays) = learned(&site, &stays.port);
    assert!(of_stays >= 2 && all == of_stays, "{all}, {of_stays}");
    site.assert_clean();
    // It is a guest again when it comes back; one whose port is gone harms nobody.
    site.sh(&format!(
        "ip link set {} master br0; ip link del other; ip link del {}",
        guest.port, stays.port
    ));
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    assert!(learned(&site, &guest.port).1 >= 2);
    assert!(sync(&site).contains("already so"));
    site.assert_clean();
}

/// A guest that speaks as the uplink hears nothing for the host.
#[test]
fn a_guest_that_speaks_as_the_uplink_does_not_become_the_host() {
    let (site, guest) = with_guest("air-thief");
    let thief = Guest::new(&site, 2);
    script_in(
        &thief.ns,
        &format!("ip link set nic down; ip link set nic address {MAC}; ip link set nic up"),
    );
    let before = counted(&site, "source-mac");
    for _ in 0..3 {
        assert!(!ping(&thief.ns, "192.0.2.2"));
        assert!(ping(&guest.ns, "192.0.2.21"), "the host is another's");
    }
    assert!(counted(&site, "source-mac") > before);
    let place = || {
        let all = site.ns.bridge_json(&["fdb", "show", "br", "br0"]);
        let all = all.as_array().unwrap().clone();
        let known = all.into_iter().find(|entry| entry["mac"] == MAC);
        known.map(|entry| entry["ifname"].as_str().unwrap().to_owned())
    };
    assert_eq!(place().as_deref(), Some("br0-air"));
    // With the MAC, the place goes.
    site.sh("ip link set eth0 address 02:00:00:00:00:98");
    sync(&site);
    assert_ne!(place().as_deref(), Some("br0-air"));
    assert!(ping(&guest.ns, "192.0.2.21"));
}

#[test]
fn addresses_that_no_guest_may_claim() {
    let (site, guest) = with_guest("air-claim");
    // The gateway's, from the beginning.
    guest.claim("192.0.2.1");
    let before = counted(&site, "protected");
    assert!(!guest.reaches_as("192.0.2.1"));
    assert!(counted(&site, "protected") > before, "{}", status(&site));
    // One that the host gets later; until then it is the guest's.
    guest.claim("192.0.2.99");
    assert!(guest.reaches_as("192.0.2.99"));
    site.sh("ip addr add 192.0.2.99/24 dev eth0");
    site.only("mac-nat-stale", Some("br0"));
    sync(&site);
    assert!(!guest.reaches_as("192.0.2.99"));
    let learned = status(&site)["ports"].to_string();
    assert!(!learned.contains("192.0.2.99"), "{learned}");
    // A name server's; and one that is a guest's by the ACL.
    guest.claim("192.0.2.77");
    guest.claim("192.0.2.78");
    site.etc("resolv.conf", "nameserver 192.0.2.77\nnameserver 192.0.2.78\n");
    site.etc(
        "vmbr/acl.conf",
        &format!(
            "allow br0 mac={} guard=192.0.2.78\nallow br0 mac=52:54:00:00:00:09 guard=192.0.2.79\n",
            guest.mac
        ),
    );
    sync(&site);
    assert!(!guest.reaches_as("192.0.2.77"));
    assert!(guest.reaches_as("192.0.2.78"));
    guest.claim("192.0.2.79");
    assert!(!guest.reaches_as("192.0.2.79"), "it is another's by the ACL");
    assert!(counted(&site, "pinned") > 0);
    let bridge = status(&site);
    let guests = bridge["ports"].to_string();
    assert!(guests.contains(r#""pinned":true"#), "{guests}");
    assert!(site.vmbr(&["status"]).ok().contains("192.0.2.78 (pinned)"));
    // A slip in the file gives nothing away, and is told.
    site.etc(
        "vmbr/acl.conf",
        &format!("allow br0 usr=root mac={} guard=192.0.2.78\n", guest.mac),
    );
    let ended = site.vmbr(&["sync"]);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("/etc/vmbr/acl.conf: line 1, "), "{ended:?}");
    assert!(!guest.reaches_as("192.0.2.79"), "it is another's by the ACL");
    assert!(site.vmbr(&["status"]).ok().contains("192.0.2.78 (pinned)"));
    site.sh("rm /etc/vmbr/acl.conf");
    sync(&site);
    assert!(!site.vmbr(&["status"]).ok().contains("(pinned)"));
    site.etc("resolv.conf", "");
    sync(&site);
    assert!(guest.reaches_as("192.0.2.79"));
    guest.assert_reaches("192.0.2.2", "2001:db8::1");
}

/// What the host had for a moment, or only asked for, is anybody's again when
/// vmbr has looked.
#[test]
fn an_address_that_the_host_gave_up_is_a_guests() {
    let (site, guest) = with_guest("air-given");
    site.sh(
        "ip addr add 192.0.2.60/24 dev eth0; ping -c 1 -W 1 -I 192.0.2.60 192.0.2.77 || true
         ip addr del 192.0.2.60/24 dev eth0",
    );
    sync(&site);
    site.assert_clean();
    guest.claim("192.0.2.60");
    let reaches = guest.reaches_as("192.0.2.60");
    assert!(reaches, "dropped as the host's: {}", counted(&site, "protected"));
}

/// A NIC that is unplugged, and plugged in again.
#[test]
fn an_uplink_that_goes_and_comes_back() {
    let (site, guest) = with_guest("air-gone");
    let other = Guest::new(&site, 2);
    site.sh("ip link del eth0");
    assert_eq!(status(&site)["uplink_state"], "gone");
    let picture = site.vmbr(&["status"]).ok();
    assert!(picture.contains("GONE"), "{picture}");
    let finding = site.only("uplink-gone", Some("br0"));
    assert_eq!(finding["fixable"], false);
    guest.assert_reaches(&other.v4, &other.v6);
    assert!(sync(&site).contains("is gone"));

    let back = VethEnd {
        namespace: &site.ns,
        name: "eth0",
        mac: Some("02:00:00:00:00:77"),
    };
    let far = VethEnd {
        namespace: &site.lan,
        name: "lan0",
        mac: None,
    };
    veth_pair(&back, &far);
    script_in(
        &site.lan,
        "ip link set lan0 up; ip addr add 192.0.2.1/24 dev lan0; ip addr add 2001:db8::1/64 dev lan0 nodad",
    );
    site.sh("ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0
         ip addr add 2001:db8::21/64 dev eth0 nodad; ip route add default via 192.0.2.1");
    site.settle();
    site.only("uplink-anew", Some("br0"));
    assert!(sync(&site).contains("br0 is up to date"));
    site.assert_clean();
    assert_eq!(status(&site)["uplink_state"], "up");
    // The gateway is another one.
    script_in(&guest.ns, "ip neigh flush dev nic");
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    guest.assert_reaches("192.0.2.21", "2001:db8::21");
    guest.leave(&site);
    other.leave(&site);
    site.vmbr(&["down"]).ok();
    assert_eq!(site.ns.links(), ["lo", "eth1", "eth0"].map(str::to_owned));
    assert_eq!(filters(&site.ns, "eth0"), "");
}

#[test]
fn an_uplink_that_stays_away_does_not_keep_the_bridge() {
    let site = Site::new("air-away", "");
    site.vmbr(&UP).ok();
    site.sh("ip link del eth0");
    let finding = site.only("uplink-gone", Some("br0"));
    assert!(finding["remedy"].as_str().unwrap().contains("vmbr down br0"));
    site.vmbr(&["down"]).ok();
    assert_eq!(site.ns.links(), ["lo", "eth1"].map(str::to_owned));
    assert!(site.vmbr(&["status"]).ok().contains("No bridge"));
}

#[test]
fn a_broken_air_port_is_made_anew() {
    let (site, guest) = with_guest("air-broken");
    for harm in [
        "ip link del br0-air",
        "ip link set br0-far down",
        "ip link set br0-air nomaster",
        "ip link set br0 down",
        "sysctl -qw net.ipv6.conf.br0.disable_ipv6=0",
    ] {
        site.sh(harm);
        let finding = site.only("air-broken", Some("br0"));
        assert_eq!(finding["remedy"], "vmbr sync br0", "{harm}");
        site.paste(&finding);
        site.assert_clean();
        guest.assert_reaches("192.0.2.1", "2001:db8::1");
    }
}

/// Out of range: guests and host reach each other, and all is well when the
/// network is back.
#[test]
fn without_a_network_guests_and_host_reach_each_other() {
    let host = translated::up("air-range");
    let (one, two) = (Guest::new(&host, 1), Guest::new(&host, 2));
    one.assert_reaches("192.0.2.1", "2001:db8::1");
    two.assert_reaches("192.0.2.1", "2001:db8::1");
    script_in(&host.lan, "ip link set lan0 down");
    translated::until("it has a carrier", || {
        status(&host)["uplink_state"] == "no-carrier"
    });
    one.assert_reaches(&two.v4, &two.v6);
    one.assert_reaches("192.0.2.21", "2001:db8::21");
    for address in [&two.v4, &one.v6] {
        assert!(ping(&host.ns, address), "the host does not reach {address}");
    }
    script_in(
        &host.lan,
        "ip link set lan0 up; ip addr add 2001:db8::1/64 dev lan0 nodad",
    );
    host.settle();
    one.assert_reaches("192.0.2.1", "2001:db8::1");
    // The host's own way, as the kernel left it.
    assert!(ping(&host.ns, "192.0.2.1"));
}

#[test]
fn where_there_is_no_such_bridge_it_does_nothing_for_anyone() {
    let host = Host::new("air-none", host::STATIC);
    host.vmbr(&["up", "eth0"]).ok();
    let before = host.state();
    let mut command = host.ns.command("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--clear-groups",
        env!("CARGO_BIN_EXE_vmbr"),
        "--state-dir",
    ]);
    let said = run(command.arg(host.records()).arg("sync")).ok();
    assert!(said.contains("nothing to do"), "{said}");
    before.assert_same(&host.state());
}
