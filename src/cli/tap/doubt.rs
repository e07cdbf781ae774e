//! Guards that hold a guest to an address that is another's: no error, as an
//! address may move, but a guest with it reaches nobody.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::guard::Guard;
use crate::model::{HostState, IfName};
use crate::netlink::dump;

use super::Guards;

/// What is doubtful about the guard of these TAPs, in sentences. What cannot be
/// read is in no doubt.
pub fn about(guard: &Guard, taps: &[IfName]) -> Vec<String> {
    let own = singles(guard);
    if own.is_empty() {
        return Vec::new();
    }
    let Ok(live) = dump::network() else {
        return Vec::new();
    };
    let mut found = of_host(&own, &live);
    let guards = Guards::open();
    let others = live.links.iter().filter(|link| !taps.contains(&link.name));
    for link in others {
        let Some(other) = guards.of(link) else { continue };
        let both = singles(&other)
            .into_iter()
            .filter(|address| own.contains(address));
        found.extend(both.map(|address| format!("{address} is the address of {}'s guest, too", link.name)));
    }
    found
}

fn singles(guard: &Guard) -> BTreeSet<IpAddr> {
    let single = guard.networks.iter().filter(|network| network.is_single());
    single.map(crate::guard::Network::address).collect()
}

fn of_host(own: &BTreeSet<IpAddr>, live: &HostState) -> Vec<String> {
    let of_device = |(dev, addresses): (&IfName, &Vec<crate::model::Address>)| {
        let found: Vec<String> = addresses
            .iter()
            .filter(|address| own.contains(&address.local))
            .map(|address| format!("{} is this host's address on {dev}", address.local))
            .collect();
        found
    };
    live.addresses.iter().flat_map(of_device).collect()
}
