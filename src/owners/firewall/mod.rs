//! Firewalls that know the uplink by its name.
//!
//! Once the uplink is a port, packets come in by the bridge: a rule for the
//! uplink matches nothing any more. firewalld's zone is carried to the
//! bridge; where ufw's rules name the uplink, vmbr refuses; the rest is
//! reported, each rule with the command that adds it for the bridge.

mod firewalld;
mod iptables;
mod nftables;
mod ufw;

pub use firewalld::{carry, carry_command, forget, forget_command};

use crate::model::IfName;

use crate::plan::Refusal;

use super::Survey;
use super::scene::Scene;
use crate::tool;

/// At most so many rules are told.
const MOST: usize = 20;

/// What firewalls have that names the uplink.
pub(super) fn survey(scene: &Scene<'_>, bridge: &IfName) -> Survey {
    let (zone, refusal) = match firewalld::survey(scene, bridge) {
        Ok(zone) => (zone, None),
        Err(refusal) => (None, Some(refusal)),
    };
    let mut refusals: Vec<Refusal> = refusal.into_iter().collect();
    let mut warnings = Vec::new();
    // Who may not see every process may not see the rules either, and the
    // survey says so once.
    if scene.sees_all() {
        let rules = rules(scene, bridge, &mut warnings);
        let count = rules.found.len();
        warnings.extend(rules.found.into_iter().take(MOST));
        if count > MOST {
            warnings.push(format!("{} more rules name {}", count - MOST, scene.uplink()));
        }
        refusals.extend(ufw::refusal(scene.uplink(), bridge, rules.ufw));
    }
    Survey {
        refusals,
        warnings,
        zone,
        ..Survey::default()
    }
}

/// The rules of nftables and iptables. A host without any is asked once.
fn rules(scene: &Scene<'_>, bridge: &IfName, doubts: &mut Vec<String>) -> iptables::Rules {
    let uplink = scene.uplink();
    let ruleset = match tool::ask("nft", &["-a", "-s", "list", "ruleset"], scene.deadline) {
        Some(Ok(text)) => Some(text),
        Some(Err(why)) => {
            doubts.push(unknown(&why, uplink));
            None
        }
        None => None,
    };
    let theirs = ruleset.as_deref().map(nftables::tables_of_iptables);
    let mut rules = iptables::rules(scene, bridge, theirs.as_ref(), doubts);
    if let (Some(text), Some(theirs)) = (ruleset, theirs) {
        rules
            .found
            .extend(nftables::rules(&text, uplink, bridge, &theirs));
    }
    rules
}

fn unknown(why: &str, uplink: &IfName) -> String {
    format!("{why}: whether rules name {uplink} is not known")
}

/// Whether a firewall's pattern matches a device; `wildcard` at its end
/// stands for any rest.
fn matches(pattern: &str, wildcard: char, device: &IfName) -> bool {
    match pattern.strip_suffix(wildcard) {
        Some(start) => device.as_str().starts_with(start),
        None => pattern == device.as_str(),
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
