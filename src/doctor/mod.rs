//! What cuts guests or their host off, found before it does.
//!
//! [`Facts`] are what was read of a host, plain values; a check makes
//! [`Finding`]s of them, without looking at anything itself:
//!
//! - [`bridges`]: STP, a MAC that drifts or was rewritten, multicast snooping.
//! - [`ports`]: addresses and routes that a port was left with.
//! - [`segment`]: two devices on one segment that answer for each other.
//! - [`firewall`]: bridge netfilter and a FORWARD chain that drops.
//! - [`hypervisor`]: what is above a virtual machine filters foreign MACs.
//! - [`udev`]: a .link file that rewrites the bridge's MAC.
//! - [`helper`]: the helper's capability, its mount, /dev/net/tun.
//! - [`acl`]: ACL files that others can write, or that deny in vain.
//! - [`lease`]: a lease keeper that has died.
//! - [`translation`]: a bridge in mode mac-nat that does not translate.
//! - [`records`]: changes that did not end.
//!
//! [`gather`] reads the host, with `files` for the ACL. [`mend`] performs what a
//! finding's `fix` says, and undoes it, by `rules` where it is the firewall;
//! [`fixes`] remembers it on disk.
#![forbid(unsafe_code)]

pub mod acl;
pub mod bridges;
pub mod finding;
pub mod firewall;
pub mod fixes;
pub mod gather;
pub mod helper;
pub mod hypervisor;
pub mod lease;
pub mod mend;
pub mod ports;
pub mod records;
pub mod segment;
pub mod translation;
pub mod udev;

mod files;
mod rules;

use std::collections::BTreeMap;

use crate::keeper::file::Told;
use crate::model::bridge::Options;
use crate::model::{HostState, IfName, Link};
use crate::plan::Record;

pub use finding::{Change, Finding, FirewallChain, Severity};

/// What is known of a host.
#[derive(Debug, Default)]
pub struct Facts {
    /// Its network.
    pub host: HostState,
    /// The options of its bridges.
    pub options: BTreeMap<IfName, Options>,
    /// Where the bridges have their MACs from (`NET_ADDR_*` of
    /// include/uapi/linux/netdevice.h: 1 random, 2 stolen from a port, 3 set);
    /// those that could be asked.
    pub mac_origin: BTreeMap<IfName, u8>,
    /// vmbr's records.
    pub records: Vec<Record>,
    /// Records that cannot be used: the file, and why.
    pub unusable: Vec<(String, String)>,
    /// How its devices answer ARP.
    pub arp: segment::ArpSettings,
    /// Its firewall.
    pub firewall: firewall::Firewall,
    /// What it runs on.
    pub machine: hypervisor::Machine,
    /// udev's files that can speak of a bridge, in the order in which they
    /// count.
    pub link_files: Vec<udev::LinkFile>,
    /// The helper; none where nobody looked.
    pub helper: Option<helper::HelperFile>,
    /// /dev/net/tun; none where there is none.
    pub tun: Option<helper::TunNode>,
    /// ACL files with which something is wrong.
    pub acl: Vec<acl::AclFile>,
    /// Bridges a change of which was cut short, with nobody at work on it.
    pub interrupted: Vec<IfName>,
    /// What the lease keeper of each bridge that has one told last; none where
    /// it told nothing.
    pub keepers: BTreeMap<IfName, Option<Told>>,
    /// How it is with the bridges in mode mac-nat, but those in the middle of a
    /// change.
    pub translations: translation::Translations,
}

impl Facts {
    /// The record of a bridge that vmbr made.
    pub fn record(&self, bridge: &IfName) -> Option<&Record> {
        self.records.iter().find(|record| record.bridge.name == *bridge)
    }

    /// The ports by which a bridge leads out of the host.
    pub fn ways_out<'a>(&'a self, bridge: &'a IfName) -> Vec<&'a Link> {
        let uplink = self.record(bridge).map(Record::way_out);
        let leads_out = |port: &&Link| port.leads_out() || Some(&port.name) == uplink;
        self.host.ports_of(bridge).filter(leads_out).collect()
    }

    /// The bridges of guests: vmbr's, those that lead out, those with a TAP.
    /// Others, Docker's for instance, are a world of their own.
    pub fn guest_bridges(&self) -> impl Iterator<Item = &Link> {
        let bridges = self.host.links.iter().filter(|link| link.is_kind("bridge"));
        bridges.filter(|bridge| {
            let name = &bridge.name;
            self.record(name).is_some()
                || !self.ways_out(name).is_empty()
                || self.host.ports_of(name).any(Link::is_tap)
        })
    }
}

/// Everything that is wrong with a host, what matters most first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let checks: &[fn(&Facts) -> Vec<Finding>] = &[
        records::interrupted,
        records::unusable,
        lease::keepers,
        translation::check,
        ports::addresses,
        ports::routes,
        firewall::drops,
        bridges::stp,
        bridges::drifting_mac,
        bridges::rewritten_mac,
        bridges::snooping,
        segment::two_macs,
        hypervisor::filters,
        udev::rewrites,
        helper::file,
        helper::tun,
        acl::files,
    ];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check(facts)).collect();
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What an administrator should know before a new `bridge` whose uplink is no
/// port of it: what bears on it, and is quick to find.
pub fn before_translation(bridge: &IfName) -> Vec<String> {
    let findings = gather::firewall(false).check(bridge, (false, false));
    let seen = findings
        .iter()
        .filter(|finding| finding.severity != Severity::Note);
    seen.map(|finding| format!("{}; remedy: {}", finding.message, finding.remedy))
        .collect()
}

/// What an administrator should know before `uplink` becomes a port of a new
/// `bridge`, in sentences: what bears on it, and is quick to find. `in_zone`
/// says whether firewalld will be told of the bridge in any case.
pub fn before_up(
    host: &HostState,
    uplink: &IfName,
    bridge: &IfName,
    in_zone: bool,
    udev_is_told: bool,
) -> Vec<String> {
    let mut firewall = gather::firewall(false);
    firewall
        .tables
        .retain(|table| !(in_zone && table.is_of_firewalld()));
    let machine = gather::machine(host, Some(uplink));
    let mut findings = segment::check(host, &gather::arp(host), Some(uplink));
    findings.extend(firewall.check(bridge, (false, false)));
    findings.extend(machine.check(uplink));
    if !udev_is_told {
        findings.extend(udev::check(&gather::link_files(), bridge));
    }
    let sentence = |finding: &Finding| format!("{}; remedy: {}", finding.message, finding.remedy);
    // What only root can see, root is told when it comes to it.
    let seen = findings
        .iter()
        .filter(|finding| finding.severity != Severity::Note);
    seen.map(sentence).collect()
}
