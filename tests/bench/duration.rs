//! How long the commands themselves take, on a host without traffic.

use std::time::Instant;

use crate::lab::{Lab, Migration, Outcome, Programs, migrations};
use crate::report::{Key, Report};

/// Times each way up and down, the contestants in turn.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    for _ in 0..runs {
        let contestants = migrations(programs).into_iter().chain([Migration::Unasked]);
        for migration in contestants.filter(|migration| *migration != Migration::Control) {
            let lab = Lab::new(programs, migration)?;
            let mut add = |metric, began: Instant| {
                let contestant = migration.name();
                let key = Key {
                    part: "time",
                    case: "of the commands".into(),
                    contestant,
                    metric,
                };
                report.add(key, began.elapsed().as_secs_f64() * 1e3);
            };
            let began = Instant::now();
            lab.up()?;
            add("up ms", began);
            let began = Instant::now();
            lab.down()?;
            add("down ms", began);
        }
    }
    Ok(())
}
