//! Performs a plan.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlink_packet_route::link::LinkFlags;
use nix::errno::Errno;

use crate::model::route::{kind, protocol};
use crate::model::{IfName, Route};
use crate::netlink::wire::Wire;
use crate::netlink::{KernelError, dump, ports, sysctl, write};
use crate::plan::{Op, Plan, Stage, Step};

use super::air;
use super::solicit::solicit;

/// From how many devices on they are removed together.
const MANY: usize = 16;
/// How long a bridge may take to see its first port's carrier.
const CARRIER_PATIENCE: Duration = Duration::from_secs(2);
/// How long the kernel's deferred work for new addresses may take.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
/// How long the kernel may take to learn a route from an advertisement: a
/// router answers within half a second (RFC 4861, 6.2.6).
const ROUTER_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two solicitations; a router limits its answers itself.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);

/// An operation that failed.
#[derive(Debug)]
pub struct Failure {
    /// The operation, as the command that it is.
    pub doing: String,
    /// What the kernel answered.
    pub source: KernelError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

impl std::error::Error for Failure {}

/// Performs plans on the caller's network namespace.
pub struct Executor {
    wire: Wire,
    indexes: BTreeMap<IfName, u32>,
}

impl Executor {
    /// Opens what is needed.
    ///
    /// # Errors
    /// As of socket(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            wire: Wire::open()?,
            indexes: BTreeMap::new(),
        })
    }

    /// Performs a plan; `report` hears of each stage as it begins. What the
    /// kernel says is so already counts as done.
    ///
    /// # Errors
    /// The first operation that failed; those behind it were not begun,
    /// except for those of the same step where that is done at once.
    pub fn execute(&mut self, plan: &Plan, report: &mut dyn FnMut(Stage)) -> Result<(), Failure> {
        let mut stage = None;
        for step in &plan.steps {
            if stage != Some(step.stage) {
                stage = Some(step.stage);
                report(step.stage);
            }
            if step.at_once {
                self.perform_at_once(step)?;
            } else {
                let mut ops = step.ops.as_slice();
                while let Some((op, rest)) = ops.split_first() {
                    let gone = self.remove_together(ops);
                    if gone > 0 {
                        ops = ops.get(gone..).unwrap_or_default();
                        continue;
                    }
                    self.perform(op).or_else(|source| tolerate(op, source))?;
                    ops = rest;
                }
            }
        }
        Ok(())
    }

    /// Removes the devices that the first of `ops` remove, where they are many,
    /// by one request, and gives how many that were; 0 where it did not. One
    /// by one each waits for all processors (`synchronize_net()`).
    fn remove_together(&mut self, ops: &[Op]) -> usize {
        let name = |op: &Op| match op {
            Op::DeleteLink { dev } => Some(dev.clone()),
            _ => None,
        };
        let names: Vec<IfName> = ops.iter().map_while(name).collect();
        // One that is gone already fails them all; then it is one by one.
        if names.len() < MANY || ports::remove(&names).is_err() {
            return 0;
        }
        names.iter().for_each(|name| {
            self.indexes.remove(name);
        });
        names.len()
    }

    fn perform_at_once(&mut self, step: &Step) -> Result<(), Failure> {
        let mut messages = Vec::with_capacity(step.ops.len());
        let fail = |op: &Op, source| Failure {
            doing: op.to_string(),
            source,
        };
        for op in &step.ops {
            match self.message(op) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Err(fail(op, io::Error::from(Errno::EINVAL).into())),
                Err(error) => return Err(fail(op, error)),
            }
        }
        let Some(first) = step.ops.first() else {
            return Ok(());
        };
        let failures = self.wire.send_all(messages).map_err(|error| fail(first, error))?;
        for (place, source) in failures {
            tolerate(step.ops.get(place).unwrap_or(first), source)?;
        }
        Ok(())
    }

    fn message(&mut self, op: &Op) -> Result<Option<crate::netlink::wire::Message>, KernelError> {
        let indexes = &mut self.indexes;
        Ok(write::message(op, &mut |name| index_of(indexes, name))?)
    }

    fn perform(&mut self, op: &Op) -> Result<(), KernelError> {
        match op {
            Op::SetSysctl { dev, key, value } => Ok(sysctl::write(dev.as_str(), key, value)?),
            Op::AwaitRunning { dev } => self.await_running(dev),
            Op::AwaitAddresses { dev, addresses } => await_addresses(dev, addresses),
            Op::SolicitRouters { dev } => self.await_routers(dev),
            Op::Translate(_) | Op::StopTranslation { .. } => {
                Ok(air::perform(op).unwrap_or_else(|| Err(Errno::EINVAL.into()))?)
            }
            op => match self.message(op)? {
                Some(message) => {
                    match op {
                        Op::CreateBridge { name, .. } | Op::DeleteLink { dev: name } => {
                            self.indexes.remove(name);
                        }
                        Op::CreateVeth { name, far, .. } => {
                            self.indexes.remove(name);
                            self.indexes.remove(far);
                        }
                        _ => {}
                    }
                    self.wire.send(message)
                }
                None => Err(io::Error::from(Errno::EINVAL).into()),
            },
        }
    }

    fn await_running(&mut self, dev: &IfName) -> Result<(), KernelError> {
        let index = index_of(&mut self.indexes, dev)?;
        let deadline = Instant::now() + CARRIER_PATIENCE;
        loop {
            let flags = self.wire.link(index)?.header.flags;
            if flags.contains(LinkFlags::Running | LinkFlags::LowerUp) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = format!("{dev} has no carrier after {} s", CARRIER_PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
            }
            // The kernel's work queue needs the lock that each question takes.
            sleep(Duration::from_micros(200));
        }
    }

    /// Asks until the kernel has, for each copy of a learned route, its own.
    /// A silent router is no failure: the copies serve until they end.
    fn await_routers(&mut self, dev: &IfName) -> Result<(), KernelError> {
        let index = index_of(&mut self.indexes, dev)?;
        let start = Instant::now();
        let mut asked: Option<Instant> = None;
        while start.elapsed() < ROUTER_PATIENCE {
            if asked.is_none_or(|at| at.elapsed() >= SOLICIT_INTERVAL) {
                // The kernel asks, too, if less often.
                let _ = solicit(index);
                asked = Some(Instant::now());
            }
            if dump::network().is_ok_and(|state| copies_are_replaced(&state.routes, dev)) {
                break;
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Waits for the addresses' routes in the local table. Where IPv6 is off there
/// are none to wait for, and the comparison in the end finds that.
fn await_addresses(dev: &IfName, addresses: &[Ipv6Addr]) -> Result<(), KernelError> {
    let deadline = Instant::now() + ADDRESS_PATIENCE;
    loop {
        let state = dump::network()?;
        let accepted = |address: &Ipv6Addr| {
            let to_it = |r: &Route| {
                r.kind == kind::LOCAL
                    && r.uses(dev)
                    && r.dst.is_host()
                    && r.dst.address == IpAddr::V6(*address)
            };
            state.routes.iter().any(to_it)
        };
        match addresses.iter().find(|address| !accepted(address)) {
            None => return Ok(()),
            Some(address) if Instant::now() > deadline => {
                let text = format!("{dev} does not accept {address}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
            }
            Some(_) => sleep(Duration::from_micros(500)),
        }
    }
}

/// Whether every learned route of a device stands at two metrics: the copy's
/// and the kernel's own.
fn copies_are_replaced(routes: &[Route], dev: &IfName) -> bool {
    let learned: Vec<&Route> = routes
        .iter()
        .filter(|r| r.protocol == protocol::RA && r.uses(dev))
        .collect();
    learned.iter().all(|r| {
        learned
            .iter()
            .any(|o| o.same_slot_but_metric(r) && o.metric != r.metric)
    })
}

fn index_of(indexes: &mut BTreeMap<IfName, u32>, name: &IfName) -> io::Result<u32> {
    if let Some(index) = indexes.get(name) {
        return Ok(*index);
    }
    let index = nix::net::if_::if_nametoindex(name.as_str())?;
    indexes.insert(name.clone(), index);
    Ok(index)
}

/// What an operation wants is so already, or what it removes is gone: done.
/// The comparison in the end decides.
fn tolerate(op: &Op, source: KernelError) -> Result<(), Failure> {
    let harmless: &[Errno] = match op {
        Op::AddAddress { .. } | Op::AppendRoute(_) | Op::AddRule(_) => &[Errno::EEXIST],
        Op::DeleteAddress { .. } => &[Errno::EADDRNOTAVAIL, Errno::ENODEV],
        Op::DeleteRoute(_) => &[Errno::ESRCH, Errno::ENODEV],
        Op::DeleteNeighbour(_) | Op::DeleteRule(_) | Op::DeleteNexthop(_) => &[Errno::ENOENT, Errno::ENODEV],
        Op::DeleteLink { .. } => &[Errno::ENODEV],
        _ => &[],
    };
    if harmless.iter().any(|errno| source.is(*errno)) {
        Ok(())
    } else {
        Err(Failure {
            doing: op.to_string(),
            source,
        })
    }
}
