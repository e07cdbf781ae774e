//! Packet sockets: frames of one protocol on one device, with the link-layer
//! header made and taken off by the kernel (packet(7), net/packet/af_packet.c).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use macaddr::MacAddr6;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};

/// `ETH_P_ARP` of include/uapi/linux/if_ether.h.
pub const ARP: u16 = 0x0806;

/// A socket that hears and sends the frames of one protocol on one device.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    index: libc::c_int,
    protocol: u16,
}

impl PacketSocket {
    /// Opens one on the device `index`. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// As of socket(2) and bind(2); ENODEV.
    pub fn open(index: u32, protocol: u16) -> io::Result<Self> {
        // Of no protocol yet: it hears nothing before it is bound.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        let this = Self {
            socket,
            index: libc::c_int::try_from(index).map_err(io::Error::other)?,
            protocol,
        };
        let address = this.address(MacAddr6::nil());
        // SAFETY: `address` is a sockaddr_ll, of the length that is said, and
        // outlives the call; the descriptor is open.
        let answer = unsafe {
            libc::bind(
                this.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(answer)?;
        Ok(this)
    }

    /// Sends a packet to a MAC.
    ///
    /// # Errors
    /// As of sendto(2): ENETDOWN, ENXIO, ENOBUFS.
    pub fn send(&self, to: MacAddr6, packet: &[u8]) -> io::Result<()> {
        let address = self.address(to);
        // SAFETY: packet and address are what their lengths say and outlive
        // the call; the descriptor is open.
        let answer = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_NOSIGNAL,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(answer)?;
        Ok(())
    }

    /// A packet that has come, cut at the buffer's length; none where none is
    /// there.
    ///
    /// # Errors
    /// As of recv(2): ENETDOWN.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(buffer.get(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn address(&self, mac: MacAddr6) -> libc::sockaddr_ll {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(mac.as_bytes());
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: self.protocol.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: bytes,
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
