//! Gives the programs to the kernel, and asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::programs::SchedClassifier;
use macaddr::MacAddr6;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_getres, clock_gettime};

use super::hooks::{BRIDGE_IN, Place, Standing, Way, bridge_place, bridges_of, places};
use super::layout;
use super::maps::{Maps, chain};
use super::routes::prefixes;
use super::{Addresses, Attached, Guest, MacNatError, Settings};

/// The programs, compiled (build.rs).
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mac_nat.o"));

/// Whether this vmbr has the programs.
pub fn supported() -> bool {
    true
}

/// Puts the programs to their devices. Where they stand already, what they
/// learned stays. Needs root.
///
/// # Errors
/// What the kernel answered; then none stands that did not before.
pub fn attach(settings: &Settings, addresses: &Addresses) -> Result<(), MacNatError> {
    attach_by(None, settings, addresses)
}

/// The same by a way that is said, and not by the kernel's better one: for
/// tests.
#[doc(hidden)]
pub fn attach_by(way: Option<Way>, settings: &Settings, addresses: &Addresses) -> Result<(), MacNatError> {
    let standing = standing(settings.uplink, settings.air)?;
    // From another vmbr's programs, whose maps are others, nothing is taken over.
    let maps = maps_of(&standing).unwrap_or_default();
    if let Some(maps) = &maps
        && whole(&standing)
        && layout::build_of(&maps.settings()?) == layout::build(OBJECT)
        && way.is_none_or(|way| standing.iter().flatten().all(|one| one.way() == way))
    {
        return sync(settings, addresses).map(drop);
    }
    let mut object = load()?;
    let mut new = Maps::of_object(&mut object)?;
    if let Some(old) = &maps {
        new.inherit(old)?;
    }
    new.set_settings(layout::settings(settings, hz()?, layout::build(OBJECT)))?;
    new.set_prefixes(&prefixes(settings.uplink)?)?;
    new.set_addresses(addresses, &broadcasts(settings.uplink)?)?;
    let places = places(settings.uplink, settings.air);
    let none_stood = standing.iter().all(Vec::is_empty);
    for (place, standing) in places.iter().zip(&standing) {
        // What is replaced is one that is held by the same way.
        if standing.len() > 1 || way.is_some_and(|way| standing.iter().any(|one| one.way() != way)) {
            place.detach()?;
        }
        let done = put(&mut object, place, way);
        if done.is_err() && none_stood {
            // Why it did not work is what counts, not what else does not.
            for place in &places {
                let _ = place.detach();
            }
        }
        done?;
    }
    close_bridge(&mut object, settings.air, way)
}

/// Has the bridge give nothing to the host: its MAC is easily guessed, and what
/// guests send to it, or to all, would reach the host without a look.
fn close_bridge(object: &mut aya::Ebpf, air: u32, way: Option<Way>) -> Result<(), MacNatError> {
    match bridge_place(air)? {
        Some(place) if place.standing()?.is_empty() => put(object, &place, way),
        _ => Ok(()),
    }
}

/// Whether the bridge gives to the host what guests send to it.
fn is_open(air: u32) -> Result<bool, MacNatError> {
    Ok(match bridge_place(air)? {
        Some(place) => place.standing()?.is_empty(),
        None => false,
    })
}

/// Gives the object to the kernel, where it is checked; nothing is attached.
///
/// # Errors
/// What the kernel answered, its verifier's last words included.
#[doc(hidden)]
pub fn load() -> Result<aya::Ebpf, MacNatError> {
    let failure = |error: &dyn std::error::Error| MacNatError {
        message: format!(
            "loading MAC-NAT's programs into the kernel: {}",
            last_words(&chain(error))
        ),
        remedy: Some("it takes root and Linux 5.15 or newer with CONFIG_BPF_SYSCALL"),
    };
    let mut object = aya::EbpfLoader::new()
        .load(OBJECT)
        .map_err(|error| failure(&error))?;
    for name in places(0, 0)
        .map(|place| place.name)
        .into_iter()
        .chain([BRIDGE_IN])
    {
        program(&mut object, name)?
            .load()
            .map_err(|error| failure(&error))?;
    }
    Ok(object)
}

/// A verifier tells its whole way; what it says last is why.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    match lines.as_slice() {
        [first, .., before, last] if lines.len() > 4 => format!("{first} ... {before}; {last}"),
        _ => text.replace('\n', "; "),
    }
}

fn program<'a>(object: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut SchedClassifier, MacNatError> {
    object
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| MacNatError {
            message: format!("MAC-NAT's object has no program {name}"),
            remedy: None,
        })
}

fn put(object: &mut aya::Ebpf, place: &Place, way: Option<Way>) -> Result<(), MacNatError> {
    let program = program(object, place.name)?;
    let fd = program.fd().map_err(|error| MacNatError {
        message: format!("{} was not loaded: {error}", place.name),
        remedy: None,
    })?;
    place.attach(fd.as_fd(), way)
}

/// What stands at each place.
fn standing(uplink: u32, air: u32) -> Result<[Vec<Standing>; 3], MacNatError> {
    let [a, b, c] = places(uplink, air);
    Ok([a.standing()?, b.standing()?, c.standing()?])
}

/// One program at each place, and all of the same maps.
fn whole(standing: &[Vec<Standing>; 3]) -> bool {
    match standing.each_ref().map(Vec::as_slice) {
        [[a], [b], [c]] => {
            let shared = |one: &Standing| one.info.maps.iter().filter(|id| a.info.maps.contains(id)).count();
            shared(b) > 1 && shared(c) > 1
        }
        _ => false,
    }
}

/// The maps of those that stand. No single program has all of them, but what
/// one lacks another one has.
fn maps_of(standing: &[Vec<Standing>; 3]) -> Result<Option<Maps>, MacNatError> {
    let all = ids(standing.iter().flatten());
    if all.is_empty() {
        return Ok(None);
    }
    match Maps::of_ids(&all) {
        Ok(maps) => Ok(Some(maps)),
        // Of half a set that an interrupted change has left, nothing is kept.
        Err(_) if !whole(standing) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The ports at which guests were heard and that were taken off the bridge
/// since, maybe to another one, where they would hear what is for the addresses
/// that they had here.
fn strays(maps: &Maps, air: u32) -> Result<BTreeSet<u32>, MacNatError> {
    let heard: BTreeSet<u32> = maps.learned()?.iter().map(|(_, guest)| guest.port).collect();
    let bridges = bridges_of(heard.iter().copied().chain([air]))?;
    let here = bridges.get(&air);
    let left = |port: &u32| bridges.get(port).is_some_and(|bridge| Some(bridge) != here);
    Ok(heard.into_iter().filter(left).collect())
}

/// Tells the programs that the uplink's MAC or addresses have changed, and
/// forgets what was learned of addresses that no guest may claim now, and of
/// guests that are not on the bridge any more. Returns whether anything had
/// changed.
///
/// # Errors
/// They do not stand; what the kernel answered.
pub fn sync(settings: &Settings, addresses: &Addresses) -> Result<bool, MacNatError> {
    let standing = standing(settings.uplink, settings.air)?;
    let mut maps = maps_of(&standing)?.ok_or_else(|| absent(settings.uplink))?;
    let opened = is_open(settings.air)?;
    if opened {
        let way = standing.iter().flatten().next().map(Standing::way);
        close_bridge(&mut load()?, settings.air, way)?;
    }
    let before = maps.settings()?;
    let wanted = layout::settings(settings, hz()?, layout::build_of(&before));
    let changed = opened || before != wanted;
    if changed {
        maps.set_settings(wanted)?;
    }
    let changed = maps.set_prefixes(&prefixes(settings.uplink)?)? | changed;
    let changed = maps.forget(&strays(&maps, settings.air)?)? | changed;
    Ok(maps.set_addresses(addresses, &broadcasts(settings.uplink)?)? | changed)
}

/// Whether the programs know something else than this, so that [`sync`] would
/// change it. Needs root.
///
/// # Errors
/// They do not stand; what the kernel answered.
pub fn stale(settings: &Settings, addresses: &Addresses) -> Result<bool, MacNatError> {
    let standing = standing(settings.uplink, settings.air)?;
    let maps = maps_of(&standing)?.ok_or_else(|| absent(settings.uplink))?;
    let now = maps.settings()?;
    let wanted = layout::settings(settings, hz()?, layout::build_of(&now));
    Ok(now != wanted
        || is_open(settings.air)?
        || !maps.have_prefixes(&prefixes(settings.uplink)?)?
        || !strays(&maps, settings.air)?.is_empty()
        || !maps.have_addresses(addresses, &broadcasts(settings.uplink)?)?)
}

/// Whether the programs have heard of addresses of the host that they were not
/// told: [`sync`] tells which of them it has, and sets the others free. Needs
/// root.
///
/// # Errors
/// The programs do not stand; what the kernel answered.
pub fn has_heard_host(uplink: u32) -> Result<bool, MacNatError> {
    maps_at(uplink)?.have_heard_host()
}

/// Takes the programs off their devices, first the one that hears guests.
/// Others' programs stay. Where none stands, nothing is done. Those of an
/// uplink that has gone to another namespace do nothing from then on. Needs
/// root.
///
/// # Errors
/// What the kernel answered; those that could be taken off are.
pub fn detach(uplink: u32, air: u32) -> Result<(), MacNatError> {
    let mut all = stop(uplink, air);
    if let Some(place) = bridge_place(air)? {
        all = all.and(place.detach());
    }
    for place in places(uplink, air).iter().rev() {
        all = all.and(place.detach());
    }
    all
}

/// Has the programs do nothing, until they are told again what to do: their
/// uplink is gone, perhaps to another namespace, where the numbers that they
/// know are those of other devices. It is enough that one of them is still
/// here. Needs root.
///
/// # Errors
/// What the kernel answered.
pub fn stop(uplink: u32, air: u32) -> Result<(), MacNatError> {
    Maps::stop(&ids(standing(uplink, air)?.iter().flatten()))
}

/// Which programs stand. Needs root.
///
/// # Errors
/// What the kernel answered.
pub fn attached(uplink: u32, air: u32) -> Result<Attached, MacNatError> {
    let [uplink_in, uplink_out, air_out] = standing(uplink, air)?.map(|standing| !standing.is_empty());
    Ok(Attached {
        air_out,
        uplink_in,
        uplink_out,
    })
}

/// The maps of the programs at an uplink.
fn maps_at(uplink: u32) -> Result<Maps, MacNatError> {
    let [incoming, outgoing, _] = places(uplink, 0);
    let own = ids(incoming.standing()?.iter().chain(&outgoing.standing()?));
    if own.is_empty() {
        return Err(absent(uplink));
    }
    // They know where the third is.
    let air = layout::air_of(&Maps::settings_of_ids(&own)?);
    maps_of(&standing(uplink, air)?)?.ok_or_else(|| absent(uplink))
}

/// The numbers of the maps of programs.
fn ids<'a>(standing: impl Iterator<Item = &'a Standing>) -> BTreeSet<u32> {
    standing.flat_map(|one| one.info.maps.iter().copied()).collect()
}

fn absent(uplink: u32) -> MacNatError {
    MacNatError {
        message: format!(
            "MAC-NAT's programs are not at {}",
            super::hooks::name_of(crate::sys::netdev::IfIndex(uplink))
        ),
        remedy: Some("vmbr up puts them there"),
    }
}

/// The addresses that were learned of guests and are not too old, in order.
/// Needs root.
///
/// # Errors
/// The programs do not stand; what the kernel answered.
pub fn guests(uplink: u32) -> Result<Vec<Guest>, MacNatError> {
    let maps = maps_at(uplink)?;
    let now = clock(clock_gettime(ClockId::CLOCK_BOOTTIME))?;
    let mut guests: Vec<Guest> = maps
        .learned()?
        .into_iter()
        .map(|(address, learned)| Guest {
            address,
            mac: learned.mac,
            port: learned.port,
            age: now.saturating_sub(learned.seen),
            pinned: maps.is_pinned(address, learned.mac),
        })
        .filter(|guest| guest.age <= layout::AGE)
        .collect();
    guests.sort_by_key(|guest| (guest.port, guest.address));
    Ok(guests)
}

/// The addresses that are one guest's alone, as the programs know it. Needs
/// root.
///
/// # Errors
/// The programs do not stand; what the kernel answered.
pub fn pins(uplink: u32) -> Result<BTreeMap<IpAddr, MacAddr6>, MacNatError> {
    maps_at(uplink)?.pinned()
}

/// What was dropped, and what else is worth to be counted, by reason. Needs
/// root.
///
/// # Errors
/// The programs do not stand; what the kernel answered.
pub fn counters(uplink: u32) -> Result<BTreeMap<&'static str, u64>, MacNatError> {
    maps_at(uplink)?.counters()
}

fn clock(asked: nix::Result<nix::sys::time::TimeSpec>) -> Result<Duration, MacNatError> {
    asked.map(Duration::from).map_err(|error| MacNatError {
        message: format!("reading a clock: {error}"),
        remedy: None,
    })
}

/// How often a second the kernel's clock ticks: the coarse clocks go by it
/// (clock_getres(2)).
fn hz() -> Result<u64, MacNatError> {
    let tick = clock(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE))?;
    Ok((1_000_000_000 / tick.as_nanos().max(1)).clamp(1, 10_000) as u64)
}

/// The broadcast addresses of the uplink: an access point may have sent them
/// to its MAC alone.
fn broadcasts(uplink: u32) -> Result<BTreeSet<IpAddr>, MacNatError> {
    let all = getifaddrs().map_err(|error| MacNatError {
        message: format!("reading the addresses of this host: {error}"),
        remedy: None,
    })?;
    Ok(all
        .filter(|one| if_nametoindex(one.interface_name.as_str()) == Ok(uplink))
        .filter_map(|one| Some(one.broadcast?.as_sockaddr_in()?.ip().into()))
        .filter(|address: &IpAddr| !address.is_unspecified())
        .collect())
}
