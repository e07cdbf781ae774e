//! MAC-NAT against guests that want what is not theirs.
#![cfg(feature = "mac-nat")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/air.rs"]
mod air;
mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/packets.rs"]
mod packets;

use std::net::Ipv4Addr;
use std::time::Duration;

use air::{A, Air, B, UPLINK, reaches, sh};
use common::wait_until;
use frames::{BROADCAST, Sender, frame, mac};
use packets::{ARP, IPV4, arp_as, ipv4, udp};
use vmbr::mac_nat::Way;

/// How many frames went out by a device of the host.
fn sent(air: &Air, device: &str) -> u64 {
    let text = sh(
        &air.host,
        &format!("ip -s -j link show {device} | grep -o '\"tx\":{{[^}}]*' | grep -o 'packets\":[0-9]*'"),
    );
    text.trim().rsplit(':').next().unwrap().parse().unwrap()
}

/// A frame that comes to where it was would never leave the kernel again.
#[test]
fn nothing_goes_round_for_ever() {
    for way in [Way::Tcx, Way::Clsact] {
        let air = Air::new("round", way);
        reaches(&air.a, "192.0.2.1");
        reaches(&air.b, "192.0.2.1");
        let b = mac(B);
        let claimed = Ipv4Addr::new(192, 0, 2, 77);
        let target = ([0; 6], Ipv4Addr::new(192, 0, 2, 78));
        let to_claimed = |from| ipv4(from, claimed, 17, (0, false), &udp(9, 9));
        let frames = [
            frame(BROADCAST, b, ARP, &arp_as(1, 1, (mac(UPLINK), claimed), target)),
            frame(mac(UPLINK), b, IPV4, &to_claimed(Ipv4Addr::new(192, 0, 2, 51))),
            // To a guest that is nowhere: the bridge floods it.
            frame(
                BROADCAST,
                b,
                ARP,
                &arp_as(1, 1, ([0x52, 0x54, 0, 0, 0, 0x99], claimed), target),
            ),
        ];
        let before = sent(&air, "pa");
        Sender::on(&air.b, "eth0").repeat(&frames, || {
            assert!(wait_until(Duration::from_secs(5), || air.counted("arp") > 20
                && air.counted("loop") > 20));
        });
        let flooded = sent(&air, "pa") - before;
        assert!(flooded < 2000, "{flooded} frames");
        assert_eq!(
            air.guest("192.0.2.77").unwrap().mac.to_string().to_lowercase(),
            "52:54:00:00:00:99"
        );
        // Of an uplink that has just got the MAC of a guest nobody is left.
        let mut settings = air.settings();
        settings.mac = A.parse().unwrap();
        air::inside(&air.host, || vmbr::mac_nat::sync(&settings, &air.addresses())).unwrap();
        assert_eq!(air.guest("192.0.2.50"), None);
    }
}
