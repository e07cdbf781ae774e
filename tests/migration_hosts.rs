//! Every kind of host that can be made in namespaces goes up and down again:
//! the bridge carries exactly what the NIC carried, and afterwards the NIC
//! does, as if nothing had been.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;

use host::{Host, V4, V6};

/// Goes up and down; `v4` and `v6` are the host's addresses for pings.
fn there_and_back(hint: &str, script: &str, v4: Option<&str>, v6: Option<&str>) {
    let host = Host::new(hint, script);
    let before = host.state();
    host.ping_both_ways(v4, v6);

    let up = host.vmbr(&["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    let bridged = host.state();
    host.ping_both_ways(v4, v6);
    before.assert_moved(&bridged, "eth0", "br0");

    let down = host.vmbr(&["down", "br0"]);
    assert_eq!(down.code(), 0, "{down:?}");
    let after = host.state();
    host.ping_both_ways(v4, v6);
    before.assert_same(&after);
}

macro_rules! hosts {
    ($($name:ident: $v4:expr, $v6:expr, $script:expr;)*) => {
        $(#[test] fn $name() {
            there_and_back(&stringify!($name).replace('_', "-"), $script, $v4, $v6);
        })*
    };
}

hosts! {
    ipv4_only: V4, None, "
        sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
        ip link set eth0 up
        ip addr add 192.0.2.21/24 brd + dev eth0
        ip route add default via 192.0.2.1";
    ipv6_only: None, V6, "
        ip link set eth0 up
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 2001:db8::1";
    dual_stack: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 brd + dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1
        ip route add default via fe80::1 dev eth0";
    several_addresses: V4, V6, "
        ip link set eth0 up
        for a in 192.0.2.21/24 192.0.2.22/24 192.0.2.23/25 198.51.100.5/24 198.51.100.4/24 192.0.2.20/32 192.0.2.24/24; do
            ip addr add $a dev eth0; done
        for a in 2001:db8::21/64 2001:db8::20/64 2001:db8::23/128 2001:db8:5::1/48 fe80::99/64; do
            ip addr add $a dev eth0 nodad; done
        ip route add default via 192.0.2.1 src 192.0.2.23
        ip route add default via 2001:db8::1 src 2001:db8::20";
    several_addresses_promoted: V4, V6, "
        sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1
        ip link set eth0 up
        for a in 192.0.2.21/24 192.0.2.22/24 198.51.100.5/24 198.51.100.4/24 192.0.2.24/24; do ip addr add $a dev eth0; done
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1";
    peers: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21 peer 192.0.2.1/32 dev eth0
        ip addr add 192.0.2.21 peer 192.0.2.2/32 dev eth0
        ip addr add 198.51.100.7 peer 203.0.113.0/24 dev eth0
        ip addr add 2001:db8::21 peer 2001:db8::1/128 dev eth0 nodad
        ip route add default via 192.0.2.1
        # The route to a peer comes by deferred work (addrconf_dad_work()).
        until ip -6 route show 2001:db8::1 | grep -q eth0; do sleep 0.01; done
        ip route add default via 2001:db8::1 dev eth0";
    labels_and_scopes: V4, None, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 brd + dev eth0
        ip addr add 192.0.2.30/24 brd 192.0.2.255 dev eth0 label eth0:web
        ip addr add 198.51.100.9/24 dev eth0 label eth0:1 scope link
        ip addr add 203.0.113.9/32 dev eth0 scope host
        ip route add default via 192.0.2.1";
    lifetimes: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 brd + dev eth0 valid_lft 3000 preferred_lft 1500
        ip addr add 192.0.2.22/24 dev eth0 valid_lft forever preferred_lft 0
        ip addr add 2001:db8::21/64 dev eth0 valid_lft 4000 preferred_lft 2000
        ip addr add 2001:db8::22/64 dev eth0 valid_lft 4000 preferred_lft 0
        ip addr add 2001:db8::23/64 dev eth0 preferred_lft 0
        ip route add default via 192.0.2.1
        ip -6 route add default via 2001:db8::1 expires 3000
        ip -6 route add 2001:db8:77::/48 via fe80::2 dev eth0 expires 900";
    address_metrics_and_flags: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 brd + dev eth0 metric 150
        ip addr add 198.51.100.3/24 dev eth0 noprefixroute
        ip addr add 2001:db8::21/64 dev eth0 metric 333 nodad
        ip addr add 2001:db8:3::1/64 dev eth0 noprefixroute
        ip addr add 2001:db8:4::1/64 dev eth0 home
        ip route add 198.51.100.0/24 dev eth0 proto static scope link src 198.51.100.3 metric 9
        ip route add default via 192.0.2.1";
    prefix_routes_removed: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 198.51.100.3/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip addr add 2001:db8:3::1/64 dev eth0
        ip route del 198.51.100.0/24 dev eth0
        ip -6 route del 2001:db8:3::/64 dev eth0
        ip route add default via 192.0.2.1";
    tables_and_rules: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1
        ip route add default via 192.0.2.2 table 100
        ip route add 192.0.2.0/24 dev eth0 table 100 scope link
        ip route add 203.0.113.0/24 via 192.0.2.2 table 70000 metric 7
        ip -6 route add default via 2001:db8::2 table 100
        ip -6 route add 2001:db8:9::/48 via fe80::2 dev eth0 table 70000
        ip rule add from 192.0.2.21 table 100 priority 1000
        ip rule add iif eth0 lookup 100 priority 1001
        ip rule add oif eth0 fwmark 0x10/0xff lookup 70000 priority 1002
        ip rule add not from 192.0.2.0/25 to 203.0.113.0/24 iif eth0 tos 0x10 lookup 100 priority 1003
        ip rule add iif eth0 ipproto tcp dport 22 uidrange 0-99 lookup main suppress_prefixlength 0 priority 1004
        ip -6 rule add iif eth0 lookup 100 priority 1001
        ip -6 rule add oif eth0 lookup 70000 priority 1002
        ip -6 rule add iif eth0 type prohibit to 2001:db8:f::/48 priority 1003";
    route_attributes: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0 nodad
        ip route add default via 192.0.2.1 proto dhcp src 192.0.2.21 metric 100 mtu lock 1400 advmss 1300 initcwnd 20 rto_min 50ms
        ip route add default via 192.0.2.2 metric 200 congctl reno
        ip route add 203.0.113.0/25 dev eth0 scope link proto static
        ip route add 203.0.113.128/25 via 10.9.9.9 dev eth0 onlink
        ip route add 203.0.113.7 via 192.0.2.1 tos 0x10
        ip route add 203.0.113.8 via inet6 fe80::1 dev eth0
        ip route add blackhole 198.51.100.0/24
        ip -6 route add default via fe80::1 dev eth0 proto static metric 1024 pref high mtu 1400 hoplimit 61 expires 1700
        ip -6 route add 2001:db8:8::/48 via 2001:db8::1 metric 50 src 2001:db8::21 pref low
        ip -6 route add 2001:db8:8::/48 via 2001:db8::2 metric 51
        ip -6 route add 2001:db8:7::/48 dev eth0 proto static
        ip -6 route add 2001:db8:6::/48 via 2001:db8:ffff::1 dev eth0 onlink
        ip -6 route add unreachable 2001:db8:5::/48";
    multipath: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default nexthop via 192.0.2.1 weight 2 nexthop via 192.0.2.2 weight 1
        ip -6 route add default nexthop via 2001:db8::1 nexthop via fe80::2 dev eth0 weight 3
        ip -6 route add 2001:db8:8::/48 via 2001:db8::1
        ip -6 route append 2001:db8:8::/48 via 2001:db8::2";
    multipath_with_another_nic: V4, V6, "
        ip link set eth0 up
        ip link set eth1 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0 nodad
        ip addr add 198.51.100.21/24 dev eth1
        ip addr add 2001:db8:1::21/64 dev eth1
        ip route add default nexthop via 192.0.2.1 nexthop via 198.51.100.1
        ip -6 route add default nexthop via 2001:db8::1 nexthop via 2001:db8:1::1
        ip route add 203.0.113.0/24 dev eth1 src 192.0.2.21
        ip -6 route add 2001:db8:6::/48 dev eth1 src 2001:db8::21";
    nexthop_objects: V4, V6, "
        ip link set eth0 up
        ip link set eth1 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0 nodad
        ip addr add 198.51.100.21/24 dev eth1
        until ip nexthop add id 1 via 192.0.2.1 dev eth0 proto static 2>/dev/null; do sleep 0.05; done
        until ip nexthop add id 2 via 198.51.100.1 dev eth1 2>/dev/null; do sleep 0.05; done
        ip nexthop add id 3 via 203.0.113.9 dev eth0 onlink
        ip nexthop add id 4 dev eth0
        ip nexthop add id 5 blackhole
        ip nexthop add id 6 via 2001:db8::1 dev eth0
        ip nexthop add id 7 via fe80::2 dev eth0
        ip nexthop add id 10 group 1,3/2 proto static
        ip nexthop add id 11 group 6/7
        ip nexthop add id 12 group 2
        ip route add default nhid 10
        ip route add 203.0.113.0/25 nhid 3 src 192.0.2.21 metric 7
        ip route add 203.0.113.128/26 nhid 4
        ip route add 10.1.0.0/16 nhid 5
        ip route add 10.2.0.0/16 nhid 12
        ip route add 10.3.0.0/16 nhid 1 table 100 mtu 1400
        ip -6 route add default nhid 11
        ip -6 route add 2001:db8:9::/48 nhid 6 metric 33
        ip -6 route add 2001:db8:8::/48 via 2001:db8::2";
    nexthop_objects_that_routes_do_not_tell: V4, V6, "
        sysctl -qw net.ipv4.nexthop_compat_mode=0
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0 nodad
        until ip nexthop add id 1 via 192.0.2.1 dev eth0 2>/dev/null; do sleep 0.05; done
        ip nexthop add id 2 via 2001:db8::1 dev eth0
        ip route add default nhid 1
        ip -6 route add default nhid 2";
    two_nics_alike: V4, V6, "
        ip link set eth1 up
        ip addr add 192.0.2.99/24 dev eth1
        ip addr add 2001:db8::99/64 dev eth1
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route del 192.0.2.0/24 dev eth1
        ip route append 192.0.2.0/24 dev eth1 scope link src 192.0.2.99 proto kernel
        ip -6 route del 2001:db8::/64 dev eth1
        ip -6 route append 2001:db8::/64 dev eth1 proto kernel metric 256";
    no_address: None, None, "
        sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=1
        ip link set eth0 up";
    only_link_local: None, None, "ip link set eth0 up";
    no_gateway: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0";
    small_mtu: V4, V6, "
        ip link set eth0 mtu 1400 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1";
    large_mtu: V4, V6, "
        ip link set eth0 mtu 9000 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        sysctl -qw net.ipv6.conf.eth0.mtu=1400
        ip route add default via 192.0.2.1";
    neighbours: V4, V6, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0
        ip neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev eth0
        ip neigh add 192.0.2.78 lladdr 02:00:00:00:00:78 dev eth0 nud reachable extern_learn
        ip neigh add proxy 192.0.2.200 dev eth0
        ip neigh add proxy 2001:db8::200 dev eth0
        ip route add default via 192.0.2.1";
    strict_rp_filter_of_all: V4, V6, "
        sysctl -qw net.ipv4.conf.all.rp_filter=1
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1";
    strict_rp_filter_of_the_nic: V4, V6, "
        sysctl -qw net.ipv4.conf.eth0.rp_filter=1
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1";
    settings: V4, V6, "
        sysctl -qw net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.default.arp_filter=1 net.ipv6.conf.default.hop_limit=60
        sysctl -qw net.ipv4.conf.eth0.rp_filter=2 net.ipv4.conf.eth0.arp_ignore=1 net.ipv4.conf.eth0.arp_announce=2
        sysctl -qw net.ipv4.conf.eth0.forwarding=1 net.ipv4.conf.eth0.proxy_arp=1 net.ipv4.conf.eth0.send_redirects=0
        sysctl -qw net.ipv6.conf.eth0.forwarding=1 net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.eth0.use_tempaddr=2
        sysctl -qw net.ipv6.conf.eth0.hop_limit=42 net.ipv6.conf.eth0.router_solicitations=0
        sysctl -qw net.ipv4.neigh.eth0.base_reachable_time_ms=45000 net.ipv6.neigh.eth0.gc_stale_time=77
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1";
    forwarding_host: V4, V6, "
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip link set eth0 up
        ip link set eth1 up
        ip addr add 192.0.2.21/24 dev eth0
        ip addr add 198.51.100.21/24 dev eth1
        ip addr add 2001:db8::21/64 dev eth0
        ip route add default via 192.0.2.1";
    stable_privacy: None, V6, "
        sysctl -qw net.ipv6.conf.eth0.stable_secret=2001:db8::5ec1:e70f
        ip link set eth0 up
        ip addr add 2001:db8::21/64 dev eth0
        ip -6 route add default via fe80::1 dev eth0";
    random_link_local: None, V6, "
        sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=3
        ip link set eth0 up
        ip addr add 2001:db8::21/64 dev eth0";
    equal_cost_routes_of_ipv4: V4, None, "
        ip link set eth0 up
        ip addr add 192.0.2.21/24 dev eth0
        ip route add 203.0.113.0/24 via 192.0.2.1
        ip route append 203.0.113.0/24 via 192.0.2.2
        ip route append 203.0.113.0/24 via 192.0.2.77
        ip route add default via 192.0.2.1";
}

/// A NIC that is down has addresses without routes; the bridge is up and has
/// their routes, and the NIC is down again afterwards.
#[test]
fn nic_down() {
    let host = Host::new(
        "nic-down",
        // A NIC that was never up has no queueing discipline yet.
        "sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=1
         ip link set eth0 up
         ip link set eth0 down
         ip addr add 192.0.2.21/24 dev eth0
         ip addr add 192.0.2.22/24 dev eth0
         ip addr add 198.51.100.5/32 dev eth0",
    );
    let before = host.state();
    let up = host.vmbr(&["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    host.ping_both_ways(V4, None);
    let down = host.vmbr(&["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    before.assert_same(&host.state());
}

/// Addresses of one IPv6 prefix, one of which ends: the kernel makes one route
/// for them, which does not.
#[test]
fn nic_down_with_addresses_that_share_a_prefix() {
    let host = Host::new(
        "nic-down-shared",
        "sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=1
         ip link set eth0 up
         ip link set eth0 down
         ip addr add 192.0.2.21/24 dev eth0
         ip addr add 2001:db8::21/64 dev eth0 nodad
         ip addr add 2001:db8::22/64 dev eth0 nodad valid_lft 5000 preferred_lft 4000",
    );
    let up = host.vmbr(&["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    for address in ["2001:db8::21", "2001:db8::22"] {
        host.ping_both_ways(V4, Some(address));
    }
    let down = host.vmbr(&["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
}
