//! `vmbr` in mode mac-nat is killed right before and right after every system
//! call that changes the kernel or the disk. The host is on its network all the
//! time, and what served the guests is whole or gone.
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
#[path = "common/translated.rs"]
mod translated;

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::strike::{Moment, Tracee};
use common::wait_until;
use crash::{LIMIT, Point, Victim};
use translated::{UP, assert_untouched, filters, status};

/// Which of the two whole states it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// Nothing is left of the bridge.
    Gone,
    /// Guests can reach the network.
    Stands,
}

/// What happens after the blow.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Nobody does anything: the watchdog is enough.
    Untouched,
    /// The watchdog is killed first; then this command is run.
    Alone(&'static [&'static str]),
}

const RECOVER: &[&str] = &["recover"];
const DOWN: &[&str] = &["down", "br0"];
const SYNC: &[&str] = &["sync"];

/// How long a host serves before another takes its place.
const FRESH: Duration = Duration::from_secs(40);

/// Pings, a hundred a second, from the host to its gateway.
struct Pings(Child);

impl Pings {
    fn start(victim: &Victim) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", victim.host.ns.path().display()));
        command.args(["ping", "-n", "-q", "-i", "0.01", "-W", "2", "192.0.2.1"]);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Asserts that each was answered.
    fn none_lost(self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGINT).unwrap();
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("packet loss")).unwrap();
        let number = |word: &str| -> u64 {
            let words: Vec<&str> = line.split_whitespace().collect();
            let place = words.iter().position(|w| w.starts_with(word)).unwrap();
            let before = if words[place - 1] == "packets" { 2 } else { 1 };
            words[place - before].parse().unwrap()
        };
        let (sent, received) = (number("transmitted"), number("received"));
        // One may be under way when it ends.
        assert!(sent > 20 && received + 1 >= sent, "{line}");
        println!("{line}");
    }
}

struct Sweep {
    victim: Victim,
    pings: Option<Pings>,
    blows: usize,
    failures: Vec<String>,
    slowest: Duration,
}

impl Sweep {
    fn new() -> Self {
        let (victim, pings) = begin();
        Self {
            victim,
            pings: Some(pings),
            blows: 0,
            failures: Vec::new(),
            slowest: Duration::ZERO,
        }
    }

    fn renew(&mut self) {
        if let Some(pings) = self.pings.take() {
            pings.none_lost();
        }
        let (victim, pings) = begin();
        self.victim = victim;
        self.pings = Some(pings);
    }
}

fn begin() -> (Victim, Pings) {
    let host = host::Host::new("air-crash", host::STATIC);
    let before = host.state();
    let victim = Victim { host, before };
    let pings = Pings::start(&victim);
    (victim, pings)
}

/// Whether all of it stands, or nothing, and the record says the same.
fn whole(victim: &Victim) -> Result<Whole, String> {
    let state = victim.host.state();
    let records = victim.records();
    let told: Vec<&str> = records.iter().map(|(_, progress)| progress.as_str()).collect();
    if state.has_link("br0") {
        let bridge = status(&victim.host);
        if bridge["translation"]["programs"] != "attached" || told != ["settled"] {
            return Err(format!("{bridge}, {records:?}"));
        }
        assert_untouched(&victim.before, &state);
        return Ok(Whole::Stands);
    }
    let differences = victim.before.changes(&state);
    let left = filters(&victim.host.ns, "eth0");
    if !differences.is_empty() || !told.is_empty() || !left.is_empty() {
        return Err(format!("{}; {records:?}; {left}", differences.join("; ")));
    }
    Ok(Whole::Gone)
}

fn is_idle(victim: &Victim) -> bool {
    victim.alive().is_empty()
        && victim
            .records()
            .iter()
            .all(|(_, progress)| progress != "changing")
}

/// Kills the watchdog and then the command, before either can act.
fn kill_both(victim: &Victim, tracee: Tracee) {
    let me = tracee.pid();
    for pid in victim.alive().into_iter().filter(|pid| *pid != me) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    tracee.kill();
    assert!(wait_until(LIMIT, || victim.alive().is_empty()));
}

/// Strikes `vmbr ARGS` once and looks what becomes of the host.
fn strike(victim: &Victim, args: &[&str], point: Point, then: Then) -> Result<Option<Duration>, String> {
    let mut tracee = victim.start(args);
    if tracee.go_to(point.nth, point.moment).is_none() {
        return whole(victim).map(|_| None);
    }
    let begun = Instant::now();
    match then {
        Then::Untouched => {
            let at = tracee.kill();
            if !wait_until(LIMIT, || is_idle(victim)) {
                return Err(format!("{:?}, {:?}", victim.alive(), victim.records()));
            }
            let taken = at.elapsed();
            whole(victim)?;
            return Ok(Some(taken));
        }
        Then::Alone(mend) => {
            kill_both(victim, tracee);
            victim.vmbr(mend, &[0])?;
            let reached = whole(victim)?;
            let expected = match mend[0] {
                "up" => Some(Whole::Stands),
                "down" => Some(Whole::Gone),
                _ => None,
            };
            if expected.is_some_and(|expected| expected != reached) {
                return Err(format!("{reached:?} after {mend:?}"));
            }
        }
    }
    Ok(Some(begun.elapsed()))
}

/// Brings the host to one of the two states by vmbr itself.
fn bring_to(victim: &Victim, whole: Whole) -> Result<(), String> {
    let args: &[&str] = if whole == Whole::Stands { &UP } else { &["down"] };
    victim.vmbr(args, &[0])?;
    match self::whole(victim)? {
        reached if reached == whole => Ok(()),
        other => Err(format!("{other:?} instead of {whole:?}")),
    }
}

/// The moments to strike: with `stride` 1 all of them; else every `stride`th,
/// and always those that matter most.
fn moments(calls: &[String], stride: usize) -> Vec<Point> {
    let vital = |call: &str| {
        ["bpf attach", "bpf detach", "new link", "delete link", "rename"]
            .iter()
            .any(|word| call.contains(word))
    };
    let mut all = Vec::new();
    for (place, call) in calls.iter().enumerate() {
        for (side, moment) in [Moment::Before, Moment::After].into_iter().enumerate() {
            let possible = moment == Moment::Before || call != "exit_group";
            let chosen =
                (2 * place + side) % stride == 0 || (stride < 20 && vital(call) && side == place % 2);
            if possible && chosen {
                all.push(Point {
                    nth: place + 1,
                    moment,
                });
            }
        }
    }
    all
}

fn sweep(name: &str, stride: usize, commands: &[(&[&str], Whole)], then: Then) {
    let _alone = crash::alone();
    let mut sweep = Sweep::new();
    for (args, begin) in commands {
        bring_to(&sweep.victim, *begin).unwrap();
        let calls = sweep.victim.changes_of(args);
        assert!(calls.iter().any(|call| call.contains("bpf")), "{calls:?}");
        for point in moments(&calls, stride) {
            if sweep.victim.before.age() > FRESH {
                sweep.renew();
            }
            let call = &calls[point.nth - 1];
            let victim = &sweep.victim;
            let outcome = bring_to(victim, *begin)
                .map_err(|why| format!("beforehand: {why}"))
                .and_then(|()| strike(victim, args, point, then));
            match outcome {
                Ok(None) => {}
                Ok(Some(taken)) => {
                    sweep.blows += 1;
                    sweep.slowest = sweep.slowest.max(taken);
                }
                Err(why) => {
                    sweep.failures.push(format!(
                        "{} killed {:?} its change {} ({call}), {then:?}: {why}",
                        args[0], point.moment, point.nth
                    ));
                    sweep.renew();
                }
            }
        }
    }
    if let Some(pings) = sweep.pings.take() {
        pings.none_lost();
    }
    let mut text = format!(
        "mac-nat sweep {name}: {} blows, {} failures, whole again after {} ms at most",
        sweep.blows,
        sweep.failures.len(),
        sweep.slowest.as_millis()
    );
    println!("{text}");
    for failure in &sweep.failures {
        let _ = write!(text, "\n  {failure}");
    }
    assert!(sweep.blows > 3 && sweep.failures.is_empty(), "{text}");
}

const BOTH: [(&[&str], Whole); 2] = [(&UP, Whole::Gone), (DOWN, Whole::Stands)];

/// Killed, it is ended by the watchdog, and the host has lost no packet.
#[test]
fn killed_anywhere_the_host_keeps_its_network() {
    sweep("untouched", 31, &BOTH, Then::Untouched);
}

/// A hook that is killed in the middle leaves what the next one mends.
#[test]
fn a_sync_that_is_killed_is_made_good_by_the_next() {
    let _alone = crash::alone();
    let (victim, pings) = begin();
    bring_to(&victim, Whole::Stands).unwrap();
    let break_it = "ip link del br0-air; ip link set eth0 address 02:00:00:00:00:99";
    victim.host.sh(break_it);
    let calls = victim.changes_of(SYNC);
    whole_with_new_mac(&victim);
    let mut blows = 0;
    for nth in (1..=calls.len()).step_by(5) {
        victim.host.sh("ip link del br0-air");
        let mut tracee = victim.start(SYNC);
        if tracee.go_to(nth, Moment::After).is_some() {
            tracee.kill();
            blows += 1;
        }
        victim.vmbr(SYNC, &[0]).unwrap();
        whole_with_new_mac(&victim);
    }
    assert!(blows > 3, "{calls:?}");
    drop(pings);
}

fn whole_with_new_mac(victim: &Victim) {
    let bridge = status(&victim.host);
    assert_eq!(bridge["translation"]["programs"], "attached", "{bridge}");
    assert_eq!(bridge["mac"], "02:00:00:00:00:99");
}

#[test]
#[ignore = "every moment of every change, three minutes"]
fn killed_at_every_call_the_host_keeps_its_network() {
    sweep("untouched-all", 1, &BOTH, Then::Untouched);
}

#[test]
#[ignore = "half the moments of every change, three times, ten minutes"]
fn killed_at_every_call_with_its_watchdog_the_next_command_mends() {
    for mend in [RECOVER, DOWN, &UP] {
        sweep(&format!("{}-all", mend[0]), 2, &BOTH, Then::Alone(mend));
    }
}
