//! One change of a namespace at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::namespace::RUN_DIR;

/// The right to change the namespace; given back when dropped.
#[derive(Debug)]
pub struct Lock(Option<Flock<File>>);

impl Drop for Lock {
    fn drop(&mut self) {
        // nix's own drop panics where the kernel does not unlock: a change
        // that is done must not end so. Closing at exit unlocks as well.
        if let Some(Err((kept, _))) = self.0.take().map(Flock::unlock) {
            std::mem::forget(kept);
        }
    }
}

/// Why the lock is not to be had.
#[derive(Debug)]
pub enum LockError {
    /// Another vmbr is at work; with its process id, where it could be read.
    Held(Option<u32>),
    /// The lock's file cannot be used.
    Io(io::Error),
}

/// Takes the lock of the namespace `identity`, without waiting.
///
/// Its file is always in [`RUN_DIR`], whatever the directory of the records,
/// and only root can open it: a lock that a user could hold would let that
/// user keep the administrator out.
///
/// # Errors
/// [`LockError`].
pub fn take(identity: &str) -> Result<Lock, LockError> {
    let directory = Path::new(RUN_DIR);
    make_directory(directory).map_err(LockError::Io)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let file = options
        .open(directory.join(format!("{identity}.lock")))
        .map_err(LockError::Io)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            // For the message of who comes next; losing it loses nothing.
            let _ = file
                .set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(Lock(Some(file)))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
            Err(LockError::Held(read.ok().and_then(|_| text.trim().parse().ok())))
        }
        Err((_, errno)) => Err(LockError::Io(errno.into())),
    }
}

/// Takes the lock, and waits `patience` for it.
///
/// # Errors
/// [`LockError`].
pub fn wait(identity: &str, patience: Duration) -> Result<Lock, LockError> {
    let deadline = Instant::now() + patience;
    loop {
        match take(identity) {
            Err(LockError::Held(_)) if Instant::now() < deadline => sleep(Duration::from_millis(2)),
            answer => return answer,
        }
    }
}

/// Whether a vmbr is at work in the namespace now; none where only root may
/// know.
pub fn is_held(identity: &str) -> Option<bool> {
    match File::open(Path::new(RUN_DIR).join(format!("{identity}.lock"))) {
        Ok(file) => Some(matches!(
            Flock::lock(file, FlockArg::LockSharedNonblock),
            Err((_, Errno::EWOULDBLOCK))
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// Makes a directory that others can read and only its maker can change; one
/// that is there already must be so, too.
///
/// # Errors
/// As of mkdir(2); `PermissionDenied` for a directory that others can change.
pub fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path)?;
    let mine = metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    if metadata.is_dir() && mine {
        Ok(())
    } else {
        let text = format!(
            "{} is not a directory that only its owner, you, can change",
            path.display()
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}
