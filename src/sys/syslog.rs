//! One line to the system's log, by /dev/log.
//!
//! The C library's syslog(3) keeps state for the whole process, reads the
//! time zone (which the environment names) and reconnects when it likes. The
//! protocol is one datagram, `<PRIORITY>IDENT[PID]: TEXT`; the daemon puts
//! the time to it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send as send_datagram};

/// Where the log daemon listens.
const LOG_SOCKET: &str = "/dev/log";

/// How long a full log may hold the sender up before the line is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which part of the system speaks (syslog(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Facility {
    /// System daemons.
    Daemon,
    /// Security messages that not everyone may read.
    AuthPriv,
}

/// How much it matters (syslog(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It failed.
    Error,
    /// It may become a failure.
    Warning,
    /// Normal, but worth to be seen.
    Notice,
    /// Normal.
    Info,
}

impl Facility {
    fn code(self) -> u8 {
        match self {
            Self::Daemon => 3,
            Self::AuthPriv => 10,
        }
    }
}

impl Severity {
    fn code(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
        }
    }
}

/// An open way to the log.
#[derive(Debug)]
pub struct Log {
    socket: UnixDatagram,
    facility: Facility,
    ident: String,
}

impl Log {
    /// Connects to the log. `ident` is the name under which lines appear.
    ///
    /// # Errors
    /// ENOENT or ECONNREFUSED where no daemon listens.
    pub fn connect(facility: Facility, ident: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(LOG_SOCKET)?;
        // Asked for now: a process that confines itself may not ask later.
        let ident = format!("{ident}[{}]", std::process::id());
        Ok(Self {
            socket,
            facility,
            ident,
        })
    }

    /// Sends one line. Control characters become `?`, so that nobody whose
    /// words are in the text can begin a line of his own.
    ///
    /// # Errors
    /// EAGAIN if the daemon did not read for a second.
    pub fn send(&self, severity: Severity, text: &str) -> io::Result<()> {
        let line = line(self.facility, severity, &self.ident, text);
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send_datagram(self.socket.as_raw_fd(), line.as_bytes(), flags) {
            Err(nix::errno::Errno::EAGAIN) => {
                // The daemon's queue is full. An attacker can fill it, so the
                // line is worth a wait; the daemon may hang, so not a long one.
                self.socket.set_write_timeout(Some(PATIENCE))?;
                send_datagram(self.socket.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
                Ok(())
            }
            other => other.map(|_| ()).map_err(io::Error::from),
        }
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects, sends one line and closes.
///
/// # Errors
/// As of [`Log::connect`] and [`Log::send`].
pub fn send(facility: Facility, severity: Severity, ident: &str, text: &str) -> io::Result<()> {
    Log::connect(facility, ident)?.send(severity, text)
}

fn line(facility: Facility, severity: Severity, ident: &str, text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    format!("<{}>{ident}: {text}", facility.code() * 8 + severity.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_priority_and_cannot_be_broken() {
        assert_eq!(
            line(Facility::AuthPriv, Severity::Warning, "x[1]", "a\n<0>b\0c"),
            "<84>x[1]: a?<0>b?c"
        );
        assert_eq!(
            line(Facility::Daemon, Severity::Info, "vmbr[2]", "\u{fc}p"),
            "<30>vmbr[2]: \u{fc}p"
        );
    }
}
