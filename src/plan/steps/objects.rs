//! Nexthop objects and the routes that use them.
//!
//! An object is put on the other device in its place, and all its routes, also
//! those by a group that it is a member of, use it there from that moment on.
//! The kernel takes a device for it only if that is up and has a carrier, and
//! a gateway only if a route leads to it (`rtm_to_nh_config()`,
//! `nexthop_create()`, net/ipv4/nexthop.c): so objects move with the flip.

use crate::model::{Nexthop, Route};

use super::{Op, Planner};
use crate::plan::objects;

impl Planner<'_> {
    /// Puts the target's objects on the holder, and removes those of the two
    /// devices that are not the target's.
    pub(super) fn move_objects(&self) -> Vec<Op> {
        let wanted = objects::wanted(self.live, self.target);
        let mut missing: Vec<&Nexthop> = wanted.iter().collect();
        missing.retain(|object| !self.live.nexthops.contains(object));
        let mut strays: Vec<&Nexthop> = Vec::new();
        for object in self.left.nexthops.iter().chain(&self.have.nexthops) {
            let is_wanted = wanted.iter().any(|w| w.id == object.id);
            if !is_wanted && !strays.iter().any(|s| s.id == object.id) && self.is_ours_alone(object) {
                strays.push(object);
            }
        }
        // A group goes before its members: with the last of them it would go
        // by itself.
        strays.sort_by_key(|object| !object.is_group());
        let set = missing.into_iter().cloned().map(Op::SetNexthop);
        set.chain(strays.into_iter().cloned().map(Op::DeleteNexthop))
            .collect()
    }

    /// Whether an object is none that a third device takes part in.
    fn is_ours_alone(&self, object: &Nexthop) -> bool {
        let ours = || self.left.nexthops.iter().chain(&self.have.nexthops);
        let mut members = object.members.iter();
        members.all(|member| ours().any(|o| o.id == member.id && !o.is_group()))
    }

    /// Routes of the target that went with their object, when the device was
    /// down or had no carrier meanwhile.
    pub(super) fn lost_routes_of_objects(&self) -> Vec<Route> {
        let stands = |route: &Route| {
            let mut live = self.live.routes.iter().filter(|r| r.nexthop == route.nexthop);
            live.any(|r| r.without_objects_hops().same(route))
        };
        let wanted = objects::wanted_routes(self.live, self.target);
        wanted.filter(|route| !stands(route)).cloned().collect()
    }

    /// Routes by an object of the other's that come with it, but are not the
    /// target's.
    pub(super) fn moved_strays(&self) -> Vec<Route> {
        let wanted = objects::wanted(self.live, self.target);
        let comes = |r: &&Route| r.nexthop.is_some_and(|id| wanted.iter().any(|w| w.id == id));
        let is_stray = |r: &&Route| !self.target.network.routes.iter().any(|w| w.same(r));
        let had = |r: &&Route| self.have.routes.iter().any(|h| h.same(r));
        let left = self.left.routes.iter();
        left.filter(|r| comes(r) && is_stray(r) && !had(r))
            .cloned()
            .collect()
    }
}
