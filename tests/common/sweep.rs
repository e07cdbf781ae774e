//! What the sweeps over every call that changes something have in common: the
//! moments to strike, and what was found.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fmt::Write as _;
use std::time::Duration;

use crate::common::strike::Moment;
use crate::crash::{Point, Whole};

/// What a sweep has found.
#[derive(Default)]
pub struct Summary {
    blows: usize,
    missed: usize,
    failures: Vec<String>,
    slowest: Duration,
    to_nic: usize,
    to_bridge: usize,
}

impl Summary {
    /// Takes what became of one blow in; false where the host did not come back.
    pub fn record(&mut self, what: &str, outcome: Result<Option<(Whole, Duration)>, String>) -> bool {
        match outcome {
            Ok(None) => self.missed += 1,
            Ok(Some((whole, taken))) => {
                self.blows += 1;
                self.slowest = self.slowest.max(taken);
                match whole {
                    Whole::Nic => self.to_nic += 1,
                    Whole::Bridge => self.to_bridge += 1,
                }
            }
            Err(why) => {
                self.blows += 1;
                self.failures.push(format!("{what}: {why}"));
                return false;
            }
        }
        true
    }

    /// Prints it, keeps it in target/ for whoever asks later, and fails where
    /// anything failed.
    pub fn conclude(self, name: &str) {
        let line = format!(
            "sweep {name}: {} blows, {} failures; {} ended on the NIC, {} on the bridge; {} not reached; \
             reachable again after {} ms at most",
            self.blows,
            self.failures.len(),
            self.to_nic,
            self.to_bridge,
            self.missed,
            self.slowest.as_millis()
        );
        println!("{line}");
        let mut text = line.clone();
        for failure in &self.failures {
            let _ = write!(text, "\n  {failure}");
        }
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/sweep-{name}.txt"));
        std::fs::write(&file, format!("{text}\n")).unwrap();
        assert!(self.blows > self.missed, "{line}");
        assert!(self.failures.is_empty(), "{text}");
    }
}

/// The moments to strike: with `stride` 1 all of them; else every `stride`th,
/// and always those that matter most.
pub fn moments(calls: &[String], stride: usize) -> Vec<Point> {
    let vital = |call: &str| {
        ["flip", "set link", "delete link", "rename"]
            .iter()
            .any(|v| call.contains(v))
    };
    let mut all = Vec::new();
    for (place, call) in calls.iter().enumerate() {
        for (side, moment) in [Moment::Before, Moment::After].into_iter().enumerate() {
            // Nothing comes after the end.
            let possible = moment == Moment::Before || call != "exit_group";
            if possible && ((2 * place + side) % stride == 0 || (vital(call) && side == place % 2)) {
                all.push(Point {
                    nth: place + 1,
                    moment,
                });
            }
        }
    }
    all
}
