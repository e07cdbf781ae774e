//! Virtual machine monitors that are not QEMU: Firecracker, cloud-hypervisor
//! and crosvm take their TAPs each in its own way. tests/vmm/guest does what
//! they do, ioctl by ioctl, and is a guest that answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/host.rs"]
mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::stage::{Call, Stage};
use common::{Namespace, VethEnd, run, veth_pair, wait_until};
use host::{ping, script_in};

const ADDRESS: &str = "192.0.2.50";
const MAC: &str = "52:54:00:12:34:56";
/// Whom the jailer makes of the monitor.
const JAILED: &str = "4242";

/// A host with a bridge that has an address, `vmbr`, and the guest's program
/// where every user can run it.
fn stage(hint: &str) -> Stage {
    let stage = Stage::new(hint);
    stage.ns.ip(&["addr", "add", "192.0.2.1/24", "dev", "br0"]);
    for (name, from) in [
        ("vmbr", env!("CARGO_BIN_EXE_vmbr")),
        ("guest", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vmm/guest")),
    ] {
        let copy = stage.path(name);
        fs::copy(from, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    stage.acl_conf("allow br0 user=4711 taps=2\n");
    stage
}

/// A monitor that runs, or has ended with what it said.
struct Monitor {
    child: Child,
    said: PathBuf,
}

impl Monitor {
    fn start(stage: &Stage, command: &mut Command, hint: &str) -> Self {
        let said = stage.path(&format!("{hint}.said"));
        let (out, err) = (fs::File::create(&said).unwrap(), fs::File::options());
        let err = { err }.append(true).open(&said).unwrap();
        let child = command
            .env("GUEST_ADDRESS", ADDRESS)
            .env("GUEST_MAC", MAC)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap();
        Self { child, said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Asserts that it has the TAP, as `queues` queues, and that its guest is
    /// reached from `ns`.
    fn assert_reached(mut self, queues: usize, uid: &str, ns: &Namespace) {
        let wanted = format!("taken, {queues} queues, as {uid}");
        let taken = wait_until(Duration::from_secs(10), || {
            self.said().contains(&wanted) || self.child.try_wait().unwrap().is_some()
        });
        assert!(taken && self.said().contains(&wanted), "{}", self.said());
        assert!(ping(ns, ADDRESS), "{} does not answer", self.said());
    }

    /// What it said when it gave up.
    fn refused(mut self) -> String {
        let ended = wait_until(Duration::from_secs(10), || {
            self.child.try_wait().unwrap().is_some()
        });
        assert!(ended, "it runs: {}", self.said());
        assert_eq!(self.child.wait().unwrap().code(), Some(1), "{}", self.said());
        self.said()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `vmbr run` with a monitor as its command.
fn by_run(stage: &Stage, words: &[&str], hint: &str) -> Monitor {
    let program = stage.path("guest");
    let (options, monitor) = words.split_at(words.iter().position(|word| *word == "--").unwrap() + 1);
    let line = [&["run"], options, &[program.to_str().unwrap()], monitor].concat();
    let call = Call::new(&line).program("vmbr");
    Monitor::start(stage, &mut stage.command(&call), hint)
}

#[test]
fn what_takes_descriptors_gets_them_from_vmbr_run() {
    let stage = stage("vmm-run");
    let cases = [
        (&["--", "crosvm", "tap-fd={fd0}"][..], 1),
        (&["--", "cloud-hypervisor", "fd=[{fds,}]"], 1),
        (
            &[
                "--queues",
                "2",
                "--",
                "cloud-hypervisor",
                "fd=[{fds,}],num_queues=4",
            ],
            2,
        ),
    ];
    for (number, (words, queues)) in cases.into_iter().enumerate() {
        by_run(&stage, words, &format!("run{number}")).assert_reached(queues, "4711", &stage.ns);
        // The TAP goes with the monitor.
        stage.assert_no_tap();
    }
    let half = [
        "--queues",
        "2",
        "--",
        "cloud-hypervisor",
        "fd=[{fds,}],num_queues=2",
    ];
    let said = by_run(&stage, &half, "half").refused();
    assert!(said.contains("does not match the number"), "{said}");
}

/// `vmbr` as root in a namespace.
fn vmbr(stage: &Stage, ns: &Namespace, words: &[&str]) {
    let mut command = ns.command(stage.path("vmbr"));
    run(command.arg("--state-dir").arg(stage.path("records")).args(words)).ok();
}

/// A monitor of that user in a namespace, by the TAP's name.
fn by_name(stage: &Stage, ns: &Namespace, uid: &str, words: &[&str], hint: &str) -> Monitor {
    let mut command = ns.command("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups"]);
    Monitor::start(stage, command.arg(stage.path("guest")).args(words), hint)
}

#[test]
fn what_takes_a_name_gets_the_tap_of_its_owner() {
    let stage = stage("vmm-name");
    let add = |name, queues| {
        let options = ["--bridge", "br0", "--owner", JAILED, "--queues", queues];
        vmbr(&stage, &stage.ns, &[&["tap", "add", name], &options[..]].concat());
    };
    add("one0", "1");
    add("two0", "2");
    let one = ["cloud-hypervisor", "tap=one0"];
    let two = ["cloud-hypervisor", "tap=two0,num_queues=4"];
    let fire = |tap| ["firecracker", tap];
    let start = |words: &[&str], hint| by_name(&stage, &stage.ns, JAILED, words, hint);
    start(&one, "one").assert_reached(1, JAILED, &stage.ns);
    start(&two, "two").assert_reached(2, JAILED, &stage.ns);
    start(&fire("one0"), "fire").assert_reached(1, JAILED, &stage.ns);
    // Firecracker takes one queue: the TAP has to be of one.
    let said = start(&fire("two0"), "fire-two").refused();
    assert!(said.contains("Invalid argument"), "{said}");
    let said = by_name(&stage, &stage.ns, "4243", &one, "another").refused();
    assert!(said.contains("Operation not permitted"), "{said}");
}

/// The jailer's: root of an empty directory, a node of its own, no privilege.
fn jailed(stage: &Stage, ns: &Namespace, tap: &str, hint: &str) -> Monitor {
    let jail = stage.path(hint);
    let mut command = ns.command(stage.path("guest"));
    command.env("JAIL", format!("{}:{JAILED}", jail.display()));
    Monitor::start(stage, command.args(["firecracker", tap]), hint)
}

#[test]
fn a_jailed_firecracker_takes_its_tap() {
    let stage = stage("vmm-jail");
    let options = ["--owner", JAILED, "--mac", MAC, "--guard", ADDRESS];
    vmbr(
        &stage,
        &stage.ns,
        &[&["tap", "add", "fc0", "--bridge", "br0"], &options[..]].concat(),
    );
    jailed(&stage, &stage.ns, "fc0", "jail0").assert_reached(1, JAILED, &stage.ns);
    // Its MAC is no other port's as long as that one stands.
    vmbr(&stage, &stage.ns, &["tap", "del", "fc0"]);

    // In a namespace of its own (--netns) it reaches a bridge of that, which
    // has a cable to the host's.
    let fc1 = Namespace::new("fc1");
    let end = |namespace, name| VethEnd {
        namespace,
        name,
        mac: None,
    };
    veth_pair(&end(&stage.ns, "fc1"), &end(&fc1, "eth0"));
    script_in(&stage.ns, "ip link set fc1 master br0 up");
    script_in(
        &fc1,
        "ip link add br0 type bridge; ip link set eth0 master br0 up; ip link set br0 up",
    );
    vmbr(
        &stage,
        &fc1,
        &[&["tap", "add", "tap0", "--bridge", "br0"], &options[..]].concat(),
    );
    jailed(&stage, &fc1, "tap0", "jail1").assert_reached(1, JAILED, &stage.ns);
    let said = jailed(&stage, &fc1, "fc0", "jail2").refused();
    // The host's is not there, and a new one takes a privilege.
    assert!(said.contains("Operation not permitted"), "{said}");
}
