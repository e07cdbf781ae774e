//! What cfg80211 says of a wireless device, by nl80211 (genetlink(7)).

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// Lengths of `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// The family that knows the others (include/uapi/linux/genetlink.h):
/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `_NAME`.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// include/uapi/linux/nl80211.h: `NL80211_CMD_GET_INTERFACE` and the
/// attributes `IFINDEX`, `IFTYPE` and `4ADDR`.
const GET_INTERFACE: u8 = 5;
const IFINDEX: u16 = 3;
const IFTYPE: u16 = 5;
const FOUR_ADDRESSES: u16 = 83;
/// `NL80211_IFTYPE_ADHOC`, `_STATION` and `_P2P_CLIENT`: a frame of theirs has
/// no place for the MAC of anyone behind them. The kernel marks them
/// `IFF_DONT_BRIDGE` unless they have four addresses in their frames
/// (`cfg80211_netdev_notifier_call()`, net/wireless/core.c).
const ALONE: [u32; 3] = [1, 2, 8];

/// Whether the kernel puts the wireless device number `index` on a bridge: an
/// access point, or a station with four addresses (WDS).
///
/// # Errors
/// What cannot be asked, or has no answer.
pub fn can_be_port(index: u32) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let answer = ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, b"nl80211\0")?;
    let family = number(&answer, FAMILY_ID).ok_or_else(short)?;
    let family = u16::try_from(family).map_err(io::Error::other)?;
    let answer = ask(&socket, family, GET_INTERFACE, IFINDEX, &index.to_ne_bytes())?;
    let kind = number(&answer, IFTYPE).ok_or_else(short)?;
    let four = number(&answer, FOUR_ADDRESSES).is_some_and(|four| four != 0);
    Ok(four || !ALONE.contains(&kind))
}

/// Asks a family with one attribute, and gives the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attribute: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    const VERSION: u8 = 1;
    let attribute_length = 4 + value.len();
    let length = HEADER + GENERIC + attribute_length.next_multiple_of(4);
    let as_u16 = |length: usize| u16::try_from(length).map_err(io::Error::other);
    let mut question = Vec::with_capacity(length);
    question.extend(u32::from(as_u16(length)?).to_ne_bytes());
    question.extend(family.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([command, VERSION, 0, 0]);
    question.extend(as_u16(attribute_length)?.to_ne_bytes());
    question.extend(attribute.to_ne_bytes());
    question.extend(value);
    question.resize(length, 0);
    socket.send(&question, 0)?;
    let mut answer = Vec::with_capacity(32 * 1024);
    socket.recv(&mut answer, 0)?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    match kind.map(u16::from_ne_bytes) {
        Some(ERROR) => {
            let code = answer
                .get(HEADER..HEADER + 4)
                .and_then(|bytes| bytes.try_into().ok());
            let code = code.map_or(0, i32::from_ne_bytes);
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        Some(_) => Ok(answer.get(HEADER + GENERIC..).unwrap_or_default().to_vec()),
        None => Err(short()),
    }
}

fn short() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's answer lacks what was asked",
    )
}

/// The number in an attribute, whatever its width.
fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let mut all = NlasIterator::new(attributes).flatten();
    let found = all.find(|nla: &NlaBuffer<&[u8]>| nla.kind() == kind)?;
    match *found.value() {
        [byte] => Some(byte.into()),
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d])),
        _ => None,
    }
}
