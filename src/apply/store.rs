//! The records of what was changed, on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::IfName;
use crate::plan::Record;
use crate::plan::record::{OLDEST, VERSION};

use super::clock;
use super::lock::make_directory;

/// The largest record that is read, in bytes: a full routing table has less.
const LARGEST: u64 = 256 << 20;
/// A setting that only root can read; a record, everyone can.
const SECRET: &str = "ipv6/conf/stable_secret";

/// The mode of a file that everyone may read and its owner alone write.
const READABLE: u32 = 0o644;

/// What the name of a file ends with that is not whole yet.
const UNFINISHED: &str = "new";

/// Names the file that remembers a rollback: `br0.rolled-back`.
const NOTE: &str = "rolled-back";

/// The records of one network namespace.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    namespace: String,
}

/// What `status` tells of a change that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The bridge that was to carry the network.
    pub bridge: IfName,
    /// The uplink that carries it again.
    pub uplink: IfName,
    /// Seconds since 1970.
    pub time: u64,
    /// Why, in a sentence.
    pub reason: String,
}

impl Rollback {
    /// The change of a record, taken back now.
    pub fn of(record: &Record, reason: &str) -> Self {
        Self {
            bridge: record.bridge.name.clone(),
            uplink: record.uplink.name.clone(),
            time: clock::now(),
            reason: reason.to_owned(),
        }
    }
}

/// What a record's file says.
#[derive(Debug)]
pub enum Entry {
    /// A record of this namespace.
    Record(Box<Record>),
    /// A file that is no record of this namespace, with the reason. It is
    /// never acted on, and never removed.
    Unusable {
        /// The bridge that the file is named for.
        bridge: IfName,
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        why: String,
    },
}

impl Store {
    /// The records of the namespace `identity` below `state_dir`.
    pub fn new(state_dir: &Path, identity: &str) -> Self {
        Self {
            directory: state_dir.join(identity),
            namespace: identity.to_owned(),
        }
    }

    /// Where another file of the namespace is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the record of a bridge is.
    pub fn path(&self, bridge: &IfName) -> PathBuf {
        self.directory.join(format!("{bridge}.json"))
    }

    /// The directory of the records, made where it is not there.
    ///
    /// # Errors
    /// As of [`make_directory`].
    pub fn directory(&self) -> io::Result<&Path> {
        make_directory(&self.directory)?;
        Ok(&self.directory)
    }

    /// Writes a record so that it is on disk, whole, when this returns: a
    /// reader sees the one before or this one, also after a crash. Where it
    /// fails, the one before stays.
    ///
    /// # Errors
    /// As of open(2), write(2), fsync(2), rename(2).
    pub fn save(&self, record: &Record) -> io::Result<()> {
        self.directory()?;
        let mut record = record.clone();
        record.before.sysctls.remove(SECRET);
        if let Some(end) = &mut record.end {
            end.network.sysctls.remove(SECRET);
        }
        let text = serde_json::to_vec_pretty(&record)?;
        let path = self.path(&record.bridge.name);
        let before = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        replace(&path, &text, READABLE)?;
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        if synced.is_err() {
            // The caller takes it that nothing was written.
            match before {
                Some(before) => replace(&path, &before, READABLE)?,
                None => fs::remove_file(&path)?,
            }
        }
        synced
    }

    /// Removes the record of a bridge.
    ///
    /// # Errors
    /// As of unlink(2); none where there is no record.
    pub fn remove(&self, bridge: &IfName) -> io::Result<()> {
        remove(&self.path(bridge))
    }

    /// The record of one bridge, where there is one that can be used.
    ///
    /// # Errors
    /// As of [`Store::load`].
    pub fn find(&self, bridge: &IfName) -> io::Result<Option<Record>> {
        let usable = |entry| match entry {
            Entry::Record(record) if record.bridge.name == *bridge => Some(*record),
            _ => None,
        };
        Ok(self.load()?.into_iter().find_map(usable))
    }

    /// Remembers that a change was taken back, until the next one of the
    /// bridge.
    ///
    /// # Errors
    /// As of [`Store::save`].
    pub fn note(&self, rollback: &Rollback) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(rollback)?;
        replace(
            &self.directory()?.join(format!("{}.{NOTE}", rollback.bridge)),
            &text,
            READABLE,
        )
    }

    /// Forgets what was remembered of a bridge.
    ///
    /// # Errors
    /// As of unlink(2).
    pub fn forget_note(&self, bridge: &IfName) -> io::Result<()> {
        gone(fs::remove_file(self.directory.join(format!("{bridge}.{NOTE}"))))
    }

    /// The changes that were taken back, by the bridge's name. What cannot be
    /// read is left out: nothing is done by it.
    pub fn rollbacks(&self) -> Vec<Rollback> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let notes = paths.filter(|path| path.extension().is_some_and(|extension| extension == NOTE));
        let read = |path: PathBuf| serde_json::from_slice(&text(&path).ok()?).ok();
        let mut found: Vec<Rollback> = notes.filter_map(read).collect();
        found.sort_by(|a, b| a.bridge.cmp(&b.bridge));
        found
    }

    /// Every record's file of the namespace, by the bridge's name.
    ///
    /// # Errors
    /// As of opendir(3); a directory that is not there has no records.
    pub fn load(&self) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let is_record = path.extension().is_some_and(|extension| extension == "json");
            let Some(bridge) = stem.and_then(|stem| stem.parse().ok()).filter(|_| is_record) else {
                continue;
            };
            found.push(match self.read(&path, &bridge) {
                Ok(record) => Entry::Record(Box::new(record)),
                Err(why) => Entry::Unusable { bridge, path, why },
            });
        }
        found.sort_by(|a, b| a.bridge().cmp(b.bridge()));
        Ok(found)
    }

    fn read(&self, path: &Path, bridge: &IfName) -> Result<Record, String> {
        let text = text(path)?;
        // The version first: a newer form may have other fields.
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| format!("it is damaged: {error}"))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if (u64::from(OLDEST)..=u64::from(VERSION)).contains(&version) => {}
            Some(version) => {
                return Err(format!(
                    "it has version {version}, this vmbr reads versions {OLDEST} to {VERSION}"
                ));
            }
            None => return Err("it is damaged: it has no version".into()),
        }
        let record: Record =
            serde_json::from_value(value).map_err(|error| format!("it is damaged: {error}"))?;
        if record.namespace != self.namespace {
            return Err("it is of another boot or another network namespace".into());
        }
        if record.bridge.name != *bridge {
            return Err(format!("it speaks of the bridge {}", record.bridge.name));
        }
        Ok(record)
    }
}

/// Reads a file that [`write()`] has put there.
///
/// # Errors
/// In words; a file that is not there is no error and has no text.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => text(path).map(Some),
    }
}

fn text(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let mut file = io::Read::take(open(path)?, LARGEST);
    io::Read::read_to_end(&mut file, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Removes a file that [`write()`] has put there, and what one that was cut
/// short has left. The caller holds the lock.
///
/// # Errors
/// As of unlink(2); none where there is no file.
pub fn remove(path: &Path) -> io::Result<()> {
    gone(fs::remove_file(path.with_extension(UNFINISHED)))?;
    gone(fs::remove_file(path))
}

/// Writes a file so that it is on disk, whole, when this returns.
///
/// # Errors
/// As of [`Store::save`].
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    write_as(path, text, READABLE)
}

/// The same, with this mode (chmod(2)); what others could write with it they
/// cannot.
///
/// # Errors
/// As of [`Store::save`].
pub fn write_as(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    replace(path, text, mode & READABLE)?;
    File::open(directory)?.sync_all()
}

/// What is not there need not be removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens a record to read it. What anyone but root, and the caller, could have
/// put there is none; a FIFO must not hold the caller.
fn open(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| {
        if error.raw_os_error() == Some(libc::ELOOP) {
            "it is a symbolic link".to_owned()
        } else {
            error.to_string()
        }
    })?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let owner = metadata.uid();
    if !metadata.is_file() {
        Err("it is not a regular file".into())
    } else if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        Err(format!("it belongs to user {owner}"))
    } else if metadata.mode() & 0o022 != 0 {
        Err("others than its owner can write it".into())
    } else {
        Ok(file)
    }
}

/// Puts a file with this text, on disk and whole, in the place of another.
fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension(UNFINISHED);
    // One left by a crash is nobody's: the lock is held.
    gone(fs::remove_file(&new))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

impl Entry {
    /// The bridge that the file is named for.
    pub fn bridge(&self) -> &IfName {
        match self {
            Self::Record(record) => &record.bridge.name,
            Self::Unusable { bridge, .. } => bridge,
        }
    }
}
