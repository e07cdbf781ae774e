//! A model of what the kernel does with the operations of a plan: pure, and
//! held to the real kernel by `kernel_conformance`.
//!
//! Modelled: primaries and secondaries and their promotion, prefix routes, what
//! goes with an address and with a device, the order of addresses and routes,
//! ports, several hops of an IPv4 route. Not modelled: several hops of an IPv6
//! one, IPv6 peers, what nexthop objects lead to, rules in lookups (those here
//! are for what is forwarded), duplicate address detection, the passing of time.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]
// Clippy knows that `#[test]` functions may unwrap, but not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ipv4;
mod ipv6;
mod reach;
pub mod world;

use nix::errno::Errno;
use vmbr::model::link::{Port, Traffic};
use vmbr::model::route::kind;
use vmbr::model::{Family, HostState, IfName, Link, Route};
use vmbr::plan::{Op, Step};

type Answer = Result<(), Errno>;

/// The kernel's network.
#[derive(Clone, Debug)]
pub struct Kernel {
    state: HostState,
}

impl From<HostState> for Kernel {
    fn from(state: HostState) -> Self {
        Self { state }
    }
}

impl Kernel {
    /// What a dump would say.
    pub fn state(&self) -> &HostState {
        &self.state
    }

    /// Performs one operation.
    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::CreateBridge { name, mac } => {
                if self.state.link(name).is_some() {
                    return Err(Errno::EEXIST);
                }
                let index = self.state.links.iter().map(|l| l.index).max().unwrap_or(0) + 1;
                self.state.links.push(bridge(index, name, *mac));
                let settings = self.state.sysctls.get("default").cloned().unwrap_or_default();
                self.state.sysctls.insert(name.to_string(), settings);
                Ok(())
            }
            Op::DeleteLink { dev } => self.delete_link(dev),
            Op::SetUp { dev, up } => self.set_up(dev, *up),
            Op::SetMtu { dev, mtu } => self.link_mut(dev).map(|l| l.mtu = *mtu),
            Op::SetMac { dev, mac } => self.link_mut(dev).map(|l| l.mac = Some(*mac)),
            Op::SetMaster { dev, master } => {
                let link = self.link_mut(dev)?;
                if link.master.is_some() && master.is_some() {
                    return Err(Errno::EBUSY);
                }
                link.port = master.as_ref().map(|_| Port {
                    state: 3,
                    ..Port::default()
                });
                link.master.clone_from(master);
                self.carriers();
                Ok(())
            }
            Op::AddAddress { dev, address } | Op::ChangeAddress { dev, address } => {
                self.link_mut(dev)?;
                let change = matches!(op, Op::ChangeAddress { .. });
                match (address.family(), change) {
                    (Family::V4, false) => self.add_v4(dev, address),
                    (Family::V4, true) => self.change_v4(dev, address),
                    (Family::V6, false) => self.add_v6(dev, address),
                    (Family::V6, true) => self.change_v6(dev, address),
                }
            }
            Op::DeleteAddress { dev, address } => {
                self.link_mut(dev)?;
                match address.family() {
                    Family::V4 => self.delete_v4(dev, address),
                    Family::V6 => self.delete_v6(dev, address),
                }
            }
            Op::AppendRoute(route) => self.add_route(route, Place::Behind),
            Op::PrependRoute(route) => self.add_route(route, Place::Before),
            Op::ReplaceRoute(route) => self.add_route(route, Place::Instead),
            Op::DeleteRoute(route) => self.delete_route(route),
            Op::SetNexthop(object) => {
                let objects = &mut self.state.nexthops;
                objects.retain(|o| o.id != object.id);
                objects.push(object.clone());
                objects.sort_by_key(|o| o.id);
                Ok(())
            }
            Op::DeleteNexthop(object) => {
                let before = self.state.nexthops.len();
                self.state.nexthops.retain(|o| o.id != object.id);
                self.state.routes.retain(|r| r.nexthop != Some(object.id));
                found(before != self.state.nexthops.len(), Errno::ENOENT)
            }
            Op::SetNeighbour(n) => {
                self.link_mut(&n.dev)?;
                let same = |o: &vmbr::model::Neighbour| {
                    o.dev == n.dev && o.address == n.address && o.is_proxy() == n.is_proxy()
                };
                self.state.neighbours.retain(|o| !same(o));
                self.state.neighbours.push(n.clone());
                Ok(())
            }
            Op::DeleteNeighbour(n) => {
                let before = self.state.neighbours.len();
                self.state
                    .neighbours
                    .retain(|o| o.dev != n.dev || o.address != n.address || o.is_proxy() != n.is_proxy());
                found(before != self.state.neighbours.len(), Errno::ENOENT)
            }
            Op::AddRule(rule) => {
                if self.state.rules.contains(rule) {
                    return Err(Errno::EEXIST);
                }
                self.state.rules.push(rule.clone());
                self.state.rules.sort_by_key(|r| (r.family, r.priority));
                Ok(())
            }
            Op::DeleteRule(rule) => {
                let place = self.state.rules.iter().position(|r| r == rule);
                place
                    .map(|p| drop(self.state.rules.remove(p)))
                    .ok_or(Errno::ENOENT)
            }
            Op::SetSysctl { dev, key, value } => {
                let settings = self.state.sysctls.get_mut(dev.as_str()).ok_or(Errno::ENOENT)?;
                settings.insert(key.clone(), value.clone());
                Ok(())
            }
            Op::AwaitRunning { .. } | Op::AwaitAddresses { .. } | Op::SolicitRouters { .. } => Ok(()),
            Op::CreateVeth { .. } | Op::SetNoArp { .. } | Op::Translate(_) | Op::StopTranslation { .. } => {
                panic!("{op}: nothing of mode mac-nat is in a plan that moves a network")
            }
        }
    }

    /// Performs an operation as the executor does: what stands already, or is
    /// gone already, counts as done.
    ///
    /// # Panics
    /// Where the executor would fail.
    pub fn perform(&mut self, op: &Op) {
        if let Err(errno) = self.apply(op) {
            let harmless: &[Errno] = match op {
                Op::AddAddress { .. } | Op::AppendRoute(_) | Op::AddRule(_) => &[Errno::EEXIST],
                Op::DeleteAddress { .. } => &[Errno::EADDRNOTAVAIL, Errno::ENODEV],
                Op::DeleteRoute(_) => &[Errno::ESRCH, Errno::ENODEV],
                Op::DeleteNeighbour(_) | Op::DeleteRule(_) | Op::DeleteNexthop(_) => {
                    &[Errno::ENOENT, Errno::ENODEV]
                }
                Op::DeleteLink { .. } => &[Errno::ENODEV],
                _ => &[],
            };
            assert!(harmless.contains(&errno), "{op}: {errno}");
        }
    }

    /// The parts of a step between which the program can die: each operation,
    /// or all of one that is done at once.
    pub fn parts(step: &Step) -> Vec<&[Op]> {
        if step.at_once {
            vec![&step.ops]
        } else {
            step.ops.chunks(1).collect()
        }
    }

    fn link_mut(&mut self, dev: &IfName) -> Result<&mut Link, Errno> {
        let mut links = self.state.links.iter_mut();
        links.find(|l| l.name == *dev).ok_or(Errno::ENODEV)
    }

    fn is_up(&self, dev: &IfName) -> bool {
        self.state.link(dev).is_some_and(|l| l.up)
    }

    fn setting(&self, dev: &IfName, key: &str) -> u8 {
        let value = |name| {
            self.state
                .sysctl(name, key)
                .and_then(|v| v.parse().ok())
                .unwrap_or(0)
        };
        value("all").max(value(dev.as_str()))
    }

    /// A bridge runs while a port of it does (`br_port_carrier_check()`).
    fn carriers(&mut self) {
        let live: Vec<IfName> = self
            .state
            .links
            .iter()
            .filter(|l| l.up && l.carrier)
            .filter_map(|l| l.master.clone())
            .collect();
        for link in &mut self.state.links {
            if link.is_kind("bridge") {
                link.carrier = link.up && live.contains(&link.name);
            }
            link.running = link.up && link.carrier;
        }
    }

    fn set_up(&mut self, dev: &IfName, up: bool) -> Answer {
        let link = self.link_mut(dev)?;
        if link.up == up {
            return Ok(());
        }
        link.up = up;
        if !link.is_kind("bridge") {
            link.carrier = up;
        }
        self.carriers();
        if up {
            self.up_v4(dev);
            self.up_v6(dev);
        } else {
            // IPv4 keeps its addresses, IPv6 does not (`addrconf_ifdown()`).
            let list = self.state.addresses.entry(dev.clone()).or_default();
            list.retain(|a| a.family() == Family::V4);
            self.state.routes.retain(|r| !r.uses(dev));
            // Those that were set by hand as well (`neigh_ifdown()`).
            self.state.neighbours.retain(|n| n.dev != *dev);
        }
        Ok(())
    }

    fn delete_link(&mut self, dev: &IfName) -> Answer {
        self.link_mut(dev)?;
        self.state.links.retain(|l| l.name != *dev);
        for link in &mut self.state.links {
            if link.master.as_ref() == Some(dev) {
                link.master = None;
                link.port = None;
            }
        }
        let gone = self.state.addresses.remove(dev).unwrap_or_default();
        self.state.routes.retain(|r| !r.uses(dev));
        self.state.neighbours.retain(|n| n.dev != *dev);
        self.state.sysctls.remove(dev.as_str());
        for address in gone {
            self.forget_source(address.local);
        }
        Ok(())
    }

    fn add_route(&mut self, route: &Route, place: Place) -> Answer {
        for hop in &route.hops {
            let dev = hop.dev.as_ref().ok_or(Errno::EINVAL)?;
            self.link_mut(dev)?;
            if !self.is_up(dev) {
                return Err(Errno::ENETDOWN);
            }
        }
        if route.prefsrc.is_some_and(|source| !self.is_mine(source)) {
            return Err(Errno::EINVAL);
        }
        self.gateway_answers(route)?;
        let slot = |r: &Route| r.same_slot(route);
        let copy = match route.family() {
            Family::V4 => self.state.routes.iter().any(|r| r.same(route)),
            Family::V6 => self.state.routes.iter().any(|r| slot(r) && r.hops == route.hops),
        };
        let routes = &mut self.state.routes;
        let first = routes.iter().position(slot);
        match place {
            Place::Instead if first.is_some() => routes[first.unwrap()] = route.clone(),
            _ if copy => {
                // The kernel's own take over the end of life of one that has
                // an end (`fib6_add_rt2node()`).
                let standing = routes
                    .iter_mut()
                    .find(|r| r.same_slot(route) && r.hops == route.hops);
                if let Some(old) = standing.filter(|r| r.expires.is_some()) {
                    old.expires = route.expires;
                }
                return Err(Errno::EEXIST);
            }
            // Routes to one place stand in the order of their metrics.
            place => {
                let before = |r: &Route| match place {
                    Place::Before => r.metric >= route.metric,
                    _ => r.metric > route.metric,
                };
                let family = |r: &Route| r.same_slot_but_metric(route);
                let next = routes.iter().position(|r| family(r) && before(r));
                let behind = routes.iter().rposition(family).map_or(routes.len(), |p| p + 1);
                routes.insert(next.unwrap_or(behind), route.clone());
            }
        }
        Ok(())
    }

    /// Whether each route could be added as the host is now.
    pub fn gateways_are_on_links(&self) -> bool {
        self.state.routes.iter().all(|r| self.gateway_answers(r).is_ok())
    }

    /// A gateway must be on the link (`fib_check_nh()`,
    /// `ip6_route_check_nh()`).
    fn gateway_answers(&self, route: &Route) -> Answer {
        for hop in &route.hops {
            let (Some(via), Some(dev)) = (hop.via, hop.dev.as_ref()) else {
                continue;
            };
            let link_local =
                matches!(via, std::net::IpAddr::V6(a) if vmbr::model::address::is_link_local(&a));
            let on_link = |r: &Route| {
                r.kind == kind::UNICAST && r.uses(dev) && reach::covers(r, via) && r.hops[0].via.is_none()
            };
            if !link_local && !hop.onlink && !self.state.routes.iter().any(on_link) {
                let v4 = route.family() == Family::V4;
                return Err(if v4 {
                    Errno::ENETUNREACH
                } else {
                    Errno::EHOSTUNREACH
                });
            }
        }
        Ok(())
    }

    fn delete_route(&mut self, route: &Route) -> Answer {
        for dev in route.hops.iter().filter_map(|h| h.dev.as_ref()) {
            self.link_mut(dev)?;
        }
        let fits = |r: &Route| {
            r.same_slot_but_metric(route)
                && (route.metric == 0 || r.metric == route.metric)
                && r.protocol == route.protocol
                && (route.prefsrc.is_none() || r.prefsrc == route.prefsrc)
                && r.hops == route.hops
        };
        let place = self.state.routes.iter().position(fits).ok_or(Errno::ESRCH)?;
        self.state.routes.remove(place);
        Ok(())
    }

    fn is_mine(&self, address: std::net::IpAddr) -> bool {
        self.state
            .addresses
            .values()
            .flatten()
            .any(|a| a.local == address)
    }

    /// IPv4 routes from an address that no device has any more go
    /// (`fib_sync_down_addr()`).
    fn forget_source(&mut self, address: std::net::IpAddr) {
        if !self.is_mine(address) && address.is_ipv4() {
            self.state.routes.retain(|r| r.prefsrc != Some(address));
        }
    }
}

/// Where a new route comes among those of its slot.
#[derive(Clone, Copy)]
enum Place {
    Before,
    Behind,
    Instead,
}

fn found(found: bool, errno: Errno) -> Answer {
    if found { Ok(()) } else { Err(errno) }
}

/// A bridge as the kernel makes it.
fn bridge(index: u32, name: &IfName, mac: macaddr::MacAddr6) -> Link {
    Link {
        index,
        name: name.clone(),
        mac: Some(mac),
        mtu: 1500,
        hardware: 1,
        up: false,
        carrier: false,
        running: false,
        kind: Some("bridge".into()),
        master: None,
        lower: None,
        noarp: false,
        wireless: false,
        tun: None,
        port: None,
        traffic: Traffic::default(),
    }
}
