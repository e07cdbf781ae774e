//! What `up` and `down` have in common: the place where they work, and the
//! way back.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::apply::lock::{self, Lock, LockError};
use crate::apply::migrate::{self, MigrateError};
use crate::apply::namespace;
use crate::apply::store::{Entry, Store};
use crate::plan::{Plan, Record, Stage, Target};

use super::args::Args;
use super::outcome::{Error, say};

/// The namespace in which a command works, and its records.
pub struct Place {
    /// The namespace's name.
    pub identity: String,
    /// Its records.
    pub store: Store,
    /// What the records say.
    pub entries: Vec<Entry>,
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
        })
    }

    /// Records that can be used.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Record(record) => Some(record.as_ref()),
            Entry::Unusable { .. } => None,
        })
    }

    /// Takes the right to change the namespace.
    pub fn lock(&self) -> Result<Lock, Error> {
        lock::take(&self.identity).map_err(|error| match error {
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
        })
    }

    /// Writes a record.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        self.store.save(record)
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Leads the host to `target`, and says each stage.
pub fn reach(
    target: &Target,
    adjust: &dyn Fn(&mut Plan),
    verbose: bool,
    words: fn(Stage) -> &'static str,
) -> Result<(), MigrateError> {
    let adjust = |plan: &mut Plan| {
        adjust(plan);
        if verbose {
            plan.ops().for_each(|op| say(&format!("  {op}")));
        }
    };
    migrate::reach(target, &adjust, &mut |stage| say(&format!("- {}", words(stage))))
}

/// Leads the host back after `cause`, and makes the error that tells of it.
pub fn undo(record: &Record, place: &Place, back: &Target, cause: &MigrateError) -> Error {
    say(&format!("- going back: {cause}"));
    match migrate::reach(back, &|_| {}, &mut |_| {}) {
        Ok(()) => {
            let forgotten = match back.holder {
                crate::plan::Holder::Uplink => place.store.remove(&record.bridge.name),
                crate::plan::Holder::Bridge => place.save(record),
            };
            match forgotten {
                Ok(()) => Error::Failed {
                    message: cause.to_string(),
                    remedy: remedy_for(cause),
                },
                Err(error) => Error::Left {
                    message: format!("{cause}; the network is as before, but its record is not: {error}"),
                    remedy: format!("look at {}", place.store.path(&record.bridge.name).display()),
                },
            }
        }
        Err(second) => Error::Left {
            message: format!("{cause}; on the way back: {second}"),
            remedy: format!(
                "try 'vmbr down {}'; what the host had is written in {}",
                record.bridge.name,
                place.store.path(&record.bridge.name).display()
            ),
        },
    }
}

/// What to do about a failure that left nothing behind.
fn remedy_for(cause: &MigrateError) -> String {
    use nix::errno::Errno;
    let MigrateError::Failed(failure) = cause else {
        return "try again; if it stays so, see what else changes this host's network".into();
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
