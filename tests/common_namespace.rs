//! The guard that other tests stand on keeps what it promises.

mod common;

use common::{Namespace, VethEnd, run, veth_pair};

#[test]
fn a_namespace_is_empty_private_and_gone_afterwards() {
    let name;
    let pid;
    {
        let ns = Namespace::new("guard");
        name = ns.name().to_owned();
        assert_eq!(ns.links(), ["lo"]);
        let mut sleeper = ns.command("sleep").arg("1000").spawn().unwrap();
        common::wait_until(std::time::Duration::from_secs(5), || !ns.pids().is_empty());
        pid = ns.pids();
        assert_eq!(pid, [sleeper.id()]);
        ns.set_sysctl("net/ipv4/ip_forward", "1");
        assert_eq!(ns.sysctl("net/ipv4/ip_forward"), "1");
        drop(ns);
        assert!(
            !sleeper.wait().unwrap().success(),
            "the guard kills what is left inside"
        );
    }
    let list = run(std::process::Command::new("ip").args(["netns", "list"])).ok();
    assert!(!list.contains(&name), "{list}");
}

#[test]
fn a_veth_pair_joins_two_namespaces() {
    let host = Namespace::new("host");
    let lan = Namespace::new("lan");
    veth_pair(
        &VethEnd {
            namespace: &host,
            name: "eth0",
            mac: Some("02:00:00:00:00:01"),
        },
        &VethEnd {
            namespace: &lan,
            name: "peer0",
            mac: None,
        },
    );
    host.ip(&["addr", "add", "192.0.2.1/24", "dev", "eth0"]);
    lan.ip(&["addr", "add", "192.0.2.2/24", "dev", "peer0"]);
    host.ip(&["link", "set", "eth0", "up"]);
    lan.ip(&["link", "set", "peer0", "up"]);
    assert_eq!(host.link("eth0").unwrap()["address"], "02:00:00:00:00:01");
    assert!(host.link("peer0").is_none());
    let mut ping = host.command("ping");
    run(ping.args(["-c", "1", "-W", "5", "192.0.2.2"])).ok();
}
