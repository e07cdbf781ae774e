//! The host's firewall, by its own programs: read, and changed by one rule.

use std::time::{Duration, Instant};

use crate::model::IfName;
use crate::tool;

use super::FirewallChain;
use super::firewall::{Table, iptables, nftables};

/// How long a program may take: one that waits for a lock of the firewall's
/// must not hold up a change of the network.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a program, and gives what it printed; none where it is not installed.
fn run(words: &[&str]) -> Result<Option<String>, String> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(None);
    };
    tool::ask(program, arguments, Instant::now() + PATIENCE).transpose()
}

/// Runs a program that must be there.
fn require(words: &[&str]) -> Result<String, String> {
    run(words)?.ok_or_else(|| format!("{} is not installed", words.first().unwrap_or(&"")))
}

/// Every table that forwarded packets pass.
///
/// # Errors
/// In words, why the rules cannot be read: a sentence's end.
pub fn read() -> Result<Vec<Table>, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can read the firewall's rules".into());
    }
    let mut tables = Vec::new();
    let nft = run(&["nft", "-j", "list", "ruleset"])?;
    let has_nft = nft.is_some();
    if let Some(text) = nft {
        tables = nftables::parse(&text).map_err(|why| format!("nft's answer is not understood: {why}"))?;
    }
    for (v6, loaded, programs) in [
        (
            false,
            "/proc/net/ip_tables_names",
            ["iptables-legacy", "iptables"],
        ),
        (
            true,
            "/proc/net/ip6_tables_names",
            ["ip6tables-legacy", "ip6tables"],
        ),
    ] {
        // Asking a program of the old iptables would load the kernel's module.
        let old =
            std::fs::read_to_string(loaded).is_ok_and(|names| names.lines().any(|name| name == "filter"));
        if has_nft && !old {
            continue;
        }
        for program in programs {
            if let Some(text) = run(&[&format!("{program}-save"), "-t", "filter"])? {
                tables.push(iptables::parse(&text, program, v6));
                break;
            }
        }
    }
    Ok(tables)
}

/// Puts a rule first in a chain that lets pass what stays on `bridge`.
pub(super) fn insert(chain: &FirewallChain, bridge: &IfName) -> Result<(), String> {
    let words = chain.accept(bridge);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    require(&words).map(drop)
}

/// Removes the rule again. False where it is not there.
pub(super) fn remove(chain: &FirewallChain, bridge: &IfName) -> Result<bool, String> {
    match chain {
        FirewallChain::Firewalld => {
            let zone = format!("--get-zone-of-interface={bridge}");
            let interface = format!("--remove-interface={bridge}");
            match require(&["firewall-cmd", &zone]) {
                Err(why) if why.contains("no zone") => Ok(false),
                // It forgot when it ended.
                Err(why) if why.contains("not running") => Ok(false),
                other => other
                    .and_then(|_| require(&["firewall-cmd", &interface]))
                    .map(|_| true),
            }
        }
        FirewallChain::Nftables { family, table, chain } => {
            let text = match require(&["nft", "-j", "-a", "list", "chain", family, table, chain]) {
                // The rule went with the whole chain.
                Err(why) if why.contains("No such file or directory") => return Ok(false),
                other => other?,
            };
            let Some(handle) = nftables::accepting(&text, bridge.as_str()).first().copied() else {
                return Ok(false);
            };
            let handle = handle.to_string();
            require(&["nft", "delete", "rule", family, table, chain, "handle", &handle]).map(|_| true)
        }
        FirewallChain::Iptables { program } => {
            let rule = [
                "FORWARD",
                "-i",
                bridge.as_str(),
                "-o",
                bridge.as_str(),
                "-j",
                "ACCEPT",
            ];
            let words = |verb| [&[program.as_str(), verb], rule.as_slice()].concat();
            match require(&words("-C")) {
                Err(why) if why.contains("does a matching rule exist") => return Ok(false),
                other => other?,
            };
            require(&words("-D")).map(|_| true)
        }
    }
}
