//! `vmbr sync`: what the translation of MACs knows of the host, brought up to
//! date. Hooks run it at any moment, so that it is cheap where there is nothing
//! to do, and gives up where another vmbr is at work for long: that one ends
//! with what is so then.

use serde_json::json;

use crate::apply::air;
use crate::apply::announce::{self, Whom};
use crate::apply::migrate::MigrateError;
use crate::apply::recover;
use crate::apply::told;
use crate::mac_nat;
use crate::model::{HostState, IfName};
use crate::netlink::dump;
use crate::plan::record::{Progress, Uplink};
use crate::plan::{Mode, Record};
use crate::sys::syslog::Severity;

use super::args::{Args, Sync};
use super::change::Place;
use super::outcome::{Error, log, print, print_json, say};
use super::require_privilege;

/// What came of one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// It was so already.
    Already,
    /// It is up to date now.
    Changed,
    /// Its uplink is not there, for now.
    Gone,
}

/// Runs `vmbr sync`.
pub fn run(sync: &Sync, args: &Args) -> Result<(), Error> {
    let mut place = Place::find(args)?;
    let concerned = |record: &&Record| {
        record.mode() == Mode::MacNat
            && sync
                .bridge
                .as_ref()
                .is_none_or(|name| *name == record.bridge.name)
    };
    if let Some(name) = &sync.bridge {
        let known = place.records().find(|record| record.bridge.name == *name);
        if known.is_none_or(|record| record.mode() != Mode::MacNat) {
            return Err(Error::refused(
                format!("{name} is no bridge in mode mac-nat that vmbr made"),
                "see which there are: vmbr status",
            ));
        }
    }
    let mut done = Vec::new();
    // The usual case of a hook on any host: there is none.
    let records = |place: &Place| -> Vec<Record> { place.records().filter(concerned).cloned().collect() };
    let found = records(&place);
    if !found.is_empty() {
        require_privilege()?;
    }
    // The usual case of one that is run again: nobody else is held up by it.
    if found.iter().all(is_current) {
        let already = |record: Record| (record.bridge.name, Synced::Already);
        done.extend(found.into_iter().map(already));
    } else {
        let _lock = place.wait_for_lock()?;
        place.refresh(args)?;
        // What did not end is led back, by its watchdog or by a person.
        for record in records(&place).iter().filter(|record| !recover::is_due(record)) {
            done.push((record.bridge.name.clone(), one(record, &place)?));
        }
    }
    // What it had given to guests is theirs still, but nobody else's for that.
    if let Some(text) = done.iter().find_map(|(bridge, _)| told::pins(bridge).err()) {
        return Err(Error::Failed {
            message: format!("the ACL is not obeyed: {text}"),
            remedy: "guests keep the addresses that it had given them; mend it, then: vmbr sync".into(),
        });
    }
    tell(&done, args);
    Ok(())
}

/// Says what came of each bridge.
fn tell(done: &[(IfName, Synced)], args: &Args) {
    if args.json {
        let word = |synced| match synced {
            Synced::Already => "already",
            Synced::Changed => "changed",
            Synced::Gone => "uplink-gone",
        };
        let list: Vec<_> = done
            .iter()
            .map(|(bridge, synced)| json!({"bridge": bridge, "outcome": word(*synced)}))
            .collect();
        print_json(&json!({"synced": list}));
        return;
    }
    for (bridge, synced) in done {
        match synced {
            Synced::Already => print(&format!("already so: {bridge} is up to date")),
            Synced::Changed => print(&format!("{bridge} is up to date")),
            Synced::Gone => print(&format!(
                "the uplink of {bridge} is gone: guests reach each other, and the network when it is back"
            )),
        }
    }
    if done.is_empty() {
        print("nothing to do: no bridge in mode mac-nat");
    }
}

/// Whether a bridge is as it has to be, as far as one look tells.
fn is_current(record: &Record) -> bool {
    let same = dump::network().is_ok_and(|live| uplink(&live, record).as_ref() == Some(&record.uplink));
    same && record.progress != Progress::Changing
        && air::is_current(record).unwrap_or(false)
        && !mac_nat::has_heard_host(record.uplink.index).unwrap_or(false)
}

/// Brings one bridge up to date; the caller holds the lock.
///
/// # Errors
/// What is missing could not be mended.
pub fn one(record: &Record, place: &Place) -> Result<Synced, Error> {
    let live = dump::network().map_err(|error| Error::unreadable(&error))?;
    let bridge = &record.bridge.name;
    let failed = |error: MigrateError| Error::Failed {
        message: format!("cannot bring {bridge} up to date: {error}"),
        remedy: "see 'vmbr doctor'".into(),
    };
    let Some(uplink) = uplink(&live, record) else {
        air::stop(record).map_err(failed)?;
        return Ok(Synced::Gone);
    };
    let now = Record {
        uplink,
        ..record.clone()
    };
    if now != *record {
        place
            .save(&now)
            .map_err(|error| failed(MigrateError::Unwritten(error)))?;
    }
    let changed = match air::sync(&now) {
        // Between two looks.
        Err(MigrateError::Gone(_)) => return Ok(Synced::Gone),
        done => done.map_err(failed)?,
    };
    if !changed && now == *record {
        return Ok(Synced::Already);
    }
    if now.uplink.mac != record.uplink.mac {
        air::release(record);
    }
    if now.uplink != record.uplink {
        announce(&now, &live);
    }
    let text = format!("{bridge} knows {} as it is now", now.uplink.name);
    log(Severity::Notice, &text);
    say(&text);
    Ok(Synced::Changed)
}

/// Tells the network where guests are now, and everyone where the host is. Who
/// does not hear it finds out by itself, if later.
fn announce(record: &Record, live: &HostState) {
    let (index, mac) = (record.uplink.index, record.uplink.mac);
    let guests = mac_nat::guests(index).unwrap_or_default();
    let guests = guests.iter().map(|guest| guest.address);
    let own = live
        .addresses_of(&record.uplink.name)
        .iter()
        .map(|address| address.local);
    let told = announce::announce(index, mac, Whom::Network, guests)
        .and_then(|()| announce::announce(index, mac, Whom::Everyone, own));
    if let Err(error) = told {
        say(&format!(
            "nobody is told that guests and host are at {mac} now, and some may take minutes to find out: {error}"
        ));
    }
}

/// The uplink as it is now: the device of its number, or where that is gone
/// one that has come with its name, as a NIC does that was unplugged.
fn uplink(live: &HostState, record: &Record) -> Option<Uplink> {
    let same = crate::plan::air::uplink(live, record);
    let named = || live.link(&record.uplink.name);
    let link = same.or_else(|| named().filter(|link| link.master.is_none()))?;
    Some(Uplink {
        name: link.name.clone(),
        index: link.index,
        mac: link.mac?,
        up: record.uplink.up,
    })
}
