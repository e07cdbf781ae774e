//! A real NetworkManager on a host.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use crate::host::Host;
use crate::machine::Machine;

/// The profile of the NIC.
pub const PROFILE: &str = "/etc/NetworkManager/system-connections/wired.nmconnection";
/// Whether NetworkManager has the NIC by it.
pub const ON_NIC: &str = "nmcli -t device | grep -q '^eth0:ethernet:connected:wired$'";
/// What the kernel has made of a router's advertisement before it starts
/// NetworkManager would leave to the kernel.
pub const UP: &str = "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra; ip link set eth0 up";

/// A machine on the host whose NIC, which [`UP`] has set up, NetworkManager
/// configures, with this in its profile's parts `ipv4` and `ipv6`.
pub fn managed(host: &Host, ipv4: &str, ipv6: &str) -> Machine {
    let machine = Machine::with_bus(&host.ns);
    machine.start_udev();
    machine.sh(&format!(
        "printf '[main]\\nplugins=keyfile\\nno-auto-default=*\\n' >/etc/NetworkManager/NetworkManager.conf
         printf '[connection]\\nid=wired\\nuuid=11111111-2222-3333-4444-555555555555\\ntype=ethernet\\ninterface-name=eth0\\n[ipv4]\\n{ipv4}\\n[ipv6]\\n{ipv6}\\n' >{PROFILE}
         chmod 600 {PROFILE}"
    ));
    start(&machine);
    machine.until(ON_NIC);
    if ipv6.contains("auto") {
        // One of DHCPv6, one of the router's prefix.
        machine.until("test $(ip -6 -o addr show dev eth0 scope global -tentative | wc -l) = 2");
    }
    machine
}

/// Starts NetworkManager.
pub fn start(machine: &Machine) {
    machine.start("NetworkManager", &["--no-daemon"]);
    machine.until("nmcli -t -f STATE general >/dev/null");
}
