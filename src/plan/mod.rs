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
#![forbid(unsafe_code)]

mod command;
mod op;
pub mod record;
pub mod refuse;
mod rule_text;
mod steps;
mod target;
pub mod verify;

pub use command::Command;
pub use op::{Op, Plan, Stage, Step};
pub use record::Record;
pub use refuse::Refusal;
pub use steps::plan;
pub use target::{Bridge, Holder, Target};

use crate::model::Address;
use crate::model::route::{METRIC_ADDRCONF, Route, kind, protocol, table};
use crate::model::{Family, address::scope};

/// Whether the kernel makes `route` by itself as the prefix route of
/// `address` (`fib_add_ifaddr()`, `addrconf_prefix_route()`).
fn is_prefix_route(route: &Route, address: &Address) -> bool {
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
