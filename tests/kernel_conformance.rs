//! The model of the kernel against the real one: what random histories leave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "kernel_model/mod.rs"]
mod model;

use common::{Namespace, run};
use model::{Kernel, world};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use vmbr::model::{Family, IfName};
use vmbr::plan::Op;

fn modelled(kernel: &Kernel) -> Vec<String> {
    let eth0: IfName = "eth0".parse().unwrap();
    let state = kernel.state();
    let mut all: Vec<String> = Vec::new();
    for a in state.addresses_of(&eth0) {
        let secondary = a.family() == Family::V4 && a.flags & 1 != 0;
        all.push(format!("{}/{} {secondary}", a.local, a.prefix_len));
    }
    let mut routes: Vec<String> = Vec::new();
    for r in state.routes.iter().filter(|r| r.uses(&eth0)) {
        let via = r.hops[0].via.map(|v| v.to_string()).unwrap_or_default();
        let source = r.prefsrc.map(|v| v.to_string()).unwrap_or_default();
        routes.push(format!(
            "{} via {via} src {source} metric {} {}",
            r.dst,
            r.metric,
            r.expires.is_some()
        ));
    }
    routes.sort();
    all.extend(routes);
    all
}

fn real(ns: &Namespace) -> Vec<String> {
    let mut all = Vec::new();
    for a in ns.json(&["addr", "show", "dev", "eth0"])[0]["addr_info"]
        .as_array()
        .unwrap()
    {
        let v4 = a["family"] == "inet";
        let secondary = v4 && a["secondary"] == true;
        all.push(format!(
            "{}/{} {secondary}",
            a["local"].as_str().unwrap(),
            a["prefixlen"]
        ));
    }
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let list = ns.json(&[family, "route", "show", "dev", "eth0"]);
        for r in list
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["type"] != "multicast")
        {
            let text = |key: &str| r[key].as_str().unwrap_or_default();
            let metric = r["metric"].as_u64().unwrap_or(0);
            let expires = !r["expires"].is_null();
            let (dst, via, source) = (text("dst"), text("gateway"), text("prefsrc"));
            routes.push(format!("{dst} via {via} src {source} metric {metric} {expires}"));
        }
    }
    routes.sort();
    all.extend(routes);
    all
}

#[test]
fn histories_leave_what_the_model_says() {
    let cases = std::env::var("PROPTEST_CASES").map_or(12, |n| n.parse::<usize>().unwrap().min(200));
    let mut runner = TestRunner::deterministic();
    for _ in 0..cases {
        let history = world::histories().new_tree(&mut runner).unwrap().current();
        let ns = Namespace::new("model");
        for dev in ["eth0", "eth1"] {
            ns.ip(&[
                "link",
                "add",
                dev,
                "type",
                "veth",
                "peer",
                "name",
                &format!("{dev}p"),
            ]);
            ns.set_sysctl(&format!("net/ipv6/conf/{dev}/addr_gen_mode"), "1");
            ns.ip(&["link", "set", &format!("{dev}p"), "up"]);
            ns.ip(&["link", "set", dev, "up"]);
        }
        ns.set_sysctl("net/ipv4/conf/all/promote_secondaries", "0");
        ns.set_sysctl("net/ipv4/conf/eth0/promote_secondaries", "0");
        let mut kernel = world::bare();
        let mut told = String::new();
        for op in &history {
            let answer = kernel.apply(op);
            let text = op.command().text.unwrap();
            told += &format!("{text}: {answer:?}\n");
            if let Op::SetSysctl { dev, key, value } = op {
                let (directory, leaf) = key.rsplit_once('/').unwrap();
                ns.set_sysctl(&format!("net/{directory}/{dev}/{leaf}"), value);
            } else {
                let ended = run(ns.command("ip").args(text.split_whitespace().skip(1)));
                assert_eq!(ended.status.success(), answer.is_ok(), "{told}{}", ended.stderr);
            }
            assert_eq!(modelled(&kernel), real(&ns), "after\n{told}");
        }
    }
}
