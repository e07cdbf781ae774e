//! The kernel's network as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::pin;

use futures_util::{Stream, StreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{Handle, IpVersion, NeighbourGetRequest};

use macaddr::MacAddr6;

use crate::model::bridge::Options;
use crate::model::route::table;
use crate::model::{HostState, IfName, Link};

use super::bridges;
use super::read::{self, Names};
use super::sysctl;

/// Reads the caller's network namespace, with the settings of `devices`.
///
/// The dumps of a namespace that changes meanwhile can disagree with each
/// other; who plans on them looks again when the plan fails.
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
        let (links, names) = links(&handle).await?;
        let mut state = HostState {
            links,
            ..HostState::default()
        };
        addresses(&handle, &names, &mut state).await?;
        routes(&handle, &names, ALL_TABLES, &mut state).await?;
        for version in [IpVersion::V4, IpVersion::V6] {
            let messages = collect("rules", handle.rule().get(version).execute()).await?;
            state.rules.extend(messages.iter().filter_map(read::rule));
        }
        for request in [handle.neighbours().get(), handle.neighbours().get().proxies()] {
            neighbours(request, &names, &mut state).await?;
        }
        Ok(state)
    })
}

/// What a bridge learned on one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// The port.
    pub port: IfName,
    /// The MAC that speaks behind it.
    pub mac: MacAddr6,
}

/// Reads what a picture of the host needs: devices, addresses, routes of the
/// main table, neighbours, and the MACs that bridges learned (`bridge fdb`).
/// With a thousand ports the other tables are long.
///
/// # Errors
/// As of [`snapshot`].
pub fn picture() -> io::Result<(HostState, Vec<Learned>)> {
    with_handle(async |handle| {
        let (links, names) = links(&handle).await?;
        let mut state = HostState {
            links,
            ..HostState::default()
        };
        addresses(&handle, &names, &mut state).await?;
        routes(&handle, &names, table::MAIN as u8, &mut state).await?;
        let request = handle.neighbours().get();
        neighbours(request, &names, &mut state).await?;
        let request = handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Bridge);
        let messages = collect("bridges' tables", request.execute()).await?;
        let learned = messages.iter().filter_map(|m| read::learned(m, &names));
        Ok((state, learned.collect()))
    })
}

/// The options of every bridge.
///
/// # Errors
/// As of [`snapshot`].
pub fn bridge_options() -> io::Result<BTreeMap<IfName, Options>> {
    with_handle(async |handle| {
        let messages = collect("bridges", handle.link().get().execute()).await?;
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
        let messages = collect("devices", handle.link().get().execute()).await?;
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
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let task = tokio::spawn(connection);
        let answer = work(handle).await;
        task.abort();
        answer
    })
}

/// `RT_TABLE_UNSPEC`: in a question for routes, those of every table.
const ALL_TABLES: u8 = 0;

async fn addresses(handle: &Handle, names: &Names, state: &mut HostState) -> io::Result<()> {
    for message in collect("addresses", handle.address().get().execute()).await? {
        if let Some((dev, address)) = read::address(&message, names) {
            state.addresses.entry(dev).or_default().push(address);
        }
    }
    Ok(())
}

async fn routes(handle: &Handle, names: &Names, table: u8, state: &mut HostState) -> io::Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = table;
        let messages = collect("routes", handle.route().get(request).execute()).await?;
        state
            .routes
            .extend(messages.iter().filter_map(|m| read::route(m, names)));
    }
    Ok(())
}

async fn neighbours(request: NeighbourGetRequest, names: &Names, state: &mut HostState) -> io::Result<()> {
    let messages = collect("neighbours", request.execute()).await?;
    state
        .neighbours
        .extend(messages.iter().filter_map(|m| read::neighbour_entry(m, names)));
    Ok(())
}

async fn links(handle: &Handle) -> io::Result<(Vec<Link>, Names)> {
    let messages = collect("devices", handle.link().get().execute()).await?;
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

/// Whether cfg80211 drives the device. /sys may show another namespace's
/// devices: the number tells.
fn is_wireless(link: &Link) -> bool {
    let path = format!("/sys/class/net/{}", link.name);
    let index = std::fs::read_to_string(format!("{path}/ifindex")).unwrap_or_default();
    index.trim() == link.index.to_string() && std::path::Path::new(&format!("{path}/phy80211")).exists()
}

async fn collect<T>(
    what: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> io::Result<Vec<T>> {
    let mut stream = pin!(stream);
    let mut all = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => all.push(item),
            // A kernel without IPv6, or without policy routing.
            Err(rtnetlink::Error::NetlinkError(error))
                if [libc::EOPNOTSUPP, libc::EAFNOSUPPORT].contains(&error.raw_code().abs()) =>
            {
                return Ok(all);
            }
            Err(error) => {
                // By itself the crate's sentence for a refusal has no number.
                let said = match error {
                    rtnetlink::Error::NetlinkError(answer) => answer.to_io().to_string(),
                    other => other.to_string(),
                };
                return Err(io::Error::other(format!("cannot read the host's {what}: {said}")));
            }
        }
    }
    Ok(all)
}
