//! Tells under which MAC guests and host are reached from now on. Who knows
//! them by the uplink's old one would go on sending there for minutes; guests do
//! not know that anything has changed, and the kernel tells nobody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use macaddr::MacAddr6;

use crate::sys::packet::{ARP, IPV6, PacketSocket};

/// A neighbour advertisement (RFC 4861, 4.4), and its option with a MAC.
const ADVERTISEMENT: u8 = 136;
const TARGET_MAC: u8 = 2;
/// What is said takes the place of what is known.
const OVERRIDE: u8 = 0x20;
const ICMPV6: u8 = 58;
/// ff02::1, and the MAC of it (RFC 2464, 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr6 = MacAddr6::new(0x33, 0x33, 0, 0, 0, 1);

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The network alone. The frames pass no hook of the device: the guests are
    /// not to hear that somebody else has their addresses.
    Network,
    /// The network, and the guests.
    Everyone,
}

/// Says on the device `index` that these addresses are reached at `mac`.
///
/// # Errors
/// As of socket(2) and sendto(2). That the device is down is one of them.
pub fn announce(
    index: u32,
    mac: MacAddr6,
    whom: Whom,
    addresses: impl Iterator<Item = IpAddr>,
) -> io::Result<()> {
    let (arp, discovery) = (PacketSocket::open(index, ARP)?, PacketSocket::open(index, IPV6)?);
    if whom == Whom::Network {
        arp.pass_hooks()?;
        discovery.pass_hooks()?;
    }
    for address in addresses {
        match address {
            IpAddr::V4(address) => arp.send(MacAddr6::broadcast(), &announcement(address, mac))?,
            IpAddr::V6(address) => discovery.send(ALL_NODES_MAC, &advertisement(address, mac))?,
        }
    }
    Ok(())
}

/// An ARP announcement (RFC 5227, 3).
fn announcement(address: Ipv4Addr, mac: MacAddr6) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(mac.as_bytes());
    packet.extend(address.octets());
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

/// An unsolicited neighbour advertisement (RFC 4861, 7.2.6), with its header of
/// IPv6.
fn advertisement(address: Ipv6Addr, mac: MacAddr6) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_MAC, 1]);
    message.extend(mac.as_bytes());
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    // The pseudo header of RFC 8200, 8.1.
    let pseudo = [
        &address.octets()[..],
        &ALL_NODES.octets(),
        &[0, 0, 0, length, 0, 0, 0, ICMPV6],
    ]
    .concat();
    let sum = checksum(&[pseudo, message.clone()].concat());
    message.splice(2..4, sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    packet.extend(address.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(message);
    packet
}

/// That of the internet (RFC 1071), of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_say_the_same_of_an_address() {
        let mac = MacAddr6::new(2, 0, 0, 0, 0, 0x99);
        let arp = announcement(Ipv4Addr::new(192, 0, 2, 51), mac);
        assert_eq!(arp.len(), 28);
        assert_eq!(arp[14..18], arp[24..28]);
        let packet = advertisement("2001:db8::51".parse().unwrap(), mac);
        assert_eq!(packet.len(), 40 + 32);
        // A sum with its complement in it is all ones.
        let whole = [&packet[8..40], &[0, 0, 0, 32, 0, 0, 0, ICMPV6], &packet[40..]].concat();
        assert_eq!(checksum(&whole), 0);
        assert_eq!(packet[66..], mac.into_array());
    }
}
