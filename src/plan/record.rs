//! What vmbr wrote down before it changed a host: how to go back.

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use crate::model::{Family, HostState, IfName, Network, Route, is_default};

use super::hold::{Hold, Kept};
use super::{Air, Bridge, Holder, Mode, Target, prefix_routes};

/// Version of the record's form.
pub const VERSION: u32 = 4;
/// The oldest version that is readable: the one before.
pub const OLDEST: u32 = 3;

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Begun, not ended: the host may be between two states.
    Changing,
    /// The bridge carries the network, and loses it again at
    /// [`Record::confirm_by`] unless someone confirms before.
    AwaitingConfirm,
    /// The bridge carries the network.
    Settled,
}

/// A process, named so that another of the same number is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since the boot (`starttime` of
    /// proc_pid_stat(5)).
    pub started: u64,
}

/// Where an interrupted `down` is led to: its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What the uplink then carries.
    pub network: Network,
    /// When that was read, in seconds since the boot.
    pub read_at: u64,
    /// Guests' TAPs that go with the bridge.
    #[serde(default, skip_serializing_if = "is_default")]
    pub removes: Vec<IfName>,
}

/// The uplink as it was before it became a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// The kernel's number for it: another NIC behind the name has another.
    pub index: u32,
    /// Its MAC.
    pub mac: MacAddr6,
    /// Whether it was set up.
    pub up: bool,
}

/// The record of a bridge that vmbr made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`] at the time of writing.
    pub version: u32,
    /// The boot and the network namespace that the record is of.
    pub namespace: String,
    /// How far the change has come.
    pub progress: Progress,
    /// Seconds since 1970 at the last change.
    pub time: u64,
    /// The uplink.
    pub uplink: Uplink,
    /// The bridge.
    pub bridge: Bridge,
    /// What the uplink carried before.
    pub before: Network,
    /// When that was read, in seconds since the boot: lifetimes count from
    /// then. None while nothing is changed yet: in a dry run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_at: Option<u64>,
    /// Who leads the host back when the one who changes it dies.
    #[serde(default, skip_serializing_if = "is_default")]
    pub watchdog: Option<Process>,
    /// Until when someone has to confirm, in milliseconds since the boot.
    #[serde(default, skip_serializing_if = "is_default")]
    pub confirm_by: Option<u64>,
    /// Set while a `down` is under way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub end: Option<End>,
    /// The zone of firewalld that the bridge is given; it is taken out of it
    /// again on every way back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub zone: Option<String>,
    /// Whether a udevd was told to leave the bridge's MAC alone; it is told no
    /// more on every way back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub udev: bool,
    /// Who configured the uplink: they are given the bridge after the flip, and
    /// the uplink again on every way back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub holds: Vec<Hold>,
    /// How guests reach the network by MAC-NAT; none where the uplink is a port
    /// of the bridge.
    #[serde(default, skip_serializing_if = "is_default")]
    pub air: Option<Air>,
}

impl Record {
    /// The record of a change from `live`, where `uplink` carries the network,
    /// to a bridge `name`; without a watchdog and the clock's time. None where
    /// the uplink is no device with a MAC.
    pub fn of(live: &HostState, uplink: &IfName, name: &IfName, namespace: &str, time: u64) -> Option<Self> {
        let link = live.link(uplink)?;
        let mac = link.mac?;
        Some(Self {
            version: VERSION,
            namespace: namespace.to_owned(),
            progress: Progress::Changing,
            time,
            uplink: Uplink {
                name: uplink.clone(),
                index: link.index,
                mac,
                up: link.up,
            },
            bridge: Bridge {
                name: name.clone(),
                mac,
                mtu: link.mtu,
            },
            before: Network::of(live, uplink),
            read_at: None,
            watchdog: None,
            confirm_by: None,
            end: None,
            zone: None,
            udev: false,
            holds: Vec::new(),
            air: None,
        })
    }

    /// How guests reach the network.
    pub fn mode(&self) -> Mode {
        match self.air {
            Some(_) => Mode::MacNat,
            None => Mode::Bridge,
        }
    }

    /// The port by which the bridge leads out of the host.
    pub fn way_out(&self) -> &IfName {
        self.air.as_ref().map_or(&self.uplink.name, |air| &air.port)
    }

    /// How it is when the change is taken back, or has ended: a sentence.
    pub fn gone_words(&self) -> String {
        let (uplink, bridge) = (&self.uplink.name, &self.bridge.name);
        match self.mode() {
            Mode::Bridge => format!("{uplink} carries its network itself again, {bridge} is gone"),
            Mode::MacNat => format!("{bridge} is gone; what {uplink} has was not touched"),
        }
    }

    /// The bridge carries what the uplink carried.
    pub fn bridged(&self) -> Target {
        let mut network = self.before.moved_to(&self.bridge.name);
        if !self.uplink.up {
            // The kernel gives them to a device that is set up.
            for address in network.addresses.clone() {
                for route in prefix_routes(&address, &self.bridge.name) {
                    gain(&mut network.routes, route);
                }
            }
        }
        Target {
            holder: Holder::Bridge,
            uplink_up: true,
            ..self.with(network)
        }
    }

    /// The uplink carries what it carried before.
    pub fn restored(&self) -> Target {
        self.with(self.before.clone())
    }

    /// The uplink carries what the bridge carries in `live`; order and
    /// settings are those of before.
    pub fn returned(&self, live: &HostState) -> Target {
        let now = Network::of(live, &self.bridge.name).moved_to(&self.uplink.name);
        let mut network = now.ordered_as(&self.before);
        network.sysctls = self.before.sysctls.clone();
        if !self.uplink.up {
            // A device that is down carries none.
            network.routes.clear();
            network.nexthops.clear();
        }
        self.with(network)
    }

    /// Where an interrupted change ends: the uplink carries what it carried
    /// before, or what a `down` was about to give it. `now` is in seconds since
    /// the boot. What was unconfirmed for long keeps the lifetimes that were
    /// renewed on the bridge; where there is no bridge any more, or not yet,
    /// whoever has the uplink may have renewed its lease there, or got another.
    pub fn rolled_back(&self, live: &HostState, now: u64) -> Target {
        let (network, read_at) = match &self.end {
            Some(end) => (&end.network, Some(end.read_at)),
            None => (&self.before, self.read_at),
        };
        let age = read_at.map_or(0, |then| now.saturating_sub(then));
        let mut network = network.aged(u32::try_from(age).unwrap_or(u32::MAX));
        if self.progress == Progress::AwaitingConfirm {
            network.renew(&Network::of(live, &self.bridge.name).moved_to(&self.uplink.name));
        }
        if live.link(&self.bridge.name).is_none() && !self.holds.is_empty() {
            network = network.unless_there(&Network::of(live, &self.uplink.name));
        }
        self.with(network)
    }

    /// The lease that vmbr's own keeper renews on the bridge.
    pub fn kept(&self) -> Option<&Kept> {
        self.holds.iter().find_map(|hold| match hold {
            Hold::Keeper(kept) => Some(kept),
            #[allow(unreachable_patterns, reason = "the other managers are no leases of vmbr's")]
            _ => None,
        })
    }

    /// Whether a port of the bridge is there for those who were handed the
    /// bridge, and no guest's.
    pub fn has_made(&self, port: &IfName) -> bool {
        let mut made = self.holds.iter().filter_map(|hold| hold.port(&self.bridge.name));
        made.any(|name| name == *port)
    }

    /// Whether the uplink of `live` is the one that the record is of.
    pub fn is_of(&self, live: &HostState) -> bool {
        live.link(&self.uplink.name)
            .is_some_and(|link| link.index == self.uplink.index)
    }

    fn with(&self, network: Network) -> Target {
        Target {
            uplink: self.uplink.name.clone(),
            uplink_up: self.uplink.up,
            bridge: self.bridge.clone(),
            holder: Holder::Uplink,
            network,
        }
    }
}

/// Adds a route that the kernel makes with an address. Addresses of one IPv6
/// prefix share theirs, which ends only where each of them does
/// (`fib6_add_rt2node()`).
fn gain(routes: &mut Vec<Route>, route: Route) {
    let shared = |other: &&mut Route| {
        route.family() == Family::V6 && other.same_slot(&route) && other.hops == route.hops
    };
    match routes.iter_mut().find(shared) {
        Some(other) => other.expires = other.expires.and(route.expires),
        None => routes.push(route),
    }
}
