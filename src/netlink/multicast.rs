//! Which multicast groups were joined on a device, from /proc/net.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::IfName;

/// Of LLMNR (RFC 4795, 2). Its one program here, systemd-resolved, joins them
/// on each device that gets an address.
const LLMNR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 252)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3)),
];

/// The groups that programs have joined on a device; without those that the
/// kernel joins by itself, and those whose programs follow the host's addresses.
/// Empty where /proc is not mounted.
pub fn joined(dev: &IfName) -> Vec<IpAddr> {
    let read = |name| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let v4 = groups_v4(&read("igmp"), dev.as_str());
    let v6 = groups_v6(&read("igmp6"), dev.as_str());
    v4.into_iter()
        .chain(v6)
        .filter(|group| !LLMNR.contains(group))
        .collect()
}

/// `igmp_mc_seq_show()`, net/ipv4/igmp.c: a line for the device, then an
/// indented one for each group, its bytes as a number of the host's order.
fn groups_v4(text: &str, dev: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut ours = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if line.starts_with(char::is_numeric) {
            ours = words.nth(1).is_some_and(|name| name.trim_end_matches(':') == dev);
        } else if let (true, Some(Ok(number))) = (ours, words.next().map(|w| u32::from_str_radix(w, 16))) {
            found.push(Ipv4Addr::from(number.to_ne_bytes()));
        }
    }
    let kernels = Ipv4Addr::new(224, 0, 0, 1);
    let others = found.into_iter().filter(|group| *group != kernels);
    others.map(IpAddr::from).collect()
}

/// `igmp6_mc_seq_show()`, net/ipv6/mcast.c: number, device, group.
fn groups_v6(text: &str, dev: &str) -> Vec<IpAddr> {
    let group = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let ours = words.next()? == dev;
        let number = u128::from_str_radix(words.next()?, 16).ok()?;
        ours.then(|| Ipv6Addr::from(number))
    };
    let groups = text.lines().filter_map(group).filter(|g| !is_kernels(g));
    groups.map(IpAddr::from).collect()
}

/// All nodes, all routers (a host that forwards), and the solicited nodes of
/// the host's addresses (RFC 4291, 2.7.1).
fn is_kernels(group: &Ipv6Addr) -> bool {
    match group.segments() {
        [0xff01 | 0xff02 | 0xff05, 0, 0, 0, 0, 0, 0, 1 | 2] => true,
        [0xff02, 0, 0, 0, 0, 1, last, _] => last >> 8 == 0xff,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_groups_are_told_from_the_kernels() {
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
            2\teth0      :     2      V3\n\t\t\t\t070000EF     1 0:00000000\t\t0\n\
            \t\t\t\t010000E0     1 0:00000000\t\t0\n\
            3\teth0.5    :     1      V3\n\t\t\t\t080000EF     1 0:00000000\t\t0\n";
        // The kernel of a little-endian machine wrote this.
        let expected: Vec<IpAddr> = vec!["239.0.0.7".parse().unwrap()];
        if cfg!(target_endian = "little") {
            assert_eq!(groups_v4(igmp, "eth0"), expected);
        }
        let igmp6 = "2    eth0            ff0e0000000000000000000000000007     1 00000004 0\n\
            2    eth0            ff0200000000000000000001ff000021     1 00000004 0\n\
            2    eth0            ff020000000000000000000000000001     1 0000000C 0\n\
            3    eth1            ff0e0000000000000000000000000008     1 00000004 0\n";
        let expected: Vec<IpAddr> = vec!["ff0e::7".parse().unwrap()];
        assert_eq!(groups_v6(igmp6, "eth0"), expected);
        assert_eq!(groups_v6("eth0\n2 eth0\n2 eth0 zz", "eth0"), Vec::<IpAddr>::new());
    }
}
