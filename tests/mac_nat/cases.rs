//! The golden frames: what each kind of frame becomes.

use super::world::*;
use crate::frames::{Mac, frame};
use crate::packets::{ARP, arp_as, ipv4, tagged, udp};

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
    /// To a group, and yet not for the host.
    pub unheard: bool,
    /// Itself.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub fate: Fate,
}

impl Case {
    pub fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    fn behind(self, ingress: u32) -> Self {
        Self { ingress, ..self }
    }

    pub fn with_chaddr(self) -> Self {
        Self { chaddr: true, ..self }
    }

    pub fn unheard(self) -> Self {
        Self {
            unheard: true,
            ..self
        }
    }
}

fn case(name: &'static str, program: Program, frame: Vec<u8>, fate: Fate) -> Case {
    Case {
        name,
        program,
        ingress: if program == Program::AirOut { PORT_A } else { 0 },
        mark: 0,
        chaddr: false,
        unheard: false,
        frame,
        fate,
    }
}

/// From the first guest.
pub fn out(name: &'static str, frame: Vec<u8>, fate: Fate) -> Case {
    case(name, Program::AirOut, frame, fate)
}

/// The same where only the source changes.
pub fn plain(name: &'static str, frame: Vec<u8>) -> Case {
    let air = Fate::Air(from(W, &frame));
    out(name, frame, air)
}

pub fn dropped(name: &'static str, frame: Vec<u8>, reason: &'static str) -> Case {
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
    all.extend(super::cases_ipv6::cases());
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
        dropped("ARP that tells the uplink's MAC", ask((W, v4(77))), "arp"),
        dropped("ARP that tells no MAC", ask((NONE, v4(77))), "arp"),
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
            "TCP to the host to route it beyond",
            ip(W, A, &ipv4(v4(50), beyond(7), 6, (0, false), &tcp())),
            Fate::Host,
        ),
        out(
            "TCP by the uplink's MAC to an address that was learned of it",
            ip(W, A, &ipv4(v4(50), v4(52), 6, (0, false), &tcp())),
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
    let answer = Dhcp { operation: 2, ..asks };
    let answers = |to: Mac, address, words| ip(to, A, &answer.packet(v4(50), address, words));
    vec![
        plain("DHCP's answer to all", answers(ALL, all, 0)).unheard(),
        plain("DHCP's answer to all with options", answers(ALL, all, 2)).unheard(),
        plain("DHCP's answer to a station", answers(STATION, v4(9), 0)),
        dropped("DHCP's answer to the host", answers(W, v4(21), 0), "server"),
        dropped(
            "DHCP's answer to the host with options",
            answers(W, v4(21), 1),
            "server",
        ),
        dropped(
            "DHCP in the host's name",
            ip(GATEWAY, A, &Dhcp { chaddr: W, ..ask }.packet(v4(50), v4(1), 0)),
            "protected",
        ),
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
        dropped("from the bridge itself", good.clone(), "bridge").behind(0),
        dropped("what was sent to another guest", good.clone(), "loop").marked(RETURNED),
        dropped("an Ethernet header alone", good[..14].to_vec(), "short"),
    ]
}
