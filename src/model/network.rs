//! The IP network that one device carries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::address::{FOREVER, scope};
use super::route::protocol;
use super::slots::Slots;
use super::{Address, Family, HostState, IfName, Neighbour, Nexthop, Route, Rule, is_default, nexthop};

/// Per-device settings under /proc/sys/net, by `ipv4/conf/rp_filter`: the
/// path without the device's part.
pub type Sysctls = BTreeMap<String, String>;

/// All of the IP network that one device carries: what moves when the device
/// becomes a bridge's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The device.
    pub dev: IfName,
    /// Its addresses in the kernel's order, which decides on source addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub addresses: Vec<Address>,
    /// Routes of every table with a hop by the device, without those that
    /// belong to the kernel, in the kernel's order. Those that use a nexthop
    /// object have no hops of their own here.
    #[serde(default, skip_serializing_if = "is_default")]
    pub routes: Vec<Route>,
    /// Nexthop objects that leave by the device, then groups with one of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nexthops: Vec<Nexthop>,
    /// Its configured and its resolved neighbours.
    #[serde(default, skip_serializing_if = "is_default")]
    pub neighbours: Vec<Neighbour>,
    /// Rules that name the device.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rules: Vec<Rule>,
    /// Its settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sysctls: Sysctls,
}

impl Network {
    /// What `dev` carries on `host`: empty where there is no such device.
    pub fn of(host: &HostState, dev: &IfName) -> Self {
        let nexthops = nexthop::of_device(&host.nexthops, dev);
        let carries = |r: &&Route| match r.nexthop {
            Some(id) => nexthops.iter().any(|object| object.id == id),
            None => r.uses(dev) && !r.belongs_to_kernel(),
        };
        let routes = host.routes.iter().filter(carries);
        Self {
            dev: dev.clone(),
            addresses: host.addresses.get(dev).cloned().unwrap_or_default(),
            routes: routes.map(Route::without_objects_hops).collect(),
            nexthops,
            neighbours: host
                .neighbours
                .iter()
                .filter(|n| n.dev == *dev && (n.is_configured() || n.is_resolved()))
                .cloned()
                .collect(),
            rules: host.rules.iter().filter(|r| r.names(dev)).cloned().collect(),
            sysctls: host.sysctls.get(dev.as_str()).cloned().unwrap_or_default(),
        }
    }

    /// The same network as another device would carry it.
    pub fn moved_to(&self, dev: &IfName) -> Self {
        Self {
            dev: dev.clone(),
            addresses: self.addresses.clone(),
            routes: self.routes.iter().map(|r| r.renamed(&self.dev, dev)).collect(),
            nexthops: self.nexthops.iter().map(|n| n.renamed(&self.dev, dev)).collect(),
            neighbours: self
                .neighbours
                .iter()
                .map(|n| Neighbour {
                    dev: dev.clone(),
                    ..n.clone()
                })
                .collect(),
            rules: self.rules.iter().map(|r| r.renamed(&self.dev, dev)).collect(),
            sysctls: self.sysctls.clone(),
        }
    }

    /// The same network with what also stands in `order` first and in its
    /// order: the kernel's order of addresses decides which one is used.
    pub fn ordered_as(mut self, order: &Self) -> Self {
        let place = |found: Option<usize>| found.unwrap_or(usize::MAX);
        self.addresses
            .sort_by_key(|a| place(order.addresses.iter().position(|o| o.same_key(a))));
        let routes = Slots::of(&order.routes);
        self.routes.sort_by_cached_key(|r| place(routes.place(r)));
        self.rules
            .sort_by_key(|r| place(order.rules.iter().position(|o| o == r)));
        self
    }

    /// The same network `seconds` later: lifetimes are shorter, and what has
    /// ended is gone.
    pub fn aged(&self, seconds: u32) -> Self {
        let left = |lifetime: u32| match lifetime {
            FOREVER => FOREVER,
            lifetime => lifetime.saturating_sub(seconds),
        };
        let mut aged = self.clone();
        for address in &mut aged.addresses {
            (address.preferred, address.valid) = (left(address.preferred), left(address.valid));
        }
        aged.addresses.retain(|address| address.valid > 0);
        for route in &mut aged.routes {
            route.expires = route.expires.map(left);
        }
        aged.routes.retain(|route| route.expires != Some(0));
        aged
    }

    /// Takes the lifetimes of what `now` has, too: a router or a DHCP server
    /// may have renewed them.
    pub fn renew(&mut self, now: &Self) {
        for address in self
            .addresses
            .iter_mut()
            .filter(|address| !address.is_permanent())
        {
            if let Some(renewed) = now.addresses.iter().find(|a| a.same_key(address)) {
                (address.preferred, address.valid) = (renewed.preferred, renewed.valid);
            }
        }
        for route in self.routes.iter_mut().filter(|route| route.expires.is_some()) {
            if let Some(renewed) = now.routes.iter().find(|r| r.same(route)) {
                route.expires = renewed.expires;
            }
        }
    }

    /// The same network, but of each family of which `now` has an address that
    /// reaches beyond the link, the addresses and routes that `now` has.
    pub fn unless_there(&self, now: &Self) -> Self {
        let there = |family| {
            let mut own = now.addresses.iter().filter(|a| a.family() == family);
            own.any(|a| !a.is_link_local_v6())
        };
        let mut network = self.clone();
        for family in [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| there(*family))
        {
            network.addresses.retain(|a| a.family() != family);
            network.routes.retain(|r| r.family() != family);
            let addresses = now.addresses.iter().filter(|a| a.family() == family);
            network.addresses.extend(addresses.cloned());
            let routes = now.routes.iter().filter(|r| r.family() == family);
            network.routes.extend(routes.cloned());
        }
        network
    }

    /// What is not as it was in `earlier`, in a word or two; none where nothing
    /// has changed. Lifetimes that run down, what an advertisement renews,
    /// learned neighbours and settings count for nothing.
    pub fn change_since(&self, earlier: &Self) -> Option<&'static str> {
        let same_address = |(now, then): (&Address, &Address)| {
            if now.family() == Family::V6 && !now.is_permanent() && !then.is_permanent() {
                let (preferred, valid) = (then.preferred, then.valid);
                let renewed = Address {
                    preferred,
                    valid,
                    ..now.clone()
                };
                renewed.same_content(then)
            } else {
                now.same_content(then)
            }
        };
        let configured = |network: &Self| -> Vec<Neighbour> {
            let all = network.neighbours.iter();
            all.filter(|n| n.is_configured()).cloned().collect()
        };
        if !all_alike(&self.addresses, &earlier.addresses, same_address) {
            Some("addresses")
        } else if !all_alike(&self.routes, &earlier.routes, |(now, then)| now.same(then)) {
            Some("routes")
        } else if self.nexthops != earlier.nexthops {
            Some("nexthop objects")
        } else if self.rules != earlier.rules {
            Some("rules")
        } else if configured(self) != configured(earlier) {
            Some("configured neighbours")
        } else {
            None
        }
    }

    /// Whether this is what the kernel leaves of `earlier` where the device was
    /// set down in between: IPv4 keeps its addresses, and every route goes that
    /// was configured, and what IPv6 has (`fib_disable_ip()`, net/ipv4/
    /// fib_frontend.c; `addrconf_ifdown()`, net/ipv6/addrconf.c). Nobody wanted
    /// any of it gone.
    pub fn fell_since(&self, earlier: &Self) -> bool {
        let of = |network: &Self, family| -> Vec<Address> {
            let own = network.addresses.iter().filter(|a| a.family() == family);
            let set = own.filter(|a| a.is_permanent() && a.scope != scope::LINK);
            set.cloned().collect()
        };
        let configured = |network: &Self| {
            let made = [protocol::KERNEL, protocol::RA];
            let routes = network.routes.iter().filter(|r| !made.contains(&r.protocol));
            routes.count() + network.nexthops.len() + of(network, Family::V6).len()
        };
        let (now, then) = (of(self, Family::V4), of(earlier, Family::V4));
        all_alike(&now, &then, |(now, then)| now.same_content(then))
            && configured(self) == 0
            && configured(earlier) > 0
    }

    /// Whether there is nothing to move: no address, route, nexthop object,
    /// rule or configured neighbour.
    pub fn is_bare(&self) -> bool {
        self.addresses.is_empty()
            && self.routes.is_empty()
            && self.nexthops.is_empty()
            && self.rules.is_empty()
            && !self.neighbours.iter().any(Neighbour::is_configured)
    }
}

/// Whether two lists are, one by one, alike.
pub(super) fn all_alike<T>(now: &[T], then: &[T], alike: impl Fn((&T, &T)) -> bool) -> bool {
    now.len() == then.len() && now.iter().zip(then).all(alike)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, preferred: u32, valid: u32) -> Address {
        serde_json::from_value(serde_json::json!({
            "local": text, "prefix_len": 64, "preferred": preferred, "valid": valid
        }))
        .unwrap()
    }

    #[test]
    fn ages_and_is_renewed() {
        let network = Network {
            dev: "eth0".parse().unwrap(),
            addresses: vec![
                address("2001:db8::1", FOREVER, FOREVER),
                address("2001:db8::2", 20, 90),
                address("2001:db8::3", 10, 60),
            ],
            routes: Vec::new(),
            nexthops: Vec::new(),
            neighbours: Vec::new(),
            rules: Vec::new(),
            sysctls: Sysctls::new(),
        };
        let mut aged = network.aged(60);
        assert_eq!(
            aged.addresses,
            [
                address("2001:db8::1", FOREVER, FOREVER),
                address("2001:db8::2", 0, 30)
            ]
        );
        let now = Network {
            addresses: vec![
                address("2001:db8::1", 0, 70),
                address("2001:db8::2", 100, 100),
                address("2001:db8::4", 100, 100),
            ],
            ..network.clone()
        };
        aged.renew(&now);
        assert_eq!(
            aged.addresses,
            [
                address("2001:db8::1", FOREVER, FOREVER),
                address("2001:db8::2", 100, 100)
            ]
        );
        assert_eq!(network.aged(0), network);
    }

    /// A network of addresses alone.
    fn network(addresses: &[Address]) -> Network {
        Network {
            dev: "eth0".parse().unwrap(),
            addresses: addresses.to_vec(),
            routes: Vec::new(),
            nexthops: Vec::new(),
            neighbours: Vec::new(),
            rules: Vec::new(),
            sysctls: Sysctls::new(),
        }
    }

    #[test]
    fn what_is_there_stands_family_by_family() {
        let (old, new) = (address("192.0.2.21", 90, 90), address("192.0.2.108", 120, 120));
        let (v6, link) = (
            address("2001:db8::21", 90, 90),
            address("fe80::21", FOREVER, FOREVER),
        );
        let record = network(&[old.clone(), v6.clone()]);
        assert_eq!(record.unless_there(&network(&[])), record);
        // Another lease; and IPv6 is not there yet.
        let now = network(&[new.clone(), link]);
        assert_eq!(record.unless_there(&now), network(&[v6.clone(), new]));
        let now = network(std::slice::from_ref(&v6));
        assert_eq!(record.unless_there(&now), network(&[old, v6]));
    }

    #[test]
    fn time_that_passes_is_no_change() {
        let leased = |seconds| address("192.0.2.21", seconds, seconds);
        let learned = |seconds| address("2001:db8::1", seconds, seconds);
        let before = network(&[leased(100), learned(100)]);
        assert_eq!(before.change_since(&before), None);
        assert_eq!(network(&[leased(98), learned(9_000)]).change_since(&before), None);
        for changed in [
            vec![leased(9_000), learned(100)],
            vec![leased(100), learned(FOREVER)],
            vec![learned(100), leased(100)],
            vec![leased(100)],
        ] {
            assert_eq!(network(&changed).change_since(&before), Some("addresses"));
        }
    }

    #[test]
    fn what_a_device_loses_when_it_is_set_down() {
        let (v4, v6) = (
            address("192.0.2.21", FOREVER, FOREVER),
            address("2001:db8::21", FOREVER, FOREVER),
        );
        let before = network(&[v4.clone(), v6.clone()]);
        let (only_v4, only_v6) = (network(&[v4]), network(&[v6]));
        assert!(only_v4.fell_since(&before));
        // Someone has taken this, or nothing was lost.
        assert!(!only_v6.fell_since(&before));
        assert!(!network(&[]).fell_since(&before));
        assert!(!before.fell_since(&before));
        assert!(!only_v4.fell_since(&only_v4));
    }
}
