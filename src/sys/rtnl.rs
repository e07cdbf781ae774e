//! What a TAP needs of rtnetlink and ioctls cannot do.
//!
//! A few fixed messages, written by hand, so that the helper links no netlink
//! library. Layouts: include/uapi/linux/{netlink,rtnetlink,if_link,if_tun}.h.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::netdev::IfIndex;

mod guard;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLA_F_NESTED: u16 = 0x8000;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
/// Room for the longest answer: the kernel makes no longer one.
const ANSWER: usize = 32 * 1024;
const HEADER: usize = 16;
const IFINFOMSG: usize = 16;

/// The descriptors that are attached to a TAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedQueues {
    /// Those that get frames.
    pub enabled: u32,
    /// Those that were detached for a while (TUNSETQUEUE).
    pub disabled: u32,
}

/// A socket to rtnetlink, for one question at a time.
#[derive(Debug)]
pub struct Rtnl(OwnedFd);

impl Rtnl {
    /// Opens it in the network namespace of the calling thread.
    ///
    /// # Errors
    /// As of socket(2).
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?))
    }

    /// Isolates a bridge port: it reaches only ports that are not isolated.
    /// Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// EOPNOTSUPP if the device is no port, ENODEV if there is none.
    pub fn isolate(&self, port: IfIndex) -> io::Result<()> {
        let isolated = attribute(IFLA_BRPORT_ISOLATED, &[1]);
        let info = attribute(IFLA_PROTINFO | NLA_F_NESTED, &isolated);
        let asked = message(RTM_SETLINK, NLM_F_ACK, libc::AF_BRIDGE as u8, port, &info);
        self.ask(&asked, |kind, _| (kind == NLMSG_ERROR).then_some(()))
    }

    /// How many descriptors are attached to a TAP, by whomever.
    ///
    /// # Errors
    /// ENODEV if there is no such device, `InvalidData` if it is no TAP.
    pub fn attached_queues(&self, tap: IfIndex) -> io::Result<AttachedQueues> {
        let asked = message(RTM_GETLINK, 0, 0, tap, &[]);
        let found = self.ask(&asked, |kind, body| {
            (kind == RTM_NEWLINK).then(|| queues(body.get(IFINFOMSG..).unwrap_or_default()))
        })?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Sends a message and gives what `pick` makes of the answer to it.
    fn ask<T>(&self, message: &[u8], pick: impl Fn(u16, &[u8]) -> Option<T>) -> io::Result<T> {
        send(self.0.as_raw_fd(), message, MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let answer = buffer.get(..length).unwrap_or_default();
        let (Some(kind), Some(body)) = (u16_at(answer, 4), answer.get(HEADER..)) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        if kind == NLMSG_ERROR {
            let code = u32_at(body, 0).unwrap_or_default().cast_signed();
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
        }
        pick(kind, body).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}

impl AsFd for Rtnl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `nlmsghdr`, `ifinfomsg`, and the attributes as they are given.
fn message(kind: u16, flags: u16, family: u8, index: IfIndex, attributes: &[u8]) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0]; // family, padding, device type
    body.extend_from_slice(&index.0.to_ne_bytes());
    body.extend_from_slice(&[0; 8]); // flags, and which of them to change
    body.extend_from_slice(attributes);
    request(kind, flags, &body)
}

/// `nlmsghdr`, and the rest as it is given.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend_from_slice(&1_u32.to_ne_bytes()); // sequence number
    bytes.extend_from_slice(&0_u32.to_ne_bytes()); // port: the kernel's
    bytes.extend_from_slice(body);
    bytes
}

/// One attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)? & !NLA_F_NESTED;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn queues(link: &[u8]) -> Option<AttachedQueues> {
    let data = find(find(link, IFLA_LINKINFO)?, IFLA_INFO_DATA)?;
    // The kernel tells the numbers for a TAP with many queues only.
    let enabled = find(data, IFLA_TUN_NUM_QUEUES).and_then(|v| u32_at(v, 0))?;
    let disabled = find(data, IFLA_TUN_NUM_DISABLED_QUEUES).and_then(|v| u32_at(v, 0))?;
    Some(AttachedQueues { enabled, disabled })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
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
    fn the_kernel_answers() {
        let rtnl = Rtnl::open().unwrap();
        let lo = rtnl.attached_queues(IfIndex(1)).unwrap_err();
        assert_eq!(lo.kind(), io::ErrorKind::InvalidData, "lo is no TAP");
        let missing = rtnl.attached_queues(IfIndex(i32::MAX as u32)).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
    }
}
