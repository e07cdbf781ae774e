//! ufw: its own rules, which it alone should change.
//!
//! They are not carried. A rule that `ufw` adds is one of the host's files and
//! outlives a reboot, which the bridge does not. One that is put into ufw's
//! chains beside it is gone with ufw's next `insert`, `delete` or `reload`,
//! which build the chains anew (seen with ufw 0.36), and with it the way into
//! the host, days later. One in front of ufw's chains comes before what ufw
//! denies first, and goes on when the administrator takes back the rule that it
//! was made of.

use std::path::Path;

use crate::model::IfName;
use crate::owners::{file, process};
use crate::plan::Refusal;

const CONFIGURATION: &str = "/etc/ufw/ufw.conf";
const RULES: [&str; 2] = ["/etc/ufw/user.rules", "/etc/ufw/user6.rules"];

/// Refuses where ufw is active and its rules name the uplink, with the lines
/// that add the same for the bridge. `kernels` are the rules of its chains in
/// the kernel that name the uplink and have no counterpart for the bridge.
pub fn refusal(uplink: &IfName, bridge: &IfName, kernels: Vec<String>) -> Option<Refusal> {
    let enabled = file::read(Path::new(CONFIGURATION), None)?.value("ENABLED")?;
    // The file is of every network namespace, the kernel's rules are not.
    let rule = kernels.first()?;
    if enabled.trim_matches('"') != "yes" {
        return None;
    }
    let mut lines: Vec<String> = RULES
        .iter()
        .filter_map(|path| file::read(Path::new(path), None))
        .flat_map(|kept| added(&kept.text(), uplink, bridge))
        .collect();
    lines.dedup();
    let remedy = if lines.is_empty() {
        format!("write the same for {bridge} into /etc/ufw/before.rules or after.rules, then: ufw reload")
    } else {
        format!("add the same for {bridge}, then try again: {}", lines.join("; "))
    };
    Some(Refusal::new(
        format!(
            "ufw is active, and {} of its rules name {uplink} ({}): they would not match what comes in by {bridge}",
            kernels.len(),
            process::printable(rule)
        ),
        remedy,
    ))
}

/// The `ufw` commands that add the rules of the uplink for the bridge, from
/// `### tuple ### allow tcp 22 0.0.0.0/0 any 192.0.2.0/24 in_eth0`.
fn added(text: &str, uplink: &IfName, bridge: &IfName) -> Vec<String> {
    let command = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("### tuple ###")?.split_whitespace().collect();
        let [action, protocol, port, to, from_port, from, .., way] = words.as_slice() else {
            return None;
        };
        // `in_eth0`, `out_eth0`, and of a forwarded packet `in_eth0!out_eth1`.
        let ways: Vec<(&str, &str)> = way.split('!').filter_map(|w| w.split_once('_')).collect();
        if !ways.iter().any(|(_, device)| *device == uplink.as_str()) {
            return None;
        }
        let (route, action) = match action.strip_prefix("route:") {
            Some(action) => ("route ", action),
            None => ("", *action),
        };
        let mut command = format!("ufw {route}{}", action.replace('_', " "));
        for (direction, device) in ways {
            let device = if device == uplink.as_str() {
                bridge.as_str()
            } else {
                device
            };
            command += &format!(" {direction} on {device}");
        }
        for (word, address, port) in [("from", from, from_port), ("to", to, port)] {
            let any = ["0.0.0.0/0", "::/0"].contains(address);
            command += &format!(" {word} {}", if any { "any" } else { address });
            if *port != "any" {
                command += &format!(" port {port}");
            }
        }
        if *protocol != "any" {
            command += &format!(" proto {protocol}");
        }
        Some(command)
    };
    text.lines().filter_map(command).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_become_commands() {
        let text = "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0\n\
                    ### tuple ### deny any any 0.0.0.0/0 any 198.51.100.0/24 in_eth0\n\
                    ### tuple ### allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 in\n\
                    ### tuple ### route:allow any any 0.0.0.0/0 any 0.0.0.0/0 in_eth0!out_eth1\n\
                    ### tuple ### torn\n";
        let (eth0, br0) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        assert_eq!(
            added(text, &eth0, &br0),
            [
                "ufw allow in on br0 from any to any port 22 proto tcp",
                "ufw deny in on br0 from 198.51.100.0/24 to any",
                "ufw route allow in on br0 out on eth1 from any to any",
            ]
        );
    }
}
