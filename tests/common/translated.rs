//! A host whose bridge is in mode mac-nat, and guests on it.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::time::Duration;

use serde_json::Value;

use crate::common::{Namespace, VethEnd, veth_pair, wait_until};
use crate::host::{Host, MAC, STATIC, State, ping, script_in};

/// The command that makes the bridge.
pub const UP: [&str; 4] = ["up", "eth0", "--mode", "mac-nat"];

/// Makes the host, and its bridge.
pub fn up(hint: &str) -> Host {
    let host = Host::new(hint, STATIC);
    host.vmbr(&UP).ok();
    host
}

/// A guest: a namespace behind a port of br0.
pub struct Guest {
    /// The guest.
    pub ns: Namespace,
    /// The port.
    pub port: String,
    /// Its MAC.
    pub mac: String,
    /// Its address.
    pub v4: String,
    /// The same in IPv6.
    pub v6: String,
}

impl Guest {
    /// Puts guest `number` (1 to 9) on br0: 192.0.2.50 and so on.
    pub fn new(host: &Host, number: u8) -> Self {
        let ns = Namespace::new("guest");
        let (port, mac) = (format!("g{number}"), format!("52:54:00:00:00:0{number}"));
        let one = VethEnd {
            namespace: &host.ns,
            name: &port,
            mac: None,
        };
        let other = VethEnd {
            namespace: &ns,
            name: "nic",
            mac: Some(&mac),
        };
        veth_pair(&one, &other);
        host.sh(&format!(
            "sysctl -qw net/ipv6/conf/{port}/disable_ipv6=1; ip link set {port} master br0 up"
        ));
        let (v4, v6) = (format!("192.0.2.5{number}"), format!("2001:db8::5{number}"));
        script_in(
            &ns,
            &format!(
                "ip link set nic up; ip addr add {v4}/24 dev nic; ip addr add {v6}/64 dev nic nodad
                 ip route add default via 192.0.2.1"
            ),
        );
        Self {
            ns,
            port,
            mac,
            v4,
            v6,
        }
    }

    /// Claims another address of the host's network, besides.
    pub fn claim(&self, address: &str) {
        script_in(&self.ns, &format!("ip addr add {address}/24 dev nic"));
    }

    /// Whether it reaches the LAN as this address.
    pub fn reaches_as(&self, address: &str) -> bool {
        // The question after a neighbour is asked as whoever asked first.
        script_in(&self.ns, "ip neigh flush dev nic");
        let mut command = self.ns.command("ping");
        command.args(["-n", "-c", "1", "-W", "1", "-I", address, "192.0.2.2"]);
        (0..2).any(|_| crate::common::run(&mut command).status.success())
    }

    /// Ends it; its port is gone when this returns.
    pub fn leave(self, host: &Host) {
        host.sh(&format!("ip link del {}", self.port));
    }

    /// Asserts that it reaches this, in both families.
    pub fn assert_reaches(&self, v4: &str, v6: &str) {
        for to in [v4, v6] {
            assert!(ping(&self.ns, to), "the guest does not reach {to}");
        }
    }
}

/// As whom the LAN knows an address.
pub fn known_as(host: &Host, address: &str) -> Option<String> {
    let all = host.lan.json(&["neigh", "show", "to", address]);
    all[0]["lladdr"].as_str().map(str::to_owned)
}

/// Asserts that the LAN knows the address as the uplink's.
pub fn assert_known_as_uplink(host: &Host, address: &str) {
    assert_eq!(known_as(host, address).as_deref(), Some(MAC), "{address}");
}

/// How often frames were counted for a reason.
pub fn counted(host: &Host, reason: &str) -> u64 {
    status(host)["translation"]["counters"][reason]
        .as_u64()
        .unwrap_or(0)
}

/// `vmbr status --json`, of br0.
pub fn status(host: &Host) -> Value {
    let document: Value = serde_json::from_str(&host.vmbr(&["status", "br0", "--json"]).ok()).unwrap();
    document["bridges"][0].clone()
}

/// What is attached in a namespace, as tc tells: none where nothing is.
pub fn filters(ns: &Namespace, dev: &str) -> String {
    let tool = |args: &[&str]| {
        let mut command = ns.command("tc");
        crate::common::run(command.args(args)).stdout
    };
    let all = ["ingress", "egress"].map(|side| tool(&["filter", "show", "dev", dev, side]));
    let qdisc = tool(&["qdisc", "show", "dev", dev, "clsact"]);
    format!("{}{}{qdisc}", all[0], all[1])
}

/// What tells of nothing but the bridge's own devices is left out: the host as
/// it would be without them.
pub fn assert_untouched(before: &State, after: &State) {
    let differences = before.changes(after);
    let own = |line: &String| !["br0", "g1", "g2", "g3"].iter().any(|name| line.contains(name));
    let strange: Vec<String> = differences.into_iter().filter(own).collect();
    assert_eq!(before.link("eth0"), after.link("eth0"), "{strange:?}");
    assert_eq!(before.part("route"), after.part("route"));
    for part in ["rule", "rule6", "neigh", "proxy", "nexthop"] {
        assert_eq!(before.part(part), after.part(part), "{part}");
    }
}

/// Waits until something is so.
pub fn until(what: &str, asked: impl FnMut() -> bool) {
    assert!(wait_until(Duration::from_secs(10), asked), "{what}");
}
