//! systemd-udevd, which may give a new device a MAC of its own making
//! (`MACAddressPolicy=` and `MACAddress=` of systemd.link(5)).
//!
//! The bridge is made with the NIC's MAC, which no policy replaces; what names
//! a MAC does. So udevd is told before that it leaves this one alone, by the
//! file that comes first in the order of their names. It goes on every way
//! back.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::model::IfName;
use crate::plan::Record;
use crate::tool;

use super::scene::Scene;

const DIRECTORY: &str = "/run/systemd/network";
/// What the name of a file ends with that is not whole yet.
const UNFINISHED: &str = "link.new";
/// How long udevd may take to hear that there is something to read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a udevd looks after this network namespace, and reads the files
/// that the caller writes.
pub(super) fn looks_after(scene: &Scene<'_>) -> bool {
    let run = identity(Path::new("/run"));
    scene.by_root().any(|process| {
        // Newer ones are udevadm, called by the other name.
        let called = process.arguments.first().map_or("", String::as_str);
        let is = process.runs("systemd-udevd")
            || (process.runs("udevadm") && called.rsplit('/').next() == Some("systemd-udevd"));
        is && run.is_some()
            && run == identity(&Path::new("/proc").join(process.id.to_string()).join("root/run"))
    })
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|is| (is.dev(), is.ino()))
}

fn path(bridge: &IfName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("00-vmbr-{bridge}.link"))
}

fn text(bridge: &IfName) -> String {
    format!(
        "# vmbr: {bridge} has the MAC of its uplink.\n[Match]\nOriginalName={bridge}\n[Link]\nMACAddressPolicy=none\n"
    )
}

/// The command that a person would type for [`announce`].
pub fn announce_command(record: &Record) -> Option<String> {
    let bridge = &record.bridge.name;
    record.udev.then(|| {
        format!(
            "printf '%s\\n' '[Match]' 'OriginalName={bridge}' '[Link]' 'MACAddressPolicy=none' >'{}'; udevadm control --reload",
            path(bridge).display()
        )
    })
}

/// The command that a person would type for [`forget`].
pub fn forget_command(record: &Record) -> Option<String> {
    let path = path(&record.bridge.name);
    record.udev.then(|| format!("rm -f '{}'", path.display()))
}

/// Tells udevd that it leaves the bridge's MAC alone. Without it the MAC is
/// kept as well, where no file of the host names one: a failure is a warning.
pub fn announce(record: &Record) -> Result<(), String> {
    if !record.udev {
        return Ok(());
    }
    let path = path(&record.bridge.name);
    let write = || -> io::Result<()> {
        fs::create_dir_all(DIRECTORY)?;
        // udevd takes it whole or not at all.
        let new = path.with_extension(UNFINISHED);
        fs::write(&new, text(&record.bridge.name))?;
        fs::rename(&new, &path)
    };
    write().map_err(|error| {
        format!(
            "cannot write {}: {error}; see 'ip link show {}' for its MAC",
            path.display(),
            record.bridge.name
        )
    })?;
    // It looks for changes at most every three seconds by itself
    // (`manager_reload()` of src/udev/udevd.c).
    let _ = tool::ask("udevadm", &["control", "--reload"], Instant::now() + PATIENCE);
    Ok(())
}

/// Takes that back.
pub fn forget(record: &Record) {
    if record.udev {
        let path = path(&record.bridge.name);
        let _ = fs::remove_file(path.with_extension(UNFINISHED));
        let _ = fs::remove_file(path);
    }
}
