//! Hosts at the edge of what a plan must bear: thousands of routes, gateways
//! that no route leads to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use std::fmt::Write as _;
use std::time::Instant;

use host::{Host, STATIC, V4, V6};

/// A flip of ten thousand routes is one datagram, too.
#[test]
fn ten_thousand_routes() {
    const EACH: u32 = 5_000;
    let host = Host::new("many-routes", STATIC);
    let mut batch = String::new();
    for n in 0..EACH {
        writeln!(batch, "route add 10.{}.{}.0/24 via 192.0.2.1", n / 256, n % 256).unwrap();
        writeln!(batch, "route add 2001:db8:1:{n:x}::/64 via 2001:db8::1").unwrap();
    }
    let file = host.records().join("batch");
    std::fs::write(&file, batch).unwrap();
    host.sh(&format!("ip -batch {}", file.display()));
    let before = host.state();

    let start = Instant::now();
    let up = host.vmbr(&["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    println!("up with {EACH} routes of each family: {:?}", start.elapsed());
    before.assert_moved(&host.state(), "eth0", "br0");
    host.ping_both_ways(V4, V6);

    let start = Instant::now();
    let down = host.vmbr(&["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    println!("down with {EACH} routes of each family: {:?}", start.elapsed());
    before.assert_same(&host.state());
    host.ping_both_ways(V4, V6);
}

/// Gateways whose route was removed: the kernel keeps what goes by them, but
/// takes nothing new by them.
#[test]
fn gateways_that_no_route_leads_to() {
    let host = Host::new(
        "lost-ways",
        "ip link set eth0 up
         ip addr add 192.0.2.21/24 dev eth0
         ip addr add 2001:db8::21/64 dev eth0 nodad
         ip addr add 198.51.100.21/32 dev eth0
         ip route add 198.51.100.9 dev eth0
         ip route add 203.0.113.0/24 via 198.51.100.9
         ip route del 198.51.100.9 dev eth0
         ip route add default via 192.0.2.1
         ip -6 route add default via 2001:db8::1
         until ip nexthop add id 1 via 192.0.2.2 dev eth0 2>/dev/null; do sleep 0.05; done
         ip route add 10.1.0.0/16 nhid 1
         ip route del 192.0.2.0/24 dev eth0
         ip -6 route del 2001:db8::/64 dev eth0",
    );
    let before = host.state();
    let up = host.vmbr(&["up", "eth0", "--no-verify"]);
    assert_eq!(up.code(), 0, "{up:?}");
    before.assert_moved(&host.state(), "eth0", "br0");
    let down = host.vmbr(&["down", "--no-verify"]);
    assert_eq!(down.code(), 0, "{down:?}");
    before.assert_same(&host.state());
}
