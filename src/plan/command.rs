//! Operations as the commands of iproute2 that a person would type.

use std::fmt::{self, Write};

use crate::model::address::{FOREVER, Label, flag, scope};
use crate::model::route::{METRIC_USER_V6, RouteMetric, kind, protocol, table};
use crate::model::{Address, Family, Hop, Neighbour, Nexthop, RawAttribute, Route, Rule, neighbour};

use super::air::{stop_text, translate_text};
use super::rule_text::rule_text;
use super::{Op, Plan};

/// A line of a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What to type; none where no command says it.
    pub text: Option<String>,
    /// What the command does not say, and vmbr does.
    pub unsaid: Vec<String>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for note in &self.unsaid {
            if !first {
                f.write_char('\n')?;
            }
            write!(f, "# {note}")?;
            first = false;
        }
        if let Some(text) = &self.text {
            if !first {
                f.write_char('\n')?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

impl Plan {
    /// The plan as commands, which in their order do the same migration.
    pub fn commands(&self) -> impl Iterator<Item = Command> {
        self.ops().map(Op::command)
    }
}

impl Op {
    /// The operation as a command.
    pub fn command(&self) -> Command {
        let mut unsaid = Vec::new();
        let text = match self {
            Op::CreateBridge { name, mac } => Some(format!(
                "ip link add name {name} address {} type bridge stp_state 0 mcast_snooping 0",
                lower(mac)
            )),
            Op::CreateVeth { name, far, mtu } => Some(format!(
                "ip link add name {name} mtu {mtu} type veth peer name {far} mtu {mtu}"
            )),
            Op::DeleteLink { dev } => Some(format!("ip link del dev {dev}")),
            Op::SetUp { dev, up } => Some(format!(
                "ip link set dev {dev} {}",
                if *up { "up" } else { "down" }
            )),
            Op::SetMtu { dev, mtu } => Some(format!("ip link set dev {dev} mtu {mtu}")),
            Op::SetMac { dev, mac } => Some(format!("ip link set dev {dev} address {}", lower(mac))),
            Op::SetMaster {
                dev,
                master: Some(master),
            } => Some(format!("ip link set dev {dev} master {master}")),
            Op::SetMaster { dev, master: None } => Some(format!("ip link set dev {dev} nomaster")),
            Op::SetNoArp { dev } => Some(format!("ip link set dev {dev} arp off")),
            Op::Translate(translation) => Some(translate_text(translation, &mut unsaid)),
            Op::StopTranslation { uplink, air, .. } => {
                unsaid.push("of these, only what is vmbr's own".to_owned());
                Some(stop_text(uplink, air))
            }
            Op::AddAddress { dev, address } => Some(format!(
                "ip address add {}",
                address_text(address, dev, &mut unsaid)
            )),
            Op::ChangeAddress { dev, address } => Some(format!(
                "ip address change {}",
                address_text(address, dev, &mut unsaid)
            )),
            Op::DeleteAddress { dev, address } => Some(format!("ip address del {address} dev {dev}")),
            Op::AppendRoute(route) => Some(route_command("append", route, &mut unsaid)),
            Op::PrependRoute(route) => Some(route_command("prepend", route, &mut unsaid)),
            Op::ReplaceRoute(route) => Some(route_command("replace", route, &mut unsaid)),
            Op::DeleteRoute(route) => Some(route_command("del", route, &mut Vec::new())),
            Op::SetNexthop(object) => Some(format!(
                "ip {}nexthop replace {}",
                if object.family == Some(Family::V6) {
                    "-6 "
                } else {
                    ""
                },
                nexthop_text(object, &mut unsaid)
            )),
            Op::DeleteNexthop(object) => Some(format!("ip nexthop del id {}", object.id)),
            Op::SetNeighbour(n) => Some(format!("ip neighbour replace {}", neighbour_text(n))),
            Op::DeleteNeighbour(n) => {
                let proxy = if n.is_proxy() { "proxy " } else { "" };
                Some(format!("ip neighbour del {proxy}{} dev {}", n.address, n.dev))
            }
            Op::AddRule(rule) => Some(rule_command("add", rule, &mut unsaid)),
            Op::DeleteRule(rule) => Some(rule_command("del", rule, &mut Vec::new())),
            Op::SetSysctl { dev, key, value } => Some(sysctl_text(dev.as_str(), key, value)),
            Op::AwaitRunning { dev } => {
                unsaid.push(format!(
                    "vmbr waits here until {dev} has a carrier: a command takes longer than that"
                ));
                None
            }
            Op::AwaitAddresses { dev, .. } => {
                unsaid.push(format!(
                    "vmbr waits here until {dev} accepts its IPv6 addresses: a command takes longer than that"
                ));
                None
            }
            Op::SolicitRouters { dev } => {
                unsaid.push(format!(
                    "vmbr asks here for a router advertisement on {dev}, and removes its copy of a default route \
                     when the kernel has its own"
                ));
                None
            }
        };
        Command { text, unsaid }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::AwaitRunning { dev } => write!(f, "waiting for {dev}'s carrier"),
            Op::AwaitAddresses { dev, .. } => write!(f, "waiting until {dev} accepts its IPv6 addresses"),
            Op::SolicitRouters { dev } => write!(f, "asking the routers on {dev} for an advertisement"),
            Op::Translate(translation) => write!(
                f,
                "attaching the translation of MACs to {} and {}",
                translation.uplink, translation.air
            ),
            Op::StopTranslation { uplink, air, .. } => {
                write!(f, "taking the translation of MACs from {uplink} and {air}")
            }
            op => f.write_str(op.command().text.as_deref().unwrap_or_default()),
        }
    }
}

fn lower(mac: &macaddr::MacAddr6) -> String {
    mac.to_string().to_lowercase()
}

fn sysctl_text(dev: &str, key: &str, value: &str) -> String {
    // The slashes keep a device name with a dot whole.
    let (dir, leaf) = key.rsplit_once('/').unwrap_or(("", key));
    let value = if value.contains(char::is_whitespace) {
        format!("'{value}'")
    } else {
        value.to_owned()
    };
    format!("sysctl -qw net/{dir}/{dev}/{leaf}={value}")
}

fn scope_text(number: u8) -> String {
    match number {
        scope::UNIVERSE => "global".into(),
        scope::LINK => "link".into(),
        scope::HOST => "host".into(),
        other => other.to_string(),
    }
}

fn address_text(address: &Address, dev: &crate::model::IfName, unsaid: &mut Vec<String>) -> String {
    let mut text = format!("{address}");
    if let Some(broadcast) = address.broadcast {
        let _ = write!(text, " broadcast {broadcast}");
    }
    let _ = write!(text, " dev {dev}");
    if address.family() == Family::V4 {
        match &address.label {
            Label::Device => {}
            Label::Text(label) => unsaid.push(format!(
                "ip takes no label that does not begin with {dev}: {label}"
            )),
            label @ Label::Suffix(_) => {
                let _ = write!(text, " label {}", label.text(dev));
            }
        }
        let _ = write!(text, " scope {}", scope_text(address.scope));
    }
    if let Some(metric) = address.metric {
        let _ = write!(text, " metric {metric}");
    }
    if address.valid != FOREVER || address.preferred != FOREVER {
        let seconds = |s: u32| {
            if s == FOREVER {
                "forever".into()
            } else {
                s.to_string()
            }
        };
        let _ = write!(
            text,
            " valid_lft {} preferred_lft {}",
            seconds(address.valid),
            seconds(address.preferred)
        );
    }
    for (bit, word) in [
        (flag::NODAD, "nodad"),
        (0x04, "optimistic"),
        (0x10, "home"),
        (flag::MANAGETEMPADDR, "mngtmpaddr"),
        (flag::NOPREFIXROUTE, "noprefixroute"),
        (0x400, "autojoin"),
    ] {
        if address.flags & bit != 0 {
            text.push(' ');
            text.push_str(word);
        }
    }
    if let Some(number) = address.protocol.filter(|number| *number != 0) {
        unsaid.push(format!(
            "older ip commands cannot set the address's protocol, {number}"
        ));
    }
    text
}

fn neighbour_text(n: &Neighbour) -> String {
    if n.is_proxy() {
        return format!("proxy {} dev {}", n.address, n.dev);
    }
    let mut text = n.address.to_string();
    if let Some(mac) = &n.mac {
        let _ = write!(text, " lladdr {}", lower(mac));
    }
    let _ = write!(text, " dev {}", n.dev);
    let word = match n.state {
        s if s & neighbour::state::PERMANENT != 0 => "permanent",
        s if s & neighbour::state::REACHABLE != 0 => "reachable",
        s if s & neighbour::state::NOARP != 0 => "noarp",
        _ => "stale",
    };
    let _ = write!(text, " nud {word}");
    if n.flags & neighbour::flag::ROUTER != 0 {
        text.push_str(" router");
    }
    if n.flags & neighbour::flag::EXT_LEARNED != 0 {
        text.push_str(" extern_learn");
    }
    text
}

fn route_command(verb: &str, route: &Route, unsaid: &mut Vec<String>) -> String {
    let v6 = route.family() == Family::V6;
    let mut text = format!("ip {}route {verb} ", if v6 { "-6 " } else { "" });
    if let Some(word) = kind_word(route.kind) {
        let _ = write!(text, "{word} ");
    }
    let _ = write!(text, "{}", route.dst);
    if let Some(src) = route.src {
        let _ = write!(text, " from {src}");
    }
    if route.tos != 0 {
        let _ = write!(text, " tos 0x{:02x}", route.tos);
    }
    if let Some(id) = route.nexthop {
        let _ = write!(text, " nhid {id}");
    } else if let [hop] = route.hops.as_slice() {
        hop_text(&mut text, hop, route.family(), unsaid);
    }
    if route.table != table::MAIN {
        let _ = write!(text, " table {}", route.table);
    }
    let _ = write!(text, " proto {}", protocol_text(route.protocol));
    if !v6 {
        let _ = write!(text, " scope {}", scope_text(route.scope));
    }
    if let Some(source) = route.prefsrc {
        let _ = write!(text, " src {source}");
    }
    if route.metric != 0 && !(v6 && route.metric == METRIC_USER_V6 && verb != "del") {
        let _ = write!(text, " metric {}", route.metric);
    }
    metrics_text(&mut text, &route.metrics, unsaid);
    if verb != "del" {
        if let Some(seconds) = route.expires {
            let _ = write!(text, " expires {seconds}");
        }
        if let Some(word) = route.preference.and_then(preference_word) {
            let _ = write!(text, " pref {word}");
        }
    }
    if route.hops.len() > 1 {
        for hop in &route.hops {
            text.push_str(" nexthop");
            hop_text(&mut text, hop, route.family(), unsaid);
            let _ = write!(text, " weight {}", u16::from(hop.weight) + 1);
        }
    }
    unsaid.extend(route.rest.iter().map(|raw| unsaid_attribute("route", raw)));
    text
}

pub(super) fn unsaid_attribute(object: &str, raw: &RawAttribute) -> String {
    format!(
        "not in the command: the {object}'s netlink attribute {} ({} bytes)",
        raw.kind & 0x3fff,
        raw.value.len()
    )
}

fn hop_text(text: &mut String, hop: &Hop, family: Family, unsaid: &mut Vec<String>) {
    if let Some(via) = hop.via {
        // IPv4 by way of an IPv6 neighbour must be said.
        let word = if Family::of(&via) == family { "" } else { "inet6 " };
        let _ = write!(text, " via {word}{via}");
    }
    if let Some(dev) = &hop.dev {
        let _ = write!(text, " dev {dev}");
    }
    if hop.onlink {
        text.push_str(" onlink");
    }
    unsaid.extend(hop.rest.iter().map(|raw| unsaid_attribute("hop", raw)));
}

fn nexthop_text(object: &Nexthop, unsaid: &mut Vec<String>) -> String {
    let mut text = format!("id {}", object.id);
    for (place, member) in object.members.iter().enumerate() {
        text.push_str(if place == 0 { " group " } else { "/" });
        let _ = write!(text, "{}", member.id);
        if member.weight > 0 {
            let _ = write!(text, ",{}", u32::from(member.weight) + 1);
        }
    }
    if let Some(via) = object.via {
        let _ = write!(text, " via {via}");
    }
    if let Some(dev) = &object.dev {
        let _ = write!(text, " dev {dev}");
    }
    if object.onlink {
        text.push_str(" onlink");
    }
    if object.protocol != 0 {
        let _ = write!(text, " proto {}", protocol_text(object.protocol));
    }
    unsaid.extend(object.rest.iter().map(|raw| unsaid_attribute("nexthop", raw)));
    text
}

fn kind_word(number: u8) -> Option<String> {
    Some(match number {
        kind::UNICAST => return None,
        kind::LOCAL => "local".into(),
        kind::BROADCAST => "broadcast".into(),
        kind::ANYCAST => "anycast".into(),
        kind::MULTICAST => "multicast".into(),
        6 => "blackhole".into(),
        7 => "unreachable".into(),
        8 => "prohibit".into(),
        9 => "throw".into(),
        other => other.to_string(),
    })
}

pub(super) fn protocol_text(number: u8) -> String {
    match number {
        protocol::KERNEL => "kernel".into(),
        3 => "boot".into(),
        4 => "static".into(),
        protocol::RA => "ra".into(),
        16 => "dhcp".into(),
        other => other.to_string(),
    }
}

fn preference_word(number: u8) -> Option<&'static str> {
    // RFC 4191, 2.1.
    match number {
        0 => Some("medium"),
        1 => Some("high"),
        3 => Some("low"),
        _ => None,
    }
}

/// `RTAX_*` (include/uapi/linux/rtnetlink.h) in iproute2's words.
fn metrics_text(text: &mut String, metrics: &[RouteMetric], unsaid: &mut Vec<String>) {
    const LOCK: u16 = 1;
    let number = |m: &RouteMetric| m.value.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
    let locked = metrics
        .iter()
        .find(|m| m.kind == LOCK)
        .and_then(number)
        .unwrap_or(0);
    for metric in metrics.iter().filter(|m| m.kind != LOCK) {
        let lock = if locked & 1u32.checked_shl(metric.kind.into()).unwrap_or(0) != 0 {
            "lock "
        } else {
            ""
        };
        let Some(value) = number(metric).filter(|_| metric.kind != 16) else {
            let name = String::from_utf8_lossy(&metric.value)
                .trim_end_matches('\0')
                .to_owned();
            let _ = write!(text, " congctl {lock}{name}");
            continue;
        };
        let word = match metric.kind {
            2 => "mtu",
            3 => "window",
            // The kernel keeps eighths and quarters of a millisecond.
            4 => {
                let _ = write!(text, " rtt {lock}{}ms", value / 8);
                continue;
            }
            5 => {
                let _ = write!(text, " rttvar {lock}{}ms", value / 4);
                continue;
            }
            6 => "ssthresh",
            7 => "cwnd",
            8 => "advmss",
            9 => "reordering",
            10 => "hoplimit",
            11 => "initcwnd",
            12 if value & 1 != 0 => {
                text.push_str(" features ecn");
                continue;
            }
            13 => {
                let _ = write!(text, " rto_min {lock}{value}ms");
                continue;
            }
            14 => "initrwnd",
            15 => "quickack",
            17 => "fastopen_no_cookie",
            other => {
                unsaid.push(format!("not in the command: the route's metric {other}"));
                continue;
            }
        };
        let _ = write!(text, " {word} {lock}{value}");
    }
}

fn rule_command(verb: &str, rule: &Rule, unsaid: &mut Vec<String>) -> String {
    format!(
        "ip {}rule {verb} {}",
        if rule.family == Family::V6 { "-6 " } else { "" },
        rule_text(rule, unsaid)
    )
}
