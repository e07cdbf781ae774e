//! A host for `vmbr doctor`: its own /etc and /dev/net/tun, vmbr installed
//! with its helper, and what doctor says of it.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::common::{Ended, run};
use crate::host::Host;

/// An ordinary network.
pub const PLAIN: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip addr add 2001:db8::21/64 dev eth0 nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1";

/// Runs as root in the mount namespace that `ip netns exec` has made; then the
/// rest of the arguments is run. `vmbr` is the installed one, with the host's
/// records.
const SETUP: &str = r#"
set -e
site=$1; records=$2; script=$3; shift 3
mount --bind "$site/etc" /etc
mount --bind "$site/tun" /dev/net/tun
vmbr() { "$site/bin/vmbr" --state-dir "$records" "$@"; }
eval "$script"
"#;

/// The host.
pub struct Site {
    host: Host,
    directory: PathBuf,
}

impl Deref for Site {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Site {
    /// Makes it, with an ordinary network and what `script` adds.
    pub fn new(hint: &str, script: &str) -> Self {
        let host = Host::new(hint, &format!("{PLAIN}\n{script}"));
        let directory = std::env::temp_dir().join(format!("site-{}", host.ns.name()));
        for part in ["bin", "libexec", "etc/qemu", "etc/systemd/network"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        for (from, to) in [
            (env!("CARGO_BIN_EXE_vmbr"), "bin/vmbr"),
            (env!("CARGO_BIN_EXE_vmbr-helper"), "libexec/vmbr-helper"),
        ] {
            fs::copy(from, directory.join(to)).unwrap();
        }
        let site = Self { host, directory };
        let path = site.directory.display();
        run(Command::new("sh").args([
            "-e",
            "-c",
            &format!(
                "chmod 755 {path} {path}/*; cp -a /etc/iproute2 {path}/etc
                 setcap cap_net_admin=p {path}/libexec/vmbr-helper
                 mknod -m 666 {path}/tun c 10 200"
            ),
        ]))
        .ok();
        site
    }

    /// A path below which the site's programs and files are.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file of the site's /etc, for root alone to write.
    pub fn etc(&self, name: &str, text: &str) -> PathBuf {
        let file = self.path("etc").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        file
    }

    /// A command that runs a script on the site by `sh -e`.
    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = self.ns.command("sh");
        command
            .args(["-c", SETUP, "sh"])
            .arg(&self.directory)
            .arg(self.records())
            .arg(script)
            .args(arguments);
        command.env_remove("SUDO_USER");
        command
    }

    /// A command that runs a script on the site, whose end is its.
    pub fn script(&self, script: &str) -> Command {
        self.command(script, &[])
    }

    /// Runs a script on the site; panics where it fails.
    pub fn sh(&self, script: &str) -> String {
        let ended = run(&mut self.command(script, &[]));
        assert!(ended.status.success(), "{script}\n{ended:?}");
        ended.stdout
    }

    /// Runs `vmbr ARGS` after a script.
    pub fn vmbr_after(&self, prelude: &str, args: &[&str]) -> Ended {
        run(&mut self.command(&format!("{prelude}\nvmbr \"$@\""), args))
    }

    /// Runs `vmbr ARGS`.
    pub fn vmbr(&self, args: &[&str]) -> Ended {
        self.vmbr_after("", args)
    }

    /// What doctor says, and its exit status.
    pub fn doctor(&self, args: &[&str]) -> (i32, Vec<Value>) {
        self.doctor_after("", args)
    }

    /// The same after a script.
    pub fn doctor_after(&self, prelude: &str, args: &[&str]) -> (i32, Vec<Value>) {
        let mut all = vec!["--json", "doctor"];
        all.extend_from_slice(args);
        let ended = self.vmbr_after(prelude, &all);
        let document: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
        assert_eq!(document["format"], 1, "{document}");
        (ended.code(), document["findings"].as_array().unwrap().clone())
    }

    /// Asserts that nothing is found.
    pub fn assert_clean(&self) {
        assert_eq!(self.doctor(&[]), (0, vec![]));
    }

    /// The only thing that doctor finds, by its id and its device.
    pub fn only(&self, id: &str, device: Option<&str>) -> Value {
        let (status, findings) = self.doctor(&[]);
        assert_eq!((status, findings.len()), (1, 1), "{findings:?}");
        let finding = &findings[0];
        assert_eq!(finding["id"], id, "{finding}");
        assert_eq!(finding["device"], Value::from(device), "{finding}");
        assert!(
            ["error", "warning"].contains(&finding["severity"].as_str().unwrap()),
            "{finding}"
        );
        for key in ["message", "remedy"] {
            assert!(finding[key].as_str().is_some_and(|t| !t.is_empty()), "{finding}");
        }
        assert!(finding["fixable"].is_boolean(), "{finding}");
        let text = self.vmbr(&["doctor"]);
        assert_eq!(text.code(), 1, "{text:?}");
        for key in ["message", "remedy"] {
            assert!(text.stdout.contains(finding[key].as_str().unwrap()), "{text:?}");
        }
        finding.clone()
    }

    /// Runs a remedy as it would be pasted.
    pub fn paste(&self, finding: &Value) {
        self.sh(finding["remedy"].as_str().unwrap());
    }

    /// Finds a trouble that `--fix` leaves, and mends it by the remedy.
    pub fn by_hand(&self, id: &str, device: Option<&str>) -> Value {
        let finding = self.only(id, device);
        assert_eq!(finding["fixable"], false, "{finding}");
        let (status, findings) = self.doctor(&["--fix"]);
        assert_eq!((status, findings.len()), (1, 1), "{findings:?}");
        assert!(!self.fixes().exists(), "nothing was changed");
        self.paste(&finding);
        self.assert_clean();
        finding
    }

    /// Mends the only finding by `--fix`, and sees that it is remembered.
    pub fn fix(&self, id: &str) {
        let (status, findings) = self.doctor(&["--fix"]);
        assert_eq!((status, findings.len()), (0, 1), "{findings:?}");
        assert_eq!(findings[0]["id"], id);
        assert_eq!(findings[0]["fixed"], true, "{findings:?}");
        assert!(self.fixes().exists(), "nothing was remembered");
        self.assert_clean();
    }

    /// Breaks the host twice: mends it once by the remedy and once by `--fix`.
    pub fn both_ways(&self, breaking: &str, id: &str, device: Option<&str>) -> Value {
        self.assert_clean();
        self.sh(breaking);
        let finding = self.only(id, device);
        assert_eq!(finding["fixable"], true, "{finding}");
        self.paste(&finding);
        self.assert_clean();
        self.sh(breaking);
        self.only(id, device);
        self.fix(id);
        finding
    }

    /// Where it is remembered what `--fix` changed.
    pub fn fixes(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.records()).unwrap();
        let directory = entries.next().map(|entry| entry.unwrap().path());
        directory
            .unwrap_or_else(|| self.records().to_owned())
            .join("doctor.fixes")
    }

    /// `vmbr down`, which undoes what `--fix` changed.
    pub fn down(&self) -> Ended {
        let ended = self.vmbr(&["down"]);
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert!(!self.fixes().exists(), "what was undone is forgotten: {ended:?}");
        ended
    }

    /// `vmbr up eth0`.
    pub fn up(&self) -> Ended {
        let ended = self.vmbr(&["up", "eth0"]);
        assert_eq!(ended.code(), 0, "{ended:?}");
        ended
    }
}
