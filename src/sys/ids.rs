//! The groups of this process.

use std::io;

use nix::errno::Errno;

/// The supplementary groups of the calling process. nix's own question reads
/// a file of /proc for a limit first.
///
/// # Errors
/// As of getgroups(2).
pub fn groups() -> io::Result<Vec<libc::gid_t>> {
    // SAFETY: with a length of 0 getgroups(2) writes nothing and answers how
    // many there are.
    let count = Errno::result(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    let mut groups = vec![0; usize::try_from(count).unwrap_or_default()];
    // SAFETY: `groups` has room for `count` numbers, and the kernel writes no
    // more than it is told there is room for.
    let count = Errno::result(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(usize::try_from(count).unwrap_or_default());
    Ok(groups)
}
