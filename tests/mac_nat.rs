//! MAC-NAT against real networks: guests, a host, a gateway and another
//! station, each a whole Linux, and a listener behind the uplink that fails
//! the test for any MAC but the uplink's.
#![cfg(feature = "mac-nat")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/air.rs"]
mod air;
mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/packets.rs"]
mod packets;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use air::{A, Air, B, GATEWAY, STATION, UPLINK, reaches, sh, soon, unreachable};
use common::{Namespace, run, wait_until};
use frames::{BROADCAST, Sender, advertisement, frame, mac};
use lease::Server;
use machine::Machine;
use packets::{ARP, IPV4, IPV6, arp_as, ipv4};
use vmbr::mac_nat::{Settings, Way};

const BOTH: [Way; 2] = [Way::Tcx, Way::Clsact];

/// Without this, that nothing else was heard would say nothing.
#[test]
fn a_plain_bridge_has_every_mac_in_the_air() {
    let mut air = Air::bare("plain");
    sh(&air.host, "ip link set uplink master br0");
    sh(&air.a, "ip link set eth0 up; ip addr add 192.0.2.50/24 dev eth0");
    reaches(&air.a, "192.0.2.1");
    assert!(air.heard().contains_key(A));
}

#[test]
fn everyone_reaches_everyone() {
    for way in BOTH {
        let air = Air::new("reach", way);
        for v in ["192.0.2.", "2001:db8::"] {
            let to = |number: &str| format!("{v}{number}");
            for number in ["1", "9", "21", "51"] {
                reaches(&air.a, &to(number));
            }
            reaches(&air.host, &to("50"));
            reaches(&air.host, &to("51"));
            reaches(&air.host, &to("9"));
            // Nobody in the air has heard of b's address before.
            reaches(&air.station, &to("51"));
            reaches(&air.station, &to("21"));
            reaches(&air.lan, &to("50"));
            // In fragments.
            sh(&air.a, &format!("ping -c 2 -i 0.2 -W 2 -s 4000 {}", to("9")));
            sh(
                &air.station,
                &format!("ping -c 2 -i 0.2 -W 2 -s 4000 {}", to("50")),
            );
        }
        let neighbours = sh(&air.station, "ip neigh");
        assert!(!neighbours.contains("52:54:00"), "{neighbours}");
        // The bridge knows who is behind the air port: it floods nothing.
        let table = sh(&air.host, "bridge fdb show dev air0");
        for mac in [GATEWAY, STATION, UPLINK] {
            assert!(table.contains(mac), "{mac}: {table}");
        }
        let guest = air.guest("192.0.2.51").unwrap();
        assert_eq!(
            (guest.mac.to_string().to_lowercase(), guest.port),
            (B.to_owned(), air.index("pb"))
        );
        air.assert_one_mac();
    }
}

/// Sends 20 MB by TCP, and compares what arrives.
fn carries(from: &Namespace, to: &Namespace, address: &str) {
    let directory = std::env::temp_dir().join(format!("vmbr-air-{}", to.name()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir(&directory).unwrap();
    let path = directory.display();
    sh(to, &format!("head -c 20000000 /dev/urandom >{path}/sent"));
    let v6 = address.contains(':');
    let (listen, connect) = if v6 {
        ("TCP6-LISTEN", format!("TCP6:[{address}]"))
    } else {
        ("TCP4-LISTEN", format!("TCP4:{address}"))
    };
    let mut listener = to
        .command("socat")
        .args([
            "-u",
            &format!("{listen}:7000,reuseaddr"),
            &format!("CREATE:{path}/arrived"),
        ])
        .spawn()
        .unwrap();
    assert!(soon(to, 5, "ss -ltn | grep -q :7000"), "socat does not listen");
    sh(
        from,
        &format!("timeout 20 socat -u OPEN:{path}/sent {connect}:7000"),
    );
    listener.wait().unwrap();
    sh(to, &format!("cmp {path}/sent {path}/arrived"));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn tcp_arrives_as_it_was_sent() {
    for way in BOTH {
        let air = Air::new("tcp", way);
        carries(&air.a, &air.station, "192.0.2.9");
        carries(&air.station, &air.a, "2001:db8::50");
        if way == Way::Tcx {
            carries(&air.station, &air.a, "192.0.2.50");
            carries(&air.a, &air.station, "2001:db8::9");
            carries(&air.a, &air.host, "192.0.2.21");
            carries(&air.host, &air.b, "192.0.2.51");
            carries(&air.host, &air.b, "2001:db8::51");
            carries(&air.a, &air.b, "192.0.2.51");
        }
        air.assert_one_mac();
    }
}

/// A guest's udhcpc, which leaves the answer's way to the server.
fn lease(guest: &Namespace) -> (Machine, String) {
    let machine = Machine::new(guest);
    machine.sh("ip link set eth0 up");
    machine.start(
        "busybox",
        &["udhcpc", "-f", "-i", "eth0", "-s", "/etc/udhcpc/default.script"],
    );
    machine.until("ip -4 route | grep -q ^default");
    let address = machine.sh("ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'");
    (machine, address.trim().to_owned())
}

#[test]
fn dhcp_gives_each_guest_an_address() {
    for chaddr in [false, true] {
        let air = Air::bare("dhcp");
        let settings = Settings {
            dhcp_chaddr: chaddr,
            ..air.settings()
        };
        air.attach_with(Way::Tcx, &settings, &air.addresses()).unwrap();
        let server = Server::start(&air.lan);
        let (_a, a) = lease(&air.a);
        let (_b, b) = lease(&air.b);
        assert_ne!(a, b);
        let told = if chaddr { [UPLINK, UPLINK] } else { [A, B] };
        assert_eq!([&server.lease(&a).mac, &server.lease(&b).mac], told);
        for address in [&a, &b] {
            reaches(&air.station, address);
        }
        reaches(&air.a, "192.0.2.1");
        air.assert_one_mac();
    }
}

#[test]
fn a_router_s_advertisement_gives_guests_addresses() {
    let air = Air::bare("slaac");
    air.attach(Way::Tcx).unwrap();
    let server = Server::both(&air.lan);
    for (guest, mac) in [(&air.a, A), (&air.b, B)] {
        sh(
            guest,
            "sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=0; ip link set eth0 up",
        );
        let address = format!("2001:db8::5054:ff:fe00:{}", mac.rsplit(':').next().unwrap());
        let address = address.replace(":0a", ":a").replace(":0b", ":b");
        // Duplicate address detection is over, too.
        let there = soon(
            guest,
            10,
            &format!("ip -6 -o addr show dev eth0 -tentative | grep -q {address}"),
        );
        assert!(there, "no {address}: {}", sh(guest, "ip -6 addr; ip -6 route"));
        reaches(guest, "2001:db8::1");
        reaches(&air.station, &address);
        reaches(&air.host, &address);
    }
    drop(server);
    air.assert_one_mac();
}

/// An ARP announcement.
fn announces(from: frames::Mac, address: Ipv4Addr) -> Vec<u8> {
    frame(
        BROADCAST,
        from,
        ARP,
        &arp_as(1, 1, (from, address), ([0; 6], address)),
    )
}

#[test]
fn nobody_claims_what_is_the_hosts_or_the_gateways() {
    let air = Air::new("claims", Way::Tcx);
    for ns in [&air.host, &air.station, &air.b] {
        reaches(ns, "192.0.2.1");
        reaches(ns, "2001:db8::1");
    }
    let a = mac(A);
    let sender = Sender::on(&air.a, "eth0");
    let gateway = "2001:db8::1".parse().unwrap();
    let all = "ff02::1".parse().unwrap();
    let reply = |to: frames::Mac| {
        let packet = arp_as(
            1,
            2,
            (a, Ipv4Addr::new(192, 0, 2, 1)),
            (to, Ipv4Addr::new(192, 0, 2, 21)),
        );
        frame(to, a, ARP, &packet)
    };
    let frames = [
        announces(a, Ipv4Addr::new(192, 0, 2, 1)),
        announces(a, Ipv4Addr::new(192, 0, 2, 21)),
        reply(mac(UPLINK)),
        reply(mac(STATION)),
        frame(frames::ALL_NODES, a, IPV6, &advertisement(all, gateway, 0x20, a)),
        frame(
            mac(UPLINK),
            a,
            IPV6,
            &advertisement("2001:db8::21".parse().unwrap(), gateway, 0x60, a),
        ),
    ];
    sender.repeat(&frames, || {
        let counted = wait_until(Duration::from_secs(5), || air.counted("protected") > 20);
        assert!(counted, "{} claims were counted", air.counted("protected"));
        for ns in [&air.host, &air.station] {
            for (family, address) in [("-4", "192.0.2.1"), ("-6", "2001:db8::1")] {
                let neighbour = sh(ns, &format!("ip {family} neigh show {address}"));
                assert!(neighbour.contains(GATEWAY), "{}: {neighbour}", ns.name());
            }
        }
    });
    assert_eq!(air.guest("192.0.2.1"), None);
    // A guest that has the host's address can speak to nobody by it.
    sh(&air.a, "ip addr add 192.0.2.21/32 dev eth0");
    let ended =
        run(air
            .a
            .command("ping")
            .args(["-c", "2", "-i", "0.3", "-W", "1", "-I", "192.0.2.21", "192.0.2.1"]));
    assert!(!ended.status.success());
    reaches(&air.station, "192.0.2.21");
    air.assert_one_mac();
}

#[test]
fn what_the_host_sends_by_its_gateway_is_no_guests() {
    let air = Air::new("beyond", Way::Tcx);
    sh(&air.lan, "ip addr add 198.51.100.9/32 dev lo");
    reaches(&air.host, "198.51.100.9");
    let sender = Sender::on(&air.a, "eth0");
    let packet = ipv4(
        Ipv4Addr::new(198, 51, 100, 9),
        Ipv4Addr::new(192, 0, 2, 9),
        17,
        (0, false),
        &[0; 8],
    );
    // As itself, and with the gateway's MAC.
    let frames = [mac(A), mac(GATEWAY)].map(|from| frame(mac(STATION), from, IPV4, &packet));
    sender.repeat(&frames, || {
        let learned = wait_until(Duration::from_secs(5), || air.guest("198.51.100.9").is_some());
        assert!(learned, "nothing was claimed");
        sh(
            &air.host,
            "ping -c 10 -i 0.2 -W 1 198.51.100.9 | grep ' 10 received'",
        );
    });
    assert_eq!(air.guest("198.51.100.9").unwrap().mac, A.parse().unwrap());
    assert!(air.counted("source-mac") > 10);
    air.assert_one_mac();
}

#[test]
fn a_guest_pushes_out_its_own_addresses_only() {
    let air = Air::new("quota", Way::Tcx);
    reaches(&air.b, "192.0.2.1");
    reaches(&air.b, "2001:db8::1");
    let sender = Sender::on(&air.a, "eth0");
    // By as many MACs as addresses.
    let frames: Vec<_> = (1..=200)
        .map(|n| announces([0x52, 0x54, 1, 0, 0, n], Ipv4Addr::new(203, 0, 113, n)))
        .collect();
    sender.repeat(&frames, || {
        let counted = wait_until(Duration::from_secs(5), || air.counted("quota-replaced") >= 136);
        assert!(counted, "{} were replaced", air.counted("quota-replaced"));
    });
    let (port, guests) = (air.index("pa"), air.guests());
    let of_a = guests.iter().filter(|guest| guest.port == port).count();
    assert!((60..=64).contains(&of_a), "{of_a} addresses of one port");
    assert!(air.guest("192.0.2.51").is_some() && air.guest("2001:db8::51").is_some());
    reaches(&air.station, "192.0.2.51");
    air.assert_one_mac();
}

#[test]
fn an_address_moves_to_who_speaks_last_but_not_at_once() {
    let air = Air::new("moves", Way::Tcx);
    reaches(&air.a, "192.0.2.1");
    let address = Ipv4Addr::new(192, 0, 2, 50);
    let sender = Sender::on(&air.b, "eth0");
    // In the second in which it was learned it does not move.
    sender.repeat(&[announces(mac(B), address)], || {
        let moved = wait_until(Duration::from_secs(5), || {
            air.guest("192.0.2.50").unwrap().port == air.index("pb")
        });
        assert!(moved, "the address has not moved");
    });
    drop(sender);
    sh(&air.a, "ip addr del 192.0.2.50/24 dev eth0");
    sh(&air.b, "ip addr add 192.0.2.50/24 dev eth0");
    reaches(&air.station, "192.0.2.50");
    reaches(&air.host, "192.0.2.50");
    air.assert_one_mac();
}

#[test]
fn two_that_quarrel_move_an_address_once_a_second() {
    let air = Air::new("quarrel", Way::Tcx);
    let address = Ipv4Addr::new(192, 0, 2, 99);
    let senders = [(A, Sender::on(&air.a, "eth0")), (B, Sender::on(&air.b, "eth0"))];
    let (mine, other) = (
        announces(mac(senders[0].0), address),
        announces(mac(senders[1].0), address),
    );
    let mut ports = BTreeSet::new();
    senders[0].1.repeat(&[mine], || {
        senders[1].1.repeat(&[other], || {
            wait_until(Duration::from_secs(3), || {
                ports.extend(air.guest("192.0.2.99").map(|guest| guest.port));
                false
            });
        });
    });
    assert_eq!(ports.len(), 2, "it never moved");
    // Fifty a second of each: but for some, all were refused.
    assert!(
        air.counted("moves-refused") > 40,
        "{}",
        air.counted("moves-refused")
    );
    air.assert_one_mac();
}

#[test]
fn a_pinned_address_is_one_guests() {
    let air = Air::bare("pins");
    let mut addresses = air.addresses();
    addresses
        .pins
        .insert("192.0.2.60".parse().unwrap(), B.parse().unwrap());
    addresses
        .pins
        .insert("2001:db8::60".parse().unwrap(), B.parse().unwrap());
    air.attach_with(Way::Tcx, &air.settings(), &addresses).unwrap();
    let add =
        "ip link set eth0 up; ip addr add 192.0.2.60/24 dev eth0; ip addr add 2001:db8::60/64 dev eth0 nodad";
    sh(&air.a, add);
    assert!(soon(&air.a, 5, "ip link show eth0 | grep -q LOWER_UP"));
    unreachable(&air.a, "192.0.2.1");
    unreachable(&air.a, "2001:db8::1");
    assert!(air.counted("pinned") > 0);
    sh(&air.a, "ip addr flush dev eth0");
    sh(&air.b, add);
    reaches(&air.b, "192.0.2.1");
    reaches(&air.b, "2001:db8::1");
    assert!(air.guest("192.0.2.60").unwrap().pinned);
    air.assert_one_mac();
}

/// How many echo requests somebody has received.
fn asked(ns: &Namespace) -> u64 {
    let text = sh(
        ns,
        "nstat -asz IcmpInEchos | sed -n 's/^IcmpInEchos *\\([0-9]*\\).*/\\1/p'",
    );
    text.trim().parse().unwrap()
}

#[test]
fn groups_that_came_as_unicast_reach_all_guests() {
    let air = Air::new("groups", Way::Tcx);
    for guest in [&air.a, &air.b, &air.host] {
        sh(guest, "sysctl -qw net.ipv4.icmp_echo_ignore_broadcasts=0");
    }
    reaches(&air.a, "192.0.2.1");
    reaches(&air.b, "192.0.2.1");
    let sender = Sender::on(&air.lan, "ap");
    let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    for to in ["224.0.0.1", "255.255.255.255", "192.0.2.255"] {
        let packet = ipv4(
            Ipv4Addr::new(192, 0, 2, 9),
            to.parse().unwrap(),
            1,
            (0, false),
            &echo,
        );
        let before = [&air.a, &air.b, &air.host].map(asked);
        sender.repeat(&[frame(mac(UPLINK), mac(STATION), IPV4, &packet)], || {
            let heard = wait_until(Duration::from_secs(5), || {
                [&air.a, &air.b, &air.host]
                    .map(asked)
                    .iter()
                    .zip(before)
                    .all(|(now, then)| *now > then)
            });
            assert!(heard, "not everybody has heard {to}");
        });
    }
    // And as an access point sends them that does nothing of the sort.
    let before = asked(&air.a);
    run(air
        .station
        .command("ping")
        .args(["-b", "-c", "2", "-i", "0.3", "-W", "1", "192.0.2.255"]));
    assert!(asked(&air.a) > before);
    air.assert_one_mac();
}

#[test]
fn without_a_network_host_and_guests_reach_each_other() {
    for way in BOTH {
        let air = Air::new("alone", way);
        sh(&air.lan, "ip link set ap down");
        assert!(soon(&air.host, 5, "ip link show uplink | grep -q NO-CARRIER"));
        for address in ["192.0.2.21", "2001:db8::21", "192.0.2.51", "2001:db8::51"] {
            reaches(&air.a, address);
        }
        for address in ["192.0.2.50", "2001:db8::50"] {
            reaches(&air.host, address);
        }
        sh(&air.lan, "ip link set ap up");
        reaches(&air.a, "192.0.2.9");
        air.assert_one_mac();
    }
}

#[test]
fn isolated_guests_do_not_reach_each_other_by_the_uplinks_mac() {
    let air = Air::new("isolated", Way::Tcx);
    reaches(&air.a, "192.0.2.1");
    reaches(&air.b, "192.0.2.1");
    // As after a migration from another host: a believes that b is out there.
    sh(
        &air.a,
        &format!("ip neigh replace 192.0.2.51 lladdr {UPLINK} dev eth0 nud permanent"),
    );
    reaches(&air.a, "192.0.2.51");
    sh(
        &air.host,
        "for port in pa pb; do bridge link set dev $port isolated on; done",
    );
    unreachable(&air.a, "192.0.2.51");
    reaches(&air.a, "192.0.2.1");
    reaches(&air.a, "192.0.2.21");
    air.assert_one_mac();
}
