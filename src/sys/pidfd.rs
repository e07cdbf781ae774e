//! Processes held by a descriptor: unlike a number, it never comes to mean
//! another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// A process, or what is left of it.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Holds the process that has the number now (pidfd_open(2), Linux 5.3).
    ///
    /// # Errors
    /// ESRCH where there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open(2) takes two integers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0 as libc::c_long) };
        let fd = libc::c_int::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us, with
        // close-on-exec (pidfd_open(2)); nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal (pidfd_send_signal(2), Linux 5.1).
    ///
    /// # Errors
    /// ESRCH where the process has ended, EPERM.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor lives as long as `self`; without a siginfo
        // the kernel reads no memory of ours.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                none,
                0 as libc::c_uint,
            )
        };
        Errno::result(answer)?;
        Ok(())
    }

    /// Whether the process has ended, once it has or `patience` is over.
    pub fn has_ended(&self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        loop {
            let mut asked = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut asked, timeout) {
                Err(Errno::EINTR) => {}
                answer => return answer.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn tells_the_end_of_a_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let held = PidFd::open(child.id()).unwrap();
        assert!(!held.has_ended(Duration::ZERO));
        held.signal(Signal::SIGKILL).unwrap();
        assert!(held.has_ended(Duration::from_secs(5)));
        child.wait().unwrap();
        assert_eq!(
            held.signal(Signal::SIGKILL).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        assert!(
            PidFd::open(u32::MAX >> 1).is_err(),
            "above the largest process id"
        );
    }
}
