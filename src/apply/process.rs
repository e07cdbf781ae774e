//! Processes, told apart from others of the same number.

use std::fs;
use std::io;

use crate::plan::record::Process;
use crate::sys::pidfd::PidFd;

impl Process {
    /// The process that has the number now.
    ///
    /// # Errors
    /// `NotFound` where there is none, or /proc is not mounted.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name stands in parentheses and may hold anything; behind it,
        // `starttime` is the 20th word (proc_pid_stat(5)).
        let (_, rest) = text.rsplit_once(')').unwrap_or_default();
        let mut words = rest.split_ascii_whitespace();
        let (state, started) = (words.next(), words.nth(18));
        let started = started.and_then(|word| word.parse().ok());
        match (state, started) {
            (Some("Z" | "X"), _) => Err(io::Error::from(io::ErrorKind::NotFound)),
            (_, Some(started)) => Ok(Self { pid, started }),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    /// The calling process.
    ///
    /// # Errors
    /// As [`Process::of`].
    pub fn this() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|found| found == *self)
    }

    /// Holds it.
    ///
    /// # Errors
    /// ESRCH where it has ended.
    pub fn hold(&self) -> io::Result<PidFd> {
        let held = PidFd::open(self.pid)?;
        // The look comes after the hold: what is held now has the number.
        if self.is_alive() {
            Ok(held)
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_of_the_same_number_is_another() {
        let this = Process::this().unwrap();
        assert!(this.is_alive());
        this.hold().unwrap();
        let earlier = Process {
            started: this.started - 1,
            ..this
        };
        assert!(!earlier.is_alive());
        assert_eq!(earlier.hold().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_zombie_is_no_process() {
        let mut command = std::process::Command::new("cat");
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        drop(child.stdin.take());
        while process.is_alive() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
    }
}
