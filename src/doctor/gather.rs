//! Reads what the checks need. What cannot be read is left out of the facts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::apply::air;
use crate::apply::recover::{self, INTERRUPTED};
use crate::apply::store::Entry;
use crate::keeper::file::Files;
use crate::mac_nat;
use crate::model::{Family, HostState, IfName, Link};
use crate::netlink::{dump, sysctl};
use crate::plan::air::Programs;
use crate::plan::record::Progress;
use crate::plan::{self, Op, Record};

use super::firewall::Firewall;
use super::helper::{HelperFile, TUN, TunNode, nosuid_mount};
use super::hypervisor::Machine;
use super::segment::{Arp, ArpSettings};
use super::translation::Translation;
use super::udev::LinkFile;
use super::{Facts, files, rules};

/// Reads everything. `held` says whether a vmbr other than the caller is at
/// work, where that is known.
///
/// # Errors
/// Where the kernel does not tell of the network.
pub fn all(entries: &[Entry], held: Option<bool>) -> io::Result<Facts> {
    let host = dump::network()?;
    let mut facts = Facts {
        options: dump::bridge_options()?,
        mac_origin: mac_origins(&host),
        arp: arp(&host),
        machine: machine(&host, None),
        link_files: link_files(),
        helper: Some(helper()),
        tun: tun(),
        acl: files::acl(),
        ..Facts::default()
    };
    let calls = facts.options.values().any(|o| o.calls_v4 || o.calls_v6);
    facts.firewall = firewall(calls);
    for entry in entries {
        match entry {
            Entry::Record(record) => {
                if recover::state(record, held) == INTERRUPTED {
                    facts.interrupted.push(record.bridge.name.clone());
                }
                if record.kept().is_some() && record.progress != Progress::Changing {
                    let told = Files::of(&record.namespace).told(&record.bridge.name);
                    facts.keepers.insert(record.bridge.name.clone(), told);
                }
                if record.air.is_some() && !recover::is_due(record) {
                    let translation = translation(record)?;
                    facts.translations.insert(record.bridge.name.clone(), translation);
                }
                facts.records.push(record.as_ref().clone());
            }
            Entry::Unusable { path, why, .. } => {
                facts.unusable.push((path.display().to_string(), why.clone()))
            }
        }
    }
    facts.host = host;
    Ok(facts)
}

/// How it is with a bridge in mode mac-nat.
fn translation(record: &Record) -> io::Result<Translation> {
    let live = air::devices(record)?;
    let uplink = plan::air::uplink(&live, record);
    let (programs, unsaid) = match air::programs(&live, record) {
        Ok(programs) => (Some(programs), None),
        Err(error) => (
            None,
            Some(error.to_string()).filter(|_| nix::unistd::geteuid().is_root()),
        ),
    };
    let target = air::standing(&live, record);
    let devices = target.as_ref().map(|target| {
        let plan = plan::air::plan(&live, Programs::All, target);
        plan.ops()
            .filter(|op| !matches!(op, Op::Translate(_)))
            .cloned()
            .collect()
    });
    let orders = target.as_ref().and_then(air::orders);
    let stale = orders.and_then(|(settings, addresses)| mac_nat::stale(&settings, &addresses).ok());
    Ok(Translation {
        supported: mac_nat::supported(),
        programs,
        unsaid,
        devices: devices.unwrap_or_default(),
        uplink: uplink.is_some(),
        successor: live.link(&record.uplink.name).is_some(),
        stale,
    })
}

fn mac_origins(host: &HostState) -> BTreeMap<IfName, u8> {
    let bridges = host.links.iter().filter(|link| link.is_kind("bridge"));
    let origin = |name: &IfName, index| device_file(name, index, "addr_assign_type")?.parse().ok();
    bridges
        .filter_map(|link| Some((link.name.clone(), origin(&link.name, link.index)?)))
        .collect()
}

/// A device's file in /sys, which may show another namespace's devices: the
/// number tells.
fn device_file(name: &IfName, index: u32, file: &str) -> Option<String> {
    let read = |file: &str| fs::read_to_string(format!("/sys/class/net/{name}/{file}")).ok();
    let number = read("ifindex")?;
    if number.trim() == index.to_string() {
        Some(read(file)?.trim().to_owned())
    } else {
        None
    }
}

/// The firewall; its rules where frames on a bridge pass it, which is so for
/// some bridge by its own options where `calls` is said.
pub(super) fn firewall(calls: bool) -> Firewall {
    let is_on = |key: &str| {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{key}");
        fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
    };
    let mut firewall = Firewall {
        v4: is_on("iptables"),
        v6: is_on("ip6tables"),
        ..Firewall::default()
    };
    if firewall.v4 || firewall.v6 || calls {
        match rules::read() {
            Ok(tables) => firewall.tables = tables,
            Err(why) => firewall.blind = Some(why),
        }
    }
    firewall
}

/// How devices with an IPv4 address answer ARP.
pub(super) fn arp(host: &HostState) -> ArpSettings {
    let number = |device: &str, key: &str| sysctl::read(device, key)?.parse().ok();
    let has_v4 = |link: &&Link| {
        host.addresses_of(&link.name)
            .iter()
            .any(|a| a.family() == Family::V4)
    };
    let devices = host.links.iter().filter(has_v4).map(|link| link.name.as_str());
    let mut settings = ArpSettings::new();
    for device in devices.chain(["all"]) {
        let arp = Arp {
            ignore: number(device, "ipv4/conf/arp_ignore").unwrap_or_default(),
            announce: number(device, "ipv4/conf/arp_announce").unwrap_or_default(),
        };
        settings.insert(device.to_owned(), arp);
    }
    settings
}

/// What the host runs on, and the drivers of `only` or of every NIC.
pub(super) fn machine(host: &HostState, only: Option<&IfName>) -> Machine {
    let dmi = |file: &str| {
        let text = fs::read_to_string(format!("/sys/class/dmi/id/{file}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let nics = host
        .links
        .iter()
        .filter(|link| link.kind.is_none() && only.is_none_or(|name| link.name == *name));
    Machine {
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        asset: dmi("chassis_asset_tag"),
        drivers: nics
            .filter_map(|link| Some((link.name.clone(), driver(link)?)))
            .collect(),
    }
}

fn driver(link: &Link) -> Option<String> {
    device_file(&link.name, link.index, "ifindex")?;
    let driver = fs::read_link(format!("/sys/class/net/{}/device/driver", link.name)).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}

/// Where systemd-udevd looks for .link files; a name in an earlier directory
/// hides the same in a later one (systemd.link(5)).
const LINK_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/network",
    "/run/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
    "/lib/systemd/network",
];

/// The .link files that count, in their order, with their drop-ins.
pub(super) fn link_files() -> Vec<LinkFile> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in LINK_DIRECTORIES {
        for path in entries(directory, "link") {
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    let read = |(name, path): (&String, &PathBuf)| {
        let mut text = fs::read_to_string(path).ok()?;
        let mut drop_ins: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for directory in LINK_DIRECTORIES {
            for path in entries(&format!("{directory}/{name}.d"), "conf") {
                let name = path.file_name().unwrap_or_default().into();
                drop_ins.entry(name).or_insert(path);
            }
        }
        for path in drop_ins.values() {
            text.push('\n');
            text.push_str(&fs::read_to_string(path).unwrap_or_default());
        }
        let path = path.display().to_string();
        Some(LinkFile { path, text })
    };
    found.iter().filter_map(read).collect()
}

fn entries(directory: &str, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).into_iter().flatten().flatten();
    paths
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn tun() -> Option<TunNode> {
    let metadata = fs::metadata(TUN).ok()?;
    Some(TunNode {
        mode: metadata.mode() & 0o7777,
        group: metadata.gid(),
    })
}

fn helper() -> HelperFile {
    let path = helper_path();
    let text = path.display().to_string();
    let mut capability = [0; 64];
    let length = rustix::fs::getxattr(&path, "security.capability", &mut capability).unwrap_or(0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    HelperFile {
        is_there: path.is_file(),
        capability: capability.get(..length).unwrap_or_default().to_vec(),
        nosuid: nosuid_mount(&mounts, &text),
        path: text,
    }
}

/// The helper that belongs to this program, where it can be found.
pub fn helper_path() -> PathBuf {
    let beside = |program: PathBuf| {
        let bin = program.parent()?.to_owned();
        [bin.join("../libexec/vmbr-helper"), bin.join("vmbr-helper")]
            .into_iter()
            .find(|path| path.is_file())
    };
    let installed = || {
        Path::new("/usr/libexec/vmbr-helper")
            .is_file()
            .then(|| "/usr/libexec/vmbr-helper".into())
    };
    let found = std::env::current_exe().ok().and_then(beside).or_else(installed);
    found
        .and_then(|path| path.canonicalize().ok())
        .unwrap_or_else(|| "/usr/local/libexec/vmbr-helper".into())
}
