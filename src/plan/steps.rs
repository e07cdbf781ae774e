//! The planner.

use crate::model::address::flag;
use crate::model::network::Sysctls;
use crate::model::route::protocol;
use crate::model::{Address, Family, HostState, IfName, Neighbour, Network, Route, neighbour};

use super::{Holder, Op, Plan, Stage, Target, is_prefix_route};

/// Makes IPv6 link-local addresses: `0` from the MAC, `1` not at all, `2` and
/// `3` stable for privacy (Documentation/networking/ip-sysctl.rst).
pub(super) const ADDR_GEN_MODE: &str = "ipv6/conf/addr_gen_mode";
const ADDR_GEN_NONE: &str = "1";
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
    plan.push(Stage::Prepare, planner.addresses());
    let shadows = planner.shadows();
    plan.push(Stage::Prepare, planner.routes(&shadows));
    plan.push(Stage::Prepare, planner.neighbours());
    plan.push(Stage::Prepare, planner.rules());
    plan.push(Stage::Enslave, planner.enslave());
    plan.push(Stage::Flip, planner.flip());
    plan.push(Stage::Settle, planner.final_forms(&shadows));
    plan.push(Stage::Settle, planner.strays(&shadows));
    plan.push(Stage::Settle, planner.final_sysctls());
    plan.push(Stage::Tidy, planner.remove_bridge());
    let seeded = |shadow: &Shadow| shadow.route.protocol == protocol::RA && shadow.must_add;
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
            moving,
        }
    }

    fn exists(&self, dev: &IfName) -> bool {
        self.live.link(dev).is_some()
    }

    fn uplink_is_port(&self) -> bool {
        self.live
            .link(&self.target.uplink)
            .is_some_and(|l| l.master.as_ref() == Some(&self.target.bridge.name))
    }

    fn uplink_runs(&self) -> bool {
        self.live.link(&self.target.uplink).is_some_and(|l| l.running)
    }

    fn wanted(&self, family: Family) -> impl DoubleEndedIterator<Item = &'a Address> {
        self.target
            .network
            .addresses
            .iter()
            .filter(move |a| a.family() == family)
    }

    /// The holder itself: there, with its settings, up.
    fn device(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        let dev = || self.holder.clone();
        let link = self.live.link(self.holder);
        if self.target.holder == Holder::Bridge {
            let bridge = &self.target.bridge;
            match link {
                None => ops.push(Op::CreateBridge {
                    name: dev(),
                    mac: bridge.mac,
                }),
                Some(link) if link.mac != Some(bridge.mac) => {
                    ops.push(Op::SetMac {
                        dev: dev(),
                        mac: bridge.mac,
                    });
                }
                Some(_) => {}
            }
            if link.is_none_or(|link| link.mtu != bridge.mtu) {
                ops.push(Op::SetMtu {
                    dev: dev(),
                    mtu: bridge.mtu,
                });
            }
        }
        let current = self.current_sysctls();
        ops.extend(self.write_sysctls(&current, &self.passing_sysctls()));
        if self.moving && self.target.holder == Holder::Uplink && self.strict_rp_filter(self.other.as_str()) {
            ops.push(self.sysctl(self.other, RP_FILTER, RP_LOOSE));
        }
        let up = self.target.holder == Holder::Bridge || self.target.uplink_up;
        if up && link.is_none_or(|link| !link.up) {
            ops.push(Op::SetUp { dev: dev(), up: true });
        }
        ops
    }

    /// The holder's settings now: those of `default` while it does not exist.
    fn current_sysctls(&self) -> Sysctls {
        if self.exists(self.holder) {
            return self.have.sysctls.clone();
        }
        let mut sysctls = self.live.sysctls.get("default").cloned().unwrap_or_default();
        sysctls.insert(MTU_V6.to_owned(), self.target.bridge.mtu.to_string());
        sysctls
    }

    /// The target's settings, with what must differ on the way: no link-local
    /// address of the kernel's own making, and no strict check of the way
    /// back, which would drop what arrives before the routes have flipped.
    fn passing_sysctls(&self) -> Sysctls {
        let mut sysctls = self.target.network.sysctls.clone();
        if self.moving {
            if let Some(mode) = sysctls.get_mut(ADDR_GEN_MODE) {
                ADDR_GEN_NONE.clone_into(mode);
            }
            let all = self.live.sysctl("all", RP_FILTER) == Some(RP_STRICT);
            if let Some(filter) = sysctls.get_mut(RP_FILTER)
                && (filter == RP_STRICT || (all && filter == "0"))
            {
                RP_LOOSE.clone_into(filter);
            }
        }
        sysctls
    }

    /// Whether the kernel's effective value, the larger of `all` and the
    /// device's, is the strict one.
    fn strict_rp_filter(&self, dev: &str) -> bool {
        let value = |name| self.live.sysctl(name, RP_FILTER).unwrap_or("0");
        value("all").max(value(dev)) == RP_STRICT
    }

    fn sysctl(&self, dev: &IfName, key: &str, value: &str) -> Op {
        Op::SetSysctl {
            dev: dev.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    /// Writes to the holder what differs. The order matters: with IPv6
    /// disabled nothing else of it takes effect, and the stable secret sets
    /// the mode of address generation.
    fn write_sysctls(&self, from: &Sysctls, to: &Sysctls) -> Vec<Op> {
        let rank = |key: &str| match key {
            "ipv6/conf/disable_ipv6" => 0,
            "ipv6/conf/stable_secret" => 1,
            ADDR_GEN_MODE => 3,
            _ => 2,
        };
        let mut differing: Vec<_> = to
            .iter()
            .filter(|(key, value)| from.get(*key) != Some(*value))
            .collect();
        differing.sort_by_key(|(key, _)| rank(key));
        differing
            .into_iter()
            .map(|(key, value)| self.sysctl(self.holder, key, value))
            .collect()
    }

    /// Addresses that the holder lacks. The kernel puts a new IPv4 address
    /// behind the others and a new IPv6 one in front of those of its scope
    /// (`ipv6_link_dev_addr()`), so that IPv6's go in from the last.
    fn addresses(&self) -> Vec<Op> {
        let missing = |wanted: &&Address| !self.have.addresses.iter().any(|a| a.same_key(wanted));
        let add = |address: Address| Op::AddAddress {
            dev: self.holder.clone(),
            address,
        };
        let v4 = self.wanted(Family::V4).filter(missing).cloned();
        let v6 = self.wanted(Family::V6).rev().filter(missing).map(passing_form);
        v4.chain(v6).map(add).collect()
    }

    /// The IPv6 routes that need a shadow.
    fn shadows(&self) -> Vec<Shadow<'a>> {
        let mut taken: Vec<Route> = self
            .live
            .routes
            .iter()
            .chain(&self.target.network.routes)
            .cloned()
            .collect();
        let mut shadows = Vec::new();
        for route in self
            .target
            .network
            .routes
            .iter()
            .filter(|r| r.family() == Family::V6)
        {
            if self.have.routes.iter().any(|r| r.same(route)) {
                continue;
            }
            let from_ra = route.protocol == protocol::RA;
            let in_the_way = |r: &Route| r.same_slot(route) && r.uses(self.other);
            if !from_ra && !self.live.routes.iter().any(in_the_way) {
                continue;
            }
            let is_copy = |r: &&Route| {
                Route {
                    metric: route.metric,
                    ..(*r).clone()
                }
                .same(route)
            };
            let standing = self
                .have
                .routes
                .iter()
                .find(|r| r.metric > route.metric && is_copy(r));
            let copy = standing.cloned().unwrap_or_else(|| behind(route, &taken));
            taken.push(copy.clone());
            shadows.push(Shadow {
                route,
                copy,
                must_add: standing.is_none(),
            });
        }
        shadows
    }

    /// Routes that the holder lacks: those on the link before those by a
    /// gateway, which must be on the link.
    fn routes(&self, shadows: &[Shadow]) -> Vec<Op> {
        let mut routes = Vec::new();
        for route in self
            .target
            .network
            .routes
            .iter()
            .filter(|r| !self.comes_with_address_v4(r))
        {
            match shadows.iter().find(|s| std::ptr::eq(s.route, route)) {
                Some(shadow) if shadow.must_add => routes.push(shadow.copy.clone()),
                Some(_) => {}
                None if self.have.routes.iter().any(|r| r.same(route)) => {}
                None => routes.push(route.clone()),
            }
        }
        routes.sort_by_key(by_gateway);
        routes.into_iter().map(Op::AppendRoute).collect()
    }

    fn comes_with_address_v4(&self, route: &Route) -> bool {
        self.wanted(Family::V4).any(|a| is_prefix_route(route, a))
    }

    fn comes_with_address_v6(&self, route: &Route) -> bool {
        self.wanted(Family::V6).any(|a| is_prefix_route(route, a))
    }

    /// Neighbours that the holder lacks. What the other has resolved is
    /// handed on as reachable: nothing stalls for an answer to a question.
    fn neighbours(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for wanted in &self.target.network.neighbours {
            let known = self
                .have
                .neighbours
                .iter()
                .find(|n| n.address == wanted.address && n.is_proxy() == wanted.is_proxy());
            let seed = if wanted.is_configured() {
                if known == Some(wanted) {
                    continue;
                } else {
                    wanted.clone()
                }
            } else if !self.moving || known.is_some_and(|k| k.is_configured() || is_fresh(k, wanted)) {
                continue;
            } else {
                let flags = wanted.flags & neighbour::flag::ROUTER;
                Neighbour {
                    state: neighbour::state::REACHABLE,
                    flags,
                    ..wanted.clone()
                }
            };
            ops.push(Op::SetNeighbour(seed));
        }
        ops
    }

    /// Rules that name the holder. The other's stay until the flip.
    fn rules(&self) -> Vec<Op> {
        let wanted = &self.target.network.rules;
        wanted
            .iter()
            .filter(|r| !self.have.rules.contains(r))
            .cloned()
            .map(Op::AddRule)
            .collect()
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
            ops.push(self.sysctl(self.other, ADDR_GEN_MODE, ADDR_GEN_NONE));
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
            .filter(|r| !with_address(r))
            .cloned()
            .collect();
        routes.sort_by_key(|r| !by_gateway(r));
        let mut ops: Vec<Op> = routes.into_iter().map(Op::DeleteRoute).collect();
        let configured = self.left.neighbours.iter().filter(|n| n.is_configured());
        ops.extend(configured.cloned().map(Op::DeleteNeighbour));
        let addresses = self.left.addresses.iter().rev();
        let (v6, v4): (Vec<_>, Vec<_>) = addresses.cloned().partition(|a| a.family() == Family::V6);
        ops.extend(
            v6.into_iter()
                .chain(v4)
                .map(|address| Op::DeleteAddress { dev: dev(), address }),
        );
        if self.target.holder == Holder::Uplink && self.uplink_is_port() {
            ops.push(Op::SetMaster {
                dev: self.target.uplink.clone(),
                master: None,
            });
        }
        ops
    }

    /// Addresses and IPv6 routes in the form that they keep.
    fn final_forms(&self, shadows: &[Shadow]) -> Vec<Op> {
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
        let keeps_shadow = |s: &&Shadow| s.route.protocol == protocol::RA;
        let last = shadows
            .iter()
            .filter(|s| !keeps_shadow(s) && !self.comes_with_address_v6(s.route));
        let mut routes: Vec<Route> = last.map(|s| s.route.clone()).collect();
        routes.sort_by_key(by_gateway);
        ops.extend(routes.into_iter().map(Op::AppendRoute));
        ops
    }

    /// What the holder has too much, and rules that name the other.
    fn strays(&self, shadows: &[Shadow]) -> Vec<Op> {
        let network = &self.target.network;
        let mut routes: Vec<Route> = shadows
            .iter()
            .filter(|s| s.must_add && s.route.protocol != protocol::RA)
            .map(|s| s.copy.clone())
            .chain(
                self.have
                    .routes
                    .iter()
                    .filter(|r| self.is_stray(r, shadows))
                    .cloned(),
            )
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
        if network.routes.iter().any(|r| r.same(route)) {
            return false;
        }
        if route.protocol == protocol::RA {
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
            return !self.comes_with_address_v4(route)
                && self.wanted(Family::V4).any(|a| is_prefix_route(route, a));
        }
        let learned = route.protocol == protocol::KERNEL && route.expires.is_some();
        let kept = shadows
            .iter()
            .any(|s| s.route.protocol == protocol::RA && s.copy.same(route));
        !learned && !kept
    }

    /// Settings that were put off, and the port's.
    fn final_sysctls(&self) -> Vec<Op> {
        let passing = self.passing_sysctls();
        let mut ops = self.write_sysctls(&passing, &self.target.network.sysctls);
        if self.target.holder == Holder::Bridge
            && self
                .live
                .sysctl(self.other.as_str(), ADDR_GEN_MODE)
                .is_some_and(|mode| mode != ADDR_GEN_NONE)
        {
            // Else a port that loses its carrier comes back with an address.
            ops.push(self.sysctl(self.other, ADDR_GEN_MODE, ADDR_GEN_NONE));
        }
        ops
    }

    fn remove_bridge(&self) -> Vec<Op> {
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

/// A copy of `route` at the next metric that is free: one equal would be
/// joined to ours as a second hop.
fn behind(route: &Route, taken: &[Route]) -> Route {
    let mut copy = route.clone();
    loop {
        copy.metric = copy.metric.saturating_add(1);
        if copy.metric == u32::MAX || !taken.iter().any(|r| r.same_slot(&copy)) {
            return copy;
        }
    }
}

/// Whether what a device knows of a neighbour needs no question to it.
fn is_fresh(known: &Neighbour, wanted: &Neighbour) -> bool {
    known.mac == wanted.mac && known.state & neighbour::state::REACHABLE != 0
}

/// Whether a route goes by a gateway.
fn by_gateway(route: &Route) -> bool {
    route.hops.iter().any(|hop| hop.via.is_some())
}
