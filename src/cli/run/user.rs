//! Root gives up root.

use std::ffi::{CString, OsString};
use std::path::PathBuf;

use nix::unistd::{
    Gid, Uid, User, getgrouplist, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid, setuid,
};

use super::Error;

/// A user, with all his groups.
pub struct Account {
    name: String,
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    home: PathBuf,
}

impl Account {
    /// Looks a user up by name, or by number.
    pub fn find(text: &str) -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Err(Error::refused(
                "--user is for root: nobody else can become another user",
                "leave --user out, or run it with sudo",
            ));
        }
        let by_name = User::from_name(text).map_err(|e| Error::unreadable(&e.into()))?;
        let found = match (by_name, text.parse()) {
            (None, Ok(number)) => {
                User::from_uid(Uid::from_raw(number)).map_err(|e| Error::unreadable(&e.into()))?
            }
            (by_name, _) => by_name,
        };
        let User {
            name, uid, gid, dir, ..
        } = found.ok_or_else(|| {
            let message = format!("there is no user {}", text.escape_debug());
            Error::refused(message, "getent passwd lists those there are")
        })?;
        let c_name = CString::new(name.as_str()).map_err(|e| Error::unreadable(&e.into()))?;
        let groups = getgrouplist(&c_name, gid).map_err(|e| Error::unreadable(&e.into()))?;
        Ok(Self {
            name,
            user: uid,
            group: gid,
            groups,
            home: dir,
        })
    }

    /// Becomes him, for good: groups first, which only root can change.
    pub fn become_it(&self) -> Result<(), Error> {
        let fail = |doing: &str, why: String| Error::Failed {
            message: format!("cannot {doing} of {}: {why}", self.name),
            remedy: "run it as root with CAP_SETGID and CAP_SETUID, as sudo does".into(),
        };
        setgroups(&self.groups).map_err(|e| fail("take the groups", e.to_string()))?;
        setresgid(self.group, self.group, self.group).map_err(|e| fail("take the group", e.to_string()))?;
        setresuid(self.user, self.user, self.user).map_err(|e| fail("take the id", e.to_string()))?;

        let users = getresuid().map_err(|e| fail("see the id", e.to_string()))?;
        let groups = getresgid().map_err(|e| fail("see the group", e.to_string()))?;
        let all = [users.real, users.effective, users.saved] == [self.user; 3]
            && [groups.real, groups.effective, groups.saved] == [self.group; 3];
        let mut others = getgroups().map_err(|e| fail("see the groups", e.to_string()))?;
        let mut wanted = self.groups.clone();
        others.sort_unstable_by_key(|group| group.as_raw());
        wanted.sort_unstable_by_key(|group| group.as_raw());
        wanted.dedup();
        others.dedup();
        let back = !self.user.is_root() && setuid(Uid::from_raw(0)).is_ok();
        if all && others == wanted && !back {
            Ok(())
        } else {
            Err(fail(
                "be sure to have only the ids",
                "the kernel shows others".into(),
            ))
        }
    }

    /// What his programs look for.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("HOME", self.home.clone().into()),
            ("USER", self.name.clone().into()),
            ("LOGNAME", self.name.clone().into()),
        ]
    }
}
