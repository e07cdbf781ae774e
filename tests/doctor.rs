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
#[path = "common/site.rs"]
mod site;

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use common::{Namespace, VethEnd, veth_pair, wait_until};
use host::{MAC, ping, script_in};
use site::Site;

/// How long what is done at once may take.
const SOON: Duration = Duration::from_secs(6);

/// A bridge that vmbr did not make, with a guest.
const FOREIGN: &str = "
    ip tuntap add dev tap9 mode tap
    ip link add br9 address 02:00:00:00:00:99 type bridge
    ip link set tap9 master br9
    ip link set br9 up";

fn option(ns: &Namespace, bridge: &str, key: &str) -> Value {
    ns.link(bridge).unwrap()["linkinfo"]["info_data"][key].clone()
}

#[test]
fn an_ordinary_host_is_clean_before_on_and_after_the_bridge() {
    let host = Site::new("doctor", "");
    host.assert_clean();
    let text = host.vmbr(&["doctor"]).ok();
    assert!(text.contains("Nothing was found"), "{text}");
    host.up();
    host.assert_clean();
    let before = host.state();
    assert_eq!(host.doctor(&["--fix"]), (0, vec![]));
    before.assert_same(&host.state());
    host.vmbr(&["down"]).ok();
    host.assert_clean();
}

#[test]
fn stp_on_a_bridge_of_vmbrs_goes_with_it() {
    let host = Site::new("doctor-stp", "");
    let before = host.state();
    host.up();
    let stp = "ip link set br0 type bridge stp_state 1";
    let finding = host.both_ways(stp, "stp", Some("br0"));
    assert!(finding["message"].as_str().unwrap().contains("15 s"), "{finding}");
    assert_eq!(option(&host.ns, "br0", "stp_state"), 0);
    host.down();
    before.assert_same(&host.state());
}

#[test]
fn what_others_made_is_put_back() {
    let host = Site::new("doctor-foreign", FOREIGN);
    host.both_ways("ip link set br9 type bridge stp_state 1", "stp", Some("br9"));
    // Another bridge comes and goes: vmbr has none left after it.
    host.up();
    host.both_ways(
        "ip link set br0 type bridge mcast_snooping 1",
        "snooping",
        Some("br0"),
    );
    host.sh("ip link set br0 type bridge mcast_snooping 1 mcast_querier 1");
    host.assert_clean();
    let ended = host.down();
    assert!(ended.stderr.contains("stp_state of br9"), "{ended:?}");
    assert_eq!(option(&host.ns, "br9", "stp_state"), 1);
}

#[test]
fn what_someone_changed_since_is_theirs() {
    let host = Site::new("doctor-theirs", FOREIGN);
    host.sh("ip link set br9 type bridge stp_state 1");
    host.fix("stp");
    host.sh("ip link set br9 type bridge stp_state 1");
    let ended = host.down();
    assert!(ended.stderr.contains("someone changed"), "{ended:?}");
    assert_eq!(option(&host.ns, "br9", "stp_state"), 1);
    assert!(!host.down().stderr.contains("someone"), "it is forgotten");
}

#[test]
fn a_mac_that_drifts_is_pinned() {
    let drifting = FOREIGN.replace("address 02:00:00:00:00:99 ", "");
    for fixed in [false, true] {
        let host = Site::new("doctor-drift", &drifting);
        let finding = host.only("bridge-mac-drifts", Some("br9"));
        let mac = |host: &Site| host.ns.link("br9").unwrap()["address"].clone();
        let before = mac(&host);
        let lower = "ip link add low address 00:00:00:00:00:01 type veth peer name high
            ip link set low master br9";
        if fixed {
            host.fix("bridge-mac-drifts");
        } else {
            host.paste(&finding);
            host.assert_clean();
        }
        host.sh(lower);
        assert_eq!(mac(&host), before, "it drifts in spite of the remedy");
        host.down();
        assert_eq!(mac(&host), before);
        // Without the remedy it does: the finding tells the truth.
        let other = Site::new("doctor-drifts", &drifting);
        let before = mac(&other);
        other.sh(lower);
        assert_ne!(mac(&other), before);
    }
}

#[test]
fn a_mac_that_was_rewritten() {
    let host = Site::new("doctor-rewritten", "");
    let before = host.state();
    host.up();
    let finding = host.both_ways(
        "ip link set br0 address 02:00:00:00:00:98",
        "bridge-mac-rewritten",
        Some("br0"),
    );
    assert!(finding["message"].as_str().unwrap().contains(MAC), "{finding}");
    assert_eq!(host.ns.link("br0").unwrap()["address"], MAC);
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    host.down();
    before.assert_same(&host.state());
}

#[test]
fn an_address_left_on_a_port() {
    let host = Site::new("doctor-address", "");
    let before = host.state();
    host.up();
    let bridged = host.state();
    let copy = "ip addr add 192.0.2.21/24 brd + dev eth0; ip addr add 2001:db8::21/64 dev eth0 nodad";
    host.both_ways(copy, "address-on-port", Some("eth0"));
    bridged.assert_same(&host.state());
    host.down();
    before.assert_same(&host.state());
}

#[test]
fn an_address_that_only_the_port_has_is_moved_by_hand() {
    // What others' tools leave (docker-net-dhcp #19): only enslaved.
    let host = Site::new("doctor-enslaved", "");
    host.sh(&format!(
        "ip link add br9 address {MAC} type bridge mcast_snooping 0; ip link set br9 up; ip link set eth0 master br9"
    ));
    let finding = host.only("address-on-port", Some("eth0"));
    assert_eq!(finding["fixable"], false, "{finding}");
    let (status, findings) = host.doctor(&["--fix"]);
    assert_eq!((status, findings.len()), (1, 1), "{findings:?}");
    assert!(!ping(&host.lan, "192.0.2.21"), "the finding is no trouble at all");
    host.paste(&finding);
    host.assert_clean();
    host.settle();
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
}

#[test]
fn routes_left_on_a_port() {
    let host = Site::new("doctor-route", "");
    let before = host.state();
    host.up();
    host.sh("ip -6 route add 2001:db8:7::/48 via fe80::1 dev br0");
    let bridged = host.state();
    let copy = "ip route add default via 192.0.2.1 dev eth0 onlink metric 7
        ip -6 route add 2001:db8:7::/48 via fe80::1 dev eth0 metric 7";
    host.both_ways(copy, "route-on-port", Some("eth0"));
    bridged.assert_same(&host.state());
    host.sh("ip -6 route del 2001:db8:7::/48");
    // One that the bridge has not is not just taken away.
    host.sh("ip route add 198.51.100.0/24 via 192.0.2.2 dev eth0 onlink");
    let finding = host.only("route-on-port", Some("eth0"));
    assert_eq!(finding["fixable"], false, "{finding}");
    host.paste(&finding);
    host.assert_clean();
    let routes = host.ns.json(&["route", "show", "198.51.100.0/24"]);
    assert_eq!(
        (&routes[0]["dev"], &routes[0]["gateway"]),
        (&json!("br0"), &json!("192.0.2.2"))
    );
    host.sh("ip route del 198.51.100.0/24");
    host.down();
    before.assert_same(&host.state());
}

#[test]
fn what_was_taken_from_anothers_port_comes_back() {
    let host = Site::new("doctor-taken", FOREIGN);
    host.sh("ip link set tap9 up
        for dev in tap9 br9; do
            ip addr add 198.51.100.9/24 dev $dev; ip addr add 2001:db8:9::9/64 dev $dev nodad
            ip route add 203.0.113.0/24 via 198.51.100.1 dev $dev metric 9$(cat /sys/class/net/$dev/ifindex)
        done");
    let before = host.state();
    let finding = host.only("address-on-port", Some("tap9"));
    assert_eq!(finding["fixable"], true, "{finding}");
    host.fix("address-on-port");
    let ended = host.down();
    for what in [
        "198.51.100.9/24 of tap9",
        "2001:db8:9::9/64",
        "203.0.113.0/24 by tap9",
    ] {
        assert!(ended.stderr.contains(what), "no {what} in {ended:?}");
    }
    // What came back stands behind what was there all the time.
    let sorted = |list: &Value| {
        let mut list: Vec<String> = list.as_array().unwrap().iter().map(Value::to_string).collect();
        list.sort();
        list
    };
    let after = host.state();
    for part in ["route", "route6"] {
        assert_eq!(sorted(before.part(part)), sorted(after.part(part)), "{part}");
    }
    let addresses = |state: &host::State| sorted(&state.link("tap9")["addr_info"]);
    assert_eq!(addresses(&before), addresses(&after));
    host.only("address-on-port", Some("tap9"));
}

/// A guest on the bridge, and whether the LAN answers it.
fn guest(host: &Site) -> Namespace {
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
    let host = Site::new("doctor-netfilter", "");
    assert_eq!(
        host.ns.sysctl("net/bridge/bridge-nf-call-iptables"),
        "1",
        "this kernel has no bridge netfilter: modprobe br_netfilter"
    );
    host.up();
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
    host.assert_clean();
    host.sh(docker);
    assert!(!ping(&guest, "192.0.2.1"), "the rules drop nothing");
    let finding = host.only("bridge-netfilter", Some("br0"));
    host.paste(&finding);
    host.assert_clean();
    assert!(ping(&guest, "192.0.2.1"), "the remedy does not help");
    host.sh(docker);
    let rules = host.sh("nft list ruleset");
    host.fix("bridge-netfilter");
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
    assert!(!host.fixes().exists());
}

/// What served the bridge goes with it, however it goes; what doctor did for
/// the rest of the host is no part of `up`, and waits for `down`.
#[test]
fn what_was_mended_goes_with_an_up_that_is_led_back() {
    let host = Site::new("doctor-led-back", "");
    let mode = || host.sh("stat -c %a /dev/net/tun");
    host.sh("chmod 600 /dev/net/tun");
    host.fix("tun-mode");
    host.sh("nft add table inet fw
        nft add chain inet fw f '{ type filter hook forward priority 0; policy drop; }'");
    let rules = || host.sh("nft list ruleset");
    let before = rules();
    let mend = || {
        host.vmbr(&["doctor", "--fix"]);
        assert!(rules().contains("br0"), "the trouble is none, or is not mended");
    };

    let up = thread::scope(|scope| {
        let up = scope.spawn(|| host.vmbr(&["up", "eth0", "--confirm=3"]));
        let waits = || host.vmbr(&["status", "br0"]).stdout.contains("vmbr confirm br0");
        assert!(wait_until(SOON, waits), "it does not wait to be confirmed");
        mend();
        up.join().unwrap()
    });
    assert_eq!(up.code(), 1, "{up:?}");
    assert!(wait_until(SOON, || rules() == before), "{}", rules());
    assert_eq!(mode(), "666\n");

    host.up();
    mend();
    let path = host.fixes().with_file_name("br0.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["progress"] = "changing".into();
    std::fs::write(&path, record.to_string()).unwrap();
    host.vmbr(&["recover"]).ok();
    assert_eq!(rules(), before);
    assert_eq!(mode(), "666\n");

    host.down();
    assert_eq!(mode(), "600\n");
}
