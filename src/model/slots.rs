//! Routes by what they are for: a host can have thousands, and each is looked
//! for among all.

use std::collections::HashMap;

use super::{Prefix, Route};

/// Destination, source, table and type of service.
type Slot = (Prefix, Option<Prefix>, u32, u8);

/// Routes, found by their slot ([`Route::same_slot_but_metric`]), in their
/// order.
#[derive(Debug, Default)]
pub struct Slots<'a>(HashMap<Slot, Vec<(usize, &'a Route)>>);

fn slot(route: &Route) -> Slot {
    (route.dst, route.src, route.table, route.tos)
}

impl<'a> Slots<'a> {
    /// Sorts routes into their slots.
    pub fn of(routes: &'a [Route]) -> Self {
        let mut slots: HashMap<Slot, Vec<(usize, &Route)>> = HashMap::new();
        for (place, route) in routes.iter().enumerate() {
            slots.entry(slot(route)).or_default().push((place, route));
        }
        Self(slots)
    }

    /// The routes of a route's slot, of every metric.
    pub fn near(&self, route: &Route) -> impl Iterator<Item = &'a Route> + use<'_, 'a> {
        self.0.get(&slot(route)).into_iter().flatten().map(|(_, r)| *r)
    }

    /// Whether the same route is among them.
    pub fn has(&self, route: &Route) -> bool {
        self.near(route).any(|r| r.same(route))
    }

    /// The place of the same route among them.
    pub fn place(&self, route: &Route) -> Option<usize> {
        let near = self.0.get(&slot(route))?;
        near.iter().find(|(_, r)| r.same(route)).map(|(place, _)| *place)
    }
}
