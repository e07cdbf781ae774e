//! A bridge that is not set up for guests.

use macaddr::MacAddr6;

use crate::model::bridge::Setting;
use crate::plan::Op;

use super::{Change, Facts, Finding, Severity};

/// `NET_ADDR_SET`: someone set the MAC, and the kernel leaves it.
const SET: u8 = 3;
/// The shortest delay that STP allows, in hundredths of a second
/// (`BR_MIN_FORWARD_DELAY`, net/bridge/br_private.h).
const SHORTEST_DELAY: u32 = 200;

/// The command that sets an option.
fn set(bridge: &str, option: &str, value: u32) -> String {
    format!("ip link set dev {bridge} type bridge {option} {value}")
}

/// STP makes every guest wait.
pub fn stp(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for bridge in facts.guest_bridges() {
        let name = &bridge.name;
        let Some(options) = facts.options.get(name) else {
            continue;
        };
        if options.stp == 0 || options.forward_delay <= SHORTEST_DELAY {
            continue;
        }
        let delay = options.forward_delay / 100;
        let message = format!(
            "{name} runs the spanning tree protocol: a guest's port listens for {delay} s and learns for {delay} s \
             before its first packet passes, which is longer than its DHCP client waits"
        );
        found.push(if facts.ways_out(name).len() > 1 {
            // Whoever gave a bridge two ways out may need it against a loop.
            let remedy = set(name.as_str(), "forward_delay", SHORTEST_DELAY);
            Finding::new("stp", Severity::Warning, message, remedy).of(name)
        } else {
            let change = Change::Option {
                bridge: name.clone(),
                setting: Setting::Stp,
                old: options.stp,
                new: 0,
            };
            let remedy = set(name.as_str(), Setting::Stp.name(), 0);
            Finding::new("stp", Severity::Warning, message, remedy)
                .of(name)
                .fixed_by(vec![change])
        });
    }
    found
}

fn set_mac(
    id: &'static str,
    message: String,
    change: (&crate::model::IfName, MacAddr6, MacAddr6),
) -> Finding {
    let (bridge, old, new) = change;
    let op = Op::SetMac {
        dev: bridge.clone(),
        mac: new,
    };
    Finding::new(id, Severity::Warning, message, op.to_string())
        .of(bridge)
        .fixed_by(vec![Change::Mac {
            bridge: bridge.clone(),
            old,
            new,
        }])
}

/// A MAC that nobody set follows the lowest of the ports'.
pub fn drifting_mac(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for bridge in facts.guest_bridges() {
        let name = &bridge.name;
        let (Some(origin), Some(mac)) = (facts.mac_origin.get(name), bridge.mac) else {
            continue;
        };
        if *origin != SET {
            let message = format!(
                "the MAC of {name} is not set, so it changes when a guest with a lower one joins, and neighbours \
                 send to the old one for minutes. Once set it stays, until the bridge is made anew"
            );
            found.push(set_mac("bridge-mac-drifts", message, (name, mac, mac)));
        }
    }
    found
}

/// A bridge that vmbr made has no longer the MAC that vmbr gave it.
pub fn rewritten_mac(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for record in &facts.records {
        let name = &record.bridge.name;
        let Some(mac) = facts.host.link(name).and_then(|link| link.mac) else {
            continue;
        };
        let given = record.bridge.mac;
        if mac != given && facts.mac_origin.get(name).is_none_or(|origin| *origin == SET) {
            let message = format!(
                "the MAC of {name} was {} when vmbr made it, and someone (udev with a MACAddressPolicy, perhaps) \
                 made it {}: DHCP servers and port security see another host",
                given.to_string().to_lowercase(),
                mac.to_string().to_lowercase()
            );
            found.push(set_mac("bridge-mac-rewritten", message, (name, mac, given)));
        }
    }
    found
}

/// A bridge that snoops multicast forgets who listens when nobody asks.
pub fn snooping(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for bridge in facts.guest_bridges() {
        let name = &bridge.name;
        let Some(options) = facts.options.get(name).filter(|o| o.snooping && !o.querier) else {
            continue;
        };
        if facts.ways_out(name).is_empty() {
            // Nobody from elsewhere begins to ask, and stops.
            continue;
        }
        let missing = match (options.other_querier_v4, options.other_querier_v6) {
            (true, true) => continue,
            (true, false) => "no MLD querier is heard there",
            (false, true) => "no IGMP querier is heard there",
            (false, false) => "no querier is heard there",
        };
        let message = format!(
            "{name} snoops multicast, and {missing}: when one that was heard falls silent, the bridge forgets who \
             listens, and IPv6 neighbours behind it are no longer found"
        );
        let change = Change::Option {
            bridge: name.clone(),
            setting: Setting::Snooping,
            old: 1,
            new: 0,
        };
        let remedy = set(name.as_str(), Setting::Snooping.name(), 0);
        found.push(
            Finding::new("snooping", Severity::Warning, message, remedy)
                .of(name)
                .fixed_by(vec![change]),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bridge::Options;
    use crate::model::{HostState, IfName};

    fn facts(options: Options) -> Facts {
        let host: HostState = serde_json::from_str(
            r#"{"links":[{"index":2,"name":"eth0","master":"br0","mac":[2,0,0,0,0,33]},
                {"index":3,"name":"br0","kind":"bridge","mac":[2,0,0,0,0,33]},
                {"index":4,"name":"docker0","kind":"bridge"},
                {"index":5,"name":"veth1","kind":"veth","master":"docker0"}]}"#,
        )
        .unwrap();
        let names = ["br0", "docker0"].map(|name| name.parse::<IfName>().unwrap());
        Facts {
            host,
            options: names.iter().map(|name| (name.clone(), options)).collect(),
            mac_origin: names.iter().map(|name| (name.clone(), 1)).collect(),
            ..Facts::default()
        }
    }

    fn snooped(options: Options) -> Vec<Finding> {
        snooping(&facts(Options {
            snooping: true,
            ..options
        }))
    }

    #[test]
    fn only_bridges_of_guests_count() {
        let facts = facts(Options {
            stp: 1,
            forward_delay: 1500,
            snooping: true,
            ..Options::default()
        });
        for check in [stp, snooping, drifting_mac] {
            let found = check(&facts);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].device.as_ref().unwrap().as_str(), "br0");
            assert!(found[0].fixable());
        }
    }

    #[test]
    fn stp_that_guards_against_a_loop_stays() {
        let options = Options {
            stp: 1,
            forward_delay: 1500,
            ..Options::default()
        };
        let mut facts = facts(options);
        let second = facts.host.links[0].clone();
        facts.host.links.push(crate::model::Link {
            index: 9,
            name: "eth1".parse().unwrap(),
            ..second
        });
        let found = stp(&facts);
        assert!(!found[0].fixable());
        assert_eq!(
            found[0].remedy,
            "ip link set dev br0 type bridge forward_delay 200"
        );
        let short = Options {
            forward_delay: 200,
            ..options
        };
        facts.options.insert("br0".parse().unwrap(), short);
        assert!(stp(&facts).is_empty());
    }

    #[test]
    fn a_querier_of_each_family_is_wanted() {
        let heard = |v4, v6| {
            snooped(Options {
                other_querier_v4: v4,
                other_querier_v6: v6,
                ..Options::default()
            })
        };
        assert!(heard(true, true).is_empty());
        assert!(heard(true, false)[0].message.contains("MLD"));
        assert!(heard(false, true)[0].message.contains("IGMP"));
        let own = Options {
            querier: true,
            ..Options::default()
        };
        assert!(snooped(own).is_empty());
    }
}
