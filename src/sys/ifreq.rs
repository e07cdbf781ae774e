//! The funnel for ioctls on network devices: `struct ifreq` in, `struct ifreq` out.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::model::IfName;

/// The request numbers that are used here, and all that the filter of
/// [`crate::sys::seccomp`] lets through.
///
/// From include/uapi/linux/sockios.h and include/uapi/linux/if_tun.h. They
/// are 32 bits wide in the kernel, whatever the C library's prototype says.
pub(super) mod request {
    pub const SIOCGIFFLAGS: u32 = 0x8913;
    pub const SIOCSIFFLAGS: u32 = 0x8914;
    pub const SIOCGIFMTU: u32 = 0x8921;
    pub const SIOCSIFMTU: u32 = 0x8922;
    pub const SIOCSIFHWADDR: u32 = 0x8924;
    pub const SIOCGIFHWADDR: u32 = 0x8927;
    pub const SIOCGIFINDEX: u32 = 0x8933;
    pub const SIOCBRADDIF: u32 = 0x89a2;
    pub const TUNSETIFF: u32 = libc::TUNSETIFF as u32;
    pub const TUNSETPERSIST: u32 = libc::TUNSETPERSIST as u32;
    pub const TUNSETOWNER: u32 = libc::TUNSETOWNER as u32;
    pub const TUNSETGROUP: u32 = libc::TUNSETGROUP as u32;
    pub const TUNGETIFF: u32 = libc::TUNGETIFF as u32;
}

/// An empty `struct ifreq`.
pub(super) fn empty() -> libc::ifreq {
    // SAFETY: ifreq is made of integers and byte arrays only, for which all
    // bits zero is a value; no member of its union is a reference or an enum.
    unsafe { std::mem::zeroed() }
}

/// A `struct ifreq` that names a device.
pub(super) fn named(name: &IfName) -> libc::ifreq {
    let mut request = empty();
    set_name(&mut request, name.as_str());
    request
}

/// Writes a name of at most 15 bytes, which [`IfName`] promises, and leaves
/// the NUL behind it.
pub(super) fn set_name(request: &mut libc::ifreq, name: &str) {
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
}

/// The name that the kernel wrote.
pub(super) fn name(request: &libc::ifreq) -> io::Result<IfName> {
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|&c| c as u8)
        .take_while(|&b| b != 0)
        .collect();
    let text = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    text.parse()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Hands a `struct ifreq` to the kernel, which may write its answer into it.
pub(super) fn call(fd: BorrowedFd<'_>, request: u32, argument: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `argument` is an exclusive reference to a whole ifreq, and each
    // request of this module reads and writes at most sizeof(struct ifreq)
    // bytes at it and keeps no pointer beyond the call. TUNGETIFF copies
    // exactly one ifreq (drivers/net/tun.c, __tun_chr_ioctl).
    let answer = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            request as libc::Ioctl,
            argument as *mut libc::ifreq,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Hands a plain number to the kernel, for the requests that take one in
/// place of a pointer.
pub(super) fn call_number(fd: BorrowedFd<'_>, request: u32, argument: u32) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST, TUNSETOWNER and TUNSETGROUP take their argument
    // by value (drivers/net/tun.c): no memory of this process is involved.
    let answer = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            request as libc::Ioctl,
            libc::c_ulong::from(argument),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_in_and_come_out() {
        let longest: IfName = "123456789012345".parse().unwrap();
        let request = named(&longest);
        assert_eq!(request.ifr_name[15], 0);
        assert_eq!(name(&request).unwrap(), longest);
        assert!(name(&empty()).is_err(), "an empty name is not a device's");
    }

    #[test]
    fn request_numbers_are_those_of_the_headers() {
        // _IOW('T', n, int) and _IOR('T', 210, unsigned int) of if_tun.h.
        assert_eq!(request::TUNSETIFF, 0x4004_54ca);
        assert_eq!(request::TUNSETPERSIST, 0x4004_54cb);
        assert_eq!(request::TUNSETOWNER, 0x4004_54cc);
        assert_eq!(request::TUNSETGROUP, 0x4004_54ce);
        assert_eq!(request::TUNGETIFF, 0x8004_54d2);
    }
}
