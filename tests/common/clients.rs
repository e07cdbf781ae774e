//! A host whose address a DHCP client has leased.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use crate::common::Namespace;
use crate::host::Host;
use crate::lease::Server;
use crate::machine::Machine;

/// dhclient, as people start it.
pub const DHCLIENT: &str = "dhclient -4 eth0";
/// dhcpcd, for every device.
pub const DHCPCD: &str = "mkdir -p /var/lib/dhcpcd; dhcpcd -q -4";

/// A host whose NIC is up, without any address but its own of IPv6, with a
/// machine in it and a server in its LAN.
pub struct Site {
    // Ended in this order.
    /// The machine.
    pub machine: Machine,
    /// The server.
    pub server: Server,
    /// The host.
    pub host: Host,
}

impl Site {
    /// Its server speaks DHCPv4.
    pub fn new() -> Self {
        Self::with(Server::start)
    }

    /// Its server is started by this, with the LAN.
    pub fn with(server: impl FnOnce(&Namespace) -> Server) -> Self {
        let host = Host::new("handover", "ip link set eth0 up");
        Self {
            machine: Machine::new(&host.ns),
            server: server(&host.lan),
            host,
        }
    }

    /// The IPv4 address that a device has.
    pub fn address(&self, dev: &str) -> String {
        self.machine
            .until(&format!("ip -4 addr show dev {dev} | grep -q 'inet 192.0.2.1'"));
        let list = self.machine.sh(&format!("ip -4 -o addr show dev {dev}"));
        let addresses: Vec<&str> = list.lines().collect();
        assert_eq!(addresses.len(), 1, "{list}");
        let address = list.split_whitespace().nth(3).unwrap();
        address.split('/').next().unwrap().to_owned()
    }

    /// For how long the address of a device is valid, in seconds.
    pub fn valid(&self, dev: &str) -> u64 {
        let all = self.host.ns.json(&["-4", "addr", "show", "dev", dev]);
        all[0]["addr_info"][0]["valid_life_time"].as_u64().unwrap()
    }

    /// The IPv4 default routes without their device.
    pub fn defaults(&self) -> String {
        let routes = self.machine.sh("ip -4 route show default");
        routes
            .replace("dev br0 ", "dev X ")
            .replace("dev eth0 ", "dev X ")
    }

    /// `vmbr up eth0`, which must succeed: what it says.
    pub fn up(&self) -> String {
        let ended = self.machine.vmbr(&self.host, &["up", "eth0"]);
        assert_eq!(ended.code(), 0, "{ended:?}\n{}", self.machine.said());
        ended.stderr
    }

    /// `vmbr down`, which must succeed: what it says.
    pub fn down(&self) -> String {
        let ended = self.machine.vmbr(&self.host, &["down"]);
        assert_eq!(ended.code(), 0, "{ended:?}\n{}", self.machine.said());
        ended.stderr
    }

    /// Root's processes of a program, by their command lines.
    pub fn processes(&self, program: &str) -> Vec<String> {
        let list = self.machine.sh(&format!("pgrep -a '^{program}$' | sort || :"));
        // Nobody waits for those that have ended.
        // dhcpcd has one more for each announcement, for each address, and
        // until it is in the background.
        let passing = [
            "<defunct>",
            "[BPF ",
            "[network proxy]",
            "[BOOTP proxy]",
            "[launcher]",
        ];
        let live = list
            .lines()
            .filter(|line| !passing.iter().any(|word| line.contains(word)));
        live.map(str::to_owned).collect()
    }

    /// The lease as the server has it, without its end.
    pub fn leased(&self, address: &str) -> [String; 4] {
        let lease = self.server.lease(address);
        [lease.mac, lease.address, lease.host, lease.client]
    }
}

/// No address may come or go but by the flip itself: asserts it of what a
/// monitor has heard of an address on a device.
pub fn assert_steady(heard: &[String], address: &str, dev: &str) {
    let gone = |line: &&String| {
        line.contains("Deleted")
            && line.contains(&format!(": {dev} "))
            && line.contains(&format!("inet {address}/"))
    };
    assert_eq!(heard.iter().filter(gone).count(), 0, "{heard:#?}");
}
