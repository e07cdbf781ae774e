//! NetworkManager, asked by D-Bus
//! (<https://networkmanager.dev/docs/api/latest/spec.html>).

use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use zbus::Connection;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use crate::model::{Family, IfName};

use super::bus::{self, BusError};
use super::claim::{Claim, End, Found, Lease, Manager, Outlook, fixed_address};
use super::file;
use super::process::{self, Process, printable};
use super::scene::{Scene, complete};

const NAME: &str = "org.freedesktop.NetworkManager";
const PATH: &str = "/org/freedesktop/NetworkManager";
/// Where it notes what it does with each device, by the device's number.
const STATE: &str = "/run/NetworkManager/devices";
/// `NM_ACTIVATION_STATE_FLAG_EXTERNAL`: the profile only mirrors what others
/// have configured.
const EXTERNAL: u32 = 0x80;

/// The manager.
pub struct NetworkManager;

/// What it says of a device that it manages.
struct Told {
    process: u32,
    profile: Option<String>,
    leases: Vec<Lease>,
}

impl Manager for NetworkManager {
    fn name(&self) -> &'static str {
        "NetworkManager"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let told = bus::ask(scene.deadline, async |connection| device(connection, scene).await);
        let why = match told {
            Ok(told) => return told.map(|told| claim(told, scene)).into(),
            Err(BusError::Silent) => "the system's D-Bus did not answer in time".to_owned(),
            Err(BusError::Absent) => "there is no D-Bus to ask it by".to_owned(),
            Err(BusError::Failed(error)) => format!("D-Bus answered '{}'", printable(&error.to_string())),
        };
        let running = scene.roots("NetworkManager").next();
        running.and_then(|process| noted(process, &why, scene)).into()
    }

    fn feeds_resolved(&self) -> bool {
        true
    }

    fn fate(&self) -> &'static str {
        "its DHCP client hears nothing once the NIC is a port, so nobody would renew the lease"
    }

    fn remedy(&self, uplink: &IfName) -> String {
        fixed_address(&format!(
            "'nmcli connection modify PROFILE ipv4.method manual ipv4.addresses ADDRESS/LEN ipv4.gateway GATEWAY'), activate it, and have NetworkManager let go of the NIC ('nmcli device set {uplink} managed no', which leaves the addresses"
        ))
    }
}

fn claim(told: Told, scene: &Scene<'_>) -> Claim {
    let kernels = scene.renewed(Family::V6);
    let (evidence, outlook) = match &told.profile {
        Some(profile) => (
            format!("its profile '{}' is active there", printable(profile)),
            returns(scene.uplink()),
        ),
        None => (
            "no profile is active there".into(),
            Outlook::Asks(
                "when a profile fits that is activated by itself, it puts the profile's addresses on the port",
            ),
        ),
    };
    Claim {
        evidence,
        processes: vec![told.process],
        leases: complete(told.leases, kernels),
        outlook,
        hold: None,
    }
}

/// What it does with a profile of its own, and how it is made to let go.
/// `unmanaged-devices` in its configuration and a reload would take the
/// addresses away and the NIC down.
fn returns(uplink: &IfName) -> Outlook {
    Outlook::Returns {
        fate: "when the cable comes in again it puts the profile's addresses on the port, and the host has its network twice",
        remedy: format!(
            "have it let go of the NIC until it is started anew, which leaves the addresses ('nmcli device set {uplink} managed no'), then try again"
        ),
    }
}

/// What it has noted of the uplink (`nm_config_device_state_write()` of its
/// nm-config.c), where it cannot be asked.
fn noted(process: &Process, why: &str, scene: &Scene<'_>) -> Option<Claim> {
    let path = format!("{STATE}/{}", scene.link.index);
    let noted = file::read(Path::new(&path), None);
    let says = |key: &str| noted.as_ref().and_then(|kept| kept.value(key));
    let managed = says("managed").is_some_and(|managed| managed == "true");
    (managed && says("connection-uuid").is_some()).then(|| Claim {
        evidence: format!("{path} says so, but {why}"),
        processes: vec![process.id],
        leases: [scene.renewed(Family::V4), scene.renewed(Family::V6)].concat(),
        outlook: returns(scene.uplink()),
        hold: None,
    })
}

/// What NetworkManager says of the uplink; None where it has no hand on it.
async fn device(connection: &Connection, scene: &Scene<'_>) -> zbus::Result<Option<Told>> {
    // One of another network namespace can be on the same bus.
    let Some(process) = bus::owner(connection, NAME)
        .await?
        .filter(|id| process::is_here(*id))
    else {
        return Ok(None);
    };
    let manager = bus::proxy(connection, NAME, PATH, NAME).await?;
    let found: zbus::Result<OwnedObjectPath> =
        manager.call("GetDeviceByIpIface", &scene.uplink().as_str()).await;
    let path = match found {
        Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".UnknownDevice") => return Ok(None),
        found => found?,
    };
    let device = bus::proxy(
        connection,
        NAME,
        path.as_str(),
        "org.freedesktop.NetworkManager.Device",
    )
    .await?;
    if !device.get_property::<bool>("Managed").await? {
        return Ok(None);
    }
    let active: OwnedObjectPath = device.get_property("ActiveConnection").await?;
    let mut profile = None;
    if active.as_str() != "/" {
        let interface = "org.freedesktop.NetworkManager.Connection.Active";
        let active = bus::proxy(connection, NAME, active.as_str(), interface).await?;
        if active.get_property::<u32>("StateFlags").await? & EXTERNAL != 0 {
            return Ok(None);
        }
        profile = Some(active.get_property::<String>("Id").await?);
    }
    let mut leases = Vec::new();
    for (property, interface) in [
        ("Dhcp4Config", "org.freedesktop.NetworkManager.DHCP4Config"),
        ("Dhcp6Config", "org.freedesktop.NetworkManager.DHCP6Config"),
    ] {
        let config: OwnedObjectPath = device.get_property(property).await?;
        if config.as_str() != "/" {
            let config = bus::proxy(connection, NAME, config.as_str(), interface).await?;
            let options: HashMap<String, OwnedValue> = config.get_property("Options").await?;
            leases.extend(lease(&options, scene));
        }
    }
    Ok(Some(Told {
        process,
        profile,
        leases,
    }))
}

fn lease(options: &HashMap<String, OwnedValue>, scene: &Scene<'_>) -> Option<Lease> {
    let text = |key: &str| options.get(key).and_then(|value| <&str>::try_from(value).ok());
    let address = text("ip_address").or_else(|| text("ip6_address"))?.parse().ok()?;
    let server = text("dhcp_server_identifier").and_then(|server| server.parse().ok());
    let expiry: Option<u64> = text("expiry").and_then(|seconds| seconds.parse().ok());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .map(|time| time.as_secs());
    let end = expiry
        .zip(now)
        .map_or(End::Unknown, |(then, now)| End::In(then.saturating_sub(now)));
    scene.lease(address, server, end)
}
