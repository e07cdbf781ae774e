//! `vmbr up`.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde_json::json;

use crate::apply::migrate::{HeldSignals, MigrateError};
use crate::apply::recover::milliseconds_left;
use crate::apply::watchdog::Watchdog;
use crate::apply::{clock, lock};
use crate::doctor::{self, gather};
use crate::handover::{self, HandoverError};
use crate::model::{HostState, IfName};
use crate::netlink::{dump, multicast};
use crate::owners::{self, Survey, firewall, macvlan, udev};
use crate::plan::record::Progress;
use crate::plan::{Mode, Record, Refusal, Stage, plan, refuse};
use crate::sys::syslog::Severity;

use super::args::{Args, Up};
use super::change::{self, Place};
use super::outcome::{Error, log, print, print_json, say};
use super::verification::Verification;
use super::{air, confirm, require_privilege, warn};

/// Runs `vmbr up`.
pub fn run(up: &Up, args: &Args) -> Result<(), Error> {
    let mut place = Place::find(args)?;
    let mut live = dump::network().map_err(|error| Error::unreadable(&error))?;
    let (uplink, why) = match &up.uplink {
        Some(uplink) => (uplink.clone(), "it was named".to_owned()),
        None => choose(&live, &place).map_err(|refusal| Error::Refused(vec![refusal]))?,
    };
    let mode = air::mode(up, &live, &uplink)?;
    // While another vmbr is at work its records say what it has begun, and it
    // may end between two looks: that a change did not end is believed from
    // under the lock, or where nothing will be changed.
    let at_work = lock::is_held(&place.identity) == Some(true);
    match standing(&place, &live, &uplink, &up.bridge) {
        Ok(Some(record)) if record.progress == Progress::Settled => return already(up, record, &place, args),
        Err(refusal) if up.dry_run && !at_work => return Err(refusal),
        _ => {}
    }
    if !up.dry_run {
        require_privilege()?;
    }
    // From here to the end the host is ours to change; what was read before
    // may be old.
    let lock = if up.dry_run { None } else { Some(place.lock()?) };
    if !up.dry_run {
        place.refresh(args)?;
        place.recover(args)?;
        if mode == Mode::Bridge {
            live = change::look_again(live, &[&uplink, &up.bridge], false)?;
        }
        if let Some(record) = standing(&place, &live, &uplink, &up.bridge)?.cloned() {
            drop(lock);
            return already(up, &record, &place, args);
        }
    }
    if mode == Mode::MacNat {
        return air::up(up, (&uplink, &why), place, lock, args);
    }
    let mut ready = ready(up, &mut live, &uplink, &why, &place, args)?;
    if up.dry_run {
        dry_run(&ready.record, &ready.told, &why, args);
        return Ok(());
    }

    say(&format!("uplink {uplink}: {why}"));
    ready.told.notes.iter().for_each(|text| say(text));
    ready.told.warnings.iter().for_each(|text| warn(text));
    let mut tries = 1;
    let done = loop {
        let verification = Verification::before(&live, &uplink, &up.bridge, up.no_verify);
        match carry_out(&ready.record, &place, &verification, up.confirm, args) {
            Err(Error::Disturbed { .. }) if tries < change::TRIES => tries += 1,
            done => break done?,
        }
        live = change::look_again(live, &[&uplink, &up.bridge], true)?;
        ready = self::ready(up, &mut live, &uplink, &why, &place, args)?;
    };
    drop(lock);
    done.warnings.iter().for_each(|text| warn(text));
    ready.told.warnings.extend(done.warnings);
    if let Some(watchdog) = done.watchdog {
        let confirmed = confirm::wait(&place, &done.record);
        watchdog.await_end();
        confirmed?;
    }
    if args.json {
        print_json(&document(&done.record, &ready.told));
    } else {
        what_next(&done.record);
    }
    Ok(())
}

/// A change that has reached its target.
struct Done {
    /// As it is on disk then.
    record: Record,
    /// Where the change has to be confirmed, it stays.
    watchdog: Option<Watchdog>,
    /// What those who were given the bridge warn of.
    warnings: Vec<String>,
}

/// A change that can begin.
struct Ready {
    record: Record,
    told: Told,
}

/// What is told of a change, each a line.
#[derive(Default)]
pub(super) struct Told {
    /// The commands of its plan.
    pub planned: Vec<String>,
    pub warnings: Vec<String>,
    /// Who is moved along.
    pub notes: Vec<String>,
}

/// Looks for what stands in the way of a change of `live`.
fn ready(
    up: &Up,
    live: &mut HostState,
    uplink: &IfName,
    why: &str,
    place: &Place,
    args: &Args,
) -> Result<Ready, Error> {
    dump::add_settings(live, &[uplink, &up.bridge]);
    let mut refusals = refuse::up(live, uplink, &up.bridge);
    refusals.extend(place.unusable(Some(&up.bridge)));
    name_owners(&mut refusals, live, uplink);
    let mut warnings = refuse::warnings(live, uplink);
    let groups = multicast::joined(uplink);
    warnings.extend(refuse::joined_groups(uplink, &up.bridge, &groups));
    let others = if refusals.is_empty() {
        owners::survey(live, uplink, &up.bridge)
    } else {
        Survey::default()
    };
    let in_zone = others.zone.is_some();
    warnings.extend(doctor::before_up(live, uplink, &up.bridge, in_zone, others.udev));
    refusals.extend(others.refusals);
    warnings.extend(others.warnings);
    let record = Record::of(live, uplink, &up.bridge, &place.identity, clock::now());
    let Some(record) = record.filter(|_| refusals.is_empty()) else {
        return Err(refused(refusals, up, (uplink, why), args));
    };
    let record = Record {
        zone: others.zone,
        udev: others.udev,
        holds: others.holds,
        read_at: (!up.dry_run).then(|| clock::since_boot().as_secs()),
        ..record
    };
    let plan = plan(live, &record.bridged());
    let commands = plan.commands().map(|c| c.to_string());
    let before = udev::announce_command(&record).into_iter();
    let planned = before.chain(firewall::carry_command(&record)).chain(commands);
    Ok(Ready {
        told: Told {
            planned: planned.chain(handover::commands(&record)).collect(),
            warnings,
            notes: others.notes,
        },
        record,
    })
}

/// The error of refusals, which a dry run lists.
pub(super) fn refused(refusals: Vec<Refusal>, up: &Up, (uplink, why): (&IfName, &str), args: &Args) -> Error {
    if up.dry_run && !args.json {
        print(&format!("# uplink {uplink}: {why}"));
        refusals
            .iter()
            .for_each(|r| print(&format!("# refused: {}\n#   {}", r.message, r.remedy)));
    }
    Error::Refused(refusals)
}

/// The uplink of the default route; where that leaves by a bridge of vmbr's,
/// the bridge's uplink.
fn choose(live: &HostState, place: &Place) -> Result<(IfName, String), Refusal> {
    let (name, why) = refuse::choose_uplink(live)?;
    match place.records().find(|record| record.bridge.name == name) {
        Some(record) => Ok((record.uplink.name.clone(), why)),
        None => Ok((name, why)),
    }
}

/// The record that says that what is asked for stands already.
fn standing<'a>(
    place: &'a Place,
    live: &HostState,
    uplink: &IfName,
    bridge: &IfName,
) -> Result<Option<&'a Record>, Error> {
    let Some(record) = place
        .records()
        .find(|r| r.uplink.name == *uplink || r.bridge.name == *bridge)
    else {
        return Ok(None);
    };
    let name = &record.bridge.name;
    let is_port = live
        .link(&record.uplink.name)
        .is_some_and(|link| link.master.as_ref() == Some(name));
    if record.progress == Progress::Changing {
        return Err(Error::refused(
            format!(
                "an earlier change of {} to {name} did not end",
                record.uplink.name
            ),
            "lead it back first: vmbr recover",
        ));
    }
    if record.progress == Progress::AwaitingConfirm {
        return Err(Error::refused(
            format!(
                "{name} waits to be confirmed, for {} s more",
                milliseconds_left(record).div_ceil(1000)
            ),
            format!("keep it: vmbr confirm {name}; or end it: vmbr down {name}"),
        ));
    }
    let by_air = record.mode() == Mode::MacNat;
    if !by_air && !record.is_of(live) {
        return Err(Error::refused(
            format!(
                "vmbr made {name} for a NIC {} that is gone or was made anew",
                record.uplink.name
            ),
            format!("end that first: vmbr down {name}"),
        ));
    }
    if !by_air && !is_port {
        return Err(Error::refused(
            format!("{} was taken from {name} by someone else", record.uplink.name),
            format!("end what is left first: vmbr down {name}"),
        ));
    }
    if record.uplink.name != *uplink || name != bridge {
        return Err(Error::refused(
            format!("{} serves the bridge {name} already", record.uplink.name),
            format!(
                "use {name}; or end it first: vmbr down {name}; or make another bridge of another NIC: \
                 vmbr up --bridge NAME NIC"
            ),
        ));
    }
    Ok(Some(record))
}

fn already(up: &Up, record: &Record, place: &Place, args: &Args) -> Result<(), Error> {
    air::fits(up, record)?;
    if record.mode() == Mode::MacNat && !up.dry_run {
        air::keep_up(record, place)?;
    }
    if args.json {
        print_json(&document(record, &Told::default()));
    } else {
        let serves = match record.mode() {
            Mode::Bridge => "is on",
            Mode::MacNat => "serves",
        };
        print(&format!(
            "already so: {} {serves} {}",
            record.uplink.name, record.bridge.name
        ));
    }
    Ok(())
}

/// Says whose the macvlans are that stand in the way.
fn name_owners(refusals: &mut [Refusal], live: &HostState, uplink: &IfName) {
    let children: Vec<&IfName> = refuse::macvlans(live, uplink)
        .iter()
        .map(|link| &link.name)
        .collect();
    let (Some(refusal), false) = (refusals.first_mut(), children.is_empty()) else {
        return;
    };
    if let Some(owner) = macvlan::users(uplink, &children) {
        refusal.message = format!("{}; it is {owner}", refusal.message);
    }
}

pub(super) fn document(record: &Record, told: &Told) -> serde_json::Value {
    json!({
        "bridge": record.bridge.name,
        "uplink": record.uplink.name,
        "mode": record.mode().word(),
        "plan": told.planned,
        "warnings": told.warnings,
        "notes": told.notes,
    })
}

pub(super) fn dry_run(record: &Record, told: &Told, why: &str, args: &Args) {
    if args.json {
        print_json(&document(record, told));
    } else {
        print(&format!("# uplink {}: {why}", record.uplink.name));
        told.notes.iter().for_each(|text| print(&format!("# {text}")));
        told.warnings
            .iter()
            .for_each(|text| print(&format!("# warning: {text}")));
        told.planned.iter().for_each(|line| print(line));
    }
}

fn carry_out(
    record: &Record,
    place: &Place,
    verification: &Verification,
    confirm: Option<u32>,
    args: &Args,
) -> Result<Done, Error> {
    let _held = HeldSignals::hold();
    let (watchdog, record) = place.begin(record.clone())?;
    if let Err(text) = udev::announce(&record) {
        warn(&text);
    }
    match firewall::carry(&record) {
        Ok(done) => done.iter().for_each(|text| say(&format!("- {text}"))),
        Err(refusal) => {
            // It may be late, and yet do it.
            firewall::forget(&record);
            udev::forget(&record);
            let _ = place.store.remove(&record.bridge.name);
            return Err(Error::Refused(vec![refusal]));
        }
    }
    if let Err(error) = handover::prepare(&record) {
        let error = unprepared(&record, place, &error);
        if matches!(error, Error::Left { .. }) {
            // It tries once more, and so can the administrator.
            watchdog.leave();
        }
        return Err(error);
    }
    // One that is down gets routes of its own when it is set up.
    let from = Some(&record.before).filter(|_| record.uplink.up);
    let reached = change::reach(
        &record.bridged(),
        from,
        &|_| {},
        &mut || verification.check(),
        args.verbose,
        words,
    );
    let handed_over = reached.and_then(|()| {
        let report = &mut |text: &str| say(&format!("- {text}"));
        handover::to_bridge(&record, report).map_err(MigrateError::NotHandedOver)
    });
    let text = format!(
        "{} carries the network of {}",
        record.bridge.name, record.uplink.name
    );
    let back = |cause: &MigrateError| change::undo(&record, place, &record.restored(), cause);
    let (warnings, record, watchdog) = conclude(&record, place, watchdog, confirm, handed_over, back, &text)?;
    Ok(Done {
        record,
        watchdog,
        warnings,
    })
}

/// Writes down that `up` has reached its target, which `text` says, or takes it
/// back by `back`. Gives what reaching it gave, the record, and the watchdog
/// where the change awaits its confirmation.
///
/// # Errors
/// What `back` makes of the cause.
pub(super) fn conclude<T>(
    record: &Record,
    place: &Place,
    watchdog: Watchdog,
    confirm: Option<u32>,
    reached: Result<T, MigrateError>,
    back: impl FnOnce(&MigrateError) -> Error,
    text: &str,
) -> Result<(T, Record, Option<Watchdog>), Error> {
    let written = reached.and_then(|given| {
        // The time to confirm it begins when all is done.
        let ended = ended(record, confirm);
        place.save(&ended).map_err(MigrateError::Unwritten)?;
        Ok((given, ended))
    });
    let (given, ended) = match written {
        Ok(done) => done,
        Err(cause) => {
            let error = back(&cause);
            if matches!(error, Error::Left { .. }) {
                watchdog.leave();
            }
            return Err(error);
        }
    };
    // What it tells of is over.
    let _ = place.store.forget_note(&ended.bridge.name);
    log(Severity::Notice, text);
    let awaits = ended.progress == Progress::AwaitingConfirm;
    Ok((given, ended, awaits.then_some(watchdog)))
}

/// A manager that could not be prepared; nothing of the network was touched.
fn unprepared(record: &Record, place: &Place, error: &HandoverError) -> Error {
    if let Err(errors) = change::give_back(record) {
        return Error::Left {
            message: format!("{error}; on the way back: {}", handover::sentence(&errors)),
            remedy: "then 'vmbr recover' mends it; the host's network was not touched".into(),
        };
    }
    firewall::forget(record);
    udev::forget(record);
    let _ = place.store.remove(&record.bridge.name);
    Error::refused(error.to_string(), error.remedy.clone())
}

/// The record of a change that has reached its target.
fn ended(record: &Record, confirm: Option<u32>) -> Record {
    let common = Record {
        time: clock::now(),
        ..record.clone()
    };
    match confirm {
        Some(seconds) => Record {
            progress: Progress::AwaitingConfirm,
            confirm_by: Some(clock::boot_milliseconds().saturating_add(u64::from(seconds) * 1000)),
            ..common
        },
        None => Record {
            progress: Progress::Settled,
            watchdog: None,
            ..common
        },
    }
}

pub(super) fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "preparing the bridge with all that the uplink has",
        Stage::Enslave => "making the uplink its port",
        Stage::Flip => "moving the network to the bridge",
        Stage::Translate => "translating MACs",
        Stage::Settle => "giving everything its final form",
        Stage::Tidy => "asking the routers for an advertisement",
    }
}

pub(super) fn what_next(record: &Record) {
    let bridge = &record.bridge.name;
    let user = std::env::var("SUDO_USER").ok().filter(|user| user != "root");
    let whom = user.map_or_else(
        || "users".to_owned(),
        |user| format!("{user} (and every other user)"),
    );
    if let Some(kept) = record.kept() {
        print(&format!(
            "One thing stays running: the lease keeper ({}), which renews the lease of {} on {bridge} until \
             'vmbr down'. What it does: vmbr status {bridge}, journalctl -t vmbr",
            handover::keeper::unit(bridge),
            kept.address,
        ));
    }
    let carries = match record.mode() {
        Mode::Bridge => format!("{bridge} carries the network of {}", record.uplink.name),
        Mode::MacNat => format!(
            "the guests of {bridge} reach the network by {}, which stays as it was; there they all have its MAC",
            record.uplink.name
        ),
    };
    print(&format!(
        "{carries}. A reboot ends this; so does: vmbr down {bridge}\n\
         To let {whom} put guests on it, write into /etc/qemu/bridge.conf the line\n  \
         allow {bridge}\n\
         A guest joins with\n  \
         qemu-system-x86_64 ... -netdev tap,id=n0,br={bridge},helper={} -device virtio-net-pci,netdev=n0,mac={}",
        gather::helper_path().display(),
        some_mac(),
    ));
}

/// A MAC for a guest, of those that QEMU's guests have by custom: the one that
/// QEMU gives is the same for all, and two of those reach nobody.
fn some_mac() -> String {
    let random = RandomState::new().build_hasher().finish().to_le_bytes();
    format!("52:54:00:{:02x}:{:02x}:{:02x}", random[0], random[1], random[2])
}
