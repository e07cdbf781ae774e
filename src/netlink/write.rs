//! The kernel's messages from operations.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RoutePreference,
    RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::{Address, Family, Hop, IfName, Neighbour, RawAttribute, Route, Rule, address};
use crate::plan::Op;

use super::nexthop::NexthopMessage;
use super::wire::{Message, Payload};

/// Gives the number of a device.
pub type IndexOf<'a> = dyn FnMut(&IfName) -> std::io::Result<u32> + 'a;

/// The message of an operation; none for what is not done by netlink.
///
/// # Errors
/// Where a device's number cannot be had.
pub fn message(op: &Op, index: &mut IndexOf) -> std::io::Result<Option<Message>> {
    use RouteNetlinkMessage as M;
    let (message, flags) = match op {
        Op::CreateBridge { name, mac } => (M::NewLink(bridge(name, *mac)), NLM_F_CREATE | NLM_F_EXCL),
        Op::CreateVeth { name, far, mtu } => (M::NewLink(veth(name, far, *mtu)), NLM_F_CREATE | NLM_F_EXCL),
        Op::DeleteLink { dev } => (M::DelLink(link(index(dev)?)), 0),
        Op::SetUp { dev, up } => {
            let mut link = link(index(dev)?);
            link.header.change_mask = LinkFlags::Up;
            link.header.flags = if *up { LinkFlags::Up } else { LinkFlags::empty() };
            (M::SetLink(link), 0)
        }
        Op::SetNoArp { dev } => {
            let mut link = link(index(dev)?);
            link.header.change_mask = LinkFlags::Noarp;
            link.header.flags = LinkFlags::Noarp;
            (M::SetLink(link), 0)
        }
        Op::SetMtu { dev, mtu } => (M::SetLink(link_with(index(dev)?, LinkAttribute::Mtu(*mtu))), 0),
        Op::SetMac { dev, mac } => (
            M::SetLink(link_with(
                index(dev)?,
                LinkAttribute::Address(mac.as_bytes().to_vec()),
            )),
            0,
        ),
        Op::SetMaster { dev, master } => {
            let master = master.as_ref().map_or(Ok(0), &mut *index)?;
            (
                M::SetLink(link_with(index(dev)?, LinkAttribute::Controller(master))),
                0,
            )
        }
        Op::AddAddress { dev, address: a } => (
            M::NewAddress(address_message(a, dev, index(dev)?)),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
        Op::ChangeAddress { dev, address: a } => {
            (M::NewAddress(address_message(a, dev, index(dev)?)), NLM_F_REPLACE)
        }
        Op::DeleteAddress { dev, address: a } => (M::DelAddress(address_message(a, dev, index(dev)?)), 0),
        Op::AppendRoute(route) => (
            M::NewRoute(route_message(route, true, index)?),
            NLM_F_CREATE | NLM_F_APPEND,
        ),
        Op::PrependRoute(route) => (M::NewRoute(route_message(route, true, index)?), NLM_F_CREATE),
        Op::ReplaceRoute(route) => (
            M::NewRoute(route_message(route, true, index)?),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        Op::DeleteRoute(route) => (M::DelRoute(route_message(route, false, index)?), 0),
        Op::SetNexthop(object) => {
            let message = Payload::NewNexthop(NexthopMessage::of(object, index)?);
            return Ok(Some((message, NLM_F_CREATE | NLM_F_REPLACE)));
        }
        Op::DeleteNexthop(object) => {
            let message = Payload::DeleteNexthop(NexthopMessage::naming(object.id));
            return Ok(Some((message, 0)));
        }
        Op::SetNeighbour(n) => (
            M::NewNeighbour(neighbour_message(n, index(&n.dev)?)),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        Op::DeleteNeighbour(n) => (M::DelNeighbour(neighbour_message(n, index(&n.dev)?)), 0),
        Op::AddRule(rule) => (M::NewRule(rule_message(rule)), NLM_F_CREATE | NLM_F_EXCL),
        Op::DeleteRule(rule) => (M::DelRule(rule_message(rule)), 0),
        Op::SetSysctl { .. }
        | Op::Translate(_)
        | Op::StopTranslation { .. }
        | Op::AwaitRunning { .. }
        | Op::AwaitAddresses { .. }
        | Op::SolicitRouters { .. } => return Ok(None),
    };
    Ok(Some((message.into(), flags)))
}

pub(super) fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

pub(super) fn link_with(index: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = link(index);
    message.attributes.push(attribute);
    message
}

fn bridge(name: &IfName, mac: macaddr::MacAddr6) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Address(mac.as_bytes().to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    message
}

/// Both ends are down: a veth device has a carrier where both are up.
fn veth(name: &IfName, far: &IfName, mtu: u32) -> LinkMessage {
    let named = |name: &IfName| {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::Mtu(mtu)];
        message
    };
    let mut message = named(name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(far)))),
    ]));
    message
}

fn family_of(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn address_message(address: &Address, dev: &IfName, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.family());
    message.header.prefix_len = address.prefix_len;
    message.header.scope = address.scope.into();
    message.header.index = index;
    let attributes = &mut message.attributes;
    attributes.push(AddressAttribute::Local(address.local));
    attributes.push(AddressAttribute::Address(address.peer.unwrap_or(address.local)));
    if let Some(broadcast) = address.broadcast {
        attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    if address.family() == Family::V4 {
        attributes.push(AddressAttribute::Label(address.label.text(dev)));
    }
    attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(
        address.settable_flags(),
    )));
    if address.valid != address::FOREVER || address.preferred != address::FOREVER {
        let mut info = CacheInfo::default();
        info.ifa_preferred = address.preferred.min(address.valid);
        info.ifa_valid = address.valid;
        attributes.push(AddressAttribute::CacheInfo(info));
    }
    if let Some(metric) = address.metric {
        attributes.push(AddressAttribute::RoutePriority(metric));
    }
    if let Some(protocol) = address.protocol {
        attributes.push(AddressAttribute::Protocol(AddressProtocol::from(protocol)));
    }
    message
}

fn nla(raw: &RawAttribute) -> DefaultNla {
    DefaultNla::new(raw.kind, raw.value.clone())
}

/// A route's message. With `whole`, what a new route needs; else what names
/// one that is there: its key and its hops (`fib_table_delete()`,
/// `ip6_route_del()`).
fn route_message(route: &Route, whole: bool, index: &mut IndexOf) -> std::io::Result<RouteMessage> {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family_of(route.family());
    header.destination_prefix_length = route.dst.len;
    header.source_prefix_length = route.src.map_or(0, |src| src.len);
    header.tos = route.tos;
    // Larger numbers are in the attribute alone.
    header.table = u8::try_from(route.table).unwrap_or(0);
    header.protocol = route.protocol.into();
    header.scope = route.scope.into();
    header.kind = route.kind.into();
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.dst.len > 0 {
        attributes.push(RouteAttribute::Destination(route.dst.address.into()));
    }
    if let Some(src) = route.src {
        attributes.push(RouteAttribute::Source(src.address.into()));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(source) = route.prefsrc {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if let Some(id) = route.nexthop {
        attributes.push(RouteAttribute::NhId(id));
    } else if let [hop] = route.hops.as_slice() {
        if let Some(dev) = &hop.dev {
            attributes.push(RouteAttribute::Oif(index(dev)?));
        }
        attributes.extend(hop.via.map(|via| gateway(via, route.family())));
        if hop.onlink {
            message.header.flags |= RouteFlags::Onlink;
        }
        attributes.extend(hop.rest.iter().map(nla).map(RouteAttribute::Other));
    } else {
        let hops: std::io::Result<Vec<_>> = route
            .hops
            .iter()
            .map(|h| hop_message(h, route.family(), index))
            .collect();
        attributes.push(RouteAttribute::MultiPath(hops?));
    }
    if whole {
        if !route.metrics.is_empty() {
            let other = |m: &crate::model::route::RouteMetric| {
                RouteMetric::Other(DefaultNla::new(m.kind, m.value.clone()))
            };
            attributes.push(RouteAttribute::Metrics(route.metrics.iter().map(other).collect()));
        }
        if let Some(preference) = route.preference {
            attributes.push(RouteAttribute::Preference(RoutePreference::from(preference)));
        }
        if let Some(seconds) = route.expires {
            attributes.push(RouteAttribute::Expires(seconds));
        }
        attributes.extend(route.rest.iter().map(nla).map(RouteAttribute::Other));
    }
    Ok(message)
}

fn gateway(via: IpAddr, family: Family) -> RouteAttribute {
    if Family::of(&via) == family {
        RouteAttribute::Gateway(via.into())
    } else {
        // IPv4 by way of an IPv6 neighbour (RFC 5549).
        RouteAttribute::Via(RouteVia::from(via))
    }
}

fn hop_message(hop: &Hop, family: Family, index: &mut IndexOf) -> std::io::Result<RouteNextHop> {
    let mut message = RouteNextHop::default();
    if let Some(dev) = &hop.dev {
        message.interface_index = index(dev)?;
    }
    message.hops = hop.weight;
    if hop.onlink {
        message.flags = RouteNextHopFlags::Onlink;
    }
    message.attributes.extend(hop.via.map(|via| gateway(via, family)));
    message
        .attributes
        .extend(hop.rest.iter().map(nla).map(RouteAttribute::Other));
    Ok(message)
}

fn neighbour_message(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(neighbour.family());
    message.header.ifindex = index;
    message.header.state = NeighbourState::from(neighbour.state);
    message.header.flags = NeighbourFlags::from_bits_retain(neighbour.flags);
    message
        .attributes
        .push(NeighbourAttribute::Destination(neighbour.address.into()));
    if let Some(mac) = &neighbour.mac {
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.as_bytes().to_vec()));
    }
    message
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = family_of(rule.family);
    header.dst_len = rule.header.dst_len;
    header.src_len = rule.header.src_len;
    header.tos = rule.header.tos;
    header.table = rule.header.table;
    header.action = rule.header.action.into();
    header.flags = RuleFlags::from_bits_retain(rule.header.flags);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    if let Some(name) = &rule.iif {
        attributes.push(RuleAttribute::Iifname(name.to_string()));
    }
    if let Some(name) = &rule.oif {
        attributes.push(RuleAttribute::Oifname(name.to_string()));
    }
    attributes.extend(rule.rest.iter().map(nla).map(RuleAttribute::Other));
    message
}
