//! Whole machines, each with its own kernel, systemd and network manager under
//! QEMU, whose NIC has its addresses by DHCP: what stays, what comes back, and
//! what a reboot ends.
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
#[path = "common/qemu.rs"]
mod qemu;
#[path = "common/whole.rs"]
mod whole;

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use whole::{LEASE, Meter, Whole};

/// A lease and what a server and a client may take besides.
const PAST_A_LEASE: Duration = Duration::from_secs(LEASE.as_secs() + 15);
/// For a manager to do what it does.
const SOON: Duration = Duration::from_secs(60);

/// The NIC has its addresses by both families, and its routers.
const CONFIGURED: &str = "ip addr show dev eth0 | grep -q 'inet 192.0.2.1'
     ip addr show dev eth0 | grep -q 'inet6 2001:db8:.*ff:fe00:21/64'
     ip -4 route show default dev eth0 | grep -q via
     ip -6 route show default dev eth0 | grep -q via";

/// The addresses of a device that it has not by itself: each with its prefix
/// length, in the order of their text.
fn addresses(machine: &mut Whole, dev: &str) -> Vec<String> {
    let text = machine.sh(&format!("ip -j addr show dev {dev} scope global"));
    let all: Value = serde_json::from_str(&text).unwrap();
    let list = all[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<String> = list
        .iter()
        .filter(|address| address["local"].is_string())
        .map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"]))
        .collect();
    found.sort();
    found
}

/// Its default routes and their metrics, without what is told of the routers'
/// lifetimes.
fn defaults(machine: &mut Whole, dev: &str) -> Vec<String> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let text = machine.sh(&format!("ip {family} -j route show default dev {dev}"));
        let all: Value = serde_json::from_str(&text).unwrap();
        for route in all.as_array().unwrap() {
            found.push(format!(
                "{} metric {} proto {}",
                route["gateway"], route["metric"], route["protocol"]
            ));
        }
    }
    found
}

/// What the administrator has written, and which units there are. A dhclient
/// that was given the NIC back runs in a unit of its own, in place of that of
/// whoever had started it. Of the loopback NetworkManager keeps a profile by
/// itself when it is started anew.
fn configuration(machine: &mut Whole) -> String {
    machine.sh(
        "find /etc/NetworkManager /etc/systemd /etc/network /run/systemd/network /run/NetworkManager/system-connections /etc/resolv.conf -type f ! -name lo.nmconnection -exec cksum {} + 2>/dev/null | sort
         readlink /etc/resolv.conf || true
         systemctl list-units --plain --no-legend --type=service --state=running | cut -d' ' -f1 | grep -v -e hostnamed -e dispatcher -e ^vmbr-dhclient | sort",
    )
}

fn knows_the_name(machine: &mut Whole) {
    machine.until(SOON, "getent ahostsv4 known.example | grep -q 192.0.2.77");
}

/// What is lost of each family, at [`whole::PACE`] a second.
struct Losses([(&'static str, Meter); 2]);

impl Losses {
    /// Says what was lost since the last time, and that it is no more than
    /// `most`.
    fn count(&mut self, when: &str, most: usize) {
        for (family, meter) in &mut self.0 {
            let (lost, of, silence) = meter.lost();
            eprintln!("{when}: {lost} of {of} {family} packets lost, the longest silence {silence}");
            assert!(lost <= most, "{when}: {lost} of {of} {family} packets lost");
        }
    }
}

/// How many packets a change may lose: under software emulation, on a machine
/// with ten times the work that it can do, `up` was seen to lose two of a
/// family and `down` seven. Emulation alone loses none; each is a hundredth of
/// a second.
const AT_A_CHANGE: usize = 15;
/// The same while nothing is changed, renewals and a restart of the manager
/// among it; none was seen to be lost.
const MEANWHILE: usize = 1;

/// The whole way; where `restart` says so, the one who configured the NIC is
/// restarted on it.
fn there_and_back(mut machine: Whole, manager: &str, restart: bool) {
    let machine = &mut machine;
    let began = Instant::now();
    machine.until(Duration::from_secs(180), CONFIGURED);
    machine.until(SOON, "! ip addr show dev eth0 | grep -q tentative");
    eprintln!("{manager}: leased after {:?}", began.elapsed());
    let before = addresses(machine, "eth0");
    let routes = defaults(machine, "eth0");
    let written = configuration(machine);
    knows_the_name(machine);
    let v4 = before.iter().find(|a| a.starts_with("192.0.2.")).unwrap();
    let v4 = v4.split('/').next().unwrap().to_owned();
    let mut losses = Losses([
        ("IPv4", machine.meter(&v4)),
        ("IPv6", machine.meter("2001:db8::ff:fe00:21")),
    ]);
    sleep(Duration::from_secs(3));
    losses.count("nothing done", 0);

    let said = machine.sh("vmbr up eth0 2>&1");
    eprintln!("{said}");
    losses.count("up", AT_A_CHANGE);
    no_guest_plays_server(machine, &v4);
    assert_eq!(addresses(machine, "br0"), before, "{said}");
    assert_eq!(addresses(machine, "eth0"), [""; 0], "{said}");
    assert_eq!(defaults(machine, "br0"), routes);
    knows_the_name(machine);
    let given = machine.given(&v4);
    sleep(PAST_A_LEASE);
    losses.count("past a lease on the bridge", MEANWHILE);
    on_the_bridge(machine, &before, &routes);
    assert!(
        machine.given(&v4) > given,
        "the lease was not renewed\n{}",
        machine.said()
    );
    let status = machine.sh("vmbr --json status");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["bridges"][0]["state"], "settled", "{status}");

    if restart {
        machine.sh(&format!("systemctl restart {manager}"));
        sleep(Duration::from_secs(20));
        losses.count("the manager restarted", MEANWHILE);
        on_the_bridge(machine, &before, &routes);
    }

    let said = machine.sh("vmbr down 2>&1");
    eprintln!("{said}");
    losses.count("down", AT_A_CHANGE);
    on_the_nic(machine, &before, &routes);
    let given = machine.given(&v4);
    sleep(PAST_A_LEASE);
    losses.count("past a lease on the NIC", MEANWHILE);
    on_the_nic(machine, &before, &routes);
    assert!(
        machine.given(&v4) > given,
        "the lease was not renewed\n{}",
        machine.said()
    );
    assert_eq!(configuration(machine), written);

    machine.sh("vmbr up eth0 2>&1");
    drop(losses);
    machine.reboot();
    machine.until(Duration::from_secs(180), CONFIGURED);
    on_the_nic(machine, &before, &routes);
    assert_eq!(configuration(machine), written);
    assert_eq!(machine.sh("ls /run/vmbr 2>/dev/null | wc -l").trim(), "0");
}

/// What a guest says to the host's DHCP client does not reach it.
fn no_guest_plays_server(machine: &mut Whole, address: &str) {
    machine.sh(&format!(
        "ip netns add guest
         ip link add tap7 type veth peer name lan0 netns guest
         ip link set tap7 master br0 up
         ip -n guest link set lan0 up
         ip -n guest addr add 192.0.2.66/24 dev lan0
         ip netns exec guest ping -c 1 -W 10 {address}
         ip netns exec guest bash -c 'echo x >/dev/udp/{address}/68'"
    ));
    machine.until(
        SOON,
        "nft list table bridge vmbr-br0 | grep 'udp dport 68 counter packets [1-9]'",
    );
    machine.sh("ip netns del guest");
    machine.until(SOON, "! ip link show tap7");
}

fn on_the_bridge(machine: &mut Whole, before: &[String], routes: &[String]) {
    assert_eq!(addresses(machine, "br0"), before);
    assert_eq!(addresses(machine, "eth0"), [""; 0]);
    assert_eq!(defaults(machine, "br0"), routes);
    assert_eq!(defaults(machine, "eth0"), [""; 0]);
    knows_the_name(machine);
}

fn on_the_nic(machine: &mut Whole, before: &[String], routes: &[String]) {
    assert_eq!(machine.sh("ls /sys/class/net | tr '\\n' ' '").trim(), "eth0 lo");
    assert_eq!(addresses(machine, "eth0"), before);
    assert_eq!(defaults(machine, "eth0"), routes);
    knows_the_name(machine);
}

#[test]
#[ignore = "boots a virtual machine and waits for two leases: seven minutes"]
fn a_machine_with_network_manager() {
    let profile = "[connection]\nid=lan\nuuid=6f0a7f5c-5f2b-4ac8-8a0c-0d7f3b1d9c01\ntype=ethernet\ninterface-name=eth0\n\
                   [ipv4]\nmethod=auto\n[ipv6]\nmethod=auto\naddr-gen-mode=eui64\n";
    let path = "etc/NetworkManager/system-connections/lan.nmconnection";
    let machine = Whole::boot(&["NetworkManager.service"], &[], &[(path, profile)]);
    there_and_back(machine, "NetworkManager", true);
}

#[test]
#[ignore = "boots a virtual machine and waits for two leases: seven minutes"]
fn a_machine_with_networkd() {
    let network = "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n";
    let machine = Whole::boot(
        &["systemd-networkd.service"],
        &[],
        &[("etc/systemd/network/10-lan.network", network)],
    );
    there_and_back(machine, "systemd-networkd", true);
}

#[test]
#[ignore = "boots a virtual machine and waits for two leases: seven minutes"]
fn a_machine_with_ifupdown() {
    let interfaces =
        "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\niface eth0 inet6 auto\n";
    // Debian's dhclient writes resolv.conf, where that is a file.
    let machine = Whole::boot(
        &["networking.service"],
        &["systemd-resolved.service"],
        &[("etc/network/interfaces", interfaces), ("etc/resolv.conf", "")],
    );
    // A restart of this one is `ifdown`: it ends the network, for whom it is.
    there_and_back(machine, "networking", false);
}
