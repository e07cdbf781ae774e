//! A systemd that manages a few processes: it is process 1 of namespaces of its
//! own, and has no units but those that are asked for.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Namespace, run, wait_until};

const SYSTEMD: &str = "/lib/systemd/systemd";

/// The targets that a transient service names.
const TARGETS: &str = "sysinit basic shutdown default";

/// In the group that is the first argument, and in namespaces of its own: a
/// /run/systemd and a hierarchy of groups that are nobody else's.
const BOOT: &str = r#"
    echo $$ >"$0/cgroup.procs"
    exec ip netns exec "$3" unshare --pid --mount --cgroup --ipc --uts --fork --kill-child bash -e -c '
        mount --make-rprivate /
        mount -t proc proc /proc
        mount --rbind /run /run
        mkdir -p /run/systemd
        mount -t tmpfs -o mode=755 tmpfs /run/systemd
        # What DHCP clients write of name servers is not for the machine.
        touch /run/systemd/resolv.conf
        [ ! -e /etc/resolv.conf ] || mount --bind /run/systemd/resolv.conf /etc/resolv.conf
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mkdir -p /run/systemd/test
        for target in $1; do printf "[Unit]\nDefaultDependencies=no\n" >/run/systemd/test/$target.target; done
        export SYSTEMD_UNIT_PATH=/run/systemd/test container=test
        exec $0 --system --log-target=null --show-status=0' "$1" "$2"
"#;

/// A systemd that runs, killed with all its services at the end.
pub struct Manager {
    _ns: Namespace,
    unshare: Child,
    group: PathBuf,
}

impl Manager {
    /// Boots it, in a network namespace of its own.
    pub fn boot() -> Self {
        assert!(
            Path::new(SYSTEMD).exists(),
            "{SYSTEMD} is missing: apt-get install systemd"
        );
        let ns = Namespace::new("systemd");
        let group = hierarchy().join(ns.name());
        fs::create_dir(&group).unwrap_or_else(|e| panic!("{}: {e}", group.display()));
        let mut command = Command::new("bash");
        command.args(["-e", "-c", BOOT]).arg(&group);
        command.args([SYSTEMD, TARGETS, ns.name()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let manager = Self {
            unshare: command.spawn().unwrap(),
            _ns: ns,
            group,
        };
        let runs = || {
            let asked = manager.command(&["systemctl", "is-active", "default.target"]);
            asked.is_some_and(|mut asked| run(&mut asked).status.success())
        };
        assert!(wait_until(Duration::from_secs(20), runs), "systemd does not boot");
        manager
    }

    /// Runs a program beside it, to its end; panics with what it said if it
    /// fails.
    pub fn run(&self, words: &[&str]) -> String {
        run(&mut self.command(words).expect("systemd has ended")).ok()
    }

    fn command(&self, words: &[&str]) -> Option<Command> {
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let systemd = children.split_whitespace().next()?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", systemd, "--pid", "--mount", "--cgroup", "--net"])
            .args(words);
        Some(command)
    }
}

/// Where the hierarchy of groups is mounted.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|words| words.get(2) == Some(&"cgroup2"));
    mount.expect("no cgroup2 hierarchy is mounted")[1].into()
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Process 1 takes all of its namespace along.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let removed = || {
            run(Command::new("find")
                .arg(&self.group)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]));
            !self.group.exists()
        };
        wait_until(Duration::from_secs(5), removed);
    }
}
