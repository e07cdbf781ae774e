//! `vmbr` is killed right before and right after every system call that changes
//! the kernel or the disk, and the host comes back.
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
#[path = "common/sweep.rs"]
mod sweep;

use std::time::{Duration, Instant};

use common::strike::{Moment, Tracee};
use common::wait_until;
use crash::{HOSTILE, LIMIT, ORDINARY, Point, Victim, Whole};
use sweep::{Summary, moments};

/// What happens after the blow.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Nobody does anything: the watchdog is enough.
    Untouched,
    /// The watchdog is killed first; then this command is run.
    Alone(&'static [&'static str]),
    /// The watchdog is killed in the middle of its own work, at this one of
    /// its changes; then this command is run.
    Amid(usize, Moment, &'static [&'static str]),
    /// The watchdog is killed first, and so is a first `recover`, at this one
    /// of its changes; a second one mends.
    TwiceRecovered(usize, Moment),
}

/// The commands that mend what was left alone.
const RECOVER: &[&str] = &["recover"];
const DOWN: &[&str] = &["down", "br0"];
const UP: &[&str] = &["up", "eth0"];

/// What is swept: a command, and the state it begins in.
const COMMANDS: [(&[&str], Whole); 2] = [(UP, Whole::Nic), (DOWN, Whole::Bridge)];

/// How long a host serves before another takes its place.
const FRESH: Duration = Duration::from_secs(40);

/// Strikes `vmbr ARGS` once and looks what becomes of the host. None where the
/// command, or what was to be struck next, had ended before.
fn strike(
    victim: &Victim,
    args: &[&str],
    point: Point,
    then: Then,
) -> Result<Option<(Whole, Duration)>, String> {
    let mut tracee = victim.start(args);
    if tracee.go_to(point.nth, point.moment).is_none() {
        return victim.is_back().map(|_| None);
    }
    match then {
        Then::Untouched => {
            let at = tracee.kill();
            victim.comes_back(at).map(Some)
        }
        Then::Alone(mend) => {
            kill_both(victim, tracee);
            mended(victim, mend).map(Some)
        }
        Then::Amid(nth, moment, mend) => {
            let me = tracee.pid();
            let Some(watchdog) = victim.alive().into_iter().find(|pid| *pid != me) else {
                kill_both(victim, tracee);
                return victim.is_back().map(|_| None);
            };
            let mut watchdog = Tracee::attach(watchdog);
            tracee.kill();
            let reached = watchdog.go_to(nth, moment).is_some();
            if reached {
                watchdog.kill();
            }
            mended(victim, mend).map(|result| reached.then_some(result))
        }
        Then::TwiceRecovered(nth, moment) => {
            kill_both(victim, tracee);
            let mut first = victim.start(RECOVER);
            let reached = first.go_to(nth, moment).is_some();
            if reached {
                kill_both(victim, first);
            }
            mended(victim, RECOVER).map(|result| reached.then_some(result))
        }
    }
}

/// Runs the command that mends, and looks.
fn mended(victim: &Victim, mend: &[&str]) -> Result<(Whole, Duration), String> {
    let begun = Instant::now();
    victim.vmbr(mend, &[0])?;
    let taken = begun.elapsed();
    let whole = victim.is_back()?;
    let other = match mend[0] {
        "up" => whole != Whole::Bridge,
        "down" => whole != Whole::Nic,
        _ => false,
    };
    if other {
        return Err(format!("{whole:?} after {mend:?}"));
    }
    Ok((whole, taken))
}

/// Kills the watchdog and then the command, before either can act.
fn kill_both(victim: &Victim, tracee: Tracee) -> Instant {
    let me = tracee.pid();
    for pid in victim.alive().into_iter().filter(|pid| *pid != me) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let at = tracee.kill();
    assert!(
        wait_until(LIMIT, || victim.alive().is_empty()),
        "does not die: {:?}",
        victim.alive()
    );
    at
}

/// One host, both commands, every moment that is chosen.
fn sweep_host(name: &str, script: &str, stride: usize, thens: &[Then]) {
    let _alone = crash::alone();
    let mut summary = Summary::default();
    let mut victim = Victim::new(name, script);
    for (args, begin) in COMMANDS {
        victim.bring_to(begin).unwrap();
        let calls = victim.changes_of(args);
        assert!(calls.len() > 20, "only {} changes: {calls:?}", calls.len());
        for point in moments(&calls, stride) {
            for then in thens {
                // Lifetimes run; a host is compared with what it was lately.
                if victim.before.age() > FRESH {
                    victim = Victim::new(name, script);
                }
                let call = &calls[point.nth - 1];
                let what = format!(
                    "{} killed {:?} its change {} ({call}), {then:?}",
                    args[0], point.moment, point.nth
                );
                let outcome = victim
                    .bring_to(begin)
                    .map_err(|why| format!("beforehand: {why}"))
                    .and_then(|()| strike(&victim, args, point, *then));
                if !summary.record(&what, outcome) {
                    // What failed may be left behind: a new host.
                    victim = Victim::new(name, script);
                }
            }
        }
    }
    summary.conclude(name);
}

/// Killed with its watchdog, it is put back by the next command.
#[test]
fn killed_with_its_watchdog_the_next_command_mends() {
    sweep_host("next-command", ORDINARY, 16, &[Then::Alone(DOWN)]);
}

/// Killed, it is put back by the watchdog, and nobody need do anything.
#[test]
fn killed_anywhere_the_host_comes_back() {
    sweep_host("untouched", ORDINARY, 12, &[Then::Untouched]);
}

/// Killed with its watchdog, it is put back by `recover`.
#[test]
fn killed_with_its_watchdog_recover_mends() {
    sweep_host("recover", HOSTILE, 23, &[Then::Alone(RECOVER)]);
}

/// All of it, on both hosts.
fn sweep_all(name: &str, then: Then) {
    sweep_host(&format!("ordinary-{name}-all"), ORDINARY, 1, &[then]);
    sweep_host(&format!("hostile-{name}-all"), HOSTILE, 1, &[then]);
}

#[test]
#[ignore = "every moment of every change, five minutes"]
fn killed_at_every_call_the_host_comes_back() {
    sweep_all("untouched", Then::Untouched);
}

#[test]
#[ignore = "every moment of every change, five minutes"]
fn killed_at_every_call_recover_mends() {
    sweep_all("recover", Then::Alone(RECOVER));
}

#[test]
#[ignore = "every moment of every change, five minutes"]
fn killed_at_every_call_the_next_down_mends() {
    sweep_all("next-down", Then::Alone(DOWN));
}

#[test]
#[ignore = "every moment of every change, five minutes"]
fn killed_at_every_call_the_next_up_mends() {
    sweep_all("next-up", Then::Alone(UP));
}

/// The watchdog and `recover` are killed at each of their own changes, from
/// some of the moments at which the command is killed.
#[test]
#[ignore = "every moment of every rescue, ten minutes"]
fn killed_while_it_mends() {
    let mut thens = Vec::new();
    for nth in 1..=30 {
        let moment = if nth % 2 == 0 {
            Moment::Before
        } else {
            Moment::After
        };
        thens.push(Then::Amid(nth, moment, RECOVER));
        thens.push(Then::TwiceRecovered(nth, moment));
    }
    sweep_host("rescuers", ORDINARY, 60, &thens);
}
