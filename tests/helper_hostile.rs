//! The caller as an adversary: descriptors, limits, environment, files, and
//! what the answers tell him.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use common::run;
use common::stage::{CALLER, Call, Stage};

const ARGUMENTS: [&str; 3] = ["--use-vnet", "--fd=3", "--br=br0"];
const DENIED: &str = "vmbr-helper: access denied; the reason is in the system's log, for its administrator\n";

#[test]
fn a_denied_caller_learns_the_same_about_every_name() {
    let stage = Stage::new("denied");
    stage
        .ns
        .ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
    let acls = [
        None,
        Some(""),
        Some("allow other\n"),
        Some("allow all\ndeny all\n"),
        Some("allow all\nnonsense\n"),
        Some("allow all\ninclude /etc/qemu/missing\n"),
        Some("allow all\ninclude /etc\n"),
        Some("allow all # yes\n"),
        Some("allow all\n\0"),
    ];
    for acl in acls {
        if let Some(text) = acl {
            stage.bridge_conf(text);
        }
        // A bridge, a device that is none, and a name that nothing has.
        for name in ["br0", "veth0", "lo", "no-such"] {
            let said = stage.call(&["--fd=3", &format!("--br={name}")]).refused(3);
            assert_eq!(said, DENIED, "{acl:?} {name}");
            let log = stage.logged();
            assert_eq!(log.len(), 1, "{acl:?} {log:?}");
            let start = format!("uid {CALLER}, bridge {name}: access denied: ");
            assert!(log[0].contains(&start), "{log:?}");
        }
    }
    stage.assert_no_tap();
}

#[test]
fn a_denied_caller_causes_the_same_system_calls_for_every_name() {
    let stage = Stage::new("timing");
    stage.bridge_conf("allow other\n");
    let calls = |name: &str| {
        let file = stage.path("trace");
        let wrapper = ["strace", "-qq", "-o", file.to_str().unwrap()];
        stage
            .run(
                &Call::new(&["--fd=3", &format!("--br={name}")])
                    .uid(0)
                    .wrapper(&wrapper),
            )
            .refused(3);
        let text = fs::read_to_string(&file).unwrap();
        let names = text.lines().map(|l| l.split('(').next().unwrap().to_owned());
        // The allocator's calls depend on where the kernel put things.
        names
            .filter(|n| !["brk", "mmap", "munmap", "prctl"].contains(&n.as_str()))
            .collect::<Vec<_>>()
    };
    let existing = calls("br0");
    assert_eq!(existing, calls("br9"));
    assert!(
        !existing.iter().any(|c| c == "ioctl"),
        "a device was asked about: {existing:?}"
    );
}

#[test]
fn the_log_names_file_and_line() {
    let stage = Stage::new("log");
    let cases = [
        (
            "allow br0\n\n  deny br0\n",
            "access denied: /etc/qemu/bridge.conf:3: a line denies it",
        ),
        (
            "allow br1\n",
            "access denied: /etc/qemu/bridge.conf: no line allows it",
        ),
        (
            "\nallow br0 br1\n",
            "access denied: /etc/qemu/bridge.conf:2:7: what follows the word cannot be the name of one bridge, \
             so nothing is allowed",
        ),
    ];
    for (text, reason) in cases {
        stage.bridge_conf(text);
        assert_eq!(stage.call(&ARGUMENTS).refused(3), DENIED);
        let log = stage.logged();
        assert!(log[0].starts_with("<8") && log[0].ends_with(reason), "{log:?}");
    }
}

#[test]
fn an_acl_that_is_no_plain_file_of_root_denies_and_never_waits() {
    let stage = Stage::new("files");
    let conf = stage.path("etc/qemu/bridge.conf");
    let extra = stage.path("etc/qemu/extra");
    let in_stage = |prelude: &str| stage.run(&Call::new(&ARGUMENTS).prelude(prelude));

    run(Command::new("mkfifo").arg(&conf)).ok();
    assert_eq!(in_stage("").refused(3), DENIED);
    assert!(stage.logged()[0].contains("not a regular file"));
    fs::remove_file(&conf).unwrap();
    fs::create_dir(&conf).unwrap();
    assert_eq!(in_stage("").refused(3), DENIED);
    fs::remove_dir(&conf).unwrap();

    stage.bridge_conf("allow br0\ninclude /etc/qemu/extra\n");
    run(Command::new("mkfifo").arg(&extra)).ok();
    assert_eq!(in_stage("").refused(3), DENIED);
    fs::remove_file(&extra).unwrap();
    stage.etc("qemu/extra", "");
    in_stage("").descriptors();
    assert_eq!(in_stage("chown 4711 /etc/qemu/extra").refused(3), DENIED);
    assert_eq!(in_stage("chmod g+w /etc/qemu/extra").refused(3), DENIED);
    assert_eq!(in_stage("chmod o+w /etc/qemu/bridge.conf").refused(3), DENIED);
    assert_eq!(in_stage("chown 4711 /etc/qemu/bridge.conf").refused(3), DENIED);

    // A symbolic link is the administrator's affair; a broken one denies.
    fs::remove_file(&extra).unwrap();
    stage.etc("qemu/target", "");
    symlink("/etc/qemu/target", &extra).unwrap();
    in_stage("").descriptors();
    assert_eq!(in_stage("rm /etc/qemu/target").refused(3), DENIED);
    assert_eq!(in_stage("ln -sf extra /etc/qemu/extra").refused(3), DENIED);
    assert_eq!(
        in_stage("chown -h 4711 /etc/qemu/extra; ln -sf /proc/self/mem /etc/qemu/extra").refused(3),
        DENIED
    );
    let huge = "yes '#' | head -c 1048577 >/etc/qemu/extra";
    assert_eq!(in_stage(huge).refused(3), DENIED);
    stage.assert_no_tap();
}

#[test]
fn files_that_only_a_group_may_read_are_its_policy() {
    let stage = Stage::new("group");
    stage.bridge_conf("include /etc/qemu/group.conf\n");
    stage.etc("qemu/group.conf", "allow br0\n");
    let prelude = "chown 0:900 /etc/qemu/group.conf; chmod 640 /etc/qemu/group.conf";
    let member = Call {
        groups: &[900],
        ..Call::new(&ARGUMENTS)
    }
    .prelude(prelude);
    stage.run(&member).descriptors();
    let other = Call {
        groups: &[901],
        ..Call::new(&ARGUMENTS)
    }
    .prelude(prelude);
    assert_eq!(stage.run(&other).refused(3), DENIED);

    // In acl.conf the same is an error unless it is said to be meant.
    let secret = "chown 0:900 /etc/vmbr/x; chmod 640 /etc/vmbr/x";
    stage.etc("vmbr/x", "deny br1\n");
    for (text, allowed) in [
        ("allow br0\ninclude x\n", false),
        ("allow br0 # mine\ninclude-readable x # theirs\n", true),
    ] {
        stage.acl_conf(text);
        let answer = stage.run(&Call::new(&ARGUMENTS).prelude(secret));
        if allowed {
            drop(answer.descriptors())
        } else {
            assert_eq!(answer.refused(3), DENIED)
        }
    }
}

#[test]
fn vmbrs_own_file_hides_qemus_even_when_it_leads_nowhere() {
    let stage = Stage::new("own");
    stage.bridge_conf("allow br0\n");
    stage.acl_conf("# nothing\n");
    assert_eq!(stage.call(&ARGUMENTS).refused(3), DENIED);
    fs::remove_file(stage.path("etc/vmbr/acl.conf")).unwrap();
    symlink("/nowhere", stage.path("etc/vmbr/acl.conf")).unwrap();
    assert_eq!(stage.call(&ARGUMENTS).refused(3), DENIED);
    fs::remove_file(stage.path("etc/vmbr/acl.conf")).unwrap();
    assert_eq!(
        stage
            .run(&Call::new(&ARGUMENTS).prelude("chmod 700 /etc/vmbr"))
            .refused(3),
        DENIED
    );
    stage.call(&ARGUMENTS).descriptors();
}

#[test]
fn only_a_connected_unix_stream_is_answered_on() {
    let stage = Stage::new("sockets");
    stage.bridge_conf("allow br0\n");
    let listener = UnixListener::bind(stage.path("listener")).unwrap();
    let internet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpStream::connect(internet.local_addr().unwrap()).unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    let (datagram, _peer) = UnixDatagram::pair().unwrap();
    let unconnected = UnixDatagram::unbound().unwrap();
    let odd: [(&str, OwnedFd); 7] = [
        ("a listening socket", listener.into()),
        ("TCP", tcp.into()),
        ("a pipe", writer.into()),
        ("a datagram socket", datagram.into()),
        ("an unconnected socket", unconnected.into()),
        ("a file", fs::File::open("/dev/null").unwrap().into()),
        ("a directory", fs::File::open("/").unwrap().into()),
    ];
    for (what, fd) in odd {
        let ended = stage.run_on(&Call::new(&ARGUMENTS), fd);
        assert_eq!(ended.code(), 3, "{what}: {ended:?}");
        assert!(
            ended.stderr.contains("no connected AF_UNIX stream socket"),
            "{what}: {ended:?}"
        );
    }
    for number in ["4", "99", "2147483647"] {
        let said = stage.call(&[&format!("--fd={number}"), "--br=br0"]).refused(3);
        assert!(said.contains("no descriptor of this number is open"), "{said}");
    }
    // The other side is gone: the TAP goes too.
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let ended = stage.run_on(&Call::new(&ARGUMENTS), theirs.into());
    assert_eq!(
        (ended.code(), ended.stderr.contains("Broken pipe")),
        (1, true),
        "{ended:?}"
    );
    stage.assert_no_tap();
}

#[test]
fn closed_descriptors_do_not_become_the_tap() {
    let stage = Stage::new("closed");
    stage.bridge_conf("allow br0\n");
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let script = format!("exec \"$@\" {closed}");
        let wrapper = ["sh", "-c", script.as_str(), "sh"];
        assert_eq!(
            stage
                .run(&Call::new(&ARGUMENTS).wrapper(&wrapper))
                .descriptors()
                .len(),
            1
        );
        // Numbers 0 to 2 of the helper itself are never a TAP, a socket or
        // the ACL: every ioctl and every message uses a higher one.
        let file = stage.path("trace");
        let traced = [
            "sh",
            "-c",
            script.as_str(),
            "sh",
            "strace",
            "-qq",
            "-o",
            file.to_str().unwrap(),
        ];
        stage
            .run(&Call::new(&ARGUMENTS).uid(0).wrapper(&traced))
            .descriptors();
        let trace = fs::read_to_string(&file).unwrap();
        for line in trace
            .lines()
            .filter(|l| l.starts_with("ioctl(") || l.contains("/dev/net/tun"))
        {
            let number = line
                .strip_prefix("ioctl(")
                .unwrap_or_else(|| line.rsplit("= ").next().unwrap());
            let number: u32 = number
                .split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert!(number > 3, "{line}");
        }
        // A denial with nowhere to say it is still one.
        let denied = Call::new(&["--fd=3", "--br=other"]).wrapper(&wrapper);
        assert_eq!(stage.run(&denied).ended.code(), 3);
    }
    stage.assert_no_tap();
}

#[test]
fn outputs_that_nobody_reads_change_nothing() {
    let stage = Stage::new("outputs");
    stage.bridge_conf("allow br0\n");
    let script =
        "mkfifo /tmp/vmbr-$$; exec 9<>/tmp/vmbr-$$ 2>/tmp/vmbr-$$ 9<&-; rm /tmp/vmbr-$$; exec \"$@\"";
    let wrapper = ["sh", "-c", script, "sh"];
    let denied = Call::new(&["--fd=3", "--br=other"]).wrapper(&wrapper);
    assert_eq!(stage.run(&denied).ended.code(), 3, "a pipe without a reader");
    let full = ["sh", "-c", "exec \"$@\" 2>/dev/full >/dev/full", "sh"];
    let denied = Call::new(&["--fd=3", "--br=other"]).wrapper(&full);
    assert_eq!(stage.run(&denied).ended.code(), 3, "a full device");
    let help = Call::new(&["--help"]).wrapper(&full);
    assert_eq!(
        stage.run(&help).ended.code(),
        1,
        "a text that could not be written was not told"
    );
}

#[test]
fn limits_make_it_fail_and_never_half_succeed() {
    let stage = Stage::new("limits");
    stage.bridge_conf("allow br0\n");
    for open in 4..12 {
        let limit = format!("--nofile={open}:{open}");
        let wrapper = ["prlimit", limit.as_str(), "--"];
        let answer = stage.run(&Call::new(&ARGUMENTS).wrapper(&wrapper));
        let sent = answer.received.descriptors.len();
        assert_eq!(
            sent,
            usize::from(answer.ended.status.success()),
            "{limit}: {:?}",
            answer.ended
        );
        assert_eq!(sent == 1, open >= 7, "{limit}: {:?}", answer.ended);
        drop(answer);
        stage.assert_no_tap();
    }
    let queues = ["--fd=3", "--br=br0", "--queues=253"];
    let wrapper = ["prlimit", "--nofile=100:100", "--"];
    let said = stage.run(&Call::new(&queues).wrapper(&wrapper)).refused(3);
    assert!(said.contains("ulimit -n"), "{said}");
    for limits in [
        ["--fsize=0:0", "--core=0:0"],
        ["--nproc=1:1", "--memlock=0:0"],
        ["--sigpending=0:0", "--nice=0:0"],
    ] {
        let wrapper = ["prlimit", limits[0], limits[1], "--"];
        stage.run(&Call::new(&ARGUMENTS).wrapper(&wrapper)).descriptors();
        stage.assert_no_tap();
    }
    let wrapper = ["prlimit", "--as=100000:100000", "--"];
    let answer = stage.run(&Call::new(&ARGUMENTS).wrapper(&wrapper));
    assert!(!answer.ended.status.success() && answer.received.descriptors.is_empty());
    stage.assert_no_tap();
}

#[test]
fn the_environment_the_directory_and_the_signals_mean_nothing() {
    let stage = Stage::new("environment");
    stage.bridge_conf("allow br0\n");
    let environment = [
        "env",
        "-i",
        "PATH=/nowhere",
        "HOME=/nowhere",
        "TZ=/etc/shadow",
        "LD_PRELOAD=/nowhere.so",
        "LD_LIBRARY_PATH=/nowhere",
        "MALLOC_ARENA_MAX=0",
        "GCONV_PATH=/nowhere",
        "RUST_BACKTRACE=full",
        "RUST_LOG=trace",
        "VMBR_ACL=/nowhere",
        "XDG_CONFIG_HOME=/nowhere",
    ];
    stage
        .run(&Call::new(&ARGUMENTS).wrapper(&environment))
        .descriptors();
    stage.assert_no_tap();
    let script = "mkdir /tmp/vmbr-gone-$$; cd /tmp/vmbr-gone-$$; rmdir /tmp/vmbr-gone-$$; umask 777; \
                  trap '' PIPE HUP INT TERM CHLD ALRM XFSZ; exec \"$@\"";
    stage
        .run(&Call::new(&ARGUMENTS).wrapper(&["sh", "-c", script, "sh"]))
        .descriptors();
    stage.assert_no_tap();
    // QEMU runs it with SIGCHLD blocked.
    let blocked = ["env", "--block-signal", "--ignore-signal=PIPE"];
    stage.run(&Call::new(&ARGUMENTS).wrapper(&blocked)).descriptors();
    stage.assert_no_tap();
    // A relative include is looked for beside its file, not in the caller's
    // directory.
    stage.bridge_conf("allow br0\ninclude rules\n");
    stage.etc("qemu/rules", "deny br0\n");
    let here =
        "mkdir -p /tmp/vmbr-cwd-$$; cd /tmp/vmbr-cwd-$$; echo >rules; rm -r /tmp/vmbr-cwd-$$; exec \"$@\"";
    assert_eq!(
        stage
            .run(&Call::new(&ARGUMENTS).wrapper(&["sh", "-c", here, "sh"]))
            .refused(3),
        DENIED
    );
}

#[test]
fn a_log_that_hangs_or_is_missing_stops_no_guest() {
    let stage = Stage::new("nolog");
    stage.bridge_conf("allow br0\n");
    stage
        .run(&Call::new(&ARGUMENTS).prelude("rm /dev/log"))
        .descriptors();
    stage.assert_no_tap();
    // Nobody reads: the queue of a datagram socket is full after a few.
    let mut full = 0;
    for _ in 0..40 {
        let started = std::time::Instant::now();
        stage.call(&ARGUMENTS).descriptors();
        full += u32::from(started.elapsed() >= std::time::Duration::from_secs(1));
        if full == 2 {
            return;
        }
    }
    panic!("the log never filled up, so this showed nothing");
}

#[test]
fn odd_bytes_in_arguments_are_usage_and_are_not_repeated() {
    let stage = Stage::new("bytes");
    stage.bridge_conf("allow all\n");
    for argument in [
        "--br=\u{1b}[31mred",
        "--br=br\u{f6}",
        "\u{1b}]0;title\u{7}",
        "--fd=\u{661}",
    ] {
        let said = stage.call(&["--fd=3", argument]).refused(2);
        assert!(said.is_ascii() && !said.contains('\u{1b}'), "{said:?}");
    }
    let long = format!("--br={}", "x".repeat(100_000));
    stage.call(&["--fd=3", &long]).refused(2);
    // A name that would be cut to an allowed one (CVE-2019-13164).
    stage.bridge_conf("allow br01234567890123\n");
    stage.ns.ip(&["link", "add", "br0123456789012", "type", "bridge"]);
    stage.call(&["--fd=3", "--br=br01234567890123"]).refused(2);
    assert_eq!(stage.call(&["--fd=3", "--br=br0123456789012"]).refused(3), DENIED);
    let script = "exec \"$@\" \"$(printf '\\377')\"";
    stage
        .run(&Call::new(&ARGUMENTS).wrapper(&["sh", "-c", script, "sh"]))
        .refused(2);
    fs::set_permissions(stage.path("etc/qemu"), fs::Permissions::from_mode(0o755)).unwrap();
}
