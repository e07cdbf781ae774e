//! The descriptors that the process was started with, or has opened since.

use std::io;

use nix::errno::Errno;

/// Lets no descriptor but the three standard ones pass to a program that is
/// executed from now on (close_range(2), the flag since Linux 5.11).
///
/// # Errors
/// As of close_range(2).
pub fn keep_from_children() -> io::Result<()> {
    let first: libc::c_uint = 3;
    // SAFETY: with this flag close_range(2) closes nothing and touches no
    // memory of ours: it only marks descriptors as close-on-exec.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(answer)?;
    Ok(())
}
