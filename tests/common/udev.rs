//! A real systemd-udevd that looks after one network namespace.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Namespace, wait_until};

const UDEVD: &str = "/lib/systemd/systemd-udevd";

/// In a mount namespace of its own (`ip netns exec` makes one): a /run of its
/// own, a machine's id, and of the rules those alone that set up a link. The
/// kernel tells every network namespace of disks, too.
const SCRIPT: &str = "
    mount -t tmpfs tmpfs /run
    mkdir /run/rules /run/udev
    echo 0123456789abcdef0123456789abcdef >/run/id
    mount --bind /run/id /etc/machine-id
    cp /usr/lib/udev/rules.d/80-net-setup-link.rules /run/rules
    mount --bind /run/rules /usr/lib/udev/rules.d
    exec $0 --debug --resolve-names=never";

/// The running daemon.
pub struct Udev {
    child: Child,
    log: PathBuf,
}

impl Udev {
    /// Starts it, and waits until it listens.
    pub fn start(ns: &Namespace) -> Self {
        assert!(
            fs::exists(UDEVD).unwrap(),
            "{UDEVD} is missing: apt-get install udev"
        );
        let log = std::env::temp_dir().join(format!("vmbr-udev-{}", ns.name()));
        let file = File::create(&log).unwrap();
        let child = ns
            .command("sh")
            .args(["-e", "-c", SCRIPT, UDEVD])
            .env("SYSTEMD_LOG_TARGET", "console")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let udev = Self { child, log };
        // It reads its rules before it listens: give it something to see.
        let listens = || {
            ns.ip(&["link", "add", "seen0", "type", "bridge"]);
            ns.ip(&["link", "del", "seen0"]);
            udev.log().contains("seen0: Processing")
        };
        assert!(wait_until(Duration::from_secs(10), listens), "{}", udev.log());
        udev
    }

    /// A command that will run where the daemon does, with its /run.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.child.id().to_string(), "--mount", "--net", "--"]);
        command.arg(program);
        command
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said nothing for a second; what it says of /dev/kvm,
    /// which belongs to no namespace, does not count.
    pub fn settle(&self) {
        let said = || {
            let log = self.log();
            let others = log.lines().filter(|line| !line.starts_with("kvm: "));
            others.filter(|line| !line.starts_with("No events")).count()
        };
        let mut before = said();
        for _ in 0..60 {
            std::thread::sleep(Duration::from_secs(1));
            let now = said();
            if now == before {
                return;
            }
            before = now;
        }
        panic!("it does not come to rest: {}", self.log());
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}
