//! `vmbr watchdog`, which only vmbr itself runs.

use crate::apply::watchdog::duty::{Duty, serve};
use crate::plan::Record;
use crate::plan::record::Process;

use super::args::{Args, Watchdog};
use super::change::Place;
use super::doctor;
use super::outcome::Error;
use super::require_privilege;

/// Runs the watchdog.
pub fn run(watchdog: &Watchdog, args: &Args) -> Result<(), Error> {
    require_privilege()?;
    let duty = Duty {
        parent: Process {
            pid: watchdog.parent,
            started: watchdog.started,
        },
        ready: watchdog.ready,
        state_dir: args.state_dir.clone(),
        bridge: watchdog.bridge.clone(),
    };
    let led_back = |record: &Record| {
        if let Ok(place) = Place::find(args) {
            doctor::undo_led_back(&place, record);
        }
    };
    serve(&duty, &led_back).map_err(|error| Error::Failed {
        message: format!("the watchdog cannot serve: {error}"),
        remedy: "it is started by 'vmbr up' and 'vmbr down', not by people".into(),
    })
}
