//! `vmbr run`: a guest by way of the installed helper, as an ordinary user or
//! as root who gives up root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/qemu.rs"]
mod qemu;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use common::stage::{CALLER, Call, Stage, require};
use common::{Ended, wait_until};
use qemu::{QEMU, Qemu};

/// Puts vmbr beside the helper, as it is installed.
fn stage(hint: &str) -> Stage {
    let stage = Stage::new(hint);
    let copy = stage.path("vmbr");
    fs::copy(env!("CARGO_BIN_EXE_vmbr"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    stage.acl_conf("allow br0 user=4711 taps=2\n");
    stage
}

fn call<'a>(arguments: &[&str]) -> Call<'a> {
    let mut words = vec!["run"];
    words.extend(arguments);
    Call::new(&words).program("vmbr")
}

fn run(stage: &Stage, call: &Call<'_>) -> Ended {
    let nothing = fs::File::open("/dev/null").unwrap();
    stage.run_on(call, nothing.into())
}

/// What a command sees of descriptors 3 and up: number and what it is. The
/// stage's own descriptor 3 is /dev/null here.
const LIST: &str = "for fd in /proc/self/fd/*; do n=${fd##*/}; t=$(readlink $fd); \
                    [ $n -gt 2 ] && case $t in /proc/*|'') ;; *) echo $n $t ;; esac; done; echo \"$@\"";

#[test]
fn the_command_gets_the_queues_and_what_it_had_and_nothing_else() {
    let stage = stage("inherit");
    let said = run(
        &stage,
        &call(&[
            "--queues", "2", "--", "sh", "-c", LIST, "sh", "{fds}", "x={fds,}", "{fd1}",
        ]),
    )
    .ok();
    let mut lines: Vec<&str> = said.lines().collect();
    let words = lines.pop().unwrap();
    let taps = lines.iter().filter(|line| line.ends_with(" /dev/net/tun"));
    let numbers: Vec<&str> = taps.map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(numbers.len(), 2, "{said}");
    // What the shell has of its own, and of whoever runs these tests.
    let plain = run(&stage, &Call::new(&["-c", LIST, "sh", "end"]).program("/bin/sh")).ok();
    let had: Vec<&str> = plain
        .lines()
        .filter(|line| line.contains(" /dev/null") || line.contains("pipe:"))
        .collect();
    let has: Vec<&str> = lines
        .into_iter()
        .filter(|line| !line.ends_with(" /dev/net/tun") && line.contains(' '))
        .collect();
    assert!(had.contains(&"3 /dev/null"), "{plain}");
    assert_eq!(has, had, "{said}");
    let (a, b) = (numbers[0], numbers[1]);
    assert_eq!(words, format!("{a}:{b} x={a},{b} {b}"));
    stage.assert_no_tap();
}

#[test]
fn vmbr_becomes_the_command() {
    let stage = stage("place");
    let mut command = stage.command(&call(&[
        "--",
        "sh",
        "-c",
        "echo $$; exec sleep 60",
        "sh",
        "{fds}",
    ]));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let name = format!("/proc/{}/comm", child.id());
    let is_it = wait_until(Duration::from_secs(10), || {
        fs::read_to_string(&name).is_ok_and(|comm| comm.trim() == "sleep")
    });
    assert!(is_it, "{:?}", fs::read_to_string(&name));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    assert_eq!(children.trim(), "", "somebody stays");
    assert_eq!(stage.ports(), ["tap0"]);
    let data = &stage.ns.link("tap0").unwrap()["linkinfo"]["info_data"];
    assert_eq!((&data["user"], &data["vnet_hdr"]), (&CALLER.into(), &true.into()));
    child.kill().unwrap();
    child.wait().unwrap();
    stage.assert_no_tap();
}

#[test]
fn bad_usage_and_refusals_start_nothing() {
    let stage = stage("usage");
    let touch = stage.path("started").display().to_string();
    fs::set_permissions(stage.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    for (arguments, status, said) in [
        (&["--", "touch", &touch][..], 2, "write {fds} where"),
        (&["--", "touch", &touch, "{fds}", "{vhostfds}"], 2, "say --vhost"),
        (
            &["--vhost", "--", "touch", &touch, "{fds}"],
            2,
            "nothing in COMMAND takes {vhostfds}",
        ),
        (
            &["--queues", "2", "--", "touch", &touch, "{fd2}"],
            2,
            "there is no {fd2}",
        ),
        (&["--queues", "254", "--", "touch", &touch, "{fds}"], 2, "254"),
        (&["touch", &touch, "{fds}"], 2, "--"),
        (
            &["--vhost", "--", "touch", &touch, "{fds}{vhostfds}"],
            3,
            "cannot open /dev/vhost-net: No such file or directory",
        ),
        (
            &["--bridge", "br9", "--", "touch", &touch, "{fds}"],
            3,
            "refused: access denied",
        ),
        (
            &["--user", "root", "--", "touch", &touch, "{fds}"],
            3,
            "--user is for root",
        ),
        (
            &["--", "/no/such/program", "{fds}"],
            1,
            "cannot start /no/such/program",
        ),
    ] {
        let ended = run(&stage, &call(arguments));
        assert_eq!(ended.code(), status, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(said), "{arguments:?}: {ended:?}");
    }
    let json = run(
        &stage,
        &call(&["--json", "--bridge", "br9", "--", "true", "{fds}"]),
    );
    let document: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(document["error"]["status"], 3, "{document}");
    // The quota is the helper's.
    let nest = stage.path("nest.sh");
    let script = format!(
        "[ $1 = 0 ] && exec touch {touch}\nexec {} run -- /bin/sh $0 $(($1 - 1)) '{{fds}}'\n",
        stage.path("vmbr").display()
    );
    fs::write(&nest, script).unwrap();
    let nested = Call::new(&[nest.to_str().unwrap(), "3"]).program("/bin/sh");
    let ended = run(&stage, &nested);
    assert!(
        ended.code() == 3 && ended.stderr.contains("your 2 TAPs on br0 are all in use"),
        "{ended:?}"
    );
    assert!(!stage.path("started").exists());
    stage.assert_no_tap();
}

#[test]
fn vhost_is_opened_for_each_queue() {
    let stage = stage("vhost");
    // The kernel's own is not everywhere; what counts is that it is opened as
    // often as there are queues, and by whom.
    let prelude = "mknod -m 666 /dev/vhost-net c 1 5";
    let arguments = [
        "--queues",
        "3",
        "--vhost",
        "--",
        "sh",
        "-c",
        LIST,
        "sh",
        "{fds}",
        "{vhostfds}",
        "{vhostfd2}",
    ];
    let said = run(&stage, &call(&arguments).prelude(prelude)).ok();
    let vhost: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_suffix(" /dev/vhost-net"))
        .collect();
    assert_eq!(vhost.len(), 3, "{said}");
    let end = format!(" {} {}", vhost.join(":"), vhost[2]);
    assert!(said.trim_end().ends_with(&end), "{said}");
    let closed = run(
        &stage,
        &call(&arguments).prelude("mknod -m 600 /dev/vhost-net c 1 5"),
    );
    assert!(
        closed.code() == 3 && closed.stderr.contains("group kvm"),
        "{closed:?}"
    );
}

#[test]
fn root_gives_up_root() {
    let stage = stage("root");
    stage.etc(
        "passwd",
        "root:x:0:0::/root:/bin/sh\nalice:x:4711:4712:Alice:/home/alice:/bin/sh\n",
    );
    stage.etc(
        "group",
        "root:x:0:root\nalice:x:4712:\nkvm:x:36:alice,root\nadm:x:4:root\n",
    );
    stage.etc("nsswitch.conf", "passwd: files\ngroup: files\n");
    let look = "grep -E '^(Uid|Gid|Groups|Cap...):' /proc/self/status; echo $HOME $USER $LOGNAME $KEPT";
    for user in ["alice", "4711"] {
        let arguments = ["--user", user, "--", "sh", "-c", look, "sh", "{fds}"];
        let call = call(&arguments)
            .uid(0)
            .prelude("export KEPT=kept HOME=/root USER=root");
        let said = run(&stage, &call).ok();
        let zero = "0000000000000000";
        for line in [
            "Uid:\t4711\t4711\t4711\t4711".to_owned(),
            "Gid:\t4712\t4712\t4712\t4712".into(),
            "Groups:\t36 4712".into(),
            format!("CapInh:\t{zero}"),
            format!("CapPrm:\t{zero}"),
            format!("CapEff:\t{zero}"),
            format!("CapAmb:\t{zero}"),
            "/home/alice alice alice kept".into(),
        ] {
            assert!(
                said.lines().any(|found| found.trim_end() == line),
                "no {line} in {said}"
            );
        }
    }
    // Whom the ACL does not allow does not get in by root's hand, nor root.
    stage.acl_conf("allow br0 user=4712\n");
    for arguments in [
        &["--user", "alice", "--", "true", "{fds}"][..],
        &["--", "true", "{fds}"],
    ] {
        let ended = run(&stage, &call(arguments).uid(0));
        assert!(
            ended.code() == 3 && ended.stderr.contains("access denied"),
            "{ended:?}"
        );
    }
    let nobody = run(&stage, &call(&["--user", "carol", "--", "true", "{fds}"]).uid(0));
    assert!(
        nobody.code() == 3 && nobody.stderr.contains("there is no user carol"),
        "{nobody:?}"
    );
    // With half of the privilege nothing is started.
    let wrapper = ["setpriv", "--bounding-set", "-setuid", "--inh-caps", "-setuid"];
    let half = call(&["--user", "alice", "--", "true", "{fds}"])
        .uid(0)
        .wrapper(&wrapper);
    assert_eq!(run(&stage, &half).code(), 1);
    stage.assert_no_tap();
}

#[test]
fn qemu_runs_in_its_sandbox_with_several_queues() {
    require(QEMU, "qemu-system-x86");
    let stage = stage("sandbox");
    let netdev = "tap,id=n0,fds={fds}";
    let arguments = [
        "--queues",
        "4",
        "--",
        QEMU,
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-M",
        "q35",
        "-accel",
        "tcg",
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-netdev",
        netdev,
        "-device",
        "virtio-net-pci,netdev=n0,mq=on,vectors=10,mac=52:54:00:00:00:50,romfile=",
    ];
    let mut qemu = Qemu::start(&stage, "qemu", call(&arguments));
    assert_eq!(qemu.credentials(), (CALLER, 0));
    let data = &stage.ns.link("tap0").unwrap()["linkinfo"]["info_data"];
    assert_eq!(
        data["numqueues"].as_u64().unwrap() + data["numdisabled"].as_u64().unwrap(),
        4,
        "{data}"
    );
    assert_eq!(stage.ports(), ["tap0"]);
    let pid = qemu.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    qemu.ask("quit", &serde_json::json!({}));
    qemu.wait();
    stage.assert_no_tap();
}
