//! `vmbr tap add`.

use macaddr::MacAddr6;
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};
use serde_json::json;

use crate::guard::Guard;
use crate::model::bridge::PORTS_MAX;
use crate::model::{HostState, IfName, Link};
use crate::netlink::ports::{self, PortError, TapOptions};
use crate::plan::Refusal;
use crate::sys::netdev::Control;
use crate::sys::syslog::Severity;
use crate::sys::tap::TAP_MAC_BYTE;

use super::change::Place;
use super::doubt;
use super::outcome::{Error, log, print, print_json};
use super::{Args, GuardEntry, Guards, entry, few, group, look, require_privilege, user};
use crate::cli::args::TapAdd;
use crate::cli::warn;

/// How often it looks anew where another program makes the same TAP meanwhile.
const TRIES: u32 = 3;

/// What was asked for.
pub struct Wanted {
    /// The TAPs.
    pub names: Vec<IfName>,
    /// Their bridge.
    pub bridge: IfName,
    /// What they are.
    pub options: TapOptions,
}

/// Runs `vmbr tap add`.
pub fn run(add: &TapAdd, args: &Args) -> Result<(), Error> {
    require_privilege()?;
    let names = names(add)?;
    let news = |bridge: &&IfName| are_news(&names, bridge);
    let (bridge, live) = match add.bridge.as_ref().filter(news) {
        Some(bridge) => (bridge.clone(), None),
        None => {
            let live = look()?;
            (bridge(add.bridge.as_ref(), &live, args)?, Some(live))
        }
    };
    let wanted = Wanted {
        names,
        bridge,
        options: options(add)?,
    };
    let made = ensure(&wanted, live)?;
    if let Some(guard) = wanted.options.guard.as_ref().filter(|_| !made.is_empty()) {
        for text in doubt::about(guard, &wanted.names) {
            warn(&format!(
                "{text}: with it the guest of {} reaches nobody",
                few(wanted.names.iter())
            ));
        }
    }
    tell(&wanted, &made, args)
}

/// Whether no device has one of the names, and the bridge is one. A look at all
/// of the host's devices, a thousand TAPs maybe, then tells nothing more.
fn are_news(names: &[IfName], bridge: &IfName) -> bool {
    let Ok(control) = Control::open() else {
        return false;
    };
    let is_free = |name: &IfName| {
        let answer = control.index(name);
        answer.is_err_and(|error| error.raw_os_error() == Some(Errno::ENODEV as i32))
    };
    control.port_count(bridge).is_ok() && names.iter().all(is_free)
}

/// Sees that the TAPs are there, as they are wanted, and gives the names of
/// those that it made: all of those that were missing, or none. `live` is a
/// look at the host's devices; none where not one of the TAPs is there.
///
/// # Errors
/// One stands that is not as it is wanted; or one cannot be made.
pub fn ensure(wanted: &Wanted, mut live: Option<HostState>) -> Result<Vec<IfName>, Error> {
    let mut tries = 1;
    let made = loop {
        match attempt(wanted, live.as_ref()) {
            // Someone else was faster. If it is the same TAP, all is well.
            Err(Failure::Port(error)) if is_taken(&error) && tries < TRIES => tries += 1,
            Err(Failure::Port(error)) => return Err(failed(&wanted.bridge, &error)),
            Err(Failure::Refused(refusals)) => return Err(Error::Refused(refusals)),
            Ok(made) => break made,
        }
        live = Some(look()?);
    };
    if !made.is_empty() {
        log(
            Severity::Notice,
            &format!("made {} on {}", few(made.iter()), wanted.bridge),
        );
    }
    if wanted.options.guard.is_some() && !made.is_empty() && !locks_ports() {
        warn(
            "this kernel cannot lock a bridge's port to a MAC (Linux 5.16 can): the filter at the TAP alone guards it",
        );
    }
    Ok(made)
}

/// Whether the kernel has `IFLA_BRPORT_LOCKED`; one that has not passes over
/// what it does not know.
fn locks_ports() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|word| word.trim().parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 16),
        _ => true,
    }
}

enum Failure {
    Refused(Vec<Refusal>),
    Port(PortError),
}

/// Makes what is missing and gives the names of that.
fn attempt(wanted: &Wanted, live: Option<&HostState>) -> Result<Vec<IfName>, Failure> {
    let (missing, mut refusals) = match live {
        Some(live) => compare(wanted, live),
        None => (wanted.names.clone(), Vec::new()),
    };
    refusals.extend(crowded(&wanted.bridge, missing.len()));
    if !refusals.is_empty() {
        return Err(Failure::Refused(refusals));
    }
    ports::add_taps(&missing, &wanted.bridge, &wanted.options).map_err(Failure::Port)?;
    Ok(missing)
}

/// What is missing, and why it cannot be made.
fn compare(wanted: &Wanted, live: &HostState) -> (Vec<IfName>, Vec<Refusal>) {
    let mut missing = Vec::new();
    let mut refusals = Vec::new();
    let mut guards = None;
    for name in &wanted.names {
        match live.link(name) {
            None => missing.push(name.clone()),
            Some(link) => {
                let guard = guards.get_or_insert_with(Guards::open).of(link);
                refusals.extend(difference(link, guard, wanted));
            }
        }
    }
    (missing, refusals)
}

/// Why so many more ports do not fit on a bridge.
fn crowded(bridge: &IfName, asked: usize) -> Option<Refusal> {
    // What is wrong with the bridge is told by who uses it.
    let count = Control::open()
        .and_then(|control| control.port_count(bridge))
        .ok()?;
    let left = PORTS_MAX.saturating_sub(count);
    (asked > left).then(|| {
        Refusal::new(
            format!("{bridge} has room for {left} more ports, not for {asked}: a bridge holds {PORTS_MAX}"),
            format!("ask for {left} at most, remove some (vmbr tap list shows them), or use another bridge"),
        )
    })
}

/// In what a device that stands is not as it is wanted.
pub fn stands_otherwise(link: &Link, wanted: &Wanted) -> Option<Refusal> {
    difference(link, Guards::open().of(link), wanted)
}

/// In what a device that stands differs from what was asked for.
fn difference(link: &Link, guard: Option<Guard>, wanted: &Wanted) -> Option<Refusal> {
    let name = &link.name;
    let Some(tun) = link.tun.as_ref().filter(|tun| tun.tap) else {
        let kind = link.kind.as_deref().unwrap_or("NIC");
        return Some(Refusal::new(
            format!("the name {name} is taken by a device that is no TAP ({kind})"),
            "take another name",
        ));
    };
    let options = &wanted.options;
    let mut found: Vec<String> = Vec::new();
    let mut note = |what: &str, is: String, asked: String| {
        if is != asked {
            found.push(format!("its {what} is {is}, not {asked}"));
        }
    };
    let nobody = || "none".to_owned();
    let name_of = |master: &Option<IfName>| master.as_ref().map_or_else(nobody, ToString::to_string);
    note(
        "domain",
        tun.domain.clone().unwrap_or_else(nobody),
        options.domain.clone().unwrap_or_else(nobody),
    );
    note("bridge", name_of(&link.master), wanted.bridge.to_string());
    note(
        "owner",
        tun.owner.map_or_else(nobody, user),
        options.owner.map_or_else(nobody, |uid| user(uid.as_raw())),
    );
    note(
        "group",
        tun.group.map_or_else(nobody, group),
        options.group.map_or_else(nobody, |gid| group(gid.as_raw())),
    );
    let queues = match (tun.multi_queue, tun.queues_meant) {
        (false, _) => "1".to_owned(),
        (true, Some(number)) => number.to_string(),
        (true, None) => "several".to_owned(),
    };
    note("number of queues", queues, options.queues.to_string());
    if let Some(mac) = options.mac {
        let text = |mac: Option<MacAddr6>| mac.map_or_else(nobody, |m| m.to_string().to_lowercase());
        note("MAC", text(link.mac), text(Some(mac)));
    }
    if let Some(mtu) = options.mtu {
        note("MTU", link.mtu.to_string(), mtu.to_string());
    }
    let isolated = link.port.as_ref().is_some_and(|port| port.isolated);
    let words = |isolated: bool| if isolated { "isolated" } else { "open" }.to_owned();
    note("port", words(isolated), words(options.isolated));
    let words = |guard: Option<Guard>| guard.map_or_else(nobody, |guard| GuardEntry::from(guard).words());
    note("guard", words(guard), words(options.guard.clone()));
    if !tun.persistent {
        found.push("it goes with the program that holds it".to_owned());
    }
    if !link.up {
        found.push("it is down".to_owned());
    }
    (!found.is_empty()).then(|| {
        Refusal::new(
            format!("{name} stands, but not as asked for: {}", found.join("; ")),
            format!("remove it first (vmbr tap del {name}), or take another name"),
        )
    })
}

fn names(add: &TapAdd) -> Result<Vec<IfName>, Error> {
    let Some(count) = add.count else {
        return Ok(vec![add.name.clone()]);
    };
    let numbered = |number: u32| format!("{}{number}", add.name).parse::<IfName>();
    let last = format!("{}{}", add.name, count.saturating_sub(1));
    (0..count)
        .map(numbered)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            Error::refused(
                format!("the last of the TAPs cannot be called {last}: {error}"),
                "take a shorter name for them to begin with",
            )
        })
}

fn options(add: &TapAdd) -> Result<TapOptions, Error> {
    let group = add.group.as_deref().map(group_named).transpose()?;
    let owner = match (&add.owner, group) {
        (Some(owner), _) => Some(user_named(owner)?),
        // With root as its owner, no member of the group could attach.
        (None, Some(_)) => None,
        (None, None) => Some(Uid::from_raw(0)),
    };
    let guard = match (&add.guard, add.mac) {
        (Some(rule), Some(mac)) => Some(rule.of(mac)),
        (None, _) => None,
        // Never one without the other: it would be a port that nobody guards.
        (Some(_), None) => return Err(Error::refused("a guard needs the guest's MAC", "say --mac")),
    };
    let own_mac = |mac: MacAddr6| {
        let mut bytes = mac.into_array();
        bytes[0] = TAP_MAC_BYTE;
        MacAddr6::from(bytes)
    };
    Ok(TapOptions {
        owner,
        group,
        queues: add.queues,
        mac: add.mac.map(own_mac),
        mtu: add.mtu,
        isolated: add.isolated,
        guard,
        domain: None,
    })
}

fn user_named(text: &str) -> Result<Uid, Error> {
    if let Some(number) = number(text) {
        return Ok(Uid::from_raw(number));
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => Err(Error::refused(
            format!("there is no user {text}"),
            "name one of /etc/passwd, or a number",
        )),
        Err(errno) => Err(unknown(&format!("user {text}"), errno)),
    }
}

fn group_named(text: &str) -> Result<Gid, Error> {
    if let Some(number) = number(text) {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Error::refused(
            format!("there is no group {text}"),
            "name one of /etc/group, or a number",
        )),
        Err(errno) => Err(unknown(&format!("group {text}"), errno)),
    }
}

/// A number that can be a user's: the highest one means "none" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn unknown(what: &str, errno: Errno) -> Error {
    Error::Failed {
        message: format!("cannot ask for the {what}: {errno}"),
        remedy: "give the number; nothing was changed".into(),
    }
}

/// The bridge that was named, or the only one that vmbr made, or br0.
///
/// # Errors
/// There is none, or none that stands out.
pub fn bridge(named: Option<&IfName>, live: &HostState, args: &Args) -> Result<IfName, Error> {
    let bridges: Vec<&IfName> = live
        .links
        .iter()
        .filter(|link| link.is_kind("bridge"))
        .map(|link| &link.name)
        .collect();
    let list = match bridges.as_slice() {
        [] => "the host has none; make one: vmbr up".to_owned(),
        some => format!("the host's bridges: {}", few(some.iter().copied())),
    };
    if let Some(name) = named {
        return match live.link(name) {
            Some(link) if link.is_kind("bridge") => Ok(name.clone()),
            Some(link) => {
                let kind = link.kind.as_deref().unwrap_or("NIC");
                Err(Error::refused(format!("{name} is no bridge, but a {kind}"), list))
            }
            None => Err(Error::refused(format!("there is no bridge {name}"), list)),
        };
    }
    let place = Place::find(args)?;
    let made: Vec<&IfName> = place
        .records()
        .map(|record| &record.bridge.name)
        .filter(|name| bridges.contains(name))
        .collect();
    let usual = bridges.iter().find(|name| name.as_str() == "br0");
    match (made.as_slice(), usual) {
        ([only], _) => Ok((*only).clone()),
        ([], Some(usual)) => Ok((*usual).clone()),
        ([], None) => Err(Error::refused(
            "there is no bridge br0, and none that vmbr made",
            list,
        )),
        (several, _) => Err(Error::refused(
            format!("vmbr made several bridges: {}", few(several.iter().copied())),
            "name one with --bridge",
        )),
    }
}

/// Whether another device has the name, since a moment ago.
fn is_taken(error: &PortError) -> bool {
    error.doing == ports::MAKING && (error.source.is(Errno::EBUSY) || error.source.is(Errno::EINVAL))
}

fn failed(bridge: &IfName, error: &PortError) -> Error {
    let remedy = if error.source.is(Errno::EXFULL) {
        format!("{bridge} has all the {PORTS_MAX} ports that a bridge can have: remove some; none was made")
    } else if error.doing == ports::GUARDING && error.source.is(Errno::EEXIST) {
        return Error::refused(
            format!("another port of {bridge} has that MAC for its guest"),
            "give each guest its own; none was made",
        );
    } else if error.doing == ports::GUARDING {
        "a guard needs a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS (modules cls_bpf, \
         sch_ingress); none was made"
            .to_owned()
    } else if error.source.is(Errno::ENOENT) || error.source.is(Errno::ENODEV) {
        "if /dev/net/tun is missing: modprobe tun; none was made".to_owned()
    } else {
        "none was made".to_owned()
    };
    Error::Failed {
        message: error.to_string(),
        remedy,
    }
}

fn tell(wanted: &Wanted, made: &[IfName], args: &Args) -> Result<(), Error> {
    if args.json {
        let live = look()?;
        let guards = Guards::open();
        let taps: Vec<_> = wanted
            .names
            .iter()
            .filter_map(|name| entry(live.link(name)?, &guards))
            .collect();
        print_json(&json!({"taps": taps}));
        return Ok(());
    }
    let bridge = &wanted.bridge;
    let names = few(wanted.names.iter());
    let verb = if wanted.names.len() == 1 { "is" } else { "are" };
    if made.is_empty() {
        print(&format!("already so: {names} {verb} on {bridge}"));
    } else {
        print(&format!(
            "{names} {verb} on {bridge}, for {}",
            who(&wanted.options)
        ));
    }
    Ok(())
}

/// Who may attach, in words.
fn who(options: &TapOptions) -> String {
    let owner = options.owner.map(|uid| user(uid.as_raw()));
    let group = options
        .group
        .map(|gid| format!("members of the group {}", group(gid.as_raw())));
    match (owner, group) {
        (Some(owner), Some(group)) => format!("{owner} as one of the {group}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "root".to_owned(),
    }
}
