//! ISC's dhclient.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::handover::dhclient_leases::{Last, Leases, is_configured};
use crate::handover::service;
use crate::model::address::scope;
use crate::model::{Address, Family, IfName};
use crate::plan::hold::{self, Hold};
use crate::plan::record;
use crate::tool;

use super::claim::{Claim, End, Found, Lease, Manager, Outlook, fixed_address};
use super::file;
use super::process::{Process, printable};
use super::scene::{Scene, complete};

/// Where distributions have it keep its leases, unless it is told by `-lf`.
const LEASES: [&str; 2] = [
    "/var/lib/dhcp/dhclient.leases",
    "/var/lib/dhclient/dhclient.leases",
];
const LEASES6: [&str; 2] = [
    "/var/lib/dhcp/dhclient6.leases",
    "/var/lib/dhclient/dhclient6.leases",
];
/// Where it writes its number, unless it is told by `-pf`.
const PID: &str = "/run/dhclient.pid";
const PID6: &str = "/run/dhclient6.pid";
/// Where its configuration is, unless it is told by `-cf`.
const CONFIGURATIONS: [&str; 2] = ["/etc/dhcp/dhclient.conf", "/etc/dhclient.conf"];
/// Options that take a value: dhclient(8), and Red Hat's of the same page.
const VALUED: [&str; 21] = [
    "-p",
    "-D",
    "-e",
    "-lf",
    "-pf",
    "-cf",
    "-df",
    "-sf",
    "-s",
    "-g",
    "-timeout",
    "--timeout",
    "-lt",
    "-H",
    "-F",
    "-V",
    "-R",
    "-C",
    "--address-prefix-len",
    "--prefix-len-hint",
    "--decline-wait-time",
];
/// Options that the bridge's is not given: how it goes to the background, and
/// where it writes its number.
const OWN: [&str; 6] = ["-d", "-nw", "-w", "-1", "--no-pid", "-nc"];
/// What systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// More is not read of a command line.
const MOST: u64 = 1 << 16;

/// The manager.
pub struct Dhclient;

impl Manager for Dhclient {
    fn name(&self) -> &'static str {
        "dhclient"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let here = scene.roots("dhclient").filter(|process| {
            Command::read(&process.arguments).serves(scene.uplink()) && !is_network_managers(process, scene)
        });
        Found {
            claims: here.map(|process| claim(process, scene)).collect(),
            doubts: Vec::new(),
        }
    }

    fn fate(&self) -> &'static str {
        "it would renew the lease on the port, and put its address back there, or give the host none at all"
    }

    fn remedy(&self, uplink: &IfName) -> String {
        fixed_address(&format!(
            "/etc/network/interfaces where ifupdown starts it; 'dhclient -x {uplink}' ends it and keeps the address until its lease is over"
        ))
    }
}

/// A command line of dhclient.
#[derive(Debug)]
struct Command<'a> {
    /// Options with their values.
    options: Vec<(&'a str, Option<&'a str>)>,
    devices: Vec<&'a str>,
}

impl<'a> Command<'a> {
    fn read(arguments: &'a [String]) -> Self {
        let mut command = Self {
            options: Vec::new(),
            devices: Vec::new(),
        };
        let mut rest = arguments.iter().map(String::as_str).skip(1).peekable();
        while let Some(argument) = rest.next() {
            // Red Hat's takes an identifier, where others' has no value.
            let identifier = argument == "-I" && {
                let mut ahead = rest.clone();
                let next = ahead.next();
                next.is_some_and(|next| !next.starts_with('-')) && ahead.next().is_some()
            };
            if identifier || VALUED.contains(&argument) {
                command.options.push((argument, rest.next()));
            } else if argument.starts_with('-') {
                command.options.push((argument, None));
            } else {
                command.devices.push(argument);
            }
        }
        command
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == option)
    }

    fn value(&self, option: &str) -> Option<&'a str> {
        let found = self.options.iter().rfind(|(name, _)| *name == option)?;
        found.1
    }

    /// Whether it asks for leases on the device. Without a device it does on
    /// every one.
    fn serves(&self, uplink: &IfName) -> bool {
        let ends = self.has("-r") || self.has("-x");
        !ends && (self.devices.is_empty() || self.devices.contains(&uplink.as_str()))
    }

    /// What of it is for another device, too.
    fn common(&self) -> Vec<String> {
        let own = |name: &str| OWN.contains(&name) || ["-lf", "-pf"].contains(&name);
        let kept = self.options.iter().filter(|(name, _)| !own(name));
        let words = kept.flat_map(|(name, value)| std::iter::once(*name).chain(*value));
        words.map(str::to_owned).collect()
    }
}

/// Whether NetworkManager runs it: then it is NetworkManager's to move.
fn is_network_managers(process: &Process, scene: &Scene<'_>) -> bool {
    let mut roots = scene.roots("NetworkManager");
    roots.any(|manager| manager.id == process.parent)
}

/// Why a client cannot be moved, and what to do about it.
struct Stuck {
    why: &'static str,
    remedy: String,
}

fn claim(process: &Process, scene: &Scene<'_>) -> Claim {
    let command = Command::read(&process.arguments);
    let v6 = command.has("-6");
    let family = if v6 { Family::V6 } else { Family::V4 };
    let leases = complete(
        last_lease(&command, v6, scene.uplink())
            .and_then(|lease| scene.lease(lease.address, lease.server, lease.end))
            .into_iter()
            .collect(),
        scene.renewed(family),
    );
    let mut claim = Claim {
        evidence: format!("process {}: {}", process.id, process.command()),
        processes: vec![process.id],
        leases,
        outlook: Outlook::Asks("it goes on asking for one, and would put the address on the port"),
        hold: None,
    };
    match held(process, scene, &claim.leases) {
        Ok(hold) => claim.hold = Some(Hold::Dhclient(hold)),
        Err(stuck) if !claim.leases.is_empty() => {
            claim.outlook = Outlook::Returns {
                fate: stuck.why,
                remedy: stuck.remedy,
            };
        }
        Err(_) => {}
    }
    claim
}

/// The client as it can be moved.
fn held(process: &Process, scene: &Scene<'_>, leases: &[Lease]) -> Result<hold::Dhclient, Stuck> {
    let uplink = scene.uplink();
    let id = process.id;
    let stuck = |why, remedy: String| Stuck { why, remedy };
    let anew = |what: &str| {
        format!(
            "{what}; end it without a word (kill -9 {id}), start it again for {uplink} alone with a lease file of root's own, then try again"
        )
    };
    let unseen = || stuck("vmbr may not look at it", "try again as root".into());
    let (arguments, was) = exactly(id).ok_or_else(unseen)?;
    let command = Command::read(&arguments);
    if command.devices.len() != 1 {
        return Err(stuck(
            "it serves other devices as well, which would be without a client if it were moved",
            anew("give each device a dhclient of its own, each with its -pf and -lf"),
        ));
    }
    for (option, why) in [
        (
            "-P",
            "the prefix that it was given is in use on other devices, and its script would take it from them",
        ),
        (
            "-n",
            "it is told to configure nothing (-n), so somebody else acts on what it learns",
        ),
    ] {
        if command.has(option) {
            return Err(stuck(why, fixed_address("and end dhclient")));
        }
    }
    let endless = |a: &&Address| a.family() == Family::V6 && a.is_permanent() && a.scope == scope::UNIVERSE;
    if command.has("-6") && scene.addresses.iter().any(|a| endless(&a)) {
        // PREINIT6 of Debian's dhclient-script.
        return Err(stuck(
            "its script takes the IPv6 addresses that have no end from a device when it starts there",
            format!(
                "remove those addresses, or end it without a word (kill -9 {id}) and give the host a fixed address instead, then try again"
            ),
        ));
    }
    if let Some(by) = supervisor(process, &command, scene) {
        return Err(stuck(
            "whoever started it would start it again for the port when it ends",
            format!(
                "it is kept running by {by}: stop that, start dhclient by itself ('dhclient {uplink}'), then try again"
            ),
        ));
    }
    let program = fs::read_link(format!("/proc/{id}/exe")).ok();
    let program = program.and_then(|path| Some(path.to_str()?.trim_end_matches(" (deleted)").to_owned()));
    let script = command.value("-sf");
    let believed = |path: &str| path.starts_with('/') && is_roots_alone(Path::new(path));
    let Some(program) = program else {
        return Err(unseen());
    };
    if !believed(&program) {
        return Err(stuck(
            "others than root can write its program",
            anew("see /proc/PID/exe"),
        ));
    }
    if script.is_some_and(|path| !believed(path)) {
        return Err(stuck(
            "others than root can write its script",
            anew("see -sf in its command line"),
        ));
    }
    let v6 = command.has("-6");
    let path = lease_file(&command, v6);
    let kept = path.and_then(|path| file::read(Path::new(path), None));
    let text = kept.map(|kept| String::from_utf8(kept.bytes));
    let (Some(path), Some(text)) = (path, text) else {
        return Err(stuck(
            "its lease file is not there, or others than root can write it, and another client would be another to the server",
            anew(path.unwrap_or("it has no lease file that is named by its whole path")),
        ));
    };
    let directory = Path::new(path).parent();
    if !directory.is_some_and(takes_files) {
        return Err(stuck(
            "its lease is written back to the directory of its lease file, which others than root can change, or nobody",
            anew(&format!("{path} is there")),
        ));
    }
    let malformed = || {
        stuck(
            "its lease file is malformed, or has not the lease that the host lives on",
            anew(path),
        )
    };
    let read = text
        .ok()
        .and_then(|text| Leases::read(&text))
        .ok_or_else(malformed)?;
    // With DHCPv6 the addresses may be anyone's.
    let has = |last: Last| {
        let address: IpAddr = last.value("fixed-address")?.parse().ok()?;
        scene.has(address).then_some(())
    };
    if !v6 && !leases.is_empty() && read.last(uplink).and_then(has).is_none() {
        return Err(malformed());
    }
    let configuration = command.value("-cf").or_else(|| {
        let usual = CONFIGURATIONS.iter().copied();
        usual.into_iter().find(|path| Path::new(path).exists())
    });
    let configured = configuration.and_then(|path| file::read(Path::new(path), None));
    let configured = configured.is_some_and(|kept| is_configured(&kept.text(), uplink));
    let pid_file = command.value("-pf").unwrap_or(if v6 { PID6 } else { PID });
    let mut options = command.common();
    if configured {
        if let Some(at) = options.iter().position(|word| word == "-cf") {
            options.drain(at..(at + 2).min(options.len()));
        }
    }
    Ok(hold::Dhclient {
        process: was,
        program,
        options,
        v6,
        leases: path.to_owned(),
        pid_file: (!command.has("--no-pid") && pid_file.starts_with('/')).then(|| pid_file.to_owned()),
        configuration: configuration.filter(|_| configured).map(str::to_owned),
        arguments,
    })
}

/// The arguments of a process, to the letter, and which process that is.
fn exactly(id: u32) -> Option<(Vec<String>, record::Process)> {
    let process = record::Process::of(id).ok()?;
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{id}/cmdline")).ok()?;
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let arguments = text.strip_suffix('\0')?.split('\0').map(str::to_owned).collect();
    process.is_alive().then_some((arguments, process))
}

/// Who starts a client again when it ends: its parent, where it did not go to
/// the background, or systemd.
fn supervisor(process: &Process, command: &Command<'_>, scene: &Scene<'_>) -> Option<String> {
    if command.has("-d") && process.parent > 1 {
        return Some(format!("process {}", process.parent));
    }
    service_of(process.id, scene)
}

/// The service of systemd's whose main process this is. One that ifupdown has
/// started is none's: ifupdown itself was the main process, and has ended. Nor
/// is one that vmbr has given back: its unit starts nothing again.
pub fn service_of(id: u32, scene: &Scene<'_>) -> Option<String> {
    if !Path::new(SYSTEMD).is_dir() {
        return None;
    }
    let groups = fs::read_to_string(format!("/proc/{id}/cgroup")).ok()?;
    let unit = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = unit.rsplit('/').find(|part| part.ends_with(".service"))?;
    if unit.starts_with(service::GIVEN_BACK) {
        return None;
    }
    let asked = ["show", "--property=MainPID", "--value", "--", unit];
    let main = tool::ask("systemctl", &asked, scene.deadline)?.ok()?;
    (main.trim() == id.to_string()).then(|| printable(unit))
}

/// Whether root can put files into a directory, and nobody else: what
/// [`crate::apply::store::write`] asks for.
pub fn takes_files(directory: &Path) -> bool {
    match fs::symlink_metadata(directory) {
        Ok(is) => {
            let roots = is.is_dir() && is.uid() == 0 && is.mode() & 0o022 == 0;
            roots && access(directory, AccessFlags::W_OK).is_ok()
        }
        // It is made.
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Whether a file is root's, and nobody else can write it.
pub fn is_roots_alone(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|is| is.is_file() && is.uid() == 0 && is.mode() & 0o022 == 0)
}

fn lease_file<'a>(command: &Command<'a>, v6: bool) -> Option<&'a str> {
    match command.value("-lf") {
        Some(path) => Some(path).filter(|path| path.starts_with('/')),
        None => {
            let usual = if v6 { LEASES6 } else { LEASES };
            usual.into_iter().find(|path| Path::new(path).exists())
        }
    }
}

/// The last lease of the device, as the client's file has it.
fn last_lease(command: &Command<'_>, v6: bool, uplink: &IfName) -> Option<Lease> {
    let kept = file::read(Path::new(lease_file(command, v6)?), None)?;
    lease(&Leases::read(&kept.text())?.last(uplink)?)
}

fn lease(last: &Last) -> Option<Lease> {
    let end = last.value("expire").map_or(End::Unknown, |time| {
        // `expire 2 2026/11/24 00:45:12` begins with the day of the week.
        let time = time.split_once(' ').map_or(time, |(_, time)| time);
        End::At(format!("{} UTC", printable(time)))
    });
    let server = last.value("option dhcp-server-identifier");
    Some(Lease {
        address: last.value("fixed-address")?.parse().ok()?,
        server: server.and_then(|server| server.parse().ok()),
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_are_what_is_no_option() {
        let eth0: IfName = "eth0".parse().unwrap();
        for (command, expected) in [
            ("dhclient", true),
            ("dhclient eth0", true),
            (
                "dhclient -4 -v -i -pf /run/x.pid -lf /var/lib/eth1 -I -df /x eth0",
                true,
            ),
            ("dhclient -pf eth0 eth1", false),
            ("dhclient -x eth0", false),
            ("dhclient eth1 eth0", true),
        ] {
            let arguments = Process::of_root(command).arguments;
            assert_eq!(Command::read(&arguments).serves(&eth0), expected, "{command}");
        }
    }

    #[test]
    fn the_bridges_gets_what_is_not_of_the_uplink() {
        let typed = "dhclient -4 -v -i -nw -pf /run/x.pid -lf /l -I -df /x -e IF_METRIC=5 -cf /c -H me eth0";
        let arguments = Process::of_root(typed).arguments;
        let command = Command::read(&arguments);
        assert_eq!(command.devices, ["eth0"]);
        let expected = "-4 -v -i -I -df /x -e IF_METRIC=5 -cf /c -H me";
        assert_eq!(command.common().join(" "), expected);
        let typed = "dhclient -I someone eth0";
        let arguments = Process::of_root(typed).arguments;
        assert_eq!(Command::read(&arguments).common(), ["-I", "someone"]);
        let typed = "dhclient -I eth0";
        let arguments = Process::of_root(typed).arguments;
        assert_eq!(Command::read(&arguments).devices, ["eth0"]);
    }

    #[test]
    fn the_last_lease_of_the_device_counts() {
        let eth0: IfName = "eth0".parse().unwrap();
        let block = |device: &str, address: &str| {
            format!(
                "lease {{\n  interface \"{device}\";\n  fixed-address {address};\n  \
                 option dhcp-server-identifier 192.0.2.1;\n  expire 2 2026/11/24 00:45:12;\n}}\n"
            )
        };
        let text = block("eth0", "192.0.2.7") + &block("eth0", "192.0.2.8") + &block("eth1", "192.0.2.9");
        let found = lease(&Leases::read(&text).unwrap().last(&eth0).unwrap()).unwrap();
        assert_eq!(found.address.to_string(), "192.0.2.8");
        assert_eq!(found.server.unwrap().to_string(), "192.0.2.1");
        assert_eq!(found.end, End::At("2026/11/24 00:45:12 UTC".into()));
    }
}
