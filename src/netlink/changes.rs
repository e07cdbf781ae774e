//! What the kernel tells of changes, to know that there was none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// `RTNLGRP_*` of include/uapi/linux/rtnetlink.h: devices; addresses, routes
/// and rules of IPv4; the same of IPv6; nexthop objects (since 5.3).
const GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 32];
/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;

/// A socket that hears of each change of a namespace's network.
pub struct Changes {
    socket: Socket,
    index: u32,
}

impl Changes {
    /// Hears from now on of changes of the device number `index`, of what goes
    /// by it, of rules and of nexthop objects.
    ///
    /// # Errors
    /// As of socket(2), bind(2) and setsockopt(2).
    pub fn of(index: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, index })
    }

    /// Whether there was one since the last time that this was asked.
    ///
    /// # Errors
    /// As of recv(2).
    pub fn heard(&self) -> io::Result<bool> {
        let mut heard = false;
        loop {
            let mut buffer = Vec::with_capacity(64 * 1024);
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => heard |= self.concern(&buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // There were more than the socket holds.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a message in a datagram is of the device; one that cannot be
    /// read is.
    fn concern(&self, datagram: &[u8]) -> bool {
        let mut rest = datagram;
        while rest.len() >= HEADER_LEN {
            let Ok(message) = NetlinkMessage::<Message>::deserialize(rest) else {
                return true;
            };
            let length = message.header.length as usize;
            if self.concerns(&message.payload) {
                return true;
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        false
    }

    fn concerns(&self, payload: &NetlinkPayload<Message>) -> bool {
        match payload {
            NetlinkPayload::InnerMessage(Message::NewLink(m) | Message::DelLink(m)) => {
                m.header.index == self.index
            }
            NetlinkPayload::InnerMessage(Message::NewAddress(m) | Message::DelAddress(m)) => {
                m.header.index == self.index
            }
            NetlinkPayload::InnerMessage(Message::NewRoute(m) | Message::DelRoute(m)) => {
                goes_by(m, self.index)
            }
            _ => true,
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn goes_by(route: &RouteMessage, index: u32) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
        // Who uses the object is not told.
        RouteAttribute::NhId(_) => true,
        _ => false,
    })
}
