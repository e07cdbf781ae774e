//! The bytes of what the programs are told and what they keep: src/mac_nat/state.h.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use macaddr::MacAddr6;

use super::Settings;

/// `struct settings`
pub const SETTINGS: usize = 48;
/// `struct guest`
pub const GUEST: usize = 64;
/// `struct port`
pub const PORT: usize = 1096;
/// `struct address`
pub type Key = [u8; 16];

/// Of a prefix: on the uplink's link.
pub const ON_LINK: u32 = 1;
/// Behind another device of the host.
pub const ELSEWHERE: u32 = 2;

/// Of no guest.
pub const PROTECTED: u32 = 1;
/// Of one of the uplink's prefixes.
pub const BROADCAST: u32 = 2;
/// The host was heard to have it, or to ask for it.
pub const HOSTS: u32 = 3;

/// Of a guest's port: what comes for it goes through the bridge.
const BY_BRIDGE: u32 = 0x8000_0000;

/// Where in `struct settings` the programs' own object is named: the last.
const BUILD: usize = SETTINGS - 8;

/// After how long without a frame an address is forgotten.
pub const AGE: Duration = Duration::from_secs(20 * 60);

/// `enum reason`: why a frame was dropped, or what else was counted.
pub const REASONS: [&str; 17] = [
    "source-mac",
    "protocol",
    "short",
    "arp",
    "address",
    "protected",
    "pinned",
    "headers",
    "discovery",
    "bridge",
    "echo",
    "dhcp-transaction",
    "loop",
    "checksum",
    "server",
    "moves-refused",
    "quota-replaced",
];

/// What the programs find where they look for an address.
pub fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address back.
pub fn address(key: Key) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

/// `mac_t`
pub fn mac_bytes(mac: MacAddr6) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.into_array();
    [a, b, c, d, e, f, 0, 0]
}

/// The same, read.
pub fn mac_in(bytes: [u8; 8]) -> MacAddr6 {
    let [a, b, c, d, e, f, ..] = bytes;
    MacAddr6::new(a, b, c, d, e, f)
}

/// `struct settings`; `hz` is how often a second the kernel's clock ticks.
pub fn settings(settings: &Settings, hz: u64, build: u64) -> [u8; SETTINGS] {
    // Two to the power of this are half a second to a second.
    let epoch = hz.ilog2();
    let parts: [&[u8]; 8] = [
        &settings.uplink.to_ne_bytes(),
        &settings.air.to_ne_bytes(),
        &mac_bytes(settings.mac),
        &hz.to_ne_bytes(),
        &(hz * AGE.as_secs()).to_ne_bytes(),
        &epoch.to_ne_bytes(),
        &u32::from(settings.dhcp_chaddr).to_ne_bytes(),
        &build.to_ne_bytes(),
    ];
    let mut bytes = [0; SETTINGS];
    for (to, from) in bytes.iter_mut().zip(parts.concat()) {
        *to = from;
    }
    bytes
}

/// The index of the air port.
pub fn air_of(settings: &[u8; SETTINGS]) -> u32 {
    (u64_at(settings, 0) >> 32) as u32
}

/// The same for programs that shall do nothing.
pub fn stopped(settings: [u8; SETTINGS]) -> [u8; SETTINGS] {
    let mut stopped = settings;
    stopped[..4].fill(0);
    stopped
}

/// The uplink's MAC, as [`mac_bytes`].
pub fn mac_of(settings: &[u8; SETTINGS]) -> [u8; 8] {
    u64_at(settings, 8).to_ne_bytes()
}

/// Of which object the programs are.
pub fn build_of(settings: &[u8; SETTINGS]) -> u64 {
    u64_at(settings, BUILD)
}

/// A name for the content of an object (FNV-1a).
pub fn build(object: &[u8]) -> u64 {
    object.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// What is kept of a guest's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// Whose it is.
    pub mac: MacAddr6,
    /// Behind which port of the bridge.
    pub port: u32,
    /// Whether what comes for it goes through the bridge, which knows best where
    /// a MAC of the ACL is.
    pub by_bridge: bool,
    /// When it was last heard, by `CLOCK_BOOTTIME`.
    pub seen: Duration,
}

/// Reads `struct guest`.
pub fn learned(bytes: &[u8; GUEST]) -> Learned {
    let port = u64_at(bytes, 8) as u32;
    Learned {
        mac: mac_in(u64_at(bytes, 0).to_ne_bytes()),
        port: port & !BY_BRIDGE,
        by_bridge: port & BY_BRIDGE != 0,
        seen: Duration::from_nanos(u64_at(bytes, 24)),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u64::from_ne_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_there_and_back() {
        for text in ["192.0.2.50", "2001:db8::50", "fe80::1"] {
            let given: IpAddr = text.parse().unwrap();
            assert_eq!(address(key(given)), given);
        }
        assert_eq!(
            &key("192.0.2.1".parse().unwrap())[10..],
            &[0xff, 0xff, 192, 0, 2, 1]
        );
    }

    #[test]
    fn settings_have_their_places() {
        let given = Settings {
            uplink: 7,
            mac: MacAddr6::new(2, 0, 0, 0, 0, 0x21),
            air: 9,
            dhcp_chaddr: true,
        };
        let bytes = settings(&given, 250, 0x1234);
        assert_eq!((u64_at(&bytes, 0), air_of(&bytes)), (9 << 32 | 7, 9));
        assert_eq!(bytes[8..16], [2, 0, 0, 0, 0, 0x21, 0, 0]);
        assert_eq!(mac_of(&bytes), mac_bytes(given.mac));
        assert_eq!((u64_at(&bytes, 16), u64_at(&bytes, 24)), (250, 250 * 1200));
        assert_eq!(u64_at(&bytes, 32), 1 << 32 | 7);
        assert_eq!(build_of(&bytes), 0x1234);
        assert_eq!(u64_at(&stopped(bytes), 0), 9 << 32);
        assert_ne!(build(b"one"), build(b"two"));
    }

    #[test]
    fn a_guest_is_read() {
        let mut bytes = [0; GUEST];
        bytes[..6].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
        bytes[8..12].copy_from_slice(&5_u32.to_ne_bytes());
        bytes[24..32].copy_from_slice(&3_000_000_000_u64.to_ne_bytes());
        let guest = learned(&bytes);
        assert_eq!(guest.mac, MacAddr6::new(0x52, 0x54, 0, 0, 0, 1));
        assert_eq!((guest.port, guest.seen), (5, Duration::from_secs(3)));
    }
}
