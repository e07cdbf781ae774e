//! `vmbr doctor`.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::apply::lock;
use crate::doctor::fixes::Fixes;
use crate::doctor::mend::{self, Undone};
use crate::doctor::{self, Change, Finding, Severity, gather};
use crate::model::IfName;
use crate::plan::Record;
use crate::sys::syslog;

use super::args::{Args, Doctor};
use super::change::Place;
use super::outcome::{Error, log, print, print_json, say};
use super::{require_privilege, warn};

/// Runs `vmbr doctor`.
pub fn run(doctor: &Doctor, args: &Args) -> Result<ExitCode, Error> {
    let mut place = Place::find(args)?;
    let _lock = if doctor.fix {
        require_privilege()?;
        let lock = place.lock()?;
        place = Place::find(args)?;
        Some(lock)
    } else {
        None
    };
    let facts = |place: &Place| {
        let held = if doctor.fix {
            Some(false)
        } else {
            lock::is_held(&place.identity)
        };
        gather::all(&place.entries, held).map_err(|error| Error::unreadable(&error))
    };
    let first = facts(&place)?;
    if let Some(bridge) = first.interrupted.first().filter(|_| doctor.fix) {
        return Err(Error::refused(
            format!(
                "a change of {bridge} was cut short: where the network is to be comes before what is wrong with it"
            ),
            "vmbr recover",
        ));
    }
    let mut findings = doctor::examine(&first);
    let mut fixed = Vec::new();
    if doctor.fix && findings.iter().any(Finding::fixable) {
        fix(&findings, &place)?;
        // What is mended is what is no longer found.
        let left = doctor::examine(&facts(&place)?);
        let is_left = |finding: &Finding| left.iter().any(|other| other.is_same(finding));
        fixed = findings
            .into_iter()
            .filter(|finding| finding.fixable() && !is_left(finding))
            .collect();
        findings = left;
    }
    if args.json {
        let mut list: Vec<Value> = findings.iter().map(document).collect();
        list.extend(fixed.iter().map(|finding| {
            let mut value = document(finding);
            value["fixed"] = true.into();
            value
        }));
        print_json(&json!({"findings": list}));
    } else {
        tell(&findings, &fixed);
    }
    let found = findings.iter().any(|finding| finding.severity != Severity::Note);
    Ok(ExitCode::from(u8::from(found)))
}

fn fix(findings: &[Finding], place: &Place) -> Result<(), Error> {
    let mut fixes = Fixes::load(&place.store).map_err(|why| Error::Failed {
        message: format!("what doctor changed before cannot be read: {why}"),
        remedy: "nothing was changed; see what the file is, and remove it".into(),
    })?;
    for finding in findings {
        for change in &finding.fix {
            let made = match change {
                // Its end takes it along: there is nothing to remember.
                Change::Translation { bridge } => sync(bridge, place),
                change => mend::make(change, &mut fixes),
            };
            match made {
                Ok(()) => log(
                    syslog::Severity::Notice,
                    &format!("doctor mended {}: {}", finding.id, finding.message),
                ),
                Err(why) => {
                    warn(&format!("cannot mend {}: {why}", finding.id));
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Brings a bridge in mode mac-nat up to date.
fn sync(bridge: &IfName, place: &Place) -> Result<(), String> {
    let record = place.records().find(|record| record.bridge.name == *bridge);
    let record = record.ok_or_else(|| format!("{bridge} is none of vmbr's"))?;
    super::sync::one(record, place)
        .map(|_| ())
        .map_err(|error| error.sentences().0)
}

fn document(finding: &Finding) -> Value {
    json!({
        "id": finding.id,
        "severity": finding.severity,
        "device": finding.device,
        "message": finding.message,
        "remedy": finding.remedy,
        "fixable": finding.fixable(),
    })
}

fn tell(findings: &[Finding], fixed: &[Finding]) {
    for finding in fixed {
        print(&format!("mended: {}", finding.message));
    }
    for finding in findings {
        print(&format!(
            "{}: {}\n  remedy: {}",
            finding.severity.word(),
            finding.message,
            finding.remedy
        ));
    }
    let fixable = findings.iter().filter(|finding| finding.fixable()).count();
    match (findings.len(), fixable) {
        (0, _) if fixed.is_empty() => print("Nothing was found."),
        (0, _) => print("Nothing else was found."),
        (_, 0) => {}
        (1, 1) => print("It is mended by: vmbr doctor --fix"),
        (_, 1) => print("One of them is mended by: vmbr doctor --fix"),
        (_, some) => print(&format!("{some} of them are mended by: vmbr doctor --fix")),
    }
}

/// Whether vmbr has no bridge left when `gone` is.
fn is_last(place: &Place, gone: Option<&IfName>) -> bool {
    !place.entries.iter().any(|entry| Some(entry.bridge()) != gone)
}

/// In a dry run of `down`: says what will be undone.
pub fn announce(place: &Place, gone: &IfName) {
    let changes =
        Fixes::load(&place.store).map(|fixes| fixes.to_undo(Some(gone), is_last(place, Some(gone))));
    for change in changes.unwrap_or_default() {
        print(&format!("# what doctor changed is undone: {}", words(&change)));
    }
}

/// After `down`: undoes what doctor did for a bridge that is gone; where vmbr
/// has no bridge left, everything. What fails is said, and fails nothing else.
pub fn undo(place: &Place, gone: Option<&IfName>) {
    undo_all(place, gone, is_last(place, gone));
}

/// After a change was led back: undoes what doctor did for the bridge that is
/// gone. What it did for the rest of the host was there before an `up`, or was
/// asked for by itself: that stays until a `down`, and the end of one that was
/// cut short is one.
pub fn undo_led_back(place: &Place, record: &Record) {
    let gone = Some(&record.bridge.name);
    undo_all(place, gone, record.end.is_some() && is_last(place, gone));
}

fn undo_all(place: &Place, gone: Option<&IfName>, last: bool) {
    let mut fixes = match Fixes::load(&place.store) {
        Ok(fixes) => fixes,
        Err(why) => return complain(&format!("what doctor changed cannot be undone: {why}")),
    };
    mend::undo(&mut fixes, gone, last, &mut |change, undone| match undone {
        Ok(Undone::Yes) => say(&format!("- undoing what doctor changed: {}", words(change))),
        Ok(Undone::Changed) => say(&format!(
            "- someone changed since what doctor had: {}",
            words(change)
        )),
        Ok(Undone::Gone) => {}
        Err(why) => complain(&format!(
            "cannot undo what doctor changed: {}: {why}",
            words(change)
        )),
    });
}

/// A watchdog has nobody to speak to but the log.
fn complain(text: &str) {
    warn(text);
    log(syslog::Severity::Warning, text);
}

/// A change in a few words.
fn words(change: &Change) -> String {
    match change {
        Change::Sysctl { dev, key, .. } => format!("{key} of {dev}"),
        Change::Option { bridge, setting, .. } => format!("{} of {bridge}", setting.name()),
        Change::Mac { bridge, .. } => format!("the MAC of {bridge}"),
        Change::Address { port, address, .. } => format!("{address} of {port}"),
        Change::Route { port, route, .. } => format!("the route to {} by {port}", route.dst),
        Change::Accept { bridge, chain } => format!("a rule for {bridge} in {chain}"),
        Change::Keeper { bridge } => format!("the lease keeper of {bridge}"),
        Change::Translation { bridge } => format!("the translation of MACs of {bridge}"),
        Change::Mode { path, .. } => format!("the mode of {}", path.display()),
    }
}
