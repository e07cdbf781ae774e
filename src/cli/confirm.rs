//! `vmbr confirm`, and what waits for it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::apply::clock;
use crate::apply::recover::{is_due, milliseconds_left};
use crate::apply::watch::Watch;
use crate::apply::watchdog::await_end_of;
use crate::netlink::dump;
use crate::plan::record::Progress;
use crate::plan::{Mode, Record};
use crate::sys::syslog::Severity;

use super::args::{Args, Confirm};
use super::change::Place;
use super::outcome::{Error, log, print, print_json, say};
use super::require_privilege;

/// How long after the deadline the watchdog has for the way back.
const GRACE: Duration = Duration::from_secs(5);
/// Time between two looks, and two words on a terminal.
const TICK: Duration = Duration::from_millis(500);

/// Runs `vmbr confirm`.
pub fn run(confirm: &Confirm, args: &Args) -> Result<(), Error> {
    require_privilege()?;
    let mut place = Place::find(args)?;
    let _lock = place.wait_for_lock()?;
    place.refresh(args)?;
    place.recover(args)?;
    let waiting: Vec<&Record> = place
        .records()
        .filter(|record| record.progress == Progress::AwaitingConfirm)
        .filter(|record| {
            confirm
                .bridge
                .as_ref()
                .is_none_or(|name| *name == record.bridge.name)
        })
        .collect();
    match waiting.as_slice() {
        [] => {
            if let Some(refusal) = place.unusable(confirm.bridge.as_ref()) {
                return Err(Error::Refused(vec![refusal]));
            }
            if args.json {
                print_json(&json!({"bridge": confirm.bridge, "confirmed": false}));
            } else {
                print("nothing waits to be confirmed");
            }
            Ok(())
        }
        [record] => keep(&place, record, args),
        several => {
            let names: Vec<&str> = several.iter().map(|record| record.bridge.name.as_str()).collect();
            Err(Error::refused(
                format!("several bridges wait: {}", names.join(", ")),
                format!("name one: vmbr confirm {}", names.first().unwrap_or(&"BRIDGE")),
            ))
        }
    }
}

fn keep(place: &Place, record: &Record, args: &Args) -> Result<(), Error> {
    let name = &record.bridge.name;
    let live = dump::network().map_err(|error| Error::unreadable(&error))?;
    if record.air.is_none() && !record.is_of(&live) {
        return Err(Error::refused(
            format!(
                "{name} was made for another NIC than {} is now: there is nothing to keep",
                record.uplink.name
            ),
            format!("move what {name} carries by hand, then: ip link del dev {name}"),
        ));
    }
    let settled = Record {
        progress: Progress::Settled,
        time: clock::now(),
        confirm_by: None,
        watchdog: None,
        ..record.clone()
    };
    place.save(&settled).map_err(|error| Error::Failed {
        message: format!(
            "cannot write the record {}: {error}",
            place.store.path(name).display()
        ),
        remedy: format!(
            "{name} goes in {} s unless it is confirmed: make room, then try again",
            milliseconds_left(record) / 1000
        ),
    })?;
    log(Severity::Notice, &format!("{name} is confirmed"));
    // It sees that the record says so, and nothing of vmbr stays running.
    record.watchdog.iter().for_each(await_end_of);
    if args.json {
        print_json(&json!({"bridge": name, "confirmed": true}));
    } else {
        print(&format!("confirmed: {name} stays"));
    }
    Ok(())
}

/// Waits until someone confirms the change; the lock is free meanwhile, and
/// the watchdog owns the deadline.
///
/// # Errors
/// Nobody did, and the host is as before.
pub fn wait(place: &Place, record: &Record) -> Result<(), Error> {
    let (name, uplink) = (&record.bridge.name, &record.uplink.name);
    let or = match record.mode() {
        Mode::Bridge => format!("{uplink} gets its network back"),
        Mode::MacNat => format!("{name} goes again"),
    };
    say(&format!(
        "now run 'vmbr confirm' from a new connection within {} s, or {or}; \
         ending this command changes nothing of that",
        milliseconds_left(record).div_ceil(1000),
    ));
    let watch = place.store.directory().and_then(Watch::new);
    let mut countdown = Countdown::new();
    let mut over_since: Option<Instant> = None;
    loop {
        match place.store.find(name) {
            Ok(Some(found)) if found.progress == Progress::Settled => {
                countdown.end();
                return Ok(());
            }
            // Where it says "changing" it is being led back.
            Ok(Some(found)) if is_due(&found) => {
                over_since.get_or_insert_with(Instant::now);
            }
            Ok(Some(found)) => countdown.show(milliseconds_left(&found)),
            Ok(None) => break,
            Err(_) => {}
        }
        if over_since.is_some_and(|since| since.elapsed() >= GRACE) {
            countdown.end();
            return nobody_did(place, record);
        }
        let waited = match &watch {
            Ok(watch) => watch.wait(None, TICK).is_ok(),
            Err(_) => false,
        };
        if !waited {
            std::thread::sleep(TICK);
        }
    }
    countdown.end();
    Err(taken_back(place, record))
}

/// The watchdog is gone: what it was to do is done here.
fn nobody_did(place: &Place, record: &Record) -> Result<(), Error> {
    let _lock = place.wait_for_lock()?;
    match place.store.find(&record.bridge.name) {
        Ok(Some(found)) if is_due(&found) => {
            place.lead_back(&found, "nobody confirmed it in time")?;
            Err(taken_back(place, record))
        }
        Ok(Some(_)) => Ok(()),
        _ => Err(taken_back(place, record)),
    }
}

fn taken_back(place: &Place, record: &Record) -> Error {
    let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
    let mode = match record.mode() {
        Mode::Bridge => "",
        Mode::MacNat => " --mode mac-nat",
    };
    let told = place.store.rollbacks();
    let message = match told.iter().find(|rollback| rollback.bridge == *bridge) {
        Some(rollback) => format!("{}: {}", record.gone_words(), rollback.reason),
        None => format!("{bridge} was ended by someone else before it was confirmed"),
    };
    Error::Failed {
        message,
        remedy: format!("if the host can be reached: vmbr up {uplink}{mode} --confirm, then vmbr confirm"),
    }
}

/// The time that is left, on a terminal.
struct Countdown {
    on_terminal: bool,
    shown: Option<u64>,
}

impl Countdown {
    fn new() -> Self {
        Self {
            on_terminal: std::io::stderr().is_terminal(),
            shown: None,
        }
    }

    fn show(&mut self, milliseconds: u64) {
        let seconds = milliseconds.div_ceil(1000);
        if self.on_terminal && self.shown != Some(seconds) {
            // A terminal that went away is no reason to stop.
            let _ = write!(std::io::stderr(), "\r  {seconds} s left \u{8}");
            self.shown = Some(seconds);
        }
    }

    fn end(&mut self) {
        if self.shown.take().is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
