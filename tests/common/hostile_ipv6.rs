//! Frames of neighbour discovery and fragments, honest and hostile.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::net::Ipv6Addr;

use crate::frames::{ALL_NODES, Mac, mac};
use crate::hostile::{Case, FRAGMENT, GUEST, ICMPV6, OTHER, UDP, v6};
use crate::packets::{fragment, icmpv6, icmpv6_message, ip_frame, ipv6, options, tells, udp};

/// Neighbour discovery, and router advertisements that want to hide.
pub fn discovery_cases() -> Vec<Case> {
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
pub fn fragment_cases() -> Vec<Case> {
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
    // The options begin in the padding.
    let mut padded_options = packet(local, FRAGMENT, &[fragment(60, 0, true)]);
    padded_options.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    let mut padded_second = packet(local, FRAGMENT, &[fragment(60, 0, true), options(60)]);
    padded_second.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    let mut padded_fragment = packet(local, 0, &[options(FRAGMENT)]);
    padded_fragment.extend(fragment(6, 9, true));
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
        case("options in the padding", false, padded_options),
        case("second options in the padding", false, padded_second),
        case("fragment header in the padding", false, padded_fragment),
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
