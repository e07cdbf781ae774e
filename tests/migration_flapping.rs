//! The host's network changes while vmbr reads and moves it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};

use common::strike::Tracee;
use common::{Ended, Namespace, run, wait_until};
use host::{Host, STATIC, State, V4, V6};

const UP: &[&str] = &["up", "eth0"];
const DOWN: &[&str] = &["down"];

/// The cable is out and in.
const CARRIER: &str = "
    ip link set lan0 down; sleep 0.005
    ip link set lan0 up; sleep 0.005";

/// What changes a network again and again, until it is dropped.
struct Flapper(Child, PathBuf);

impl Flapper {
    fn start(host: &Host, ns: &Namespace, round: &str) -> Self {
        let stop = host.records().join("stop");
        let script = format!("while [ ! -e {} ]; do {round}\ndone 2>/dev/null", stop.display());
        let mut command = ns.command("sh");
        let child = command
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, stop)
    }
}

/// A round in which routes of both families come and go, without a rest and in
/// one process each; those that are `there` are so in the end. Whoever does so
/// names no device where there is a gateway: they are put where the network is.
fn routes_come_and_go(host: &Host, there: bool, v4: &[String], v6: &[String]) -> String {
    let batch = |name: &str, routes: &[String]| {
        let lines = |verb: &str| -> String {
            routes
                .iter()
                .map(|route| format!("route {verb} {route}\n"))
                .collect()
        };
        let order = if there { ["del", "add"] } else { ["add", "del"] };
        let file = host.records().join(name);
        std::fs::write(&file, order.map(lines).concat().repeat(20)).unwrap();
        format!("ip {name} -force -batch {}\n", file.display())
    };
    batch("-4", v4) + &batch("-6", v6)
}

fn default_routes(host: &Host) -> String {
    let v4 = ["default via 192.0.2.1".to_owned()];
    let v6 = ["default via 2001:db8::1".to_owned()];
    routes_come_and_go(host, true, &v4, &v6)
}

impl Drop for Flapper {
    /// Waits for the end of its round.
    fn drop(&mut self) {
        std::fs::write(&self.1, "").unwrap();
        self.0.wait().unwrap();
        std::fs::remove_file(&self.1).unwrap();
    }
}

/// Asserts that the whole network is where the status says that it is: moved
/// where `up` succeeded or `down` did not, else on the NIC.
fn assert_whole(host: &Host, before: &State, command: &str, ended: &Ended) {
    assert!([0, 1, 3].contains(&ended.code()), "{command}: {ended:?}");
    host.settle();
    let on_the_bridge = (command == "up") == (ended.code() == 0);
    let mut found = Vec::new();
    let stands = || {
        let now = host.state();
        found = if on_the_bridge {
            before.not_moved(&now, "eth0", "br0")
        } else {
            before.changes(&now)
        };
        found.is_empty()
    };
    let whole = wait_until(Duration::from_secs(5), stands);
    assert!(whole, "{command}: {found:?}\n{ended:?}");
    host.ping_both_ways(V4, V6);
}

fn assert_ok(ended: &Ended) {
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// `up`, then `down`, while a network flaps; each ends whole.
fn flaps(host: &Host, ns: &Namespace, round: &str, options: &[&str]) {
    let before = host.state();
    for (args, first) in [(UP, DOWN), (DOWN, UP)] {
        assert_ok(&host.vmbr(&[first, &["--no-verify"]].concat()));
        let flapper = Flapper::start(host, ns, round);
        thread::sleep(Duration::from_millis(50));
        let ended = host.vmbr(&[args, options].concat());
        drop(flapper);
        assert_whole(host, &before, args[0], &ended);
        if ended.code() == 3 {
            assert!(ended.stderr.contains("does not hold still"), "{ended:?}");
        }
    }
}

/// A change that rests on a host with its default routes, or without, would
/// be wrong a moment later.
#[test]
fn default_routes_that_come_and_go() {
    let host = Host::new("routes-flap", STATIC);
    flaps(&host, &host.ns, &default_routes(&host), &[]);
}

#[test]
fn a_carrier_that_comes_and_goes() {
    let host = Host::new("carrier-flap", STATIC);
    // What the LAN has stays, too.
    host.lan.set_sysctl("net/ipv6/conf/lan0/keep_addr_on_down", "1");
    flaps(&host, &host.lan, CARRIER, &["--no-verify"]);
}

/// One that is being configured is waited for.
#[test]
fn what_comes_to_rest_is_waited_for() {
    let host = Host::new("comes-to-rest", STATIC);
    let before = host.state();
    for args in [UP, DOWN] {
        let flapper = Flapper::start(&host, &host.ns, &default_routes(&host));
        let ended = thread::scope(|scope| {
            let ended = scope.spawn(|| host.vmbr(args));
            thread::sleep(Duration::from_millis(300));
            drop(flapper);
            ended.join().unwrap()
        });
        assert_ok(&ended);
        let now = host.state();
        let found = match args {
            UP => before.not_moved(&now, "eth0", "br0"),
            _ => before.changes(&now),
        };
        assert!(found.is_empty(), "{args:?}: {found:?}\n{ended:?}");
    }
}

/// Of many IPv6 routes the kernel leaves some out when others go while it
/// tells of them. Here another device's do: nobody's but that device's affair.
#[test]
fn many_routes_beside_a_third_devices_that_flap() {
    const MANY: u32 = 600;
    let host = Host::new(
        "torn-dumps",
        &format!("{STATIC}\nip link set eth1 up; ip addr add 2001:db8:1::21/64 dev eth1 nodad"),
    );
    let mut batch = String::new();
    for n in 0..MANY {
        writeln!(batch, "route add 2001:db8:a:{n:x}::/64 via 2001:db8::1").unwrap();
    }
    let file = host.records().join("batch");
    std::fs::write(&file, batch).unwrap();
    host.sh(&format!("ip -batch {}", file.display()));
    let flapping: Vec<String> = (0..40)
        .map(|n| format!("2001:db8:9:{n:x}::/64 dev eth1"))
        .collect();
    let round = routes_come_and_go(&host, false, &[], &flapping);
    flaps(&host, &host.ns, &round, &["--no-verify"]);
}

/// Asserts that the routes that someone added are where the network is.
fn assert_kept(host: &Host, command: &str, ended: &Ended) {
    let on = if (command == "up") == (ended.code() == 0) {
        "br0"
    } else {
        "eth0"
    };
    for (family, dst) in [("-4", "203.0.113.0/24"), ("-6", "2001:db8:77::/48")] {
        let routes = host.ns.json(&[family, "route", "show", dst]);
        let list = routes.as_array().unwrap();
        assert!(
            list.len() == 1 && list[0]["dev"] == on,
            "{command}: {dst} is lost: {routes}\n{ended:?}"
        );
    }
}

const ADD: &str = "
    ip route add 203.0.113.0/24 via 192.0.2.1
    ip -6 route add 2001:db8:77::/48 via 2001:db8::1";
const REMOVE: &str = "ip route del 203.0.113.0/24; ip -6 route del 2001:db8:77::/48";

/// The silent gateway is asked for a second; what is added meanwhile moves,
/// too.
#[test]
fn what_is_added_while_gateways_are_asked_moves() {
    let silent = STATIC.replace("default via 192.0.2.1", "default via 192.0.2.9");
    let host = Host::new("added-meanwhile", &silent);
    let asked = Instant::now();
    let ended = thread::scope(|scope| {
        let up = scope.spawn(|| host.vmbr(UP));
        thread::sleep(Duration::from_millis(500));
        host.sh(ADD);
        up.join().unwrap()
    });
    assert_ok(&ended);
    let said = ended.stderr.matches("no answer from the gateway").count();
    assert_eq!(
        said,
        2,
        "nothing was added in time: {:?} {ended:?}",
        asked.elapsed()
    );
    assert_kept(&host, "up", &ended);
}

/// What is added between the plan and the flip moves, too.
#[test]
fn what_is_added_before_the_flip_moves() {
    let host = Host::new("before-the-flip", STATIC);
    let vmbr = env!("CARGO_BIN_EXE_vmbr");
    let records = host.records().to_str().unwrap().to_owned();
    let log = host.records().join("log");
    for command in ["up", "down"] {
        let program = [vmbr, "--state-dir", &records, command, "--no-verify"];
        let mut tracee = Tracee::start(&host.ns, &log, &program);
        // The new holder has the first address.
        while !tracee.next_change().unwrap().contains("address") {}
        host.sh(ADD);
        let end = waitpid(tracee.release(None), None).unwrap();
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}: {said}");
        let ended = run(&mut host.command(&["status"]));
        assert_kept(&host, command, &ended);
        host.sh(REMOVE);
    }
}
