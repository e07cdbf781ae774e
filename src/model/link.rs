//! Network devices.

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use super::{IfName, is_default};

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number for it, never used twice while the kernel runs.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its link-layer address, where that has six bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mac: Option<MacAddr6>,
    /// Largest packet in bytes.
    #[serde(default = "ethernet_mtu")]
    pub mtu: u32,
    /// `ARPHRD_*`: 1 is Ethernet, 772 the loopback.
    #[serde(default = "ethernet")]
    pub hardware: u16,
    /// Set up by the administrator (`IFF_UP`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub up: bool,
    /// Something is at the other end (`IFF_LOWER_UP`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub carrier: bool,
    /// Ready to carry packets (`IFF_RUNNING`: operational state is up).
    #[serde(default, skip_serializing_if = "is_default")]
    pub running: bool,
    /// Asks and answers nobody for link-layer addresses (`IFF_NOARP`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub noarp: bool,
    /// The kind of a virtual device: `bridge`, `tun`, `veth`, `vlan`, `bond`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: Option<String>,
    /// The bridge, bond or VRF that the device is a port of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub master: Option<IfName>,
    /// The device beneath a VLAN or macvlan, or the other end of a veth pair,
    /// in this namespace.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lower: Option<IfName>,
    /// The device is a wireless one that the kernel puts on no bridge: a
    /// station, say, which has not four addresses in its frames.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wireless: bool,
    /// What a TUN or TAP device is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tun: Option<Tun>,
    /// What a bridge's port is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port: Option<Port>,
    /// Bytes and packets since the device was made, where they were asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub traffic: Traffic,
}

fn ethernet_mtu() -> u32 {
    1500
}

fn ethernet() -> u16 {
    libc::ARPHRD_ETHER
}

/// A TUN or TAP device (drivers/net/tun.c, `IFLA_TUN_*`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tun {
    /// Carries Ethernet frames (TAP) and not packets (TUN).
    pub tap: bool,
    /// The user who may attach, where one was set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<u32>,
    /// The group that may attach, where one was set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub group: Option<u32>,
    /// Stays when nobody holds it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub persistent: bool,
    /// Queues that are attached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub queues: u32,
    /// More than one queue may be attached (`IFF_MULTI_QUEUE`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub multi_queue: bool,
    /// How many queues it was made for, where vmbr made it for more than one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub queues_meant: Option<u32>,
    /// The libvirt domain that vmbr made it for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub domain: Option<String>,
    /// A program holds it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub held: bool,
}

/// A port of a bridge (`IFLA_BRPORT_*`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Port {
    /// `BR_STATE_*` of include/uapi/linux/if_bridge.h; 3 is forwarding.
    pub state: u8,
    /// Does not reach other isolated ports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolated: bool,
    /// Takes frames only from MACs that the bridge's table has on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub locked: bool,
}

/// Counters of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes received by the host from the device.
    pub rx_bytes: u64,
    /// Bytes sent by the host to the device.
    pub tx_bytes: u64,
}

impl Link {
    /// Whether the device is of `kind`, as the kernel names kinds.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Whether the device is a TAP.
    pub fn is_tap(&self) -> bool {
        self.tun.as_ref().is_some_and(|tun| tun.tap)
    }

    /// Whether the device is a tunnel in which no Ethernet frame travels.
    pub fn is_tunnel(&self) -> bool {
        self.is_kind("wireguard")
            || self.tun.as_ref().is_some_and(|tun| !tun.tap)
            || (self.hardware != libc::ARPHRD_ETHER && self.hardware != libc::ARPHRD_LOOPBACK)
    }

    /// Whether a bridge's port of this sort leads out of the host: a NIC, or
    /// what is made of NICs.
    pub fn leads_out(&self) -> bool {
        self.kind.is_none() || self.is_kind("bond") || self.is_kind("vlan")
    }

    /// Whether the device is a loopback.
    pub fn is_loopback(&self) -> bool {
        self.hardware == libc::ARPHRD_LOOPBACK
    }
}
