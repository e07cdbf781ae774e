//! Golden plans of mode mac-nat: each directory of tests/golden_mac_nat is a
//! host and what is asked of it, with the plan or the refusal that must come of
//! it, and from every prefix of each plan the target is reached still.
//!
//! - `live.json`: the host, a [`HostState`].
//! - `request.json`: `{"up": {"uplink", "bridge"}}` is `vmbr up --mode mac-nat`,
//!   `{"stand": {"record"}}` is `vmbr sync` and the way on of an `up`, and
//!   `{"down": {"record"}}` is `vmbr down` and every way back; the record is a
//!   file beside it. `programs` says which stand.
//! - `plan.txt`: the stages with their commands; or `refusal.txt`.
//!
//! `VMBR_BLESS=1 cargo test --test plan_mac_nat` writes the plans, which a
//! person must then read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/golden.rs"]
mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use macaddr::MacAddr6;
use serde::Deserialize;
use vmbr::model::{HostState, IfName, Link};
use vmbr::plan::air::{Air, Programs, Target, bridge_mac, plan, protected, uplink};
use vmbr::plan::{Bridge, Op, Plan, Record, refuse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(flatten)]
    what: What,
    programs: Programs,
    #[serde(default)]
    servers: BTreeSet<IpAddr>,
    #[serde(default)]
    pins: BTreeMap<IpAddr, MacAddr6>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Up {
        uplink: IfName,
        bridge: IfName,
        #[serde(default)]
        dhcp_chaddr: bool,
    },
    Stand {
        record: String,
    },
    Down {
        record: String,
        #[serde(default)]
        removes: Vec<IfName>,
    },
}

struct Case {
    path: PathBuf,
    live: HostState,
    programs: Programs,
    answer: Result<Target, String>,
    files: BTreeSet<String>,
}

/// As `vmbr up` makes it.
fn record(live: &HostState, uplink: &IfName, bridge: &IfName, dhcp_chaddr: bool) -> Record {
    let record = Record::of(live, uplink, bridge, "boot:1", 0).expect("the uplink has a MAC");
    let link = live.link(uplink).unwrap();
    Record {
        bridge: Bridge {
            mac: bridge_mac(record.uplink.mac),
            ..record.bridge
        },
        air: Air::of(live, link, bridge, dhcp_chaddr),
        ..record
    }
}

impl Case {
    fn read(path: PathBuf) -> Self {
        let live: HostState = golden::json(&path, "live.json");
        let Request {
            what,
            programs,
            servers,
            pins,
        } = golden::json(&path, "request.json");
        let mut files = BTreeSet::from(["live.json".to_owned(), "request.json".to_owned()]);
        let stand = |record: &Record| {
            let link = uplink(&live, record).expect("the uplink is there");
            let protected = protected(&live, &link.name, &servers, &pins);
            record.translated(link, protected, pins.clone()).unwrap()
        };
        let answer = match what {
            What::Up {
                uplink,
                bridge,
                dhcp_chaddr,
            } => {
                let refusals = refuse::up_mac_nat(&live, &uplink, &bridge);
                if refusals.is_empty() {
                    Ok(stand(&record(&live, &uplink, &bridge, dhcp_chaddr)))
                } else {
                    Err(refusals
                        .iter()
                        .fold(String::new(), |text, r| format!("{text}{r}\n")))
                }
            }
            What::Stand { record: name } => {
                let target = stand(&golden::json(&path, &name));
                files.insert(name);
                Ok(target)
            }
            What::Down {
                record: name,
                removes,
            } => {
                let record: Record = golden::json(&path, &name);
                files.insert(name);
                Ok(record.untranslated(removes).unwrap())
            }
        };
        let mut case = Self {
            path,
            live,
            programs,
            answer,
            files,
        };
        let file = case.file().to_owned();
        case.files.insert(file);
        case
    }

    /// The file that has the answer.
    fn file(&self) -> &'static str {
        match self.answer {
            Ok(_) => "plan.txt",
            Err(_) => "refusal.txt",
        }
    }

    fn name(&self) -> String {
        golden::name(&self.path)
    }

    fn text(&self) -> String {
        match &self.answer {
            Ok(target) => plan_text(&plan(&self.live, self.programs, target)),
            Err(refusal) => refusal.clone(),
        }
    }
}

fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        writeln!(text, "# {:?}", step.stage).unwrap();
        for op in &step.ops {
            writeln!(text, "{}", op.command()).unwrap();
        }
    }
    text
}

fn cases() -> Vec<Case> {
    let paths = golden::paths("golden_mac_nat", 15);
    paths.into_iter().map(Case::read).collect()
}

#[test]
fn every_answer_is_as_written() {
    let cases = cases();
    golden::assert_as_written(cases.iter().map(|case| golden::Outcome {
        path: &case.path,
        file: case.file(),
        text: case.text(),
        files: &case.files,
    }));
}

#[test]
fn only_a_host_that_differs_is_changed() {
    for case in cases() {
        if let Ok(target) = &case.answer {
            let plan = plan(&case.live, case.programs, target);
            assert_eq!(
                plan.is_empty(),
                case.name().starts_with("already-"),
                "{}",
                case.name()
            );
        }
    }
}

/// Nothing is done to the uplink, nor to any other device of the host.
#[test]
fn what_is_not_the_bridges_is_never_touched() {
    for case in cases() {
        let Ok(target) = &case.answer else { continue };
        let ours = [&target.bridge.name, &target.air.port, &target.air.far];
        let goes = |dev: &IfName| target.removes.contains(dev);
        for op in plan(&case.live, case.programs, target).ops() {
            let fits = match op {
                Op::CreateBridge { name, .. } => *name == target.bridge.name,
                Op::CreateVeth { name, far, .. } => *name == target.air.port && *far == target.air.far,
                Op::SetUp { dev, .. }
                | Op::SetMtu { dev, .. }
                | Op::SetMac { dev, .. }
                | Op::SetNoArp { dev }
                | Op::AwaitRunning { dev }
                | Op::SetMaster { dev, .. }
                | Op::SetSysctl { dev, .. } => ours.contains(&dev),
                Op::DeleteLink { dev } => ours.contains(&dev) || goes(dev),
                Op::Translate(told) => told.index == target.uplink.index && told.air == target.air.port,
                Op::StopTranslation { index, air, .. } => {
                    *index == target.uplink.index && *air == target.air.port
                }
                _ => false,
            };
            assert!(fits, "{}: {op}", case.name());
        }
    }
}

/// What the kernel makes of an operation, as far as these plans look.
fn apply(live: &mut HostState, programs: &mut Programs, op: &Op) {
    let next = live.links.iter().map(|link| link.index).max().unwrap_or(0) + 1;
    let new = |name: &IfName, kind: &str, index: u32| -> Link {
        serde_json::from_value(serde_json::json!({
            "index": index, "name": name, "kind": kind, "mac": [2, 0, 0, 0, 0, index]
        }))
        .unwrap()
    };
    let defaults = live.sysctls.get("default").cloned().unwrap_or_default();
    let born = |live: &mut HostState, link: Link| {
        live.sysctls.insert(link.name.to_string(), defaults.clone());
        live.links.push(link);
    };
    let find = |live: &mut HostState, dev: &IfName| -> usize {
        let found = live.links.iter().position(|link| link.name == *dev);
        found.unwrap_or_else(|| panic!("there is no {dev}"))
    };
    match op {
        Op::CreateBridge { name, mac } => {
            assert!(live.link(name).is_none());
            let mut link = new(name, "bridge", next);
            link.mac = Some(*mac);
            born(live, link);
        }
        Op::CreateVeth { name, far, mtu } => {
            for (name, other, index) in [(name, far, next), (far, name, next + 1)] {
                assert!(live.link(name).is_none());
                let mut link = new(name, "veth", index);
                link.lower = Some(other.clone());
                link.mtu = *mtu;
                born(live, link);
            }
        }
        Op::DeleteLink { dev } => {
            let place = find(live, dev);
            let gone = live.links.remove(place);
            if gone.is_kind("veth") {
                live.links.retain(|link| gone.lower.as_ref() != Some(&link.name));
            }
            for link in &mut live.links {
                link.master = link.master.take().filter(|master| *master != gone.name);
            }
            // Its own goes with it: more than none, less than all.
            if *programs == Programs::All {
                *programs = Programs::Some;
            }
        }
        Op::SetUp { dev, up } => {
            let place = find(live, dev);
            live.links[place].up = *up;
        }
        Op::SetMtu { dev, mtu } => {
            let place = find(live, dev);
            live.links[place].mtu = *mtu;
        }
        Op::SetMac { dev, mac } => {
            let place = find(live, dev);
            live.links[place].mac = Some(*mac);
        }
        Op::SetNoArp { dev } => {
            let place = find(live, dev);
            live.links[place].noarp = true;
        }
        Op::SetMaster { dev, master } => {
            let place = find(live, dev);
            live.links[place].master.clone_from(master);
        }
        Op::SetSysctl { dev, key, value } => {
            let settings = live.sysctls.get_mut(dev.as_str()).unwrap();
            settings.insert(key.clone(), value.clone());
        }
        Op::AwaitRunning { dev } => {
            let place = find(live, dev);
            live.links[place].running = live.links[place].up;
        }
        Op::Translate(told) => {
            find(live, &told.air);
            *programs = Programs::All;
        }
        Op::StopTranslation { .. } => *programs = Programs::None,
        other => panic!("{other} is in no plan of these"),
    }
}

/// Cut short anywhere, a plan leads on to its target, and back to none of it.
#[test]
fn from_every_prefix_both_ends_are_reached() {
    let mut prefixes = 0;
    for case in cases() {
        let Ok(target) = &case.answer else { continue };
        let whole = plan(&case.live, case.programs, target);
        let ops: Vec<&Op> = whole.ops().collect();
        for length in 0..=ops.len() {
            let (mut live, mut programs) = (case.live.clone(), case.programs);
            ops.iter()
                .take(length)
                .for_each(|op| apply(&mut live, &mut programs, op));
            let back = Target {
                translation: None,
                ..target.clone()
            };
            for aim in [target, &back] {
                let (mut live, mut programs) = (live.clone(), programs);
                let rest = plan(&live, programs, aim);
                rest.ops().for_each(|op| apply(&mut live, &mut programs, op));
                let left = plan(&live, programs, aim);
                assert!(
                    left.is_empty(),
                    "{} after {length}: {}",
                    case.name(),
                    plan_text(&left)
                );
                if aim.translation.is_none() {
                    // Of the same name, and of another kind, it is another's.
                    let ours = [(&aim.bridge.name, "bridge"), (&aim.air.port, "veth")];
                    let stays = |(name, kind)| live.link(name).is_some_and(|link| link.is_kind(kind));
                    assert!(!ours.into_iter().any(stays), "{}", case.name());
                }
                prefixes += 1;
            }
        }
    }
    assert!(prefixes > 100, "only {prefixes}");
}
