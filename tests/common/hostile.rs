//! Every sort of frame that a guest may send, honest and hostile. The guest is
//! 192.0.2.50, 2001:db8::50 and all of 2001:db8:a::/64.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::{ALL_NODES, BROADCAST, Mac, frame, mac};
use crate::hostile_ipv6::{discovery_cases, fragment_cases};
use crate::packets::{ARP, arp_as, icmpv6, icmpv6_message, ip_frame, ipv4, ipv6, options, tagged, udp};

/// The guest's MAC.
pub const GUEST: &str = "52:54:00:12:34:56";
/// Another's.
pub const OTHER: &str = "52:54:00:66:66:66";
/// Next-header numbers.
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const FRAGMENT: u8 = 44;

/// Reads an address.
pub fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Reads an address.
pub fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// What is sent, and whether an honest guest might.
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// The whole frame.
    pub frame: Vec<u8>,
    /// Whether an honest guest might send it.
    pub honest: bool,
}

/// Every sort of frame.
pub fn cases() -> Vec<Case> {
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
        case(
            "ARP probe of the router's address",
            false,
            asks((me, zero), (none, router)),
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
        case(
            "DHCP offer by another port",
            false,
            ipv4(mine, all, UDP, whole, &udp(1067, 68)),
        ),
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
            "DHCPv6 answer by another port",
            false,
            ipv6(local, all, UDP, &udp(1067, 546)),
        ),
        case(
            "DHCPv6 answer behind options",
            false,
            ipv6(local, all, 60, &[options(UDP), udp(547, 546)].concat()),
        ),
    ]
}
