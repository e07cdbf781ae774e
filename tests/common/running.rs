//! `vmbr` as a process that runs, or is held, on a victim.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::strike::{Moment, Tracee};
use crate::common::wait_until;
use crate::crash::{PATIENCE, VMBR, Victim};

/// A `vmbr` that runs, killed at the end.
pub struct Running(pub Child);

impl Running {
    /// Starts it, with nothing on its descriptors.
    pub fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Kills it, and says when.
    pub fn kill(mut self) -> Instant {
        let at = Instant::now();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        at
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The state that `status` gives a bridge.
pub fn state_of(victim: &Victim, bridge: &str) -> Option<String> {
    let document: Value = serde_json::from_str(&victim.host.vmbr(&["status", "--json"]).ok()).unwrap();
    let bridges = document["bridges"].as_array()?;
    let bridge = bridges.iter().find(|found| found["name"] == bridge)?;
    bridge["state"].as_str().map(str::to_owned)
}

/// Waits for it.
pub fn await_state(victim: &Victim, bridge: &str, state: &str) {
    let reached = wait_until(PATIENCE, || state_of(victim, bridge).as_deref() == Some(state));
    assert!(reached, "{bridge} is not {state}: {:?}", state_of(victim, bridge));
}

/// Asserts that a bridge goes in time.
pub fn assert_gone(victim: &Victim, bridge: &str, patience: Duration) {
    let gone = wait_until(patience, || victim.host.ns.link(bridge).is_none());
    assert!(gone, "{bridge} is still there: {:?}", victim.records());
}

/// The arguments of `sh` that become `vmbr ARGS` after a line of shell, with
/// the records in the usual place.
pub fn after(victim: &Victim, line: &str, args: &[&str]) -> Vec<String> {
    let records = victim.host.records().to_str().unwrap();
    let before = ["-c", line, "bash", VMBR, "--state-dir", records];
    before.iter().chain(args).map(|word| (*word).to_owned()).collect()
}

/// `vmbr ARGS` after a line of shell, held before its first instruction.
pub fn held(victim: &Victim, line: &str, args: &[&str]) -> Tracee {
    let words = after(victim, line, args);
    let mut all = vec!["bash"];
    all.extend(words.iter().map(String::as_str));
    Tracee::start(&victim.host.ns, &victim.host.records().join("said"), &all)
}

/// Goes on to the next change of this kind.
pub fn go_on_to(tracee: &mut Tracee, kind: &str, moment: Moment) {
    loop {
        let call = tracee.next_change().unwrap_or_else(|| panic!("no {kind}"));
        if call.starts_with(kind) {
            break;
        }
    }
    if moment == Moment::After {
        tracee.end_of_call().unwrap();
    }
}
