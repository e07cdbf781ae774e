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

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices, each with its addresses.
    fn host(devices: &[(&str, &[&str])]) -> HostState {
        let links = devices.iter().zip(2..).map(|((name, _), index)| {
            serde_json::json!({"index": index, "name": name, "up": true, "carrier": true})
        });
        let addresses = devices.iter().map(|(name, list)| {
            let address = |text: &&str| {
                let (local, len) = text.split_once('/').unwrap();
                serde_json::json!({"local": local, "prefix_len": len.parse::<u8>().unwrap()})
            };
            (
                (*name).to_owned(),
                list.iter().map(address).collect::<Vec<_>>().into(),
            )
        });
        let addresses: serde_json::Map<String, serde_json::Value> = addresses.collect();
        let links: Vec<_> = links.collect();
        serde_json::from_value(serde_json::json!({"links": links, "addresses": addresses})).unwrap()
    }

    fn found(host: &HostState) -> Vec<String> {
        let name = |finding: Finding| finding.device.unwrap().to_string();
        check(host, &ArpSettings::new(), None)
            .into_iter()
            .map(name)
            .collect()
    }

    #[test]
    fn networks_that_overlap_are_one_segment() {
        let none: Vec<String> = Vec::new();
        let lan: &[&str] = &["192.0.2.1/24"];
        assert_eq!(found(&host(&[("a", lan), ("b", &["198.51.100.1/24"])])), none);
        assert_eq!(found(&host(&[("a", lan), ("b", &["192.0.2.130/25"])])), ["a"]);
        // A point-to-point address is on no network; IPv6 answers for itself.
        assert_eq!(found(&host(&[("a", lan), ("b", &["192.0.2.9/32"])])), none);
        let v6: &[&str] = &["2001:db8::1/64"];
        assert_eq!(found(&host(&[("a", v6), ("b", v6)])), none);
        let two = host(&[
            ("a", lan),
            ("c", &["203.0.113.1/24"]),
            ("b", lan),
            ("d", &["203.0.113.2/24"]),
        ]);
        assert_eq!(found(&two), ["a", "c"]);
    }

    #[test]
    fn a_device_that_hears_nothing_answers_nothing() {
        let mut host = host(&[("a", &["192.0.2.1/24"]), ("b", &["192.0.2.2/24"])]);
        host.links[1].carrier = false;
        assert!(found(&host).is_empty());
        host.links[1].carrier = true;
        host.links[1].master = Some("br0".parse().unwrap());
        assert!(found(&host).is_empty());
    }

    #[test]
    fn the_larger_setting_counts() {
        let host = host(&[("a", &["192.0.2.1/24"]), ("b", &["192.0.2.2/24"])]);
        let fix = |all: (u32, u32), b: (u32, u32)| {
            let arp = |(ignore, announce)| Arp { ignore, announce };
            let settings = ArpSettings::from([("all".to_owned(), arp(all)), ("b".to_owned(), arp(b))]);
            check(&host, &settings, None)
                .first()
                .map_or(0, |finding| finding.fix.len())
        };
        assert_eq!(fix((0, 0), (0, 0)), 4);
        assert_eq!(fix((0, 0), (1, 2)), 2);
        assert_eq!(fix((1, 0), (0, 2)), 1);
        assert_eq!(fix((1, 2), (0, 0)), 0);
        let name = |text: &str| text.parse::<IfName>().unwrap();
        assert!(check(&host, &ArpSettings::new(), Some(&name("c"))).is_empty());
        assert_eq!(check(&host, &ArpSettings::new(), Some(&name("b"))).len(), 1);
    }
}
