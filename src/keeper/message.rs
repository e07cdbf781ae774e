//! DHCP messages (RFC 2131, RFC 2132), in the IPv4 and UDP around them.
//!
//! What comes in is anyone's: it is read by smoltcp's views of packets, which
//! check each length before they look, and nothing is believed here but its
//! form. Who may say what is judged in [`super::machine`].

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpOpCode, DhcpOption, DhcpPacket, EthernetAddress, IpProtocol, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};

use crate::model::Prefix;
use crate::plan::hold::Extra;

/// The port of servers.
pub const SERVER_PORT: u16 = 67;
/// The port of clients.
pub const CLIENT_PORT: u16 = 68;
/// The shortest message: relays and servers of BOOTP's time drop shorter ones
/// (RFC 1542, 2.1).
const SHORTEST: usize = 300;
/// Fixed fields and the magic number in front of the options.
const FIXED: usize = 240;
/// "99, 130, 83, 99" (RFC 2131, 3).
const MAGIC: u32 = 0x6382_5363;
/// What fits into a packet of Ethernet's usual size; a server may fill it.
const LARGEST: u16 = 1472;
/// At most so many routes, or DNS servers, are taken from a message.
const MOST: usize = 64;

/// Option codes of RFC 2132 and RFC 3442.
mod option {
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const REQUESTED: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const LARGEST: u8 = 57;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const ROUTES: u8 = 121;
}

/// Kinds of messages (RFC 2132, 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client looks for servers.
    Discover,
    /// A server offers an address.
    Offer,
    /// A client takes, confirms or prolongs.
    Request,
    /// A server grants it.
    Ack,
    /// A server refuses it.
    Nak,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Ack => 5,
            Self::Nak => 6,
        }
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What it wants.
    pub kind: Kind,
    /// The number of the exchange.
    pub xid: u32,
    /// Seconds since the exchange began.
    pub seconds: u16,
    /// The address that it has and goes on using; not while it is asked
    /// whether it may.
    pub holds: Option<Ipv4Addr>,
    /// The address that it wants.
    pub wants: Option<Ipv4Addr>,
    /// The server whose offer is taken.
    pub server: Option<Ipv4Addr>,
    /// Whether the answer has to be broadcast: the client has no address yet.
    pub broadcast: bool,
    /// Who it is (option 61); none where the MAC alone says so.
    pub client: Option<Vec<u8>>,
}

impl Ask {
    /// The message of the client with this MAC, as it goes into UDP. None
    /// where an option is longer than an option can be.
    pub fn encode(&self, mac: [u8; 6], extras: &[Extra]) -> Option<Vec<u8>> {
        let mut options: Vec<(u8, Vec<u8>)> = vec![(option::KIND, vec![self.kind.code()])];
        options.extend(self.client.clone().map(|id| (option::CLIENT, id)));
        let number = |code, address: Option<Ipv4Addr>| address.map(|a| (code, a.octets().to_vec()));
        options.extend(number(option::REQUESTED, self.wants));
        options.extend(number(option::SERVER, self.server));
        options.push((option::LARGEST, LARGEST.to_be_bytes().to_vec()));
        options.extend(extras.iter().map(|extra| (extra.code, extra.value.clone())));
        let wanted = [
            option::MASK,
            option::ROUTES,
            option::ROUTER,
            option::DNS,
            option::T1,
            option::T2,
        ];
        options.push((option::WANTED, wanted.to_vec()));
        let length = options.iter().map(|(_, value)| value.len() + 2).sum::<usize>() + FIXED + 1;
        let mut bytes = vec![0; length.max(SHORTEST)];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes);
        packet.set_opcode(DhcpOpCode::Request);
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(self.xid);
        packet.set_secs(self.seconds);
        packet.set_client_hardware_address(EthernetAddress(mac));
        packet.set_client_ip(self.holds.unwrap_or(Ipv4Addr::UNSPECIFIED));
        packet.set_flags(if self.broadcast {
            DhcpFlags::BROADCAST
        } else {
            DhcpFlags::empty()
        });
        packet.set_magic_number(MAGIC);
        let mut writer = packet.options_mut();
        for (kind, data) in &options {
            writer.emit(DhcpOption { kind: *kind, data }).ok()?;
        }
        writer.end().ok()?;
        Some(bytes)
    }
}

/// A way that a server names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where to.
    pub to: Prefix,
    /// The gateway; none where the network is on the link (RFC 3442).
    pub via: Option<Ipv4Addr>,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it is.
    pub kind: Kind,
    /// The number of the exchange.
    pub xid: u32,
    /// The MAC of the client that is meant.
    pub mac: [u8; 6],
    /// The client's address.
    pub address: Ipv4Addr,
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// Seconds for which it grants the address.
    pub seconds: Option<u32>,
    /// When it wants to be asked again, and when anyone may be.
    pub times: (Option<u32>, Option<u32>),
    /// Length of the prefix that the address is in.
    pub prefix: Option<u8>,
    /// Where it says that others are.
    pub ways: Vec<Way>,
    /// The DNS servers.
    pub dns: Vec<Ipv4Addr>,
}

impl Answer {
    /// Reads a message as it comes in UDP. None where it is none of a server
    /// on Ethernet.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let plain = packet.opcode() == DhcpOpCode::Reply
            && packet.hardware_type() == ArpHardware::Ethernet
            && packet.hardware_len() == 6
            && packet.magic_number() == MAGIC;
        if !plain {
            return None;
        }
        // What comes in several options of one code is one value (RFC 3396).
        let value = |code: u8| {
            let mut parts = packet.options().filter(|option| option.kind == code);
            let first = parts.next()?.data.to_vec();
            Some(parts.fold(first, |whole, part| [whole.as_slice(), part.data].concat()))
        };
        let number = |code| Some(u32::from_be_bytes(value(code)?.try_into().ok()?));
        let address = |code| Some(Ipv4Addr::from(number(code)?));
        let addresses = |code| {
            let bytes = value(code).unwrap_or_default();
            let each = bytes.chunks_exact(4).take(MOST);
            each.filter_map(|four| Some(Ipv4Addr::from(<[u8; 4]>::try_from(four).ok()?)))
                .collect::<Vec<_>>()
        };
        let kind = match value(option::KIND)?.as_slice() {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return None,
        };
        // Who names ways says all of them (RFC 3442).
        let ways = match value(option::ROUTES) {
            Some(bytes) => ways(&bytes)?,
            None => addresses(option::ROUTER)
                .into_iter()
                .take(1)
                .map(|router| Way {
                    to: Prefix::all(crate::model::Family::V4),
                    via: Some(router),
                })
                .collect(),
        };
        Some(Self {
            kind,
            xid: packet.transaction_id(),
            mac: packet.client_hardware_address().0,
            address: packet.your_ip(),
            server: address(option::SERVER),
            seconds: number(option::LEASE_TIME),
            times: (number(option::T1), number(option::T2)),
            prefix: address(option::MASK).and_then(prefix_of),
            ways,
            dns: addresses(option::DNS),
        })
    }
}

/// The length of a mask's prefix; none where it is no mask.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let length = bits.leading_ones();
    (bits.count_ones() == length && length > 0).then_some(u8::try_from(length).ok()?)
}

/// Destinations and gateways of RFC 3442: the length of a prefix, as many of
/// its bytes as count, a gateway. None where it is anything else.
fn ways(mut bytes: &[u8]) -> Option<Vec<Way>> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let significant = usize::from(length.div_ceil(8));
        if *length > 32 || found.len() == MOST {
            return None;
        }
        let (network, rest) = rest.split_at_checked(significant)?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut whole = [0; 4];
        whole.get_mut(..significant)?.copy_from_slice(network);
        let via = Ipv4Addr::from(*gateway);
        found.push(Way {
            to: Prefix::containing(Ipv4Addr::from(whole).into(), *length),
            via: (!via.is_unspecified()).then_some(via),
        });
        bytes = rest;
    }
    Some(found)
}

/// A message of a client in a packet to everyone. A client that has no
/// address yet says it is 0.0.0.0.
pub fn broadcast(message: &[u8], from: Ipv4Addr) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port: CLIENT_PORT,
        dst_port: SERVER_PORT,
    };
    let length = udp.header_len() + message.len();
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: Ipv4Addr::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len: length,
        hop_limit: 64,
    };
    let mut bytes = vec![0; ip.buffer_len() + length];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &from.into(),
        &Ipv4Addr::BROADCAST.into(),
        message.len(),
        |payload| payload.copy_from_slice(message),
        &checksums,
    );
    bytes
}

/// The message in a packet to a client. UDP's own checksum is not looked at:
/// the kernel leaves it to a NIC that is none (veth, virtio) to fill it in, and
/// the link has its own.
pub fn payload(packet: &[u8]) -> Option<&[u8]> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    let whole = !ip.more_frags() && ip.frag_offset() == 0;
    if ip.version() != 4 || ip.next_header() != IpProtocol::Udp || !ip.verify_checksum() || !whole {
        return None;
    }
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    let fits = udp.src_port() == SERVER_PORT && udp.dst_port() == CLIENT_PORT;
    fits.then(|| udp.payload())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x21];

    /// A server's message with these options.
    fn reply(options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
        bytes[16..20].copy_from_slice(&[192, 0, 2, 100]);
        bytes[28..34].copy_from_slice(&MAC);
        bytes[236..240].copy_from_slice(&MAGIC.to_be_bytes());
        for (code, value) in options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(*value);
        }
        bytes.push(255);
        bytes
    }

    #[test]
    fn an_answer_is_read() {
        let bytes = reply(&[
            (53, &[5]),
            (54, &[192, 0, 2, 1]),
            (51, &120_u32.to_be_bytes()),
            (1, &[255, 255, 255, 0]),
            (3, &[192, 0, 2, 1, 192, 0, 2, 2]),
            (6, &[192, 0, 2, 53]),
            (6, &[192, 0, 2, 54]),
        ]);
        let answer = Answer::decode(&bytes).unwrap();
        assert_eq!(answer.kind, Kind::Ack);
        assert_eq!((answer.xid, answer.mac), (7, MAC));
        assert_eq!(answer.address.to_string(), "192.0.2.100");
        assert_eq!(answer.seconds, Some(120));
        assert_eq!(answer.prefix, Some(24));
        assert_eq!(answer.ways.len(), 1);
        assert_eq!(answer.dns.len(), 2, "two options of one code are one");
        for cut in 0..bytes.len() {
            let _ = Answer::decode(&bytes[..cut]);
        }
    }

    #[test]
    fn ways_are_all_or_none() {
        let good = [
            24, 198, 51, 100, 192, 0, 2, 1, 0, 192, 0, 2, 1, 32, 203, 0, 113, 9, 0, 0, 0, 0,
        ];
        let found = ways(&good).unwrap();
        let shown: Vec<String> = found.iter().map(|way| way.to.to_string()).collect();
        assert_eq!(shown, ["198.51.100.0/24", "default", "203.0.113.9"]);
        assert_eq!(found[2].via, None);
        for bad in [&[33_u8][..], &[24, 1, 2], &[0, 1, 2, 3], &[255; 40]] {
            assert_eq!(ways(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_mask_is_ones_and_then_zeros() {
        assert_eq!(prefix_of(Ipv4Addr::new(255, 255, 252, 0)), Some(22));
        assert_eq!(prefix_of(Ipv4Addr::BROADCAST), Some(32));
        assert_eq!(prefix_of(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix_of(Ipv4Addr::UNSPECIFIED), None);
    }

    #[test]
    fn what_is_asked_comes_out_of_its_packet() {
        let ask = Ask {
            kind: Kind::Request,
            xid: 0x0102_0304,
            seconds: 3,
            holds: None,
            wants: Some(Ipv4Addr::new(192, 0, 2, 100)),
            server: None,
            broadcast: false,
            client: Some(vec![1, 2, 0, 0, 0, 0, 0x21]),
        };
        let extras = [Extra {
            code: 12,
            value: b"host".to_vec(),
        }];
        let message = ask.encode(MAC, &extras).unwrap();
        assert!(message.len() >= SHORTEST);
        let packet = broadcast(&message, Ipv4Addr::UNSPECIFIED);
        // It is to a server: turned round, it is to a client.
        assert_eq!(payload(&packet), None);
        let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&Ipv4Addr::UNSPECIFIED.into(), &Ipv4Addr::BROADCAST.into()));
        let read = DhcpPacket::new_checked(udp.payload()).unwrap();
        let options: Vec<u8> = read.options().map(|option| option.kind).collect();
        assert_eq!(options, [53, 61, 50, 57, 12, 55]);
        let long = [Extra {
            code: 12,
            value: vec![0; 256],
        }];
        assert_eq!(ask.encode(MAC, &long), None);
    }
}
