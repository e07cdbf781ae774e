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

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use common::strike::Moment;
use common::{run, wait_until};
use crash::{LIMIT, ORDINARY, PATIENCE, VMBR, Victim, Whole};

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
    waiting.victim.kill_all();
    waiting.up.wait().unwrap();
    waiting.victim.vmbr(&["recover"], &[0]).unwrap();
    assert_eq!(waiting.victim.is_back(), Ok(Whole::Nic));
    waiting.victim.vmbr(&["recover"], &[0]).unwrap();
}

/// `confirm` is killed at one in four of its changes: either the bridge is confirmed,
/// or it can be still; and no deadline is forgotten.
#[test]
fn confirm_is_killed() {
    let _alone = crash::alone();
    let mut seen = BTreeSet::new();
    for nth in (1..).step_by(4) {
        let waiting = Waiting::new("confirm-killed", 20);
        let mut confirm = waiting.victim.start(&["confirm"]);
        let moment = if nth % 8 == 1 {
            Moment::Before
        } else {
            Moment::After
        };
        let Some(call) = confirm.go_to(nth, moment).filter(|call| call != "exit_group") else {
            break;
        };
        confirm.kill();
        let reached = state(&waiting.victim).unwrap();
        assert!(
            ["settled", "awaiting-confirm"].contains(&reached.as_str()),
            "{call}: {reached}"
        );
        waiting.victim.vmbr(&["confirm"], &[0]).unwrap();
        let (victim, code, said) = waiting.end();
        assert_eq!(code, 0, "{call}: {said}");
        assert_eq!(victim.is_back(), Ok(Whole::Bridge), "{call}");
        seen.insert(reached);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
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

/// What is said on a terminal is not said into a file.
#[test]
fn the_time_that_is_left_is_counted_on_a_terminal() {
    let victim = Victim::new("countdown", ORDINARY);
    let records = victim.host.records().display();
    let line = format!("exec {VMBR} --state-dir {records} up eth0 --confirm=3");
    let mut command = victim.host.ns.command("script");
    let on_terminal = run(command.args(["-qec", &line, "/dev/null"]));
    assert_eq!(on_terminal.code(), 1, "{on_terminal:?}");
    // A machine that is busy for a second leaves one out.
    let shown = (1..=3).filter(|left| on_terminal.stdout.contains(&format!("\r  {left} s left")));
    assert!(shown.count() >= 2, "{on_terminal:?}");
    let in_file = victim.vmbr(&["up", "eth0", "--confirm=1"], &[1]).unwrap();
    assert!(!in_file.stderr.contains("s left"), "{in_file:?}");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// Who was cut off finds in `status`, and in the system's log, when the host
/// was led back and why.
#[test]
fn status_and_the_log_say_when_and_why() {
    let victim = Victim::new("told", ORDINARY);
    let path = victim.host.records().join("log");
    let log = UnixDatagram::bind(&path).unwrap();
    log.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = |what: &str| {
        let mut buffer = [0; 4096];
        let line = std::iter::repeat_with(|| {
            let length = log
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("no {what:?} in the log: {e}"));
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        let line = line.into_iter().find(|line| line.contains(what)).unwrap();
        assert!(line.contains(" vmbr[") || line.contains(">vmbr["), "{line}");
    };
    // A /dev of its own, whose log is the test's.
    let dev = "mount -t tmpfs -o mode=755 dev /dev; mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9; ln -s \"$0\" /dev/log; exec \"$@\"";
    let up = |more: &[&str]| {
        let mut command = victim.host.ns.command("sh");
        command.args(["-ec", dev]).arg(&path).arg(VMBR);
        command.arg("--state-dir").arg(victim.host.records());
        command.args(["up", "eth0"]).args(more).env_remove("SUDO_USER");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let told = |why: &str| {
        let text = victim.host.vmbr(&["status"]).ok();
        let line = text.lines().find(|line| line.contains("br0 was taken back"));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(why), "{line}");
        let (when, _) = line.split_once(": ").unwrap();
        let when = humantime::parse_rfc3339(when).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(when.elapsed().unwrap() < PATIENCE, "{line}");
    };

    assert_eq!(up(&["--confirm=1"]).status().unwrap().code(), Some(1));
    heard("br0 is gone: nobody confirmed it in time");
    told("nobody confirmed it in time");

    let mut killed = up(&["--confirm=30"]).spawn().unwrap();
    let waits = || state(&victim).as_deref() == Some("awaiting-confirm");
    assert!(wait_until(PATIENCE, waits));
    // A watchdog that lives leaves `recover` nothing to do.
    victim.kill_all();
    killed.wait().unwrap();
    victim.vmbr(&["recover"], &[0]).unwrap();
    told("nobody watched whether it was confirmed");

    victim.host.sh("nft add table bridge fabric
         nft 'add chain bridge fabric in { type filter hook input priority 0; policy drop; }'");
    assert_eq!(up(&[]).status().unwrap().code(), Some(1));
    heard("192.0.2.1, 2001:db8::1 answered on eth0, and does not answer through br0");
    told("192.0.2.1, 2001:db8::1 answered on eth0");
    victim.host.sh("nft delete table bridge fabric");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}
