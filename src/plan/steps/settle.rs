//! The final form of everything, and what is too much.

use crate::model::route::protocol;
use crate::model::slots::Slots;
use crate::model::{Address, Family, Neighbour, Route};

use super::{Holder, Op, Planner, Shadow, by_gateway, is_copy, is_prefix_route, passing_form, same_but_end};

impl Planner<'_> {
    /// Addresses in the form that they keep.
    pub(super) fn final_addresses(&self) -> Vec<Vec<Op>> {
        let mut ops = Vec::new();
        for wanted in &self.target.network.addresses {
            let dev = || self.holder.clone();
            let change = || Op::ChangeAddress {
                dev: dev(),
                address: wanted.clone(),
            };
            match self.have.addresses.iter().find(|a| a.same_key(wanted)) {
                Some(have) if have.same_content(wanted) => {}
                Some(have) if wanted.family() == Family::V6 || only_time_differs(have, wanted) => {
                    ops.push(change());
                }
                Some(have) => {
                    ops.push(Op::DeleteAddress {
                        dev: dev(),
                        address: have.clone(),
                    });
                    ops.push(Op::AddAddress {
                        dev: dev(),
                        address: wanted.clone(),
                    });
                }
                None if wanted.family() == Family::V6 && !passing_form(wanted).same_content(wanted) => {
                    ops.push(change());
                }
                None => {}
            }
        }
        ops.into_iter()
            .map(|op| self.without_unwanted_routes(op))
            .collect()
    }

    /// IPv6 routes at the metrics that they keep.
    pub(super) fn final_routes(&self, shadows: &[Shadow]) -> Vec<Op> {
        let keeps_shadow = |s: &&Shadow| self.is_kernels(s.route);
        let last = shadows.iter().filter(|s| {
            !keeps_shadow(s) && !self.comes_with_address_v6(s.route) && !self.stood_first(s.route)
        });
        let mut routes: Vec<Route> = last.map(|s| s.route.clone()).collect();
        routes.sort_by_key(by_gateway);
        routes.extend(self.lost_routes_of_objects());
        routes.into_iter().map(Op::AppendRoute).collect()
    }

    /// Routes that must get an end, or lose it. The kernel gives none to one
    /// that has none (`fib6_add_rt2node()`), and each permanent address takes
    /// away that of its prefix route: such a route is made anew, at once.
    pub(super) fn final_ends(&self) -> Vec<Vec<Op>> {
        let have = Slots::of(&self.have.routes);
        let other_end = |wanted: &Route| {
            // A router's are the kernel's affair.
            let other = |r: &&Route| same_but_end(r, wanted) && !r.same(wanted) && !self.is_kernels(r);
            let old = have.near(wanted).find(other)?;
            Some(vec![
                Op::DeleteRoute(old.clone()),
                Op::AppendRoute(wanted.clone()),
            ])
        };
        self.target.network.routes.iter().filter_map(other_end).collect()
    }

    /// What the holder has too much, and rules that name the other.
    pub(super) fn strays(&self, shadows: &[Shadow]) -> Vec<Op> {
        let network = &self.target.network;
        let mut routes: Vec<Route> = shadows
            .iter()
            .filter(|s| s.must_add && !self.is_kernels(s.route))
            .map(|s| s.copy.clone())
            .chain(
                self.have
                    .routes
                    .iter()
                    .filter(|r| self.is_stray(r, shadows))
                    .cloned(),
            )
            .chain(self.moved_strays())
            .collect();
        routes.sort_by_key(|r| !by_gateway(r));
        let mut ops: Vec<Op> = routes.into_iter().map(Op::DeleteRoute).collect();
        // What the kernel makes from advertisements has an end, and is its own.
        let own = |a: &&Address| a.family() == Family::V6 && !a.is_permanent();
        let too_much = |a: &&Address| !own(a) && !network.addresses.iter().any(|w| w.same_key(a));
        for address in self.have.addresses.iter().rev().filter(too_much) {
            ops.push(Op::DeleteAddress {
                dev: self.holder.clone(),
                address: address.clone(),
            });
        }
        let configured = self.have.neighbours.iter().filter(|n| n.is_configured());
        let same = |a: &Neighbour, b: &Neighbour| a.address == b.address && a.is_proxy() == b.is_proxy();
        let unwanted = configured.filter(|n| !network.neighbours.iter().any(|w| same(w, n)));
        ops.extend(unwanted.cloned().map(Op::DeleteNeighbour));
        let unwanted = self.have.rules.iter().filter(|r| !network.rules.contains(r));
        ops.extend(
            self.left
                .rules
                .iter()
                .chain(unwanted)
                .cloned()
                .map(Op::DeleteRule),
        );
        ops
    }

    /// Whether a route of the holder's is not of the target.
    fn is_stray(&self, route: &Route, shadows: &[Shadow]) -> bool {
        let network = &self.target.network;
        if self.wanted_routes.near(route).any(|r| same_but_end(r, route)) {
            return false;
        }
        if self.is_kernels(route) {
            // A copy goes when the kernel has the route itself, or a better
            // metric's; the kernel's own routes are its own affair.
            let original = network
                .routes
                .iter()
                .find(|r| r.same_slot_but_metric(route) && r.protocol == protocol::RA);
            let kernels = |o: &Route| self.have.routes.iter().any(|r| r.same(o));
            return original.is_some_and(|o| o.metric < route.metric && kernels(o));
        }
        if route.family() == Family::V4 && self.have.addresses.iter().any(|a| is_prefix_route(route, a)) {
            // Goes with its address, if that goes.
            return self.wanted(Family::V4).any(|a| is_prefix_route(route, a));
        }
        // The copy of a change that was cut short has an end, too.
        let learned = route.protocol == protocol::KERNEL && route.expires.is_some();
        let learned = learned && !network.routes.iter().any(|wanted| is_copy(route, wanted));
        let kept = shadows
            .iter()
            .any(|s| self.is_kernels(s.route) && s.copy.same(route));
        !learned && !kept
    }

    /// Settings that were put off, and the port's.
    pub(super) fn final_sysctls(&self) -> Vec<Op> {
        let passing = self.passing_sysctls();
        let mut ops = self.write_sysctls(&passing, &self.target.network.sysctls);
        // One that was down was told before it was set up.
        let was_up = self.live.link(self.other).is_none_or(|link| link.up);
        if self.target.holder == Holder::Bridge && was_up {
            ops.extend(self.quiet_port());
        }
        ops
    }

    pub(super) fn remove_bridge(&self) -> Vec<Op> {
        if self.target.holder == Holder::Bridge {
            return Vec::new();
        }
        let mut ops = Vec::new();
        if !self.target.uplink_up && self.live.link(self.holder).is_some_and(|link| link.up) {
            ops.push(Op::SetUp {
                dev: self.holder.clone(),
                up: false,
            });
        }
        if self.exists(self.other) {
            ops.push(Op::DeleteLink {
                dev: self.other.clone(),
            });
        }
        ops
    }
}

/// Whether an IPv4 address needs a change only in what the kernel changes on
/// an address that is there: lifetimes, metric and protocol. Its flags, label,
/// scope and broadcast address are set once for all (`inet_rtm_newaddr()`,
/// net/ipv4/devinet.c).
fn only_time_differs(have: &Address, wanted: &Address) -> bool {
    let Address {
        preferred,
        valid,
        metric,
        protocol,
        ..
    } = wanted.clone();
    Address {
        preferred,
        valid,
        metric,
        protocol,
        ..have.clone()
    }
    .same_content(wanted)
}
