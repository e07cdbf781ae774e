//! The way to a target.

use std::io;

use nix::sys::signal::{SigSet, Signal};

use crate::netlink::dump;
use crate::plan::{Plan, Stage, Target, plan, verify};

use super::executor::{Executor, Failure};

/// How often a plan is made anew: the kernel may add to what one did (a
/// prefix route that someone had removed comes back with its address).
const ROUNDS: usize = 4;

/// Why a target was not reached.
#[derive(Debug)]
pub enum MigrateError {
    /// The host's network could not be read.
    Read(io::Error),
    /// An operation failed.
    Failed(Failure),
    /// All was done, and yet the host differs, told in sentences.
    Differs(Vec<String>),
    /// All was done, but what was reached before does not answer.
    Unverified(String),
    /// All was done, but that could not be written down.
    Unwritten(io::Error),
}

impl std::fmt::Display for MigrateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Unverified(sentence) => f.write_str(sentence),
            Self::Unwritten(error) => write!(f, "cannot write the record: {error}"),
            Self::Differs(sentences) => {
                write!(f, "the host is not as it should be: {}", sentences.join("; "))
            }
        }
    }
}

impl std::error::Error for MigrateError {}

/// Leads the host to `target`: looks, plans, acts, until nothing is left to
/// do, and compares in the end. `adjust` may add to each plan, `check` is asked
/// when the target's holder has everything and what served only the way still
/// stands, and `report` hears of each stage.
///
/// The caller holds back the signals that end the program ([`HeldSignals`]):
/// between two operations the host would be between two states.
///
/// # Errors
/// [`MigrateError`]; the host may then be anywhere between.
pub fn reach(
    target: &Target,
    adjust: &dyn Fn(&mut Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    report: &mut dyn FnMut(Stage),
) -> Result<(), MigrateError> {
    let devices = [&target.uplink, &target.bridge.name];
    let mut executor = Executor::new().map_err(MigrateError::Read)?;
    for _ in 0..ROUNDS {
        let live = dump::snapshot(&devices).map_err(MigrateError::Read)?;
        let mut plan = plan(&live, target);
        adjust(&mut plan);
        if plan.is_empty() {
            break;
        }
        let tidy = plan.split_off(Stage::Tidy);
        executor.execute(&plan, report).map_err(MigrateError::Failed)?;
        check()?;
        executor.execute(&tidy, report).map_err(MigrateError::Failed)?;
    }
    let live = dump::snapshot(&devices).map_err(MigrateError::Read)?;
    let differences = verify::differences(&live, target);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(MigrateError::Differs(differences))
    }
}

/// Keeps the signals that ask the program to end, or to stop, until it is
/// dropped: from before the record of a change is written until it tells the
/// end of it.
#[derive(Debug)]
#[must_use = "they are held until this is dropped"]
pub struct HeldSignals(SigSet);

impl HeldSignals {
    /// Holds them in the calling thread.
    pub fn hold() -> Self {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGPIPE,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            set.add(signal);
        }
        // Fails for no valid set.
        let _ = set.thread_block();
        Self(set)
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        let _ = self.0.thread_unblock();
    }
}
