//! NetworkManager, asked by D-Bus
//! (<https://networkmanager.dev/docs/api/latest/spec.html>).

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join;
use zbus::Connection;
use zbus::zvariant::OwnedValue;

use crate::model::{Family, IfName};
use crate::plan::hold::{self, Hold};

use super::bus::{self, BusError};
use super::claim::{Claim, End, Found, Lease, Manager, Outlook, fixed_address};
use super::file;
use super::process::{Process, printable};
use super::scene::{Scene, complete};

use client::Client;

pub(crate) mod client;
mod held;

pub(crate) use held::text;

/// Where it notes what it does with each device, by the device's number.
const STATE: &str = "/run/NetworkManager/devices";

/// It is asked more than others, and how it is moved depends on the answers.
const MORE: Duration = Duration::from_secs(1);

/// The manager.
pub struct NetworkManager;

/// What it says of a device that it manages.
struct Told {
    process: u32,
    profile: Option<String>,
    leases: Vec<Lease>,
    /// How it is moved, or why it is not.
    held: Result<hold::NetworkManager, String>,
}

impl Manager for NetworkManager {
    fn name(&self) -> &'static str {
        "NetworkManager"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let told = bus::ask(scene.deadline + MORE, async |connection| {
            device(connection, scene).await
        });
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
        Some(profile) => {
            let active = format!("its profile '{}' is active there", printable(profile));
            let evidence = match &told.held {
                Ok(_) => active,
                Err(why) => format!("{active}, which cannot be handed over: {why}"),
            };
            (evidence, returns(scene.uplink()))
        }
        None => (
            "no profile is active there".into(),
            Outlook::Asks(
                "when a profile fits that is activated by itself, it puts the profile's addresses on the port",
            ),
        ),
    };
    // Its DHCP clients of their own are parts of it.
    let all = scene.processes().iter();
    let its = all.filter(|process| process.id == told.process || process.parent == told.process);
    Claim {
        evidence,
        processes: its.map(|process| process.id).collect(),
        leases: complete(told.leases, kernels),
        outlook,
        hold: told.held.ok().map(Hold::NetworkManager),
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
    let Some(client) = Client::find(connection).await? else {
        return Ok(None);
    };
    let Some(device) = client.device(scene.uplink().as_str()).await? else {
        return Ok(None);
    };
    if !device.is_managed().await? {
        return Ok(None);
    }
    let active = device.active().await?;
    if active.as_ref().is_some_and(|active| active.external) {
        return Ok(None);
    }
    let held = match &active {
        Some(active) => held::held(&client, &device, active, scene).await?,
        None => Err(String::new()),
    };
    let (v4, v6) = try_join(device.lease(false), device.lease(true)).await?;
    let leases = [v4, v6]
        .iter()
        .filter_map(|options| lease(options, scene))
        .collect();
    Ok(Some(Told {
        process: client.process,
        profile: active.map(|active| active.name),
        leases,
        held,
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
