//! The way to a bridge with MAC-NAT, and back ([`crate::plan::air`]).

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::mac_nat;
use crate::model::{HostState, IfName, Mac};
use crate::netlink::dump;
use crate::plan::air::{self, Programs, Target};
use crate::plan::{Op, Plan, Record, Stage};
use crate::sys::netdev::IfIndex;
use crate::sys::rtnl::Rtnl;

use super::executor::Executor;
use super::migrate::MigrateError;
use super::told;

/// How often a plan is made anew.
const ROUNDS: usize = 3;
/// How often the way back is tried, and how long the kernel has between two
/// tries.
const TRIES: usize = 4;
const BETWEEN: Duration = Duration::from_millis(50);

/// The host as it is, with the settings that matter, and which programs stand.
///
/// # Errors
/// What the kernel does not tell.
pub fn look(record: &Record) -> io::Result<(HostState, Programs)> {
    let live = devices(record)?;
    let programs = programs(&live, record).map_err(said)?;
    Ok((live, programs))
}

/// The host as it is, with the settings that matter.
///
/// # Errors
/// What the kernel does not tell.
pub fn devices(record: &Record) -> io::Result<HostState> {
    let air = record.air.as_ref();
    let names = air.map(|air| [&record.bridge.name, &air.port, &air.far]);
    let devices: Vec<&IfName> = names.into_iter().flatten().collect();
    dump::snapshot(&devices)
}

/// Which programs stand. A device that is gone has none, and took its own
/// along.
///
/// # Errors
/// What the kernel does not tell.
pub fn programs(live: &HostState, record: &Record) -> Result<Programs, mac_nat::MacNatError> {
    let uplink = air::uplink(live, record).map_or(0, |link| link.index);
    let port = record.air.as_ref().and_then(|air| live.link(&air.port));
    let stand = mac_nat::attached(uplink, port.map_or(0, |port| port.index))?;
    Ok(match (stand.all(), stand.any()) {
        (true, _) => Programs::All,
        (false, true) => Programs::Some,
        (false, false) => Programs::None,
    })
}

/// The state that `up` and `sync` lead to, as the host is in `live`; none where
/// the uplink is gone, or has no MAC. Under an ACL that is not obeyed guests
/// keep what it had given them.
pub fn standing(live: &HostState, record: &Record) -> Option<Target> {
    let link = air::uplink(live, record)?;
    let pins = told::pins(&record.bridge.name);
    let pins = pins.unwrap_or_else(|_| mac_nat::pins(link.index).unwrap_or_default());
    let protected = air::protected(live, &link.name, &told::servers(), &pins);
    record.translated(link, protected, pins)
}

/// Leads the host to what `aim` makes of each look, until nothing is left to
/// do. `say` hears of each plan before it is done, `report` of each stage, and
/// `check` is asked when the programs stand, or are gone, and nothing else is
/// taken away yet.
///
/// The caller holds the namespace's lock and the signals that end the program.
///
/// # Errors
/// [`MigrateError`]: all of it may stand, or a part.
pub fn reach(
    record: &Record,
    aim: &dyn Fn(&HostState) -> Option<Target>,
    say: &dyn Fn(&Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    report: &mut dyn FnMut(Stage),
) -> Result<(), MigrateError> {
    let mut executor = Executor::new().map_err(MigrateError::Read)?;
    let mut plan = Plan::default();
    for _ in 0..ROUNDS {
        let (live, programs) = look(record).map_err(MigrateError::Read)?;
        let target = aim(&live).ok_or_else(|| MigrateError::Gone(record.uplink.name.clone()))?;
        plan = air::plan(&live, programs, &target);
        if plan.is_empty() {
            return Ok(());
        }
        say(&plan);
        let tidy = plan.split_off(Stage::Tidy);
        executor.execute(&plan, report).map_err(MigrateError::Failed)?;
        check()?;
        executor.execute(&tidy, report).map_err(MigrateError::Failed)?;
    }
    let (live, programs) = look(record).map_err(MigrateError::Read)?;
    if let Some(target) = aim(&live) {
        plan = air::plan(&live, programs, &target);
    }
    if plan.is_empty() {
        return Ok(());
    }
    let left = plan.ops().map(|op| format!("left to do: {op}"));
    Err(MigrateError::Differs(left.collect()))
}

/// Takes all of it away, and the TAPs of these names with it. The host's
/// network has never moved: there is nothing to lead back.
///
/// # Errors
/// [`MigrateError`]: a part is left.
pub fn clear(
    record: &Record,
    removes: &[IfName],
    say: &dyn Fn(&Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    report: &mut dyn FnMut(Stage),
) -> Result<(), MigrateError> {
    let aim = |_: &HostState| record.untranslated(removes.to_vec());
    let mut attempt = 1;
    while let Err(error) = reach(record, &aim, say, check, report) {
        let asked = matches!(error, MigrateError::Joined(_) | MigrateError::Unverified(_));
        if attempt == TRIES || asked {
            return Err(error);
        }
        attempt += 1;
        sleep(BETWEEN);
    }
    Ok(())
}

/// Whether [`sync`] would find nothing to do.
///
/// # Errors
/// As of that.
pub fn is_current(record: &Record) -> Result<bool, MigrateError> {
    let (live, programs) = look(record).map_err(MigrateError::Read)?;
    let gone = || MigrateError::Gone(record.uplink.name.clone());
    let target = standing(&live, record).ok_or_else(gone)?;
    if !air::plan(&live, programs, &target).is_empty() {
        return Ok(false);
    }
    let (settings, addresses) = orders(&target).ok_or_else(gone)?;
    let stale = mac_nat::stale(&settings, &addresses).map_err(|error| MigrateError::Read(said(error)))?;
    Ok(!stale)
}

/// Brings what stands up to date: the uplink's MAC and number, the host's
/// addresses, what is missing of the devices and programs. Gives whether
/// anything was not as it should be.
///
/// The caller holds the namespace's lock.
///
/// # Errors
/// As of [`reach`]; [`MigrateError::Gone`] where there is no such uplink.
pub fn sync(record: &Record) -> Result<bool, MigrateError> {
    let (live, programs) = look(record).map_err(MigrateError::Read)?;
    let gone = || MigrateError::Gone(record.uplink.name.clone());
    let target = standing(&live, record).ok_or_else(gone)?;
    let mut changed = false;
    if !air::plan(&live, programs, &target).is_empty() {
        changed = true;
        let aim = |live: &HostState| standing(live, record);
        reach(record, &aim, &|_| {}, &mut || Ok(()), &mut |_| {})?;
    }
    // What was attached a moment ago knows it all; this finds it so.
    let (settings, addresses) = orders(&target).ok_or_else(gone)?;
    hold_host(&settings).map_err(MigrateError::Read)?;
    let told = mac_nat::sync(&settings, &addresses).map_err(|error| MigrateError::Read(said(error)))?;
    Ok(changed || told)
}

/// What the programs of a target are told; none where there shall be none, or
/// a device is gone.
pub fn orders(target: &Target) -> Option<(mac_nat::Settings, mac_nat::Addresses)> {
    orders_of(target.translation.as_ref()?).ok()
}

/// The same, of a translation.
///
/// # Errors
/// Where the air port is not there.
pub fn orders_of(translation: &air::Translation) -> io::Result<(mac_nat::Settings, mac_nat::Addresses)> {
    let settings = mac_nat::Settings {
        uplink: translation.index,
        mac: translation.mac,
        air: nix::net::if_::if_nametoindex(translation.air.as_str())?,
        dhcp_chaddr: translation.dhcp_chaddr,
    };
    let addresses = mac_nat::Addresses {
        protected: translation.protected.clone(),
        pins: translation.pins.clone(),
    };
    Ok((settings, addresses))
}

/// With what helps, as the whole is one sentence of a longer one.
fn said(error: mac_nat::MacNatError) -> io::Error {
    io::Error::other(match error.remedy {
        Some(remedy) => format!("{error} ({remedy})"),
        None => error.to_string(),
    })
}

/// Has the bridge know the host behind its air port, whoever else speaks as the
/// uplink: a guest that does would hear what the others say to the host.
fn hold_host(settings: &mac_nat::Settings) -> io::Result<()> {
    let mac = Mac(settings.mac.into_array());
    Rtnl::open()?.station_set(IfIndex(settings.air), mac)
}

/// Has programs do nothing whose uplink is gone: with it, they may be in another
/// namespace.
///
/// # Errors
/// What the kernel answered.
pub fn stop(record: &Record) -> Result<(), MigrateError> {
    let air = record.air.as_ref();
    match air.map(|air| nix::net::if_::if_nametoindex(air.port.as_str())) {
        Some(Ok(port)) if mac_nat::supported() => {
            mac_nat::stop(0, port).map_err(|error| MigrateError::Read(said(error)))
        }
        _ => Ok(()),
    }
}

/// Has the bridge forget an earlier MAC of the uplink.
pub fn release(record: &Record) {
    let port = record
        .air
        .as_ref()
        .map(|air| nix::net::if_::if_nametoindex(air.port.as_str()));
    if let (Some(Ok(port)), Ok(rtnl)) = (port, Rtnl::open()) {
        // It may be gone with the port.
        let _ = rtnl.station_forget(IfIndex(port), Mac(record.uplink.mac.into_array()));
    }
}

/// Performs an operation of the translation; none of others.
pub(super) fn perform(op: &Op) -> Option<io::Result<()>> {
    match op {
        Op::Translate(translation) => Some(orders_of(translation).and_then(|(settings, addresses)| {
            hold_host(&settings)?;
            mac_nat::attach(&settings, &addresses).map_err(said)
        })),
        Op::StopTranslation { index, air, .. } => {
            let port = nix::net::if_::if_nametoindex(air.as_str()).unwrap_or(0);
            Some(mac_nat::detach(*index, port).map_err(said))
        }
        _ => None,
    }
}
