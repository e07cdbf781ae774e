//! The model from the kernel's messages.

use std::collections::BTreeMap;
use std::net::IpAddr;

use macaddr::MacAddr6;
use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use crate::model::link::{Port, Traffic, Tun};
use crate::model::mark::Mark;
use crate::model::route::RouteMetric;
use crate::model::rule::RuleHeader;
use crate::model::{
    Address, Family, Hop, IfName, Label, Link, Neighbour, Prefix, RawAttribute, Route, Rule, address,
    neighbour,
};

use super::dump::Learned;

/// The names of a namespace's devices by number.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<u32, IfName>);

impl Names {
    /// Adds a device.
    pub fn insert(&mut self, index: u32, name: IfName) {
        self.0.insert(index, name);
    }

    /// The device of this number.
    pub fn get(&self, index: u32) -> Option<&IfName> {
        self.0.get(&index)
    }
}

/// The kind and the payload of an attribute.
pub(super) fn raw(attribute: &impl Nla) -> RawAttribute {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    RawAttribute {
        kind: attribute.kind(),
        value,
    }
}

fn six(bytes: &[u8]) -> Option<MacAddr6> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddr6::from)
}

/// The name of the device that a message describes. A name that vmbr would
/// never print (the kernel takes control characters) is replaced by its number.
pub fn link_name(message: &LinkMessage) -> Option<IfName> {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    name.parse()
        .or_else(|_| format!("?{}", message.header.index).parse())
        .ok()
}

/// A device. `names` must know all devices.
pub fn link(message: &LinkMessage, names: &Names) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: link_name(message)?,
        mac: None,
        mtu: 0,
        hardware: message.header.link_layer_type.into(),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        running: message
            .header
            .flags
            .contains(LinkFlags::Running | LinkFlags::LowerUp),
        noarp: message.header.flags.contains(LinkFlags::Noarp),
        kind: None,
        master: None,
        lower: None,
        wireless: false,
        tun: None,
        port: None,
        traffic: Traffic::default(),
    };
    // A number of another namespace says nothing here.
    let foreign = message
        .attributes
        .iter()
        .any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
    let (mut cable, mut mark) = (false, Mark::default());
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = six(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = names.get(*index).cloned(),
            LinkAttribute::Link(index) if !foreign => link.lower = names.get(*index).cloned(),
            LinkAttribute::Stats64(stats) => {
                link.traffic = Traffic {
                    rx_bytes: stats.rx_bytes,
                    tx_bytes: stats.tx_bytes,
                };
            }
            LinkAttribute::LinkInfo(infos) => link_info(&mut link, infos),
            LinkAttribute::Carrier(carrier) => cable = *carrier != 0,
            LinkAttribute::IfAlias(alias) => mark = Mark::read(alias),
            _ => {}
        }
    }
    if let Some(tun) = &mut link.tun {
        // Of one with a single queue the kernel tells no number, but it has a
        // carrier as long as it is attached (tun_set_iff(), __tun_detach()).
        tun.held |= cable;
        tun.queues_meant = mark.queues;
        tun.domain = mark.domain;
    }
    Some(link)
}

fn link_info(link: &mut Link, infos: &[LinkInfo]) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Tun(attributes)) => link.tun = Some(tun(attributes)),
            LinkInfo::PortData(InfoPortData::BridgePort(attributes)) => {
                let mut port = Port::default();
                for attribute in attributes {
                    match attribute {
                        InfoBridgePort::State(state) => port.state = (*state).into(),
                        InfoBridgePort::Isolated(isolated) => port.isolated = *isolated,
                        InfoBridgePort::Locked(locked) => port.locked = *locked,
                        _ => {}
                    }
                }
                link.port = Some(port);
            }
            _ => {}
        }
    }
}

/// `IFLA_TUN_*` of include/uapi/linux/if_link.h.
fn tun(attributes: &[impl Nla]) -> Tun {
    const OWNER: u16 = 1;
    const GROUP: u16 = 2;
    const TYPE: u16 = 3;
    const PERSIST: u16 = 6;
    const MULTI_QUEUE: u16 = 7;
    const NUM_QUEUES: u16 = 8;
    const NUM_DISABLED_QUEUES: u16 = 9;
    let mut tun = Tun {
        queues: 1,
        ..Tun::default()
    };
    let (mut attached, mut disabled) = (0, 0);
    for RawAttribute { kind, value } in attributes.iter().map(raw) {
        let number = value.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
        let byte = value.first().copied().unwrap_or(0);
        match kind {
            OWNER => tun.owner = number,
            GROUP => tun.group = number,
            TYPE => tun.tap = i32::from(byte) == libc::IFF_TAP,
            PERSIST => tun.persistent = byte != 0,
            MULTI_QUEUE => tun.multi_queue = byte != 0,
            NUM_QUEUES => attached = number.unwrap_or(0),
            NUM_DISABLED_QUEUES => disabled = number.unwrap_or(0),
            _ => {}
        }
    }
    if tun.multi_queue {
        tun.queues = attached;
    }
    // One that is not persistent is there because it is held.
    tun.held = !tun.persistent || attached + disabled > 0;
    tun
}

/// An address and the number of its device.
pub fn address(message: &AddressMessage, names: &Names) -> Option<(IfName, Address)> {
    let dev = names.get(message.header.index)?;
    let (mut local, mut far, mut text) = (None, None, None);
    let mut address = Address {
        local: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        peer: None,
        prefix_len: message.header.prefix_len,
        broadcast: None,
        label: Label::Device,
        scope: message.header.scope.into(),
        flags: u32::from(message.header.flags.bits()),
        preferred: address::FOREVER,
        valid: address::FOREVER,
        metric: None,
        protocol: None,
    };
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            AddressAttribute::Label(label) => text = Some(label),
            AddressAttribute::Broadcast(ip) => address.broadcast = Some(*ip),
            AddressAttribute::CacheInfo(info) => {
                address.preferred = info.ifa_preferred;
                address.valid = info.ifa_valid;
            }
            AddressAttribute::Flags(flags) => address.flags = flags.bits(),
            AddressAttribute::RoutePriority(metric) => address.metric = Some(*metric).filter(|m| *m != 0),
            AddressAttribute::Protocol(protocol) => {
                address.protocol = Some(u8::from(*protocol)).filter(|p| *p != 0);
            }
            _ => {}
        }
    }
    // The kernel tells of a permanent IPv4 address that it is preferred for
    // ever, even if it is not at all (`inet_fill_ifaddr()`).
    if address.flags & address::flag::DEPRECATED != 0 && address.valid == address::FOREVER {
        address.preferred = 0;
    }
    address.local = local.or(far)?;
    address.peer = far.filter(|far| *far != address.local);
    if let Some(text) = text {
        address.label = Label::read(text, dev);
    }
    Some((dev.clone(), address))
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A route; none for what is no route of IPv4 or IPv6, or a cache's entry.
pub fn route(message: &RouteMessage, names: &Names) -> Option<Route> {
    let header = &message.header;
    let family = match header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut route = Route {
        dst: Prefix {
            len: header.destination_prefix_length,
            ..Prefix::all(family)
        },
        src: None,
        table: header.table.into(),
        kind: header.kind.into(),
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        tos: header.tos,
        metric: 0,
        prefsrc: None,
        hops: Vec::new(),
        metrics: Vec::new(),
        preference: None,
        expires: None,
        nexthop: None,
        rest: Vec::new(),
    };
    let mut single = Hop {
        onlink: header.flags.contains(RouteFlags::Onlink),
        ..Hop::default()
    };
    let mut several = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => route.dst.address = route_ip(ip)?,
            RouteAttribute::Source(ip) => {
                route.src = route_ip(ip).map(|address| Prefix {
                    address,
                    len: header.source_prefix_length,
                });
            }
            RouteAttribute::Table(number) => route.table = *number,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(ip) => route.prefsrc = route_ip(ip),
            RouteAttribute::Oif(index) => single.dev = Some(names.get(*index)?.clone()),
            RouteAttribute::Gateway(ip) => single.via = route_ip(ip),
            RouteAttribute::Via(via) => single.via = via_ip(via),
            RouteAttribute::Metrics(metrics) => {
                route.metrics = metrics
                    .iter()
                    .map(raw)
                    .map(|m| RouteMetric {
                        kind: m.kind,
                        value: m.value,
                    })
                    .collect();
            }
            RouteAttribute::MultiPath(hops) => {
                several = hops.iter().map(|h| hop(h, names)).collect::<Option<_>>()?;
            }
            RouteAttribute::Preference(preference) => route.preference = Some((*preference).into()),
            RouteAttribute::CacheInfo(info) if family == Family::V6 && info.expires > 0 => {
                // In ticks of USER_HZ, which is 100 everywhere that matters.
                route.expires = Some(info.expires.div_ceil(100));
            }
            RouteAttribute::NhId(id) => route.nexthop = Some(*id),
            RouteAttribute::CacheInfo(_)
            | RouteAttribute::Expires(_)
            | RouteAttribute::Iif(_)
            | RouteAttribute::Mark(_)
            | RouteAttribute::Uid(_)
            | RouteAttribute::MfcStats(_)
            | RouteAttribute::MulticastExpires(_) => {}
            other => route.rest.push(raw(other)),
        }
    }
    route.hops = if several.is_empty() { vec![single] } else { several };
    Some(route)
}

fn hop(message: &RouteNextHop, names: &Names) -> Option<Hop> {
    let mut hop = Hop {
        dev: Some(names.get(message.interface_index)?.clone()),
        via: None,
        weight: message.hops,
        onlink: message.flags.contains(RouteNextHopFlags::Onlink),
        rest: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(ip) => hop.via = route_ip(ip),
            RouteAttribute::Via(via) => hop.via = via_ip(via),
            other => hop.rest.push(raw(other)),
        }
    }
    Some(hop)
}

/// A rule; none for what is no rule of IPv4 or IPv6.
pub fn rule(message: &RuleMessage) -> Option<Rule> {
    /// `FIB_RULE_INVERT`: the only flag that user space sets.
    const INVERT: u32 = 2;
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let mut rule = Rule {
        family,
        priority: 0,
        iif: None,
        oif: None,
        header: RuleHeader {
            dst_len: header.dst_len,
            src_len: header.src_len,
            tos: header.tos,
            table: header.table,
            action: header.action.into(),
            flags: header.flags.bits() & INVERT,
        },
        rest: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Iifname(name) => rule.iif = name.parse().ok(),
            RuleAttribute::Oifname(name) => rule.oif = name.parse().ok(),
            other => rule.rest.push(raw(other)),
        }
    }
    Some(rule)
}

/// A neighbour; none for an entry of a bridge's table.
pub fn neighbour_entry(message: &NeighbourMessage, names: &Names) -> Option<Neighbour> {
    let dev = names.get(message.header.ifindex)?.clone();
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some((*address).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => ip = Some((*address).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = six(bytes),
            _ => {}
        }
    }
    Some(Neighbour {
        dev,
        address: ip?,
        mac,
        state: message.header.state.into(),
        flags: message.header.flags.bits(),
    })
}

/// An entry of a bridge's table for a MAC behind one of its ports: one that it
/// learned, or that was fixed there; none for the devices' own.
pub fn learned(message: &NeighbourMessage, names: &Names) -> Option<Learned> {
    let state: u16 = message.header.state.into();
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => six(bytes),
        _ => None,
    })?;
    let port = names.get(message.header.ifindex)?.clone();
    let fixed = state & neighbour::state::NOARP != 0;
    let own = state & neighbour::state::PERMANENT != 0;
    (!own).then_some(Learned { port, mac, fixed })
}
