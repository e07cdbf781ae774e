//! Guarded ports against a hostile guest, by raw frames, and for an honest
//! one, which is a whole Linux.
//!
//! Every frame is also sent by a port without a guard, where it must arrive:
//! else that it does not arrive by a guarded one would say nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/host.rs"]
mod host;
#[path = "common/hostile.rs"]
mod hostile;
#[path = "common/hostile_ipv6.rs"]
mod hostile_ipv6;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/packets.rs"]
mod packets;
#[path = "common/router.rs"]
mod router;
#[path = "common/taps.rs"]
mod taps;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Namespace, wait_until};
use frames::{ALL_NODES, BROADCAST, mac};
use host::{Host, ping, script_in};
use hostile::{Case, GUEST, OTHER, UDP, cases, v4, v6};
use lease::Server;
use machine::Machine;
use packets::{ip_frame, ipv4, ipv6, udp};
use router::Router;
use taps::{Cable, Ear, Holder};

/// Its addresses: each alone, and a prefix.
const GUARD: &str = "192.0.2.50,2001:db8::50,2001:db8:a::/64";

/// A host with `eth0` on a bridge, which somebody made without vmbr.
fn bridged(hint: &str) -> Host {
    // Bridge netfilter, where its module is loaded, cuts frames to the length of
    // their packets, and with it the mark of the test.
    let script = "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0 up
        for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done";
    Host::new(hint, script)
}

fn add(host: &Host, name: &str, guard: &str) {
    host.vmbr(&["tap", "add", name, "--mac", GUEST, "--guard", guard])
        .ok();
}

/// Sends all frames by a port, and gives the numbers of those that arrive.
fn arriving(host: &Host, tap: &str, honest: &[u8], cases: &[Case]) -> BTreeSet<usize> {
    let ear = Ear::at(&host.lan, "lan0");
    let holder = Holder::of(&host.ns, tap);
    let all: Vec<Vec<u8>> = cases.iter().map(|case| case.frame.clone()).collect();
    holder.arrive(&ear, &all, honest)
}

/// Sends all frames by a port, and asserts that those arrive that should.
fn held_to(host: &Host, tap: &str, honest: &[u8], passes: impl Fn(&Case) -> bool) {
    let cases = cases();
    let heard = arriving(host, tap, honest, &cases);
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let (wanted, arrived) = (passes(case), heard.contains(&number));
        if wanted != arrived {
            wrong.push(format!(
                "{} '{}': {:02x?}",
                if arrived { "passed:" } else { "dropped:" },
                case.name,
                case.frame
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// Some frame that always passes a guard with IPv4.
fn honest() -> Vec<u8> {
    let packet = ipv4(v4("192.0.2.50"), v4("192.0.2.1"), UDP, (0, false), &udp(9, 9));
    ip_frame(BROADCAST, mac(GUEST), &packet)
}

#[test]
fn every_frame_arrives_by_a_port_without_a_guard() {
    let host = bridged("unguarded");
    host.vmbr(&["tap", "add", "t0", "--mac", GUEST]).ok();
    held_to(&host, "t0", &honest(), |_| true);
}

#[test]
fn with_addresses_a_guest_speaks_as_itself_only() {
    let host = bridged("guarded");
    add(&host, "t0", GUARD);
    held_to(&host, "t0", &honest(), |case| case.honest);
}

#[test]
fn with_its_mac_alone_a_guest_speaks_by_its_mac_only() {
    let host = bridged("mac");
    add(&host, "t0", "mac");
    held_to(&host, "t0", &honest(), |case| case.frame[6..12] == mac(GUEST));
}

#[test]
fn a_family_without_an_address_is_shut() {
    let host = bridged("families");
    let of = |case: &Case| u16::from_be_bytes([case.frame[12], case.frame[13]]);
    add(&host, "t4", "192.0.2.50");
    held_to(&host, "t4", &honest(), |case| case.honest && of(case) != 0x86dd);
    host.vmbr(&["tap", "del", "t4"]).ok();
    add(&host, "t6", "2001:db8::50,2001:db8:a::/64");
    let packet = ipv6(v6("2001:db8::50"), v6("ff02::1"), UDP, &udp(9, 9));
    let honest = ip_frame(ALL_NODES, mac(GUEST), &packet);
    held_to(&host, "t6", &honest, |case| {
        case.honest && ![0x0800, 0x0806].contains(&of(case))
    });
}

/// The same frames by a port that libvirt's `clean-traffic` holds: it shuts
/// IPv6, and lets pass what DHCP servers say. With `--nocapture` it prints in
/// what the two differ.
#[test]
fn clean_traffic_of_libvirt_beside_it() {
    let host = bridged("libvirt");
    host.vmbr(&["tap", "add", "guest0", "--mac", GUEST]).ok();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/clean-traffic.ebtables");
    host.sh(&format!("ebtables-nft-restore <{rules}"));
    let cases = cases();
    let theirs = arriving(&host, "guest0", &honest(), &cases);
    let mut differ = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let kind = u16::from_be_bytes([case.frame[12], case.frame[13]]);
        if theirs.contains(&number) != case.honest {
            let passes = if case.honest { "dropped" } else { "passes" };
            differ.push((kind, case.name, passes));
        }
    }
    for (kind, name, passes) in &differ {
        println!("{kind:04x} {name}: clean-traffic: {passes}");
    }
    let is = |kind, name, passes| differ.contains(&(kind, name, passes));
    for case in cases.iter().filter(|case| case.honest) {
        let kind = u16::from_be_bytes([case.frame[12], case.frame[13]]);
        // A guest that asks whether its address is free (RFC 5227) is not heard.
        let lost = kind == 0x86dd || case.name == "ARP probe";
        assert_eq!(is(kind, case.name, "dropped"), lost, "{}", case.name);
    }
    for name in ["DHCP offer", "ICMP redirect", "UDP as nobody"] {
        assert!(is(0x0800, name, "passes"), "{name}: {differ:?}");
    }
}

#[test]
fn the_guard_goes_with_its_port() {
    let host = bridged("leaves");
    let traces = || {
        let filters = host.sh("tc filter show dev t0 ingress; tc qdisc show dev t0");
        let entries = host.ns.bridge(&["fdb", "show", "br", "br0"]);
        let tables = host.sh("nft list ruleset");
        (
            filters.contains("bpf") || filters.contains("clsact"),
            entries.contains(GUEST),
            tables,
        )
    };
    add(&host, "t0", GUARD);
    assert_eq!(traces(), (true, true, String::new()));
    // Whoever removes it.
    host.ns.ip(&["link", "del", "t0"]);
    host.sh("ip tuntap add dev t0 mode tap; ip link set t0 master br0 up");
    assert_eq!(traces(), (false, false, String::new()));
    let list = host.vmbr(&["tap", "list", "--json"]).ok();
    assert!(list.contains(r#""guard":null"#), "{list}");
}

#[test]
fn an_address_that_is_anothers_is_named() {
    let host = bridged("doubt");
    host.sh("ip addr add 192.0.2.21/24 dev br0");
    add(&host, "t0", GUARD);
    let guard = "192.0.2.50,192.0.2.21,192.0.2.77";
    let args = ["tap", "add", "t1", "--mac", "52:54:00:00:00:77", "--guard", guard];
    let ended = host.vmbr(&args);
    assert_eq!(ended.code(), 0, "{ended:?}");
    for text in [
        "192.0.2.50 is the address of t0's guest, too: ",
        "192.0.2.21 is this host's address on br0: ",
    ] {
        assert!(ended.stderr.contains(text), "{ended:?}");
    }
    assert_eq!(ended.stderr.matches("warning").count(), 2, "{ended:?}");
    assert!(!host.vmbr(&args).stderr.contains("warning"));
}

#[test]
fn nobody_takes_a_guarded_mac_away() {
    let host = bridged("sticky");
    add(&host, "t0", GUARD);
    let again = host.vmbr(&["tap", "add", "t1", "--mac", GUEST, "--guard", "mac"]);
    assert_eq!(again.code(), 3, "{again:?}");
    assert!(
        again.stderr.contains("another port of br0 has that MAC"),
        "{again:?}"
    );
    assert!(!host.ns.links().contains(&"t1".to_owned()));
    // A guest without a guard, and the LAN, speak by that MAC.
    host.vmbr(&["tap", "add", "t2"]).ok();
    let ear = Ear::at(&host.lan, "lan0");
    let thief = Holder::of(&host.ns, "t2");
    thief.arrive(&ear, &[honest()], &honest());
    let entries = host.ns.bridge(&["fdb", "show", "br", "br0"]);
    let of_guest: Vec<&str> = entries.lines().filter(|line| line.contains(GUEST)).collect();
    assert_eq!(of_guest.len(), 1, "{entries}");
    assert!(of_guest[0].contains("dev t0 "), "{entries}");
    // One that the bridge has merely learned somewhere moves to its guest.
    thief.arrive(
        &ear,
        &[],
        &[&BROADCAST[..], &mac(OTHER), &honest()[12..]].concat(),
    );
    host.vmbr(&["tap", "add", "t3", "--mac", OTHER, "--guard", "mac"])
        .ok();
    let entries = host.ns.bridge(&["fdb", "show", "br", "br0"]);
    assert!(entries.contains(&format!("{OTHER} dev t3 sticky")), "{entries}");
}

#[test]
fn an_honest_guest_has_everything() {
    let host = bridged("honest");
    let _router = Router::start_hasty(&host);
    let _server = Server::start(&host.lan);
    // The leases are 192.0.2.100 to 110; the router's prefix is 2001:db8:a::/64.
    add(&host, "t0", "192.0.2.96/28,2001:db8:a::/64,2001:db8::77");
    let guest = Namespace::new("guest");
    let _cable = Cable::lay(&host.ns, "t0", &guest, GUEST);
    guest.set_sysctl("net/ipv6/conf/eth0/use_tempaddr", "2");
    guest.set_sysctl("net/ipv6/conf/eth0/addr_gen_mode", "0");
    guest.ip(&["link", "set", "eth0", "up"]);
    guest.ip(&["addr", "add", "2001:db8::77/64", "dev", "eth0"]);
    let machine = Machine::new(&guest);
    machine.sh("dhclient -4 -pf /run/dhclient.pid eth0");
    machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    let settled = wait_until(Duration::from_secs(15), || {
        let addresses = guest.ip(&["-6", "addr", "show", "dev", "eth0"]);
        addresses.contains("temporary") && !addresses.contains("tentative")
    });
    let addresses = guest.ip(&["-6", "addr", "show", "dev", "eth0"]);
    assert!(settled && !addresses.contains("dadfailed"), "{addresses}");
    let all = guest.json(&["addr", "show", "dev", "eth0", "scope", "global"]);
    let mut all = all[0]["addr_info"].as_array().unwrap().clone();
    // Those of other scopes are empty.
    all.retain(|address| address.get("local").is_some());
    assert!(all.len() >= 4, "DHCP, SLAAC, privacy, fixed: {all:?}");
    for address in &all {
        let own = address["local"].as_str().unwrap();
        let to = if own.contains(':') {
            "2001:db8:a::1"
        } else {
            "192.0.2.1"
        };
        let asked = common::run(guest.command("ping").args(["-c1", "-W3", "-I", own, to]));
        assert!(asked.status.success(), "{own} does not reach {to}: {asked:?}");
        assert!(ping(&host.lan, own), "{own} does not answer");
    }
    assert!(ping(&guest, "192.0.2.1"));
    // The same guest, after it has gone bad.
    script_in(
        &guest,
        "ip addr add 192.0.2.77/24 dev eth0; ip addr add 2001:db8:b::77/64 dev eth0 nodad",
    );
    script_in(&host.lan, "ip addr add 2001:db8:b::1/64 dev lan0 nodad");
    for (own, to) in [("192.0.2.77", "192.0.2.1"), ("2001:db8:b::77", "2001:db8:b::1")] {
        let asked = common::run(guest.command("ping").args(["-c1", "-W1", "-I", own, to]));
        assert!(!asked.status.success(), "{own}: {asked:?}");
        let asked = common::run(host.lan.command("ping").args(["-c1", "-W1", own]));
        assert!(!asked.status.success(), "{own} answers: {asked:?}");
    }
}
