//! Ways to gateways that no route leads to.
//!
//! The kernel takes a route by a gateway, or a nexthop object with one, only
//! while a route on the link leads to that gateway (`fib_check_nh_v4_gw()`,
//! `ip6_validate_gw()`), but keeps it when that one is removed later. Such a
//! host is copied by a way that stands for a moment.

use std::net::IpAddr;

use crate::model::address::scope;
use crate::model::route::{kind, table};
use crate::model::{Hop, Prefix, Route};

use super::{Op, Planner};

/// `RTPROT_STATIC`: the kernel's own number would let it take the way over.
const PROTOCOL: u8 = 4;
/// No other route has this priority.
const METRIC: u32 = u32::MAX - 7;

impl Planner<'_> {
    /// Puts ways around operations that need them.
    pub(super) fn with_ways(&self, ops: Vec<Op>) -> Vec<Op> {
        let mut missing: Vec<IpAddr> = Vec::new();
        for via in ops.iter().flat_map(|op| self.gateways_of(op)) {
            if !missing.contains(&via) && !self.leads_to(via) {
                missing.push(via);
            }
        }
        let ways = || missing.iter().map(|via| self.way(*via));
        let before = ways().map(Op::AppendRoute);
        let after: Vec<Op> = ways().map(Op::DeleteRoute).collect();
        before.chain(ops).chain(after).collect()
    }

    /// The gateways by the holder that the kernel must find a route to.
    fn gateways_of(&self, op: &Op) -> Vec<IpAddr> {
        match op {
            Op::AppendRoute(r) | Op::PrependRoute(r) | Op::ReplaceRoute(r) => {
                let hops = r.hops.iter();
                let by_holder = hops.filter(|h| h.dev.as_ref() == Some(self.holder) && !h.onlink);
                by_holder.filter_map(|h| h.via).collect()
            }
            Op::SetNexthop(n) if n.uses(self.holder) && !n.onlink => n.via.into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the target has a route on the link to an address. To a
    /// link-local one every device leads.
    fn leads_to(&self, via: IpAddr) -> bool {
        if matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return true;
        }
        let on_link = |r: &Route| {
            r.kind == kind::UNICAST
                && r.table == table::MAIN
                && r.nexthop.is_none()
                && r.hops
                    .iter()
                    .any(|h| h.via.is_none() && h.dev.as_ref() == Some(self.holder))
                && r.dst.address.is_ipv4() == via.is_ipv4()
                && Prefix::containing(via, r.dst.len).address == r.dst.address
        };
        self.target.network.routes.iter().any(on_link)
    }

    fn way(&self, via: IpAddr) -> Route {
        let v4 = via.is_ipv4();
        Route {
            dst: Prefix::containing(via, if v4 { 32 } else { 128 }),
            src: None,
            table: table::MAIN,
            kind: kind::UNICAST,
            protocol: PROTOCOL,
            scope: if v4 { scope::LINK } else { scope::UNIVERSE },
            tos: 0,
            metric: METRIC,
            prefsrc: None,
            hops: vec![Hop {
                dev: Some(self.holder.clone()),
                ..Hop::default()
            }],
            metrics: Vec::new(),
            preference: None,
            expires: None,
            nexthop: None,
            rest: Vec::new(),
        }
    }
}
