//! Many at once: one wins, the others say so, and nothing is torn.
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
#[path = "common/running.rs"]
mod running;

use std::process::{Child, Command, Stdio};

use nix::sys::wait::{WaitStatus, waitpid};
use serde_json::Value;

use common::strike::Moment;
use crash::{ORDINARY, Victim, Whole};

fn spawn(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The helper as QEMU runs it, its reply socket given away: who denies or
/// grants a TAP is no matter here, only that it ends and tears nothing.
fn helper(victim: &Victim) -> Command {
    let mut command = victim.host.ns.command(env!("CARGO_BIN_EXE_vmbr-helper"));
    command.args(["--fd=0", "--br=br0"]);
    command
}

/// Runs all of them at once and gives what each came to.
fn at_once(victim: &Victim, number: usize, commands: &[&[&str]]) -> Vec<(String, i32, String, String)> {
    let children: Vec<(String, Child)> = (0..number)
        .map(|place| {
            let args = commands[place % commands.len()];
            match args {
                ["helper"] => ("helper".to_owned(), spawn(helper(victim))),
                _ => (args[0].to_owned(), spawn(victim.host.command(args))),
            }
        })
        .collect();
    let end = |(name, child): (String, Child)| {
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        (name, code, text(&output.stdout), text(&output.stderr))
    };
    children.into_iter().map(end).collect()
}

/// Whether each of the ends is one that a loser or winner may have.
fn assert_ends(ends: &[(String, i32, String, String)]) {
    for (name, code, stdout, stderr) in ends {
        match name.as_str() {
            "up" | "down" => {
                let said = *code == 0 || stderr.contains("another vmbr");
                assert!(matches!(code, 0 | 3) && said, "{name}: {code} {stdout}{stderr}");
            }
            "status" => {
                let document: Value = serde_json::from_str(stdout).unwrap_or_default();
                assert!(
                    *code == 0 && document["bridges"].is_array(),
                    "{name}: {code} {stdout}{stderr}"
                );
            }
            // Denied, or too early for the bridge.
            _ => assert!(*code != 0 && *code != -1, "{name}: {code} {stdout}{stderr}"),
        }
    }
}

fn contest(number: usize) {
    let victim = Victim::new(&format!("contest-{number}"), ORDINARY);
    let won = |ends: &[(String, i32, String, String)], words: &str| {
        ends.iter()
            .filter(|(_, code, stdout, _)| *code == 0 && stdout.contains(words))
            .count()
    };

    let ups = at_once(&victim, number, &[&["up", "eth0"]]);
    assert_ends(&ups);
    assert_eq!(won(&ups, "carries the network of eth0. A reboot"), 1, "{ups:?}");
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));

    let downs = at_once(&victim, number, &[&["down", "br0"]]);
    assert_ends(&downs);
    assert_eq!(won(&downs, "carries its network itself again"), 1, "{downs:?}");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));

    // All kinds, three times: whoever wins, the host is whole.
    let kinds: &[&[&str]] = &[
        &["up", "eth0"],
        &["status", "--json"],
        &["down", "br0"],
        &["helper"],
    ];
    for _ in 0..3 {
        assert_ends(&at_once(&victim, number, kinds));
        victim.is_back().unwrap();
    }
    victim.bring_to(Whole::Nic).unwrap();
}

#[test]
fn two_at_once() {
    contest(2);
}

#[test]
fn ten_at_once() {
    contest(10);
}

#[test]
fn fifty_at_once() {
    contest(50);
}

/// A guest that comes while `down` is at work is not cut off, whenever it
/// comes: `down` goes back, and says which one is there.
#[test]
fn a_guest_that_comes_while_down_is_at_work_stays() {
    let _alone = crash::alone();
    let victim = Victim::new("guest-comes", ORDINARY);
    for (kind, moment) in [
        ("netlink new address", Moment::Before),
        ("netlink flip", Moment::Before),
        ("netlink flip", Moment::After),
    ] {
        victim.bring_to(Whole::Bridge).unwrap();
        let mut down = victim.start(&["down", "br0"]);
        running::go_on_to(&mut down, kind, moment);
        victim
            .host
            .sh("ip tuntap add dev tap0 mode tap; ip link set tap0 master br0 up");
        let ended = waitpid(down.release(None), None).unwrap();
        let said = victim.said();
        let refused = matches!(ended, WaitStatus::Exited(_, 1));
        assert!(
            refused && said.contains("tap0"),
            "{kind} {moment:?}: {ended:?}: {said}"
        );
        let tap = victim.host.ns.link("tap0");
        assert_eq!(tap.unwrap()["master"], "br0", "{kind} {moment:?}: {said}");
        assert_eq!(victim.is_back(), Ok(Whole::Bridge), "{kind} {moment:?}: {said}");
        victim.host.sh("ip link del tap0");
    }
    victim.bring_to(Whole::Nic).unwrap();
}
