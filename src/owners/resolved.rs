//! systemd-resolved, which asks a device's servers through that device, and
//! where they were set by nobody who sets them on the bridge by himself: by
//! hand, by a hook of a DHCP client, by a script at boot.
//!
//! It is asked by D-Bus (org.freedesktop.resolve1(5)).

use std::net::IpAddr;

use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::zvariant::OwnedObjectPath;

use crate::model::IfName;
use crate::plan::Refusal;
use crate::plan::hold::resolved::{Domain, Mode, ResolvedHold, Server};

use super::bus::{self, BusError};
use super::process::{self, printable};
use super::scene::Scene;

/// Its name on the bus.
pub const NAME: &str = "org.freedesktop.resolve1";
/// Its manager's object.
pub const PATH: &str = "/org/freedesktop/resolve1";
/// Its manager's interface.
pub const MANAGER: &str = "org.freedesktop.resolve1.Manager";
/// An interface of each device's object.
const LINK: &str = "org.freedesktop.resolve1.Link";
/// The loopback device has this number in every network namespace. Nothing can
/// be set there: it shows what a device has where nobody has set anything.
const LOOPBACK: u32 = 1;

/// How the kernel numbers the address families; D-Bus carries the numbers.
const INET: i32 = libc::AF_INET;
/// The same of IPv6.
const INET6: i32 = libc::AF_INET6;

/// A server as D-Bus carries it: family, address, port, and the name that its
/// certificate has.
pub type WireServer = (i32, Vec<u8>, u16, String);

/// What the uplink has that the bridge is given.
///
/// # Errors
/// It runs, and does not say: the uplink's servers would be forgotten.
pub fn look(scene: &Scene<'_>) -> Result<Option<ResolvedHold>, Refusal> {
    let found = bus::ask(scene.deadline, async |connection| {
        if !is_here(connection).await? {
            return Ok(None);
        }
        settings(connection, scene.link.index).await
    });
    let why = match found {
        Ok(found) => return Ok(found.filter(|has| *has != ResolvedHold::default())),
        // Nobody can have told it of a device then, but by networkd's files.
        Err(BusError::Absent) => return Ok(None),
        Err(BusError::Silent) => "the system's D-Bus did not answer in time".to_owned(),
        Err(BusError::Failed(error)) => format!("D-Bus answered '{}'", printable(&error.to_string())),
    };
    if !scene
        .processes()
        .iter()
        .any(|process| process.runs("systemd-resolved"))
    {
        return Ok(None);
    }
    let uplink = scene.uplink();
    Err(Refusal::new(
        format!(
            "which servers of names systemd-resolved asks through {uplink} cannot be found out: {why}; it would forget them"
        ),
        "see whether 'resolvectl status' answers, start it anew if not (systemctl restart systemd-resolved), then try again",
    ))
}

/// What becomes of that, in a sentence.
pub fn note(hold: &ResolvedHold, uplink: &IfName) -> String {
    let servers: Vec<String> = hold.servers.iter().map(ToString::to_string).collect();
    let what = match servers.as_slice() {
        [] => format!("systemd-resolved has settings for {uplink}"),
        _ => format!(
            "systemd-resolved asks for names through {uplink} ({})",
            servers.join(", ")
        ),
    };
    format!("{what}: it is told the same of the bridge")
}

/// Whether it runs in the caller's network namespace. It does so as a user of
/// its own: who may have its name is said by the bus's policy, which is root's.
/// Starts nobody, as a call by the name would.
pub async fn is_here(connection: &Connection) -> zbus::Result<bool> {
    let bus = DBusProxy::new(connection).await?;
    let name = BusName::try_from(NAME)?;
    if !bus.name_has_owner(name.clone()).await? {
        return Ok(false);
    }
    Ok(process::is_here(bus.get_connection_unix_process_id(name).await?))
}

/// What a device has that is not what every device has; None where it does not
/// know the device.
pub async fn settings(connection: &Connection, index: u32) -> zbus::Result<Option<ResolvedHold>> {
    let manager = bus::proxy(connection, NAME, PATH, MANAGER).await?;
    let Some(path) = link(&manager, index).await? else {
        return Ok(None);
    };
    let link = bus::proxy(connection, NAME, path.as_str(), LINK).await?;
    let untouched: OwnedObjectPath = manager.call("GetLink", &i32_of(LOOPBACK)).await?;
    let untouched = bus::proxy(connection, NAME, untouched.as_str(), LINK).await?;
    let servers: Vec<WireServer> = link.get_property("DNSEx").await?;
    let servers: Vec<Server> = servers.into_iter().filter_map(server).collect();
    let domains: Vec<(String, bool)> = link.get_property("Domains").await?;
    let domains: Vec<Domain> = domains
        .into_iter()
        .map(|(name, route_only)| Domain { name, route_only })
        .collect();
    let default_route: bool = link.get_property("DefaultRoute").await?;
    let mut modes = Vec::new();
    for mode in Mode::ALL {
        let (value, usual): (String, String) = (
            link.get_property(mode.property()).await?,
            untouched.get_property(mode.property()).await?,
        );
        if value != usual {
            modes.push((mode, value));
        }
    }
    // What it makes of servers and domains by itself, and says where nobody has
    // said otherwise (`dns_scope_is_default_route()` of its resolved-dns-scope.c).
    let by_itself = !servers.is_empty() && !domains.iter().any(|domain| domain.route_only);
    Ok(Some(ResolvedHold {
        default_route: Some(default_route).filter(|is| *is != by_itself),
        servers,
        domains,
        modes,
        untrusted: link.get_property("DNSSECNegativeTrustAnchors").await?,
    }))
}

/// The object of a device.
async fn link(manager: &zbus::Proxy<'_>, index: u32) -> zbus::Result<Option<OwnedObjectPath>> {
    match manager.call("GetLink", &i32_of(index)).await {
        Err(zbus::Error::MethodError(name, ..)) if name.ends_with(".NoSuchLink") => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// A device's number as D-Bus carries it there.
pub fn i32_of(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(0)
}

fn server((family, bytes, port, name): WireServer) -> Option<Server> {
    let address: IpAddr = match family {
        INET => <[u8; 4]>::try_from(bytes).ok()?.into(),
        INET6 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(Server { address, port, name })
}

/// A server for D-Bus.
pub fn wire(server: &Server) -> WireServer {
    let (family, bytes) = match server.address {
        IpAddr::V4(address) => (INET, address.octets().to_vec()),
        IpAddr::V6(address) => (INET6, address.octets().to_vec()),
    };
    (family, bytes, server.port, server.name.clone())
}
