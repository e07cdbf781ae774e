//! What vmbr itself began and did not end.

use super::{Facts, Finding, Severity};

/// A change was cut short, and nobody is at work on it.
pub fn interrupted(facts: &Facts) -> Vec<Finding> {
    let records = facts.records.iter();
    records
        .filter(|record| facts.interrupted.contains(&record.bridge.name))
        .map(|record| {
            let (bridge, uplink) = (&record.bridge.name, &record.uplink.name);
            let message = format!(
                "a change of {uplink} and {bridge} was cut short: the network may be on both, and works on neither \
                 for long"
            );
            Finding::new("interrupted", Severity::Error, message, "vmbr recover").of(bridge)
        })
        .collect()
}

/// A record that says nothing to this vmbr.
pub fn unusable(facts: &Facts) -> Vec<Finding> {
    let finding = |(path, why): &(String, String)| {
        let message = format!("the record {path} cannot be used: {why}");
        let remedy = format!("see what it is of; if nothing needs it: rm {path}");
        Finding::new("record-unusable", Severity::Warning, message, remedy)
    };
    facts.unusable.iter().map(finding).collect()
}
