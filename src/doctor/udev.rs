//! What systemd-udevd makes of a new bridge's MAC (systemd.link(5)): the first
//! .link file that fits, in the order of their names, says. It leaves a MAC
//! that someone set, as vmbr does, but for one that the file itself names.

use std::collections::BTreeMap;

use crate::model::IfName;

use super::{Facts, Finding, Severity};

/// A .link file that counts, its drop-ins behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFile {
    /// Where it is.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// What a file says about a bridge's MAC.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewrite<'a> {
    /// The file.
    pub path: &'a str,
    /// `MACAddress=`.
    pub mac: Option<String>,
    /// `MACAddressPolicy=`.
    pub policy: Option<String>,
}

/// Settings by section and key; a setting that is said again counts anew.
fn settings(text: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if !line.starts_with(['#', ';']) {
            if let Some((key, value)) = line.split_once('=') {
                let key = (section.clone(), key.trim().to_owned());
                found.insert(key, value.trim().to_owned());
            }
        }
    }
    found
}

/// Whether a pattern of the shell (`*` and `?`) fits.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => fits(rest, text) || (!text.is_empty() && fits(pattern, &text[1..])),
        (Some((b'?', rest)), Some((_, left))) => fits(rest, left),
        (Some((a, rest)), Some((b, left))) if a == b => fits(rest, left),
        _ => false,
    }
}

/// A list of patterns; one in front of which is a `!` is for those that fit
/// none.
fn list_fits(list: &str, text: &str) -> bool {
    let (list, not) = match list.strip_prefix('!') {
        Some(rest) => (rest, true),
        None => (list, false),
    };
    list.split_whitespace()
        .any(|pattern| fits(pattern.as_bytes(), text.as_bytes()))
        != not
}

/// What the first of `files` that fits a new bridge of this name says. What
/// asks for anything that a bridge has not (a path, a driver of a NIC) or that
/// is not known here does not fit.
pub fn effective<'a>(files: &'a [LinkFile], bridge: &IfName) -> Option<Rewrite<'a>> {
    for file in files {
        let settings = settings(&file.text);
        let mut asked = settings
            .iter()
            .filter(|((section, _), _)| section == "Match")
            .peekable();
        let any = asked.peek().is_some();
        let all = asked.all(|((_, key), value)| match key.as_str() {
            "OriginalName" => list_fits(value, bridge.as_str()),
            "Kind" | "Driver" | "Type" => list_fits(value, "bridge"),
            _ => false,
        });
        if any && all {
            let of = |key: &str| settings.get(&("Link".to_owned(), key.to_owned())).cloned();
            return Some(Rewrite {
                path: &file.path,
                mac: of("MACAddress").filter(|value| !value.is_empty()),
                policy: of("MACAddressPolicy"),
            });
        }
    }
    None
}

/// The command that keeps udev from the MAC of a bridge.
fn leave_alone(bridge: &IfName) -> String {
    format!(
        "mkdir -p /etc/systemd/network && printf '[Match]\\nOriginalName={bridge}\\n[Link]\\nMACAddressPolicy=none\\n' \
         >/etc/systemd/network/01-{bridge}.link"
    )
}

/// The finding for a bridge that vmbr made, or will make: udev gives it
/// another MAC than vmbr.
pub fn check(files: &[LinkFile], bridge: &IfName) -> Option<Finding> {
    let rewrite = effective(files, bridge)?;
    let mac = rewrite.mac?;
    let message = format!(
        "udev gives {bridge} the MAC {mac} when it is made ({}): neighbours, DHCP servers and port security then see \
         another host than before",
        rewrite.path
    );
    Some(Finding::new("udev-mac", Severity::Warning, message, leave_alone(bridge)).of(bridge))
}

/// Bridges whose MAC is udev's work.
pub fn rewrites(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for bridge in facts.guest_bridges() {
        let name = &bridge.name;
        if facts.record(name).is_some() {
            found.extend(check(&facts.link_files, name));
            continue;
        }
        // Another's bridge has a MAC of udev's where it has none of its
        // ports', and udev does give one.
        let ways_out = facts.ways_out(name);
        let of_a_port = facts.host.ports_of(name).any(|port| port.mac == bridge.mac);
        let local = bridge.mac.is_some_and(|mac| mac.is_local());
        let Some(rewrite) = effective(&facts.link_files, name) else {
            continue;
        };
        let policy = rewrite.policy.as_deref().unwrap_or_default();
        let rewrites = rewrite.mac.is_some() || ["persistent", "random"].contains(&policy);
        if !ways_out.is_empty() && !of_a_port && local && rewrites {
            let message = format!(
                "{name} has the MAC of none of its ports, and udev gives new bridges one of their own ({}): DHCP \
                 servers and port security see another host than the NIC was",
                rewrite.path
            );
            let remedy = format!("{}; then make {name} anew", leave_alone(name));
            found.push(Finding::new("udev-mac", Severity::Warning, message, remedy).of(name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> LinkFile {
        LinkFile {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn the_first_that_fits_counts() {
        let br0: IfName = "br0".parse().unwrap();
        let default = file(
            "99-default.link",
            "[Match]\nOriginalName=*\n\n[Link]\n# no\nMACAddressPolicy=persistent\n",
        );
        let usb = file(
            "73-usb.link",
            "[Match]\nPath=*-usb-*\n[Link]\nMACAddress=02:00:00:00:00:77\n",
        );
        let none = file("50.link", "[Link]\nMACAddress=02:00:00:00:00:77\n");
        let files = [none, usb, default];
        let found = effective(&files, &br0).unwrap();
        assert_eq!(
            (found.path, found.mac, found.policy.as_deref()),
            ("99-default.link", None, Some("persistent"))
        );
        assert_eq!(check(&files, &br0), None, "udev leaves what vmbr sets");
        let with = |text: &str| {
            let mut all = files.to_vec();
            all.insert(0, file("10.link", text));
            check(&all, &br0).is_some()
        };
        let mac = "[Link]\nMACAddress=02:00:00:00:00:77";
        assert!(with(&format!("[Match]\nOriginalName=br*\n{mac}")));
        assert!(with(&format!(
            "[Match]\nKind=bridge\nOriginalName=eth? br?\n{mac}"
        )));
        assert!(with(&format!("[Match]\nOriginalName=!eth*\n{mac}")));
        assert!(!with(&format!("[Match]\nOriginalName=br\n{mac}")));
        assert!(!with(&format!("[Match]\nOriginalName=!br*\n{mac}")));
        assert!(!with(&format!("[Match]\nDriver=e1000\n{mac}")));
        assert!(!with(&format!(
            "[Match]\nOriginalName=*\n{mac}\n[Link]\nMACAddress=\n"
        )));
    }
}
