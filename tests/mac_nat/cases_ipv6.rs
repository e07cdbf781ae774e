//! The golden frames of IPv6 that a guest sends.

use super::cases::{Case, Fate, dropped, out, plain};
use super::world::*;
use crate::frames::{Mac, frame};
use crate::packets::{fragment, icmpv6, icmpv6_message, ipv4, ipv6, options, tells, udp};

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut all = ipv6_out();
    all.extend(discovery_out());
    all
}

fn ipv6_out() -> Vec<Case> {
    let (all, all_nodes) = group(1);
    let (routers, reports) = group(0x16);
    let packet = |from, next, payload: &[u8]| ip(GATEWAY, A, &ipv6(from, v6(1), next, payload));
    let report = icmpv6_message(local(0xa), reports, 143, [0, 0, 0, 1], &[4, 0, 0, 0]);
    let many: Vec<u8> = std::iter::repeat_n(options(60), 8).flatten().collect();
    let solicit = group(2);
    vec![
        plain("TCP, IPv6", packet(v6(50), 6, &tcp())),
        plain("TCP from a new address, IPv6", packet(v6(88), 6, &tcp())),
        plain("UDP, IPv6", packet(v6(50), 17, &udp(5000, 53))),
        plain(
            "echo, IPv6",
            ip(GATEWAY, A, &icmpv6(v6(50), v6(1), 128, [0, 1, 0, 1], b"abcdefgh")),
        ),
        plain("SCTP", packet(v6(50), 132, &[0; 12])),
        plain(
            "behind options",
            packet(v6(50), 60, &[options(6), tcp()].concat()),
        ),
        plain(
            "a first fragment, IPv6",
            packet(v6(50), 44, &[fragment(17, 0, true), udp(1, 2)].concat()),
        ),
        plain(
            "a later fragment, IPv6",
            packet(v6(50), 44, &[fragment(58, 9, false), vec![136; 32]].concat()),
        ),
        plain(
            "authenticated",
            packet(v6(50), 51, &[&[6, 4][..], &[0; 22], &tcp()].concat()),
        ),
        plain(
            "MLD",
            ip(
                routers,
                A,
                &ipv6(local(0xa), reports, 0, &[options(58), report].concat()),
            ),
        ),
        plain(
            "MLD of nobody",
            ip(
                routers,
                A,
                &ipv6(
                    [0; 16].into(),
                    reports,
                    0,
                    &[options(58), vec![143, 0, 0, 0, 0, 0, 0, 0]].concat(),
                ),
            ),
        ),
        plain(
            "DHCPv6",
            ip(solicit.0, A, &ipv6(local(0xa), solicit.1, 17, &udp(546, 547))),
        ),
        plain(
            "UDP to all nodes",
            ip(all, A, &ipv6(v6(50), all_nodes, 17, &udp(5, 6))),
        ),
        out(
            "TCP to the host, IPv6",
            ip(W, A, &ipv6(v6(50), v6(21), 6, &tcp())),
            Fate::Host,
        ),
        out(
            "echo to the host, IPv6",
            ip(W, A, &icmpv6(v6(50), v6(21), 128, [0, 1, 0, 1], b"x")),
            Fate::Host,
        ),
        out(
            "TCP to another guest by the uplink's MAC, IPv6",
            ip(W, A, &ipv6(v6(50), v6(51), 6, &tcp())),
            Fate::Again(ip(B, A, &ipv6(v6(50), v6(51), 6, &tcp()))),
        ),
        dropped(
            "DHCPv6's answer to the host",
            ip(W, A, &ipv6(v6(50), v6(21), 17, &udp(547, 546))),
            "server",
        ),
        dropped(
            "DHCPv6's answer to the host behind options",
            ip(
                W,
                A,
                &ipv6(v6(50), v6(21), 60, &[options(17), udp(547, 546)].concat()),
            ),
            "server",
        ),
        plain(
            "DHCPv6's answer to all",
            ip(group(1).0, A, &ipv6(v6(50), all_nodes, 17, &udp(547, 546))),
        )
        .unheard(),
        plain(
            "DHCPv6's answer to a station",
            ip(STATION, A, &ipv6(v6(50), v6(9), 17, &udp(547, 546))),
        ),
        dropped("IPv6 from the host", packet(v6(21), 6, &tcp()), "protected"),
        dropped("IPv6 from a pinned address", packet(v6(60), 6, &tcp()), "pinned"),
        dropped("IPv6 from a group", packet(all_nodes, 6, &tcp()), "address"),
        dropped(
            "IPv6 from loopback",
            packet("::1".parse().unwrap(), 6, &tcp()),
            "address",
        ),
        dropped(
            "IPv6 from an address of IPv4",
            packet("::ffff:192.0.2.50".parse().unwrap(), 6, &tcp()),
            "address",
        ),
        dropped(
            "IPv6 of another version",
            frame(GATEWAY, A, 0x86dd, &ipv4(v4(50), v4(1), 6, (0, false), &[0; 40])),
            "short",
        ),
        dropped("IPv6 cut", packet(v6(50), 6, &[])[..53].to_vec(), "short"),
        dropped("headers without an end", packet(v6(50), 60, &many), "headers"),
        dropped(
            "headers that end in nothing",
            packet(v6(50), 60, &options(60)),
            "headers",
        ),
        dropped("ICMPv6 of nothing", packet(v6(50), 58, &[]), "headers"),
    ]
}

fn discovery_out() -> Vec<Case> {
    let (routers, all_routers) = group(2);
    let (all, all_nodes) = group(1);
    let target = |of: std::net::Ipv6Addr, rest: &[u8]| [&of.octets()[..], rest].concat();
    // With the MAC within: as the guest says it, and as the air hears it.
    let both = |name, to: Mac, packet: &dyn Fn(Mac) -> Vec<u8>| {
        out(name, ip(to, A, &packet(A)), Fate::Air(ip(to, W, &packet(W))))
    };
    let (asked, asked_group) = solicited(v6(1));
    let ask = |rest: &[u8]| icmpv6(v6(50), asked_group, 135, [0; 4], &target(v6(1), rest));
    let bad = |name, packet: Vec<u8>| dropped(name, ip(asked, A, &packet), "discovery");
    let mut hops = ask(&tells(1, A));
    hops[7] = 254;
    let message = icmpv6_message(v6(50), asked_group, 135, [0; 4], &target(v6(1), &tells(1, A)));
    let hidden = ipv6(
        v6(50),
        asked_group,
        44,
        &[fragment(58, 0, false), message.clone()].concat(),
    );
    let behind = |mac| {
        let message = icmpv6_message(v6(50), asked_group, 135, [0; 4], &target(v6(1), &tells(1, mac)));
        ipv6(v6(50), asked_group, 60, &[options(58), message].concat())
    };
    let none = std::net::Ipv6Addr::UNSPECIFIED;
    let (dad, dad_group) = solicited(v6(99));
    let free = |of| icmpv6(none, solicited(of).1, 135, [0; 4], &target(of, &[]));
    let advertise = |to, of, mac| icmpv6(v6(50), to, 136, [0x60, 0, 0, 0], &target(of, &tells(2, mac)));
    let prefix = [&[3, 4, 64, 0xc0][..], &[0; 28]].concat();
    vec![
        both("router solicitation", routers, &|mac| {
            icmpv6(local(0xa), all_routers, 133, [0; 4], &tells(1, mac))
        }),
        plain(
            "router solicitation of nobody",
            ip(routers, A, &icmpv6(none, all_routers, 133, [0; 4], &[])),
        ),
        both("router advertisement", all, &|mac| {
            icmpv6(
                local(0xa),
                all_nodes,
                134,
                [64, 0, 0, 0],
                &[&[0; 8][..], &prefix, &tells(1, mac), &prefix].concat(),
            )
        })
        .unheard(),
        dropped(
            "router advertisement to the host",
            ip(W, A, &icmpv6(local(0xa), v6(21), 134, [64, 0, 7, 8], &[0; 8])),
            "server",
        ),
        dropped(
            "redirect to the host",
            ip(
                W,
                A,
                &icmpv6(local(0xa), v6(21), 137, [0; 4], &target(v6(1), &v6(9).octets())),
            ),
            "server",
        ),
        both("neighbour solicitation", asked, &|mac| ask(&tells(1, mac))),
        both("neighbour solicitation behind options", asked, &behind),
        both("neighbour solicitation to one", GATEWAY, &|mac| {
            icmpv6(v6(50), v6(1), 135, [0; 4], &target(v6(1), &tells(1, mac)))
        }),
        plain(
            "neighbour solicitation that tells nothing",
            ip(asked, A, &ask(&[])),
        ),
        both("neighbour advertisement", GATEWAY, &|mac| {
            advertise(v6(1), v6(50), mac)
        }),
        both("neighbour advertisement to all", all, &|mac| {
            advertise(all_nodes, v6(77), mac)
        }),
        both("redirect", STATION, &|mac| {
            icmpv6(
                local(0xa),
                v6(9),
                137,
                [0; 4],
                &[&v6(1).octets()[..], &v6(1).octets(), &tells(2, mac)].concat(),
            )
        }),
        out(
            "neighbour advertisement to the host",
            ip(W, A, &advertise(v6(21), v6(50), A)),
            Fate::Host,
        ),
        plain(
            "is this address free",
            ip(
                dad,
                A,
                &icmpv6(
                    none,
                    dad_group,
                    135,
                    [0; 4],
                    &target(v6(99), &[14, 1, 1, 2, 3, 4, 5, 6]),
                ),
            ),
        ),
        plain(
            "is another guest's address free",
            ip(solicited(v6(51)).0, A, &free(v6(51))),
        ),
        dropped(
            "is the host's address free",
            ip(solicited(v6(21)).0, A, &free(v6(21))),
            "protected",
        ),
        dropped(
            "advertisement of the gateway",
            ip(STATION, A, &advertise(v6(9), v6(1), A)),
            "protected",
        ),
        dropped(
            "advertisement of the gateway to the host",
            ip(W, A, &advertise(v6(21), v6(1), A)),
            "protected",
        ),
        dropped(
            "advertisement of a pinned address",
            ip(GATEWAY, A, &advertise(v6(1), v6(60), A)),
            "pinned",
        ),
        dropped(
            "advertisement of a group",
            ip(GATEWAY, A, &advertise(v6(1), all_nodes, A)),
            "address",
        ),
        bad("an option of no length", ask(&[1, 0, 1, 2, 3, 4, 5, 6])),
        bad(
            "an option of no length behind another",
            ask(&[&tells(1, A)[..], &[14, 0, 0, 0, 0, 0, 0, 0]].concat()),
        ),
        bad("an option beyond the end", ask(&[1, 2, 1, 2, 3, 4, 5, 6])),
        bad(
            "a MAC of another length",
            ask(&[&[1, 2][..], &A, &[0; 8]].concat()),
        ),
        bad(
            "a MAC that is told twice",
            ask(&[tells(1, A), tells(1, A)].concat()),
        ),
        bad("half an option", ask(&[1, 1, 1, 2])),
        bad("from beyond a router", hops),
        bad("in a fragment", hidden),
        bad("cut in its target", ipv6(v6(50), asked_group, 58, &message[..20])),
        bad("longer than its frame", ask(&tells(1, A))[..66].to_vec()),
        bad(
            "of another code",
            icmpv6(v6(50), asked_group, 135, [0; 4], &target(v6(1), &tells(1, A)))
                .into_iter()
                .enumerate()
                .map(|(at, byte)| if at == 41 { 1 } else { byte })
                .collect(),
        ),
    ]
}
