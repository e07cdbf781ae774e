//! The process that leads the host back when the one that changes it dies.
//!
//! It is vmbr executed anew, in a session of its own; where systemd runs, in
//! a transient unit of its own, so that the end of an SSH session or of a
//! service does not end it. It is started, and ready, before the record of a
//! change is written; from then on the record is all that the two say to each
//! other. It holds its parent by a pidfd:
//!
//! ```text
//! record says        parent lives                parent is dead
//! nothing yet        wait                        exit
//! changing           wait; STUCK: kill it        lock, lead back, exit
//! awaiting-confirm   lead back at the deadline   the same
//! settled, or gone   exit                        exit
//! ```
//!
//! Here is the parent's side; [`duty`] is the watchdog's own.

pub mod duty;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, absolute};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::model::IfName;
use crate::plan::record::Process;
use crate::sys::descriptors::keep_from_children;
use crate::sys::pidfd::PidFd;

/// The name of the hidden command.
pub const COMMAND: &str = "watchdog";
/// How long the watchdog may take to be ready, and to go.
const READY_PATIENCE: Duration = Duration::from_secs(5);
const END_PATIENCE: Duration = Duration::from_secs(2);
/// systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Asks it for a transient unit. By its path: the caller's PATH may be anyone's.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

/// A watchdog that is ready. Dropped, it is ended.
#[derive(Debug)]
pub struct Watchdog {
    process: Process,
    held: PidFd,
    /// A child has to be waited for, or it stays as a zombie.
    child: Option<Child>,
}

impl Watchdog {
    /// Starts a watchdog for what the calling process is about to do to
    /// `bridge`, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or does not become ready.
    pub fn start(state_dir: &Path, bridge: &IfName) -> io::Result<Self> {
        let parent = Process::this()?;
        // Whoever comes too late finds the pipe, and no other file, at its
        // number: it stays open.
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let arguments = arguments(&parent, write.as_raw_fd(), state_dir, bridge)?;
        std::mem::forget(write);
        let mut read = File::from(read);
        if Path::new(SYSTEMD).is_dir() {
            let mut child = unit(&parent, &arguments).spawn().ok();
            if let Some(child) = &mut child {
                let ready = await_ready(&mut read, child, None);
                // It only asks for the unit, and has done that.
                let _ = child.kill();
                let _ = child.wait();
                if let Ok(process) = ready {
                    return Self::new(process, None);
                }
            }
        }
        // Whoever called vmbr may wait for the end of a pipe or a lock that it
        // was given: the watchdog may live longer.
        keep_from_children()?;
        let mut child = own(&arguments).spawn()?;
        let own = child.id();
        match await_ready(&mut read, &mut child, Some(own)) {
            Ok(process) => Self::new(process, Some(child)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn new(process: Process, child: Option<Child>) -> io::Result<Self> {
        Ok(Self {
            process,
            held: process.hold()?,
            child,
        })
    }

    /// The process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Waits until it has ended by itself; leaves it at its work where it does
    /// not.
    pub fn await_end(mut self) {
        if self.held.has_ended(END_PATIENCE) {
            if let Some(child) = &mut self.child {
                let _ = child.wait();
            }
        }
        self.leave();
    }

    /// Leaves it at its work: the caller may end.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

/// Waits a little for the end of a watchdog that another process started.
pub fn await_end_of(process: &Process) {
    if let Ok(held) = process.hold() {
        held.has_ended(END_PATIENCE);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.held.signal(Signal::SIGTERM);
        if !self.held.has_ended(END_PATIENCE) {
            let _ = self.held.signal(Signal::SIGKILL);
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

fn arguments(parent: &Process, ready: i32, state_dir: &Path, bridge: &IfName) -> io::Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = vec!["--state-dir".into(), absolute(state_dir)?.into()];
    arguments.push(COMMAND.into());
    for (name, value) in [
        ("--parent", parent.pid.to_string()),
        ("--started", parent.started.to_string()),
        ("--ready", ready.to_string()),
        ("--bridge", bridge.to_string()),
    ] {
        arguments.extend([name.into(), value.into()]);
    }
    Ok(arguments)
}

/// The watchdog as a child in a session of its own.
fn own(arguments: &[OsString]) -> Command {
    // Not by its path, which may name another file by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vmbr").args(arguments).env_clear();
    quiet(command)
}

/// The watchdog as a transient unit: systemd-run(1).
fn unit(parent: &Process, arguments: &[OsString]) -> Command {
    let mut command = Command::new(SYSTEMD_RUN);
    command
        .env_clear()
        .args(["--quiet", "--collect", "--no-ask-password"])
        .arg(format!("--unit=vmbr-watchdog-{}-{}", parent.pid, parent.started))
        .args([
            "--description=Leads the network back if vmbr dies",
            "--property=OOMScoreAdjust=-1000",
            "--property=StandardOutput=null",
            "--property=StandardError=null",
            // What cannot be executed is known at once.
            "--property=Type=exec",
            "--",
        ])
        .arg(format!("/proc/{}/exe", parent.pid))
        .args(arguments);
    quiet(command)
}

fn quiet(mut command: Command) -> Command {
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Waits until a watchdog tells who it is, and `child`, which starts it or is
/// it, has not failed. A unit may come after its time: where the watchdog is
/// the process `only`, no other counts.
fn await_ready(read: &mut File, child: &mut Child, only: Option<u32>) -> io::Result<Process> {
    let deadline = Instant::now() + READY_PATIENCE;
    let slice = PollTimeout::from(20_u8);
    let mut failed = None;
    while Instant::now() < deadline && failed.is_none() {
        if let Some(status) = child.try_wait()?.filter(|status| !status.success()) {
            failed = Some(status);
        }
        if poll(&mut [PollFd::new(read.as_fd(), PollFlags::POLLIN)], slice).is_ok_and(|ready| ready > 0) {
            // Less than a pipe's atomic size: each line comes whole (pipe(7)).
            let mut text = [0; 256];
            let length = read.read(&mut text)?;
            let text = String::from_utf8_lossy(&text[..length]);
            let mut told = text.lines().filter_map(process_of);
            if let Some(process) = told.find(|process| only.is_none_or(|pid| pid == process.pid)) {
                return Ok(process);
            }
        }
    }
    Err(io::Error::other(match failed {
        Some(status) => format!("it ended before it was ready ({status})"),
        None => format!("it was not ready after {} s", READY_PATIENCE.as_secs()),
    }))
}

/// What a watchdog tells of itself.
fn process_of(line: &str) -> Option<Process> {
    let (pid, started) = line.split_once(' ')?;
    Some(Process {
        pid: pid.parse().ok()?,
        started: started.parse().ok()?,
    })
}

/// A descriptor of a process by its number.
fn path_of(process: &Process, descriptor: u32) -> String {
    format!("/proc/{}/fd/{descriptor}", process.pid)
}

/// Only a pipe is written to: a number may have come to name another file.
fn is_pipe(file: &OwnedFd) -> bool {
    let mode = nix::sys::stat::fstat(file).map(|stat| stat.st_mode & libc::S_IFMT);
    mode == Ok(libc::S_IFIFO)
}
