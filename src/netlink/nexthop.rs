//! Messages of nexthop objects, which netlink-packet-route does not know.
//!
//! Layouts: `struct nhmsg`, `struct nexthop_grp` and `NHA_*` of
//! include/uapi/linux/nexthop.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;

use crate::model::nexthop::Member;
use crate::model::{Family, IfName, Nexthop, RawAttribute};

use super::read::Names;

/// `RTM_NEWNEXTHOP`
pub const NEW: u16 = 104;
/// `RTM_DELNEXTHOP`
pub const DELETE: u16 = 105;
/// `RTM_GETNEXTHOP`
pub const GET: u16 = 106;

/// `RTNH_F_ONLINK` (include/uapi/linux/rtnetlink.h): the only flag that user
/// space sets.
const ONLINK: u32 = 4;
/// Length of `struct nhmsg`.
const HEADER: usize = 8;

/// `NHA_ID`
const ID: u16 = 1;
/// `NHA_GROUP`
const GROUP: u16 = 2;
/// `NHA_GROUP_TYPE`
const GROUP_TYPE: u16 = 3;
/// `NHA_OIF`
const OIF: u16 = 5;
/// `NHA_GATEWAY`
const GATEWAY: u16 = 6;
/// `NHA_OP_FLAGS`: how to read an answer; no part of the object.
const OP_FLAGS: u16 = 14;

/// A message of the three types above.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NexthopMessage {
    /// `AF_*`; unspecified for a group.
    pub family: u8,
    /// `RTPROT_*`
    pub protocol: u8,
    /// `RTNH_F_*`
    pub flags: u32,
    /// `NHA_*`
    pub attributes: Vec<RawAttribute>,
}

impl NexthopMessage {
    /// The message that makes an object, or puts it where another of its
    /// number is.
    ///
    /// # Errors
    /// Where `index` does not know the device.
    pub fn of(
        object: &Nexthop,
        index: &mut dyn FnMut(&IfName) -> std::io::Result<u32>,
    ) -> std::io::Result<Self> {
        let mut message = Self {
            family: object.family.map_or(libc::AF_UNSPEC, family_number) as u8,
            protocol: object.protocol,
            flags: if object.onlink { ONLINK } else { 0 },
            attributes: vec![number(ID, object.id)],
        };
        let mut add = |kind, value| message.attributes.push(RawAttribute { kind, value });
        if object.is_group() {
            add(GROUP, object.members.iter().flat_map(member_bytes).collect());
        }
        if let Some(dev) = &object.dev {
            add(OIF, index(dev)?.to_ne_bytes().to_vec());
        }
        match object.via {
            Some(IpAddr::V4(via)) => add(GATEWAY, via.octets().to_vec()),
            Some(IpAddr::V6(via)) => add(GATEWAY, via.octets().to_vec()),
            None => {}
        }
        message.attributes.extend(object.rest.iter().cloned());
        Ok(message)
    }

    /// The message that names an object.
    pub fn naming(id: u32) -> Self {
        Self {
            attributes: vec![number(ID, id)],
            ..Self::default()
        }
    }

    /// The object; none for one whose device `names` does not know.
    pub fn object(&self, names: &Names) -> Option<Nexthop> {
        let mut object = Nexthop {
            id: 0,
            family: match i32::from(self.family) {
                libc::AF_INET => Some(Family::V4),
                libc::AF_INET6 => Some(Family::V6),
                _ => None,
            },
            protocol: self.protocol,
            dev: None,
            via: None,
            onlink: self.flags & ONLINK != 0,
            members: Vec::new(),
            rest: Vec::new(),
        };
        for attribute in &self.attributes {
            let value = attribute.value.as_slice();
            match attribute.kind {
                ID => object.id = u32_of(value)?,
                GROUP => object.members = value.chunks_exact(8).filter_map(member).collect(),
                // Multipath is what a group is where nothing is said.
                GROUP_TYPE if value == [0, 0] => {}
                OIF => object.dev = Some(names.get(u32_of(value)?)?.clone()),
                GATEWAY => object.via = ip(value),
                OP_FLAGS => {}
                _ => object.rest.push(attribute.clone()),
            }
        }
        Some(object)
    }

    /// Reads the payload of a message.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (header, attributes) = payload.split_at_checked(HEADER)?;
        let attributes = NlasIterator::new(attributes);
        Some(Self {
            family: *header.first()?,
            protocol: *header.get(2)?,
            flags: u32_of(header.get(4..)?)?,
            attributes: attributes
                .map(|nla| {
                    nla.map(|nla| RawAttribute {
                        kind: nla.kind(),
                        value: nla.value().to_vec(),
                    })
                })
                .collect::<Result<_, _>>()
                .ok()?,
        })
    }

    /// The payload of the message. The scope and the reserved byte are 0: the
    /// kernel wants them so (`rtm_to_nh_config()`).
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.family, 0, self.protocol, 0];
        bytes.extend(self.flags.to_ne_bytes());
        for attribute in &self.attributes {
            let length = (4 + attribute.value.len()) as u16;
            bytes.extend(length.to_ne_bytes());
            bytes.extend(attribute.kind.to_ne_bytes());
            bytes.extend(&attribute.value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }
}

fn family_number(family: Family) -> i32 {
    match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    }
}

fn number(kind: u16, number: u32) -> RawAttribute {
    RawAttribute {
        kind,
        value: number.to_ne_bytes().to_vec(),
    }
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|b| Ipv4Addr::from(b).into());
    let v6 = <[u8; 16]>::try_from(bytes).map(|b| Ipv6Addr::from(b).into());
    v4.or(v6).ok()
}

/// `struct nexthop_grp`: number, weight, its high byte (since 6.12; zero
/// before), two reserved bytes.
fn member(bytes: &[u8]) -> Option<Member> {
    let [low, high] = *bytes.get(4..6)?.first_chunk()?;
    Some(Member {
        id: u32_of(bytes)?,
        weight: u16::from_le_bytes([low, high]),
    })
}

fn member_bytes(member: &Member) -> [u8; 8] {
    let [a, b, c, d] = member.id.to_ne_bytes();
    let [low, high] = member.weight.to_le_bytes();
    [a, b, c, d, low, high, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.insert(7, "eth0".parse().unwrap());
        names
    }

    #[test]
    fn an_object_survives_the_wire() {
        for text in [
            r#"{"id": 1, "family": "v4", "protocol": 4, "dev": "eth0", "via": "192.0.2.1", "onlink": true}"#,
            r#"{"id": 2, "family": "v6", "dev": "eth0", "via": "fe80::1"}"#,
            r#"{"id": 10, "members": [{"id": 1, "weight": 300}, {"id": 2}]}"#,
            r#"{"id": 3, "family": "v4", "rest": [{"kind": 4, "value": []}]}"#,
        ] {
            let object: Nexthop = serde_json::from_str(text).unwrap();
            let message = NexthopMessage::of(&object, &mut |_| Ok(7)).unwrap();
            let read = NexthopMessage::parse(&message.bytes()).unwrap();
            assert_eq!(read, message);
            assert_eq!(read.object(&names()), Some(object));
        }
    }

    #[test]
    fn a_torn_message_is_none() {
        let message = NexthopMessage::naming(5).bytes();
        for length in 0..HEADER {
            assert_eq!(NexthopMessage::parse(&message[..length]), None);
        }
        assert_eq!(NexthopMessage::parse(&message[..10]), None);
    }
}
