//! The filter under which the privileged part of the helper runs (seccomp(2)).
//!
//! From here on the process can change the one TAP and the bridge, say what
//! happened, hand the descriptors over, and end. It cannot open, connect,
//! start or trace anything, and no memory can become executable. A call that
//! is not listed kills the process, and with it the TAP, which lives by its
//! descriptors.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::ifreq::request;

/// The ioctls that are left to do. Making a TAP persistent is none of them.
const IOCTLS: [u32; 10] = [
    request::TUNSETIFF,
    request::TUNSETOWNER,
    request::SIOCGIFHWADDR,
    request::SIOCSIFHWADDR,
    request::SIOCGIFMTU,
    request::SIOCSIFMTU,
    request::SIOCGIFINDEX,
    request::SIOCGIFFLAGS,
    request::SIOCSIFFLAGS,
    request::SIOCBRADDIF,
];

/// The descriptors that may still be written to. What may be opened no more
/// was opened before.
#[derive(Debug)]
pub struct Open<'a> {
    /// Where the TAP's descriptors go.
    pub reply: BorrowedFd<'a>,
    /// The log, where there is one.
    pub log: Option<BorrowedFd<'a>>,
    /// rtnetlink, where it is needed.
    pub rtnl: Option<BorrowedFd<'a>>,
}

/// Confines the process to what [`Open`] and the module's text say, for good.
/// The process must have one thread.
///
/// # Errors
/// The kernel has no seccomp filters, or forbids them; as a sentence.
pub fn confine(open: &Open<'_>) -> Result<(), String> {
    let program = program(open).map_err(|e| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| e.to_string())
}

fn program(open: &Open<'_>) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut allow = |call: libc::c_long, conditions: Vec<SeccompCondition>| {
        let rules = calls.entry(call).or_default();
        if !conditions.is_empty() {
            rules.push(SeccompRule::new(conditions)?);
        }
        Ok::<(), seccompiler::BackendError>(())
    };

    for number in IOCTLS {
        allow(libc::SYS_ioctl, vec![equals(1, number)?])?;
    }

    // Only the reply may carry descriptors; send(3) is sendto(2).
    allow(libc::SYS_sendmsg, vec![descriptor(open.reply)?])?;
    for socket in [open.log, open.rtnl].into_iter().flatten() {
        allow(libc::SYS_sendto, vec![descriptor(socket)?])?;
    }
    if let Some(log) = open.log {
        // A log that is full is waited for: Log::send sets a timeout.
        allow(
            libc::SYS_setsockopt,
            vec![descriptor(log)?, equals(2, libc::SO_SNDTIMEO.cast_unsigned())?],
        )?;
    }
    if let Some(rtnl) = open.rtnl {
        allow(libc::SYS_recvfrom, vec![descriptor(rtnl)?])?;
    }
    allow(
        libc::SYS_write,
        vec![equals(0, libc::STDERR_FILENO.cast_unsigned())?],
    )?;

    // Privilege goes up for the ioctls and then away.
    allow(libc::SYS_capget, vec![])?;
    allow(libc::SYS_capset, vec![])?;

    // The allocator, of musl and of glibc.
    allow(libc::SYS_brk, vec![])?;
    allow(libc::SYS_munmap, vec![])?;
    allow(libc::SYS_mremap, vec![])?;
    allow(libc::SYS_madvise, vec![])?;
    allow(libc::SYS_mmap, vec![not_executable()?])?;
    allow(libc::SYS_mprotect, vec![not_executable()?])?;

    // The end: descriptors are closed, the runtime puts its signal stack away.
    allow(libc::SYS_close, vec![])?;
    if cfg!(debug_assertions) {
        // The standard library then asks of each descriptor it closes whether
        // it is open.
        allow(libc::SYS_fcntl, vec![equals(1, libc::F_GETFD.cast_unsigned())?])?;
    }
    allow(libc::SYS_sigaltstack, vec![])?;
    allow(libc::SYS_exit_group, vec![])?;
    allow(libc::SYS_exit, vec![])?;

    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(calls, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

fn equals(argument: u8, value: u32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(value),
    )
}

fn descriptor(fd: BorrowedFd<'_>) -> Result<SeccompCondition, seccompiler::BackendError> {
    equals(0, fd.as_raw_fd().cast_unsigned())
}

fn not_executable() -> Result<SeccompCondition, seccompiler::BackendError> {
    let exec = libc::PROT_EXEC as u64;
    SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(exec), 0)
}
