//! What `up` and `down` have in common: the place where they work, and the
//! way back.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::apply::lock::{self, Lock, LockError};
use crate::apply::migrate::{self, HeldSignals, MigrateError};
use crate::apply::namespace;
use crate::apply::recover::{self, RecoverError};
use crate::apply::still::{self, StillError};
use crate::apply::store::{Entry, Rollback, Store};
use crate::apply::watchdog::Watchdog;
use crate::handover::{self, HandoverError};
use crate::model::{HostState, IfName, Network};
use crate::owners::{firewall, udev};
use crate::plan::{Holder, Plan, Record, Refusal, Stage, Target};
use crate::sys::syslog::Severity;

use super::args::Args;
use super::doctor;
use super::outcome::{Error, log, say};
use super::warn;

/// How long a command that only writes a word waits for one that changes.
const SHORT_WAIT: Duration = Duration::from_secs(15);

/// What to do where someone else changes the network, too.
const SEE_WHO: &str = "see who changes it ('ip monitor' shows what), stop that or wait, then try again";

/// The namespace in which a command works, and its records.
pub struct Place {
    /// The namespace's name.
    pub identity: String,
    /// Its records.
    pub store: Store,
    /// What the records say.
    pub entries: Vec<Entry>,
    /// The directory of all namespaces' records.
    state_dir: PathBuf,
}

impl Place {
    /// Looks where the command works.
    pub fn find(args: &Args) -> Result<Self, Error> {
        let identity = namespace::identity().map_err(|error| Error::Failed {
            message: format!("cannot tell which network namespace this is: {error}"),
            remedy: "vmbr needs Linux 5.15 or newer, with /proc mounted".into(),
        })?;
        let store = Store::new(&args.state_dir, &identity);
        let entries = store.load().map_err(|error| Error::Failed {
            message: format!("cannot read the records in {}: {error}", args.state_dir.display()),
            remedy: "nothing was changed; name another directory with --state-dir".into(),
        })?;
        Ok(Self {
            identity,
            store,
            entries,
            state_dir: args.state_dir.clone(),
        })
    }

    /// Looks anew: another vmbr may have ended since.
    pub fn refresh(&mut self, args: &Args) -> Result<(), Error> {
        *self = Self::find(args)?;
        Ok(())
    }

    /// Records that can be used.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Record(record) => Some(record.as_ref()),
            Entry::Unusable { .. } => None,
        })
    }

    /// Why the record of a bridge, or any record, cannot be used.
    pub fn unusable(&self, bridge: Option<&IfName>) -> Option<Refusal> {
        self.entries.iter().find_map(|entry| match entry {
            Entry::Unusable {
                bridge: name,
                path,
                why,
            } if bridge.is_none_or(|bridge| bridge == name) => Some(Refusal::new(
                format!("the record {} cannot be used: {why}", path.display()),
                "it may say how the host was: see what it is of; if nothing needs it, remove it",
            )),
            _ => None,
        })
    }

    /// Takes the right to change the namespace.
    pub fn lock(&self) -> Result<Lock, Error> {
        lock::take(&self.identity).map_err(no_lock)
    }

    /// The same, and waits a little for it.
    pub fn wait_for_lock(&self) -> Result<Lock, Error> {
        lock::wait(&self.identity, SHORT_WAIT).map_err(no_lock)
    }

    /// Leads every change that did not end to its end; the caller holds the
    /// lock. One that cannot be helped is told of, and stays. Gives the bridges
    /// of those that ended.
    pub fn recover(&mut self, args: &Args) -> Result<Vec<IfName>, Error> {
        let due: Vec<Record> = self.records().filter(|r| recover::is_due(r)).cloned().collect();
        let mut ended = Vec::new();
        for record in &due {
            match self.lead_back(record, "it was interrupted") {
                Ok(()) => ended.push(record.bridge.name.clone()),
                Err(error) => {
                    let (message, remedy) = error.sentences();
                    warn(&format!("{message}; {remedy}"));
                }
            }
        }
        if !due.is_empty() {
            self.refresh(args)?;
        }
        Ok(ended)
    }

    /// Leads one change to its end.
    pub fn lead_back(&self, record: &Record, reason: &str) -> Result<(), Error> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        say(&format!(
            "the change of {uplink} to {bridge} is led back: {reason}"
        ));
        let _held = HeldSignals::hold();
        let done = recover::recover(&self.store, record, reason);
        let path = self.store.path(bridge);
        let done = done.map_err(|error| match error {
            RecoverError::Foreign => Error::refused(
                format!("cannot lead the network of {bridge} back to {uplink}: {error}"),
                format!(
                    "move what {bridge} carries by hand, then remove it and {}",
                    path.display()
                ),
            ),
            error => Error::Left {
                message: format!("cannot lead the network of {bridge} back to {uplink}: {error}"),
                remedy: format!(
                    "try 'vmbr recover' again; what the host had is written in {}",
                    path.display()
                ),
            },
        });
        let (severity, text) = match &done {
            Ok(()) => (Severity::Notice, format!("{}: {reason}", record.gone_words())),
            Err(error) => (Severity::Error, error.sentences().0),
        };
        log(severity, &text);
        if done.is_ok() {
            doctor::undo_led_back(self, record);
        }
        done
    }

    /// Begins a change: a watchdog is ready, and the record is on disk.
    pub fn begin(&self, record: Record) -> Result<(Watchdog, Record), Error> {
        let bridge = &record.bridge.name;
        let path = self.store.path(bridge);
        let unwritten = |error: io::Error| Error::Failed {
            message: format!("cannot write the record {}: {error}", path.display()),
            remedy: "nothing was changed; vmbr changes a host only when it can go back".into(),
        };
        self.store.directory().map_err(unwritten)?;
        let watchdog = Watchdog::start(&self.state_dir, bridge).map_err(|error| Error::Failed {
            message: format!("cannot start a watchdog: {error}"),
            remedy:
                "nothing was changed; vmbr needs /proc, and changes a host only when it comes back by itself"
                    .into(),
        })?;
        let record = Record {
            watchdog: Some(watchdog.process()),
            ..record
        };
        self.save(&record).map_err(unwritten)?;
        Ok((watchdog, record))
    }

    /// Writes a record.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        self.store.save(record)
    }
}

fn no_lock(error: LockError) -> Error {
    match error {
        LockError::Held(pid) => {
            let who = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            Error::refused(
                format!("another vmbr{who} is changing this host's network"),
                "wait until it is done, then try again",
            )
        }
        LockError::Io(error) => Error::Failed {
            message: format!("cannot lock {}: {error}", namespace::RUN_DIR),
            remedy: "nothing was changed".into(),
        },
    }
}

/// The picture of the host on which a change of `devices` rests; `earlier` is
/// a look at it, and `disturbed` says that the change was begun before. Nothing
/// was touched where there is no such picture.
pub fn look_again(earlier: HostState, devices: &[&IfName], disturbed: bool) -> Result<HostState, Error> {
    still::look_again(earlier, devices, disturbed).map_err(|error| match error {
        StillError::Read(error) => Error::unreadable(&error),
        StillError::Restless(what) => Error::refused(
            format!("the host's network does not hold still: each look finds {what} changed"),
            SEE_WHO,
        ),
    })
}

/// How often a change that someone else disturbed before anything was taken
/// away is begun.
pub const TRIES: usize = 3;

/// Leads the host to `target` while the other device still carries `from`, and
/// says each stage.
pub fn reach(
    target: &Target,
    from: Option<&Network>,
    adjust: &dyn Fn(&mut Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    verbose: bool,
    words: fn(Stage) -> &'static str,
) -> Result<(), MigrateError> {
    let adjust = |plan: &mut Plan| {
        adjust(plan);
        if verbose {
            plan.ops().for_each(|op| say(&format!("  {op}")));
        }
    };
    migrate::reach(target, from, &adjust, check, &mut |stage| {
        say(&format!("- {}", words(stage)))
    })
}

/// Gives the uplink back to those who configured it, and says what they warn
/// of.
///
/// # Errors
/// Those that would not take it.
pub fn give_back(record: &Record) -> Result<(), Vec<HandoverError>> {
    let warnings = handover::to_uplink(record)?;
    warnings.iter().for_each(|text| warn(text));
    Ok(())
}

/// Leads the host back after `cause`, and makes the error that tells of it.
/// `record` is what is true then, if the bridge stays.
pub fn undo(record: &Record, place: &Place, back: &Target, cause: &MigrateError) -> Error {
    say(&format!("- going back: {cause}"));
    let bridge = &record.bridge.name;
    if back.holder == Holder::Uplink {
        handover::pause(record);
    }
    let led_back = match cause {
        MigrateError::Restless(_) => migrate::stay(back),
        _ => {
            let arrange = |plan: &mut Plan| handover::arrange_back(record, plan);
            migrate::reach(back, None, &arrange, &mut || Ok(()), &mut |_| {})
        }
    };
    let led_back = led_back.map_err(|error| error.to_string());
    let led_back = led_back.and_then(|()| match back.holder {
        Holder::Uplink => give_back(record).map_err(|errors| handover::sentence(&errors)),
        Holder::Bridge => {
            handover::resume(record);
            Ok(())
        }
    });
    let error = match led_back {
        Ok(()) => {
            let written = match back.holder {
                Holder::Uplink => {
                    firewall::forget(record);
                    udev::forget(record);
                    // For `status`; the log has it as well.
                    let _ = place.store.note(&Rollback::of(record, &cause.to_string()));
                    place.store.remove(bridge)
                }
                Holder::Bridge => place.save(record),
            };
            match written {
                Ok(()) => failed(cause),
                Err(error) => Error::Left {
                    message: format!("{cause}; the network is as before, but its record is not: {error}"),
                    remedy: format!("look at {}", place.store.path(bridge).display()),
                },
            }
        }
        Err(second) => {
            recover::go_on(record);
            Error::Left {
                message: format!("{cause}; on the way back: {second}"),
                remedy: format!(
                    "the watchdog tries once more; see 'vmbr status', then try 'vmbr recover'; what the host had is written in {}",
                    place.store.path(bridge).display()
                ),
            }
        }
    };
    log(Severity::Error, &format!("{bridge}: {}", error.sentences().0));
    error
}

/// The error of a failure that left nothing behind.
fn failed(cause: &MigrateError) -> Error {
    let message = cause.to_string();
    match cause {
        MigrateError::Restless(_) | MigrateError::Fell(_) => Error::Disturbed {
            message,
            remedy: SEE_WHO.into(),
        },
        _ => Error::Failed {
            message,
            remedy: remedy_for(cause),
        },
    }
}

/// What to do about a failure that left nothing behind.
fn remedy_for(cause: &MigrateError) -> String {
    use nix::errno::Errno;
    let failure = match cause {
        MigrateError::Failed(failure) => failure,
        MigrateError::NotHandedOver(error) => return error.remedy.clone(),
        MigrateError::Unverified(_) => {
            return "see whether the switch, or the hypervisor, lets this host's frames through; --no-verify does not ask"
                .into();
        }
        MigrateError::Joined(_) => {
            return "stop the guests that use them, or cut them off by 'vmbr down --force'".into();
        }
        _ => return "try again; if it stays so, see what else changes this host's network".into(),
    };
    if failure.source.is(Errno::EBUSY) {
        "something else has the NIC: a macvlan or ipvlan, perhaps in another namespace (a container's)".into()
    } else if failure.source.is(Errno::EROFS) || failure.source.is(Errno::EACCES) {
        "/proc/sys cannot be written here: run vmbr outside of the container".into()
    } else if failure.source.is(Errno::EOPNOTSUPP) {
        "the NIC's driver does not let it on a bridge".into()
    } else {
        "try again; if it stays so, see what else changes this host's network".into()
    }
}
