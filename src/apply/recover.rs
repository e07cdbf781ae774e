//! The way back of a change that did not end.
//!
//! There is one rule: **what was interrupted ends with the network on the
//! uplink itself.** An `up` goes back to what was before it, a `down` is
//! completed. Who does it holds the namespace's lock.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::handover::{self, HandoverError};
use crate::netlink::dump;
use crate::owners::{firewall, udev};
use crate::plan::record::Progress;
use crate::plan::{Op, Plan, Record, Stage};

use super::air;
use super::clock;
use super::migrate::{self, MigrateError};
use super::store::{Rollback, Store};

/// How often the way back is tried, and how long the kernel has between two
/// tries (ENOBUFS, EBUSY pass).
const TRIES: usize = 4;
const BETWEEN: Duration = Duration::from_millis(50);

/// The word for a change that nobody is at any more.
pub const INTERRUPTED: &str = "interrupted";

/// Why the host was not brought back.
#[derive(Debug)]
pub enum RecoverError {
    /// The uplink of the record is gone, or another device has its name.
    /// Nothing was touched.
    Foreign,
    /// The way back failed.
    Failed(MigrateError),
    /// The uplink carries its network, but who configured it would not take it
    /// back.
    Held(Vec<HandoverError>),
    /// The host is as it was, but the record stays.
    Record(io::Error),
}

impl std::fmt::Display for RecoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => f.write_str("its uplink is gone, or another device has its name"),
            Self::Failed(error) => error.fmt(f),
            Self::Held(errors) => write!(
                f,
                "the uplink carries its network, but {}",
                handover::sentence(errors)
            ),
            Self::Record(error) => write!(f, "the host is back, but its record stays: {error}"),
        }
    }
}

impl std::error::Error for RecoverError {}

/// Whether a record tells of something that has to be led back: a change that
/// nobody is at any more, or one that nobody confirmed in time. The caller
/// holds the lock.
pub fn is_due(record: &Record) -> bool {
    match record.progress {
        Progress::Settled => false,
        Progress::Changing => true,
        Progress::AwaitingConfirm => milliseconds_left(record) == 0,
    }
}

/// Whether nobody would lead an unconfirmed change back.
pub fn is_unwatched(record: &Record) -> bool {
    record.progress == Progress::AwaitingConfirm && !record.watchdog.is_some_and(|dog| dog.is_alive())
}

/// The word for how far a change has come; `held` says whether a vmbr other
/// than the caller is at work, where that is known.
pub fn state(record: &Record, held: Option<bool>) -> &'static str {
    let watched = record.watchdog.is_some_and(|watchdog| watchdog.is_alive());
    match (record.progress, held) {
        (Progress::Settled, _) => "settled",
        (Progress::AwaitingConfirm, _) if watched || !is_due(record) => "awaiting-confirm",
        (_, Some(false)) if !watched => INTERRUPTED,
        _ => "changing",
    }
}

/// Time that is left to confirm, in milliseconds.
pub fn milliseconds_left(record: &Record) -> u64 {
    let until = record.confirm_by.unwrap_or(0);
    until.saturating_sub(clock::boot_milliseconds())
}

/// Leads an interrupted change to its end, and remembers why. The caller holds
/// the lock, and the signals.
///
/// # Errors
/// [`RecoverError`].
pub fn recover(store: &Store, record: &Record, reason: &str) -> Result<(), RecoverError> {
    if record.air.is_some() {
        return clear(store, record, reason);
    }
    let devices = [&record.uplink.name, &record.bridge.name];
    let live = dump::snapshot(&devices).map_err(|error| RecoverError::Failed(MigrateError::Read(error)))?;
    if !record.is_of(&live) {
        return Err(RecoverError::Foreign);
    }
    let now = clock::since_boot().as_secs();
    let target = record.rolled_back(&live, now);
    if record.progress == Progress::AwaitingConfirm {
        // Should this be interrupted, too, the host is between two states, and
        // what was renewed on the bridge is nowhere else. A full disk must not
        // keep it where nobody confirmed it.
        let mut changing = Record {
            progress: Progress::Changing,
            ..record.clone()
        };
        if record.end.is_none() {
            changing.before = target.network.clone();
            changing.read_at = Some(now);
        }
        let _ = store.save(&changing);
    }
    handover::pause(record);
    let adjust = |plan: &mut Plan| {
        handover::arrange_back(record, plan);
        remove(plan, record, &live);
    };
    // Whoever has the uplink again may change it at any time.
    let moved = live.link(&record.bridge.name).is_none() && !record.holds.is_empty();
    let lead = || {
        if moved {
            migrate::complete(&target, &adjust)
        } else {
            migrate::reach(&target, None, &adjust, &mut || Ok(()), &mut |_| {})
        }
    };
    let mut attempt = 1;
    while let Err(error) = lead() {
        if attempt == TRIES {
            go_on(record);
            return Err(RecoverError::Failed(error));
        }
        attempt += 1;
        sleep(BETWEEN);
    }
    // Its warnings are for who waits at a terminal.
    handover::to_uplink(record).map_err(RecoverError::Held)?;
    firewall::forget(record);
    udev::forget(record);
    if record.end.is_none() {
        // The log has it as well.
        let _ = store.note(&Rollback::of(record, reason));
    }
    store.remove(&record.bridge.name).map_err(RecoverError::Record)
}

/// The same with MAC-NAT, where the uplink has its network all the time, and
/// may be gone: what served the guests goes.
fn clear(store: &Store, record: &Record, reason: &str) -> Result<(), RecoverError> {
    let removes = record.end.as_ref().map_or(&[][..], |end| &end.removes);
    air::clear(record, removes, &|_| {}, &mut || Ok(()), &mut |_| {}).map_err(RecoverError::Failed)?;
    if record.end.is_none() {
        let _ = store.note(&Rollback::of(record, reason));
    }
    store.remove(&record.bridge.name).map_err(RecoverError::Record)
}

/// Where a way back has failed and the bridge carries the network still, those
/// who have it go on there.
pub fn go_on(record: &Record) {
    let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
    let live = dump::network().ok();
    let link = live.as_ref().and_then(|live| live.link(uplink));
    if link.is_some_and(|link| link.master.as_ref() == Some(bridge)) {
        handover::resume(record);
    }
}

/// The TAPs that a `down` was to remove go with the bridge.
fn remove(plan: &mut Plan, record: &Record, live: &crate::model::HostState) {
    let Some(step) = plan.steps.iter_mut().rfind(|step| step.stage == Stage::Tidy) else {
        return;
    };
    let asked = record.end.iter().flat_map(|end| &end.removes);
    let ports = asked.filter(|tap| live.ports_of(&record.bridge.name).any(|port| port.name == **tap));
    let ops: Vec<Op> = ports.map(|tap| Op::DeleteLink { dev: tap.clone() }).collect();
    step.ops.splice(0..0, ops);
}
