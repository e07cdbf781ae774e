//! What `--dry-run` prints is the migration: run by a shell in a fresh
//! namespace, it leads to the same state.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use common::run;
use host::Host;

const HOSTS: [(&str, &str); 5] = [
    (
        "plain",
        "ip link set eth0 up
         ip addr add 192.0.2.21/24 brd + dev eth0
         ip addr add 2001:db8::21/64 dev eth0 nodad
         ip route add default via 192.0.2.1
         ip -6 route add default via fe80::1 dev eth0",
    ),
    (
        "rich",
        "ip link set eth0 mtu 1400 up
         ip addr add 192.0.2.21/24 brd + dev eth0
         ip addr add 192.0.2.22/24 dev eth0 label eth0:web
         ip addr add 198.51.100.9/24 dev eth0 valid_lft 3000 preferred_lft 1500 metric 77
         ip addr add 2001:db8::21/64 dev eth0 nodad
         ip addr add 2001:db8::22/64 dev eth0 valid_lft 3000 preferred_lft 0 nodad
         ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0
         ip neigh add proxy 2001:db8::200 dev eth0
         ip route add default via 192.0.2.1 metric 100 mtu lock 1300 advmss 1200
         ip route add 203.0.113.0/24 nexthop via 192.0.2.1 weight 2 nexthop via 192.0.2.2
         ip route add default via 192.0.2.2 table 100
         ip -6 route add default nexthop via 2001:db8::1 nexthop via 2001:db8::2
         ip -6 route add 2001:db8:9::/48 via fe80::2 dev eth0 table 70000 pref high expires 2000
         ip rule add iif eth0 lookup 100 priority 1001
         ip rule add not from 192.0.2.0/25 oif eth0 fwmark 0x10/0xff lookup 70000 priority 1002
         ip -6 rule add iif eth0 lookup 100 priority 1001
         sysctl -qw net.ipv4.conf.eth0.rp_filter=1 net.ipv6.conf.eth0.hop_limit=42",
    ),
    (
        "prefix-routes-removed",
        "ip link set eth0 up
         ip addr add 192.0.2.21/24 dev eth0
         ip addr add 198.51.100.3/24 dev eth0
         ip addr add 2001:db8:3::1/64 dev eth0 nodad
         ip route del 198.51.100.0/24 dev eth0
         ip -6 route del 2001:db8:3::/64 dev eth0
         ip route add default via 192.0.2.1",
    ),
    (
        "two-nics",
        "ip link set eth1 up
         ip addr add 198.51.100.21/24 dev eth1
         ip link set eth0 up
         ip addr add 192.0.2.21/24 dev eth0
         ip addr add 2001:db8::21/64 dev eth0 nodad
         ip route add default nexthop via 192.0.2.1 nexthop via 198.51.100.1",
    ),
    (
        "bare",
        "sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=1; ip link set eth0 up",
    ),
];

/// Two hosts alike: vmbr changes one, its printed commands the other.
#[test]
fn the_commands_do_the_same_migration() {
    for (name, script) in HOSTS {
        let one = Host::new(name, script);
        let two = Host::new(name, script);
        let before = one.state();
        before.assert_alike(&two.state());
        let fresh = two.state();

        let printed = two.vmbr(&["up", "eth0", "--dry-run"]).ok();
        fresh.assert_same(&two.state());
        one.vmbr(&["up", "eth0"]).ok();
        two.sh(&of_the_network(&printed));
        let bridged = one.state();
        fresh.assert_moved(&two.state(), "eth0", "br0");
        bridged.assert_alike(&two.state());

        // The shell wrote no record: the other host's way back is its own.
        let printed = one.vmbr(&["down", "--dry-run"]).ok();
        bridged.assert_same(&one.state());
        two.sh(&of_the_network(&printed));
        one.vmbr(&["down"]).ok();
        before.assert_same(&one.state());
        before.assert_alike(&two.state());
    }
}

/// The commands without those that keep guests from the host's client: not
/// every kernel knows what they ask for.
fn of_the_network(printed: &str) -> String {
    let lines = printed.lines().filter(|line| !line.starts_with("nft "));
    lines.collect::<Vec<&str>>().join("\n")
}

/// The commands without the seconds that pass between two looks.
fn without_lifetimes(commands: &str) -> String {
    let lives = |word: &str| matches!(word, "valid_lft" | "preferred_lft" | "expires" | "in");
    let mut before = "";
    let mut words = Vec::new();
    for word in commands.split([' ', '\n']) {
        let seconds = lives(before) && word.parse::<u32>().is_ok();
        words.push(if seconds { "SECONDS" } else { word });
        before = word;
    }
    words.join(" ")
}

#[test]
fn needs_no_privilege_and_changes_nothing() {
    let host = Host::new("unprivileged", HOSTS[1].1);
    let program = host.records().join("vmbr");
    std::fs::copy(env!("CARGO_BIN_EXE_vmbr"), &program).unwrap();
    let user = |args: &[&str]| {
        let mut command = host.ns.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        run(command
            .arg(&program)
            .arg("--state-dir")
            .arg(host.records())
            .args(args))
    };
    let before = host.state();
    let said = user(&["up", "eth0", "--dry-run"]).ok();
    assert!(said.contains("# uplink eth0: it was named"), "{said}");
    assert!(said.contains("ip link set dev eth0 master br0"), "{said}");
    // One line more: that not every process can be seen.
    let limit = |line: &&str| line.contains("only root can see every process");
    assert_eq!(said.lines().filter(limit).count(), 1, "{said}");
    let rest: Vec<&str> = said.lines().filter(|line| !limit(line)).collect();
    let told = host.vmbr(&["up", "eth0", "--dry-run"]).ok();
    assert_eq!(
        without_lifetimes(&rest.join("\n")),
        without_lifetimes(told.trim_end()),
        "root is told the same"
    );
    let refused = user(&["up", "lo", "--dry-run"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(
        refused.stdout.contains("# refused: lo is the loopback"),
        "{refused:?}"
    );
    before.assert_same(&host.state());

    host.vmbr(&["up", "eth0"]).ok();
    let bridged = host.state();
    let said = user(&["down", "--dry-run"]).ok();
    assert!(said.contains("ip link set dev eth0 nomaster"), "{said}");
    bridged.assert_same(&host.state());
}

#[test]
fn documents_have_the_keys_of_the_contract() {
    let host = Host::new("documents", HOSTS[0].1);
    let document = |args: &[&str]| -> serde_json::Value {
        let text = host.vmbr(args).ok();
        assert_eq!(text.lines().count(), 1, "one document: {text}");
        serde_json::from_str(&text).unwrap()
    };
    for args in [vec!["up", "--dry-run", "--json"], vec!["up", "--json"]] {
        let up = document(&args);
        assert_eq!(up["format"], 1, "{up}");
        assert_eq!(up["bridge"], "br0", "{up}");
        assert_eq!(up["uplink"], "eth0", "{up}");
        assert_eq!(up["mode"], "bridge", "{up}");
        assert!(up["warnings"].is_array(), "{up}");
        let plan = up["plan"].as_array().unwrap();
        assert!(plan.contains(&"ip link set dev eth0 master br0".into()), "{up}");
    }
    let again = document(&["up", "--json"]);
    assert_eq!(again["plan"], serde_json::json!([]), "{again}");
    for args in [vec!["down", "--dry-run", "--json"], vec!["down", "--json"]] {
        let down = document(&args);
        assert_eq!(down["format"], 1, "{down}");
        assert_eq!(down["bridge"], "br0", "{down}");
        assert_eq!(down["uplink"], "eth0", "{down}");
        assert!(!down["plan"].as_array().unwrap().is_empty(), "{down}");
    }
}
