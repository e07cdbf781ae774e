//! What networkd sees of a device, and what it can say there.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use crate::model::route::{METRIC_ADDRCONF, kind, protocol, table};
use crate::model::{Hop, IfName, Prefix, Route};
use crate::netlink::wire::Wire;
use crate::netlink::{dump, write};
use crate::plan::Op;

use super::index;

/// A metric that is behind every other.
const BEHIND: u32 = u32::MAX - 1;

/// Shows networkd what it has forgotten of a device and does not ask for: the
/// link-local IPv6 addresses, which are set to what they are, and by copies
/// behind them the routes by which gateways are reached (`gateway_is_ready()`
/// of networkd-route-util.c). Gives the copies.
pub(super) fn show(device: &IfName) -> Vec<Op> {
    let Ok(live) = dump::network() else {
        return Vec::new();
    };
    let ours = live.addresses_of(device);
    let link_local = ours.iter().filter(|a| a.is_link_local_v6());
    perform(&link_local.map(|address| Op::ChangeAddress {
        dev: device.clone(),
        address: address.clone(),
    }));
    let mine = live.routes.iter().filter(|route| route.uses(device));
    let prefixes = mine.filter(|route| {
        route.protocol == protocol::KERNEL
            && route.kind == kind::UNICAST
            && route.metric != BEHIND
            && ours
                .iter()
                .any(|a| !a.is_link_local_v6() && a.on_link() == route.dst)
    });
    let copies: Vec<Route> = prefixes
        .map(|route| Route {
            metric: BEHIND,
            ..route.clone()
        })
        .collect();
    perform(&copies.iter().cloned().map(Op::AppendRoute));
    copies.into_iter().map(Op::DeleteRoute).collect()
}

/// Performs operations that only serve to be seen: what fails is no matter.
pub(super) fn perform(ops: &(impl Iterator<Item = Op> + Clone)) {
    let Ok(mut wire) = Wire::open() else {
        return;
    };
    let mut number = |name: &IfName| index(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    for op in ops.clone() {
        if let Ok(Some(message)) = write::message(&op, &mut number) {
            let _ = wire.send(message);
        }
    }
}

/// The kernel's route to every group on a device (`addrconf_add_mroute()`).
fn groups(device: &IfName) -> Route {
    Route {
        dst: Prefix {
            address: IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
            len: 8,
        },
        src: None,
        table: table::LOCAL,
        kind: kind::MULTICAST,
        protocol: protocol::KERNEL,
        scope: 0,
        tos: 0,
        metric: METRIC_ADDRCONF,
        prefsrc: None,
        hops: vec![Hop {
            dev: Some(device.clone()),
            ..Hop::default()
        }],
        metrics: Vec::new(),
        preference: None,
        expires: None,
        nexthop: None,
        rest: Vec::new(),
    }
}

/// Takes the way to DHCPv6's servers from a port: with 254 a client that is
/// stopped releases its lease (`client_send_release()` of sd-dhcp6-client.c),
/// which the bridge holds. DHCPv4's release does not get through anyhow: the
/// port hears no answer to its ARP.
pub(super) fn mute(port: &IfName) {
    perform(&[Op::DeleteRoute(groups(port))].into_iter());
}

/// Gives it back; where it is there nothing happens.
pub(super) fn unmute(device: &IfName) {
    perform(&[Op::AppendRoute(groups(device))].into_iter());
}
