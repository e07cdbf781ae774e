//! A machine of its own in a host's network namespace: own processes, own
//! /run, /etc and /var/lib, a D-Bus, and the network managers, DHCP clients
//! and firewalls that scripts/lib/daemons has unpacked, laid over /usr.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Ended, Namespace, run, wait_until};
use crate::host::Host;

/// Runs as the first process of the machine, with the unpacked packages' root.
/// To NetworkManager a device that udev does not know is not its own.
const SCRIPT: &str = "
    mount --make-rprivate /
    mount -t tmpfs tmpfs /mnt
    for directory in etc var/lib; do
        mkdir -p /mnt/upper/$directory /mnt/work/$directory
        mount -t overlay -o lowerdir=$0/$directory:/$directory,upperdir=/mnt/upper/$directory,workdir=/mnt/work/$directory machine /$directory
    done
    mount -t overlay -o lowerdir=$0/usr:/usr machine /usr
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/dbus /run/network /run/vmbr /run/udev/data /etc/systemd/network /etc/NetworkManager/system-connections
    touch /run/udev/control
    for index in $(seq 1 60); do
        printf 'I:1\\nE:ID_NET_NAME=x\\nV:1\\n' >/run/udev/data/n$index
    done
    echo 0123456789abcdef0123456789abcdef >/etc/machine-id
    for user in messagebus polkitd systemd-network dhcpcd systemd-resolve; do
        id=$((id + 1))
        grep -q ^$user: /etc/passwd || echo $user:x:$((9000 + id)):$((9000 + id))::/nonexistent:/bin/false >>/etc/passwd
        grep -q ^$user: /etc/group || echo $user:x:$((9000 + id)): >>/etc/group
    done
    echo ready
    # While it waits it takes what has ended: some wait for that.
    while :; do sleep 60; done";

/// The machine; with it all that runs in it ends.
pub struct Machine {
    outside: Child,
    first: u32,
    logs: PathBuf,
}

impl Machine {
    /// Starts an empty one.
    pub fn new(ns: &Namespace) -> Self {
        let vmbr = Path::new(env!("CARGO_BIN_EXE_vmbr"));
        let root = vmbr.ancestors().nth(2).unwrap().join("daemons/root");
        assert!(
            root.is_dir(),
            "{} is missing: run scripts/lib/daemons",
            root.display()
        );
        let logs = std::env::temp_dir().join(format!("vmbr-machine-{}", ns.name()));
        fs::create_dir(&logs).unwrap();
        let mut outside = ns
            .command("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child",
                "sh",
                "-ec",
                SCRIPT,
            ])
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = outside.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the machine did not start");
        let id = outside.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let first = children.trim().parse().unwrap();
        Self { outside, first, logs }
    }

    /// The same with a D-Bus.
    pub fn with_bus(ns: &Namespace) -> Self {
        let machine = Self::new(ns);
        machine.sh("dbus-daemon --system --fork 2>/dev/null");
        machine
    }

    /// Starts a real systemd-udevd, with only those rules that set up a link
    /// or are NetworkManager's: to NetworkManager a device that is made later
    /// is not there before udev has seen it.
    pub fn start_udev(&self) {
        self.sh("
            mkdir /run/rules
            cd /usr/lib/udev/rules.d
            for rules in 80-net-setup-link.rules *-nm-*.rules; do cp $rules /run/rules; done
            mount --bind /run/rules /usr/lib/udev/rules.d");
        self.start("/lib/systemd/systemd-udevd", &["--resolve-names=never"]);
        // It reads its rules before it listens: give it something to see.
        self.until(
            "
            ip link add seen0 type bridge
            index=$(cat /sys/class/net/seen0/ifindex)
            sleep 0.2
            ip link del seen0
            ! grep -q ^V:1 /run/udev/data/n$index || ! grep -q ^I:1$ /run/udev/data/n$index",
        );
    }

    /// A command that will run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.first.to_string(),
                "--mount",
                "--pid",
                "--net",
                "--",
            ])
            .arg(program);
        command
    }

    /// Runs a script by `sh -e`; panics where it fails.
    pub fn sh(&self, script: &str) -> String {
        let ended = run(self.command("sh").args(["-ec", script]));
        assert!(
            ended.status.success(),
            "{script}\n{}{}",
            ended.stdout,
            ended.stderr
        );
        ended.stdout
    }

    /// Starts a program that stays.
    pub fn start(&self, program: &str, args: &[&str]) {
        let log = File::create(self.logs.join(program.replace('/', "-"))).unwrap();
        self.command("setsid")
            .arg("--fork")
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
    }

    /// What the programs that stay have said.
    pub fn said(&self) -> String {
        let files = fs::read_dir(&self.logs).unwrap().flatten();
        files
            .map(|file| String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned())
            .collect()
    }

    /// Waits until a script succeeds, fifteen seconds at most.
    pub fn until(&self, script: &str) {
        let done = || run(self.command("sh").args(["-ec", script])).status.success();
        assert!(
            wait_until(Duration::from_secs(15), done),
            "{script}\n{}\n{}",
            self.said(),
            self.sh("ip addr; ps ax")
        );
    }

    /// Runs `vmbr ARGS` for `host`, which this machine is in.
    pub fn vmbr(&self, host: &Host, args: &[&str]) -> Ended {
        let mut command = self.command(env!("CARGO_BIN_EXE_vmbr"));
        command.env_remove("SUDO_USER");
        run(command.arg("--state-dir").arg(host.records()).args(args))
    }

    /// Asserts that `vmbr up eth0` is refused, that its dry run says the same,
    /// to anyone, and that nothing was changed; gives what it said.
    pub fn refused(&self, host: &Host) -> String {
        let before = host.state();
        let ended = self.vmbr(host, &["up", "eth0"]);
        assert_eq!(ended.code(), 3, "{ended:?}");
        let dry = self.vmbr(host, &["up", "eth0", "--dry-run"]);
        assert_eq!(dry.code(), 3, "{dry:?}");
        before.assert_same(&host.state());
        ended.stderr
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let _ = fs::remove_dir_all(&self.logs);
    }
}
