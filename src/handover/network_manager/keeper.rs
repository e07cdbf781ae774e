//! Keeps the uplink's network over a moment in which somebody takes it away.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::SockaddrStorage;

use crate::apply::executor::Executor;
use crate::model::address::flag;
use crate::model::{Address, Family, Network};
use crate::netlink::changes::Changes;
use crate::netlink::{dump, sysctl};
use crate::plan::record::Uplink;
use crate::plan::{Op, Plan, Record, Stage, Step};

const SWITCH: &str = "ipv6/conf/disable_ipv6";
/// Time between two looks.
const TICK: Duration = Duration::from_micros(300);
/// How often something is put back: it may be that it shall not be there.
const MOST: usize = 8;

/// Watches until it ends.
pub struct Keeper {
    over: Arc<AtomicBool>,
    watch: JoinHandle<()>,
}

impl Keeper {
    /// Begins to: what the uplink has of a family now is put back when none of
    /// the addresses is there any more. Where that cannot be begun nothing is kept;
    /// the network comes back by itself then, in seconds.
    pub fn start(record: &Record) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let (ends, uplink) = (Arc::clone(&over), record.uplink.clone());
        // A thread of its own from the first look on: the caller is amid a
        // conversation, and a look at the kernel is another.
        let watch = thread::spawn(move || {
            let watch = Watch::new(&uplink);
            let _ = ready.send(());
            if let Some(watch) = watch {
                watch.run(&ends);
            }
        });
        let _ = is_ready.recv();
        Self { over, watch }
    }

    /// Ends it.
    pub fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.watch.join();
    }
}

struct Watch {
    uplink: Uplink,
    changes: Changes,
    executor: Executor,
    /// What was there of each family, and what puts it back.
    kept: Vec<(Vec<IpAddr>, Plan)>,
}

impl Watch {
    fn new(uplink: &Uplink) -> Option<Self> {
        let changes = Changes::of(uplink.index).ok()?;
        let network = Network::of(&dump::network().ok()?, &uplink.name);
        let kept = [Family::V4, Family::V6].map(|family| (known(&network, family), plan(&network, family)));
        Some(Self {
            uplink: uplink.clone(),
            changes,
            executor: Executor::new().ok()?,
            kept: kept.into_iter().filter(|(had, _)| !had.is_empty()).collect(),
        })
    }

    fn run(mut self, over: &AtomicBool) {
        let mut left = MOST;
        while !over.load(Ordering::Relaxed) && left > 0 {
            thread::sleep(TICK);
            // The kernel does not tell of IPv6's switch of one device, but of
            // the addresses that go with it.
            if !self.changes.heard().unwrap_or(true) {
                continue;
            }
            while self.is_off() && !over.load(Ordering::Relaxed) {
                thread::sleep(TICK);
            }
            let Ok(has) = addresses(self.uplink.name.as_str()) else {
                continue;
            };
            for (had, plan) in &self.kept {
                if !had.iter().any(|address| has.contains(address)) {
                    // What is refused comes by itself, in seconds.
                    let _ = self.executor.execute(plan, &mut |_| {});
                    left -= 1;
                }
            }
        }
    }

    fn is_off(&self) -> bool {
        sysctl::read(self.uplink.name.as_str(), SWITCH).as_deref() == Some("1")
    }
}

/// The addresses by which the loss of a family is known. Link-local ones are
/// not among them where there are others: whoever has switched IPv6 off makes
/// them anew first.
fn known(network: &Network, family: Family) -> Vec<IpAddr> {
    let mine = network.addresses.iter().filter(|a| a.family() == family);
    let (local, beyond): (Vec<&Address>, Vec<&Address>) = mine.partition(|a| a.is_link_local_v6());
    let known = if beyond.is_empty() { local } else { beyond };
    known.iter().map(|address| address.local).collect()
}

/// The addresses of a device.
fn addresses(device: &str) -> nix::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let mine = all.filter(|interface| interface.interface_name == device);
    let address = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    Ok(mine.filter_map(|interface| address(interface.address?)).collect())
}

/// Puts back what a device has of a family, all at once, then IPv6 without the
/// flag that spares it duplicate address detection: the addresses are nobody
/// else's, the host had them a moment ago.
fn plan(network: &Network, family: Family) -> Plan {
    let dev = &network.dev;
    let mut addresses: Vec<&Address> = network.addresses.iter().collect();
    addresses.retain(|address| address.family() == family);
    let mut change = Vec::new();
    if family == Family::V6 {
        // The kernel puts the last one first, and NetworkManager makes those
        // anew that are not in its order.
        addresses.reverse();
        change.extend(addresses.iter().map(|address| Op::ChangeAddress {
            dev: dev.clone(),
            address: (*address).clone(),
        }));
    }
    let spared = if family == Family::V6 { flag::NODAD } else { 0 };
    let add = addresses.iter().map(|address| Op::AddAddress {
        dev: dev.clone(),
        address: Address {
            flags: address.flags | spared,
            ..(*address).clone()
        },
    });
    let neighbours = network.neighbours.iter();
    let neighbours = neighbours.filter(|n| n.address.is_ipv6() == (family == Family::V6));
    let neighbours = neighbours.cloned().map(Op::SetNeighbour);
    let routes = |by_gateway: bool| {
        let mine = network.routes.iter().filter(|r| r.family() == family);
        let mine = mine.filter(move |r| r.hops.iter().any(|hop| hop.via.is_some()) == by_gateway);
        mine.cloned().map(Op::AppendRoute)
    };
    let all = add.chain(routes(false)).chain(routes(true)).chain(neighbours);
    let steps = [all.collect::<Vec<Op>>(), change];
    let step = |ops| Step {
        stage: Stage::Settle,
        ops,
        at_once: true,
    };
    Plan {
        steps: steps
            .into_iter()
            .filter(|ops| !ops.is_empty())
            .map(step)
            .collect(),
    }
}
