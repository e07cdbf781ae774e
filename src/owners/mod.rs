//! Who else has a hand on a NIC, and what becomes of it.
//!
//! A network manager that holds the lease of the uplink's address does not
//! renew it on a bridge that it knows nothing of; a socket that is bound to
//! the NIC hears nothing there once the NIC is a port; a firewall's rule that
//! names the NIC matches nothing any more. [`survey`] looks for all of them
//! before anything is touched.
//!
//! # The rooms
//!
//! - `scene`: the uplink, its addresses, and the processes of this network
//!   namespace; what each manager looks at.
//! - `claim`: what a manager says of the uplink, and how that is judged.
//! - `network_manager`, `networkd`, `dhcpcd`, `dhclient`, `udhcpc`,
//!   `ifupdown`: one `claim::Manager` each.
//! - `network_file`: the files of networkd.
//! - `resolved`: systemd-resolved, which is told of devices by others.
//! - `leftover`: a lease whose client has ended.
//! - `sockets`: what is bound to the NIC.
//! - [`firewall`]: firewalld, ufw, nftables and iptables.
//! - [`udev`]: what it makes of a new bridge's MAC.
//! - [`macvlan`]: libvirt's and Docker's use of a NIC.
//! - `bus`, `file`, `process`: asking without waiting for ever, and
//!   without believing what an ordinary user could have written.
//!
//! Nothing here changes the host, but [`firewall::carry`],
//! [`firewall::forget`], [`udev::announce`] and [`udev::forget`].
#![forbid(unsafe_code)]

pub(crate) mod bus;
mod claim;
mod dhclient;
pub(crate) mod dhcpcd;
pub(crate) mod file;
pub mod firewall;
mod ifupdown;
mod leftover;
pub mod macvlan;
pub(crate) mod network_file;
pub(crate) mod network_manager;
pub(crate) mod networkd;
pub(crate) mod process;
pub(crate) mod resolved;
mod scene;
mod sockets;
pub mod udev;
mod udhcpc;

use crate::model::{HostState, IfName};
use crate::plan::Refusal;
use crate::plan::hold::Hold;

use claim::Manager;
use scene::Scene;

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    /// What stands in the way.
    pub refusals: Vec<Refusal>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
    /// Who is moved along, each a sentence.
    pub notes: Vec<String>,
    /// The zone of firewalld that the bridge is to have, as the uplink has it.
    pub zone: Option<String>,
    /// Whether a udevd will see the bridge.
    pub udev: bool,
    /// Who is to be moved along, and how.
    pub holds: Vec<Hold>,
}

/// Looks for everything that has a hand on `uplink`, which is about to become
/// a port of `bridge`. Asks programs of the host, and waits some seconds at most
/// for all of them together.
pub fn survey(live: &HostState, uplink: &IfName, bridge: &IfName) -> Survey {
    let mut survey = Survey::default();
    let Some(scene) = Scene::new(live, uplink) else {
        return survey;
    };
    let managers: [&dyn Manager; 6] = [
        &network_manager::NetworkManager,
        &networkd::Networkd,
        &dhcpcd::Dhcpcd,
        &dhclient::Dhclient,
        &udhcpc::Udhcpc,
        &ifupdown::Ifupdown,
    ];
    let mut known = Vec::new();
    let mut leased = Vec::new();
    let mut movable = Vec::new();
    let mut feeds_resolved = false;
    for manager in managers {
        let found = manager.look(&scene);
        feeds_resolved |= manager.feeds_resolved() && !found.claims.is_empty();
        survey.warnings.extend(found.doubts);
        movable.extend(
            found
                .claims
                .iter()
                .any(|claim| claim.hold.is_some())
                .then(|| manager.name()),
        );
        for claim in found.claims {
            known.extend(&claim.processes);
            leased.extend(claim.leases.iter().map(|lease| lease.address));
            match claim.verdict(uplink, manager) {
                Err(refusal) => survey.refusals.push(refusal),
                Ok(said) if claim.hold.is_some() => survey.notes.push(said),
                Ok(warning) => survey.warnings.push(warning),
            }
            survey.holds.extend(claim.hold);
        }
    }
    survey.refusals.extend(claim::several(uplink, &movable));
    if !feeds_resolved {
        match resolved::look(&scene) {
            Ok(None) => {}
            // Whoever is moved after it may have something newer to say.
            Ok(Some(hold)) => {
                survey.notes.push(resolved::note(&hold, uplink));
                survey.holds.insert(0, Hold::Resolved(hold));
            }
            Err(refusal) => survey.refusals.push(refusal),
        }
    }
    if let Some(left) = leftover::claim(&scene, &leased).filter(|_| movable.is_empty()) {
        leased.extend(left.leases.iter().map(|lease| lease.address));
        survey.notes.extend(left.left_over(uplink));
        survey.holds.extend(left.hold);
    }
    let mut marked = scene.marked();
    marked.retain(|lease| !leased.contains(&lease.address));
    leased.extend(marked.iter().map(|lease| lease.address));
    survey.refusals.extend(claim::marked(uplink, &marked));
    survey.warnings.extend(leftover::of_initramfs(&scene, &leased));
    survey.warnings.extend(scene.unclaimed(&leased));
    survey.warnings.extend(sockets::warnings(&scene, &known, bridge));
    if !scene.sees_all() {
        survey.warnings.push(format!(
            "only root can see every process and every rule: who else has a hand on {uplink} is looked at in part"
        ));
    }
    let firewalls = firewall::survey(&scene, bridge);
    survey.refusals.extend(firewalls.refusals);
    survey.warnings.extend(firewalls.warnings);
    survey.zone = firewalls.zone;
    survey.udev = udev::looks_after(&scene);
    survey
}
