//! Whether a host is what a target says, told in sentences.

use crate::model::address::flag;
use crate::model::route::protocol;
use crate::model::slots::Slots;
use crate::model::{Family, HostState, Network, Route};

use super::steps::ADDR_GEN_MODE;
use super::{Holder, Target, objects};

/// What differs between `live` and `target`; empty where the target is
/// reached. What the kernel renews by itself may differ: the remaining time of
/// addresses and routes, and what comes from router advertisements.
pub fn differences(live: &HostState, target: &Target) -> Vec<String> {
    let (holder, other) = (target.holder_name(), target.other_name());
    let have = Network::of(live, holder);
    let left = Network::of(live, other);
    let mut found = Vec::new();

    let master = live.link(&target.uplink).and_then(|link| link.master.as_ref());
    match target.holder {
        Holder::Bridge if master != Some(&target.bridge.name) => {
            found.push(format!(
                "{} is not a port of {}",
                target.uplink, target.bridge.name
            ));
        }
        Holder::Uplink if live.link(other).is_some() => found.push(format!("{other} is still there")),
        _ => {}
    }
    if target.holder == Holder::Bridge
        && live
            .link(holder)
            .is_some_and(|link| link.mac != Some(target.bridge.mac))
    {
        found.push(format!("{holder} does not have the MAC {}", target.bridge.mac));
    }
    addresses(&have, target, &mut found);
    routes(live, &have, target, &mut found);
    nexthops(live, &have, target, &mut found);
    for wanted in &target.network.rules {
        if !have.rules.contains(wanted) {
            found.push(format!(
                "the rule {} that names {holder} is missing",
                wanted.priority
            ));
        }
    }
    for wanted in target.network.neighbours.iter().filter(|n| n.is_configured()) {
        let same =
            |n: &&crate::model::Neighbour| n.address == wanted.address && n.is_proxy() == wanted.is_proxy();
        if !have.neighbours.iter().any(|n| same(&n) && n.mac == wanted.mac) {
            found.push(format!(
                "the configured neighbour {} is missing on {holder}",
                wanted.address
            ));
        }
    }
    for (key, value) in &target.network.sysctls {
        match have.sysctls.get(key) {
            Some(now) if now != value => {
                found.push(format!(
                    "the setting {key} of {holder} is {now:?} and not {value:?}"
                ));
            }
            _ => {}
        }
    }
    found.extend(left.addresses.iter().map(|a| format!("{a} is still on {other}")));
    found.extend(
        left.routes
            .iter()
            .map(|r| format!("the route to {} is still on {other}", r.dst)),
    );
    let objects = left.nexthops.iter().filter(|object| object.uses(other));
    found.extend(objects.map(|object| format!("the nexthop object {} is still on {other}", object.id)));
    found.extend(
        left.rules
            .iter()
            .map(|r| format!("the rule {} still names {other}", r.priority)),
    );
    if target.holder == Holder::Bridge
        && live
            .sysctl(other.as_str(), ADDR_GEN_MODE)
            .is_some_and(|mode| mode != "1")
    {
        found.push(format!("{other} would make itself an IPv6 address again"));
    }
    found
}

fn addresses(have: &Network, target: &Target, found: &mut Vec<String>) {
    let holder = &have.dev;
    for wanted in &target.network.addresses {
        match have.addresses.iter().find(|a| a.same_key(wanted)) {
            None => found.push(format!("{wanted} is missing on {holder}")),
            Some(a) if !a.same_content(wanted) && (a.is_permanent() || wanted.is_permanent()) => {
                found.push(format!("{wanted} on {holder} is not as it was"));
            }
            Some(_) => {}
        }
    }
    for address in &have.addresses {
        let wanted = target.network.addresses.iter().any(|w| w.same_key(address));
        let learned = address.family() == Family::V6
            && (!address.is_permanent() || address.flags & flag::TEMPORARY != 0);
        if !wanted && !learned {
            found.push(format!("{address} is on {holder} too"));
        }
    }
}

fn routes(live: &HostState, have: &Network, target: &Target, found: &mut Vec<String>) {
    let holder = &have.dev;
    // The kernel learns these anew on the holder, or a copy stands one metric
    // behind until it does.
    let from_ra = |r: &Route| r.protocol == protocol::RA;
    let standing = Slots::of(&have.routes);
    let of_target = Slots::of(&target.network.routes);
    let by_device = target.network.routes.iter().filter(|r| r.nexthop.is_none());
    for wanted in by_device.chain(objects::wanted_routes(live, target)) {
        let stands = standing
            .near(wanted)
            .any(|r| r.same(wanted) || (from_ra(wanted) && from_ra(r) && r.same_slot_but_metric(wanted)));
        if !stands {
            found.push(format!(
                "the route to {} (metric {}) is missing on {holder}",
                wanted.dst, wanted.metric
            ));
        }
    }
    for route in &have.routes {
        let learned = from_ra(route) || (route.protocol == protocol::KERNEL && route.expires.is_some());
        if !learned && !of_target.has(route) {
            found.push(format!(
                "a route to {} (metric {}) is on {holder} too",
                route.dst, route.metric
            ));
        }
    }
}

fn nexthops(live: &HostState, have: &Network, target: &Target, found: &mut Vec<String>) {
    let holder = &have.dev;
    for wanted in objects::wanted(live, target) {
        if !have.nexthops.contains(&wanted) {
            found.push(format!(
                "the nexthop object {} is not on {holder} as it was",
                wanted.id
            ));
        }
    }
    for object in have.nexthops.iter().filter(|object| !object.is_group()) {
        if !target.network.nexthops.iter().any(|w| w.id == object.id) {
            found.push(format!("the nexthop object {} is on {holder} too", object.id));
        }
    }
}
