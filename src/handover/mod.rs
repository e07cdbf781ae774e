//! Whoever configured the uplink configures the bridge, and back.
//!
//! [`crate::owners`] finds a manager and says, by a [`Hold`], how it is moved;
//! here it is moved. What it holds, a lease before all, is alive throughout:
//! the same address, MAC, client identifier and options, asked for by the same
//! program or its successor.
//!
//! # The order
//!
//! ```text
//! up      record written -> prepare -> the network moves -> to_bridge -> settled
//! down    the network moves, the bridge goes -> to_uplink -> record removed
//! failed, killed    the network moves back -> to_uplink -> record removed
//! ```
//!
//! Each of the three may be cut short anywhere and is done again from its
//! beginning then, [`Handover::to_uplink`] also where the others were never
//! begun: it asks what is there, does what is missing, and where the manager
//! still has its hand on the uplink it does not disturb it. At no moment may a
//! manager take an address or a route from the device that carries the
//! network.
#![forbid(unsafe_code)]

mod dhclient;
pub(crate) mod dhclient_leases;
mod dhcpcd;
pub mod keeper;
mod kernel;
mod names;
mod network_manager;
mod networkd;
mod resolved;
pub mod service;
mod shelter;

use std::fmt;
use std::path::Path;

use crate::plan::hold::Hold;
use crate::plan::{Plan, Record};

/// How one manager is moved.
pub trait Handover {
    /// Its name, as people know it.
    fn name(&self) -> &'static str;

    /// The commands that a person would type for [`Self::to_bridge`].
    fn commands(&self, record: &Record) -> Vec<String>;

    /// The commands that a person would type for [`Self::to_uplink`].
    fn commands_back(&self, record: &Record) -> Vec<String>;

    /// Keeps the manager from what it would do by itself as soon as the bridge
    /// exists. Nothing of the host's network was touched yet.
    ///
    /// # Errors
    /// What was prepared may stand: the caller calls [`Self::to_uplink`].
    fn prepare(&self, _record: &Record) -> Result<(), HandoverError> {
        Ok(())
    }

    /// Gives the manager the bridge, which carries the network now, and has it
    /// let go of the uplink. The answer is warnings, each a sentence.
    ///
    /// # Errors
    /// The manager would not; the caller leads everything back.
    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError>;

    /// Arranges the plan that leads back to the uplink so that the manager sees
    /// of it what it should.
    fn arrange_back(&self, _plan: &mut Plan) {}

    /// Keeps the manager of the bridge from what it would do by itself as soon
    /// as the network leaves the bridge. It can be called where there is none.
    fn pause(&self, _record: &Record) {}

    /// Takes [`Self::pause`] back: the network stays on the bridge.
    fn resume(&self, _record: &Record) {}

    /// Gives the manager the uplink, which carries the network now; the bridge
    /// may be gone. What the way to the bridge has left is taken away. The
    /// answer is warnings, each a sentence.
    ///
    /// # Errors
    /// The manager would not; it can be called again.
    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError>;
}

/// A manager that was not moved.
#[derive(Debug)]
pub struct HandoverError {
    /// The manager, as people know it.
    pub manager: &'static str,
    /// What was being done, and what it answered.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.manager, self.message)
    }
}

impl std::error::Error for HandoverError {}

/// The command that a person would type to write a file, its comments aside.
fn written(text: &str, path: &Path) -> String {
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|line| format!("'{}'", line.replace('\'', r"'\''")))
        .collect();
    format!("printf '%s\\n' {} >'{}'", lines.join(" "), path.display())
}

/// What went wrong and what to do about it, in one sentence.
pub fn sentence(errors: &[HandoverError]) -> String {
    let each: Vec<String> = errors
        .iter()
        .map(|error| format!("{error}; {}", error.remedy))
        .collect();
    each.join("; ")
}

/// The one who moves what is held.
fn of(hold: &Hold) -> &dyn Handover {
    match hold {
        Hold::Networkd(networkd) => networkd,
        Hold::Resolved(resolved) => resolved,
        Hold::Dhclient(dhclient) => dhclient,
        Hold::Dhcpcd(dhcpcd) => dhcpcd,
        Hold::Keeper(kept) => kept,
        Hold::NetworkManager(held) => held,
    }
}

/// The commands that a person would type for [`to_bridge`].
pub fn commands(record: &Record) -> Vec<String> {
    let holds = record.holds.iter().flat_map(|hold| of(hold).commands(record));
    shelter::commands(record).into_iter().chain(holds).collect()
}

/// The commands that a person would type for [`to_uplink`].
pub fn commands_back(record: &Record) -> Vec<String> {
    let holds = record.holds.iter().rev();
    let back = holds.flat_map(|hold| of(hold).commands_back(record));
    back.chain(shelter::commands_back(record)).collect()
}

/// [`Handover::prepare`] of all.
///
/// # Errors
/// The first that failed; the caller calls [`to_uplink`].
pub fn prepare(record: &Record) -> Result<(), HandoverError> {
    record.holds.iter().try_for_each(|hold| of(hold).prepare(record))
}

/// Gives the bridge of a record to those who had the uplink, and keeps guests
/// from what they believe. `report` hears of
/// each, the answer is warnings.
///
/// # Errors
/// The first that failed; the caller leads everything back.
pub fn to_bridge(record: &Record, report: &mut dyn FnMut(&str)) -> Result<Vec<String>, HandoverError> {
    let mut warnings: Vec<String> = shelter::raise(record).err().into_iter().collect();
    for hold in &record.holds {
        let manager = of(hold);
        report(&format!("handing {} to {}", record.bridge.name, manager.name()));
        warnings.extend(manager.to_bridge(record)?);
    }
    Ok(warnings)
}

/// [`Handover::arrange_back`] of all; a plan that leads elsewhere stays as it
/// is.
pub fn arrange_back(record: &Record, plan: &mut Plan) {
    record.holds.iter().for_each(|hold| of(hold).arrange_back(plan));
}

/// [`Handover::pause`] of all.
pub fn pause(record: &Record) {
    record.holds.iter().for_each(|hold| of(hold).pause(record));
}

/// [`Handover::resume`] of all.
pub fn resume(record: &Record) {
    record.holds.iter().for_each(|hold| of(hold).resume(record));
}

/// Gives the uplink of a record back to those who had it, to all of them that
/// take it.
///
/// # Errors
/// Those that would not; this can be called again.
pub fn to_uplink(record: &Record) -> Result<Vec<String>, Vec<HandoverError>> {
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    for hold in record.holds.iter().rev() {
        match of(hold).to_uplink(record) {
            Ok(said) => warnings.extend(said),
            Err(error) => errors.push(error),
        }
    }
    shelter::lower(record);
    if errors.is_empty() {
        Ok(warnings)
    } else {
        Err(errors)
    }
}
