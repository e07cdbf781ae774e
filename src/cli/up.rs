//! `vmbr up`.

use serde_json::json;

use crate::apply::lock;
use crate::apply::migrate::HeldSignals;
use crate::apply::store::Entry;
use crate::doctor::{self, gather};
use crate::model::{HostState, IfName};
use crate::netlink::dump;
use crate::plan::record::Progress;
use crate::plan::{Record, Refusal, Stage, plan, refuse};
use crate::sys::syslog::Severity;

use super::args::{Args, Up};
use super::change::{self, Place};
use super::outcome::{Error, log, print, print_json, say};
use super::{owners, require_privilege, warn};

/// Runs `vmbr up`.
pub fn run(up: &Up, args: &Args) -> Result<(), Error> {
    let mut place = Place::find(args)?;
    let mut live = dump::network().map_err(|error| Error::unreadable(&error))?;
    let (uplink, why) = match &up.uplink {
        Some(uplink) => (uplink.clone(), "it was named".to_owned()),
        None => choose(&live, &place).map_err(|refusal| Error::Refused(vec![refusal]))?,
    };
    // While another vmbr is at work its records say what it has begun, and it
    // may end between two looks: that a change did not end is believed from
    // under the lock, or where nothing will be changed.
    let at_work = lock::is_held(&place.identity) == Some(true);
    match standing(&place, &live, &uplink, &up.bridge) {
        Ok(Some(record)) if record.progress == Progress::Settled => return already(record, args),
        Err(refusal) if up.dry_run && !at_work => return Err(refusal),
        _ => {}
    }
    if !up.dry_run {
        require_privilege()?;
    }
    // From here to the end the host is ours to change; what was read before
    // may be old.
    let _lock = if up.dry_run { None } else { Some(place.lock()?) };
    if !up.dry_run {
        place = Place::find(args)?;
        live = dump::network().map_err(|error| Error::unreadable(&error))?;
        if let Some(record) = standing(&place, &live, &uplink, &up.bridge)? {
            return already(record, args);
        }
    }
    dump::add_settings(&mut live, &[&uplink, &up.bridge]);

    let mut refusals = refuse::up(&live, &uplink, &up.bridge);
    refusals.extend(unusable(&place, &up.bridge));
    name_owners(&mut refusals, &live, &uplink);
    let mut warnings = refuse::warnings(&live, &uplink);
    warnings.extend(doctor::before_up(&live, &uplink, &up.bridge));
    let record = Record::of(&live, &uplink, &up.bridge, &place.identity, change::now());
    let Some(record) = record.filter(|_| refusals.is_empty()) else {
        if up.dry_run && !args.json {
            print(&format!("# uplink {uplink}: {why}"));
            refusals
                .iter()
                .for_each(|r| print(&format!("# refused: {}\n#   {}", r.message, r.remedy)));
        }
        return Err(Error::Refused(refusals));
    };
    let planned: Vec<String> = plan(&live, &record.bridged())
        .commands()
        .map(|c| c.to_string())
        .collect();
    if up.dry_run {
        return dry_run(&record, &planned, &why, &warnings, args);
    }

    say(&format!("uplink {uplink}: {why}"));
    warnings.iter().for_each(|text| warn(text));
    carry_out(&record, &place, args)?;
    if args.json {
        print_json(&document(&record, &planned, &warnings));
    } else {
        what_next(&record);
    }
    Ok(())
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
            format!("undo it first: vmbr down {name}"),
        ));
    }
    if !record.is_of(live) {
        return Err(Error::refused(
            format!(
                "vmbr made {name} for a NIC {} that is gone or was made anew",
                record.uplink.name
            ),
            format!("end that first: vmbr down {name}"),
        ));
    }
    if !is_port {
        return Err(Error::refused(
            format!("{} was taken from {name} by someone else", record.uplink.name),
            format!("end what is left first: vmbr down {name}"),
        ));
    }
    if record.uplink.name != *uplink || name != bridge {
        return Err(Error::refused(
            format!("{} is on the bridge {name} already", record.uplink.name),
            format!("use {name}, or end it first: vmbr down {name}"),
        ));
    }
    Ok(Some(record))
}

fn already(record: &Record, args: &Args) -> Result<(), Error> {
    if args.json {
        print_json(&document(record, &[], &[]));
    } else {
        print(&format!(
            "already so: {} is on {}",
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
    if let Some(owner) = owners::of_macvlans(uplink, &children) {
        refusal.message = format!("{}; it is {owner}", refusal.message);
    }
}

fn unusable(place: &Place, bridge: &IfName) -> Option<Refusal> {
    place.entries.iter().find_map(|entry| match entry {
        Entry::Unusable {
            bridge: name,
            path,
            why,
        } if name == bridge => Some(Refusal::new(
            format!("the record {} cannot be used: {why}", path.display()),
            "see what it is of; if nothing needs it, remove it",
        )),
        _ => None,
    })
}

fn document(record: &Record, plan: &[String], warnings: &[String]) -> serde_json::Value {
    json!({
        "bridge": record.bridge.name,
        "uplink": record.uplink.name,
        "mode": "bridge",
        "plan": plan,
        "warnings": warnings,
    })
}

fn dry_run(
    record: &Record,
    plan: &[String],
    why: &str,
    warnings: &[String],
    args: &Args,
) -> Result<(), Error> {
    if args.json {
        print_json(&document(record, plan, warnings));
    } else {
        print(&format!("# uplink {}: {why}", record.uplink.name));
        warnings
            .iter()
            .for_each(|text| print(&format!("# warning: {text}")));
        plan.iter().for_each(|line| print(line));
    }
    Ok(())
}

fn carry_out(record: &Record, place: &Place, args: &Args) -> Result<(), Error> {
    let _held = HeldSignals::hold();
    place.save(record).map_err(|error| Error::Failed {
        message: format!(
            "cannot write the record {}: {error}",
            place.store.path(&record.bridge.name).display()
        ),
        remedy: "nothing was changed; vmbr changes a host only when it can go back".into(),
    })?;
    let reached = change::reach(&record.bridged(), &|_| {}, args.verbose, words);
    if let Err(cause) = reached {
        let error = change::undo(record, place, &record.restored(), &cause);
        log(
            Severity::Error,
            &format!("up {}: {}", record.uplink.name, error.sentences().0),
        );
        return Err(error);
    }
    let settled = Record {
        progress: Progress::Settled,
        time: change::now(),
        ..record.clone()
    };
    if let Err(error) = place.save(&settled) {
        let cause = crate::apply::migrate::MigrateError::Read(error);
        return Err(change::undo(record, place, &record.restored(), &cause));
    }
    log(
        Severity::Notice,
        &format!(
            "{} carries the network of {}",
            record.bridge.name, record.uplink.name
        ),
    );
    Ok(())
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "preparing the bridge with all that the uplink has",
        Stage::Enslave => "making the uplink its port",
        Stage::Flip => "moving the network to the bridge",
        Stage::Settle => "giving everything its final form",
        Stage::Tidy => "asking the routers for an advertisement",
    }
}

fn what_next(record: &Record) {
    let bridge = &record.bridge.name;
    let user = std::env::var("SUDO_USER").ok().filter(|user| user != "root");
    let whom = user.map_or_else(
        || "users".to_owned(),
        |user| format!("{user} (and every other user)"),
    );
    print(&format!(
        "{bridge} carries the network of {}. A reboot ends this; so does: vmbr down {bridge}\n\
         To let {whom} put guests on it, write into /etc/qemu/bridge.conf the line\n  \
         allow {bridge}\n\
         A guest joins with\n  \
         qemu-system-x86_64 ... -netdev tap,id=n0,br={bridge},helper={} -device virtio-net-pci,netdev=n0",
        record.uplink.name,
        gather::helper_path().display(),
    ));
}
