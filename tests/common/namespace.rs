//! A network namespace that lives as long as its guard.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::process::{run, wait_until};

static NEXT: AtomicU32 = AtomicU32::new(0);
static CHECKED: Once = Once::new();

/// A named network namespace, deleted with all that runs in it on drop.
pub struct Namespace {
    name: String,
}

/// One end of a veth pair: where it is, its name, and its MAC if it matters.
pub struct VethEnd<'a> {
    /// The namespace that the end is made in.
    pub namespace: &'a Namespace,
    /// The name of the device.
    pub name: &'a str,
    /// The MAC, or the kernel's random one.
    pub mac: Option<&'a str>,
}

/// Panics with the reason if namespaces cannot be made here.
fn require_namespaces() {
    CHECKED.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let uids = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
        let effective = uids.split_whitespace().nth(2).unwrap();
        assert_eq!(
            effective, "0",
            "these tests make network namespaces: run them as root"
        );
    });
}

impl Namespace {
    /// Makes an empty namespace with `lo` up. `hint` becomes part of its name.
    pub fn new(hint: &str) -> Self {
        require_namespaces();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmbr-{}-{number}-{hint}", std::process::id());
        let netns = |verb| {
            let mut ip = Command::new("ip");
            ip.args(["netns", verb, &name]).output().expect("running ip")
        };
        let mut made = netns("add");
        // Of a run that was killed, whose process had this one's number.
        if !made.status.success() && netns("del").status.success() {
            made = netns("add");
        }
        assert!(
            made.status.success(),
            "`ip netns add {name}` does not work here, so this test cannot run: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let namespace = Self { name };
        let inside = fs::metadata(namespace.path()).expect("the new namespace");
        let ours = fs::metadata("/proc/self/ns/net").expect("our own namespace");
        let same = {
            use std::os::unix::fs::MetadataExt;
            (inside.dev(), inside.ino()) == (ours.dev(), ours.ino())
        };
        assert!(!same, "{} is the machine's own network namespace", namespace.name);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it, for `setns` or `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command that will run inside. `ip netns exec` also gives it a mount
    /// namespace with /sys of this network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs `ip ARGS` inside; panics with what it said if it fails.
    pub fn ip(&self, args: &[&str]) -> String {
        self.tool("ip", args)
    }

    /// Runs `bridge ARGS` inside; panics with what it said if it fails.
    pub fn bridge(&self, args: &[&str]) -> String {
        self.tool("bridge", args)
    }

    /// `ip -j ARGS` as a JSON value; an empty output is an empty list.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["-j"];
        all.extend_from_slice(args);
        parse(&self.tool("ip", &all))
    }

    /// `bridge -j ARGS` as a JSON value; an empty output is an empty list.
    pub fn bridge_json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["-j"];
        all.extend_from_slice(args);
        parse(&self.tool("bridge", &all))
    }

    /// One device as `ip -j -d link` tells it, or `None` if there is no such.
    pub fn link(&self, name: &str) -> Option<serde_json::Value> {
        let all = self.json(&["-d", "link", "show"]);
        all.as_array()
            .unwrap()
            .iter()
            .find(|l| l["ifname"] == name)
            .cloned()
    }

    /// The names of all devices inside, in the kernel's order.
    pub fn links(&self) -> Vec<String> {
        let all = self.json(&["link", "show"]);
        all.as_array()
            .unwrap()
            .iter()
            .map(|l| l["ifname"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The value of a sysctl inside, without its newline. `key` is a path
    /// below /proc/sys, for instance `net/ipv4/conf/eth0/rp_filter`.
    pub fn sysctl(&self, key: &str) -> String {
        self.tool("cat", &[&format!("/proc/sys/{key}")])
            .trim_end()
            .to_owned()
    }

    /// Writes a sysctl inside; panics if the kernel refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        assert!(
            key.starts_with("net/"),
            "{key} is not a sysctl of a network namespace"
        );
        self.tool(
            "sh",
            &[
                "-c",
                "printf %s \"$2\" >\"$1\"",
                "sh",
                &format!("/proc/sys/{key}"),
                value,
            ],
        );
    }

    /// The ids of the processes that run inside.
    pub fn pids(&self) -> Vec<u32> {
        let out = Command::new("ip")
            .args(["netns", "pids", &self.name])
            .output()
            .expect("running ip");
        let text = String::from_utf8_lossy(&out.stdout);
        text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
    }

    fn tool(&self, program: &str, args: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(args);
        let ended = run(&mut command);
        assert!(
            ended.status.success(),
            "in {}: {program} {}: {}{}",
            self.name,
            args.join(" "),
            ended.stderr,
            ended.stdout
        );
        ended.stdout
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What a test started and left goes with its namespace, each by its
        // own id: a watchdog may need a moment to be reaped.
        let empty = wait_until(Duration::from_secs(5), || {
            let pids = self.pids();
            for pid in &pids {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
            }
            pids.is_empty()
        });
        let deleted = Command::new("ip").args(["netns", "del", &self.name]).output();
        if !std::thread::panicking() {
            assert!(empty, "something in {} would not die", self.name);
            let deleted = deleted.expect("running ip");
            assert!(
                deleted.status.success(),
                "{}",
                String::from_utf8_lossy(&deleted.stderr)
            );
        }
    }
}

/// Makes a veth pair with one end in each namespace, both down.
pub fn veth_pair(one: &VethEnd<'_>, other: &VethEnd<'_>) {
    let mut args = vec!["link", "add", "name", one.name];
    if let Some(mac) = one.mac {
        args.extend(["address", mac]);
    }
    args.extend(["type", "veth", "peer", "name", other.name]);
    if let Some(mac) = other.mac {
        args.extend(["address", mac]);
    }
    // The end is made in its namespace at once: moving it later would let a
    // device manager or a second test see it under way.
    args.extend(["netns", other.namespace.name()]);
    one.namespace.ip(&args);
}

fn parse(text: &str) -> serde_json::Value {
    if text.trim().is_empty() {
        return serde_json::Value::Array(Vec::new());
    }
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
}
