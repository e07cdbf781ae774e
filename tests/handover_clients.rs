//! DHCP clients without a manager are moved to the bridge and back: the real
//! programs, a real server with leases of two minutes, and a count of what is
//! lost meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;

use std::thread::sleep;
use std::time::Duration;

use host::Host;
use lease::{LEASE, Monitor, Server, Stream};
use machine::Machine;

/// A host whose NIC is up, without any address but its own of IPv6, with a
/// machine in it and a server in its LAN.
struct Site {
    // Ended in this order.
    machine: Machine,
    server: Server,
    host: Host,
}

impl Site {
    fn new() -> Self {
        let host = Host::new("handover", "ip link set eth0 up");
        Self {
            machine: Machine::new(&host.ns),
            server: Server::start(&host.lan),
            host,
        }
    }

    /// The IPv4 address that a device has.
    fn address(&self, dev: &str) -> String {
        self.machine
            .until(&format!("ip -4 addr show dev {dev} | grep -q 'inet 192.0.2.1'"));
        let list = self.machine.sh(&format!("ip -4 -o addr show dev {dev}"));
        let addresses: Vec<&str> = list.lines().collect();
        assert_eq!(addresses.len(), 1, "{list}");
        let address = list.split_whitespace().nth(3).unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    /// For how long the address of a device is valid, in seconds.
    fn valid(&self, dev: &str) -> u64 {
        let all = self.host.ns.json(&["-4", "addr", "show", "dev", dev]);
        all[0]["addr_info"][0]["valid_life_time"].as_u64().unwrap()
    }

    /// The IPv4 default routes without their device.
    fn defaults(&self) -> String {
        let routes = self.machine.sh("ip -4 route show default");
        routes
            .replace("dev br0 ", "dev X ")
            .replace("dev eth0 ", "dev X ")
    }

    fn up(&self) -> String {
        let ended = self.machine.vmbr(&self.host, &["up", "eth0"]);
        assert_eq!(ended.code(), 0, "{ended:?}\n{}", self.machine.said());
        ended.stderr
    }

    fn down(&self) -> String {
        let ended = self.machine.vmbr(&self.host, &["down"]);
        assert_eq!(ended.code(), 0, "{ended:?}\n{}", self.machine.said());
        ended.stderr
    }

    /// Root's processes of a program, by their command lines.
    fn processes(&self, program: &str) -> Vec<String> {
        let list = self.machine.sh(&format!("pgrep -a '^{program}$' | sort || :"));
        // Nobody waits for those that have ended.
        let live = list.lines().filter(|line| !line.ends_with("<defunct>"));
        live.map(str::to_owned).collect()
    }

    /// The lease as the server has it, without its end.
    fn leased(&self, address: &str) -> [String; 4] {
        let lease = self.server.lease(address);
        [lease.mac, lease.address, lease.host, lease.client]
    }
}

/// No address may come or go but by the flip itself: asserts it of what a
/// monitor has heard of an address on a device.
fn assert_steady(heard: &[String], address: &str, dev: &str) {
    let gone = |line: &&String| {
        line.contains("Deleted")
            && line.contains(&format!(": {dev} "))
            && line.contains(&format!("inet {address}/"))
    };
    assert_eq!(heard.iter().filter(gone).count(), 0, "{heard:#?}");
}

/// Starts dhclient with these arguments before `eth0`, and asserts the way to
/// the bridge and back.
fn dhclient_moves(arguments: &str) {
    let site = Site::new();
    site.machine.sh(&format!("dhclient {arguments} eth0"));
    there_and_back(&site, "dhclient");
}

/// Asserts that a client with a lease goes to the bridge and back.
fn there_and_back(site: &Site, program: &str) {
    let address = site.address("eth0");
    let (leased, defaults) = (site.leased(&address), site.defaults());
    let names = site.machine.sh("cat /etc/resolv.conf");
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
    assert_eq!(site.machine.sh("cat /etc/resolv.conf"), names);
    assert_steady(&monitor.end(), &address, "br0");
    let bridged = site.processes(program);
    assert_eq!(bridged.len(), before.len(), "{bridged:?}");

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
    assert_eq!(site.machine.sh("cat /etc/resolv.conf"), names);
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
    assert!(!left.contains("dhclient-vmbr"), "{left}");
    stream.assert_lost_at_most(2);
}

#[test]
fn dhclient_moves_to_the_bridge_and_back() {
    dhclient_moves("-4 -pf /run/dhclient.eth0.pid -lf /var/lib/dhcp/dhclient.eth0.leases");
}

/// With a client identifier made of a DUID, in its usual files, with a metric
/// of its own, and a configuration that speaks of the NIC.
#[test]
fn dhclient_keeps_identifier_metric_and_configuration() {
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
