//! Operations: the single changes that a plan is made of.

use std::net::Ipv6Addr;

use macaddr::MacAddr6;

use crate::model::{Address, IfName, Neighbour, Nexthop, Route, Rule};

use super::air::Translation;

/// One change of the kernel's network, or one wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes a bridge, down, without STP and without multicast snooping (its
    /// querier's silence would stop neighbour discovery).
    CreateBridge {
        /// Its name.
        name: IfName,
        /// Its MAC, pinned: else it follows the lowest of its ports'.
        mac: MacAddr6,
    },
    /// Makes a pair of devices, down: what goes out of the one comes in by the
    /// other (veth(4)).
    CreateVeth {
        /// The one.
        name: IfName,
        /// The other.
        far: IfName,
        /// Largest packet of both in bytes.
        mtu: u32,
    },
    /// Removes a device.
    DeleteLink {
        /// The device.
        dev: IfName,
    },
    /// Sets a device up or down.
    SetUp {
        /// The device.
        dev: IfName,
        /// Up, else down.
        up: bool,
    },
    /// Sets the largest packet; on a bridge, pins it too.
    SetMtu {
        /// The device.
        dev: IfName,
        /// Bytes.
        mtu: u32,
    },
    /// Sets the link-layer address.
    SetMac {
        /// The device.
        dev: IfName,
        /// The address.
        mac: MacAddr6,
    },
    /// Makes a device the port of a bridge, or frees it.
    SetMaster {
        /// The device.
        dev: IfName,
        /// The bridge, or none.
        master: Option<IfName>,
    },
    /// Keeps a device from asking and answering for link-layer addresses.
    SetNoArp {
        /// The device.
        dev: IfName,
    },
    /// Attaches the programs of MAC-NAT to the uplink and the air port.
    Translate(Translation),
    /// Takes them away.
    StopTranslation {
        /// The uplink.
        uplink: IfName,
        /// The kernel's number for it.
        index: u32,
        /// The air port.
        air: IfName,
    },
    /// Adds an address.
    AddAddress {
        /// The device.
        dev: IfName,
        /// The address.
        address: Address,
    },
    /// Gives an address that is there the flags, lifetimes and metric said.
    ChangeAddress {
        /// The device.
        dev: IfName,
        /// The address.
        address: Address,
    },
    /// Removes an address.
    DeleteAddress {
        /// The device.
        dev: IfName,
        /// The address.
        address: Address,
    },
    /// Adds a route behind those of the same priority.
    AppendRoute(Route),
    /// Adds an IPv4 route in front of those of the same priority.
    PrependRoute(Route),
    /// Puts an IPv6 route into the place of the first of the same priority.
    ReplaceRoute(Route),
    /// Removes a route.
    DeleteRoute(Route),
    /// Makes a nexthop object, or puts it where another of its number is: the
    /// routes that use that one use it from then on (`replace_nexthop()`,
    /// net/ipv4/nexthop.c).
    SetNexthop(Nexthop),
    /// Removes a nexthop object, and with it the routes that use it.
    DeleteNexthop(Nexthop),
    /// Adds a neighbour, or replaces what is known of it.
    SetNeighbour(Neighbour),
    /// Removes a neighbour.
    DeleteNeighbour(Neighbour),
    /// Adds a rule.
    AddRule(Rule),
    /// Removes a rule.
    DeleteRule(Rule),
    /// Writes a setting under /proc/sys/net.
    SetSysctl {
        /// The device.
        dev: IfName,
        /// The path without the device's part: `ipv4/conf/rp_filter`.
        key: String,
        /// The value.
        value: String,
    },
    /// Waits until a device carries packets. A bridge begins to when the
    /// kernel has seen its first port's carrier; until then its queue drops
    /// what it is given (`linkwatch_do_dev()`, net/core/link_watch.c).
    AwaitRunning {
        /// The device.
        dev: IfName,
    },
    /// Waits until the host accepts packets to IPv6 addresses that were just
    /// added: the kernel adds their routes in the local table by deferred
    /// work (`addrconf_dad_work()`, net/ipv6/addrconf.c).
    AwaitAddresses {
        /// The device.
        dev: IfName,
        /// The addresses.
        addresses: Vec<Ipv6Addr>,
    },
    /// Asks the link's routers for an advertisement (RFC 4861, 6.3.7) and
    /// waits until the kernel has a default route of its own from one.
    SolicitRouters {
        /// The device.
        dev: IfName,
    },
}

/// What a step of a migration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Gives the new holder everything, in a form that does not yet win.
    Prepare,
    /// Makes the uplink a port.
    Enslave,
    /// Takes the network from the old holder: the new one's wins.
    Flip,
    /// Attaches the translation of MACs, or takes it away.
    Translate,
    /// Gives what was prepared its final form.
    Settle,
    /// Removes what served only the way.
    Tidy,
}

/// Operations that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What they are for.
    pub stage: Stage,
    /// The operations, in their order.
    pub ops: Vec<Op>,
    /// Whether the operations go to the kernel as one datagram: it runs them
    /// in one system call, which no signal splits (`netlink_rcv_skb()`).
    pub at_once: bool,
}

/// What leads from a state of the host to the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Gives the uplink the final form of its addresses and routes in the
    /// flip's datagram, before it leaves the bridge instead of after. The old
    /// holder's are gone then, and who watches the uplink sees the network's
    /// last change before it sees the port leave.
    pub fn settle_before_release(&mut self) {
        let releases = |step: &Step| {
            step.stage == Stage::Flip && matches!(step.ops.last(), Some(Op::SetMaster { master: None, .. }))
        };
        let Some(flip) = self.steps.iter().position(releases) else {
            return;
        };
        let only = |op: &Op| {
            matches!(
                op,
                Op::ChangeAddress { .. } | Op::AppendRoute(_) | Op::DeleteRoute(_)
            )
        };
        let gives = |op: &Op| !matches!(op, Op::DeleteRoute(_));
        let early = |step: &Step| {
            step.stage == Stage::Settle && step.ops.iter().all(only) && step.ops.iter().any(gives)
        };
        let (moved, rest): (Vec<Step>, Vec<Step>) =
            std::mem::take(&mut self.steps).into_iter().partition(early);
        self.steps = rest;
        if let Some(step) = self.steps.get_mut(flip) {
            let at = step.ops.len().saturating_sub(1);
            step.ops
                .splice(at..at, moved.into_iter().flat_map(|step| step.ops));
        }
    }

    /// Adds operations at the end; nothing where there are none.
    pub(super) fn push(&mut self, stage: Stage, ops: Vec<Op>) {
        if !ops.is_empty() {
            self.steps.push(Step {
                stage,
                ops,
                at_once: stage == Stage::Flip,
            });
        }
    }

    /// Adds groups of operations at the end. Those of one group are done at
    /// once.
    pub(super) fn push_groups(&mut self, stage: Stage, groups: Vec<Vec<Op>>) {
        for ops in groups.into_iter().filter(|ops| !ops.is_empty()) {
            let at_once = ops.len() > 1;
            match self.steps.last_mut() {
                Some(last) if !at_once && !last.at_once && last.stage == stage => last.ops.extend(ops),
                _ => self.steps.push(Step { stage, ops, at_once }),
            }
        }
    }

    /// Takes the steps from the first of a stage on.
    pub fn split_off(&mut self, stage: Stage) -> Self {
        let place = self.steps.iter().position(|step| step.stage == stage);
        Self {
            steps: self.steps.split_off(place.unwrap_or(self.steps.len())),
        }
    }

    /// Whether the target is reached.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Every operation, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.steps.iter().flat_map(|step| &step.ops)
    }
}
