//! Whether gateways answer: ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use macaddr::MacAddr6;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recv, sendto, setsockopt, socket,
    sockopt,
};

use crate::model::{Address, HostState, IfName};
use crate::sys::packet::{ARP, PacketSocket};

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(200);
/// More gateways than this are not asked: a routing table may have thousands.
/// Those of the widest routes are, the default routes' first of all.
pub const MOST: usize = 32;
/// `ARPOP_REQUEST` and `ARPOP_REPLY` (RFC 826).
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Neighbour solicitation and advertisement (RFC 4861, 4.3 and 4.4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The flag of an advertisement that answers a solicitation (RFC 4861, 4.4).
const SOLICITED: u8 = 0x40;
/// The option that tells the sender's MAC (RFC 4861, 4.6.1).
const SOURCE_MAC: u8 = 1;

/// What is asked: one device, and the gateways behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    index: u32,
    mac: MacAddr6,
    addresses: Vec<Address>,
    gateways: BTreeSet<IpAddr>,
}

impl Question {
    /// The question for the gateways of the routes by `dev`, or for those of
    /// them that are in `only`. None where there is no such device.
    pub fn of(live: &HostState, dev: &IfName, only: Option<&BTreeSet<IpAddr>>) -> Option<Self> {
        let link = live.link(dev)?;
        let gateways = only.map_or_else(|| gateways_of(live, dev), BTreeSet::clone);
        Some(Self {
            index: link.index,
            mac: link.mac?,
            addresses: live.addresses_of(dev).to_vec(),
            gateways,
        })
    }

    /// The gateways that are asked.
    pub fn gateways(&self) -> &BTreeSet<IpAddr> {
        &self.gateways
    }

    /// The gateways that answer within `patience`; returns as soon as all have.
    ///
    /// # Errors
    /// As of socket(2). That the device is down is no error: nobody answers.
    pub fn ask(&self, patience: Duration) -> io::Result<BTreeSet<IpAddr>> {
        let mut answered = BTreeSet::new();
        if self.gateways.is_empty() {
            return Ok(answered);
        }
        let arp = PacketSocket::open(self.index, ARP)?;
        let nd = if self.gateways.iter().any(IpAddr::is_ipv6) {
            discovery(self.index).map(Some).or_else(without_ipv6)?
        } else {
            None
        };
        let deadline = Instant::now() + patience;
        loop {
            for gateway in self.gateways.difference(&answered) {
                // Who cannot be asked does not answer.
                let _ = match (gateway, &nd) {
                    (IpAddr::V4(gateway), _) => self.ask_v4(&arp, *gateway),
                    (IpAddr::V6(gateway), Some(nd)) => self.ask_v6(nd, *gateway),
                    (IpAddr::V6(_), None) => Ok(()),
                };
            }
            let next = deadline.min(Instant::now() + INTERVAL);
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                listen(&arp, nd.as_ref(), left);
                self.hear(&arp, nd.as_ref(), &mut answered);
                if answered == self.gateways {
                    return Ok(answered);
                }
            }
            if Instant::now() >= deadline {
                return Ok(answered);
            }
        }
    }

    fn ask_v4(&self, socket: &PacketSocket, gateway: Ipv4Addr) -> io::Result<()> {
        let mut packet = [0_u8; 28];
        // Ethernet and IPv4, addresses of 6 and 4 bytes.
        packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, REQUEST]);
        packet[8..14].copy_from_slice(self.mac.as_bytes());
        packet[14..18].copy_from_slice(&self.source_for(gateway).octets());
        packet[24..].copy_from_slice(&gateway.octets());
        socket.send(MacAddr6::broadcast(), &packet)
    }

    /// The address whose prefix the gateway is in; without one, none: that is
    /// a probe (RFC 5227).
    fn source_for(&self, gateway: Ipv4Addr) -> Ipv4Addr {
        let v4 = |address: &Address| match address.local {
            IpAddr::V4(local) => Some(local),
            IpAddr::V6(_) => None,
        };
        let near = |address: &&Address| {
            crate::model::Prefix::containing(gateway.into(), address.prefix_len) == address.on_link()
        };
        let mut all = self.addresses.iter().filter(|address| v4(address).is_some());
        let found = all.clone().find(near).or_else(|| all.next());
        found.and_then(v4).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn ask_v6(&self, socket: &OwnedFd, gateway: Ipv6Addr) -> io::Result<()> {
        let mut packet = [0_u8; 32];
        // The checksum is the kernel's work.
        packet[0] = SOLICITATION;
        packet[8..24].copy_from_slice(&gateway.octets());
        packet[24..26].copy_from_slice(&[SOURCE_MAC, 1]);
        packet[26..].copy_from_slice(self.mac.as_bytes());
        let to = SocketAddrV6::new(solicited_node(gateway), 0, 0, self.index);
        sendto(
            socket.as_raw_fd(),
            &packet,
            &SockaddrIn6::from(to),
            MsgFlags::MSG_NOSIGNAL,
        )?;
        Ok(())
    }

    fn hear(&self, arp: &PacketSocket, nd: Option<&OwnedFd>, answered: &mut BTreeSet<IpAddr>) {
        let mut buffer = [0; 128];
        while let Ok(Some(packet)) = arp.receive(&mut buffer) {
            let sender = arp_sender(packet, self.mac);
            answered.extend(sender.filter(|sender| self.gateways.contains(sender)));
        }
        let Some(nd) = nd else { return };
        while let Ok(length) = recv(nd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            let sender = buffer.get(..length).and_then(advertised);
            answered.extend(sender.filter(|sender| self.gateways.contains(sender)));
        }
    }
}

/// The gateways of the routes by `dev`, at most [`MOST`].
fn gateways_of(live: &HostState, dev: &IfName) -> BTreeSet<IpAddr> {
    let hops = live
        .routes
        .iter()
        .flat_map(|route| route.hops.iter().map(move |hop| (route.dst.len, hop)));
    let by_dev = hops.filter(|(_, hop)| hop.dev.as_ref() == Some(dev));
    let ranked: BTreeSet<(u8, IpAddr)> = by_dev
        .filter_map(|(width, hop)| Some((width, hop.via?)))
        .collect();
    let mut gateways = BTreeSet::new();
    for (_, gateway) in ranked {
        if gateways.len() < MOST {
            gateways.insert(gateway);
        }
    }
    gateways
}

/// A raw ICMPv6 socket on one device; the kernel chooses the source address.
fn discovery(index: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    // Others are dropped by who receives them (RFC 4861, 7.1.1).
    setsockopt(&raw, sockopt::Ipv6MulticastHops, &255)?;
    let name = nix::net::if_::if_indextoname(index)?;
    setsockopt(
        &raw,
        sockopt::BindToDevice,
        &name.to_string_lossy().into_owned().into(),
    )?;
    Ok(raw)
}

/// A kernel without IPv6 has no gateways that answer.
fn without_ipv6(error: io::Error) -> io::Result<Option<OwnedFd>> {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => Ok(None),
        _ => Err(error),
    }
}

fn listen(arp: &PacketSocket, nd: Option<&OwnedFd>, patience: Duration) {
    let mut asked = vec![PollFd::new(arp.as_fd(), PollFlags::POLLIN)];
    asked.extend(nd.map(|nd| PollFd::new(nd.as_fd(), PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    // A socket whose device went down is ready at once, and has nothing.
    if poll(&mut asked, timeout) == Err(Errno::EINTR) || arp_failed(&asked) {
        std::thread::sleep(patience.min(Duration::from_millis(10)));
    }
}

fn arp_failed(asked: &[PollFd<'_>]) -> bool {
    let bad = PollFlags::POLLERR | PollFlags::POLLHUP;
    asked
        .iter()
        .any(|fd| fd.revents().is_some_and(|events| events.intersects(bad)))
}

/// The multicast group in which the owner of an address listens (RFC 4291,
/// 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Who an ARP reply to `asker` is of. What a router tells everyone, or another
/// host, comes also to one whose own frames are dropped: that is no answer.
fn arp_sender(packet: &[u8], asker: MacAddr6) -> Option<IpAddr> {
    let header = packet.get(..8)?;
    let sender: [u8; 4] = packet.get(14..18)?.try_into().ok()?;
    let is_answer = header == [0, 1, 8, 0, 6, 4, 0, REPLY] && packet.get(18..24)? == asker.as_bytes();
    is_answer.then(|| Ipv4Addr::from(sender).into())
}

/// Who an advertisement that was asked for is of; a raw socket of ICMPv6 gives
/// no IP header.
fn advertised(packet: &[u8]) -> Option<IpAddr> {
    let target: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    let is_answer = packet.first() == Some(&ADVERTISEMENT) && packet.get(4)? & SOLICITED != 0;
    is_answer.then(|| Ipv6Addr::from(target).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_answers_only() {
        let me = MacAddr6::new(2, 0, 0, 0, 0, 0x21);
        let mut reply = [0; 28];
        reply[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, REPLY]);
        reply[14..18].copy_from_slice(&[192, 0, 2, 1]);
        reply[18..24].copy_from_slice(me.as_bytes());
        assert_eq!(arp_sender(&reply, me), Some(Ipv4Addr::new(192, 0, 2, 1).into()));
        assert_eq!(arp_sender(&reply[..23], me), None);
        assert_eq!(arp_sender(&reply, MacAddr6::broadcast()), None);
        reply[7] = REQUEST;
        assert_eq!(arp_sender(&reply, me), None);

        let gateway: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        let mut advertisement = [0; 24];
        advertisement[0] = ADVERTISEMENT;
        advertisement[4] = SOLICITED;
        advertisement[8..].copy_from_slice(&gateway.octets());
        assert_eq!(advertised(&advertisement), Some(gateway.into()));
        assert_eq!(advertised(&advertisement[..23]), None);
        advertisement[4] = !SOLICITED;
        assert_eq!(advertised(&advertisement), None);
        advertisement[4] = SOLICITED;
        advertisement[0] = SOLICITATION;
        assert_eq!(advertised(&advertisement), None);
        assert_eq!(solicited_node(gateway).to_string(), "ff02::1:ff12:3456");
    }
}
