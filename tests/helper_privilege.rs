//! What the helper may do at each moment, as seen from outside: its system
//! calls under strace, its state in /proc, and what is left when one fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::stage::{CALLER, Call, Stage};

const ARGUMENTS: [&str; 3] = ["--fd=3", "--br=br0", "--isolated"];

/// The system calls of one call by root, one a line.
fn trace(stage: &Stage, arguments: &[&str]) -> Vec<String> {
    let file = stage.path("trace");
    let wrapper = ["strace", "-qq", "-v", "-o", file.to_str().unwrap()];
    drop(
        stage
            .run(&Call::new(arguments).uid(0).wrapper(&wrapper))
            .descriptors(),
    );
    fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn position(trace: &[String], wanted: &str) -> usize {
    let found = trace.iter().position(|line| line.contains(wanted));
    found.unwrap_or_else(|| panic!("no {wanted} in {trace:#?}"))
}

#[test]
fn privilege_is_up_around_the_calls_that_need_it_and_nowhere_else() {
    let stage = Stage::new("raised");
    stage.bridge_conf("allow br0\n");
    let trace = trace(&stage, &["--fd=3", "--br=br0"]);
    let limited = "effective=0, permitted=1<<CAP_NET_ADMIN, inheritable=0";
    let dropped = position(
        &trace,
        &format!("capset({{version=_LINUX_CAPABILITY_VERSION_3, pid=0}}, {{{limited}"),
    );
    let acl = position(&trace, "/etc/vmbr/acl.conf");
    let filter = position(&trace, "seccomp(SECCOMP_SET_MODE_FILTER");
    let raised = trace
        .iter()
        .rposition(|l| l.contains("capset") && l.contains("effective=1<<CAP_NET_ADMIN,"));
    let raised = raised.expect("never raised");
    let gone = position(&trace, "{effective=0, permitted=0, inheritable=0}) = 0");
    let sent = position(&trace, "sendmsg(3");
    assert!(position(&trace, "getpeername(3") < dropped);
    assert!(
        dropped < acl && acl < filter && filter < raised && raised < gone && gone < sent,
        "{trace:#?}"
    );
    assert!(
        trace[..dropped]
            .iter()
            .any(|l| l.contains("PR_CAP_AMBIENT_CLEAR_ALL"))
    );
    assert!(
        trace[..dropped]
            .iter()
            .any(|l| l.contains("PR_CAPBSET_DROP, CAP_NET_ADMIN"))
    );
    assert!(trace[..acl].iter().any(|l| l.contains("PR_SET_NO_NEW_PRIVS, 1")));
    let lowered = (raised + 1..gone)
        .find(|&at| trace[at].contains("capset"))
        .expect("never lowered");
    // Whether a name is taken anyone may ask, and is asked before.
    let changes = |l: &&String| l.contains("ioctl(") && !l.contains("SIOCGIFINDEX");
    for line in trace.iter().filter(changes) {
        let at = position(&trace, line);
        assert!(raised < at && at < lowered, "outside of the guard: {line}");
    }
    // Nothing that needs a path happens behind the filter.
    assert!(
        !trace[filter..]
            .iter()
            .any(|l| l.contains("open") || l.contains("socket(")),
        "{trace:#?}"
    );
    // Besides /dev/null, which the runtime opens for nobody here, the helper
    // looks at the ACL, the log and the tun device; the loader is not its own.
    let main = position(&trace, "getpeername(3");
    let opened: Vec<&String> = trace[main..].iter().filter(|l| l.contains("open")).collect();
    assert_eq!(opened.len(), 3, "{opened:#?}");
}

#[test]
fn the_kernel_shows_a_confined_process_without_privilege() {
    let stage = Stage::new("proc");
    stage.bridge_conf("allow br0\n");
    // Stopped by strace at the send, it is looked at from outside. The tracer
    // is root, so the file capability counts under it too.
    let status = stage.path("status");
    let program = stage.path("vmbr-helper");
    let script = r#"
strace -qq -f -o /dev/null -e trace=sendmsg -e inject=sendmsg:delay_enter=700000 "$@" &
tracer=$!
for n in $(seq 200); do
    for pid in $(pgrep -P $tracer); do
        grep -q '^Seccomp:.*2' /proc/$pid/status && cp /proc/$pid/status STATUS 2>/dev/null
    done
    [ -s STATUS ] && grep -q 'CapPrm:.*0000000000000000' STATUS && break
    sleep 0.01
done
wait $tracer
"#
    .replace("STATUS", status.to_str().unwrap());
    let wrapper = ["sh", "-c", &script, "sh"];
    let arguments = [program.to_str().unwrap(), "--fd=3", "--br=br0"];
    let call = Call {
        program: "/bin/env",
        ..Call::new(&arguments)
    }
    .uid(0)
    .wrapper(&wrapper);
    drop(stage.run(&call).descriptors());
    let status = fs::read_to_string(status).unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set} {status}");
    }
    assert_eq!(
        (field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()),
        ("1", "2")
    );
    assert_eq!(field("Threads:"), "1");
}

#[test]
fn whatever_step_fails_no_tap_is_left_and_nothing_is_sent() {
    let stage = Stage::new("inject");
    stage.acl_conf("allow br0 taps=3 mac=52:54:00:00:00:50 group=0-10 mtu=1300\n");
    stage.ns.ip(&["link", "set", "br0", "mtu", "1400"]);
    let file = stage.path("trace");
    let steps = trace(&stage, &["--fd=3", "--br=br0", "--isolated", "--queues=2"]);
    stage.assert_no_tap();
    // The calls from the first look at the socket to the last message; each in
    // turn fails. What comes before is the loader's and the runtime's.
    let first = position(&steps, "getpeername(3");
    let last = position(&steps, "sendmsg(3");
    let mut tried = 0;
    for at in first..=last {
        let name = steps[at].split('(').next().unwrap();
        if ["brk", "mmap", "munmap", "mremap", "madvise", "close"].contains(&name) {
            continue;
        }
        let nth = steps[..=at]
            .iter()
            .filter(|l| l.split('(').next() == Some(name))
            .count();
        let inject = format!("inject={name}:error=EPERM:when={nth}");
        let wrapper = ["strace", "-qq", "-o", file.to_str().unwrap(), "-e", &inject];
        let call = Call::new(&["--fd=3", "--br=br0", "--isolated", "--queues=2"])
            .uid(0)
            .wrapper(&wrapper);
        let answer = stage.run(&call);
        tried += 1;
        if answer.ended.status.success() {
            // A log that fails stops nobody, nor does a set that is empty
            // already; the rest must have been sent whole.
            assert_eq!(answer.received.descriptors.len(), 2, "{}", steps[at]);
            let harmless = [
                "getpid()",
                // The standard library asks whether there is statx.
                "statx(0, NULL",
                "/dev/log",
                "<86>",
                "PR_CAPBSET",
                "getrandom",
                "F_SETFD",
                "F_GETFD",
                "socket(AF_UNIX",
            ];
            assert!(
                harmless.iter().any(|h| steps[at].contains(h)),
                "sent in spite of {}",
                steps[at]
            );
        } else {
            assert!(answer.received.descriptors.is_empty(), "{}", steps[at]);
            assert!(answer.ended.stdout.is_empty());
        }
        drop(answer);
        stage.assert_no_tap();
        // A log that nobody reads fills up, and then each call waits for it.
        stage.logged();
    }
    assert!(tried > 30, "only {tried} steps: {steps:#?}");
}

#[test]
fn a_kill_at_any_call_leaves_nothing() {
    let stage = Stage::new("kill");
    stage.bridge_conf("allow br0\n");
    let file = stage.path("trace");
    let ioctls = trace(&stage, &ARGUMENTS)
        .iter()
        .filter(|l| l.starts_with("ioctl("))
        .count();
    assert!(ioctls >= 9, "{ioctls}");
    for nth in 1..=ioctls {
        let inject = format!("inject=ioctl:signal=KILL:when={nth}");
        let wrapper = ["strace", "-qq", "-o", file.to_str().unwrap(), "-e", &inject];
        let answer = stage.run(&Call::new(&ARGUMENTS).uid(0).wrapper(&wrapper));
        assert!(!answer.ended.status.success() && answer.received.descriptors.is_empty());
        stage.assert_no_tap();
    }
    assert!(stage.ports().is_empty());
}

#[test]
fn the_tap_belongs_to_the_caller_alone() {
    let stage = Stage::new("owner");
    stage.bridge_conf("allow br0\n");
    let fds = stage.call(&["--fd=3", "--br=br0", "--queues=2"]).descriptors();
    // Another user who can open /dev/net/tun asks for a queue of it: TUNSETIFF
    // with IFF_TAP, IFF_NO_PI and IFF_MULTI_QUEUE. perl-base is essential in
    // Debian; `ip tuntap` cannot ask for a TAP that exists.
    let ask = r#"
open(my $tun, "+<", "/dev/net/tun") or die "open: $!";
my $request = pack("a16 s x22", "tap0", 0x1102);
ioctl($tun, 0x400454ca, $request) or die "TUNSETIFF: $!\n";
print "attached\n";
"#;
    let attach = |uid: u32| {
        let call = Call {
            program: "/usr/bin/perl",
            ..Call::new(&["-e", ask])
        }
        .uid(uid);
        stage.run(&call).ended
    };
    assert_eq!(attach(CALLER + 1).stderr, "TUNSETIFF: Operation not permitted\n");
    assert_eq!(
        attach(CALLER).stdout,
        "attached\n",
        "the question is right: the owner may"
    );
    drop(fds);
    stage.assert_no_tap();
}
