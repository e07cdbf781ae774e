//! The watchdog as a unit of systemd: a real one, and ones that do not do what
//! they are asked.
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
#[path = "common/manager.rs"]
mod manager;
#[path = "common/running.rs"]
mod running;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use common::strike::Moment;
use common::{Ended, Namespace, run, wait_until};
use crash::{LIMIT, ORDINARY, PATIENCE, VMBR, Victim, Whole};
use manager::Manager;
use running::{Running, after, assert_gone, await_state, go_on_to, held};

/// Before a command in the mount namespace of `ip netns exec`: systemd seems to
/// run, and the program that asks it for a unit is another.
fn with_systemd_run(victim: &Victim, script: &str) -> String {
    let program = victim.host.records().join("systemd-run");
    fs::write(&program, format!("#!/bin/bash\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(
        Path::new("/usr/bin/systemd-run").exists(),
        "systemd-run is missing: apt-get install systemd"
    );
    format!(
        "mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system &&
         mount --bind {} /usr/bin/systemd-run && exec \"$@\"",
        program.display()
    )
}

fn vmbr(victim: &Victim, line: &str, args: &[&str]) -> Ended {
    let ended = run(victim.host.ns.command("bash").args(after(victim, line, args)));
    assert_eq!(ended.code(), 0, "{args:?}: {ended:?}");
    ended
}

/// Where vmbr is killed right after the flip, the host is back all the same.
fn killed_it_comes_back(victim: &Victim, line: &str) {
    let mut up = held(victim, line, &["up", "eth0"]);
    go_on_to(&mut up, "netlink flip", Moment::After);
    let whole = victim.comes_back(up.kill());
    assert!(
        matches!(whole, Ok((Whole::Nic, _))),
        "{whole:?}; {}",
        victim.said()
    );
}

/// Nothing that is in the environment of who calls vmbr says what root runs,
/// or whom it asks.
#[test]
fn a_hostile_environment_chooses_nothing() {
    let victim = Victim::new("hostile", ORDINARY);
    let told = victim.host.records().join("told");
    let line = with_systemd_run(&victim, &format!("env >{}; exit 1", told.display()));
    let directory = victim.host.records().join("bin");
    fs::create_dir(&directory).unwrap();
    let taken = victim.host.records().join("taken");
    for name in ["systemd-run", "vmbr", "env", "sh"] {
        let program = directory.join(name);
        fs::write(&program, format!("#!/bin/bash\n>{}\n", taken.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let line = line.replace(
        "exec \"$@\"",
        &format!(
            "PATH={0}:$PATH DBUS_SYSTEM_BUS_ADDRESS=unix:path={0}/bus LD_LIBRARY_PATH={0} exec \"$@\"",
            directory.display()
        ),
    );
    vmbr(&victim, &line, &["up", "eth0"]);
    assert!(!taken.exists(), "a program of the caller's PATH was run");
    let told = fs::read_to_string(told).expect("systemd-run was not asked");
    for word in ["DBUS", "LD_", "SUDO", "HOME", directory.to_str().unwrap()] {
        assert!(!told.contains(word), "systemd-run was told {told}");
    }
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));
    victim.bring_to(Whole::Nic).unwrap();
}

/// A systemd that refuses is no reason to leave the host without a watchdog.
#[test]
fn a_systemd_that_refuses() {
    let victim = Victim::new("refuses", ORDINARY);
    let line = with_systemd_run(&victim, "exit 1");
    killed_it_comes_back(&victim, &line);
}

/// A systemd that does not answer, and a unit that comes when nobody waits for
/// it any more: whoever tells that it is the watchdog, the one that was started
/// then is.
#[test]
fn a_unit_that_comes_too_late() {
    let victim = Victim::new("late", ORDINARY);
    let line = with_systemd_run(
        &victim,
        r#"while [ "$1" != -- ]; do shift; done
           while [ $# -gt 1 ]; do
               case $1 in --parent) parent=$2 ;; --ready) ready=$2 ;; esac
               shift
           done
           sleep 40 </dev/null >/dev/null 2>&1 &
           late=$!
           read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ </proc/$late/stat
           # The next watchdog is a child as this one is: before vmbr hears it,
           # and before it can tell who it is.
           { kid=$$
             while [ "${kid:-$$}" = $$ ]; do read -r kid _ </proc/$parent/task/$parent/children || :; done
             kill -STOP $parent
             echo "$late $started" >/proc/$parent/fd/$ready
             sleep 0.3
             kill -CONT $parent; } </dev/null >/dev/null 2>&1 &
           exec sleep 60"#,
    );
    let mut up = Running::start(
        victim
            .host
            .ns
            .command("bash")
            .args(after(&victim, &line, &["up", "eth0"])),
    );
    let ends = wait_until(PATIENCE, || up.0.try_wait().unwrap().is_some());
    assert!(ends, "up waits for the watchdog that it took for its own");
    assert!(up.0.wait().unwrap().success());
    assert_eq!(victim.is_back(), Ok(Whole::Bridge));
    victim.bring_to(Whole::Nic).unwrap();
}

/// As systemd starts a unit: a child of another, in other namespaces, with a
/// clean environment.
#[test]
fn in_other_namespaces() {
    let _alone = crash::alone();
    let victim = Victim::new("unit", ORDINARY);
    let other = Namespace::new("init");
    let line = with_systemd_run(
        &victim,
        &format!(
            r#"while [ "$1" != -- ]; do shift; done; shift
               setsid env -i nsenter --net={} --mount=/proc/{}/ns/mnt -- "$@" </dev/null >/dev/null 2>&1 &"#,
            other.path().display(),
            std::process::id()
        ),
    );
    killed_it_comes_back(&victim, &line);
    for (args, whole) in [(["up", "eth0"], Whole::Bridge), (["down", "br0"], Whole::Nic)] {
        vmbr(&victim, &line, &args);
        assert_eq!(victim.is_back(), Ok(whole));
    }
    let up = ["up", "eth0", "--confirm=1"];
    let up = Running::start(victim.host.ns.command("bash").args(after(&victim, &line, &up)));
    await_state(&victim, "br0", "awaiting-confirm");
    let dogs: Vec<i32> = victim
        .alive()
        .into_iter()
        .filter(|pid| *pid != up.pid())
        .collect();
    let [dog] = dogs[..] else {
        panic!("watchdogs: {dogs:?}")
    };
    for (name, of) in [("mnt", up.pid()), ("net", up.pid())] {
        let namespace = |pid| fs::metadata(format!("/proc/{pid}/ns/{name}")).unwrap().ino();
        assert_eq!(namespace(dog), namespace(of), "{name}");
    }
    up.kill();
    assert_gone(&victim, "br0", Duration::from_secs(1) + LIMIT);
    assert!(wait_until(LIMIT, || victim.alive().is_empty()));
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// The words that run `vmbr ARGS` on the host from the manager's namespaces.
fn inside(victim: &Victim, args: &[&str]) -> Vec<String> {
    let net = format!("--net={}", victim.host.ns.path().display());
    let records = victim.host.records().to_str().unwrap();
    let before = ["/usr/bin/nsenter", &net, "--", VMBR, "--state-dir", records];
    before.iter().chain(args).map(|word| (*word).to_owned()).collect()
}

/// `vmbr ARGS` in a service of the manager, as an agent runs it that came by
/// the network.
fn service(victim: &Victim, manager: &Manager, args: &[&str]) {
    let begin = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit=agent",
        "--property=TimeoutStopSec=2",
        "--",
    ];
    let words = inside(victim, args);
    let words: Vec<&str> = begin
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .collect();
    manager.run(&words);
}

/// The unit whose watchdog holds the deadline ends, and all that is in it is
/// killed: the host comes back at the deadline. The one who confirms from
/// elsewhere keeps it.
#[test]
#[ignore = "boots a systemd of its own: needs a cgroup2 hierarchy to make a group in; scripts/test --all runs it"]
fn the_service_that_ran_up_is_stopped() {
    let _alone = crash::alone();
    let victim = Victim::new("stopped", ORDINARY);
    let manager = Manager::boot();
    for confirm in [false, true] {
        service(&victim, &manager, &["up", "eth0", "--confirm=3"]);
        await_state(&victim, "br0", "awaiting-confirm");
        assert_eq!(victim.alive().len(), 2);
        manager.run(&["systemctl", "stop", "agent"]);
        let dogs = victim.alive();
        let [dog] = dogs[..] else {
            panic!("watchdogs: {dogs:?}")
        };
        let group = fs::read_to_string(format!("/proc/{dog}/cgroup")).unwrap();
        assert!(group.contains("/system.slice/vmbr-watchdog-"), "{group}");
        for standard in 0..3 {
            let file = fs::read_link(format!("/proc/{dog}/fd/{standard}")).unwrap();
            assert_eq!(file, Path::new("/dev/null"));
        }
        if confirm {
            // Where the watchdog has its number.
            let words = inside(&victim, &["confirm"]);
            manager.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(victim.is_back(), Ok(Whole::Bridge));
        } else {
            assert_gone(&victim, "br0", Duration::from_secs(3) + LIMIT);
            assert!(wait_until(LIMIT, || victim.alive().is_empty()));
            assert_eq!(victim.is_back(), Ok(Whole::Nic));
        }
        let units = manager.run(&["systemctl", "list-units", "--all", "--plain", "vmbr-*"]);
        assert!(!units.contains("vmbr-watchdog"), "{units}");
    }
}

/// The same in the middle of a change: while the gateway, silent by now, is
/// asked, the service is killed.
#[test]
#[ignore = "boots a systemd of its own: needs a cgroup2 hierarchy to make a group in; scripts/test --all runs it"]
fn the_service_that_ran_up_is_killed() {
    let _alone = crash::alone();
    let victim = Victim::new("killed", ORDINARY);
    let manager = Manager::boot();
    victim.host.sh("nft add table bridge fabric
         nft 'add chain bridge fabric in { type filter hook input priority 0; policy drop; }'");
    service(&victim, &manager, &["up", "eth0"]);
    let moved = || {
        victim.host.ns.link("br0").is_some_and(|_| {
            victim
                .host
                .ns
                .ip(&["route"])
                .contains("default via 192.0.2.1 dev br0")
        })
    };
    assert!(wait_until(PATIENCE, moved), "{:?}", victim.records());
    manager.run(&["systemctl", "kill", "--signal=KILL", "agent"]);
    let whole = victim.comes_back(std::time::Instant::now());
    assert!(matches!(whole, Ok((Whole::Nic, _))), "{whole:?}");
}
