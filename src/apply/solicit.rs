//! Router solicitations.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};

/// All routers of a link (RFC 4291, 2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// An ICMPv6 router solicitation (RFC 4861, 4.1): type 133, code 0; the
/// checksum is the kernel's work.
const SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];

/// Asks the routers on the link of the device `index` for an advertisement.
///
/// # Errors
/// As of socket(2) and sendto(2).
pub fn solicit(index: u32) -> io::Result<()> {
    let raw = socket(
        AddressFamily::Inet6,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::IcmpV6,
    )?;
    // A router drops what has come by another router (RFC 4861, 6.1.1).
    setsockopt(&raw, sockopt::Ipv6MulticastHops, &255)?;
    let to = SockaddrIn6::from(SocketAddrV6::new(ALL_ROUTERS, 0, 0, index));
    sendto(raw.as_raw_fd(), &SOLICITATION, &to, MsgFlags::empty())?;
    Ok(())
}
