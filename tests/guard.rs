//! Guarded ports against a hostile guest, by raw frames, and for an honest
//! one, which is a whole Linux.
//!
//! Every frame is also sent by a port without a guard, where it must arrive:
//! else that it does not arrive by a guarded one would say nothing.
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
#[path = "common/machine.rs"]
mod machine;
#[path = "common/packets.rs"]
mod packets;
#[path = "common/router.rs"]
mod router;
#[path = "common/taps.rs"]
mod taps;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::{Namespace, wait_until};
use frames::{ALL_NODES, BROADCAST, Mac, frame, mac};
use host::{Host, ping, script_in};
use machine::{Machine, dhcp_server};
use packets::{
    ARP, arp_as, fragment, icmpv6, icmpv6_message, ip_frame, ipv4, ipv6, options, tagged, tells, udp,
};
use router::Router;
use taps::{Cable, Ear, Holder};

const GUEST: &str = "52:54:00:12:34:56";
const OTHER: &str = "52:54:00:66:66:66";
/// Its addresses: each alone, and a prefix.
const GUARD: &str = "192.0.2.50,2001:db8::50,2001:db8:a::/64";
/// Next-header numbers.
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

/// A host with `eth0` on a bridge, which somebody made without vmbr.
fn bridged(hint: &str) -> Host {
    // Bridge netfilter, where its module is loaded, cuts frames to the length of
    // their packets, and with it the mark of the test.
    let script = "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0 up
        for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done";
    Host::new(hint, script)
}

fn add(host: &Host, name: &str, guard: &str) {
    host.vmbr(&["tap", "add", name, "--mac", GUEST, "--guard", guard])
        .ok();
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// What is sent, and whether an honest guest might.
struct Case {
    name: &'static str,
    frame: Vec<u8>,
    honest: bool,
}

/// Every sort of frame.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(arp_cases());
    cases.extend(ipv4_cases());
    cases.extend(ipv6_cases());
    cases.extend(discovery_cases());
    cases.extend(fragment_cases());
    let (me, she) = (mac(GUEST), mac(OTHER));
    let beacon = |name, protocol: u16| Case {
        name,
        frame: frame(BROADCAST, me, protocol, &[0; 46]),
        honest: false,
    };
    cases.push(beacon("LLDP", 0x88cc));
    cases.push(beacon("PPPoE", 0x8863));
    cases.push(beacon("an 802.3 frame with LLC", 46));
    // By the MAC of another, what would be honest by its own.
    let stolen: Vec<Case> = cases
        .iter()
        .filter(|case| case.honest)
        .map(|case| Case {
            name: case.name,
            frame: [&case.frame[..6], &she, &case.frame[12..]].concat(),
            honest: false,
        })
        .collect();
    // And all of it with a VLAN tag: by number, of priority alone, a
    // provider's, and two.
    let tags = cases.iter().flat_map(|case| {
        let frame = &case.frame;
        [
            tagged(frame, 0x8100, 5),
            tagged(frame, 0x8100, 0x2000),
            tagged(frame, 0x88a8, 5),
            tagged(&tagged(frame, 0x8100, 5), 0x88a8, 6),
        ]
        .map(|frame| Case {
            name: case.name,
            frame,
            honest: false,
        })
    });
    let tags: Vec<Case> = tags.collect();
    cases.extend(stolen);
    cases.extend(tags);
    cases
}

fn arp_cases() -> Vec<Case> {
    let (me, she, none): (Mac, Mac, Mac) = (mac(GUEST), mac(OTHER), [0; 6]);
    let (mine, router, zero) = (v4("192.0.2.50"), v4("192.0.2.1"), v4("0.0.0.0"));
    let case = |name, honest, packet: Vec<u8>| Case {
        name,
        frame: frame(BROADCAST, me, ARP, &packet),
        honest,
    };
    let rarp = |name, honest, packet: Vec<u8>| Case {
        name,
        frame: frame(BROADCAST, me, 0x8035, &packet),
        honest,
    };
    let asks = |sender, target| arp_as(1, 1, sender, target);
    let says = |sender, target| arp_as(1, 2, sender, target);
    vec![
        case("ARP request", true, asks((me, mine), (none, router))),
        case("ARP reply", true, says((me, mine), (she, router))),
        case("ARP announcement", true, asks((me, mine), (none, mine))),
        case("ARP probe", true, asks((me, zero), (none, mine))),
        rarp(
            "RARP as QEMU announces",
            true,
            arp_as(1, 3, (me, zero), (me, zero)),
        ),
        case("ARP reply for the router", false, says((me, router), (she, mine))),
        case(
            "ARP request as the router",
            false,
            asks((me, router), (none, mine)),
        ),
        case(
            "ARP reply with the MAC of another",
            false,
            says((she, mine), (she, router)),
        ),
        case(
            "ARP probe with the MAC of another",
            false,
            asks((she, zero), (none, mine)),
        ),
        case("ARP reply as nobody", false, says((me, zero), (she, mine))),
        case("ARP of no kind", false, arp_as(1, 8, (me, mine), (she, router))),
        case(
            "ARP of other hardware",
            false,
            arp_as(6, 2, (me, mine), (she, router)),
        ),
        rarp("RARP answer", false, arp_as(1, 4, (me, router), (she, mine))),
        rarp("RARP for another", false, arp_as(1, 3, (me, zero), (she, zero))),
        rarp(
            "RARP with an address",
            false,
            arp_as(1, 3, (me, router), (me, zero)),
        ),
    ]
}

fn ipv4_cases() -> Vec<Case> {
    let me = mac(GUEST);
    let (mine, other, router) = (v4("192.0.2.50"), v4("192.0.2.51"), v4("192.0.2.1"));
    let (zero, all) = (v4("0.0.0.0"), v4("255.255.255.255"));
    let whole = (0, false);
    let case = |name, honest, packet: Vec<u8>| Case {
        name,
        frame: ip_frame(BROADCAST, me, &packet),
        honest,
    };
    let mut with_options = ipv4(
        mine,
        router,
        UDP,
        whole,
        &[vec![1, 1, 1, 0], udp(67, 68)].concat(),
    );
    with_options[0] = 0x46;
    vec![
        case("UDP", true, ipv4(mine, router, UDP, whole, &udp(5000, 53))),
        case("TCP", true, ipv4(mine, router, 6, whole, &[0; 20])),
        case(
            "ICMP echo",
            true,
            ipv4(mine, router, 1, whole, &[8, 0, 0, 0, 0, 1, 0, 1]),
        ),
        case(
            "DHCP request as nobody",
            true,
            ipv4(zero, all, UDP, whole, &udp(68, 67)),
        ),
        case("DHCP renewal", true, ipv4(mine, router, UDP, whole, &udp(68, 67))),
        case(
            "IPv4, first fragment",
            true,
            ipv4(mine, router, UDP, (0, true), &udp(5000, 53)),
        ),
        case(
            "IPv4, later fragment",
            true,
            ipv4(mine, router, UDP, (1, false), &udp(67, 68)),
        ),
        case(
            "UDP as another",
            false,
            ipv4(other, router, UDP, whole, &udp(5000, 53)),
        ),
        case(
            "UDP as the router",
            false,
            ipv4(router, other, UDP, whole, &udp(5000, 53)),
        ),
        case(
            "UDP as nobody",
            false,
            ipv4(zero, all, UDP, whole, &udp(5000, 53)),
        ),
        case(
            "DHCP as nobody, not to all",
            false,
            ipv4(zero, router, UDP, whole, &udp(68, 67)),
        ),
        case(
            "ICMP as nobody",
            false,
            ipv4(zero, all, 1, whole, &[8, 0, 0, 0, 0, 1, 0, 1]),
        ),
        case("DHCP offer", false, ipv4(mine, all, UDP, whole, &udp(67, 68))),
        case("DHCP offer behind IPv4 options", false, with_options),
        case(
            "DHCP offer, first fragment",
            false,
            ipv4(mine, all, UDP, (0, true), &udp(67, 68)),
        ),
        case(
            "ICMP redirect",
            false,
            ipv4(mine, other, 1, whole, &[5, 1, 0, 0, 192, 0, 2, 50]),
        ),
        case(
            "IPv4 as another, later fragment",
            false,
            ipv4(other, router, UDP, (1, false), &[0; 8]),
        ),
        case(
            "DHCP as nobody, fragment",
            false,
            ipv4(zero, all, UDP, (0, true), &udp(68, 67)),
        ),
    ]
}

fn ipv6_cases() -> Vec<Case> {
    let me = mac(GUEST);
    let (mine, local) = (v6("2001:db8::50"), v6("fe80::5054:ff:fe12:3456"));
    let (slaac, privacy) = (
        v6("2001:db8:a::5054:ff:fe12:3456"),
        v6("2001:db8:a::dead:beef:1:2"),
    );
    let (other, router, zero) = (v6("2001:db8::51"), v6("fe80::1"), v6("::"));
    let all = v6("ff02::1");
    let case = |name, honest, packet: Vec<u8>| Case {
        name,
        frame: ip_frame(ALL_NODES, me, &packet),
        honest,
    };
    let echo = |from| icmpv6(from, all, 128, [0, 1, 0, 1], &[]);
    let report = |from: Ipv6Addr| {
        let message = icmpv6_message(from, v6("ff02::16"), 143, [0, 0, 0, 0], &[]);
        ipv6(from, v6("ff02::16"), 0, &[options(ICMPV6), message].concat())
    };
    vec![
        case("echo", true, echo(mine)),
        case("echo by the link-local address", true, echo(local)),
        case("echo by SLAAC", true, echo(slaac)),
        case("echo by a privacy address", true, echo(privacy)),
        case("TCP over IPv6", true, ipv6(mine, other, 6, &[0; 20])),
        case("UDP over IPv6", true, ipv6(mine, other, UDP, &udp(5000, 53))),
        case(
            "UDP behind destination options",
            true,
            ipv6(mine, other, 60, &[options(UDP), udp(5000, 53)].concat()),
        ),
        case("nothing behind the header", true, ipv6(mine, other, 59, &[0; 8])),
        case(
            "DHCPv6 request",
            true,
            ipv6(local, v6("ff02::1:2"), UDP, &udp(546, 547)),
        ),
        case("multicast report", true, report(local)),
        case("multicast report as nobody", true, report(zero)),
        case("echo as another", false, echo(other)),
        case(
            "echo by the link-local address of another",
            false,
            echo(v6("fe80::5054:ff:fe66:6666")),
        ),
        case("echo as the router", false, echo(router)),
        case("echo beside the prefix", false, echo(v6("2001:db8:b::50"))),
        case("echo as nobody", false, echo(zero)),
        case("UDP as nobody, IPv6", false, ipv6(zero, all, UDP, &udp(546, 547))),
        case("TCP as another, IPv6", false, ipv6(other, mine, 6, &[0; 20])),
        case("DHCPv6 answer", false, ipv6(local, all, UDP, &udp(547, 546))),
        case(
            "DHCPv6 answer behind options",
            false,
            ipv6(local, all, 60, &[options(UDP), udp(547, 546)].concat()),
        ),
    ]
}

fn discovery_cases() -> Vec<Case> {
    let (me, she) = (mac(GUEST), mac(OTHER));
    let (mine, local) = (v6("2001:db8::50"), v6("fe80::5054:ff:fe12:3456"));
    let (other, router, zero) = (v6("2001:db8::51"), v6("fe80::1"), v6("::"));
    let all = v6("ff02::1");
    let case = |name, honest, packet: Vec<u8>| Case {
        name,
        frame: ip_frame(ALL_NODES, me, &packet),
        honest,
    };
    let none = Vec::new;
    // To whom a target, with options.
    let ns = |from: Ipv6Addr, target: Ipv6Addr, options: Vec<u8>| {
        icmpv6(from, all, 135, [0; 4], &[&target.octets()[..], &options].concat())
    };
    let na = |from: Ipv6Addr, target: Ipv6Addr, options: Vec<u8>| {
        icmpv6(
            from,
            all,
            136,
            [0x20, 0, 0, 0],
            &[&target.octets()[..], &options].concat(),
        )
    };
    let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
    let ra = |from| icmpv6(from, all, 134, [64, 0, 7, 8], &[0; 8]);
    let redirect = |from: Ipv6Addr| {
        icmpv6(
            from,
            all,
            137,
            [0; 4],
            &[mine.octets(), v6("2001:db8:f::1").octets()].concat(),
        )
    };
    let both = |first: Mac, second: Mac| [tells(2, first), tells(2, second)].concat();
    let hidden = |chain: &[u8], message: Vec<u8>| {
        let mut payload = Vec::new();
        for next in chain.iter().skip(1).chain([&ICMPV6]) {
            payload.extend(options(*next));
        }
        ipv6(local, all, chain[0], &[payload, message].concat())
    };
    let ra_message = || icmpv6_message(local, all, 134, [64, 0, 7, 8], &[0; 8]);
    vec![
        case("DAD", true, ns(zero, mine, none())),
        case("DAD with a nonce", true, ns(zero, mine, nonce.clone())),
        case(
            "DAD of the link-local address",
            true,
            ns(zero, local, nonce.clone()),
        ),
        case(
            "DAD within the prefix",
            true,
            ns(zero, v6("2001:db8:a::77"), nonce.clone()),
        ),
        case("NS", true, ns(mine, other, tells(1, me))),
        case("NS without its MAC", true, ns(mine, other, none())),
        case(
            "NS by the link-local address",
            true,
            ns(local, router, tells(1, me)),
        ),
        case("NA", true, na(mine, mine, tells(2, me))),
        case(
            "NA of another of its addresses",
            true,
            na(local, v6("2001:db8:a::77"), tells(2, me)),
        ),
        case("RS", true, icmpv6(local, all, 133, [0; 4], &tells(1, me))),
        case("RS as nobody", true, icmpv6(zero, all, 133, [0; 4], &[])),
        case("NA for another", false, na(mine, other, tells(2, me))),
        case("NA for the router", false, na(mine, router, tells(2, me))),
        case("NA as the router", false, na(router, router, tells(2, me))),
        case("NA with the MAC of another", false, na(mine, mine, tells(2, she))),
        case("NA with a second MAC", false, na(mine, mine, both(me, she))),
        case(
            "NA with the MAC of another first",
            false,
            na(mine, mine, both(she, me)),
        ),
        case(
            "NA with an option of no length",
            false,
            na(mine, mine, vec![14, 0, 0, 0, 0, 0, 0, 0]),
        ),
        case(
            "NA with an option too long",
            false,
            na(mine, mine, vec![2, 2, 1, 2, 3, 4, 5, 6]),
        ),
        case(
            "NA with an unknown option",
            false,
            na(
                mine,
                mine,
                [vec![5, 1, 0, 0, 0, 0, 5, 220], tells(2, she)].concat(),
            ),
        ),
        case("NA as nobody", false, na(zero, mine, tells(2, me))),
        case("NS as another", false, ns(other, mine, tells(1, me))),
        case(
            "NS with the MAC of another",
            false,
            ns(mine, other, tells(1, she)),
        ),
        case("DAD against another", false, ns(zero, other, none())),
        case("DAD against the router", false, ns(zero, router, nonce)),
        case(
            "RS with the MAC of another",
            false,
            icmpv6(local, all, 133, [0; 4], &tells(1, she)),
        ),
        case("RA", false, ra(local)),
        case("RA as the router", false, ra(router)),
        case("redirect", false, redirect(local)),
        case("redirect as the router", false, redirect(router)),
        case("RA behind hop-by-hop options", false, hidden(&[0], ra_message())),
        case("RA behind two headers", false, hidden(&[0, 60], ra_message())),
        case(
            "RA behind four headers",
            false,
            hidden(&[0, 60, 60, 60], ra_message()),
        ),
        case(
            "RA behind five headers",
            false,
            hidden(&[0, 60, 60, 60, 60], ra_message()),
        ),
        case("RA behind a routing header", false, hidden(&[43], ra_message())),
        case(
            "RA behind an authentication header",
            false,
            hidden(&[51], ra_message()),
        ),
        case("RA behind a mobility header", false, hidden(&[135], ra_message())),
    ]
}

/// Fragments that want to hide what they carry.
fn fragment_cases() -> Vec<Case> {
    let me = mac(GUEST);
    let (mine, local) = (v6("2001:db8::50"), v6("fe80::5054:ff:fe12:3456"));
    let (other, all) = (v6("2001:db8::51"), v6("ff02::1"));
    let case = |name, honest, packet: Vec<u8>| Case {
        name,
        frame: ip_frame(ALL_NODES, me, &packet),
        honest,
    };
    let packet = |from, first: u8, parts: &[Vec<u8>]| ipv6(from, all, first, &parts.concat());
    let ra = icmpv6_message(local, all, 134, [64, 0, 7, 8], &[0; 8]);
    let na_options = [&mine.octets()[..], &tells(2, me)].concat();
    let na = icmpv6_message(mine, all, 136, [0x20, 0, 0, 0], &na_options);
    let echo = icmpv6_message(mine, all, 128, [0, 1, 0, 1], &[0; 16]);
    // The packet ends with the options; the padding of its frame shows an
    // echo where the next fragment brings the advertisement.
    let mut padded = packet(local, FRAGMENT, &[fragment(60, 0, true), options(ICMPV6)]);
    padded.extend([128, 0, 0, 0, 0, 0, 0, 0]);
    let mut padded_udp = packet(local, FRAGMENT, &[fragment(60, 0, true), options(UDP)]);
    padded_udp.extend(udp(546, 547));
    vec![
        case(
            "UDP, first fragment",
            true,
            packet(mine, FRAGMENT, &[fragment(UDP, 0, true), udp(5000, 53)]),
        ),
        case(
            "UDP, later fragment",
            true,
            packet(mine, FRAGMENT, &[fragment(UDP, 9, false), vec![7; 16]]),
        ),
        case(
            "echo, first fragment",
            true,
            packet(mine, FRAGMENT, &[fragment(ICMPV6, 0, true), echo]),
        ),
        case(
            "RA, whole in a fragment",
            false,
            packet(local, FRAGMENT, &[fragment(ICMPV6, 0, false), ra.clone()]),
        ),
        case(
            "RA, first fragment",
            false,
            packet(local, FRAGMENT, &[fragment(ICMPV6, 0, true), ra.clone()]),
        ),
        case(
            "RA behind options in a fragment",
            false,
            packet(
                local,
                FRAGMENT,
                &[fragment(60, 0, true), options(ICMPV6), ra.clone()],
            ),
        ),
        case(
            "RA behind options before a fragment",
            false,
            packet(
                local,
                0,
                &[options(FRAGMENT), fragment(ICMPV6, 0, true), ra.clone()],
            ),
        ),
        case(
            "RA in a fragment of a fragment",
            false,
            packet(
                local,
                FRAGMENT,
                &[fragment(FRAGMENT, 0, true), fragment(ICMPV6, 0, true), ra],
            ),
        ),
        case("RA whose type is in the padding", false, padded),
        case("DHCPv6 answer whose port is in the padding", false, padded_udp),
        case(
            "no header in the first fragment",
            false,
            packet(mine, FRAGMENT, &[fragment(60, 0, true), options(ICMPV6)]),
        ),
        case(
            "NA in a fragment",
            false,
            packet(mine, FRAGMENT, &[fragment(ICMPV6, 0, false), na]),
        ),
        case(
            "DHCPv6 answer, first fragment",
            false,
            packet(local, FRAGMENT, &[fragment(UDP, 0, true), udp(547, 546)]),
        ),
        case(
            "a later fragment as another",
            false,
            packet(other, FRAGMENT, &[fragment(UDP, 9, false), vec![7; 16]]),
        ),
        case(
            "a later fragment as nobody",
            false,
            packet(v6("::"), FRAGMENT, &[fragment(UDP, 9, false), vec![7; 16]]),
        ),
    ]
}

/// Sends all frames by a port, and gives the numbers of those that arrive.
fn arriving(host: &Host, tap: &str, honest: &[u8], cases: &[Case]) -> BTreeSet<usize> {
    let ear = Ear::at(&host.lan, "lan0");
    let holder = Holder::of(&host.ns, tap);
    let all: Vec<Vec<u8>> = cases.iter().map(|case| case.frame.clone()).collect();
    holder.arrive(&ear, &all, honest)
}

/// Sends all frames by a port, and asserts that those arrive that should.
fn held_to(host: &Host, tap: &str, honest: &[u8], passes: impl Fn(&Case) -> bool) {
    let cases = cases();
    let heard = arriving(host, tap, honest, &cases);
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let (wanted, arrived) = (passes(case), heard.contains(&number));
        if wanted != arrived {
            wrong.push(format!(
                "{} '{}': {:02x?}",
                if arrived { "passed:" } else { "dropped:" },
                case.name,
                case.frame
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// Some frame that always passes a guard with IPv4.
fn honest() -> Vec<u8> {
    let packet = ipv4(v4("192.0.2.50"), v4("192.0.2.1"), UDP, (0, false), &udp(9, 9));
    ip_frame(BROADCAST, mac(GUEST), &packet)
}

#[test]
fn every_frame_arrives_by_a_port_without_a_guard() {
    let host = bridged("unguarded");
    host.vmbr(&["tap", "add", "t0", "--mac", GUEST]).ok();
    held_to(&host, "t0", &honest(), |_| true);
}

#[test]
fn with_addresses_a_guest_speaks_as_itself_only() {
    let host = bridged("guarded");
    add(&host, "t0", GUARD);
    held_to(&host, "t0", &honest(), |case| case.honest);
}

#[test]
fn with_its_mac_alone_a_guest_speaks_by_its_mac_only() {
    let host = bridged("mac");
    add(&host, "t0", "mac");
    held_to(&host, "t0", &honest(), |case| case.frame[6..12] == mac(GUEST));
}

#[test]
fn a_family_without_an_address_is_shut() {
    let host = bridged("families");
    let of = |case: &Case| u16::from_be_bytes([case.frame[12], case.frame[13]]);
    add(&host, "t4", "192.0.2.50");
    held_to(&host, "t4", &honest(), |case| case.honest && of(case) != 0x86dd);
    host.vmbr(&["tap", "del", "t4"]).ok();
    add(&host, "t6", "2001:db8::50,2001:db8:a::/64");
    let packet = ipv6(v6("2001:db8::50"), v6("ff02::1"), UDP, &udp(9, 9));
    let honest = ip_frame(ALL_NODES, mac(GUEST), &packet);
    held_to(&host, "t6", &honest, |case| {
        case.honest && ![0x0800, 0x0806].contains(&of(case))
    });
}

/// The same frames by a port that libvirt's `clean-traffic` holds: it shuts
/// IPv6, and lets pass what DHCP servers say. With `--nocapture` it prints in
/// what the two differ.
#[test]
fn clean_traffic_of_libvirt_beside_it() {
    let host = bridged("libvirt");
    host.vmbr(&["tap", "add", "guest0", "--mac", GUEST]).ok();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/clean-traffic.ebtables");
    host.sh(&format!("ebtables-nft-restore <{rules}"));
    let cases = cases();
    let theirs = arriving(&host, "guest0", &honest(), &cases);
    let mut differ = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let kind = u16::from_be_bytes([case.frame[12], case.frame[13]]);
        if theirs.contains(&number) != case.honest {
            let passes = if case.honest { "dropped" } else { "passes" };
            differ.push((kind, case.name, passes));
        }
    }
    for (kind, name, passes) in &differ {
        println!("{kind:04x} {name}: clean-traffic: {passes}");
    }
    let is = |kind, name, passes| differ.contains(&(kind, name, passes));
    for case in cases.iter().filter(|case| case.honest) {
        let kind = u16::from_be_bytes([case.frame[12], case.frame[13]]);
        // A guest that asks whether its address is free (RFC 5227) is not heard.
        let lost = kind == 0x86dd || case.name == "ARP probe";
        assert_eq!(is(kind, case.name, "dropped"), lost, "{}", case.name);
    }
    for name in ["DHCP offer", "ICMP redirect", "UDP as nobody"] {
        assert!(is(0x0800, name, "passes"), "{name}: {differ:?}");
    }
}

#[test]
fn the_guard_goes_with_its_port() {
    let host = bridged("leaves");
    let traces = || {
        let filters = host.sh("tc filter show dev t0 ingress; tc qdisc show dev t0");
        let entries = host.ns.bridge(&["fdb", "show", "br", "br0"]);
        let tables = host.sh("nft list ruleset");
        (
            filters.contains("bpf") || filters.contains("clsact"),
            entries.contains(GUEST),
            tables,
        )
    };
    add(&host, "t0", GUARD);
    assert_eq!(traces(), (true, true, String::new()));
    // Whoever removes it.
    host.ns.ip(&["link", "del", "t0"]);
    host.sh("ip tuntap add dev t0 mode tap; ip link set t0 master br0 up");
    assert_eq!(traces(), (false, false, String::new()));
    let list = host.vmbr(&["tap", "list", "--json"]).ok();
    assert!(list.contains(r#""guard":null"#), "{list}");
}

#[test]
fn nobody_takes_a_guarded_mac_away() {
    let host = bridged("sticky");
    add(&host, "t0", GUARD);
    let again = host.vmbr(&["tap", "add", "t1", "--mac", GUEST, "--guard", "mac"]);
    assert_eq!(again.code(), 1, "{again:?}");
    assert!(
        again.stderr.contains("another port of br0 has that MAC"),
        "{again:?}"
    );
    assert!(!host.ns.links().contains(&"t1".to_owned()));
    // A guest without a guard, and the LAN, speak by that MAC.
    host.vmbr(&["tap", "add", "t2"]).ok();
    let ear = Ear::at(&host.lan, "lan0");
    let thief = Holder::of(&host.ns, "t2");
    thief.arrive(&ear, &[honest()], &honest());
    let entries = host.ns.bridge(&["fdb", "show", "br", "br0"]);
    let of_guest: Vec<&str> = entries.lines().filter(|line| line.contains(GUEST)).collect();
    assert_eq!(of_guest.len(), 1, "{entries}");
    assert!(of_guest[0].contains("dev t0 "), "{entries}");
    // One that the bridge has merely learned somewhere moves to its guest.
    thief.arrive(
        &ear,
        &[],
        &[&BROADCAST[..], &mac(OTHER), &honest()[12..]].concat(),
    );
    host.vmbr(&["tap", "add", "t3", "--mac", OTHER, "--guard", "mac"])
        .ok();
    let entries = host.ns.bridge(&["fdb", "show", "br", "br0"]);
    assert!(entries.contains(&format!("{OTHER} dev t3 sticky")), "{entries}");
}

#[test]
fn an_honest_guest_has_everything() {
    let host = bridged("honest");
    let _router = Router::start_hasty(&host);
    let _server = dhcp_server(&host.lan);
    // The leases are 192.0.2.100 to 110; the router's prefix is 2001:db8:a::/64.
    add(&host, "t0", "192.0.2.96/28,2001:db8:a::/64,2001:db8::77");
    let guest = Namespace::new("guest");
    let _cable = Cable::lay(&host.ns, "t0", &guest, GUEST);
    guest.set_sysctl("net/ipv6/conf/eth0/use_tempaddr", "2");
    guest.set_sysctl("net/ipv6/conf/eth0/addr_gen_mode", "0");
    guest.ip(&["link", "set", "eth0", "up"]);
    guest.ip(&["addr", "add", "2001:db8::77/64", "dev", "eth0"]);
    let machine = Machine::new(&guest);
    machine.sh("dhclient -4 -pf /run/dhclient.pid eth0");
    machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    let settled = wait_until(Duration::from_secs(15), || {
        let addresses = guest.ip(&["-6", "addr", "show", "dev", "eth0"]);
        addresses.contains("temporary") && !addresses.contains("tentative")
    });
    let addresses = guest.ip(&["-6", "addr", "show", "dev", "eth0"]);
    assert!(settled && !addresses.contains("dadfailed"), "{addresses}");
    let all = guest.json(&["addr", "show", "dev", "eth0", "scope", "global"]);
    let mut all = all[0]["addr_info"].as_array().unwrap().clone();
    // Those of other scopes are empty.
    all.retain(|address| address.get("local").is_some());
    assert!(all.len() >= 4, "DHCP, SLAAC, privacy, fixed: {all:?}");
    for address in &all {
        let own = address["local"].as_str().unwrap();
        let to = if own.contains(':') {
            "2001:db8:a::1"
        } else {
            "192.0.2.1"
        };
        let asked = common::run(guest.command("ping").args(["-c1", "-W3", "-I", own, to]));
        assert!(asked.status.success(), "{own} does not reach {to}: {asked:?}");
        assert!(ping(&host.lan, own), "{own} does not answer");
    }
    assert!(ping(&guest, "192.0.2.1"));
    // The same guest, after it has gone bad.
    script_in(
        &guest,
        "ip addr add 192.0.2.77/24 dev eth0; ip addr add 2001:db8:b::77/64 dev eth0 nodad",
    );
    script_in(&host.lan, "ip addr add 2001:db8:b::1/64 dev lan0 nodad");
    for (own, to) in [("192.0.2.77", "192.0.2.1"), ("2001:db8:b::77", "2001:db8:b::1")] {
        let asked = common::run(guest.command("ping").args(["-c1", "-W1", "-I", own, to]));
        assert!(!asked.status.success(), "{own}: {asked:?}");
        let asked = common::run(host.lan.command("ping").args(["-c1", "-W1", own]));
        assert!(!asked.status.success(), "{own} answers: {asked:?}");
    }
}
