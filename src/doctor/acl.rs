//! ACL files that are not obeyed, or not by everyone.

use super::{Facts, Finding, Severity};

/// An ACL file, the first one or one that is included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclFile {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What can be wrong with an ACL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Others than root can write it.
    Writable,
    /// Root does not own it.
    NotRoots,
    /// It is missing, loops or has a line without a meaning; with where and
    /// why.
    Unusable(String),
    /// It denies, and not everyone may read it: to those who may not, the
    /// line does not exist.
    HiddenDeny,
    /// A line names a user or group (the word says which) whom nobody knows;
    /// with the line's number.
    Stranger(usize, &'static str, String),
    /// The one who asks may not read it.
    Closed,
}

/// What is wrong with the ACL.
pub fn files(facts: &Facts) -> Vec<Finding> {
    facts.acl.iter().map(finding).collect()
}

fn finding(file: &AclFile) -> Finding {
    let path = &file.path;
    let denies = "so the helper does not obey it and refuses every guest";
    match &file.wrong {
        Wrong::Writable => Finding::new(
            "acl-writable",
            Severity::Error,
            format!(
                "others than root can write {path}: they could allow themselves what they like, {denies}"
            ),
            format!("chmod go-w {path}"),
        ),
        Wrong::NotRoots => Finding::new(
            "acl-owner",
            Severity::Error,
            format!("{path} does not belong to root: its owner could allow himself what he likes, {denies}"),
            format!("chown 0 {path}"),
        ),
        Wrong::Unusable(why) => Finding::new(
            "acl-unusable",
            Severity::Error,
            format!("{path} is an ACL that cannot be understood, {denies}: {why}"),
            "mend that line, or what it names",
        ),
        Wrong::HiddenDeny => Finding::new(
            "acl-hidden-deny",
            Severity::Warning,
            format!(
                "{path} denies, and not everyone may read it: a user who may not is not denied, as ACLs are read with \
                 the caller's rights"
            ),
            format!("chmod o+r {path}"),
        ),
        Wrong::Stranger(line, what, name) => Finding::new(
            "acl-stranger",
            Severity::Warning,
            format!(
                "{path}, line {line}: there is no {what} {name} in {}, so nobody is that",
                etc(what)
            ),
            "mend the name, or write its number",
        ),
        Wrong::Closed => Finding::new(
            "acl-closed",
            Severity::Note,
            format!("{path} was not looked at: you may not read it"),
            "sudo vmbr doctor",
        ),
    }
}

/// Where users or groups are named.
pub(super) fn etc(what: &str) -> &'static str {
    match what {
        "user" => "/etc/passwd",
        _ => "/etc/group",
    }
}
