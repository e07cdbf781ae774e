//! The helper as a service: for callers whose file capabilities do nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/manager.rs"]
mod manager;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::stage::{Answer, CALLER, Call, Stage, require};
use common::{Ended, wait_until};
use manager::Manager;
use vmbr::sys::fdpass;

const ACTIVATE: &str = "/usr/bin/systemd-socket-activate";
const ARGUMENTS: [&str; 3] = ["--use-vnet", "--fd=3", "--br=br0"];
const DENIED: &str = "access denied; the reason is in the system's log, for its administrator";
const CONFINED: [&str; 2] = ["setpriv", "--no-new-privs"];

/// A stage with the service. Everybody there has the stage's own /run/vmbr.
struct Service {
    stage: Stage,
    prelude: String,
    listener: Child,
}

impl Service {
    /// With this ACL: what listens has a copy of /etc from its start.
    fn new(hint: &str, acl: &str) -> Self {
        let stage = Stage::new(hint);
        stage.acl_conf(acl);
        Self::on(stage)
    }

    fn on(stage: Stage) -> Self {
        require(ACTIVATE, "systemd");
        let run = stage.path("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        // Each program of the stage has mounts of its own.
        let prelude = format!("mkdir -p /run/vmbr; mount --bind {} /run/vmbr", run.display());
        let helper = stage.path("vmbr-helper").display().to_string();
        let call = Call::new(&[
            "--accept",
            "--inetd",
            "--seqpacket",
            "-l",
            "/run/vmbr/helper.sock",
            &helper,
            "--socket",
        ]);
        // The unit's capabilities, and no others.
        let wrapper = ["setpriv", "--bounding-set=-all,+net_admin,+setuid,+setgid"];
        let mut command = stage.command(&call.program(ACTIVATE).uid(0).prelude(&prelude).wrapper(&wrapper));
        let listener = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = run.join("helper.sock");
        assert!(wait_until(Duration::from_secs(10), || socket.exists()));
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        Self {
            stage,
            prelude,
            listener,
        }
    }

    fn run(&self, call: Call<'_>) -> Answer {
        self.stage.run(&call.prelude(&self.prelude))
    }

    /// A caller with `no_new_privs`.
    fn confined(&self, uid: u32, groups: &[u32], arguments: &[&str]) -> Answer {
        let call = Call {
            groups,
            ..Call::new(arguments)
        };
        self.run(call.uid(uid).wrapper(&CONFINED))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

#[test]
fn a_confined_caller_gets_what_others_get_and_by_the_same_acl() {
    let service = Service::new(
        "confined",
        "allow br0 user=4711 taps=2 queues=4 mac=52:54:00:00:00
         allow br0 group=900,901 isolated",
    );
    let stage = &service.stage;
    let arguments = [
        "--use-vnet",
        "--fd=3",
        "--br=br0",
        "--queues=3",
        "--isolated",
        "--mac=52:54:00:00:00:50",
    ];
    let fds = service.confined(CALLER, &[], &arguments).descriptors();
    assert_eq!(fds.len(), 3);
    let link = stage.ns.link("tap0").unwrap();
    let (data, port) = (
        &link["linkinfo"]["info_data"],
        &link["linkinfo"]["info_slave_data"],
    );
    assert_eq!(
        (&data["user"], &data["numqueues"], &data["vnet_hdr"]),
        (&CALLER.into(), &3.into(), &true.into()),
        "{link}"
    );
    assert_eq!(
        (&port["isolated"], &port["locked"]),
        (&true.into(), &true.into()),
        "{link}"
    );
    let log = stage.logged();
    assert!(
        log.len() == 1
            && log[0].contains("uid 4711, bridge br0: hands over tap0 (allowed by /etc/vmbr/acl.conf:1)"),
        "{log:?}"
    );
    // The quota is one, whichever the way.
    let other = stage
        .call(&["--fd=3", "--br=br0", "--mac=52:54:00:00:00:51"])
        .descriptors();
    let said = service.confined(CALLER, &[], &arguments).refused(3);
    assert!(said.contains("your 2 TAPs on br0 are all in use"), "{said}");
    drop((fds, other));
    // Supplementary groups are known, and others are not.
    for (groups, allowed) in [(&[5, 901, 7][..], true), (&[5, 7], false), (&[], false)] {
        let answer = service.confined(5000, groups, &ARGUMENTS);
        if allowed {
            drop(answer.descriptors());
        } else {
            assert_eq!(answer.refused(3), format!("vmbr-helper: {DENIED}\n"));
        }
    }
    // Root, too, asks the ACL.
    let root = Call::new(&ARGUMENTS)
        .uid(0)
        .wrapper(&["setpriv", "--bounding-set=-all", "--no-new-privs"]);
    service.run(root).refused(3);
    stage.assert_no_tap();
    // Each of them was said once.
    assert_eq!(stage.logged().len(), 6);
}

#[test]
fn files_are_read_with_the_rights_of_who_has_connected() {
    let stage = Stage::new("rights");
    stage.acl_conf("include-readable lab.conf\n");
    let lab = stage.etc("vmbr/lab.conf", "allow br0\n");
    std::os::unix::fs::chown(&lab, Some(0), Some(900)).unwrap();
    fs::set_permissions(&lab, fs::Permissions::from_mode(0o640)).unwrap();
    let service = Service::on(stage);
    drop(service.confined(CALLER, &[900], &ARGUMENTS).descriptors());
    for groups in [&[][..], &[901]] {
        let said = service.confined(CALLER, groups, &ARGUMENTS).refused(3);
        assert!(said.contains(DENIED), "{said}");
    }
}

#[test]
fn without_a_service_the_remedy_is_said() {
    let stage = Stage::new("none");
    stage.bridge_conf("allow br0\n");
    let said = stage.run(&Call::new(&ARGUMENTS).wrapper(&CONFINED)).refused(3);
    assert!(
        said.contains("no_new_privs") && said.contains("vmbr-helper.socket"),
        "{said}"
    );
    // One that somebody else has put there is not asked.
    let prelude = "mount -t tmpfs -o mode=777 tmpfs /run/vmbr";
    let fake = "timeout 10 systemd-socket-activate --accept --inetd --seqpacket -l /run/vmbr/helper.sock /bin/cat \
                >/dev/null 2>&1 & while [ ! -S /run/vmbr/helper.sock ]; do sleep 0.05; done; \
                setpriv --no-new-privs \"$@\"; status=$?; kill $!; exit $status";
    let wrapper = ["sh", "-c", fake, "sh"];
    let said = stage
        .run(&Call::new(&ARGUMENTS).prelude(prelude).wrapper(&wrapper))
        .ended
        .stderr;
    assert!(said.contains("is not root's"), "{said}");
}

/// The service itself, started by hand with a connection as its stdin.
fn by_hand(stage: &Stage, uid: u32, message: &[u8]) -> (Ended, Vec<u8>, usize) {
    let (ours, theirs) = seqpacket();
    let mut ours = fs::File::from(ours);
    if !message.is_empty() {
        ours.write_all(message).unwrap();
    }
    let wrapper = ["sh", "-c", "exec \"$@\" <&3 3<&-", "sh"];
    let ended = stage.run_on(&Call::new(&["--socket"]).uid(uid).wrapper(&wrapper), theirs);
    let received = fdpass::receive(ours.as_fd());
    let (bytes, count) = received.map_or((Vec::new(), 0), |r| (r.bytes, r.descriptors.len()));
    (ended, bytes, count)
}

fn seqpacket() -> (OwnedFd, OwnedFd) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap()
}

#[test]
fn a_request_has_bounds() {
    let stage = Stage::new("bounds");
    stage.acl_conf("allow all\n");
    let long = [b"--br=br0\0".as_slice(), &[b'x'; 2000]].concat();
    for message in [
        &b"--br=br0\0--fd=3"[..],
        b"--br=br0\0--socket",
        b"--br=br0\0--queues=254",
        b"--br=../../etc",
        b"--br=br0\xff",
        b"\0\0\0",
        b"--use-vnet",
        &long,
    ] {
        let (ended, bytes, count) = by_hand(&stage, 0, message);
        assert!(matches!(ended.code(), 2 | 3), "{message:?}: {ended:?}");
        assert_eq!((bytes[0], count), (u8::try_from(ended.code()).unwrap(), 0));
        assert!(bytes.len() <= fdpass::MESSAGE_MAX && bytes[1..].iter().all(|b| *b != 0));
    }
    // Who says nothing is not waited for.
    let began = Instant::now();
    let (ended, ..) = by_hand(&stage, 0, b"");
    assert_eq!(ended.code(), 3, "{ended:?}");
    assert!(
        (2..8).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
    let (ended, bytes, count) = by_hand(&stage, 0, b"--br=br0");
    assert_eq!(
        (ended.code(), bytes.as_slice(), count),
        (0, &[0][..], 1),
        "{ended:?}"
    );
    stage.assert_no_tap();
}

#[test]
fn nobody_but_root_can_be_the_service() {
    let stage = Stage::new("byhand");
    stage.acl_conf("allow all\n");
    // A user with a connection that another one, here root, has made.
    let (ended, bytes, count) = by_hand(&stage, CALLER, b"--br=br0");
    assert_eq!((ended.code(), count), (3, 0), "{ended:?}");
    assert!(bytes.is_empty() && ended.stderr.contains("as root"), "{ended:?}");
    // Nor what is no connection.
    let nothing = fs::File::open("/dev/null").unwrap();
    let ended = stage.run_on(&Call::new(&["--socket"]).uid(0), nothing.into());
    assert!(
        ended.code() == 3 && ended.stderr.contains("stdin has to be"),
        "{ended:?}"
    );
    stage.assert_no_tap();
}

#[test]
fn the_service_is_the_peer_before_it_hears_him() {
    let stage = Stage::new("peer");
    stage.acl_conf("allow br0 user=4711\n");
    let trace = stage.path("trace");
    // The pair is made by a user: Perl makes it, and runs the service as root
    // would, with him at the other end.
    let code = r#"
use Socket;
socketpair(my $ours, my $theirs, AF_UNIX, SOCK_SEQPACKET, PF_UNSPEC) or die;
$) = "4711 36 900"; $> = 4711;
socketpair($ours, $theirs, AF_UNIX, SOCK_SEQPACKET, PF_UNSPEC) or die;
$> = 0; $) = "0 0";
syswrite($ours, "--br=br0");
open(STDIN, "<&", $theirs);
system(@ARGV);
"#;
    let helper = stage.path("vmbr-helper").display().to_string();
    let words = [
        "-e",
        code,
        "strace",
        "-qq",
        "-o",
        trace.to_str().unwrap(),
        &helper,
        "--socket",
    ];
    let ended = stage
        .run(&Call::new(&words).program("/usr/bin/perl").uid(0))
        .ended;
    assert_eq!(ended.code(), 0, "{ended:?}");
    let text = fs::read_to_string(&trace).unwrap();
    let position = |wanted: &str| {
        let found = text.lines().position(|line| line.contains(wanted));
        found.unwrap_or_else(|| panic!("no {wanted} in {text}"))
    };
    let steps = [
        "PR_SET_KEEPCAPS, 1",
        "setgroups(",
        "setresgid(4711, 4711, 4711)",
        "setresuid(4711, 4711, 4711)",
        "PR_SET_KEEPCAPS, 0",
        "effective=0, permitted=1<<CAP_NET_ADMIN, inheritable=0",
        "recvfrom(0",
        "/etc/vmbr/acl.conf",
        "/dev/net/tun",
        "seccomp(SECCOMP_SET_MODE_FILTER",
        "sendmsg(0",
    ];
    let places: Vec<usize> = steps.iter().map(|step| position(step)).collect();
    assert!(places.is_sorted(), "{steps:?} {places:?} {text}");
    assert!(text.contains("36") && text.contains("900"), "{text}");
}

#[test]
fn idle_connections_of_one_do_not_keep_others_out() {
    let service = Service::new("idle", "allow br0\n");
    let connect = "use Socket; my @all; for (1 .. 40) { socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die; \
                   connect($s, sockaddr_un(\"/run/vmbr/helper.sock\")) or die $!; push @all, $s; } \
                   $| = 1; print \"idle\\n\"; sleep 20;";
    let call = Call::new(&["-e", connect])
        .program("/usr/bin/perl")
        .prelude(&service.prelude);
    let mut command = service.stage.command(&call);
    let mut idle = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 5];
    idle.stdout.take().unwrap().read_exact(&mut line).unwrap();
    let began = Instant::now();
    drop(service.confined(CALLER + 1, &[], &ARGUMENTS).descriptors());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let _ = idle.kill();
    let _ = idle.wait();
}

#[test]
fn systemd_starts_it_for_a_dynamic_user() {
    let manager = Manager::boot();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
    let place = std::env::temp_dir().join(format!("vmbr-units-{}", std::process::id()));
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    for (program, name) in [
        (env!("CARGO_BIN_EXE_vmbr"), "vmbr"),
        (env!("CARGO_BIN_EXE_vmbr-helper"), "vmbr-helper"),
    ] {
        fs::copy(program, place.join(name)).unwrap();
        fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let place_name = place.display();
    // Not in /tmp: both services have their own. No file capability at all: the
    // service's own are enough.
    let prepare = format!(
        r#"
mkdir /run/systemd/bin && cp {place_name}/vmbr* /run/systemd/bin/
mkdir -p /run/vmbr && mount -t tmpfs -o mode=755 tmpfs /run/vmbr
mkdir /run/systemd/etc && cp -a /etc/. /run/systemd/etc/ && mount --bind /run/systemd/etc /etc
mkdir -p /etc/vmbr && chmod 755 /etc/vmbr
echo 'allow br0 user=61184-65519 taps=1 isolated' >/etc/vmbr/acl.conf && chmod 644 /etc/vmbr/acl.conf
ip link add br0 type bridge && ip link set br0 up
cp {units}/vmbr-helper.socket /run/systemd/test/
sed 's|/usr/local/libexec/|/run/systemd/bin/|' '{units}/vmbr-helper@.service' \
    >/run/systemd/test/vmbr-helper@.service
systemctl daemon-reload
systemctl start vmbr-helper.socket
"#
    );
    manager.run(&["sh", "-e", "-c", &prepare]);
    let guest = "id -u; grep NoNewPrivs /proc/self/status; ip -d link show tap0; ls -l /proc/self/fd/$1";
    let unit = format!(
        "[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
DynamicUser=yes
StandardOutput=file:/run/systemd/said
StandardError=file:/run/systemd/said
ExecStart=/run/systemd/bin/vmbr run -- sh -c '{guest}' sh {{fds}}
"
    );
    fs::write(place.join("guest.service"), unit.replace("$1", "$$1")).unwrap();
    let start = format!(
        "cp {place_name}/guest.service /run/systemd/test/; systemctl daemon-reload
         systemctl start guest.service || systemctl status guest.service --no-pager || true; cat /run/systemd/said"
    );
    let said = manager.run(&["sh", "-e", "-c", &start]);
    let uid: u32 = said
        .lines()
        .next()
        .and_then(|line| line.parse().ok())
        .expect(&said);
    assert!((61_184..=65_519).contains(&uid), "{said}");
    for part in ["NoNewPrivs:\t1", "master br0", "isolated on", "/net/tun"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    // Nothing stays.
    let left = manager.run(&[
        "sh",
        "-c",
        "ip -o link show master br0; systemctl list-units --plain --no-legend 'vmbr-helper@*'",
    ]);
    assert_eq!(left, "");
    fs::remove_dir_all(&place).unwrap();
}
