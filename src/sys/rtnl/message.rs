//! The bytes of a netlink message.
#![forbid(unsafe_code)]

use super::super::netdev::IfIndex;

/// The length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_F_NET_BYTEORDER: u16 = 0x4000;

/// One request that is being put together.
pub struct Message(Vec<u8>);

impl Message {
    /// `struct nlmsghdr`; the length is written at the end.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&1_u32.to_ne_bytes()); // sequence number
        bytes.extend_from_slice(&0_u32.to_ne_bytes()); // port: the kernel's
        Self(bytes)
    }

    /// `struct ifinfomsg`.
    pub fn link(self, family: u8, index: IfIndex) -> Self {
        self.with(&[family, 0, 0, 0]) // family, padding, device type
            .with(&index.0.to_ne_bytes())
            .with(&[0; 8]) // flags, and which of them to change
    }

    /// `struct ndmsg` of a bridge's table.
    pub fn neighbour(self, port: IfIndex, state: u16, flags: u8) -> Self {
        self.with(&[libc::AF_BRIDGE as u8, 0, 0, 0]) // family, padding
            .with(&port.0.to_ne_bytes())
            .with(&state.to_ne_bytes())
            .with(&[flags, 0]) // flags, type
    }

    /// An attribute, as it is given.
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The whole.
    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        for (to, from) in self.0.iter_mut().zip(length) {
            *to = from;
        }
        self.0
    }
}

/// One attribute, padded to four bytes.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
pub fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)? & !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// A number of two bytes.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number of four bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_bad_ones_end_the_search() {
        let mut list = attribute(7, b"abc");
        assert_eq!(list.len(), 8);
        list.extend(attribute(9 | NLA_F_NESTED, &5_u32.to_ne_bytes()));
        assert_eq!(find(&list, 7), Some(&b"abc"[..]));
        assert_eq!(find(&list, 9), Some(&5_u32.to_ne_bytes()[..]));
        assert_eq!(find(&list, 8), None);
        for torn in 0..list.len() {
            find(&list[..torn], 9);
        }
        assert_eq!(
            find(&[0; 64], 9),
            None,
            "an attribute of length 0 must not be walked for ever"
        );
    }

    #[test]
    fn a_message_has_its_length_in_front() {
        let message = Message::new(18, 4).link(7, IfIndex(2)).with(&attribute(3, b"x"));
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 16 + 8);
        assert_eq!(u32_at(&bytes, 0), Some(40));
        assert_eq!((u16_at(&bytes, 4), u16_at(&bytes, 6)), (Some(18), Some(5)));
        assert_eq!((bytes[16], u32_at(&bytes, 20)), (7, Some(2)));
        let neighbour = Message::new(28, 0).neighbour(IfIndex(2), 0x40, 4).finish();
        assert_eq!(neighbour.len(), 16 + 12);
    }
}
