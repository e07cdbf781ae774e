//! systemd-networkd, by the files in which it tells others (sd-network(3) and
//! src/network/networkd-link.c and sd-dhcp-lease.c of systemd write them).

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Instant;

use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use crate::model::{Family, IfName, address};
use crate::plan::hold::{Hold, NetworkdHold};

use super::bus::{self, BusError};
use super::claim::{Claim, End, Found, Manager, Outlook, fixed_address};
use super::file::{self, Kept};
use super::network_file;
use super::process::{self, printable};
use super::scene::{Scene, complete};

const DIRECTORY: &str = "/run/systemd/netif";
/// Its name on D-Bus, and that of its interface.
pub(crate) const NAME: &str = "org.freedesktop.network1";
/// What the names of vmbr's own files begin with: the first file that fits a
/// device is the one that counts (systemd.network(5)).
const FIRST: &str = "00-vmbr-";
/// The same where others have names before that.
const BEFORE_ALL: &str = "!vmbr-";

/// The manager.
pub struct Networkd;

impl Manager for Networkd {
    fn name(&self) -> &'static str {
        "systemd-networkd"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        look(scene).into()
    }

    fn feeds_resolved(&self) -> bool {
        true
    }

    fn fate(&self) -> &'static str {
        "its DHCP client hears nothing once the NIC is a port, so nobody would renew the lease"
    }

    fn remedy(&self, _: &IfName) -> String {
        format!(
            "mend that, see that 'networkctl list' answers, then try again, as root; {}",
            fixed_address(
                "Address= and Gateway= in its .network file, or netplan's addresses and routes; then 'systemctl stop systemd-networkd.socket systemd-networkd.service', which leaves the NIC as it is",
            )
        )
    }
}

/// A file in which it tells of a link: its state, or the lease that it has
/// there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told {
    /// What it does with the link.
    Link,
    /// The IPv4 lease.
    Lease,
}

/// What it tells of the link `index`.
pub(crate) fn told(what: Told, index: u32) -> Option<Kept> {
    use std::os::unix::fs::MetadataExt;
    let directory = Path::new(DIRECTORY);
    // It runs as a user of its own, whose these directories are.
    let user = std::fs::metadata(directory.join("links")).ok()?.uid();
    let name = match what {
        Told::Link => "links",
        Told::Lease => "leases",
    };
    file::read(&directory.join(name).join(index.to_string()), Some(user))
}

/// The group that its own files have, so that it can read what nobody else
/// may.
pub(crate) fn group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let links = Path::new(DIRECTORY).join("links");
    Some(std::fs::metadata(links).ok()?.gid())
}

/// Its process, where it is on the bus, and of this network namespace. Starts
/// none.
pub(crate) async fn process(connection: &zbus::Connection) -> zbus::Result<Option<u32>> {
    let bus = DBusProxy::new(connection).await?;
    let name = BusName::try_from(NAME)?;
    if !bus.name_has_owner(name.clone()).await? {
        return Ok(None);
    }
    let id = bus.get_connection_unix_process_id(name).await?;
    Ok(Some(id).filter(|id| process::is_here(*id)))
}

fn look(scene: &Scene<'_>) -> Option<Claim> {
    let index = scene.link.index;
    let link = told(Told::Link, index)?;
    // Files of a networkd of another network namespace have the same numbers.
    let process = scene.runs("systemd-networkd", link.owner)?.id;
    let state = link.value("ADMIN_STATE")?;
    if state == "unmanaged" || state == "linger" {
        return None;
    }
    let kept = told(Told::Lease, index);
    let lease = kept.as_ref().and_then(|kept| {
        let server = kept
            .value("SERVER_ADDRESS")
            .and_then(|server| server.parse().ok());
        scene.lease(kept.value("ADDRESS")?.parse().ok()?, server, End::Unknown)
    });
    let configured = link
        .value("NETWORK_FILE")
        .map_or_else(String::new, |f| format!(" by {}", printable(&f)));
    let mut evidence = format!("{DIRECTORY}/links/{index} says {}{configured}", printable(&state));
    let leased = lease.as_ref().and_then(|lease| match lease.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let hold = match hold(scene, process, &link, kept.as_ref(), leased) {
        Ok(hold) => Some(Hold::Networkd(hold)),
        Err(why) => {
            evidence.push_str(&format!("; the bridge cannot be given to it: {why}"));
            None
        }
    };
    let kernels = [scene.renewed(Family::V4), scene.renewed(Family::V6)].concat();
    Some(Claim {
        evidence,
        processes: vec![process],
        leases: complete(lease.into_iter().collect(), kernels),
        outlook: Outlook::Returns {
            fate: "when the cable comes in again, or at 'networkctl reconfigure', it puts its addresses on the port, and the host has its network twice",
            // `Unmanaged=yes` and a reload would take the addresses away.
            remedy: "mend that ('networkctl list' must answer, and root must be able to read its files), or end it until the next boot, which leaves the NIC as it is ('systemctl stop systemd-networkd.socket systemd-networkd.service'), then try again".into(),
        },
        hold,
    })
}

/// How it is given the bridge; else why not, as the end of a sentence.
fn hold(
    scene: &Scene<'_>,
    process: u32,
    link: &Kept,
    lease: Option<&Kept>,
    leased: Option<Ipv4Addr>,
) -> Result<NetworkdHold, String> {
    answers(scene.deadline, process)?;
    if !network_file::is_plain(scene.uplink()) {
        return Err(format!(
            "the name of {} is a pattern in its files",
            scene.uplink()
        ));
    }
    let file = link
        .value("NETWORK_FILE")
        .filter(|file| file.starts_with('/'))
        .ok_or("it does not say by which file it configures the NIC")?;
    let texts = network_file::read_all(Path::new(&file))?;
    // Those that it made itself from advertisements.
    let generated: Vec<IpAddr> = scene
        .addresses
        .iter()
        .filter(|a| !a.is_permanent() && !a.is_link_local_v6() && a.prefix_len == 64)
        .filter(|a| a.flags & address::flag::TEMPORARY == 0)
        .map(|a| a.local)
        .collect();
    let mut sections =
        network_file::for_bridge(&texts, &generated).map_err(|why| format!("{file}: {why}"))?;
    // Its identifiers are made of the device's name (RFC 4361: they say who
    // asks, not on which device).
    let v4 = lease.and_then(|kept| iaid_of(&kept.value("CLIENTID")?));
    let v6 = link
        .value("DHCP6_CLIENT_IAID")
        .and_then(|text| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok());
    for (section, iaid) in [("DHCPv4", v4.or(v6)), ("DHCPv6", v6.or(v4))] {
        if let Some(iaid) = iaid {
            sections.push_str(&format!("\n[{section}]\nIAID={iaid}\n"));
        }
    }
    // What is there is kept, and asked for again (`link_drop_foreign_config()`
    // and `dhcp4_set_request_address()`).
    sections.push_str("\n[Network]\nKeepConfiguration=yes\n");
    let names = network_file::all(".network");
    let first = names.keys().next().is_none_or(|name| name.as_str() >= FIRST);
    let prefix = if first { FIRST } else { BEFORE_ALL };
    // One that it was given before is gone when it is given the next.
    let is_own = file.ends_with(&format!("/{prefix}{}.network", scene.uplink()));
    let alone = !is_own && !configures_others(&file, scene.link.index);
    Ok(NetworkdHold {
        own: (!alone).then(|| network_file::for_uplink(&texts, scene.uplink())),
        file,
        sections,
        prefix: prefix.into(),
        leased,
    })
}

/// Whether it configures other links by the same file.
fn configures_others(file: &str, uplink: u32) -> bool {
    let links = std::fs::read_dir(Path::new(DIRECTORY).join("links"));
    let indexes = links.into_iter().flatten().flatten();
    let mut indexes = indexes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    indexes.any(|index| {
        let by = || told(Told::Link, index)?.value("NETWORK_FILE");
        index != uplink && by().is_some_and(|by| by == file)
    })
}

/// Whether it can be told anything; else why not.
fn answers(deadline: Instant, expected: u32) -> Result<(), String> {
    match bus::ask(deadline, async |connection| {
        let Some(found) = process(connection).await? else {
            return Ok(None);
        };
        let manager = bus::proxy(
            connection,
            NAME,
            "/org/freedesktop/network1",
            "org.freedesktop.network1.Manager",
        )
        .await?;
        manager.get_property::<String>("OperationalState").await?;
        Ok(Some(found))
    }) {
        Ok(Some(found)) if found == expected => Ok(()),
        Ok(_) => Err("it is not on the system's D-Bus".into()),
        Err(error) => Err(silence(&error)),
    }
}

/// Why D-Bus gave no answer, as the end of a sentence.
pub(crate) fn silence(error: &BusError) -> String {
    match error {
        BusError::Silent => "it did not answer on D-Bus in time".into(),
        BusError::Absent => "there is no D-Bus to tell it by".into(),
        BusError::Failed(error) => format!("D-Bus answered '{}'", printable(&error.to_string())),
    }
}

/// The IAID of a client identifier in hexadecimal digits, if it has one
/// (RFC 4361, 6.1: type 255, IAID, DUID).
fn iaid_of(identifier: &str) -> Option<u32> {
    u32::from_str_radix(identifier.strip_prefix("ff")?.get(..8)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::iaid_of;

    #[test]
    fn the_iaid_is_behind_the_type() {
        assert_eq!(
            iaid_of("ff56504d9800020000ab11dede0fabf5e9fca3"),
            Some(0x5650_4d98)
        );
        assert_eq!(iaid_of("01020000000011"), None);
        assert_eq!(iaid_of("ff5650"), None);
        assert_eq!(iaid_of(""), None);
    }
}
