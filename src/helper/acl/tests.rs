//! The parser on lines, and the reader on files that belong to root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn words(text: &str, dialect: Dialect) -> Vec<String> {
    statements(text.as_bytes(), dialect)
        .map(|(line, statement)| match statement {
            Ok(Statement::Allow(Target::All)) => format!("{line} allow *"),
            Ok(Statement::Allow(Target::Bridge(b))) => format!("{line} allow {b}"),
            Ok(Statement::Deny(Target::All)) => format!("{line} deny *"),
            Ok(Statement::Deny(Target::Bridge(b))) => format!("{line} deny {b}"),
            Ok(Statement::Include(p)) => format!("{line} include {}", p.display()),
            Ok(Statement::IncludeReadable(p)) => format!("{line} include-readable {}", p.display()),
            Err(e) => format!("{line} {e:?}"),
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
    assert_eq!(words("allow\tbr0 br1", Dialect::Qemu), ["1 UnknownWord"]);
    assert_eq!(words("allow\tbr0 ", Dialect::Qemu), ["1 NoArgument"]);
    assert_eq!(words("allow br0 # why", Dialect::Qemu), ["1 BadName"]);
    assert_eq!(words("include-readable /a", Dialect::Qemu), ["1 UnknownWord"]);
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
    assert_eq!(words("allow #br0", Dialect::Vmbr), ["1 NoArgument"]);
}

#[test]
fn what_cannot_be_a_rule_is_an_error_in_both() {
    let long = format!("# {}", "x".repeat(LINE_MAX));
    for (text, error) in [
        ("allow", "1 NoArgument"),
        ("\nallow ", "2 NoArgument"),
        ("include \t", "1 NoArgument"),
        ("permit br0", "1 UnknownWord"),
        ("Allow br0", "1 UnknownWord"),
        ("user alice allow br0", "1 UnknownWord"),
        ("allow br0 br1", "1 BadName"),
        ("deny 1234567890123456", "1 BadName"),
        ("allow br/0", "1 BadName"),
        ("allow br0\0", "1 Nul"),
        ("# \0", "1 Nul"),
        ("\u{feff}allow br0", "1 UnknownWord"),
        (long.as_str(), "1 TooLong"),
    ] {
        for dialect in [Dialect::Qemu, Dialect::Vmbr] {
            assert_eq!(words(text, dialect), [error], "{text:?}");
        }
    }
    let fits = format!("# {}", "x".repeat(LINE_MAX - 2));
    assert!(words(&fits, Dialect::Qemu).is_empty());
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

    fn ask(&self, dialect: Dialect, bridge: &str) -> Result<Place, Denial> {
        check_file(&self.0.join("acl"), dialect, &bridge.parse().unwrap())
    }

    fn verdict(&self, bridge: &str) -> String {
        let text = match self.ask(Dialect::Qemu, bridge) {
            Ok(place) => format!("allowed by {place}"),
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
        bad.verdict("br0").starts_with("/x:2: the word is not known"),
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
