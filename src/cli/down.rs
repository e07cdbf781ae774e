//! `vmbr down`.

use serde_json::json;

use crate::apply::migrate::{HeldSignals, MigrateError};
use crate::apply::{clock, recover};
use crate::handover;
use crate::model::{HostState, IfName, Link, Network};
use crate::netlink::dump;
use crate::owners::{firewall, udev};
use crate::plan::record::{End, Progress};
use crate::plan::{Op, Plan, Record, Refusal, Stage, Target, plan};
use crate::sys::syslog::Severity;

use super::air;
use super::args::{Args, Down};
use super::change::{self, Place};
use super::doctor;
use super::outcome::{Error, log, print, print_json, say};
use super::require_privilege;
use super::tap::few;
use super::verification::Verification;

/// Runs `vmbr down`.
pub fn run(down: &Down, args: &Args) -> Result<(), Error> {
    if !down.dry_run {
        require_privilege()?;
    }
    let mut place = Place::find(args)?;
    let _lock = if down.dry_run { None } else { Some(place.lock()?) };
    if !down.dry_run {
        place.refresh(args)?;
        let recovered = place.recover(args)?;
        let done = match &down.bridge {
            Some(name) => recovered.iter().find(|bridge| *bridge == name),
            None => recovered.first().filter(|_| place.entries.is_empty()),
        };
        if let Some(name) = done {
            doctor::undo(&place, Some(name));
            gone(name, args);
            return Ok(());
        }
    }
    let mut live = dump::network().map_err(|error| Error::unreadable(&error))?;
    let Some(record) = find(&place, &live, down.bridge.as_ref())? else {
        if !down.dry_run {
            doctor::undo(&place, down.bridge.as_ref());
        }
        already(down, args);
        return Ok(());
    };
    if record.air.is_some() {
        let guests = guests(&live, &record);
        refuse(refusals(&live, &record, &guests, down.force), down, args)?;
        let joined = || {
            if down.force {
                Ok(())
            } else {
                nobody_joined(&record)
            }
        };
        let commands = air::down(down, &record, &live, &guests, &place, args, &joined)?;
        ended(&record, &commands, &place, down, args);
        return Ok(());
    }
    let devices = [&record.uplink.name, &record.bridge.name];
    let mut tries = 1;
    let commands = loop {
        if !down.dry_run {
            live = change::look_again(live, &devices, tries > 1)?;
        }
        dump::add_settings(&mut live, &devices);
        match attempt(down, &record, &live, &place, args) {
            Err(Error::Disturbed { .. }) if tries < change::TRIES => tries += 1,
            done => break done?,
        }
    };
    ended(&record, &commands, &place, down, args);
    Ok(())
}

/// Does it, unless that is not wanted, and gives the commands.
fn attempt(
    down: &Down,
    record: &Record,
    live: &HostState,
    place: &Place,
    args: &Args,
) -> Result<Vec<String>, Error> {
    let guests = guests(live, record);
    refuse(refusals(live, record, &guests, down.force), down, args)?;
    let way = target(record, live);
    let adjust = |plan: &mut Plan| {
        handover::arrange_back(record, plan);
        remove_guests(plan, &guests);
    };
    let mut planned = plan(live, &way.0);
    adjust(&mut planned);
    let commands = planned.commands().map(|c| c.to_string());
    let commands: Vec<String> = commands
        .chain(handover::commands_back(record))
        .chain(firewall::forget_command(record))
        .chain(udev::forget_command(record))
        .collect();
    if down.dry_run {
        return Ok(commands);
    }
    let verification = Verification::before(live, &record.bridge.name, &record.uplink.name, down.no_verify);
    let removes = guests.iter().filter(|port| port.tun.is_some());
    let changing = Record {
        progress: Progress::Changing,
        time: clock::now(),
        end: Some(End {
            network: way.0.network.clone(),
            read_at: clock::since_boot().as_secs(),
            removes: removes.map(|port| port.name.clone()).collect(),
        }),
        ..record.clone()
    };
    let check = &mut || {
        verification.check()?;
        if down.force { Ok(()) } else { nobody_joined(record) }
    };
    carry_out(record, changing, place, &way, &adjust, check, args)?;
    Ok(commands)
}

/// Refuses where there is a reason, and lists them in a dry run.
fn refuse(refusals: Vec<Refusal>, down: &Down, args: &Args) -> Result<(), Error> {
    if refusals.is_empty() {
        return Ok(());
    }
    if down.dry_run && !args.json {
        refusals
            .iter()
            .for_each(|r| print(&format!("# refused: {}\n#   {}", r.message, r.remedy)));
    }
    Err(Error::Refused(refusals))
}

/// Says how it ended.
fn ended(record: &Record, commands: &[String], place: &Place, down: &Down, args: &Args) {
    let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
    if !down.dry_run {
        doctor::undo(place, Some(bridge));
    }
    if args.json {
        print_json(&json!({"bridge": bridge, "uplink": uplink, "plan": commands, "warnings": []}));
    } else if down.dry_run {
        commands.iter().for_each(|line| print(line));
        doctor::announce(place, bridge);
    } else {
        print(&record.gone_words());
    }
}

/// Says that leading an interrupted change back has done what was asked.
fn gone(bridge: &IfName, args: &Args) {
    if args.json {
        print_json(&json!({"bridge": bridge, "uplink": null, "plan": [], "warnings": []}));
    } else {
        print(&format!(
            "{bridge} is gone: the change that did not end was led back"
        ));
    }
}

fn already(down: &Down, args: &Args) {
    let bridge = down.bridge.as_ref().map_or("bridge".into(), ToString::to_string);
    if args.json {
        print_json(&json!({"bridge": down.bridge, "uplink": null, "plan": [], "warnings": []}));
    } else {
        print(&format!("already so: there is no {bridge} that vmbr made"));
    }
}

/// The record of the bridge that was named, or of the only one. None where
/// there is nothing to do.
fn find(place: &Place, live: &HostState, name: Option<&IfName>) -> Result<Option<Record>, Error> {
    if let Some(name) = name {
        if let Some(record) = place.records().find(|record| record.bridge.name == *name) {
            return Ok(Some(record.clone()));
        }
        if let Some(refusal) = place.unusable(Some(name)) {
            return Err(Error::Refused(vec![refusal]));
        }
        if let Some(record) = place.records().find(|record| record.uplink.name == *name) {
            let bridge = &record.bridge.name;
            return Err(Error::refused(
                format!("{name} is no bridge; it serves {bridge}"),
                format!("to end that: vmbr down {bridge}"),
            ));
        }
        return match live.link(name) {
            Some(link) => Err(Error::refused(
                format!(
                    "vmbr did not make {name}, a {}",
                    link.kind.as_deref().unwrap_or("NIC")
                ),
                "end it the way it was made",
            )),
            None => Ok(None),
        };
    }
    let names: Vec<String> = place
        .entries
        .iter()
        .map(|entry| entry.bridge().to_string())
        .collect();
    match place.entries.as_slice() {
        [] => Ok(None),
        [entry] => find(place, live, Some(entry.bridge())),
        _ => Err(Error::refused(
            format!("vmbr made several bridges: {}", names.join(", ")),
            format!(
                "name one: vmbr down {}",
                names.first().map_or("BRIDGE", String::as_str)
            ),
        )),
    }
}

/// Ports of the bridge other than its way out.
fn guests(live: &HostState, record: &Record) -> Vec<Link> {
    let out = record.way_out();
    live.ports_of(&record.bridge.name)
        .filter(|port| port.name != *out)
        .cloned()
        .collect()
}

/// Whether the bridge, about to be removed, still has no guest: one that came
/// since the look would be cut off unasked, and nobody would know.
fn nobody_joined(record: &Record) -> Result<(), MigrateError> {
    let live = dump::network().map_err(MigrateError::Read)?;
    let ports = guests(&live, record);
    let guests = ports.iter().filter(|port| !record.has_made(&port.name));
    let names: Vec<String> = guests.map(|port| port.name.to_string()).collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(MigrateError::Joined(names.join(", ")))
    }
}

fn refusals(live: &HostState, record: &Record, guests: &[Link], force: bool) -> Vec<Refusal> {
    let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
    let mut found = Vec::new();
    let by_air = record.air.is_some();
    if !by_air && !record.is_of(live) {
        found.push(Refusal::new(
            format!("the uplink {uplink} that {bridge} was made for is gone, or another NIC has its name"),
            format!("move what {bridge} carries by hand (see: ip address show dev {bridge}), then: ip link del dev {bridge}"),
        ));
    }
    let master = live.link(uplink).and_then(|link| link.master.as_ref());
    if let Some(master) = master.filter(|master| *master != bridge && !by_air) {
        found.push(Refusal::new(
            format!("{uplink} was put on {master} by someone else"),
            format!("free it first: ip link set dev {uplink} nomaster"),
        ));
    }
    let guests = guests.iter().filter(|port| !record.has_made(&port.name));
    let names: Vec<&IfName> = guests.map(|port| &port.name).collect();
    if !force && !names.is_empty() {
        let remedy = format!("stop the guests that use them, or cut them off: vmbr down {bridge} --force");
        found.push(Refusal::new(
            format!("guests are on {bridge}: {}", few(names.into_iter())),
            remedy,
        ));
    }
    found
}

/// What the bridge carries now, as a target and as it is; where a change did
/// not end, or someone removed the bridge, the network as it was before.
fn target(record: &Record, live: &HostState) -> (Target, Option<Network>) {
    if live.link(&record.bridge.name).is_none() || recover::is_due(record) {
        (record.rolled_back(live, clock::since_boot().as_secs()), None)
    } else {
        let from = Network::of(live, &record.bridge.name);
        (record.returned(live), Some(from))
    }
}

/// Removes the guests' TAPs before the bridge; other ports are freed with it.
fn remove_guests(plan: &mut Plan, guests: &[Link]) {
    let Some(step) = plan.steps.iter_mut().rfind(|step| step.stage == Stage::Tidy) else {
        return;
    };
    let taps = guests.iter().filter(|port| port.tun.is_some());
    let ops = taps.map(|port| Op::DeleteLink {
        dev: port.name.clone(),
    });
    step.ops.splice(0..0, ops);
}

fn carry_out(
    record: &Record,
    changing: Record,
    place: &Place,
    (target, from): &(Target, Option<Network>),
    adjust: &dyn Fn(&mut Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    args: &Args,
) -> Result<(), Error> {
    let _held = HeldSignals::hold();
    let (watchdog, _) = place.begin(changing)?;
    handover::pause(record);
    let reached = change::reach(target, from.as_ref(), adjust, check, args.verbose, words);
    if let Err(cause) = reached {
        let back = Target {
            network: target.network.moved_to(&record.bridge.name),
            ..record.bridged()
        };
        // What was not confirmed before has to be confirmed still.
        let stays = Record {
            watchdog: Some(watchdog.process()),
            ..record.clone()
        };
        let error = change::undo(&stays, place, &back, &cause);
        if matches!(error, Error::Left { .. }) || record.progress == Progress::AwaitingConfirm {
            watchdog.leave();
        }
        return Err(error);
    }
    if let Err(errors) = change::give_back(record) {
        // It tries once more, and so can the administrator.
        watchdog.leave();
        return Err(Error::Left {
            message: format!(
                "{} carries its network itself again, but {}",
                record.uplink.name,
                handover::sentence(&errors)
            ),
            remedy: "then 'vmbr recover' gives it back".into(),
        });
    }
    firewall::forget(record);
    udev::forget(record);
    if let Err(error) = place.store.remove(&record.bridge.name) {
        say(&format!(
            "warning: the record {} stays: {error}",
            place.store.path(&record.bridge.name).display()
        ));
    }
    log(
        Severity::Notice,
        &format!("{} carries its network itself again", record.uplink.name),
    );
    Ok(())
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "preparing the uplink with all that the bridge has",
        Stage::Enslave => "making the uplink a port",
        Stage::Flip => "moving the network to the uplink",
        Stage::Translate => "translating MACs",
        Stage::Settle => "giving everything its final form",
        Stage::Tidy => "removing the bridge",
    }
}
