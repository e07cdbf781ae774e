//! Network managers and DHCP clients, the real ones, that have a hand on the
//! uplink: `up` refuses before it touches anything, or says whom it gives the
//! bridge.
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

use host::Host;
use lease::Server;
use machine::Machine;

const STATIC: &str =
    "ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0; ip route add default via 192.0.2.1";

/// Waits until the client has its address; gives it.
fn leased(machine: &Machine) -> String {
    machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    let list = machine.sh("ip -4 -o addr show dev eth0");
    let address = list.split_whitespace().nth(3).unwrap();
    address.split('/').next().unwrap().to_owned()
}

/// A host whose NIC is up, without any address.
fn bare() -> Host {
    Host::new("owners", "ip link set eth0 up")
}

fn network_manager(machine: &Machine, ipv4: &str) {
    machine.sh(&format!(
        "printf '[main]\\nplugins=keyfile\\nno-auto-default=*\\n' >/etc/NetworkManager/NetworkManager.conf
         file=/etc/NetworkManager/system-connections/wired.nmconnection
         printf '[connection]\\nid=wired\\ntype=ethernet\\ninterface-name=eth0\\n[ipv6]\\nmethod=disabled\\n[ipv4]\\n{ipv4}\\n' >$file
         chmod 600 $file"
    ));
    machine.start("NetworkManager", &["--no-daemon"]);
    machine.until("nmcli -t -f STATE general >/dev/null");
}

/// What is handed over is told of, to one who is not root, too.
#[test]
fn a_lease_of_network_manager_is_handed_over() {
    let host = bare();
    let _server = Server::start(&host.lan);
    let machine = Machine::with_bus(&host.ns);
    network_manager(&machine, "method=auto");
    machine.until("nmcli -t device | grep -q eth0:ethernet:connected:wired");
    let address = leased(&machine);
    let told = |said: &str| {
        for part in [
            "eth0 is managed by NetworkManager (its profile 'wired' is active there)",
            &format!("has leased {address} (from 192.0.2.1), which ends in "),
            "it is given the bridge instead",
            "ipv4.dhcp-client-id 01:02:00:00:00:00:21",
            "nmcli device set eth0 managed no",
        ] {
            assert!(said.contains(part), "no '{part}' in: {said}");
        }
    };
    told(&machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok());
    // The same to someone who is not root.
    let user = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
    let vmbr = host.records().join("vmbr");
    std::fs::copy(env!("CARGO_BIN_EXE_vmbr"), &vmbr).unwrap();
    let dry = common::run(machine.command("sh").args([
        "-c",
        &format!(
            "{user} {} --state-dir {} up --dry-run eth0",
            vmbr.display(),
            host.records().display()
        ),
    ]));
    told(&dry.ok());
}

/// It runs, and has no hand on the NIC: by its configuration, or because it
/// only mirrors what others have done.
#[test]
fn a_network_manager_that_does_not_manage_the_nic_is_no_reason() {
    let host = Host::new("unmanaged", STATIC);
    let machine = Machine::with_bus(&host.ns);
    network_manager(&machine, "method=auto\\n[keyfile]");
    machine.until("nmcli -t device | grep -q 'eth0:ethernet:connected (externally)'");
    let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(!said.contains("NetworkManager"), "{said}");
    machine.sh("nmcli device set eth0 managed no");
    machine.until("nmcli -t device | grep -q eth0:ethernet:unmanaged");
    let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(!said.contains("NetworkManager"), "{said}");
}

/// Where its D-Bus is dumb, its own notes count.
#[test]
fn a_network_manager_that_cannot_be_asked_is_judged_by_its_notes() {
    let host = bare();
    let machine = Machine::with_bus(&host.ns);
    network_manager(&machine, "method=manual\\naddress1=192.0.2.21/24,192.0.2.1");
    machine.until("nmcli -t device | grep -q eth0:ethernet:connected:wired");
    machine.until("grep -q managed=true /run/NetworkManager/devices/$(cat /sys/class/net/eth0/ifindex)");
    machine.sh("rm /run/dbus/system_bus_socket");
    let said = machine.refused(&host);
    assert!(said.contains("there is no D-Bus to ask it by"), "{said}");
    machine.start(
        "socat",
        &["UNIX-LISTEN:/run/dbus/system_bus_socket,fork", "EXEC:sleep 60"],
    );
    machine.until("test -S /run/dbus/system_bus_socket");
    let began = std::time::Instant::now();
    let dry = machine.vmbr(&host, &["up", "eth0", "--dry-run"]);
    let took = began.elapsed();
    assert_eq!(dry.code(), 3, "{dry:?}");
    assert!(
        dry.stderr.contains("the system's D-Bus did not answer in time"),
        "{dry:?}"
    );
    assert!(took.as_secs_f64() < 8.0, "{took:?}");
}

fn networkd(machine: &Machine, network: &str) {
    machine.sh(&format!(
        "mkdir -p /run/systemd/network /run/systemd/netif
         chown systemd-network /run/systemd/netif
         printf '[Match]\\nName=eth0\\n{network}\\n' >/run/systemd/network/10-eth0.network"
    ));
    machine.start("/lib/systemd/systemd-networkd", &[]);
    machine.until("grep -qE 'ADMIN_STATE=(configured|unmanaged)' /run/systemd/netif/links/$(cat /sys/class/net/eth0/ifindex)");
}

/// Where it cannot be told: how it is given the bridge is in
/// handover_networkd.rs.
#[test]
fn a_networkd_without_a_bus_is_refused() {
    let host = bare();
    let _server = Server::start(&host.lan);
    let machine = Machine::new(&host.ns);
    networkd(&machine, "[Network]\\nDHCP=ipv4\\nLinkLocalAddressing=no");
    let address = leased(&machine);
    let said = machine.refused(&host);
    for part in [
        "eth0 is managed by systemd-networkd (",
        &format!("has leased {address} (from 192.0.2.1), which ends in "),
        "systemctl stop systemd-networkd.socket",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    assert!(said.contains("there is no D-Bus to tell it by"), "{said}");
}

/// It would put its addresses on the port; ended, it leaves them.
#[test]
fn addresses_of_a_networkd_without_a_bus_are_refused_until_it_ends() {
    let host = bare();
    let machine = Machine::new(&host.ns);
    networkd(
        &machine,
        "[Network]\\nAddress=192.0.2.21/24\\nGateway=192.0.2.1\\nLinkLocalAddressing=no",
    );
    let said = machine.refused(&host);
    assert!(said.contains("10-eth0.network"), "{said}");
    assert!(said.contains("it puts its addresses on the port"), "{said}");
    assert!(said.contains("systemctl stop systemd-networkd.socket"), "{said}");
    // There is no systemctl here; it does this.
    machine.sh("kill $(pidof systemd-networkd)");
    machine.until("! pidof systemd-networkd");
    machine.vmbr(&host, &["up", "eth0"]).ok();
    host.ping_both_ways(Some("192.0.2.21"), None);
    machine.vmbr(&host, &["down"]).ok();
}

#[test]
fn a_networkd_that_does_not_manage_the_nic_is_no_reason() {
    let host = Host::new("unmanaged", STATIC);
    let machine = Machine::with_bus(&host.ns);
    networkd(&machine, "[Link]\\nUnmanaged=yes");
    let said = machine.vmbr(&host, &["up", "eth0", "--dry-run"]).ok();
    assert!(!said.contains("systemd-networkd"), "{said}");
}
