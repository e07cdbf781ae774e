//! Bridge netfilter: where it is on (Docker and Kubernetes turn it on), frames
//! that stay on a bridge pass the host's IP firewall, with the bridge as both
//! devices (`br_nf_forward_ip()`, net/bridge/br_netfilter_hooks.c). A FORWARD
//! chain that drops, Docker's for instance, then cuts guests off.
//!
//! Turning bridge netfilter off would open what Docker closes between its
//! containers, and turning it on bridge by bridge instead would leave out the
//! bridges that Docker makes later. So the remedy is a rule that lets pass
//! what stays on the one bridge; firewalld makes it where the bridge is in one
//! of its zones.

pub mod iptables;
pub mod nftables;

use crate::model::IfName;

use super::{Change, Facts, Finding, FirewallChain, Severity};

/// How deep chains may call each other; the kernel allows 16
/// (`NFT_JUMP_STACK_SIZE`, include/net/netfilter/nf_tables.h).
const DEEPEST: usize = 16;

/// What is known of the host's firewall.
#[derive(Debug, Default)]
pub struct Firewall {
    /// IPv4 that stays on a bridge passes it
    /// (`net.bridge.bridge-nf-call-iptables`).
    pub v4: bool,
    /// The same of IPv6.
    pub v6: bool,
    /// Its tables; empty where they were not asked for.
    pub tables: Vec<Table>,
    /// Why its rules are not known, where they are not.
    pub blind: Option<String>,
}

/// A table of chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Where the table is, and what is said to change it.
    pub place: Place,
    /// IPv4 passes it.
    pub v4: bool,
    /// IPv6 passes it.
    pub v6: bool,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// Where a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In nftables.
    Nftables {
        /// `ip`, `ip6` or `inet`.
        family: String,
        /// Its name.
        table: String,
    },
    /// The table `filter` of this program.
    Iptables(String),
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Forwarded packets enter the table here.
    pub forward: bool,
    /// What no rule decides is dropped.
    pub drops: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// What must hold, all of it.
    pub conditions: Vec<Condition>,
    /// What is done then, if that decides anything.
    pub verdict: Option<Verdict>,
}

/// What a rule asks of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The device by which it came, or by which it leaves, is one of these; a
    /// `*` at the end stands for any rest.
    Device {
        /// Names.
        names: Vec<String>,
        /// It is none of them.
        not: bool,
    },
    /// Something about ports of a bridge, for which only rules for bridged
    /// frames ask.
    Port,
    /// Anything else.
    Other,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes the table.
    Accept,
    /// It is dropped or rejected.
    Drop,
    /// The chain ends.
    Return,
    /// Another chain is asked, then this one goes on.
    Jump(String),
    /// Another chain is asked, and this one ends.
    Goto(String),
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
}

impl Table {
    /// Whether firewalld has made it, and has to be told what to change.
    pub fn is_of_firewalld(&self) -> bool {
        matches!(&self.place, Place::Nftables { table, .. } if table == "firewalld")
    }
}

impl Rule {
    /// Whether it takes every frame that stays on `bridge`. A rule for some
    /// (of an established connection, of a protocol) decides nothing for the
    /// others.
    fn takes_all(&self, bridge: &str) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Device { names, not } => names.iter().any(|name| covers(name, bridge)) != *not,
            Condition::Port => self.verdict == Some(Verdict::Accept),
            Condition::Other => false,
        })
    }
}

fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => pattern == name,
    }
}

impl Table {
    /// What becomes, in a chain, of an ordinary frame that stays on `bridge`;
    /// none where the chain does not decide.
    fn fate(&self, chain: &Chain, bridge: &str, depth: usize) -> Option<Fate> {
        let called = |name: &str| {
            let chain = self.chains.iter().find(|chain| chain.name == *name);
            chain
                .filter(|_| depth < DEEPEST)
                .and_then(|chain| self.fate(chain, bridge, depth + 1))
        };
        for rule in chain.rules.iter().filter(|rule| rule.takes_all(bridge)) {
            match &rule.verdict {
                Some(Verdict::Accept) => return Some(Fate::Accepted),
                Some(Verdict::Drop) => return Some(Fate::Dropped),
                Some(Verdict::Return) => break,
                Some(Verdict::Goto(name)) => return called(name).or(chain.policy()),
                Some(Verdict::Jump(name)) => {
                    if let Some(fate) = called(name) {
                        return Some(fate);
                    }
                }
                None => {}
            }
        }
        chain.policy()
    }

    fn name_of(&self, chain: &Chain) -> FirewallChain {
        match &self.place {
            Place::Nftables { table, .. } if table == "firewalld" => FirewallChain::Firewalld,
            Place::Nftables { family, table } => FirewallChain::Nftables {
                family: family.clone(),
                table: table.clone(),
                chain: chain.name.clone(),
            },
            Place::Iptables(program) => FirewallChain::Iptables {
                program: program.clone(),
            },
        }
    }
}

impl Chain {
    fn policy(&self) -> Option<Fate> {
        self.drops.then_some(Fate::Dropped)
    }
}

impl Firewall {
    /// The chains that drop what stays on `bridge`; `v4` and `v6` say what of
    /// it passes the firewall.
    fn dropping(&self, bridge: &IfName, v4: bool, v6: bool) -> Vec<FirewallChain> {
        let passed = |table: &&Table| (table.v4 && v4) || (table.v6 && v6);
        let mut found = Vec::new();
        for table in self.tables.iter().filter(passed) {
            for chain in table.chains.iter().filter(|chain| chain.forward) {
                let name = table.name_of(chain);
                if table.fate(chain, bridge.as_str(), 0) == Some(Fate::Dropped) && !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// The finding for a bridge, which need not exist yet. `own` says whether
    /// IPv4 and IPv6 pass the firewall by the bridge's own options.
    pub fn check(&self, bridge: &IfName, own: (bool, bool)) -> Option<Finding> {
        let (v4, v6) = (self.v4 || own.0, self.v6 || own.1);
        if !v4 && !v6 {
            return None;
        }
        let filtered = format!("what guests on {bridge} send to the network passes this host's IP firewall");
        let why = "(bridge netfilter is on: net.bridge.bridge-nf-call-iptables)";
        if let Some(blind) = &self.blind {
            let message = format!("{filtered} {why}, and whether that drops it is not known: {blind}");
            let remedy = "sudo vmbr doctor";
            return Some(Finding::new("bridge-netfilter", Severity::Note, message, remedy).of(bridge));
        }
        let chains = self.dropping(bridge, v4, v6);
        if chains.is_empty() {
            return None;
        }
        let names: Vec<String> = chains.iter().map(ToString::to_string).collect();
        let message = format!(
            "{filtered} {why}, and {} drops it: guests reach this host and nobody else. Docker, firewalld and ufw \
             make such chains",
            names.join(", and ")
        );
        let commands: Vec<String> = chains.iter().map(|chain| shell(&chain.accept(bridge))).collect();
        let change = |chain| Change::Accept {
            bridge: bridge.clone(),
            chain,
        };
        let fix = chains.into_iter().map(change).collect();
        let finding = Finding::new(
            "bridge-netfilter",
            Severity::Error,
            message,
            commands.join(" && "),
        );
        Some(finding.of(bridge).fixed_by(fix))
    }
}

/// Words as a shell takes them.
fn shell(words: &[String]) -> String {
    let plain = |word: &str| {
        word.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./:=@+".contains(&b))
    };
    let quoted = |word: &String| match word {
        word if plain(word) => word.clone(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Guests whose frames the host's firewall drops.
pub fn drops(facts: &Facts) -> Vec<Finding> {
    let own = |name: &IfName| {
        facts
            .options
            .get(name)
            .map_or((false, false), |o| (o.calls_v4, o.calls_v6))
    };
    facts
        .guest_bridges()
        .filter_map(|bridge| facts.firewall.check(&bridge.name, own(&bridge.name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firewall(text: &str) -> Firewall {
        Firewall {
            v4: true,
            v6: true,
            tables: vec![iptables::parse(text, "iptables", false)],
            blind: None,
        }
    }

    fn finding(text: &str) -> Option<Finding> {
        firewall(text).check(&"br0".parse().unwrap(), (false, false))
    }

    const DOCKER: &str = "# Generated by iptables-save
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [12:720]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
";

    #[test]
    fn docker_drops() {
        let found = finding(DOCKER).unwrap();
        assert_eq!(found.remedy, "iptables -I FORWARD -i br0 -o br0 -j ACCEPT");
        assert!(found.fixable());
    }

    #[test]
    fn a_rule_for_the_bridge_lets_pass_wherever_it_stands() {
        let with = |rule: &str| finding(&DOCKER.replace("-A DOCKER-USER -j RETURN", rule));
        for rule in [
            "-A DOCKER-USER -i br0 -o br0 -j ACCEPT",
            "-A DOCKER-USER -i br+ -j ACCEPT",
            "-A DOCKER-USER ! -i docker0 -j ACCEPT",
            "-A DOCKER-USER -m comment --comment \"-i docker0 only\" -j ACCEPT",
            "-A DOCKER-USER -m physdev --physdev-is-bridged -j ACCEPT",
        ] {
            assert_eq!(with(rule), None, "{rule}");
        }
        for rule in [
            "-A DOCKER-USER -i br1 -o br1 -j ACCEPT",
            "-A DOCKER-USER -i br0 -o eth0 -j ACCEPT",
            "-A DOCKER-USER -i br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A DOCKER-USER -s 192.0.2.0/24 -j ACCEPT",
            "-A DOCKER-USER -p icmp -j ACCEPT",
            "-A DOCKER-USER -i br0 -j LOG --log-prefix \"-j ACCEPT\"",
            "-A DOCKER-USER -j RETURN\n-A DOCKER-USER -i br0 -j ACCEPT",
        ] {
            assert!(with(rule).is_some(), "{rule}");
        }
    }

    #[test]
    fn a_last_rule_drops_as_a_policy_does() {
        let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n";
        assert!(finding(text).is_some());
        let some = text.replace("-j REJECT", "-i eth1 -j REJECT");
        assert_eq!(finding(&some), None);
        let elsewhere = text.replace("*filter", "*mangle");
        assert_eq!(finding(&elsewhere), None, "another table is not read for it");
    }

    #[test]
    fn only_what_passes_the_firewall_is_dropped() {
        let firewall = Firewall {
            v4: false,
            ..firewall(DOCKER)
        };
        let bridge: IfName = "br0".parse().unwrap();
        assert_eq!(firewall.check(&bridge, (false, false)), None);
        assert!(
            firewall.check(&bridge, (true, false)).is_some(),
            "the bridge's own option"
        );
    }

    #[test]
    fn rules_that_cannot_be_read_are_a_note() {
        let firewall = Firewall {
            v4: true,
            blind: Some("only root may".into()),
            ..Firewall::default()
        };
        let found = firewall.check(&"br0".parse().unwrap(), (false, false)).unwrap();
        assert_eq!(found.severity, Severity::Note);
    }

    #[test]
    fn words_reach_the_command_whole() {
        let words = |list: &[&str]| shell(&list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["nft", "\"br0\"", "a'b"]), r#"nft '"br0"' 'a'\''b'"#);
    }
}
