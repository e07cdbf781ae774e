//! What a port was left with. The kernel takes nothing from a device that
//! becomes a port, but its receiving side is the bridge's from then on: what
//! leaves by the port works until its neighbours have to be asked again.

use crate::model::route::{kind, protocol};
use crate::model::{Address, HostState, IfName, Link, Route};
use crate::plan::record::Progress;
use crate::plan::{Op, is_prefix_route};

use super::{Change, Facts, Finding, Severity};

/// A port with its bridge, and what it was left with.
struct Left<'a> {
    bridge: &'a IfName,
    port: &'a IfName,
    addresses: Vec<&'a Address>,
    /// Those that do not go with the addresses.
    routes: Vec<&'a Route>,
}

impl<'a> Left<'a> {
    fn of(host: &'a HostState, port: &'a Link) -> Option<Self> {
        let bridge = port.master.as_ref()?;
        if !host.link(bridge)?.is_kind("bridge") {
            return None;
        }
        let name = &port.name;
        // A link-local address is the kernel's, and in nobody's way.
        let all = host.addresses_of(name);
        let addresses: Vec<&Address> = all.iter().filter(|a| !a.is_link_local_v6()).collect();
        let made_by =
            |route: &Route, addresses: &[Address]| addresses.iter().any(|a| is_prefix_route(route, a));
        let routes = host
            .routes
            .iter()
            .filter(|r| r.uses(name) && r.kind == kind::UNICAST && !made_by(r, all))
            // An address that is gone may have left this.
            .filter(|r| !(r.protocol == protocol::KERNEL && is_link_local(r)));
        Some(Self {
            bridge,
            port: name,
            addresses,
            routes: routes.collect(),
        })
    }

    /// Whether the bridge has all of it, too: only then does nothing stop to
    /// work that works now.
    fn is_copy(&self, host: &HostState) -> bool {
        let on_bridge = host.addresses_of(self.bridge);
        self.addresses
            .iter()
            .all(|a| on_bridge.iter().any(|b| b.same_key(a)))
            && self.routes.iter().all(|r| has_twin(host, r, self.bridge))
    }
}

fn is_link_local(route: &Route) -> bool {
    matches!(route.dst.address, std::net::IpAddr::V6(a) if crate::model::address::is_link_local(&a))
}

/// Whether a route leads to the same place by the bridge.
fn has_twin(host: &HostState, route: &Route, bridge: &IfName) -> bool {
    let gateways = |r: &Route| r.hops.iter().map(|hop| hop.via).collect::<Vec<_>>();
    host.routes
        .iter()
        .any(|r| r.uses(bridge) && r.same_slot_but_metric(route) && gateways(r) == gateways(route))
}

fn each<'a>(facts: &'a Facts, finding: impl Fn(&Left<'a>) -> Option<Finding>) -> Vec<Finding> {
    // In the middle of a change this is as it should be.
    let settled = |port: &&Link| {
        let record = port.master.as_ref().and_then(|bridge| facts.record(bridge));
        record.is_none_or(|record| record.progress == Progress::Settled)
    };
    let ports = facts.host.links.iter();
    ports
        .filter(settled)
        .filter_map(|port| Left::of(&facts.host, port))
        .filter_map(|left| finding(&left))
        .collect()
}

/// Commands that make one line of shell, which ends at the first that fails.
fn line(commands: &[String]) -> String {
    commands.join(" && ")
}

fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Addresses on a port. The remedy moves them, and the routes with them: the
/// last IPv4 address takes every route of the port along when it goes.
pub fn addresses(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    each(facts, |left| {
        if left.addresses.is_empty() {
            return None;
        }
        let (bridge, port) = (left.bridge, left.port);
        let message = format!(
            "{port} is a port of {bridge} and has {}: the answers to what is sent from there arrive at {bridge}, and \
             after less than a minute nobody is reached",
            list(left.addresses.iter())
        );
        let on_bridge = host.addresses_of(bridge);
        let missing = |a: &&&Address| !on_bridge.iter().any(|b| b.same_key(a));
        let mut ops: Vec<Op> = Vec::new();
        for address in left.addresses.iter().filter(missing) {
            ops.push(Op::AddAddress {
                dev: bridge.clone(),
                address: (*address).clone(),
            });
        }
        ops.extend(moved_routes(host, left));
        // The first of a prefix takes the others along, if it goes first.
        for address in left.addresses.iter().rev() {
            ops.push(Op::DeleteAddress {
                dev: port.clone(),
                address: (*address).clone(),
            });
        }
        let remedy = line(&ops.iter().map(ToString::to_string).collect::<Vec<_>>());
        let finding = Finding::new("address-on-port", Severity::Error, message, remedy).of(port);
        Some(if left.is_copy(host) {
            let mut fix = taken_routes(left);
            fix.extend(left.addresses.iter().rev().map(|address| Change::Address {
                bridge: bridge.clone(),
                port: port.clone(),
                address: (*address).clone(),
            }));
            finding.fixed_by(fix)
        } else {
            finding
        })
    })
}

/// Routes by a port that has no address: those of one that has are in the
/// finding above.
pub fn routes(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    each(facts, |left| {
        if left.routes.is_empty() || !left.addresses.is_empty() {
            return None;
        }
        let (bridge, port) = (left.bridge, left.port);
        let message = format!(
            "{port} is a port of {bridge} and routes leave by it (to {}): the answers arrive at {bridge}, and after \
             less than a minute nobody is reached by them",
            list(left.routes.iter().map(|route| route.dst))
        );
        let ops = moved_routes(host, left);
        let remedy = line(&ops.iter().map(ToString::to_string).collect::<Vec<_>>());
        let finding = Finding::new("route-on-port", Severity::Error, message, remedy).of(port);
        Some(if left.is_copy(host) {
            finding.fixed_by(taken_routes(left))
        } else {
            finding
        })
    })
}

/// Adds each route to the bridge where it is not there, then takes it from
/// the port.
fn moved_routes(host: &HostState, left: &Left<'_>) -> Vec<Op> {
    let mut ops = Vec::new();
    for route in &left.routes {
        if !has_twin(host, route, left.bridge) {
            ops.push(Op::AppendRoute(route.renamed(left.port, left.bridge)));
        }
        ops.push(Op::DeleteRoute((*route).clone()));
    }
    ops
}

fn taken_routes(left: &Left<'_>) -> Vec<Change> {
    let change = |route: &&Route| Change::Route {
        bridge: left.bridge.clone(),
        port: left.port.clone(),
        route: Box::new((*route).clone()),
    };
    left.routes.iter().map(change).collect()
}
