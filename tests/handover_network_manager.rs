//! NetworkManager, the real one, is given the bridge and the NIC back, with
//! the lease alive throughout.
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
#[path = "common/network_manager.rs"]
mod network_manager;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use host::{Host, ping};
use lease::{LEASE, Leased, Server, Stream};
use machine::Machine;
use network_manager::{ON_NIC, PROFILE, UP, managed, start};

/// NetworkManager switches IPv6 off and on when it activates a profile; vmbr
/// puts back what went with it as soon as it has the processor, within two
/// milliseconds. Duplicate address detection alone would take a second.
const IPV6_SWITCH: u64 = 3;
/// How often a busy machine may keep vmbr from it.
const BUSY: usize = 4;

/// A host whose NIC NetworkManager has configured, and who gave it addresses.
struct Site {
    host: Host,
    machine: Machine,
    server: Server,
    v4: String,
    v6: Vec<String>,
}

impl Site {
    /// One with this in its profile's parts `ipv4` and `ipv6`.
    fn new(ipv4: &str, ipv6: &str) -> Self {
        let host = Host::new("nm", UP);
        let server = Server::both(&host.lan);
        let machine = managed(&host, ipv4, ipv6);
        let site = Self {
            host,
            machine,
            server,
            v4: String::new(),
            v6: Vec::new(),
        };
        let of = |family: &str| {
            let list = site
                .machine
                .sh(&format!("ip {family} -o addr show dev eth0 scope global"));
            let address = |line: &str| {
                let word = line.split_whitespace().nth(3).unwrap();
                word.split('/').next().unwrap().to_owned()
            };
            list.lines().map(address).collect::<Vec<String>>()
        };
        let (v4, v6) = (of("-4").remove(0), of("-6"));
        for address in v6.iter().chain([&v4]) {
            assert!(ping(&site.host.lan, address));
        }
        Self { v4, v6, ..site }
    }

    fn auto() -> Self {
        Self::new("method=auto", "method=auto")
    }

    fn stream(&self) -> Stream {
        let all: Vec<&str> = self.v6.iter().chain([&self.v4]).map(String::as_str).collect();
        Stream::start(&self.host.lan, &all)
    }

    fn up(&self) {
        let up = self.machine.vmbr(&self.host, &["up", "eth0"]);
        assert_eq!(up.code(), 0, "{up:?}\n{}", self.machine.said());
    }

    fn down(&self) {
        let down = self.machine.vmbr(&self.host, &["down"]);
        assert_eq!(down.code(), 0, "{down:?}\n{}", self.machine.said());
    }

    /// `vmbr down` loses one packet of IPv4 at most, and of IPv6 what the
    /// switch costs: at the first try, or at the next where the machine was
    /// busy.
    fn goes_down_in_time(&self) {
        for left in (0..BUSY).rev() {
            let stream = self.stream();
            self.down();
            let counts = stream.end();
            let old = counts.iter().find(|count| count.to == self.v4).unwrap();
            assert!(old.lost <= 1, "{old:?}");
            let Some(slow) = counts.iter().find(|count| count.lost > IPV6_SWITCH) else {
                return;
            };
            // Without the address the neighbours would have lost hundreds.
            assert!(left > 0 && slow.lost <= 100, "{slow:?}");
            self.machine.until(ON_NIC);
            self.up();
        }
    }

    /// Metric and device of each default route.
    fn defaults(&self) -> Vec<(String, i64)> {
        let mut found = Vec::new();
        for family in ["-4", "-6"] {
            let routes = self.host.ns.json(&[family, "route", "show", "default"]);
            for route in routes.as_array().unwrap() {
                let dev = route["dev"].as_str().unwrap();
                found.push((dev.to_owned(), route["metric"].as_i64().unwrap()));
            }
        }
        found
    }

    /// Seconds that an address has still; 0 where the device has it not.
    fn left(&self, dev: &str, address: &str) -> i64 {
        let links = self.host.ns.json(&["addr", "show", "dev", dev]);
        let mine = links[0]["addr_info"].as_array().unwrap().clone();
        let mut mine = mine.iter().filter(|a| a["local"] == *address);
        mine.next().map_or(0, |a| a["valid_life_time"].as_i64().unwrap())
    }

    /// What is the same on the bridge and on the NIC.
    fn sameness(&self) -> (Vec<Leased>, String, String) {
        (
            self.server.clients(),
            self.machine.sh("cat /etc/resolv.conf"),
            self.machine.sh(&format!("cat {PROFILE}")),
        )
    }

    /// Asserts that NetworkManager has the NIC as it had it, and nothing is
    /// left of the bridge.
    fn assert_back(&self) {
        self.machine.until(ON_NIC);
        let profiles = self.machine.sh("nmcli -t -f NAME connection");
        assert!(!profiles.contains("br0"), "{profiles}");
        let links = self.host.ns.ip(&["-o", "link"]);
        assert!(!links.contains("br0"), "{links}");
        let autoconnect = self
            .machine
            .sh("nmcli -t -f GENERAL.AUTOCONNECT device show eth0");
        assert_eq!(autoconnect.trim(), "GENERAL.AUTOCONNECT:yes");
        for address in self.v6.iter().chain([&self.v4]) {
            assert!(self.left("eth0", address) > 0, "{address} is not on eth0");
            assert!(ping(&self.host.lan, address));
        }
    }

    /// Asserts that it has the bridge, with what the NIC had.
    fn assert_on_bridge(&self) {
        let devices = self.machine.sh("nmcli -t device");
        assert!(devices.contains("br0:bridge:connected:vmbr br0"), "{devices}");
        assert!(devices.contains("eth0:ethernet:unmanaged:"), "{devices}");
        for address in self.v6.iter().chain([&self.v4]) {
            assert!(self.left("br0", address) > 0, "{address} is not on br0");
            assert!(ping(&self.host.lan, address));
        }
        let port = self.host.ns.ip(&["-o", "addr", "show", "dev", "eth0"]);
        assert_eq!(port, "", "something has put an address on the port");
    }
}

#[test]
fn network_manager_holds_the_lease_on_the_bridge_and_on_the_nic_again() {
    let site = Site::auto();
    let (before, defaults) = (site.sameness(), site.defaults());
    assert_eq!(defaults, [("eth0".to_owned(), 100), ("eth0".to_owned(), 100)]);
    // Old enough for its renewal to show.
    site.machine
        .until("ip -4 addr show dev eth0 | grep -q 'valid_lft 11[0-7]sec'");

    let stream = site.stream();
    site.up();
    stream.assert_lost_at_most(1);
    site.assert_on_bridge();
    assert_eq!(site.sameness(), before);
    assert_eq!(
        site.defaults(),
        [("br0".to_owned(), 100), ("br0".to_owned(), 100)]
    );
    assert!(site.left("br0", &site.v4) > 117, "the lease was not renewed");

    site.goes_down_in_time();
    site.assert_back();
    assert_eq!(site.sameness(), before);
    assert_eq!(site.defaults(), defaults);
}

#[test]
fn a_fixed_profile_of_network_manager_is_handed_over() {
    let site = Site::new(
        "method=manual\\naddress1=192.0.2.21/24,192.0.2.1\\ndns=192.0.2.1;",
        "method=disabled",
    );
    let (before, defaults) = (site.sameness(), site.defaults());
    let stream = site.stream();
    site.up();
    site.assert_on_bridge();
    assert_eq!(site.sameness(), before);
    assert_eq!(site.defaults(), [("br0".to_owned(), 100)]);
    site.down();
    stream.assert_lost_at_most(2);
    site.assert_back();
    assert_eq!(site.sameness(), before);
    assert_eq!(site.defaults(), defaults);
}

/// A change that is killed while it talks with NetworkManager: the watchdog
/// gives the NIC back.
#[test]
fn killed_while_it_hands_over_network_manager_has_the_nic_again() {
    let site = Site::auto();
    let mut killed_in_time = 0;
    for delay in [0, 60, 120] {
        let mut command = site.machine.command(env!("CARGO_BIN_EXE_vmbr"));
        command
            .arg("--state-dir")
            .arg(site.host.records())
            .args(["up", "eth0"]);
        let mut vmbr = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(vmbr.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("handing br0 to NetworkManager")));
        sleep(Duration::from_millis(delay));
        // nsenter is another process; it waits for vmbr.
        site.machine
            .sh("kill -9 $(pgrep -f '^[^ ]*vmbr --state-dir .* up eth0$') 2>/dev/null || :");
        let ended = vmbr.wait().unwrap().success();
        let status = site.machine.vmbr(&site.host, &["--json", "status"]).ok();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        if ended || status["bridges"][0]["state"] == "settled" {
            // It was faster, and the hand-over is whole.
            site.assert_on_bridge();
            site.down();
        } else {
            killed_in_time += 1;
        }
        let killed = Instant::now();
        site.machine.until("! ip link show dev br0 2>/dev/null");
        let gone = || !site.host.ns.ip(&["-o", "link"]).contains("nm-br0");
        assert!(
            common::wait_until(Duration::from_secs(15), gone),
            "{:?}",
            site.machine.vmbr(&site.host, &["recover"])
        );
        // The watchdog has work after the profile is active.
        site.machine
            .until("test -z \"$(ls /proc/*/exe | xargs -n1 readlink | grep vmbr)\"");
        site.assert_back();
        println!("after {delay} ms of handing over: back in {:?}", killed.elapsed());
    }
    assert!(killed_in_time > 0, "it was never killed in the middle");
}

#[test]
fn a_network_manager_that_is_silent_is_refused() {
    let site = Site::new("method=auto", "method=disabled");
    site.machine.sh("kill -STOP $(pidof NetworkManager)");
    let said = site.machine.refused(&site.host);
    assert!(said.contains("did not answer in time"), "{said}");
    site.machine.sh("kill -CONT $(pidof NetworkManager)");
}

#[test]
#[ignore = "two leases of two minutes on the bridge, and one on the NIC"]
fn network_manager_renews_the_lease_on_the_bridge_and_on_the_nic() {
    let site = Site::auto();
    let stream = site.stream();
    site.up();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2 * LEASE + 10) {
        sleep(Duration::from_secs(5));
        assert!(site.left("br0", &site.v4) > 40, "not renewed");
        for address in &site.v6 {
            assert!(site.left("br0", address) > 10, "{address} is not renewed");
        }
    }
    site.assert_on_bridge();
    stream.assert_lost_at_most(1);
    site.down();
    let stream = site.stream();
    sleep(Duration::from_secs(LEASE + 10));
    stream.assert_lost_at_most(0);
    site.assert_back();
}

#[test]
#[ignore = "waits past a lease of two minutes after each end of the manager"]
fn a_network_manager_that_is_started_anew_renews_the_lease_on_the_bridge() {
    let site = Site::auto();
    site.up();
    let stream = site.stream();
    for signal in ["TERM", "KILL"] {
        site.machine
            .sh(&format!("kill -{signal} $(pidof NetworkManager)"));
        site.machine.until("! pidof NetworkManager");
        sleep(Duration::from_secs(3));
        start(&site.machine);
        sleep(Duration::from_secs(LEASE + 10));
        site.assert_on_bridge();
    }
    stream.assert_lost_at_most(0);
    site.goes_down_in_time();
    site.assert_back();
}

/// Nothing is lost, and it warns; when the server is back it renews.
#[test]
#[ignore = "a server is silent for half a lease, and a lease goes by"]
fn a_server_that_is_silent_when_network_manager_gets_the_bridge() {
    let site = Site::auto();
    let before = site.sameness();
    let stream = site.stream();
    site.server.fall_silent();
    let up = site.machine.vmbr(&site.host, &["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    assert!(up.stderr.contains("goes on asking"), "{}", up.stderr);
    site.assert_on_bridge();
    assert_eq!(site.sameness(), before, "its servers of names are known");
    // It asks after 4, 12, 28, 60 and 124 seconds.
    sleep(Duration::from_secs(20));
    site.server.go_on();
    let renewed = || site.left("br0", &site.v4) > 100;
    assert!(common::wait_until(Duration::from_secs(70), renewed));
    // The same while it holds the lease.
    site.server.fall_silent();
    sleep(Duration::from_secs(LEASE / 2));
    site.server.go_on();
    sleep(Duration::from_secs(LEASE));
    stream.assert_lost_at_most(1);
    site.assert_on_bridge();
    site.down();
    site.assert_back();
}

/// NetworkManager itself gives up after 45 seconds, and takes the address down.
#[test]
#[ignore = "waits past the 45 seconds after which NetworkManager gives up"]
fn a_server_that_is_silent_when_network_manager_gets_the_nic_back() {
    let site = Site::new("method=auto", "method=disabled");
    site.up();
    site.server.fall_silent();
    let stream = site.stream();
    let down = site.machine.vmbr(&site.host, &["down"]);
    assert_eq!(down.code(), 0, "{down:?}");
    assert!(down.stderr.contains("not active on eth0 yet"), "{}", down.stderr);
    sleep(Duration::from_secs(60));
    stream.assert_lost_at_most(1);
    site.server.go_on();
    let renewed = || site.left("eth0", &site.v4) > 90;
    assert!(common::wait_until(Duration::from_secs(65), renewed));
    site.assert_back();
}

/// It has the new address then, on the bridge and, after `down`, on the NIC.
#[test]
#[ignore = "waits for the renewals of a lease of two minutes"]
fn another_address_at_a_renewal_of_network_manager() {
    let mut site = Site::new("method=auto", "method=disabled");
    site.up();
    site.server.fall_silent();
    // Its MAC is another host's lease from now on.
    let end = site.server.lease(&site.v4).end;
    site.server.machine.sh(&format!(
        "echo {end} 02:00:00:00:00:99 {} other * >/run/leases",
        site.v4
    ));
    site.server.go_on();
    let new = || {
        let list = site.host.ns.ip(&["-4", "-o", "addr", "show", "dev", "br0"]);
        list.contains("192.0.2.1") && !list.contains(&site.v4)
    };
    assert!(common::wait_until(Duration::from_secs(LEASE + 30), new));
    let list = site.host.ns.ip(&["-4", "-o", "addr", "show", "dev", "br0"]);
    let address = list.split_whitespace().nth(3).unwrap();
    site.v4 = address.split('/').next().unwrap().to_owned();
    site.assert_on_bridge();
    site.down();
    site.assert_back();
}

#[test]
#[ignore = "waits for what NetworkManager does with a lost cable, ten seconds"]
fn a_cable_that_was_out_leaves_network_manager_on_the_bridge() {
    for ipv4 in ["method=auto", "method=manual\\naddress1=192.0.2.21/24,192.0.2.1"] {
        let site = Site::new(ipv4, "method=disabled");
        site.up();
        site.host.lan.ip(&["link", "set", "lan0", "down"]);
        sleep(Duration::from_secs(10));
        site.host.lan.ip(&["link", "set", "lan0", "up"]);
        sleep(Duration::from_secs(5));
        site.assert_on_bridge();
        site.down();
        site.assert_back();
    }
}

/// Made of the device's name, and yet the same on the bridge.
#[test]
fn a_stable_private_address_of_network_manager_stays() {
    let site = Site::new("method=auto", "method=auto\\naddr-gen-mode=stable-privacy");
    let before = site.sameness();
    let stream = site.stream();
    site.up();
    stream.assert_lost_at_most(1);
    site.assert_on_bridge();
    assert_eq!(site.sameness(), before);
    // A router's advertisement has made no second one.
    let list = site
        .host
        .ns
        .ip(&["-6", "-o", "addr", "show", "dev", "br0", "scope", "global"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    site.down();
    site.assert_back();
}
