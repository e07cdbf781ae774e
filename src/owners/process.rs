//! The processes of this network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// The longest text of a foreign process that is shown.
const LONGEST: usize = 60;
/// More is not read of what /proc says of a process: a process can make its
/// command line as long as its memory (`PR_SET_MM` of prctl(2)).
const MOST: u64 = 1 << 16;
/// What the kernel keeps of a process's name (`TASK_COMM_LEN`).
const NAME_LENGTH: usize = 15;

/// A process of the caller's network namespace.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// The process that started it.
    pub parent: u32,
    /// Its real user: who runs a setuid program, and not whose it is.
    pub user: u32,
    /// The file name of the program that it runs. Unlike its arguments it
    /// cannot be made up by the process. Only root may know it of others'
    /// processes; for anyone else it is what the process calls itself.
    pub program: String,
    /// The arguments of root's process, its name first. Those of others are
    /// not looked at: the reader waits where the memory that they are in is
    /// not there yet, and that can be for ever (FUSE, userfaultfd).
    pub arguments: Vec<String>,
    /// Whether it is in a PID namespace beneath the caller's, as a container's
    /// processes are.
    contained: bool,
}

impl Process {
    /// Whether root runs it: no one else can configure a NIC, and whoever
    /// wants to may call a program `dhclient eth0`.
    pub fn is_roots(&self) -> bool {
        self.user == 0
    }

    /// Whether it runs the program, as far as the caller may know.
    pub fn runs(&self, program: &str) -> bool {
        self.program == program || program.get(..NAME_LENGTH) == Some(&self.program)
    }

    /// Its arguments, even if it is not root's. The caller has to know that
    /// root's own program has started it.
    pub fn said(&self) -> Vec<String> {
        if self.is_roots() {
            self.arguments.clone()
        } else {
            arguments(&Path::new("/proc").join(self.id.to_string()))
        }
    }

    /// Its command line, for a sentence.
    pub fn command(&self) -> String {
        printable(&self.arguments.join(" "))
    }
}

/// The processes around the caller.
#[derive(Debug, Default)]
pub struct Around {
    /// Every process of the caller's network namespace. Where the caller may
    /// not know of one it is taken for one of these, if no container has it.
    pub processes: Vec<Process>,
    /// Whether the caller could look at every process.
    pub sees_all: bool,
}

impl Around {
    /// Looks at every process.
    pub fn look() -> Self {
        let ours = namespace(Path::new("/proc/self"));
        let mut found = Vec::new();
        let mut hidden = ours.is_none();
        for (id, directory) in directories() {
            let theirs = namespace(&directory);
            if theirs.is_some() && theirs != ours {
                continue;
            }
            hidden |= theirs.is_none() && !nix::unistd::geteuid().is_root();
            let is_ours = |process: &Process| theirs.is_some() || !process.contained;
            found.extend(read(id, &directory).filter(is_ours));
        }
        Self {
            processes: found,
            sees_all: !hidden,
        }
    }
}

/// Whether a process is of the caller's network namespace; so is taken one
/// that the caller may not look at.
pub fn is_here(id: u32) -> bool {
    let theirs = namespace(&Path::new("/proc").join(id.to_string()));
    match theirs {
        Some(_) => theirs == namespace(Path::new("/proc/self")),
        None => !nix::unistd::geteuid().is_root(),
    }
}

/// The processes that hold sockets of these inodes: their ids and names, those
/// that were found until `deadline`.
pub fn holders(inodes: &BTreeSet<u32>, deadline: Instant) -> BTreeMap<u32, (u32, String)> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    for (id, directory) in directories() {
        let Ok(descriptors) = fs::read_dir(directory.join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if Instant::now() >= deadline {
                return found;
            }
            let inode = fs::read_link(descriptor.path()).ok().and_then(|link| {
                let text = link.to_str()?;
                text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
            });
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let name = bounded(&directory.join("comm")).unwrap_or_default();
                let name = printable(name.trim());
                found.entry(inode).or_insert((id, name));
            }
        }
    }
    found
}

/// Foreign text as it may stand on a terminal and in a log: short, nothing
/// that acts on a terminal, and nothing that turns the direction of writing.
pub fn printable(text: &str) -> String {
    let harmless = |c: &char| *c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
    let plain = text.chars().map(|c| if harmless(&c) { c } else { '?' });
    let mut short: String = plain.take(LONGEST).collect();
    if text.chars().count() > LONGEST {
        short.push_str("...");
    }
    short
}

fn directories() -> impl Iterator<Item = (u32, std::path::PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// What tells a network namespace from every other that exists now.
fn namespace(directory: &Path) -> Option<(u64, u64)> {
    let of = fs::metadata(directory.join("ns/net")).ok()?;
    Some((of.dev(), of.ino()))
}

/// The beginning of a file of /proc, as text.
fn bounded(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn arguments(directory: &Path) -> Vec<String> {
    let text = bounded(&directory.join("cmdline")).unwrap_or_default();
    let words = text.split('\0').filter(|argument| !argument.is_empty());
    words.map(str::to_owned).collect()
}

fn read(id: u32, directory: &Path) -> Option<Process> {
    let status = bounded(&directory.join("status"))?;
    let value = |key: &str, at: usize| -> Option<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().nth(at)?.parse().ok()
    };
    let user = value("Uid:", 0)?;
    let program = match fs::read_link(directory.join("exe")) {
        Ok(program) => Some(program.file_name()?.to_string_lossy().into_owned()),
        // The kernel's own threads have none.
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(_) => None,
    };
    let arguments = if user == 0 {
        arguments(directory)
    } else {
        Vec::new()
    };
    let called = || {
        let Some(first) = arguments.first() else {
            let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
            return name.filter(|_| user != 0).map(|name| name.trim().to_owned());
        };
        let path = Path::new(first.split([' ', ':']).next()?);
        Some(path.file_name()?.to_string_lossy().into_owned())
    };
    let program = program.or_else(called)?;
    Some(Process {
        id,
        parent: value("PPid:", 0)?,
        user,
        // The file was replaced by an update while the process runs.
        program: program.trim_end_matches(" (deleted)").to_owned(),
        arguments,
        contained: value("NSpid:", 1).is_some(),
    })
}

#[cfg(test)]
impl Process {
    /// Root's process 1 with this command line.
    pub fn of_root(command: &str) -> Self {
        let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
        Self {
            id: 1,
            parent: 0,
            user: 0,
            program: arguments[0].clone(),
            arguments,
            contained: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_harmless() {
        let shown = printable("eth0 \u{1b}[2J\u{202e}drow\u{200b}\n'x' \u{e9}t\u{e9}");
        assert_eq!(shown, "eth0 ?[2J?drow??'x' \u{e9}t\u{e9}");
        assert_eq!(printable(&"a".repeat(LONGEST + 1)).len(), LONGEST + 3);
    }

    #[test]
    fn a_name_that_the_kernel_has_cut_is_known() {
        let networkd = Process::of_root("systemd-network");
        assert!(networkd.runs("systemd-networkd") && networkd.runs("systemd-network"));
        assert!(!Process::of_root("dhcp").runs("dhcpcd"));
    }
}
