//! Packet sockets: frames of one protocol on one device, with the link-layer
//! header made and taken off by the kernel (packet(7), net/packet/af_packet.c).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use macaddr::MacAddr6;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};

/// `ETH_P_ARP` of include/uapi/linux/if_ether.h.
pub const ARP: u16 = 0x0806;
/// `ETH_P_IPV6`
pub const IPV6: u16 = 0x86dd;

/// A socket that hears and sends the frames of one protocol on one device.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    index: libc::c_int,
    /// What it hears, and what it sends.
    protocol: u16,
    sends: u16,
}

/// `ETH_P_ALL` and `ETH_P_IP` of include/uapi/linux/if_ether.h.
const EVERY: u16 = 0x0003;
const IPV4: u16 = 0x0800;
/// From include/uapi/linux/if_packet.h; since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
/// Of include/uapi/linux/filter.h: what the kernel knows of a frame beside its
/// bytes.
const ANCILLARY: u32 = 0_u32.wrapping_sub(0x1000);
const OF_PROTOCOL: u32 = ANCILLARY;
const OF_VLAN: u32 = ANCILLARY + 48;

/// A filter (socket(7), SO_ATTACH_FILTER) that lets whole packets of IPv4 and
/// UDP to a port pass, of no VLAN. It sees them from the IPv4 header on.
fn to_udp_port(port: u16) -> [libc::sock_filter; 13] {
    let load = |size: u32, mode: u32| libc::BPF_LD | size | mode;
    let word = load(libc::BPF_W, libc::BPF_ABS);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    [
        step(word, 0, 0, OF_PROTOCOL),
        step(equal, 0, 9, IPV4.into()),
        step(word, 0, 0, OF_VLAN),
        step(equal, 0, 7, 0),
        step(load(libc::BPF_B, libc::BPF_ABS), 0, 0, 9),
        step(equal, 0, 5, libc::IPPROTO_UDP as u32),
        // More fragments, or a place among them.
        step(load(libc::BPF_H, libc::BPF_ABS), 0, 0, 6),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 3, 0, 0x3fff),
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        step(load(libc::BPF_H, libc::BPF_IND), 0, 0, 2),
        step(equal, 1, 0, port.into()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
    ]
}

impl PacketSocket {
    /// Opens one on the device `index`. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// As of socket(2) and bind(2); ENODEV.
    pub fn open(index: u32, protocol: u16) -> io::Result<Self> {
        let this = Self::unbound(index, protocol, protocol)?;
        this.bind()?;
        Ok(this)
    }

    /// Opens one that hears IPv4 packets to a UDP port, also where the device
    /// is a bridge's port: what arrives there, nothing that the bridge or the
    /// host sends there. It sends IPv4. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// As of [`PacketSocket::open`], and setsockopt(2).
    pub fn hear_udp(index: u32, port: u16) -> io::Result<Self> {
        let this = Self::unbound(index, EVERY, IPV4)?;
        let mut filter = to_udp_port(port);
        let program = libc::sock_fprog {
            len: filter.len() as libc::c_ushort,
            filter: filter.as_mut_ptr(),
        };
        this.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        let yes: libc::c_int = 1;
        this.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes)?;
        this.bind()?;
        Ok(this)
    }

    /// What it sends goes to the driver at once, and meets no hook of traffic
    /// control (`packet_xmit()`, `__dev_direct_xmit()`).
    ///
    /// # Errors
    /// As of setsockopt(2).
    pub fn pass_hooks(&self) -> io::Result<()> {
        let yes: libc::c_int = 1;
        self.set(libc::SOL_PACKET, PACKET_QDISC_BYPASS, &yes)
    }

    /// Of no protocol yet: it hears nothing before it is bound.
    fn unbound(index: u32, protocol: u16, sends: u16) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(Self {
            socket: socket(AddressFamily::Packet, SockType::Datagram, flags, None)?,
            index: libc::c_int::try_from(index).map_err(io::Error::other)?,
            protocol,
            sends,
        })
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is of the length that is said and outlives the call;
        // a filter's program points to instructions of the caller's, which do
        // so, too. The kernel copies both (sock_setsockopt()).
        let answer = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        Errno::result(answer)?;
        Ok(())
    }

    fn bind(&self) -> io::Result<()> {
        let address = self.address(self.protocol, MacAddr6::nil());
        // SAFETY: `address` is a sockaddr_ll, of the length that is said, and
        // outlives the call; the descriptor is open.
        let answer = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(answer)?;
        Ok(())
    }

    /// Sends a packet to a MAC.
    ///
    /// # Errors
    /// As of sendto(2): ENETDOWN, ENXIO, ENOBUFS.
    pub fn send(&self, to: MacAddr6, packet: &[u8]) -> io::Result<()> {
        let address = self.address(self.sends, to);
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

    fn address(&self, protocol: u16, mac: MacAddr6) -> libc::sockaddr_ll {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(mac.as_bytes());
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: protocol.to_be(),
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
