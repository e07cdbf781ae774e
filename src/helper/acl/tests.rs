//! The parser on lines, and the reader on files that belong to root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn words(text: &str, dialect: Dialect) -> Vec<String> {
    statements(text.as_bytes(), dialect)
        .map(|(line, statement)| match statement {
            Ok(Statement::Allow(Target::All, _)) => format!("{line} allow *"),
            Ok(Statement::Allow(Target::Bridge(b), _)) => format!("{line} allow {b}"),
            Ok(Statement::Deny(Target::All)) => format!("{line} deny *"),
            Ok(Statement::Deny(Target::Bridge(b))) => format!("{line} deny {b}"),
            Ok(Statement::Include(p)) => format!("{line} include {}", p.display()),
            Ok(Statement::IncludeReadable(p)) => format!("{line} include-readable {}", p.display()),
            Err(e) => format!("{line}:{} {:?}", e.column, e.fault),
        })
        .collect()
}

#[test]
fn lines_mean_what_they_mean_to_qemu() {
    let text =
        "# comment\n\n  allow br0  \r\n\tdeny\tbr1\nallow all\ndeny all\ninclude /a b\n allow #x\nallow ALL";
    assert_eq!(
        words(text, Dialect::Qemu),
        [
            "3 allow br0",
            "4 deny br1",
            "5 allow *",
            "6 deny *",
            "7 include /a b",
            "8 allow #x",
            "9 allow ALL"
        ]
    );
    // The first space ends the word, a tab only where there is no space.
    assert_eq!(words("allow\tbr0 br1", Dialect::Qemu), ["1:1 UnknownWord"]);
    assert_eq!(words("allow\tbr0 ", Dialect::Qemu), ["1:11 NoArgument"]);
    assert_eq!(words("allow br0 # why", Dialect::Qemu), ["1:7 BadName"]);
    assert_eq!(words("allow br0 taps=1", Dialect::Qemu), ["1:7 BadName"]);
    assert_eq!(words("include-readable /a", Dialect::Qemu), ["1:1 UnknownWord"]);
}

#[test]
fn acl_conf_has_trailing_comments_and_its_own_word() {
    let text = "allow br0 # why\ndeny\tbr1\t#\n#x\n  # y\ninclude-readable /a#b #c\nallow br#1";
    assert_eq!(
        words(text, Dialect::Vmbr),
        [
            "1 allow br0",
            "2 deny br1",
            "5 include-readable /a#b",
            "6 allow br#1"
        ]
    );
    assert_eq!(words("allow #br0", Dialect::Vmbr), ["1:7 NoArgument"]);
}

#[test]
fn what_cannot_be_a_rule_is_an_error_in_both() {
    let long = format!("# {}", "x".repeat(LINE_MAX));
    for (text, error) in [
        ("allow", "1:6 NoArgument"),
        ("\nallow ", "2:7 NoArgument"),
        ("include \t", "1:10 NoArgument"),
        ("permit br0", "1:1 UnknownWord"),
        ("  Allow br0", "1:3 UnknownWord"),
        ("user alice allow br0", "1:1 UnknownWord"),
        ("deny 1234567890123456", "1:6 BadName"),
        ("allow  br/0", "1:8 BadName"),
        ("allow br0\0", "1:10 Nul"),
        ("# \0", "1:3 Nul"),
        ("\u{feff}allow br0", "1:1 UnknownWord"),
        (long.as_str(), "1:4095 TooLong"),
    ] {
        for dialect in [Dialect::Qemu, Dialect::Vmbr] {
            assert_eq!(words(text, dialect), [error], "{text:?}");
        }
    }
    assert_eq!(words("allow br0 br1", Dialect::Qemu), ["1:7 BadName"]);
    assert_eq!(words("allow br0 br1", Dialect::Vmbr), ["1:11 UnknownTerm"]);
    let fits = format!("# {}", "x".repeat(LINE_MAX - 2));
    assert!(words(&fits, Dialect::Qemu).is_empty());
}

fn terms(text: &str) -> Result<Terms<'_>, String> {
    let mut all = statements(text.as_bytes(), Dialect::Vmbr);
    match all.next() {
        Some((1, Ok(Statement::Allow(_, terms)))) => Ok(terms),
        Some((1, Err(e))) => Err(format!("{}: {}", e.column, e.fault)),
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn an_allow_is_narrowed_by_every_word_in_any_order() {
    assert_eq!(terms("allow br0"), Ok(Terms::default()));
    let all = "allow br0 queues=4 mtu=1400 guard=192.0.2.5,2001:db8::5 mac=52:54:00 isolated \ttaps=3 \
               group=kvm,100-200 user=alice,1000,b.b-c$ # why";
    let all = terms(all).unwrap();
    assert_eq!(
        (all.queues, all.mtu, all.taps, all.isolated),
        (Some(4), Some(1400), Some(3), true)
    );
    assert_eq!(all.mac, Some(MacRule::Prefix([0x52, 0x54, 0, 0, 0, 0], 3)));
    let members = |who: Option<Who<'static>>| who.unwrap().members().collect::<Vec<_>>();
    assert_eq!(
        members(all.users),
        [
            Member::Name("alice"),
            Member::Ids(1000, 1000),
            Member::Name("b.b-c$")
        ]
    );
    assert_eq!(members(all.groups), [Member::Name("kvm"), Member::Ids(100, 200)]);
    let Some(Guard::Addresses(addresses)) = all.guard else {
        panic!("{all:?}");
    };
    let own: Vec<String> = addresses.iter().map(|a| a.to_string()).collect();
    assert_eq!(own, ["192.0.2.5", "2001:db8::5"]);
    assert_eq!(terms("allow all guard").unwrap().guard, Some(Guard::Mac));
    let exact = terms("allow all mac=52:54:00:12:34:56").unwrap().mac.unwrap();
    let mac = |text: &str| text.parse().unwrap();
    assert!(exact.admits(mac("52:54:00:12:34:56")) && !exact.admits(mac("52:54:00:12:34:57")));
    let prefix = all.mac.unwrap();
    assert!(prefix.admits(mac("52:54:00:12:34:57")) && !prefix.admits(mac("52:54:01:12:34:56")));
}

#[test]
fn a_word_that_is_none_is_an_error_with_its_column() {
    for (line, column, said) in [
        ("allow br0 tabs=1", 11, "not known"),
        ("allow br0  Taps=1", 12, "not known"),
        ("allow br0 taps", 11, "not known"),
        ("allow br0 isolated=1", 11, "not known"),
        ("allow br0 isolated x", 20, "not known"),
        ("allow br0 user alice", 11, "not known"),
        ("allow br0 =", 11, "not known"),
        ("allow br0 \u{f6}", 11, "not known"),
        ("allow br0 isolated isolated", 20, "isolated stands there twice"),
        ("allow br0 taps=1 taps=2", 18, "taps= stands there twice"),
        ("allow br0 guard guard=192.0.2.1", 17, "guard stands there twice"),
        ("allow br0 taps=0", 16, "taps= needs a number from 1 to 1023"),
        ("allow br0 taps=1024", 16, "taps= needs"),
        ("allow br0 taps=01", 16, "taps= needs"),
        ("allow br0 taps=", 16, "taps= needs"),
        ("allow br0 queues=254", 18, "queues= needs a number from 1 to 253"),
        ("allow br0 mtu=67", 15, "mtu= needs a number of bytes"),
        ("allow br0 mtu=65522", 15, "mtu= needs"),
        ("allow br0 mac=", 15, "mac= needs"),
        ("allow br0 mac=5254", 15, "mac= needs"),
        ("allow br0 mac=53:54:00", 15, "mac= needs"),
        ("allow br0 mac=00:00:00:00:00:00", 15, "mac= needs"),
        ("allow br0 mac=52:54:00:", 15, "mac= needs"),
        ("allow br0 guard=", 17, "guard= needs"),
        ("allow br0 guard=192.0.2.0/24", 17, "guard= needs"),
        ("allow br0 guard=192.0.2.1,", 17, "guard= needs"),
        ("allow br0 guard=0.0.0.0", 17, "guard= needs"),
        ("allow br0 guard=255.255.255.255", 17, "guard= needs"),
        ("allow br0 guard=ff02::1", 17, "guard= needs"),
        ("allow br0 user=", 16, "user= needs"),
        ("allow br0 user=alice,", 16, "user= needs"),
        ("allow br0 user=!alice", 16, "user= needs"),
        ("allow br0 user=@kvm", 16, "user= needs"),
        ("allow br0 user=*", 16, "user= needs"),
        ("allow br0 user=2000-1000", 16, "user= needs"),
        ("allow br0 user=4294967295", 16, "user= needs"),
        ("allow br0 user=1000-99999999999", 16, "user= needs"),
        ("allow br0 group=-5", 17, "group= needs"),
    ] {
        let error = terms(line).expect_err(line);
        assert!(
            error.starts_with(&format!("{column}: ")) && error.contains(said),
            "{line:?}: {error}"
        );
    }
    assert_eq!(
        words("deny br0  user=alice", Dialect::Vmbr),
        ["1:11 DenyWithTerms"]
    );
    let many = format!("allow br0 guard={}", ["192.0.2.1"; 17].join(","));
    assert!(terms(&many).is_err());
}

#[test]
fn names_are_looked_up_as_the_c_library_does() {
    let passwd = b"root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:\n# c:x:1000:1\nbob:x:1001:1:::\n\
                   +nis:x:1000:1::\nalice2:x:1000:1000::/:\nbob:x:1000:1::\n:x:1000:1::\nshort:x:1000\n\
                   plus:x:+1000:1::\nlate:x:1000:1::";
    assert_eq!(caller::names_of(passwd, &[1000]), ["alice", "alice2", "late"]);
    assert_eq!(caller::names_of(passwd, &[1001, 0]), ["root", "bob"]);
    let group = b"kvm:x:36:alice,bob\nlab:x:900:\n";
    assert_eq!(caller::names_of(group, &[900, 36]), ["kvm", "lab"]);
    assert!(caller::names_of(group, &[1]).is_empty());
}

/// A directory of ACL files, gone with its guard.
struct Directory(PathBuf);

impl Directory {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vmbr-acl-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let directory = Self(path);
        for (name, text) in files {
            let file = directory.0.join(name);
            fs::write(&file, text.replace("@", directory.0.to_str().unwrap())).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        }
        directory
    }

    fn ask(&self, dialect: Dialect, bridge: &str, caller: &Caller) -> Result<Grant, Denial> {
        check_file(&self.0.join("acl"), dialect, &bridge.parse().unwrap(), caller)
    }

    /// The line that allows br0, in vmbr's own dialect.
    fn allowed_by(&self, user: u32, groups: &[u32]) -> Option<usize> {
        let caller = Caller {
            user,
            groups: groups.to_vec(),
        };
        match self.ask(Dialect::Vmbr, "br0", &caller) {
            Ok(grant) => Some(grant.place.line),
            Err(Denial::NotAllowed(_)) => None,
            Err(denial) => panic!("{denial}"),
        }
    }

    fn verdict(&self, bridge: &str) -> String {
        let nobody = Caller {
            user: 65534,
            groups: vec![65534],
        };
        let text = match self.ask(Dialect::Qemu, bridge, &nobody) {
            Ok(grant) => format!("allowed by {}", grant.place),
            Err(denial) => denial.to_string(),
        };
        text.replace(self.0.to_str().unwrap(), "")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn any_deny_wins_and_nothing_is_allowed_unsaid() {
    let both = Directory::new(&[("acl", "deny br1\nallow all\n"), ("x", "")]);
    assert_eq!(both.verdict("br0"), "allowed by /acl:2");
    assert_eq!(both.verdict("br1"), "/acl:1: a line denies it");
    let one = Directory::new(&[("acl", "allow br0\ninclude @/x\n"), ("x", "deny br0\nallow br2")]);
    assert_eq!(one.verdict("br0"), "/x:1: a line denies it");
    assert_eq!(one.verdict("br1"), "/acl: no line allows it");
    assert_eq!(one.verdict("br2"), "allowed by /x:2");
}

#[test]
fn an_include_that_fails_denies_everything() {
    let missing = Directory::new(&[("acl", "allow all\ninclude @/gone")]);
    assert!(
        missing
            .verdict("br0")
            .starts_with("/acl:2: included /gone: cannot be read")
    );
    let bad = Directory::new(&[("acl", "allow all\ninclude @/x"), ("x", "\nnonsense here")]);
    assert!(
        bad.verdict("br0").starts_with("/x:2:1: the word is not known"),
        "{}",
        bad.verdict("br0")
    );
    let round = Directory::new(&[("acl", "allow all\ninclude @/x"), ("x", "include @/acl")]);
    assert_eq!(round.verdict("br0"), "/x:1: included /acl: includes itself");
    let twice = Directory::new(&[("acl", "include @/x\ninclude @/x"), ("x", "allow br0")]);
    assert_eq!(
        twice.verdict("br0"),
        "allowed by /x:1",
        "twice in a row is no loop"
    );
    let folder = Directory::new(&[("acl", "allow all\ninclude @")]);
    assert!(folder.verdict("br0").ends_with("is not a regular file"));
}

#[test]
fn a_relative_include_starts_at_its_file() {
    let files = Directory::new(&[("acl", "include x"), ("x", "allow br0")]);
    assert_eq!(files.verdict("br0"), "allowed by /x:1");
}

#[test]
fn files_have_limits() {
    let many = Directory::new(&[("acl", &"include @/x\n".repeat(FILES_MAX)), ("x", "allow br0")]);
    assert!(
        many.verdict("br0").contains("more than 256 files"),
        "{}",
        many.verdict("br0")
    );
    let names: Vec<String> = (0..DEPTH_MAX).map(|n| format!("f{n}")).collect();
    let texts: Vec<String> = (1..=DEPTH_MAX).map(|n| format!("include @/f{n}")).collect();
    let mut files: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().map(String::as_str))
        .collect();
    files.push(("acl", "allow br0\ninclude @/f0"));
    assert!(Directory::new(&files).verdict("br0").contains("16 deep"));
    let huge = Directory::new(&[("acl", &"# x\n".repeat(SIZE_MAX as usize / 4 + 1))]);
    assert!(huge.verdict("br0").ends_with("is larger than 1048576 bytes"));
}

#[test]
fn a_file_that_others_can_write_is_not_obeyed() {
    for (mode, obeyed) in [(0o644, true), (0o400, true), (0o664, false), (0o646, false)] {
        let files = Directory::new(&[("acl", "allow all\ninclude @/x"), ("x", "")]);
        let set =
            |name: &str, mode| fs::set_permissions(files.0.join(name), fs::Permissions::from_mode(mode));
        set("x", mode).unwrap();
        assert_eq!(
            files.verdict("br0").starts_with("allowed"),
            obeyed,
            "an include of mode {mode:o}"
        );
        set("x", 0o644).unwrap();
        set("acl", mode).unwrap();
        assert_eq!(
            files.verdict("br0").starts_with("allowed"),
            obeyed,
            "a file of mode {mode:o}"
        );
    }
    let foreign = Directory::new(&[("acl", "allow all")]);
    std::os::unix::fs::chown(foreign.0.join("acl"), Some(1000), None).unwrap();
    assert!(foreign.verdict("br0").ends_with("does not belong to root"));
}

#[test]
fn the_first_line_that_is_for_the_caller_counts() {
    let files = Directory::new(&[(
        "acl",
        "allow br1 user=7
allow br0 user=7,10-20 taps=1
allow all group=50 user=8
allow br0 group=50-60 taps=2
allow br0 user=7 taps=9
",
    )]);
    assert_eq!(files.allowed_by(7, &[1]), Some(2));
    assert_eq!(files.allowed_by(15, &[1, 50]), Some(2));
    assert_eq!(files.allowed_by(8, &[1, 50]), Some(3), "both have to fit");
    assert_eq!(files.allowed_by(8, &[1]), None);
    assert_eq!(files.allowed_by(9, &[55, 1]), Some(4));
    assert_eq!(files.allowed_by(21, &[49]), None);
    // Root is a user like others.
    assert_eq!(files.allowed_by(0, &[0]), None);
    let denied = Directory::new(&[("acl", "allow br0 user=7\ndeny br0\n")]);
    let caller = Caller {
        user: 7,
        groups: vec![7],
    };
    assert!(matches!(
        denied.ask(Dialect::Vmbr, "br0", &caller),
        Err(Denial::Denied(_))
    ));
    // A line that is for somebody else has to be right, too.
    let wrong = Directory::new(&[("acl", "allow br0\nallow br1 user=8 tabs=1\n")]);
    let denial = wrong.ask(Dialect::Vmbr, "br0", &caller).unwrap_err();
    assert!(
        denial
            .to_string()
            .ends_with("acl:2:18: the word behind the bridge is not known, so nothing is allowed"),
        "{denial}"
    );
}
