//! Who can be reached, and by which way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vmbr::model::route::{kind, table};
use vmbr::model::{Address, Family, Hop, IfName, Link, Prefix, Route};

use super::Kernel;
use super::world::UPLINK;

const RP_FILTER: &str = "ipv4/conf/rp_filter";

/// Whether a route's destination has an address in it.
pub(super) fn covers(route: &Route, to: IpAddr) -> bool {
    Family::of(&to) == route.family() && Prefix::containing(to, route.dst.len) == route.dst
}

/// Neighbours on the link of an address: one near its prefix's beginning, one
/// near its end, for a longer prefix may cover one of them.
fn neighbours_of(prefix: Prefix, mine: IpAddr) -> Vec<IpAddr> {
    if prefix.is_host() {
        return vec![prefix.address];
    }
    let at = |place: u128| match prefix.address {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + place as u32).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + place).into()),
    };
    let bits = if prefix.address.is_ipv4() { 32 } else { 128 };
    let last = (1_u128 << (bits - prefix.len)) - 1;
    [[4, 5], [last - 5, last - 4]]
        .iter()
        .filter_map(|places| places.iter().map(|place| at(*place)).find(|a| *a != mine))
        .collect()
}

impl Kernel {
    /// The addresses at which neighbours on the uplink's wire reach the host
    /// and get an answer, each with the neighbour.
    pub fn reachable(&self) -> BTreeSet<(IpAddr, IpAddr)> {
        let state = self.state();
        let receives = |l: &&Link| l.up && l.running && l.master.is_none() && self.is_on_wire(&l.name);
        let mut found = BTreeSet::new();
        for link in state.links.iter().filter(receives) {
            for address in state.addresses_of(&link.name) {
                let answered = neighbours_of(address.on_link(), address.local)
                    .into_iter()
                    .filter(|from| self.answers(address, *from, link));
                found.extend(answered.map(|from| (address.local, from)));
            }
        }
        found
    }

    /// Whether what comes from a neighbour by the link is answered on its wire.
    fn answers(&self, address: &Address, from: IpAddr, link: &Link) -> bool {
        let Some(way) = self.lookup(from, &link.name) else {
            return false;
        };
        let back = way.hops[0].dev.as_ref().unwrap();
        let strict = address.family() == Family::V4 && self.setting(&link.name, RP_FILTER) == 1;
        self.is_on_wire(back) && (!strict || *back == link.name)
    }

    /// By which gateway what is not on any link leaves over the uplink's wire.
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        let to = match family {
            Family::V4 => "203.0.113.250".parse().unwrap(),
            Family::V6 => "2001:db8:ffff::250".parse().unwrap(),
        };
        let way = self.lookup(to, &UPLINK.parse().unwrap())?;
        let hop = &way.hops[0];
        hop.via.filter(|_| self.is_on_wire(hop.dev.as_ref().unwrap()))
    }

    /// The hops by which something is sent; none where there is no way. Which
    /// one of several is taken is no matter here.
    pub fn ways(&self, to: IpAddr) -> &[Hop] {
        let way = self.lookup(to, &UPLINK.parse().unwrap());
        way.map_or(&[], |route| &route.hops)
    }

    /// What is sent by the device gets to the uplink's wire. A port still
    /// transmits.
    fn is_on_wire(&self, dev: &IfName) -> bool {
        let is_port = |l: &Link| l.master.as_ref() == Some(dev) && l.name.as_str() == UPLINK && l.running;
        let link = self.state.link(dev);
        link.is_some_and(|l| l.running) && (dev.as_str() == UPLINK || self.state.links.iter().any(is_port))
    }

    /// The route that wins: the longest prefix, the lowest metric, the first.
    /// To a link-local address only routes of the device itself count.
    fn lookup(&self, to: IpAddr, dev: &IfName) -> Option<&Route> {
        let scoped = matches!(to, IpAddr::V6(a) if vmbr::model::address::is_link_local(&a));
        let fits = |r: &&Route| {
            r.table == table::MAIN && r.kind == kind::UNICAST && covers(r, to) && (!scoped || r.uses(dev))
        };
        let routes = self.state.routes.iter().filter(fits);
        // Of equals, `min_by_key` gives the first.
        routes.min_by_key(|r| (128 - r.dst.len, r.metric))
    }
}
