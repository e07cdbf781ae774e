//! The network of a host in the virtual machine, and how two of them differ.

use std::collections::BTreeMap;

use serde_json::Value;

/// A network, by parts (`show_state` in tests/vm/init).
#[derive(Debug, PartialEq)]
pub struct State {
    /// Links and addresses, routes, rules, neighbours.
    pub parts: BTreeMap<String, Value>,
    /// Below /proc/sys/net, those of the devices.
    pub settings: Vec<String>,
}

impl State {
    /// The entries of a part.
    pub fn list(&self, part: &str) -> &[Value] {
        self.parts[part].as_array().unwrap()
    }

    /// A device.
    pub fn link(&self, name: &str) -> &Value {
        let is = |link: &&Value| link["ifname"] == name;
        self.list("addr")
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("no device {name}"))
    }

    /// The addresses of a device.
    pub fn addresses(&self, name: &str) -> Vec<Value> {
        let mut all = self.link(name)["addr_info"].as_array().unwrap().clone();
        all.iter_mut().for_each(no_time);
        all
    }

    /// What of a part names the device, as if it named `called`. The kernel
    /// gives every device that is up its multicast route.
    pub fn of(&self, part: &str, device: &str, called: &str) -> Vec<String> {
        let names = |entry: &&Value| {
            ["dev", "iif"].iter().any(|key| entry[*key] == device) && entry["type"] != "multicast"
        };
        let renamed = |entry: &Value| {
            let mut entry = entry.clone();
            for key in ["dev", "iif"] {
                if entry[key] == device {
                    entry[key] = called.into();
                }
            }
            no_time(&mut entry);
            entry.to_string()
        };
        let mut all: Vec<String> = self.list(part).iter().filter(names).map(renamed).collect();
        all.sort();
        all
    }

    /// Asserts that `self` is exactly what `before` was.
    pub fn assert_same(&self, before: &Self) {
        for (part, value) in &before.parts {
            let (mut was, mut is) = (value.clone(), self.parts[part].clone());
            for list in [&mut was, &mut is] {
                for entry in list.as_array_mut().unwrap() {
                    let addresses = entry.get_mut("addr_info").and_then(Value::as_array_mut);
                    addresses.into_iter().flatten().for_each(no_time);
                    no_time(entry);
                    no_history(entry);
                }
            }
            match part.as_str() {
                "addr" => never_up(&was, &mut is),
                "route6" => [&mut was, &mut is].into_iter().for_each(by_kernel_last),
                _ => {}
            }
            assert_eq!(is, was, "{part} is not as it was");
        }
        let gone: Vec<_> = before
            .settings
            .iter()
            .filter(|s| !self.settings.contains(s))
            .collect();
        let new: Vec<_> = self
            .settings
            .iter()
            .filter(|s| !before.settings.contains(s))
            .collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "settings: {gone:?} became {new:?}"
        );
    }

    /// Asserts that `bridge` carries what `uplink` carried in `before`.
    pub fn assert_carries(&self, bridge: &str, uplink: &str, before: &Self) {
        let (old, port, new) = (before.link(uplink), self.link(uplink), self.link(bridge));
        assert_eq!(new["linkinfo"]["info_kind"], "bridge");
        assert_eq!(port["master"], bridge);
        for key in ["address", "mtu"] {
            assert_eq!(new[key], old[key], "{key}");
            assert_eq!(port[key], old[key], "{key} of the port");
        }
        assert_eq!(self.addresses(uplink), [] as [Value; 0]);
        let called = |mut address: Value| {
            // A label begins with the name of its device.
            if let Some(label) = address["label"].as_str() {
                address["label"] = label.replacen(uplink, bridge, 1).into();
            }
            address
        };
        let expected: Vec<Value> = before.addresses(uplink).into_iter().map(called).collect();
        assert_eq!(self.addresses(bridge), expected, "addresses");
        for part in ["route", "route6", "rule", "neighbours"] {
            assert_eq!(
                self.of(part, bridge, bridge),
                before.of(part, uplink, bridge),
                "{part}"
            );
            assert!(self.of(part, uplink, uplink).is_empty(), "{part} of the port");
        }
    }
}

/// Takes away what passes by itself: the time that is left. Whether an end
/// was set at all stays.
fn no_time(entry: &mut Value) {
    for key in ["valid_life_time", "preferred_life_time", "expires"] {
        if entry[key].as_u64().is_some_and(|left| left < 4_294_967_295) {
            entry[key] = "some".into();
        }
    }
    // Indexing makes a missing key: take those away again.
    if let Some(map) = entry.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
}

/// Takes away what a bond counts: a test that cuts a cable is counted.
fn no_history(link: &mut Value) {
    let slave = link.pointer_mut("/linkinfo/info_slave_data");
    if let Some(counters) = slave.and_then(Value::as_object_mut) {
        counters.remove("link_failure_count");
    }
}

/// A device that was never up has no queueing discipline yet; from its first
/// time on it keeps one (`dev_activate()`, net/sched/sch_generic.c).
fn never_up(was: &Value, is: &mut Value) {
    for link in is.as_array_mut().unwrap() {
        let same = |old: &&Value| old["ifindex"] == link["ifindex"];
        let old = was.as_array().unwrap().iter().find(same);
        if old.is_some_and(|old| old["qdisc"] == "noop") {
            link["qdisc"] = "noop".into();
        }
    }
}

/// Puts the kernel's own routes of the table `local` last, sorted: they say
/// which addresses are the host's, and two devices' for one address may stand
/// in either order. No program can order them. All others keep their places.
fn by_kernel_last(routes: &mut Value) {
    let routes = routes.as_array_mut().unwrap();
    let of_kernel = |r: &Value| r["table"] == "local" && r["protocol"] == "kernel";
    routes.sort_by_cached_key(|r| {
        let own = of_kernel(r);
        (own, if own { r.to_string() } else { String::new() })
    });
}
