//! What the new holder gets, in a form that does not win yet.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::model::address::flag;
use crate::model::network::Sysctls;
use crate::model::route::protocol;
use crate::model::slots::Slots;
use crate::model::{Address, Family, IfName, Link, Neighbour, Route, neighbour};

use super::{
    ADDR_GEN_MODE, ADDR_GEN_NONE, ADDR_GEN_SECRET, AUTOCONF, Holder, MTU_V6, Op, Planner, RP_FILTER,
    RP_LOOSE, RP_STRICT, Shadow, by_gateway, passing_form, prefix_routes, same_but_end,
};

impl Planner<'_> {
    /// The holder itself: there, with its settings, up.
    pub(super) fn device(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        let dev = || self.holder.clone();
        let link = self.live.link(self.holder);
        // One that was set up a moment ago: as a port it would stay disabled
        // until the kernel has seen that it runs (`br_add_if()`).
        let about_to_run = |l: &Link| l.up && l.carrier && !l.running;
        if self.moving && self.live.link(&self.target.uplink).is_some_and(about_to_run) {
            ops.push(Op::AwaitRunning {
                dev: self.target.uplink.clone(),
            });
        }
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
    /// Without its mode the kernel makes the addresses of advertisements from
    /// the MAC (`addrconf_prefix_rcv_add_addr()`, net/ipv6/addrconf.c): where
    /// they come from a secret, it makes none until the mode is back.
    pub(super) fn passing_sysctls(&self) -> Sysctls {
        let mut sysctls = self.target.network.sysctls.clone();
        if self.moving {
            let mut from_secret = false;
            if let Some(mode) = sysctls.get_mut(ADDR_GEN_MODE) {
                from_secret = ADDR_GEN_SECRET.contains(&mode.as_str());
                ADDR_GEN_NONE.clone_into(mode);
            }
            if let Some(autoconf) = sysctls.get_mut(AUTOCONF).filter(|_| from_secret) {
                "0".clone_into(autoconf);
            }
            let all = self.live.sysctl("all", RP_FILTER) == Some(RP_STRICT);
            let drops = |filter: &&mut String| **filter == RP_STRICT || (all && **filter == "0");
            if let Some(filter) = sysctls.get_mut(RP_FILTER).filter(drops) {
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

    pub(super) fn sysctl(&self, dev: &IfName, key: &str, value: &str) -> Op {
        Op::SetSysctl {
            dev: dev.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    /// Writes to the holder what differs. The order matters: with IPv6
    /// disabled nothing else of it takes effect, and the stable secret sets
    /// the mode of address generation, by which advertisements make theirs.
    pub(super) fn write_sysctls(&self, from: &Sysctls, to: &Sysctls) -> Vec<Op> {
        let rank = |key: &str, value: &str| match key {
            "ipv6/conf/disable_ipv6" => 0,
            "ipv6/conf/stable_secret" => 1,
            ADDR_GEN_MODE => 3,
            AUTOCONF if value != "0" => 4,
            _ => 2,
        };
        let mut differing: Vec<_> = to
            .iter()
            .filter(|(key, value)| from.get(*key) != Some(*value))
            .collect();
        differing.sort_by_key(|(key, value)| rank(key, value));
        differing
            .into_iter()
            .map(|(key, value)| self.sysctl(self.holder, key, value))
            .collect()
    }

    /// Addresses that the holder lacks. The kernel puts a new IPv4 address
    /// behind the others and a new IPv6 one in front of those of its scope
    /// (`ipv6_link_dev_addr()`), so that IPv6's go in from the last.
    pub(super) fn addresses(&self) -> Vec<Vec<Op>> {
        let missing = |wanted: &&Address| !self.have.addresses.iter().any(|a| a.same_key(wanted));
        let add = |address: Address| Op::AddAddress {
            dev: self.holder.clone(),
            address,
        };
        let v4 = self.wanted(Family::V4).filter(missing).cloned();
        let v6 = self.wanted(Family::V6).rev().filter(missing).map(passing_form);
        v4.chain(v6)
            .map(|address| self.without_unwanted_routes(add(address)))
            .collect()
    }

    /// `op`, and with an address the end of the routes that the kernel makes
    /// with it and the target does not have: someone had removed them. All at
    /// once, for such a route can win over a shorter one, by the old holder or
    /// by a gateway, that carries the packets now.
    pub(super) fn without_unwanted_routes(&self, op: Op) -> Vec<Op> {
        let up = self.target.holder == Holder::Bridge || self.target.uplink_up;
        let wanted = |made: &Route| {
            let same = |r: &Route| r.same_slot(made) && r.protocol == protocol::KERNEL;
            self.target.network.routes.iter().any(same)
        };
        let made = match &op {
            Op::AddAddress { address, .. } | Op::ChangeAddress { address, .. } if up => {
                prefix_routes(address, self.holder)
            }
            _ => Vec::new(),
        };
        let unwanted = made.into_iter().filter(|made| !wanted(made));
        let removals: Vec<Op> = unwanted.map(Op::DeleteRoute).collect();
        [op].into_iter().chain(removals).collect()
    }

    /// Routes that the holder lacks: those on the link before those by a
    /// gateway, which must be on the link.
    pub(super) fn routes(&self, shadows: &[Shadow]) -> Vec<Op> {
        let mut routes = Vec::new();
        let have = Slots::of(&self.have.routes);
        // By their place in memory: the routes of the target themselves.
        let by_route: HashMap<*const Route, &Shadow> =
            shadows.iter().map(|s| (std::ptr::from_ref(s.route), s)).collect();
        for route in self
            .target
            .network
            .routes
            .iter()
            .filter(|r| r.nexthop.is_none() && !self.comes_with_new_address_v4(r))
        {
            match by_route.get(&std::ptr::from_ref(route)) {
                Some(shadow) if shadow.must_add => routes.push(shadow.copy.clone()),
                Some(_) => {}
                None if have.near(route).any(|r| same_but_end(r, route)) => {}
                None => routes.push(route.clone()),
            }
        }
        routes.sort_by_key(by_gateway);
        routes.into_iter().map(Op::AppendRoute).collect()
    }

    /// Neighbours that the holder lacks. What the other has resolved is
    /// handed on as reachable: nothing stalls for an answer to a question.
    pub(super) fn neighbours(&self) -> Vec<Op> {
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
    pub(super) fn rules(&self) -> Vec<Op> {
        let wanted = &self.target.network.rules;
        wanted
            .iter()
            .filter(|r| !self.have.rules.contains(r))
            .cloned()
            .map(Op::AddRule)
            .collect()
    }

    /// Waits for the IPv6 addresses that need no duplicate address detection:
    /// with the other's copies gone, the host would drop what is sent to them.
    pub(super) fn await_addresses(&self) -> Vec<Op> {
        let leaves_other = |wanted: &&Address| self.left.addresses.iter().any(|a| a.same_key(wanted));
        let spared = |a: &Address| passing_form(a).flags & flag::NODAD != 0;
        let new = self
            .wanted(Family::V6)
            .filter(leaves_other)
            .filter(|a| spared(a))
            .filter_map(|a| match a.local {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
        let addresses: Vec<_> = new.collect();
        let up = self.target.holder == Holder::Bridge || self.target.uplink_up;
        if addresses.is_empty() || !up {
            return Vec::new();
        }
        vec![Op::AwaitAddresses {
            dev: self.holder.clone(),
            addresses,
        }]
    }
}

/// Whether what a device knows of a neighbour needs no question to it.
fn is_fresh(known: &Neighbour, wanted: &Neighbour) -> bool {
    known.mac == wanted.mac && known.state & neighbour::state::REACHABLE != 0
}
