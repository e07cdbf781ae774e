//! Reads ACL files as the helper does, and says what is wrong with them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::helper::acl::{self, Dialect, FILES_MAX, Member, OWN_FILE, QEMU_FILE, Statement, Trouble, Who};

use super::acl::{AclFile, Wrong, etc};

/// Looks at the ACL that counts and at all that it includes.
pub(super) fn acl() -> Vec<AclFile> {
    let own = Path::new(OWN_FILE);
    let (first, dialect) = match own.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Path::new(QEMU_FILE), Dialect::Qemu),
        _ => (own, Dialect::Vmbr),
    };
    if first.symlink_metadata().is_err() {
        // Without any, nobody may join: the fresh host's state.
        return Vec::new();
    }
    let mut survey = Survey {
        dialect,
        seen: Vec::new(),
        found: Vec::new(),
    };
    survey.look(first, false);
    survey.found
}

struct Survey {
    dialect: Dialect,
    seen: Vec<PathBuf>,
    found: Vec<AclFile>,
}

impl Survey {
    /// `if_readable`: who may not read the file goes on without it.
    fn look(&mut self, path: &Path, if_readable: bool) {
        if self.seen.len() >= FILES_MAX || self.seen.iter().any(|seen| seen == path) {
            return;
        }
        self.seen.push(path.to_owned());
        let (text, about) = match acl::read_file(path) {
            Ok(read) => read,
            Err(Trouble::Writable) => return self.wrong(path, Wrong::Writable),
            Err(Trouble::NotRoots) => return self.wrong(path, Wrong::NotRoots),
            Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return self.wrong(path, Wrong::Closed);
            }
            Err(trouble) => return self.wrong(path, Wrong::Unusable(trouble.to_string())),
        };
        let hidden = if_readable && about.mode() & 0o004 == 0;
        for (line, statement) in acl::statements(&text, self.dialect) {
            match statement {
                Err(error) => self.wrong(path, Wrong::Unusable(format!("line {line}, {error}"))),
                Ok(Statement::Deny(_)) if hidden => self.wrong(path, Wrong::HiddenDeny),
                Ok(Statement::Allow(_, terms)) => {
                    for (what, who) in [("user", terms.users), ("group", terms.groups)] {
                        for name in strangers(what, who) {
                            self.wrong(path, Wrong::Stranger(line, what, name));
                        }
                    }
                }
                Ok(Statement::Deny(_)) => {}
                Ok(Statement::Include(included)) => {
                    let included = acl::included(path, included);
                    self.look(&included, self.dialect == Dialect::Qemu);
                }
                Ok(Statement::IncludeReadable(included)) => {
                    let included = acl::included(path, included);
                    self.look(&included, true);
                }
            }
        }
    }

    fn wrong(&mut self, path: &Path, wrong: Wrong) {
        let file = AclFile {
            path: path.display().to_string(),
            wrong,
        };
        if !self.found.contains(&file) {
            self.found.push(file);
        }
    }
}

/// The names among these that the file of users or groups does not have. What
/// cannot be read has them all.
fn strangers(what: &str, who: Option<Who<'_>>) -> Vec<String> {
    let named = |member| match member {
        Member::Name(name) => Some(name),
        Member::Ids(..) => None,
    };
    let names: Vec<&str> = who.into_iter().flat_map(Who::members).filter_map(named).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let Ok(text) = std::fs::read_to_string(etc(what)) else {
        return Vec::new();
    };
    let known = |name: &&str| text.lines().any(|line| line.split(':').next() == Some(name));
    let unknown = names.into_iter().filter(|name| !known(name));
    unknown.map(str::to_owned).collect()
}
