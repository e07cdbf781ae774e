//! firewalld: the zone of the uplink, by D-Bus (firewalld.dbus(5)).

use std::time::{Duration, Instant};

use zbus::Connection;

use crate::model::IfName;
use crate::owners::bus::{self, BusError};
use crate::owners::process::{self, Around};
use crate::owners::scene::Scene;
use crate::plan::{Record, Refusal};

const NAME: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONE: &str = "org.fedoraproject.FirewallD1.zone";
const CONFIG_PATH: &str = "/org/fedoraproject/FirewallD1/config";
const CONFIG: &str = "org.fedoraproject.FirewallD1.config";
/// How long firewalld may take to do what is asked.
const PATIENCE: Duration = Duration::from_secs(1);

/// What firewalld has for the uplink and the bridge.
#[derive(Debug, PartialEq, Eq)]
enum Zones {
    /// It does not run in this network namespace.
    Away,
    /// The bridge is in the uplink's zone; both in the default one, perhaps.
    Same,
    /// The bridge has none, and is to have this one.
    Wanted(String),
    /// Somebody put them into different ones; the default one is empty.
    Different { uplink: String, bridge: String },
}

/// The zone that the bridge is to have, as the uplink has it; none where
/// nothing is to be done. Nothing is changed.
///
/// # Errors
/// What stands in the way.
pub fn survey(scene: &Scene<'_>, bridge: &IfName) -> Result<Option<String>, Refusal> {
    let uplink = scene.uplink();
    let found = bus::ask(scene.deadline, async |connection| {
        zones(connection, uplink, bridge).await
    });
    match found {
        Ok(Zones::Different {
            uplink: of_uplink,
            bridge: of_bridge,
        }) => Err(different(uplink, bridge, &of_uplink, &of_bridge)),
        Ok(Zones::Wanted(zone)) => Ok(Some(zone)),
        Ok(Zones::Away | Zones::Same) => Ok(None),
        // Who is not root may not be told; then root is.
        Err(_) if !scene.sees_all() => Ok(None),
        Err(error) => refuse_if(error, || runs(scene.processes()), uplink, bridge).map(|()| None),
    }
}

/// The command that does what [`carry`] does.
pub fn carry_command(record: &Record) -> Option<String> {
    let zone = record.zone.as_ref()?;
    Some(format!(
        "firewall-cmd --zone={zone} --add-interface={}",
        record.bridge.name
    ))
}

/// The command that does what [`forget`] does.
pub fn forget_command(record: &Record) -> Option<String> {
    let zone = record.zone.as_ref()?;
    Some(format!(
        "firewall-cmd --zone={zone} --remove-interface={}",
        record.bridge.name
    ))
}

/// Gives the bridge of a record the zone that the record says, at runtime
/// only, before the bridge carries anything. The answer is a sentence that
/// says what was done, or None where there was nothing to do. Waits a second
/// at most.
///
/// # Errors
/// firewalld runs here and does not answer, or would not do it.
pub fn carry(record: &Record) -> Result<Option<String>, Refusal> {
    let Some(zone) = &record.zone else {
        return Ok(None);
    };
    let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
    let carried = bus::ask(Instant::now() + PATIENCE, async |connection| {
        if !is_here(connection).await? {
            return Ok(false);
        }
        let zones = bus::proxy(connection, NAME, PATH, ZONE).await?;
        let _: String = zones
            .call("addInterface", &(zone.as_str(), bridge.as_str()))
            .await?;
        Ok(true)
    });
    match carried {
        Ok(done) => Ok(done.then(|| {
            format!(
                "firewalld: {bridge} is in the zone {} of {uplink}, until firewalld is restarted",
                process::printable(zone)
            )
        })),
        Err(error) => refuse_if(error, || runs(&Around::look().processes), uplink, bridge).map(|()| None),
    }
}

/// Takes the bridge of a record out of the zone that it was given, unless the
/// administrator's own configuration has put it there, or somebody has put it
/// elsewhere. What cannot be done is left: it takes a second at most, and may
/// be done twice.
pub fn forget(record: &Record) {
    let (Some(zone), bridge) = (&record.zone, record.bridge.name.as_str()) else {
        return;
    };
    let _ = bus::ask(Instant::now() + PATIENCE, async |connection| {
        if !is_here(connection).await? {
            return Ok(());
        }
        let zones = bus::proxy(connection, NAME, PATH, ZONE).await?;
        let now: String = zones.call("getZoneOfInterface", &bridge).await?;
        let config = bus::proxy(connection, NAME, CONFIG_PATH, CONFIG).await?;
        let own: String = config.call("getZoneOfInterface", &bridge).await?;
        if now == *zone && own.is_empty() {
            let _: String = zones.call("removeInterface", &(zone.as_str(), bridge)).await?;
        }
        Ok(())
    });
}

/// Whether firewalld runs in this network namespace: one of another can be on
/// the same bus.
async fn is_here(connection: &Connection) -> zbus::Result<bool> {
    let owner = bus::owner(connection, NAME).await?;
    Ok(owner.is_some_and(process::is_here))
}

async fn zones(connection: &Connection, uplink: &IfName, bridge: &IfName) -> zbus::Result<Zones> {
    if !is_here(connection).await? {
        return Ok(Zones::Away);
    }
    let zones = bus::proxy(connection, NAME, PATH, ZONE).await?;
    let of_uplink: String = zones.call("getZoneOfInterface", &uplink.as_str()).await?;
    let of_bridge: String = zones.call("getZoneOfInterface", &bridge.as_str()).await?;
    // Without a zone of its own the bridge is in the default one, too.
    Ok(if of_uplink == of_bridge {
        Zones::Same
    } else if of_bridge.is_empty() {
        Zones::Wanted(of_uplink)
    } else {
        Zones::Different {
            uplink: of_uplink,
            bridge: of_bridge,
        }
    })
}

fn different(uplink: &IfName, bridge: &IfName, of_uplink: &str, of_bridge: &str) -> Refusal {
    let zone = |name: &str| match name {
        "" => "the default zone".to_owned(),
        name => format!("the zone {}", process::printable(name)),
    };
    let remedy = match of_uplink {
        "" => format!("take {bridge} out of it: firewall-cmd --remove-interface={bridge}"),
        zone => format!("put {bridge} there: firewall-cmd --zone={zone} --change-interface={bridge}"),
    };
    Refusal::new(
        format!(
            "firewalld has {uplink} in {} and {bridge} in {}: other rules would be for the host from now on",
            zone(of_uplink),
            zone(of_bridge)
        ),
        format!("{remedy}, then try again"),
    )
}

/// Refuses where a firewalld runs and its zones are not known.
fn refuse_if(
    error: BusError,
    runs: impl FnOnce() -> bool,
    uplink: &IfName,
    bridge: &IfName,
) -> Result<(), Refusal> {
    if !runs() {
        return Ok(());
    }
    let why = match error {
        BusError::Absent => "there is no D-Bus to ask it by".to_owned(),
        BusError::Silent => "it did not answer in time".to_owned(),
        BusError::Failed(error) => format!("it answered '{}'", process::printable(&error.to_string())),
    };
    Err(Refusal::new(
        format!("firewalld runs here, and {why}: {bridge} would not have the zone of {uplink}"),
        "see 'firewall-cmd --get-active-zones' and 'systemctl status firewalld', then try again",
    ))
}

/// Whether a firewalld runs in this network namespace: a script of Python.
fn runs(processes: &[process::Process]) -> bool {
    let roots = processes.iter().filter(|process| process.is_roots());
    let is_python = |process: &&process::Process| process.program.starts_with("python");
    let named = |process: &process::Process| {
        let mut first = process.arguments.iter().take(4);
        first.any(|argument| argument.ends_with("/firewalld"))
    };
    roots.filter(is_python).any(named)
}
