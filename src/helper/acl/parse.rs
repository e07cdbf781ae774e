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
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every bridge.
    All,
    /// The bridge of this name.
    Bridge(IfName),
}

/// One line with a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement<'a> {
    /// `allow NAME` or `allow all`.
    Allow(Target),
    /// `deny NAME` or `deny all`: stronger than any allow.
    Deny(Target),
    /// `include PATH`.
    Include(&'a Path),
    /// `include-readable PATH`: nothing, if the caller may not read it.
    IncludeReadable(&'a Path),
}

/// Why a line has no meaning. It holds nothing of the line: a caller may have
/// had a file read that is no ACL and that the log's reader should not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
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
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nul => "the line has a NUL byte",
            Self::TooLong => "the line is longer than 4094 bytes",
            Self::NoArgument => "the word has nothing behind it",
            Self::UnknownWord => "the word is not known in this file",
            Self::BadName => "what follows the word cannot be the name of one bridge",
        })
    }
}

impl std::error::Error for ParseError {}

impl Target {
    /// Whether a rule about this speaks of `bridge`.
    pub fn covers(&self, bridge: &IfName) -> bool {
        match self {
            Self::All => true,
            Self::Bridge(name) => name == bridge,
        }
    }
}

/// The statements of a file, each with the number of its line from 1, or why
/// a line is none. Whoever meets an error must deny everything.
pub fn statements(
    text: &[u8],
    dialect: Dialect,
) -> impl Iterator<Item = (usize, Result<Statement<'_>, ParseError>)> {
    text.split(|&b| b == b'\n')
        .enumerate()
        .filter_map(move |(before, line)| {
            let meaning = statement(line, dialect).transpose()?;
            Some((before + 1, meaning))
        })
}

fn statement(line: &[u8], dialect: Dialect) -> Result<Option<Statement<'_>>, ParseError> {
    if line.contains(&0) {
        return Err(ParseError::Nul);
    }
    if line.len() > LINE_MAX {
        return Err(ParseError::TooLong);
    }
    // u8::is_ascii_whitespace knows the same five characters as the
    // g_ascii_isspace that QEMU asks.
    let line = without_comment(line, dialect).trim_ascii_start();
    if line.is_empty() {
        return Ok(None);
    }
    let end = end_of_word(line, dialect).ok_or(ParseError::NoArgument)?;
    let (word, argument) = line.split_at(end);
    let argument = argument.trim_ascii();
    if argument.is_empty() {
        return Err(ParseError::NoArgument);
    }
    let path = || Path::new(OsStr::from_bytes(argument));
    match (word, dialect) {
        (b"allow", _) => Ok(Some(Statement::Allow(target(argument)?))),
        (b"deny", _) => Ok(Some(Statement::Deny(target(argument)?))),
        (b"include", _) => Ok(Some(Statement::Include(path()))),
        (b"include-readable", Dialect::Vmbr) => Ok(Some(Statement::IncludeReadable(path()))),
        _ => Err(ParseError::UnknownWord),
    }
}

fn without_comment(line: &[u8], dialect: Dialect) -> &[u8] {
    let starts = |at: usize| match dialect {
        Dialect::Qemu => line[..at].trim_ascii().is_empty(),
        // A device's name may hold a `#`, so one that follows it directly is
        // part of it.
        Dialect::Vmbr => at == 0 || line[at - 1].is_ascii_whitespace(),
    };
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

fn target(argument: &[u8]) -> Result<Target, ParseError> {
    if argument == b"all" {
        return Ok(Target::All);
    }
    let name = std::str::from_utf8(argument).map_err(|_| ParseError::BadName)?;
    name.parse().map(Target::Bridge).map_err(|_| ParseError::BadName)
}
