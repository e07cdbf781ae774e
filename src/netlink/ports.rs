//! Many ports of a bridge at once.

use std::collections::BTreeSet;
use std::io;

use macaddr::MacAddr6;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use nix::unistd::{Gid, Uid};

use crate::guard::Guard;
use crate::model::IfName;
use crate::model::mark::Mark;
use crate::sys::netdev::{Control, IfIndex};
use crate::sys::rtnl::{Holding, Rtnl};
use crate::sys::tap::{self, Tap, TapFeatures, TapName};

use super::wire::{Message, Wire};
use super::{KernelError, dump, write};

/// How many requests go to the kernel as one datagram: it holds its lock on
/// all devices meanwhile, and others wait.
const BATCH: usize = 64;
/// What a [`PortError`] says where a TAP cannot be made, because its name is
/// taken for instance.
pub const MAKING: &str = "make the TAP";
/// What it says where the guard cannot be set.
pub const GUARDING: &str = "guard";
/// The MTU in bytes that the kernel gives a new TAP (`ETH_DATA_LEN`).
const NEW_TAP_MTU: u32 = 1500;

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

/// What new TAPs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapOptions {
    /// Only this user (and who has CAP_NET_ADMIN) can attach to them.
    pub owner: Option<Uid>,
    /// Only members of this group can; with an owner too, both must fit.
    pub group: Option<Gid>,
    /// How many queues are meant to be attached. Whether more than one must be
    /// said beforehand, and whoever attaches must ask for the same.
    pub queues: u32,
    /// The device's MAC; else a random one that begins with 0xfe.
    pub mac: Option<MacAddr6>,
    /// Largest packet in bytes; else that of the bridge.
    pub mtu: Option<u32>,
    /// They reach no other isolated port.
    pub isolated: bool,
    /// The guest speaks as itself only.
    pub guard: Option<Guard>,
    /// The libvirt domain that they are for: a word.
    pub domain: Option<String>,
}

impl TapOptions {
    /// Of plain ones that `owner` can attach to.
    pub fn of(owner: Uid) -> Self {
        Self {
            owner: Some(owner),
            group: None,
            queues: 1,
            mac: None,
            mtu: None,
            isolated: false,
            guard: None,
            domain: None,
        }
    }
}

/// Makes persistent TAPs of these names and puts them on a bridge, up: all of
/// them or none. Nobody but whom `options` allow can attach to them, from the
/// first moment on. Gives their numbers, in the order of `names`.
///
/// # Errors
/// The first TAP that could not be made or joined: EBUSY or EINVAL where its
/// name is taken, EXFULL where the bridge has its 1,023 ports
/// (`BR_MAX_PORTS`, net/bridge/br_private.h).
pub fn add_taps(names: &[IfName], bridge: &IfName, options: &TapOptions) -> Result<Vec<u32>, PortError> {
    let mut made = Vec::with_capacity(names.len());
    let result = make(names, options, &mut made).and_then(|()| join(&made, bridge, options));
    if result.is_err() && !made.is_empty() {
        let names: Vec<IfName> = made.iter().map(|(name, _)| name.clone()).collect();
        // The reason is the failure above; what cannot be removed is seen in
        // the list of devices.
        let _ = remove(&names);
    }
    result.map(|()| made.into_iter().map(|(_, index)| index).collect())
}

/// Makes the TAPs, down and on no bridge. What is made is in `made` also when
/// one fails.
fn make(names: &[IfName], options: &TapOptions, made: &mut Vec<(IfName, u32)>) -> Result<(), PortError> {
    let Some(first) = names.first() else { return Ok(()) };
    let failed = |name: &IfName, doing, source: io::Error| PortError {
        port: name.clone(),
        doing,
        source: source.into(),
    };
    let control = Control::open().map_err(|e| failed(first, "make a socket for", e))?;
    let rtnl = Rtnl::open().map_err(|e| failed(first, "open rtnetlink for", e))?;
    let features = TapFeatures {
        multi_queue: options.queues > 1,
        ..TapFeatures::default()
    };
    for name in names {
        let fail = |doing| move |source| failed(name, doing, source);
        let tun = tap::Tun::open().map_err(fail("open /dev/net/tun for"))?;
        let tap = Tap::create(tun, TapName::Exact(name), features).map_err(fail(MAKING))?;
        // Held by its descriptor until it is persistent, which comes last: a
        // TAP without an owner could be attached to by anyone.
        if let Some(owner) = options.owner {
            tap.set_owner(owner).map_err(fail("give an owner to"))?;
        }
        if let Some(group) = options.group {
            tap.set_group(group).map_err(fail("give a group to"))?;
        }
        let index = control.index(name).map_err(fail("find"))?;
        if features.multi_queue {
            let ours = Holding {
                enabled: 1,
                disabled: 0,
                owner: options.owner.map(Uid::as_raw),
                group: options.group.map(Gid::as_raw),
                persistent: false,
            };
            refuse_strangers(&rtnl, index, ours, name)?;
        }
        tap.raise_mac().map_err(fail("set the MAC of"))?;
        tap.set_persistent(true).map_err(fail("make persistent"))?;
        made.push((name.clone(), index.0));
    }
    Ok(())
}

/// To a TAP with many queues anyone could attach between its making and the
/// setting of its owner, and would hear the guest's network. By the descriptor
/// he could also make it his own (TUNSETOWNER asks nobody) and close that
/// again, to attach later. It must be ours, held by the one queue that made it,
/// and no more. One that is not goes at once: the stranger would hold it.
fn refuse_strangers(rtnl: &Rtnl, index: IfIndex, ours: Holding, name: &IfName) -> Result<(), PortError> {
    let fail = |doing, source: io::Error| PortError {
        port: name.clone(),
        doing,
        source: source.into(),
    };
    let held = rtnl.holding(index).map_err(|e| fail("count the queues of", e))?;
    if held == ours {
        return Ok(());
    }
    let _ = remove(std::slice::from_ref(name));
    let source = io::Error::other("another program attached to it while it had no owner yet; it was removed");
    Err(fail("keep to its owner", source))
}

/// Puts TAPs on a bridge and sets them up. Until then they are down: what is
/// set before that holds for the first frame.
fn join(taps: &[(IfName, u32)], bridge: &IfName, options: &TapOptions) -> Result<(), PortError> {
    let fail = |doing| {
        move |source: io::Error| PortError {
            port: bridge.clone(),
            doing,
            source: source.into(),
        }
    };
    let control = Control::open().map_err(fail("make a socket for"))?;
    let index = control.index(bridge).map_err(fail("find the bridge"))?;
    let own = control
        .mtu(bridge)
        .map_err(fail("read the MTU of"))?
        .unsigned_abs();
    let mtu = options.mtu.unwrap_or(own);
    if mtu < own {
        keep_mtu(bridge, index.0, own)?;
    }
    let mut attributes = vec![LinkAttribute::Controller(index.0)];
    if mtu != NEW_TAP_MTU {
        attributes.push(LinkAttribute::Mtu(mtu));
    }
    if let Some(mac) = options.mac {
        attributes.push(LinkAttribute::Address(mac.as_bytes().to_vec()));
    }
    let mark = Mark {
        queues: Some(options.queues).filter(|queues| *queues > 1),
        domain: options.domain.clone(),
    };
    if !mark.is_empty() {
        attributes.push(LinkAttribute::IfAlias(mark.to_string()));
    }
    change_each(taps, "quieten", dormant)?;
    let set = |tap: u32, attributes: Vec<LinkAttribute>, up: bool| {
        let mut message = write::link(tap);
        message.attributes = attributes;
        if up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        (RouteNetlinkMessage::SetLink(message).into(), 0)
    };
    if !options.isolated && options.guard.is_none() {
        return change_each(taps, "put on its bridge", |tap| {
            set(tap, attributes.clone(), true)
        });
    }
    change_each(taps, "put on its bridge", |tap| {
        set(tap, attributes.clone(), false)
    })?;
    if options.isolated {
        change_each(taps, "isolate", isolate)?;
    }
    if let Some(guard) = &options.guard {
        let rtnl = Rtnl::open().map_err(fail("open rtnetlink for"))?;
        for (name, tap) in taps {
            rtnl.guard(IfIndex(*tap), guard).map_err(|source| PortError {
                port: name.clone(),
                doing: GUARDING,
                source: source.into(),
            })?;
        }
    }
    change_each(taps, "set up", |tap| set(tap, Vec::new(), true))
}

/// A new device counts as one that works until linkwatch has looked at it, and
/// each port that works and joins has the bridge go through all of its ports
/// and set their timers (`br_stp_enable_port()` -> `br_port_state_selection()`,
/// net/bridge/br_stp.c): a thousand times a thousand. Nobody is attached to
/// these TAPs. Dormant they join without that; the carrier, when somebody
/// attaches, makes them work (`rfc2863_policy()`, net/core/link_watch.c).
fn dormant(tap: u32) -> Message {
    let state = LinkAttribute::OperState(State::Dormant);
    (
        RouteNetlinkMessage::SetLink(write::link_with(tap, state)).into(),
        0,
    )
}

fn isolate(tap: u32) -> Message {
    let port = LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
    ]);
    (
        RouteNetlinkMessage::NewLink(write::link_with(tap, port)).into(),
        0,
    )
}

/// Pins the MTU of a bridge: one that nobody set follows the smallest of its
/// ports', and the host would be cut short by a guest's
/// (`br_mtu_auto_adjust()`, net/bridge/br_if.c). Setting what it has is no
/// change to the kernel, so it is another for the moment.
fn keep_mtu(bridge: &IfName, index: u32, mtu: u32) -> Result<(), PortError> {
    const LARGEST: u32 = 65_535;
    let other = if mtu < LARGEST { mtu + 1 } else { mtu - 1 };
    let fail = |source| PortError {
        port: bridge.clone(),
        doing: "keep the MTU of",
        source,
    };
    let message = |mtu| {
        let link = write::link_with(index, LinkAttribute::Mtu(mtu));
        (RouteNetlinkMessage::SetLink(link).into(), 0)
    };
    let mut wire = Wire::open().map_err(|error| fail(error.into()))?;
    let failures = wire.send_all(vec![message(other), message(mtu)]).map_err(fail)?;
    match failures.into_iter().next() {
        Some((_, source)) => Err(fail(source)),
        None => Ok(()),
    }
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
