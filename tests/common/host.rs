//! A host with a NIC on a LAN, each a namespace, and all of its network's
//! state to compare.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Ended, Namespace, VethEnd, run, veth_pair, wait_until};

/// The NIC's MAC.
pub const MAC: &str = "02:00:00:00:00:21";
/// The addresses of a host that [`STATIC`] makes.
pub const V4: Option<&str> = Some("192.0.2.21");
pub const V6: Option<&str> = Some("2001:db8::21");
/// A NIC with an address and a gateway of each family.
pub const STATIC: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip addr add 2001:db8::21/64 dev eth0 nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1";
/// Seconds by which a remaining lifetime may be shorter than it was.
const ELAPSED: i64 = 60;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The host with `eth0` and, on a second LAN, `eth1`; and the LANs. `eth0`
/// leads to `lan0` in the LAN, which has 192.0.2.1/24, 192.0.2.2/24 and
/// 2001:db8::1/64, 2001:db8::2/64, fe80::1 and fe80::2.
pub struct Host {
    /// The host.
    pub ns: Namespace,
    /// The LAN of `eth0`.
    pub lan: Namespace,
    /// The LAN of `eth1`.
    pub lan1: Namespace,
    records: PathBuf,
}

impl Host {
    /// Makes host and LANs; then `script` runs on the host, by `sh -e`.
    pub fn new(hint: &str, script: &str) -> Self {
        let ns = Namespace::new(hint);
        let lan = Namespace::new("lan");
        let lan1 = Namespace::new("lan1");
        for (dev, mac, far, peer) in [
            ("eth0", MAC, &lan, "lan0"),
            ("eth1", "02:00:00:00:00:31", &lan1, "lan1"),
        ] {
            let one = VethEnd {
                namespace: &ns,
                name: dev,
                mac: Some(mac),
            };
            let other = VethEnd {
                namespace: far,
                name: peer,
                mac: None,
            };
            veth_pair(&one, &other);
        }
        script_in(
            &lan,
            "ip link set lan0 mtu 9000 up
             ip addr add 192.0.2.1/24 dev lan0
             ip addr add 192.0.2.2/24 dev lan0
             for a in 2001:db8::1/64 2001:db8::2/64 fe80::1/64 fe80::2/64; do ip addr add $a dev lan0 nodad; done",
        );
        script_in(
            &lan1,
            "ip link set lan1 mtu 9000 up
             ip addr add 198.51.100.1/24 dev lan1
             for a in 2001:db8:1::1/64 fe80::1/64; do ip addr add $a dev lan1 nodad; done",
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let records = std::env::temp_dir().join(format!("vmbr-records-{}-{number}", std::process::id()));
        std::fs::create_dir(&records).unwrap();
        let host = Self {
            ns,
            lan,
            lan1,
            records,
        };
        host.sh(script);
        host.settle();
        host
    }

    /// Runs a script on the host by `sh -e`; panics where it fails.
    pub fn sh(&self, script: &str) -> String {
        script_in(&self.ns, script)
    }

    /// Where `vmbr` keeps this host's records.
    pub fn records(&self) -> &Path {
        &self.records
    }

    /// The command `vmbr ARGS` on the host.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.ns.command(env!("CARGO_BIN_EXE_vmbr"));
        command.arg("--state-dir").arg(&self.records).args(args);
        command.env_remove("SUDO_USER");
        command
    }

    /// Runs `vmbr ARGS` on the host.
    pub fn vmbr(&self, args: &[&str]) -> Ended {
        run(&mut self.command(args))
    }

    /// Waits until no address is tentative and each device that is up has its
    /// carrier.
    pub fn settle(&self) {
        let quiet = || {
            let all = self.ns.json(&["addr", "show"]);
            all.as_array().unwrap().iter().all(|link| {
                let up = link["flags"].as_array().unwrap().contains(&json!("UP"));
                let started = !up
                    || !link["ifname"].as_str().unwrap().starts_with("eth")
                    || link["operstate"] != "DOWN";
                let addresses = link["addr_info"].as_array().unwrap();
                started && addresses.iter().all(|a| a["tentative"] != json!(true))
            })
        };
        assert!(
            wait_until(Duration::from_secs(10), quiet),
            "{}",
            self.ns.ip(&["addr"])
        );
    }

    /// Pings both ways between the host and the first address of the LAN.
    pub fn ping_both_ways(&self, v4: Option<&str>, v6: Option<&str>) {
        for (mine, theirs) in [(v4, "192.0.2.1"), (v6, "2001:db8::1")] {
            if let Some(mine) = mine {
                assert!(ping(&self.ns, theirs), "the LAN does not answer at {theirs}");
                assert!(ping(&self.lan, mine), "the host does not answer at {mine}");
            }
        }
    }

    /// The whole state of the host's network.
    pub fn state(&self) -> State {
        State::of(&self.ns)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The lock's file is in /run/vmbr, by the name of the namespace.
        for entry in std::fs::read_dir(&self.records).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str() {
                let _ = std::fs::remove_file(format!("/run/vmbr/{name}.lock"));
            }
        }
        let _ = std::fs::remove_dir_all(&self.records);
    }
}

/// Runs a script in a namespace by `sh -e`; panics where it fails.
pub fn script_in(ns: &Namespace, script: &str) -> String {
    let ended = run(ns.command("sh").args(["-e", "-c", script]));
    assert!(
        ended.status.success(),
        "{script}\n{}{}",
        ended.stdout,
        ended.stderr
    );
    ended.stdout
}

/// Whether an address answers within some seconds.
pub fn ping(ns: &Namespace, to: &str) -> bool {
    let one = || {
        run(ns.command("ping").args(["-n", "-c", "1", "-W", "2", to]))
            .status
            .success()
    };
    one() || one()
}

/// All that `ip` and /proc/sys/net tell of a namespace.
#[derive(Debug, Clone)]
pub struct State {
    /// Links, addresses, routes, rules, neighbours, settings.
    pub parts: Vec<(String, Value)>,
    at: Instant,
}

impl State {
    /// Leaves out the routes to single routers that NetworkManager makes where it
    /// hears one in a moment in which the link's own prefix has no route.
    pub fn without_routes_to_routers(mut self) -> Self {
        let to_router = |route: &Value| {
            let dst = route["dst"].as_str().unwrap_or_default();
            route["protocol"] == "ra" && dst.starts_with("fe80::") && !dst.contains('/')
        };
        let routes = self.parts.iter_mut().find(|(name, _)| name == "route6");
        let list = routes.and_then(|(_, value)| value.as_array_mut()).unwrap();
        list.retain(|route| !to_router(route));
        self
    }

    /// Looks at a namespace.
    pub fn of(ns: &Namespace) -> Self {
        let at = Instant::now();
        let mut parts = Vec::new();
        for (what, args) in [
            ("addr", vec!["-d", "addr", "show"]),
            ("route", vec!["-4", "-d", "route", "show", "table", "all"]),
            ("route6", vec!["-6", "-d", "route", "show", "table", "all"]),
            ("nexthop", vec!["-d", "nexthop", "show"]),
            ("rule", vec!["-4", "rule", "show"]),
            ("rule6", vec!["-6", "rule", "show"]),
            ("neigh", vec!["neigh", "show", "nud", "all"]),
            ("proxy", vec!["neigh", "show", "proxy"]),
        ] {
            let mut value = ns.json(&args);
            let list = value.as_array_mut().unwrap();
            match what {
                // What was learned comes and goes.
                "neigh" => list.retain(|n| {
                    let state = n["state"].to_string();
                    state.contains("PERMANENT") || !n["extern_learn"].is_null()
                }),
                "addr" => {
                    list.sort_by_key(|l| l["ifindex"].as_u64());
                    // No program can set this flag (IFA_F_STABLE_PRIVACY,
                    // `inet6_rtm_newaddr()`): it tells how the kernel made
                    // the address, and changes nothing.
                    let addresses = list.iter_mut().filter_map(|l| l["addr_info"].as_array_mut());
                    for address in addresses.flatten() {
                        address.as_object_mut().unwrap().remove("stable-privacy");
                    }
                }
                // Routes to the host itself are the kernel's, made with each
                // address: all of one slot lead to the same place.
                "route6" => {
                    let own = |r: &Value| r["table"] == "local" && r["protocol"] == "kernel";
                    let (mut kernels, rest): (Vec<Value>, Vec<Value>) = list.drain(..).partition(own);
                    kernels.sort_by_key(|r| (r["dst"].to_string(), r["dev"].to_string()));
                    list.extend(rest.into_iter().chain(kernels));
                }
                _ => {}
            }
            if what == "neigh" || what == "proxy" {
                list.sort_by_key(ToString::to_string);
            }
            parts.push((what.to_owned(), value));
        }
        let text = script_in(
            ns,
            "cd /proc/sys/net; for d in ipv4/conf ipv4/neigh ipv6/conf ipv6/neigh; do \
             grep -rs . $d || :; done; cat ipv4/ip_forward | sed 's/^/ip_forward:/'",
        );
        let mut sysctls = serde_json::Map::new();
        for line in text.lines() {
            if let Some((key, value)) = line.split_once(':') {
                sysctls.insert(key.to_owned(), json!(value));
            }
        }
        parts.push(("sysctl".to_owned(), Value::Object(sysctls)));
        Self { parts, at }
    }

    /// One part.
    pub fn part(&self, name: &str) -> &Value {
        &self
            .parts
            .iter()
            .find(|(n, _)| n == name)
            .unwrap_or_else(|| panic!("no part {name}"))
            .1
    }

    /// The link of this name with its addresses.
    pub fn link(&self, name: &str) -> &Value {
        let links = self.part("addr").as_array().unwrap();
        links
            .iter()
            .find(|l| l["ifname"] == name)
            .unwrap_or_else(|| panic!("no link {name}"))
    }

    /// Asserts that another host, made at about the same time, has the same.
    pub fn assert_alike(&self, other: &Self) {
        self.compare(other, ELAPSED);
    }

    /// Asserts that `later` is the same, lifetimes going down with the clock.
    pub fn assert_same(&self, later: &Self) {
        // Rounding up may add one.
        self.compare(later, 1);
    }

    /// What is different in `later`, in sentences, lifetimes going down with
    /// the clock.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        self.differences(later, 1)
    }

    fn compare(&self, later: &Self, longer: i64) {
        let found = self.differences(later, longer);
        assert!(found.is_empty(), "the host differs:\n{}", found.join("\n"));
    }

    fn differences(&self, later: &Self, longer: i64) -> Vec<String> {
        let mut found = Vec::new();
        for ((name, before), (_, after)) in self.parts.iter().zip(&later.parts) {
            differences(name, before, after, longer, &mut found);
        }
        found
    }

    /// Asserts that `bridge` in `later` carries what `nic` carries here, and
    /// that the NIC is its port and carries nothing.
    pub fn assert_moved(&self, later: &Self, nic: &str, bridge: &str) {
        let found = self.not_moved(later, nic, bridge);
        assert!(
            found.is_empty(),
            "{bridge} differs from {nic} before:\n{}",
            found.join("\n")
        );
    }

    /// What keeps `later` from being this with `nic`'s network on `bridge`, in
    /// sentences.
    pub fn not_moved(&self, later: &Self, nic: &str, bridge: &str) -> Vec<String> {
        let mut found = Vec::new();
        if !later.has_link(bridge) {
            return vec![format!("there is no {bridge}")];
        }
        let was = self.link(nic);
        let is = later.link(bridge);
        for key in ["mtu", "address"] {
            differences(&format!("{bridge} {key}"), &was[key], &is[key], 1, &mut found);
        }
        let renamed = |value: &Value| {
            let mut value = value.clone();
            rename(&mut value, nic, bridge);
            value
        };
        differences(
            "addresses",
            &renamed(&was["addr_info"]),
            &is["addr_info"],
            1,
            &mut found,
        );
        for part in ["route", "route6"] {
            let of = |state: &Self, dev: &str| {
                let list = state.part(part).as_array().unwrap().clone();
                let names = |r: &Value| {
                    let hop = |h: &Value| h["dev"] == dev;
                    hop(r) || r["nexthops"].as_array().is_some_and(|hops| hops.iter().any(hop))
                };
                Value::Array(list.into_iter().filter(names).collect())
            };
            let mut left = of(later, nic);
            // The kernel gives every device that is up its multicast route.
            left.as_array_mut().unwrap().retain(|r| r["type"] != "multicast");
            let none = json!([]);
            differences(&format!("{nic} {part}"), &none, &left, 1, &mut found);
            differences(part, &renamed(&of(self, nic)), &of(later, bridge), 1, &mut found);
        }
        for part in ["nexthop", "rule", "rule6", "neigh", "proxy"] {
            let mut was = renamed(self.part(part));
            let mut is = later.part(part).clone();
            for list in [&mut was, &mut is] {
                list.as_array_mut().unwrap().sort_by_key(ToString::to_string);
            }
            differences(part, &was, &is, 1, &mut found);
        }
        let of = |state: &Self, dev: &str| {
            let all = state.part("sysctl").as_object().unwrap();
            let marked = format!("/{dev}/");
            let own = all.iter().filter(|(key, _)| key.contains(&marked));
            Value::Object(own.map(|(k, v)| (k.replace(&marked, "/*/"), v.clone())).collect())
        };
        differences("sysctl", &of(self, nic), &of(later, bridge), 1, &mut found);
        let port = later.link(nic);
        let none = json!([]);
        differences(
            &format!("{nic} master"),
            &json!(bridge),
            &port["master"],
            1,
            &mut found,
        );
        differences(
            &format!("{nic} addresses"),
            &none,
            &port["addr_info"],
            1,
            &mut found,
        );
        found
    }

    /// Whether there is a link of this name.
    pub fn has_link(&self, name: &str) -> bool {
        let links = self.part("addr").as_array().unwrap();
        links.iter().any(|link| link["ifname"] == name)
    }

    /// How long ago the state was looked at.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

/// Replaces a device's name in values, in labels too.
fn rename(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => {
            if text == from {
                to.clone_into(text);
            } else if let Some(rest) = text.strip_prefix(from).filter(|rest| rest.starts_with(':')) {
                *text = format!("{to}{rest}");
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| rename(v, from, to)),
        Value::Object(map) => map.values_mut().for_each(|v| rename(v, from, to)),
        _ => {}
    }
}

fn differences(path: &str, before: &Value, after: &Value, longer: i64, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                let at = |list: &[Value]| list.get(i).cloned().unwrap_or(Value::Null);
                differences(&format!("{path}[{i}]"), &at(a), &at(b), longer, found);
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            // A bridge's timers run.
            for key in keys.into_iter().filter(|key| !key.ends_with("_timer")) {
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                let (a, b) = (at(a), at(b));
                let lifetime = ["valid_life_time", "preferred_life_time", "expires"].contains(&key.as_str());
                if let (true, Some(a), Some(b)) = (lifetime, a.as_i64(), b.as_i64()) {
                    let forever = i64::from(u32::MAX);
                    let fits = if a == forever || a == 0 {
                        a == b
                    } else {
                        b <= a + longer && b >= a - ELAPSED
                    };
                    if !fits {
                        found.push(format!("{path}.{key}: {a} became {b}"));
                    }
                    continue;
                }
                differences(&format!("{path}.{key}"), &a, &b, longer, found);
            }
        }
        (a, b) if a != b => found.push(format!("{path}: {a} became {b}")),
        _ => {}
    }
}
