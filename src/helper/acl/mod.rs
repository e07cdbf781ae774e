//! Who may join which bridge.
//!
//! One file decides, with what it includes: [`OWN_FILE`] if it exists, else
//! [`QEMU_FILE`]. All of it is read with the caller's own credentials, and
//! all of it counts, in any order: a bridge is allowed if some line allows it
//! to this caller and none denies it. Of several lines that allow it to him
//! the first one says how, alone; an include stands for the lines of its file.
//! Whatever cannot be read or understood denies everything, for a `deny` may
//! be in it; the two exceptions are an include that the caller may not read,
//! in bridge.conf (that is how QEMU's users give a bridge to a group) and
//! behind `include-readable`.
//!
//! A file must belong to root and be writable by root alone, which is asked
//! of the opened descriptor. Directories are not looked at and symbolic links
//! are followed: whoever writes `include` chooses a path that only root can
//! lead elsewhere.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::{IfName, Mac};

mod caller;
mod parse;
mod terms;

pub use caller::{Caller, GROUPS_FILE, USERS_FILE};
pub use parse::{Dialect, Fault, LINE_MAX, ParseError, Statement, Target, statements};
pub use terms::{ADDRESSES_MAX, Addresses, Guard, MacRule, Member, TAPS_MAX, Terms, Who};

use caller::Known;

/// vmbr's own ACL. Installing never makes it: it hides [`QEMU_FILE`].
pub const OWN_FILE: &str = "/etc/vmbr/acl.conf";

/// The ACL of qemu-bridge-helper.
pub const QEMU_FILE: &str = "/etc/qemu/bridge.conf";

/// The largest file, in bytes.
pub const SIZE_MAX: u64 = 1024 * 1024;

/// How many files may be read in all.
pub const FILES_MAX: usize = 256;

/// How deep files may include each other.
pub const DEPTH_MAX: usize = 16;

/// A line of an ACL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was opened.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

/// A bridge is allowed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The line that says so.
    pub place: Place,
    /// Whether the file is acl.conf, whose TAPs are counted.
    pub counted: bool,
    /// How many TAPs at once.
    pub taps: Option<u32>,
    /// How many queues.
    pub queues: Option<u32>,
    /// Whether the port has to be isolated.
    pub isolated: bool,
    /// What its guest's MAC has to be.
    pub mac: Option<MacRule>,
    /// Whether the port has to be its guest's alone.
    pub guard: bool,
    /// The addresses that its guest has to have; none where any will do.
    pub addresses: Vec<IpAddr>,
    /// The TAP's MTU, where it is not the bridge's.
    pub mtu: Option<u32>,
    /// The MACs that lines for others give to them on this bridge, each whole.
    pub of_others: Vec<Mac>,
}

/// Why a bridge is not allowed. This is for the log: the caller must not see
/// it.
#[derive(Debug)]
pub enum Denial {
    /// This line denies the bridge.
    Denied(Place),
    /// No line of the file, or of what it includes, allows the bridge.
    NotAllowed(PathBuf),
    /// Neither of the two files exists.
    NoFile,
    /// A file cannot be obeyed; the place is the line that includes it.
    Unusable(PathBuf, Trouble, Option<Place>),
    /// A line has no meaning.
    Unparsable(Place, ParseError),
    /// A line names users or groups, and the file of their names is of no
    /// use.
    NoNames(Place, &'static Path, Trouble),
}

/// What is wrong with a whole file.
#[derive(Debug)]
pub enum Trouble {
    /// It cannot be opened or read.
    Io(io::Error),
    /// It is a directory, a FIFO or a device.
    NotAFile,
    /// It does not belong to root.
    NotRoots,
    /// Others than root can write it.
    Writable,
    /// It is larger than so many bytes.
    TooLarge(u64),
    /// It includes itself.
    Loop,
    /// More than [`FILES_MAX`] files, or deeper than [`DEPTH_MAX`].
    TooMany,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(place) => write!(f, "{place}: a line denies it"),
            Self::NotAllowed(file) => write!(f, "{}: no line allows it", file.display()),
            Self::NoFile => write!(f, "there is neither {OWN_FILE} nor {QEMU_FILE}"),
            Self::Unusable(file, trouble, None) => write!(f, "{}: {trouble}", file.display()),
            Self::Unusable(file, trouble, Some(place)) => {
                write!(f, "{place}: included {}: {trouble}", file.display())
            }
            Self::Unparsable(place, ParseError { column, fault }) => {
                write!(f, "{place}:{column}: {fault}, so nothing is allowed")
            }
            Self::NoNames(place, file, trouble) => {
                write!(
                    f,
                    "{place}: the names in it are looked up in {}: {trouble}",
                    file.display()
                )
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read with the caller's permissions: {error}"),
            Self::NotAFile => f.write_str("is not a regular file"),
            Self::NotRoots => f.write_str("does not belong to root"),
            Self::Writable => f.write_str("can be written by others than root (chmod go-w)"),
            Self::TooLarge(most) => write!(f, "is larger than {most} bytes"),
            Self::Loop => f.write_str("includes itself"),
            Self::TooMany => write!(f, "more than {FILES_MAX} files, or {DEPTH_MAX} deep"),
        }
    }
}

impl Grant {
    fn new(place: Place, dialect: Dialect, terms: &Terms<'_>) -> Self {
        Self {
            place,
            counted: dialect == Dialect::Vmbr,
            taps: terms.taps,
            queues: terms.queues,
            isolated: terms.isolated,
            mac: terms.mac,
            guard: terms.guard.is_some(),
            addresses: match terms.guard {
                Some(Guard::Addresses(addresses)) => addresses.iter().collect(),
                Some(Guard::Mac) | None => Vec::new(),
            },
            mtu: terms.mtu,
            of_others: Vec::new(),
        }
    }
}

/// Asks whether the calling process, whose ids `caller` has, may join
/// `bridge`, and how.
///
/// # Errors
/// [`Denial`]: it may not.
pub fn check(bridge: &IfName, caller: &Caller) -> Result<Grant, Denial> {
    let own = Path::new(OWN_FILE);
    let qemu = Path::new(QEMU_FILE);
    match open(own) {
        Err(Trouble::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
        opened => return decide(own, opened, Dialect::Vmbr, bridge, caller),
    }
    // A link that leads nowhere exists, and was made to be obeyed.
    let missing = match own.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => Some(e),
        Ok(_) => Some(io::Error::from(io::ErrorKind::NotFound)),
    };
    if let Some(e) = missing {
        return Err(Denial::Unusable(own.to_owned(), Trouble::Io(e), None));
    }
    match open(qemu) {
        Err(Trouble::Io(e)) if e.kind() == io::ErrorKind::NotFound => Err(Denial::NoFile),
        opened => decide(qemu, opened, Dialect::Qemu, bridge, caller),
    }
}

/// Asks one file, whatever its name, as [`check`] asks its two.
///
/// # Errors
/// [`Denial`]: it does not allow the bridge.
pub fn check_file(file: &Path, dialect: Dialect, bridge: &IfName, caller: &Caller) -> Result<Grant, Denial> {
    decide(file, open(file), dialect, bridge, caller)
}

fn decide(
    file: &Path,
    opened: Result<Opened, Trouble>,
    dialect: Dialect,
    bridge: &IfName,
    caller: &Caller,
) -> Result<Grant, Denial> {
    let opened = opened.map_err(|trouble| Denial::Unusable(file.to_owned(), trouble, None))?;
    let mut reading = Reading {
        bridge,
        dialect,
        caller: Known::new(caller),
        allowed: None,
        of_others: Vec::new(),
        files: 0,
        open: Vec::new(),
    };
    reading.read(file, opened, None)?;
    let of_others = reading.of_others;
    match reading.allowed {
        Some(grant) => Ok(Grant { of_others, ..grant }),
        None => Err(Denial::NotAllowed(file.to_owned())),
    }
}

/// A file that was found fit to be obeyed, and what it is to the kernel.
struct Opened(File, Metadata);

/// What is known while the files are read.
struct Reading<'a> {
    bridge: &'a IfName,
    dialect: Dialect,
    caller: Known<'a>,
    allowed: Option<Grant>,
    /// The MACs of lines that are not for the caller.
    of_others: Vec<Mac>,
    files: usize,
    /// The files that are being read, each included by the one before.
    open: Vec<(u64, u64)>,
}

impl Reading<'_> {
    /// Reads one file and what it includes. Ends at the first deny or error:
    /// nothing that follows could allow the bridge again.
    fn read(&mut self, file: &Path, opened: Opened, from: Option<&Place>) -> Result<(), Denial> {
        let unusable = |trouble| Denial::Unusable(file.to_owned(), trouble, from.cloned());
        let Opened(content, about) = opened;
        let identity = (about.dev(), about.ino());
        if self.open.contains(&identity) {
            return Err(unusable(Trouble::Loop));
        }
        self.files += 1;
        if self.files > FILES_MAX || self.open.len() >= DEPTH_MAX {
            return Err(unusable(Trouble::TooMany));
        }
        let text = read_text(Opened(content, about), SIZE_MAX).map_err(unusable)?;
        self.open.push(identity);
        for (line, statement) in statements(&text, self.dialect) {
            let place = || Place {
                file: file.to_owned(),
                line,
            };
            match statement.map_err(|e| Denial::Unparsable(place(), e))? {
                Statement::Deny(target) if target.covers(self.bridge) => return Err(Denial::Denied(place())),
                Statement::Allow(target, terms)
                    if (self.allowed.is_none() || terms.exact_mac().is_some())
                        && target.covers(self.bridge) =>
                {
                    let no_names = |(file, trouble)| Denial::NoNames(place(), file, trouble);
                    let fits = match self.fits(&terms) {
                        // He has his grant; a MAC may still be another's.
                        Err(_) if self.allowed.is_some() => false,
                        answer => answer.map_err(no_names)?,
                    };
                    if !fits {
                        self.of_others.extend(terms.exact_mac());
                    } else if self.allowed.is_none() {
                        self.allowed = Some(Grant::new(place(), self.dialect, &terms));
                    }
                }
                Statement::Allow(..) | Statement::Deny(_) => {}
                Statement::Include(path) => {
                    self.include(file, path, place(), self.dialect == Dialect::Qemu)?;
                }
                Statement::IncludeReadable(path) => self.include(file, path, place(), true)?,
            }
        }
        self.open.pop();
        Ok(())
    }

    /// Whether the caller is who a line is for.
    fn fits(&mut self, terms: &Terms<'_>) -> Result<bool, (&'static Path, Trouble)> {
        let user = terms.users.map_or(Ok(true), |who| self.caller.is_user(who))?;
        Ok(user && terms.groups.map_or(Ok(true), |who| self.caller.is_member(who))?)
    }

    /// Reads an included file.
    fn include(&mut self, by: &Path, path: &Path, place: Place, if_readable: bool) -> Result<(), Denial> {
        let file = included(by, path);
        match open(&file) {
            Err(Trouble::Io(e)) if if_readable && e.raw_os_error() == Some(libc::EACCES) => Ok(()),
            Err(trouble) => Err(Denial::Unusable(file, trouble, Some(place))),
            Ok(opened) => self.read(&file, opened, Some(&place)),
        }
    }
}

/// Where a path leads that the file `by` includes. A relative one starts at
/// that file; QEMU starts at the caller's directory, where the caller can put
/// what he likes.
pub fn included(by: &Path, path: &Path) -> PathBuf {
    by.parent().unwrap_or(Path::new("/")).join(path)
}

/// Reads one file that may be obeyed, and nothing that it includes.
///
/// # Errors
/// [`Trouble`]: it may not be obeyed, or cannot be read.
pub fn read_file(file: &Path) -> Result<(Vec<u8>, Metadata), Trouble> {
    let opened = open(file)?;
    let about = opened.1.clone();
    Ok((read_text(opened, SIZE_MAX)?, about))
}

/// Opens a file and looks whether it may be obeyed.
fn open(file: &Path) -> Result<Opened, Trouble> {
    // O_NONBLOCK: opening a FIFO would wait for its other end. O_NOCTTY:
    // opening a terminal would take it.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(file)
        .map_err(Trouble::Io)?;
    let about = opened.metadata().map_err(Trouble::Io)?;
    if !about.is_file() {
        return Err(Trouble::NotAFile);
    }
    if about.uid() != 0 {
        return Err(Trouble::NotRoots);
    }
    // Group and others. An entry of a POSIX ACL cannot give more than the
    // group's bits say, which then hold the ACL's mask.
    if about.mode() & 0o022 != 0 {
        return Err(Trouble::Writable);
    }
    Ok(Opened(opened, about))
}

fn read_text(file: Opened, size_max: u64) -> Result<Vec<u8>, Trouble> {
    let Opened(content, about) = file;
    if about.len() > size_max {
        return Err(Trouble::TooLarge(size_max));
    }
    // One byte more than it should have, so that one read meets the end.
    let mut text = Vec::with_capacity(about.len() as usize + 1);
    content
        .take(size_max + 1)
        .read_to_end(&mut text)
        .map_err(Trouble::Io)?;
    if text.len() as u64 > size_max {
        Err(Trouble::TooLarge(size_max))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
