//! A lease without a manager that can be given the bridge: BusyBox's udhcpc,
//! real DHCP servers, and vmbr's own lease keeper.
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
#[path = "common/manager.rs"]
mod manager;

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use host::{Host, MAC};
use lease::{Monitor, Server, Stream};
use machine::Machine;
use manager::Manager;

/// A host whose address udhcpc has leased, started with further arguments.
fn leased(arguments: &[&str]) -> (Host, Machine, Server, String) {
    let host = Host::new("keeper", "ip link set eth0 up");
    let server = Server::start(&host.lan);
    let (machine, address) = ask(&host, arguments);
    (host, machine, server, address)
}

/// Starts udhcpc, and waits for its lease.
fn ask(host: &Host, arguments: &[&str]) -> (Machine, String) {
    let machine = Machine::new(&host.ns);
    let mut words = vec!["udhcpc", "-f", "-i", "eth0", "-s", "/etc/udhcpc/default.script"];
    words.extend(arguments);
    machine.start("busybox", &words);
    machine.until("ip -4 route | grep -q '^default'");
    let address = address(&machine, "eth0");
    (machine, address)
}

/// The first IPv4 address of a device.
fn address(machine: &Machine, dev: &str) -> String {
    let list = machine.sh(&format!("ip -4 -o addr show dev {dev}"));
    let word = list.split_whitespace().nth(3);
    word.unwrap_or_else(|| panic!("{dev} has no address"))
        .split('/')
        .next()
        .unwrap()
        .to_owned()
}

/// What `vmbr status` says of the lease of br0.
fn status(host: &Host, machine: &Machine) -> Value {
    let text = machine.vmbr(host, &["--json", "status", "br0"]).ok();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["bridges"][0]["lease"].clone()
}

/// The processes of the keeper: who starts it again, and itself.
fn keepers(machine: &Machine) -> usize {
    machine
        .sh("pgrep -cf '[k]eeper --bridge br0' || :")
        .trim()
        .parse()
        .unwrap()
}

/// The state of udhcpc, as ps tells it.
fn udhcpc(machine: &Machine) -> String {
    machine.sh("ps -o state= -p $(pidof busybox)").trim().to_owned()
}

#[test]
fn the_lease_lives_on_the_bridge_and_back() {
    let (host, machine, server, address) = leased(&["-x", "hostname:here"]);
    let before = server.lease(&address);
    assert_eq!(before.client, format!("01:{MAC}"));
    let state = host.state();
    let monitor = Monitor::start(&host.ns);
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    sleep(Duration::from_millis(1100));
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 0, "{said:?}");
    println!("{}{}", said.stderr, said.stdout);
    assert!(said.stderr.contains("stays running"), "{said:?}");
    state.assert_moved(&host.state(), "eth0", "br0");
    assert_eq!(udhcpc(&machine), "T");
    // Confirmed by the server, as the client that has leased it.
    let after = server.lease(&address);
    assert!(after.end > before.end, "{before:?} {after:?}");
    assert_eq!((&after.client, &after.host), (&before.client, &before.host));
    assert_eq!(server.leases().len(), 1);
    let lease = status(&host, &machine);
    println!("{lease}");
    assert_eq!(lease["address"], address.as_str());
    assert_eq!(lease["server"], "192.0.2.1");
    assert_eq!(lease["state"], "bound");
    let said = machine.vmbr(&host, &["down"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(!said.stderr.contains("warning"), "{said:?}");
    stream.assert_lost_at_most(2);
    let events = monitor.end();
    println!("{}", events.join("\n"));
    assert_eq!(udhcpc(&machine), "S");
    assert_eq!(keepers(&machine), 0);
    state.assert_same(&host.state());
}

/// A DHCP server whose leases may be of some seconds: BusyBox's. It gives the
/// addresses from `first` to `last`.
struct Short(Machine);

impl Short {
    fn start(host: &Host, first: &str, last: &str) -> Self {
        let server = Self(Machine::new(&host.lan));
        server.go_on(first, last);
        server
    }

    fn go_on(&self, first: &str, last: &str) {
        self.0.sh(&format!(
            "printf 'start {first}\\nend {last}\\ninterface lan0\\nlease_file /run/leases\\npidfile /run/pid\\n\
             min_lease 5\\nopt lease {SHORT}\\nopt subnet 255.255.255.0\\nopt router 192.0.2.1\\n' >/run/conf
             touch /run/leases"
        ));
        self.0.start("busybox", &["udhcpd", "-f", "/run/conf"]);
        self.0.until("grep -q :0043 /proc/net/udp");
    }

    fn fall_silent(&self) {
        self.0.sh("kill -9 $(cat /run/pid)");
        self.0.until("! grep -q :0043 /proc/net/udp");
    }
}

/// Its leases, in seconds.
const SHORT: u64 = 6;

/// When the lease of br0 ends, in seconds since 1970.
fn end(host: &Host, machine: &Machine) -> u64 {
    let lease = status(host, machine);
    lease["ends"].as_u64().unwrap_or_else(|| panic!("{lease}"))
}

#[test]
fn leases_of_seconds_are_renewed_on_the_bridge_and_after_it() {
    let host = Host::new("short", "ip link set eth0 up");
    let _server = Short::start(&host, "192.0.2.100", "192.0.2.110");
    let (machine, address) = ask(&host, &[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    let monitor = Monitor::start(&host.ns);
    let first = end(&host, &machine);
    sleep(Duration::from_secs(SHORT + 2));
    assert!(end(&host, &machine) >= first + 3, "not renewed");
    stream.assert_lost_at_most(0);
    let events = monitor.end();
    let flaps = events
        .iter()
        .filter(|line| line.contains("br0") && !line.contains("inet6"));
    assert_eq!(flaps.count(), 0, "{events:?}");
    assert_eq!(self::address(&machine, "br0"), address);
    // Its client has overslept the whole lease, and goes on all the same.
    let stream = Stream::start(&host.ns, &["192.0.2.1"]);
    machine.vmbr(&host, &["down"]).ok();
    sleep(Duration::from_secs(SHORT + 2));
    stream.assert_lost_at_most(1);
    assert_eq!(self::address(&machine, "eth0"), address);
    let said = machine.said();
    assert!(!said.contains("lease lost"), "{said}");
}

/// In the place of a server, one that knows nothing of its leases, refuses
/// them, and gives 192.0.2.120.
fn replace(server: &Server) {
    server.fall_silent();
    server.machine.start(
        "dnsmasq",
        &[
            "--no-ping",
            "--dhcp-authoritative",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=lan0",
            "--user=root",
            "--dhcp-range=192.0.2.120,192.0.2.120,120",
            "--dhcp-option=option:router,192.0.2.2",
            "--dhcp-leasefile=/run/others",
            "--pid-file=/run/dnsmasq.pid",
        ],
    );
    server.machine.until("grep -q :0043 /proc/net/udp");
}

#[test]
fn another_address_is_there_before_the_old_one_goes() {
    let (host, machine, server, address) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let monitor = Monitor::start(&host.ns);
    replace(&server);
    // A carrier that was gone may be another network's: the lease is asked
    // about at once.
    host::script_in(&host.lan, "ip link set lan0 down; sleep 0.2; ip link set lan0 up");
    machine.until("ip -4 addr show dev br0 | grep -q 192.0.2.120");
    machine.until(&format!("! ip -4 addr show dev br0 | grep -q {address}/"));
    let events = monitor.end();
    let at = |what: &str| events.iter().position(|line| line.contains(what));
    let new = at("br0    inet 192.0.2.120/24");
    let gone = at(&format!("Deleted 4: br0    inet {address}/24"));
    assert!(new.is_some() && gone.is_some() && new < gone, "{events:?}");
    host.ping_both_ways(Some("192.0.2.120"), None);
    let routes = machine.sh("ip -4 route");
    assert_eq!(routes.matches("default").count(), 1, "{routes}");
    assert!(routes.contains("default via 192.0.2.2 dev br0"), "{routes}");
    assert_eq!(status(&host, &machine)["address"], "192.0.2.120");
    let said = machine.vmbr(&host, &["down"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(
        said.stderr
            .contains(&format!("udhcpc still believes in {address}")),
        "{said:?}"
    );
    assert_eq!(self::address(&machine, "eth0"), "192.0.2.120");
}

#[test]
fn a_guest_that_plays_server_is_not_heard() {
    let host = Host::new("rogue", "ip link set eth0 up");
    let server = Short::start(&host, "192.0.2.100", "192.0.2.100");
    let (machine, address) = ask(&host, &[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let guest = common::Namespace::new("guest");
    let ends = [(&host.ns, "tap0"), (&guest, "lan0")].map(|(namespace, name)| common::VethEnd {
        namespace,
        name,
        mac: None,
    });
    common::veth_pair(&ends[0], &ends[1]);
    machine.sh("ip link set tap0 master br0 up");
    host::script_in(&guest, "ip link set lan0 up; ip addr add 192.0.2.66/24 dev lan0");
    let rogue = Machine::new(&guest);
    rogue.start("tcpdump", &["-lni", "lan0", "udp port 67 or udp port 68"]);
    Short(rogue).go_on_as_rogue(&host, &machine, &server, &address);
}

impl Short {
    /// The guest's: the real one falls silent for longer than a lease.
    fn go_on_as_rogue(self, host: &Host, machine: &Machine, real: &Self, address: &str) {
        self.go_on("192.0.2.200", "192.0.2.210");
        // It is one that answers who asks it.
        host::script_in(&host.ns, "true");
        real.fall_silent();
        sleep(Duration::from_secs(SHORT - 1));
        assert_eq!(self::address(machine, "br0"), address);
        machine.until("! ip -4 addr show dev br0 | grep -q 'inet '");
        sleep(Duration::from_secs(1));
        let heard = self.0.said();
        assert!(heard.contains("listening on lan0"), "{heard}");
        assert!(
            !heard.contains("BOOTP/DHCP"),
            "a guest hears what the keeper says: {heard}"
        );
        assert_eq!(machine.sh("ip -4 -o addr show dev br0"), "");
        // The real one comes back.
        real.go_on("192.0.2.100", "192.0.2.100");
        machine.until("ip -4 addr show dev br0 | grep -q 'inet 192.0.2.100'");
        host.ping_both_ways(Some("192.0.2.100"), None);
    }
}

#[test]
fn a_keeper_that_dies_comes_again_or_is_reported() {
    let (host, machine, _server, _) = leased(&[]);
    machine.vmbr(&host, &["up", "eth0"]).ok();
    let first = status(&host, &machine)["process"].as_u64().unwrap();
    assert_eq!(keepers(&machine), 2);
    machine.sh(&format!("kill -9 {first}"));
    assert_eq!(status(&host, &machine)["state"], "dead");
    machine.until(&format!(
        "{} --json --state-dir {} status br0 | grep -q '\"state\":\"bound\"'",
        env!("CARGO_BIN_EXE_vmbr"),
        host.records().display()
    ));
    let second = status(&host, &machine)["process"].as_u64().unwrap();
    assert_ne!(first, second);
    // Both at once: nobody starts it again.
    machine.sh("kill -9 $(pgrep -f '[k]eeper --bridge br0')");
    let doctor = machine.vmbr(&host, &["--json", "doctor"]);
    let found: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    let dead = findings.iter().find(|finding| finding["id"] == "keeper-dead");
    assert_eq!(dead.unwrap_or_else(|| panic!("{found}"))["fixable"], true);
    let fixed = machine.vmbr(&host, &["doctor", "--fix"]);
    assert!(
        fixed.stdout.contains("mended: the lease keeper of br0"),
        "{fixed:?}"
    );
    assert_eq!(keepers(&machine), 2);
    machine.vmbr(&host, &["down"]).ok();
    assert_eq!(keepers(&machine), 0);
    assert_eq!(udhcpc(&machine), "S");
}

#[test]
fn a_server_that_is_silent_is_a_warning_and_is_asked_again() {
    let (host, machine, server, address) = leased(&[]);
    server.fall_silent();
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(
        said.stderr
            .contains(&format!("no DHCP server has confirmed {address}")),
        "{said:?}"
    );
    assert_eq!(status(&host, &machine)["state"], "confirming");
    server.go_on();
    let bound = common::wait_until(Duration::from_secs(10), || {
        status(&host, &machine)["state"] == "bound"
    });
    assert!(bound, "{}", status(&host, &machine));
}

/// The seconds that are left of the IPv4 address of a device.
fn left(machine: &Machine, dev: &str) -> u64 {
    let text = machine.sh(&format!("ip -4 addr show dev {dev}"));
    let word = text
        .split_whitespace()
        .skip_while(|word| *word != "valid_lft")
        .nth(1);
    let seconds = word.and_then(|word| word.strip_suffix("sec"));
    seconds.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// dhclient was ended, and has left its lease: the keeper finds out as whom.
fn left_by_dhclient(arguments: &str) {
    let host = Host::new("left", "ip link set eth0 up");
    let server = Server::start(&host.lan);
    let machine = Machine::new(&host.ns);
    machine.sh(&format!("dhclient -4 {arguments} -pf /run/dhclient.pid eth0"));
    machine.until("ip -4 route | grep -q '^default'");
    let address = address(&machine, "eth0");
    machine.sh("kill -9 $(pidof dhclient); while pidof dhclient; do sleep 0.01; done");
    let before = server.lease(&address);
    sleep(Duration::from_millis(2100));
    let then = left(&machine, "eth0");
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(
        said.stderr.contains("leased by a client that has ended"),
        "{said:?}"
    );
    let after = server.lease(&address);
    assert!(after.end > before.end, "{before:?} {after:?}");
    assert_eq!(after.client, before.client);
    assert_eq!(server.leases().len(), 1);
    assert_eq!(status(&host, &machine)["state"], "bound");
    machine.until(&format!(
        "test $(ip -4 addr show dev br0 | grep -o 'valid_lft [0-9]*' | cut -d' ' -f2) -gt {then}"
    ));
    let said = machine.vmbr(&host, &["down"]);
    assert!(
        said.stderr
            .contains(&format!("nobody renews the lease of {address}")),
        "{said:?}"
    );
    assert!(left(&machine, "eth0") > then);
    assert_eq!(keepers(&machine), 0);
}

#[test]
fn a_lease_that_dhclient_has_left_is_kept() {
    left_by_dhclient("");
}

#[test]
fn a_lease_of_a_duid_that_dhclient_has_left_is_kept() {
    left_by_dhclient("-i");
}

/// Killed while it waits for the keeper's word, its watchdog leads it all back.
#[test]
fn killed_in_the_middle_the_client_has_the_uplink_again() {
    let (host, machine, server, _) = leased(&[]);
    server.fall_silent();
    let before = host.state();
    machine.start(
        env!("CARGO_BIN_EXE_vmbr"),
        &["--state-dir", host.records().to_str().unwrap(), "up", "eth0"],
    );
    machine.until("pgrep -f '[k]eeper --bridge br0'");
    assert_eq!(udhcpc(&machine), "T");
    machine.sh("kill -9 $(pgrep -f '[u]p eth0')");
    let back = common::wait_until(Duration::from_secs(10), || {
        keepers(&machine) == 0 && udhcpc(&machine) == "S" && !host.state().has_link("br0")
    });
    assert!(back, "{}", machine.sh("ps ax; ip addr"));
    before.assert_same(&host.state());
}

/// The server knows nothing of the lease: the host stays as it is.
#[test]
fn a_lease_that_the_server_refuses_is_left_where_it_is() {
    let (host, machine, server, _) = leased(&[]);
    replace(&server);
    let before = host.state();
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.stderr.contains("does not confirm"), "{said:?}");
    before.assert_same(&host.state());
    assert_eq!(keepers(&machine), 0);
    assert_eq!(udhcpc(&machine), "S");
}

/// Where systemd runs, the keeper is a unit of its own, confined, and systemd
/// starts it again. It dies with its duty.
#[test]
#[ignore = "boots a systemd of its own, needs a cgroup2 hierarchy to make a group in"]
fn under_systemd_the_keeper_is_a_unit() {
    // First: a later one is not seen where systemd is.
    let lan = common::Namespace::new("lan");
    let systemd = Manager::boot();
    let sh = |script: &str| systemd.run(&["sh", "-ec", script]);
    sh(&format!(
        "ip link add eth0 address {MAC} type veth peer name lan0 netns {}; ip link set eth0 up",
        lan.name()
    ));
    host::script_in(&lan, "ip link set lan0 up; ip addr add 192.0.2.1/24 dev lan0");
    let server = Server::start(&lan);
    let vmbr = std::path::Path::new(env!("CARGO_BIN_EXE_vmbr"));
    let root = vmbr.ancestors().nth(2).unwrap().join("daemons/root");
    let root = root.display();
    sh(&format!(
        "PATH={root}/usr/bin:$PATH setsid -f busybox udhcpc -i eth0 -s {root}/etc/udhcpc/default.script -f \
         >/dev/null 2>&1 </dev/null
         for i in $(seq 100); do ip -4 route | grep -q ^default && exit; sleep 0.1; done; exit 1"
    ));
    let records = std::env::temp_dir().join(format!("vmbr-keeper-{}", lan.name()));
    let command = format!("{} --state-dir {}", vmbr.display(), records.display());
    let said = sh(&format!("{command} up eth0 2>&1"));
    println!("{said}");
    assert!(!said.contains("warning: no DHCP server"), "{said}");
    let status = || -> Value { serde_json::from_str(&sh(&format!("{command} --json status br0"))).unwrap() };
    let lease = || status()["bridges"][0]["lease"].clone();
    assert_eq!(lease()["state"], "bound");
    let address = lease()["address"].as_str().unwrap().to_owned();
    let first = server.lease(&address).end;
    assert_eq!(sh("systemctl is-active vmbr-keeper-br0").trim(), "active");
    let pid = lease()["process"].as_u64().unwrap();
    let main = sh("systemctl show -p MainPID --value vmbr-keeper-br0");
    assert_eq!(main.trim(), pid.to_string());
    let privileges = sh(&format!(
        "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/{pid}/status"
    ));
    println!("{privileges}");
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW.
    assert!(privileges.contains("CapEff:\t0000000000003400"), "{privileges}");
    assert!(privileges.contains("CapBnd:\t0000000000000000"), "{privileges}");
    assert!(
        privileges.contains("Seccomp:\t2") && privileges.contains("NoNewPrivs:\t1"),
        "{privileges}"
    );
    // It is started again, asks again, and is bound again.
    sleep(Duration::from_millis(1100));
    sh(&format!("kill -9 {pid}"));
    let again = || lease()["process"].as_u64().is_some_and(|now| now != pid) && lease()["state"] == "bound";
    assert!(common::wait_until(Duration::from_secs(10), again), "{}", lease());
    assert!(server.lease(&address).end > first);
    println!("{}", sh(&format!("{command} down 2>&1")));
    let stopped = sh("systemctl is-active vmbr-keeper-br0 || :");
    assert_ne!(stopped.trim(), "active");
    assert_eq!(sh("pgrep -cf '[k]eeper --bridge br0' || :").trim(), "0");
    assert_eq!(sh("ps -o state= -p $(pgrep -x busybox)").trim(), "S");
    std::fs::remove_dir_all(records).unwrap();
}
