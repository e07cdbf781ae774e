//! Where addresses are: what the programs may take for a guest's.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

use super::MacNatError;
use super::layout::{ELSEWHERE, Key, ON_LINK, key};

/// Prefixes by length, of addresses as they are kept.
pub type Prefixes = BTreeMap<(u32, Key), u32>;

/// Nobody routes by more; what is beyond is as if it were not there.
const MOST: usize = 4000;
/// IPv4 addresses are kept behind so many bits.
const MAPPED: u32 = 96;
/// Of a route's flags (linux/route.h).
const RTF_GATEWAY: u32 = 2;
/// The same of IPv6 (linux/ipv6_route.h).
const RTF_LOCAL: u32 = 0x8000_0000;

/// The prefixes that are on the uplink's link, and those that the host routes
/// to other devices.
pub(super) fn prefixes(uplink: u32) -> Result<Prefixes, MacNatError> {
    let failure = |what: &str, error: &io::Error| MacNatError {
        message: format!("reading {what} of this host: {error}"),
        remedy: None,
    };
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        match std::fs::read_to_string(&path) {
            // A kernel without that family.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            done => done.map_err(|error| failure(&path, &error)),
        }
    };
    let name = nix::net::if_::if_indextoname(uplink)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let (v4, v6) = (read("route")?, read("ipv6_route")?);
    let routes = v4.lines().filter_map(ipv4).chain(v6.lines().filter_map(ipv6));
    let mut found = Prefixes::new();
    let mut here = Prefixes::new();
    for route in routes {
        if route.device == name {
            if !route.gateway {
                here.insert(route.prefix, ON_LINK);
            }
        } else if route.is_elsewhere() && found.len() < MOST {
            found.insert(route.prefix, ELSEWHERE);
        }
    }
    let all = getifaddrs().map_err(|error| failure("the addresses", &error.into()))?;
    for one in all.filter(|one| if_nametoindex(one.interface_name.as_str()) == Ok(uplink)) {
        let (Some(address), Some(mask)) = (one.address, one.netmask) else {
            continue;
        };
        if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            let bits = MAPPED + u32::from(mask.ip()).leading_ones();
            here.insert(prefix(bits, address.ip().into()), ON_LINK);
        } else if let (Some(address), Some(mask)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
            let bits = u128::from(mask.ip()).leading_ones();
            here.insert(prefix(bits, address.ip().into()), ON_LINK);
        }
    }
    found.extend(here);
    Ok(found)
}

/// The prefix of so many bits that an address is in.
fn prefix(bits: u32, address: IpAddr) -> (u32, Key) {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    let address = u128::from_be_bytes(key(address)) & mask;
    (bits, address.to_be_bytes())
}

#[derive(Debug)]
struct Route<'a> {
    prefix: (u32, Key),
    device: &'a str,
    gateway: bool,
}

impl Route<'_> {
    /// A default route says nothing of an address; each link has its own
    /// link-local ones and groups.
    fn is_elsewhere(&self) -> bool {
        let (bits, [first, second, ..]) = self.prefix;
        let default =
            bits == 0 || bits == MAPPED && self.prefix.1 == key(std::net::Ipv4Addr::UNSPECIFIED.into());
        let link_local = first == 0xfe && second & 0xc0 == 0x80;
        !default && !link_local && first != 0xff && !matches!(self.device, "lo" | "*")
    }
}

/// A line of `/proc/net/route`: addresses are numbers as the machine has them.
fn ipv4(line: &str) -> Option<Route<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let (address, mask) = (number(1)?.to_ne_bytes(), number(7)?.to_ne_bytes());
    Some(Route {
        prefix: prefix(
            MAPPED + u32::from_be_bytes(mask).leading_ones(),
            std::net::Ipv4Addr::from(address).into(),
        ),
        device: words.first()?,
        gateway: number(3)? & RTF_GATEWAY != 0,
    })
}

/// A line of `/proc/net/ipv6_route`.
fn ipv6(line: &str) -> Option<Route<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = u128::from_str_radix(words.first()?, 16).ok()?;
    let bits = u32::from_str_radix(words.get(1)?, 16).ok()?;
    let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
    // The host's own addresses, and groups, are no places.
    if flags & RTF_LOCAL != 0 || address >> 120 == 0xff {
        return None;
    }
    Some(Route {
        prefix: prefix(bits, Ipv6Addr::from(address).into()),
        device: words.get(9)?,
        gateway: words.get(4)?.bytes().any(|digit| digit != b'0'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        assert!(ipv4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask").is_none());
        let route = ipv4("wlan0\t000200C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0").unwrap();
        assert_eq!(route.prefix, (120, key("192.0.2.0".parse().unwrap())));
        assert!(!route.gateway && route.is_elsewhere());
        let route = ipv4("wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0").unwrap();
        assert!(route.gateway && !route.is_elsewhere());
        let zeros = "0".repeat(32);
        let of = |address: &str, bits: &str, via: &str| {
            let line =
                format!("{address} {bits} {zeros} 00 {via} 00000100 00000001 00000000 00000001    tun0");
            ipv6(&line)
                .map(|route| (route.prefix, route.gateway, route.is_elsewhere()))
                .unwrap()
        };
        let net = "20010db8000000000000000000000000";
        assert_eq!(
            of(net, "40", &zeros),
            ((64, key("2001:db8::".parse().unwrap())), false, true)
        );
        assert!(of(net, "40", net).1);
        assert!(!of(&zeros, "00", net).2);
        assert!(!of("fe800000000000000000000000000000", "40", &zeros).2);
    }
}
