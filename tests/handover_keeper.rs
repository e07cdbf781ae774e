//! A lease without a manager that can be given the bridge: BusyBox's udhcpc,
//! real DHCP servers, and vmbr's own lease keeper.
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
#[path = "common/udhcpc.rs"]
mod udhcpc;

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use host::{Host, MAC};
use lease::{Monitor, Server, Stream};
use machine::Machine;
use udhcpc::{
    SHORT, Short, address as address_of, ask, end, keepers, leased, left, replace, state_of, status,
};

#[test]
fn the_lease_lives_on_the_bridge_and_back() {
    let (host, machine, server, address) = leased(&["-x", "hostname:here"]);
    let before = server.lease(&address);
    assert_eq!(before.client, format!("01:{MAC}"));
    let state = host.state();
    let monitor = Monitor::start(&host.ns);
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    sleep(Duration::from_millis(1100));
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 0, "{said:?}");
    println!("{}{}", said.stderr, said.stdout);
    assert!(said.stderr.contains("stays running"), "{said:?}");
    state.assert_moved(&host.state(), "eth0", "br0");
    assert_eq!(state_of(&machine), "T");
    // Confirmed by the server, as the client that has leased it.
    let after = server.lease(&address);
    assert!(after.end > before.end, "{before:?} {after:?}");
    assert_eq!((&after.client, &after.host), (&before.client, &before.host));
    assert_eq!(server.leases().len(), 1);
    let lease = status(&host, &machine);
    println!("{lease}");
    assert_eq!(lease["address"], address.as_str());
    assert_eq!(lease["server"], "192.0.2.1");
    assert_eq!(lease["state"], "bound");
    let said = machine.vmbr(&host, &["down"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(!said.stderr.contains("warning"), "{said:?}");
    stream.assert_lost_at_most(2);
    let events = monitor.end();
    println!("{}", events.join("\n"));
    assert_eq!(state_of(&machine), "S");
    assert_eq!(keepers(&machine), 0);
    state.assert_same(&host.state());
}

#[test]
fn leases_of_seconds_are_renewed_on_the_bridge_and_after_it() {
    let host = Host::new("short", "ip link set eth0 up");
    let _server = Short::start(&host, "192.0.2.100", "192.0.2.110");
    let (machine, address) = ask(&host, &[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    let monitor = Monitor::start(&host.ns);
    let first = end(&host, &machine);
    sleep(Duration::from_secs(SHORT + 2));
    assert!(end(&host, &machine) >= first + 3, "not renewed");
    stream.assert_lost_at_most(0);
    let events = monitor.end();
    let flaps = events
        .iter()
        .filter(|line| line.contains("br0") && !line.contains("inet6"));
    assert_eq!(flaps.count(), 0, "{events:?}");
    assert_eq!(address_of(&machine, "br0"), address);
    // Its client has overslept the whole lease, and goes on all the same.
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.vmbr(&host, &["down"]).ok();
    let renewed = || machine.said().matches("obtained from").count() > 1;
    assert!(
        common::wait_until(Duration::from_secs(5), renewed),
        "{}",
        machine.said()
    );
    stream.assert_lost_at_most(1);
    assert_eq!(address_of(&machine, "eth0"), address);
    let said = machine.said();
    assert!(!said.contains("lease lost"), "{said}");
}

#[test]
fn another_address_is_there_before_the_old_one_goes() {
    let (host, machine, server, address) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let monitor = Monitor::start(&host.ns);
    replace(&server);
    // A carrier that was gone may be another network's: the lease is asked
    // about at once.
    host::script_in(&host.lan, "ip link set lan0 down; sleep 0.2; ip link set lan0 up");
    machine.until("ip -4 addr show dev br0 | grep -q 192.0.2.120");
    machine.until(&format!("! ip -4 addr show dev br0 | grep -q {address}/"));
    let events = monitor.end();
    let at = |what: &str| events.iter().position(|line| line.contains(what));
    let new = at("br0    inet 192.0.2.120/24");
    let gone = at(&format!("Deleted 4: br0    inet {address}/24"));
    assert!(new.is_some() && gone.is_some() && new < gone, "{events:?}");
    host.ping_both_ways(Some("192.0.2.120"), None);
    let routes = machine.sh("ip -4 route");
    assert_eq!(routes.matches("default").count(), 1, "{routes}");
    assert!(routes.contains("default via 192.0.2.2 dev br0"), "{routes}");
    assert_eq!(status(&host, &machine)["address"], "192.0.2.120");
    let said = machine.vmbr(&host, &["down"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(
        said.stderr
            .contains(&format!("udhcpc still believes in {address}")),
        "{said:?}"
    );
    assert_eq!(address_of(&machine, "eth0"), "192.0.2.120");
}

#[test]
fn a_keeper_that_dies_comes_again_or_is_reported() {
    let (host, machine, _server, _) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let first = status(&host, &machine)["process"].as_u64().unwrap();
    assert_eq!(keepers(&machine), 2);
    machine.sh(&format!("kill -9 {first}"));
    assert_eq!(status(&host, &machine)["state"], "dead");
    machine.until(&format!(
        "{} --json --state-dir {} status br0 | grep -q '\"state\":\"bound\"'",
        env!("CARGO_BIN_EXE_vmbr"),
        host.records().display()
    ));
    let second = status(&host, &machine)["process"].as_u64().unwrap();
    assert_ne!(first, second);
    // Both at once: nobody starts it again.
    machine.sh("kill -9 $(pgrep -f '[k]eeper --bridge br0')");
    let doctor = machine.vmbr(&host, &["--json", "doctor"]);
    let found: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    let dead = findings.iter().find(|finding| finding["id"] == "keeper-dead");
    assert_eq!(dead.unwrap_or_else(|| panic!("{found}"))["fixable"], true);
    let fixed = machine.vmbr(&host, &["doctor", "--fix"]);
    assert!(
        fixed.stdout.contains("mended: the lease keeper of br0"),
        "{fixed:?}"
    );
    assert_eq!(keepers(&machine), 2);
    machine.vmbr(&host, &["down"]).ok();
    assert_eq!(keepers(&machine), 0);
    assert_eq!(state_of(&machine), "S");
}

#[test]
fn a_server_that_is_silent_is_a_warning_and_is_asked_again() {
    let (host, machine, server, address) = leased(&[]);
    server.fall_silent();
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(
        said.stderr
            .contains(&format!("no DHCP server has confirmed {address}")),
        "{said:?}"
    );
    assert_eq!(status(&host, &machine)["state"], "confirming");
    server.go_on();
    let bound = common::wait_until(Duration::from_secs(10), || {
        status(&host, &machine)["state"] == "bound"
    });
    assert!(bound, "{}", status(&host, &machine));
}

/// dhclient was ended, and has left its lease: the keeper finds out as whom.
fn left_by_dhclient(arguments: &str) {
    let host = Host::new("left", "ip link set eth0 up");
    let server = Server::start(&host.lan);
    let machine = Machine::new(&host.ns);
    machine.sh(&format!("dhclient -4 {arguments} -pf /run/dhclient.pid eth0"));
    machine.until("ip -4 route | grep -q '^default'");
    let address = address_of(&machine, "eth0");
    machine.sh("kill -9 $(pidof dhclient); while pidof dhclient; do sleep 0.01; done");
    let before = server.lease(&address);
    sleep(Duration::from_millis(2100));
    let then = left(&machine, "eth0");
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(
        said.stderr.contains("leased by a client that has ended"),
        "{said:?}"
    );
    let after = server.lease(&address);
    assert!(after.end > before.end, "{before:?} {after:?}");
    assert_eq!(after.client, before.client);
    assert_eq!(server.leases().len(), 1);
    assert_eq!(status(&host, &machine)["state"], "bound");
    machine.until(&format!(
        "test $(ip -4 addr show dev br0 | grep -o 'valid_lft [0-9]*' | cut -d' ' -f2) -gt {then}"
    ));
    let said = machine.vmbr(&host, &["down"]);
    assert!(
        said.stderr
            .contains(&format!("nobody renews the lease of {address}")),
        "{said:?}"
    );
    assert!(left(&machine, "eth0") > then);
    assert_eq!(keepers(&machine), 0);
}

#[test]
fn a_lease_that_dhclient_has_left_is_kept() {
    left_by_dhclient("");
}

#[test]
#[ignore = "dhclient takes seconds for a lease, and the test before this one differs little"]
fn a_lease_of_a_duid_that_dhclient_has_left_is_kept() {
    left_by_dhclient("-i");
}

/// Killed while it waits for the keeper's word, its watchdog leads it all back.
#[test]
fn killed_in_the_middle_the_client_has_the_uplink_again() {
    let (host, machine, server, _) = leased(&[]);
    server.fall_silent();
    let before = host.state();
    machine.start(
        env!("CARGO_BIN_EXE_vmbr"),
        &["--state-dir", host.records().to_str().unwrap(), "up", "eth0"],
    );
    machine.until("pgrep -f '[k]eeper --bridge br0'");
    assert_eq!(state_of(&machine), "T");
    machine.sh("kill -9 $(pgrep -f '[u]p eth0')");
    let back = common::wait_until(Duration::from_secs(10), || {
        keepers(&machine) == 0 && state_of(&machine) == "S" && !host.state().has_link("br0")
    });
    assert!(back, "{}", machine.sh("ps ax; ip addr"));
    before.assert_same(&host.state());
}

/// A `down` after which the gateway is silent leaves the bridge, and whoever
/// renews its lease.
#[test]
fn a_down_that_is_taken_back_leaves_the_keeper() {
    let (host, machine, server, address) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let process = status(&host, &machine)["process"].clone();
    // What leaves by the bridge is known by a mark; what leaves by the NIC
    // itself is lost.
    machine.sh("nft add table bridge fabric
         nft 'add chain bridge fabric out { type filter hook postrouting priority 0; }'
         nft add rule bridge fabric out meta mark set 7
         nft add table netdev fabric
         nft 'add chain netdev fabric out { type filter hook egress device eth0 priority 0; }'
         nft add rule netdev fabric out ether type arp meta mark != 7 drop");
    let said = machine.vmbr(&host, &["down"]);
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.stderr.contains("192.0.2.1"), "{said:?}");
    assert_eq!(address_of(&machine, "br0"), address);
    // The same one, and it does what it is there for.
    assert_eq!(keepers(&machine), 2);
    let lease = status(&host, &machine);
    assert_eq!((&lease["process"], &lease["state"]), (&process, &"bound".into()));
    let before = server.lease(&address).end;
    sleep(Duration::from_millis(1100));
    host::script_in(&host.lan, "ip link set lan0 down; sleep 0.2; ip link set lan0 up");
    let renewed = || server.lease(&address).end > before;
    assert!(common::wait_until(Duration::from_secs(10), renewed), "{lease}");
    machine.sh("nft delete table netdev fabric");
    machine.vmbr(&host, &["down"]).ok();
    assert_eq!(keepers(&machine), 0);
    assert_eq!(state_of(&machine), "S");
}

/// The server knows nothing of the lease: the host stays as it is.
#[test]
fn a_lease_that_the_server_refuses_is_left_where_it_is() {
    let (host, machine, server, _) = leased(&[]);
    replace(&server);
    let before = host.state();
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.stderr.contains("does not confirm"), "{said:?}");
    before.assert_same(&host.state());
    assert_eq!(keepers(&machine), 0);
    assert_eq!(state_of(&machine), "S");
}
