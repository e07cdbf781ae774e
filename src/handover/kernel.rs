//! What a client leaves to do in the kernel once it has the other device.

use std::io;
use std::net::IpAddr;

use crate::model::{Address, HostState, IfName, Route};
use crate::netlink::wire::Wire;
use crate::netlink::{dump, write};
use crate::plan::Op;

/// Sets how long an address is valid, from what it is now. A client that finds
/// its address on the device does not do that before the next renewal, and the
/// address would run out under a good lease.
///
/// # Errors
/// What the kernel answered.
pub fn set_lifetime(dev: &IfName, local: IpAddr, seconds: impl Fn(&Address) -> u32) -> io::Result<()> {
    let live = dump::network()?;
    let leased = live.addresses_of(dev).iter().filter(|a| a.local == local);
    let ops = leased.filter(|a| !a.is_permanent()).map(|a| {
        let valid = seconds(a);
        Op::ChangeAddress {
            dev: dev.clone(),
            address: Address {
                valid,
                preferred: valid,
                ..a.clone()
            },
        }
    });
    perform(ops)
}

/// Deletes routes that a client's script has added where `before` has one to
/// the same place, at another metric.
///
/// # Errors
/// What the kernel answered.
pub fn drop_seconds(dev: &IfName, before: &HostState) -> io::Result<()> {
    let same = |a: &Route, b: &Route| a.dst == b.dst && a.table == b.table && a.tos == b.tos;
    let live = dump::network()?;
    let added = live.routes.iter().filter(|route| {
        let slot = |old: &&Route| old.uses(dev) && same(old, route);
        route.uses(dev)
            && route.dst.address.is_ipv4()
            && before.routes.iter().any(|old| slot(&old))
            && !before
                .routes
                .iter()
                .any(|old| slot(&old) && old.metric == route.metric)
    });
    perform(added.cloned().map(Op::DeleteRoute))
}

fn perform(ops: impl Iterator<Item = Op>) -> io::Result<()> {
    let mut wire = Wire::open()?;
    let mut index = |name: &IfName| {
        let found = nix::net::if_::if_nametoindex(name.as_str());
        found.map_err(io::Error::from)
    };
    for op in ops {
        if let Some(message) = write::message(&op, &mut index)? {
            let done = wire.send(message);
            done.map_err(|error| io::Error::other(format!("{op}: {error}")))?;
        }
    }
    Ok(())
}
