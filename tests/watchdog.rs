//! The watchdog as a process: what it has, what it is told by mistake, and
//! that it leads the host back wherever `vmbr` was run.
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

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use common::strike::Moment;
use common::{Namespace, run, wait_until};
use crash::{LIMIT, ORDINARY, PATIENCE, VMBR, Victim, Whole};
use running::{Running, after, assert_gone, await_state, go_on_to, held, state_of};

/// A field of /proc/PID/stat, counted as proc_pid_stat(5) does.
fn stat(pid: i32, field: usize) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    rest.split(' ').nth(field - 3).unwrap().to_owned()
}

fn descriptors(pid: i32) -> BTreeMap<String, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    // One that is closed meanwhile has no link.
    let entries = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((name, fs::read_link(entry.path()).ok()?.display().to_string()))
    });
    entries.collect()
}

/// Nothing of who called `vmbr`: no file that would be held open, no session,
/// no terminal, no word of the environment, no directory that would stay busy.
#[test]
fn it_has_only_what_it_needs() {
    let victim = Victim::new("has", ORDINARY);
    let line = "exec 7</etc/passwd 8<>/dev/ptmx; cd /tmp; trap '' HUP TERM; exec \"$@\"";
    let mut command = victim.host.ns.command("bash");
    command.args(after(&victim, line, &["up", "eth0", "--confirm=30"]));
    command.env("LD_LIBRARY_PATH", "/nowhere").env("HOSTILE", "1");
    let mut up = Running::start(&mut command);
    await_state(&victim, "br0", "awaiting-confirm");
    let dogs: Vec<i32> = victim
        .alive()
        .into_iter()
        .filter(|pid| *pid != up.pid())
        .collect();
    let [dog] = dogs[..] else {
        panic!("watchdogs: {dogs:?}")
    };

    let mut held = descriptors(dog);
    for standard in ["0", "1", "2"] {
        assert_eq!(held.remove(standard).as_deref(), Some("/dev/null"));
    }
    let needed = |name: &String| name.contains("pidfd") || name == "anon_inode:inotify";
    let extra: Vec<&String> = held.values().filter(|name| !needed(name)).collect();
    assert!(extra.is_empty() && held.len() == 2, "{held:?}");
    // Under systemd it has a unit's environment.
    let environment = fs::read_to_string(format!("/proc/{dog}/environ")).unwrap();
    assert!(
        !environment.contains("HOSTILE") && !environment.contains("LD_"),
        "{environment:?}"
    );
    assert_eq!(fs::read_link(format!("/proc/{dog}/cwd")).unwrap(), Path::new("/"));
    let session = stat(dog, 6);
    assert_eq!(session, dog.to_string(), "another's session");
    assert_eq!(stat(dog, 7), "0", "it has a terminal");
    // The lowest that root may have here: a container's has no CAP_SYS_RESOURCE.
    let lowest = "echo -1000 2>/dev/null >/proc/$$/oom_score_adj || :; cat /proc/$$/oom_score_adj";
    let lowest = host::script_in(&victim.host.ns, lowest);
    let oom = fs::read_to_string(format!("/proc/{dog}/oom_score_adj")).unwrap();
    assert_eq!(oom, lowest);

    victim.vmbr(&["confirm"], &[0]).unwrap();
    // That its end is waited for is a promise of `confirm`.
    assert!(!victim.alive().contains(&dog));
    assert!(up.0.wait().unwrap().success());
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));
}

#[test]
fn it_is_gone_when_the_command_ends() {
    let victim = Victim::new("gone", ORDINARY);
    for args in [["up", "eth0"], ["down", "br0"]] {
        victim.vmbr(&args, &[0]).unwrap();
        assert_eq!(victim.alive(), [] as [i32; 0], "after {args:?}");
    }
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// A process in a namespace whose descriptor 0 is a pipe, or /dev/null.
fn other_process(ns: &Namespace, input: Stdio) -> (Running, String) {
    let mut command = ns.command("tail");
    command.args(["-f", "-"]).stdin(input).stdout(Stdio::null());
    let child = Running(command.spawn().unwrap());
    let becomes =
        || fs::read_to_string(format!("/proc/{}/comm", child.pid())).is_ok_and(|comm| comm == "tail\n");
    assert!(wait_until(PATIENCE, becomes));
    let started = stat(child.pid(), 22);
    (child, started)
}

/// Who calls the hidden command learns that it is not for people, and nothing
/// comes of it.
#[test]
fn called_by_people_it_does_nothing() {
    let victim = Victim::new("direct", ORDINARY);
    let records = victim.host.records().join("none");
    let (near, near_started) = other_process(&victim.host.ns, Stdio::null());
    let (far, far_started) = other_process(&victim.host.lan, Stdio::null());
    let (near, far) = (near.pid().to_string(), far.pid().to_string());
    let program = victim.host.records().join("vmbr");
    fs::copy(VMBR, &program).unwrap();
    let addresses = || victim.host.lan.ip(&["-br", "-4", "addr"]);
    let lan = addresses();
    let cases: [(&str, [&str; 4], i32, &str); 9] = [
        ("root", [&near, &near_started, "0", "br0"], 1, "is no pipe"),
        ("root", [&near, &near_started, "999", "br0"], 1, "No such file"),
        ("root", [&far, &far_started, "0", "br0"], 1, "is no pipe"),
        ("root", [&near, "1", "0", "br0"], 1, "No such process"),
        ("root", ["0", "0", "0", "br0"], 1, "cannot serve"),
        ("root", ["4294967295", "0", "0", "br0"], 1, "cannot serve"),
        ("root", [&near, &near_started, "0", "../br0"], 2, "--bridge"),
        ("root", ["-1", &near_started, "0", "br0"], 2, "--parent"),
        ("nobody", [&near, &near_started, "0", "br0"], 3, "needs root"),
    ];
    for (user, [parent, started, ready, bridge], code, word) in cases {
        let mut command = victim.host.ns.command("setpriv");
        if user == "nobody" {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        } else {
            command.arg("--reuid=0");
        }
        command
            .arg(&program)
            .arg("--state-dir")
            .arg(&records)
            .arg("watchdog");
        for (name, value) in [
            ("parent", parent),
            ("started", started),
            ("ready", ready),
            ("bridge", bridge),
        ] {
            command.arg(format!("--{name}={value}"));
        }
        let ended = run(&mut command);
        assert_eq!(
            ended.code(),
            code,
            "{parent} {started} {ready} {bridge}: {ended:?}"
        );
        assert!(ended.stderr.contains(word), "{ended:?}");
        assert!(
            ended.stdout.is_empty() && !ended.stderr.contains("panic"),
            "{ended:?}"
        );
        assert!(
            !records.exists(),
            "{parent} {started} {ready} {bridge} makes {records:?}"
        );
    }
    let ended = victim.host.vmbr(&["watchdog"]);
    assert_eq!(ended.code(), 2, "{ended:?}");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
    assert_eq!(addresses(), lan);
}

/// One that is started beside a bridge that stands waits, and ends with its
/// parent; the bridge is none of its business.
#[test]
fn a_stray_one_touches_no_bridge_that_stands() {
    let victim = Victim::new("stray", ORDINARY);
    victim.bring_to(Whole::Bridge).unwrap();
    let (parent, started) = other_process(&victim.host.ns, Stdio::piped());
    let numbers = [parent.pid().to_string(), started];
    let mut stray = victim.host.command(&["watchdog", "--ready=0", "--bridge=br0"]);
    stray.args([
        format!("--parent={}", numbers[0]),
        format!("--started={}", numbers[1]),
    ]);
    let mut stray = Running::start(&mut stray);
    assert!(wait_until(PATIENCE, || descriptors(stray.pid())
        .values()
        .any(|name| name.contains("pidfd"))));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        stray.0.try_wait().unwrap(),
        None,
        "it has ended before its parent"
    );
    parent.kill();
    assert!(wait_until(LIMIT, || stray
        .0
        .try_wait()
        .unwrap()
        .is_some_and(|status| status.success())));
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));
    victim.bring_to(Whole::Nic).unwrap();
}

/// The directory of the records is told in the terms of who calls.
#[test]
fn a_relative_directory_of_records() {
    let victim = Victim::new("relative", ORDINARY);
    let records = victim.host.records().join("here");
    let mut command = victim.host.ns.command(VMBR);
    command.current_dir(victim.host.records());
    command.args(["--state-dir", "here/../here", "up", "eth0", "--confirm=1"]);
    fs::create_dir(&records).unwrap();
    let up = Running::start(&mut command);
    let record = || -> Option<PathBuf> {
        let directory = fs::read_dir(&records).ok()?.flatten().next()?;
        Some(directory.path().join("br0.json")).filter(|path| path.exists())
    };
    let waits =
        || record().is_some_and(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("awaiting")));
    assert!(wait_until(PATIENCE, waits));
    up.kill();
    assert_gone(&victim, "br0", Duration::from_secs(1) + LIMIT);
    assert!(wait_until(LIMIT, || record().is_none() && victim.alive().is_empty()));
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// The lock of a host's namespace, held by the test.
fn hold_lock(victim: &Victim) -> Flock<fs::File> {
    let mut entries = fs::read_dir(victim.host.records()).unwrap().flatten();
    let directory = entries.find(|entry| entry.path().is_dir()).unwrap();
    let path = Path::new("/run/vmbr").join(format!("{}.lock", directory.file_name().display()));
    let file = fs::File::options().write(true).open(&path).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).unwrap()
}

/// While another vmbr is at work none begins; and a deadline that passes
/// meanwhile is kept as soon as that one is done.
#[test]
fn another_vmbr_has_the_lock() {
    let victim = Victim::new("locked", ORDINARY);
    let lock = hold_lock(&victim);
    for args in [["up", "eth0"], ["down", "br0"]] {
        let ended = victim.vmbr(&args, &[3]).unwrap();
        assert!(ended.stderr.contains("another vmbr"), "{ended:?}");
    }
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
    drop(lock);

    let up = Running::start(&mut victim.host.command(&["up", "eth0", "--confirm=1"]));
    await_state(&victim, "br0", "awaiting-confirm");
    let lock = hold_lock(&victim);
    up.kill();
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        victim.host.ns.link("br0").is_some(),
        "it was taken from another vmbr"
    );
    assert_eq!(victim.alive().len(), 1, "the watchdog gave up");
    drop(lock);
    assert_gone(&victim, "br0", LIMIT);
    assert!(wait_until(LIMIT, || victim.alive().is_empty()));
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// Each bridge has its watchdog; what happens to one is nothing to the other.
#[test]
fn two_bridges_at_once() {
    let second = "
        ip link set eth1 up
        ip addr add 198.51.100.21/24 dev eth1
        ip route add 203.0.113.0/24 via 198.51.100.1";
    let mut victim = Victim::new("two", &format!("{ORDINARY}{second}"));
    victim.vmbr(&["up", "eth1", "--bridge", "br1"], &[0]).unwrap();
    victim.vmbr(&["down", "br1"], &[0]).unwrap();
    victim.before = victim.host.state();

    let first = Running::start(&mut victim.host.command(&["up", "eth0", "--confirm=4"]));
    await_state(&victim, "br0", "awaiting-confirm");
    let deadline = Instant::now() + Duration::from_secs(4);
    let mut up = held(&victim, "exec \"$@\"", &["up", "eth1", "--bridge", "br1"]);
    go_on_to(&mut up, "netlink flip", Moment::After);
    up.kill();
    assert_gone(&victim, "br1", LIMIT);
    assert!(wait_until(LIMIT, || victim.alive().len() == 2));
    assert_eq!(state_of(&victim, "br0").as_deref(), Some("awaiting-confirm"));

    let confirm = ["up", "eth1", "--bridge", "br1", "--confirm=20"];
    let mut other = Running::start(&mut victim.host.command(&confirm));
    await_state(&victim, "br1", "awaiting-confirm");
    assert_eq!(victim.alive().len(), 4, "two commands, two watchdogs");
    let which = victim.vmbr(&["confirm"], &[3]).unwrap();
    assert!(which.stderr.contains("br0, br1"), "{which:?}");
    victim.vmbr(&["confirm", "br1"], &[0]).unwrap();
    assert!(other.0.wait().unwrap().success());

    first.kill();
    assert_gone(
        &victim,
        "br0",
        deadline.saturating_duration_since(Instant::now()) + LIMIT,
    );
    assert!(wait_until(LIMIT, || victim.alive().is_empty()));
    assert_eq!(state_of(&victim, "br1").as_deref(), Some("settled"));
    victim.vmbr(&["down", "br1"], &[0]).unwrap();
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// Run with nobody who hears, or where little is allowed: done where it can be,
/// and back on the NIC where it is killed.
#[test]
fn in_unusual_places() {
    let _alone = crash::alone();
    let victim = Victim::new("places", ORDINARY);
    let out = format!("exec nsenter --mount=/proc/{}/ns/mnt \"$@\"", std::process::id());
    let before = ("netlink flip", Moment::Before);
    let after_flip = ("netlink flip", Moment::After);
    for (line, (kind, moment)) in [
        ("exec \"$@\" <&- >&- 2>&-", after_flip),
        // A pipe whose reader is gone.
        ("exec \"$@\" > >(exit) 2>&1", before),
        // A container's root: no ptrace(2), no setns(2), no resources.
        (
            "exec setpriv --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all \"$@\"",
            after_flip,
        ),
        // As by `nsenter --net`, without the mounts of `ip netns exec`.
        (&out, before),
        (
            "cd $(mktemp -d) && rmdir $PWD; ulimit -n 32; umask 777; exec \"$@\"",
            ("netlink new address", Moment::After),
        ),
    ] {
        let mut up = held(&victim, line, &["up", "eth0"]);
        go_on_to(&mut up, kind, moment);
        let whole = victim.comes_back(up.kill());
        let said = victim.said();
        assert!(matches!(whole, Ok((Whole::Nic, _))), "{line}: {whole:?}; {said}");
        for (args, whole) in [(["up", "eth0"], Whole::Bridge), (["down", "br0"], Whole::Nic)] {
            let ended = run(victim.host.ns.command("bash").args(after(&victim, line, &args)));
            assert_eq!(ended.code(), 0, "{line}: {ended:?}");
            assert_eq!(victim.is_back(), Ok(whole), "{line}: {args:?}");
        }
    }
}
