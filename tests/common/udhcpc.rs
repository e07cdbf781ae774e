//! BusyBox's udhcpc and udhcpd, and what vmbr's lease keeper says of itself.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use serde_json::Value;

use crate::host::Host;
use crate::lease::Server;
use crate::machine::Machine;

/// A host whose address udhcpc has leased, started with further arguments.
pub fn leased(arguments: &[&str]) -> (Host, Machine, Server, String) {
    let host = Host::new("keeper", "ip link set eth0 up");
    let server = Server::start(&host.lan);
    let (machine, address) = ask(&host, arguments);
    (host, machine, server, address)
}

/// Starts udhcpc, and waits for its lease.
pub fn ask(host: &Host, arguments: &[&str]) -> (Machine, String) {
    let machine = Machine::new(&host.ns);
    let mut words = vec!["udhcpc", "-f", "-i", "eth0", "-s", "/etc/udhcpc/default.script"];
    words.extend(arguments);
    machine.start("busybox", &words);
    machine.until("ip -4 route | grep -q '^default'");
    let address = address(&machine, "eth0");
    (machine, address)
}

/// The first IPv4 address of a device.
pub fn address(machine: &Machine, dev: &str) -> String {
    let list = machine.sh(&format!("ip -4 -o addr show dev {dev}"));
    let word = list.split_whitespace().nth(3);
    word.unwrap_or_else(|| panic!("{dev} has no address"))
        .split('/')
        .next()
        .unwrap()
        .to_owned()
}

/// What `vmbr status` says of the lease of br0.
pub fn status(host: &Host, machine: &Machine) -> Value {
    let text = machine.vmbr(host, &["--json", "status", "br0"]).ok();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["bridges"][0]["lease"].clone()
}

/// The processes of the keeper: who starts it again, and itself.
pub fn keepers(machine: &Machine) -> usize {
    machine
        .sh("pgrep -cf '[k]eeper --bridge br0' || :")
        .trim()
        .parse()
        .unwrap()
}

/// The state of udhcpc, as ps tells it.
pub fn state_of(machine: &Machine) -> String {
    machine.sh("ps -o state= -p $(pidof busybox)").trim().to_owned()
}

/// A DHCP server whose leases may be of some seconds: BusyBox's. It gives the
/// addresses from `first` to `last`.
pub struct Short(pub Machine);

impl Short {
    /// Starts it.
    pub fn start(host: &Host, first: &str, last: &str) -> Self {
        let server = Self(Machine::new(&host.lan));
        server.go_on(first, last);
        server
    }

    /// Starts it (again), perhaps with other addresses.
    pub fn go_on(&self, first: &str, last: &str) {
        self.0.sh(&format!(
            "printf 'start {first}\\nend {last}\\ninterface lan0\\nlease_file /run/leases\\npidfile /run/pid\\n\
             min_lease 5\\nopt lease {SHORT}\\nopt subnet 255.255.255.0\\nopt router 192.0.2.1\\n' >/run/conf
             touch /run/leases"
        ));
        self.0.start("busybox", &["udhcpd", "-f", "/run/conf"]);
        self.0.until("grep -q :0043 /proc/net/udp");
    }

    /// Has it go away without a word.
    pub fn fall_silent(&self) {
        self.0.sh("kill -9 $(cat /run/pid)");
        self.0.until("! grep -q :0043 /proc/net/udp");
    }
}

/// Its leases, in seconds.
pub const SHORT: u64 = 6;

/// When the lease of br0 ends, in seconds since 1970.
pub fn end(host: &Host, machine: &Machine) -> u64 {
    let lease = status(host, machine);
    lease["ends"].as_u64().unwrap_or_else(|| panic!("{lease}"))
}

/// In the place of a server, one that refuses its leases, and gives 192.0.2.120.
pub fn replace(server: &Server) {
    server.replace(
        "192.0.2.120,192.0.2.120",
        &["--dhcp-option=option:router,192.0.2.2"],
    );
}

/// The seconds that are left of the IPv4 address of a device.
pub fn left(machine: &Machine, dev: &str) -> u64 {
    let text = machine.sh(&format!("ip -4 addr show dev {dev}"));
    let word = text
        .split_whitespace()
        .skip_while(|word| *word != "valid_lft")
        .nth(1);
    let seconds = word.and_then(|word| word.strip_suffix("sec"));
    seconds.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}
