//! MAC-NAT frame by frame: what each kind of frame becomes (tests/mac_nat/
//! cases.rs), by the same C as a plain program under the sanitizers and as
//! programs of the kernel; then every frame cut at every byte, and with every
//! bit turned.
#![cfg(feature = "mac-nat")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/air.rs"]
mod air;
mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/packets.rs"]
mod packets;

mod mac_nat {
    pub mod cases;
    pub mod cases_in;
    pub mod cases_ipv6;
    pub mod machines;
    pub mod world;
}

use common::Namespace;
use mac_nat::cases::{Case, Fate, Program, cases};
use mac_nat::machines::{Kernel, Native, Outcome, Sent};
use mac_nat::world::*;
use vmbr::mac_nat::REASONS;

const INGRESS: u64 = 1;
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// What the programs do for a fate.
fn expected(case: &Case) -> (Outcome, Sent) {
    let outcome = |verdict, mark, frame: &[u8]| Outcome {
        verdict,
        mark,
        frame: frame.to_vec(),
    };
    let redirect = |device, flags| Sent {
        redirect: Some((device, flags)),
        ..Sent::default()
    };
    match &case.fate {
        Fate::Passes => (outcome(NEXT, 0, &case.frame), Sent::default()),
        Fate::Dropped(_) => (outcome(SHOT, case.mark, &case.frame), Sent::default()),
        Fate::Air(frame) => {
            let mut sent = redirect(UPLINK, 0);
            if case.frame[0] & 1 == 1 && !case.unheard {
                sent.clones = vec![(UPLINK, INGRESS, HANDLED, case.frame.clone())];
            }
            (outcome(REDIRECT, HANDLED, frame), sent)
        }
        Fate::Host => (outcome(REDIRECT, HANDLED, &case.frame), redirect(UPLINK, INGRESS)),
        Fate::Port(port, frame) => (outcome(REDIRECT, 0, frame), redirect(*port, 0)),
        Fate::Bridge(frame) => (outcome(REDIRECT, 0, frame), redirect(AIR, INGRESS)),
        Fate::Again(frame) => (
            outcome(REDIRECT, RETURNED, frame),
            redirect(case.ingress, INGRESS),
        ),
        Fate::Flooded(frame) => {
            let sent = Sent {
                clones: vec![(AIR, INGRESS, 0, frame.clone())],
                ..Sent::default()
            };
            (outcome(NEXT, 0, &case.frame), sent)
        }
    }
}

/// How often each reason was counted.
fn counted(case: &Case) -> Vec<u64> {
    let reason = match case.fate {
        Fate::Dropped(reason) => reason,
        _ if case.unheard => "server",
        _ if case.name == "ARP of another guest's address" => "moves-refused",
        _ => "",
    };
    REASONS.iter().map(|one| u64::from(*one == reason)).collect()
}

/// In a namespace without devices: the kernel sends copies by index.
fn with_kernel(hint: &str, work: impl FnOnce(Kernel) + Send) {
    let nowhere = Namespace::new(hint);
    air::inside(&nowhere, || work(Kernel::load()));
}

#[test]
fn each_frame_becomes_what_it_should() {
    with_kernel("golden", |mut kernel| {
        let mut native = Native::start();
        let mut wrong = Vec::new();
        for case in cases() {
            let wanted = expected(&case);
            native.reset(case.chaddr);
            let got = native.run(case.program, case.ingress, case.mark, &case.frame);
            let state = native.state();
            if got != wanted {
                wrong.push(format!("{}: native\n  {got:02x?}\n  {wanted:02x?}", case.name));
            }
            if state.counters != counted(&case) {
                wrong.push(format!("{}: counted {:?}", case.name, state.counters));
            }
            kernel.reset(case.chaddr);
            match kernel.run(case.program, case.ingress, case.mark, &case.frame) {
                Some(outcome) if outcome != wanted.0 => {
                    wrong.push(format!(
                        "{}: kernel\n  {outcome:02x?}\n  {:02x?}",
                        case.name, wanted.0
                    ));
                }
                Some(_) if kernel.state() != state => {
                    wrong.push(format!("{}: {:02x?}\n{state:02x?}", case.name, kernel.state()));
                }
                _ => {}
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    });
}

#[test]
fn a_gateways_mac_is_no_guests() {
    with_kernel("gateway", |mut kernel| {
        let mut native = Native::start();
        let tells = [
            arp(W, GATEWAY, 2, (GATEWAY, v4(1)), (W, v4(21))),
            arp(ALL, GATEWAY, 1, (GATEWAY, v4(1)), (NONE, v4(99))),
            ip(
                group(1).0,
                GATEWAY,
                &packets::icmpv6(v6(1), group(1).1, 134, [64, 0, 0, 0], &[0; 8]),
            ),
        ];
        // An address beyond the gateway, by the gateway's MAC.
        let far = "203.0.113.9".parse().unwrap();
        let taken = ip(
            STATION,
            GATEWAY,
            &packets::ipv4(far, v4(9), 6, (0, false), &tcp()),
        );
        for told in tells {
            native.reset(false);
            kernel.reset(false);
            let mut show = |program, ingress, frame: &[u8]| {
                let (outcome, sent) = native.run(program, ingress, 0, frame);
                assert_eq!(kernel.run(program, ingress, 0, frame), Some(outcome.clone()));
                (outcome.verdict, sent)
            };
            // Before it is known, and learned; afterwards, and dropped.
            let (_, sent) = show(Program::AirOut, PORT_A, &taken);
            assert_eq!(sent.redirect, Some((UPLINK, 0)));
            show(Program::UplinkIn, 0, &told);
            let again = ip(
                STATION,
                GATEWAY,
                &packets::ipv4(v4(78), v4(9), 6, (0, false), &tcp()),
            );
            assert_eq!(show(Program::AirOut, PORT_A, &again).0, SHOT);
            assert_eq!(native.state().counters[0], 1, "{told:02x?}");
            assert_eq!(native.state(), kernel.state());
        }
    });
}

#[test]
fn an_address_that_was_not_heard_for_long_is_nobodys() {
    with_kernel("age", |mut kernel| {
        let mut native = Native::start();
        native.reset(false);
        kernel.reset(false);
        let times = (1, 500_000);
        native.let_time_pass(times);
        kernel.let_time_pass(times);
        let packet = |from, to| packets::ipv4(v4(from), v4(to), 6, (0, false), &tcp());
        let incoming = ip(W, GATEWAY, &packet(1, 50));
        let outgoing = ip(GATEWAY, A, &packet(50, 1));
        let mut show = |program, frame: &[u8]| {
            let (outcome, _) = native.run(program, PORT_A, 0, frame);
            assert_eq!(kernel.run(program, PORT_A, 0, frame), Some(outcome.clone()));
            outcome.verdict
        };
        assert_eq!(show(Program::UplinkIn, &incoming), NEXT);
        // It speaks again.
        assert_eq!(show(Program::AirOut, &outgoing), REDIRECT);
        assert_eq!(show(Program::UplinkIn, &incoming), REDIRECT);
    });
}

#[test]
fn what_the_host_says_it_has_no_guest_claims() {
    with_kernel("hosts", |mut kernel| {
        let mut native = Native::start();
        let zero = std::net::Ipv4Addr::UNSPECIFIED;
        let nobody = std::net::Ipv6Addr::UNSPECIFIED;
        let ask = |sender, target| arp(ALL, W, 1, (W, sender), (NONE, target));
        let solicit = |from, target: std::net::Ipv6Addr| {
            let (mac, group) = solicited(target);
            ip(
                mac,
                W,
                &packets::icmpv6(from, group, 135, [0; 4], &target.octets()),
            )
        };
        let told = [&v6(77).octets()[..], &packets::tells(2, W)].concat();
        let advertised = packets::icmpv6(v6(77), group(1).1, 136, [0x20, 0, 0, 0], &told);
        let claim4 = |last| ip(GATEWAY, A, &packets::ipv4(v4(last), v4(1), 6, (0, false), &tcp()));
        let claim6 = |last| ip(GATEWAY, A, &packets::ipv6(v6(last), v6(1), 6, &tcp()));
        let cases = [
            (ask(zero, v4(77)), claim4(77), SHOT),
            (ask(v4(77), v4(1)), claim4(77), SHOT),
            (
                arp(GATEWAY, W, 2, (W, v4(77)), (GATEWAY, v4(1))),
                claim4(77),
                SHOT,
            ),
            (solicit(nobody, v6(77)), claim6(77), SHOT),
            (solicit(v6(77), v6(1)), claim6(77), SHOT),
            (ip(group(1).0, W, &advertised), claim6(77), SHOT),
            // A guest that has it already defends it.
            (ask(zero, v4(50)), claim4(50), REDIRECT),
            (solicit(nobody, v6(50)), claim6(50), REDIRECT),
            // What the host asks for is not its own.
            (ask(v4(21), v4(77)), claim4(77), REDIRECT),
            (solicit(v6(21), v6(77)), claim6(77), REDIRECT),
            // The host has it all the same.
            (ask(v4(50), v4(1)), claim4(50), SHOT),
            (solicit(v6(50), v6(1)), claim6(50), SHOT),
        ];
        for (host, guest, verdict) in cases {
            native.reset(false);
            kernel.reset(false);
            let mut show = |program, ingress, frame: &[u8]| {
                let (outcome, _) = native.run(program, ingress, 0, frame);
                assert_eq!(kernel.run(program, ingress, 0, frame), Some(outcome.clone()));
                outcome.verdict
            };
            show(Program::UplinkOut, 0, &host);
            assert_eq!(show(Program::AirOut, PORT_A, &guest), verdict, "{host:02x?}");
            assert_eq!(native.state(), kernel.state());
        }
    });
}

#[test]
fn what_is_behind_another_device_is_no_guests() {
    with_kernel("behind", |mut kernel| {
        let mut native = Native::start();
        native.reset(false);
        kernel.reset(false);
        let claim = |from| ip(GATEWAY, A, &packets::ipv4(from, v4(1), 6, (0, false), &tcp()));
        for (address, learned) in [(elsewhere(9), false), (beyond(9), true), (v4(99), true)] {
            let (outcome, _) = native.run(Program::AirOut, PORT_A, 0, &claim(address));
            let real = kernel.run(Program::AirOut, PORT_A, 0, &claim(address));
            assert_eq!(real, Some(outcome.clone()));
            assert_eq!(outcome.verdict, REDIRECT);
            let state = native.state();
            assert_eq!(
                state.guests.contains_key(&key(address.into())),
                learned,
                "{address}"
            );
            assert_eq!(kernel.state(), state);
        }
    });
}

#[test]
fn a_transaction_is_free_again_after_a_while() {
    let mut native = Native::start();
    native.reset(true);
    let dhcp = Dhcp {
        operation: 1,
        xid: 0x7777_7777,
        broadcast: true,
        chaddr: A,
        summed: true,
    };
    let packet = dhcp.packet(std::net::Ipv4Addr::UNSPECIFIED, std::net::Ipv4Addr::BROADCAST, 0);
    let asked = ip(ALL, A, &packet);
    let show = |native: &mut Native| native.run(Program::AirOut, PORT_A, 0, &asked).0.verdict;
    assert_eq!(show(&mut native), SHOT);
    native.let_time_pass_with((1000, 500_000), true);
    assert_eq!(show(&mut native), REDIRECT);
    // And now it is this guest's.
    let again = ip(ALL, B, &packet);
    assert_eq!(native.run(Program::AirOut, PORT_B, 0, &again).0.verdict, SHOT);
}

#[test]
fn an_address_that_comes_again_takes_no_new_place() {
    let mut native = Native::start();
    native.reset(false);
    let claim = |last| ip(GATEWAY, A, &packets::ipv4(v4(last), v4(1), 6, (0, false), &tcp()));
    let ask = arp(ALL, W, 1, (W, v4(100)), (NONE, v4(1)));
    native.run(Program::AirOut, PORT_A, 0, &claim(99));
    for _ in 0..100 {
        native.run(Program::AirOut, PORT_A, 0, &claim(100));
        // The host takes it, and gives it back.
        native.run(Program::UplinkOut, 0, 0, &ask);
        native.reset_protected(v4(100));
    }
    assert!(native.state().guests.contains_key(&key(v4(99).into())));
}

#[test]
fn what_defends_against_a_guests_probe_stays_within_the_host() {
    with_kernel("probe", |mut kernel| {
        let mut native = Native::start();
        native.reset(false);
        kernel.reset(false);
        let zero = std::net::Ipv4Addr::UNSPECIFIED;
        let probe = arp(ALL, A, 1, (A, zero), (NONE, v4(21)));
        let reply = |to| arp(to, W, 2, (W, v4(21)), (to, zero));
        native.run(Program::AirOut, PORT_A, 0, &probe);
        kernel.run(Program::AirOut, PORT_A, 0, &probe);
        for (to, redirect) in [(A, Some((AIR, INGRESS))), (STATION, None)] {
            let (outcome, sent) = native.run(Program::UplinkOut, 0, 0, &reply(to));
            let real = kernel.run(Program::UplinkOut, 0, 0, &reply(to));
            assert_eq!(real, Some(outcome));
            assert_eq!(sent.redirect, redirect);
        }
    });
}

#[test]
fn without_an_uplink_nothing_is_done() {
    let mut native = Native::start();
    native.reset(false);
    native.stop();
    for case in cases() {
        let (outcome, sent) = native.run(case.program, case.ingress, case.mark, &case.frame);
        let verdict = if case.program == Program::AirOut {
            SHOT
        } else {
            NEXT
        };
        assert_eq!(outcome.verdict, verdict, "{}", case.name);
        assert_eq!(
            (outcome.frame, sent),
            (case.frame, Sent::default()),
            "{}",
            case.name
        );
    }
    assert_eq!(native.state().counters.iter().sum::<u64>(), 0);
}

#[test]
fn no_checksum_is_written_into_what_was_checked() {
    let mut native = Native::start();
    native.reset(false);
    let plain = ip(GATEWAY, A, &packets::ipv4(v4(50), v4(1), 6, (0, false), &tcp()));
    let v6_of = |next, payload: &[u8]| ip(GATEWAY, A, &packets::ipv6(v6(50), v6(1), next, payload));
    let echo = ip(GATEWAY, A, &packets::icmpv6(v6(50), v6(1), 128, [0; 4], &[0; 8]));
    let options = v6_of(60, &[packets::options(6), tcp()].concat());
    let announced = arp(ALL, A, 1, (A, v4(50)), (NONE, v4(50)));
    // Where it ends that the hardware shall write.
    let cases = [
        (&plain, 52, true),
        (&v6_of(6, &tcp()), 72, true),
        (&options, 80, true),
        (&echo, 58, false),
        (&announced, 42, false),
    ];
    for (frame, end, passes) in cases {
        native.leave_checksum(end);
        let (outcome, _) = native.run(Program::AirOut, PORT_A, 0, frame);
        let wanted = if passes { REDIRECT } else { SHOT };
        assert_eq!(outcome.verdict, wanted, "{end} of {frame:02x?}");
    }
    assert_eq!(native.state().counters[13], 2);
}

/// What of a frame to the air tells a MAC that is not the uplink's.
fn foreign(frame: &[u8]) -> Option<&'static str> {
    if frame[6..12] != W {
        return Some("source");
    }
    match &frame[12..14] {
        [8, 0] => None,
        [8, 6] if frame.get(22..28) == Some(&W) => None,
        [8, 6] => Some("ARP sender"),
        [0x86, 0xdd] => foreign_option(frame),
        _ => Some("protocol"),
    }
}

/// Looks for neighbour discovery by itself, without extension headers.
fn foreign_option(frame: &[u8]) -> Option<&'static str> {
    let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    let message = frame.get(54..54 + length)?;
    let options = match message.first()? {
        133 => 8,
        134 => 16,
        135 | 136 => 24,
        137 => 40,
        _ => return None,
    };
    if frame[20] != 58 {
        return None;
    }
    let mut options = message.get(options..)?;
    while let [kind, length, rest @ ..] = options {
        if matches!(kind, 1 | 2) && *length > 0 && rest.get(..6) != Some(&W) {
            return Some("option of neighbour discovery");
        }
        options = options.get(8 * usize::from((*length).max(1))..)?;
    }
    None
}

/// A frame cut at every byte, and with every bit turned.
fn torn(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let cut = (0..frame.len()).map(|length| frame[..length].to_vec());
    let turned = (0..8 * frame.len()).map(|bit| {
        let mut turned = frame.to_vec();
        turned[bit / 8] ^= 1 << (bit % 8);
        turned
    });
    cut.chain(turned)
}

/// No frame goes to the air with a MAC that is not the uplink's.
fn harmless(case: &Case, outcome: &Outcome, sent: &Sent) {
    if sent.redirect == Some((UPLINK, 0)) {
        assert_eq!(case.program, Program::AirOut, "{}: {outcome:02x?}", case.name);
        let told = foreign(&outcome.frame);
        assert_eq!(told, None, "{}: {outcome:02x?}", case.name);
    }
    let copied = sent.clones.iter().any(|(_, flags, ..)| *flags != INGRESS);
    assert!(!copied, "{}: {sent:02x?}", case.name);
}

#[test]
fn torn_frames_harm_nobody() {
    with_kernel("torn", |mut kernel| {
        let mut native = Native::start();
        let mut frames = 0;
        for case in cases() {
            native.reset(case.chaddr);
            kernel.reset(case.chaddr);
            // The kernel takes nothing as a frame that is shorter than what
            // its type says.
            let mut short = Vec::new();
            let mut whole = Vec::new();
            let mut reals = Vec::new();
            for frame in torn(&case.frame) {
                match kernel.run(case.program, case.ingress, case.mark, &frame) {
                    Some(real) => {
                        reals.push(real);
                        whole.push(frame);
                    }
                    None => short.push(frame),
                }
            }
            frames += whole.len() + short.len();
            let seen = native.run_all(case.program, case.ingress, case.mark, &whole);
            for ((outcome, sent), real) in seen.iter().zip(&reals) {
                assert_eq!(outcome, real, "{}", case.name);
                harmless(&case, outcome, sent);
            }
            assert_eq!(kernel.state(), native.state(), "{}", case.name);
            for (outcome, sent) in native.run_all(case.program, case.ingress, case.mark, &short) {
                harmless(&case, &outcome, &sent);
            }
        }
        assert!(frames > 100_000, "{frames} frames are not all of them");
    });
}
