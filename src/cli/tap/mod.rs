//! `vmbr tap`.

pub mod add;
mod del;
mod doubt;
mod list;

use std::collections::BTreeSet;

use macaddr::MacAddr6;
use serde::Serialize;

use crate::guard::Guard;
use crate::model::{HostState, IfName, Link};
use crate::netlink::dump;
use crate::sys::netdev::IfIndex;
use crate::sys::rtnl::Rtnl;

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
    /// What the guest is held to.
    guard: Option<GuardEntry>,
    /// Largest packet in bytes.
    mtu: u32,
    /// Whether it stays when nobody holds it.
    persistent: bool,
    /// Whether a program holds it.
    in_use: bool,
}

/// What a guest is held to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuardEntry {
    /// Its MAC.
    #[serde(serialize_with = "super::status::lower_case")]
    pub mac: Option<MacAddr6>,
    /// Its addresses and prefixes; none where only the MAC is held to.
    pub addresses: Vec<String>,
}

impl GuardEntry {
    /// For people.
    pub fn words(&self) -> String {
        let mac = self.mac.map(|mac| mac.to_string().to_lowercase());
        let all = mac.iter().chain(&self.addresses).map(String::as_str);
        all.collect::<Vec<_>>().join(" ")
    }
}

impl From<Guard> for GuardEntry {
    fn from(guard: Guard) -> Self {
        Self {
            mac: Some(guard.mac),
            addresses: guard.networks.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Asks for the guards of TAPs.
pub struct Guards(Option<(Rtnl, BTreeSet<IfIndex>)>);

impl Guards {
    /// Begins to ask.
    pub fn open() -> Self {
        let open = || {
            let rtnl = Rtnl::open()?;
            let candidates = rtnl.guardable()?;
            Ok::<_, std::io::Error>((rtnl, candidates))
        };
        Self(open().ok())
    }

    /// The guard of a device.
    pub fn of(&self, link: &Link) -> Option<Guard> {
        let index = IfIndex(link.index);
        let (rtnl, candidates) = self.0.as_ref()?;
        if !link.is_tap() || !candidates.contains(&index) {
            return None;
        }
        // A TAP that goes meanwhile has none.
        rtnl.guard_of(index).ok().flatten()
    }
}

/// Runs `vmbr tap`.
pub fn run(tap: &Tap, args: &Args) -> Result<(), Error> {
    match tap {
        Tap::Add(add) => add::run(add, args),
        Tap::Del(del) => del::run(del, args),
        Tap::List => list::run(args),
    }
}

pub fn look() -> Result<HostState, Error> {
    dump::devices().map_err(|error| Error::unreadable(&error))
}

/// What is told of a device, if it is a TAP.
fn entry(link: &Link, guards: &Guards) -> Option<Entry> {
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
        guard: guards.of(link).map(GuardEntry::from),
        mtu: link.mtu,
        persistent: tun.persistent,
        in_use: tun.held,
    })
}

/// Names, a few of many: the first, and how many more there are.
pub fn few<'a>(names: impl ExactSizeIterator<Item = &'a IfName>) -> String {
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
