//! Packets made by hand, of every sort that a guest may send or should not.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::{Mac, frame};

/// IPv4.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv6.
pub const IPV6: u16 = 0x86dd;

/// An IPv4 packet; `fragment` is the offset in eighths, and whether more come.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: (u16, bool), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend((fragment.0 | u16::from(fragment.1) << 13).to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
pub fn udp(from: u16, to: u16) -> Vec<u8> {
    [from, to, 16, 0, 0, 0, 0, 0]
        .iter()
        .flat_map(|n| n.to_be_bytes())
        .collect()
}

/// An ICMPv6 packet with its checksum: type, the four bytes behind the
/// checksum, and the rest.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    ipv6(from, to, 58, &icmpv6_message(from, to, kind, word, rest))
}

/// The same without the IPv6 header.
pub fn icmpv6_message(from: Ipv6Addr, to: Ipv6Addr, kind: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(word);
    message.extend(rest);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let all = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, 58],
        &message,
    ]
    .concat();
    let sum = sum(&all);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An option of neighbour discovery that tells a MAC: 1 the source's, 2 the
/// target's.
pub fn tells(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// An extension header of eight bytes: destination or hop-by-hop options.
pub fn options(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

/// A fragment header.
pub fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let word = offset << 3 | u16::from(more);
    [&[next, 0][..], &word.to_be_bytes(), &[0, 0, 0, 9]].concat()
}

/// The same frame with a VLAN tag: its kind (0x8100, 0x88a8) and number.
pub fn tagged(frame: &[u8], kind: u16, number: u16) -> Vec<u8> {
    [
        &frame[..12],
        &kind.to_be_bytes(),
        &number.to_be_bytes(),
        &frame[12..],
    ]
    .concat()
}

/// An ARP packet of any operation and kind of hardware.
pub fn arp_as(hardware: u16, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = hardware.to_be_bytes().to_vec();
    packet.extend([8, 0, 6, 4]);
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0);
    packet.extend(target.1.octets());
    packet
}

/// A packet in its frame, by what its first byte says it is.
pub fn ip_frame(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let protocol = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    frame(to, from, protocol, packet)
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(pair[0]) << 8 | u32::from(low)
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}
