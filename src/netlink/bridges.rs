//! The options of bridges.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeQuerierState, BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};

use crate::model::IfName;
use crate::model::bridge::{Options, Setting};

use super::wire::Wire;
use super::{KernelError, write};

/// The options that a device's description tells; none of what is no bridge.
pub(super) fn options(message: &LinkMessage) -> Option<Options> {
    let infos = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let attributes = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(attributes)) => Some(attributes),
        _ => None,
    })?;
    let mut options = Options::default();
    for attribute in attributes {
        match attribute {
            InfoBridge::StpState(state) => options.stp = (*state).into(),
            InfoBridge::ForwardDelay(delay) => options.forward_delay = *delay,
            InfoBridge::MulticastSnooping(on) => options.snooping = *on,
            InfoBridge::NfCallIpTables(on) => options.calls_v4 = *on,
            InfoBridge::NfCallIp6Tables(on) => options.calls_v6 = *on,
            InfoBridge::MulticastQuerier(on) => options.querier = *on,
            // The timer is there as long as another querier is
            // (br_multicast_dump_querier_state(), net/bridge/br_multicast.c).
            InfoBridge::MulticastQuerierState(states) => {
                for state in states {
                    match state {
                        BridgeQuerierState::Ipv4OtherTimer(_) => options.other_querier_v4 = true,
                        BridgeQuerierState::Ipv6OtherTimer(_) => options.other_querier_v6 = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(options)
}

/// Sets one option of a bridge.
///
/// # Errors
/// What the kernel answered: ENODEV where there is no such device.
pub fn set(bridge: &IfName, setting: Setting, value: u32) -> Result<(), KernelError> {
    let index = nix::net::if_::if_nametoindex(bridge.as_str()).map_err(io::Error::from)?;
    let option = match setting {
        Setting::Stp => InfoBridge::StpState(BridgeStpState::from(value)),
        Setting::Snooping => InfoBridge::MulticastSnooping(value != 0),
    };
    let info = LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![option])),
    ]);
    Wire::open()?.send((
        RouteNetlinkMessage::NewLink(write::link_with(index, info)).into(),
        0,
    ))
}
