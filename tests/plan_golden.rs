//! Golden plans: each directory of tests/golden is a host and what is asked of
//! it, with the plan or the refusal that must come of it.
//!
//! - `live.json`: the host, a [`HostState`], with the settings that matter.
//! - `request.json`: `{"up":{"uplink","bridge"}}` is `vmbr up`.
//!   `{"bridge":{"record"}}` leads on to the bridge of a record,
//!   `{"down":{"record"}}` is `vmbr down`, and `{"restore":{"record"}}` goes
//!   back to what the record tells; the record is a file beside it.
//! - `plan.txt`: the stages with their commands; or `refusal.txt`: what stands
//!   in the way, with its remedy.
//!
//! A new case is a new directory; `VMBR_BLESS=1 cargo test --test plan_golden`
//! writes its plan, which a person must then read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/golden.rs"]
mod golden;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Deserialize;
use vmbr::model::route::protocol;
use vmbr::model::{Family, HostState, IfName, Network, Route};
use vmbr::plan::{Holder, Op, Plan, Record, Stage, Target, plan, refuse, verify};

/// What is asked of a host.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Up { uplink: IfName, bridge: IfName },
    Bridge { record: String },
    Down { record: String },
    Restore { record: String },
}

/// What comes of it.
enum Answer {
    Plan(Box<Target>, Plan),
    Refusal(String),
}

impl Answer {
    fn file(&self) -> &'static str {
        match self {
            Self::Plan(..) => "plan.txt",
            Self::Refusal(_) => "refusal.txt",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Plan(_, plan) => plan_text(plan),
            Self::Refusal(text) => text.clone(),
        }
    }
}

/// A directory of tests/golden.
struct Case {
    path: PathBuf,
    live: HostState,
    answer: Answer,
    /// The files that belong to it.
    files: BTreeSet<String>,
}

impl Case {
    fn read(path: PathBuf) -> Self {
        let live: HostState = golden::json(&path, "live.json");
        let record = |name: &str| -> Record { golden::json(&path, name) };
        let mut files = BTreeSet::from(["live.json".to_owned(), "request.json".to_owned()]);
        let target = match golden::json(&path, "request.json") {
            Request::Up { uplink, bridge } => {
                let refusals = refuse::up(&live, &uplink, &bridge);
                if refusals.is_empty() {
                    let record = Record::of(&live, &uplink, &bridge, "boot:1", 0);
                    Ok(record.expect("the uplink has a MAC").bridged())
                } else {
                    Err(refusals
                        .iter()
                        .fold(String::new(), |text, r| format!("{text}{r}\n")))
                }
            }
            Request::Bridge { record: name } => {
                let target = record(&name).bridged();
                files.insert(name);
                Ok(target)
            }
            Request::Down { record: name } => {
                let target = record(&name).returned(&live);
                files.insert(name);
                Ok(target)
            }
            Request::Restore { record: name } => {
                let target = record(&name).restored();
                files.insert(name);
                Ok(target)
            }
        };
        let answer = match target {
            Ok(target) => {
                let plan = plan(&live, &target);
                Answer::Plan(Box::new(target), plan)
            }
            Err(refusal) => Answer::Refusal(refusal),
        };
        files.insert(answer.file().to_owned());
        Self {
            path,
            live,
            answer,
            files,
        }
    }

    fn name(&self) -> String {
        golden::name(&self.path)
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "Prepare",
        Stage::Enslave => "Enslave",
        Stage::Flip => "Flip",
        Stage::Translate => "Translate",
        Stage::Settle => "Settle",
        Stage::Tidy => "Tidy",
    }
}

/// The commands under the headings of their stages; nothing for an empty plan.
fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    let mut commands = plan.commands();
    let mut last = None;
    for step in &plan.steps {
        if last.replace(step.stage) != Some(step.stage) {
            writeln!(text, "# {}", stage_name(step.stage)).unwrap();
        }
        for command in commands.by_ref().take(step.ops.len()) {
            writeln!(text, "{command}").unwrap();
        }
    }
    text
}

fn cases() -> Vec<Case> {
    let paths = golden::paths("golden", 40);
    paths.into_iter().map(Case::read).collect()
}

/// Every case that ends in a plan.
fn plans(cases: &[Case]) -> impl Iterator<Item = (String, &HostState, &Target, &Plan)> {
    cases.iter().filter_map(|case| match &case.answer {
        Answer::Plan(target, plan) => Some((case.name(), &case.live, target.as_ref(), plan)),
        Answer::Refusal(_) => None,
    })
}

#[test]
fn every_answer_is_as_written() {
    let cases = cases();
    golden::assert_as_written(cases.iter().map(|case| golden::Outcome {
        path: &case.path,
        file: case.answer.file(),
        text: case.answer.text(),
        files: &case.files,
    }));
}

/// The operations of a stage.
fn ops(plan: &Plan, stage: Stage) -> impl Iterator<Item = &Op> {
    plan.steps
        .iter()
        .filter(move |s| s.stage == stage)
        .flat_map(|s| &s.ops)
}

#[test]
fn stages_come_in_their_order() {
    let all = cases();
    for (name, _, _, plan) in plans(&all) {
        let ranks: Vec<u8> = plan.steps.iter().map(|s| s.stage as u8).collect();
        assert!(ranks.is_sorted(), "{name}: {:?}", plan.steps);
        assert!(
            plan.steps.iter().all(|s| !s.ops.is_empty()),
            "{name}: an empty step"
        );
        assert!(
            plan.steps.iter().filter(|s| s.stage == Stage::Flip).count() <= 1,
            "{name}: a flip in two parts"
        );
    }
}

/// Until the flip nothing is taken from who carries the network: of the old
/// holder only settings change, and it gets no address, route or neighbour.
#[test]
fn preparing_leaves_the_old_holder_alone() {
    let all = cases();
    for (name, _, target, plan) in plans(&all) {
        let old = target.other_name();
        for op in ops(plan, Stage::Prepare) {
            match op {
                Op::SetSysctl { .. } | Op::AwaitRunning { .. } => {}
                op => assert!(!touches(op, old), "{name}: {op} touches {old}"),
            }
        }
    }
}

/// What the kernel does in one system call only takes from the old holder,
/// frees the uplink, or puts a route of the new one where the old one's stood.
#[test]
fn the_flip_only_takes_away() {
    let all = cases();
    for (name, live, target, plan) in plans(&all) {
        let (new, old) = (target.holder_name(), target.other_name());
        for op in ops(plan, Stage::Flip) {
            let fits = match op {
                Op::DeleteRoute(route) => route.uses(old) || target.network.routes.contains(route),
                Op::ReplaceRoute(route) | Op::PrependRoute(route) => {
                    route.uses(new) && target.network.routes.contains(route)
                }
                Op::DeleteAddress { dev, .. } => dev == old,
                Op::DeleteNeighbour(neighbour) => neighbour.dev == *old,
                Op::SetNexthop(object) => target.network.nexthops.contains(object),
                Op::DeleteNexthop(object) => object.uses(old) || object.uses(new) || object.is_group(),
                Op::SetMaster { dev, master: None } => {
                    *dev == target.uplink && target.holder == Holder::Uplink
                }
                _ => false,
            };
            assert!(fits, "{name}: {op} is in the flip");
        }
        // Nothing of it stays: what is not taken goes with an address.
        let left = Network::of(live, old);
        let taken = |f: &dyn Fn(&Op) -> bool| ops(plan, Stage::Flip).any(f);
        for address in &left.addresses {
            let gone = |op: &Op| matches!(op, Op::DeleteAddress { address: a, .. } if a == address);
            assert!(taken(&gone), "{name}: {address} stays on {old}");
        }
        for object in left.nexthops.iter().filter(|object| object.uses(old)) {
            let gone = |op: &Op| match op {
                Op::SetNexthop(o) => o.id == object.id && !o.uses(old),
                Op::DeleteNexthop(o) => o.id == object.id,
                _ => false,
            };
            assert!(taken(&gone), "{name}: the object {} stays on {old}", object.id);
        }
        let by_device = |r: &&Route| r.family() == Family::V6 && r.nexthop.is_none();
        for route in left.routes.iter().filter(by_device) {
            let place = route.renamed(old, new);
            let gone = |op: &Op| match op {
                Op::DeleteRoute(r) => r == route,
                Op::ReplaceRoute(r) => r.same(&place),
                _ => false,
            };
            assert!(taken(&gone), "{name}: the route to {} stays on {old}", route.dst);
        }
    }
}

/// Every part of the target is there already or comes with the plan.
#[test]
fn nothing_is_lost() {
    let all = cases();
    for (name, live, target, plan) in plans(&all) {
        let have = Network::of(live, target.holder_name());
        let some = |f: &dyn Fn(&Op) -> bool| plan.ops().any(f);
        for wanted in &target.network.addresses {
            let made = |op: &Op| {
                matches!(op, Op::AddAddress { address, .. } | Op::ChangeAddress { address, .. }
                    if address.same_content(wanted))
            };
            let there = have.addresses.iter().any(|a| a.same_content(wanted));
            assert!(there || some(&made), "{name}: the address {wanted}");
        }
        for wanted in &target.network.nexthops {
            let made = |op: &Op| matches!(op, Op::SetNexthop(object) if object == wanted);
            let there = live.nexthops.contains(wanted);
            assert!(there || some(&made), "{name}: the object {}", wanted.id);
        }
        for wanted in &target.network.routes {
            // A copy stands for a router's route; the kernel makes a prefix's
            // route with the address.
            let ra = |r: &Route| r.protocol == protocol::RA && r.same_slot_but_metric(wanted);
            let made = |op: &Op| match op {
                Op::AppendRoute(r) | Op::PrependRoute(r) | Op::ReplaceRoute(r) => r.same(wanted) || ra(r),
                Op::AddAddress { address, .. } | Op::ChangeAddress { address, .. } => {
                    wanted.protocol == protocol::KERNEL
                        && address.has_prefix_route()
                        && address.on_link() == wanted.dst
                }
                _ => false,
            };
            // One by a nexthop object stays as it is while the object moves.
            let mut standing = live.routes.iter().map(Route::without_objects_hops);
            let there = have.routes.iter().any(|r| r.same(wanted) || ra(r))
                || (wanted.nexthop.is_some() && standing.any(|r| r.same(wanted)));
            assert!(there || some(&made), "{name}: the route to {}", wanted.dst);
        }
        for wanted in &target.network.rules {
            let made = |op: &Op| matches!(op, Op::AddRule(rule) if rule == wanted);
            assert!(have.rules.contains(wanted) || some(&made), "{name}: a rule");
        }
        for wanted in target.network.neighbours.iter().filter(|n| n.is_configured()) {
            let made = |op: &Op| matches!(op, Op::SetNeighbour(n) if n == wanted);
            let there = have.neighbours.contains(wanted);
            assert!(there || some(&made), "{name}: the neighbour {}", wanted.address);
        }
    }
}

/// Of devices other than the uplink and the bridge, only routes that they share
/// with one of the two change.
#[test]
fn nothing_of_other_devices_is_touched() {
    let all = cases();
    for (name, live, target, plan) in plans(&all) {
        let ours = [&target.uplink, &target.bridge.name];
        for link in live.links.iter().filter(|l| !ours.contains(&&l.name)) {
            for op in plan.ops() {
                let shared = |r: &Route| ours.iter().any(|dev| r.uses(dev));
                match op {
                    Op::AppendRoute(r) | Op::PrependRoute(r) | Op::ReplaceRoute(r) | Op::DeleteRoute(r)
                        if shared(r) => {}
                    op => assert!(!touches(op, &link.name), "{name}: {op} touches {}", link.name),
                }
            }
        }
    }
}

/// A plan has nothing to do exactly where the host is what it should be.
#[test]
fn only_a_host_that_differs_is_changed() {
    let all = cases();
    for (name, live, target, plan) in plans(&all) {
        let differences = verify::differences(live, target);
        assert_eq!(
            plan.is_empty(),
            differences.is_empty(),
            "{name}: {differences:?}\n{}",
            plan_text(plan)
        );
        assert_eq!(plan.is_empty(), name.starts_with("already-"), "{name}");
    }
}

/// Whether an operation changes a device or what it carries.
fn touches(op: &Op, device: &IfName) -> bool {
    match op {
        Op::CreateBridge { name, .. } => name == device,
        Op::DeleteLink { dev }
        | Op::SetUp { dev, .. }
        | Op::SetMtu { dev, .. }
        | Op::SetMac { dev, .. }
        | Op::SetMaster { dev, .. }
        | Op::AddAddress { dev, .. }
        | Op::ChangeAddress { dev, .. }
        | Op::DeleteAddress { dev, .. }
        | Op::SetSysctl { dev, .. } => dev == device,
        Op::SetNexthop(object) | Op::DeleteNexthop(object) => object.uses(device),
        Op::AppendRoute(r) | Op::PrependRoute(r) | Op::ReplaceRoute(r) | Op::DeleteRoute(r) => r.uses(device),
        Op::SetNeighbour(n) | Op::DeleteNeighbour(n) => n.dev == *device,
        Op::AddRule(rule) | Op::DeleteRule(rule) => rule.names(device),
        _ => false,
    }
}
