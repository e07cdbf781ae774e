//! MAC-NAT: guests on an uplink that accepts one MAC.
//!
//! A wireless station's NIC cannot be a bridge's port, and its access point
//! drops frames of a MAC that never associated; clouds, port security and
//! hypervisors without promiscuous mode do the same to a wired NIC. So the
//! bridge does not get the uplink as a port. It gets one end of a veth pair,
//! the **air port**, and three programs of the kernel's traffic control carry
//! frames between the two, with the uplink's MAC in place of the guests'.
//!
//! ```text
//!   guest A      guest B
//!     │            │
//!   TAP ───br0─── TAP             bridge: guests among each other
//!     ▲     │      ▲
//!     │   air port │              air_out:    source := W, learn who sends
//!     │     │      │
//!     └─────┼──────┴───────┐      uplink_in:  look up the destination's IP
//!           ▼              │
//!     host ─┴─ uplink (W) ─┴─ the air         uplink_out: host to guest
//! ```
//!
//! - `air_out`, egress of the air port: what guests send to the network or to
//!   the host. It learns which address is whose, and makes W of the guest's
//!   MAC, wherever the frame tells it: Ethernet, ARP, neighbour discovery.
//! - `uplink_in`, ingress of the uplink: what comes to W is a guest's if its
//!   address is, and goes straight to that guest's port, past the bridge.
//! - `uplink_out`, egress of the uplink: what the host sends to a guest.
//!
//! # Nothing runs, nothing is pinned
//!
//! The devices hold the programs, the programs hold their maps. A later vmbr
//! finds both by asking the devices; what was learned stays. Pins in a bpffs
//! would be private to a mount namespace, as `ip netns exec` makes them.
//!
//! # What else there is to it
//!
//! - **The bridge still learns.** A frame to a guest goes past the bridge, but
//!   for one of each sender in half a minute to a minute: else the bridge would
//!   forget who is behind the air port, and flood what guests send there.
//! - **Groups** are heard by all: what a guest sends to one reaches the host as
//!   it is and the air translated. An access point may make unicast of what
//!   comes from the air (to the uplink's MAC, but to the IP address of a
//!   group); that is undone. Our own frames, which it sends to everybody, are
//!   dropped.
//! - **DHCP**: a guest's MAC stays in its request, and the answer has to be a
//!   broadcast, or the access point would not know whom to send it to.
//! - **Without a network** host and guests reach each other: the programs come
//!   before the queue that has no carrier.
//! - Guests whose ports are isolated stay so: what one sends to another by the
//!   uplink's MAC goes in at its own port again, and the bridge judges it.
//!
//! # What a guest cannot do
//!
//! - Reach the host by the bridge itself, past all of this: a fourth program, at
//!   the bridge, drops what comes to its MAC or to all.
//! - Claim an address of the host, of a gateway or of a name server
//!   ([`Addresses::protected`]), or one that is another MAC's by the ACL
//!   ([`Addresses::pins`]): such a frame is dropped and counted. What comes for
//!   an address of the ACL goes through the bridge, which knows by the helper's
//!   word behind which port that MAC is, whoever else sends by it.
//! - Be the host's router or DHCP server: advertisements, redirects and answers
//!   of DHCP reach the air and other guests, and not the host.
//! - Ask a DHCP server in the host's name.
//! - Get what the host sends to others: that goes to a guest by its address and
//!   its MAC together, on the uplink's link only, and no guest begins to speak
//!   by a MAC that has answered as a gateway within a minute. An address alone
//!   any guest can say it has, but none that the host has behind another device.
//! - Push out what was learned of others: each port has 64 addresses, and a
//!   further one takes the place of the port's own oldest.
//! - Move an address more than once a second: it is that of whoever spoke as it
//!   last.
//! - Have the hardware, or the kernel behind the programs, write a checksum into
//!   ARP or ICMPv6, by a virtio header: such a frame is dropped. Of TCP and UDP
//!   it is usual, and there it is a limit: two bytes of the guest's choice.
//! - Speak EAPOL, VLAN tags, or anything but ARP, IPv4 and IPv6 to the air.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use macaddr::MacAddr6;

#[cfg(feature = "mac-nat")]
mod hooks;
#[cfg(feature = "mac-nat")]
mod layout;
#[cfg(feature = "mac-nat")]
mod loader;
#[cfg(not(feature = "mac-nat"))]
#[path = "without.rs"]
mod loader;
#[cfg(feature = "mac-nat")]
mod maps;
#[cfg(feature = "mac-nat")]
mod routes;

#[cfg(feature = "mac-nat")]
#[doc(hidden)]
pub use {
    hooks::Way,
    layout::REASONS,
    loader::{OBJECT, attach_by, load},
};

pub use loader::{
    attach, attached, counters, detach, guests, has_heard_host, pins, stale, stop, supported, sync,
};

/// Between what the programs translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The index of the uplink.
    pub uplink: u32,
    /// The uplink's MAC, the only one that is sent from.
    pub mac: MacAddr6,
    /// The index of the bridge's port that stands for the uplink.
    pub air: u32,
    /// Also replace the client's MAC within DHCP requests, for access points
    /// that insist on it.
    pub dhcp_chaddr: bool,
}

/// What no guest, or only one, may claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The host's, its gateways' and its name servers'.
    pub protected: BTreeSet<IpAddr>,
    /// Addresses that are one guest's.
    pub pins: BTreeMap<IpAddr, MacAddr6>,
}

/// Which of the three programs stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attached {
    /// At the egress of the air port.
    pub air_out: bool,
    /// At the ingress of the uplink.
    pub uplink_in: bool,
    /// At the egress of the uplink.
    pub uplink_out: bool,
}

impl Attached {
    /// All of them: frames are translated.
    pub fn all(self) -> bool {
        self.air_out && self.uplink_in && self.uplink_out
    }

    /// One at least.
    pub fn any(self) -> bool {
        self.air_out || self.uplink_in || self.uplink_out
    }
}

/// An address that was learned of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub mac: MacAddr6,
    /// The index of the bridge's port that the guest is behind.
    pub port: u32,
    /// How long ago it was last heard, to a second.
    pub age: Duration,
    /// It can be nobody else's ([`Addresses::pins`]).
    pub pinned: bool,
}

/// What went wrong, and what helps.
#[derive(Debug)]
pub struct MacNatError {
    /// What was being done, to which device, and what the kernel answered.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<&'static str>,
}

impl fmt::Display for MacNatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for MacNatError {}
