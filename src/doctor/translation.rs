//! Bridges in mode mac-nat whose guests reach no network, or soon will not.

use std::collections::BTreeMap;

use crate::model::IfName;
use crate::plan::Op;
use crate::plan::air::Programs;

use super::{Change, Facts, Finding, Severity};

/// How it is with the translation of a bridge.
#[derive(Debug, Clone, Default)]
pub struct Translation {
    /// Whether this vmbr can translate.
    pub supported: bool,
    /// Which programs stand; none where the kernel does not say.
    pub programs: Option<Programs>,
    /// Why it does not say that to root: a kernel that lacks what it takes.
    pub unsaid: Option<String>,
    /// What is otherwise than it has to be with the devices, as what would
    /// mend it.
    pub devices: Vec<Op>,
    /// Whether the uplink is there, by its number.
    pub uplink: bool,
    /// Another device that has the uplink's name now.
    pub successor: bool,
    /// Whether the programs know an older MAC of the uplink, or other
    /// addresses; none where that is not known.
    pub stale: Option<bool>,
}

/// By the bridge's name.
pub type Translations = BTreeMap<IfName, Translation>;

/// What keeps guests from the network.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let found = facts.translations.iter();
    found
        .filter_map(|(bridge, translation)| one(facts, bridge, translation))
        .collect()
}

/// The first thing that is wrong: the others follow from it, or are mended with
/// it.
fn one(facts: &Facts, bridge: &IfName, translation: &Translation) -> Option<Finding> {
    let record = facts.record(bridge)?;
    let uplink = &record.uplink.name;
    let found = |id, severity, message: String, remedy: String| {
        Finding::new(id, severity, message, remedy).of(bridge)
    };
    let mended = |id, message: String| {
        let fix = vec![Change::Translation {
            bridge: bridge.clone(),
        }];
        found(id, Severity::Error, message, format!("vmbr sync {bridge}")).fixed_by(fix)
    };
    if !translation.supported {
        return Some(found(
            "mac-nat-unsupported",
            Severity::Error,
            format!(
                "{bridge} is in mode mac-nat, and this vmbr was built without that: it can neither mend nor end it"
            ),
            "build it with the feature mac-nat".to_owned(),
        ));
    }
    if !translation.uplink && translation.successor {
        return Some(mended(
            "uplink-anew",
            format!(
                "the uplink of {bridge} was made anew: guests reach no network by the {uplink} that is there now"
            ),
        ));
    }
    if !translation.uplink {
        return Some(found(
            "uplink-gone",
            Severity::Warning,
            format!(
                "the uplink {uplink} of {bridge} is gone: guests reach each other, and neither network nor host"
            ),
            format!("plug it in again, then: vmbr sync {bridge}; or end it: vmbr down {bridge}"),
        ));
    }
    if let Some(first) = translation.devices.first() {
        return Some(mended(
            "air-broken",
            format!(
                "{bridge} and its air port are not as they have to be, so guests reach no network; the first that is lacking: {first}"
            ),
        ));
    }
    if let Some(why) = &translation.unsaid {
        return Some(found(
            "mac-nat-kernel",
            Severity::Error,
            format!("whether {bridge} translates MACs the kernel does not say: {why}"),
            format!("boot a kernel with BPF at traffic control, or end it: vmbr down {bridge}"),
        ));
    }
    match translation.programs {
        None => {
            return Some(found(
                "mac-nat-unseen",
                Severity::Note,
                format!("whether {bridge} translates MACs only root may know"),
                "sudo vmbr doctor".to_owned(),
            ));
        }
        Some(Programs::All) => {}
        Some(programs) => {
            let word = match programs {
                Programs::Some => "some of the programs that translate MACs are",
                _ => "the programs that translate MACs are",
            };
            return Some(mended(
                "mac-nat-programs",
                format!("{word} not at {uplink} and the air port of {bridge}: guests reach no network"),
            ));
        }
    }
    translation.stale.filter(|stale| *stale).map(|_| {
        mended(
            "mac-nat-stale",
            format!(
                "what {bridge} knows of {uplink} is not so any more: its MAC, the addresses that no guest may claim, or \
                 those that acl.conf gives to one guest. After a change of the ACL run 'vmbr sync'; of the others \
                 hooks tell it ('scripts/install' installs them)"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Record;

    fn facts(translation: Translation) -> Facts {
        let record: Record = serde_json::from_value(serde_json::json!({
            "version": 4, "namespace": "boot:1", "progress": "settled", "time": 0,
            "uplink": {"name": "wlan0", "index": 3, "mac": [2, 0, 0, 0, 0, 1], "up": true},
            "bridge": {"name": "br0", "mac": [6, 0, 0, 0, 0, 1], "mtu": 1500},
            "before": {"dev": "wlan0"}, "air": {"port": "br0-air", "far": "br0-far"}
        }))
        .unwrap();
        Facts {
            translations: Translations::from([(record.bridge.name.clone(), translation)]),
            records: vec![record],
            ..Facts::default()
        }
    }

    fn whole() -> Translation {
        Translation {
            supported: true,
            programs: Some(Programs::All),
            uplink: true,
            stale: Some(false),
            ..Translation::default()
        }
    }

    #[test]
    fn one_thing_at_a_time_what_matters_first() {
        assert!(check(&facts(whole())).is_empty());
        let up = Op::SetUp {
            dev: "br0-far".parse().unwrap(),
            up: true,
        };
        let broken = Translation {
            devices: vec![up],
            programs: Some(Programs::Some),
            stale: Some(true),
            ..whole()
        };
        let mut steps = vec![broken];
        let mut next = |change: fn(&mut Translation)| {
            let mut translation = steps.last().unwrap().clone();
            change(&mut translation);
            steps.push(translation);
        };
        next(|t| t.devices.clear());
        next(|t| t.programs = Some(Programs::All));
        next(|t| t.programs = None);
        next(|t| t.unsaid = Some("function not implemented".to_owned()));
        next(|t| t.uplink = false);
        next(|t| t.successor = true);
        next(|t| t.supported = false);
        let found: Vec<(&str, bool)> = steps
            .iter()
            .map(|translation| check(&facts(translation.clone()))[0].clone())
            .map(|finding| (finding.id, finding.fixable()))
            .collect();
        assert_eq!(
            found,
            [
                ("air-broken", true),
                ("mac-nat-programs", true),
                ("mac-nat-stale", true),
                ("mac-nat-unseen", false),
                ("mac-nat-kernel", false),
                ("uplink-gone", false),
                ("uplink-anew", true),
                ("mac-nat-unsupported", false),
            ]
        );
    }
}
