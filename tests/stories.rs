//! What happened to others, by the project and the issue that tell of it.
//! Each story is played twice: by the script of `ip` commands that tutorials
//! give, where the trouble shows, and by vmbr, where it does not. A story
//! whose first half passes no longer tells anything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/router.rs"]
mod router;
#[path = "common/story.rs"]
mod story;
#[path = "common/talk.rs"]
mod talk;
#[path = "common/udev.rs"]
mod udev;

use std::time::Duration;

use serde_json::Value;

use common::{Namespace, VethEnd, run, veth_pair, wait_until};
use host::{Host, MAC, ping, script_in};
use router::Router;
use story::{SILENCE, STATIC, down, tutorial, up};
use talk::{Server, Talk};
use udev::Udev;

/// A router speaks every 3 to 4 seconds.
const THREE_ADVERTISEMENTS: Duration = Duration::from_secs(12);

fn mac_of(host: &Host, device: &str) -> String {
    let link = host.ns.link(device).unwrap();
    link["address"].as_str().unwrap().to_owned()
}

/// What an administrator's two SSH sessions are: a TCP connection a family.
fn sessions(host: &Host) -> (Server, [Talk; 2]) {
    let server = Server::start(&host.ns);
    let mut sessions = ["192.0.2.21", "2001:db8::21"].map(|to| Talk::with(&host.lan, to));
    sessions.iter_mut().for_each(|s| s.assert_answered(SILENCE));
    (server, sessions)
}

/// docker-net-dhcp #19: the NIC becomes a port, and SSH is dead. It dies when
/// the NIC's neighbour entries end, whose answers now go to the bridge.
#[test]
fn docker_net_dhcp_19_ssh_outlives_the_change() {
    let forget = |host: &Host, device: &str| host.sh(&format!("ip neigh flush dev {device}"));
    let host = Host::new("ssh-enslaved", STATIC);
    let (_server, [mut v4, _v6]) = sessions(&host);
    host.sh("ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0");
    forget(&host, "eth0");
    assert!(!v4.answered(SILENCE), "only enslaved, and the session lives");

    let host = Host::new("ssh-script", STATIC);
    let (_server, [_v4, mut v6]) = sessions(&host);
    tutorial(&host);
    assert!(!v6.answered(SILENCE), "the script has kept the session over IPv6");

    let host = Host::new("ssh-vmbr", STATIC);
    let (_server, mut sessions) = sessions(&host);
    for change in [up, down] {
        change(&host);
        sessions.iter_mut().for_each(|s| s.assert_answered(SILENCE));
        for device in ["eth0", "br0"] {
            if host.ns.link(device).is_some() {
                forget(&host, device);
            }
        }
        sessions.iter_mut().for_each(|s| s.assert_answered(SILENCE));
    }
}

/// multipass #2537 and #2543: the host has another address afterwards, and
/// the route's metric of 100 has become 425.
#[test]
fn multipass_2537_2543_addresses_metrics_and_mac_are_kept() {
    let script = format!("{STATIC}\nip addr add 192.0.2.126/24 brd + dev eth0");
    let defaults = |host: &Host, family: &str| {
        let routes = host.ns.json(&[family, "route", "show", "default"]);
        let routes = routes.as_array().unwrap().iter();
        routes.map(|r| r["metric"].clone()).collect::<Vec<Value>>()
    };

    let host = Host::new("metric-script", &script);
    tutorial(&host);
    assert_ne!(defaults(&host, "-4"), [100], "the script has kept the metric");
    assert!(
        !ping(&host.lan, "192.0.2.126"),
        "the script has kept the other address"
    );

    let host = Host::new("metric-vmbr", &script);
    let before = host.state();
    up(&host);
    before.assert_moved(&host.state(), "eth0", "br0");
    assert_eq!(mac_of(&host, "br0"), MAC);
    for family in ["-4", "-6"] {
        assert_eq!(defaults(&host, family), [100]);
    }
    assert!(ping(&host.lan, "192.0.2.126"));
    down(&host);
    before.assert_same(&host.state());
}

/// systemd #21185 and nmstate #733: udev gives a new bridge a MAC of its own
/// making, and the bridge no longer takes the NIC's.
#[test]
fn systemd_21185_nmstate_733_udev_leaves_the_mac() {
    let host = Host::new("udev-script", STATIC);
    let udev = Udev::start(&host.ns);
    // udev is done with the bridge before the NIC joins: somebody types this.
    host.sh("ip link add br0 type bridge");
    udev.settle();
    let wrote = "br0: Applying persistent MAC address";
    assert!(
        udev.log().contains(wrote),
        "udev leaves every MAC as it is: {}",
        udev.log()
    );
    host.sh("ip link set eth0 master br0; ip link set br0 up");
    assert_ne!(mac_of(&host, "br0"), MAC, "the script's bridge has the NIC's MAC");

    let host = Host::new("udev-vmbr", STATIC);
    let udev = Udev::start(&host.ns);
    let before = host.state();
    up(&host);
    udev.settle();
    assert!(
        udev.log().contains("br0: Device processed"),
        "udev has not seen br0: {}",
        udev.log()
    );
    assert_eq!(mac_of(&host, "br0"), MAC);
    before.assert_moved(&host.state(), "eth0", "br0");
    host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    down(&host);
    udev.settle();
    before.assert_same(&host.state());
}

/// harvester #11260: a guest starts, the bridge takes its lower MAC, and the
/// host is silent until everybody's ARP entries end.
#[test]
fn harvester_11260_a_guest_does_not_change_the_bridges_mac() {
    let guest = "ip tuntap add dev tap0 mode tap
        ip link set tap0 address 00:00:5e:00:53:01 master br0
        ip link set tap0 up";

    let host = Host::new("lower-script", STATIC);
    tutorial(&host);
    assert_eq!(mac_of(&host, "br0"), MAC);
    host.sh(guest);
    assert_ne!(mac_of(&host, "br0"), MAC, "the script's bridge keeps its MAC");

    let host = Host::new("lower-vmbr", STATIC);
    up(&host);
    for change in [guest, "ip link del tap0"] {
        host.sh(change);
        assert_eq!(mac_of(&host, "br0"), MAC);
        host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    }
}

/// netplan pull request #548: `try` says that it reverts, and leaves what it
/// has made. Here a change fails in the middle.
#[test]
fn netplan_548_a_failure_reverts_everything() {
    let host = Host::new("revert-script", STATIC);
    let before = host.state();
    tutorial(&host);
    host.sh("ip link set eth0 nomaster; ip link del br0
         ip addr add 192.0.2.21/24 dev eth0
         ip route add default via 192.0.2.1 dev eth0");
    let differs = std::panic::catch_unwind(|| before.assert_same(&host.state()));
    assert!(differs.is_err(), "the script's way back restores the host");

    let (mut failed, mut moved) = (0, 0);
    for when in [5, 20, 40, 60, 80, 100] {
        let host = Host::new(&format!("revert-{when}"), STATIC);
        let before = host.state();
        let inject = format!("inject=sendto:error=ENOBUFS:when={when}");
        let mut command = host.ns.command("strace");
        command.args([
            "-qq",
            "-f",
            "-e",
            "trace=sendto",
            "-o",
            "/dev/null",
            "-e",
            &inject,
        ]);
        command.arg(env!("CARGO_BIN_EXE_vmbr")).arg("--state-dir");
        let ended = run(command
            .arg(host.records())
            .args(["up", "eth0"])
            .env_remove("SUDO_USER"));
        if ended.code() == 0 {
            // Fewer messages than that, or one that may fail.
            continue;
        }
        assert_eq!(ended.code(), 1, "message {when}: {ended:?}");
        failed += 1;
        moved += usize::from(ended.stderr.contains("going back"));
        host.settle();
        before.assert_same(&host.state());
        host.ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    }
    assert!(failed >= 3 && moved >= 2, "{failed} failed, {moved} went back");
}

/// moby #43466: a host that forwards hears no router any more. It asked for
/// that on its NIC (accept_ra 2); a new bridge has the default.
#[test]
fn moby_43466_a_forwarding_host_keeps_its_learned_route() {
    let learned = |host: &Host| {
        let all = host.ns.json(&["-6", "route", "show", "default", "proto", "ra"]);
        let all = all.as_array().unwrap().iter();
        all.map(|r| r["dev"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let forwarding = |hint| {
        let host = Host::new(
            hint,
            "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_ra=2
             ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0",
        );
        let router = Router::start(&host);
        let there = wait_until(THREE_ADVERTISEMENTS, || learned(&host) == ["eth0"]);
        assert!(there, "eth0 hears no router: {}", router.log());
        (host, router)
    };

    let (host, _router) = forwarding("forward-script");
    tutorial(&host);
    let there = wait_until(THREE_ADVERTISEMENTS, || learned(&host) == ["br0"]);
    assert!(!there, "the script's bridge hears the router");

    let (host, router) = forwarding("forward-vmbr");
    let settled = |host: &Host| {
        host.settle();
        // The address of the advertised prefix may be younger than the route.
        wait_until(SILENCE, || {
            host.ns
                .ip(&["-6", "addr", "show", "scope", "global"])
                .contains("2001:db8:a:")
        });
        host.settle();
    };
    settled(&host);
    for (change, device) in [(up as fn(&Host), "br0"), (down, "eth0")] {
        change(&host);
        assert!(!learned(&host).is_empty(), "no default route after the change");
        let only = || learned(&host) == [device];
        assert!(
            wait_until(THREE_ADVERTISEMENTS, only),
            "{:?}: {}",
            learned(&host),
            router.log()
        );
        // By the default route, and still so after more advertisements.
        std::thread::sleep(THREE_ADVERTISEMENTS / 2);
        assert!(only(), "{:?}", learned(&host));
        assert!(ping(&host.ns, "2001:db8::1"));
    }
}

/// A LAN with a querier that asks for a few seconds, then falls silent; and a
/// guest on the bridge. The bridge forgets after 3 seconds who listens, which
/// takes 260 by default. Whether the LAN still finds the guest then.
fn guest_is_found_after_the_querier(host: &Host) -> bool {
    let guest = Namespace::new("guest");
    veth_pair(
        &VethEnd {
            namespace: &host.ns,
            name: "port0",
            mac: None,
        },
        &VethEnd {
            namespace: &guest,
            name: "eth0",
            mac: None,
        },
    );
    host.sh("ip link set br0 type bridge mcast_membership_interval 300; ip link set port0 master br0 up");
    script_in(
        &guest,
        "ip link set eth0 up; ip addr add 2001:db8::50/64 dev eth0 nodad",
    );
    script_in(
        &host.lan,
        "ip link add q0 type bridge mcast_querier 1 mcast_query_interval 100 \
            mcast_startup_query_interval 100 mcast_query_response_interval 50
         ip link set lan0 master q0
         ip addr flush dev lan0
         ip link set q0 up
         ip addr add 2001:db8::1/64 dev q0 nodad",
    );
    let found = || ping(&host.lan, "2001:db8::50");
    assert!(wait_until(2 * SILENCE, found), "the LAN never finds the guest");
    std::thread::sleep(2 * SILENCE);
    script_in(&host.lan, "ip link set q0 type bridge mcast_querier 0");
    std::thread::sleep(2 * SILENCE);
    script_in(&host.lan, "ip -6 neigh flush dev q0");
    found()
}

/// incus-os #1213: a bridge that snoops multicast has heard of a querier; that
/// falls silent, the bridge forgets who listens, and IPv6 neighbours behind it
/// are no longer found.
#[test]
fn incus_os_1213_neighbours_are_found_without_a_querier() {
    let host = Host::new("snoop-script", STATIC);
    tutorial(&host);
    assert!(
        !guest_is_found_after_the_querier(&host),
        "the script's bridge still finds the guest"
    );

    let host = Host::new("snoop-vmbr", STATIC);
    up(&host);
    assert!(
        guest_is_found_after_the_querier(&host),
        "the LAN no longer finds the guest"
    );
}

/// The interfaces that cloud-init takes for the machine's own, by MAC, and its
/// end where two have the same (`get_interfaces_by_mac_on_linux()` and
/// `get_interfaces()`, cloudinit/net/__init__.py). It leaves out bridges, bonds
/// and VLANs by what sysfs says of them, and ports of anything else.
fn cloud_init_sees(host: &Host) -> Result<String, String> {
    let ended = run(host.ns.command("sh").args([
        "-ec",
        r#"cd /sys/class/net
        for i in *; do
            [ ! -d $i/bridge ] && [ ! -d $i/bonding ] || continue
            ! grep -q DEVTYPE=vlan $i/uevent || continue
            [ ! -e $i/master ] || [ -d $i/master/bridge ] || [ -d $i/master/bonding ] || continue
            [ $i != lo ] || continue
            echo "$(cat $i/address) $i"
        done"#,
    ]));
    let seen = ended.ok();
    let macs: Vec<&str> = seen.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    let twice = macs
        .iter()
        .enumerate()
        .find(|(place, mac)| macs[..*place].contains(mac));
    match twice {
        Some((_, mac)) => Err(format!("duplicate mac found! {mac} in\n{seen}")),
        None => Ok(seen),
    }
}

/// cloud-init #5810: the bridge has its NIC's MAC and is none that the kernel
/// knows as one (there Open vSwitch's), and cloud-init ends the boot with
/// "duplicate mac found".
#[test]
fn cloud_init_5810_the_macs_owner_is_the_nic() {
    let host = Host::new("twins-script", STATIC);
    // What Open vSwitch's datapath in user space has for a bridge.
    host.sh("ip tuntap add dev br0 mode tap; ip link set br0 address 02:00:00:00:00:21 up");
    let seen = cloud_init_sees(&host);
    assert!(
        seen.as_ref().is_err_and(|why| why.contains(MAC)),
        "the script's host boots: {seen:?}"
    );

    let host = Host::new("twins-vmbr", STATIC);
    let before = cloud_init_sees(&host).unwrap();
    assert!(before.contains(&format!("{MAC} eth0")), "{before}");
    up(&host);
    assert_eq!(mac_of(&host, "br0"), MAC);
    assert_eq!(cloud_init_sees(&host).unwrap(), before);
    // A guest's TAP is nobody else's either, whatever the guest has.
    host.sh("ip tuntap add dev tap0 mode tap; ip link set tap0 master br0 up");
    cloud_init_sees(&host).unwrap();
    host.sh("ip link del tap0");
    down(&host);
    assert_eq!(cloud_init_sees(&host).unwrap(), before);
}
