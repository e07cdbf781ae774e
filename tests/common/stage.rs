//! A host for `vmbr-helper`: a namespace with its own /etc, /dev and log.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use vmbr::sys::fdpass::{Received, receive};

use super::namespace::Namespace;
use super::process::{Ended, run, wait_until};

/// The user who calls the helper where nothing else is said.
pub const CALLER: u32 = 4711;

/// Debian's qemu-bridge-helper (package qemu-system-common).
pub const QEMU_HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";

/// What the tests call the helper's file in the stage.
pub const HELPER: &str = "vmbr-helper";

// Runs as root in the mount namespace that `ip netns exec` has made: /etc and
// /dev become the stage's own, then the rest of the arguments is run. stdin is
// the reply socket and becomes descriptor 3.
const SETUP: &str = r#"
set -e
stage=$1; prelude=$2; shift 2
mount -t tmpfs -o mode=755 stage /etc
cp -a "$stage/etc/." /etc/
mount -t tmpfs -o mode=755 stage /dev
mkdir /dev/net /dev/shm
mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/zero c 1 5; mknod -m 666 /dev/full c 1 7; mknod -m 666 /dev/urandom c 1 9
mknod -m 666 /dev/net/tun c 10 200
ln -s "$stage/log" /dev/log
exec 3<&0 </dev/null
eval "$prelude"
exec "$@"
"#;

/// A namespace with the bridge `br0` (up, MTU 1500), an /etc without any ACL,
/// a /dev/net/tun for everyone, and a log that the test reads.
pub struct Stage {
    /// Where the bridge is.
    pub ns: Namespace,
    directory: PathBuf,
    log: UnixDatagram,
}

/// How the helper is called.
pub struct Call<'a> {
    /// The program, a path, or the name of one in the stage's directory.
    pub program: &'a str,
    /// The arguments.
    pub arguments: Vec<String>,
    /// The user; 0 keeps root with all capabilities.
    pub uid: u32,
    /// The groups beside that of the user's number.
    pub groups: &'a [u32],
    /// Shell commands before the program is run, as root.
    pub prelude: &'a str,
    /// Words put before the program: `prlimit ...`, `strace ...`.
    pub wrapper: &'a [&'a str],
}

/// What came of a call.
pub struct Answer {
    /// The end of the program.
    pub ended: Ended,
    /// What it sent.
    pub received: Received,
}

impl Stage {
    /// Makes it. The helper in it has the file capability.
    pub fn new(hint: &str) -> Self {
        let stage = Self::without_bridge(hint);
        stage.ns.ip(&["link", "add", "br0", "type", "bridge"]);
        stage.ns.ip(&["link", "set", "br0", "up"]);
        stage
    }

    /// The same for a test that has its bridge made by `vmbr`.
    pub fn without_bridge(hint: &str) -> Self {
        let ns = Namespace::new(hint);
        let directory = std::env::temp_dir().join(ns.name());
        fs::create_dir(&directory).unwrap();
        for part in ["", "etc", "etc/qemu", "etc/vmbr"] {
            let part = directory.join(part);
            let _ = fs::create_dir(&part);
            fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let log = UnixDatagram::bind(directory.join("log")).unwrap();
        log.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        fs::set_permissions(directory.join("log"), fs::Permissions::from_mode(0o666)).unwrap();
        let stage = Self { ns, directory, log };
        stage.install(HELPER, "cap_net_admin=p");
        stage
    }

    /// A path in the stage's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Puts a copy of the helper there, with these capabilities or none.
    pub fn install(&self, name: &str, capabilities: &str) {
        // Another build of the helper, the static one for instance, can be
        // put to the same tests.
        let built = std::env::var("VMBR_TEST_HELPER")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_vmbr-helper").to_owned());
        let copy = self.path(name);
        fs::copy(&built, &copy).unwrap_or_else(|e| panic!("{built}: {e}"));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        if !capabilities.is_empty() {
            run(Command::new("setcap").arg(capabilities).arg(&copy)).ok();
        }
    }

    /// Writes a file of the stage's /etc, root's and for root alone to write.
    pub fn etc(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.join("etc").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        file
    }

    /// Writes /etc/qemu/bridge.conf.
    pub fn bridge_conf(&self, text: &str) -> PathBuf {
        self.etc("qemu/bridge.conf", text)
    }

    /// Writes /etc/vmbr/acl.conf.
    pub fn acl_conf(&self, text: &str) -> PathBuf {
        self.etc("vmbr/acl.conf", text)
    }

    /// Runs the helper for the usual caller.
    pub fn call(&self, arguments: &[&str]) -> Answer {
        self.run(&Call::new(arguments))
    }

    /// Runs what `call` says, to its end, and takes what was sent.
    pub fn run(&self, call: &Call<'_>) -> Answer {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ended = self.run_on(call, theirs.into());
        ours.set_nonblocking(true).unwrap();
        let received = receive(ours.as_fd()).unwrap_or_else(|_| Received {
            bytes: Vec::new(),
            descriptors: Vec::new(),
        });
        Answer { ended, received }
    }

    /// The same with a descriptor of the test's choice as number 3.
    pub fn run_on(&self, call: &Call<'_>, third: OwnedFd) -> Ended {
        let mut command = self.command(call);
        command.stdin(Stdio::from(third));
        let output = command.output().unwrap();
        Ended {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command for `call`; its stdin becomes descriptor 3.
    pub fn command(&self, call: &Call<'_>) -> Command {
        let mut command = self.ns.command("sh");
        command
            .args(["-c", SETUP, "sh"])
            .arg(&self.directory)
            .arg(call.prelude);
        if call.uid != 0 {
            let uid = call.uid.to_string();
            command.args(["setpriv", "--reuid", &uid, "--regid", &uid]);
            match call.groups {
                [] => command.arg("--clear-groups"),
                groups => {
                    let list: Vec<String> = groups.iter().map(u32::to_string).collect();
                    command.args(["--groups", &list.join(",")])
                }
            };
        }
        command.args(call.wrapper);
        // join() keeps an absolute path as it is.
        command
            .arg(self.directory.join(call.program))
            .args(&call.arguments);
        command
    }

    /// The lines that reached the log since the last time.
    pub fn logged(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.log.recv(&mut buffer) {
            lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        lines
    }

    /// The names of the ports of `br0`.
    pub fn ports(&self) -> Vec<String> {
        let ports = self.ns.json(&["link", "show", "master", "br0"]);
        ports
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["ifname"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Asserts that no TAP is in the namespace. It waits a little: a child
    /// that another test of this process is just starting holds copies of all
    /// descriptors until it has executed its program.
    pub fn assert_no_tap(&self) {
        let gone = wait_until(Duration::from_secs(5), || self.taps().is_empty());
        assert!(gone, "left behind: {:?}", self.taps());
    }

    /// The names of all TAPs in the namespace.
    pub fn taps(&self) -> Vec<String> {
        self.ns
            .links()
            .into_iter()
            .filter(|name| name.starts_with("tap"))
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl<'a> Call<'a> {
    /// The helper, called by [`CALLER`].
    pub fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        Self {
            program: HELPER,
            arguments,
            uid: CALLER,
            groups: &[],
            prelude: "",
            wrapper: &[],
        }
    }

    /// As another user.
    pub fn uid(self, uid: u32) -> Self {
        Self { uid, ..self }
    }

    /// After these shell commands.
    pub fn prelude(self, prelude: &'a str) -> Self {
        Self { prelude, ..self }
    }

    /// By way of another program.
    pub fn wrapper(self, wrapper: &'a [&'a str]) -> Self {
        Self { wrapper, ..self }
    }

    /// Another program than the helper.
    pub fn program(self, program: &'a str) -> Self {
        Self { program, ..self }
    }
}

impl Answer {
    /// Asserts that it failed with this status and sent nothing, and gives
    /// what it said.
    pub fn refused(self, status: i32) -> String {
        assert_eq!(self.ended.code(), status, "{:?}", self.ended);
        assert!(self.received.bytes.is_empty() && self.received.descriptors.is_empty());
        assert_eq!(self.ended.stdout, "");
        self.ended.stderr
    }

    /// Asserts that it succeeded in silence with one byte 0, and gives the
    /// descriptors.
    pub fn descriptors(self) -> Vec<OwnedFd> {
        assert_eq!(self.ended.code(), 0, "{:?}", self.ended);
        assert_eq!((self.ended.stdout.as_str(), self.ended.stderr.as_str()), ("", ""));
        assert_eq!(self.received.bytes, [0]);
        self.received.descriptors
    }
}

/// Asserts that a program the test needs is there.
pub fn require(program: &str, package: &str) {
    assert!(
        Path::new(program).exists(),
        "{program} is missing: apt-get install {package}"
    );
}
