//! dhcpcd.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use crate::model::{Family, IfName};
use crate::plan::hold::{self, Hold};
use crate::plan::record;

use super::claim::{Claim, End, Found, Lease, Manager, Outlook, fixed_address};
use super::dhclient::{is_roots_alone, service_of, takes_files};
use super::file::{self, Kept};
use super::process::{Around, Process, printable};
use super::scene::{Scene, complete};

/// Where it keeps the server's last answer for each device (dhcpcd(8)).
const LEASES: [&str; 2] = ["/var/lib/dhcpcd", "/var/db/dhcpcd"];
/// Its configuration.
pub const CONFIGURATION: &str = "/etc/dhcpcd.conf";
/// The word in the title of one that works for every device.
const EVERY: &str = "[manager]";

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
        let processes = kin(scene.processes());
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
        let text = file::read(Path::new(CONFIGURATION), None).map(|kept| kept.text());
        let text = text.unwrap_or_default();
        let configured = fixed(&text, uplink).filter(|address| scene.has(*address));
        if let Some(address) = configured {
            evidence.get_or_insert(format!("{CONFIGURATION} gives it {address}"));
        } else if evidence.is_none() && all && !is_denied(&text, uplink) {
            // Its file may be gone, or broken.
            leases = scene.renewed(Family::V4);
            if Path::new(LEASES[0]).join(format!("{uplink}.lease6")).exists() {
                leases.extend(scene.renewed(Family::V6));
            }
            evidence = (!leases.is_empty()).then(|| format!("it manages every device, {uplink} among them"));
        }
        let Some(evidence) = evidence else {
            return Found::default();
        };
        let held = held(scene);
        let mut doubts = Vec::new();
        if held.is_ok() {
            doubts.push(format!(
                "dhcpcd does not let see how it was started: where that was with more than the device and -4 or -6, and not by {CONFIGURATION}, 'vmbr up' and 'vmbr down' start it without"
            ));
        }
        let (outlook, hold) = match held {
            Ok(hold) => (
                Outlook::Asks("it goes on asking on the bridge"),
                Some(Hold::Dhcpcd(hold)),
            ),
            Err((fate, remedy)) if !leases.is_empty() || configured.is_some() => {
                (Outlook::Returns { fate, remedy }, None)
            }
            Err(_) => (
                Outlook::Asks("it goes on asking for one, and would put the address on the port"),
                None,
            ),
        };
        Found {
            claims: vec![Claim {
                evidence,
                processes: processes.iter().map(|process| process.id).collect(),
                leases,
                outlook,
                hold,
            }],
            doubts,
        }
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

/// Its processes: root's, and those of its own user that are kin to them: it
/// is one that asks, and one for each privilege.
fn kin(all: &[Process]) -> Vec<&Process> {
    let (mut found, mut rest): (Vec<&Process>, Vec<&Process>) = all
        .iter()
        .filter(|process| process.runs("dhcpcd"))
        .partition(|process| process.is_roots());
    let mut at = 0;
    while let Some(of) = found.get(at).copied() {
        let is_near = |p: &&Process| p.parent == of.id || p.id == of.parent;
        let (near, far): (Vec<&Process>, Vec<&Process>) = rest.into_iter().partition(is_near);
        found.extend(near);
        rest = far;
        at += 1;
    }
    found
}

/// One dhcpcd with all of its processes.
#[derive(Debug, Default)]
pub struct Instance {
    /// They, the one that has started the others first.
    pub processes: Vec<record::Process>,
    /// What they say they are.
    titles: Vec<String>,
}

impl Instance {
    /// The one that works for `dev` alone, or for every device where there is
    /// no `dev`; one that was started a moment ago is known by an argument of
    /// its, `mark`. Empty where there is none.
    pub fn find(dev: Option<&IfName>, mark: Option<&str>) -> Self {
        let around = Around::look();
        let mut found = Self::all(&around.processes).into_iter();
        found
            .find(|instance| {
                let marked = |title: &String| mark.is_some_and(|mark| title.contains(mark));
                instance.titles.iter().any(marked) || instance.serves(dev)
            })
            .unwrap_or_default()
    }

    fn all(processes: &[Process]) -> Vec<Self> {
        let mut rest = kin(processes);
        let mut found = Vec::new();
        while let Some(first) = rest.pop() {
            let mut group = vec![first];
            let mut at = 0;
            while let Some(of) = group.get(at).copied() {
                let is_near = |p: &&Process| p.parent == of.id || p.id == of.parent;
                let (near, far): (Vec<&Process>, Vec<&Process>) = rest.into_iter().partition(is_near);
                group.extend(near);
                rest = far;
                at += 1;
            }
            // The one that has started the others first.
            let ids: Vec<u32> = group.iter().map(|process| process.id).collect();
            group.sort_by_key(|process| ids.contains(&process.parent));
            found.push(Self {
                titles: group.iter().map(|process| process.said().join(" ")).collect(),
                processes: group
                    .iter()
                    .filter_map(|p| record::Process::of(p.id).ok())
                    .collect(),
            });
        }
        found
    }

    /// Whether it works for this device alone, or for every one.
    fn serves(&self, dev: Option<&IfName>) -> bool {
        let every = self.titles.iter().any(|title| title.contains(EVERY));
        let names = |dev: &IfName| {
            let of = |title: &String| devices(std::slice::from_ref(title)).contains(&dev.as_str());
            self.titles.iter().any(of)
        };
        dev.map_or(every, |dev| !every && names(dev))
    }

    /// `-4` or `-6`, where it keeps to one.
    fn family(&self) -> Option<&'static str> {
        let has = |word: &str| self.titles.iter().any(|title| title.contains(word));
        match (has("[ip4]"), has("[ip6]")) {
            (true, false) => Some("-4"),
            (false, true) => Some("-6"),
            _ => None,
        }
    }
}

/// The instance that has the uplink, as it can be moved; else why not, and
/// what to do about it.
fn held(scene: &Scene<'_>) -> Result<hold::Dhcpcd, (&'static str, String)> {
    let uplink = scene.uplink();
    let all = Instance::all(scene.processes());
    let of = |dev| all.iter().filter(move |instance| instance.serves(dev));
    let alone: Vec<&Instance> = of(Some(uplink)).collect();
    let (instance, is_alone) = match (alone.as_slice(), of(None).next()) {
        ([one], None) => (*one, true),
        ([], Some(every)) => (every, false),
        _ => {
            return Err((
                "several of it have a hand on the device",
                "end all but one, then try again".into(),
            ));
        }
    };
    let Some(first) = instance.processes.first() else {
        return Err(("it has ended meanwhile", "try again".into()));
    };
    let mut ids = instance.processes.iter().map(|process| process.pid);
    if let Some(unit) = ids.find_map(|id| service_of(id, scene)) {
        return Err((
            "it is a service of systemd's, which vmbr cannot move yet",
            format!(
                "give the host a fixed address, or have it ask for {uplink} alone: systemctl disable --now {unit}, then 'dhcpcd {uplink}' (this cuts the host off for a moment)"
            ),
        ));
    }
    let program = fs::read_link(format!("/proc/{}/exe", first.pid)).ok();
    let program = program.and_then(|path| Some(path.to_str()?.trim_end_matches(" (deleted)").to_owned()));
    let Some(program) = program else {
        return Err(("vmbr may not look at it", "try again as root".into()));
    };
    let configuration = Path::new(CONFIGURATION);
    let unread = configuration.exists() && file::read(configuration, None).is_none();
    if unread || !is_roots_alone(Path::new(&program)) {
        return Err((
            "others than root can write its program or its configuration",
            format!("see {program} and {CONFIGURATION}, and let root alone write them"),
        ));
    }
    let directory = LEASES.iter().find(|directory| Path::new(directory).is_dir());
    let directory = directory.copied().unwrap_or(LEASES[0]);
    if !takes_files(Path::new(directory)) {
        return Err((
            "others than root can change the directory of its leases, or nobody can",
            format!("let root alone write to {directory}, then try again"),
        ));
    }
    let path = Path::new(directory).join(format!("{uplink}.lease"));
    let usable = file::read(&path, None).is_some_and(|kept| {
        let is_ours = |lease: Lease| scene.has(lease.address);
        lease(&kept).is_some_and(is_ours)
    });
    if !scene.renewed(Family::V4).is_empty() && !usable {
        return Err((
            "its lease file is not there, malformed, or not root's alone, and another client would be another to the server",
            format!(
                "have it renew the lease, which writes {} ('dhcpcd -n {uplink}'), then try again",
                path.display()
            ),
        ));
    }
    Ok(hold::Dhcpcd {
        processes: instance.processes.clone(),
        program,
        alone: is_alone,
        family: instance.family().map(str::to_owned),
        directory: directory.to_owned(),
    })
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

/// Whether dhcpcd.conf(5) has it let a device alone.
fn is_denied(text: &str, uplink: &IfName) -> bool {
    let fits = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(begin) => uplink.as_str().starts_with(begin),
        None => *pattern == uplink.as_str(),
    };
    let named = |key: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(key));
        let patterns: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        (!patterns.is_empty()).then(|| patterns.iter().any(fits))
    };
    named("denyinterfaces ") == Some(true) || named("allowinterfaces ") == Some(false)
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
    fn a_device_that_is_denied_is_let_alone() {
        let eth0: IfName = "eth0".parse().unwrap();
        for (text, expected) in [
            ("", false),
            ("denyinterfaces eth1 eth0\n", true),
            ("denyinterfaces eth1\n denyinterfaces eth*\n", true),
            ("allowinterfaces wlan0\n", true),
            ("allowinterfaces wlan0 eth0\n", false),
        ] {
            assert_eq!(is_denied(text, &eth0), expected, "{text}");
        }
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
