//! The network of a host, as the kernel has it at one moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::link::Traffic;
use super::network::{Sysctls, all_alike};
use super::slots::Slots;
use super::{Address, IfName, Link, Neighbour, Network, Nexthop, Route, Rule, is_default};

/// The network of a host (of one network namespace) at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostState {
    /// Every device, by index.
    pub links: Vec<Link>,
    /// Addresses by device, in the kernel's order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub addresses: BTreeMap<IfName, Vec<Address>>,
    /// Routes of every table.
    #[serde(default, skip_serializing_if = "is_default")]
    pub routes: Vec<Route>,
    /// Nexthop objects, by number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nexthops: Vec<Nexthop>,
    /// Rules of both families.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rules: Vec<Rule>,
    /// Neighbours and proxy entries of every device.
    #[serde(default, skip_serializing_if = "is_default")]
    pub neighbours: Vec<Neighbour>,
    /// Settings of the devices that were asked for, and of `all` and
    /// `default`, which are no devices.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, Sysctls>,
}

impl HostState {
    /// The device of this name.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        self.links.iter().find(|link| link.name == *name)
    }

    /// The devices that are ports of `master`, in the order of their index.
    pub fn ports_of<'a>(&'a self, master: &'a IfName) -> impl Iterator<Item = &'a Link> {
        self.links
            .iter()
            .filter(move |link| link.master.as_ref() == Some(master))
    }

    /// The addresses of a device.
    pub fn addresses_of(&self, name: &IfName) -> &[Address] {
        self.addresses.get(name).map_or(&[], Vec::as_slice)
    }

    /// One setting of a device, or of `all` or `default`.
    pub fn sysctl(&self, name: &str, key: &str) -> Option<&str> {
        self.sysctls.get(name)?.get(key).map(String::as_str)
    }

    /// What of that on which a change of `devices` rests is not as it was in
    /// `earlier`, in words; none where nothing has changed. That is what they
    /// carry ([`Network::change_since`]), what hangs on them, and the routes of
    /// other devices that stand beside theirs. Other devices may come and go.
    pub fn change_since(&self, earlier: &Self, devices: &[&IfName]) -> Option<String> {
        if self.hang_on(devices) != earlier.hang_on(devices) {
            return Some(format!("the state of {}", devices.first()?));
        }
        for dev in devices {
            if let Some(what) = Network::of(self, dev).change_since(&Network::of(earlier, dev)) {
                return Some(format!("the {what} of {dev}"));
            }
        }
        let (now, then) = (self.rivals(devices), earlier.rivals(devices));
        (!all_alike(&now, &then, |(now, then)| now.same(then)))
            .then(|| "the routes beside those of the uplink".to_owned())
    }

    /// What a plan asks of the devices themselves, and the names of their ports
    /// and of what is made of them. Whether a device is ready to carry packets
    /// follows from its carrier a moment later, and is waited for.
    fn hang_on<'a>(&'a self, devices: &'a [&IfName]) -> (Vec<Link>, Vec<&'a IfName>) {
        let plain = |link: &Link| Link {
            running: false,
            port: None,
            traffic: Traffic::default(),
            ..link.clone()
        };
        let named = devices.iter().filter_map(|name| self.link(name)).map(plain);
        let is_one = |name: &Option<IfName>| name.as_ref().is_some_and(|name| devices.contains(&name));
        let hang = self
            .links
            .iter()
            .filter(|l| is_one(&l.master) || is_one(&l.lower));
        (named.collect(), hang.map(|link| &link.name).collect())
    }

    /// Routes of other devices at the places of those of `devices`.
    fn rivals(&self, devices: &[&IfName]) -> Vec<&Route> {
        let uses = |r: &Route| devices.iter().any(|dev| r.uses(dev));
        let slots = Slots::of(&self.routes);
        let others = self.routes.iter().filter(|r| !uses(r));
        others
            .filter(|r| slots.near(r).any(|near| uses(near) && !near.belongs_to_kernel()))
            .collect()
    }
}
