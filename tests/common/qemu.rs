//! A QEMU on a stage, started as an ordinary user, and what it is asked.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::stage::{Call, Stage};
use crate::common::wait_until;

/// QEMU itself.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A running QEMU; killed when dropped.
pub struct Qemu {
    child: Child,
    qmp: Lines,
    said: PathBuf,
}

impl Qemu {
    /// Starts what `call` says, which must end in QEMU, and waits for its QMP.
    /// `name` is for its files on the stage.
    pub fn start(stage: &Stage, name: &str, mut call: Call<'_>) -> Self {
        let (listener, path) = listen(stage, &format!("{name}.qmp"));
        call.arguments.push("-qmp".to_owned());
        call.arguments.push(format!("unix:{}", path.display()));
        let said = stage.path(&format!("{name}.log"));
        let log = File::create(&said).unwrap();
        let mut command = stage.command(&call);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let stream = accept(&listener, &mut child, &said);
        let mut qmp = Lines::new(stream);
        let greeting = qmp.next(Duration::from_secs(20));
        assert!(greeting.contains("QMP"), "{greeting}");
        let mut qemu = Self { child, qmp, said };
        qemu.ask("qmp_capabilities", &json!({}));
        qemu
    }

    /// Executes a QMP command and gives what it returns.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.qmp
            .tell(&json!({"execute": command, "arguments": arguments}).to_string());
        loop {
            let line = self.qmp.next(Duration::from_secs(20));
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            // Events come in between.
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
        }
    }

    /// Whether the guest runs.
    pub fn is_running(&mut self) -> bool {
        let status = self.ask("query-status", &json!({}));
        status["running"] == true && status["status"] == "running"
    }

    /// The id of the user that QEMU runs as, and its capabilities in effect.
    pub fn credentials(&self) -> (u32, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
        (field("Uid:").parse().unwrap(), capabilities)
    }

    /// Its process, which the whole of the call has become.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout and stderr.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until it has ended by itself, and asserts that it did well.
    pub fn wait(mut self) {
        let ended = wait_until(Duration::from_secs(20), || {
            self.child.try_wait().unwrap().is_some()
        });
        assert!(ended, "QEMU does not end: {}", self.said());
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
    }

    /// Ends it by QMP.
    pub fn quit(mut self) {
        self.ask("quit", &json!({}));
        self.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stream of lines in both directions.
pub struct Lines {
    stream: BufReader<UnixStream>,
}

impl Lines {
    /// The lines of a socket.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Writes a line.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").unwrap();
    }

    /// The next line, without its end; panics where none comes in time.
    pub fn next(&mut self, limit: Duration) -> String {
        let end = Instant::now() + limit;
        let mut line = Vec::new();
        loop {
            match self.stream.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {
                    return String::from_utf8_lossy(&line).trim_end().to_owned();
                }
                Ok(_) => panic!("the other side is gone: {}", String::from_utf8_lossy(&line)),
                // What was read so far stays in `line`.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            assert!(
                Instant::now() < end,
                "no line came, but {}",
                String::from_utf8_lossy(&line)
            );
        }
    }
}

/// The serial console of the guest of scripts/lib/guest-init.
pub struct Console {
    path: PathBuf,
    listener: UnixListener,
    lines: Option<Lines>,
    asked: u32,
}

impl Console {
    /// Where QEMU will find it.
    pub fn new(stage: &Stage) -> Self {
        let (listener, path) = listen(stage, "console");
        Self {
            path,
            listener,
            lines: None,
            asked: 0,
        }
    }

    /// For QEMU's `-serial`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the guest is up; a slow machine without KVM needs a while.
    pub fn wait_ready(&mut self, qemu: &mut Qemu) {
        let mut lines = Lines::new(accept(&self.listener, &mut qemu.child, &qemu.said));
        while lines.next(Duration::from_secs(120)) != "GUEST-READY" {}
        self.lines = Some(lines);
    }

    /// Runs a command in the guest, asserts its success and gives its output.
    pub fn run(&mut self, command: &str) -> String {
        self.asked += 1;
        let done = format!("GUEST-DONE {} ", self.asked);
        let lines = self.lines.as_mut().expect("wait_ready comes first");
        lines.tell(&format!("{} {command}", self.asked));
        let mut output = String::new();
        loop {
            let line = lines.next(Duration::from_secs(60));
            if let Some(status) = line.strip_prefix(&done) {
                assert_eq!(status, "0", "in the guest: {command}\n{output}");
                return output;
            }
            output.push_str(&line);
            output.push('\n');
        }
    }

    /// Switches the guest off; nothing answers any more. The console stays open:
    /// QEMU drops what it has not read yet when the other side closes.
    pub fn power_off(&mut self) {
        let lines = self.lines.as_mut().expect("wait_ready comes first");
        lines.tell("0 poweroff -f");
    }
}

/// A socket on the stage to which QEMU, as any user, will connect.
fn listen(stage: &Stage, name: &str) -> (UnixListener, PathBuf) {
    let path = stage.path(name);
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    listener.set_nonblocking(true).unwrap();
    (listener, path)
}

fn accept(listener: &UnixListener, child: &mut Child, said: &Path) -> UnixStream {
    let mut stream = None;
    wait_until(Duration::from_secs(30), || {
        stream = listener.accept().ok();
        stream.is_some() || child.try_wait().unwrap().is_some()
    });
    let Some((stream, _)) = stream else {
        let _ = child.kill();
        let said = fs::read_to_string(said).unwrap();
        panic!("QEMU did not connect: {:?}: {said}", child.wait());
    };
    stream.set_nonblocking(false).unwrap();
    stream
}
