//! The golden frames: what each kind of frame becomes.

use super::world::*;
use crate::frames::{Mac, frame};
use crate::packets::{
    ARP, arp_as, fragment, icmpv6, icmpv6_message, ipv4, ipv6, options, tagged, tells, udp,
};

/// One of the three programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// What guests send.
    AirOut,
    /// What comes in by the uplink.
    UplinkIn,
    /// What the host sends.
    UplinkOut,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes its way as if nobody had looked.
    Passes,
    /// It is dropped, and counted by this reason.
    Dropped(&'static str),
    /// It goes out by the uplink like this; for a group the host hears it,
    /// too, as it was.
    Air(Vec<u8>),
    /// The host alone hears it, as it was.
    Host,
    /// It goes to a port of the bridge like this, past the bridge.
    Port(u32, Vec<u8>),
    /// It goes into the bridge like this.
    Bridge(Vec<u8>),
    /// It goes in at its own port again like this.
    Again(Vec<u8>),
    /// It goes its way, and into the bridge like this.
    Flooded(Vec<u8>),
}

/// A frame, and what becomes of it.
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// Who sees it.
    pub program: Program,
    /// By which port it came into the bridge.
    pub ingress: u32,
    /// What it is marked with.
    pub mark: u32,
    /// With the client's MAC within DHCP replaced.
    pub chaddr: bool,
    /// Itself.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub fate: Fate,
}

impl Case {
    pub fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    fn from_port(self, ingress: u32) -> Self {
        Self { ingress, ..self }
    }

    pub fn with_chaddr(self) -> Self {
        Self { chaddr: true, ..self }
    }
}

fn case(name: &'static str, program: Program, frame: Vec<u8>, fate: Fate) -> Case {
    Case {
        name,
        program,
        ingress: if program == Program::AirOut { PORT_A } else { 0 },
        mark: 0,
        chaddr: false,
        frame,
        fate,
    }
}

/// From the first guest.
fn out(name: &'static str, frame: Vec<u8>, fate: Fate) -> Case {
    case(name, Program::AirOut, frame, fate)
}

/// The same where only the source changes.
fn plain(name: &'static str, frame: Vec<u8>) -> Case {
    let air = Fate::Air(from(W, &frame));
    out(name, frame, air)
}

fn dropped(name: &'static str, frame: Vec<u8>, reason: &'static str) -> Case {
    out(name, frame, Fate::Dropped(reason))
}

pub fn incoming(name: &'static str, frame: Vec<u8>, fate: Fate) -> Case {
    case(name, Program::UplinkIn, frame, fate)
}

pub fn host(name: &'static str, frame: Vec<u8>, fate: Fate) -> Case {
    case(name, Program::UplinkOut, frame, fate)
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut all = arp_out();
    all.extend(ipv4_out());
    all.extend(dhcp_out());
    all.extend(ipv6_out());
    all.extend(discovery_out());
    all.extend(others_out());
    all.extend(super::cases_in::cases());
    all
}

fn arp_out() -> Vec<Case> {
    let zero = std::net::Ipv4Addr::UNSPECIFIED;
    let ask = |sender| arp(ALL, A, 1, sender, (NONE, v4(1)));
    let air = |sender| Fate::Air(arp(ALL, W, 1, sender, (NONE, v4(1))));
    let reply = |to: Mac, target| arp(to, A, 2, (A, v4(50)), target);
    vec![
        out("ARP request", ask((A, v4(50))), air((W, v4(50)))),
        out("ARP request, new address", ask((A, v4(77))), air((W, v4(77)))),
        out("ARP probe", ask((A, zero)), air((W, zero))),
        out(
            "ARP announcement",
            arp(ALL, A, 1, (A, v4(50)), (NONE, v4(50))),
            Fate::Air(arp(ALL, W, 1, (W, v4(50)), (NONE, v4(50)))),
        ),
        out(
            "gratuitous ARP reply",
            reply(ALL, (A, v4(50))),
            Fate::Air(arp(ALL, W, 2, (W, v4(50)), (W, v4(50)))),
        ),
        out(
            "ARP reply",
            reply(GATEWAY, (GATEWAY, v4(1))),
            Fate::Air(arp(GATEWAY, W, 2, (W, v4(50)), (GATEWAY, v4(1)))),
        ),
        out(
            "ARP reply that names another guest",
            reply(STATION, (B, v4(51))),
            Fate::Air(arp(STATION, W, 2, (W, v4(50)), (W, v4(51)))),
        ),
        out("ARP reply to the host", reply(W, (W, v4(21))), Fate::Host),
        out(
            "ARP request to the uplink for another guest",
            arp(W, A, 1, (A, v4(50)), (NONE, v4(51))),
            Fate::Again(arp(B, A, 1, (A, v4(50)), (NONE, v4(51)))),
        ),
        out(
            "ARP for a pinned address by its own",
            arp(ALL, P, 1, (P, v4(60)), (NONE, v4(1))),
            air((W, v4(60))),
        ),
        dropped("ARP for a pinned address", ask((A, v4(60))), "pinned"),
        dropped("ARP as the gateway", ask((A, v4(1))), "protected"),
        dropped(
            "ARP as the host",
            reply(GATEWAY, (GATEWAY, v4(1)))
                .into_iter()
                .enumerate()
                .map(|(at, byte)| if at == 31 { 21 } else { byte })
                .collect(),
            "protected",
        ),
        dropped(
            "ARP to the host as the gateway",
            arp(W, A, 2, (A, v4(1)), (W, v4(21))),
            "protected",
        ),
        dropped(
            "ARP of loopback",
            ask((A, std::net::Ipv4Addr::LOCALHOST)),
            "address",
        ),
        dropped(
            "ARP of a group",
            ask((A, "224.0.0.1".parse().unwrap())),
            "address",
        ),
        dropped("ARP of a broadcast address", ask((A, v4(255))), "address"),
        dropped(
            "ARP reply of nobody",
            arp(ALL, A, 2, (A, zero), (NONE, v4(1))),
            "arp",
        ),
        dropped("ARP with a group's MAC", ask((ALL, v4(50))), "arp"),
        dropped("inverse ARP", arp(ALL, A, 8, (A, v4(50)), (NONE, v4(1))), "arp"),
        dropped(
            "ARP of another hardware",
            frame(ALL, A, ARP, &arp_as(6, 1, (A, v4(50)), (NONE, v4(1)))),
            "arp",
        ),
        // Its address was learned of another port a moment ago: not taken
        // away from it, and yet the frame passes.
        out(
            "ARP of another guest's address",
            ask((A, v4(51))),
            air((W, v4(51))),
        ),
    ]
}

fn ipv4_out() -> Vec<Case> {
    let packet = |from| ipv4(from, v4(1), 6, (0, false), &tcp());
    let short = |bytes: usize| ip(GATEWAY, A, &packet(v4(50)))[..bytes].to_vec();
    let mut version = packet(v4(50));
    version[0] = 0x65;
    let mut header = packet(v4(50));
    header[0] = 0x44;
    vec![
        plain("TCP", ip(GATEWAY, A, &packet(v4(50)))),
        plain("TCP from a new address", ip(GATEWAY, A, &packet(v4(88)))),
        plain(
            "UDP",
            ip(GATEWAY, A, &ipv4(v4(50), v4(1), 17, (0, false), &udp(5000, 53))),
        ),
        plain(
            "UDP with options",
            ip(GATEWAY, A, &with_options(v4(50), v4(1), 17, 2, &udp(5000, 53))),
        ),
        plain(
            "a first fragment",
            ip(GATEWAY, A, &ipv4(v4(50), v4(1), 17, (0, true), &udp(5000, 53))),
        ),
        plain(
            "a later fragment",
            ip(GATEWAY, A, &ipv4(v4(50), v4(1), 17, (9, false), &udp(68, 67))),
        ),
        plain(
            "a fragment of four bytes",
            ip(GATEWAY, A, &ipv4(v4(50), v4(1), 17, (9, false), &[1; 4])),
        ),
        plain(
            "IPv4 broadcast",
            ip(ALL, A, &ipv4(v4(50), v4(255), 17, (0, false), &udp(137, 137))),
        ),
        plain(
            "IGMP",
            ip(
                [1, 0, 0x5e, 0, 0, 22],
                A,
                &with_options(v4(50), "224.0.0.22".parse().unwrap(), 2, 1, &[0x22; 8]),
            ),
        ),
        out(
            "TCP to the host",
            ip(W, A, &ipv4(v4(50), v4(21), 6, (0, false), &tcp())),
            Fate::Host,
        ),
        out(
            "TCP to another guest by the uplink's MAC",
            ip(W, A, &ipv4(v4(50), v4(51), 6, (0, false), &tcp())),
            Fate::Again(ip(B, A, &ipv4(v4(50), v4(51), 6, (0, false), &tcp()))),
        ),
        dropped("IPv4 from the host", ip(GATEWAY, A, &packet(v4(21))), "protected"),
        dropped(
            "IPv4 to the host from the gateway",
            ip(W, A, &ipv4(v4(1), v4(21), 6, (0, false), &tcp())),
            "protected",
        ),
        dropped(
            "IPv4 from a pinned address",
            ip(GATEWAY, A, &packet(v4(60))),
            "pinned",
        ),
        dropped(
            "IPv4 from a group",
            ip(GATEWAY, A, &packet("239.1.1.1".parse().unwrap())),
            "address",
        ),
        dropped(
            "IPv4 from everyone",
            ip(GATEWAY, A, &packet("255.255.255.255".parse().unwrap())),
            "address",
        ),
        dropped(
            "IPv4 from a broadcast address",
            ip(GATEWAY, A, &packet(v4(255))),
            "address",
        ),
        dropped(
            "IPv4 from loopback",
            ip(GATEWAY, A, &packet("127.0.0.1".parse().unwrap())),
            "address",
        ),
        dropped(
            "IPv4 of another version",
            frame(GATEWAY, A, 0x0800, &version),
            "short",
        ),
        dropped(
            "IPv4 with too short a header",
            frame(GATEWAY, A, 0x0800, &header),
            "short",
        ),
        dropped("IPv4 cut", short(33), "short"),
        plain("IPv4 without a payload", short(34)),
    ]
}

fn dhcp_out() -> Vec<Case> {
    let all = std::net::Ipv4Addr::BROADCAST;
    let zero = std::net::Ipv4Addr::UNSPECIFIED;
    let ask = Dhcp {
        operation: 1,
        xid: 0x1234_5678,
        broadcast: false,
        chaddr: A,
        summed: true,
    };
    let asks = Dhcp {
        broadcast: true,
        ..ask
    };
    let as_uplink = Dhcp { chaddr: W, ..asks };
    let out_as = |name, given: Dhcp, words, wanted: Dhcp| {
        out(
            name,
            ip(ALL, A, &given.packet(zero, all, words)),
            Fate::Air(ip(ALL, W, &wanted.packet(zero, all, words))),
        )
    };
    let unsummed = Dhcp { summed: false, ..ask };
    let anothers = Dhcp {
        xid: 0x7777_7777,
        ..ask
    };
    vec![
        out_as("DHCP", ask, 0, asks),
        out_as("DHCP with options", ask, 1, asks),
        out_as("DHCP with the flag", asks, 0, asks),
        out_as(
            "DHCP without a checksum",
            unsummed,
            0,
            Dhcp {
                broadcast: true,
                ..unsummed
            },
        ),
        out(
            "DHCP renewal",
            ip(GATEWAY, A, &ask.packet(v4(50), v4(1), 0)),
            Fate::Air(ip(GATEWAY, W, &asks.packet(v4(50), v4(1), 0))),
        ),
        out(
            "DHCP to the host",
            ip(W, A, &ask.packet(v4(50), v4(21), 0)),
            Fate::Host,
        ),
        dropped(
            "DHCP cut",
            ip(GATEWAY, A, &ask.packet(v4(50), v4(1), 0)[..36]),
            "short",
        ),
        out_as("DHCP, chaddr", ask, 0, as_uplink).with_chaddr(),
        out_as(
            "DHCP without a checksum, chaddr",
            unsummed,
            2,
            Dhcp {
                summed: false,
                ..as_uplink
            },
        )
        .with_chaddr(),
        out_as(
            "DHCP of a relay, chaddr",
            Dhcp { chaddr: B, ..ask },
            0,
            Dhcp { chaddr: B, ..asks },
        )
        .with_chaddr(),
        dropped(
            "DHCP with another's transaction, chaddr",
            ip(ALL, A, &anothers.packet(zero, all, 0)),
            "dhcp-transaction",
        )
        .with_chaddr(),
        out_as(
            "DHCP with another's transaction",
            anothers,
            0,
            Dhcp {
                broadcast: true,
                ..anothers
            },
        ),
    ]
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
        }),
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

fn others_out() -> Vec<Case> {
    let packet = ipv4(v4(50), v4(1), 6, (0, false), &tcp());
    let good = ip(GATEWAY, A, &packet);
    vec![
        dropped(
            "EAPOL",
            frame([1, 0x80, 0xc2, 0, 0, 3], A, 0x888e, &[1, 1, 0, 0]),
            "protocol",
        ),
        dropped(
            "LLDP",
            frame([1, 0x80, 0xc2, 0, 0, 14], A, 0x88cc, &[2, 7, 4, 0, 0, 0, 0, 0, 0]),
            "protocol",
        ),
        dropped(
            "spanning tree",
            frame([1, 0x80, 0xc2, 0, 0, 0], A, 38, &[0x42, 0x42, 3, 0, 0]),
            "protocol",
        ),
        dropped(
            "RARP",
            frame(ALL, A, 0x8035, &arp_as(1, 3, (A, v4(0)), (A, v4(0)))),
            "protocol",
        ),
        dropped("in a VLAN", tagged(&good, 0x8100, 5), "protocol"),
        dropped(
            "in a service provider's VLAN",
            tagged(&good, 0x88a8, 5),
            "protocol",
        ),
        dropped("from the uplink's MAC", ip(GATEWAY, W, &packet), "source-mac"),
        dropped("from a group's MAC", ip(GATEWAY, ALL, &packet), "source-mac"),
        dropped("from no MAC", ip(GATEWAY, NONE, &packet), "source-mac"),
        dropped("from the bridge itself", good.clone(), "bridge").from_port(0),
        dropped("an Ethernet header alone", good[..14].to_vec(), "short"),
    ]
}
