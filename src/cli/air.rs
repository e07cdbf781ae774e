//! `vmbr up` and `vmbr down` where the uplink stays as it is (mode mac-nat).

use crate::apply::lock::Lock;
use crate::apply::migrate::{HeldSignals, MigrateError};
use crate::apply::store::Rollback;
use crate::apply::{air, clock};
use crate::doctor;
use crate::mac_nat;
use crate::model::{HostState, IfName, Link, Network};
use crate::netlink::dump;
use crate::plan::air::{Air, Programs, bridge_mac};
use crate::plan::record::{End, Progress};
use crate::plan::{Bridge, Mode, Plan, Record, Refusal, Stage, refuse};
use crate::sys::syslog::Severity;

use super::args::{Args, Down, ModeChoice, Up};
use super::change::Place;
use super::outcome::{Error, log, print_json, say};
use super::up::{self, Told};
use super::verification::Verification;
use super::{confirm, warn};

/// How the guests of a new bridge reach the network by `uplink`.
///
/// # Errors
/// Bad usage, where a flag is of another mode.
pub fn mode(up: &Up, live: &HostState, uplink: &IfName) -> Result<Mode, Error> {
    let mode = match up.mode {
        ModeChoice::Bridge => Mode::Bridge,
        ModeChoice::MacNat => Mode::MacNat,
        ModeChoice::Auto => live.link(uplink).map_or(Mode::Bridge, refuse::mode_of),
    };
    if up.dhcp_chaddr && mode == Mode::Bridge {
        return Err(Error::Usage {
            message: format!(
                "--dhcp-chaddr is for mode mac-nat, and the guests' MACs pass {uplink} as they are"
            ),
            remedy: format!("leave it out, or: vmbr up {uplink} --mode mac-nat --dhcp-chaddr"),
        });
    }
    Ok(mode)
}

/// Whether a bridge that stands is as it is asked for.
///
/// # Errors
/// It is otherwise.
pub fn fits(up: &Up, record: &Record) -> Result<(), Error> {
    let name = &record.bridge.name;
    let remedy = format!("end it first: vmbr down {name}");
    let asked = match up.mode {
        ModeChoice::Auto => record.mode(),
        ModeChoice::Bridge => Mode::Bridge,
        ModeChoice::MacNat => Mode::MacNat,
    };
    if asked != record.mode() {
        let message = format!("{name} stands in mode {}", record.mode());
        return Err(Error::refused(message, remedy));
    }
    let chaddr = record.air.as_ref().is_some_and(|air| air.dhcp_chaddr);
    if asked == Mode::MacNat && chaddr != up.dhcp_chaddr {
        let word = if chaddr { "with" } else { "without" };
        return Err(Error::refused(
            format!("{name} stands {word} --dhcp-chaddr"),
            remedy,
        ));
    }
    Ok(())
}

/// Brings a bridge that stands up to date.
///
/// # Errors
/// As of [`Place::wait_for_lock`], and where something is missing that cannot
/// be mended.
pub fn keep_up(record: &Record, place: &Place) -> Result<(), Error> {
    super::require_privilege()?;
    let _lock = place.wait_for_lock()?;
    super::sync::one(record, place).map(|_| ())
}

/// Runs `vmbr up` in mode mac-nat; the caller has taken the lock, but in a dry
/// run.
pub fn up(
    up: &Up,
    (uplink, why): (&IfName, &str),
    place: Place,
    lock: Option<Lock>,
    args: &Args,
) -> Result<(), Error> {
    let live = dump::snapshot(&[uplink]).map_err(|error| Error::unreadable(&error))?;
    let (record, told) = ready(up, &live, (uplink, why), &place, args)?;
    if up.dry_run {
        up::dry_run(&record, &told, why, args);
        return Ok(());
    }
    say(&format!("uplink {uplink}: {why}"));
    told.notes.iter().for_each(|text| say(text));
    told.warnings.iter().for_each(|text| warn(text));
    let verification = Verification::before(&live, uplink, uplink, up.no_verify);
    let (record, watchdog) = carry_out(&record, &place, &verification, up.confirm, args)?;
    drop(lock);
    if let Some(watchdog) = watchdog {
        let confirmed = confirm::wait(&place, &record);
        watchdog.await_end();
        confirmed?;
    }
    if args.json {
        print_json(&up::document(&record, &told));
    } else {
        up::what_next(&record);
    }
    Ok(())
}

/// Looks for what stands in the way.
fn ready(
    up: &Up,
    live: &HostState,
    (uplink, why): (&IfName, &str),
    place: &Place,
    args: &Args,
) -> Result<(Record, Told), Error> {
    let mut refusals = refuse::up_mac_nat(live, uplink, &up.bridge);
    refusals.extend(place.unusable(Some(&up.bridge)));
    if !mac_nat::supported() {
        refusals.push(Refusal::new(
            format!("guests reach the network by {uplink} only if their MACs are translated, and this vmbr was built without that"),
            "build it with the feature mac-nat, or use a wired uplink",
        ));
    }
    let record = record(up, live, uplink, place).filter(|_| refusals.is_empty());
    let planned = record.as_ref().and_then(|record| {
        let target = air::standing(live, record)?;
        Some(crate::plan::air::plan(live, Programs::None, &target))
    });
    let (Some(record), Some(plan)) = (record, planned) else {
        return Err(up::refused(refusals, up, (uplink, why), args));
    };
    let mut warnings = refuse::warnings_mac_nat(live, uplink);
    warnings.extend(doctor::before_translation(&up.bridge));
    let note = match up.mode {
        ModeChoice::MacNat => format!("mode mac-nat: {uplink} stays as it is, guests speak by its MAC"),
        _ => format!(
            "mode mac-nat: {uplink} is a wireless station, which cannot be on a bridge; it stays as it is, and guests speak by its MAC"
        ),
    };
    let told = Told {
        planned: plan.commands().map(|command| command.to_string()).collect(),
        warnings,
        notes: vec![note],
    };
    Ok((record, told))
}

/// The record of a change that has not begun.
fn record(up: &Up, live: &HostState, uplink: &IfName, place: &Place) -> Option<Record> {
    let link = live.link(uplink)?;
    let record = Record::of(live, uplink, &up.bridge, &place.identity, clock::now())?;
    Some(Record {
        bridge: Bridge {
            mac: bridge_mac(record.uplink.mac),
            ..record.bridge
        },
        // Nothing of it moves.
        before: Network::of(&HostState::default(), uplink),
        air: Some(Air::of(live, link, &up.bridge, up.dhcp_chaddr)?),
        ..record
    })
}

fn carry_out(
    record: &Record,
    place: &Place,
    verification: &Verification,
    seconds: Option<u32>,
    args: &Args,
) -> Result<(Record, Option<crate::apply::watchdog::Watchdog>), Error> {
    let _held = HeldSignals::hold();
    let (watchdog, record) = place.begin(record.clone())?;
    let aim = |live: &HostState| air::standing(live, &record);
    let check = &mut || verification.check();
    let done = air::reach(
        &record,
        &aim,
        &|plan| tell(plan, args),
        check,
        &mut stage(words_up),
    );
    let text = format!(
        "guests of {} reach the network by {}, with its MAC",
        record.bridge.name, record.uplink.name
    );
    let back = |cause: &MigrateError| take_back(&record, place, cause);
    let ((), record, watchdog) = up::conclude(&record, place, watchdog, seconds, done, back, &text)?;
    Ok((record, watchdog))
}

fn tell(plan: &Plan, args: &Args) {
    if args.verbose {
        plan.ops().for_each(|op| say(&format!("  {op}")));
    }
}

fn words_up(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "making the bridge and its air port",
        Stage::Enslave => "putting the air port on the bridge",
        stage => up::words(stage),
    }
}

fn stage(words: fn(Stage) -> &'static str) -> impl FnMut(Stage) {
    move |stage| say(&format!("- {}", words(stage)))
}

/// Takes an `up` back after `cause`.
fn take_back(record: &Record, place: &Place, cause: &MigrateError) -> Error {
    say(&format!("- going back: {cause}"));
    let bridge = &record.bridge.name;
    let error = match air::clear(record, &[], &|_| {}, &mut || Ok(()), &mut |_| {}) {
        Ok(()) => {
            let _ = place.store.note(&Rollback::of(record, &cause.to_string()));
            match place.store.remove(bridge) {
                Ok(()) => failed(cause),
                Err(error) => Error::Left {
                    message: format!("{cause}; the network is as before, but its record is not: {error}"),
                    remedy: format!("look at {}", place.store.path(bridge).display()),
                },
            }
        }
        Err(second) => left(record, cause, &second),
    };
    log(Severity::Error, &format!("{bridge}: {}", error.sentences().0));
    error
}

fn failed(cause: &MigrateError) -> Error {
    Error::Failed {
        message: cause.to_string(),
        remedy: match cause {
            MigrateError::Joined(_) => {
                "stop the guests that use them, or cut them off by 'vmbr down --force'"
            }
            MigrateError::Gone(_) => "see what became of the device, then try again",
            MigrateError::Unverified(_) => {
                "see what else changes this host's network; --no-verify does not ask"
            }
            _ => "try again; if it stays so, see 'vmbr doctor'",
        }
        .into(),
    }
}

fn left(record: &Record, cause: &MigrateError, second: &MigrateError) -> Error {
    Error::Left {
        message: format!(
            "{cause}; on the way back: {second}; {} has its network, and a part of {} stands",
            record.uplink.name, record.bridge.name
        ),
        remedy: "the watchdog tries once more; see 'vmbr status', then try 'vmbr recover'".into(),
    }
}

/// Runs `vmbr down` in mode mac-nat, unless it is a dry run, and gives the
/// commands. The caller has looked for what stands in its way.
pub fn down(
    down: &Down,
    record: &Record,
    live: &HostState,
    guests: &[Link],
    place: &Place,
    args: &Args,
    joined: &dyn Fn() -> Result<(), MigrateError>,
) -> Result<Vec<String>, Error> {
    let taps = guests.iter().filter(|port| port.tun.is_some());
    let removes: Vec<IfName> = taps.map(|port| port.name.clone()).collect();
    let programs = match air::programs(live, record) {
        Ok(programs) => programs,
        // Only root may ask.
        Err(_) if down.dry_run => Programs::All,
        Err(error) => {
            return Err(Error::Failed {
                message: error.to_string(),
                remedy: "nothing was changed".into(),
            });
        }
    };
    let Some(target) = record.untranslated(removes.clone()) else {
        return Ok(Vec::new());
    };
    let plan = crate::plan::air::plan(live, programs, &target);
    let commands = plan.commands().map(|command| command.to_string()).collect();
    if down.dry_run {
        return Ok(commands);
    }
    let uplink = &record.uplink.name;
    let off = down.no_verify || crate::plan::air::uplink(live, record).is_none();
    let verification = Verification::before(live, uplink, uplink, off);
    let _held = HeldSignals::hold();
    let changing = Record {
        progress: Progress::Changing,
        time: clock::now(),
        end: Some(End {
            network: record.before.clone(),
            read_at: clock::since_boot().as_secs(),
            removes: removes.clone(),
        }),
        ..record.clone()
    };
    let (watchdog, _) = place.begin(changing)?;
    let check = &mut || {
        verification.check()?;
        joined()
    };
    let words: fn(Stage) -> &'static str = |stage| match stage {
        Stage::Tidy => "removing the bridge",
        _ => "ending the translation of MACs",
    };
    let cleared = air::clear(
        record,
        &removes,
        &|plan| tell(plan, args),
        check,
        &mut stage(words),
    );
    if let Err(cause) = cleared {
        say(&format!("- going back: {cause}"));
        let error = stand_again(record, place, &watchdog.process(), &cause);
        if matches!(error, Error::Left { .. }) || record.progress == Progress::AwaitingConfirm {
            watchdog.leave();
        }
        log(
            Severity::Error,
            &format!("{}: {}", record.bridge.name, error.sentences().0),
        );
        return Err(error);
    }
    if let Err(error) = place.store.remove(&record.bridge.name) {
        say(&format!(
            "warning: the record {} stays: {error}",
            place.store.path(&record.bridge.name).display()
        ));
    }
    log(Severity::Notice, &record.gone_words());
    Ok(commands)
}

/// After a `down` that failed: the bridge serves its guests as before.
fn stand_again(
    record: &Record,
    place: &Place,
    watchdog: &crate::plan::record::Process,
    cause: &MigrateError,
) -> Error {
    let aim = |live: &HostState| air::standing(live, record);
    if let Err(second) = air::reach(record, &aim, &|_| {}, &mut || Ok(()), &mut |_| {}) {
        return left(record, cause, &second);
    }
    // What was not confirmed before has to be confirmed still.
    let stays = Record {
        watchdog: Some(*watchdog),
        ..record.clone()
    };
    match place.save(&stays) {
        Ok(()) => failed(cause),
        Err(error) => Error::Left {
            message: format!("{cause}; the network is as before, but its record is not: {error}"),
            remedy: format!("look at {}", place.store.path(&record.bridge.name).display()),
        },
    }
}
