//! What identifies a network namespace.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A number that the kernel gives to one network namespace and, until the
/// next boot, to no other; unlike an inode number it is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// From include/uapi/asm-generic/socket.h; since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the network namespace that the calling thread is in.
///
/// # Errors
/// As of socket(2); ENOPROTOOPT before Linux 5.14.
pub fn cookie() -> io::Result<Cookie> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` has the 8 bytes that `length` says, both outlive the
    // call, and the kernel writes at most `length` bytes to the first and one
    // socklen_t to the second (sk_getsockopt, net/core/sock.c).
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(Cookie(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_the_same_in_one_namespace() {
        let first = cookie().unwrap();
        assert_ne!(first.0, 0);
        assert_eq!(cookie().unwrap(), first);
    }
}
