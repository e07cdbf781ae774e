//! The golden frames that come from the air and from the host.

use super::cases::{Case, Fate, host, incoming};
use super::world::*;
use crate::frames::{Mac, frame};
use crate::packets::{icmpv6, ipv4, ipv6, tagged, tells, udp};

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut all = arp_in();
    all.extend(data_in());
    all.extend(groups_in());
    all.extend(dhcp_in());
    all.extend(from_host());
    all
}

fn arp_in() -> Vec<Case> {
    let zero = std::net::Ipv4Addr::UNSPECIFIED;
    let reply = |to: Mac, target| arp(to, GATEWAY, 2, (GATEWAY, v4(1)), target);
    let ask = |to: Mac, target| arp(to, STATION, 1, (STATION, v4(9)), (NONE, target));
    vec![
        incoming(
            "ARP reply to a guest",
            reply(W, (W, v4(50))),
            Fate::Port(PORT_A, reply(A, (A, v4(50)))),
        ),
        incoming("ARP reply to the host", reply(W, (W, v4(21))), Fate::Passes),
        incoming("ARP reply to nobody known", reply(W, (W, v4(99))), Fate::Passes),
        incoming(
            "an address is defended",
            reply(W, (W, zero)),
            Fate::Flooded(reply(ALL, (W, zero))),
        ),
        incoming(
            "ARP request to a guest's address",
            ask(W, v4(51)),
            Fate::Bridge(ask(B, v4(51))),
        ),
        incoming("ARP request to the host's address", ask(W, v4(21)), Fate::Passes),
        incoming(
            "ARP request to an unknown address",
            ask(W, v4(99)),
            Fate::Flooded(ask(ALL, v4(99))),
        ),
        incoming(
            "ARP request to all",
            ask(ALL, v4(50)),
            Fate::Flooded(ask(ALL, v4(50))),
        ),
        incoming("no ARP", frame(W, GATEWAY, 0x0806, &[0; 28]), Fate::Passes),
        incoming("half an ARP", reply(W, (W, v4(50)))[..41].to_vec(), Fate::Passes),
    ]
}

fn data_in() -> Vec<Case> {
    let v4_to = |to: Mac, from: Mac, last| ip(to, from, &ipv4(v4(1), v4(last), 6, (0, false), &tcp()));
    let v6_to = |to: Mac, from: Mac, last| ip(to, from, &ipv6(v6(1), v6(last), 6, &tcp()));
    let asks = |to: Mac, last| {
        let told = [&v6(last).octets()[..], &tells(1, STATION)].concat();
        ip(to, STATION, &icmpv6(v6(9), v6(last), 135, [0; 4], &told))
    };
    let echo = |to: Mac| ip(to, W, &ipv4(v4(50), v4(255), 17, (0, false), &udp(137, 137)));
    let fragment = |to: Mac| ip(to, GATEWAY, &ipv4(v4(1), v4(50), 17, (9, false), &[0; 8]));
    let advertised = [&v6(1).octets()[..], &tells(2, GATEWAY)].concat();
    let answer = icmpv6(v6(1), v6(50), 136, [0xe0, 0, 0, 0], &advertised);
    // From one whom the bridge knows to be in the air: past the bridge.
    let known = |name, frame: &dyn Fn(Mac) -> Vec<u8>| incoming(name, frame(W), Fate::Port(PORT_A, frame(A)));
    let new = |name, frame: &dyn Fn(Mac) -> Vec<u8>| incoming(name, frame(W), Fate::Bridge(frame(B)));
    vec![
        known("TCP to a guest", &|to| v4_to(to, GATEWAY, 50)),
        new("TCP to a guest from somebody new", &|to| v4_to(to, STATION, 51)),
        incoming("TCP to the host", v4_to(W, GATEWAY, 21), Fate::Passes),
        incoming("TCP to an unknown address", v4_to(W, GATEWAY, 99), Fate::Passes),
        known("a fragment to a guest", &fragment),
        known("TCP to a guest, IPv6", &|to| v6_to(to, GATEWAY, 50)),
        new("TCP to a guest from somebody new, IPv6", &|to| {
            v6_to(to, STATION, 51)
        }),
        incoming("TCP to the host, IPv6", v6_to(W, GATEWAY, 21), Fate::Passes),
        incoming("to another station", v4_to(STATION, GATEWAY, 50), Fate::Passes),
        incoming(
            "EAPOL to the host",
            frame(W, GATEWAY, 0x888e, &[1, 0, 0, 0]),
            Fate::Passes,
        ),
        incoming(
            "in a VLAN",
            tagged(&v4_to(W, GATEWAY, 50), 0x8100, 5),
            Fate::Passes,
        ),
        incoming("our own, come back", echo(ALL), Fate::Dropped("echo")),
        incoming("our own as unicast", echo(W), Fate::Dropped("echo")),
        incoming("IPv4 cut", v4_to(W, GATEWAY, 50)[..33].to_vec(), Fate::Passes),
        incoming("IPv6 cut", v6_to(W, GATEWAY, 50)[..53].to_vec(), Fate::Passes),
        incoming(
            "a guest's to the host",
            ip(W, A, &ipv4(v4(50), v4(21), 6, (0, false), &tcp())),
            Fate::Passes,
        )
        .marked(HANDLED),
        incoming(
            "a guest's to all",
            ip(ALL, A, &ipv4(v4(50), v4(255), 17, (0, false), &udp(1, 2))),
            Fate::Passes,
        )
        .marked(HANDLED),
        incoming(
            "neighbour solicitation to an unknown address",
            asks(W, 99),
            Fate::Flooded(asks([0x33, 0x33, 0xff, 0, 0, 99], 99)),
        ),
        incoming("neighbour solicitation to the host", asks(W, 21), Fate::Passes),
        known("neighbour advertisement to a guest", &|to| {
            ip(to, GATEWAY, &answer)
        }),
    ]
}

/// To a group, as it is, and as an access point makes unicast of it.
fn groups_in() -> Vec<Case> {
    let cast = |name: [&'static str; 2], mac: Mac, packet: Vec<u8>| {
        let flooded = || Fate::Flooded(ip(mac, GATEWAY, &packet));
        [
            incoming(name[0], ip(mac, GATEWAY, &packet), flooded()),
            incoming(name[1], ip(W, GATEWAY, &packet), flooded()),
        ]
    };
    let to = |to: std::net::Ipv4Addr, port| ipv4(v4(1), to, 17, (0, false), &udp(port, port));
    let mdns = to("224.0.0.251".parse().unwrap(), 5353);
    let far = to("239.201.2.3".parse().unwrap(), 5353);
    let all = to(std::net::Ipv4Addr::BROADCAST, 137);
    let prefix = to(v4(255), 137);
    let (nodes, all_nodes) = group(1);
    let (asked, asked_group) = solicited(v6(50));
    let advertised = icmpv6(local(1), all_nodes, 134, [64, 0, 0, 0], &[0; 8]);
    let ask = icmpv6(
        v6(1),
        asked_group,
        135,
        [0; 4],
        &[&v6(50).octets()[..], &tells(1, GATEWAY)].concat(),
    );
    [
        cast(
            ["multicast", "multicast as unicast"],
            [1, 0, 0x5e, 0, 0, 251],
            mdns,
        ),
        cast(
            ["far multicast", "far multicast as unicast"],
            [1, 0, 0x5e, 73, 2, 3],
            far,
        ),
        cast(["broadcast", "broadcast as unicast"], ALL, all),
        cast(["prefix broadcast", "prefix broadcast as unicast"], ALL, prefix),
        cast(
            ["router advertisement", "router advertisement as unicast"],
            nodes,
            advertised,
        ),
        cast(
            ["neighbour solicitation", "neighbour solicitation as unicast"],
            asked,
            ask,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn dhcp_in() -> Vec<Case> {
    let all = std::net::Ipv4Addr::BROADCAST;
    let offer = Dhcp {
        operation: 2,
        xid: 0x7777_7777,
        broadcast: true,
        chaddr: W,
        summed: true,
    };
    let of_guest = Dhcp { chaddr: B, ..offer };
    let of_host = Dhcp {
        xid: 0x2121_2121,
        ..offer
    };
    let unsummed = Dhcp {
        summed: false,
        ..offer
    };
    let cast = |dhcp: Dhcp| ip(ALL, GATEWAY, &dhcp.packet(v4(1), all, 0));
    let one = |to: Mac, dhcp: Dhcp| ip(to, GATEWAY, &dhcp.packet(v4(1), v4(99), 0));
    vec![
        incoming("DHCP offer to all", cast(of_guest), Fate::Flooded(cast(of_guest))),
        incoming("DHCP offer, chaddr", cast(offer), Fate::Flooded(cast(of_guest))).with_chaddr(),
        incoming(
            "DHCP offer without a checksum, chaddr",
            cast(unsummed),
            Fate::Flooded(cast(Dhcp {
                summed: false,
                ..of_guest
            })),
        )
        .with_chaddr(),
        incoming(
            "DHCP offer to one, chaddr",
            one(W, offer),
            Fate::Flooded(one(B, of_guest)),
        )
        .with_chaddr(),
        incoming("DHCP offer to the host, chaddr", one(W, of_host), Fate::Passes).with_chaddr(),
        incoming(
            "DHCP offer to another station, chaddr",
            cast(Dhcp {
                chaddr: STATION,
                ..offer
            }),
            Fate::Flooded(cast(Dhcp {
                chaddr: STATION,
                ..offer
            })),
        )
        .with_chaddr(),
    ]
}

fn from_host() -> Vec<Case> {
    let v4_to = |to: Mac, last| ip(to, W, &ipv4(v4(21), v4(last), 6, (0, false), &tcp()));
    let v6_to = |to: Mac, last| ip(to, W, &ipv6(v6(21), v6(last), 6, &tcp()));
    let reply = |to: Mac, target| arp(to, W, 2, (W, v4(21)), target);
    let zero = std::net::Ipv4Addr::UNSPECIFIED;
    let ask = |to: Mac, target| arp(to, W, 1, (W, v4(21)), (NONE, target));
    let told = [&v6(99).octets()[..], &tells(1, W)].concat();
    let solicit = ip(B, W, &icmpv6(v6(21), v6(99), 135, [0; 4], &told));
    let server = Dhcp {
        operation: 2,
        xid: 0x0bb0_0bb0,
        broadcast: false,
        chaddr: A,
        summed: true,
    };
    let offer = ip(A, W, &server.packet(v4(21), v4(98), 0));
    let (mac, group) = group(0xfb);
    let mdns = ip(mac, W, &ipv6(local(0x21), group, 17, &udp(5353, 5353)));
    vec![
        host("to a guest", v4_to(A, 50), Fate::Port(PORT_A, v4_to(A, 50))),
        // Any guest can say that an address beyond the gateway is its own.
        host(
            "to a guest's address by another MAC",
            v4_to(GATEWAY, 50),
            Fate::Passes,
        ),
        host(
            "to a guest's address by another MAC, IPv6",
            v6_to(GATEWAY, 50),
            Fate::Passes,
        ),
        host(
            "ARP reply to a guest's address by another MAC",
            reply(GATEWAY, (GATEWAY, v4(50))),
            Fate::Passes,
        ),
        host(
            "is a guest still there",
            ask(B, v4(99)),
            Fate::Flooded(ask(B, v4(99))),
        ),
        host(
            "is a guest still there, IPv6",
            solicit.clone(),
            Fate::Flooded(solicit),
        ),
        host("is the gateway still there", ask(GATEWAY, v4(1)), Fate::Passes),
        host(
            "to a guest that is new to it",
            v4_to(B, 51),
            Fate::Bridge(v4_to(B, 51)),
        ),
        host("to a guest, IPv6", v6_to(A, 50), Fate::Port(PORT_A, v6_to(A, 50))),
        host(
            "to a guest that has the gateway's MAC, beyond",
            ip(B, W, &ipv4(v4(21), beyond(7), 6, (0, false), &tcp())),
            Fate::Passes,
        ),
        host("to the gateway", v4_to(GATEWAY, 1), Fate::Passes),
        host("to the gateway, IPv6", v6_to(GATEWAY, 1), Fate::Passes),
        host(
            "ARP reply to a guest",
            reply(A, (A, v4(50))),
            Fate::Port(PORT_A, reply(A, (A, v4(50)))),
        ),
        host(
            "ARP reply to the gateway",
            reply(GATEWAY, (GATEWAY, v4(1))),
            Fate::Passes,
        ),
        host(
            "the host defends its address",
            reply(A, (A, zero)),
            Fate::Flooded(reply(ALL, (A, zero))),
        ),
        host("ARP request", ask(ALL, v4(50)), Fate::Flooded(ask(ALL, v4(50)))),
        host("multicast", mdns.clone(), Fate::Flooded(mdns)),
        host(
            "DHCP offer of the host's to a guest",
            offer.clone(),
            Fate::Flooded(offer),
        ),
        host("EAPOL", frame(GATEWAY, W, 0x888e, &[1, 1, 0, 0]), Fate::Passes),
        host(
            "a guest's",
            ip(GATEWAY, W, &ipv4(v4(50), v4(51), 6, (0, false), &tcp())),
            Fate::Passes,
        )
        .marked(HANDLED),
        host("in a VLAN", tagged(&v4_to(A, 50), 0x8100, 5), Fate::Passes),
        host("IPv4 cut", v4_to(A, 50)[..33].to_vec(), Fate::Passes),
    ]
}
