//! MAC-NAT against real networks: guests, a host, a gateway and another
//! station, each a whole Linux.
//!
//! Each test that says [`both`] runs by tcx and by clsact.
#![cfg(feature = "mac-nat")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/air.rs"]
mod air;
mod common;

use air::{Air, reaches, sh};
use vmbr::mac_nat::Way;

const BOTH: [Way; 2] = [Way::Tcx, Way::Clsact];

#[test]
fn everyone_reaches_everyone() {
    for way in BOTH {
        let air = Air::new("reach", way);
        for v in ["192.0.2.", "2001:db8::"] {
            let to = |number: &str| format!("{v}{number}");
            for number in ["1", "9", "21", "51"] {
                reaches(&air.a, &to(number));
            }
            reaches(&air.host, &to("50"));
            reaches(&air.host, &to("51"));
            reaches(&air.host, &to("9"));
            // Nobody in the air has heard of b's address before.
            reaches(&air.station, &to("51"));
            reaches(&air.station, &to("21"));
            reaches(&air.lan, &to("50"));
        }
        let neighbours = sh(&air.station, "ip neigh");
        assert!(!neighbours.contains("52:54:00"), "{neighbours}");
        air.assert_one_mac();
    }
}
