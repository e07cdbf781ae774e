//! `vmbr up --mode mac-nat` and back, on a host with a wired uplink: what a
//! person sees of it. The radio is in tests of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/host.rs"]
mod host;
#[path = "common/tap.rs"]
mod tap;
#[path = "common/translated.rs"]
mod translated;

use common::stage::{Call, Stage};
use common::{Namespace, VethEnd, run, veth_pair};
use frames::{BROADCAST, arp, frame, mac, mac_of};
use host::{Host, MAC, STATIC, ping, script_in};
use serde_json::{Value, json};
use tap::Frames;
use translated::{Guest, UP, assert_known_as_uplink, assert_untouched, filters, status};

/// The whole life: up, two guests, down. The host's own network stays as it
/// was all the time.
#[test]
fn guests_join_and_the_host_stays_as_it_was() {
    let host = Host::new("air", STATIC);
    let before = host.state();
    let said = host.vmbr(&UP);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(said.stdout.contains("eth0, which stays as it was"), "{said:?}");
    assert_untouched(&before, &host.state());
    assert_eq!(host.ns.link("br0-air").unwrap()["master"], "br0");

    let one = Guest::new(&host, 1);
    let two = Guest::new(&host, 2);
    // The LAN, this host, each other; and from the LAN to the guest.
    one.assert_reaches("192.0.2.1", "2001:db8::1");
    one.assert_reaches("192.0.2.21", "2001:db8::21");
    one.assert_reaches(&two.v4, &two.v6);
    two.assert_reaches("192.0.2.2", "2001:db8::2");
    for address in [&one.v4, &one.v6, &two.v4, &two.v6] {
        assert!(ping(&host.lan, address), "the LAN does not reach {address}");
        assert!(ping(&host.ns, address), "the host does not reach {address}");
        assert_known_as_uplink(&host, address);
    }
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));

    let again = host.vmbr(&UP);
    assert_eq!(again.code(), 0, "{again:?}");
    assert!(again.stdout.contains("already so"), "{again:?}");
    one.assert_reaches("192.0.2.1", "2001:db8::1");

    let refused = host.vmbr(&["down"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("g1, g2"), "{refused:?}");
    one.leave(&host);
    two.leave(&host);
    let down = host.vmbr(&["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(down.stdout.contains("br0 is gone"), "{down:?}");
    before.assert_same(&host.state());
    assert_eq!(filters(&host.ns, "eth0"), "");
}

#[test]
fn status_tells_how_a_packet_travels() {
    let host = translated::up("picture");
    let guest = Guest::new(&host, 1);
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
    let bridge = status(&host);
    assert_eq!(bridge["mode"], "mac-nat");
    assert_eq!(bridge["uplink"], "eth0");
    assert_eq!(bridge["uplink_state"], "up");
    assert_eq!(bridge["mac"], host::MAC);
    let addresses = bridge["addresses"].as_array().unwrap();
    for address in ["192.0.2.21/24", "2001:db8::21/64"] {
        assert!(addresses.contains(&json!(address)), "{bridge}");
    }
    assert_eq!(bridge["gateways"], json!(["192.0.2.1", "2001:db8::1"]));
    assert_eq!(bridge["translation"]["programs"], "attached");
    let ports = bridge["ports"].as_array().unwrap();
    let port = |name: &str| ports.iter().find(|port| port["name"] == name).cloned();
    assert_eq!(ports.len(), 2, "{bridge}");
    assert_eq!(port("br0-air").unwrap()["kind"], "air");
    let guests = port("g1").unwrap()["guests"].clone();
    assert_eq!(guests[0]["mac"], guest.mac, "{bridge}");
    let learned = guests[0]["learned"].as_array().unwrap();
    for address in [&guest.v4, &guest.v6] {
        let one = learned.iter().find(|one| one["address"] == **address);
        let one = one.unwrap_or_else(|| panic!("{address}: {bridge}"));
        assert!(one["age_seconds"].as_u64().unwrap() < 60, "{bridge}");
        assert_eq!(one["pinned"], false);
    }
    let picture = host.vmbr(&["status"]).ok();
    for word in ["eth0", "mac-nat", "this host: 192.0.2.21/24", "g1", &guest.v4] {
        assert!(picture.contains(word), "no {word} in\n{picture}");
    }
    assert!(!picture.contains("br0-far"), "{picture}");
}

/// Runs vmbr, and asserts its status, its words, and that nothing was touched.
fn refused(host: &Host, args: &[&str], status: i32, words: &[&str]) {
    let before = host.state();
    let ended = host.vmbr(args);
    assert_eq!(ended.code(), status, "{args:?}: {ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in {ended:?}");
    }
    before.assert_same(&host.state());
    let mut all = vec!["--json"];
    all.extend_from_slice(args);
    let document: Value = serde_json::from_str(&host.vmbr(&all).stdout).unwrap();
    assert_eq!(document["error"]["status"], status, "{document}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let host = Host::new("air-refused", &format!("{STATIC}\nip link add br7 type bridge"));
    let chaddr = ["up", "eth0", "--mode", "bridge", "--dhcp-chaddr"];
    refused(&host, &chaddr, 2, &["bad usage", "--dhcp-chaddr", "mac-nat"]);
    // A wired NIC can be a port, and is one by itself.
    refused(&host, &["up", "eth0", "--dhcp-chaddr"], 2, &["--mode mac-nat"]);
    refused(&host, &["up", "lo", "--mode", "mac-nat"], 3, &["loopback"]);
    let taken = ["up", "eth0", "--mode", "mac-nat", "--bridge", "br7"];
    refused(&host, &taken, 3, &["br7 that vmbr did not make"]);
    refused(&host, &["sync", "br7"], 3, &["br7 is no bridge in mode mac-nat"]);

    host.vmbr(&UP).ok();
    refused(
        &host,
        &["up", "eth0", "--mode", "bridge"],
        3,
        &["br0 stands in mode mac-nat"],
    );
    let with = ["up", "eth0", "--mode", "mac-nat", "--dhcp-chaddr"];
    refused(&host, &with, 3, &["br0 stands without --dhcp-chaddr"]);
    let second = ["up", "eth0", "--mode", "mac-nat", "--bridge", "br1"];
    refused(&host, &second, 3, &["eth0 serves the bridge br0 already"]);
    // What stands is what is asked for, where nobody says how.
    assert!(host.vmbr(&["up", "eth0"]).ok().contains("already so"));
    host.vmbr(&["down"]).ok();
    host.vmbr(&["up", "eth0"]).ok();
    refused(&host, &UP, 3, &["br0 stands in mode bridge"]);
}

#[test]
fn a_dry_run_shows_the_commands_and_needs_no_root() {
    let host = Host::new("air-dry", STATIC);
    let before = host.state();
    let dry = |args: &[&str]| {
        let mut command = host.ns.command("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_vmbr")]);
        run(command.args(["--state-dir"]).arg(host.records()).args(args))
    };
    let shown = dry(&["up", "eth0", "--mode", "mac-nat", "--dry-run"]).ok();
    for line in [
        "# mode mac-nat: eth0 stays as it is, guests speak by its MAC",
        "ip link add name br0-air mtu 1500 type veth peer name br0-far mtu 1500",
        "ip link set dev br0-air master br0",
        "tc qdisc add dev eth0 clsact",
        "tc filter add dev eth0 ingress bpf direct-action object-file mac_nat.o program vmbr_uplink_in",
        "# its maps are told: uplink eth0 02:00:00:00:00:21, air port br0-air",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "no {line:?} in\n{shown}"
        );
    }
    let protected = shown
        .lines()
        .find(|line| line.starts_with("# no guest may claim"))
        .unwrap();
    for address in ["192.0.2.21", "192.0.2.1", "2001:db8::21", "2001:db8::1"] {
        assert!(protected.split(' ').any(|word| word == address), "{protected}");
    }
    let document = dry(&["up", "eth0", "--mode", "mac-nat", "--dry-run", "--json"]).ok();
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["mode"], "mac-nat");
    assert_eq!(document["uplink"], "eth0");
    before.assert_same(&host.state());

    host.vmbr(&UP).ok();
    let stands = host.state();
    let shown = dry(&["down", "--dry-run"]).ok();
    for line in [
        "tc filter del dev eth0 ingress",
        "ip link del dev br0-air",
        "ip link del dev br0",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "no {line:?} in\n{shown}"
        );
    }
    stands.assert_same(&host.state());
}

#[test]
fn what_nobody_confirms_goes_again() {
    let host = Host::new("air-confirm", STATIC);
    let before = host.state();
    let ended = host.vmbr(&["up", "eth0", "--mode", "mac-nat", "--confirm=1"]);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("nobody confirmed it in time"), "{ended:?}");
    before.assert_same(&host.state());
    assert_eq!(filters(&host.ns, "eth0"), "");

    let mut up = host.command(&["up", "eth0", "--mode", "mac-nat", "--confirm=30"]);
    let up = up.stderr(std::process::Stdio::piped()).spawn().unwrap();
    translated::until("it does not wait", || {
        host.ns.link("br0").is_some() && status(&host)["state"] == "awaiting-confirm"
    });
    host.vmbr(&["confirm"]).ok();
    let ended = up.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(status(&host)["state"], "settled");
    let guest = Guest::new(&host, 1);
    guest.assert_reaches("192.0.2.1", "2001:db8::1");
}

/// `down` with guests: their TAPs go where that is asked for.
#[test]
fn guests_taps_go_with_the_bridge_by_force() {
    let host = translated::up("air-force");
    host.vmbr(&[
        "tap",
        "add",
        "web0",
        "--mac",
        "52:54:00:00:00:07",
        "--guard",
        "192.0.2.57",
    ])
    .ok();
    let tap = || host.ns.link("web0").unwrap();
    translated::until("it has a carrier", || {
        tap()["flags"].to_string().contains("NO-CARRIER")
    });
    let tap = tap();
    assert_eq!(tap["master"], "br0", "the only bridge of vmbr's is the one");
    refused(&host, &["down"], 3, &["guests are on br0: web0", "--force"]);
    host.vmbr(&["down", "--force"]).ok();
    assert_eq!(host.ns.links(), ["lo", "eth0", "eth1"].map(str::to_owned));
}

/// The helper, its ACL and its guard do on such a bridge what they do on
/// others.
#[test]
fn the_helper_gives_an_unprivileged_guest_its_port() {
    let stage = Stage::without_bridge("air-helper");
    let lan = Namespace::new("lan");
    let [uplink, far] = [(&stage.ns, "eth0", Some(MAC)), (&lan, "lan0", None)]
        .map(|(namespace, name, mac)| VethEnd { namespace, name, mac });
    veth_pair(&uplink, &far);
    script_in(&lan, "ip link set lan0 up; ip addr add 192.0.2.1/24 dev lan0");
    script_in(
        &stage.ns,
        "ip link set eth0 up; ip addr add 192.0.2.21/24 dev eth0; ip route add default via 192.0.2.1",
    );
    stage.acl_conf(
        "allow br0 user=4711 mac=52:54:00:00:00:07 guard=192.0.2.57\n\
         allow br0 user=4712\n",
    );
    let records = stage.path("records");
    let vmbr = |args: &[&str]| {
        let mut all = vec!["--state-dir", records.to_str().unwrap()];
        all.extend_from_slice(args);
        let call = Call::new(&all).program(env!("CARGO_BIN_EXE_vmbr")).uid(0);
        stage
            .run_on(&call, std::fs::File::open("/dev/null").unwrap().into())
            .ok()
    };
    vmbr(&UP);
    let tap = |uid: u32| {
        let call = Call::new(&["--fd=3", "--br=br0"]).uid(uid);
        Frames::new(stage.run(&call).descriptors().remove(0))
    };
    let (mut guarded, mut free) = (tap(4711), tap(4712));
    assert_eq!(stage.ports().len(), 3, "{:?}", stage.ports());
    let router = "192.0.2.1".parse().unwrap();
    let asks = |from: &str, address: &str| {
        let packet = arp(1, (mac(from), address.parse().unwrap()), ([0; 6], router));
        frame(BROADCAST, mac(from), 0x0806, &packet)
    };
    let known = |address: &str| {
        let all = lan.json(&["neigh", "show", "to", address]);
        all[0]["lladdr"].as_str().map(str::to_owned)
    };
    let (first, second) = ("52:54:00:00:00:07", "52:54:00:00:00:08");
    guarded.send(&asks(first, "192.0.2.57"));
    // The answer comes back to the guest's own MAC.
    let answer = [mac(first), mac_of(&lan, "lan0")].concat();
    assert!(guarded.hears(&answer), "no answer for the guest");
    assert_eq!(known("192.0.2.57").as_deref(), Some(MAC));
    // What the guard drops never comes to the translation; what no guest may
    // claim, and what is another's by the ACL, that drops itself.
    guarded.send(&asks(first, "192.0.2.58"));
    free.send(&asks(second, "192.0.2.21"));
    free.send(&asks(second, "192.0.2.57"));
    free.send(&asks(second, "192.0.2.59"));
    let answer = [mac(second), mac_of(&lan, "lan0")].concat();
    assert!(free.hears(&answer), "no answer for the other guest");
    assert_eq!(known("192.0.2.59").as_deref(), Some(MAC));
    assert_eq!(known("192.0.2.58"), None);
    let document: Value = serde_json::from_str(&vmbr(&["status", "--json"])).unwrap();
    let bridge = &document["bridges"][0];
    let counters = &bridge["translation"]["counters"];
    assert_eq!(
        (&counters["protected"], &counters["pinned"]),
        (&json!(1), &json!(1)),
        "{bridge}"
    );
    let guests = bridge["ports"].to_string();
    assert!(
        guests.contains(r#""address":"192.0.2.57","age_seconds":0,"pinned":true"#),
        "{guests}"
    );
    drop((guarded, free));
    stage.assert_no_tap();
    vmbr(&["down"]);
    assert!(stage.ns.link("br0").is_none());
}
