//! Files that other programs keep, read with suspicion.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

/// More than any file of these has by far; a longer one is not read.
const LONGEST: u64 = 1 << 20;

/// A file's contents, and who wrote it when.
#[derive(Debug)]
pub struct Kept {
    /// All of it.
    pub bytes: Vec<u8>,
    /// The user who owns it.
    pub owner: u32,
    /// When it was written last.
    pub modified: Option<SystemTime>,
}

impl Kept {
    /// As text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The value after `KEY=` on a line of its own.
    pub fn value(&self, key: &str) -> Option<String> {
        let text = self.text();
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.map(|value| value.trim().to_owned())
    }
}

/// Reads a regular file that `believed` (a user id) or root owns and nobody
/// else can write. Anything else in its place, a FIFO or a file without an
/// end among them, is as good as none.
pub fn read(path: &Path, believed: Option<u32>) -> Option<Kept> {
    // Without O_NONBLOCK the open itself waits at a FIFO; and whoever else is
    // believed shall not lead root to a device that acts when it is opened.
    let follow = if believed.is_some() { libc::O_NOFOLLOW } else { 0 };
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | follow)
        .open(path)
        .ok()?;
    let is = file.metadata().ok()?;
    let owner = is.uid();
    let trusted = (owner == 0 || Some(owner) == believed) && is.mode() & 0o022 == 0;
    if !is.is_file() || !trusted || is.len() > LONGEST {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(Kept {
        bytes,
        owner,
        modified: is.modified().ok(),
    })
}
