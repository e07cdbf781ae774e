//! Rules of iptables, as iptables-save(8) writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::model::IfName;
use crate::owners::scene::Scene;
use crate::tool;

use super::nftables::TABLES;
use super::{matches, unknown};

/// What iptables has that names the uplink.
#[derive(Debug, Default)]
pub struct Rules {
    /// A sentence for each rule.
    pub found: Vec<String>,
    /// The rules of ufw's chains.
    pub ufw: Vec<String>,
}

/// Looks at what each iptables has. `theirs` are the tables in nftables that
/// are iptables', as nft names them, where that is known.
pub fn rules(
    scene: &Scene<'_>,
    bridge: &IfName,
    theirs: Option<&BTreeSet<String>>,
    doubts: &mut Vec<String>,
) -> Rules {
    let uplink = scene.uplink();
    let mut rules = Rules::default();
    for (program, family, names) in [
        ("iptables", "ip", "/proc/net/ip_tables_names"),
        ("ip6tables", "ip6", "/proc/net/ip6_tables_names"),
    ] {
        for variant in ["nft", "legacy"] {
            let is_nft = variant == "nft";
            let counts =
                |table: &str| !is_nft || theirs.is_none_or(|all| all.contains(&format!("{family} {table}")));
            // The legacy one loads modules where there is nothing to save.
            let nothing = if is_nft {
                TABLES.iter().all(|table| !counts(table))
            } else {
                fs::read_to_string(names).unwrap_or_default().is_empty()
            };
            if nothing {
                continue;
            }
            let command = format!("{program}-{variant}");
            match tool::ask(&format!("{command}-save"), &[], scene.deadline) {
                None => {}
                Some(Err(why)) => doubts.push(unknown(&why, uplink)),
                Some(Ok(text)) => read(&text, &command, &counts, uplink, bridge, &mut rules),
            }
        }
    }
    rules
}

/// Tells of the rules in a list, those in the tables that count.
fn read(
    text: &str,
    command: &str,
    counts: &dyn Fn(&str) -> bool,
    uplink: &IfName,
    bridge: &IfName,
    rules: &mut Rules,
) {
    let all: BTreeSet<&str> = text.lines().collect();
    let mut table = "";
    // How many rules a chain has so far, those that were told to add included.
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let Some((chain, _)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        if !counts(table) {
            continue;
        }
        let place = places.entry((table, chain)).or_default();
        *place += 1;
        let Some((written, negated)) = rewritten(line, uplink, bridge) else {
            continue;
        };
        if all.contains(written.as_str()) {
            continue;
        }
        if chain.starts_with("ufw") {
            rules.ufw.push(line.to_owned());
        } else if negated {
            rules.found.push(format!(
                "{command}: '{line}' is for all but {uplink}, and so for {bridge} from now on: write it anew"
            ));
        } else {
            *place += 1;
            let rule = written.trim_start_matches("-A ").trim_start_matches(chain);
            rules.found.push(format!(
                "{command}: '{line}' names {uplink}, and packets come in and go out by {bridge} from now on; add: {command} -t {table} -I {chain} {place}{rule}"
            ));
        }
    }
}

/// The rule for the bridge, and whether it says `! -i`; None where it does
/// not name the uplink.
fn rewritten(line: &str, uplink: &IfName, bridge: &IfName) -> Option<(String, bool)> {
    let mut words: Vec<&str> = line.split(' ').collect();
    let (mut found, mut negated) = (false, false);
    for at in 1..words.len() {
        let names = ["-i", "-o"].contains(&words[at - 1])
            && matches(words[at], '+', uplink)
            && !matches(words[at], '+', bridge);
        if names {
            found = true;
            negated |= at > 1 && words[at - 2] == "!";
            words[at] = bridge.as_str();
        }
    }
    found.then(|| (words.join(" "), negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_uplink_are_written_anew_at_their_place() {
        let text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i eth1 -j DROP\n-A INPUT -i eth0 -p tcp -j ACCEPT\n\
                    -A INPUT ! -i eth0 -j DROP\n-A INPUT -i eth+ -j ACCEPT\n-A INPUT -i br0 -j LOG\n-A INPUT -i eth0 -j LOG\n\
                    -A ufw-user-input -i eth0 -j ACCEPT\nCOMMIT\n";
        let mut rules = Rules::default();
        let (eth0, br0) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        read(text, "iptables-nft", &|_| true, &eth0, &br0, &mut rules);
        assert_eq!(rules.found.len(), 3, "{rules:?}");
        assert!(
            rules.found[0].ends_with("add: iptables-nft -t filter -I INPUT 3 -i br0 -p tcp -j ACCEPT"),
            "{rules:?}"
        );
        assert!(rules.found[1].contains("write it anew"), "{rules:?}");
        assert!(
            rules.found[2].ends_with("-I INPUT 6 -i br0 -j ACCEPT"),
            "{rules:?}"
        );
        assert_eq!(rules.ufw, ["-A ufw-user-input -i eth0 -j ACCEPT"]);
    }
}
