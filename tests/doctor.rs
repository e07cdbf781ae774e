//! `vmbr doctor`: each trouble is made for real, found, mended by the remedy
//! as it is pasted and by `--fix`, and `vmbr down` undoes what `--fix` did.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use std::path::PathBuf;

use serde_json::{Value, json};

use common::{Ended, Namespace, VethEnd, run, veth_pair};
use host::{Host, MAC, ping, script_in};

const PLAIN: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip addr add 2001:db8::21/64 dev eth0 nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1";

/// A bridge that vmbr did not make, with a guest.
const FOREIGN: &str = "
    ip tuntap add dev tap9 mode tap
    ip link add br9 address 02:00:00:00:00:99 type bridge
    ip link set tap9 master br9
    ip link set br9 up";

/// What doctor says, and its exit status.
fn doctor(host: &Host, args: &[&str]) -> (i32, Vec<Value>) {
    let ended = run(host.command(&["--json", "doctor"]).args(args));
    let document: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    assert_eq!(document["format"], 1, "{document}");
    (ended.code(), document["findings"].as_array().unwrap().clone())
}

fn clean(host: &Host) {
    let (status, findings) = doctor(host, &[]);
    assert_eq!((status, findings), (0, vec![]));
}

/// The only thing that doctor finds, by its id and its device.
fn only(host: &Host, id: &str, device: Value) -> Value {
    let (status, findings) = doctor(host, &[]);
    assert_eq!(status, 1, "{findings:?}");
    assert_eq!(findings.len(), 1, "{findings:?}");
    let finding = &findings[0];
    assert_eq!(finding["id"], id, "{finding}");
    assert_eq!(finding["device"], device, "{finding}");
    for key in ["severity", "message", "remedy"] {
        assert!(
            finding[key].as_str().is_some_and(|text| !text.is_empty()),
            "{finding}"
        );
    }
    assert!(finding["fixable"].is_boolean(), "{finding}");
    let text = host.vmbr(&["doctor"]);
    assert_eq!(text.code(), 1, "{text:?}");
    assert!(
        text.stdout.contains(finding["remedy"].as_str().unwrap()),
        "{text:?}"
    );
    finding.clone()
}

/// Runs a remedy as it would be pasted.
fn paste(host: &Host, finding: &Value) {
    host.sh(finding["remedy"].as_str().unwrap());
}

/// Mends the only finding by `--fix`, and sees that it is remembered.
fn fix(host: &Host, id: &str) {
    let (status, findings) = doctor(host, &["--fix"]);
    assert_eq!((status, findings.len()), (0, 1), "{findings:?}");
    assert_eq!(findings[0]["id"], id);
    assert_eq!(findings[0]["fixed"], true, "{findings:?}");
    assert!(fixes(host).exists(), "nothing was remembered");
    clean(host);
}

fn fixes(host: &Host) -> PathBuf {
    let mut entries = std::fs::read_dir(host.records()).unwrap();
    let directory = entries.next().map(|entry| entry.unwrap().path());
    directory
        .unwrap_or_else(|| host.records().to_owned())
        .join("doctor.fixes")
}

/// Breaks the host twice: mends it once by the remedy and once by `--fix`.
fn both_ways(host: &Host, breaking: &str, id: &str, device: &str) -> Value {
    clean(host);
    host.sh(breaking);
    let finding = only(host, id, json!(device));
    assert_eq!(finding["fixable"], true, "{finding}");
    paste(host, &finding);
    clean(host);
    host.sh(breaking);
    only(host, id, json!(device));
    fix(host, id);
    finding
}

fn option(ns: &Namespace, bridge: &str, key: &str) -> Value {
    ns.link(bridge).unwrap()["linkinfo"]["info_data"][key].clone()
}

fn down(host: &Host) -> Ended {
    let ended = host.vmbr(&["down"]);
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(!fixes(host).exists(), "what was undone is forgotten");
    ended
}

#[test]
fn an_ordinary_host_is_clean_before_on_and_after_the_bridge() {
    let host = Host::new("doctor", PLAIN);
    clean(&host);
    let text = host.vmbr(&["doctor"]).ok();
    assert!(text.contains("Nothing was found"), "{text}");
    host.vmbr(&["up", "eth0"]).ok();
    clean(&host);
    let before = host.state();
    assert_eq!(doctor(&host, &["--fix"]), (0, vec![]));
    before.assert_same(&host.state());
    host.vmbr(&["down"]).ok();
    clean(&host);
}

#[test]
fn stp_on_a_bridge_of_vmbrs_goes_with_it() {
    let host = Host::new("doctor-stp", PLAIN);
    let before = host.state();
    host.vmbr(&["up", "eth0"]).ok();
    let stp = "ip link set br0 type bridge stp_state 1";
    let finding = both_ways(&host, stp, "stp", "br0");
    assert!(finding["message"].as_str().unwrap().contains("15 s"), "{finding}");
    assert_eq!(option(&host.ns, "br0", "stp_state"), 0);
    down(&host);
    before.assert_same(&host.state());
}

#[test]
fn what_others_made_is_put_back() {
    let host = Host::new("doctor-foreign", &format!("{PLAIN}\n{FOREIGN}"));
    both_ways(&host, "ip link set br9 type bridge stp_state 1", "stp", "br9");
    // Another bridge comes and goes: vmbr has none left after it.
    host.vmbr(&["up", "eth0"]).ok();
    both_ways(
        &host,
        "ip link set br0 type bridge mcast_snooping 1",
        "snooping",
        "br0",
    );
    host.sh("ip link set br0 type bridge mcast_snooping 1 mcast_querier 1");
    clean(&host);
    let ended = down(&host);
    assert!(ended.stderr.contains("stp_state of br9"), "{ended:?}");
    assert_eq!(option(&host.ns, "br9", "stp_state"), 1);
}

#[test]
fn what_someone_changed_since_is_theirs() {
    let host = Host::new("doctor-theirs", &format!("{PLAIN}\n{FOREIGN}"));
    host.sh("ip link set br9 type bridge stp_state 1");
    fix(&host, "stp");
    host.sh("ip link set br9 type bridge stp_state 1");
    let ended = down(&host);
    assert!(ended.stderr.contains("someone changed"), "{ended:?}");
    assert_eq!(option(&host.ns, "br9", "stp_state"), 1);
    assert!(!down(&host).stderr.contains("someone"), "it is forgotten");
}

#[test]
fn a_mac_that_drifts_is_pinned() {
    let drifting = FOREIGN.replace("address 02:00:00:00:00:99 ", "");
    for fixed in [false, true] {
        let host = Host::new("doctor-drift", &format!("{PLAIN}\n{drifting}"));
        let finding = only(&host, "bridge-mac-drifts", json!("br9"));
        let mac = |host: &Host| host.ns.link("br9").unwrap()["address"].clone();
        let before = mac(&host);
        let lower = "ip link add low address 00:00:00:00:00:01 type veth peer name high
            ip link set low master br9";
        if fixed {
            fix(&host, "bridge-mac-drifts");
        } else {
            paste(&host, &finding);
            clean(&host);
        }
        host.sh(lower);
        assert_eq!(mac(&host), before, "it drifts in spite of the remedy");
        down(&host);
        assert_eq!(mac(&host), before);
        // Without the remedy it does: the finding tells the truth.
        let other = Host::new("doctor-drifts", &format!("{PLAIN}\n{drifting}"));
        let before = mac(&other);
        other.sh(lower);
        assert_ne!(mac(&other), before);
    }
}

#[test]
fn a_mac_that_was_rewritten() {
    let host = Host::new("doctor-rewritten", PLAIN);
    let before = host.state();
    host.vmbr(&["up", "eth0"]).ok();
    let finding = both_ways(
        &host,
        "ip link set br0 address 02:00:00:00:00:98",
        "bridge-mac-rewritten",
        "br0",
    );
    assert!(finding["message"].as_str().unwrap().contains(MAC), "{finding}");
    assert_eq!(host.ns.link("br0").unwrap()["address"], MAC);
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    down(&host);
    before.assert_same(&host.state());
}

#[test]
fn an_address_left_on_a_port() {
    let host = Host::new("doctor-address", PLAIN);
    let before = host.state();
    host.vmbr(&["up", "eth0"]).ok();
    let bridged = host.state();
    let copy = "ip addr add 192.0.2.21/24 brd + dev eth0; ip addr add 2001:db8::21/64 dev eth0 nodad";
    both_ways(&host, copy, "address-on-port", "eth0");
    bridged.assert_same(&host.state());
    down(&host);
    before.assert_same(&host.state());
}

#[test]
fn an_address_that_only_the_port_has_is_moved_by_hand() {
    // What others' tools leave (docker-net-dhcp #19): only enslaved.
    let host = Host::new("doctor-enslaved", PLAIN);
    host.sh(&format!(
        "ip link add br9 address {MAC} type bridge mcast_snooping 0; ip link set br9 up; ip link set eth0 master br9"
    ));
    let finding = only(&host, "address-on-port", json!("eth0"));
    assert_eq!(finding["fixable"], false, "{finding}");
    let (status, findings) = doctor(&host, &["--fix"]);
    assert_eq!((status, findings.len()), (1, 1), "{findings:?}");
    assert!(!ping(&host.lan, "192.0.2.21"), "the finding is no trouble at all");
    paste(&host, &finding);
    clean(&host);
    host.settle();
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
}

#[test]
fn routes_left_on_a_port() {
    let host = Host::new("doctor-route", PLAIN);
    let before = host.state();
    host.vmbr(&["up", "eth0"]).ok();
    host.sh("ip -6 route add 2001:db8:7::/48 via fe80::1 dev br0");
    let bridged = host.state();
    let copy = "ip route add default via 192.0.2.1 dev eth0 onlink metric 7
        ip -6 route add 2001:db8:7::/48 via fe80::1 dev eth0 metric 7";
    both_ways(&host, copy, "route-on-port", "eth0");
    bridged.assert_same(&host.state());
    host.sh("ip -6 route del 2001:db8:7::/48");
    // One that the bridge has not is not just taken away.
    host.sh("ip route add 198.51.100.0/24 via 192.0.2.2 dev eth0 onlink");
    let finding = only(&host, "route-on-port", json!("eth0"));
    assert_eq!(finding["fixable"], false, "{finding}");
    paste(&host, &finding);
    clean(&host);
    let routes = host.ns.json(&["route", "show", "198.51.100.0/24"]);
    assert_eq!(
        (&routes[0]["dev"], &routes[0]["gateway"]),
        (&json!("br0"), &json!("192.0.2.2"))
    );
    host.sh("ip route del 198.51.100.0/24");
    down(&host);
    before.assert_same(&host.state());
}

/// A guest on the bridge, and whether the LAN answers it.
fn guest(host: &Host) -> Namespace {
    let guest = Namespace::new("guest");
    let end = |namespace, name| VethEnd {
        namespace,
        name,
        mac: None,
    };
    veth_pair(&end(&host.ns, "port0"), &end(&guest, "eth0"));
    host.sh("ip link set port0 master br0 up");
    script_in(&guest, "ip link set eth0 up; ip addr add 192.0.2.50/24 dev eth0");
    guest
}

#[test]
fn bridge_netfilter_with_a_forward_chain_that_drops() {
    let host = Host::new("doctor-netfilter", PLAIN);
    assert_eq!(
        host.ns.sysctl("net/bridge/bridge-nf-call-iptables"),
        "1",
        "this kernel has no bridge netfilter: modprobe br_netfilter"
    );
    host.vmbr(&["up", "eth0"]).ok();
    let guest = guest(&host);
    assert!(ping(&guest, "192.0.2.1"));
    // As Docker has it, and a second one beside it.
    let docker = "nft flush ruleset
        nft add table ip filter
        nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
        nft add chain ip filter DOCKER-USER
        nft add rule ip filter DOCKER-USER counter return
        nft add rule ip filter FORWARD counter jump DOCKER-USER
        nft add rule ip filter FORWARD oifname docker0 ct state established,related accept
        nft add table inet fw
        nft add chain inet fw 'forward' '{ type filter hook forward priority 10; }'
        nft add rule inet fw 'forward' ct state established accept
        nft add rule inet fw 'forward' reject";
    clean(&host);
    host.sh(docker);
    assert!(!ping(&guest, "192.0.2.1"), "the rules drop nothing");
    let finding = only(&host, "bridge-netfilter", json!("br0"));
    paste(&host, &finding);
    clean(&host);
    assert!(ping(&guest, "192.0.2.1"), "the remedy does not help");
    host.sh(docker);
    let rules = host.sh("nft list ruleset");
    fix(&host, "bridge-netfilter");
    assert!(ping(&guest, "192.0.2.1"), "--fix does not help");
    // Off, the firewall is not asked, and in nobody's way.
    host.ns.set_sysctl("net/bridge/bridge-nf-call-iptables", "0");
    host.ns.set_sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
    host.vmbr(&["down", "--force"]).ok();
    assert_eq!(
        host.sh("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'"),
        {
            let zero = rules.lines().map(|line| match line.find("packets") {
                Some(at) => {
                    let rest: Vec<&str> = line[at..].splitn(5, ' ').collect();
                    format!("{} {}", &line[..at], rest.get(4).unwrap_or(&""))
                }
                None => line.to_owned(),
            });
            zero.map(|line| line + "\n").collect::<String>()
        }
    );
    assert!(!fixes(&host).exists());
}
