//! systemd-resolved, the real one, asks the servers of the uplink through the
//! bridge, and through the uplink again after `down`.
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

use std::time::{Duration, Instant};

use host::Host;
use machine::Machine;

const STATIC: &str = "ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0; \
                      ip addr add 2001:db8::21/64 dev eth0 nodad; ip route add default via 192.0.2.1";

/// A server of names in the LAN.
fn names(host: &Host) -> Machine {
    let machine = Machine::new(&host.lan);
    machine.start(
        "dnsmasq",
        &[
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--interface=lan0",
            "--user=root",
            "--address=/known.example/192.0.2.77",
            "--address=/short.lan.example/192.0.2.78",
            "--pid-file=",
        ],
    );
    machine.until("grep -q :0035 /proc/net/udp");
    machine
}

/// Starts systemd-resolved; its servers are nobody's but the devices'.
fn resolved(machine: &Machine) {
    machine.sh("mkdir -p /run/systemd/resolve
         chown systemd-resolve:systemd-resolve /run/systemd/resolve
         printf '[Resolve]\\nDNS=\\nFallbackDNS=\\nMulticastDNS=no\\n' >/etc/systemd/resolved.conf
         ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf");
    machine.start("/lib/systemd/systemd-resolved", &[]);
    machine.until("resolvectl status eth0");
}

/// Asserts that a name is known, and that the answer came from the LAN.
fn knows(machine: &Machine) {
    machine.until("resolvectl query --cache=no known.example | grep -q 192.0.2.77");
    machine.until("getent ahostsv4 short | grep -q 192.0.2.78");
}

/// All that systemd-resolved has been told of a device, its name aside.
fn told(machine: &Machine, device: &str) -> String {
    let words = [
        "dns",
        "domain",
        "default-route",
        "llmnr",
        "mdns",
        "dnsovertls",
        "dnssec",
        "nta",
    ];
    let asked: String = words.map(|word| format!("resolvectl {word} {device}; ")).concat();
    let said = machine.sh(&asked);
    said.lines()
        .map(|line| line.split_once(": ").map_or("", |(_, value)| value).to_owned() + "\n")
        .collect()
}

#[test]
fn servers_that_were_set_by_hand_are_the_bridges_and_then_the_nics_again() {
    let host = Host::new("resolved", STATIC);
    let _names = names(&host);
    let machine = Machine::with_bus(&host.ns);
    resolved(&machine);
    machine.sh("resolvectl dns eth0 192.0.2.1 '[2001:db8::1]:5300#dns.example'
         resolvectl domain eth0 lan.example '~corp.example'
         resolvectl default-route eth0 yes
         resolvectl llmnr eth0 no
         resolvectl mdns eth0 resolve
         resolvectl nta eth0 corp.example");
    knows(&machine);
    let before = told(&machine, "eth0");
    let state = host.state();

    let dry = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    for line in [
        "resolvectl dns br0 192.0.2.1 [2001:db8::1]:5300#dns.example\n",
        "resolvectl domain br0 lan.example ~corp.example\n",
        "resolvectl default-route br0 yes\n",
        "resolvectl llmnr br0 no\n",
        "resolvectl mdns br0 resolve\n",
        "resolvectl nta br0 corp.example\n",
        "# systemd-resolved asks for names through eth0 (192.0.2.1, ",
    ] {
        assert!(dry.contains(line), "no {line} in {dry}");
    }
    assert!(!dry.contains("dnssec") && !dry.contains("dnsovertls"), "{dry}");
    assert_eq!(told(&machine, "eth0"), before);

    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(up.stderr.contains("handing br0 to systemd-resolved"), "{up:?}");
    assert_eq!(told(&machine, "br0"), before);
    knows(&machine);
    assert!(
        machine
            .sh("resolvectl query --cache=no known.example")
            .contains("link: br0"),
        "the name was not asked for through the bridge"
    );

    let dry = machine.vmbr(&host, &["down", "--dry-run"]).ok();
    assert!(dry.contains("resolvectl dns eth0 192.0.2.1 "), "{dry}");
    let down = machine.vmbr(&host, &["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(!down.stderr.contains("resolved"), "{down:?}");
    assert_eq!(told(&machine, "eth0"), before);
    knows(&machine);
    state.assert_same(&host.state());
    let kept = machine.sh("ls /run/systemd/resolve/netif");
    assert_eq!(kept.lines().count(), 1, "of the uplink alone: {kept}");
}

/// Who leads back a change that nobody confirmed, does it for the names, too.
#[test]
fn unconfirmed_the_nic_has_its_servers_again() {
    let host = Host::new("resolved", STATIC);
    let _names = names(&host);
    let machine = Machine::with_bus(&host.ns);
    resolved(&machine);
    machine.sh("resolvectl dns eth0 192.0.2.1; resolvectl domain eth0 lan.example");
    let (before, told_before) = (host.state(), told(&machine, "eth0"));
    let up = machine.vmbr(&host, &["up", "eth0", "--confirm=1"]);
    assert!(up.stderr.contains("handing br0 to systemd-resolved"), "{up:?}");
    machine.until("! ip link show br0");
    before.assert_same(&host.state());
    machine.until("resolvectl dns eth0 | grep -q 192.0.2.1");
    assert_eq!(told(&machine, "eth0"), told_before);
    knows(&machine);
}

/// Nothing is set that every device has.
#[test]
fn a_device_without_servers_has_nothing_to_carry() {
    let host = Host::new("resolved", STATIC);
    let machine = Machine::with_bus(&host.ns);
    resolved(&machine);
    machine.until("ip maddr show dev eth0 | grep -q ff02::1:3");
    let dry = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(!dry.contains("resolve"), "{dry}");
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(!up.stderr.contains("resolve"), "{up:?}");
    // It follows the addresses by itself with what it listens to.
    assert!(!up.stderr.contains("multicast"), "{up:?}");
    for group in ["224.0.0.252", "ff02::1:3"] {
        machine.until(&format!("ip maddr show dev br0 | grep -q {group}"));
    }
    machine.vmbr(&host, &["down"]).ok();
}

/// Where networkd has the bridge by a file that matches all of them, nobody
/// else may set its servers: the host goes on as before, with its names.
#[test]
fn a_bridge_that_networkd_has_is_not_told_and_the_host_is_as_it_was() {
    let host = Host::new("resolved", STATIC);
    let _names = names(&host);
    let machine = Machine::with_bus(&host.ns);
    resolved(&machine);
    machine.sh("resolvectl dns eth0 192.0.2.1; resolvectl domain eth0 lan.example
         last=$(cat /sys/class/net/*/ifindex | sort -n | tail -n1)
         mkdir -p /run/systemd/netif/links
         printf 'ADMIN_STATE=configured\\nOPER_STATE=routable\\nNETWORK_FILE=/etc/systemd/network/bridges.network\\n' >/run/systemd/netif/links/$((last + 1))
         chown -R systemd-network /run/systemd/netif");
    knows(&machine);
    let (before, told_before) = (host.state(), told(&machine, "eth0"));
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 1, "{up:?}");
    for part in [
        "systemd-resolved: the servers of eth0 cannot be set on br0",
        "is managed",
        "a .network file that matches br0",
    ] {
        assert!(up.stderr.contains(part), "no {part}: {up:?}");
    }
    before.assert_same(&host.state());
    assert_eq!(told(&machine, "eth0"), told_before);
    knows(&machine);
}

/// Dumb it is a reason not to begin; dead it costs what it was told.
#[test]
fn one_that_does_not_answer_delays_nobody_for_long() {
    let host = Host::new("resolved", STATIC);
    let _names = names(&host);
    let machine = Machine::with_bus(&host.ns);
    resolved(&machine);
    machine.sh("resolvectl dns eth0 192.0.2.1; resolvectl domain eth0 lan.example");
    machine.sh("kill -STOP $(pidof systemd-resolved)");
    let began = Instant::now();
    let said = machine.refused(&host);
    // Two commands, each of which waits five seconds for it.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(said.contains("systemctl restart systemd-resolved"), "{said}");
    machine.sh("kill -CONT $(pidof systemd-resolved)");
    knows(&machine);

    // While the bridge is there it falls silent, and comes to again.
    machine.vmbr(&host, &["up", "eth0"]).ok();
    knows(&machine);
    machine.sh("kill -STOP $(pidof systemd-resolved)");
    let began = Instant::now();
    let down = machine.vmbr(&host, &["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(
        down.stderr
            .contains("do it by hand: resolvectl dns eth0 192.0.2.1; "),
        "{down:?}"
    );
    machine.sh("kill -CONT $(pidof systemd-resolved)");
    // What it was asked for, it does late.
    machine.sh("resolvectl dns eth0 192.0.2.1; resolvectl domain eth0 lan.example");
    knows(&machine);

    // It ends while the bridge is there.
    machine.vmbr(&host, &["up", "eth0"]).ok();
    knows(&machine);
    machine.sh("kill $(pidof systemd-resolved)");
    machine.until("! pidof systemd-resolved");
    let down = machine.vmbr(&host, &["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(down.stderr.contains("systemd-resolved is gone"), "{down:?}");
    // It has what it was told of each device in files of its own.
    resolved(&machine);
    knows(&machine);
}

/// Without IPv4 nothing tells it anew that the NIC has its addresses.
#[test]
fn a_host_with_ipv6_alone_has_its_names_back() {
    // getent would not ask for an IPv4 address there.
    let asked = "resolvectl query --cache=no known.example | grep -q 192.0.2.77";
    let host = Host::new(
        "resolved",
        "ip link set eth0 up; ip addr add 2001:db8::21/64 dev eth0 nodad; ip route add default via 2001:db8::1",
    );
    let _names = names(&host);
    let machine = Machine::with_bus(&host.ns);
    resolved(&machine);
    machine.sh("resolvectl dns eth0 2001:db8::1; resolvectl domain eth0 lan.example");
    machine.until(asked);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    machine.until(asked);
    machine.vmbr(&host, &["down"]).ok();
    machine.until(asked);
}
