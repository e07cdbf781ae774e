//! What a keeper is told, and what it tells, in two files that only root can
//! write: `br0.duty` and `br0.lease`. They are beside the lock of the network
//! namespace, wherever the records are: there is one keeper of a bridge.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use crate::apply::namespace::RUN_DIR;
use crate::apply::{clock, store};
use crate::model::{Address, IfName, Route};
use crate::plan::hold::Sent;
use crate::plan::record::Process;

/// What is told is written over what was told before, in one piece of this
/// length: who reads meanwhile sees one or the other.
const LENGTH: usize = 2048;

/// What a keeper is to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// The bridge that has the address.
    pub bridge: IfName,
    /// The number of the uplink, behind which the server is.
    pub uplink: u32,
    /// The MAC of both.
    pub mac: MacAddr6,
    /// The address, as it was when nothing was known but it.
    pub address: Address,
    /// Who gave it, where that is known.
    pub server: Option<Ipv4Addr>,
    /// What is said to get it.
    pub sent: Sent,
    /// The default route by the uplink, as it was: a new one is like it.
    pub route: Option<Route>,
}

/// What a keeper tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who tells it.
    pub process: Process,
    /// Where it is: `confirming`, `refused`, `selecting`, `requesting`,
    /// `bound`, `renewing`, `rebinding`.
    pub state: String,
    /// The address that is held.
    pub address: Option<Ipv4Addr>,
    /// Who gave it.
    pub server: Option<Ipv4Addr>,
    /// When it ends, in milliseconds since the boot; none where it is not
    /// known, or never.
    pub ends: Option<u64>,
    /// As which of its identities a server has confirmed it.
    pub known_as: Option<usize>,
}

impl Told {
    /// Whether the one who told it runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Seconds that are left of the lease.
    pub fn seconds_left(&self) -> Option<u64> {
        Some(self.ends?.saturating_sub(clock::boot_milliseconds()) / 1000)
    }
}

/// The files of the keepers of a network namespace.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    /// Of the namespace of this name.
    pub fn of(namespace: &str) -> Self {
        Self(Path::new(RUN_DIR).join(namespace).join("keeper"))
    }

    /// The directory in which a keeper writes.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    fn path(&self, bridge: &IfName, what: &str) -> PathBuf {
        self.0.join(format!("{bridge}.{what}"))
    }

    /// Writes what a keeper is to do, and makes the file in which it tells.
    ///
    /// # Errors
    /// As of [`store::write`].
    pub fn order(&self, duty: &Duty) -> io::Result<()> {
        // Of the one before.
        store::remove(&self.path(&duty.bridge, "lease"))?;
        store::write(
            &self.path(&duty.bridge, "duty"),
            &serde_json::to_vec_pretty(duty)?,
        )
    }

    /// What the keeper of a bridge is to do; none where there is nothing.
    ///
    /// # Errors
    /// In words.
    pub fn duty(&self, bridge: &IfName) -> Result<Option<Duty>, String> {
        let path = self.path(bridge, "duty");
        let about = |why: String| format!("{}: {why}", path.display());
        let text = store::read(&path).map_err(about)?;
        let read = |text: Vec<u8>| serde_json::from_slice(&text).map_err(|error| about(error.to_string()));
        text.map(read).transpose()
    }

    /// Opens the file in which the keeper of a bridge tells.
    ///
    /// # Errors
    /// As of open(2).
    pub fn open(&self, bridge: &IfName) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path(bridge, "lease"))
    }

    /// What the keeper of a bridge told last; none where it told nothing, or
    /// nothing that can be believed.
    pub fn told(&self, bridge: &IfName) -> Option<Told> {
        let text = store::read(&self.path(bridge, "lease")).ok().flatten()?;
        serde_json::from_slice(&text).ok()
    }

    /// Takes the duty from the keeper of a bridge: whoever starts as such from
    /// now on ends again.
    ///
    /// # Errors
    /// As of unlink(2).
    pub fn dismiss(&self, bridge: &IfName) -> io::Result<()> {
        store::remove(&self.path(bridge, "duty"))
    }

    /// Removes what the keeper of a bridge told.
    ///
    /// # Errors
    /// As of unlink(2).
    pub fn forget(&self, bridge: &IfName) -> io::Result<()> {
        store::remove(&self.path(bridge, "lease"))
    }
}

/// Tells; `file` is of [`Files::open`].
///
/// # Errors
/// As of pwrite(2).
pub fn tell(file: &File, told: &Told) -> io::Result<()> {
    let mut text = serde_json::to_vec(told)?;
    text.resize(text.len().max(LENGTH), b' ');
    file.write_all_at(&text, 0)
}
