//! The network of a host, as the kernel has it at one moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::network::Sysctls;
use super::{Address, IfName, Link, Neighbour, Nexthop, Route, Rule, is_default};

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
}
