//! `vmbr status`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, UNIX_EPOCH};

use macaddr::MacAddr6;
use serde::Serialize;
use serde_json::json;

use crate::apply::recover::{self, milliseconds_left};
use crate::apply::{clock, lock};
use crate::keeper::file::Files;
use crate::model::bridge::PORTS_MAX;
use crate::model::link::Traffic;
use crate::model::{HostState, IfName, Link};
use crate::netlink::dump::{self, Learned};
use crate::plan::record::Progress;
use crate::plan::{self, Mode, Record, refuse};

use super::args::{Args, Status};
use super::change::Place;
use super::outcome::{Error, print, print_json};
use super::picture;
use super::tap::{GuardEntry, Guards};
use super::translation::{self, LearnedAddress, Translation};

/// A bridge of the host.
#[derive(Debug, Serialize)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Whether vmbr made it.
    pub managed: bool,
    /// How guests reach the network: `bridge` or `mac-nat`.
    pub mode: &'static str,
    /// The NIC that leads out.
    pub uplink: Option<IfName>,
    /// In mode mac-nat, how it is with that: `up`, `no-carrier`, `down`,
    /// `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink_state: Option<&'static str>,
    /// In mode mac-nat, the traffic of the uplink, of host and guests together.
    #[serde(skip)]
    pub uplink_traffic: Option<GuestTraffic>,
    /// In mode mac-nat, what translates MACs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translation: Option<Translation>,
    /// Its MAC; in mode mac-nat the uplink's, and so are addresses and
    /// gateways.
    #[serde(serialize_with = "lower_case")]
    pub mac: Option<MacAddr6>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its addresses with the length of their prefix.
    pub addresses: Vec<String>,
    /// The gateways of its default routes.
    pub gateways: Vec<IpAddr>,
    /// `settled`, or `interrupted` where a change did not end, or `changing`,
    /// or `awaiting-confirm`.
    pub state: &'static str,
    /// How long someone may still confirm it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_seconds_left: Option<u64>,
    /// Its DHCP lease, where vmbr itself keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// When vmbr last changed it.
    pub last_change: Option<LastChange>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// How many more it can have.
    pub ports_left: usize,
}

/// The last change of a bridge by vmbr.
#[derive(Debug, Serialize)]
pub struct LastChange {
    /// Seconds since 1970.
    pub time: u64,
}

/// A DHCP lease that vmbr's lease keeper renews.
#[derive(Debug, Serialize)]
pub struct Lease {
    /// Who renews it: `vmbr keeper`.
    pub holder: &'static str,
    /// Its process.
    pub process: Option<u32>,
    /// `bound` where it has the lease, `confirming`, `renewing`, `rebinding`,
    /// `selecting` or `requesting` where it is asking, `dead` where nobody
    /// renews it.
    pub state: String,
    /// The address.
    pub address: Option<Ipv4Addr>,
    /// The server, where it is known.
    pub server: Option<Ipv4Addr>,
    /// When it ends, in seconds since 1970; none where that is not known, or
    /// never.
    pub ends: Option<u64>,
}

/// A port of a bridge.
#[derive(Debug, Serialize)]
pub struct Port {
    /// Its name.
    pub name: IfName,
    /// `uplink`, `air`, `tap`, `veth` or `other`.
    pub kind: &'static str,
    /// What the bridge does with its frames.
    pub state: &'static str,
    /// The user who may attach to a TAP.
    pub owner: Option<u32>,
    /// The group that may attach to a TAP.
    pub group: Option<u32>,
    /// Queues of a TAP.
    pub queues: Option<u32>,
    /// Whether it reaches no other isolated port.
    pub isolated: bool,
    /// Its own MAC, not the guest's.
    #[serde(serialize_with = "lower_case")]
    pub mac: Option<MacAddr6>,
    /// Whether a program holds a TAP: its guest is there.
    pub in_use: Option<bool>,
    /// What its guest is held to.
    pub guard: Option<GuardEntry>,
    /// Who speaks behind it.
    pub guests: Vec<Guest>,
    /// Bytes since it was made, as its guest sees them.
    pub traffic: GuestTraffic,
}

/// Who speaks behind a port.
#[derive(Debug, Serialize)]
pub struct Guest {
    /// The MAC that the bridge learned.
    #[serde(serialize_with = "lower_case")]
    pub mac: Option<MacAddr6>,
    /// Addresses that the host knows at that MAC.
    pub addresses: Vec<IpAddr>,
    /// In mode mac-nat, those by which it is translated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<LearnedAddress>,
}

impl Guest {
    /// One of which nothing is known but its MAC.
    pub fn of(mac: MacAddr6) -> Self {
        Self {
            mac: Some(mac),
            addresses: Vec::new(),
            learned: Vec::new(),
        }
    }
}

/// Bytes that passed a port.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GuestTraffic {
    /// From the port to the bridge.
    pub sent_bytes: u64,
    /// From the bridge to the port.
    pub received_bytes: u64,
}

impl From<Traffic> for GuestTraffic {
    fn from(traffic: Traffic) -> Self {
        Self {
            sent_bytes: traffic.rx_bytes,
            received_bytes: traffic.tx_bytes,
        }
    }
}

pub fn lower_case<S: serde::Serializer>(mac: &Option<MacAddr6>, serializer: S) -> Result<S::Ok, S::Error> {
    mac.map(|mac| mac.to_string().to_lowercase())
        .serialize(serializer)
}

/// Runs `vmbr status`.
pub fn run(status: &Status, args: &Args) -> Result<(), Error> {
    let place = Place::find(args)?;
    let (live, learned) = dump::picture().map_err(|error| Error::unreadable(&error))?;
    let mut bridges = bridges(&live, &learned, &place);
    if let Some(name) = &status.bridge {
        let names: Vec<String> = bridges.iter().map(|bridge| bridge.name.to_string()).collect();
        bridges.retain(|bridge| bridge.name == *name);
        if bridges.is_empty() {
            let remedy = match names.as_slice() {
                [] => "make one: vmbr up".to_owned(),
                names => format!("the host's bridges: {}", names.join(", ")),
            };
            return Err(Error::refused(format!("there is no bridge {name}"), remedy));
        }
    }
    let rollbacks = place.store.rollbacks();
    if args.json {
        print_json(&json!({"bridges": bridges, "rollbacks": rollbacks}));
        return Ok(());
    }
    for rollback in &rollbacks {
        print(&format!(
            "{}: {} was taken back, {} has its network as before: {}",
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(rollback.time)),
            rollback.bridge,
            rollback.uplink,
            rollback.reason
        ));
    }
    if bridges.is_empty() {
        print("No bridge. To put this host's NIC on one: vmbr up (first look with --dry-run).");
    } else {
        bridges.iter().for_each(|bridge| print(&picture::draw(bridge)));
    }
    Ok(())
}

fn bridges(live: &HostState, learned: &[Learned], place: &Place) -> Vec<Bridge> {
    let mut behind: Behind = HashMap::new();
    for entry in learned {
        // The kernel has one of a MAC for each VLAN, and for the port itself.
        let known = behind.entry(&entry.port).or_default();
        if !known.iter().any(|other| other.mac == entry.mac) {
            known.push(entry);
        }
    }
    let guards = Guards::open();
    let is_bridge = |link: &&Link| link.is_kind("bridge");
    live.links
        .iter()
        .filter(is_bridge)
        .map(|link| bridge(live, link, &behind, &guards, place))
        .collect()
}

/// The lease of a record's bridge, where the keeper has it.
fn lease(record: &Record) -> Option<Lease> {
    let kept = record.kept()?;
    let told = Files::of(&record.namespace).told(&record.bridge.name);
    let lives = told.as_ref().filter(|told| told.is_alive());
    let told = told.as_ref();
    Some(Lease {
        holder: "vmbr keeper",
        process: lives.map(|told| told.process.pid),
        state: lives.map_or_else(|| "dead".to_owned(), |told| told.state.clone()),
        address: told.map_or(Some(kept.address), |told| told.address),
        server: told.map_or(kept.server, |told| told.server),
        ends: told
            .and_then(|told| told.seconds_left())
            .map(|left| clock::now() + left),
    })
}

/// What is behind each port.
type Behind<'a> = HashMap<&'a IfName, Vec<&'a Learned>>;

/// The addresses of those that have spoken to this host by a bridge, or by a
/// device that stands on it (a VLAN, a macvlan), in the order in which people
/// look for them.
fn known(live: &HostState, bridge: &IfName) -> HashMap<MacAddr6, Vec<IpAddr>> {
    let mut devices = vec![bridge];
    let mut place = 0;
    while let Some(beneath) = devices.get(place).copied() {
        let above = live.links.iter().filter(|l| l.lower.as_ref() == Some(beneath));
        for link in above {
            if !devices.contains(&&link.name) {
                devices.push(&link.name);
            }
        }
        place += 1;
    }
    let mut known: HashMap<MacAddr6, Vec<IpAddr>> = HashMap::new();
    let neighbours = live.neighbours.iter().filter(|n| n.is_resolved());
    for neighbour in neighbours.filter(|n| devices.contains(&&n.dev)) {
        let Some(mac) = neighbour.mac else { continue };
        let addresses = known.entry(mac).or_default();
        if !addresses.contains(&neighbour.address) {
            addresses.push(neighbour.address);
        }
    }
    for addresses in known.values_mut() {
        addresses.sort_by_key(rank);
    }
    known
}

/// The order in which people look for addresses.
pub fn rank(address: &IpAddr) -> (u8, IpAddr) {
    let family = match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if !v6.is_unicast_link_local() => 1,
        IpAddr::V6(_) => 2,
    };
    (family, *address)
}

fn bridge(live: &HostState, link: &Link, behind: &Behind, guards: &Guards, place: &Place) -> Bridge {
    let name = &link.name;
    let record = place.records().find(|record| record.bridge.name == *name);
    let ports: Vec<&Link> = live.ports_of(name).collect();
    let translated = record.filter(|record| record.mode() == Mode::MacNat);
    // The device that carries the host's network; none where it is gone.
    let carrier = translated.map_or(Some(link), |record| plan::air::uplink(live, record));
    let (translation, learned) = translated
        .map(|record| translation::ask(live, record, carrier))
        .unzip();
    let learned = learned.unwrap_or_default();
    let out = way_out(&ports, record);
    let known = carrier
        .map(|carrier| known(live, &carrier.name))
        .unwrap_or_default();
    let guests = |port: &Link| {
        // What is fixed on a TAP that nobody holds says who may come.
        let gone = port.tun.as_ref().is_some_and(|tun| !tun.held);
        let entries = behind.get(&port.name).map_or(&[][..], Vec::as_slice);
        let there = entries.iter().filter(|entry| !(gone && entry.fixed));
        let guest = |entry: &&Learned| Guest {
            addresses: known.get(&entry.mac).cloned().unwrap_or_default(),
            ..Guest::of(entry.mac)
        };
        let mut guests: Vec<Guest> = there.map(guest).collect();
        translation::add(&mut guests, learned.get(&port.index).map_or(&[], Vec::as_slice));
        guests
    };
    let port = |port: &&Link| {
        let leads_out = Some(&port.name) == out.as_ref();
        Port {
            name: port.name.clone(),
            kind: match (leads_out, translated) {
                (true, None) => "uplink",
                (true, Some(_)) => "air",
                (false, _) => kind(port),
            },
            state: state_word(port),
            owner: port.tun.as_ref().and_then(|tun| tun.owner),
            group: port.tun.as_ref().and_then(|tun| tun.group),
            queues: port.tun.as_ref().map(|tun| tun.queues),
            isolated: port.port.as_ref().is_some_and(|port| port.isolated),
            mac: port.mac,
            in_use: port.tun.as_ref().map(|tun| tun.held),
            guard: guards.of(port).map(GuardEntry::from),
            // The whole LAN is behind the uplink.
            guests: if leads_out { Vec::new() } else { guests(port) },
            traffic: port.traffic.into(),
        }
    };
    let addresses = carrier.map_or(&[][..], |carrier| live.addresses_of(&carrier.name));
    Bridge {
        name: name.clone(),
        managed: record.is_some(),
        mode: record.map_or(Mode::Bridge, Record::mode).word(),
        mac: carrier.and_then(|carrier| carrier.mac),
        mtu: link.mtu,
        addresses: addresses.iter().map(ToString::to_string).collect(),
        gateways: carrier.map_or_else(Vec::new, |carrier| refuse::gateways(live, &carrier.name)),
        state: record.map_or("settled", |r| recover::state(r, lock::is_held(&place.identity))),
        confirm_seconds_left: record
            .filter(|record| record.progress == Progress::AwaitingConfirm)
            .map(|record| milliseconds_left(record).div_ceil(1000)),
        lease: record.and_then(lease),
        last_change: record.map(|record| LastChange { time: record.time }),
        ports: ports.iter().map(port).collect(),
        ports_left: PORTS_MAX.saturating_sub(ports.len()),
        uplink: match translated {
            Some(record) => Some(
                carrier
                    .map_or(&record.uplink.name, |carrier| &carrier.name)
                    .clone(),
            ),
            None => out,
        },
        uplink_state: translated.map(|_| translation::uplink_state(carrier)),
        uplink_traffic: translated.and(carrier).map(|carrier| carrier.traffic.into()),
        translation,
    }
}

/// The port that leads out: the record's, else the only one that can be a NIC.
fn way_out(ports: &[&Link], record: Option<&Record>) -> Option<IfName> {
    if let Some(record) = record {
        return ports
            .iter()
            .find(|port| port.name == *record.way_out())
            .map(|port| port.name.clone());
    }
    let mut nics = ports.iter().filter(|port| port.leads_out());
    match (nics.next(), nics.next()) {
        (Some(nic), None) => Some(nic.name.clone()),
        _ => None,
    }
}

fn kind(port: &Link) -> &'static str {
    match port.kind.as_deref() {
        Some("tun") => "tap",
        Some("veth") => "veth",
        _ => "other",
    }
}

/// `BR_STATE_*` of include/uapi/linux/if_bridge.h.
fn state_word(port: &Link) -> &'static str {
    match port.port.as_ref().map(|port| port.state) {
        Some(1) => "listening",
        Some(2) => "learning",
        Some(3) => "forwarding",
        Some(4) => "blocking",
        _ => "disabled",
    }
}
