//! Firewalls that know the uplink by its name: firewalld, ufw, nftables and
//! iptables, the real ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/machine.rs"]
mod machine;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::run;
use host::Host;
use machine::Machine;

const STATIC: &str =
    "ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0; ip route add default via 192.0.2.1";

fn host() -> (Host, Machine) {
    let host = Host::new("firewall", STATIC);
    let machine = Machine::with_bus(&host.ns);
    (host, machine)
}

fn firewalld(machine: &Machine) {
    machine.start("firewalld", &["--nofork", "--nopid"]);
    machine.until("firewall-cmd --state");
}

/// The zone of a device; empty where it has none of its own.
fn zone(machine: &Machine, device: &str) -> String {
    let ended = run(machine
        .command("firewall-cmd")
        .arg(format!("--get-zone-of-interface={device}")));
    if ended.status.success() {
        ended.stdout.trim().to_owned()
    } else {
        String::new()
    }
}

/// The LAN may reach the host's port 5070 in the zone `work` alone.
fn answers(host: &Host) -> bool {
    let script = "echo hello | socat -T 1 - TCP:192.0.2.21:5070,connect-timeout=2";
    run(host.lan.command("sh").args(["-c", script]))
        .stdout
        .contains("hello")
}

#[test]
fn the_bridge_gets_the_zone_of_the_uplink() {
    let (host, machine) = host();
    firewalld(&machine);
    machine
        .sh("firewall-cmd --zone=work --change-interface=eth0; firewall-cmd --zone=work --add-port=5070/tcp");
    machine.start("socat", &["TCP-LISTEN:5070,fork", "EXEC:cat"]);
    machine.until("grep -q :13CE /proc/net/tcp*");
    assert!(answers(&host), "before");
    let dry = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(
        dry.contains("\nfirewall-cmd --zone=work --add-interface=br0\n"),
        "{dry}"
    );
    assert!(!dry.contains("# warning"), "firewalld lets guests pass: {dry}");
    assert_eq!(zone(&machine, "br0"), "", "a dry run changes nothing");
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(
        up.stderr.contains("firewalld: br0 is in the zone work of eth0"),
        "{up:?}"
    );
    assert_eq!(zone(&machine, "br0"), "work");
    assert!(answers(&host), "on the bridge");
    let dry = machine.vmbr(&host, &["down", "--dry-run"]).ok();
    assert!(
        dry.contains("\nfirewall-cmd --zone=work --remove-interface=br0\n"),
        "{dry}"
    );
    machine.vmbr(&host, &["down"]).ok();
    assert_eq!(zone(&machine, "br0"), "", "down forgets it");
    assert_eq!(zone(&machine, "eth0"), "work");
    assert!(answers(&host), "after");
}

/// Answers what comes to port 5070.
const ECHO: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('192.0.2.21', 5070))
while True:
    s.sendto(*s.recvfrom(64))";

/// Asks that port, each time from another one of its own, so that the firewall
/// decides anew; until it is told to end. Says how many had no answer.
const ASK: &str = "
import resource, select, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
asked = []
print('begun', flush=True)
while len(asked) < 8000 and not select.select([sys.stdin], [], [], 0.003)[0]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(('192.0.2.21', 5070))
    try: s.send(b'hello')
    except OSError: pass
    asked.append(s)
time.sleep(0.5)
def silent(s):
    s.setblocking(False)
    try: return s.recv(64) != b'hello'
    except OSError: return True
print(len(asked), sum(map(silent, asked)))";

/// The zone is there before the network comes by the bridge, and until it no
/// longer does: a new connection is let in at any time.
#[test]
fn the_firewall_lets_in_all_the_way() {
    let (host, machine) = host();
    firewalld(&machine);
    machine
        .sh("firewall-cmd --zone=work --change-interface=eth0; firewall-cmd --zone=work --add-port=5070/udp");
    machine.start("python3", &["-c", ECHO]);
    machine.until("grep -q :13CE /proc/net/udp");
    let ask = |change: &dyn Fn()| -> (u32, u32) {
        let mut command = host.lan.command("python3");
        command
            .args(["-c", ASK])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut asking = command.spawn().unwrap();
        let mut said = BufReader::new(asking.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "begun");
        sleep(Duration::from_millis(300));
        change();
        sleep(Duration::from_millis(300));
        drop(asking.stdin.take());
        let counted = said.next().unwrap().unwrap();
        asking.wait().unwrap();
        let (asked, silent) = counted.split_once(' ').unwrap();
        (asked.parse().unwrap(), silent.parse().unwrap())
    };
    for args in [["up", "eth0"], ["down", "br0"]] {
        let (asked, silent) = ask(&|| drop(machine.vmbr(&host, &args).ok()));
        assert!(
            asked > 100 && silent <= 2,
            "{args:?}: {silent} of {asked} were not let in"
        );
    }
    // In no zone that lets them in, they are not.
    let (_, silent) = ask(&|| drop(machine.sh("firewall-cmd --zone=work --remove-port=5070/udp")));
    assert!(silent > 20, "{silent}: the firewall lets everyone in");
}

/// Nothing comes in by the bridge: `up` goes back, and the zone with it.
#[test]
fn a_rollback_forgets_the_zone() {
    let (host, machine) = host();
    firewalld(&machine);
    machine.sh("firewall-cmd --zone=work --change-interface=eth0");
    machine.sh("nft 'table bridge deaf { chain in { type filter hook input priority 0; drop; }; }'");
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 1, "{up:?}");
    assert!(up.stderr.contains("firewalld: br0 is in the zone work"), "{up:?}");
    assert_eq!(zone(&machine, "br0"), "", "{up:?}");
    assert_eq!(zone(&machine, "eth0"), "work");
}

#[test]
fn an_up_that_is_not_confirmed_forgets_the_zone() {
    let (host, machine) = host();
    firewalld(&machine);
    machine.sh("firewall-cmd --zone=work --change-interface=eth0");
    let up = machine.vmbr(&host, &["up", "eth0", "--confirm=1", "--no-verify"]);
    assert_eq!(up.code(), 1, "{up:?}");
    machine.until("! ip link show br0 2>/dev/null");
    machine.until("! firewall-cmd --get-zone-of-interface=br0");
    assert_eq!(zone(&machine, "eth0"), "work");
}

/// Neither has a zone of its own: nothing is to be done, nor undone.
#[test]
fn the_default_zone_is_the_bridges_anyway() {
    let (host, machine) = host();
    firewalld(&machine);
    assert_eq!(zone(&machine, "eth0"), "");
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(!up.stderr.contains("firewalld: br0"), "{up:?}");
    assert_eq!(zone(&machine, "br0"), "");
    machine.vmbr(&host, &["down"]).ok();
}

/// What the administrator has said of the bridge stays, before `up` and after.
#[test]
#[ignore = "ten seconds of changes of firewalld"]
fn a_zone_that_somebody_gave_the_bridge_is_not_vmbrs() {
    let (host, machine) = host();
    firewalld(&machine);
    machine
        .sh("firewall-cmd --zone=work --change-interface=eth0; firewall-cmd --zone=dmz --add-interface=br0");
    let said = machine.refused(&host);
    assert!(
        said.contains("firewalld has eth0 in the zone work and br0 in the zone dmz"),
        "{said}"
    );
    let remedy = "firewall-cmd --zone=work --change-interface=br0";
    assert!(said.contains(remedy), "{said}");
    machine.sh(remedy);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    machine.vmbr(&host, &["down"]).ok();
    assert_eq!(zone(&machine, "br0"), "work", "it was there before");
    machine.sh("firewall-cmd --zone=work --remove-interface=br0");
    machine.vmbr(&host, &["up", "eth0"]).ok();
    machine.sh("firewall-cmd --permanent --zone=work --add-interface=br0");
    machine.vmbr(&host, &["down"]).ok();
    assert_eq!(zone(&machine, "br0"), "work", "it is in the configuration");
}

/// firewalld stands still: up refuses within a second or two.
#[test]
fn a_firewalld_that_does_not_answer_is_refused() {
    let (host, machine) = host();
    firewalld(&machine);
    machine.sh("kill -STOP $(pgrep -f '[s]bin/firewalld')");
    let began = Instant::now();
    let said = machine.vmbr(&host, &["up", "eth0"]);
    let took = began.elapsed();
    assert_eq!(said.code(), 3, "{said:?}");
    assert!(
        said.stderr
            .contains("firewalld runs here, and it did not answer in time"),
        "{said:?}"
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn rules_of_ufw_are_refused_until_the_bridge_has_them() {
    let (host, machine) = host();
    // Its init script wants modules, and its log a kernel's.
    machine.sh(
        "ufw --force enable; ufw allow in on eth0 to any port 22 proto tcp; ufw allow 80/tcp; ufw status",
    );
    let said = machine.refused(&host);
    assert!(said.contains("ufw is active, and "), "{said}");
    let remedy = "ufw allow in on br0 from any to any port 22 proto tcp";
    assert!(said.contains(remedy), "{said}");
    machine.sh(remedy);
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    machine.vmbr(&host, &["down"]).ok();
    machine.sh("ufw delete allow in on br0 to any port 22 proto tcp; ufw --force disable");
    machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
}

/// Asserts what `up` says of a ruleset, one part for each rule that it is to
/// tell of; and that the commands it gives are taken, and then suffice.
fn told(ruleset: &str, expected: &[&str]) {
    let (host, machine) = host();
    machine.sh(&format!("nft '{ruleset}'"));
    let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    let lines: Vec<&str> = said
        .lines()
        .filter(|l| l.starts_with("# warning: nftables:"))
        .collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "no '{part}' in: {line}");
    }
    let commands: Vec<&str> = lines
        .iter()
        .filter_map(|l| Some(l.split_once("; run: ")?.1))
        .collect();
    if commands.len() == lines.len() && !lines.is_empty() {
        machine.sh(&commands.join("\n"));
        let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
        let left = machine.sh("nft list ruleset");
        assert!(!said.contains("nftables"), "{said}\n{left}");
        assert!(left.contains("br0"), "{left}");
    }
}

#[test]
fn rules_of_nftables_are_told_with_the_rewritten_rule() {
    told(
        "table inet filter { chain input { type filter hook input priority 0;
            iif eth0 tcp dport 22 accept
            iifname \"eth0\" udp dport 53 counter accept
            iifname != \"eth0\" drop
            iifname { \"lo\", \"eth0\" } accept
            iifname \"eth1\" drop
            iifname \"eth*\" tcp dport 25 drop
        }; }
        table ip nat { chain post { type nat hook postrouting priority 100; oifname \"eth0\" masquerade; }; }",
        &[
            "add rule inet filter input handle 2 iifname \"br0\" tcp dport 22 accept",
            "iifname \"br0\" udp dport 53 counter accept",
            "replace rule inet filter input",
            "replace rule inet filter input",
            "iifname \"br0\" tcp dport 25 drop",
            "oifname \"br0\" masquerade",
        ],
    );
}

#[test]
fn sets_of_nftables_are_told_with_the_element() {
    told(
        "table inet filter { set wan { type ifname; elements = { \"eth0\", \"ppp0\" }; }
            chain input { type filter hook input priority 0; iifname @wan drop; }; }",
        &["add element inet filter wan { \"br0\" }"],
    );
    // By its names it could be iptables' own, which shows it without the set.
    told(
        "table ip filter { set wan { type ifname; elements = { \"eth0\" }; }
            chain INPUT { type filter hook input priority 0; iifname @wan drop; }; }",
        &["add element ip filter wan { \"br0\" }"],
    );
    told(
        "table inet filter { chain wan { }
            chain input { type filter hook input priority 0;
            iifname vmap { \"eth0\" : jump wan, \"lo\" : accept }
            iifname . tcp dport { \"eth0\" . 22, \"lo\" . 23 } accept
        }; }",
        &[
            "write it anew with br0 beside eth0",
            "write it anew with br0 beside eth0",
        ],
    );
}

/// Hooks on the device see what they saw; the bridge family begins to see.
#[test]
fn rules_beneath_the_bridge_are_another_matter() {
    told(
        "table netdev early { chain in { type filter hook ingress device eth0 priority 0; iifname \"eth0\" udp dport 9 drop; }; }
         table inet both { chain in { type filter hook ingress device eth0 priority 0; iifname \"eth0\" udp dport 9 drop; }; }
         table bridge filter { chain in { type filter hook input priority 0; iifname \"eth0\" ether type arp drop; }; }",
        &["names eth0, which was no port until now"],
    );
}

#[test]
fn rules_of_iptables_are_told_with_the_command() {
    let (host, machine) = host();
    machine.sh(
        "iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -i eth0 -p tcp --dport 22 -j ACCEPT
         ip6tables -A FORWARD -o eth0 -j DROP",
    );
    let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    let warnings: Vec<&str> = said.lines().filter(|l| l.contains("names eth0")).collect();
    assert_eq!(warnings.len(), 2, "each once: {said}");
    for part in [
        "add: iptables-nft -t filter -I INPUT 3 -i br0 -p tcp -m tcp --dport 22 -j ACCEPT",
        "add: ip6tables-nft -t filter -I FORWARD 2 -o br0 -j DROP",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    let commands: Vec<&str> = warnings
        .iter()
        .filter_map(|l| Some(l.split_once("add: ")?.1))
        .collect();
    machine.sh(&commands.join("\n"));
    let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(!said.contains("names eth0"), "{said}");
}
