//! The network does not stand still while a bridge carries it: routers
//! advertise, people add addresses and routes, and guests join.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/router.rs"]
mod router;

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::{Ended, Namespace, run, wait_until};
use host::{Host, MAC, ping, script_in};
use router::Router;

/// How long the kernel and the programs may take for what they do at once.
const SOON: Duration = Duration::from_secs(6);
/// How long a default route that is there twice may stay so.
const ONE_DEFAULT: Duration = Duration::from_secs(10);

const STATIC: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip addr add 2001:db8::21/64 dev eth0
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1";

/// The addresses of a device that a router's advertisement made.
fn learned_addresses(host: &Host, dev: &str) -> Vec<Value> {
    let all = host
        .ns
        .json(&["-6", "addr", "show", "dev", dev, "scope", "global"]);
    let list = |link: &Value| link["addr_info"].as_array().cloned().unwrap_or_default();
    let all = all.as_array().unwrap().iter().flat_map(list);
    all.filter(|a| a["dynamic"] == true && a["tentative"] != true)
        .collect()
}

/// The default routes of the host that an advertisement made, on any device.
fn learned_defaults(host: &Host) -> Vec<Value> {
    let all = host.ns.json(&["-6", "route", "show", "default", "proto", "ra"]);
    all.as_array().unwrap().clone()
}

/// Waits for exactly one learned default route, and that one on `dev`.
fn one_default_on(host: &Host, dev: &str) {
    let one = || {
        let all = learned_defaults(host);
        all.len() == 1 && all[0]["dev"] == dev && all[0]["metric"] == 1024
    };
    assert!(
        wait_until(ONE_DEFAULT, one),
        "not one default on {dev}: {:?}",
        learned_defaults(host)
    );
}

/// The one learned address of `dev`, and the seconds it is valid.
fn learned_address(host: &Host, dev: &str) -> (String, u64) {
    let all = learned_addresses(host, dev);
    assert_eq!(all.len(), 1, "{dev}: {all:?}");
    let valid = all[0]["valid_life_time"].as_u64().unwrap();
    (all[0]["local"].as_str().unwrap().to_owned(), valid)
}

/// Waits until an advertisement raises the time that the address has left.
fn renewed(host: &Host, dev: &str, address: &str) {
    let mut lowest = u64::MAX;
    let mut seen = Vec::new();
    let rises = || {
        let (now, valid) = learned_address(host, dev);
        assert_eq!(now, address, "{dev} has made itself another address");
        if seen.last() != Some(&valid) {
            seen.push(valid);
        }
        let rose = valid > lowest;
        lowest = lowest.min(valid);
        rose
    };
    assert!(
        wait_until(2 * SOON, rises),
        "no advertisement renewed {address} on {dev}: {seen:?}"
    );
}

fn assert_ok(ended: &Ended) {
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// Asks until the answer is yes, for a bounded time.
fn reaches(host: &Host, to: &str) {
    assert!(
        wait_until(SOON, || ping(&host.ns, to)),
        "{to} does not answer the host"
    );
}

/// What a router's advertisements made moves, and the next ones renew it: the
/// same address and one default route. `settings` come before the NIC is up.
fn advertisements_go_on(hint: &str, settings: &str) {
    let script = format!("{settings}\nip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0");
    let host = Host::new(hint, &script);
    let router = Router::start(&host);
    let configured = || learned_addresses(&host, "eth0").len() == 1 && learned_defaults(&host).len() == 1;
    assert!(
        wait_until(2 * SOON, configured),
        "eth0 does not configure itself: {}{}",
        host.ns.ip(&["-6", "addr"]),
        router.log()
    );
    let (address, _) = learned_address(&host, "eth0");
    assert!(address.starts_with("2001:db8:a:"), "{address}");
    one_default_on(&host, "eth0");
    let way = || {
        reaches(&host, "2001:db8:a::1");
        // By the default route: no prefix of the host has this one.
        reaches(&host, "2001:db8::1");
        assert!(
            wait_until(SOON, || ping(&host.lan, &address)),
            "the LAN does not reach {address}"
        );
    };
    way();

    assert_ok(&host.vmbr(&["up", "eth0"]));
    assert_eq!(learned_address(&host, "br0").0, address);
    assert_eq!(learned_addresses(&host, "eth0"), Vec::<Value>::new());
    assert!(learned_defaults(&host).iter().any(|r| r["dev"] == "br0"));
    way();
    one_default_on(&host, "br0");
    renewed(&host, "br0", &address);
    way();
    one_default_on(&host, "br0");
    assert_eq!(learned_addresses(&host, "eth0"), Vec::<Value>::new());

    assert_ok(&host.vmbr(&["down"]));
    assert!(host.ns.link("br0").is_none());
    assert_eq!(learned_address(&host, "eth0").0, address);
    way();
    one_default_on(&host, "eth0");
    renewed(&host, "eth0", &address);
    way();
    one_default_on(&host, "eth0");
}

#[test]
fn router_advertisements_go_on() {
    advertisements_go_on("router-advertisements", "");
}

/// A host that forwards believes routers only with accept_ra=2.
#[test]
fn router_advertisements_go_on_where_the_host_forwards() {
    advertisements_go_on(
        "ra-forwarding",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_ra=2",
    );
}

/// The kernel makes addresses from a secret; the bridge would make others
/// without it.
#[test]
fn router_advertisements_go_on_with_a_stable_secret() {
    advertisements_go_on(
        "ra-secret",
        "sysctl -qw net.ipv6.conf.eth0.stable_secret=2001:db8::5ec1:e70f",
    );
}

/// On the way the kernel makes no link-local address; an advertisement that
/// comes then must not find a device that makes addresses from its MAC.
#[test]
fn an_advertisement_on_the_way_makes_no_other_address() {
    let host = Host::new(
        "ra-on-the-way",
        "sysctl -qw net.ipv6.conf.eth0.stable_secret=2001:db8::5ec1:e70f
         ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0",
    );
    let router = Router::start_hasty(&host);
    let configured = || learned_addresses(&host, "eth0").len() == 1 && learned_defaults(&host).len() == 1;
    assert!(wait_until(2 * SOON, configured), "{}", router.log());
    let (address, _) = learned_address(&host, "eth0");
    for (words, dev) in [(["up", "eth0"], "br0"), (["down", "br0"], "eth0")] {
        // All of it takes longer than the router rests, one look does not.
        let mut slowed = host.ns.command("strace");
        slowed.args(["-qq", "-o", "/dev/null", "-e", "trace=sendto"]);
        slowed.args(["-e", "inject=sendto:delay_exit=10000"]);
        slowed.arg(env!("CARGO_BIN_EXE_vmbr")).arg("--state-dir");
        slowed.arg(host.records()).args(words);
        assert_ok(&run(&mut slowed));
        let text = host
            .ns
            .ip(&["-6", "-o", "addr", "show", "dev", dev, "scope", "global"]);
        assert_eq!(text.lines().count(), 1, "{dev}: {text}");
        assert!(text.contains(&format!(" {address}/64 ")), "{dev}: {text}");
    }
}

#[test]
fn router_advertisements_go_on_with_a_random_secret() {
    advertisements_go_on("ra-random", "sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=3");
}

#[test]
fn what_is_added_meanwhile_is_kept() {
    let host = Host::new("added", STATIC);
    assert_ok(&host.vmbr(&["up", "eth0"]));
    host.sh("ip addr add 192.0.2.77/24 dev br0
             ip addr add 2001:db8::77/64 dev br0 nodad
             ip route add 203.0.113.0/24 via 192.0.2.2
             ip -6 route add 2001:db8:77::/48 via 2001:db8::2");
    assert_ok(&host.vmbr(&["down", "br0"]));

    let state = host.state();
    let addresses = state.link("eth0")["addr_info"].as_array().unwrap();
    for wanted in ["192.0.2.21", "192.0.2.77", "2001:db8::21", "2001:db8::77"] {
        let there = addresses.iter().filter(|a| a["local"] == wanted).count();
        assert_eq!(there, 1, "{wanted}: {addresses:?}");
    }
    for (part, dst, via) in [
        ("route", "default", "192.0.2.1"),
        ("route", "203.0.113.0/24", "192.0.2.2"),
        ("route6", "default", "2001:db8::1"),
        ("route6", "2001:db8:77::/48", "2001:db8::2"),
    ] {
        let routes = state.part(part).as_array().unwrap();
        let is = |r: &&Value| r["dst"] == dst && r["gateway"] == via && r["dev"] == "eth0";
        assert_eq!(routes.iter().filter(is).count(), 1, "{dst}: {routes:?}");
    }
    for (v4, v6) in [("192.0.2.21", "2001:db8::21"), ("192.0.2.77", "2001:db8::77")] {
        host.ping_both_ways(Some(v4), Some(v6));
    }
}

#[test]
fn a_guest_with_a_lower_mac_leaves_the_bridges() {
    let host = Host::new("lower-mac", STATIC);
    assert_ok(&host.vmbr(&["up", "eth0"]));
    // Lower than the NIC's: an unpinned bridge would take it.
    host.sh("ip tuntap add dev tap0 mode tap
             ip link set tap0 address 00:00:5e:00:53:01 master br0
             ip link set tap0 up");
    assert_eq!(host.ns.link("tap0").unwrap()["master"], "br0");
    assert_eq!(host.ns.link("br0").unwrap()["address"], MAC);
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));

    // A guest is not cut off unasked.
    let refused = host.vmbr(&["down"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("tap0"), "{refused:?}");
    assert_eq!(host.ns.link("eth0").unwrap()["master"], "br0");

    host.sh("ip link del tap0");
    assert_eq!(host.ns.link("br0").unwrap()["address"], MAC);
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    assert_ok(&host.vmbr(&["down"]));
}

/// An echo request every two milliseconds.
struct Echoes(Child);

impl Echoes {
    fn start(ns: &Namespace, from: &str, to: &str) -> Self {
        let mut command = ns.command("ping");
        command.args(["-n", "-i", "0.002", "-I", from, to]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The requests that were not answered, and how many were. What is under
    /// way at the end is not counted.
    fn lost(self) -> (Vec<u32>, usize) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        let answered: BTreeSet<u32> = text.lines().filter_map(number).collect();
        let last = answered.last().copied().unwrap_or(0);
        let lost = (1..last).filter(|number| !answered.contains(number));
        (lost.collect(), answered.len())
    }
}

/// `up` and `down` lose at most one packet of those that take the default
/// routes, each way and in each family. The routes go by nexthop objects, which
/// move with the flip.
#[test]
fn default_routes_by_nexthop_objects_lose_at_most_one_packet() {
    let host = Host::new(
        "loss-objects",
        "ip link set eth0 up
         ip addr add 192.0.2.21/24 brd + dev eth0
         ip addr add 2001:db8::21/64 dev eth0 nodad
         until ip nexthop add id 1 via 192.0.2.1 dev eth0 2>/dev/null; do sleep 0.05; done
         ip nexthop add id 6 via 2001:db8::1 dev eth0
         ip nexthop add id 16 group 6
         ip route add default nhid 1
         ip -6 route add default nhid 16",
    );
    let before = host.state();
    script_in(
        &host.lan,
        "ip addr add 203.0.113.1/32 dev lo; ip addr add 2001:db8:ff::1/128 dev lo nodad",
    );
    let ends = [("192.0.2.21", "203.0.113.1"), ("2001:db8::21", "2001:db8:ff::1")];
    for args in [&["up", "eth0"][..], &["down"]] {
        let mut echoes = Vec::new();
        for (near, far) in ends {
            reaches(&host, far);
            echoes.push((format!("{near} to {far}"), Echoes::start(&host.ns, near, far)));
            echoes.push((format!("{far} to {near}"), Echoes::start(&host.lan, far, near)));
        }
        thread::sleep(Duration::from_millis(200));
        let ended = host.vmbr(args);
        // A neighbour entry that cannot be confirmed takes a second to fail.
        thread::sleep(Duration::from_millis(1200));
        assert_ok(&ended);
        for (way, echoes) in echoes {
            let (lost, answered) = echoes.lost();
            println!("{args:?}: {way}: lost {lost:?}, answered {answered}");
            assert!(answered > 200, "{args:?}: {way}: only {answered} were answered");
            assert!(lost.len() <= 1, "{args:?}: {way}: lost {lost:?}");
        }
    }
    before.assert_same(&host.state());
}
