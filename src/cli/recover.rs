//! `vmbr recover`.

use serde_json::json;

use crate::apply::recover::{is_due, is_unwatched, milliseconds_left};
use crate::plan::Record;
use crate::plan::record::Progress;

use super::args::Args;
use super::change::Place;
use super::outcome::{Error, print, print_json, say};
use super::require_privilege;

/// Runs `vmbr recover`.
pub fn run(args: &Args) -> Result<(), Error> {
    require_privilege()?;
    let mut place = Place::find(args)?;
    let _lock = place.wait_for_lock()?;
    place.refresh(args)?;
    let (due, other): (Vec<Record>, Vec<Record>) = place
        .records()
        .cloned()
        .partition(|record| is_due(record) || is_unwatched(record));
    for record in other.iter().filter(|r| r.progress == Progress::AwaitingConfirm) {
        say(&format!(
            "{} waits for 'vmbr confirm', for {} s more",
            record.bridge.name,
            milliseconds_left(record).div_ceil(1000)
        ));
    }
    let mut failed = None;
    let mut recovered = Vec::new();
    for record in &due {
        let reason = match record.progress {
            Progress::AwaitingConfirm => "nobody watched whether it was confirmed",
            _ => "it was interrupted",
        };
        match place.lead_back(record, reason) {
            Ok(()) => recovered.push(json!({"bridge": record.bridge.name, "uplink": record.uplink.name})),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed.or_else(|| Some(Error::Refused(vec![place.unusable(None)?]))) {
        return Err(error);
    }
    if args.json {
        print_json(&json!({"recovered": recovered}));
    } else if due.is_empty() {
        print("nothing to recover");
    } else {
        due.iter().for_each(|record| {
            print(&record.gone_words());
        });
    }
    Ok(())
}
