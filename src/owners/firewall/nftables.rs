//! Rules of nftables, as `nft -a list ruleset` writes them.

use std::collections::BTreeSet;

use crate::model::IfName;

use super::{matches, quoted};

/// Expressions that compare a device's name, and those that compare its
/// number, which nft shows as a name.
const BY_NAME: [&str; 4] = ["iifname", "oifname", "ibrname", "obrname"];
const BY_NUMBER: [&str; 2] = ["iif", "oif"];

/// Tables and base chains that iptables makes.
pub const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The tables that iptables has made, as far as can be seen: `ip filter`. In
/// one with a set or a chain of its own somebody has used nft, and
/// iptables-save shows such a table in part, or not at all.
pub fn tables_of_iptables(ruleset: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut table, mut chain) = (String::new(), "");
    for line in ruleset.lines() {
        let line = without_handle(line).0;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => {
                table = format!("{family} {name}");
                if ["ip", "ip6"].contains(family) && TABLES.contains(name) {
                    found.insert(table.clone());
                }
            }
            ["chain", name, "{"] => chain = name,
            ["type", _, "hook", ..] if CHAINS.contains(&chain) => {}
            ["type", ..] => {
                found.remove(&table);
            }
            _ if line.contains('{') => {
                found.remove(&table);
            }
            _ => {}
        }
    }
    found
}

/// A sentence for each rule, set and flowtable of a ruleset that names the
/// uplink, but for those in `foreign` tables.
pub fn rules(text: &str, uplink: &IfName, bridge: &IfName, foreign: &BTreeSet<String>) -> Vec<String> {
    let standing: BTreeSet<&str> = text.lines().map(|line| without_handle(line).0).collect();
    let (mut table, mut block) = (String::new(), (String::new(), String::new()));
    let mut early = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let (line, handle) = without_handle(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => table = format!("{family} {name}"),
            [kind @ ("chain" | "set" | "map" | "flowtable"), name, "{"] => {
                block = ((*kind).to_owned(), (*name).to_owned());
                early = false;
            }
            _ if foreign.contains(&table) || table.ends_with(" firewalld") => {}
            // Hooks on a device see its frames before a bridge does, and what
            // it sends is seen there still.
            _ if table.starts_with("netdev ") => {}
            ["type", ..] if block.0 == "chain" => early = line.contains(" device"),
            _ if early => {}
            _ => {
                let place = format!("{table} {}", block.1);
                let said = match (block.0.as_str(), handle) {
                    ("chain", Some(_)) if table.starts_with("bridge ") => beneath(line, &place, uplink),
                    ("chain", Some(handle)) => rule(line, &place, handle, uplink, bridge, &standing),
                    ("set" | "map", _) if words.first() != Some(&"comment") => {
                        element(line, &place, uplink, bridge, text)
                    }
                    ("flowtable", _) if line.starts_with("devices") && names(line, uplink) => Some(format!(
                        "nftables: the flowtable {place} is for {uplink}: flows by {bridge} are not accelerated; add {bridge} to its devices once it is there"
                    )),
                    _ => None,
                };
                found.extend(said);
            }
        }
    }
    found
}

/// What to say of a rule of the bridge family: it sees a NIC as a port only.
fn beneath(line: &str, place: &str, uplink: &IfName) -> Option<String> {
    let words: Vec<&str> = line.split([' ', ',']).collect();
    let quoted = format!("\"{uplink}\"");
    let compares = words
        .iter()
        .any(|word| BY_NAME.contains(word) || BY_NUMBER.contains(word));
    (compares && words.contains(&quoted.as_str())).then(|| {
        format!(
            "nftables: '{line}' in {place} names {uplink}, which was no port until now: it is for the host's own frames, too, from now on; see that it lets them through"
        )
    })
}

fn without_handle(line: &str) -> (&str, Option<&str>) {
    let line = line.trim();
    match line.rsplit_once(" # handle ") {
        Some((line, handle)) => (line, Some(handle)),
        None => (line, None),
    }
}

fn names(line: &str, uplink: &IfName) -> bool {
    let mut words = line.split([' ', ',', '"', '{', '}']);
    words.any(|word| word == uplink.as_str())
}

/// What to say of a rule that names the uplink.
fn rule(
    line: &str,
    place: &str,
    handle: &str,
    uplink: &IfName,
    bridge: &IfName,
    standing: &BTreeSet<&str>,
) -> Option<String> {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let (mut found, mut number, mut wider, mut joined) = (false, false, false, false);
    for at in 0..words.len() {
        let by_number = BY_NUMBER.contains(&words[at].as_str());
        if !by_number && !BY_NAME.contains(&words[at].as_str()) {
            continue;
        }
        let next = |n: usize| words.get(at + n).map_or("", String::as_str);
        let negated = next(1) == "!=";
        if next(1) == "." || (at > 0 && words[at - 1] == ".") {
            let quoted = format!("\"{uplink}\"");
            let mut rest = words.iter().skip(at).map(|word| word.trim_end_matches(','));
            joined |= rest.any(|word| word == quoted);
            continue;
        }
        let value = at + if negated { 2 } else { 1 };
        // `vmap { ... }` and `{ ... }`: a list up to its brace.
        let list = words.iter().skip(value).take(2).position(|word| word == "{");
        let end = list.and_then(|_| words.iter().skip(value).position(|word| word == "}"));
        let last = value + end.unwrap_or(0);
        let is_bridge = |word: &String| word.trim_end_matches(',').trim_matches('"') == bridge.as_str();
        // A set with both has been written anew already.
        if list.is_some() && words.iter().take(last + 1).skip(value).any(is_bridge) {
            continue;
        }
        let mut here = false;
        for word in words.iter_mut().take(last + 1).skip(value) {
            let name = word.trim_end_matches(',').trim_matches('"').to_owned();
            if !word.starts_with('"') || !matches(&name, '*', uplink) || matches(&name, '*', bridge) {
                continue;
            }
            here = true;
            *word = match (negated, list.is_some()) {
                (_, true) => word.replace(&format!("\"{name}\""), &format!("\"{name}\", \"{bridge}\"")),
                (true, false) => format!("{{ \"{name}\", \"{bridge}\" }}"),
                (false, false) => format!("\"{bridge}\""),
            };
        }
        if here {
            found = true;
            number |= by_number;
            wider |= negated || list.is_some();
            if by_number {
                words[at] += "name";
            }
        }
    }
    let written = words.join(" ");
    let stands = standing.contains(written.as_str());
    if !joined && (!found || stands) {
        return None;
    }
    let silently = if number {
        " by its number, which nobody sees,"
    } else {
        ""
    };
    let advice = if joined || line.contains("vmap {") || line.contains(" map {") {
        format!("write it anew with {bridge} beside {uplink}")
    } else if wider {
        format!(
            "run: nft {}",
            quoted(&format!("replace rule {} handle {handle} {written}", place))
        )
    } else {
        format!(
            "run: nft {}",
            quoted(&format!("add rule {} handle {handle} {written}", place))
        )
    };
    Some(format!(
        "nftables: '{line}' in {place} names {uplink}{silently} and packets come in and go out by {bridge} from now on; {advice}"
    ))
}

/// What to say of a set's or map's elements that name the uplink.
fn element(line: &str, place: &str, uplink: &IfName, bridge: &IfName, text: &str) -> Option<String> {
    let whole = format!("\"{uplink}\"");
    let line = line.trim_start_matches("elements = {").trim_end_matches('}');
    let element = line
        .split(',')
        .map(str::trim)
        .find(|element| element.contains(&whole))?;
    let written = element.replace(&whole, &format!("\"{bridge}\""));
    if text.contains(&written) {
        return None;
    }
    Some(format!(
        "nftables: {place} has the element {element}, and packets come in and go out by {bridge} from now on; run: nft {}",
        quoted(&format!("add element {place} {{ {written} }}"))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_has_made_is_told_from_what_nft_has() {
        let table = |head: &str, body: &str| {
            format!(
                "table {head} {{ # handle 1\n\tchain {body}\n\t\tiifname \"eth0\" drop # handle 2\n\t}}\n}}\n"
            )
        };
        let base = "type filter hook input priority filter; policy accept;";
        for (head, body, expected) in [
            ("ip filter", format!("INPUT {{ # handle 1\n\t\t{base}"), true),
            ("ip filter", "ufw-user-input { # handle 1".to_owned(), true),
            ("ip filter", format!("input {{ # handle 1\n\t\t{base}"), false),
            (
                "ip filter",
                format!("INPUT {{ # handle 1\n\t\t{base}\n\t\tiif {{ 1 }} drop"),
                false,
            ),
            ("inet filter", format!("INPUT {{ # handle 1\n\t\t{base}"), false),
            ("ip own", format!("INPUT {{ # handle 1\n\t\t{base}"), false),
        ] {
            let text = table(head, &body);
            assert_eq!(tables_of_iptables(&text).contains(head), expected, "{text}");
        }
    }
}
