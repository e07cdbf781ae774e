//! BusyBox's udhcpc.

use crate::model::IfName;

use super::claim::{Claim, Found, Manager, Outlook, fixed_address};
use super::process::Process;
use super::scene::Scene;

/// The manager.
pub struct Udhcpc;

impl Manager for Udhcpc {
    fn name(&self) -> &'static str {
        "udhcpc"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let here = scene.by_root().filter(|p| serves(p, scene.uplink()));
        let claim = |process: &Process| Claim {
            evidence: format!("process {}: {}", process.id, process.command()),
            processes: vec![process.id],
            // It writes no lease down, and its usual script gives the address
            // without an end.
            leases: scene.possible(),
            outlook: Outlook::Asks(
                "it goes on asking for one, and its script would put the address on the port",
            ),
            hold: None,
        };
        Found {
            claims: here.map(claim).collect(),
            doubts: Vec::new(),
        }
    }

    fn fate(&self) -> &'static str {
        "its script would put the address back on the port when it renews, or take it away when it cannot"
    }

    fn remedy(&self, _: &IfName) -> String {
        fixed_address("and end udhcpc")
    }
}

/// Whether the process is udhcpc, by whatever name BusyBox was called, and
/// asks on the device; without `-i` it does on eth0 (`udhcpc --help`).
fn serves(process: &Process, uplink: &IfName) -> bool {
    let called = |at: usize| {
        let name = process.arguments.get(at).map_or("", String::as_str);
        name.rsplit('/').next() == Some("udhcpc")
    };
    let busybox = process.program == "busybox" && (called(0) || called(1));
    if !busybox && process.program != "udhcpc" {
        return false;
    }
    let joined = process.arguments.iter().find_map(|a| {
        a.strip_prefix("--interface=")
            .or_else(|| a.strip_prefix("-i").filter(|d| !d.is_empty()))
    });
    let device = process
        .value_of("-i")
        .or_else(|| process.value_of("--interface"))
        .or(joined);
    device.unwrap_or("eth0") == uplink.as_str()
}
