//! `vmbr up --confirm`: what nobody confirms is taken back, whoever dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/crash.rs"]
mod crash;
#[path = "common/host.rs"]
mod host;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::wait_until;
use crash::{LIMIT, ORDINARY, PATIENCE, Victim, Whole};

/// A host, and a `vmbr up --confirm` that waits on it.
struct Waiting {
    victim: Victim,
    up: Child,
    deadline: Instant,
}

impl Waiting {
    fn new(hint: &str, seconds: u64) -> Self {
        let victim = Victim::new(hint, ORDINARY);
        let mut command = victim
            .host
            .command(&["up", "eth0", &format!("--confirm={seconds}")]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let up = command.spawn().unwrap();
        let waits = wait_until(PATIENCE, || state(&victim).as_deref() == Some("awaiting-confirm"));
        assert!(waits, "up does not wait: {:?}", status(&victim));
        // A deadline that is taken too late errs on the patient side.
        let deadline = Instant::now() + Duration::from_secs(seconds);
        Self { victim, up, deadline }
    }

    /// The watchdogs: what runs beside the command.
    fn watchdogs(&self) -> Vec<i32> {
        let up = i32::try_from(self.up.id()).unwrap();
        self.victim.alive().into_iter().filter(|pid| *pid != up).collect()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.up.id()).unwrap()), signal).unwrap();
    }

    /// Waits for the end of `up`, and gives its status and what it said.
    fn end(self) -> (Victim, i32, String) {
        let output = self.up.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (self.victim, output.status.code().unwrap_or(-1), said)
    }

    /// Nobody confirms: at the deadline the NIC has its network back.
    fn rolled_back(&self) {
        let patience = self.deadline.saturating_duration_since(Instant::now()) + LIMIT;
        let back = wait_until(patience, || self.victim.host.ns.link("br0").is_none());
        assert!(back, "still there: {:?}", status(&self.victim));
    }
}

fn status(victim: &Victim) -> Value {
    serde_json::from_str(&victim.host.vmbr(&["status", "--json"]).ok()).unwrap()
}

/// The state that `status` gives br0.
fn state(victim: &Victim) -> Option<String> {
    let document = status(victim);
    let bridges = document["bridges"].as_array()?;
    let bridge = bridges.iter().find(|bridge| bridge["name"] == "br0")?;
    bridge["state"].as_str().map(str::to_owned)
}

#[test]
fn confirmed_by_another_process() {
    let waiting = Waiting::new("confirmed", 20);
    let left = status(&waiting.victim)["bridges"][0]["confirm_seconds_left"].as_u64();
    assert!(left.is_some_and(|left| (1..=20).contains(&left)), "{left:?}");
    waiting.victim.vmbr(&["confirm"], &[0]).unwrap();
    let (victim, code, said) = waiting.end();
    assert_eq!(code, 0, "{said}");
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));
    assert_eq!(state(&victim).as_deref(), Some("settled"));
    // Nothing is pending any more, and that is no error.
    victim.vmbr(&["confirm"], &[0]).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

#[test]
fn not_confirmed_it_is_taken_back() {
    let waiting = Waiting::new("not-confirmed", 2);
    waiting.rolled_back();
    let (victim, code, said) = waiting.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("confirm"), "{said}");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
    let document = status(&victim);
    let rollback = &document["rollbacks"][0];
    assert_eq!(
        (&rollback["bridge"], &rollback["uplink"]),
        (&"br0".into(), &"eth0".into()),
        "{document}"
    );
    assert!(
        rollback["reason"].as_str().unwrap().contains("confirm"),
        "{document}"
    );
    // Too late: there is nothing to confirm, and nothing comes of it.
    victim.vmbr(&["confirm"], &[0, 3]).unwrap();
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
    victim.bring_to(Whole::Bridge).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

/// The connection is lost, and the command with it: the deadline stays, and a
/// new connection can confirm.
#[test]
fn the_command_is_killed_while_it_waits() {
    for confirm in [true, false] {
        let mut waiting = Waiting::new("waiter-killed", 4);
        waiting.up.kill().unwrap();
        waiting.up.wait().unwrap();
        std::thread::sleep(LIMIT);
        assert_eq!(state(&waiting.victim).as_deref(), Some("awaiting-confirm"));
        if confirm {
            waiting.victim.vmbr(&["confirm", "br0"], &[0]).unwrap();
            let gone = wait_until(LIMIT, || waiting.victim.alive().is_empty());
            assert!(gone, "{:?}", waiting.victim.alive());
            std::thread::sleep(waiting.deadline.saturating_duration_since(Instant::now()) + LIMIT);
            assert_eq!(waiting.victim.is_back(), Ok(Whole::Bridge));
        } else {
            waiting.rolled_back();
            assert!(wait_until(LIMIT, || waiting.victim.alive().is_empty()));
            assert_eq!(waiting.victim.is_back(), Ok(Whole::Nic));
        }
    }
}

/// A command that is stopped holds nothing up.
#[test]
fn the_command_is_stopped_past_the_deadline() {
    let waiting = Waiting::new("waiter-stopped", 2);
    waiting.signal(Signal::SIGSTOP);
    waiting.rolled_back();
    waiting.signal(Signal::SIGCONT);
    let (victim, code, said) = waiting.end();
    assert_eq!(code, 1, "{said}");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

#[test]
fn command_and_watchdog_are_killed_while_it_waits() {
    let mut waiting = Waiting::new("both-killed", 30);
    let watchdogs = waiting.watchdogs();
    assert!(!watchdogs.is_empty(), "no watchdog holds the deadline");
    for pid in watchdogs {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    waiting.up.kill().unwrap();
    waiting.up.wait().unwrap();
    waiting.victim.vmbr(&["recover"], &[0]).unwrap();
    assert_eq!(waiting.victim.is_back(), Ok(Whole::Nic));
    waiting.victim.vmbr(&["recover"], &[0]).unwrap();
}

/// Who has second thoughts goes down; who is impatient and goes up again
/// changes nothing.
#[test]
fn other_commands_while_it_waits() {
    let waiting = Waiting::new("second-up", 20);
    let second = waiting.victim.vmbr(&["up", "eth0"], &[0, 3]).unwrap();
    let said = format!("{}{}", second.stdout, second.stderr);
    assert!(said.contains("confirm"), "{said}");
    assert_eq!(state(&waiting.victim).as_deref(), Some("awaiting-confirm"));
    waiting.victim.vmbr(&["recover"], &[0, 3]).unwrap();
    assert_eq!(state(&waiting.victim).as_deref(), Some("awaiting-confirm"));

    let down = waiting.victim.vmbr(&["down", "br0"], &[0, 3]).unwrap();
    if down.code() == 3 {
        assert!(down.stderr.contains("confirm"), "{down:?}");
        waiting.victim.vmbr(&["confirm"], &[0]).unwrap();
    }
    let (victim, _, said) = waiting.end();
    victim
        .bring_to(Whole::Nic)
        .unwrap_or_else(|why| panic!("{why}; {said}"));
}
