//! DHCP clients without a manager are moved to the bridge and back: the real
//! programs, a real server with leases of two minutes, and a count of what is
//! lost meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/clients.rs"]
mod clients;
mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;

use std::thread::sleep;
use std::time::Duration;

use clients::{DHCLIENT, DHCPCD, Site, assert_steady};
use lease::{LEASE, Monitor, Server, Stream};

/// Asserts that a client with a lease goes to the bridge and back.
fn there_and_back(site: &Site, program: &str) {
    let address = site.address("eth0");
    let (leased, defaults) = (site.leased(&address), site.defaults());
    let servers = "grep ^nameserver /etc/resolv.conf";
    let names = site.machine.sh(servers);
    assert!(names.contains("192.0.2.1"), "{names}");
    assert_eq!(defaults.lines().count(), 1, "{defaults}");
    let before = site.processes(program);
    let stream = Stream::start(&site.host.lan, &[&address]);

    let monitor = Monitor::start(&site.host.ns);
    // A lease that is younger than a second cannot be told from its successor.
    sleep(Duration::from_millis(2100));
    let began = site.server.lease(&address).end;
    let said = site.up();
    assert!(said.contains("it is given the bridge instead"), "{said}");
    let unsuited = |said: &str| said.contains("does not answer");
    assert!(!unsuited(&said), "{said}");
    assert_eq!(site.address("br0"), address);
    assert!(
        site.server.lease(&address).end > began,
        "the lease is renewed on the bridge"
    );
    assert!(site.valid("br0") + 1 >= LEASE, "{}", site.valid("br0"));
    assert_eq!(site.leased(&address), leased);
    assert_eq!(site.defaults(), defaults);
    assert_eq!(site.machine.sh(servers), names);
    assert_steady(&monitor.end(), &address, "br0");
    let bridged = site.processes(program);
    assert_eq!(bridged.len(), before.len(), "{before:?}, now {bridged:?}");

    let monitor = Monitor::start(&site.host.ns);
    sleep(Duration::from_millis(2100));
    let began = site.server.lease(&address).end;
    let said = site.down();
    assert!(!unsuited(&said), "{said}");
    assert_eq!(site.address("eth0"), address);
    assert!(
        site.server.lease(&address).end > began,
        "the lease is renewed on the NIC"
    );
    assert!(site.valid("eth0") + 1 >= LEASE, "{}", site.valid("eth0"));
    assert_eq!(site.leased(&address), leased);
    assert_eq!(site.defaults(), defaults);
    assert_eq!(site.machine.sh(servers), names);
    assert_steady(&monitor.end(), &address, "eth0");
    let arguments = |all: &[String]| -> Vec<String> {
        let without = |line: &String| {
            line.split_once(' ')
                .unwrap()
                .1
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        };
        all.iter().map(without).collect()
    };
    let after = site.processes(program);
    assert_eq!(arguments(&after), arguments(&before));
    let left = site.machine.sh("ls /run");
    assert!(!left.contains("-vmbr-"), "{left}");
    // One at each flip.
    stream.assert_lost_at_most(2);
}

/// With a client identifier made of a DUID, in its usual files, with a metric
/// of its own, and a configuration that speaks of the NIC.
#[test]
fn dhclient_moves_with_identifier_metric_and_configuration() {
    let site = Site::new();
    site.machine.sh(
        "printf 'interface \"eth0\" { send host-name \"only-here\"; }\\n' >>/etc/dhcp/dhclient.conf
         dhclient -i -e IF_METRIC=77 eth0",
    );
    let address = site.address("eth0");
    let lease = site.server.lease(&address);
    assert!(lease.client.starts_with("ff:"), "{lease:?}");
    assert_eq!(lease.host, "only-here");
    assert!(site.defaults().contains("metric 77"));
    there_and_back(&site, "dhclient");
}

/// DHCPv6's; not beside an address without an end, which the client's script
/// would take for one that is left of an earlier client.
#[test]
fn dhclient_of_dhcpv6_moves_to_the_bridge_and_back() {
    let site = Site::with(|lan| Server::with(lan, &["--dhcp-range=2001:db8::100,2001:db8::1ff,64,120"]));
    site.machine
        .sh("dhclient -6 eth0; ip -6 route add 2001:db8::/64 dev eth0");
    site.host.settle();
    let leases = site.server.leases();
    let lease = leases.iter().find(|lease| lease.address.contains(':')).unwrap();
    let address = lease.address.clone();
    site.machine.sh("ip addr add 2001:db8::77/64 nodad dev eth0");
    let said = site.machine.refused(&site.host);
    assert!(said.contains("IPv6 addresses that have no end"), "{said}");
    site.machine.sh("ip addr del 2001:db8::77/64 dev eth0");
    let stream = Stream::start(&site.host.lan, &[&address]);
    let monitor = Monitor::start(&site.host.ns);
    let clients = site.processes("dhclient");
    for (go, dev) in [
        (&Site::up as &dyn Fn(&Site) -> String, "br0"),
        (&Site::down, "eth0"),
    ] {
        let said = go(&site);
        assert!(!said.contains("does not answer"), "{said}");
        let list = site
            .machine
            .sh(&format!("ip -6 addr show dev {dev} scope global"));
        let part = format!("inet6 {address}/128 scope global dynamic");
        assert!(list.contains(&part), "no {part} in {list}");
        let now = site.server.lease(&address);
        assert_eq!((&now.client, &now.mac), (&lease.client, &lease.mac));
        assert_eq!(site.processes("dhclient").len(), 1);
    }
    let heard = monitor.end();
    let gone = |line: &&String| line.contains("Deleted") && line.contains(&format!("inet6 {address}/"));
    // From the NIC, and from the bridge.
    assert!(heard.iter().filter(gone).count() <= 2, "{heard:#?}");
    let arguments = |all: &[String]| all[0].split_once("dhclient").unwrap().1.to_owned();
    assert_eq!(arguments(&site.processes("dhclient")), arguments(&clients));
    stream.assert_lost_at_most(2);
}

/// As ifupdown starts it; afterwards ifupdown still ends and starts it.
#[test]
fn ifupdown_s_dhclient_moves_and_is_ifupdown_s_again() {
    let site = Site::new();
    site.machine.sh(
        "printf 'auto eth0\\niface eth0 inet dhcp\\n metric 55\\n' >/etc/network/interfaces
         ifup eth0",
    );
    let said = site.machine.vmbr(&site.host, &["up", "eth0", "--dry-run"]).ok();
    assert!(said.contains("eth0 is managed by ifupdown"), "{said}");
    assert!(said.contains("'vmbr down' comes before"), "{said}");
    there_and_back(&site, "dhclient");
    let address = site.address("eth0");
    site.machine.sh("ifdown eth0");
    assert!(site.processes("dhclient").is_empty());
    assert_eq!(site.server.leases(), [], "released");
    assert_eq!(site.machine.sh("ip -4 addr show dev eth0"), "");
    site.machine.sh("ifup eth0");
    assert_eq!(site.address("eth0"), address);
    assert!(site.defaults().contains("metric 55"));
}

/// What a dry run shows is what a person can type, and it moves the client.
fn typed(start: &str, program: &str) {
    let site = Site::new();
    site.machine.sh(start);
    let address = site.address("eth0");
    let leased = site.leased(&address);
    let shown = site.machine.vmbr(&site.host, &["up", "eth0", "--dry-run"]).ok();
    let before = site.machine.sh(&format!("ps -C {program} -o stat=,pid="));
    // A kernel may not know the word for a bridge.
    let mut lines: Vec<&str> = shown.lines().filter(|line| !line.contains("ibrname")).collect();
    for word in ["pkill", "echo "] {
        assert!(!shown.contains(word), "{shown}");
    }
    lines.insert(0, "set -x");
    // What is killed takes a moment to be gone; a person does, too.
    site.machine.sh(&lines.join("\nsleep 0.1\n"));
    assert_eq!(site.address("br0"), address, "{shown}");
    assert_eq!(site.leased(&address), leased);
    site.machine.until("ip -4 route show default | grep -q 'dev br0'");
    // Another one: dhcpcd in the background does not say by what it was started.
    let now = format!("ps -C {program} -o stat=,pid= | grep -v ^Z");
    let number = before.split_whitespace().nth(1).unwrap();
    site.machine
        .until(&format!("test $({now} | wc -l) = 1; ! {now} | grep -qw {number}"));
}

#[test]
fn what_a_dry_run_shows_of_dhclient_can_be_typed() {
    typed(DHCLIENT, "dhclient");
}

#[test]
#[ignore = "dhcpcd takes ten seconds for a lease"]
fn what_a_dry_run_shows_of_dhcpcd_can_be_typed() {
    typed(DHCPCD, "dhcpcd");
}

/// A server that does not answer at the hand-over: told of, and the address
/// stays until the client knows better.
#[test]
fn a_silent_server_is_a_warning() {
    let site = Site::new();
    site.machine.sh("dhclient -4 eth0");
    let address = site.address("eth0");
    site.server.fall_silent();
    let said = site.up();
    assert!(said.contains("the DHCP server does not answer on br0"), "{said}");
    assert_eq!(site.address("br0"), address);
    assert!(site.valid("br0") > LEASE, "{}", site.valid("br0"));
    site.server.go_on();
    // It asks again within its ten seconds.
    site.machine
        .until("grep -q dhcp-message-type /run/dhclient-vmbr-*.leases");
    let said = site.down();
    assert!(!said.contains("does not answer"), "{said}");
    assert_eq!(site.address("eth0"), address);
    assert!(site.valid("eth0") <= LEASE);
}

/// Where the lease cannot be written back the client works for the NIC again
/// all the same.
#[test]
fn a_lease_that_cannot_be_written_back_is_a_warning() {
    for (start, program, directory) in [
        (DHCLIENT, "dhclient", "/var/lib/dhcp"),
        (DHCPCD, "dhcpcd", "/var/lib/dhcpcd"),
    ] {
        let site = Site::new();
        site.machine.sh(start);
        let address = site.address("eth0");
        site.machine.until("ip -4 route | grep -q ^default");
        site.machine.sh(&format!("chmod 600 {directory}/*lease*"));
        site.up();
        // What only root could read stays so.
        let copies = format!("find /run {directory} -name '*-vmbr-*' -o -name 'br0.lease'");
        let readable = site
            .machine
            .sh(&format!("find $({copies}) -perm /044 ! -name '*.pid'"));
        assert_eq!(readable, "", "{program}");
        site.machine.sh(&format!("chmod 775 {directory}"));
        let said = site.down();
        assert!(said.contains("cannot write the lease of br0"), "{said}");
        assert_eq!(site.address("eth0"), address);
        assert!(!site.processes(program).is_empty(), "{said}");
    }
}

/// Starts dhcpcd with these arguments, `alone` with a user for its helpers
/// that it believes, and asserts the way to the bridge and back.
fn dhcpcd_moves(arguments: &str, helpers: bool) {
    let site = Site::new();
    if helpers {
        site.machine
            .sh("mkdir -p /run/empty; sed -i '/^dhcpcd:/s,/nonexistent,/run/empty,' /etc/passwd");
    }
    site.machine
        .sh(&format!("mkdir -p /var/lib/dhcpcd; dhcpcd -q {arguments}"));
    site.address("eth0");
    let several = site.processes("dhcpcd").len() > 1;
    assert_eq!(several, helpers, "{:?}", site.processes("dhcpcd"));
    there_and_back(&site, "dhcpcd");
}

#[test]
fn dhcpcd_of_every_device_moves_to_the_bridge_and_back() {
    dhcpcd_moves("-4", false);
}

#[test]
#[ignore = "dhcpcd takes ten seconds for a lease"]
fn dhcpcd_of_one_device_moves_to_the_bridge_and_back() {
    dhcpcd_moves("-4 eth0", false);
}

#[test]
#[ignore = "dhcpcd takes ten seconds for a lease"]
fn dhcpcd_with_helpers_moves_to_the_bridge_and_back() {
    dhcpcd_moves("-4", true);
    dhcpcd_moves("-4 eth0", true);
}

/// What dhcpcd makes of advertisements and DHCPv6, too: addresses and routes
/// are the same.
#[test]
#[ignore = "dhcpcd takes ten seconds for all its leases"]
fn dhcpcd_moves_with_all_of_ipv6() {
    let site = Site::with(Server::both);
    site.machine.sh("mkdir -p /var/lib/dhcpcd; dhcpcd -q");
    let address = site.address("eth0");
    site.machine
        .until("test $(ip -6 -o addr show dev eth0 scope global | wc -l) = 2");
    site.host.settle();
    sleep(Duration::from_secs(5));
    let state = |dev: &str| {
        let addresses = "ip -6 -o addr show dev D scope global | awk '{print $4}' | sort";
        let routes = "ip -6 route show dev D | grep -v fe80::/64 | sed 's/ expires [0-9]*sec//' | sort";
        site.machine
            .sh(&format!("{addresses}; {routes}").replace(" D ", &format!(" {dev} ")))
    };
    let before = state("eth0");
    let six: Vec<String> = before
        .lines()
        .take(2)
        .map(|a| a.split('/').next().unwrap().to_owned())
        .collect();
    let leased = site.leased(&six[0]);
    let stream = Stream::start(&site.host.lan, &[&address, &six[0], &six[1]]);
    site.up();
    sleep(Duration::from_secs(4));
    assert_eq!(state("br0"), before);
    assert_eq!(site.leased(&six[0]), leased);
    site.down();
    sleep(Duration::from_secs(4));
    assert_eq!(state("eth0"), before);
    assert_eq!(site.leased(&six[0]), leased);
    stream.assert_lost_at_most(2);
}

/// A fixed address that dhcpcd gives the NIC is dhcpcd's on the bridge, and a
/// cable that is lost changes nothing.
#[test]
fn an_address_that_dhcpcd_gives_moves() {
    let site = Site::new();
    site.machine.sh(
        "printf 'persistent\\ninterface eth0\\nstatic ip_address=192.0.2.121/24\\nstatic routers=192.0.2.1\\n' >/etc/dhcpcd.conf
         mkdir -p /var/lib/dhcpcd; dhcpcd -q -4",
    );
    assert_eq!(site.address("eth0"), "192.0.2.121");
    let defaults = site.defaults();
    site.up();
    assert_eq!(site.address("br0"), "192.0.2.121");
    assert_eq!(site.defaults(), defaults);
    site.host.lan.ip(&["link", "set", "lan0", "down"]);
    site.machine.until("! ip link show eth0 | grep -q LOWER_UP");
    site.host.lan.ip(&["link", "set", "lan0", "up"]);
    site.machine.until("ip link show br0 | grep -q LOWER_UP");
    sleep(Duration::from_secs(2));
    assert_eq!(site.address("br0"), "192.0.2.121");
    assert_eq!(site.machine.sh("ip -4 addr show dev eth0"), "");
    site.down();
    assert_eq!(site.address("eth0"), "192.0.2.121");
    assert_eq!(site.defaults(), defaults);
}

/// Kills `vmbr up` at its nth call of each kind: whatever becomes of it, the
/// NIC has one client in the end, the one that it had, or its like.
fn killed_in_the_middle(start: &str, program: &str, calls: &[(&str, u32)]) {
    let site = Site::new();
    site.machine.sh(start);
    let address = site.address("eth0");
    let leased = site.leased(&address);
    let before = site.processes(program);
    for (call, when) in calls {
        common::run(
            site.machine
                .command("strace")
                .args(["-qq", "-o", "/dev/null", "-e"])
                .arg(format!("inject={call}:signal=KILL:when={when}"))
                .args([env!("CARGO_BIN_EXE_vmbr"), "--state-dir"])
                .arg(site.host.records())
                .args(["up", "eth0"]),
        );
        site.machine.until("! pgrep -f '^vmbr .*watchdog'");
        let settled = site.host.ns.link("br0").is_some();
        println!("{call} {when}: killed {}", !settled);
        if settled {
            site.down();
        }
        let now = site.processes(program);
        assert_eq!(now.len(), before.len(), "{call} {when}: {now:?}");
        assert_eq!(site.address("eth0"), address, "{call} {when}");
        let state = site.machine.sh(&format!("ps -o stat= -C {program} | grep -v Z"));
        assert!(!state.contains('T'), "{call} {when}: {state}");
        assert_eq!(site.leased(&address), leased, "{call} {when}");
    }
}

#[test]
fn a_vmbr_that_is_killed_leaves_the_client_with_the_nic() {
    let calls = [("pidfd_send_signal", 1), ("pidfd_send_signal", 2), ("rename", 2)];
    killed_in_the_middle(DHCLIENT, "dhclient", &calls);
}

#[test]
#[ignore = "kills vmbr at a dozen places, a minute"]
fn a_vmbr_that_is_killed_anywhere_leaves_the_client_with_the_nic() {
    let calls = [
        "pidfd_send_signal",
        "rename",
        "unlink",
        "sendto",
        "clone3",
        "wait4",
    ];
    let all: Vec<(&str, u32)> = calls
        .iter()
        .flat_map(|call| (1..=5).map(move |when| (*call, when)))
        .collect();
    killed_in_the_middle(DHCLIENT, "dhclient", &all);
    killed_in_the_middle(DHCPCD, "dhcpcd", &all);
}
