//! systemd-resolved: the bridge gets the servers that the uplink has, and the
//! uplink gets them back.
//!
//! A device that has no address is none that it asks through
//! (`link_relevant()` of its resolved-link.c), so the uplink's servers rest
//! while the uplink is a port. When a port leaves its bridge the kernel tells
//! that the bridge has it no more (`RTM_DELLINK` of the family `AF_BRIDGE`), and
//! systemd-resolved takes it for the end of the device itself
//! (`manager_process_link()` of its resolved-manager.c): it forgets what it was
//! told of it. What it was told of the bridge it forgets with the bridge.

use std::time::{Duration, Instant};

use zbus::{Connection, Proxy};

use crate::model::IfName;
use crate::owners::bus::{self, BusError};
use crate::owners::resolved::{MANAGER, NAME, PATH, i32_of, is_here, settings, wire};
use crate::plan::Record;
use crate::plan::hold::resolved::ResolvedHold;

use super::{Handover, HandoverError};

/// How long all the asking together may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks for a device that the kernel has told it of just now.
const BETWEEN: Duration = Duration::from_millis(20);

impl Handover for ResolvedHold {
    fn name(&self) -> &'static str {
        "systemd-resolved"
    }

    fn commands(&self, record: &Record) -> Vec<String> {
        self.lines(&record.bridge.name)
    }

    fn commands_back(&self, record: &Record) -> Vec<String> {
        self.lines(&record.uplink.name)
    }

    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let bridge = &record.bridge.name;
        match set(self, bridge, Which::Any) {
            Ok(true) => Ok(Vec::new()),
            Ok(false) | Err(BusError::Absent) => Ok(vec![self.gone(bridge)]),
            Err(error) => Err(HandoverError {
                manager: self.name(),
                message: format!(
                    "the servers of {} cannot be set on {bridge}: {}",
                    record.uplink.name,
                    words(&error)
                ),
                remedy: format!(
                    "see 'resolvectl status {}'; if something else tells it of bridges (a .network file that matches {bridge}), end that, then try again",
                    record.uplink.name
                ),
            }),
        }
    }

    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let uplink = &record.uplink.name;
        Ok(match set(self, uplink, Which::Forgotten) {
            Ok(true) => Vec::new(),
            Ok(false) | Err(BusError::Absent) => vec![self.gone(uplink)],
            // No reason to leave a host between two states, which has its
            // network already.
            Err(error) => vec![format!(
                "the servers of names that systemd-resolved asked through {uplink} could not be set again ({}); do it by hand: {}",
                words(&error),
                self.lines(uplink).join("; ")
            )],
        })
    }
}

/// Which device is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Any.
    Any,
    /// One that has no servers and no domains.
    Forgotten,
}

impl ResolvedHold {
    /// The warning where nobody can be told.
    fn gone(&self, device: &IfName) -> String {
        format!(
            "systemd-resolved is gone; when it runs again, tell it of {device}: {}",
            self.lines(device).join("; ")
        )
    }

    /// The commands that set all of it on a device.
    fn lines(&self, device: &IfName) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = |word: &str, values: Vec<String>| {
            if !values.is_empty() {
                lines.push(format!("resolvectl {word} {device} {}", values.join(" ")));
            }
        };
        line("dns", self.servers.iter().map(ToString::to_string).collect());
        line("domain", self.domains.iter().map(ToString::to_string).collect());
        let yes_or_no = |is| if is { "yes" } else { "no" }.to_owned();
        line(
            "default-route",
            self.default_route.map(yes_or_no).into_iter().collect(),
        );
        for (mode, value) in &self.modes {
            line(mode.word(), vec![value.clone()]);
        }
        line("nta", self.untrusted.clone());
        lines
    }
}

/// Sets all of it on a device, and says whether there was who could be told.
fn set(hold: &ResolvedHold, device: &IfName, which: Which) -> Result<bool, BusError> {
    let index = nix::net::if_::if_nametoindex(device.as_str())
        .map_err(|error| BusError::Failed(std::io::Error::from(error).into()))?;
    bus::ask(Instant::now() + PATIENCE, async |connection| {
        if !is_here(connection).await? {
            return Ok(false);
        }
        let has = loop {
            // The kernel tells it of the device in its own time.
            match settings(connection, index).await? {
                Some(has) => break has,
                None => tokio::time::sleep(BETWEEN).await,
            }
        };
        let forgotten = has.servers.is_empty() && has.domains.is_empty();
        if which == Which::Any || forgotten {
            tell(connection, hold, i32_of(index)).await?;
        }
        Ok(true)
    })
}

async fn tell(connection: &Connection, hold: &ResolvedHold, index: i32) -> zbus::Result<()> {
    let manager: Proxy<'_> = bus::proxy(connection, NAME, PATH, MANAGER).await?;
    let servers: Vec<_> = hold.servers.iter().map(wire).collect();
    manager
        .call::<_, _, ()>("SetLinkDNSEx", &(index, servers))
        .await?;
    let domains: Vec<(&str, bool)> = hold
        .domains
        .iter()
        .map(|domain| (domain.name.as_str(), domain.route_only))
        .collect();
    manager
        .call::<_, _, ()>("SetLinkDomains", &(index, domains))
        .await?;
    if let Some(is) = hold.default_route {
        manager
            .call::<_, _, ()>("SetLinkDefaultRoute", &(index, is))
            .await?;
    }
    for (mode, value) in &hold.modes {
        let call = format!("SetLink{}", mode.property());
        manager.call::<_, _, ()>(call, &(index, value)).await?;
    }
    if !hold.untrusted.is_empty() {
        manager
            .call::<_, _, ()>("SetLinkDNSSECNegativeTrustAnchors", &(index, &hold.untrusted))
            .await?;
    }
    Ok(())
}

fn words(error: &BusError) -> String {
    match error {
        BusError::Absent => "there is no D-Bus".into(),
        BusError::Silent => format!("no answer within {} s", PATIENCE.as_secs()),
        BusError::Failed(error) => error.to_string(),
    }
}
