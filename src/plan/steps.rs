//! The planner.

mod objects;
mod prepare;
mod settle;
mod ways;

use crate::model::address::flag;
use crate::model::route::protocol;
use crate::model::slots::Slots;
use crate::model::{Address, Family, HostState, IfName, Network, Route};

use super::{Holder, Op, Plan, Stage, Target, is_prefix_route, prefix_routes};

/// Makes IPv6 link-local addresses: `0` from the MAC, `1` not at all, `2` and
/// `3` stable for privacy (Documentation/networking/ip-sysctl.rst).
pub(super) const ADDR_GEN_MODE: &str = "ipv6/conf/addr_gen_mode";
/// Whether the kernel answers router advertisements.
const ACCEPT_RA: &str = "ipv6/conf/accept_ra";
const ADDR_GEN_NONE: &str = "1";
/// Modes that make addresses from a secret: `IN6_ADDR_GEN_MODE_STABLE_PRIVACY`
/// and `IN6_ADDR_GEN_MODE_RANDOM` (include/uapi/linux/if_link.h).
const ADDR_GEN_SECRET: [&str; 2] = ["2", "3"];
/// Whether the prefixes of advertisements make addresses.
const AUTOCONF: &str = "ipv6/conf/autoconf";
const RP_FILTER: &str = "ipv4/conf/rp_filter";
const RP_STRICT: &str = "1";
const RP_LOOSE: &str = "2";
/// Follows the device's MTU unless a router said less.
const MTU_V6: &str = "ipv6/conf/mtu";

/// Leads from `live` to `target`; empty where the target is reached.
pub fn plan(live: &HostState, target: &Target) -> Plan {
    let planner = Planner::new(live, target);
    let mut plan = Plan::default();
    plan.push(Stage::Prepare, planner.device());
    plan.push_groups(Stage::Prepare, planner.addresses());
    let shadows = planner.shadows();
    plan.push(Stage::Prepare, planner.with_ways(planner.routes(&shadows)));
    plan.push(Stage::Prepare, planner.neighbours());
    plan.push(Stage::Prepare, planner.rules());
    plan.push(Stage::Prepare, planner.await_addresses());
    plan.push(Stage::Enslave, planner.enslave());
    plan.push(Stage::Flip, planner.with_ways(planner.flip()));
    plan.push_groups(Stage::Settle, planner.final_addresses());
    plan.push(Stage::Settle, planner.with_ways(planner.final_routes(&shadows)));
    plan.push_groups(Stage::Settle, planner.final_ends());
    plan.push(Stage::Settle, planner.strays(&shadows));
    plan.push(Stage::Settle, planner.final_sysctls());
    plan.push(Stage::Tidy, planner.remove_bridge());
    let seeded = |shadow: &Shadow| planner.is_kernels(shadow.route) && shadow.must_add;
    if shadows.iter().any(seeded) && planner.uplink_runs() {
        plan.push(
            Stage::Tidy,
            vec![Op::SolicitRouters {
                dev: planner.holder.clone(),
            }],
        );
    }
    plan
}

/// A route of the target that cannot yet stand at its own metric, and the
/// copy one metric behind that serves until it can.
///
/// A route learned from a router advertisement gets one too, and keeps it
/// until the kernel has its own: a route that user space adds at the same
/// place would stand beside the kernel's for ever, and would not go when the
/// router withdraws.
struct Shadow<'a> {
    /// The route as it shall be.
    route: &'a Route,
    /// The copy.
    copy: Route,
    /// Whether the copy is not there yet.
    must_add: bool,
}

struct Planner<'a> {
    live: &'a HostState,
    target: &'a Target,
    /// Who shall carry the network.
    holder: &'a IfName,
    /// Who shall not.
    other: &'a IfName,
    /// What the holder has already.
    have: Network,
    /// What the other still has.
    left: Network,
    /// Every route of the host.
    standing: Slots<'a>,
    /// Every route of the target.
    wanted_routes: Slots<'a>,
    /// Whether the network is still on its way, so that the holder must take
    /// forms that do not disturb the other.
    moving: bool,
}

impl<'a> Planner<'a> {
    fn new(live: &'a HostState, target: &'a Target) -> Self {
        let (holder, other) = (target.holder_name(), target.other_name());
        let left = Network::of(live, other);
        let is_port = live
            .link(&target.uplink)
            .is_some_and(|l| l.master.as_ref() == Some(&target.bridge.name));
        let moving = !left.is_bare() || is_port != (target.holder == Holder::Bridge);
        Self {
            live,
            target,
            holder,
            other,
            have: Network::of(live, holder),
            left,
            standing: Slots::of(&live.routes),
            wanted_routes: Slots::of(&target.network.routes),
            moving,
        }
    }

    fn exists(&self, dev: &IfName) -> bool {
        self.live.link(dev).is_some()
    }

    /// Whether a route is one that the kernel makes from advertisements, and
    /// will make anew. It marks them as managers do that answer advertisements
    /// themselves, but those have it ignore them.
    fn is_kernels(&self, route: &Route) -> bool {
        let ignored = |value: &String| value == "0";
        let sysctls = &self.target.network.sysctls;
        route.protocol == protocol::RA && !sysctls.get(ACCEPT_RA).is_some_and(ignored)
    }

    fn uplink_is_port(&self) -> bool {
        self.live
            .link(&self.target.uplink)
            .is_some_and(|l| l.master.as_ref() == Some(&self.target.bridge.name))
    }

    fn uplink_runs(&self) -> bool {
        self.live
            .link(&self.target.uplink)
            .is_some_and(|l| l.running || (l.up && l.carrier))
    }

    fn wanted(&self, family: Family) -> impl DoubleEndedIterator<Item = &'a Address> {
        self.target
            .network
            .addresses
            .iter()
            .filter(move |a| a.family() == family)
    }

    /// The IPv6 routes that need a shadow.
    fn shadows(&self) -> Vec<Shadow<'a>> {
        let have = Slots::of(&self.have.routes);
        let mut shadows: Vec<Shadow> = Vec::new();
        for route in self
            .target
            .network
            .routes
            .iter()
            .filter(|r| r.family() == Family::V6 && r.nexthop.is_none())
        {
            if have.near(route).any(|r| same_but_end(r, route)) {
                continue;
            }
            let floor = self.floor(route, &shadows);
            if !self.is_kernels(route) && floor.is_none() {
                continue;
            }
            let standing = have.near(route).find(|r| is_copy(r, route));
            let taken = |copy: &Route| {
                let mut near = self.standing.near(copy).chain(self.wanted_routes.near(copy));
                near.any(|r| r.metric == copy.metric) || shadows.iter().any(|s| s.copy.same_slot(copy))
            };
            let copy = standing
                .cloned()
                .unwrap_or_else(|| behind(route, floor.unwrap_or(0), &taken));
            shadows.push(Shadow {
                route,
                copy,
                must_add: standing.is_none(),
            });
        }
        shadows
    }

    /// The metric that a route must stand behind until the flip; none where it
    /// can have its own place at once. It must not overtake the other's, nor
    /// the copy that a change which was cut short has left the other; nor the
    /// copy of what shall stand before it.
    fn floor(&self, route: &Route, shadows: &[Shadow]) -> Option<u32> {
        let others = self.standing.near(route).filter(|r| {
            let overtaken = r.metric <= route.metric || is_copy(&r.renamed(self.other, self.holder), route);
            r.uses(self.other) && overtaken
        });
        let copies = shadows.iter().map(|s| &s.copy);
        let before = copies.filter(|copy| copy.same_slot_but_metric(route));
        others.chain(before).map(|r| r.metric).max()
    }

    /// Whether the kernel makes the route with an address that the holder
    /// still lacks.
    fn comes_with_new_address_v4(&self, route: &Route) -> bool {
        let missing = |wanted: &&Address| !self.have.addresses.iter().any(|a| a.same_key(wanted));
        self.wanted(Family::V4)
            .filter(missing)
            .any(|a| is_prefix_route(route, a))
    }

    fn comes_with_address_v6(&self, route: &Route) -> bool {
        self.wanted(Family::V6).any(|a| is_prefix_route(route, a))
    }

    fn enslave(&self) -> Vec<Op> {
        if self.target.holder == Holder::Uplink {
            return Vec::new();
        }
        let uplink = || self.target.uplink.clone();
        let link = self.live.link(&self.target.uplink);
        let mut ops = Vec::new();
        if !self.uplink_is_port() {
            ops.push(Op::SetMaster {
                dev: uplink(),
                master: Some(self.holder.clone()),
            });
        }
        if link.is_some_and(|link| !link.up) {
            ops.extend(self.quiet_port());
            ops.push(Op::SetUp {
                dev: uplink(),
                up: true,
            });
        }
        let ready = self.live.link(self.holder).is_some_and(|link| link.running);
        if self.uplink_runs() && !ready {
            ops.push(Op::AwaitRunning {
                dev: self.holder.clone(),
            });
        }
        ops
    }

    /// Keeps the port from making itself an address, where it would: when it
    /// is set up, and whenever its carrier comes back.
    fn quiet_port(&self) -> Option<Op> {
        let mode = self.live.sysctl(self.other.as_str(), ADDR_GEN_MODE);
        mode.filter(|mode| *mode != ADDR_GEN_NONE)
            .map(|_| self.sysctl(self.other, ADDR_GEN_MODE, ADDR_GEN_NONE))
    }

    /// Takes everything from the other. Addresses go from the last to the
    /// first: an IPv4 primary can take its secondaries with it.
    fn flip(&self) -> Vec<Op> {
        let dev = || self.other.clone();
        let with_address = |r: &&Route| {
            r.family() == Family::V4 && self.left.addresses.iter().any(|a| is_prefix_route(r, a))
        };
        let mut routes: Vec<Route> = self
            .left
            .routes
            .iter()
            .filter(|r| !with_address(r) && r.nexthop.is_none())
            .cloned()
            .collect();
        routes.sort_by_key(|r| !by_gateway(r));
        let mut ops = self.move_objects();
        ops.extend(routes.into_iter().map(|route| self.take(route)));
        let configured = self.left.neighbours.iter().filter(|n| n.is_configured());
        ops.extend(configured.cloned().map(Op::DeleteNeighbour));
        let addresses = self.left.addresses.iter().rev();
        let (v6, v4): (Vec<_>, Vec<_>) = addresses.cloned().partition(|a| a.family() == Family::V6);
        ops.extend(
            v6.into_iter()
                .chain(v4)
                .map(|address| Op::DeleteAddress { dev: dev(), address }),
        );
        let wanted = self.target.network.routes.iter();
        for route in wanted.filter(|r| r.family() == Family::V4 && self.stood_first(r)) {
            ops.push(Op::DeleteRoute(route.clone()));
            ops.push(Op::PrependRoute(route.clone()));
        }
        if self.target.holder == Holder::Uplink && self.uplink_is_port() {
            ops.push(Op::SetMaster {
                dev: self.target.uplink.clone(),
                master: None,
            });
        }
        ops
    }

    /// Takes a route from the other. An IPv6 route that stood before a third
    /// device's leaves its place to the holder's.
    fn take(&self, route: Route) -> Op {
        let holders = route.renamed(self.other, self.holder);
        let wanted = self.wanted_routes.near(&holders).find(|r| r.same(&holders));
        match wanted.filter(|r| r.family() == Family::V6 && self.stood_first(r)) {
            Some(wanted) => Op::ReplaceRoute(wanted.clone()),
            None => Op::DeleteRoute(route),
        }
    }

    /// Whether the other's copy of a route stands before a third device's of
    /// the same priority (two NICs on one network), where the first one wins.
    /// What is merely added comes behind both.
    fn stood_first(&self, route: &Route) -> bool {
        if self.is_kernels(route) {
            // The kernel's own comes, and where is the kernel's affair.
            return false;
        }
        let others = route.renamed(self.holder, self.other);
        // In IPv6, one behind counts too: it would overtake the holder's copy.
        let in_slot = |r: &&'a Route| {
            r.same_slot(route)
                || (route.family() == Family::V6
                    && r.same_slot_but_metric(route)
                    && r.metric > route.metric
                    && !r.uses(self.other))
        };
        let near = self.standing.near(route).filter(in_slot);
        let mut rivals = near.filter(|r| !r.uses(self.holder));
        rivals.next().is_some_and(|first| first.same(&others)) && rivals.next().is_some()
    }
}

/// The form of an IPv6 address that does not disturb the same address on
/// another device: no prefix route, and no duplicate address detection, which
/// would find that other device. An address that has not passed its detection
/// is not spared it.
fn passing_form(address: &Address) -> Address {
    let unproven = address.flags & (flag::TENTATIVE | flag::DADFAILED) != 0;
    let nodad = if unproven { 0 } else { flag::NODAD };
    Address {
        flags: address.settable_flags() | nodad | flag::NOPREFIXROUTE,
        ..address.clone()
    }
}

/// A copy of `route` at the next metric that is free, and more than `floor`:
/// one equal would be joined to ours as a second hop.
fn behind(route: &Route, floor: u32, taken: &dyn Fn(&Route) -> bool) -> Route {
    let mut copy = route.clone();
    copy.metric = copy.metric.max(floor);
    loop {
        copy.metric = copy.metric.saturating_add(1);
        if copy.metric == u32::MAX || !taken(&copy) {
            return copy;
        }
    }
}

/// Whether a route is another but for its metric, behind it.
fn is_copy(copy: &Route, route: &Route) -> bool {
    let at_its_place = || Route {
        metric: route.metric,
        ..copy.clone()
    };
    copy.metric > route.metric && at_its_place().same(route)
}

/// Whether both are the same route, whether they have an end or not.
fn same_but_end(one: &Route, other: &Route) -> bool {
    let endless = |route: &Route| Route {
        expires: None,
        ..route.clone()
    };
    endless(one) == endless(other)
}

/// Whether a route goes by a gateway.
fn by_gateway(route: &Route) -> bool {
    route.hops.iter().any(|hop| hop.via.is_some())
}
