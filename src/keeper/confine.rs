//! What is left to a keeper: it reads what anyone on the LAN sends.
//!
//! It needs CAP_NET_RAW to hear and to say something without an address,
//! CAP_NET_BIND_SERVICE for the port of clients, CAP_NET_ADMIN for the address.
//! Everything else goes, and with a filter of system calls goes what root could
//! do as the owner of files: it can open none to write, nor start a program.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What it may not call at all.
const NEVER: &[libc::c_long] = &[
    // Other programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    // Files, by their names.
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_truncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_io_uring_setup,
    // The system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];

/// The same, of the architectures that still have them.
#[cfg(target_arch = "x86_64")]
const NEVER_OLD: &[libc::c_long] = &[
    libc::SYS_creat,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_OLD: &[libc::c_long] = &[];

/// Confines the process, for good. It must have one thread.
///
/// # Errors
/// What cannot be given up, as a sentence.
pub fn confine() -> Result<(), String> {
    let left = CapsHashSet::from([
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_RAW,
        Capability::CAP_NET_BIND_SERVICE,
    ]);
    let failed = |error: caps::errors::CapsError| format!("cannot give capabilities up: {error}");
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed)? {
        caps::clear(None, CapSet::Bounding).map_err(failed)?;
    }
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    caps::set(None, CapSet::Effective, &left).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &left).map_err(failed)?;
    prctl::set_no_new_privs().map_err(|error| format!("cannot set no_new_privs: {error}"))?;
    let program = program().map_err(|error| format!("no filter of system calls: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("no filter of system calls: {error}"))
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in NEVER.iter().chain(NEVER_OLD) {
        calls.insert(*call, Vec::new());
    }
    let flag = |argument: u8, mask: libc::c_int, value: libc::c_int| {
        let operation = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
        let value = u64::from(value.cast_unsigned());
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)?;
        SeccompRule::new(vec![condition])
    };
    let mut opening = vec![(libc::SYS_openat, 2)];
    #[cfg(target_arch = "x86_64")]
    opening.push((libc::SYS_open, 1));
    for (call, argument) in opening {
        let rules = vec![
            flag(argument, libc::O_ACCMODE, libc::O_WRONLY)?,
            flag(argument, libc::O_ACCMODE, libc::O_RDWR)?,
            flag(argument, libc::O_CREAT, libc::O_CREAT)?,
        ];
        calls.insert(call, rules);
    }
    // A memory that is written and executed.
    let (both, argument) = (libc::PROT_WRITE | libc::PROT_EXEC, 2);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        calls.insert(call, vec![flag(argument, both, both)?]);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(calls, SeccompAction::Allow, denied, arch)?.try_into()
}
