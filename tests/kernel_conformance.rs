//! The model of the kernel against the real one: what random histories leave,
//! and what becomes of the host after each operation that leads it to a bridge
//! and back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "kernel_model/mod.rs"]
mod model;

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::Namespace;
use model::{Kernel, world};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;
use vmbr::model::{Family, Hop, IfName};
use vmbr::plan::{Op, Record, plan};

/// The devices that are compared.
const DEVICES: [&str; 2] = ["eth0", "br0"];
/// What a shell says after each line that it was given.
const END: &str = "vmbr-end";

/// A shell in a namespace: to start one for each of thousands of commands
/// would take minutes.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(ns: &Namespace) -> Self {
        let mut command = ns.command("sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// What a command says, and whether it succeeded.
    fn run(&mut self, command: &str) -> (String, bool) {
        writeln!(self.input, "{command} 2>&1; echo {END} $?").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the shell ended");
            match line.trim_end().strip_prefix(END) {
                Some(status) => return (said, status.trim() == "0"),
                None => said += &line,
            }
        }
    }

    fn json(&mut self, command: &str) -> Vec<Value> {
        let (said, fine) = self.run(command);
        assert!(fine, "{command}: {said}");
        if said.trim().is_empty() {
            return Vec::new();
        }
        serde_json::from_str(&said).unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modelled(kernel: &Kernel) -> Vec<String> {
    let state = kernel.state();
    let mut all: Vec<String> = Vec::new();
    for rule in &state.rules {
        let iif = rule.iif.as_ref().unwrap();
        all.push(format!("rule {} iif {iif} {}", rule.priority, rule.header.table));
    }
    for dev in DEVICES {
        let dev: IfName = dev.parse().unwrap();
        let Some(link) = state.link(&dev) else {
            continue;
        };
        let master = link.master.as_ref().map(ToString::to_string);
        all.push(format!(
            "{dev} up {} master {}",
            link.up,
            master.unwrap_or_default()
        ));
        for a in state.addresses_of(&dev) {
            let secondary = a.family() == Family::V4 && a.flags & 1 != 0;
            let label = if a.family() == Family::V4 {
                a.label.text(&dev)
            } else {
                String::new()
            };
            all.push(format!("{a} {label} {secondary} {}", a.has_prefix_route()));
        }
        let mut routes: Vec<String> = Vec::new();
        for r in state.routes.iter().filter(|r| r.uses(&dev)) {
            let via = |hop: &Hop| hop.via.map(|v| v.to_string()).unwrap_or_default();
            let via = r.hops.iter().map(via).collect::<Vec<_>>().join(" ");
            let source = r.prefsrc.map(|v| v.to_string()).unwrap_or_default();
            routes.push(format!(
                "{} table {} via {via} src {source} metric {} {}",
                r.dst,
                r.table,
                r.metric,
                r.expires.is_some()
            ));
        }
        routes.sort();
        all.extend(routes);
        let own = state.neighbours.iter().filter(|n| n.dev == dev);
        let mut own: Vec<String> = own.map(|n| format!("neighbour {}", n.address)).collect();
        own.sort();
        all.extend(own);
    }
    all
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn address_text(a: &Value) -> String {
    let v4 = a["family"] == "inet";
    let local = text(a, "local");
    let peer = match text(a, "address") {
        "" => String::new(),
        peer => format!(" peer {peer}"),
    };
    let (secondary, bare) = (v4 && a["secondary"] == true, a["noprefixroute"] == true);
    let label = text(a, "label");
    format!("{local}{peer}/{} {label} {secondary} {}", a["prefixlen"], !bare)
}

fn real(shell: &mut Shell) -> Vec<String> {
    let links = shell.json("ip -j addr show");
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let list = shell.json(&format!("ip -j {family} route show table all"));
        // Those of the table `local` and of multicast have a type.
        routes.extend(list.into_iter().filter(|r| text(r, "type").is_empty()));
    }
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        let rules = shell.json(&format!("ip -j {family} rule show"));
        let named = rules.iter().filter(|rule| !rule["iif"].is_null());
        all.extend(named.map(|rule| {
            let (iif, table) = (text(rule, "iif"), text(rule, "table"));
            format!("rule {} iif {iif} {table}", rule["priority"])
        }));
    }
    let neighbours = shell.json("ip -j neigh show nud permanent");
    for dev in DEVICES {
        let Some(link) = links.iter().find(|link| link["ifname"] == dev) else {
            continue;
        };
        let up = link["flags"].as_array().unwrap().contains(&"UP".into());
        all.push(format!("{dev} up {up} master {}", text(link, "master")));
        all.extend(link["addr_info"].as_array().unwrap().iter().map(address_text));
        let mut own = Vec::new();
        let hops = |r: &Value| r["nexthops"].as_array().cloned().unwrap_or(vec![r.clone()]);
        for r in routes
            .iter()
            .filter(|r| hops(r).iter().any(|hop| hop["dev"] == dev))
        {
            let metric = r["metric"].as_u64().unwrap_or(0);
            let expires = !r["expires"].is_null();
            let (dst, source) = (text(r, "dst"), text(r, "prefsrc"));
            let via: Vec<String> = hops(r)
                .iter()
                .map(|hop| text(hop, "gateway").to_owned())
                .collect();
            let via = via.join(" ");
            let table = match text(r, "table") {
                "" | "main" => "254",
                other => other,
            };
            own.push(format!(
                "{dst} table {table} via {via} src {source} metric {metric} {expires}"
            ));
        }
        own.sort();
        all.extend(own);
        let own = neighbours.iter().filter(|n| n["dev"] == dev);
        let mut own: Vec<String> = own.map(|n| format!("neighbour {}", text(n, "dst"))).collect();
        own.sort();
        all.extend(own);
    }
    all
}

/// The model and a namespace, to which the same is done.
struct Twins {
    kernel: Kernel,
    shell: Shell,
    told: String,
    compared: usize,
    asked: usize,
    // The other end of the uplink's wire.
    wire: Shell,
    // After the shells: they go last.
    _ns: [Namespace; 2],
}

/// Destinations that are on no link: of the default routes, and of those that
/// random hosts have beside them.
const FAR: [&str; 4] = [
    "203.0.113.250",
    "172.16.0.250",
    "2001:db8:ffff::250",
    "2001:dbf::250",
];

impl Twins {
    fn bare() -> Self {
        let (ns, far) = (Namespace::new("model"), Namespace::new("wire"));
        let (mut shell, mut wire) = (Shell::start(&ns), Shell::start(&far));
        let ends = format!(
            "set -e
             ip link add eth0 address 02:00:00:00:00:02 type veth peer name eth0p netns {}
             ip link add eth1 type veth peer name eth1p
             ip link set eth1p up
             set +e",
            far.name()
        );
        let (said, fine) = shell.run(&ends);
        assert!(fine, "{said}");
        // The gateways of random hosts are there.
        let (said, fine) = wire.run(
            "set -e; sysctl -qw net.ipv6.conf.eth0p.accept_dad=0 net.ipv4.conf.all.rp_filter=0; ip link set eth0p up; \
             for net in 1 2 3; do \
                ip addr add 10.0.$net.1/32 dev eth0p; ip addr add 10.0.$net.2/32 dev eth0p; \
                ip addr add 172.31.0.$net/32 dev eth0p; ip addr add fe80::$net/64 dev eth0p nodad; \
             done; set +e",
        );
        assert!(fine, "{said}");
        let setup = "set -e; sysctl -qw net.ipv6.conf.default.addr_gen_mode=1 \
                net.ipv4.conf.default.promote_secondaries=0 net.ipv4.conf.all.promote_secondaries=0 \
                net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.rp_filter=0
            for d in eth0 eth1; do
                echo 1 >/proc/sys/net/ipv6/conf/$d/addr_gen_mode
                ip link set $d up
            done; set +e";
        let (said, fine) = shell.run(setup);
        assert!(fine, "{said}");
        Self {
            kernel: world::bare(),
            shell,
            told: String::new(),
            compared: 0,
            asked: 0,
            wire,
            _ns: [ns, far],
        }
    }

    /// Does it to both, and compares what they answer and what they are.
    fn apply(&mut self, op: &Op) {
        let Some(text) = op.command().text else {
            return;
        };
        let answer = self.kernel.apply(op);
        self.told += &format!("{text}: {answer:?}\n");
        let (said, fine) = self.shell.run(&text);
        assert_eq!(fine, answer.is_ok(), "{}{said}", self.told);
        assert_eq!(
            modelled(&self.kernel),
            real(&mut self.shell),
            "after\n{}",
            self.told
        );
        self.compared += 1;
        self.ways_agree();
    }

    /// Which route wins.
    fn ways_agree(&mut self) {
        for to in FAR {
            let (said, _) = self.shell.run(&format!("ip -j route get {to}"));
            let real: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
            let real = real.first().map(|r| (text(r, "gateway"), text(r, "dev")));
            let hops = self.kernel.ways(to.parse().unwrap());
            let is = |hop: &Hop| {
                let via = hop.via.map(|via| via.to_string()).unwrap_or_default();
                real == Some((&via, hop.dev.as_ref().unwrap().as_str()))
            };
            let agree = if hops.is_empty() {
                real.is_none()
            } else {
                hops.iter().any(is)
            };
            assert!(agree, "{to}: {hops:?} and {said} after\n{}", self.told);
        }
    }

    /// Whom the model has reach the host, the kernel lets. The host is to know
    /// them before the change: a port's own questions are answered to the
    /// bridge, and serves those alone whom it knows.
    fn reach_agrees(&mut self) {
        for (mine, near) in self.kernel.reachable() {
            let length = if mine.is_ipv4() { 32 } else { 128 };
            let nodad = if mine.is_ipv6() { "nodad" } else { "" };
            let scoped = matches!(mine, IpAddr::V6(a) if vmbr::model::address::is_link_local(&a));
            let zone = if scoped { "%eth0p" } else { "" };
            let ping = format!("ping -n -q -c 1 -W 1 -I {near}{zone} {mine}{zone}");
            let ask = format!(
                "ip addr replace {near}/{length} dev eth0p {nodad}; ip route replace {mine}/{length} dev eth0p; \
                 ip neigh flush dev eth0p; {ping} || {ping}"
            );
            let (said, fine) = self.wire.run(&format!("({ask})"));
            assert!(fine, "{near} does not reach {mine} after\n{}{said}", self.told);
            self.asked += 1;
        }
    }
}

#[test]
fn the_kernel_does_what_the_model_says() {
    let cases = std::env::var("PROPTEST_CASES").map_or(6, |n| n.parse::<usize>().unwrap().min(60));
    let mut runner = TestRunner::deterministic();
    let (uplink, bridge): (IfName, IfName) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
    let (mut compared, mut asked) = (0, 0);
    for _ in 0..cases {
        let history = world::histories().new_tree(&mut runner).unwrap().current();
        let mut twins = Twins::bare();
        history.iter().for_each(|op| twins.apply(op));
        let record = Record::of(twins.kernel.state(), &uplink, &bridge, "boot:1", 0).unwrap();
        twins.reach_agrees();
        for target in [record.bridged(), record.restored()] {
            twins.told += "then\n";
            let plan = plan(twins.kernel.state(), &target);
            for part in plan.steps.iter().flat_map(Kernel::parts) {
                part.iter().for_each(|op| twins.apply(op));
                // Who may be deaf, or gone.
                let moves = |op: &Op| {
                    matches!(
                        op,
                        Op::SetMaster { .. } | Op::DeleteAddress { .. } | Op::DeleteLink { .. }
                    )
                };
                if part.iter().any(moves) {
                    twins.reach_agrees();
                }
            }
        }
        compared += twins.compared;
        asked += twins.asked;
    }
    println!("{compared} operations of {cases} hosts, {asked} questions");
    assert!(compared > 20 * cases, "only {compared} operations");
    assert!(asked > 5 * cases, "only {asked} questions");
}
