//! The words behind `allow BRIDGE` in acl.conf, with the real kernel: for
//! whom, how many at once, and how; and a caller who wants more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/storm.rs"]
mod storm;
#[path = "common/tap.rs"]
mod tap;

use std::os::fd::{AsFd, OwnedFd};

use common::stage::{CALLER, Call, Stage};
use storm::Storm;
use tap::{Frames, OWN, PERSIST, SET_MAC, holder};

const ARGUMENTS: [&str; 2] = ["--fd=3", "--br=br0"];
const DENIED: &str = "vmbr-helper: access denied; the reason is in the system's log, for its administrator\n";

fn one(stage: &Stage) -> OwnedFd {
    stage.call(&ARGUMENTS).descriptors().remove(0)
}

#[test]
fn of_fifty_at_once_exactly_as_many_win_as_the_quota_says() {
    let stage = Stage::new("race");
    stage.acl_conf("allow br0 taps=5\n");
    for _ in 0..3 {
        let storm = Storm::new(&stage, CALLER, 50, &["--br=br0"]);
        assert_eq!((storm.won, stage.ports().len()), (5, 5));
        // Another user has a quota of his own, while this one is used up.
        let other = Storm::new(&stage, CALLER + 1, 20, &["--br=br0"]);
        assert_eq!((other.won, stage.ports().len()), (5, 10));
        drop((storm, other));
        stage.assert_no_tap();
        // A log that nobody reads fills up, and then each call waits for it.
        stage.logged();
    }
    // Whoever is killed in the middle leaves nothing that counts.
    let storm = Storm::new(&stage, CALLER, 5, &["--br=br0", "--queues=2"]);
    assert_eq!(storm.won, 5);
}

#[test]
fn a_tap_counts_as_long_as_it_lives_whatever_its_holder_does_to_it() {
    let stage = Stage::new("tricks");
    stage.acl_conf("allow br0 taps=2\n");
    let used_up = || {
        let said = stage.call(&ARGUMENTS).refused(3);
        assert!(said.contains("your 2 TAPs on br0 are all in use"), "{said}");
        let log = stage.logged().concat();
        assert!(log.contains("uid 4711, bridge br0: your 2 TAPs"), "{log}");
    };
    let (first, second) = (one(&stage), one(&stage));
    used_up();
    // The holder gives it to somebody else, and to nobody; another MAC.
    for code in [OWN, "ioctl($tap, 0x400454cc, -1) // print qq(no\\n);", SET_MAC] {
        holder(&stage, CALLER, code, first.as_fd());
        used_up();
    }
    // It outlives its guest.
    assert_eq!(holder(&stage, CALLER, PERSIST, first.as_fd()), "");
    drop(first);
    assert_eq!(stage.taps().len(), 2);
    used_up();
    drop(second);
    // What is persistent stays and counts; one is free again.
    let third = one(&stage);
    used_up();
    drop(third);
    stage.ns.ip(&["link", "del", "tap0"]);
    let both = (one(&stage), one(&stage));
    used_up();
    drop(both);
    stage.assert_no_tap();
    // Nothing is remembered but by the devices themselves: a bridge made anew
    // begins anew.
    let old = (one(&stage), one(&stage));
    stage.ns.ip(&["link", "del", "br0"]);
    stage.ns.ip(&["link", "add", "br0", "type", "bridge"]);
    drop(one(&stage));
    drop(old);
}

#[test]
fn a_quota_is_of_one_bridge_and_of_the_line_that_counts() {
    let stage = Stage::new("lines");
    stage.ns.ip(&["link", "add", "br1", "type", "bridge"]);
    stage.etc(
        "passwd",
        "root:x:0:0::/:/bin/sh\nalice:x:4711:4711::/:/bin/sh\nbob:x:4712:4712::/:/bin/sh\n",
    );
    stage.etc("group", "root:x:0:\nlab:x:900:\nkvm:x:36:alice\n");
    stage.acl_conf(
        "allow br0 user=bob,carol
         allow br1 group=lab taps=3
         allow all user=alice taps=1 # the first that is for her
         allow br0 user=4700-4800 taps=2
         allow br0 group=kvm",
    );
    let call = |bridge: &str, uid: u32, groups: &'static [u32]| {
        let call = Call {
            groups,
            ..Call::new(&["--fd=3", bridge])
        };
        stage.run(&call.uid(uid))
    };
    let alice = call("--br=br0", CALLER, &[]).descriptors();
    call("--br=br0", CALLER, &[]).refused(3);
    let there = call("--br=br1", CALLER, &[]).descriptors();
    call("--br=br1", CALLER, &[]).refused(3);
    // In the group she has more: two others, as one of three is in use.
    let lab = [
        call("--br=br1", CALLER, &[900]).descriptors(),
        call("--br=br1", CALLER, &[900]).descriptors(),
    ];
    call("--br=br1", CALLER, &[900]).refused(3);
    // Bob is not counted on br0, and is nobody on br1.
    let bob: Vec<_> = (0..4)
        .map(|_| call("--br=br0", CALLER + 1, &[]).descriptors())
        .collect();
    assert_eq!(call("--br=br1", CALLER + 1, &[]).refused(3), DENIED);
    // By number, by group, and not at all.
    drop(call("--br=br0", CALLER + 2, &[]).descriptors());
    drop(call("--br=br0", 5000, &[1, 36]).descriptors());
    assert_eq!(call("--br=br0", 5000, &[1]).refused(3), DENIED);
    drop((alice, there, lab, bob));
    stage.assert_no_tap();
}

#[test]
fn names_that_cannot_be_looked_up_deny_everything() {
    let stage = Stage::new("names");
    stage.acl_conf("allow br0 user=4711\nallow br0 user=alice\n");
    // Not needed: the number comes first.
    one(&stage);
    stage.acl_conf("allow br0 user=alice\n");
    for (prelude, why) in [
        ("rm -f /etc/passwd", "No such file"),
        ("touch /etc/passwd; chmod 600 /etc/passwd", "Permission denied"),
        (
            "echo alice:x:4711:1::/: >/etc/passwd; chmod 666 /etc/passwd",
            "can be written by others",
        ),
        (
            "echo alice:x:4711:1::/: >/etc/passwd; chown 4711 /etc/passwd",
            "does not belong to root",
        ),
    ] {
        stage.logged();
        let said = stage.run(&Call::new(&ARGUMENTS).prelude(prelude)).refused(3);
        assert_eq!(said, DENIED);
        let log = stage.logged().concat();
        assert!(
            log.contains("/etc/vmbr/acl.conf:1: the names in it are looked up in /etc/passwd")
                && log.contains(why),
            "{log}"
        );
    }
    stage.etc("passwd", "alice:x:4711:4711::/:/bin/sh\n");
    one(&stage);
}

#[test]
fn an_unknown_word_denies_everyone_and_is_found_in_the_log() {
    let stage = Stage::new("words");
    stage.acl_conf("allow br0\nallow br9  taps=2 tap=3\n");
    assert_eq!(stage.call(&ARGUMENTS).refused(3), DENIED);
    let log = stage.logged().concat();
    assert!(
        log.ends_with(
            "access denied: /etc/vmbr/acl.conf:2:19: the word behind the bridge is not known, so nothing is allowed"
        ),
        "{log}"
    );
    // They are no words of QEMU's file.
    std::fs::remove_file(stage.path("etc/vmbr/acl.conf")).unwrap();
    stage.bridge_conf("allow br0 taps=2\n");
    assert_eq!(stage.call(&ARGUMENTS).refused(3), DENIED);
}

#[test]
fn the_port_is_as_the_line_says_whatever_is_asked_for() {
    let stage = Stage::new("terms");
    let info = |tap: &str| {
        let link = stage.ns.link(tap).unwrap();
        (
            link["mtu"].clone(),
            link["linkinfo"]["info_slave_data"]["isolated"].clone(),
        )
    };
    stage.acl_conf("allow br0 isolated mtu=1400 queues=2\n");
    let made = stage.call(&["--fd=3", "--br=br0", "--queues=2"]).descriptors();
    assert_eq!(made.len(), 2);
    assert_eq!(info("tap0"), (1400.into(), true.into()));
    assert_eq!(
        stage.ns.link("br0").unwrap()["mtu"],
        1500,
        "the bridge took its port's MTU"
    );
    let said = stage.call(&["--fd=3", "--br=br0", "--queues=3"]).refused(3);
    assert!(said.contains("at most 2 queues"), "{said}");
    drop(made);
    stage.acl_conf("allow br0 mtu=9000\n");
    let made = stage.call(&["--fd=3", "--br=br0", "--isolated"]).descriptors();
    assert_eq!(info("tap0"), (9000.into(), true.into()));
    assert_eq!(stage.ns.link("br0").unwrap()["mtu"], 1500);
    drop(made);
    stage.assert_no_tap();
}

#[test]
fn a_pinned_port_speaks_as_its_guest_alone() {
    let stage = Stage::new("pinned");
    let honest = [0x52, 0x54, 0, 0, 0, 0x50];
    let other = [0x52, 0x54, 0, 0, 0, 0x51];
    stage.acl_conf("allow br0 user=4711 mac=52:54:00:00:00:50\nallow br0\n");
    let mut guest = Frames::new(one(&stage));
    let plain = || stage.run(&Call::new(&ARGUMENTS).uid(CALLER + 1)).descriptors();
    let mut neighbour = Frames::new(plain().remove(0));
    guest.say(honest, [0xff; 6], b"honest");
    assert!(neighbour.hears(b"honest"), "the guest's own MAC passes");
    for spoofed in [other, [0, 0, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 0x4f]] {
        guest.say(spoofed, [0xff; 6], b"spoofed");
        assert!(neighbour.misses(b"spoofed"), "{spoofed:?} passed");
    }
    // A MAC that another port has spoken as before is not the guest's either.
    neighbour.say(other, [0xff; 6], b"neighbour");
    assert!(guest.hears(b"neighbour"));
    guest.say(other, [0xff; 6], b"stolen");
    assert!(neighbour.misses(b"stolen"));
    // Nor one that it gives the TAP itself, which its holder may do.
    assert_eq!(holder(&stage, CALLER, SET_MAC, guest.as_fd()), "");
    assert_eq!(stage.ns.link("tap0").unwrap()["address"], "52:54:00:00:00:66");
    guest.say([0x52, 0x54, 0, 0, 0, 0x66], [0xff; 6], b"renamed");
    assert!(neighbour.misses(b"renamed"));

    // The other way round: who speaks as the guest gets nothing of its.
    neighbour.say(honest, [0xff; 6], b"thief");
    let mut third = Frames::new(plain().remove(0));
    third.say([0x52, 0x54, 0, 0, 0, 0x52], honest, b"for the guest");
    assert!(guest.hears(b"for the guest"), "the guest's frames went elsewhere");
    assert!(neighbour.misses(b"for the guest"));
    guest.say(honest, [0xff; 6], b"still there");
    assert!(third.hears(b"still there"));

    // A second guest with the same MAC is none.
    let said = stage.call(&ARGUMENTS).refused(3);
    assert!(said.contains("52:54:00:00:00:50 is in use on br0"), "{said}");
    drop(guest);
    // The port's entries went with it; who speaks as the guest now is wrong,
    // for the ACL says whose it is.
    neighbour.say(honest, [0xff; 6], b"thief");
    let mut guest = Frames::new(one(&stage));
    third.say([0x52, 0x54, 0, 0, 0, 0x52], honest, b"again");
    assert!(guest.hears(b"again") && neighbour.misses(b"again"));
}

#[test]
fn a_guarded_port_speaks_by_its_addresses_alone() {
    let stage = Stage::new("guarded");
    let mac = [0x52, 0x54, 0, 0, 0, 0x50];
    stage.acl_conf(
        "allow br0 user=4711 mac=52:54:00:00:00:50 guard=192.0.2.50,2001:db8::50
         allow br0",
    );
    let mut guest = Frames::new(one(&stage));
    let plain = stage.run(&Call::new(&ARGUMENTS).uid(CALLER + 1)).descriptors();
    let mut neighbour = Frames::new(plain.into_iter().next().unwrap());
    guest.say_ipv4(mac, [192, 0, 2, 50], b"honest");
    assert!(neighbour.hears(b"honest"));
    for (mac, address) in [
        (mac, [192, 0, 2, 51]),
        ([0x52, 0x54, 0, 0, 0, 0x51], [192, 0, 2, 50]),
        (mac, [192, 0, 2, 255]),
    ] {
        guest.say_ipv4(mac, address, b"spoofed");
        assert!(neighbour.misses(b"spoofed"), "{mac:?} {address:?} passed");
    }
    // Its holder cannot take it off: the filter goes with the port.
    assert_eq!(holder(&stage, CALLER, SET_MAC, guest.as_fd()), "");
    guest.say_ipv4([0x52, 0x54, 0, 0, 0, 0x66], [192, 0, 2, 50], b"spoofed");
    assert!(neighbour.misses(b"spoofed"));
    guest.say_ipv4(mac, [192, 0, 2, 50], b"still");
    assert!(neighbour.hears(b"still"));
    // The same by a MAC of the caller's choice.
    stage.acl_conf("allow br0 guard=192.0.2.50");
    let chosen = stage
        .call(&["--fd=3", "--br=br0", "--use-vnet", "--mac=52:54:00:00:00:77"])
        .descriptors();
    // Without a header, by which the guest could have a checksum written over
    // an address, also where QEMU asks for one.
    let mut chosen = Frames::new(chosen.into_iter().next().unwrap());
    chosen.say_ipv4([0x52, 0x54, 0, 0, 0, 0x77], [192, 0, 2, 50], b"plain");
    assert!(neighbour.hears(b"plain"));
    chosen.say_ipv4([0x52, 0x54, 0, 0, 0, 0x77], [192, 0, 2, 51], b"other");
    assert!(neighbour.misses(b"other"));
    drop((guest, neighbour, chosen));
    stage.assert_no_tap();
}

#[test]
fn a_mac_of_the_callers_choice_is_bounded_and_must_be_free() {
    let stage = Stage::new("choice");
    stage
        .ns
        .ip(&["link", "set", "br0", "address", "52:54:00:00:00:01"]);
    stage.acl_conf(
        "allow br0 user=4711 mac=52:54:00\nallow br0 user=4712 guard\n\
         allow br0 user=4713 mac=52:54:00:00:00:99\nallow br0\n",
    );
    let ask = |uid: u32, mac: &str| {
        let mac = format!("--mac={mac}");
        stage.run(&Call::new(&["--fd=3", "--br=br0", &mac]).uid(uid))
    };
    for (uid, arguments, said) in [
        (
            4711,
            &ARGUMENTS[..],
            "say which the guest has: --mac=MAC, the same as in -device",
        ),
        (4712, &ARGUMENTS[..], "say which the guest has"),
        (
            4711,
            &["--fd=3", "--br=br0", "--mac=52:55:00:00:00:50"],
            "not granted to you",
        ),
        // Those that are given to another are his, also while he has no guest.
        (
            4711,
            &["--fd=3", "--br=br0", "--mac=52:54:00:00:00:99"],
            "not granted to you",
        ),
        (
            4712,
            &["--fd=3", "--br=br0", "--mac=52:54:00:00:00:99"],
            "not granted to you",
        ),
    ] {
        let answer = stage.run(&Call::new(arguments).uid(uid)).refused(3);
        assert!(answer.contains(said), "{answer}");
    }
    let mut guest = Frames::new(ask(4711, "52:54:00:00:00:50").descriptors().remove(0));
    let mut lan = Frames::new(stage.run(&Call::new(&ARGUMENTS).uid(9)).descriptors().remove(0));
    let station = [0x52, 0x54, 0, 0, 0, 0x77];
    lan.say(station, [0xff; 6], b"here");
    assert!(guest.hears(b"here"));
    // The host's own, another guest's, and one that is heard elsewhere.
    for taken in ["52:54:00:00:00:01", "52:54:00:00:00:50", "52:54:00:00:00:77"] {
        for uid in [4711, 4712] {
            let said = ask(uid, taken).refused(3);
            assert!(said.contains("is in use on br0"), "{uid} {taken}: {said}");
        }
    }
    guest.say(station, [0xff; 6], b"spoofed");
    assert!(lan.misses(b"spoofed"));
    drop(ask(4712, "02:00:00:00:00:09").descriptors());
    // Who is not asked for one may still bind himself.
    let mut bound = Frames::new(ask(9, "02:00:00:00:00:0a").descriptors().remove(0));
    bound.say(station, [0xff; 6], b"spoofed");
    assert!(lan.misses(b"spoofed"));
}

#[test]
fn a_kernel_without_locked_ports_lets_no_guest_in() {
    let stage = Stage::new("unlocked");
    stage.acl_conf("allow br0 mac=52:54:00:00:00:50\n");
    let trace = stage.path("trace");
    // Such a kernel passes over an option that it does not know, in silence:
    // the number of "locked" in the message (the first one takes a slot)
    // becomes one that no kernel knows. In this namespace lo is device 1, br0
    // 2 and tap0 3.
    let message: [&[u8]; 4] = [
        &[60, 0, 0, 0, 19, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[7, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[28, 0, 12, 0x80],
        &[5, 0, 200, 0],
    ];
    let message: String = message
        .concat()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let inject = format!("inject=sendto:poke_enter=@arg2={message}:when=2");
    let wrapper = [
        "strace",
        "-qq",
        "-xx",
        "-s",
        "64",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        &inject,
    ];
    let answer = stage.run(&Call::new(&ARGUMENTS).uid(0).wrapper(&wrapper));
    assert!(answer.received.descriptors.is_empty());
    let said = answer.refused(3);
    assert!(said.contains("Linux 5.18 or newer (locked ports)"), "{said}");
    stage.assert_no_tap();
    // It was the right message.
    assert_eq!(stage.run(&Call::new(&ARGUMENTS)).descriptors().len(), 1);
    let sent = std::fs::read_to_string(&trace).unwrap();
    let second = sent
        .lines()
        .filter(|line| line.starts_with("sendto("))
        .nth(1)
        .unwrap();
    assert!(second.ends_with("= 60 (INJECTED: args)"), "{sent}");
}

#[test]
fn nobody_attaches_to_anothers_tap() {
    let stage = Stage::new("attach");
    stage.acl_conf("allow br0\n");
    let tap = one(&stage);
    assert_eq!(holder(&stage, CALLER, PERSIST, tap.as_fd()), "");
    drop(tap);
    let attach = r#"
open(my $new, "+<", "/dev/net/tun") or die "open: $!";
my $request = pack("a16 s x22", "tap0", 0x1002);
print ioctl($new, 0x400454ca, $request) ? "attached\n" : "$!\n";
"#;
    let nothing = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(
        holder(&stage, CALLER + 1, attach, nothing.as_fd()),
        "Operation not permitted\n"
    );
    assert_eq!(holder(&stage, CALLER, attach, nothing.as_fd()), "attached\n");
    stage.ns.ip(&["link", "del", "tap0"]);
}

#[test]
fn a_thousand_rules_are_read_to_the_end() {
    let stage = Stage::new("thousand");
    let mut text = String::new();
    for n in 0..1000 {
        text.push_str(&format!(
            "allow br{} user={}-{},u{n} taps=3 isolated\n",
            n % 7,
            n * 10,
            n * 10 + 9
        ));
    }
    stage.etc("passwd", "u471:x:4711:4711::/:\n");
    stage.acl_conf(&(text.clone() + "deny br0 # at last\n"));
    assert_eq!(stage.call(&ARGUMENTS).refused(3), DENIED);
    stage.logged();
    stage.acl_conf(&text);
    stage.ns.ip(&["link", "add", "br2", "type", "bridge"]);
    let made = stage.call(&["--fd=3", "--br=br2"]).descriptors();
    let log = stage.logged().concat();
    // 471 mod 7 is 2: the range and the name stand on this line.
    assert!(log.ends_with("(allowed by /etc/vmbr/acl.conf:472)"), "{log}");
    drop(made);
}
