//! The picture of a bridge in text: one look says how a packet travels.

use std::fmt::Write;

use super::status::{Bridge, Port};

/// Draws a bridge: the network above, the host's stack beside, guests below.
pub fn draw(bridge: &Bridge) -> String {
    let mut text = String::new();
    let uplink = bridge.ports.iter().find(|port| port.kind == "uplink");
    match uplink {
        Some(port) => {
            text.push_str("      the network\n           │\n");
            let _ = writeln!(text, "  {} (uplink, {}){}", port.name, port.state, traffic(port));
            text.push_str("           │\n");
        }
        None => text.push_str("      (no uplink: guests and host reach each other only)\n\n"),
    }
    let mac = bridge
        .mac
        .map_or_else(String::new, |mac| format!("  {}", mac.to_string().to_lowercase()));
    let maker = match (bridge.managed, bridge.state) {
        (false, _) => "not made by vmbr".to_owned(),
        (true, "interrupted") => {
            "INTERRUPTED: a change did not end; 'vmbr recover' puts the host back".to_owned()
        }
        (true, "awaiting-confirm") => format!(
            "made by vmbr, goes in {} s unless: vmbr confirm {}",
            bridge.confirm_seconds_left.unwrap_or(0),
            bridge.name
        ),
        (true, state) => format!("made by vmbr, {state}"),
    };
    let mut lines = vec![format!("{}{mac}  mtu {}  {maker}", bridge.name, bridge.mtu)];
    if bridge.addresses.is_empty() {
        lines.push("this host: no address here".to_owned());
    }
    for (place, address) in bridge.addresses.iter().enumerate() {
        lines.push(format!(
            "{} {address}",
            if place == 0 { "this host:" } else { "          " }
        ));
    }
    for (place, gateway) in bridge.gateways.iter().enumerate() {
        lines.push(format!(
            "{} {gateway}",
            if place == 0 { "gateway:  " } else { "          " }
        ));
    }
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
    let edge = |place: usize, mark: char| -> String {
        (0..width)
            .map(|at| if at == place { mark } else { '─' })
            .collect()
    };
    let above = if uplink.is_some() { '┴' } else { '─' };
    let _ = writeln!(text, "  ┌{}┐", edge(8, above));
    for line in &lines {
        let fill = width - 1 - line.chars().count();
        let _ = writeln!(text, "  │ {line}{}│", " ".repeat(fill));
    }
    let guests: Vec<&Port> = bridge.ports.iter().filter(|port| port.kind != "uplink").collect();
    let below = if guests.is_empty() { '─' } else { '┬' };
    let _ = writeln!(text, "  └{}┘", edge(8, below));
    for (place, port) in guests.iter().enumerate() {
        draw_port(&mut text, port, place + 1 == guests.len());
    }
    if guests.is_empty() {
        text.push_str("      no guests\n");
    }
    let _ = write!(text, "  room for {} more ports", bridge.ports_left);
    text
}

fn draw_port(text: &mut String, port: &Port, last: bool) {
    let (branch, stem) = if last { ('└', ' ') } else { ('├', '│') };
    let owner = match port.owner {
        Some(uid) => format!(", owner {}", user(uid)),
        None => String::new(),
    };
    let queues = match port.queues {
        Some(queues) if queues != 1 => format!(", {queues} queues"),
        _ => String::new(),
    };
    let isolated = if port.isolated { ", isolated" } else { "" };
    let _ = writeln!(
        text,
        "           {branch}─ {} ({}, {}{owner}{queues}{isolated}){}",
        port.name,
        port.kind,
        port.state,
        traffic(port)
    );
    if let Some(guard) = &port.guard {
        let _ = writeln!(text, "           {stem}    may speak only as {}", guard.words());
    }
    for guest in &port.guests {
        let mac = guest
            .mac
            .map_or_else(String::new, |mac| mac.to_string().to_lowercase());
        let addresses: Vec<String> = guest.addresses.iter().map(ToString::to_string).collect();
        // The host does not listen to what is not for it.
        let addresses = match addresses.as_slice() {
            [] => "address not known: it has not spoken to this host".to_owned(),
            some => some.join("  "),
        };
        let _ = writeln!(text, "           {stem}    guest {mac}  {addresses}");
    }
    if port.guests.is_empty() {
        let why = match port.in_use {
            Some(true) => "nothing was heard of its guest lately",
            Some(false) => "no guest holds it",
            None => return,
        };
        let _ = writeln!(text, "           {stem}    {why}");
    }
}

fn user(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

fn traffic(port: &Port) -> String {
    format!(
        "  in {}, out {}",
        bytes(port.traffic.sent_bytes),
        bytes(port.traffic.received_bytes)
    )
}

/// Bytes in the unit that keeps the number short.
fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500), "1.5 kB");
        assert_eq!(bytes(u64::MAX), "18446744.1 TB");
    }
}
