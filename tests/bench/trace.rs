//! One program under ptrace: how many system calls it makes, and the most
//! memory it had.
//!
//! `ru_maxrss` would not do for the memory: it starts from the size of the
//! process that forked, which is many times a helper's.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::lab::Outcome;

/// Put before a command line: stops, for [`follow`] to take hold of it, and
/// becomes the command when it is let go.
pub const STOPPED: [&str; 4] = ["sh", "-c", "kill -STOP $$; exec \"$@\"", "sh"];

/// What was seen of a program from its first instruction to its end.
pub struct Seen {
    /// System calls from after execve to exit_group, both excluded and included.
    pub system_calls: usize,
    /// Peak of the resident memory in kB, pages shared with others included.
    pub peak_kb: u64,
}

/// Runs a command that [`STOPPED`] is part of, and watches what it becomes.
pub fn follow(mut command: Command) -> Outcome<Seen> {
    let child = command.stdin(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(child.id().try_into()?);
    match waitpid(pid, Some(WaitPidFlag::WUNTRACED))? {
        WaitStatus::Stopped(..) => {}
        other => return Err(format!("it did not start: {other:?}").into()),
    }
    // Should this process end early, the other one ends with it.
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)?;
    kill(pid, Signal::SIGCONT)?;

    let mut started = false;
    let mut stops = 0;
    let mut peak_kb = 0;
    loop {
        let mut deliver = None;
        match waitpid(pid, None)? {
            WaitStatus::PtraceSyscall(_) => stops += 1,
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                started = true
            }
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXIT as i32 => {
                peak_kb = peak_of(pid)?;
            }
            WaitStatus::PtraceEvent(..) => {}
            WaitStatus::Stopped(_, signal) => deliver = Some(signal),
            WaitStatus::Exited(_, 0) => break,
            other => return Err(format!("it ended badly: {other:?}").into()),
        }
        if started {
            ptrace::syscall(pid, deliver)?
        } else {
            ptrace::cont(pid, deliver)?
        }
    }
    // A stop as each call begins and one as it ends; the first is the end of
    // execve, and exit_group does not return.
    Ok(Seen {
        system_calls: stops / 2,
        peak_kb,
    })
}

/// The peak, of a process that is about to exit but still has its memory. The
/// kernel's high-water mark is kept in coarse steps; the page tables are not,
/// and a helper returns next to nothing before its end.
fn peak_of(pid: Pid) -> Outcome<u64> {
    let mark = kilobytes(&format!("/proc/{pid}/status"), "VmHWM:")?;
    let now = kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Rss:")?;
    Ok(mark.max(now))
}

fn kilobytes(file: &str, field: &str) -> Outcome<u64> {
    let text = fs::read_to_string(file).map_err(|error| format!("reading {file}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("{file} has no {field}"))?.parse()?)
}
