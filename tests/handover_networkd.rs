//! systemd-networkd, the real one, is given the bridge, and the NIC back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/networkd.rs"]
mod networkd;

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::wait_until;
use host::Host;
use lease::{Monitor, Server, Stream};
use networkd::{
    DHCP, DHCP4, OWN, STATIC, address, configured, defaults, files, host, managed, nothing_went, told, valid,
};

#[test]
fn a_lease_moves_to_the_bridge_and_back() {
    let host = host();
    let server = Server::both(&host.lan);
    let machine = managed(&host, DHCP);
    machine.sh("printf '[Match]\\nName=eth7\\n' >/etc/systemd/network/50-other.network");
    machine.until("ip -6 addr show dev eth0 | grep -q /128");
    machine.until("ip -6 route show default | grep -q 'proto ra'");
    machine.until("! ip addr show dev eth0 | grep -q tentative");
    let etc = "cd /etc/systemd/network; stat -c '%n %i %Y' . *; md5sum /run/systemd/network/10*";
    let untouched = machine.sh(etc);
    let local = address(&host, "eth0");
    let before = host.state();
    let known = server.clients();
    let dns = told(&machine, "eth0", "DNS");
    assert!(dns.contains("192.0.2.1") && dns.contains("2001:db8::1"), "{dns}");

    let dry = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(dry.contains("it is given the bridge instead"), "{dry}");
    assert!(dry.contains("'IAID=1448103320'"), "{dry}");
    assert!(dry.contains("\nnetworkctl reload\n"), "{dry}");
    assert_eq!(files(&machine), format!("./{OWN} "));

    let stream = Stream::start(&host.ns, &["192.0.2.1", "2001:db8::1"]);
    let monitor = Monitor::start(&host.ns);
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    // But of a kernel that cannot keep guests from the host's client.
    let mut lines = up.stderr.lines().filter(|line| line.contains("warning"));
    assert!(
        lines.all(|line| line.contains("a guest on br0 could")),
        "{}",
        up.stderr
    );
    sleep(Duration::from_secs(2));
    stream.assert_lost_at_most(1);
    nothing_went(&monitor.end(), "br0");
    assert_eq!(address(&host, "br0"), local);
    assert_eq!(told(&machine, "br0", "ADMIN_STATE"), "configured");
    assert_eq!(told(&machine, "br0", "DNS"), dns);
    assert_eq!(told(&machine, "eth0", "ADMIN_STATE"), "unmanaged");
    assert_eq!(told(&machine, "eth0", "DNS"), "");
    for family in ["-4", "-6"] {
        assert_eq!(defaults(&host, family), [("br0".to_owned(), 100)]);
    }
    assert_eq!(server.clients(), known);
    // The new lease's, or for ever: what it keeps has no end to networkd.
    let of_lease = |address: &str| valid(&host, "br0", address);
    assert!(of_lease(&local) > 100, "{}", of_lease(&local));
    assert!(of_lease("2001:db8::ff:fe00:21") > 1700);
    let there = machine.vmbr(&host, &["status"]).ok();
    assert!(there.contains("br0"), "{there}");

    let stream = Stream::start(&host.ns, &["192.0.2.1", "2001:db8::1"]);
    let monitor = Monitor::start(&host.ns);
    let down = machine.vmbr(&host, &["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(!down.stderr.contains("warning"), "{}", down.stderr);
    configured(&machine, "eth0");
    sleep(Duration::from_secs(2));
    stream.assert_lost_at_most(1);
    nothing_went(&monitor.end(), "eth0");
    assert_eq!(address(&host, "eth0"), local);
    assert_eq!(server.clients(), known);
    assert_eq!(told(&machine, "eth0", "DNS"), dns);
    assert_eq!(files(&machine), format!("./{OWN} "));
    assert_eq!(machine.sh(etc), untouched);
    for family in ["-4", "-6"] {
        assert_eq!(defaults(&host, family), [("eth0".to_owned(), 100)]);
    }
    // Only the lifetimes are fresh.
    let fresh = valid(&host, "eth0", &local);
    assert!((100..=120).contains(&fresh), "{fresh}");
    let changes = before.changes(&host.state());
    let other: Vec<&String> = changes
        .iter()
        .filter(|text| !text.contains("life_time") && !text.contains("expires"))
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}

/// A file for every device would get hold of the bridge, and put the NIC's
/// addresses there, before the network has come.
#[test]
fn a_file_for_every_device_does_not_get_the_bridge() {
    let host = host();
    let _server = Server::start(&host.lan);
    let machine = managed(
        &host,
        "[Match]\\nName=*\\n[Network]\\nDHCP=ipv4\\nLinkLocalAddressing=no\\n",
    );
    let local = address(&host, "eth0");
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    stream.assert_lost_at_most(1);
    assert_eq!(address(&host, "br0"), local);
    let file = told(&machine, "br0", "NETWORK_FILE");
    assert!(file.ends_with("/00-vmbr-br0.network"), "{file}");
    // It had been left alone until then.
    let said = machine.said();
    assert!(!said.contains("br0: Configuring with"), "{said}");
    assert!(said.contains("br0: Reconfiguring with"), "{said}");
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.vmbr(&host, &["down"]).ok();
    stream.assert_lost_at_most(1);
    assert_eq!(address(&host, "eth0"), local);
    assert_eq!(files(&machine), format!("./{OWN} "));
}

/// What only root and networkd may read others cannot read elsewhere either,
/// while the bridge stands and after it.
#[test]
fn what_is_secret_in_its_files_stays_so() {
    for name in ["eth0", "eth*"] {
        let host = host();
        let _server = Server::start(&host.lan);
        let machine = managed(
            &host,
            &format!(
                "[Match]\\nName={name}\\n[Network]\\nDHCP=ipv4\\nLinkLocalAddressing=no\\nAddress=198.51.100.7/24\\n\
                 [DHCPv4]\\nSendOption=90:string:Password\\n"
            ),
        );
        machine.sh(&format!(
            "chmod 640 /run/systemd/network/{OWN}; chgrp systemd-network /run/systemd/network/{OWN}"
        ));
        let records = host.records().display().to_string();
        let shown = || machine.sh(&format!("grep -rl Password /run {records} || :"));
        let readable = format!(
            "find /run {records} -type f -perm /o+r -exec grep -l Password {{}} + || :; grep -rl Password {records} || :"
        );
        machine.vmbr(&host, &["up", "eth0"]).ok();
        assert!(shown().contains("00-vmbr-br0.network"), "{}", shown());
        assert_eq!(machine.sh(&readable), "", "{name}");
        machine.vmbr(&host, &["down"]).ok();
        assert_eq!(shown().trim(), format!("/run/systemd/network/{OWN}"), "{name}");
    }
}

/// Other devices that the same file configures are let alone, also where
/// networkd has to be told to keep what is on the NIC.
#[test]
#[ignore = "waits for a networkd that does not answer, twenty seconds"]
fn others_of_the_same_file_are_let_alone() {
    let host = host();
    let _server = Server::start(&host.lan);
    let machine = managed(
        &host,
        "[Match]\\nName=eth*\\n[Network]\\nDHCP=ipv4\\nLinkLocalAddressing=no\\nAddress=198.51.100.7/24\\n",
    );
    let others = || machine.sh("ip -o -4 addr show dev eth1");
    machine.until("ip -o -4 addr show dev eth1 | grep -q 198.51.100.7");
    machine.until("ip -o -4 addr show dev eth0 | grep -q 192.0.2.");
    let before = others();
    let monitor = Monitor::start(&host.ns);
    for _ in 0..2 {
        machine.vmbr(&host, &["up", "eth0"]).ok();
        let stream = Stream::start(&host.ns, &["192.0.2.1"]);
        machine.sh("kill -STOP $(pidof systemd-networkd)");
        let down = machine.vmbr(&host, &["down"]);
        assert_ne!(down.code(), 0, "{down:?}");
        machine.sh("kill -CONT $(pidof systemd-networkd)");
        machine.vmbr(&host, &["recover"]).ok();
        configured(&machine, "eth0");
        sleep(Duration::from_secs(1));
        stream.assert_lost_at_most(1);
        assert_eq!(others(), before);
        let file = told(&machine, "eth0", "NETWORK_FILE");
        assert!(file.ends_with("/00-vmbr-eth0.network"), "{file}");
    }
    nothing_went(&monitor.end(), "eth1");
}

/// A cable that comes in again does not put them on the port.
#[test]
fn fixed_addresses_move_to_the_bridge_and_back() {
    let host = host();
    let machine = managed(&host, STATIC);
    let before = host.state();
    let stream = Stream::start(&host.ns, &["192.0.2.1", "2001:db8::1"]);
    let monitor = Monitor::start(&host.ns);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    stream.assert_lost_at_most(1);
    nothing_went(&monitor.end(), "br0");
    before.assert_moved(&host.state(), "eth0", "br0");
    assert_eq!(told(&machine, "br0", "DNS"), "192.0.2.53");
    // networkd takes its addresses away meanwhile, as it does on the NIC.
    host.lan.ip(&["link", "set", "lan0", "down"]);
    machine.until("! ip addr show dev br0 | grep -q 192.0.2.21");
    host.lan.ip(&["link", "set", "lan0", "up"]);
    host.lan
        .ip(&["addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad"]);
    machine.until("ip -6 addr show dev br0 | grep -q 2001:db8::21 && ip -4 route | grep -q ^default");
    machine.until("! ip addr show dev br0 | grep -q tentative");
    configured(&machine, "br0");
    let port = host.ns.ip(&["-o", "addr", "show", "dev", "eth0"]);
    assert_eq!(port, "", "something has put an address on the port");
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    let stream = Stream::start(&host.ns, &["192.0.2.1", "2001:db8::1"]);
    let monitor = Monitor::start(&host.ns);
    machine.vmbr(&host, &["down"]).ok();
    stream.assert_lost_at_most(1);
    nothing_went(&monitor.end(), "eth0");
    configured(&machine, "eth0");
    before.assert_same(&host.state());
    assert_eq!(files(&machine), format!("./{OWN} "));
}

/// The addresses that networkd makes from advertisements, but for those that
/// the kernel derives for privacy.
fn generated(host: &Host, device: &str) -> Vec<String> {
    let all = host
        .ns
        .json(&["-6", "addr", "show", "dev", device, "scope", "global"]);
    let list = all[0]["addr_info"].as_array().unwrap();
    let own = list
        .iter()
        .filter(|a| a["prefixlen"] == 64 && a["mngtmpaddr"] == true);
    own.map(|a| a["local"].as_str().unwrap().to_owned()).collect()
}

/// A stable address is made of the device's name, too: the bridge gets the
/// NIC's all the same, at the next advertisement as well, and one for privacy
/// that is in use stays.
#[test]
fn stable_and_private_addresses_stay_the_nics() {
    let host = host();
    let _server = Server::both(&host.lan);
    let machine = managed(
        &host,
        "[Match]\\nName=eth0\\n[Network]\\nDHCP=no\\nAddress=192.0.2.21/24\\nIPv6AcceptRA=yes\\nIPv6PrivacyExtensions=yes\\n\
         [IPv6AcceptRA]\\nDHCPv6Client=no\\nToken=prefixstable\\n",
    );
    machine.until("ip -6 addr show dev eth0 temporary | grep -q 2001:db8");
    machine.until("! ip addr show dev eth0 | grep -q tentative");
    let stable = generated(&host, "eth0");
    assert_eq!(stable.len(), 1, "{stable:?}");
    assert_ne!(stable[0], "2001:db8::ff:fe00:21", "made of the MAC");
    let shown = machine.sh("ip -6 -o addr show dev eth0 temporary");
    let private = shown.split_whitespace().nth(3).unwrap().to_owned();
    for (args, device) in [(&["up", "eth0"][..], "br0"), (&["down"], "eth0")] {
        let stream = Stream::start(&host.ns, &["2001:db8::1"]);
        machine.vmbr(&host, args).ok();
        // networkd asks for an advertisement.
        let renewed = || valid(&host, device, &stable[0]) >= 1799;
        assert!(
            wait_until(Duration::from_secs(8), renewed),
            "{args:?}: not renewed"
        );
        stream.assert_lost_at_most(1);
        assert_eq!(generated(&host, device), stable, "{args:?}");
        let there = machine.sh(&format!("ip -6 addr show dev {device}"));
        assert!(there.contains(&private), "{args:?}: no {private}: {there}");
        assert_eq!(defaults(&host, "-6"), [(device.to_owned(), 1024)], "{args:?}");
    }
    assert_eq!(files(&machine), format!("./{OWN} "));
}

/// Killed when the bridge is networkd's already, and the NIC still is.
#[test]
fn killed_in_the_middle_the_watchdog_gives_the_nic_back() {
    let host = host();
    let server = Server::start(&host.lan);
    let machine = managed(&host, DHCP4);
    let local = address(&host, "eth0");
    let known = server.clients();
    let before = host.state();
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    // It waits for the lease.
    server.fall_silent();
    let mut up = machine.command(env!("CARGO_BIN_EXE_vmbr"));
    up.arg("--state-dir").arg(host.records()).args(["up", "eth0"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    machine.until("grep -q 00-vmbr-br0 /run/systemd/netif/links/$(cat /sys/class/net/br0/ifindex)");
    machine.sh("kill -9 $(pidof vmbr | tr ' ' '\\n' | sort -n | head -n1)");
    let _ = up.wait();
    machine.until("! ip link show br0 2>/dev/null");
    server.go_on();
    machine.until(&format!("! ls {} | grep -q br0.json", host.records().display()));
    stream.assert_lost_at_most(1);
    assert_eq!(address(&host, "eth0"), local);
    assert_eq!(files(&machine), format!("./{OWN} "));
    configured(&machine, "eth0");
    assert_eq!(told(&machine, "eth0", "ADMIN_STATE"), "configured");
    machine.until(&format!(
        "test -s /run/systemd/netif/leases/{}",
        before.link("eth0")["ifindex"]
    ));
    assert_eq!(server.clients(), known);
    assert_eq!(defaults(&host, "-4"), [("eth0".to_owned(), 100)]);
}

/// Where it cannot be told anything, or its files cannot be carried over,
/// nothing is touched.
#[test]
fn one_that_cannot_be_told_is_refused() {
    let host = host();
    let _server = Server::start(&host.lan);
    let machine = managed(&host, DHCP4);
    let file = format!("/run/systemd/network/{OWN}");
    for (spoil, mend, reason) in [
        (
            "kill -STOP $(pidof systemd-networkd)".to_owned(),
            "kill -CONT $(pidof systemd-networkd)".to_owned(),
            "it did not answer on D-Bus in time",
        ),
        (
            "mv /run/dbus/system_bus_socket /run/dbus/away".into(),
            "mv /run/dbus/away /run/dbus/system_bus_socket".into(),
            "there is no D-Bus to tell it by",
        ),
        (
            format!("cp -p {file} /run/kept; echo DHCP >>{file}"),
            format!("mv /run/kept {file}"),
            "its line 'DHCP' says nothing",
        ),
        (
            format!("chmod 666 {file}"),
            format!("chmod 644 {file}"),
            "cannot be read or is not root's alone",
        ),
        (
            format!("mkdir {file}.d; mkfifo {file}.d/x.conf"),
            format!("rm -r {file}.d"),
            "x.conf cannot be read",
        ),
    ] {
        machine.sh(&spoil);
        let began = Instant::now();
        // Once in full: a dry run finds the same.
        let said = if spoil.starts_with("kill") {
            machine.refused(&host)
        } else {
            let dry = machine.vmbr(&host, &["up", "eth0", "--dry-run"]);
            assert_eq!(dry.code(), 3, "{dry:?}");
            dry.stderr
        };
        assert!(said.contains("the bridge cannot be given to it: "), "{said}");
        assert!(said.contains(reason), "no '{reason}' in {said}");
        assert!(said.contains("networkctl list"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(15), "{spoil}");
        machine.sh(&mend);
    }
    // One that makes the bridge itself.
    machine.sh("printf '[NetDev]\\nName=br0\\nKind=bridge\\n' >/etc/systemd/network/br.netdev");
    let before = host.state();
    let refused = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(
        refused.stderr.contains("br.netdev says how br0 is made"),
        "{refused:?}"
    );
    before.assert_same(&host.state());
    machine.sh("rm /etc/systemd/network/br.netdev");
    machine.vmbr(&host, &["up", "eth0"]).ok();
    machine.vmbr(&host, &["down"]).ok();
}

/// It is killed after the look at it; what was moved goes back.
#[test]
fn one_that_would_not_leads_everything_back() {
    let host = host();
    let _server = Server::start(&host.lan);
    let machine = managed(&host, DHCP4);
    let before = host.state();
    // Nothing can be written there.
    machine.sh("mount --bind -o ro /run/systemd/network /run/systemd/network; mount -o remount,ro,bind /run/systemd/network");
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    let up = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(up.code(), 1, "{up:?}");
    assert!(
        up.stderr
            .contains("cannot write /run/systemd/network/00-vmbr-br0.network"),
        "{}",
        up.stderr
    );
    stream.assert_lost_at_most(1);
    machine.sh("umount /run/systemd/network");
    assert_eq!(defaults(&host, "-4"), [("eth0".to_owned(), 100)]);
    let changes = before.changes(&host.state());
    let other: Vec<&String> = changes
        .iter()
        .filter(|text| !text.contains("life_time"))
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}
