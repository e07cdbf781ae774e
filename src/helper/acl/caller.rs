//! Who calls, and by what names /etc/passwd and /etc/group know him.
//!
//! Only these two files are asked. The C library's way to names (nsswitch)
//! would load libraries into a program with a privilege; users whom only a
//! directory server knows are written as numbers. A group counts if the
//! process that calls is in it: who was added to one has to log in again, as
//! for everything else that groups are good for.

use std::path::Path;

use super::terms::{Member, Who};
use super::{Trouble, open, read_text};
use crate::helper::args::decimal;

/// The users' names.
pub const USERS_FILE: &str = "/etc/passwd";

/// The groups' names.
pub const GROUPS_FILE: &str = "/etc/group";

/// The largest of the two files, in bytes.
const ACCOUNTS_MAX: u64 = 16 * 1024 * 1024;

/// The ids of the calling process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// His user.
    pub user: u32,
    /// His groups: the real one and the supplementary ones.
    pub groups: Vec<u32>,
}

/// A caller and the names of his that were needed so far.
pub(super) struct Known<'a> {
    caller: &'a Caller,
    user_names: Option<Vec<String>>,
    group_names: Option<Vec<String>>,
}

impl<'a> Known<'a> {
    pub fn new(caller: &'a Caller) -> Self {
        Self {
            caller,
            user_names: None,
            group_names: None,
        }
    }

    /// Whether he is one of these users.
    pub fn is_user(&mut self, who: Who<'_>) -> Result<bool, (&'static Path, Trouble)> {
        fits(who, &[self.caller.user], &mut self.user_names, USERS_FILE)
    }

    /// Whether he is in one of these groups.
    pub fn is_member(&mut self, who: Who<'_>) -> Result<bool, (&'static Path, Trouble)> {
        fits(who, &self.caller.groups, &mut self.group_names, GROUPS_FILE)
    }
}

/// Whether one of `ids` is among `who`; `names` are theirs, read from `file`
/// when the first name is met.
fn fits(
    who: Who<'_>,
    ids: &[u32],
    names: &mut Option<Vec<String>>,
    file: &'static str,
) -> Result<bool, (&'static Path, Trouble)> {
    for member in who.members() {
        let fits = match member {
            Member::Ids(first, last) => ids.iter().any(|id| (first..=last).contains(id)),
            Member::Name(name) => {
                let known = match names {
                    Some(known) => known,
                    None => {
                        let file = Path::new(file);
                        names.insert(read_names(file, ids).map_err(|trouble| (file, trouble))?)
                    }
                };
                known.iter().any(|known| known == name)
            }
        };
        if fits {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_names(file: &Path, ids: &[u32]) -> Result<Vec<String>, Trouble> {
    let opened = open(file)?;
    let text = read_text(opened, ACCOUNTS_MAX)?;
    Ok(names_of(&text, ids))
}

/// The names of these ids in passwd(5) or group(5), both of which begin with
/// `NAME:PASSWORD:ID`. Where a name stands twice the first line counts, as for
/// getpwnam(3); what is no line of the two is passed over, as there.
pub(super) fn names_of(text: &[u8], ids: &[u32]) -> Vec<String> {
    let accounts = || text.split(|&b| b == b'\n').filter_map(account);
    let first_is = |name: &str, id: u32| {
        let mut first = accounts().filter(|(other, _)| *other == name);
        first.next().is_some_and(|(_, first)| first == id)
    };
    accounts()
        .filter(|(name, id)| ids.contains(id) && first_is(name, *id))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn account(line: &[u8]) -> Option<(&str, u32)> {
    let mut fields = line.splitn(4, |&b| b == b':');
    let (name, _password, id, _rest) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let name = std::str::from_utf8(name).ok()?;
    let id = decimal(std::str::from_utf8(id).ok()?)?;
    // `+` and `-` are of NIS.
    (!name.is_empty() && !name.starts_with(['+', '-', '#'])).then_some((name, id))
}
