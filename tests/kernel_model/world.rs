//! Random hosts: an uplink `eth0` with an address of its own, and operations
//! that a person may have done to it, also ones that the kernel refuses.

use std::net::IpAddr;

use proptest::prelude::*;
use vmbr::model::address::{FOREVER, flag, scope};
use vmbr::model::route::{kind, protocol, table};
use vmbr::model::rule::RuleHeader;
use vmbr::model::{
    Address, Family, Hop, HostState, IfName, Label, Link, Neighbour, Prefix, Route, Rule, neighbour,
};
use vmbr::plan::Op;

use super::Kernel;

/// A routing table beside the main one.
const TABLE: u8 = 77;
/// The NIC that becomes a port.
pub const UPLINK: &str = "eth0";

fn dev(name: &str) -> IfName {
    name.parse().unwrap()
}

/// A host with `eth0` and `eth1`, up and without a network.
pub fn bare() -> Kernel {
    let link = |index: u32, name: &str| Link {
        up: true,
        carrier: true,
        running: true,
        kind: Some("veth".into()),
        ..super::bridge(index, &dev(name), [2, 0, 0, 0, 0, index as u8].into())
    };
    let settings = [
        ("ipv4/conf/rp_filter", "0"),
        ("ipv4/conf/promote_secondaries", "0"),
        ("ipv6/conf/addr_gen_mode", "1"),
    ];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let names = ["all", "default", "eth0", "eth1"];
    Kernel::from(HostState {
        links: vec![link(2, UPLINK), link(3, "eth1")],
        sysctls: names.map(|n| (n.to_owned(), settings.clone().into())).into(),
        ..HostState::default()
    })
}

/// The routes to its prefix that the kernel makes with an address
/// (`fib_add_ifaddr()`, `addrconf_prefix_route()`).
pub fn prefix_routes(address: &Address, dev: &IfName) -> Vec<Route> {
    let v4 = address.family() == Family::V4;
    let alone = address.on_link().is_host() && address.peer.is_none();
    let secondary = v4 && address.flags & flag::SECONDARY != 0;
    if !address.has_prefix_route() || secondary || (v4 && alone) {
        return Vec::new();
    }
    let mut made = route(address.on_link(), dev, None);
    made.protocol = protocol::KERNEL;
    made.metric = address.metric.unwrap_or(if v4 { 0 } else { 256 });
    made.prefsrc = v4.then_some(address.local);
    made.expires = (!v4 && !address.is_permanent()).then_some(address.valid);
    vec![made]
}

fn route(dst: Prefix, dev: &IfName, via: Option<IpAddr>) -> Route {
    let v4 = dst.address.is_ipv4();
    Route {
        dst,
        src: None,
        table: table::MAIN,
        kind: kind::UNICAST,
        protocol: 4,
        scope: if v4 && via.is_none() {
            scope::LINK
        } else {
            scope::UNIVERSE
        },
        tos: 0,
        metric: if v4 { 0 } else { 1024 },
        prefsrc: None,
        hops: vec![Hop {
            dev: Some(dev.clone()),
            via,
            ..Hop::default()
        }],
        metrics: Vec::new(),
        preference: (!v4).then_some(0),
        expires: None,
        nexthop: None,
        rest: Vec::new(),
    }
}

/// An ordinary address.
pub fn address(local: IpAddr, prefix_len: u8) -> Address {
    let link_local = matches!(local, IpAddr::V6(a) if vmbr::model::address::is_link_local(&a));
    Address {
        local,
        peer: None,
        prefix_len,
        broadcast: None,
        label: Label::Device,
        scope: if link_local { scope::LINK } else { scope::UNIVERSE },
        flags: if local.is_ipv6() { flag::NODAD } else { 0 },
        preferred: FOREVER,
        valid: FOREVER,
        metric: None,
        protocol: None,
    }
}

fn addresses() -> impl Strategy<Value = Address> {
    let v4 = (1u8..4, 10u8..16, prop::sample::select(vec![24u8, 25, 32]))
        .prop_map(|(net, host, len)| address([10, 0, net, host].into(), len));
    let v6 = (1u16..4, 10u16..16, prop::sample::select(vec![64u8, 48, 128])).prop_map(|(net, host, len)| {
        let prefix = if net == 3 { [0xfe80, 0] } else { [0x2001, 0xdb8] };
        let ip: IpAddr = [
            prefix[0],
            prefix[1],
            0,
            if net == 3 { 0 } else { net },
            0,
            0,
            0,
            host,
        ]
        .into();
        address(ip, if net == 3 { 64 } else { len })
    });
    let peer = prop::option::weighted(0.15, 10u8..16);
    let v4 = (v4, peer, prop::bool::weighted(0.2)).prop_map(|(address, peer, labelled)| Address {
        peer: peer.map(|host| [10, 1, 1, host].into()),
        label: if labelled {
            Label::Suffix(":a".into())
        } else {
            Label::Device
        },
        ..address
    });
    let lifetime = prop_oneof![3 => Just(FOREVER), 1 => Just(5000u32)];
    (prop_oneof![v4, v6], lifetime, prop::bool::weighted(0.15)).prop_map(|(address, valid, bare)| Address {
        valid,
        preferred: valid,
        flags: address.flags | if bare { flag::NOPREFIXROUTE } else { 0 },
        ..address
    })
}

fn routes(dev: IfName) -> impl Strategy<Value = Route> {
    let prefix = prop_oneof![Just(0u8), Just(16)];
    let source = prop::option::weighted(0.3, 10u8..16);
    // A gateway on the link by word alone, a second one, another table.
    let odd = (
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.2),
    );
    let all = (any::<bool>(), prefix, 1u8..4, 0u32..3, source, odd);
    all.prop_map(
        move |(v4, len, net, metric, source, (onlink, second, elsewhere))| {
            if v4 {
                let to = Prefix::containing([172, 16, 0, 0].into(), len);
                let mut made = route(to, &dev, Some([10, 0, net, 1].into()));
                made.metric = metric;
                if onlink {
                    made.hops[0].via = Some([172, 31, 0, net].into());
                    made.hops[0].onlink = true;
                }
                if second {
                    let mut hop = made.hops[0].clone();
                    hop.via = hop.via.map(|_| [10, 0, net, 2].into());
                    hop.onlink = false;
                    made.hops.push(hop);
                }
                if elsewhere {
                    made.table = TABLE.into();
                }
                made.prefsrc = source.map(|host| [10, 0, net, host].into());
                made
            } else {
                let to = Prefix::containing([0x2001, 0xdbf, 0, 0, 0, 0, 0, 0].into(), len * 2);
                let mut made = route(to, &dev, Some([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(net)].into()));
                // Equal ones would become one route with several hops.
                let other = if dev.as_str() == UPLINK { 0 } else { 5 };
                made.metric = 1000 + metric * 10 + u32::from(net) + other;
                if elsewhere {
                    made.table = TABLE.into();
                }
                made
            }
        },
    )
}

/// A rule for what is forwarded, which no reply of the host itself is.
fn rules() -> impl Strategy<Value = Rule> {
    (any::<bool>(), 100u32..103).prop_map(|(v4, priority)| Rule {
        family: if v4 { Family::V4 } else { Family::V6 },
        priority,
        iif: Some(dev(UPLINK)),
        oif: None,
        header: RuleHeader {
            table: TABLE,
            // FR_ACT_TO_TBL
            action: 1,
            ..RuleHeader::default()
        },
        rest: Vec::new(),
    })
}

fn neighbours() -> impl Strategy<Value = Neighbour> {
    (1u8..4, 200u8..203).prop_map(|(net, host)| Neighbour {
        dev: dev(UPLINK),
        address: [10, 0, net, host].into(),
        mac: Some([2, 0, 0, 0, 1, host].into()),
        state: neighbour::state::PERMANENT,
        flags: 0,
    })
}

fn deeds() -> impl Strategy<Value = Op> {
    let eth = prop_oneof![4 => Just(dev(UPLINK)), 1 => Just(dev("eth1"))];
    let setting = prop_oneof![
        ("ipv4/conf/rp_filter", prop::sample::select(vec!["0", "1", "2"])),
        (
            "ipv4/conf/promote_secondaries",
            prop::sample::select(vec!["0", "1"])
        ),
    ]
    .boxed();
    prop_oneof![
        1 => rules().prop_map(Op::AddRule),
        1 => neighbours().prop_map(Op::SetNeighbour),
        1 => prop::bool::weighted(0.75).prop_map(|up| Op::SetUp { dev: dev(UPLINK), up }),
        5 => (eth.clone(), addresses()).prop_map(|(dev, address)| Op::AddAddress { dev, address }),
        3 => eth.prop_flat_map(routes).prop_map(Op::AppendRoute),
        1 => addresses().prop_map(|a| {
            Op::DeleteRoute(route(a.on_link(), &dev(UPLINK), None))
        }).prop_map(|op| match op {
            Op::DeleteRoute(mut r) => { r.protocol = protocol::KERNEL; r.metric = 0; Op::DeleteRoute(r) }
            op => op,
        }),
        1 => (setting, prop::sample::select(vec!["all", UPLINK])).prop_map(|((key, value), name)| {
            Op::SetSysctl { dev: dev(name), key, value: value.into() }
        }),
    ]
}

/// What most hosts have: an address and a default route a family, and of IPv4
/// a second address of the same network, or a second hop.
fn ordinary() -> impl Strategy<Value = Vec<Op>> {
    let often = || prop::option::weighted(0.7, 10u8..16);
    let sometimes = || prop::bool::weighted(0.2);
    let v4 = (often(), sometimes(), sometimes(), 0u32..3).prop_map(|(host, second, hops, metric)| {
        let mut deeds = Vec::new();
        let mut add = |host: u8| {
            deeds.push(Op::AddAddress {
                dev: dev(UPLINK),
                address: address([10, 0, 1, host].into(), 24),
            });
        };
        let Some(host) = host else {
            return deeds;
        };
        add(host);
        if second {
            add(host + 10);
        }
        let to = Prefix::containing([0, 0, 0, 0].into(), 0);
        let mut default = route(to, &dev(UPLINK), Some([10, 0, 1, 1].into()));
        default.metric = metric;
        if hops {
            let mut hop = default.hops[0].clone();
            hop.via = Some([10, 0, 1, 2].into());
            default.hops.push(hop);
        }
        deeds.push(Op::AppendRoute(default));
        deeds
    });
    let v6 = (often(), 0u32..3).prop_map(|(host, metric)| {
        let Some(host) = host else {
            return Vec::new();
        };
        let ip: IpAddr = [0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::from(host)].into();
        let to = Prefix::containing([0u16; 8].into(), 0);
        let mut default = route(to, &dev(UPLINK), Some([0xfe80, 0, 0, 0, 0, 0, 0, 1].into()));
        default.metric = 1000 + metric * 10;
        let address = Op::AddAddress {
            dev: dev(UPLINK),
            address: address(ip, 64),
        };
        vec![address, Op::AppendRoute(default)]
    });
    (v4, v6).prop_map(|(v4, v6)| [v4, v6].concat())
}

/// What was done to a bare host. Left out are hosts with a gateway that is on
/// no link any more: no program could add its route again.
pub fn histories() -> impl Strategy<Value = Vec<Op>> {
    (ordinary(), prop::collection::vec(deeds(), 0..12))
        .prop_map(|(before, deeds)| [before, deeds].concat())
        .prop_filter("a gateway on no link", |h| host(h).gateways_are_on_links())
}

/// The host with that history; what the kernel refuses has no effect.
pub fn host(history: &[Op]) -> Kernel {
    let mut kernel = bare();
    for op in history {
        let _ = kernel.apply(op);
    }
    kernel
}
