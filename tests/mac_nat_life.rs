//! MAC-NAT's programs come, stay, change and go: what was learned stays, what is
//! others' is let alone.
#![cfg(feature = "mac-nat")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/air.rs"]
mod air;
mod common;

use std::collections::BTreeSet;

use air::{Air, UPLINK, inside, reaches, sh, unreachable};
use vmbr::mac_nat::{self, Addresses, Settings, Way};

const BOTH: [Way; 2] = [Way::Tcx, Way::Clsact];

#[test]
fn what_was_learned_stays_and_what_changed_is_taken_over() {
    for way in BOTH {
        let mut air = Air::new("sync", way);
        reaches(&air.a, "192.0.2.1");
        reaches(&air.b, "192.0.2.1");
        let (before, counted) = (air.guest("192.0.2.50").unwrap(), air.counted("protocol"));
        air.attach(way).unwrap();
        assert_eq!(air.guest("192.0.2.50").unwrap().mac, before.mac);
        assert_eq!(air.counted("protocol"), counted);
        let sync = |addresses: &Addresses| {
            let settings = air.settings();
            inside(&air.host, || mac_nat::sync(&settings, addresses)).unwrap()
        };
        let mut addresses = air.addresses();
        assert!(!sync(&addresses), "nothing has changed");
        // The host takes another address, which a guest had.
        addresses.protected.insert("192.0.2.51".parse().unwrap());
        assert!(sync(&addresses));
        assert_eq!(air.guest("192.0.2.51"), None);
        unreachable(&air.b, "192.0.2.1");
        addresses.protected.remove(&"192.0.2.51".parse().unwrap());
        assert!(sync(&addresses));
        reaches(&air.b, "192.0.2.1");
        // And another MAC.
        let other = "02:00:00:00:00:99";
        sh(&air.host, &format!("ip link set uplink address {other}"));
        assert!(sync(&addresses));
        assert!(!sync(&addresses));
        reaches(&air.a, "192.0.2.9");
        reaches(&air.station, "192.0.2.50");
        reaches(&air.host, "192.0.2.50");
        let heard: BTreeSet<String> = air.heard().into_keys().collect();
        assert_eq!(heard, [UPLINK, other].map(str::to_owned).into());
    }
}

#[test]
fn they_go_without_a_trace_and_leave_what_is_others() {
    for way in BOTH {
        let air = Air::bare("detach");
        let [uplink, port] = ["uplink", "air0"].map(|device| air.index(device));
        let stand = || inside(&air.host, || mac_nat::attached(uplink, port)).unwrap();
        let detach = || inside(&air.host, || mac_nat::detach(uplink, port)).unwrap();
        let trace = || sh(&air.host, "tc qdisc show dev uplink; tc qdisc show dev air0");
        let before = trace();
        detach();
        assert!(!stand().any());
        let error = inside(&air.host, || mac_nat::guests(uplink)).unwrap_err();
        assert!(error.to_string().contains("uplink"), "{error}");
        air.attach(way).unwrap();
        assert!(stand().all());
        assert_eq!(trace() != before, way == Way::Clsact, "{}", trace());
        detach();
        assert!(!stand().any());
        assert_eq!(trace(), before);
        // Somebody else's qdisc, with a filter and without.
        let filter = "for side in ingress egress; do
                tc filter add dev uplink $side prio 1 bpf bytecode '1,6 0 0 0,' flowid 1:1
            done";
        for filter in ["", filter] {
            sh(
                &air.host,
                &format!("tc qdisc replace dev uplink clsact; {filter}"),
            );
            let others = || {
                sh(
                    &air.host,
                    "tc qdisc show dev uplink
                     for side in ingress egress; do tc filter show dev uplink $side; done",
                )
            };
            let before = others();
            air.attach(way).unwrap();
            air.attach(way).unwrap();
            assert!(stand().all());
            detach();
            detach();
            assert_eq!(others(), before);
        }
        assert!(!stand().any());
    }
}

#[test]
fn all_of_them_stand_or_none() {
    for way in BOTH {
        let air = Air::bare("none");
        let settings = Settings {
            air: 9999,
            ..air.settings()
        };
        let error = air.attach_with(way, &settings, &air.addresses()).unwrap_err();
        assert!(
            error.to_string().contains("egress of the device with index 9999"),
            "{error}"
        );
        assert!(error.remedy.is_some());
        let uplink = air.index("uplink");
        assert!(
            !inside(&air.host, || mac_nat::attached(uplink, 9999))
                .unwrap()
                .any()
        );
        let qdiscs = sh(&air.host, "tc qdisc show dev uplink");
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }
}

#[test]
fn by_either_way_they_take_over_from_the_other() {
    let air = Air::new("over", Way::Clsact);
    reaches(&air.a, "192.0.2.1");
    for way in [Way::Tcx, Way::Clsact] {
        air.attach(way).unwrap();
        assert!(air.guest("192.0.2.50").is_some(), "what was learned is gone");
        reaches(&air.a, "192.0.2.9");
    }
    // The device that stands for the uplink goes, and with it what it held.
    let (uplink, port) = (air.index("uplink"), air.index("air0"));
    sh(&air.host, "ip link del air0");
    let attached = inside(&air.host, || mac_nat::attached(uplink, port)).unwrap();
    assert!(attached.uplink_in && attached.uplink_out && !attached.air_out);
    inside(&air.host, || mac_nat::detach(uplink, port)).unwrap();
    assert!(
        !inside(&air.host, || mac_nat::attached(uplink, port))
            .unwrap()
            .any()
    );
}

/// Its programs go with it, where it holds them itself (a qdisc stays behind);
/// the numbers that they know are others' there.
#[test]
fn an_uplink_that_went_elsewhere_sends_nothing_to_others() {
    let way = Way::Tcx;
    let air = Air::new("elsewhere", way);
    reaches(&air.a, "192.0.2.1");
    let elsewhere = common::Namespace::new("elsewhere-there");
    let [port, pa, uplink] = ["air0", "pa", "uplink"].map(|device| air.index(device));
    let there = elsewhere.name();
    sh(&air.host, &format!("ip link set uplink netns {there}"));
    sh(
        &elsewhere,
        &format!(
            "ip addr add 192.0.2.21/24 dev uplink; ip link set uplink up
             ip link add victim index {port} type veth peer name victim1 index 50
             ip link add victim2 index {pa} type veth peer name victim3 index 51
             for device in victim victim1 victim2 victim3; do
                 sysctl -qw net.ipv6.conf.$device.disable_ipv6=1; ip link set $device arp off up
             done"
        ),
    );
    let touched = || {
        sh(
            &elsewhere,
            "for device in victim victim2; do cat /sys/class/net/$device/statistics/?x_packets; done",
        )
    };
    let speak = || {
        reaches(&elsewhere, "192.0.2.1");
        let script = "ip neigh replace 192.0.2.50 lladdr 02:00:00:00:00:21 dev eth0 nud permanent
            ping -c 5 -i 0.2 -W 1 192.0.2.50 || true";
        sh(&air.station, script);
    };
    let before = touched();
    speak();
    assert_ne!(touched(), before, "the test shows nothing");
    inside(&air.host, || mac_nat::detach(uplink, port)).unwrap();
    let before = touched();
    speak();
    assert_eq!(touched(), before);
    // It comes back, and is attached again.
    sh(
        &elsewhere,
        &format!("ip link set uplink netns {}", air.host.name()),
    );
    sh(
        &air.host,
        "ip addr add 192.0.2.21/24 dev uplink; ip link set uplink up",
    );
    air.attach(way).unwrap();
    reaches(&air.a, "192.0.2.1");
}
