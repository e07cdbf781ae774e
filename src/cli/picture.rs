//! The picture of a bridge in text: one look says how a packet travels.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use super::status::{Bridge, Guest, GuestTraffic, Lease, Port};
use super::translation::{self, Translation, lower};

/// Draws a bridge: the network above, the host's stack beside, guests below.
pub fn draw(bridge: &Bridge) -> String {
    let mut text = String::new();
    if let Some(translation) = &bridge.translation {
        return draw_translated(bridge, translation);
    }
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
    let maker = maker(bridge);
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
    lines.extend(bridge.lease.as_ref().map(lease));
    let guests: Vec<&Port> = bridge.ports.iter().filter(|port| port.kind != "uplink").collect();
    draw_box(&mut text, &lines, uplink.is_some(), !guests.is_empty());
    draw_guests(&mut text, &guests, bridge.ports_left);
    text
}

/// Draws a box, with a stem above and below where there is something.
fn draw_box(text: &mut String, lines: &[String], above: bool, below: bool) {
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
    let edge = |place: usize, mark: char| -> String {
        (0..width)
            .map(|at| if at == place { mark } else { '─' })
            .collect()
    };
    let _ = writeln!(text, "  ┌{}┐", edge(8, if above { '┴' } else { '─' }));
    for line in lines {
        let fill = width - 1 - line.chars().count();
        let _ = writeln!(text, "  │ {line}{}│", " ".repeat(fill));
    }
    let _ = writeln!(text, "  └{}┘", edge(8, if below { '┬' } else { '─' }));
}

fn draw_guests(text: &mut String, guests: &[&Port], ports_left: usize) {
    for (place, port) in guests.iter().enumerate() {
        draw_port(text, port, place + 1 == guests.len());
    }
    if guests.is_empty() {
        text.push_str("      no guests\n");
    }
    let _ = write!(text, "  room for {} more ports", ports_left);
}

/// Who made a bridge, and how it stands.
fn maker(bridge: &Bridge) -> String {
    match (bridge.managed, bridge.state) {
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
    }
}

/// Draws a bridge whose uplink is no port of it: what a guest sends goes by the
/// air port to the uplink, with the uplink's MAC; the host stands beside.
fn draw_translated(bridge: &Bridge, translation: &Translation) -> String {
    let mut text = String::new();
    let name = bridge.uplink.as_ref().map_or("?", |name| name.as_str());
    let mac = bridge
        .mac
        .map_or_else(String::new, |mac| format!("  {}", lower(mac)));
    let state = match bridge.uplink_state {
        Some("gone") => "GONE: guests reach each other; with the NIC back: vmbr sync",
        Some("down") => "down: guests reach each other, and this host's addresses that are left",
        Some("no-carrier") => "no carrier: guests reach each other, and this host's addresses that are left",
        _ => "up",
    };
    let sums = bridge.uplink_traffic.map_or_else(String::new, traffic_of);
    text.push_str("      the network\n           │\n");
    let _ = writeln!(text, "  {name}{mac} (uplink, {state}){sums}");
    let beside = |text: &mut String, word: &str, place: usize, what: &str| {
        let (branch, word) = if place == 0 { ('├', word) } else { ('│', "") };
        let line = if place == 0 { '─' } else { ' ' };
        let _ = writeln!(text, "           {branch}{line} {word:<10} {what}");
    };
    for (place, address) in bridge.addresses.iter().enumerate() {
        beside(&mut text, "this host:", place, address);
    }
    for (place, gateway) in bridge.gateways.iter().enumerate() {
        beside(&mut text, "gateway:", place, &gateway.to_string());
    }
    let works = match translation.programs {
        "attached" => "mac-nat: the guests' MACs become the uplink's here, and back",
        "stale" => "mac-nat, OUT OF DATE: what the host has now is not what the programs know: vmbr sync",
        "unknown" => "mac-nat: whether it works only root may know",
        // With the uplink its programs are gone.
        _ if bridge.uplink_state == Some("gone") => "mac-nat",
        _ => "MAC-NAT DOES NOT WORK, guests reach no network: vmbr doctor --fix",
    };
    let _ = writeln!(text, "           │\n           ╎  {works}");
    for (word, count) in &translation.counters {
        let _ = writeln!(
            text,
            "           ╎  {count} frames: {}",
            translation::reason(word)
        );
    }
    text.push_str("           │\n");
    let air = bridge.ports.iter().find(|port| port.kind == "air");
    match air {
        Some(port) => {
            let _ = writeln!(text, "  {} (air, {})", port.name, port.state);
        }
        None => text.push_str("  NO AIR PORT, guests reach no network: vmbr doctor --fix\n"),
    }
    text.push_str("           │\n");
    let head = format!("{}  mtu {}  {}", bridge.name, bridge.mtu, maker(bridge));
    let guests: Vec<&Port> = bridge.ports.iter().filter(|port| port.kind != "air").collect();
    draw_box(&mut text, &[head], true, !guests.is_empty());
    draw_guests(&mut text, &guests, bridge.ports_left);
    text
}

fn lease(lease: &Lease) -> String {
    let address = lease
        .address
        .map_or("none any more".to_owned(), |address| address.to_string());
    let server = lease
        .server
        .map_or(String::new(), |server| format!(" from {server}"));
    let end = lease.ends.map_or(String::new(), |ends| {
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(ends));
        format!(" until {time}")
    });
    let who = match lease.process {
        Some(process) => format!("{} by vmbr's lease keeper (process {process})", lease.state),
        None => "NOBODY RENEWS IT: vmbr doctor --fix".to_owned(),
    };
    format!("lease:     {address}{server}{end}, {who}")
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
        let addresses: Vec<String> = guest
            .addresses
            .iter()
            .map(|address| told(guest, address))
            .collect();
        // The host does not listen to what is not for it.
        let addresses = match addresses.as_slice() {
            [] => "address not known: this host has heard none".to_owned(),
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

/// An address of a guest, with what the translation knows of it.
fn told(guest: &Guest, address: &IpAddr) -> String {
    let learned = guest.learned.iter().find(|learned| learned.address == *address);
    match learned {
        Some(learned) if learned.pinned => format!("{address} (pinned)"),
        Some(learned) if learned.age_seconds >= 60 => {
            format!("{address} (heard {} min ago)", learned.age_seconds / 60)
        }
        _ => address.to_string(),
    }
}

fn traffic(port: &Port) -> String {
    traffic_of(port.traffic)
}

fn traffic_of(traffic: GuestTraffic) -> String {
    format!(
        "  in {}, out {}",
        bytes(traffic.sent_bytes),
        bytes(traffic.received_bytes)
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
