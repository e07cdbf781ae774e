//! As whom libvirt runs QEMU, by its qemu.conf.

use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

/// The system daemon's configuration.
const PATH: &str = "/etc/libvirt/qemu.conf";
/// Whom distributions have built libvirt to take where that says nobody:
/// Debian and Ubuntu, Fedora and its kin.
const USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// Who runs QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runner {
    /// The user.
    pub user: Uid,
    /// The group, where one is said.
    pub group: Option<Gid>,
}

/// Who runs the QEMU of a domain: by the domain's own label, else by
/// qemu.conf, else by what the distribution has chosen; root where there is
/// nobody of that name.
///
/// # Errors
/// A sentence: someone is named who does not exist.
pub fn runner(label: Option<&str>) -> Result<Runner, String> {
    if let Some(label) = label {
        let (user, group) = match label.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (label, None),
        };
        return resolve(user, group, "the domain's <seclabel>");
    }
    let text = std::fs::read_to_string(Path::new(PATH)).unwrap_or_default();
    if let Some(user) = setting(&text, "user") {
        return resolve(user, setting(&text, "group"), PATH);
    }
    for name in USERS {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Runner {
                user: user.uid,
                group: None,
            });
        }
    }
    Ok(Runner {
        user: Uid::from_raw(0),
        group: None,
    })
}

/// A setting of qemu.conf: `name = "value"`, the last one counts
/// (`virConfParseStatement()`).
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with('#'));
    let mut values = lines.filter_map(|line| {
        let value = line
            .strip_prefix(name)?
            .trim_start()
            .strip_prefix('=')?
            .trim_start();
        let quote = value.chars().next().filter(|c| ['"', '\''].contains(c))?;
        value[1..].split_once(quote).map(|(value, _)| value)
    });
    values.next_back().filter(|value| !value.is_empty())
}

/// Names, or numbers with a `+` or without one (`virGetUserID()`).
fn resolve(user: &str, group: Option<&str>, whose: &str) -> Result<Runner, String> {
    let nobody = |what: &str, name: &str| {
        format!(
            "{whose} names the {what} '{}', whom this host does not have",
            name.escape_default()
        )
    };
    let number = |text: &str| text.strip_prefix('+').unwrap_or(text).parse::<u32>().ok();
    let user_named = User::from_name(user).ok().flatten().map(|user| user.uid);
    let uid = user_named.or_else(|| number(user).map(Uid::from_raw));
    let gid = match group {
        Some(group) => {
            let named = Group::from_name(group).ok().flatten().map(|group| group.gid);
            let gid = named.or_else(|| number(group).map(Gid::from_raw));
            Some(gid.ok_or_else(|| nobody("group", group))?)
        }
        None => None,
    };
    Ok(Runner {
        user: uid.ok_or_else(|| nobody("user", user))?,
        group: gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_counts() {
        let text = "#user = \"a\"\nuser = \"b\"\n  user='c' # d\nusers = \"e\"\nuser = f\ngroup = \"\"\n";
        assert_eq!(setting(text, "user"), Some("c"));
        assert_eq!(setting(text, "group"), None);
        assert_eq!(setting("user = \"open", "user"), None);
    }

    #[test]
    fn numbers_and_names_are_users() {
        let runner =
            |user, group| resolve(user, group, "x").map(|r| (r.user.as_raw(), r.group.map(Gid::as_raw)));
        assert_eq!(runner("+1000", Some("+1001")), Ok((1000, Some(1001))));
        assert_eq!(runner("root", Some("root")), Ok((0, Some(0))));
        assert_eq!(
            runner("4294967296", None).unwrap_err(),
            "x names the user '4294967296', whom this host does not have"
        );
        assert!(runner("root", Some("no-such")).is_err());
        assert!(super::runner(Some("+77:+78")).is_ok());
        assert!(super::runner(Some("")).is_err());
    }
}
