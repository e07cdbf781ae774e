//! A process under ptrace(2), struck right before or right after any system
//! call that changes the kernel or the disk.
//!
//! Only the process itself is held, none of its children: what it started goes
//! on, as it would after a SIGKILL from anywhere. A SIGKILL at the stop where a
//! call begins keeps the kernel from running it (`ptrace_report_syscall()`
//! answers with the pending death), and one at the stop where it ends comes
//! before the process executes another instruction.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Namespace;

/// Put before a command line: stops, for [`Tracee::start`] to take hold of it,
/// and becomes the command when it is let go.
const STOPPED: [&str; 3] = ["-c", "kill -STOP $$; exec \"$@\"", "sh"];

/// Where in a call the process is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The kernel has not begun.
    Before,
    /// The kernel is done; the process has not seen the answer.
    After,
}

/// A process that is held at system calls.
pub struct Tracee {
    pid: Pid,
    // Waited for by its number; the process itself, or who waits for it.
    child: Option<Child>,
    inside: bool,
    ended: Option<WaitStatus>,
}

impl Tracee {
    /// Runs `program ARGS` in a namespace, held before its first instruction.
    /// What it says goes to `log`.
    pub fn start(ns: &Namespace, log: &Path, program: &[&str]) -> Self {
        Self::start_by(ns.command("sh"), log, program)
    }

    /// The same, with a command that becomes `sh`, or has `sh` as its child:
    /// nsenter(1), where it enters a namespace of processes. That one stops
    /// with its child, and wakes it.
    pub fn start_by(mut command: Command, log: &Path, program: &[&str]) -> Self {
        command.args(STOPPED).args(program).env_remove("SUDO_USER");
        let log = File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().unwrap();
        let outer = Pid::from_raw(child.id().try_into().unwrap());
        let stopped = waitpid(outer, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        let pid = children.trim().parse().map_or(outer, Pid::from_raw);
        let mut tracee = Self::hold(pid);
        tracee.child = Some(child);
        kill(outer, Signal::SIGCONT).unwrap();
        loop {
            match waitpid(pid, None).unwrap() {
                WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => break,
                WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).unwrap(),
                WaitStatus::PtraceEvent(..) => ptrace::cont(pid, None).unwrap(),
                other => panic!("{program:?} did not start: {other:?}"),
            }
        }
        tracee.inside = true;
        tracee
    }

    /// Takes hold of a process that runs.
    pub fn attach(pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        let tracee = Self::hold(pid);
        ptrace::interrupt(pid).unwrap();
        let stopped = waitpid(pid, None).unwrap();
        assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
        tracee
    }

    fn hold(pid: Pid) -> Self {
        // Should the test end early, the process ends with it.
        let options =
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).unwrap();
        Self {
            pid,
            child: None,
            inside: false,
            ended: None,
        }
    }

    /// Goes on to the beginning of the next call that changes something, and
    /// says which; none where the process has ended.
    pub fn next_change(&mut self) -> Option<String> {
        loop {
            self.step()?;
            if self.inside {
                if let Some(call) = changing_call(self.pid) {
                    return Some(call);
                }
            }
        }
    }

    /// Goes on to the end of the call that it is in; none where it has ended.
    pub fn end_of_call(&mut self) -> Option<()> {
        while self.inside {
            self.step()?;
        }
        Some(())
    }

    /// Goes on to beginning (or end) of the call number `nth` that changes
    /// something, counted from 1, and says which; none where the process ends
    /// before.
    pub fn go_to(&mut self, nth: usize, moment: Moment) -> Option<String> {
        let mut call = None;
        for _ in 0..nth {
            call = Some(self.next_change()?);
        }
        if moment == Moment::After {
            self.end_of_call()?;
        }
        call
    }

    /// Kills it, and says when.
    pub fn kill(mut self) -> Instant {
        let at = Instant::now();
        kill(self.pid, Signal::SIGKILL).unwrap();
        self.wait();
        at
    }

    /// Sends a signal and lets go of it. Whoever started it waits for it:
    /// [`ended`].
    pub fn release(self, signal: Option<Signal>) -> Pid {
        if let Some(signal) = signal {
            kill(self.pid, signal).unwrap();
        }
        ptrace::detach(self.pid, None).unwrap();
        self.pid
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended, where it has.
    pub fn ended(&self) -> Option<WaitStatus> {
        self.ended
    }

    fn wait(&mut self) {
        while self.ended.is_none() {
            match waitpid(self.pid, None).unwrap() {
                end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => self.ended = Some(end),
                _ => ptrace::cont(self.pid, None).unwrap(),
            }
        }
    }

    /// To the next stop at a system call.
    fn step(&mut self) -> Option<()> {
        let mut deliver = None;
        loop {
            if self.ended.is_some() {
                return None;
            }
            ptrace::syscall(self.pid, deliver).unwrap();
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::PtraceSyscall(_) => {
                    self.inside = !self.inside;
                    return Some(());
                }
                WaitStatus::Stopped(_, signal) => deliver = Some(signal),
                end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => self.ended = Some(end),
                _ => deliver = None,
            }
        }
    }
}

impl Drop for Tracee {
    /// Waits for who waited for it, where that is another.
    fn drop(&mut self) {
        let me = u32::try_from(self.pid.as_raw()).ok();
        let outer = self.child.as_mut().filter(|child| Some(child.id()) != me);
        if let Some(child) = outer.filter(|_| self.ended.is_some()) {
            let _ = child.wait();
        }
    }
}

/// The processes of a program that run in a namespace.
pub fn processes(ns: &Namespace, program: &str) -> Vec<i32> {
    let program = PathBuf::from(program).canonicalize().unwrap();
    let namespace = fs::metadata(ns.path()).unwrap().ino();
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
                && fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.ino() == namespace)
        })
        .collect()
}

/// The call that a process held at its beginning is about to make, where it
/// changes the kernel or the disk.
fn changing_call(pid: Pid) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let arguments: Vec<u64> = words
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect();
    let argument = |place: usize| arguments.get(place).copied().unwrap_or(0);
    let at = |address: u64, length: usize| {
        let mut bytes = vec![0; length];
        let memory = File::open(format!("/proc/{pid}/mem"));
        let read = memory
            .and_then(|memory| memory.read_at(&mut bytes, address))
            .unwrap_or(0);
        bytes.truncate(read);
        bytes
    };
    let file = |place: usize| {
        let link = fs::read_link(format!("/proc/{pid}/fd/{}", argument(place)));
        link.map_or_else(|_| "?".to_owned(), |path| path.display().to_string())
    };
    let number_at = |address: u64| {
        let bytes = at(address, 8);
        bytes.try_into().map_or(0, u64::from_ne_bytes)
    };
    match number {
        libc::SYS_sendto => message(&at(argument(1), 4096), argument(2)),
        libc::SYS_sendmsg => {
            // struct msghdr: the vectors are the third field.
            let vector = number_at(argument(1) + 16);
            message(&at(number_at(vector), 4096), number_at(vector + 8))
        }
        // What is said on stdout and stderr changes no state, nor does a thread
        // that wakes another of its own.
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 | libc::SYS_ftruncate => {
            let to = file(0);
            (argument(0) > 2 && !to.contains("[eventfd]")).then(|| format!("write {to}"))
        }
        libc::SYS_openat => {
            let creates = (libc::O_CREAT | libc::O_TRUNC) as u64;
            (argument(2) & creates != 0).then(|| {
                let path = at(argument(1), 256);
                let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                format!("create {}", String::from_utf8_lossy(path))
            })
        }
        libc::SYS_bpf => bpf(argument(0)).map(str::to_owned),
        number => other_change(number).map(str::to_owned),
    }
}

/// `enum bpf_cmd` of include/uapi/linux/bpf.h.
fn bpf(command: u64) -> Option<&'static str> {
    Some(match command {
        2 => "bpf update",
        3 => "bpf delete",
        5 => "bpf load",
        8 => "bpf attach",
        9 => "bpf detach",
        _ => return None,
    })
}

/// Calls that change something whatever their arguments.
fn other_change(number: i64) -> Option<&'static str> {
    Some(match number {
        libc::SYS_fsync | libc::SYS_fdatasync => "fsync",
        libc::SYS_flock => "flock",
        libc::SYS_renameat | libc::SYS_renameat2 => "rename",
        libc::SYS_unlinkat => "unlink",
        libc::SYS_mkdirat => "mkdir",
        libc::SYS_linkat => "link",
        libc::SYS_symlinkat => "symlink",
        libc::SYS_fchmod | libc::SYS_fchmodat => "chmod",
        libc::SYS_fchown | libc::SYS_fchownat => "chown",
        libc::SYS_clone | libc::SYS_clone3 => "clone",
        libc::SYS_execve => "execve",
        libc::SYS_kill => "kill",
        libc::SYS_pidfd_send_signal => "pidfd_send_signal",
        libc::SYS_setsid => "setsid",
        libc::SYS_exit_group => "exit_group",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => "rename",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => "unlink",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => "mkdir",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => "rmdir",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork | libc::SYS_fork => "clone",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => "chmod",
        _ => return None,
    })
}

/// What a datagram of this many bytes is, unless it is a question. A question
/// of route netlink has a type whose lowest bits are 2 (RTM_GETLINK, ...:
/// include/uapi/linux/rtnetlink.h).
fn message(bytes: &[u8], length: u64) -> Option<String> {
    let header = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default().to_vec();
    let first = header(0..4).try_into().map_or(0, u32::from_ne_bytes);
    let kind = header(4..6).try_into().map_or(0, u16::from_ne_bytes);
    let netlink = u64::from(first) <= length && first >= 16 && (16..128).contains(&kind);
    if !netlink {
        return Some("send".to_owned());
    }
    let verb = match kind % 4 {
        0 => "new",
        1 => "delete",
        2 => return None,
        _ => "set",
    };
    let what = match kind / 4 {
        4 => "link",
        5 => "address",
        6 => "route",
        7 => "neighbour",
        8 => "rule",
        _ => "other",
    };
    let several = length > u64::from(first.next_multiple_of(4));
    Some(format!(
        "netlink {}{verb} {what}",
        if several { "flip: " } else { "" }
    ))
}
