//! The kernel's network as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::pin;

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use rtnetlink::Handle;

use macaddr::MacAddr6;

use crate::model::bridge::Options;
use crate::model::route::table;
use crate::model::{HostState, IfName, Link, nexthop};

use super::bridges;
use super::read::{self, Names};
use super::wire::Wire;
use super::{KernelError, sysctl, wireless};

/// Reads the caller's network namespace, with the settings of `devices`.
///
/// A dump that the kernel calls torn is asked for anew. It does so for devices,
/// addresses and rules; of routes it says nothing, and those of a namespace
/// that changes meanwhile can lack some, or disagree with the addresses: who
/// rests on them looks twice.
///
/// # Errors
/// What the kernel answered, with what was being read.
pub fn snapshot(devices: &[&IfName]) -> io::Result<HostState> {
    let mut state = network()?;
    add_settings(&mut state, devices);
    Ok(state)
}

/// Adds the settings of `devices`, and of `all` and `default`, to a state.
pub fn add_settings(state: &mut HostState, devices: &[&IfName]) {
    for device in devices.iter().map(|name| name.as_str()).chain(["all", "default"]) {
        let settings = sysctl::read_all(device);
        if !settings.is_empty() {
            state.sysctls.insert(device.to_owned(), settings);
        }
    }
    // What a new device begins with. Only the first namespace shows that for
    // neighbours; elsewhere the loopback, whose settings nobody changes, is
    // the best guess. A wrong one is found when the device is there.
    let guess = sysctl::read_all("lo");
    let default = state.sysctls.entry("default".to_owned()).or_default();
    for (key, value) in guess.into_iter().filter(|(key, _)| key.contains("/neigh/")) {
        default.entry(key).or_insert(value);
    }
}

/// Reads the caller's network namespace without any settings.
///
/// # Errors
/// As of [`snapshot`].
pub fn network() -> io::Result<HostState> {
    with_handle(async |handle| {
        let (mut state, names) = devices_addresses_routes(&handle, Traffic::Left, ALL_TABLES).await?;
        for family in FAMILIES {
            let mut question = RuleMessage::default();
            question.header.family = family;
            let rules = dump("rules", Message::GetRule(question), &handle).await?;
            state.rules.extend(rules.iter().filter_map(|m| match m {
                Message::NewRule(rule) => read::rule(rule),
                _ => None,
            }));
        }
        for flags in [NeighbourFlags::empty(), NeighbourFlags::Proxy] {
            neighbours(flags, &handle, &names, &mut state).await?;
        }
        Ok(state)
    })
}

/// What a bridge knows to be behind one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// The port.
    pub port: IfName,
    /// The MAC that speaks behind it.
    pub mac: MacAddr6,
    /// Somebody fixed it there, a guard for instance; it need not have spoken.
    pub fixed: bool,
}

/// Reads what a picture of the host needs: devices, addresses, routes of the
/// main table, neighbours, and the MACs behind bridges' ports (`bridge fdb`).
/// With a thousand ports the other tables are long.
///
/// # Errors
/// As of [`snapshot`].
pub fn picture() -> io::Result<(HostState, Vec<Learned>)> {
    with_handle(async |handle| {
        let (mut state, names) =
            devices_addresses_routes(&handle, Traffic::Counted, table::MAIN as u8).await?;
        neighbours(NeighbourFlags::empty(), &handle, &names, &mut state).await?;
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        let entries = dump("bridges' tables", Message::GetNeighbour(question), &handle).await?;
        let learned = entries.iter().filter_map(|m| match m {
            Message::NewNeighbour(entry) => read::learned(entry, &names),
            _ => None,
        });
        Ok((state, learned.collect()))
    })
}

/// Reads the devices alone.
///
/// # Errors
/// As of [`snapshot`].
pub fn devices() -> io::Result<HostState> {
    with_handle(async |handle| {
        let (links, _) = links(&handle, Traffic::Left).await?;
        Ok(HostState {
            links,
            ..HostState::default()
        })
    })
}

/// The options of every bridge.
///
/// # Errors
/// As of [`snapshot`].
pub fn bridge_options() -> io::Result<BTreeMap<IfName, Options>> {
    with_handle(async |handle| {
        let messages = link_messages(&handle, Traffic::Left).await?;
        let options = |m| Some((read::link_name(m)?, bridges::options(m)?));
        Ok(messages.iter().filter_map(options).collect())
    })
}

/// The device groups that are in use.
///
/// # Errors
/// As of [`snapshot`].
pub(super) fn groups() -> io::Result<BTreeSet<u32>> {
    with_handle(async |handle| {
        let messages = link_messages(&handle, Traffic::Left).await?;
        let groups = messages
            .iter()
            .flat_map(|m| &m.attributes)
            .filter_map(|a| match a {
                LinkAttribute::Group(group) => Some(*group),
                _ => None,
            });
        Ok(groups.collect())
    })
}

/// Runs `work` with a netlink socket on a runtime of its own.
fn with_handle<T>(work: impl AsyncFnOnce(Handle) -> io::Result<T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        // The end of a dump can be what says that it is torn.
        connection.set_forward_done(true);
        let task = tokio::spawn(connection);
        let answer = work(handle).await;
        task.abort();
        answer
    })
}

/// What routes and rules are asked for one by one.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// `RT_TABLE_UNSPEC`: in a question for routes, those of every table.
const ALL_TABLES: u8 = 0;

/// What both kinds of looks begin with; the routes of one table, or of all.
async fn devices_addresses_routes(
    handle: &Handle,
    traffic: Traffic,
    table: u8,
) -> io::Result<(HostState, Names)> {
    let (links, names) = links(handle, traffic).await?;
    let mut state = HostState {
        links,
        ..HostState::default()
    };
    addresses(handle, &names, &mut state).await?;
    routes(handle, &names, table, &mut state).await?;
    nexthops(&names, &mut state)?;
    Ok((state, names))
}

/// Reads the nexthop objects, and gives the routes that use one its hops: with
/// `net.ipv4.nexthop_compat_mode` off the kernel does not tell them.
fn nexthops(names: &Names, state: &mut HostState) -> io::Result<()> {
    let cannot =
        |error: KernelError| io::Error::other(format!("cannot read the host's nexthop objects: {error}"));
    let messages = Wire::open()?.nexthops().map_err(cannot)?;
    state.nexthops = messages.iter().filter_map(|m| m.object(names)).collect();
    for route in &mut state.routes {
        if let Some(id) = route.nexthop {
            route.hops = nexthop::hops(&state.nexthops, id);
        }
    }
    Ok(())
}

async fn addresses(handle: &Handle, names: &Names, state: &mut HostState) -> io::Result<()> {
    let question = Message::GetAddress(AddressMessage::default());
    for message in dump("addresses", question, handle).await? {
        let Message::NewAddress(message) = message else {
            continue;
        };
        if let Some((dev, address)) = read::address(&message, names) {
            state.addresses.entry(dev).or_default().push(address);
        }
    }
    Ok(())
}

async fn routes(handle: &Handle, names: &Names, table: u8, state: &mut HostState) -> io::Result<()> {
    for family in FAMILIES {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.table = table;
        let messages = dump("routes", Message::GetRoute(question), handle).await?;
        state.routes.extend(messages.iter().filter_map(|m| match m {
            Message::NewRoute(route) => read::route(route, names),
            _ => None,
        }));
    }
    Ok(())
}

async fn neighbours(
    flags: NeighbourFlags,
    handle: &Handle,
    names: &Names,
    state: &mut HostState,
) -> io::Result<()> {
    let mut question = NeighbourMessage::default();
    question.header.flags = flags;
    let messages = dump("neighbours", Message::GetNeighbour(question), handle).await?;
    state.neighbours.extend(messages.iter().filter_map(|m| match m {
        Message::NewNeighbour(entry) => read::neighbour_entry(entry, names),
        _ => None,
    }));
    Ok(())
}

/// Whether devices are read with what they have sent and received: that is a
/// third of what the kernel says of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Counted,
    Left,
}

async fn link_messages(handle: &Handle, traffic: Traffic) -> io::Result<Vec<LinkMessage>> {
    let mut question = LinkMessage::default();
    if traffic == Traffic::Left {
        let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        question.attributes.push(mask);
    }
    let messages = dump("devices", Message::GetLink(question), handle).await?;
    let links = messages.into_iter().filter_map(|m| match m {
        Message::NewLink(link) => Some(link),
        _ => None,
    });
    Ok(links.collect())
}

async fn links(handle: &Handle, traffic: Traffic) -> io::Result<(Vec<Link>, Names)> {
    let messages = link_messages(handle, traffic).await?;
    let mut names = Names::default();
    for message in &messages {
        if let Some(name) = read::link_name(message) {
            names.insert(message.header.index, name);
        }
    }
    let mut links: Vec<Link> = messages.iter().filter_map(|m| read::link(m, &names)).collect();
    links.sort_by_key(|link| link.index);
    for link in links
        .iter_mut()
        .filter(|l| l.hardware == libc::ARPHRD_ETHER && l.kind.is_none())
    {
        link.wireless = is_wireless(link);
    }
    Ok((links, names))
}

/// Whether cfg80211 drives the device, and the kernel puts it on no bridge.
fn is_wireless(link: &Link) -> bool {
    let path = format!("/sys/class/net/{}", link.name);
    let index = std::fs::read_to_string(format!("{path}/ifindex")).unwrap_or_default();
    if index.trim() != link.index.to_string() {
        // This /sys shows another namespace's devices.
        return wireless::can_be_port(link.index).is_ok_and(|can| !can);
    }
    // Of one that does not say what it is the usual is believed: a station.
    std::path::Path::new(&format!("{path}/phy80211")).exists()
        && !wireless::can_be_port(link.index).unwrap_or(false)
}

/// Asks for everything of one kind, again where the kernel says that it has
/// changed in the middle (`nl_dump_check_consistent()`, net/netlink/af_netlink.c).
async fn dump(what: &str, question: Message, handle: &Handle) -> io::Result<Vec<Message>> {
    for _ in 0..TRIES {
        if let Some(whole) = try_dump(what, question.clone(), handle.clone()).await? {
            return Ok(whole);
        }
    }
    Err(torn(what))
}

/// One look; none where it is torn.
async fn try_dump(what: &str, question: Message, mut handle: Handle) -> io::Result<Option<Vec<Message>>> {
    let cannot = |said: String| io::Error::other(format!("cannot read the host's {what}: {said}"));
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let answers = handle
        .request(request)
        .map_err(|error| cannot(error.to_string()))?;
    let mut answers = pin!(answers);
    let mut all = Vec::new();
    let mut torn = false;
    while let Some(answer) = answers.next().await {
        torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => all.push(message),
            NetlinkPayload::Done(_) => {}
            // A kernel without IPv6, or without policy routing.
            NetlinkPayload::Error(error)
                if [libc::EOPNOTSUPP, libc::EAFNOSUPPORT].contains(&error.raw_code().abs()) =>
            {
                break;
            }
            NetlinkPayload::Error(error) => return Err(cannot(error.to_io().to_string())),
            _ => return Err(cannot("the kernel answered with something else".to_owned())),
        }
    }
    Ok((!torn).then_some(all))
}

/// How often a dump that is torn is asked for. One takes a millisecond, or
/// some ten with thousands of routes.
pub(super) const TRIES: usize = 20;

/// What is said when every look is torn.
pub(super) fn torn(what: &str) -> io::Error {
    io::Error::other(format!(
        "cannot read the host's {what}: they change too often to be read whole"
    ))
}
