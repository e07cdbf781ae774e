//! A rule in the words of `ip rule`.

use std::fmt::Write;
use std::net::IpAddr;

use crate::model::{RawAttribute, Rule};

use super::command::{protocol_text, unsaid_attribute};

/// A rule in the words of `ip rule`; what it has no word for goes to `unsaid`.
pub fn rule_text(rule: &Rule, unsaid: &mut Vec<String>) -> String {
    let mut text = String::new();
    // FIB_RULE_INVERT
    if rule.header.flags & 2 != 0 {
        text.push_str("not ");
    }
    let number = |raw: &RawAttribute| {
        raw.value
            .first_chunk::<4>()
            .map(|b| u32::from_ne_bytes(*b))
            .unwrap_or(0)
    };
    let short = |raw: &RawAttribute, at: usize| {
        raw.value
            .get(at..at + 2)
            .and_then(|b| b.first_chunk::<2>())
            .map_or(0, |b| u16::from_ne_bytes(*b))
    };
    let find = |kind: u16| rule.rest.iter().find(|raw| raw.kind == kind);
    let block = |raw: Option<&RawAttribute>, len: u8| match raw.and_then(|raw| ip_of(&raw.value)) {
        Some(ip) => format!("{ip}/{len}"),
        None => "all".to_owned(),
    };
    let _ = write!(
        text,
        "from {} to {}",
        block(find(2), rule.header.src_len),
        block(find(1), rule.header.dst_len)
    );
    let _ = write!(text, " priority {}", rule.priority);
    if let Some(name) = &rule.iif {
        let _ = write!(text, " iif {name}");
    }
    if let Some(name) = &rule.oif {
        let _ = write!(text, " oif {name}");
    }
    if rule.header.tos != 0 {
        let _ = write!(text, " tos 0x{:02x}", rule.header.tos);
    }
    let mut number_of_table = u32::from(rule.header.table);
    for raw in &rule.rest {
        // FRA_* of include/uapi/linux/fib_rules.h.
        match raw.kind {
            1 | 2 | 4 | 16 => {}
            10 => {
                let mask = find(16).map_or(u32::MAX, number);
                let _ = write!(text, " fwmark 0x{:x}/0x{mask:x}", number(raw));
            }
            13 if number(raw) == u32::MAX => {}
            14 if number(raw) == u32::MAX => {}
            13 => {
                let _ = write!(text, " suppress_ifgroup {}", number(raw));
            }
            14 => {
                let _ = write!(text, " suppress_prefixlength {}", number(raw));
            }
            15 => number_of_table = number(raw),
            19 => {
                if raw.value.first() == Some(&1) {
                    text.push_str(" l3mdev");
                }
            }
            20 => {
                let end = raw.value.get(4..8).and_then(|b| b.first_chunk::<4>());
                let end = end.map_or(u32::MAX, |b| u32::from_ne_bytes(*b));
                let _ = write!(text, " uidrange {}-{end}", number(raw));
            }
            21 => {
                if let Some(number) = raw.value.first().filter(|number| **number != 0) {
                    let _ = write!(text, " protocol {}", protocol_text(*number));
                }
            }
            22 => {
                let _ = write!(text, " ipproto {}", raw.value.first().copied().unwrap_or(0));
            }
            23 => {
                let _ = write!(text, " sport {}-{}", short(raw, 0), short(raw, 2));
            }
            24 => {
                let _ = write!(text, " dport {}-{}", short(raw, 0), short(raw, 2));
            }
            _ => unsaid.push(unsaid_attribute("rule", raw)),
        }
    }
    match rule.header.action {
        1 => {
            let _ = write!(text, " table {number_of_table}");
        }
        2 => {
            let _ = write!(text, " goto {}", find(4).map_or(0, number));
        }
        3 => text.push_str(" nop"),
        6 => text.push_str(" type blackhole"),
        7 => text.push_str(" type unreachable"),
        8 => text.push_str(" type prohibit"),
        other => unsaid.push(format!("not in the command: the rule's action {other}")),
    }
    text
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        16 => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}
