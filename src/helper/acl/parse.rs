//! The words of an ACL file, line by line. No I/O.
//!
//! In bridge.conf a line means what it means to qemu-bridge-helper: white
//! space around is dropped, `#` starts a comment only as the first character,
//! and the first space of a line, or else its first tab, ends the word. What
//! QEMU reads as a rule that can never match (a comment or a second name
//! behind the first, no name at all, a name that is cut) is an error here:
//! behind `deny` it would open what the line was written to close.

use std::ffi::OsStr;
use std::fmt;
use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::terms::Terms;
use crate::model::IfName;

/// The longest line in bytes, without its newline. QEMU cuts longer ones in
/// two and reads the rest as a line of its own.
pub const LINE_MAX: usize = 4094;

/// Which file's rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// /etc/qemu/bridge.conf and what it includes.
    Qemu,
    /// /etc/vmbr/acl.conf and what it includes: vmbr's own words, and a
    /// comment may follow on a line after white space.
    Vmbr,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Every bridge.
    All,
    /// The bridge of this name, which can be one.
    Bridge(&'a str),
}

/// One line with a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement<'a> {
    /// `allow NAME` or `allow all`; in acl.conf, with who and how.
    Allow(Target<'a>, Terms<'a>),
    /// `deny NAME` or `deny all`: stronger than any allow.
    Deny(Target<'a>),
    /// `include PATH`.
    Include(&'a Path),
    /// `include-readable PATH`: nothing, if the caller may not read it.
    IncludeReadable(&'a Path),
}

/// Why a line has no meaning, and where it loses it. It holds nothing of the
/// line: a caller may have had a file read that is no ACL and that the log's
/// reader should not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError {
    /// The first byte that is wrong, from 1.
    pub column: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has a NUL.
    Nul,
    /// It is longer than [`LINE_MAX`].
    TooLong,
    /// It has a word and nothing behind it.
    NoArgument,
    /// Its first word is none of this dialect's.
    UnknownWord,
    /// What should be a bridge cannot be the name of a device.
    BadName,
    /// A word stands behind the bridge of a `deny`.
    DenyWithTerms,
    /// A word behind the bridge of an `allow` is none that narrows it.
    UnknownTerm,
    /// This one stands there twice.
    Twice(&'static str),
    /// This one has a value that it cannot have; the second is what it needs.
    BadValue(&'static str, &'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nul => "the line has a NUL byte",
            Self::TooLong => "the line is longer than 4094 bytes",
            Self::NoArgument => "the word has nothing behind it",
            Self::UnknownWord => "the word is not known in this file",
            Self::BadName => "what follows the word cannot be the name of one bridge",
            Self::DenyWithTerms => "a deny has nothing behind its bridge: it is for everyone",
            Self::UnknownTerm => "the word behind the bridge is not known",
            Self::Twice(word) => return write!(f, "{word} stands there twice"),
            Self::BadValue(word, need) => return write!(f, "{word} needs {need}"),
        })
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.fault)
    }
}

impl std::error::Error for ParseError {}

impl Fault {
    /// This fault at a column.
    pub(super) fn at(self, column: usize) -> ParseError {
        ParseError { column, fault: self }
    }
}

impl Target<'_> {
    /// Whether a rule about this speaks of `bridge`.
    pub fn covers(&self, bridge: &IfName) -> bool {
        match self {
            Self::All => true,
            Self::Bridge(name) => *name == bridge.as_str(),
        }
    }
}

/// The statements of a file, each with the number of its line from 1, or why
/// a line is none. Whoever meets an error must deny everything.
pub fn statements(
    text: &[u8],
    dialect: Dialect,
) -> impl Iterator<Item = (usize, Result<Statement<'_>, ParseError>)> {
    lines(text).enumerate().filter_map(move |(before, line)| {
        let meaning = statement(line, dialect).transpose()?;
        Some((before + 1, meaning))
    })
}

/// The lines, without their ends. The standard library's search for a byte is
/// many times faster than a look at each, which a long list would feel.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let all = rest?;
        let mut behind = all;
        let length = behind.skip_until(b'\n').unwrap_or_default();
        let line = &all[..length];
        match line.strip_suffix(b"\n") {
            Some(line) => {
                rest = Some(behind);
                Some(line)
            }
            None => {
                rest = None;
                Some(line)
            }
        }
    })
}

fn statement(whole: &[u8], dialect: Dialect) -> Result<Option<Statement<'_>>, ParseError> {
    if whole.contains(&0) {
        let at = whole.iter().position(|&b| b == 0).unwrap_or_default();
        return Err(Fault::Nul.at(at + 1));
    }
    if whole.len() > LINE_MAX {
        return Err(Fault::TooLong.at(LINE_MAX + 1));
    }
    // u8::is_ascii_whitespace knows the same five characters as the
    // g_ascii_isspace that QEMU asks.
    let kept = without_comment(whole, dialect);
    let line = kept.trim_ascii_start();
    if line.is_empty() {
        return Ok(None);
    }
    let start = kept.len() - line.len() + 1;
    let end = end_of_word(line, dialect).ok_or(Fault::NoArgument.at(start + line.len()))?;
    let (word, rest) = line.split_at(end);
    let argument = rest.trim_ascii();
    let column = start + end + (rest.len() - rest.trim_ascii_start().len());
    if argument.is_empty() {
        return Err(Fault::NoArgument.at(column));
    }
    let path = || Path::new(OsStr::from_bytes(argument));
    let statement = match (word, dialect) {
        (b"allow", Dialect::Qemu) => Statement::Allow(target(argument, column)?, Terms::default()),
        (b"deny", Dialect::Qemu) => Statement::Deny(target(argument, column)?),
        (b"allow" | b"deny", Dialect::Vmbr) => {
            let end = end_of_word(argument, dialect).unwrap_or(argument.len());
            let (name, terms) = argument.split_at(end);
            let target = target(name, column)?;
            if word == b"allow" {
                Statement::Allow(target, Terms::parse(terms, column + end)?)
            } else if terms.is_empty() {
                Statement::Deny(target)
            } else {
                let space = terms.len() - terms.trim_ascii_start().len();
                return Err(Fault::DenyWithTerms.at(column + end + space));
            }
        }
        (b"include", _) => Statement::Include(path()),
        (b"include-readable", Dialect::Vmbr) => Statement::IncludeReadable(path()),
        _ => return Err(Fault::UnknownWord.at(start)),
    };
    Ok(Some(statement))
}

fn without_comment(line: &[u8], dialect: Dialect) -> &[u8] {
    let starts = |at: usize| match dialect {
        Dialect::Qemu => line[..at].trim_ascii().is_empty(),
        // A device's name may hold a `#`, so one that follows it directly is
        // part of it.
        Dialect::Vmbr => at == 0 || line[at - 1].is_ascii_whitespace(),
    };
    // Most lines have none.
    if !line.contains(&b'#') {
        return line;
    }
    match (0..line.len()).find(|&at| line[at] == b'#' && starts(at)) {
        Some(at) => &line[..at],
        None => line,
    }
}

fn end_of_word(line: &[u8], dialect: Dialect) -> Option<usize> {
    match dialect {
        // The white space at the line's end is still there: a space in it
        // makes `allow<tab>br0 ` one unknown word to QEMU.
        Dialect::Qemu => {
            let first = |wanted: u8| line.iter().position(|&b| b == wanted);
            first(b' ').or_else(|| first(b'\t'))
        }
        Dialect::Vmbr => line.iter().position(u8::is_ascii_whitespace),
    }
}

fn target(argument: &[u8], column: usize) -> Result<Target<'_>, ParseError> {
    if argument == b"all" {
        return Ok(Target::All);
    }
    let name = std::str::from_utf8(argument).ok();
    name.filter(|name| IfName::check(name).is_ok())
        .map(Target::Bridge)
        .ok_or(Fault::BadName.at(column))
}
