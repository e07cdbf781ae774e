//! Which network namespace this is.

use std::{fs, io};

/// Where vmbr keeps its locks, and its records unless told otherwise. Of one
/// boot: /run is empty after a reboot, as the kernel's network is.
pub const RUN_DIR: &str = "/run/vmbr";

/// A name for the caller's network namespace that no other has or had: the
/// boot and the kernel's cookie. Inode numbers are used again.
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn identity() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let cookie = crate::sys::netns::cookie()?;
    Ok(format!("{}-{}", boot.trim(), cookie.0))
}
