//! Sockets that are bound to the uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::{fs, io};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use crate::model::IfName;

use super::process;
use super::scene::Scene;

/// At most so many are told: anyone may bind many.
const MOST: usize = 10;
/// Protocols whose frames a bridge's port hands on to its own sockets: LLDP
/// and 802.1X go to addresses that no bridge forwards (`br_handle_frame()`).
const PASSED: [u16; 2] = [0x88cc, 0x888e];
/// `ETH_P_ALL` of include/uapi/linux/if_ether.h.
const EVERY: u16 = 0x0003;
/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;
/// The port of DHCP clients.
const CLIENT_PORT: u16 = 68;

/// A socket that is bound to a device.
struct Bound {
    inode: u32,
    what: String,
    deaf: bool,
    hears_ip: bool,
}

/// What becomes of the sockets that are bound to the uplink. Those of `known`
/// processes are left out: they were told of.
pub fn warnings(scene: &Scene<'_>, known: &[u32], bridge: &IfName) -> Vec<String> {
    let uplink = scene.uplink();
    let mut bound = packet(scene.link.index);
    for (family, protocol, name) in [
        (libc::AF_INET, libc::IPPROTO_TCP, "TCP"),
        (libc::AF_INET6, libc::IPPROTO_TCP, "TCP"),
        (libc::AF_INET, libc::IPPROTO_UDP, "UDP"),
        (libc::AF_INET6, libc::IPPROTO_UDP, "UDP"),
        (libc::AF_INET, libc::IPPROTO_RAW, "raw"),
        (libc::AF_INET6, libc::IPPROTO_RAW, "raw"),
    ] {
        // A kernel without inet_diag cannot tell; that is no reason to stop.
        let found = inet(family as u8, protocol as u8, scene.link.index).unwrap_or_default();
        bound.extend(found.into_iter().map(|(inode, port)| Bound {
            inode,
            what: format!("{name} port {port}"),
            deaf: true,
            hears_ip: false,
        }));
    }
    let inodes: BTreeSet<u32> = bound.iter().map(|socket| socket.inode).collect();
    let holders = process::holders(&inodes, scene.deadline);
    // By process, and by whether it goes deaf.
    let mut told: BTreeMap<(Option<u32>, bool), (String, BTreeSet<String>)> = BTreeMap::new();
    for socket in bound {
        let holder = holders.get(&socket.inode);
        if holder.is_some_and(|(id, _)| known.contains(id)) {
            continue;
        }
        let name = holder.map_or_else(
            || "a process that cannot be told".to_owned(),
            |(id, name)| format!("{name} (process {id})"),
        );
        let entry = told
            .entry((holder.map(|(id, _)| *id), socket.deaf))
            .or_insert((name, BTreeSet::new()));
        entry.1.insert(socket.what);
    }
    let count = told.len();
    let sentence = |((_, deaf), (name, what)): ((Option<u32>, bool), (String, BTreeSet<String>))| {
        let what = what.into_iter().take(MOST).collect::<Vec<_>>().join(", ");
        if deaf {
            format!(
                "{name} has a socket bound to {uplink} ({what}) and hears nothing there any more: tell it to use {bridge}"
            )
        } else {
            format!("{name} has a socket bound to {uplink} ({what}) and goes on hearing what arrives there")
        }
    };
    let mut warnings: Vec<String> = told.into_iter().take(MOST).map(sentence).collect();
    if count > MOST {
        warnings.push(format!(
            "{} more processes have sockets bound to {uplink}",
            count - MOST
        ));
    }
    warnings
}

/// Whether a socket hears on the uplink what a DHCP client hears.
pub fn hears_dhcp(scene: &Scene<'_>) -> bool {
    let index = scene.link.index;
    let raw = packet(index).iter().any(|socket| socket.hears_ip);
    let ports = inet(libc::AF_INET as u8, libc::IPPROTO_UDP as u8, index).unwrap_or_default();
    raw || ports.iter().any(|(_, port)| *port == CLIENT_PORT)
}

/// Packet sockets of a device, as /proc/net/packet has them
/// (`packet_seq_show()` in net/packet/af_packet.c).
fn packet(index: u32) -> Vec<Bound> {
    let text = fs::read_to_string("/proc/net/packet").unwrap_or_default();
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let protocol = u16::from_str_radix(words.get(3)?, 16).ok()?;
        let device: u32 = words.get(4)?.parse().ok()?;
        let inode = words.get(8)?.parse().ok()?;
        // Protocol 0 only sends.
        (device == index && protocol != 0).then(|| Bound {
            inode,
            what: if protocol == EVERY {
                "packets of every protocol".into()
            } else {
                format!("packets of protocol {protocol:#06x}")
            },
            deaf: protocol != EVERY && !PASSED.contains(&protocol),
            hears_ip: [EVERY, IPV4].contains(&protocol),
        })
    };
    text.lines().skip(1).filter_map(read).collect()
}

/// Sockets of a protocol with SO_BINDTODEVICE on a device (sock_diag(7)):
/// inode and local port.
fn inet(family: u8, protocol: u8, index: u32) -> io::Result<Vec<(u32, u16)>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let v4 = i32::from(family) == libc::AF_INET;
    let request = InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: if v4 {
            SocketId::new_v4()
        } else {
            SocketId::new_v6()
        },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => {
                    let id = &answer.header.socket_id;
                    if id.interface_id == index {
                        found.push((answer.header.inode, id.source_port));
                    }
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Each message begins at a multiple of four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
