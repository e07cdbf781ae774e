//! MAC-NAT on a real station: a virtual machine with radios (mac80211_hwsim of
//! the distribution's kernel), an access point, a station with vmbr and two
//! guests, another station and a wired segment behind the access point, each in
//! a network namespace. Radios that the kernel simulates obey the rules of the
//! real ones: the access point drops frames of a MAC that never associated.
//!
//! A machine runs all its cases (tests/air/cases) and reports; each test here
//! looks at the report of one. The first machine has what is hardest to
//! get right in about a minute; the second every kind of network.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "vm/report.rs"]
mod report;

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

use report::{Report, boot, succeed};

static TELLING: LazyLock<Result<Report, String>> = LazyLock::new(|| machine("telling", 600));
static ALL: LazyLock<Result<Report, String>> = LazyLock::new(|| machine("all", 2400));

/// Boots the machine that runs these cases.
fn machine(cases: &str, seconds: u64) -> Result<Report, String> {
    boot(
        &format!("radios-{cases}"),
        Duration::from_secs(seconds),
        |root, target, initrd, qemu| {
            succeed(&mut Command::new(root.join("scripts/lib/guest-image")))?;
            succeed(&mut Command::new(root.join("scripts/lib/radios")))?;
            succeed(
                Command::new(root.join("tests/air/initrd"))
                    .arg(env!("CARGO_BIN_EXE_vmbr"))
                    .args([
                        &target.join("guest/root"),
                        &target.join("radios/root"),
                        Path::new(initrd),
                    ]),
            )?;
            qemu.args("-smp 2 -m 1024".split(' ')).args([
                "-append",
                &format!("console=ttyS0 quiet panic=-1 vmbr.cases={cases}"),
            ]);
            Ok(())
        },
    )
}

fn telling() -> &'static Report {
    TELLING.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

fn all() -> &'static Report {
    ALL.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// The frames of a record of the monitor, a line each.
fn frames<'r>(report: &'r Report, case: &str, name: &str) -> Vec<&'r str> {
    let words = report.ended(case, name, 0);
    let (head, frames) = words.trim_end().split_once("\n").unwrap_or((words, ""));
    assert!(head.starts_with("reading from file"), "{case} {name}: {words}");
    frames.lines().collect()
}

/// No data frame with another source than the station's left its radio, and
/// none with a guest's MAC within.
fn nothing_foreign(report: &Report, case: &str) {
    for name in [case, &format!("{case}-inside")] {
        let seen = frames(report, case, name);
        assert!(seen.is_empty(), "{case}: {} frames: {seen:#?}", seen.len());
    }
}

/// Every way of getting an address.
fn leases(report: &Report, case: &str) {
    let ways = [
        "lease-udhcpc",
        "lease-dhclient",
        "slaac",
        "slaac-second",
        "lease-dhclient6",
        "apart",
    ];
    report.all_well(case, &ways);
    // An access point that sends our own question back to us looks like somebody
    // who has the address already.
    let addresses = report.ended(case, "addresses", 0);
    assert!(
        !addresses.contains("dadfailed") && !addresses.contains("tentative"),
        "{case}: {addresses}"
    );
}

/// Guests and the wired segment, guests and host, guests among each other.
fn passes(report: &Report, case: &str) {
    report.all_well(case, &["out", "out-second", "in", "big-out", "big-in"]);
    report.all_well(case, &["guests", "host-guest", "guest-host"]);
}

/// Bytes by TCP, to and from the wired segment.
fn carries(report: &Report, case: &str) {
    report.all_well(case, &["tcp-out", "tcp-out-sum", "tcp-in", "tcp-in-sum"]);
}

/// Guests and another station, where the access point lets them.
fn to_stations(report: &Report, case: &str) {
    report.all_well(
        case,
        &["to-station", "from-station", "tcp-station", "tcp-station-sum"],
    );
}

/// All that a network of one kind must carry.
fn way(case: &str) {
    let report = all();
    report.ended("up", "up", 0);
    if case != "open" {
        report.all_well(case, &["associated", "routes"]);
    }
    leases(report, case);
    passes(report, case);
    carries(report, case);
    if case.ends_with("isolate") {
        report.ended(case, "isolated", 0);
    } else {
        to_stations(report, case);
    }
    nothing_foreign(report, case);
}

/// Without a translation a guest's frames go out with its MAC, the access point
/// drops them, and the monitor shows them; and it shows what is within frames
/// that have the station's MAC.
fn untranslated(report: &Report) {
    report.all_well(
        "control",
        &["associated", "leased", "slaac", "station", "foreign"],
    );
    let seen = frames(report, "control", "before");
    assert!(
        seen.len() >= 3 && seen.iter().all(|frame| frame.contains("SA:52:54:00:00:00:99")),
        "{seen:#?}"
    );
    let inside = frames(report, "control", "before-inside").join("\n");
    for word in ["ARP", "router solicitation", "BOOTP/DHCP, Request"] {
        assert!(inside.contains(word), "{inside}");
    }
}

/// After `down` the station's network is as it was before `up`.
fn as_before(report: &Report) {
    report.all_well("down", &["down", "again", "station"]);
    let before = report.ended("up", "before", 0);
    let after = report.ended("down", "after", 0);
    let differ: Vec<&str> = before
        .lines()
        .filter(|line| !after.contains(line))
        .chain(after.lines().filter(|line| !before.contains(line)))
        .collect();
    assert!(
        differ.is_empty(),
        "{differ:#?}\nbefore:\n{before}\nafter:\n{after}"
    );
}

#[test]
fn the_monitor_sees_a_guest_that_is_not_translated() {
    untranslated(telling());
}

#[test]
fn a_station_s_nic_becomes_an_uplink_and_keeps_its_network() {
    let report = telling();
    report.ended("up", "up", 0);
    assert!(report.ended("up", "again", 0).contains("already so"));
    let status: Value = serde_json::from_str(report.ended("wpa2-unicast", "status", 0)).unwrap();
    let bridge = &status["bridges"][0];
    for (port, mac, address) in [
        ("tap1", "52:54:00:00:00:01", "2001:db8::5054:ff:fe00:1"),
        ("tap2", "52:54:00:00:00:02", "2001:db8::5054:ff:fe00:2"),
    ] {
        let of = |list: &Value, key: &str, name: &str| {
            let list = list.as_array().unwrap();
            let found = list.iter().find(|one| one[key] == name).cloned();
            found.unwrap_or_else(|| panic!("no {name}: {status}"))
        };
        let guest = of(&of(&bridge["ports"], "name", port)["guests"], "mac", mac);
        let addresses = guest["addresses"].as_array().unwrap();
        assert!(addresses.contains(&address.into()), "{status}");
    }
    assert_eq!(
        (&bridge["mode"], &bridge["uplink"]),
        (&"mac-nat".into(), &"wlan0".into())
    );
    as_before(report);
}

#[test]
fn guests_lease_addresses_through_a_station() {
    leases(telling(), "wpa2-unicast");
}

#[test]
fn guests_and_the_network_behind_the_access_point_reach_each_other() {
    passes(telling(), "wpa2-unicast");
}

#[test]
fn guests_and_another_station_reach_each_other() {
    to_stations(telling(), "wpa2-unicast");
}

#[test]
fn bytes_by_tcp_arrive_as_they_were_sent() {
    carries(telling(), "wpa2-unicast");
}

#[test]
fn nothing_leaves_a_radio_with_a_guest_s_mac() {
    untranslated(telling());
    for case in ["wpa2-unicast", "roam", "mac"] {
        nothing_foreign(telling(), case);
    }
}

#[test]
fn guests_come_along_to_another_access_point() {
    telling().all_well(
        "roam",
        &["heard", "roams", "roamed-out", "roamed-in", "roamed-host"],
    );
}

#[test]
fn without_an_access_point_host_and_guests_reach_each_other() {
    let report = telling();
    report.all_well("gone", &["lost", "host-guest", "guest-host", "guests"]);
    report.all_well("gone", &["back", "back-out", "back-in", "back-host"]);
}

#[test]
fn a_station_that_changes_its_mac_takes_its_guests_along() {
    let report = telling();
    report.all_well("mac", &["back", "slaac", "sync"]);
    assert!(report.ended("mac", "again", 0).contains("already so"));
    report.all_well("mac", &["told", "changed-out", "changed-in", "changed-host"]);
}

/// The answers to a step's pings, `SEQUENCE ADDRESS` each.
fn answers(report: &Report, case: &str, name: &str) -> Vec<String> {
    let answer = |line: &str| {
        let (_, rest) = line.split_once(" bytes from ")?;
        let (address, rest) = rest.split_once(": icmp_seq=")?;
        let address = address.split('%').next()?;
        Some(format!("{} {address}", rest.split(' ').next()?))
    };
    report.ended(case, name, 0).lines().filter_map(answer).collect()
}

#[test]
fn what_is_sent_once_arrives_once() {
    for (name, addresses) in [("in", 2), ("station", 2), ("host", 2), ("guests", 2)] {
        let mut seen = answers(telling(), "once", name);
        assert_eq!(seen.len(), 2 * addresses, "{name}: {seen:#?}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 2 * addresses, "{name}: there are duplicates");
    }
    for name in ["everybody-in", "everybody-out", "everybody-host"] {
        let mut seen = answers(telling(), "once", name);
        for everybody in ["5054:ff:fe00:1", "5054:ff:fe00:2", "ff:fe00:100", "ff:fe00:200"] {
            // The second question ends with its first answer.
            assert!(
                seen.contains(&format!("1 fe80::{everybody}")),
                "{name}: {seen:#?}"
            );
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "{name}: there are duplicates");
    }
}

#[test]
fn a_guest_does_not_get_what_is_another_s() {
    let report = telling();
    report.all_well("hostile", &["before", "before-other"]);
    for (name, who) in [("gateway-sta", "52:54:"), ("gateway-other", "02:00:00:00:01:")] {
        let said = report.ended("hostile", name, 0);
        assert!(said.contains("lladdr") && !said.contains(who), "{name}: {said}");
    }
    report.all_well("hostile", &["after-out", "after-in", "after-host", "after-other"]);
    let status: Value = serde_json::from_str(report.ended("hostile", "status", 0)).unwrap();
    let refused = &status["bridges"][0]["translation"]["counters"]["protected"];
    assert!(refused.as_u64().is_some_and(|count| count >= 8), "{status}");
    // What nobody else has any more is taken over.
    report.all_well("hostile", &["first", "moved", "moved-host"]);
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn an_open_network() {
    untranslated(all());
    way("open");
    as_before(all());
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn an_open_network_with_multicast_as_unicast() {
    way("open-unicast");
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn an_open_network_with_isolated_stations() {
    way("open-isolate");
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn a_network_with_wpa2() {
    way("wpa2");
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn a_network_with_wpa2_and_multicast_as_unicast_carries_fifty_megabytes() {
    way("wpa2-unicast");
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn a_network_with_wpa2_and_isolated_stations() {
    way("wpa2-isolate");
}

#[test]
#[ignore = "boots a virtual machine: three minutes of software emulation"]
fn requests_for_a_lease_can_have_the_station_s_mac_all_through() {
    let report = all();
    report.all_well("chaddr", &["up", "down"]);
    leases(report, "chaddr");
    passes(report, "chaddr");
    let requests = report.ended("chaddr", "requests", 0);
    assert!(
        requests.contains("Client-Ethernet-Address 02:00:00:00:01:00")
            && !requests.contains("Client-Ethernet-Address 52:54:"),
        "{requests}"
    );
}
