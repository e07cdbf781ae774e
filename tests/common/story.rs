//! The host that stories are told of, and the two ways to give it a bridge.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::time::Duration;

use crate::host::Host;

/// An ordinary host, both families.
pub const STATIC: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip addr add 2001:db8::21/64 dev eth0
    ip route add default via 192.0.2.1 metric 100
    ip -6 route add default via 2001:db8::1 metric 100";

/// How long silence lasts before it is no hiccup: several of TCP's timeouts.
pub const SILENCE: Duration = Duration::from_secs(4);

/// What tutorials tell one to type, word for word, line by line.
pub const TUTORIAL: [&str; 6] = [
    "ip link add br0 type bridge",
    "ip link set eth0 master br0",
    "ip addr flush dev eth0",
    "ip addr add 192.0.2.21/24 dev br0",
    "ip link set br0 up",
    "ip route add default via 192.0.2.1 dev br0",
];

/// Types all of it.
pub fn tutorial(host: &Host) {
    host.sh(&TUTORIAL.join("\n"));
}

/// `vmbr up eth0`, which must succeed.
pub fn up(host: &Host) {
    host.vmbr(&["up", "eth0"]).ok();
}

/// `vmbr down`, which must succeed.
pub fn down(host: &Host) {
    host.vmbr(&["down"]).ok();
}
