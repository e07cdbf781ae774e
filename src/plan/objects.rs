//! Which nexthop objects of a target can stand.

use crate::model::nexthop::Member;
use crate::model::{HostState, Nexthop, Route};

use super::Target;

/// The nexthop objects of the target as they can stand on `live`: none where
/// the uplink has no carrier, since the kernel would remove them at once
/// (`nh_netdev_event()`, net/ipv4/nexthop.c), and groups with those members
/// alone that are there.
pub(super) fn wanted(live: &HostState, target: &Target) -> Vec<Nexthop> {
    let carried = live
        .link(&target.uplink)
        .is_some_and(|link| link.running || (link.up && link.carrier));
    let objects = &target.network.nexthops;
    let there = |member: &Member| {
        let mut all = live.nexthops.iter().chain(objects);
        all.any(|object| object.id == member.id)
    };
    let standing = |object: &Nexthop| Nexthop {
        members: object.members.iter().copied().filter(there).collect(),
        ..object.clone()
    };
    if carried {
        objects.iter().map(standing).collect()
    } else {
        Vec::new()
    }
}

/// The routes of the target whose nexthop object can stand.
pub(super) fn wanted_routes<'a>(
    live: &HostState,
    target: &'a Target,
) -> impl Iterator<Item = &'a Route> + use<'a> {
    let ids: Vec<u32> = wanted(live, target).iter().map(|object| object.id).collect();
    let routes = target.network.routes.iter();
    routes.filter(move |route| route.nexthop.is_some_and(|id| ids.contains(&id)))
}
