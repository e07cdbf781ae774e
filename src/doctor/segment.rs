//! Two devices of one host on one segment. By default the kernel answers an
//! ARP request for any of its addresses on any device (`arp_ignore` 0), so
//! that one address has two MACs, and which one a neighbour learns is chance
//! (Documentation/networking/ip-sysctl.rst).

use std::collections::BTreeMap;

use crate::model::{Address, Family, HostState, IfName, Link, Prefix};
use crate::plan::Op;

use super::{Change, Facts, Finding, Severity};

const IGNORE: &str = "ipv4/conf/arp_ignore";
const ANNOUNCE: &str = "ipv4/conf/arp_announce";
/// Answers only for the addresses of the device that was asked.
const OWN_ONLY: u32 = 1;
/// Asks with the address that fits best.
const BEST: u32 = 2;

/// How a device, or `all`, answers and asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arp {
    /// `arp_ignore`.
    pub ignore: u32,
    /// `arp_announce`.
    pub announce: u32,
}

/// The settings of devices, and of `all`.
pub type ArpSettings = BTreeMap<String, Arp>;

/// The prefixes that a device has on its link, in IPv4.
fn prefixes(host: &HostState, link: &Link) -> Vec<Prefix> {
    let v4 = |address: &&Address| address.family() == Family::V4;
    let on_link = host
        .addresses_of(&link.name)
        .iter()
        .filter(v4)
        .map(Address::on_link);
    on_link.filter(|prefix| !prefix.is_host()).collect()
}

fn overlap(a: &Prefix, b: &Prefix) -> bool {
    let len = a.len.min(b.len);
    Prefix::containing(a.address, len) == Prefix::containing(b.address, len)
}

/// Whether requests reach the device's own IP layer: a port's reach its
/// master's.
fn listens(link: &Link) -> bool {
    link.up && link.carrier && link.master.is_none() && link.hardware == libc::ARPHRD_ETHER
}

/// Devices that answer for each other; where `only` is said, those with it.
pub fn check(host: &HostState, settings: &ArpSettings, only: Option<&IfName>) -> Vec<Finding> {
    let mut left: Vec<(&Link, Vec<Prefix>)> = host
        .links
        .iter()
        .filter(|link| listens(link))
        .map(|link| (link, prefixes(host, link)))
        .collect();
    let mut found = Vec::new();
    while !left.is_empty() {
        let (first, own) = left.remove(0);
        let together =
            |other: &(&Link, Vec<Prefix>)| own.iter().any(|a| other.1.iter().any(|b| overlap(a, b)));
        let group: Vec<&Link> = std::iter::once(first)
            .chain(left.iter().filter(|other| together(other)).map(|other| other.0))
            .collect();
        left.retain(|other| !together(other));
        let concerned = only.is_none_or(|name| group.iter().any(|link| link.name == *name));
        let fix = changes(&group, settings);
        if group.len() > 1 && concerned && !fix.is_empty() {
            found.push(finding(&group, fix));
        }
    }
    found
}

/// What a group lacks to answer each for itself. The kernel takes the larger
/// one of a device's setting and that of `all`.
fn changes(group: &[&Link], settings: &ArpSettings) -> Vec<Change> {
    let of = |name: &str| settings.get(name).copied().unwrap_or_default();
    let all = of("all");
    let mut changes = Vec::new();
    for link in group {
        let own = of(link.name.as_str());
        for (key, own, all, least) in [
            (IGNORE, own.ignore, all.ignore, OWN_ONLY),
            (ANNOUNCE, own.announce, all.announce, BEST),
        ] {
            if own.max(all) < least {
                changes.push(Change::Sysctl {
                    dev: link.name.clone(),
                    key: key.to_owned(),
                    old: own.to_string(),
                    new: least.to_string(),
                });
            }
        }
    }
    changes
}

fn finding(group: &[&Link], fix: Vec<Change>) -> Finding {
    let names: Vec<&str> = group.iter().map(|link| link.name.as_str()).collect();
    let message = format!(
        "{} have addresses of one network: each answers ARP for the others' addresses, too, so one address has \
         several MACs, and neighbours send to the wrong one",
        names.join(" and ")
    );
    let command = |change: &Change| match change {
        Change::Sysctl { dev, key, new, .. } => Some(
            Op::SetSysctl {
                dev: dev.clone(),
                key: key.clone(),
                value: new.clone(),
            }
            .to_string(),
        ),
        _ => None,
    };
    let commands: Vec<String> = fix.iter().filter_map(command).collect();
    let finding = Finding::new("two-macs", Severity::Warning, message, commands.join(" && "));
    let device = group.first().map(|link| link.name.clone());
    Finding { device, ..finding }.fixed_by(fix)
}

/// Devices of the host that answer for each other.
pub fn two_macs(facts: &Facts) -> Vec<Finding> {
    check(&facts.host, &facts.arp, None)
}
