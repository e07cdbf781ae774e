//! Reads what the checks need. What cannot be read is left out of the facts.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::apply::lock;
use crate::apply::store::Entry;
use crate::model::{HostState, IfName};
use crate::netlink::dump;

use super::firewall::Firewall;
use super::{Facts, rules};

/// Reads everything.
///
/// # Errors
/// Where the kernel does not tell of the network.
pub fn all(identity: &str, entries: &[Entry]) -> io::Result<Facts> {
    let host = dump::network()?;
    let mut facts = Facts {
        options: dump::bridge_options()?,
        mac_origin: mac_origins(&host),
        at_work: lock::is_held(identity),
        ..Facts::default()
    };
    let calls = facts.options.values().any(|o| o.calls_v4 || o.calls_v6);
    facts.firewall = firewall(calls);
    for entry in entries {
        match entry {
            Entry::Record(record) => facts.records.push(record.as_ref().clone()),
            Entry::Unusable { path, why, .. } => {
                facts.unusable.push((path.display().to_string(), why.clone()))
            }
        }
    }
    facts.host = host;
    Ok(facts)
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
fn firewall(calls: bool) -> Firewall {
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
