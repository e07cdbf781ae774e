//! Signals and closed terminals end a change whole: done, undone, or not begun.
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
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use common::strike::Moment;
use common::wait_until;
use crash::{ORDINARY, PATIENCE, VMBR, Victim, Whole};

const UP: &[&str] = &["up", "eth0"];
const DOWN: &[&str] = &["down", "br0"];

/// Waits for a child that may stop itself, and wakes it where it does.
fn wait_for(pid: Pid) -> Result<WaitStatus, String> {
    let begun = Instant::now();
    let options = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
    while begun.elapsed() < PATIENCE {
        match waitpid(pid, Some(options)).unwrap() {
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(2)),
            WaitStatus::Stopped(..) => kill(pid, Signal::SIGCONT).unwrap(),
            end => return Ok(end),
        }
    }
    Err("it does not end".into())
}

/// Sends a signal at the changes of `vmbr ARGS`, one in `stride`.
fn at_each_stage(signal: Signal, stride: usize) {
    let _alone = crash::alone();
    let victim = Victim::new(&format!("{signal}").to_lowercase(), ORDINARY);
    let mut failures = Vec::new();
    for (args, begin) in [(UP, Whole::Nic), (DOWN, Whole::Bridge)] {
        victim.bring_to(begin).unwrap();
        let calls = victim.changes_of(args);
        for nth in (1..calls.len()).step_by(stride) {
            victim.bring_to(begin).unwrap();
            let mut tracee = victim.start(args);
            if tracee.go_to(nth, Moment::Before).is_none() {
                continue;
            }
            let pid = tracee.release(Some(signal));
            let ended = wait_for(pid);
            let outcome = match &ended {
                Ok(_) => victim.comes_back(Instant::now()).map(|_| ()),
                Err(why) => Err(why.clone()),
            };
            if let Err(why) = outcome {
                failures.push(format!(
                    "{} {signal} at change {nth} ({}): {ended:?}: {why}; {}",
                    args[0],
                    calls[nth - 1],
                    victim.said()
                ));
                victim.bring_to(Whole::Nic).unwrap();
                victim.bring_to(begin).unwrap();
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn sighup_at_each_stage() {
    at_each_stage(Signal::SIGHUP, 9);
}

#[test]
fn sigterm_at_each_stage() {
    at_each_stage(Signal::SIGTERM, 11);
}

#[test]
fn sigint_at_each_stage() {
    at_each_stage(Signal::SIGINT, 13);
}

#[test]
fn sigtstp_at_each_stage() {
    at_each_stage(Signal::SIGTSTP, 13);
}

#[test]
#[ignore = "each signal at every change, five minutes"]
fn each_signal_at_every_change() {
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        at_each_stage(signal, 1);
    }
}

/// `vmbr ARGS` on a terminal of its own. Killing the child closes it.
fn on_a_terminal(victim: &Victim, args: &[&str]) -> Child {
    let records = victim.host.records().display();
    let line = format!("exec {VMBR} --state-dir {records} {}", args.join(" "));
    let mut command = victim.host.ns.command("script");
    command.args(["-qec", &line, "/dev/null"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// "An SSH drop kills the script halfway" (baremetal-deploy #108): the terminal
/// goes away at any time, and the host is whole at once.
#[test]
fn the_terminal_goes_away() {
    let _alone = crash::alone();
    let victim = Victim::new("terminal", ORDINARY);
    for (args, begin) in [(UP, Whole::Nic), (DOWN, Whole::Bridge)] {
        for milliseconds in [0, 5, 15, 30, 60, 100, 150] {
            victim.bring_to(begin).unwrap();
            let mut terminal = on_a_terminal(&victim, args);
            let started = wait_until(PATIENCE, || !victim.alive().is_empty());
            assert!(started, "{args:?} does not start");
            std::thread::sleep(Duration::from_millis(milliseconds));
            terminal.kill().unwrap();
            terminal.wait().unwrap();
            // It may complete what it has begun.
            let idle = wait_until(PATIENCE, || victim.alive().is_empty());
            assert!(idle, "{args:?} still runs: {:?}", victim.alive());
            let outcome = victim.comes_back(Instant::now());
            assert!(
                outcome.is_ok(),
                "{args:?} cut off after {milliseconds} ms: {outcome:?}"
            );
        }
    }
    victim.bring_to(Whole::Nic).unwrap();
}
