//! What answered before a change must answer after it, or the change is taken
//! back; and what is no answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/crash.rs"]
mod crash;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/host.rs"]
mod host;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use serde_json::Value;

use common::Ended;
use common::strike::Moment;
use crash::{ORDINARY, Victim, Whole};
use frames::{ALL_NODES, BROADCAST, Flood, Sender, advertisement, arp, frame, mac, mac_of};
use host::script_in;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// A verification asks for five seconds at most; the way back, and a machine
/// with other work, take their time.
const VERDICT: Duration = Duration::from_secs(15);

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 21);

/// What a host hears, or says, through a bridge is lost where it matches; on
/// the NIC itself nothing is.
fn deaf_by_bridge(victim: &Victim, hook: &str, what: &str) {
    victim.host.sh(&format!(
        "nft add table bridge fabric
         nft 'add chain bridge fabric {hook} {{ type filter hook {hook} priority 0; }}'
         nft add rule bridge fabric {hook} {what} drop"
    ));
}

fn status(victim: &Victim) -> Value {
    serde_json::from_str(&victim.host.vmbr(&["status", "--json"]).ok()).unwrap()
}

/// `up` was taken back: it says why, also later, and the host is as it was.
fn assert_taken_back(victim: &Victim, up: &Ended, silent: &[&str]) {
    assert_eq!(up.code(), 1, "{up:?}");
    let rollbacks = &status(victim)["rollbacks"];
    let reason = rollbacks[0]["reason"].as_str().unwrap_or_default();
    for gateway in silent {
        assert!(reason.contains(gateway), "{gateway}: {rollbacks}");
        assert!(up.stderr.contains(gateway), "{gateway}: {up:?}");
    }
    assert_eq!(victim.is_back(), Ok(Whole::Nic), "{up:?}");
}

/// `up` on a host where the frames of `what` are lost by bridge: it is taken
/// back for the gateways that are silent then, and no others.
fn refused(hint: &str, more: &str, what: &str, silent: &[&str], others: &[&str]) {
    let victim = Victim::new(hint, &format!("{ORDINARY}\n{more}"));
    let lan = "for a in 192.0.2.3/24 192.0.2.4/24; do ip addr add $a dev lan0; done";
    script_in(&victim.host.lan, lan);
    deaf_by_bridge(&victim, "input", what);
    let up = victim.host.vmbr(&["up", "eth0"]);
    assert_taken_back(&victim, &up, silent);
    let rollbacks = &status(&victim)["rollbacks"];
    for gateway in others {
        assert!(
            !rollbacks.to_string().contains(&format!("{gateway} ")),
            "{rollbacks}"
        );
    }
}

/// Each case waits for seconds, of which it works few: all at once.
fn at_once(cases: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| cases.iter().for_each(|case| drop(scope.spawn(case))));
}

/// What falls silent takes the change back, wherever the gateway stands: in
/// either family, in a nexthop object, in one of several hops, in a table of
/// its own, behind an IPv4 route by IPv6, among many.
#[test]
fn a_gateway_that_falls_silent() {
    let (v4, v6) = ("192.0.2.1", "2001:db8::1");
    at_once(&[
        &|| refused("silent-4", "", "ether type arp", &[v4], &[v6]),
        &|| refused("silent-6", "", "ether type ip6", &[v6], &[v4]),
        &|| refused("silent-46", "", "ether type { arp, ip6 }", &[v4, v6], &[]),
        &|| {
            let link_local = "ip -6 route replace default via fe80::1 dev eth0";
            refused("silent-ll", link_local, "ether type ip6", &["fe80::1"], &[v4]);
        },
        &|| {
            let more = "
                until ip nexthop add id 7 via 192.0.2.2 dev eth0 2>/dev/null; do sleep 0.05; done
                ip route add 10.7.0.0/16 nhid 7
                ip route replace default nexthop via 192.0.2.1 nexthop via 192.0.2.3
                ip route add default via 192.0.2.4 table 77
                ip rule add from 192.0.2.21 lookup 77";
            let silent = ["192.0.2.2", "192.0.2.3", "192.0.2.4"];
            refused(
                "everywhere",
                more,
                "arp saddr ip != 192.0.2.1",
                &silent,
                &[v4, v6],
            );
        },
        &|| {
            let other = "
                ip -6 route del default
                ip route replace default via inet6 fe80::2 dev eth0";
            refused("other-family", other, "ether type ip6", &["fe80::2"], &[]);
        },
        &of_many_gateways_those_of_the_default_routes_are_asked,
        &down_is_taken_back_too,
    ]);
}

/// More gateways than are asked: those of the default routes are among them,
/// though they have the highest addresses.
fn of_many_gateways_those_of_the_default_routes_are_asked() {
    let more = "
        for i in $(seq 40); do ip route add 10.0.$i.0/24 via 192.0.2.$((100 + i)); done
        ip route replace default via 192.0.2.201
        ip -6 route replace default via 2001:db8::ffff";
    let victim = Victim::new("many", &format!("{ORDINARY}\n{more}"));
    script_in(
        &victim.host.lan,
        "for i in $(seq 101 140) 201; do ip addr add 192.0.2.$i/24 dev lan0; done
         ip addr add 2001:db8::ffff/64 dev lan0 nodad",
    );
    deaf_by_bridge(&victim, "input", "arp saddr ip 192.0.2.201");
    victim
        .host
        .sh("nft add rule bridge fabric input ether type ip6 drop");
    let up = victim.host.vmbr(&["up", "eth0"]);
    assert_taken_back(&victim, &up, &["192.0.2.201", "2001:db8::ffff"]);
    victim.host.sh("nft delete table bridge fabric");
    victim.bring_to(Whole::Bridge).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

/// Questions about the two gateways that have come to the router.
fn questions(victim: &Victim) -> u64 {
    let listed = script_in(&victim.host.lan, "nft -j list table netdev seen");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let objects = listed["nftables"].as_array().unwrap();
    let counters = objects
        .iter()
        .filter_map(|object| object["counter"]["packets"].as_u64());
    counters.sum()
}

#[test]
fn without_verification_nobody_is_asked() {
    let victim = Victim::new("no-verify", ORDINARY);
    script_in(
        &victim.host.lan,
        "nft add table netdev seen
         nft add counter netdev seen four
         nft add counter netdev seen six
         nft 'add chain netdev seen in { type filter hook ingress device lan0 priority 0; }'
         nft add rule netdev seen in arp operation request arp daddr ip 192.0.2.1 counter name four
         nft add rule netdev seen in ip6 daddr ff02::1:ff00:1 icmpv6 type nd-neighbor-solicit counter name six",
    );
    victim.bring_to(Whole::Bridge).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
    // Pings of these tests may ask, too: all is known before.
    let before = questions(&victim);
    assert!(before >= 8, "a verification sends {before} questions");
    for args in [["up", "eth0", "--no-verify"], ["down", "br0", "--no-verify"]] {
        victim.vmbr(&args, &[0]).unwrap();
    }
    assert_eq!(questions(&victim), before);

    // Not even where it would fail.
    deaf_by_bridge(&victim, "input", "ether type { arp, ip6 }");
    let up = victim.vmbr(&["up", "eth0", "--no-verify"], &[0]).unwrap();
    assert!(!up.stderr.contains("gateway"), "{up:?}");
    assert!(victim.host.state().has_link("br0"));
    victim.vmbr(&["down", "--no-verify"], &[0]).unwrap();
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// A gateway that does not answer before is told of, and asks for nothing.
#[test]
fn who_was_silent_may_stay_so() {
    let mut victim = Victim::new("silent-before", ORDINARY);
    victim.host.sh("ip route add 203.0.113.0/24 via 192.0.2.66
         ip -6 route add 2001:db8:9::/48 via fe80::66 dev eth0");
    victim.before = victim.host.state();
    for args in [["up", "eth0"], ["down", "br0"]] {
        let ended = victim.vmbr(&args, &[0]).unwrap();
        let warning = ended
            .stderr
            .lines()
            .find(|line| line.starts_with("warning: no answer"));
        let warning = warning.unwrap_or_else(|| panic!("{ended:?}"));
        for silent in ["192.0.2.66", "fe80::66"] {
            assert!(warning.contains(silent), "{ended:?}");
        }
        assert!(!warning.contains("192.0.2.1,"), "{ended:?}");
    }
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
    // All are silent, and down is as possible as up.
    victim.bring_to(Whole::Bridge).unwrap();
    silence(&victim);
    victim.vmbr(&["down"], &[0]).unwrap();
    script_in(&victim.host.lan, "nft delete table netdev fabric");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// The router hears nothing from now on.
fn silence(victim: &Victim) {
    script_in(
        &victim.host.lan,
        "nft add table netdev fabric
         nft 'add chain netdev fabric in { type filter hook ingress device lan0 priority 0; }'
         nft add rule netdev fabric in ether type { arp, ip6 } drop",
    );
}

/// A `down` after which the gateways are silent leaves the bridge.
fn down_is_taken_back_too() {
    let victim = Victim::new("down", ORDINARY);
    victim.bring_to(Whole::Bridge).unwrap();
    let calls = victim.changes_of(&["down", "br0"]);
    victim.bring_to(Whole::Bridge).unwrap();
    // From the moment before the network moves the router is silent.
    let flip = calls.iter().position(|call| call.starts_with("netlink flip"));
    let flip = flip.unwrap_or_else(|| panic!("{calls:?}"));
    let mut tracee = victim.start(&["down", "br0"]);
    tracee.go_to(flip + 1, Moment::Before).unwrap();
    silence(&victim);
    let ended = waitpid(tracee.release(None), None).unwrap();
    let said = victim.said();
    assert!(matches!(ended, WaitStatus::Exited(_, 1)), "{ended:?}: {said}");
    assert!(said.contains("192.0.2.1, 2001:db8::1"), "{said}");
    assert_eq!(victim.whole(), Ok(Whole::Bridge), "{said}");
    assert_eq!(status(&victim)["bridges"][0]["state"], "settled");
    script_in(&victim.host.lan, "nft delete table netdev fabric");
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));
    victim.bring_to(Whole::Nic).unwrap();
}

/// What a hostile or broken neighbour says all the time, none of it an answer
/// to a question of this host.
fn noise(victim: &Victim) -> Vec<Vec<u8>> {
    let router = mac_of(&victim.host.lan, "lan0");
    let host = mac(host::MAC);
    let stranger = mac("02:00:00:00:00:99");
    let router_6: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let host_6: Ipv6Addr = "2001:db8::21".parse().unwrap();
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let other = Ipv4Addr::new(192, 0, 2, 50);
    let arps = [
        // As a router does that took over; and what a switch floods.
        (BROADCAST, arp(2, (router, ROUTER), (BROADCAST, ROUTER))),
        (BROADCAST, arp(2, (router, ROUTER), (stranger, other))),
        // A wrong operation, a wrong sender.
        (host, arp(1, (router, ROUTER), (host, HOST))),
        (host, arp(7, (router, ROUTER), (host, HOST))),
        (host, arp(2, (router, other), (host, HOST))),
        // Cut off, of another hardware, of no length at all.
        (host, arp(2, (router, ROUTER), (host, HOST))[..20].to_vec()),
        (
            host,
            [&[0, 6], &arp(2, (router, ROUTER), (host, HOST))[2..]].concat(),
        ),
        (host, Vec::new()),
    ];
    // Unsolicited, to all and to this host; of another; cut off.
    let advertisements = [
        (ALL_NODES, advertisement(all_nodes, router_6, 0xa0, router)),
        (host, advertisement(host_6, router_6, 0xa0, router)),
        (
            host,
            advertisement(host_6, "2001:db8::50".parse().unwrap(), 0xe0, router),
        ),
        (host, advertisement(host_6, router_6, 0xe0, router)[..60].to_vec()),
        (host, Vec::new()),
    ];
    let arps = arps.map(|(to, packet)| frame(to, router, ARP, &packet));
    let advertisements = advertisements.map(|(to, packet)| frame(to, router, IPV6, &packet));
    arps.into_iter().chain(advertisements).collect()
}

/// The fabric drops what this host says by bridge, but what the gateways tell
/// everyone comes through.
#[test]
fn what_is_no_answer() {
    at_once(&[
        &|| {
            let victim = Victim::new("noise", ORDINARY);
            deaf_by_bridge(&victim, "output", "ether type { arp, ip6 }");
            let sender = Sender::on(&victim.host.lan, "lan0");
            let up = sender.repeat(&noise(&victim), || victim.host.vmbr(&["up", "eth0"]));
            assert_taken_back(&victim, &up, &["192.0.2.1", "2001:db8::1"]);
        },
        // Among it the answers are heard. Nor is it taken for one before: it
        // would be missed after.
        &|| {
            let victim = Victim::new("noise-before", ORDINARY);
            let sender = Sender::on(&victim.host.lan, "lan0");
            sender.repeat(&noise(&victim), || {
                for args in [["up", "eth0"], ["down", "br0"]] {
                    let ended = victim.host.vmbr(&args);
                    assert_eq!(ended.code(), 0, "{ended:?}");
                    assert!(!ended.stderr.contains("no answer"), "{ended:?}");
                }
                silence(&victim);
                let up = victim.host.vmbr(&["up", "eth0"]);
                assert_eq!(up.code(), 0, "{up:?}");
                let told = "no answer from the gateway 192.0.2.1, 2001:db8::1";
                assert!(up.stderr.contains(told), "{up:?}");
            });
        },
    ]);
}

/// More frames than anyone reads do not keep `up` from its verdict.
#[test]
fn a_flood_delays_nothing() {
    let victim = Victim::new("flood", ORDINARY);
    deaf_by_bridge(&victim, "output", "ether type { arp, ip6 }");
    let router = mac_of(&victim.host.lan, "lan0");
    let gratuitous = arp(2, (router, ROUTER), (BROADCAST, ROUTER));
    let flood = Flood::of(
        &victim.host.lan,
        "lan0",
        &frame(BROADCAST, router, ARP, &gratuitous),
    );
    let begun = Instant::now();
    let up = victim.host.vmbr(&["up", "eth0"]);
    let taken = begun.elapsed();
    drop(flood);
    assert!(taken < VERDICT, "{} ms: {up:?}", taken.as_millis());
    // Which gateway was heard in the flood before, is chance.
    assert!(matches!(up.code(), 0 | 1), "{up:?}");
    assert_eq!(
        victim.whole(),
        Ok(if up.code() == 1 { Whole::Nic } else { Whole::Bridge }),
        "{up:?}"
    );
}
