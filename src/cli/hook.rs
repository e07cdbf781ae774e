//! `vmbr hook`.
//!
//! libvirt waits for a hook and holds the domain meanwhile. What it prints to
//! standard output can replace the XML: nothing is. libvirt is never asked
//! anything, which could wait for the hook. What a failure comes to
//! (`virHookCall()`, and who calls it):
//!
//! | call | a failure |
//! |---|---|
//! | `prepare begin` | the domain does not start |
//! | `release end` | is written to libvirt's log |
//! | `reconnect begin` | **kills the guest**: nothing is done, nothing fails |
//! | all others | nothing is done, nothing fails |

use std::io::{self, Read};

use crate::hook::domain::{Domain, Wanted};
use crate::hook::network;
use crate::hook::qemu_conf::{self, Runner};
use crate::model::{HostState, IfName, Link};
use crate::netlink::ports::{self, TapOptions};
use crate::sys::syslog::Severity;

use super::args::{Args, Hook, HookCall};
use super::outcome::{Error, log, say};
use super::require_privilege;
use super::tap::{self, add};

/// More than any domain's XML is.
const LONGEST: u64 = 16 << 20;

/// Runs `vmbr hook`.
pub fn run(hook: &Hook, args: &Args) -> Result<(), Error> {
    // All of it, whatever is asked for: libvirt writes it.
    let xml = read();
    match hook {
        Hook::Qemu(call) => match (call.operation.as_str(), call.suboperation.as_str()) {
            ("prepare", "begin") => prepare(call, &xml?, args),
            ("release", "end") => release(call, &xml?),
            _ => Ok(()),
        },
        Hook::Network(call) => match (call.operation.as_str(), call.suboperation.as_str()) {
            ("start", "begin") => start(call, &xml?),
            _ => Ok(()),
        },
    }
}

fn read() -> Result<String, Error> {
    let mut text = String::new();
    match io::stdin().take(LONGEST).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::refused(
            format!("cannot read the XML on standard input: {error}"),
            "libvirt calls this, and gives it the XML there",
        )),
    }
}

/// A domain that is about to start: sees that its TAPs are there, all of them
/// or none.
fn prepare(call: &HookCall, xml: &str, args: &Args) -> Result<(), Error> {
    let domain = domain(call, xml)?;
    if domain.taps.is_empty() {
        return Ok(());
    }
    require_privilege()?;
    let runner = qemu_conf::runner(domain.label.as_deref()).map_err(|why| {
        Error::refused(
            format!("who runs the QEMU of {} is not known: {why}", call.object),
            "mend the name there",
        )
    })?;
    let mark = mark(&domain, call);
    let mut made = Vec::new();
    for wanted in &domain.taps {
        match prepare_one(wanted, runner, &mark, args) {
            Ok(new) => made.extend(new),
            Err(error) => {
                if !made.is_empty() {
                    // The reason is the failure; what stays is in the list of
                    // devices.
                    let _ = ports::remove(&made);
                }
                let (message, remedy) = error.sentences();
                log(Severity::Error, &format!("domain {}: {message}", call.object));
                return Err(Error::refused(message, remedy));
            }
        }
    }
    Ok(())
}

/// Gives what it made.
fn prepare_one(wanted: &Wanted, runner: Runner, mark: &str, args: &Args) -> Result<Vec<IfName>, Error> {
    let live = tap::look()?;
    let dev = &wanted.dev;
    let standing = live.link(dev);
    let whose = standing
        .and_then(|link| link.tun.as_ref())
        .and_then(|tun| tun.domain.as_deref());
    // After a crash of libvirt its own is still there.
    if whose.is_some_and(|whose| whose != mark) {
        return Err(Error::refused(
            format!("the TAP {dev} is another domain's"),
            "give each domain TAPs of names of their own",
        ));
    }
    let settings = &wanted.settings;
    let guard = match (&settings.guard, wanted.mac) {
        (Some(rule), Some(mac)) => Some(rule.of(mac)),
        (None, _) => None,
        (Some(_), None) => {
            return Err(Error::refused(
                format!("{dev} is to be guarded, and its interface has no <mac address='...'/>"),
                "give it one",
            ));
        }
    };
    let asked = add::Wanted {
        names: vec![dev.clone()],
        bridge: add::bridge(settings.bridge.as_ref(), &live, args)?,
        options: TapOptions {
            owner: Some(runner.user),
            group: runner.group,
            queues: wanted.queues.into(),
            mac: None,
            mtu: wanted.mtu,
            isolated: settings.isolated,
            guard,
            domain: whose.or(standing.is_none().then_some(mark)).map(str::to_owned),
        },
    };
    if let Some(link) = standing.filter(|_| whose.is_none()) {
        return use_anothers(link, &asked);
    }
    let stale = standing.is_some_and(|link| {
        let held = link.tun.as_ref().is_some_and(|tun| tun.held);
        !held && add::stands_otherwise(link, &asked).is_some()
    });
    if !stale {
        return add::ensure(&asked, Some(live));
    }
    // The domain was changed since, and no guest is on it.
    remove(std::slice::from_ref(dev))?;
    add::ensure(&asked, Some(tap::look()?))
}

/// A device that this hook did not make is used where it is just what is asked
/// for, and is never changed or removed: else a guest would come up on another
/// network than its own, without its guard, or on a TAP that anyone can open.
fn use_anothers(link: &Link, asked: &add::Wanted) -> Result<Vec<IfName>, Error> {
    let dev = &link.name;
    if let Some(refusal) = add::stands_otherwise(link, asked) {
        return Err(Error::Refused(vec![refusal]));
    }
    if link.tun.as_ref().is_some_and(|tun| tun.held) {
        return Err(Error::refused(
            format!("the TAP {dev} was not made by this hook, and a program holds it"),
            "end that program, or give the domain a TAP of another name",
        ));
    }
    say(&format!("{dev} was not made by this hook and is left as it is"));
    Ok(Vec::new())
}

/// A domain that is gone: its TAPs go, too.
fn release(call: &HookCall, xml: &str) -> Result<(), Error> {
    let domain = domain(call, xml)?;
    if domain.taps.is_empty() {
        return Ok(());
    }
    require_privilege()?;
    let mark = mark(&domain, call);
    let live = tap::look()?;
    let gone = of_domain(&live, &domain, &mark);
    if gone.is_empty() {
        return Ok(());
    }
    remove(&gone)?;
    log(
        Severity::Notice,
        &format!(
            "domain {} is gone: removed {}",
            call.object,
            tap::few(gone.iter())
        ),
    );
    Ok(())
}

/// The TAPs of a domain that this hook made. One that was hung in later, and
/// is in the XML no more, has the mark as well.
fn of_domain(live: &HostState, domain: &Domain, mark: &str) -> Vec<IfName> {
    let marked = live.links.iter().filter(|link| {
        let whose = link.tun.as_ref().and_then(|tun| tun.domain.as_deref());
        whose == Some(mark)
    });
    let named = |name: &IfName| domain.uuid.is_some() || domain.taps.iter().any(|tap| tap.dev == *name);
    marked.map(|link| link.name.clone()).filter(named).collect()
}

fn remove(names: &[IfName]) -> Result<(), Error> {
    ports::remove(names).map_err(|error| Error::Failed {
        message: error.to_string(),
        remedy: "see whether another program removes it, too".into(),
    })
}

/// A network that is about to start: its bridge has to be there.
fn start(call: &HookCall, xml: &str) -> Result<(), Error> {
    let wanted = network::bridge(xml).map_err(|error| {
        Error::refused(
            error.to_string(),
            format!("see 'virsh net-dumpxml {}'", call.object),
        )
    })?;
    let Some(bridge) = wanted else { return Ok(()) };
    let live = tap::look()?;
    if live.link(&bridge).is_some_and(|link| link.is_kind("bridge")) {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "the network {} is on {bridge}, and there is no such bridge",
            call.object
        ),
        format!("make it: vmbr up --bridge {bridge}"),
    ))
}

fn domain(call: &HookCall, xml: &str) -> Result<Domain, Error> {
    Domain::parse(xml)
        .map_err(|error| Error::refused(error.to_string(), format!("see 'virsh dumpxml {}'", call.object)))
}

/// What a domain's TAPs are marked with: one word.
fn mark(domain: &Domain, call: &HookCall) -> String {
    let name = || {
        call.object
            .chars()
            .filter(|c| c.is_ascii_graphic())
            .take(64)
            .collect()
    };
    domain.uuid.clone().unwrap_or_else(name)
}
