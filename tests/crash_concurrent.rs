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

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::wait::{WaitStatus, waitpid};
use serde_json::Value;
use vmbr::sys::fdpass::receive;

use common::strike::Moment;
use common::wait_until;
use crash::{ORDINARY, PATIENCE, Victim, Whole};

/// A command of a contest, and how it ended.
struct End {
    name: String,
    code: i32,
    stdout: String,
    stderr: String,
    // A TAP lives as long as what the helper has sent.
    taps: Vec<OwnedFd>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {}{}", self.name, self.code, self.stdout, self.stderr)
    }
}

fn spawn(mut command: Command, input: Stdio) -> Child {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The helper as QEMU runs it, with an ACL that lets it: its reply socket is
/// its stdin.
fn helper(victim: &Victim) -> Command {
    let acl = "mount -t tmpfs -o mode=755 acl /etc; mkdir /etc/qemu; echo 'allow br0' >/etc/qemu/bridge.conf
        exec 3<&0 </dev/null \"$0\" --fd=3 --br=br0";
    let mut command = victim.host.ns.command("sh");
    command.args(["-ec", acl, env!("CARGO_BIN_EXE_vmbr-helper")]);
    command
}

/// Runs all of them at once and gives what each came to.
fn at_once(victim: &Victim, number: usize, commands: &[&[&str]]) -> Vec<End> {
    let start = |place: usize| {
        let args = commands[place % commands.len()];
        if args != ["helper"] {
            let child = spawn(victim.host.command(args), Stdio::null());
            return (args[0].to_owned(), child, None);
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = spawn(helper(victim), Stdio::from(OwnedFd::from(theirs)));
        ("helper".to_owned(), child, Some(ours))
    };
    let children: Vec<_> = (0..number).map(start).collect();
    let end = |(name, child, reply): (String, Child, Option<UnixStream>)| {
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let sent = reply.map(|reply| receive(reply.as_fd()).unwrap().descriptors);
        End {
            name,
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            taps: sent.unwrap_or_default(),
        }
    };
    children.into_iter().map(end).collect()
}

/// Whether each of the ends is one that a loser or winner may have.
fn assert_ends(ends: &[End]) {
    for end in ends {
        match end.name.as_str() {
            "up" => {
                let said = end.code == 0 || end.stderr.contains("another vmbr");
                assert!(matches!(end.code, 0 | 3) && said, "{end:?}");
            }
            "down" => {
                let loses = end.stderr.contains("another vmbr") || end.stderr.contains("guests ");
                assert!(
                    matches!(end.code, 0 | 1 | 3) && (end.code == 0 || loses),
                    "{end:?}"
                );
            }
            "status" => {
                let document: Value = serde_json::from_str(&end.stdout).unwrap_or_default();
                assert!(end.code == 0 && document["bridges"].is_array(), "{end:?}");
            }
            _ => {
                let given = usize::from(end.code == 0);
                assert_eq!(end.taps.len(), given, "{end:?}");
                // Too early for the bridge, or too late.
                assert!(given == 1 || end.stderr.contains("br0"), "{end:?}");
            }
        }
    }
}

/// Every TAP that was given is on the bridge, or nobody has one.
fn assert_no_guest_is_cut_off(victim: &Victim, ends: &[End]) {
    let given = ends.iter().map(|end| end.taps.len()).sum::<usize>();
    let links = victim.host.ns.json(&["link", "show"]);
    let taps = links.as_array().unwrap().iter();
    let taps = taps.filter(|link| link["ifname"].as_str().unwrap().starts_with("tap"));
    let joined = taps.filter(|link| link["master"] == "br0").count();
    let downs = ends
        .iter()
        .filter(|end| end.name == "down" && end.code == 0)
        .count();
    println!("{} at once: {given} guests came, {downs} times down", ends.len());
    assert_eq!(joined, given, "{links}: {ends:?}");
}

fn contest(number: usize) {
    let victim = Victim::new(&format!("contest-{number}"), ORDINARY);
    let won = |ends: &[End], words: &str| {
        let won = |end: &&End| end.code == 0 && end.stdout.contains(words);
        ends.iter().filter(won).count()
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
        let ends = at_once(&victim, number, kinds);
        assert_ends(&ends);
        assert_no_guest_is_cut_off(&victim, &ends);
        drop(ends);
        victim.is_back().unwrap();
    }

    // Guests come while the bridge is to go.
    victim.bring_to(Whole::Bridge).unwrap();
    let ends = at_once(&victim, number, &[&["helper"], &["down", "br0"]]);
    assert_ends(&ends);
    assert_no_guest_is_cut_off(&victim, &ends);
    drop(ends);
    let no_tap = || victim.host.ns.links().iter().all(|name| !name.starts_with("tap"));
    assert!(wait_until(PATIENCE, no_tap), "{:?}", victim.host.ns.links());
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
