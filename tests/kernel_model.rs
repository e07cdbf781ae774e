//! Plans on random hosts, performed on a model of the kernel.
//!
//! `PROPTEST_CASES` says how many hosts. A failure prints what was done to the
//! host, as `ip` commands, cut down to what is needed to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "kernel_model/mod.rs"]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use model::{Kernel, world};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use vmbr::model::route::table;
use vmbr::model::{Family, Label, Link, Neighbour, Route};
use vmbr::plan::{Op, Plan, Record, Stage, Step, Target, plan, verify};

/// As many as `apply::migrate` makes.
const ROUNDS: usize = 4;

fn text<'a>(ops: impl IntoIterator<Item = &'a Op>) -> String {
    ops.into_iter().fold(String::new(), |mut text, op| {
        let _ = writeln!(text, "  {op}");
        text
    })
}

/// What must not be lost.
#[derive(Debug, PartialEq)]
struct Reach(BTreeSet<(IpAddr, IpAddr)>, [Option<IpAddr>; 2]);

impl Reach {
    fn of(kernel: &Kernel) -> Self {
        let gateways = [Family::V4, Family::V6].map(|family| kernel.gateway(family));
        Self(kernel.reachable(), gateways)
    }

    fn lost(&self, now: &Self) -> bool {
        !self.0.is_subset(&now.0)
            || self
                .1
                .iter()
                .zip(&now.1)
                .any(|(was, is)| was.is_some() && was != is)
    }
}

fn record(kernel: &Kernel) -> Record {
    let (uplink, bridge) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
    Record::of(kernel.state(), &uplink, &bridge, "boot:1", 0).unwrap()
}

/// Leads to the target, and gives the host after each part of each plan: all
/// that `reach` says must be kept.
fn lead(
    kernel: &mut Kernel,
    reach: &Reach,
    target: &Target,
    planner: &dyn Fn(&Kernel, &Target) -> Plan,
) -> Result<Vec<Kernel>, String> {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let plan = planner(kernel, target);
        if plan.is_empty() {
            break;
        }
        for part in plan.steps.iter().flat_map(Kernel::parts) {
            part.iter().for_each(|op| kernel.perform(op));
            let now = Reach::of(kernel);
            if reach.lost(&now) {
                let (ops, done) = (text(plan.ops()), text(part));
                return Err(format!("{reach:?} became {now:?} after\n{done}of\n{ops}"));
            }
            seen.push(kernel.clone());
        }
    }
    let differences = verify::differences(kernel.state(), target);
    if differences.is_empty() {
        Ok(seen)
    } else {
        let ops = text(planner(kernel, target).ops());
        Err(format!("not reached: {differences:?}; still to do:\n{ops}"))
    }
}

fn good(kernel: &Kernel, target: &Target) -> Plan {
    plan(kernel.state(), target)
}

/// Runs `check` on random hosts, and says what was done to the one it fails on.
fn on_random_hosts(check: impl Fn(Kernel) -> Result<(), String>) -> Result<(), String> {
    // The same hosts each time where nobody asks for more: a change is to be
    // judged by what it changes.
    let asked = std::env::var("PROPTEST_CASES").map(|n| n.parse().unwrap()).ok();
    let mut runner = TestRunner::new(Config {
        cases: asked.unwrap_or(128),
        rng_seed: asked.map_or(RngSeed::Fixed(0), |_| RngSeed::Random),
        failure_persistence: None,
        ..Config::default()
    });
    let told = |history: Vec<Op>| {
        check(world::host(&history))
            .map_err(|why| TestCaseError::fail(format!("on the host of\n{}{why}", text(&history))))
    };
    runner
        .run(&world::histories(), told)
        .map_err(|error| match error {
            proptest::test_runner::TestError::Fail(why, _) => why.to_string(),
            other => other.to_string(),
        })
}

/// Whether a host that was led back is what it was: all of it, with the order
/// of addresses and of routes to one place.
fn same_host(before: &Kernel, after: &Kernel) -> Result<(), String> {
    let whole = |kernel: &Kernel| {
        let mut state = kernel.state().clone();
        state.addresses.retain(|_, list| !list.is_empty());
        // Settings of a port are nobody's until it is one no more.
        let port = |l: &&Link| l.master.is_some();
        for link in state.links.iter().filter(port) {
            state.sysctls.remove(link.name.as_str());
        }
        state.neighbours.retain(Neighbour::is_configured);
        state.neighbours.sort_by_key(|n| (n.dev.clone(), n.address));
        state
            .routes
            .iter_mut()
            .for_each(|r| r.expires = r.expires.map(|_| 0));
        state
            .routes
            .sort_by_key(|r| (r.table, r.dst.address, r.dst.len, r.metric));
        serde_json::to_value(state).unwrap()
    };
    let (was, is) = (whole(before), whole(after));
    let parts = was
        .as_object()
        .unwrap()
        .keys()
        .chain(is.as_object().unwrap().keys());
    match parts.into_iter().find(|part| was[*part] != is[*part]) {
        None => Ok(()),
        Some(part) => Err(format!("{part} was {} and is {}", was[part], is[part])),
    }
}

/// Up, and from after each operation on to the bridge and back to the NIC.
fn up_and_from_every_prefix(host: Kernel) -> Result<(), String> {
    let record = record(&host);
    let (up, back) = (record.bridged(), record.restored());
    let reach = &Reach::of(&host);
    let mut kernel = host.clone();
    for torn in lead(&mut kernel, reach, &up, &good)? {
        lead(&mut torn.clone(), reach, &up, &good).map_err(|e| format!("torn, then on: {e}"))?;
        let mut restored = torn.clone();
        lead(&mut restored, reach, &back, &good).map_err(|e| format!("torn, then back: {e}"))?;
        same_host(&host, &restored).map_err(|e| format!("torn, then back: {e}"))?;
    }
    let (bridged, down) = (kernel.clone(), record.returned(kernel.state()));
    for torn in lead(&mut kernel, reach, &down, &good).map_err(|e| format!("down: {e}"))? {
        lead(&mut torn.clone(), reach, &down, &good).map_err(|e| format!("down, torn, then on: {e}"))?;
        let mut again = torn.clone();
        lead(&mut again, reach, &up, &good).map_err(|e| format!("down, torn, then up: {e}"))?;
        same_host(&bridged, &again).map_err(|e| format!("down, torn, then up: {e}"))?;
    }
    same_host(&host, &kernel).map_err(|e| format!("up and down: {e}"))
}

#[test]
fn every_prefix_is_reachable_and_leads_to_either_end() {
    on_random_hosts(up_and_from_every_prefix).unwrap_or_else(|why| panic!("{why}"));
}

/// Of the states between, those whose plans are followed further: all are
/// several hundred a host. Which ones differs from host to host.
fn some(seen: Vec<Kernel>, one_in: usize, offset: usize) -> impl Iterator<Item = Kernel> {
    seen.into_iter().skip(offset % one_in).step_by(one_in)
}

/// Torn on the way to the bridge, torn again on the way back, then led to
/// either end.
fn torn_twice(host: Kernel) -> Result<(), String> {
    let record = record(&host);
    let (up, back) = (record.bridged(), record.restored());
    let reach = &Reach::of(&host);
    let offset = host.state().routes.len() + 3 * host.state().addresses.len();
    for torn in some(lead(&mut host.clone(), reach, &up, &good)?, 4, offset) {
        let states = lead(&mut torn.clone(), reach, &back, &good)?;
        for mut twice in some(states, 3, offset) {
            lead(&mut twice.clone(), reach, &up, &good).map_err(|e| format!("torn twice, then up: {e}"))?;
            lead(&mut twice, reach, &back, &good).map_err(|e| format!("torn twice, then back: {e}"))?;
            same_host(&host, &twice).map_err(|e| format!("torn twice, then back: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn torn_on_the_way_back_it_leads_to_either_end() {
    on_random_hosts(torn_twice).unwrap_or_else(|why| panic!("{why}"));
}

/// A prefix route that someone removed comes back with its address, and wins
/// over the route of a shorter prefix until it is removed again.
#[test]
fn a_prefix_route_that_shows_is_found() {
    let address = |text: &str, prefix_len| Op::AddAddress {
        dev: "eth0".parse().unwrap(),
        address: world::address(text.parse().unwrap(), prefix_len),
    };
    for [short, long] in [
        [address("10.0.2.10", 24), address("10.0.2.11", 25)],
        [address("2001:db8:2::10", 48), address("2001:db8:2::11", 64)],
    ] {
        let mut host = world::host(&[short, long]);
        let longest = |r: &&Route| r.dst.len == 25 || r.dst.len == 64;
        let removed = host.state().routes.iter().find(longest).unwrap().clone();
        host.apply(&Op::DeleteRoute(removed)).unwrap();
        up_and_from_every_prefix(host.clone()).unwrap();
        let reach = &Reach::of(&host);
        let one_by_one = |kernel: &Kernel, target: &Target| {
            let mut plan = good(kernel, target);
            let others = plan.steps.iter_mut().filter(|s| s.stage != Stage::Flip);
            others.for_each(|s| s.at_once = false);
            plan
        };
        let up = record(&host).bridged();
        let way = lead(&mut host.clone(), reach, &up, &one_by_one);
        let settled = host.state().routes.iter().any(|r| r.family() == Family::V6);
        assert_eq!(way.is_err(), !settled, "{way:?}");
    }
}

/// What a plan could do wrong is there to be done wrong.
#[test]
fn the_random_hosts_have_everything() {
    let seen = std::cell::RefCell::new(BTreeMap::new());
    let hosts = std::cell::Cell::new(0_usize);
    on_random_hosts(|host| {
        hosts.set(hosts.get() + 1);
        let state = host.state();
        let eth0 = "eth0".parse().unwrap();
        let addresses = state.addresses_of(&eth0);
        let routes = || state.routes.iter().filter(|r| r.uses(&eth0));
        for (what, has) in [
            (
                "a secondary",
                addresses.iter().any(|a| a.local.is_ipv4() && a.flags & 1 != 0),
            ),
            ("a peer", addresses.iter().any(|a| a.peer.is_some())),
            ("a label", addresses.iter().any(|a| a.label != Label::Device)),
            ("an end", addresses.iter().any(|a| !a.is_permanent())),
            ("no prefix route", addresses.iter().any(|a| !a.has_prefix_route())),
            ("several hops", routes().any(|r| r.hops.len() > 1)),
            ("a gateway on no prefix", routes().any(|r| r.hops[0].onlink)),
            ("another table", routes().any(|r| r.table != table::MAIN)),
            ("a rule", !state.rules.is_empty()),
            ("a neighbour", !state.neighbours.is_empty()),
            ("another NIC's route", state.routes.iter().any(|r| !r.uses(&eth0))),
            ("an uplink that is down", !state.link(&eth0).unwrap().up),
            ("a gateway of IPv4", host.gateway(Family::V4).is_some()),
            ("a gateway of IPv6", host.gateway(Family::V6).is_some()),
        ] {
            *seen.borrow_mut().entry(what).or_insert(0) += usize::from(has);
        }
        Ok(())
    })
    .unwrap();
    let seen = seen.into_inner();
    println!("of {} hosts: {seen:?}", hosts.get());
    // What is wrong with a thing that hardly a host has is found by chance.
    let rare: Vec<_> = seen
        .iter()
        .filter(|(_, count)| **count * 40 < hosts.get())
        .collect();
    assert!(rare.is_empty(), "few of {} hosts have {rare:?}", hosts.get());
}

/// Whether the property finds a fault in what `spoil` makes of each plan.
fn finds(spoil: fn(&mut Plan)) -> bool {
    let planner = move |kernel: &Kernel, target: &Target| {
        let mut plan = good(kernel, target);
        spoil(&mut plan);
        plan
    };
    let check = |mut host: Kernel| {
        let record = record(&host);
        let reach = &Reach::of(&host);
        lead(&mut host, reach, &record.bridged(), &planner)?;
        lead(&mut host, reach, &record.restored(), &planner).map(|_| ())
    };
    on_random_hosts(check).is_err()
}

#[test]
fn a_flip_in_parts_is_found() {
    assert!(finds(|plan| {
        let flips = plan.steps.iter_mut().filter(|s| s.stage == Stage::Flip);
        flips.for_each(|s| s.at_once = false);
    }));
}

#[test]
fn enslaving_and_flipping_before_preparing_is_found() {
    assert!(finds(|plan| {
        let made = |op: &Op| matches!(op, Op::CreateBridge { .. } | Op::SetUp { .. });
        let mut ops: Vec<Op> = plan.ops().cloned().collect();
        let late = |op: &Op| matches!(op, Op::AddAddress { .. } | Op::AppendRoute(_));
        ops.sort_by_key(|op| {
            if made(op) {
                0
            } else if late(op) {
                2
            } else {
                1
            }
        });
        plan.steps = vec![Step {
            stage: Stage::Settle,
            ops,
            at_once: false,
        }];
    }));
}

#[test]
fn a_route_that_is_forgotten_is_found() {
    assert!(finds(|plan| {
        for step in &mut plan.steps {
            step.ops.retain(|op| !matches!(op, Op::AppendRoute(_)));
        }
    }));
}
