//! A lease that vmbr's own keeper renews.

use super::{Change, Facts, Finding, Severity};

/// A keeper that has died, or has no lease to keep.
pub fn keepers(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (bridge, told) in &facts.keepers {
        let record = facts.record(bridge);
        let kept = record.and_then(|record| record.kept());
        let address = kept.map_or_else(String::new, |kept| format!(" of {}", kept.address));
        let lives = told.as_ref().filter(|told| told.is_alive());
        let Some(told) = lives else {
            let end = told.as_ref().and_then(|told| told.seconds_left()).map_or_else(
                || "at a time that is not known".to_owned(),
                |seconds| format!("in {seconds} s"),
            );
            let message = format!(
                "the lease keeper of {bridge} does not run: nobody renews the lease{address}, which ends {end}"
            );
            let fix = vec![Change::Keeper {
                bridge: bridge.clone(),
            }];
            let finding = Finding::new("keeper-dead", Severity::Error, message, "vmbr doctor --fix");
            findings.push(finding.of(bridge).fixed_by(fix));
            continue;
        };
        if told.address.is_none() {
            let message = format!(
                "no DHCP server has prolonged the lease of {bridge}: it has no address, and the lease keeper asks for another"
            );
            let remedy = "see whether the DHCP server runs and is reached";
            findings.push(Finding::new("lease-lost", Severity::Error, message, remedy).of(bridge));
        } else if told.state == "rebinding" {
            let left = told.seconds_left().unwrap_or(0);
            let message = format!(
                "the DHCP server does not prolong the lease of {bridge}, which ends in {left} s: the lease keeper asks every server"
            );
            let remedy = "see whether the DHCP server runs and is reached";
            findings.push(Finding::new("lease-runs-out", Severity::Warning, message, remedy).of(bridge));
        }
    }
    findings
}
