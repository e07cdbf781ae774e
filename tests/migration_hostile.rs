//! What else hangs on a NIC, and what happens to it in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};

use common::strike::Tracee;
use common::{run, wait_until};
use host::{Host, STATIC, State, V4, V6};

/// Packets that a filter or a queueing discipline of eth0 has seen.
fn packets(host: &Host, args: &[&str]) -> u64 {
    let shown = run(host.ns.command("tc").args(["-s"]).args(args));
    let text = shown.stdout;
    let word = text
        .split("Sent ")
        .nth(1)
        .unwrap_or_else(|| panic!("{args:?}: {text}"));
    word.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// They stay on the NIC and go on to see what passes it.
#[test]
fn a_queueing_discipline_and_filters_stay() {
    let host = Host::new(
        "tc",
        &format!(
            "{STATIC}
             ip link add sink0 type bridge
             ip link set sink0 up
             tc qdisc add dev eth0 root handle 1: tbf rate 100mbit burst 64kb latency 50ms
             tc qdisc add dev eth0 clsact
             tc filter add dev eth0 ingress protocol all pref 7 u32 match u32 0 0 action mirred egress mirror dev sink0
             tc filter add dev eth0 egress protocol all pref 7 u32 match u32 0 0 action mirred egress mirror dev sink0"
        ),
    );
    let kinds: [&[&str]; 3] = [
        &["qdisc", "show", "dev", "eth0", "root"],
        &["filter", "show", "dev", "eth0", "ingress"],
        &["filter", "show", "dev", "eth0", "egress"],
    ];
    let told = || {
        let all = run(host.ns.command("sh").args([
            "-ec",
            "tc qdisc show dev eth0; tc filter show dev eth0 ingress; tc filter show dev eth0 egress",
        ]));
        assert_eq!(all.code(), 0, "{all:?}");
        all.stdout
    };
    let before = told();
    for args in [["up", "eth0"], ["down", "br0"]] {
        let ended = host.vmbr(&args);
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert_eq!(told(), before, "after {args:?}");
        let seen: Vec<u64> = kinds.iter().map(|args| packets(&host, args)).collect();
        host.ping_both_ways(V4, V6);
        for (args, seen) in kinds.iter().zip(seen) {
            let now = packets(&host, args);
            assert!(now > seen, "tc {args:?} saw {seen} packets, and then {now}");
        }
    }
}

/// Whether one of the two whole states stands.
fn whole(before: &State, now: &State) -> Vec<String> {
    if now.has_link("br0") {
        before.not_moved(now, "eth0", "br0")
    } else {
        before.changes(now)
    }
}

/// The cable is out and in while `up` is at work: it is done or was not, and
/// the host is reached.
#[test]
fn a_carrier_that_comes_and_goes_in_the_middle() {
    const ROUNDS: u32 = 12;
    let host = Host::new("flap", STATIC);
    host.vmbr(&["up", "eth0"]).code();
    host.vmbr(&["down"]).code();
    let before = host.state();
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(u64::from(round) * 7));
                host.lan.ip(&["link", "set", "lan0", "down"]);
                host.lan.ip(&["link", "set", "lan0", "up"]);
                for a in ["2001:db8::1/64", "2001:db8::2/64", "fe80::1/64", "fe80::2/64"] {
                    run(host
                        .lan
                        .command("ip")
                        .args(["addr", "add", a, "dev", "lan0", "nodad"]));
                }
            });
            let ended = host.vmbr(&["up", "eth0"]);
            assert!([0, 1].contains(&ended.code()), "round {round}: {ended:?}");
        });
        host.settle();
        host.ping_both_ways(V4, V6);
        let mut found = Vec::new();
        let stands = || {
            found = whole(&before, &host.state());
            found.is_empty()
        };
        let whole = wait_until(Duration::from_secs(5), stands);
        assert!(whole, "round {round}: {found:?}");
        let down = host.vmbr(&["down", "br0"]);
        assert_eq!(down.code(), 0, "round {round}: {down:?}");
        host.ping_both_ways(V4, V6);
        before.assert_same(&host.state());
    }
}

/// The NIC is set down and up while a change is at work, by someone or by its
/// driver. The kernel takes its routes and its IPv6 addresses then, and gives
/// none of them back: vmbr does, which has them written down.
#[test]
fn a_nic_that_goes_down_and_up_in_the_middle() {
    for (args, moments) in [
        (["up", "eth0"], ["netlink new link", "netlink flip"]),
        (["down", "br0"], ["netlink new route", "netlink flip"]),
    ] {
        let host = Host::new("down-and-up", STATIC);
        host.vmbr(&["up", "eth0"]).ok();
        host.vmbr(&["down"]).ok();
        let before = host.state();
        for kind in moments {
            if args[0] == "down" {
                host.vmbr(&["up", "eth0"]).ok();
            }
            let log = host.records().join("said");
            let state_dir = host.records().to_str().unwrap();
            let program = [
                env!("CARGO_BIN_EXE_vmbr"),
                "--state-dir",
                state_dir,
                args[0],
                args[1],
            ];
            let mut tracee = Tracee::start(&host.ns, &log, &program);
            while !tracee.next_change().unwrap().starts_with(kind) {}
            host.sh("ip link set eth0 down; ip link set eth0 up");
            let ended = waitpid(tracee.release(None), None).unwrap();
            let said = fs::read_to_string(&log).unwrap();
            let WaitStatus::Exited(_, code @ (0 | 1)) = ended else {
                panic!("{kind}: {ended:?}: {said}");
            };
            host.settle();
            host.ping_both_ways(V4, V6);
            let found = whole(&before, &host.state());
            assert!(found.is_empty(), "{args:?} at {kind}: {found:?}; {said}");
            let bridged = host.ns.link("br0").is_some();
            assert_eq!(
                bridged,
                (args[0] == "up") == (code == 0),
                "{args:?} at {kind}: {said}"
            );
            if bridged {
                host.vmbr(&["down"]).ok();
            }
        }
    }
}

/// Strict reverse path checks with a second NIC's own default route, and ARP
/// that answers for the NIC's own addresses only.
#[test]
fn strict_settings_beside_a_second_nic() {
    for promote in ["0", "1"] {
        let host = Host::new(
            "strict",
            &format!(
                "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1 net.ipv4.conf.eth1.rp_filter=1
                 sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.eth0.arp_ignore=2
                 sysctl -qw net.ipv4.conf.eth0.promote_secondaries={promote}
                 {STATIC}
                 ip link set eth1 up
                 ip addr add 192.0.2.22/24 dev eth0
                 ip addr add 198.51.100.21/24 dev eth1
                 ip addr add 2001:db8:1::21/64 dev eth1 nodad
                 ip route add default via 198.51.100.1 metric 50
                 ip -6 route add default via 2001:db8:1::1 metric 50"
            ),
        );
        let before = host.state();
        for args in [["up", "eth0"], ["down", "br0"]] {
            // What was learned must not answer for it.
            host.lan.ip(&["neigh", "flush", "dev", "lan0"]);
            let ended = host.vmbr(&args);
            assert_eq!(ended.code(), 0, "{ended:?}");
            host.lan.ip(&["neigh", "flush", "dev", "lan0"]);
            host.ping_both_ways(V4, V6);
            assert!(host::ping(&host.ns, "198.51.100.1") && host::ping(&host.lan1, "198.51.100.21"));
            let asked = run(host
                .lan
                .command("ping")
                .args(["-c", "1", "-W", "1", "198.51.100.21"]));
            assert!(!asked.status.success(), "the strict check let through: {asked:?}");
        }
        before.assert_same(&host.state());
    }
}

/// A program that has joined a group on a device, and writes what it hears.
struct Listener(Child, PathBuf);

impl Listener {
    fn start(host: &Host, dev: &str) -> Self {
        let heard = host.records().join(format!("heard-{dev}"));
        let socket = format!("UDP4-RECV:5007,reuseaddr,ip-add-membership=239.0.0.7:{dev}");
        let mut command = host.ns.command("socat");
        command.args(["-u", &socket, &format!("CREATE:{}", heard.display())]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let joined = || host.ns.ip(&["maddr", "show", "dev", dev]).contains("239.0.0.7");
        assert!(wait_until(Duration::from_secs(5), joined), "socat did not join");
        Self(child, heard)
    }

    /// Whether it hears what the LAN sends to the group.
    fn hears(&self, host: &Host) -> bool {
        let length = || fs::metadata(&self.1).map_or(0, |m| m.len());
        let before = length();
        let send = "for i in 1 2 3; do echo word | socat -u - UDP4-SENDTO:239.0.0.7:5007,ip-multicast-if=192.0.2.1; done";
        host::script_in(&host.lan, send);
        wait_until(Duration::from_secs(1), || length() > before)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A membership cannot be moved: `up` says whose frames are not heard, and
/// what it advises helps; after `down` all is as it was.
#[test]
fn multicast_groups_are_told_of() {
    let host = Host::new("multicast", STATIC);
    let quiet = host.vmbr(&["up", "eth0", "--dry-run"]);
    assert!(!quiet.stdout.contains("multicast"), "{quiet:?}");
    let first = Listener::start(&host, "eth0");
    assert!(first.hears(&host), "not even before");

    let up = host.vmbr(&["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(up.stderr.contains("239.0.0.7"), "{up:?}");
    assert!(
        !first.hears(&host),
        "the kernel has changed: the warning is not needed"
    );
    let second = Listener::start(&host, "br0");
    assert!(second.hears(&host), "what up advises does not help");
    drop(second);

    let down = host.vmbr(&["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(first.hears(&host), "the membership on eth0 is gone");
}
