//! MAC-NAT: the guests' bridge where the uplink cannot be a port.
//!
//! The uplink keeps its network, its manager and its name; nothing of it moves.
//! The bridge holds the guests and one *air port*, an end of a pair of veth
//! devices. Programs on the air port and on the uplink pass frames between the
//! two, and translate the guests' MACs into the uplink's and back:
//!
//! ```text
//! guests ── br0 ── br0-air ~~ the programs ~~ wlan0 ── the air
//!                     │                         │
//!                  br0-far                 this host
//! ```
//!
//! The other end, `br0-far`, is only what a veth device needs to have a
//! carrier. The bridge has no address, asks for none, and its MAC is not the
//! uplink's: what guests send to the host would stay on it.
//!
//! The plan is convergent, as that of [`plan()`](super::plan): it makes what is
//! missing and mends what is otherwise. Programs come last and go first, so
//! that the host's own frames never meet a port that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use crate::model::{Address, HostState, IfName, Link, address};

use super::record::Uplink;
use super::{Bridge, Op, Plan, Record, Stage};

/// Whether a device has IPv6.
const DISABLE_IPV6: &str = "ipv6/conf/disable_ipv6";
/// The longest name of a device (`IFNAMSIZ` without its NUL).
const NAME_MAX: usize = 15;

/// How guests reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The uplink is a port of the bridge, which carries the host's network.
    Bridge,
    /// The uplink keeps the host's network; programs translate MACs.
    MacNat,
}

impl Mode {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::MacNat => "mac-nat",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// What a bridge has in place of the uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Air {
    /// The bridge's port to the air.
    pub port: IfName,
    /// The other end of its pair.
    pub far: IfName,
    /// Whether DHCP clients' hardware addresses are translated, too.
    #[serde(default, skip_serializing_if = "crate::model::is_default")]
    pub dhcp_chaddr: bool,
}

impl Air {
    /// The air port of a new bridge: names that no device has, made of the
    /// bridge's, or of the uplink's number where that is too long or they are
    /// taken.
    pub fn of(live: &HostState, uplink: &Link, bridge: &IfName, dhcp_chaddr: bool) -> Option<Self> {
        let numbered = (0..).map(|more| match more {
            0 => format!("vmbr{}", uplink.index),
            more => format!("vmbr{}.{more}", uplink.index),
        });
        let stems = std::iter::once(bridge.to_string()).chain(numbered);
        let free = |stem: String| {
            let name = |end: &str| format!("{stem}-{end}").parse::<IfName>().ok();
            let (port, far) = (name("air")?, name("far")?);
            let taken = live.link(&port).is_some() || live.link(&far).is_some();
            (!taken).then_some(Self {
                port,
                far,
                dhcp_chaddr,
            })
        };
        // A stem that is too long makes no name; the numbers end somewhere.
        stems.take_while(|stem| stem.len() <= NAME_MAX).find_map(free)
    }
}

/// What the programs are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The uplink.
    pub uplink: IfName,
    /// The kernel's number for it.
    pub index: u32,
    /// Its MAC, as which guests speak.
    pub mac: MacAddr6,
    /// The air port.
    pub air: IfName,
    /// Its bridge, which gives the host nothing itself.
    pub bridge: IfName,
    /// Whether DHCP clients' hardware addresses are translated, too.
    pub dhcp_chaddr: bool,
    /// The addresses that no guest may claim.
    pub protected: BTreeSet<IpAddr>,
    /// The addresses that only the guest with this MAC may claim.
    pub pins: BTreeMap<IpAddr, MacAddr6>,
}

/// Which of the programs of uplink and air port are attached, as vmbr's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Programs {
    /// None.
    None,
    /// Some.
    Some,
    /// All of them.
    All,
}

/// Where a plan leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The uplink: who carries its number.
    pub uplink: Uplink,
    /// The bridge.
    pub bridge: Bridge,
    /// Its air port.
    pub air: Air,
    /// What the programs are told; none where all of it shall be gone.
    pub translation: Option<Translation>,
    /// Guests' TAPs that go with the bridge.
    pub removes: Vec<IfName>,
}

/// The MAC of a bridge whose guests speak as `uplink`: its own, and never a
/// real device's.
pub fn bridge_mac(uplink: MacAddr6) -> MacAddr6 {
    /// `ETH_ALEN` bytes begin with the two bits of IEEE 802: group, local.
    const LOCAL: u8 = 0x02;
    let mut bytes = uplink.into_array();
    if bytes[0] & LOCAL == 0 {
        bytes[0] |= LOCAL;
    } else {
        bytes[0] ^= 0x04;
    }
    MacAddr6::from(bytes)
}

/// The uplink of a record as it is now; none where it is gone. Its number is
/// what it is known by: a name can be given to another.
pub fn uplink<'a>(live: &'a HostState, record: &Record) -> Option<&'a Link> {
    live.links.iter().find(|link| link.index == record.uplink.index)
}

/// The addresses that guests may not claim: those of the host, its gateways on
/// the uplink, and the `servers` of names. A gateway or a server that is a
/// guest by the ACL's word, `pins`, is not among them.
pub fn protected(
    live: &HostState,
    uplink: &IfName,
    servers: &BTreeSet<IpAddr>,
    pins: &BTreeMap<IpAddr, MacAddr6>,
) -> BTreeSet<IpAddr> {
    let gateways = live.routes.iter().flat_map(|route| &route.hops);
    let gateways = gateways.filter(|hop| hop.dev.as_ref() == Some(uplink));
    let others = gateways.filter_map(|hop| hop.via).chain(servers.iter().copied());
    let mut found: BTreeSet<IpAddr> = others.filter(|a| !pins.contains_key(a)).collect();
    for (dev, addresses) in &live.addresses {
        // A link-local address is one of its link's alone.
        let counts = |a: &&Address| dev == uplink || !a.is_link_local_v6();
        let own = addresses
            .iter()
            .filter(counts)
            .filter(|a| a.scope != address::scope::HOST);
        found.extend(own.map(|a| a.local));
    }
    found.retain(|a| !a.is_loopback() && !a.is_unspecified() && !a.is_multicast());
    found
}

impl Record {
    /// Where `up` and `sync` lead in mode mac-nat: the bridge stands, and the
    /// programs know the uplink as `link` is.
    pub fn translated(
        &self,
        link: &Link,
        protected: BTreeSet<IpAddr>,
        mut pins: BTreeMap<IpAddr, MacAddr6>,
    ) -> Option<Target> {
        let air = self.air.clone()?;
        // What the ACL gives away is not the host's own.
        pins.retain(|address, _| !protected.contains(address));
        let translation = Translation {
            uplink: link.name.clone(),
            index: link.index,
            mac: link.mac?,
            air: air.port.clone(),
            bridge: self.bridge.name.clone(),
            dhcp_chaddr: air.dhcp_chaddr,
            protected,
            pins,
        };
        Some(Target {
            uplink: Uplink {
                name: link.name.clone(),
                index: link.index,
                ..self.uplink.clone()
            },
            bridge: self.bridge.clone(),
            air,
            translation: Some(translation),
            removes: Vec::new(),
        })
    }

    /// Where `down`, and every way back, leads: nothing is left of it.
    pub fn untranslated(&self, removes: Vec<IfName>) -> Option<Target> {
        Some(Target {
            uplink: self.uplink.clone(),
            bridge: self.bridge.clone(),
            air: self.air.clone()?,
            translation: None,
            removes,
        })
    }
}

/// Leads from `live`, with these programs, to `target`; empty where the target
/// is reached.
pub fn plan(live: &HostState, programs: Programs, target: &Target) -> Plan {
    let mut plan = Plan::default();
    match &target.translation {
        Some(translation) => {
            plan.push(Stage::Prepare, prepare(live, target));
            plan.push(Stage::Enslave, join(live, target));
            // The air port's own went with it.
            if programs != Programs::All || pair(live, &target.air).is_none() {
                plan.push(Stage::Translate, vec![Op::Translate(translation.clone())]);
            }
        }
        None => {
            if programs != Programs::None {
                plan.push(
                    Stage::Translate,
                    vec![Op::StopTranslation {
                        uplink: target.uplink.name.clone(),
                        index: target.uplink.index,
                        air: target.air.port.clone(),
                    }],
                );
            }
            plan.push(Stage::Tidy, remove(live, target));
        }
    }
    plan
}

/// Both ends of the pair, as it stands.
fn pair<'a>(live: &'a HostState, air: &Air) -> Option<(&'a Link, &'a Link)> {
    let (port, far) = (live.link(&air.port)?, live.link(&air.far)?);
    let is_end = |link: &Link, other: &IfName| link.is_kind("veth") && link.lower.as_ref() == Some(other);
    (is_end(port, &air.far) && is_end(far, &air.port)).then_some((port, far))
}

/// The devices, each as it has to be, down where they are new.
fn prepare(live: &HostState, target: &Target) -> Vec<Op> {
    let Target { bridge, air, .. } = target;
    let mut ops = Vec::new();
    let link = live.link(&bridge.name);
    match link {
        None => ops.push(Op::CreateBridge {
            name: bridge.name.clone(),
            mac: bridge.mac,
        }),
        Some(link) if link.mac != Some(bridge.mac) => ops.push(Op::SetMac {
            dev: bridge.name.clone(),
            mac: bridge.mac,
        }),
        Some(_) => {}
    }
    ops.extend(mtu(link, &bridge.name, bridge.mtu));
    ops.extend(silence(live, link, &bridge.name));
    let pair = pair(live, air);
    if pair.is_none() {
        // One end whose other is in another namespace, say.
        let torn = live.link(&air.port).filter(|link| link.is_kind("veth"));
        ops.extend(torn.map(|link| Op::DeleteLink {
            dev: link.name.clone(),
        }));
        ops.push(Op::CreateVeth {
            name: air.port.clone(),
            far: air.far.clone(),
            mtu: bridge.mtu,
        });
    }
    for (name, link) in [(&air.port, pair.map(|p| p.0)), (&air.far, pair.map(|p| p.1))] {
        if link.is_some() {
            ops.extend(mtu(link, name, bridge.mtu));
        }
        ops.extend(silence(live, link, name));
    }
    ops
}

fn mtu(link: Option<&Link>, dev: &IfName, mtu: u32) -> Option<Op> {
    link.is_none_or(|link| link.mtu != mtu).then(|| Op::SetMtu {
        dev: dev.clone(),
        mtu,
    })
}

/// Keeps a device from speaking for the host: nobody is to reach the host by
/// it, or to learn of it.
fn silence(live: &HostState, link: Option<&Link>, dev: &IfName) -> Vec<Op> {
    let mut ops = Vec::new();
    let now = live.sysctl(link.map_or("default", |_| dev.as_str()), DISABLE_IPV6);
    if now.is_some_and(|value| value != "1") {
        ops.push(Op::SetSysctl {
            dev: dev.clone(),
            key: DISABLE_IPV6.to_owned(),
            value: "1".to_owned(),
        });
    }
    if link.is_none_or(|link| !link.noarp) {
        ops.push(Op::SetNoArp { dev: dev.clone() });
    }
    ops
}

/// The air port on the bridge, and all of it up.
fn join(live: &HostState, target: &Target) -> Vec<Op> {
    let Target { bridge, air, .. } = target;
    let (port, far) = pair(live, air).unzip();
    let mut ops = Vec::new();
    if port.is_none_or(|port| port.master.as_ref() != Some(&bridge.name)) {
        ops.push(Op::SetMaster {
            dev: air.port.clone(),
            master: Some(bridge.name.clone()),
        });
    }
    let link = live.link(&bridge.name);
    for (link, name) in [(far, &air.far), (port, &air.port), (link, &bridge.name)] {
        if link.is_none_or(|link| !link.up) {
            ops.push(Op::SetUp {
                dev: name.clone(),
                up: true,
            });
        }
    }
    if link.is_none_or(|link| !link.running) {
        ops.push(Op::AwaitRunning {
            dev: bridge.name.clone(),
        });
    }
    ops
}

/// The end of the devices: guests' first, so that each knows it at once.
fn remove(live: &HostState, target: &Target) -> Vec<Op> {
    let Target { bridge, air, .. } = target;
    let on_bridge = |name: &&IfName| live.ports_of(&bridge.name).any(|port| port.name == **name);
    let guests = target.removes.iter().filter(on_bridge);
    let is = |name: &IfName, kind| live.link(name).is_some_and(|link| link.is_kind(kind));
    // Each goes with the other.
    let ends = [&air.port, &air.far].into_iter();
    let end = ends.into_iter().find(|name| is(name, "veth"));
    let bridge = Some(&bridge.name).filter(|name| is(name, "bridge"));
    guests
        .chain(end)
        .chain(bridge)
        .map(|dev| Op::DeleteLink { dev: dev.clone() })
        .collect()
}

/// Where the object with the programs would be, for a person.
const OBJECT: &str = "mac_nat.o";

/// The commands that attach the programs by hand.
pub(super) fn translate_text(translation: &Translation, unsaid: &mut Vec<String>) -> String {
    let Translation {
        uplink,
        air,
        bridge,
        mac,
        dhcp_chaddr,
        protected,
        pins,
        ..
    } = translation;
    unsaid.push(format!(
        "vmbr carries {OBJECT} in itself, and attaches by TCX where the kernel has it (6.6), else as here"
    ));
    let mut told = format!(
        "its maps are told: uplink {uplink} {}, air port {air}",
        mac.to_string().to_lowercase()
    );
    if *dhcp_chaddr {
        told.push_str(", chaddr of DHCP translated");
    }
    unsaid.push(told);
    if !protected.is_empty() {
        let list: Vec<String> = protected.iter().map(ToString::to_string).collect();
        unsaid.push(format!("no guest may claim: {}", list.join(" ")));
    }
    for (address, mac) in pins {
        unsaid.push(format!(
            "only {} may claim {address}",
            mac.to_string().to_lowercase()
        ));
    }
    let mut text = String::new();
    for dev in [air, uplink, bridge] {
        let _ = writeln!(text, "tc qdisc add dev {dev} clsact");
    }
    let filters = [
        (uplink, "ingress", "vmbr_uplink_in"),
        (uplink, "egress", "vmbr_uplink_out"),
        (air, "egress", "vmbr_air_out"),
        (bridge, "ingress", "vmbr_bridge_in"),
    ];
    let filters = filters.map(|(dev, side, program)| {
        format!("tc filter add dev {dev} {side} bpf direct-action object-file {OBJECT} program {program}")
    });
    text.push_str(&filters.join("\n"));
    text
}

/// The commands that take them away; the bridge's goes with it.
pub(super) fn stop_text(uplink: &IfName, air: &IfName) -> String {
    let sides = [(air, "egress"), (uplink, "egress"), (uplink, "ingress")];
    sides
        .map(|(dev, side)| format!("tc filter del dev {dev} {side}"))
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridges_mac_is_its_own_and_local() {
        for mac in [
            [0x00, 1, 2, 3, 4, 5],
            [0x02, 1, 2, 3, 4, 5],
            [0xee, 0, 0, 0, 0, 1],
        ] {
            let made = bridge_mac(MacAddr6::from(mac));
            assert_ne!(made, MacAddr6::from(mac));
            assert!(made.is_local() && made.is_unicast(), "{made}");
        }
    }

    #[test]
    fn names_are_free_and_short_enough() {
        let link = |index: u32, name: &str| serde_json::json!({"index": index, "name": name});
        let host = |names: &[&str]| -> HostState {
            let links: Vec<_> = names
                .iter()
                .zip(3..)
                .map(|(name, index)| link(index, name))
                .collect();
            serde_json::from_value(serde_json::json!({"links": links})).unwrap()
        };
        let name = |text: &str| text.parse::<IfName>().unwrap();
        let port = |names: &[&str], bridge: &str| {
            let host = host(names);
            let air = Air::of(&host, &host.links[0], &name(bridge), false).unwrap();
            (air.port.to_string(), air.far.to_string())
        };
        let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
        assert_eq!(port(&["wlan0"], "br0"), pair("br0-air", "br0-far"));
        assert_eq!(port(&["wlan0", "br0-far"], "br0"), pair("vmbr3-air", "vmbr3-far"));
        assert_eq!(
            port(&["wlan0"], "fifteen-letters"),
            pair("vmbr3-air", "vmbr3-far")
        );
        assert_eq!(
            port(&["wlan0", "vmbr3-air"], "fifteen-letters"),
            pair("vmbr3.1-air", "vmbr3.1-far")
        );
    }
}
