//! Pure functions from (live, target) to operations or a refusal: no I/O, no
//! unsafe.
//!
//! # Theory of operation
//!
//! Two devices can hold the host's network: the uplink, or the bridge with
//! the uplink as its port. [`plan()`] compares the host as it is with the
//! [`Target`] and leads there make-before-break:
//!
//! 1. *Prepare*: the new holder gets every address, route, rule and neighbour
//!    in a form that does not win yet. IPv4 routes are appended: the old
//!    holder's stand in front. IPv6 routes stand one metric behind, a shadow;
//!    IPv6 addresses come without a prefix route and without duplicate
//!    address detection, which the old holder's copy would fail.
//! 2. *Enslave*: the uplink becomes a port, and the bridge has a carrier.
//! 3. *Flip*: the old holder loses everything in one datagram, which the
//!    kernel runs in one system call. What was prepared wins from then on.
//! 4. *Settle*: final metrics, flags and settings; shadows go.
//! 5. *Tidy*: an empty bridge goes.
//!
//! The plan is convergent: it adds what is missing and removes what is too
//! much, so that it leads from any state to the target, also from one in which
//! an earlier plan was cut short. Every prefix of it leaves the host reachable.
//!
//! Where the uplink cannot be a port (a wireless station), [`air`] plans: the
//! uplink keeps its network, and only what serves the guests comes and goes.
#![forbid(unsafe_code)]

pub mod air;
mod command;
pub mod hold;
mod objects;
mod op;
pub mod record;
pub mod refuse;
mod rule_text;
mod steps;
mod target;
pub mod verify;

pub use air::{Air, Mode};
pub use command::Command;
pub use op::{Op, Plan, Stage, Step};
pub use record::Record;
pub use refuse::Refusal;
pub use steps::plan;
pub use target::{Bridge, Holder, Target};

use crate::model::address::{flag, scope};
use crate::model::route::{METRIC_ADDRCONF, kind, protocol, table};
use crate::model::{Address, Family, Hop, IfName, Prefix, Route};

/// Whether the kernel makes `route` by itself as the prefix route of
/// `address` (`fib_add_ifaddr()`, `addrconf_prefix_route()`).
pub(crate) fn is_prefix_route(route: &Route, address: &Address) -> bool {
    let common = route.protocol == protocol::KERNEL
        && route.kind == kind::UNICAST
        && route.table == table::MAIN
        && route.family() == address.family()
        && route.dst == address.on_link()
        && address.has_prefix_route();
    common
        && match address.family() {
            Family::V4 => {
                route.scope == scope::LINK
                    && route.prefsrc == Some(address.local)
                    && route.metric == address.metric.unwrap_or(0)
            }
            Family::V6 => route.metric == address.metric.unwrap_or(METRIC_ADDRCONF),
        }
}

/// The prefix route that the kernel makes when `address` is added to `dev`,
/// if it makes one; with a peer in IPv6, two (`inet6_addr_add()`,
/// `__ipv6_ifa_notify()`).
fn prefix_routes(address: &Address, dev: &IfName) -> Vec<Route> {
    let v4 = address.family() == Family::V4;
    let on_link = address.on_link();
    let own = Prefix::containing(address.local, address.prefix_len);
    let mut prefixes = vec![on_link];
    if v4 {
        let alone = on_link.is_host() && on_link.address == address.local;
        if address.flags & flag::SECONDARY != 0 || alone || !address.has_prefix_route() {
            prefixes.clear();
        }
    } else if !address.has_prefix_route() {
        prefixes.retain(|_| address.peer.is_some());
    } else if own != on_link {
        prefixes.push(own);
    }
    let route = |dst| Route {
        dst,
        src: None,
        table: table::MAIN,
        kind: kind::UNICAST,
        protocol: protocol::KERNEL,
        scope: if v4 { scope::LINK } else { scope::UNIVERSE },
        tos: 0,
        metric: address.metric.unwrap_or(if v4 { 0 } else { METRIC_ADDRCONF }),
        prefsrc: v4.then_some(address.local),
        hops: vec![Hop {
            dev: Some(dev.clone()),
            ..Hop::default()
        }],
        metrics: Vec::new(),
        preference: (!v4).then_some(0),
        expires: (!v4 && !address.is_permanent()).then_some(address.valid),
        nexthop: None,
        rest: Vec::new(),
    };
    prefixes.into_iter().map(route).collect()
}
