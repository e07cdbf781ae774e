//! Waiting for a change of the records, or the end of a process.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::sys::pidfd::PidFd;

/// A directory whose files are watched.
#[derive(Debug)]
pub struct Watch(Inotify);

impl Watch {
    /// Watches a directory.
    ///
    /// # Errors
    /// As of inotify_add_watch(2).
    pub fn new(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // A record is replaced or removed, never written in place.
        inotify.add_watch(directory, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE)?;
        Ok(Self(inotify))
    }

    /// Waits until a file came or went, the process ended, or `patience` is
    /// over. May return early.
    ///
    /// # Errors
    /// As of poll(2).
    pub fn wait(&self, process: Option<&PidFd>, patience: Duration) -> io::Result<()> {
        let mut asked = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        asked.extend(process.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
        // One more: a poll that ends before the time is called again and again.
        let milliseconds = u16::try_from(patience.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        match poll(&mut asked, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match self.0.read_events() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
