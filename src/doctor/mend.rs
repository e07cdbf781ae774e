//! Performs what a finding's `fix` says, and undoes it. The caller holds the
//! namespace's lock.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::apply::executor::Executor;
use crate::apply::namespace;
use crate::handover::keeper;
use crate::model::{HostState, IfName};
use crate::netlink::{bridges, dump, sysctl};
use crate::plan::{Op, Plan, Stage, Step};

use super::fixes::Fixes;
use super::{Change, rules};

/// What came of undoing one change.
#[derive(Debug, PartialEq, Eq)]
pub enum Undone {
    /// What was before is again.
    Yes,
    /// Someone changed it since: it is theirs.
    Changed,
    /// The bridge that it served is gone, and it went along.
    Gone,
}

/// Makes a change, remembered before it is made.
///
/// # Errors
/// In words; then it was not made.
pub fn make(change: &Change, fixes: &mut Fixes) -> Result<(), String> {
    let before = fixes
        .remember(change)
        .map_err(|error| format!("cannot remember it, so it is left: {error}"))?;
    let made = perform(change);
    if made.is_err() {
        // Nothing is to be undone; undoing it would find that, too.
        let _ = fixes.forget(change, before);
    }
    made
}

/// Undoes, after a bridge was taken down, what doctor did for it; where it was
/// the last that vmbr made, all that doctor did. `report` hears of each
/// change, and of its failure.
///
/// # Errors
/// In words, where it cannot be read what was done.
pub fn undo(
    fixes: &mut Fixes,
    gone: Option<&IfName>,
    last: bool,
    report: &mut dyn FnMut(&Change, Result<Undone, String>),
) {
    for change in fixes.to_undo(gone, last) {
        let undone = take_back(&change, gone);
        if undone.is_ok() {
            // A change that is found undone already is forgotten then.
            let _ = fixes.forget(&change, None);
        }
        report(&change, undone);
    }
}

fn run(op: Op) -> Result<(), String> {
    let plan = Plan {
        steps: vec![Step {
            at_once: false,
            stage: Stage::Settle,
            ops: vec![op],
        }],
    };
    let mut executor = Executor::new().map_err(|error| error.to_string())?;
    executor
        .execute(&plan, &mut |_| {})
        .map_err(|failure| failure.to_string())
}

fn said(error: io::Error) -> String {
    error.to_string()
}

fn perform(change: &Change) -> Result<(), String> {
    match change {
        Change::Sysctl { dev, key, new, .. } => sysctl::write(dev.as_str(), key, new).map_err(said),
        Change::Option {
            bridge, setting, new, ..
        } => bridges::set(bridge, *setting, *new).map_err(|error| error.to_string()),
        Change::Mac { bridge, new, .. } => run(Op::SetMac {
            dev: bridge.clone(),
            mac: *new,
        }),
        Change::Address { port, address, .. } => run(Op::DeleteAddress {
            dev: port.clone(),
            address: address.clone(),
        }),
        Change::Route { route, .. } => run(Op::DeleteRoute(route.as_ref().clone())),
        Change::Accept { bridge, chain } => rules::insert(chain, bridge),
        Change::Keeper { bridge } => keeper::revive(&namespace::identity().map_err(said)?, bridge),
        Change::Translation { .. } => Err("it is done by who has the records".to_owned()),
        Change::Mode { path, new, .. } => set_mode(path, *new),
    }
}

fn set_mode(path: &std::path::Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(said)
}

/// Undoes a change if what it made still stands.
fn take_back(change: &Change, gone: Option<&IfName>) -> Result<Undone, String> {
    match change {
        Change::Sysctl { dev, key, old, new } => match sysctl::read(dev.as_str(), key) {
            None => Ok(Undone::Gone),
            Some(value) if value != *new => Ok(Undone::Changed),
            Some(_) => sysctl::write(dev.as_str(), key, old).map_err(said).map(done),
        },
        Change::Mode { path, old, new } => match fs::metadata(path) {
            Err(_) => Ok(Undone::Gone),
            Ok(metadata) if metadata.mode() & 0o7777 != *new => Ok(Undone::Changed),
            Ok(_) => set_mode(path, *old).map(done),
        },
        // A rule stays when its bridge goes.
        Change::Accept { bridge, chain } => Ok(if rules::remove(chain, bridge)? {
            Undone::Yes
        } else {
            Undone::Changed
        }),
        // It ends with its duty.
        Change::Keeper { .. } | Change::Translation { .. } => Ok(Undone::Gone),
        // Only pinned, and that cannot be undone.
        Change::Mac { old, new, .. } if old == new => Ok(Undone::Gone),
        // All else is of the bridge: it went with it, and what its ports had
        // is where `down` put it.
        _ if change.bridge() == gone => Ok(Undone::Gone),
        Change::Option {
            bridge,
            setting,
            old,
            new,
        } => {
            let options = dump::bridge_options().map_err(said)?;
            match options.get(bridge).map(|options| setting.value(options)) {
                None => Ok(Undone::Gone),
                Some(value) if value != *new => Ok(Undone::Changed),
                Some(_) => bridges::set(bridge, *setting, *old)
                    .map_err(|error| error.to_string())
                    .map(done),
            }
        }
        Change::Mac { bridge, old, new } => match host()?.link(bridge) {
            None => Ok(Undone::Gone),
            Some(link) if link.mac != Some(*new) => Ok(Undone::Changed),
            Some(_) => run(Op::SetMac {
                dev: bridge.clone(),
                mac: *old,
            })
            .map(done),
        },
        Change::Address { port, address, .. } => {
            let host = host()?;
            if host.link(port).is_none() {
                Ok(Undone::Gone)
            } else if host.addresses_of(port).iter().any(|a| a.same_key(address)) {
                Ok(Undone::Changed)
            } else {
                run(Op::AddAddress {
                    dev: port.clone(),
                    address: address.clone(),
                })
                .map(done)
            }
        }
        Change::Route { port, route, .. } => {
            let host = host()?;
            if host.link(port).is_none() {
                Ok(Undone::Gone)
            } else if host.routes.iter().any(|r| r.uses(port) && r.same_slot(route)) {
                Ok(Undone::Changed)
            } else {
                run(Op::AppendRoute(route.as_ref().clone())).map(done)
            }
        }
    }
}

fn host() -> Result<HostState, String> {
    dump::network().map_err(said)
}

fn done((): ()) -> Undone {
    Undone::Yes
}
