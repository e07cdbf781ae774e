//! `vmbr tap`.

mod add;
mod del;
mod list;

use macaddr::MacAddr6;
use serde::Serialize;

use crate::model::{HostState, IfName, Link};
use crate::netlink::dump;

use super::args::{Args, Tap};
use super::outcome::Error;
use super::{change, outcome, require_privilege};

/// A TAP of the host.
#[derive(Debug, Serialize)]
struct Entry {
    /// Its name.
    name: IfName,
    /// The kernel's number for it.
    ifindex: u32,
    /// Its own MAC, not the guest's.
    #[serde(serialize_with = "super::status::lower_case")]
    mac: Option<MacAddr6>,
    /// The bridge that it is a port of.
    bridge: Option<IfName>,
    /// The user who may attach.
    owner: Option<u32>,
    /// The group that may attach.
    group: Option<u32>,
    /// How many queues it was made for, or, where nobody said, how many are
    /// attached.
    queues: u32,
    /// Whether it reaches no other isolated port.
    isolated: bool,
    /// Largest packet in bytes.
    mtu: u32,
    /// Whether it stays when nobody holds it.
    persistent: bool,
    /// Whether a program holds it.
    in_use: bool,
}

/// Runs `vmbr tap`.
pub fn run(tap: &Tap, args: &Args) -> Result<(), Error> {
    match tap {
        Tap::Add(add) => add::run(add, args),
        Tap::Del(del) => del::run(del, args),
        Tap::List => list::run(args),
    }
}

fn look() -> Result<HostState, Error> {
    dump::devices().map_err(|error| Error::unreadable(&error))
}

/// What is told of a device, if it is a TAP.
fn entry(link: &Link) -> Option<Entry> {
    let tun = link.tun.as_ref().filter(|tun| tun.tap)?;
    Some(Entry {
        name: link.name.clone(),
        ifindex: link.index,
        mac: link.mac,
        bridge: link.master.clone(),
        owner: tun.owner,
        group: tun.group,
        queues: tun.queues_meant.unwrap_or(tun.queues),
        isolated: link.port.as_ref().is_some_and(|port| port.isolated),
        mtu: link.mtu,
        persistent: tun.persistent,
        in_use: tun.held,
    })
}

/// Names, a few of many: the first, and how many more there are.
fn few<'a>(names: impl ExactSizeIterator<Item = &'a IfName>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = names.take(SHOWN).map(IfName::as_str).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A user by name, where there is one.
fn user(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// A group by name, where there is one.
fn group(gid: u32) -> String {
    match nix::unistd::Group::from_gid(gid.into()) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}
