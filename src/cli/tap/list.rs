//! `vmbr tap list`.

use serde_json::json;

use super::outcome::{Error, print, print_json};
use super::{Args, Entry, Guards, entry, group, look, user};

/// Runs `vmbr tap list`.
pub fn run(args: &Args) -> Result<(), Error> {
    let guards = Guards::open();
    let taps: Vec<Entry> = look()?
        .links
        .iter()
        .filter_map(|link| entry(link, &guards))
        .collect();
    if args.json {
        print_json(&json!({"taps": taps}));
    } else if taps.is_empty() {
        print("No TAP. To make one: vmbr tap add NAME.");
    } else {
        print(&table(&taps));
    }
    Ok(())
}

fn table(taps: &[Entry]) -> String {
    let heading = ["NAME", "BRIDGE", "OWNER", "GROUP", "QUEUES", "MTU", "NOTES"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(heading).chain(taps.iter().map(cells)).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells(tap: &Entry) -> [String; 7] {
    let none = || "-".to_owned();
    let mut notes = Vec::new();
    if tap.in_use {
        notes.push("in use".to_owned());
    }
    if !tap.persistent {
        notes.push("goes with its program".to_owned());
    }
    if tap.isolated {
        notes.push("isolated".to_owned());
    }
    if let Some(guard) = &tap.guard {
        notes.push(format!("guarded: {}", guard.words()));
    }
    [
        tap.name.to_string(),
        tap.bridge.as_ref().map_or_else(none, ToString::to_string),
        tap.owner.map_or_else(none, user),
        tap.group.map_or_else(none, group),
        tap.queues.to_string(),
        tap.mtu.to_string(),
        notes.join(", "),
    ]
}
