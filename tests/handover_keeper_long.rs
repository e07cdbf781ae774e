//! vmbr's lease keeper over whole leases of two minutes, and as a unit of a real
//! systemd.
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
#[path = "common/manager.rs"]
mod manager;
#[path = "common/udhcpc.rs"]
mod udhcpc;

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use host::{Host, MAC};
use lease::{LEASE, Monitor, Server, Stream};
use machine::Machine;
use manager::Manager;
use udhcpc::{Short, address as address_of, ask, keepers, leased, replace, state_of, status};

/// Two minutes are the shortest lease of dnsmasq; this goes past two of them on
/// the bridge, and past one after it.
#[test]
#[ignore = "waits for three leases of two minutes"]
fn past_whole_leases_on_the_bridge_and_after_it() {
    let (host, machine, server, address) = leased(&["-x", "hostname:here"]);
    let first = server.lease(&address);
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    stream.assert_lost_at_most(1);
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    let monitor = Monitor::start(&host.ns);
    sleep(Duration::from_secs(2 * LEASE + 5));
    stream.assert_lost_at_most(0);
    let events = monitor.end();
    let flaps = events
        .iter()
        .filter(|line| line.contains("br0") && !line.contains("inet6"));
    assert_eq!(flaps.count(), 0, "{events:?}");
    let then = server.lease(&address);
    assert!(then.end >= first.end + 3 * LEASE / 2, "{first:?} {then:?}");
    assert_eq!((&then.client, &then.host), (&first.client, &first.host));
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.vmbr(&host, &["down"]).ok();
    stream.assert_lost_at_most(1);
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    sleep(Duration::from_secs(LEASE + 5));
    stream.assert_lost_at_most(0);
    let last = server.lease(&address);
    assert!(last.end > then.end, "{then:?} {last:?}");
    assert_eq!(address_of(&machine, "eth0"), address);
    assert_eq!(server.leases().len(), 1);
    let said = machine.said();
    assert!(
        !said.contains("lease lost") && said.matches("obtained from").count() > 1,
        "{said}"
    );
}

#[test]
#[ignore = "waits for more than half a lease of two minutes"]
fn a_server_that_is_silent_for_half_a_lease_is_asked_again_in_time() {
    let (host, machine, server, address) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let first = server.lease(&address);
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    server.fall_silent();
    sleep(Duration::from_secs(LEASE / 2 + 15));
    assert_eq!(status(&host, &machine)["state"], "renewing");
    server.go_on();
    let renewed = || server.leases().iter().any(|lease| lease.end > first.end);
    assert!(common::wait_until(Duration::from_secs(LEASE / 2 - 20), renewed));
    stream.assert_lost_at_most(0);
    assert_eq!(address_of(&machine, "br0"), address);
}

#[test]
#[ignore = "waits for half a lease of two minutes"]
fn another_address_at_the_renewal() {
    let (host, machine, server, address) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let monitor = Monitor::start(&host.ns);
    replace(&server);
    sleep(Duration::from_secs(LEASE / 2 - 5));
    assert_eq!(address_of(&machine, "br0"), address);
    sleep(Duration::from_secs(8));
    assert_eq!(address_of(&machine, "br0"), "192.0.2.120");
    let events = monitor.end();
    let at = |what: &str| events.iter().position(|line| line.contains(what));
    let new = at("br0    inet 192.0.2.120/24");
    let gone = at(&format!("Deleted 4: br0    inet {address}/24"));
    assert!(new.is_some() && gone.is_some() && new < gone, "{events:?}");
    host.ping_both_ways(Some("192.0.2.120"), None);
    assert!(
        machine
            .sh("ip -4 route")
            .contains("default via 192.0.2.2 dev br0")
    );
}

#[test]
#[ignore = "waits for a lease of some seconds to end, and for another"]
fn a_guest_that_plays_server_is_not_heard() {
    let host = Host::new("rogue", "ip link set eth0 up");
    let server = Short::start(&host, "192.0.2.100", "192.0.2.100");
    let (machine, _) = ask(&host, &[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let guest = common::Namespace::new("guest");
    let ends = [(&host.ns, "tap0"), (&guest, "lan0")].map(|(namespace, name)| common::VethEnd {
        namespace,
        name,
        mac: None,
    });
    common::veth_pair(&ends[0], &ends[1]);
    machine.sh("ip link set tap0 master br0 up");
    host::script_in(&guest, "ip link set lan0 up; ip addr add 192.0.2.66/24 dev lan0");
    let rogue = Short(Machine::new(&guest));
    let listen = ["-lni", "lan0", "udp port 67 or udp port 68"];
    rogue.0.start("tcpdump", &listen);
    rogue.go_on("192.0.2.200", "192.0.2.210");
    // The real one falls silent for longer than a lease.
    server.fall_silent();
    machine.until("! ip -4 addr show dev br0 | grep -q 'inet '");
    sleep(Duration::from_secs(1));
    let heard = rogue.0.said();
    assert!(heard.contains("listening on lan0"), "{heard}");
    assert!(
        !heard.contains("BOOTP/DHCP"),
        "a guest hears what the keeper says: {heard}"
    );
    assert_eq!(machine.sh("ip -4 -o addr show dev br0"), "");
    let doctor = machine.vmbr(&host, &["doctor"]);
    let lost = "no DHCP server has prolonged the lease of br0";
    assert!(doctor.stdout.contains(lost), "{doctor:?}");
    // It is one that answers who asks it.
    machine.sh("ip link add mine type veth peer name other
         ip link set other master br0 up; ip link set mine up
         timeout 10 busybox udhcpc -q -f -n -i mine -s /bin/true");
    server.go_on("192.0.2.100", "192.0.2.100");
    machine.until("ip -4 addr show dev br0 | grep -q 'inet 192.0.2.100'");
    machine.until("ip -4 route | grep -q '^default'");
    host.ping_both_ways(Some("192.0.2.100"), None);
}

/// Somebody ends the client that sleeps, and starts it again for the NIC, which
/// is a port: it hears nobody, and the host keeps its address.
#[test]
#[ignore = "udhcpc asks again after twenty seconds"]
fn a_client_that_is_started_again_in_the_middle_does_no_harm() {
    let (host, machine, server, address) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.sh("kill -9 $(pidof busybox)");
    machine.start(
        "busybox",
        &["udhcpc", "-f", "-i", "eth0", "-s", "/etc/udhcpc/default.script"],
    );
    sleep(Duration::from_secs(2));
    stream.assert_lost_at_most(0);
    assert_eq!(address_of(&machine, "br0"), address);
    let said = machine.vmbr(&host, &["down"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(said.stderr.contains("udhcpc (process "), "{said:?}");
    assert!(said.stderr.contains("has ended meanwhile"), "{said:?}");
    // It asks again within seconds, and is known by the same name.
    let asked = || machine.said().contains("obtained from");
    assert!(
        common::wait_until(Duration::from_secs(30), asked),
        "{}",
        machine.said()
    );
    assert_eq!(address_of(&machine, "eth0"), address);
    assert_eq!(server.leases().len(), 1);
}

/// vmbr is killed at any time of its ways there and back: the host ends in one
/// of two states, and in each somebody renews the lease, and one alone.
#[test]
#[ignore = "forty changes that are killed, two minutes"]
fn killed_at_any_time_one_alone_renews_the_lease() {
    let (host, machine, server, address) = leased(&[]);
    let before = host.state();
    let whole = |bridge: bool| {
        let (keepers, state) = (keepers(&machine), state_of(&machine));
        let is = host.state().has_link("br0");
        is == bridge
            && if bridge {
                (keepers, state.as_str()) == (2, "T")
            } else {
                (keepers, state.as_str()) == (0, "S")
            }
    };
    let (mut there, mut killed) = (false, 0);
    for round in 0..40_u32 {
        let way = if there { "down" } else { "up eth0" };
        let said = machine.sh(&format!(
            "{} --state-dir {} {way} >/run/said 2>&1 & sleep {}
             kill -9 $! 2>/dev/null && echo killed; wait",
            env!("CARGO_BIN_EXE_vmbr"),
            host.records().display(),
            0.02 * f64::from(round),
        ));
        killed += u32::from(said.contains("killed"));
        let settled = common::wait_until(Duration::from_secs(5), || whole(true) || whole(false));
        assert!(
            settled,
            "{way}, round {round}: {}",
            machine.sh("cat /run/said; ps ax; ip addr")
        );
        there = whole(true);
        if !there {
            let differs = before.changes(&host.state());
            assert!(differs.is_empty(), "{way}, round {round}: {differs:?}");
        }
        let dev = if there { "br0" } else { "eth0" };
        assert_eq!(address_of(&machine, dev), address);
        host.ping_both_ways(Some(&address), None);
    }
    println!("{killed} were killed");
    assert!(killed > 5);
    assert_eq!(server.leases().len(), 1);
}

/// Where systemd runs, the keeper is a unit of its own, confined, and systemd
/// starts it again. It dies with its duty.
#[test]
#[ignore = "boots a systemd of its own, needs a cgroup2 hierarchy to make a group in"]
fn under_systemd_the_keeper_is_a_unit() {
    // First: a later one is not seen where systemd is.
    let lan = common::Namespace::new("lan");
    let systemd = Manager::boot();
    let sh = |script: &str| systemd.run(&["sh", "-ec", script]);
    sh(&format!(
        "ip link add eth0 address {MAC} type veth peer name lan0 netns {}; ip link set eth0 up",
        lan.name()
    ));
    host::script_in(&lan, "ip link set lan0 up; ip addr add 192.0.2.1/24 dev lan0");
    let server = Server::start(&lan);
    let vmbr = std::path::Path::new(env!("CARGO_BIN_EXE_vmbr"));
    let root = vmbr.ancestors().nth(2).unwrap().join("daemons/root");
    let root = root.display();
    sh(&format!(
        "script={root}/etc/udhcpc/default.script
         # Where the package is installed it was not unpacked.
         [ -e $script ] || script=/etc/udhcpc/default.script
         PATH={root}/usr/bin:$PATH setsid -f busybox udhcpc -i eth0 -s $script -f >/dev/null 2>&1 </dev/null
         for i in $(seq 100); do ip -4 route | grep -q ^default && exit; sleep 0.1; done; exit 1"
    ));
    let records = std::env::temp_dir().join(format!("vmbr-keeper-{}", lan.name()));
    let command = format!("{} --state-dir {}", vmbr.display(), records.display());
    let said = sh(&format!("{command} up eth0 2>&1"));
    println!("{said}");
    assert!(!said.contains("warning: no DHCP server"), "{said}");
    let status = || -> Value { serde_json::from_str(&sh(&format!("{command} --json status br0"))).unwrap() };
    let lease = || status()["bridges"][0]["lease"].clone();
    assert_eq!(lease()["state"], "bound");
    let address = lease()["address"].as_str().unwrap().to_owned();
    let first = server.lease(&address).end;
    assert_eq!(sh("systemctl is-active vmbr-keeper-br0").trim(), "active");
    let pid = lease()["process"].as_u64().unwrap();
    let main = sh("systemctl show -p MainPID --value vmbr-keeper-br0");
    assert_eq!(main.trim(), pid.to_string());
    let privileges = sh(&format!(
        "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/{pid}/status"
    ));
    println!("{privileges}");
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW.
    assert!(privileges.contains("CapEff:\t0000000000003400"), "{privileges}");
    assert!(privileges.contains("CapBnd:\t0000000000000000"), "{privileges}");
    assert!(
        privileges.contains("Seccomp:\t2") && privileges.contains("NoNewPrivs:\t1"),
        "{privileges}"
    );
    // It is started again, asks again, and is bound again.
    sleep(Duration::from_millis(1100));
    sh(&format!("kill -9 {pid}"));
    let again = || lease()["process"].as_u64().is_some_and(|now| now != pid) && lease()["state"] == "bound";
    assert!(common::wait_until(Duration::from_secs(10), again), "{}", lease());
    assert!(server.lease(&address).end > first);
    println!("{}", sh(&format!("{command} down 2>&1")));
    let stopped = sh("systemctl is-active vmbr-keeper-br0 || :");
    assert_ne!(stopped.trim(), "active");
    assert_eq!(sh("pgrep -cf '[k]eeper --bridge br0' || :").trim(), "0");
    assert_eq!(sh("ps -o state= -p $(pgrep -x busybox)").trim(), "S");
    std::fs::remove_dir_all(records).unwrap();
}
