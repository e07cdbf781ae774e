//! What the golden frames are about: a host, two guests, a gateway, a station.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frames::{Mac, frame};
use crate::packets::{ARP, arp_as, ip_frame};

/// The uplink's MAC.
pub const W: Mac = [2, 0, 0, 0, 0, 0x21];
/// The first guest's.
pub const A: Mac = [0x52, 0x54, 0, 0, 0, 0x0a];
/// The second guest's.
pub const B: Mac = [0x52, 0x54, 0, 0, 0, 0x0b];
/// A guest that has an address for itself by the ACL.
pub const P: Mac = [0x52, 0x54, 0, 0, 0, 0x0c];
/// The gateway's: the bridge has just heard of it.
pub const GATEWAY: Mac = [2, 0, 0, 0, 1, 2];
/// Another station's: the bridge has not heard of it.
pub const STATION: Mac = [2, 0, 0, 0, 1, 3];
/// To everyone.
pub const ALL: Mac = [0xff; 6];
/// Nobody's.
pub const NONE: Mac = [0; 6];

/// The index of the uplink.
pub const UPLINK: u32 = 3;
/// The index of the air port.
pub const AIR: u32 = 4;
/// The index of the first guest's port.
pub const PORT_A: u32 = 5;
/// The index of the second guest's.
pub const PORT_B: u32 = 6;
/// What marks a frame that air_out has seen to.
pub const HANDLED: u32 = 0x766d_6272;
/// What marks a frame that it has sent back into the bridge.
pub const RETURNED: u32 = 0x766d_6273;

/// One of 192.0.2.0/24.
pub fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

/// One of 2001:db8::/64.
pub fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

/// A link-local one.
pub fn local(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
}

/// A group of IPv6 of link scope, with the MAC that it has.
pub fn group(last: u16) -> (Mac, Ipv6Addr) {
    let [high, low] = last.to_be_bytes();
    (
        [0x33, 0x33, 0, 0, high, low],
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, last),
    )
}

/// The group that is asked for an address (RFC 4291, 2.7.1).
pub fn solicited(address: Ipv6Addr) -> (Mac, Ipv6Addr) {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    (
        [0x33, 0x33, 0xff, a, b, c],
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low),
    )
}

/// An ARP frame, whose Ethernet source is said apart.
pub fn arp(to: Mac, from: Mac, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    frame(to, from, ARP, &arp_as(1, operation, sender, target))
}

/// A DHCP message.
#[derive(Clone, Copy)]
pub struct Dhcp {
    /// 1 is a client's, 2 a server's.
    pub operation: u8,
    /// Its transaction.
    pub xid: u32,
    /// Whether the answer shall be a broadcast.
    pub broadcast: bool,
    /// The client's MAC.
    pub chaddr: Mac,
    /// Whether UDP has a checksum.
    pub summed: bool,
}

impl Dhcp {
    /// A client's, or a server's, in its IPv4 packet, with so many words of
    /// IPv4 options.
    pub fn packet(self, from: Ipv4Addr, to: Ipv4Addr, words: usize) -> Vec<u8> {
        let mut message = vec![self.operation, 1, 6, 0];
        message.extend(self.xid.to_be_bytes());
        message.extend([0, 0, if self.broadcast { 0x80 } else { 0 }, 0]);
        message.extend([0; 16]);
        message.extend(self.chaddr);
        message.resize(236, 0);
        message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
        let ports: [u16; 2] = if self.operation == 1 { [68, 67] } else { [67, 68] };
        let length = u16::try_from(8 + message.len()).unwrap();
        let mut udp: Vec<u8> = [ports[0], ports[1], length, 0]
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect();
        udp.extend(message);
        if self.summed {
            let head = [
                &from.octets()[..],
                &to.octets(),
                &[0, 17],
                &length.to_be_bytes(),
                &udp,
            ]
            .concat();
            let sum = checksum(&head);
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        with_options(from, to, 17, words, &udp)
    }
}

/// An IPv4 packet with so many words of options.
pub fn with_options(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, words: usize, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * words;
    let mut packet = vec![0x45 + words as u8, 0];
    packet.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.resize(header, 1);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

/// A TCP segment without a checksum: what is in it does not matter here.
pub fn tcp() -> Vec<u8> {
    let mut segment = vec![0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff];
    segment.resize(28, 0x55);
    segment
}

/// The same frame with another source.
pub fn from(mac: Mac, frame: &[u8]) -> Vec<u8> {
    [&frame[..6], &mac, &frame[12..]].concat()
}

/// A packet in its frame.
pub fn ip(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    ip_frame(to, from, packet)
}

/// An address as the programs keep it.
pub fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
