//! The watchdog's own side.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};

use crate::apply::lock;
use crate::apply::migrate::HeldSignals;
use crate::apply::namespace;
use crate::apply::recover::{self, RecoverError, milliseconds_left};
use crate::apply::store::Store;
use crate::apply::watch::Watch;
use crate::model::IfName;
use crate::plan::Record;
use crate::plan::record::{Process, Progress};
use crate::sys::pidfd::PidFd;
use crate::sys::syslog::{self, Facility, Severity};

use super::{is_pipe, path_of};

/// How long a change may take. A parent that was stopped in the middle of it
/// would keep the host between two states.
const STUCK: Duration = Duration::from_secs(120);
/// How long another vmbr may keep the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// How often a manager that would not take the uplink back is asked once more,
/// and what is between: it may be busy, or is being started anew.
const HELD_TRIES: usize = 4;
const HELD_PAUSE: Duration = Duration::from_secs(3);
/// Time between two looks where there is nothing to wait for.
const LONG: Duration = Duration::from_secs(60);
/// Time between two tries to read what cannot be read.
const RETRY: Duration = Duration::from_millis(20);

/// What a watchdog is started for.
#[derive(Debug)]
pub struct Duty {
    /// Who changes the host.
    pub parent: Process,
    /// The parent's descriptor that is told when the watchdog is ready.
    pub ready: u32,
    /// Directory of the records.
    pub state_dir: PathBuf,
    /// The bridge whose record is watched.
    pub bridge: IfName,
}

/// Serves until the change has ended, or was led back; then `led_back` is
/// called, under the lock.
///
/// # Errors
/// What kept it from being ready; then the parent changes nothing.
pub fn serve(duty: &Duty, led_back: &dyn Fn(&Record)) -> io::Result<()> {
    let parent = duty.parent.hold()?;
    detach();
    let ready = pipe(duty)?;
    enter(&duty.parent, &parent)?;
    let store = Store::new(&duty.state_dir, &namespace::identity()?);
    let watch = Watch::new(store.directory()?)?;
    let dog = Dog {
        me: Process::this()?,
        parent,
        bridge: &duty.bridge,
        store,
        watch,
        led_back,
    };
    tell(ready, &dog.me)?;
    dog.serve();
    Ok(())
}

/// Leaves the parent's session, and what else could end with it.
fn detach() {
    // It fails where systemd has done it.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    // The mask of the parent, which holds its signals, is inherited.
    let _ = SigSet::all().thread_unblock();
    // As the last of all, where the kernel runs out of memory.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Enters the parent's namespaces, where it is not in them: systemd starts its
/// units in its own.
fn enter(parent: &Process, held: &PidFd) -> io::Result<()> {
    let mut wanted = CloneFlags::empty();
    for (name, flag) in [
        ("net", CloneFlags::CLONE_NEWNET),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ] {
        let of = |process: &str| fs::metadata(format!("/proc/{process}/ns/{name}")).map(|file| file.ino());
        if of("self")? != of(&parent.pid.to_string())? {
            wanted |= flag;
        }
    }
    if !wanted.is_empty() {
        setns(held, wanted)?;
    }
    Ok(())
}

/// The parent's pipe. Nothing is made for one that has none: it did not start
/// this watchdog.
fn pipe(duty: &Duty) -> io::Result<OwnedFd> {
    let path = path_of(&duty.parent, duty.ready);
    let mut options = OpenOptions::new();
    // A terminal would become this session's.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.write(true).custom_flags(flags).open(Path::new(&path));
    let file = OwnedFd::from(file?);
    if is_pipe(&file) {
        Ok(file)
    } else {
        Err(io::Error::other(format!("{path} is no pipe")))
    }
}

/// Tells the parent that it may begin.
fn tell(ready: OwnedFd, me: &Process) -> io::Result<()> {
    fs::File::from(ready).write_all(format!("{} {}\n", me.pid, me.started).as_bytes())
}

struct Dog<'a> {
    me: Process,
    parent: PidFd,
    bridge: &'a IfName,
    store: Store,
    watch: Watch,
    led_back: &'a dyn Fn(&Record),
}

impl Dog<'_> {
    fn serve(&self) {
        let mut changing_since = None;
        let mut has_begun = false;
        loop {
            // In this order: what a dead parent wrote is there to be read.
            let dead = self.parent.has_ended(Duration::ZERO);
            let record = match self.record() {
                Ok(record) => record,
                Err(_) => {
                    sleep(RETRY);
                    continue;
                }
            };
            let patience = match record.as_ref().map(|record| (record, record.progress)) {
                None if has_begun || dead => return,
                None => LONG,
                Some((_, Progress::Settled)) => return,
                Some((_, Progress::Changing)) if dead => {
                    return self.lead_back("the vmbr that changed it ended in the middle");
                }
                Some((_, Progress::Changing)) => {
                    let since = *changing_since.get_or_insert_with(Instant::now);
                    let left = STUCK.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        log(&format!("{}: the change stands still, ending it", self.bridge));
                        let _ = self.parent.signal(Signal::SIGKILL);
                        self.parent.has_ended(LONG);
                    }
                    left
                }
                Some((record, Progress::AwaitingConfirm)) => {
                    let left = Duration::from_millis(milliseconds_left(record));
                    if left.is_zero() {
                        return self.lead_back("nobody confirmed it in time");
                    }
                    left
                }
            };
            has_begun |= record.is_some();
            if self
                .watch
                .wait((!dead).then_some(&self.parent), patience)
                .is_err()
            {
                sleep(RETRY);
            }
        }
    }

    /// The record of the change that this watchdog was started for.
    fn record(&self) -> io::Result<Option<Record>> {
        let record = self.store.find(self.bridge)?;
        Ok(record.filter(|record| record.watchdog == Some(self.me)))
    }

    fn lead_back(&self, reason: &str) {
        let _held = HeldSignals::hold();
        for left in (0..HELD_TRIES).rev() {
            if self.try_to_lead_back(reason, left > 0) {
                return;
            }
            // Without the lock: an administrator may be quicker.
            sleep(HELD_PAUSE);
        }
    }

    /// Whether that is the end of it; else it is `again`, where that is wanted.
    fn try_to_lead_back(&self, reason: &str, again: bool) -> bool {
        let done = namespace::identity().map(|identity| lock::wait(&identity, LOCK_PATIENCE));
        let _lock = match done {
            Ok(Ok(lock)) => lock,
            other => {
                log(&format!("{}: cannot take the lock: {other:?}", self.bridge));
                return true;
            }
        };
        // Someone else may have led it back, or confirmed it, meanwhile.
        let Some(record) = self.record().ok().flatten().filter(recover::is_due) else {
            return true;
        };
        let uplink = &record.uplink.name;
        match recover::recover(&self.store, &record, reason) {
            Ok(()) => {
                log(&format!("{}: {reason}", record.gone_words()));
                (self.led_back)(&record);
                true
            }
            Err(RecoverError::Held(_)) if again => false,
            Err(error) => {
                log(&format!(
                    "cannot lead the network back to {uplink} ({reason}): {error}; try 'vmbr recover'"
                ));
                true
            }
        }
    }
}

fn log(text: &str) {
    let _ = syslog::send(Facility::Daemon, Severity::Warning, "vmbr", text);
}
