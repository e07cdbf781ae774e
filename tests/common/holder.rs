//! Who has the lease of a host, and how to see that it has.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use crate::host::Host;
use crate::machine::Machine;
use crate::{network_manager, networkd, udhcpc};

/// Who has the lease, and how to see that it has it on the device that carries
/// the network: scripts for `sh -e`.
pub struct Manager {
    /// Its name.
    pub name: &'static str,
    /// What sets the NIC up.
    pub up: &'static str,
    /// Starts it, and waits for its lease.
    pub start: fn(&Host) -> Machine,
    /// Whether it has leases of both families.
    pub both: bool,
    /// It has the NIC.
    pub on_nic: &'static str,
    /// It has the bridge.
    pub on_bridge: &'static str,
}

/// systemd-networkd.
pub const NETWORKD: Manager = Manager {
    name: "networkd",
    up: "ip link set eth0 up",
    start: |host| {
        let machine = networkd::managed(host, networkd::DHCP);
        // To networkd a device that udev does not know is not there yet, and
        // each change makes one.
        machine.sh("
            for index in $(seq 61 2000); do
                printf 'I:1\\nE:ID_NET_NAME=x\\nV:1\\n' >/run/udev/data/n$index
            done");
        machine.until("ip -6 addr show dev eth0 | grep -q /128");
        machine.until("ip -6 route show default | grep -q 'proto ra'");
        machine.until("! ip addr show dev eth0 | grep -q tentative");
        machine
    },
    both: true,
    on_nic: "
        index=$(cat /sys/class/net/eth0/ifindex)
        grep -q ADMIN_STATE=configured /run/systemd/netif/links/$index
        grep -q ^ADDRESS= /run/systemd/netif/leases/$index
        test $(ls /run/systemd/netif/leases | wc -l) = 1
        ! ls /run/systemd/network | grep -q 00-vmbr",
    on_bridge: "
        index=$(cat /sys/class/net/br0/ifindex)
        grep -q ADMIN_STATE=configured /run/systemd/netif/links/$index
        grep -q ^ADDRESS= /run/systemd/netif/leases/$index
        grep -q ADMIN_STATE=unmanaged /run/systemd/netif/links/$(cat /sys/class/net/eth0/ifindex)
        test $(ls /run/systemd/network | grep -c 00-vmbr) = 2",
};

/// dhclient.
pub const DHCLIENT: Manager = Manager {
    name: "dhclient",
    up: "ip link set eth0 up",
    start: |host| {
        let machine = Machine::new(&host.ns);
        machine.sh("dhclient -4 eth0");
        machine
    },
    both: false,
    on_nic: "
        ps -C dhclient -o stat=,args= | grep -v ^Z >/run/seen
        test $(wc -l </run/seen) = 1
        grep -q '^S.*-4 eth0$' /run/seen
        ! ls /run | grep -q dhclient-vmbr",
    on_bridge: "
        ps -C dhclient -o stat=,args= | grep -v ^Z >/run/seen
        test $(wc -l </run/seen) = 1
        grep -q '^S.* br0$' /run/seen",
};

/// vmbr's lease keeper, in udhcpc's place.
pub const KEEPER: Manager = Manager {
    name: "keeper",
    up: "ip link set eth0 up",
    start: |host| udhcpc::ask(host, &[]).0,
    both: false,
    on_nic: "
        test $(ps -C busybox -o stat= | cut -c1) = S
        ! pgrep -f '[k]eeper --bridge br0'",
    on_bridge: "
        test $(ps -C busybox -o stat= | cut -c1) = T
        test $(pgrep -cf '[k]eeper --bridge br0') = 2",
};

/// NetworkManager.
pub const NETWORK_MANAGER: Manager = Manager {
    name: "network-manager",
    up: network_manager::UP,
    start: |host| network_manager::managed(host, "method=auto", "method=auto"),
    both: true,
    on_nic: "
        nmcli -t device >/run/seen
        grep -q '^eth0:ethernet:connected:wired$' /run/seen
        ! grep -q br0 /run/seen
        ! nmcli -t -f NAME connection | grep -q br0",
    on_bridge: "
        nmcli -t device >/run/seen
        grep -q '^br0:bridge:connected:vmbr br0$' /run/seen
        grep -q '^eth0:ethernet:unmanaged:' /run/seen",
};
