//! Many ports of a bridge at once.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::unistd::Uid;

use crate::model::IfName;
use crate::sys::tap::{Tap, TapFeatures, TapName, Tun};

use super::wire::{Message, Wire};
use super::{KernelError, dump, write};

/// How many requests go to the kernel as one datagram: it holds its lock on
/// all devices meanwhile, and others wait.
const BATCH: usize = 64;

/// A change of several ports that failed.
#[derive(Debug)]
pub struct PortError {
    /// The port, or the first of several.
    pub port: IfName,
    /// What was being done to it.
    pub doing: &'static str,
    /// What the kernel answered.
    pub source: KernelError,
}

impl std::fmt::Display for PortError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {} {}: {}", self.doing, self.port, self.source)
    }
}

impl std::error::Error for PortError {}

/// Makes persistent TAPs of these names and puts them on a bridge, up: all of
/// them or none. Only `owner` (and who has CAP_NET_ADMIN) can attach to them,
/// from the first moment on.
///
/// # Errors
/// The first TAP that could not be made or joined: EBUSY or EINVAL where its
/// name is taken, EXFULL where the bridge has its 1,023 ports
/// (`BR_MAX_PORTS`, net/bridge/br_private.h).
pub fn add_taps(names: &[IfName], bridge: &IfName, owner: Uid) -> Result<(), PortError> {
    let mut made = Vec::with_capacity(names.len());
    let result = make(names, owner, &mut made).and_then(|()| join(&made, bridge));
    if result.is_err() && !made.is_empty() {
        let names: Vec<IfName> = made.into_iter().map(|(name, _)| name).collect();
        // The reason is the failure above; what cannot be removed is seen in
        // the list of devices.
        let _ = remove(&names);
    }
    result
}

/// Makes the TAPs, down and on no bridge. What is made is in `made` also when
/// one fails.
fn make(names: &[IfName], owner: Uid, made: &mut Vec<(IfName, u32)>) -> Result<(), PortError> {
    for name in names {
        let fail = |doing: &'static str| {
            move |source: io::Error| PortError {
                port: name.clone(),
                doing,
                source: source.into(),
            }
        };
        let tun = Tun::open().map_err(fail("open /dev/net/tun for"))?;
        let tap =
            Tap::create(tun, TapName::Exact(name), TapFeatures::default()).map_err(fail("make the TAP"))?;
        // Held by its descriptor until it is persistent, which comes last: a
        // TAP without an owner could be attached to by anyone.
        tap.set_owner(owner).map_err(fail("give an owner to"))?;
        let index = nix::net::if_::if_nametoindex(name.as_str()).map_err(|e| fail("find")(e.into()))?;
        tap.set_persistent(true).map_err(fail("make persistent"))?;
        made.push((name.clone(), index));
    }
    Ok(())
}

fn join(taps: &[(IfName, u32)], bridge: &IfName) -> Result<(), PortError> {
    let fail = |doing| {
        move |source: io::Error| PortError {
            port: bridge.clone(),
            doing,
            source: source.into(),
        }
    };
    let index =
        nix::net::if_::if_nametoindex(bridge.as_str()).map_err(|e| fail("find the bridge")(e.into()))?;
    let request = |tap: u32| {
        let mut message = write::link_with(tap, LinkAttribute::Controller(index));
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        (RouteNetlinkMessage::SetLink(message).into(), 0)
    };
    change_each(taps, "put on its bridge", request)
}

/// Sends one request for each port.
fn change_each(
    ports: &[(IfName, u32)],
    doing: &'static str,
    request: impl Fn(u32) -> Message,
) -> Result<(), PortError> {
    for batch in ports.chunks(BATCH) {
        let Some((first, _)) = batch.first() else { continue };
        let fail = |port: &IfName, source| PortError {
            port: port.clone(),
            doing,
            source,
        };
        let mut wire = Wire::open().map_err(|error| fail(first, error.into()))?;
        let messages = batch.iter().map(|(_, index)| request(*index)).collect();
        let failures = wire.send_all(messages).map_err(|error| fail(first, error))?;
        if let Some((place, source)) = failures.into_iter().next() {
            return Err(fail(batch.get(place).map_or(first, |(port, _)| port), source));
        }
    }
    Ok(())
}

/// Removes devices as one: they are put into a device group of their own, and
/// the kernel removes a group at once, with one wait instead of one for each
/// (`rtnl_group_dellink()`, net/core/rtnetlink.c).
///
/// # Errors
/// The first device that is not there (ENODEV) or cannot be removed; then none
/// is.
pub fn remove(names: &[IfName]) -> Result<(), PortError> {
    let Some(first) = names.first() else { return Ok(()) };
    let fail = |port: &IfName, doing, source| PortError {
        port: port.clone(),
        doing,
        source,
    };
    let mut ports = Vec::with_capacity(names.len());
    for name in names {
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| fail(name, "find", io::Error::from(errno).into()))?;
        ports.push((name.clone(), index));
    }
    let group = free_group().map_err(|error| fail(first, "find a device group for", error.into()))?;
    let put = |group: u32| {
        move |index: u32| {
            (
                RouteNetlinkMessage::SetLink(write::link_with(index, LinkAttribute::Group(group))).into(),
                0,
            )
        }
    };
    let grouped = change_each(&ports, "group", put(group));
    if grouped.is_err() {
        let _ = change_each(&ports, "ungroup", put(0));
        return grouped;
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    let mut wire = Wire::open().map_err(|error| fail(first, "remove", error.into()))?;
    wire.send((RouteNetlinkMessage::DelLink(message).into(), 0))
        .map_err(|error| fail(first, "remove", error))
}

/// A device group that no device is in. Beyond those that people use: they
/// are small, and /etc/iproute2/group names them.
fn free_group() -> io::Result<u32> {
    let taken: BTreeSet<u32> = dump::groups()?;
    let start = 0x766d_0000 | (std::process::id() & 0xffff);
    (start..=u32::MAX)
        .find(|group| !taken.contains(group))
        .ok_or_else(|| io::Error::other("every device group is in use"))
}
