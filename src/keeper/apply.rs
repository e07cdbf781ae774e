//! A lease as the kernel's addresses and routes: what is missing of it, purely.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::address::scope;
use crate::model::route::{kind, protocol, table};
use crate::model::{Address, Family, Hop, HostState, IfName, Prefix, Route};
use crate::plan::{Op, Plan, Stage, Step};

use super::file::Duty;
use super::lease::Lease;
use super::message::Way;

/// What leads from `live` to a lease; `old` is the address that it is instead
/// of, `ways` what the server named before, where that is known.
///
/// All of it is one datagram: the new address before the old one goes, and
/// once more behind it. Where both are of one network, the kernel takes the
/// new one along with the old (`promote_secondaries`).
pub fn plan(
    live: &HostState,
    duty: &Duty,
    lease: &Lease,
    old: Option<Ipv4Addr>,
    ways: Option<&[Way]>,
) -> Plan {
    let dev = &duty.bridge;
    let here = live.addresses_of(dev);
    let mut ops = Vec::new();
    let has = here.iter().find(|a| a.local == IpAddr::V4(lease.address));
    let gone = old.and_then(|old| here.iter().find(|a| a.local == IpAddr::V4(old)));
    match has {
        // As long as the lease; one that was given without an end stays so.
        Some(has) if !has.is_permanent() => ops.push(Op::ChangeAddress {
            dev: dev.clone(),
            address: lasting(has.clone(), lease),
        }),
        Some(_) => {}
        None => {
            let address = address(duty, lease);
            ops.push(Op::AddAddress {
                dev: dev.clone(),
                address: address.clone(),
            });
            if let Some(gone) = gone {
                ops.push(Op::DeleteAddress {
                    dev: dev.clone(),
                    address: gone.clone(),
                });
                ops.push(Op::AddAddress {
                    dev: dev.clone(),
                    address,
                });
            }
        }
    }
    let moved = has.is_none() || ways.is_some_and(|before| before != lease.ways);
    if moved {
        ops.extend(routes(live, duty, lease, old));
    }
    one_step(ops)
}

/// What takes the address of a lease that is over.
pub fn removal(live: &HostState, bridge: &IfName, address: Ipv4Addr) -> Plan {
    let here = live.addresses_of(bridge).iter();
    let gone = here.filter(|a| a.local == IpAddr::V4(address));
    let ops = gone.map(|address| Op::DeleteAddress {
        dev: bridge.clone(),
        address: address.clone(),
    });
    one_step(ops.collect())
}

fn one_step(ops: Vec<Op>) -> Plan {
    let step = Step {
        at_once: true,
        stage: Stage::Settle,
        ops,
    };
    Plan {
        steps: Some(step)
            .filter(|step| !step.ops.is_empty())
            .into_iter()
            .collect(),
    }
}

/// An address for as long as a lease.
fn lasting(address: Address, lease: &Lease) -> Address {
    let seconds = lease.seconds.unwrap_or(crate::model::address::FOREVER);
    Address {
        preferred: seconds,
        valid: seconds,
        ..address
    }
}

/// The address of a lease, in all else like the one that was there before.
fn address(duty: &Duty, lease: &Lease) -> Address {
    let prefix_len = lease.prefix.unwrap_or(duty.address.prefix_len);
    let network = u32::from(lease.address);
    let hosts = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    let new = Address {
        local: lease.address.into(),
        peer: None,
        prefix_len,
        broadcast: duty
            .address
            .broadcast
            .filter(|_| prefix_len < 31)
            .map(|_| Ipv4Addr::from(network | hosts)),
        ..duty.address.clone()
    };
    if duty.address.is_permanent() {
        new
    } else {
        lasting(new, lease)
    }
}

/// The ways of a lease as routes, and the removal of those that they are
/// instead of.
fn routes(live: &HostState, duty: &Duty, lease: &Lease, old: Option<Ipv4Addr>) -> Vec<Op> {
    let dev = &duty.bridge;
    let mine = |route: &&Route| {
        route.family() == Family::V4
            && route.uses(dev)
            && route.table == table::MAIN
            && route.kind == kind::UNICAST
            && route.protocol != protocol::KERNEL
            && route.nexthop.is_none()
            && route.hops.len() == 1
    };
    let here: Vec<&Route> = live.routes.iter().filter(mine).collect();
    let like = here
        .iter()
        .copied()
        .find(|route| route.dst.len == 0)
        .or(duty.route.as_ref());
    let wanted: Vec<Route> = lease
        .ways
        .iter()
        .map(|way| route(way, duty, lease, like))
        .collect();
    let instead = |route: &&Route| {
        let replaced = wanted
            .iter()
            .any(|new| new.dst == route.dst && new.metric == route.metric);
        replaced || (old.is_some() && route.prefsrc == old.map(IpAddr::V4))
    };
    let stays = |route: &&&Route| {
        wanted
            .iter()
            .any(|new| new.dst == route.dst && new.hops == route.hops)
    };
    let goes = here.iter().filter(|r| instead(r)).filter(|r| !stays(r));
    let goes: Vec<Op> = goes.map(|route| Op::DeleteRoute((*route).clone())).collect();
    wanted.into_iter().map(Op::AppendRoute).chain(goes).collect()
}

fn route(way: &Way, duty: &Duty, lease: &Lease, like: Option<&Route>) -> Route {
    let length = lease.prefix.unwrap_or(duty.address.prefix_len);
    let on_link = |via: &Ipv4Addr| {
        Prefix::containing((*via).into(), length) == Prefix::containing(lease.address.into(), length)
    };
    Route {
        dst: way.to,
        src: None,
        table: table::MAIN,
        kind: kind::UNICAST,
        protocol: like.map_or(protocol::DHCP, |route| route.protocol),
        scope: if way.via.is_some() {
            scope::UNIVERSE
        } else {
            scope::LINK
        },
        tos: 0,
        metric: like.map_or(0, |route| route.metric),
        prefsrc: like.and_then(|route| route.prefsrc).map(|_| lease.address.into()),
        hops: vec![Hop {
            dev: Some(duty.bridge.clone()),
            via: way.via.map(IpAddr::V4),
            weight: 0,
            onlink: way.via.is_some_and(|via| !on_link(&via)),
            rest: Vec::new(),
        }],
        metrics: like.map(|route| route.metrics.clone()).unwrap_or_default(),
        preference: None,
        expires: None,
        nexthop: None,
        rest: Vec::new(),
    }
}
