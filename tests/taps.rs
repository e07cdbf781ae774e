//! `vmbr tap`: persistent TAPs made, listed and removed, against other users,
//! and what `vmbr status` says of the guests on them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/taps.rs"]
mod taps;

use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use common::{Ended, Namespace, run, wait_until};
use host::{Host, ping};
use taps::{Cable, bridged};

const ALICE: &str = "4201";
const BOB: &str = "4202";
const STAFF: &str = "4300";

fn listed(host: &Host) -> Vec<Value> {
    let text = host.vmbr(&["tap", "list", "--json"]).ok();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["format"], 1);
    document["taps"].as_array().unwrap().clone()
}

fn refused(ended: Ended) -> String {
    assert_eq!(ended.code(), 3, "{ended:?}");
    assert_eq!(ended.stdout, "");
    ended.stderr
}

/// An interpreter that every user may run.
const PYTHON: &str = "/usr/bin/python3";

/// Attaches to a TAP; the flags are IFF_TAP, IFF_NO_PI, and more.
const ATTACH: &str = "
import fcntl, os, struct, sys
fd = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', sys.argv[1].encode(), int(sys.argv[2], 16)))
";
const ONE_QUEUE: &str = "1002";
const MANY_QUEUES: &str = "1102";

/// Whether a user attaches to a TAP.
fn attaches(host: &Host, user: &str, groups: &str, tap: &str, flags: &str) -> bool {
    let mut command = host.ns.command("setpriv");
    command.args(["--reuid", user, "--regid", user]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    let ended = run(command.args([PYTHON, "-c", ATTACH, tap, flags]));
    let errno = ended.status.success() || ended.stderr.contains("Error: [Errno");
    assert!(errno, "{ended:?}");
    ended.status.success()
}

/// A program that holds a TAP.
struct Held(Child);

impl Held {
    fn of(ns: &Namespace, tap: &str) -> Self {
        let mut command = ns.command("socat");
        command.args(["-u", &format!("TUN,tun-type=tap,iff-no-pi,tun-name={tap}")]);
        command.arg("OPEN:/dev/null").stdin(Stdio::null());
        let held = Self(command.spawn().unwrap());
        let there = || ns.link(tap).unwrap()["operstate"] == "UP";
        assert!(wait_until(Duration::from_secs(5), there), "nobody holds {tap}");
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tap_is_made_listed_and_removed() {
    let host = bridged("tap");
    let mac = "52:54:00:12:34:56";
    let options = [
        "--owner",
        ALICE,
        "--group",
        STAFF,
        "--queues",
        "4",
        "--mac",
        mac,
        "--mtu",
        "1400",
        "--isolated",
        "--guard",
        "192.0.2.50,2001:db8::/64",
    ];
    let add = [&["tap", "add", "t0", "--bridge", "br0", "--json"], &options[..]].concat();
    let made: Value = serde_json::from_str(&host.vmbr(&add).ok()).unwrap();
    let link = host.ns.link("t0").unwrap();
    let wanted = json!({
        "name": "t0", "ifindex": link["ifindex"], "mac": "fe:54:00:12:34:56", "bridge": "br0",
        "owner": 4201, "group": 4300, "queues": 4, "isolated": true, "mtu": 1400,
        "persistent": true, "in_use": false,
        "guard": {"mac": mac, "addresses": ["192.0.2.50", "2001:db8::/64"]},
    });
    assert_eq!(made["taps"], json!([wanted]));
    assert_eq!(listed(&host), [wanted]);
    assert_eq!(link["master"], "br0");
    assert_eq!(link["mtu"], 1400);
    assert_eq!(link["linkinfo"]["info_data"]["multi_queue"], true);
    // A bridge follows the smallest MTU of its ports; not this one.
    assert_eq!(host.ns.link("br0").unwrap()["mtu"], 1500);
    // The same again changes nothing; a hook may run twice.
    let again = host.vmbr(&[&["tap", "add", "t0"], &options[..]].concat());
    assert_eq!(again.ok(), "already so: t0 is on br0\n");
    assert_eq!(host.ns.link("t0").unwrap()["ifindex"], link["ifindex"]);
    let text = host.vmbr(&["tap", "list"]).ok();
    assert!(
        text.contains("isolated, guarded: 52:54:00:12:34:56 192.0.2.50 2001:db8::/64"),
        "{text}"
    );
    assert_eq!(host.vmbr(&["tap", "del", "t0"]).ok(), "t0 is gone\n");
    assert_eq!(
        host.vmbr(&["tap", "del", "t0"]).ok(),
        "already so: there is no t0\n"
    );
    assert_eq!(listed(&host), [] as [Value; 0]);
    // By default: root's, one queue, the bridge's MTU.
    host.ns.ip(&["link", "set", "eth0", "mtu", "4000"]);
    host.ns.ip(&["link", "set", "br0", "mtu", "4000"]);
    assert_eq!(host.vmbr(&["tap", "add", "t1"]).ok(), "t1 is on br0, for root\n");
    let [one] = listed(&host).try_into().unwrap();
    for (key, value) in [
        ("owner", json!(0)),
        ("queues", json!(1)),
        ("mtu", json!(4000)),
        ("guard", Value::Null),
    ] {
        assert_eq!(one[key], value, "{one}");
    }
    assert_eq!(host.ns.link("br0").unwrap()["mtu"], 4000);
}

#[test]
fn what_stands_otherwise_is_refused_with_the_difference() {
    let host = bridged("differs");
    host.vmbr(&["tap", "add", "t0", "--owner", ALICE]).ok();
    host.sh(
        "ip link add br1 type bridge; ip link add d0 type veth peer name d1; ip tuntap add dev n0 mode tun",
    );
    let before = listed(&host);
    for (options, said) in [
        (&["--owner", BOB][..], "its owner is 4201, not 4202"),
        (
            &["--owner", ALICE, "--group", STAFF],
            "its group is none, not 4300",
        ),
        (
            &["--owner", ALICE, "--queues", "2"],
            "its number of queues is 1, not 2",
        ),
        (
            &["--owner", ALICE, "--isolated"],
            "its port is open, not isolated",
        ),
        (&["--owner", ALICE, "--mtu", "1400"], "its MTU is 1500, not 1400"),
        (
            &["--owner", ALICE, "--bridge", "br1"],
            "its bridge is br0, not br1",
        ),
        (
            &["--owner", ALICE, "--mac", "52:54:00:12:34:56", "--guard", "mac"],
            "its guard is none, not 52:54:00:12:34:56",
        ),
    ] {
        let text = refused(host.vmbr(&[&["tap", "add", "t0"], options].concat()));
        assert!(text.contains(said), "{options:?}: {text}");
        assert!(text.contains("vmbr tap del t0"), "{text}");
    }
    for name in ["d0", "n0", "br1", "lo"] {
        let text = refused(host.vmbr(&["tap", "add", name]));
        assert!(text.contains(&format!("the name {name} is taken")), "{text}");
    }
    let text = refused(host.vmbr(&["tap", "add", "t9", "--bridge", "d0"]));
    assert!(text.contains("d0 is no bridge, but a veth"), "{text}");
    let text = refused(host.vmbr(&["tap", "add", "t9", "--bridge", "br7"]));
    assert!(
        text.contains("there is no bridge br7") && text.contains("br0, br1"),
        "{text}"
    );
    let text = refused(host.vmbr(&["tap", "add", "t9", "--owner", "no-such-user"]));
    assert!(text.contains("there is no user no-such-user"), "{text}");
    for usage in [
        &["tap", "add", "t%d"][..],
        &["tap", "add", "a-name-that-is-too-long"],
        &["tap", "add", "t9", "--guard", "mac"],
        &["tap", "add", "t9", "--mac", "53:54:00:12:34:56"],
        &["tap", "add", "t9", "--mac", "fe:54:00:12:34:56"],
        &[
            "tap",
            "add",
            "t9",
            "--mac",
            "52:54:00:12:34:56",
            "--guard",
            "192.0.2.5/24",
        ],
        &["tap", "add", "t9", "--count", "2", "--mac", "52:54:00:12:34:56"],
        &["tap", "add", "t9", "--count", "2", "--guard", "mac"],
        &["tap", "add", "t9", "--count", "0"],
        &["tap", "add", "t9", "--queues", "257"],
        &["tap", "del"],
    ] {
        assert_eq!(host.vmbr(usage).code(), 2, "{usage:?}");
    }
    assert_eq!(listed(&host), before);
}

#[test]
fn only_whom_it_is_for_attaches() {
    let host = bridged("owner");
    host.vmbr(&["tap", "add", "alices", "--owner", ALICE]).ok();
    host.vmbr(&["tap", "add", "roots"]).ok();
    host.vmbr(&["tap", "add", "staffs", "--group", STAFF]).ok();
    host.vmbr(&["tap", "add", "both", "--owner", ALICE, "--group", STAFF])
        .ok();
    host.vmbr(&["tap", "add", "many", "--owner", ALICE, "--queues", "2"])
        .ok();
    for (tap, user, groups, flags, may) in [
        ("alices", ALICE, "", ONE_QUEUE, true),
        ("alices", BOB, "", ONE_QUEUE, false),
        ("roots", ALICE, "", ONE_QUEUE, false),
        ("staffs", BOB, STAFF, ONE_QUEUE, true),
        ("staffs", BOB, "", ONE_QUEUE, false),
        ("both", ALICE, STAFF, ONE_QUEUE, true),
        ("both", ALICE, "", ONE_QUEUE, false),
        ("both", BOB, STAFF, ONE_QUEUE, false),
        ("many", ALICE, "", MANY_QUEUES, true),
        ("many", BOB, "", MANY_QUEUES, false),
        // What libvirt calls "Unable to create tap device: Invalid argument".
        ("many", ALICE, "", ONE_QUEUE, false),
    ] {
        assert_eq!(
            attaches(&host, user, groups, tap, flags),
            may,
            "{user} {groups} {tap} {flags}"
        );
    }
}

/// Attaches to TAPs of these names as soon as they are there, and says how
/// often it could. Each second one it makes its own and lets go, to come back.
const STRANGER: &str = "
import fcntl, os, struct, sys
got, held = 0, []
print('ready', flush=True)
while not os.path.exists(sys.argv[1]):
    for n in range(60):
        fd = os.open('/dev/net/tun', os.O_RDWR)
        try:
            # IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE
            fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'm%d' % n, 0x1102))
            got += 1
            if got % 2:
                held.append(fd)
                continue
            for again in range(50):
                fcntl.ioctl(fd, 0x400454cc, os.getuid())  # TUNSETOWNER
            fcntl.ioctl(fd, 0x400454ce, os.getgid())  # TUNSETGROUP
            os.close(fd)
        except OSError:
            os.close(fd)
print(got, flush=True)
";

#[test]
fn nobody_slips_in_while_a_tap_is_made() {
    use std::io::{BufRead, BufReader};
    let host = bridged("window");
    let end = host.records().join("end");
    let mut command = host.ns.command("setpriv");
    command
        .args([
            "--reuid",
            BOB,
            "--regid",
            BOB,
            "--clear-groups",
            PYTHON,
            "-c",
            STRANGER,
        ])
        .arg(&end)
        .stdout(Stdio::piped())
        .stdin(Stdio::null());
    // The user may look into the directory.
    run(std::process::Command::new("chmod").arg("755").arg(host.records())).ok();
    let mut stranger = command.spawn().unwrap();
    let mut said = BufReader::new(stranger.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let mut caught = 0;
    for _ in 0..3 {
        let ended = host.vmbr(&[
            "tap", "add", "--count", "60", "m", "--owner", ALICE, "--queues", "2",
        ]);
        if ended.code() == 0 {
            // All stand, and nobody is in.
            let taps = listed(&host);
            assert_eq!(taps.len(), 60);
            assert!(taps.iter().all(|tap| tap["in_use"] == false), "{taps:?}");
            // And nobody has the key.
            let alices = |tap: &Value| tap["owner"] == 4201 && tap["group"].is_null();
            assert!(taps.iter().all(alices), "{taps:?}");
            let names: Vec<String> = (0..60).map(|n| format!("m{n}")).collect();
            let names = names.iter().map(String::as_str);
            host.vmbr(&["tap", "del"].into_iter().chain(names).collect::<Vec<_>>())
                .ok();
        } else {
            assert_eq!(ended.code(), 1, "{ended:?}");
            assert!(
                ended.stderr.contains("another program attached to it"),
                "{ended:?}"
            );
            caught += 1;
        }
        assert_eq!(listed(&host), [] as [Value; 0], "all or none");
    }
    std::fs::write(&end, "").unwrap();
    let got: u32 = said.next().unwrap().unwrap().parse().unwrap();
    stranger.wait().unwrap();
    // He may have been in for a moment; then that was found.
    assert!(got == 0 || caught > 0, "{got} slipped in, {caught} were found");
}

#[test]
fn many_are_made_all_or_none_as_long_as_there_is_room() {
    let host = bridged("many");
    let made = host.vmbr(&["tap", "add", "--count", "1000", "t"]).ok();
    assert!(
        made.starts_with("t0, t1, t2, t3, t4 and 995 more are on br0"),
        "{made}"
    );
    assert_eq!(listed(&host).len(), 1000);
    // eth0 is a port, too.
    let text = refused(host.vmbr(&["tap", "add", "--count", "23", "more"]));
    assert!(
        text.contains("br0 has room for 22 more ports, not for 23"),
        "{text}"
    );
    assert_eq!(listed(&host).len(), 1000);
    // Those that stand count as made.
    host.vmbr(&["tap", "add", "--count", "1010", "t"]).ok();
    host.ns.ip(&["link", "add", "n5", "type", "veth"]);
    refused(host.vmbr(&["tap", "add", "--count", "9", "n"]));
    assert_eq!(listed(&host).len(), 1010);
    let names: Vec<String> = (0..1010).map(|n| format!("t{n}")).collect();
    let all: Vec<&str> = ["tap", "del"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    host.vmbr(&all).ok();
    assert_eq!(listed(&host), [] as [Value; 0]);
    let text = refused(host.vmbr(&["tap", "add", "--count", "1000", "fourteen-bytes"]));
    assert!(
        text.contains("the last of the TAPs cannot be called fourteen-bytes999"),
        "{text}"
    );
}

#[test]
fn only_what_nobody_uses_is_removed() {
    let host = bridged("del");
    host.vmbr(&["tap", "add", "--count", "3", "t"]).ok();
    host.sh(
        "ip tuntap add dev vpn mode tun; ip tuntap add dev bridged-vpn mode tap; ip link add d0 type veth peer name d1",
    );
    let _guest = Held::of(&host.ns, "t1");
    let text = refused(host.vmbr(&["tap", "del", "t0", "t1", "vpn", "bridged-vpn", "d0", "eth0"]));
    for said in [
        "t1 is in use",
        "vpn is no TAP, but a TUN",
        "bridged-vpn is on no bridge: it may be a VPN's",
        "d0 is no TAP, but a veth",
        "eth0 is no TAP",
    ] {
        assert!(text.contains(said), "{text}");
    }
    let taps = listed(&host);
    let in_use: Vec<&Value> = taps.iter().filter(|tap| tap["in_use"] == true).collect();
    assert_eq!(taps.len(), 4, "none is removed if one is not");
    assert_eq!(in_use.len(), 1);
    assert_eq!(in_use[0]["name"], "t1");
    refused(host.vmbr(&["tap", "del", "--force", "vpn"]));
    host.vmbr(&["tap", "del", "--force", "t1", "bridged-vpn"]).ok();
    host.vmbr(&["tap", "del", "t2", "t0", "t2"]).ok();
    assert_eq!(listed(&host), [] as [Value; 0]);
    assert!(host.ns.links().contains(&"vpn".to_owned()));
}

#[test]
fn down_takes_persistent_taps_for_guests() {
    let host = Host::new(
        "down",
        "ip link set eth0 up; ip addr add 192.0.2.21/24 dev eth0; ip route add default via 192.0.2.1",
    );
    host.vmbr(&["up", "eth0", "--bridge", "lan"]).ok();
    // The only bridge that vmbr made needs no name.
    host.vmbr(&["tap", "add", "t0", "--mac", "52:54:00:12:34:56", "--guard", "mac"])
        .ok();
    assert_eq!(listed(&host)[0]["bridge"], "lan");
    host.vmbr(&["tap", "add", "--count", "40", "many"]).ok();
    let text = refused(host.vmbr(&["down"]));
    assert!(
        text.contains("guests are on lan: ") && text.contains(" and 36 more"),
        "{text}"
    );
    host.vmbr(&["down", "--force"]).ok();
    assert_eq!(listed(&host), [] as [Value; 0]);
}

#[test]
fn status_tells_who_is_behind_each_tap() {
    let host = bridged("status");
    let macs = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
    host.vmbr(&["tap", "add", "free", "--mac", macs[0]]).ok();
    host.vmbr(&[
        "tap",
        "add",
        "guarded",
        "--mac",
        macs[1],
        "--guard",
        "192.0.2.52,2001:db8::/64",
    ])
    .ok();
    let of = |name: &str| {
        let text = host.vmbr(&["status", "br0", "--json"]).ok();
        let document: Value = serde_json::from_str(&text).unwrap();
        let ports = document["bridges"][0]["ports"].as_array().unwrap().clone();
        ports.into_iter().find(|port| port["name"] == name).unwrap()
    };
    for name in ["free", "guarded"] {
        assert_eq!(
            (&of(name)["guests"], &of(name)["in_use"]),
            (&json!([]), &json!(false))
        );
    }
    assert_eq!(of("free")["guard"], Value::Null);
    let guard = json!({"mac": macs[1], "addresses": ["192.0.2.52", "2001:db8::/64"]});
    assert_eq!(of("guarded")["guard"], guard);
    let picture = host.vmbr(&["status"]).ok();
    assert!(
        picture.contains("may speak only as 52:54:00:00:00:02 192.0.2.52 2001:db8::/64"),
        "{picture}"
    );
    assert_eq!(picture.matches("no guest holds it").count(), 2, "{picture}");
    // Two guests; one speaks to the LAN alone.
    let guests = [Namespace::new("one"), Namespace::new("two")];
    let _cables: Vec<Cable> = [("free", 0), ("guarded", 1)]
        .map(|(tap, number)| Cable::lay(&host.ns, tap, &guests[number], macs[number]))
        .into();
    for (guest, number) in guests.iter().zip(["51", "52"]) {
        guest.set_sysctl("net/ipv6/conf/eth0/addr_gen_mode", "1");
        guest.ip(&["link", "set", "eth0", "up"]);
        guest.ip(&["addr", "add", &format!("192.0.2.{number}/24"), "dev", "eth0"]);
        guest.ip(&[
            "addr",
            "add",
            &format!("2001:db8::{number}/64"),
            "dev",
            "eth0",
            "nodad",
        ]);
    }
    assert!(ping(&guests[1], "192.0.2.21") && ping(&guests[1], "2001:db8::21"));
    assert!(ping(&guests[0], "192.0.2.1"));
    assert_eq!(of("free")["guests"], json!([{"mac": macs[0], "addresses": []}]));
    let known = json!([{"mac": macs[1], "addresses": ["192.0.2.52", "2001:db8::52"]}]);
    assert_eq!(of("guarded")["guests"], known);
    let picture = host.vmbr(&["status"]).ok();
    assert!(
        picture.contains("guest 52:54:00:00:00:01  address not known: this host has heard none"),
        "{picture}"
    );
    assert!(
        picture.contains("guest 52:54:00:00:00:02  192.0.2.52  2001:db8::52"),
        "{picture}"
    );
}
