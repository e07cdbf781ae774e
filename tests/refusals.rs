//! What vmbr refuses: the exit status, a message that names the device and
//! the remedy, and a host that nobody touched.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use std::process::{Command, Stdio};

use common::{Ended, run};
use host::Host;

const PLAIN: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 dev eth0
    ip addr add 2001:db8::21/64 dev eth0
    ip route add default via 192.0.2.1";

/// Runs vmbr, and asserts status, words and an untouched host.
fn refused(host: &Host, args: &[&str], status: i32, words: &[&str]) -> Ended {
    let before = host.state();
    let ended = host.vmbr(args);
    assert_eq!(ended.code(), status, "{args:?}: {ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in {ended:?}");
    }
    before.assert_same(&host.state());
    let mut all = vec!["--json"];
    all.extend_from_slice(args);
    let document: serde_json::Value = serde_json::from_str(&host.vmbr(&all).stdout).unwrap();
    assert_eq!(document["format"], 1, "{document}");
    assert_eq!(document["error"]["status"], status, "{document}");
    assert!(document["error"]["message"].is_string(), "{document}");
    assert!(document["error"]["remedy"].is_string(), "{document}");
    ended
}

#[test]
fn an_uplink_that_cannot_be_one() {
    let host = Host::new(
        "unfit",
        &format!(
            "{PLAIN}
            ip link add br7 type bridge
            ip link set eth1 master br7
            ip tuntap add dev tun0 mode tun
            ip link set tun0 up
            ip link add veth0 type veth peer name veth1
            ip link add link veth0 name mv0 type macvlan"
        ),
    );
    refused(&host, &["up", "eth9"], 3, &["eth9", "eth0"]);
    refused(&host, &["up", "lo"], 3, &["lo is the loopback", "name a device"]);
    refused(&host, &["up", "br7"], 3, &["br7 is a bridge", "use it as it is"]);
    refused(
        &host,
        &["up", "eth1"],
        3,
        &["eth1 is already a port", "br7", "nomaster"],
    );
    refused(
        &host,
        &["up", "tun0"],
        3,
        &["tun0", "not an Ethernet device", "NIC beneath"],
    );
    refused(
        &host,
        &["up", "veth0"],
        3,
        &["veth0 has a macvlan", "mv0", "ip link del"],
    );
}

#[test]
fn a_macvlan_of_another_namespace_fails_without_a_trace() {
    let host = Host::new(
        "macvlan-far",
        &format!("{PLAIN}\nip link add link eth0 name mv0 type macvlan"),
    );
    host.ns.ip(&["link", "set", "mv0", "netns", host.lan1.name()]);
    let before = host.state();
    let ended = host.vmbr(&["up", "eth0"]);
    assert!([1, 3].contains(&ended.code()), "{ended:?}");
    assert!(
        ended.stderr.contains("eth0") && ended.stderr.contains("macvlan"),
        "{ended:?}"
    );
    before.assert_same(&host.state());
    assert_eq!(host.vmbr(&["down"]).code(), 0, "nothing is left to take down");
}

#[test]
fn a_bridge_name_that_cannot_be_used() {
    let host = Host::new("name", &format!("{PLAIN}\nip link add br7 type bridge"));
    refused(
        &host,
        &["up", "eth0", "--bridge", "br7"],
        3,
        &["br7", "did not make", "--bridge NAME"],
    );
    refused(
        &host,
        &["up", "eth0", "--bridge", "eth1"],
        3,
        &["eth1 is taken", "--bridge NAME"],
    );
    let usage = |args: &[&str]| {
        let before = host.state();
        let ended = host.vmbr(args);
        assert_eq!(ended.code(), 2, "{ended:?}");
        before.assert_same(&host.state());
        ended.stderr
    };
    assert!(usage(&["up", "eth0", "--bridge", "a-name-of-16-ltr"]).contains("15 bytes"));
    assert!(usage(&["up", "eth0", "--bridge", "a/b"]).contains("'/'"));
    assert!(usage(&["up", "a/b"]).contains("'/'"));
    usage(&["up", "eth0", "--bridge", ""]);
    usage(&["up", "eth0", "eth1"]);
    usage(&["sideways"]);
    usage(&[]);
    let json = host.vmbr(&["--json", "up", "a/b"]);
    let document: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(document["error"]["status"], 2, "{document}");
}

#[test]
fn no_privilege() {
    let host = Host::new("unprivileged", PLAIN);
    // Where the build is may be closed to others.
    let program = host.records().join("vmbr");
    std::fs::copy(env!("CARGO_BIN_EXE_vmbr"), &program).unwrap();
    let before = host.state();
    for action in ["up", "down"] {
        let mut command = host.ns.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        let ended = run(command.arg(&program).arg(action));
        if action == "up" {
            assert_eq!(ended.code(), 3, "{ended:?}");
        }
        assert!([0, 3].contains(&ended.code()), "{ended:?}");
        if ended.code() == 3 {
            assert!(
                ended.stderr.contains("root") && ended.stderr.contains("sudo"),
                "{ended:?}"
            );
        }
    }
    before.assert_same(&host.state());
}

#[test]
fn of_ten_at_once_one_wins() {
    let host = Host::new("ten", PLAIN);
    let before = host.state();
    let spawn = |_| {
        let mut command = host.command(&["up", "eth0"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let running: Vec<_> = (0..10).map(spawn).collect();
    let ended: Vec<_> = running
        .into_iter()
        .map(|c| c.wait_with_output().unwrap())
        .collect();
    let changed = |o: &&std::process::Output| {
        o.status.code() == Some(0) && !String::from_utf8_lossy(&o.stdout).contains("already so")
    };
    assert_eq!(ended.iter().filter(changed).count(), 1, "{ended:?}");
    for output in ended.iter().filter(|o| o.status.code() != Some(0)) {
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("another vmbr"),
            "{output:?}"
        );
    }
    before.assert_moved(&host.state(), "eth0", "br0");
    host.vmbr(&["down"]).ok();
    before.assert_same(&host.state());
}

#[test]
fn guests_keep_the_bridge() {
    let host = Host::new("guests", PLAIN);
    let before = host.state();
    host.vmbr(&["up", "eth0"]).ok();
    host.sh("ip tuntap add dev tap7 mode tap; ip link set tap7 address 02:00:00:00:00:01 master br0 up");
    refused(&host, &["down", "br0"], 3, &["tap7", "--force"]);
    host.vmbr(&["down", "br0", "--force"]).ok();
    assert!(host.ns.link("tap7").is_none());
    before.assert_same(&host.state());
}

#[test]
fn records_that_cannot_be_used() {
    let host = Host::new("records", PLAIN);
    host.vmbr(&["up", "eth0"]).ok();
    let directory = std::fs::read_dir(host.records())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let path = directory.join("br0.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&good).unwrap();
    let newer = {
        let mut value = value.clone();
        value["version"] = 99.into();
        value.to_string()
    };
    let foreign = {
        let mut value = value.clone();
        value["namespace"] = "00000000-0000-0000-0000-000000000000-1".into();
        value.to_string()
    };
    let other_bridge = {
        let mut value = value;
        value["bridge"]["name"] = "br9".into();
        value.to_string()
    };
    let half = good[..good.len() / 2].to_owned();
    for (text, why) in [
        (half.as_str(), "damaged"),
        ("", "damaged"),
        ("[]", "damaged"),
        ("{\"version\":3}", "damaged"),
        (newer.as_str(), "version 99"),
        (foreign.as_str(), "another boot"),
        (other_bridge.as_str(), "br9"),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(&host, &["down", "br0"], 3, &["br0.json", why]);
        refused(&host, &["down"], 3, &["br0.json", why]);
        assert!(host.vmbr(&["up", "eth0"]).code() == 3);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "the file is kept");
    }
    std::fs::write(&path, &good).unwrap();
    host.vmbr(&["down"]).ok();
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    let host = Host::new("unwritable", PLAIN);
    let before = host.state();
    let file = host.records().join("a-file");
    std::fs::write(&file, "").unwrap();
    let up = |dir: &str| {
        run(host
            .ns
            .command(env!("CARGO_BIN_EXE_vmbr"))
            .args(["--state-dir", dir, "up", "eth0"]))
    };
    for dir in [file.to_str().unwrap(), "/proc/nowhere"] {
        let ended = up(dir);
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains(dir), "{ended:?}");
        before.assert_same(&host.state());
    }
}

#[test]
fn nobody_reads_what_it_says() {
    let host = Host::new("deaf", PLAIN);
    let before = host.state();
    let closed = |redirect: &str, action: &str| {
        let script = format!("exec \"$@\" {redirect}");
        let mut command: Command = host.ns.command("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_vmbr"), "--state-dir"]);
        run(command.arg(host.records()).arg("-v").arg(action))
    };
    for redirect in [">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"] {
        let up = closed(redirect, "up");
        assert_eq!(up.code(), 0, "{redirect}: {up:?}");
        before.assert_moved(&host.state(), "eth0", "br0");
        let down = closed(redirect, "down");
        assert_eq!(down.code(), 0, "{redirect}: {down:?}");
        before.assert_same(&host.state());
    }
}

#[test]
fn the_default_uplink() {
    let two = Host::new(
        "two-defaults",
        "ip link set eth0 up
         ip link set eth1 up
         ip addr add 192.0.2.21/24 dev eth0
         ip addr add 2001:db8:1::21/64 dev eth1 nodad
         ip route add default via 192.0.2.1
         ip -6 route add default via 2001:db8:1::1",
    );
    refused(
        &two,
        &["up"],
        3,
        &["eth0", "eth1", "vmbr up eth0", "vmbr up eth1"],
    );

    let tunnel = Host::new(
        "tunnel",
        "ip link set eth0 up
         ip addr add 192.0.2.21/24 dev eth0
         ip tuntap add dev tun0 mode tun
         ip link set tun0 up
         ip addr add 198.51.100.1/32 dev tun0
         ip route add default dev tun0",
    );
    refused(&tunnel, &["up"], 3, &["tun0", "tunnel", "eth0"]);

    let none = Host::new(
        "no-default",
        "ip link set eth0 up; ip addr add 192.0.2.21/24 dev eth0",
    );
    refused(&none, &["up"], 3, &["no default route", "eth0"]);

    none.sh("ip route add default via 192.0.2.1");
    let up = none.vmbr(&["up"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(
        up.stderr.contains("uplink eth0: the default route of IPv4"),
        "{up:?}"
    );
}

#[test]
fn what_stands_already() {
    let host = Host::new("idempotent", PLAIN);
    let before = host.state();
    host.vmbr(&["up", "eth0"]).ok();
    let bridged = host.state();
    for args in [vec!["up", "eth0"], vec!["up"]] {
        let again = host.vmbr(&args).ok();
        assert!(again.contains("already so"), "{again}");
    }
    refused(&host, &["up", "eth0", "--bridge", "br1"], 3, &["eth0", "br0"]);
    refused(&host, &["up", "eth1"], 3, &["br0"]);
    bridged.assert_same(&host.state());
    host.vmbr(&["down", "br0"]).ok();
    for args in [vec!["down", "br0"], vec!["down"]] {
        let again = host.vmbr(&args).ok();
        assert!(again.contains("already so"), "{again}");
    }
    before.assert_same(&host.state());
    refused(&host, &["down", "eth0"], 3, &["eth0"]);
}
