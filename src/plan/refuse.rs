//! What vmbr does not touch, and which uplink it takes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::model::{Address, Family, HostState, IfName, Link, Route, address, nexthop, route};

use super::Mode;

/// Why nothing was touched, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in the way.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  {}", self.message, self.remedy)
    }
}

impl std::error::Error for Refusal {}

/// The uplink to take where none was named: the device of the default route.
/// With it comes the reason, for people.
///
/// # Errors
///
/// No default route, default routes of IPv4 and IPv6 by different devices, or
/// a tunnel: then the choice is a person's.
pub fn choose_uplink(live: &HostState) -> Result<(IfName, String), Refusal> {
    let v4 = default_device(live, Family::V4);
    let v6 = default_device(live, Family::V6);
    let (name, why) = match (v4, v6) {
        (None, None) => {
            return Err(Refusal::new(
                "the host has no default route, so there is no telling which device is the uplink",
                format!("name it: vmbr up UPLINK{}", candidates(live)),
            ));
        }
        (Some(a), Some(b)) if a != b => {
            return Err(Refusal::new(
                format!("the default route of IPv4 leaves by {a}, that of IPv6 by {b}"),
                format!("name the one to use: vmbr up {a}, or vmbr up {b}"),
            ));
        }
        (Some(a), Some(_)) => (a, "the default routes of IPv4 and IPv6 leave by it"),
        (Some(a), None) => (a, "the default route of IPv4 leaves by it"),
        (None, Some(b)) => (b, "the default route of IPv6 leaves by it"),
    };
    if live.link(&name).is_some_and(Link::is_tunnel) {
        return Err(Refusal::new(
            format!(
                "the default route leaves by {name}, which is a tunnel: it carries packets, not Ethernet frames"
            ),
            format!("name the NIC beneath it: vmbr up UPLINK{}", candidates(live)),
        ));
    }
    Ok((name, why.to_owned()))
}

/// The device of the default route with the lowest metric in the main table.
fn default_device(live: &HostState, family: Family) -> Option<IfName> {
    let is_default = |r: &&Route| {
        r.family() == family
            && r.dst.len == 0
            && r.src.is_none()
            && r.table == route::table::MAIN
            && r.kind == route::kind::UNICAST
    };
    let best = live.routes.iter().filter(is_default).min_by_key(|r| r.metric)?;
    best.hops.first()?.dev.clone()
}

/// Devices that can be an uplink, for a sentence: `(eth0, eth1)`.
fn candidates(live: &HostState) -> String {
    let names: Vec<&str> = live
        .links
        .iter()
        .filter(|l| unfit(live, l, mode_of(l)).is_none())
        .map(|l| l.name.as_str())
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (one of: {})", names.join(", "))
    }
}

/// How the guests of a bridge reach the network by a device, where nobody said
/// how.
pub fn mode_of(link: &Link) -> Mode {
    if link.wireless { Mode::MacNat } else { Mode::Bridge }
}

/// Why the device cannot be a bridge's uplink, whatever the bridge.
fn unfit(live: &HostState, link: &Link, mode: Mode) -> Option<Refusal> {
    let name = &link.name;
    let refuse = |message: String, remedy: String| Some(Refusal::new(message, remedy));
    if link.is_loopback() {
        return refuse(
            format!("{name} is the loopback: it leads nowhere"),
            "name a device that leads to a network".into(),
        );
    }
    if link.is_kind("bridge") {
        return refuse(
            format!("{name} is a bridge itself, and the kernel does not put a bridge on a bridge"),
            format!("use it as it is: vmbr-helper and TAPs work on {name} without 'vmbr up'"),
        );
    }
    if let Some(master) = &link.master {
        let kind = live
            .link(master)
            .and_then(|m| m.kind.clone())
            .unwrap_or_else(|| "device".into());
        return refuse(
            format!("{name} is already a port of the {kind} {master}"),
            if kind == "bridge" {
                format!("use {master} as it is, or free {name} first: ip link set dev {name} nomaster")
            } else {
                format!("use the whole of it: vmbr up {master}, or free {name} first")
            },
        );
    }
    if link.is_tunnel() || link.mac.is_none() {
        return refuse(
            format!("{name} is not an Ethernet device: no frame of a guest can travel on it"),
            "name the NIC beneath it".into(),
        );
    }
    if link.is_kind("vrf") {
        return refuse(
            format!("{name} is a VRF: it has routing tables, and no wire that a frame could travel on"),
            format!(
                "free a NIC of it (ip link set dev NIC nomaster), then name that NIC; see: ip link show master {name}"
            ),
        );
    }
    if mode == Mode::MacNat {
        // It stays as it is, and what else is on it with it.
        return None;
    }
    if link.wireless {
        return refuse(
            format!(
                "{name} is a wireless station: its access point takes frames from one MAC only, and the kernel does not let it on a bridge"
            ),
            format!(
                "translate the guests' MACs into its own: vmbr up {name} --mode mac-nat (or without --mode)"
            ),
        );
    }
    let children = macvlans(live, name);
    if let Some(child) = children.first() {
        let kind = child.kind.as_deref().unwrap_or_default();
        let list: Vec<&str> = children.iter().map(|l| l.name.as_str()).collect();
        return refuse(
            format!(
                "{name} has a {kind} on it ({}), and a NIC carries either that or a bridge",
                list.join(", ")
            ),
            format!("end what uses it, then: ip link del dev {}", child.name),
        );
    }
    None
}

/// The macvlans and ipvlans on a device, as far as they are in its namespace.
pub fn macvlans<'a>(live: &'a HostState, name: &IfName) -> Vec<&'a Link> {
    let kinds = ["macvlan", "macvtap", "ipvlan", "ipvtap"];
    let on_it =
        |link: &&Link| link.lower.as_ref() == Some(name) && kinds.iter().any(|kind| link.is_kind(kind));
    live.links.iter().filter(on_it).collect()
}

fn missing(live: &HostState, uplink: &IfName) -> Vec<Refusal> {
    vec![Refusal::new(
        format!("there is no device {uplink}"),
        format!("name one that exists{}", candidates(live)),
    )]
}

/// What stands in the way of a new bridge `bridge` whose guests reach the
/// network by `uplink`, which stays as it is; empty where nothing does.
pub fn up_mac_nat(live: &HostState, uplink: &IfName, bridge: &IfName) -> Vec<Refusal> {
    let Some(link) = live.link(uplink) else {
        return missing(live, uplink);
    };
    let mut found: Vec<Refusal> = unfit(live, link, Mode::MacNat).into_iter().collect();
    found.extend(taken(live, uplink, bridge));
    found
}

/// What stands in the way of putting `uplink` on a new bridge `bridge`; empty
/// where nothing does.
pub fn up(live: &HostState, uplink: &IfName, bridge: &IfName) -> Vec<Refusal> {
    let Some(link) = live.link(uplink) else {
        return missing(live, uplink);
    };
    let mut found: Vec<Refusal> = unfit(live, link, Mode::Bridge).into_iter().collect();
    let objects = nexthop::of_device(&live.nexthops, uplink);
    // A group of the usual kind has no other attributes, an object has them
    // for an encapsulation.
    if let Some(object) = objects.iter().find(|object| !object.rest.is_empty()) {
        let id = object.id;
        let what = if object.is_group() {
            "is not a group of the ordinary kind"
        } else {
            "encapsulates what leaves by it"
        };
        found.push(Refusal::new(
            format!("the nexthop object {id} by {uplink} {what}, and vmbr cannot move such a one"),
            format!("see: ip nexthop show id {id}; remove it with its routes (ip nexthop del id {id}), and make it anew on {bridge} afterwards"),
        ));
    }
    found.extend(taken(live, uplink, bridge));
    found
}

/// Whether the bridge's name is another's.
fn taken(live: &HostState, uplink: &IfName, bridge: &IfName) -> Option<Refusal> {
    let taken = live.link(bridge)?;
    let kind = taken.kind.as_deref().unwrap_or("NIC");
    Some(Refusal::new(
        if kind == "bridge" {
            format!("there is a bridge {bridge} that vmbr did not make")
        } else {
            format!("the name {bridge} is taken by a {kind}")
        },
        if kind == "bridge" {
            format!(
                "use it as it is (vmbr-helper works on it), or choose another name: vmbr up {uplink} --bridge NAME"
            )
        } else {
            format!("choose another name: vmbr up {uplink} --bridge NAME")
        },
    ))
}

/// What the administrator should know before `uplink` becomes a port.
pub fn warnings(live: &HostState, uplink: &IfName) -> Vec<String> {
    let mut found = Vec::new();
    let addresses = live.addresses_of(uplink);
    let v6 = |a: &&Address| a.family() == Family::V6;
    for temporary in addresses
        .iter()
        .filter(v6)
        .filter(|a| a.flags & address::flag::TEMPORARY != 0)
    {
        found.push(format!(
            "{temporary} is a temporary address: it moves, but the kernel makes the next one itself and lets this one run out"
        ));
    }
    for dead in addresses
        .iter()
        .filter(|a| a.flags & address::flag::DADFAILED != 0)
    {
        found.push(format!(
            "{dead} failed duplicate address detection: another host uses it"
        ));
    }
    let link = live.link(uplink);
    if link.is_some_and(|link| link.up && !link.carrier) {
        found.push(format!("{uplink} has no carrier: is the cable in?"));
    }
    let shared = |r: &&Route| r.uses(uplink) && r.hops.len() > 1;
    if let Some(multi) = live.routes.iter().find(shared) {
        let others = multi
            .hops
            .iter()
            .filter(|h| h.dev.as_ref() != Some(uplink))
            .count();
        if others > 0 {
            found.push(format!(
                "the route to {} is shared with another device: its flows may change their way",
                multi.dst
            ));
        }
    }
    found
}

/// What the administrator should know before guests speak as `uplink`.
pub fn warnings_mac_nat(live: &HostState, uplink: &IfName) -> Vec<String> {
    let Some(link) = live.link(uplink) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if !link.up {
        found.push(format!(
            "{uplink} is down: until it is up, guests reach only each other and this host"
        ));
    } else if !link.carrier {
        found.push(format!(
            "{uplink} has no carrier: until it has, guests reach only each other and this host"
        ));
    }
    if macvlans(live, uplink)
        .iter()
        .any(|child| child.is_kind("macvlan") || child.is_kind("macvtap"))
    {
        found.push(format!(
            "{uplink} has a macvlan on it: guests do not reach that, nor it them"
        ));
    }
    found
}

/// What becomes of multicast groups that programs joined on the uplink; none
/// where there are none. A membership is of a socket and of a device's number:
/// what arrives then arrives by the bridge, where nobody joined
/// (`ip_check_mc_rcu()`, `ipv6_chk_mcast_addr()`), and no one but the program
/// itself can join for it.
pub fn joined_groups(uplink: &IfName, bridge: &IfName, groups: &[IpAddr]) -> Option<String> {
    let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let list = names.join(", ");
    (!groups.is_empty()).then(|| {
        format!(
            "programs have joined multicast groups on {uplink} ({list}), and hear nothing of them on {bridge} until they join anew: restart them afterwards (see: ip maddr show dev {uplink})"
        )
    })
}

/// The gateways of the default routes by a device.
pub fn gateways(live: &HostState, dev: &IfName) -> Vec<IpAddr> {
    let defaults = live
        .routes
        .iter()
        .filter(|r| r.dst.len == 0 && r.table == route::table::MAIN);
    let hops = defaults
        .flat_map(|r| &r.hops)
        .filter(|h| h.dev.as_ref() == Some(dev));
    let all: BTreeSet<IpAddr> = hops.filter_map(|h| h.via).collect();
    all.into_iter().collect()
}
