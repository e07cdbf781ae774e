//! dhcpcd.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use crate::model::{Family, IfName};

use super::claim::{Claim, End, Found, Lease, Manager, Outlook, fixed_address};
use super::file::{self, Kept};
use super::process::{Process, printable};
use super::scene::{Scene, complete};

/// Where it keeps the server's last answer for each device (dhcpcd(8)).
const LEASES: [&str; 2] = ["/var/lib/dhcpcd", "/var/db/dhcpcd"];
const CONFIGURATION: &str = "/etc/dhcpcd.conf";

/// The manager.
pub struct Dhcpcd;

impl Manager for Dhcpcd {
    fn name(&self) -> &'static str {
        "dhcpcd"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let uplink = scene.uplink();
        let mut all = false;
        let mut evidence = None;
        let processes = family(scene);
        for process in &processes {
            let arguments = process.said();
            let devices = devices(&arguments);
            all |= devices.is_empty();
            if devices.contains(&uplink.as_str()) && evidence.is_none() {
                evidence = Some(format!(
                    "process {}: {}",
                    process.id,
                    printable(&arguments.join(" "))
                ));
            }
        }
        if evidence.is_none() && !all {
            return Found::default();
        }
        let mut leases: Vec<Lease> = LEASES
            .iter()
            .filter_map(|directory| file::read(&Path::new(directory).join(format!("{uplink}.lease")), None))
            .filter_map(|kept| lease(&kept))
            .filter_map(|lease| scene.lease(lease.address, lease.server, lease.end))
            .collect();
        if evidence.is_some() {
            leases = complete(
                leases,
                [scene.renewed(Family::V4), scene.renewed(Family::V6)].concat(),
            );
        } else if !leases.is_empty() {
            evidence = Some(format!("it manages every device, and has a lease for {uplink}"));
        }
        let configured = file::read(Path::new(CONFIGURATION), None)
            .and_then(|kept| fixed(&kept.text(), uplink))
            .filter(|address| scene.has(*address));
        let outlook = match configured {
            Some(address) => {
                evidence.get_or_insert(format!("{CONFIGURATION} gives it {address}"));
                Outlook::Returns {
                    fate: "when the cable comes in again it puts its addresses on the port, and the host has its network twice",
                    remedy: format!(
                        "where 'persistent' stands in {CONFIGURATION} it leaves the addresses when it ends: end it ('dhcpcd -x'), then try again"
                    ),
                }
            }
            None => Outlook::Asks("it goes on asking for one, and would put the address on the port"),
        };
        let claim = evidence.map(|evidence| Claim {
            evidence,
            processes: processes.iter().map(|process| process.id).collect(),
            leases,
            outlook,
            hold: None,
        });
        claim.into()
    }

    fn fate(&self) -> &'static str {
        "it hears nothing once the NIC is a port, takes the lease for lost, and gets another for the bridge or the port"
    }

    fn remedy(&self, uplink: &IfName) -> String {
        fixed_address(&format!(
            "'interface {uplink}' and 'static ip_address=...' in /etc/dhcpcd.conf"
        ))
    }
}

/// Root's processes of it, and those of its own user that are kin to them:
/// it is one that asks, and one for each privilege.
fn family<'a>(scene: &'a Scene<'_>) -> Vec<&'a Process> {
    let roots: Vec<&Process> = scene.roots("dhcpcd").collect();
    let kin = |process: &&Process| {
        let near = |root: &&Process| root.parent == process.id || root.id == process.parent;
        process.is_roots() || roots.iter().any(near)
    };
    let all = scene.processes().iter().filter(|p| p.runs("dhcpcd"));
    all.filter(kin).collect()
}

/// The devices that a process works for; none stands for every one. It writes
/// over its arguments what it does: `dhcpcd: eth0 [ip4]` for one device,
/// `dhcpcd: [manager] [ip4]` for all, `dhcpcd: [BPF ARP] eth0 192.0.2.7` in
/// its helpers.
fn devices(arguments: &[String]) -> Vec<&str> {
    let title = arguments.iter().skip(usize::from(arguments.len() > 1));
    let words = title.flat_map(|argument| argument.split_whitespace());
    let mut bracket = false;
    let outside = |word: &&str| {
        bracket |= word.starts_with('[');
        let inside = bracket;
        bracket &= !word.ends_with(']');
        !inside
    };
    let is_device =
        |word: &&str| !word.starts_with('-') && !word.ends_with("dhcpcd:") && word.parse::<IpAddr>().is_err();
    words.filter(outside).filter(is_device).collect()
}

/// The fixed address of a device (dhcpcd.conf(5)).
fn fixed(text: &str, uplink: &IfName) -> Option<IpAddr> {
    let mut inside = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["interface", device, ..] => inside = *device == uplink.as_str(),
            ["profile" | "ssid", ..] => inside = false,
            ["static", given, ..] if inside => {
                if let Some(address) = given.strip_prefix("ip_address=") {
                    return address.split('/').next()?.parse().ok();
                }
            }
            _ => {}
        }
    }
    None
}

/// The lease in a server's answer, which is kept as it came (RFC 2131).
fn lease(kept: &Kept) -> Option<Lease> {
    let address: [u8; 4] = kept.bytes.get(16..20)?.try_into().ok()?;
    let options = kept.bytes.get(240..)?;
    let four = |code| <[u8; 4]>::try_from(option(options, code)?).ok();
    let end = four(51)
        .map(u32::from_be_bytes)
        .zip(kept.modified)
        .map(|(seconds, since)| {
            let until = since + Duration::from_secs(seconds.into());
            End::In(until.elapsed().err().map_or(0, |left| left.duration().as_secs()))
        });
    Some(Lease {
        address: Ipv4Addr::from(address).into(),
        server: four(54).map(|server| IpAddr::from(Ipv4Addr::from(server))),
        end: end.unwrap_or(End::Unknown),
    })
}

/// The value of a DHCP option (RFC 2132).
fn option(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [255, ..] | [] | [_] => return None,
            [found, length, rest @ ..] => {
                let value = rest.get(..usize::from(*length))?;
                if *found == code {
                    return Some(value);
                }
                options = &rest[value.len()..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_and_torn_ones_are_not() {
        let options = [0, 53, 1, 5, 0, 51, 4, 0, 0, 0, 120, 54, 4, 192, 0, 2, 1, 255, 51];
        assert_eq!(option(&options, 51), Some(&[0, 0, 0, 120][..]));
        assert_eq!(option(&options, 54), Some(&[192, 0, 2, 1][..]));
        assert_eq!(option(&options, 12), None);
        for end in 0..options.len() {
            assert!(option(&options[..end], 54).is_none_or(|v| v.len() == 4));
        }
    }

    #[test]
    fn the_devices_are_in_the_title() {
        for (title, expected) in [
            ("dhcpcd: eth0 [ip4]", vec!["eth0"]),
            ("dhcpcd: [privileged proxy] eth0 [ip4]", vec!["eth0"]),
            ("dhcpcd: [BPF ARP] eth0 192.0.2.7", vec!["eth0"]),
            ("dhcpcd: [manager] [ip4] [ip6]", vec![]),
            ("dhcpcd: [network proxy] 192.0.2.7", vec![]),
        ] {
            assert_eq!(devices(&[title.to_owned()]), expected, "{title}");
        }
        let typed = ["dhcpcd", "-q", "eth1"].map(str::to_owned);
        assert_eq!(devices(&typed), ["eth1"]);
    }

    #[test]
    fn the_fixed_address_is_that_of_the_device() {
        let text = "static ip_address=192.0.2.1/24\ninterface eth1\nstatic ip_address=192.0.2.2/24\n\
                    interface eth0\nstatic routers=192.0.2.9\nstatic ip_address=192.0.2.3/24\n";
        let eth0: IfName = "eth0".parse().unwrap();
        assert_eq!(fixed(text, &eth0), "192.0.2.3".parse().ok());
        assert_eq!(fixed("interface eth0\nstatic ip_address=/\n", &eth0), None);
    }

    #[test]
    fn a_short_or_foreign_file_is_no_lease() {
        for bytes in [vec![], vec![0xff; 19], vec![0xff; 239]] {
            let kept = Kept {
                bytes,
                owner: 0,
                modified: None,
            };
            assert_eq!(lease(&kept), None);
        }
    }
}
