//! bpf(2) for programs that the device itself holds.
//!
//! A program that is attached by `BPF_PROG_ATTACH` (tcx, Linux 6.6) stays when
//! its loader has ended, without a link that somebody would have to hold or to
//! pin. Layouts: include/uapi/linux/bpf.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::netdev::IfIndex;

const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;

const REPLACE: u32 = 1 << 2;
const BEFORE: u32 = 1 << 3;

/// How many programs one hook of a device can have (`BPF_MPROG_MAX`).
const PROGRAMS_MOST: usize = 64;
/// More maps than a program of ours has.
const MAPS_MOST: usize = 64;

/// Where at a device a program sees frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `BPF_TCX_INGRESS`
    Ingress,
    /// `BPF_TCX_EGRESS`
    Egress,
}

impl Hook {
    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// What the kernel tells of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its number, not used again soon.
    pub id: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The numbers of its maps.
    pub maps: Vec<u32>,
}

/// `bpf_attr` of `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    revision: u64,
}

/// `bpf_attr` of `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    unused: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// `bpf_attr` of `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// `bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoOf {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// One call of bpf(2).
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: every T is one of the structures above, which is what the kernel
    // takes for `command`; it reads and writes no more than the size said.
    // Addresses within one are of buffers that the caller of this holds, as
    // long as it says beside them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as libc::c_ulong,
        )
    };
    Ok(Errno::result(answer)?)
}

/// Attaches a program, before all others or in place of another one. Needs
/// CAP_NET_ADMIN and CAP_BPF.
///
/// # Errors
/// EINVAL before Linux 6.6; ENODEV, EPERM; ENOENT if `instead` is not there.
pub fn attach(
    device: IfIndex,
    hook: Hook,
    program: BorrowedFd<'_>,
    instead: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attach {
        target: device.0,
        program: number(program),
        kind: hook.attach_type(),
        flags: if instead.is_some() { REPLACE } else { BEFORE },
        replaced: instead.map(number).unwrap_or_default(),
        ..Attach::default()
    };
    bpf(PROG_ATTACH, &mut attributes).map(drop)
}

/// Detaches a program.
///
/// # Errors
/// ENOENT if it is not there; ENODEV, EPERM.
pub fn detach(device: IfIndex, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attach {
        target: device.0,
        program: number(program),
        kind: hook.attach_type(),
        ..Attach::default()
    };
    bpf(PROG_DETACH, &mut attributes).map(drop)
}

/// The numbers of the programs at a device's hook, in the order in which they
/// see a frame; none before Linux 6.6.
///
/// # Errors
/// ENODEV, EPERM.
pub fn attached(device: IfIndex, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MOST];
    let mut attributes = Query {
        target: device.0,
        kind: hook.attach_type(),
        programs: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MOST as u32,
        ..Query::default()
    };
    match bpf(PROG_QUERY, &mut attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        done => done?,
    };
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// Opens a program by its number. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// ENOENT if there is none, EPERM.
pub fn program(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById {
        id,
        next: 0,
        flags: 0,
    };
    let descriptor = bpf(PROG_GET_FD_BY_ID, &mut attributes)?;
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, with
    // close-on-exec (bpf(2)); nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What a program is.
///
/// # Errors
/// EPERM.
pub fn info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = vec![0_u32; MAPS_MOST];
    let mut info = Info {
        map_count: MAPS_MOST as u32,
        maps: maps.as_mut_ptr() as u64,
        ..Info::default()
    };
    let mut attributes = InfoOf {
        descriptor: number(program),
        length: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    maps.truncate(info.map_count as usize);
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(ProgramInfo {
        id: info.id,
        name: String::from_utf8_lossy(name).into_owned(),
        maps,
    })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!(size_of::<Attach>(), 32);
        assert_eq!(size_of::<Query>(), 64);
        assert_eq!(size_of::<Info>(), 80);
        assert_eq!(size_of::<InfoOf>(), 16);
    }

    #[test]
    fn there_is_no_such_program() {
        let error = program(u32::MAX).unwrap_err().raw_os_error();
        assert!(matches!(error, Some(libc::ENOENT | libc::EPERM)), "{error:?}");
    }
}
