//! The questions to rtnetlink that a TAP needs and ioctls cannot ask.
//!
//! A few fixed messages, written by hand, so that the helper links no netlink
//! library. Layouts: include/uapi/linux/{netlink,rtnetlink,if_link,neighbour,
//! if_tun}.h.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::netdev::IfIndex;
use crate::model::Mac;

#[cfg(feature = "mac-nat")]
mod classifier;
mod guard;
mod message;

#[cfg(feature = "mac-nat")]
pub use classifier::Filter;

use message::{HEADER, Message, attribute, find, u16_at, u32_at};

const NLMSG_ERROR: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWLINKPROP: u16 = 108;
const NLA_F_NESTED: u16 = 0x8000;
const IFLA_PROTINFO: u16 = 12;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_LOCKED: u16 = 39;
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
const IFINFOMSG: usize = 16;
/// Room for the longest answer to a question about a guard.
const ANSWER: usize = 32 * 1024;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
const NTF_MASTER: u8 = 1 << 2;
const NTF_STICKY: u8 = 1 << 6;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// Who holds a TAP, and who else may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// How many descriptors are attached to it and get frames.
    pub enabled: u32,
    /// How many were detached for a while (TUNSETQUEUE).
    pub disabled: u32,
    /// Which user can attach to it; any where none is said.
    pub owner: Option<u32>,
    /// Members of which group can; of any where none is said.
    pub group: Option<u32>,
    /// It outlives its descriptors.
    pub persistent: bool,
}

/// What a bridge knows of a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// The port that it is behind, or the bridge.
    pub port: IfIndex,
    /// It was said, not learned: it does not age, or is the host's own.
    pub fixed: bool,
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
        self.set_port(port, &attribute(IFLA_BRPORT_ISOLATED, &[1]))
    }

    /// Lets a bridge port take frames only from MACs that the bridge has been
    /// told are behind it, learn none, and get no frames for MACs that are
    /// behind nobody. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// As of [`Rtnl::isolate`]; `Unsupported` before Linux 5.18.
    pub fn lock(&self, port: IfIndex) -> io::Result<()> {
        let mut options = attribute(IFLA_BRPORT_LOCKED, &[1]);
        options.extend(attribute(IFLA_BRPORT_LEARNING, &[0]));
        options.extend(attribute(IFLA_BRPORT_UNICAST_FLOOD, &[0]));
        self.set_port(port, &options)?;
        // A kernel that does not know an option passes over it in silence.
        let is_locked = self.ask(&get_link(port), |kind, body| {
            (kind == RTM_NEWLINK).then(|| locked(body.get(IFINFOMSG..).unwrap_or_default()))
        })?;
        if is_locked {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }
    }

    fn set_port(&self, port: IfIndex, options: &[u8]) -> io::Result<()> {
        let info = attribute(IFLA_PROTINFO | NLA_F_NESTED, options);
        self.command(
            Message::new(RTM_SETLINK, NLM_F_ACK)
                .link(libc::AF_BRIDGE as u8, port)
                .with(&info),
        )
    }

    /// Tells the bridge of a port that a MAC is behind it, and stays there
    /// whoever else speaks as it: without "sticky" a frame from it at another
    /// port would take it there (br_fdb_update, net/bridge/br_fdb.c). Needs
    /// CAP_NET_ADMIN.
    ///
    /// # Errors
    /// EEXIST if the bridge knows the MAC, wherever.
    pub fn station_add(&self, port: IfIndex, mac: Mac) -> io::Result<()> {
        self.command(
            Message::new(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
                .neighbour(port, NUD_NOARP, NTF_MASTER | NTF_STICKY)
                .with(&attribute(NDA_LLADDR, &mac.0)),
        )
    }

    /// The same, wherever the bridge has known the MAC before.
    ///
    /// # Errors
    /// ENODEV; EINVAL where the port is on no bridge.
    #[cfg(feature = "cli")]
    pub fn station_set(&self, port: IfIndex, mac: Mac) -> io::Result<()> {
        /// include/uapi/linux/netlink.h
        const NLM_F_REPLACE: u16 = 0x100;
        self.command(
            Message::new(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
                .neighbour(port, NUD_NOARP, NTF_MASTER | NTF_STICKY)
                .with(&attribute(NDA_LLADDR, &mac.0)),
        )
    }

    /// Lets the bridge of a port forget that a MAC is behind it. Needs
    /// CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENOENT if it is not behind this port.
    pub fn station_forget(&self, port: IfIndex, mac: Mac) -> io::Result<()> {
        self.command(
            Message::new(RTM_DELNEIGH, NLM_F_ACK)
                .neighbour(port, 0, NTF_MASTER)
                .with(&attribute(NDA_LLADDR, &mac.0)),
        )
    }

    /// Where a bridge has a MAC.
    ///
    /// # Errors
    /// ENOENT if it does not know it.
    pub fn station(&self, bridge: IfIndex, mac: Mac) -> io::Result<Station> {
        let asked = Message::new(RTM_GETNEIGH, 0)
            .neighbour(IfIndex(0), 0, 0)
            .with(&attribute(NDA_LLADDR, &mac.0))
            .with(&attribute(NDA_MASTER, &bridge.0.to_ne_bytes()))
            .finish();
        self.ask(&asked, |kind, body| {
            let port = IfIndex(u32_at(body, 4)?);
            let state = u16_at(body, 8)?;
            let fixed = state & (NUD_NOARP | NUD_PERMANENT) != 0;
            (kind == RTM_NEWNEIGH).then_some(Station { port, fixed })
        })
    }

    /// Gives a device one more name, which no other device of the namespace
    /// may have; false where one has it. The name goes with the device. Needs
    /// CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENODEV if there is no such device.
    pub fn take_name(&self, device: IfIndex, name: &str) -> io::Result<bool> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let list = attribute(IFLA_PROP_LIST | NLA_F_NESTED, &attribute(IFLA_ALT_IFNAME, &text));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let asked = Message::new(RTM_NEWLINKPROP, flags).link(0, device).with(&list);
        match self.command(asked) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Who holds a TAP of many queues, and who else may: all of it as of one
    /// moment.
    ///
    /// # Errors
    /// ENODEV if there is no such device, `InvalidData` if it is no such TAP.
    pub fn holding(&self, tap: IfIndex) -> io::Result<Holding> {
        let found = self.ask(&get_link(tap), |kind, body| {
            (kind == RTM_NEWLINK).then(|| holding(body.get(IFINFOMSG..).unwrap_or_default()))
        })?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The device that another one is a port of, if it is one.
    ///
    /// # Errors
    /// ENODEV if there is no such device.
    pub fn master(&self, device: IfIndex) -> io::Result<Option<IfIndex>> {
        self.ask(&get_link(device), |kind, body| {
            let attributes = body.get(IFINFOMSG..).unwrap_or_default();
            let master = || find(attributes, IFLA_MASTER).and_then(|value| u32_at(value, 0));
            (kind == RTM_NEWLINK).then(|| master().map(IfIndex))
        })
    }

    /// Removes a device, whoever holds it. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENODEV if there is none.
    pub fn remove(&self, device: IfIndex) -> io::Result<()> {
        self.command(Message::new(RTM_DELLINK, NLM_F_ACK).link(0, device))
    }

    /// Sends a message that the kernel only says yes or no to.
    fn command(&self, message: Message) -> io::Result<()> {
        self.ask(&message.finish(), |kind, _| (kind == NLMSG_ERROR).then_some(()))
    }

    /// Sends a message and gives what `pick` makes of the answer to it.
    fn ask<T>(&self, message: &[u8], pick: impl Fn(u16, &[u8]) -> Option<T>) -> io::Result<T> {
        send(self.0.as_raw_fd(), message, MsgFlags::empty())?;
        let mut buffer = [0; ANSWER];
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
    Message::new(kind, flags)
        .link(family, index)
        .with(attributes)
        .finish()
}

/// `nlmsghdr`, and the rest as it is given.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    Message::new(kind, flags).with(body).finish()
}

fn get_link(device: IfIndex) -> Vec<u8> {
    let mask = attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    Message::new(RTM_GETLINK, 0).link(0, device).with(&mask).finish()
}

fn holding(link: &[u8]) -> Option<Holding> {
    let data = find(find(link, IFLA_LINKINFO)?, IFLA_INFO_DATA)?;
    let number = |kind| find(data, kind).and_then(|v| u32_at(v, 0));
    Some(Holding {
        // The kernel tells the numbers for a TAP with many queues only.
        enabled: number(IFLA_TUN_NUM_QUEUES)?,
        disabled: number(IFLA_TUN_NUM_DISABLED_QUEUES)?,
        // And these two only where they were set (tun_fill_info).
        owner: number(IFLA_TUN_OWNER),
        group: number(IFLA_TUN_GROUP),
        persistent: *find(data, IFLA_TUN_PERSIST)?.first()? != 0,
    })
}

fn locked(link: &[u8]) -> bool {
    let port = find(link, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_SLAVE_DATA));
    let is = |option, wanted: &[u8]| port.and_then(|port| find(port, option)) == Some(wanted);
    is(IFLA_BRPORT_LOCKED, &[1]) && is(IFLA_BRPORT_LEARNING, &[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let rtnl = Rtnl::open().unwrap();
        let lo = rtnl.holding(IfIndex(1)).unwrap_err();
        assert_eq!(lo.kind(), io::ErrorKind::InvalidData, "lo is no TAP");
        let missing = rtnl.holding(IfIndex(i32::MAX as u32)).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
    }
}
