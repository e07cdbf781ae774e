//! systemd-networkd, by the files in which it tells others (sd-network(3) and
//! src/network/networkd-link.c and sd-dhcp-lease.c of systemd write them).

use std::path::Path;

use crate::model::{Family, IfName};

use super::claim::{Claim, End, Found, Manager, Outlook, fixed_address};
use super::file;
use super::process::printable;
use super::scene::{Scene, complete};

const DIRECTORY: &str = "/run/systemd/netif";

/// The manager.
pub struct Networkd;

impl Manager for Networkd {
    fn name(&self) -> &'static str {
        "systemd-networkd"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        look(Path::new(DIRECTORY), scene).into()
    }

    fn feeds_resolved(&self) -> bool {
        true
    }

    fn fate(&self) -> &'static str {
        "its DHCP client hears nothing once the NIC is a port, so nobody would renew the lease"
    }

    fn remedy(&self, _: &IfName) -> String {
        fixed_address(
            "Address= and Gateway= in its .network file, or netplan's addresses and routes; then 'systemctl stop systemd-networkd.socket systemd-networkd.service', which leaves the NIC as it is",
        )
    }
}

fn look(directory: &Path, scene: &Scene<'_>) -> Option<Claim> {
    use std::os::unix::fs::MetadataExt;
    // networkd runs as a user of its own, whose these directories are.
    let user = std::fs::metadata(directory.join("links")).ok()?.uid();
    let index = scene.link.index.to_string();
    let link = file::read(&directory.join("links").join(&index), Some(user))?;
    // Files of a networkd of another network namespace have the same numbers.
    let process = scene.runs("systemd-networkd", link.owner)?.id;
    let state = link.value("ADMIN_STATE")?;
    if state == "unmanaged" || state == "linger" {
        return None;
    }
    let kept = file::read(&directory.join("leases").join(&index), Some(user));
    let told = kept.and_then(|kept| {
        let server = kept
            .value("SERVER_ADDRESS")
            .and_then(|server| server.parse().ok());
        scene.lease(kept.value("ADDRESS")?.parse().ok()?, server, End::Unknown)
    });
    let configured = link
        .value("NETWORK_FILE")
        .map_or_else(String::new, |f| format!(" by {}", printable(&f)));
    let kernels = [scene.renewed(Family::V4), scene.renewed(Family::V6)].concat();
    Some(Claim {
        evidence: format!("{}/links/{index} says {}{configured}", directory.display(), printable(&state)),
        processes: vec![process],
        leases: complete(told.into_iter().collect(), kernels),
        outlook: Outlook::Returns {
            fate: "when the cable comes in again, or at 'networkctl reconfigure', it puts its addresses on the port, and the host has its network twice",
            // `Unmanaged=yes` and a reload would take the addresses away.
            remedy: "end it until the next boot, which leaves the NIC as it is ('systemctl stop systemd-networkd.socket systemd-networkd.service'), then try again".into(),
        },
        hold: None,
    })
}
