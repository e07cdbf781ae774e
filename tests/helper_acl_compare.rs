//! The same ACL files through Debian's qemu-bridge-helper and vmbr-helper.
//!
//! Both run as the same user in the same namespace. qemu-bridge-helper gets
//! CAP_NET_ADMIN as an ambient capability, which gives it what Debian's
//! setuid bit would but leaves the files to the caller's credentials, as it
//! wants to read them. Where the verdicts differ the table says so, and why;
//! every difference is QEMU allowing what vmbr-helper denies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::stage::{Call, HELPER, QEMU_HELPER, Stage, require};

/// What the two say to `allow`ing br0.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Allow,
    Deny,
}

use Verdict::{Allow, Deny};

/// An ACL, shell commands that finish it, and the one verdict of both.
struct Same(&'static str, &'static str, Verdict);

/// An ACL, shell commands that finish it, and why only QEMU allows.
struct Differs(&'static str, &'static str, &'static str);

const SAME: &[Same] = &[
    Same("", "", Deny),
    Same("allow br0\n", "", Allow),
    Same("allow br0", "", Allow),
    Same("allow br1\n", "", Deny),
    Same("allow all\n", "", Allow),
    Same("deny br0\n", "", Deny),
    Same("allow br0\ndeny br0\n", "", Deny),
    Same("deny br0\nallow br0\n", "", Deny),
    Same("deny br0\nallow all\n", "", Deny),
    Same("allow br0\ndeny all\n", "", Deny),
    Same("deny br1\nallow all\n", "", Allow),
    Same("allow br0\nallow br0\n", "", Allow),
    // White space and comments.
    Same("\n\n   \t\r\n\x0callow br0\n", "", Allow),
    Same("   allow    br0   \r\n", "", Allow),
    Same("allow\tbr0\n", "", Allow),
    Same("allow \t br0\t\n", "", Allow),
    Same("# allow br0\n", "", Deny),
    Same("  # nothing\nallow br0\n", "", Allow),
    Same("#\n#allow all\nallow br0\n#", "", Allow),
    // The first space ends the word, a tab only if there is no space.
    Same("allow\tbr0 \n", "", Deny),
    Same("allow\tbr0 # why\n", "", Deny),
    Same("\x0ballow br0\n", "", Deny),
    Same("allow br0\x0b\n", "", Deny),
    // Words.
    Same("allow\n", "", Deny),
    Same("allow br0\nallow\n", "", Deny),
    Same("Allow br0\n", "", Deny),
    Same("allow BR0\n", "", Deny),
    Same("allow ALL\n", "", Deny),
    Same("allow br0\npermit br1\n", "", Deny),
    Same("allow br0\ninclude-readable /etc/qemu/x\n", "", Deny),
    Same("allow br0\nuser alice allow br0\n", "", Deny),
    Same("\u{feff}allow br0\n", "", Deny),
    Same("allow br\n", "", Deny),
    Same("allow br00\n", "", Deny),
    Same("allow #br0\n", "", Deny),
    Same("allow br0 br1\n", "", Deny),
    Same("allow br0 # why\n", "", Deny),
    Same("allow br0,br1\n", "", Deny),
    Same("allow br*\n", "", Deny),
    Same("allow \"br0\"\n", "", Deny),
    Same("allow br0\ndeny br01234567890123\n", "", Deny),
    Same("allow br0\nallow br01234567890123\n", "", Deny),
    // Includes.
    Same("include /etc/qemu/x\n", "echo allow br0 >/etc/qemu/x", Allow),
    Same("include\t/etc/qemu/x\n", "echo allow br0 >/etc/qemu/x", Allow),
    Same(
        "include /etc/qemu/a b\n",
        "echo allow br0 >'/etc/qemu/a b'",
        Allow,
    ),
    Same(
        "allow all\ninclude /etc/qemu/x\n",
        "echo deny br0 >/etc/qemu/x",
        Deny,
    ),
    Same(
        "include /etc/qemu/x\ndeny br0\n",
        "echo allow all >/etc/qemu/x",
        Deny,
    ),
    Same(
        "include /etc/qemu/x\ninclude /etc/qemu/x\n",
        "echo allow br0 >/etc/qemu/x",
        Allow,
    ),
    Same(
        "include /etc/qemu/x\n",
        "ln -s y /etc/qemu/x; echo allow br0 >/etc/qemu/y",
        Allow,
    ),
    Same(
        "include /etc/qemu/x\n",
        "echo allow br0 >/etc/qemu/x; chmod 600 /etc/qemu/x",
        Deny,
    ),
    Same(
        "allow br0\ninclude /etc/qemu/x\n",
        "echo deny br0 >/etc/qemu/x; chmod 600 /etc/qemu/x",
        Allow,
    ),
    Same(
        "allow br0\ninclude /etc/qemu/d/x\n",
        "mkdir -m 700 /etc/qemu/d",
        Allow,
    ),
    Same(
        "include /etc/qemu/x\n",
        "echo allow br0 >/etc/qemu/x; chgrp 4711 /etc/qemu/x; chmod 640 /etc/qemu/x",
        Allow,
    ),
    // The file itself.
    Same("allow br0\n", "rm /etc/qemu/bridge.conf", Deny),
    Same("allow br0\n", "chmod 600 /etc/qemu/bridge.conf", Deny),
    Same(
        "allow br0\n",
        "ln -s bridge.conf /etc/qemu/b2; chmod 444 /etc/qemu/bridge.conf",
        Allow,
    ),
];

const DIFFERS: &[Differs] = &[
    Differs(
        "allow br0\ninclude /etc/qemu/x\n",
        "",
        "an include that is missing",
    ),
    Differs(
        "allow br0\ninclude /etc/qemu/x\n",
        "ln -s gone /etc/qemu/x",
        "an include that is missing",
    ),
    Differs(
        "allow br0\ninclude /etc/qemu/bridge.conf\n",
        "ulimit -n 64",
        "an include that loops: QEMU's stops at the caller's limit of open files, or crashes",
    ),
    Differs(
        "allow br0\ninclude /etc/qemu/x\n",
        "ulimit -n 64; echo include /etc/qemu/bridge.conf >/etc/qemu/x",
        "an include that loops",
    ),
    Differs(
        "allow br0\ninclude /etc/qemu/x\n",
        "echo nonsense >/etc/qemu/x",
        "an include that cannot be parsed",
    ),
    Differs(
        "allow br0\ninclude /etc/qemu/x\n",
        "echo nonsense here >/etc/qemu/x",
        "an include that cannot be parsed",
    ),
    Differs(
        "allow br0\ninclude /etc/qemu\n",
        "",
        "an include that cannot be parsed",
    ),
    Differs(
        "allow br0\ninclude x\n",
        "cd /etc/qemu; mkdir /etc/cwd; : >/etc/cwd/x; cd /etc/cwd",
        "an include that is missing: it is looked for beside its file, not in the caller's directory",
    ),
    Differs(
        "allow br0\n",
        "chmod g+w /etc/qemu/bridge.conf",
        "a file that group or others can write",
    ),
    Differs(
        "allow br0\n",
        "chmod o+w /etc/qemu/bridge.conf",
        "a file that group or others can write",
    ),
    Differs(
        "allow br0\n",
        "chown 4711 /etc/qemu/bridge.conf",
        "a file that root does not own",
    ),
    Differs(
        "include /etc/qemu/x\n",
        "echo allow br0 >/etc/qemu/x; chown 4711 /etc/qemu/x",
        "a file that root does not own",
    ),
    Differs(
        "include /etc/qemu/x\n",
        "echo allow br0 >/etc/qemu/x; chmod 666 /etc/qemu/x",
        "a file that group or others can write",
    ),
    Differs("allow br0\n# \0\n", "", "a NUL"),
    Differs("allow br0\0 and more\n", "", "a NUL"),
    Differs(
        "allow br0\ninclude /etc/qemu/x\n",
        "echo deny br01234567890123 >/etc/qemu/x",
        "an include that cannot be parsed: the name is over-long",
    ),
    Differs(
        "allow br0\ndeny br0 # why\n",
        "",
        "a name with a comment, which QEMU takes for part of it",
    ),
    Differs(
        "allow br0\ndeny br0 br1\n",
        "",
        "a name with another behind it, which QEMU takes for part of it",
    ),
    Differs("allow br0\ndeny \n", "", "a word without a name"),
    Differs(
        "allow br0\ninclude \n",
        "",
        "an include that is missing: it has no name",
    ),
    Differs(
        "allow br0\nallow br/1\n",
        "",
        "what cannot be the name of a device",
    ),
];

/// Long lines and long files are made, not written.
fn made() -> Vec<(String, &'static str)> {
    let comment = format!("# {}\nallow br0\n", "x".repeat(5000));
    let smuggled = format!("#{}allow br0\n", " ".repeat(4094));
    let long = format!("allow br0\n{}", "# a comment\n".repeat(100_000));
    vec![
        (
            smuggled,
            "a line over 4,095 bytes, the rest of which QEMU takes for a line",
        ),
        (long, "a file over 1 MiB"),
        (comment.replace("xx", " #"), "a line over 4,095 bytes"),
    ]
}

fn verdict(stage: &Stage, program: &str, prelude: &str) -> Verdict {
    let arguments: &[&str] = &["--use-vnet", "--fd=3", "--br=br0"];
    let ambient = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"];
    let mut call = Call::new(arguments).program(program).prelude(prelude);
    // setpriv runs once more, so that the capability outlives the change of
    // user only for QEMU's helper; ours has its file capability.
    let wrapper: Vec<&str>;
    if program == QEMU_HELPER {
        call.uid = 0;
        let user = ["setpriv", "--reuid", "4711", "--regid", "4711", "--clear-groups"];
        wrapper = user.iter().chain(&ambient).copied().collect();
        call.wrapper = &wrapper;
    }
    let answer = stage.run(&call);
    let verdict = if answer.ended.status.success() {
        assert_eq!(answer.received.descriptors.len(), 1);
        Allow
    } else {
        let said = &answer.ended.stderr;
        let denied = ["access denied", "failed to parse default acl file"];
        assert!(
            denied.iter().any(|d| said.contains(d)),
            "{program} {prelude}: {:?}",
            answer.ended
        );
        Deny
    };
    drop(answer);
    stage.assert_no_tap();
    // A log that nobody reads fills up, and then each call waits for it.
    stage.logged();
    verdict
}

#[test]
fn the_verdicts_are_the_same() {
    require(QEMU_HELPER, "qemu-system-common");
    let stage = Stage::new("same");
    for Same(text, prelude, expected) in SAME {
        stage.bridge_conf(text);
        assert_eq!(
            verdict(&stage, QEMU_HELPER, prelude),
            *expected,
            "QEMU: {text:?} {prelude}"
        );
        assert_eq!(
            verdict(&stage, HELPER, prelude),
            *expected,
            "vmbr: {text:?} {prelude}"
        );
    }
}

#[test]
fn where_they_differ_the_difference_is_named_and_on_the_safe_side() {
    require(QEMU_HELPER, "qemu-system-common");
    let stage = Stage::new("differs");
    let written = DIFFERS
        .iter()
        .map(|Differs(text, prelude, why)| ((*text).to_owned(), *prelude, *why));
    let all: Vec<_> = written
        .chain(made().into_iter().map(|(text, why)| (text, "", why)))
        .collect();
    for (text, prelude, why) in all {
        stage.bridge_conf(&text);
        let start: String = text.chars().take(60).collect();
        assert_eq!(
            verdict(&stage, QEMU_HELPER, prelude),
            Allow,
            "{why}: QEMU: {start:?} {prelude}"
        );
        assert_eq!(
            verdict(&stage, HELPER, prelude),
            Deny,
            "{why}: vmbr: {start:?} {prelude}"
        );
    }
}

#[test]
fn no_generated_file_is_allowed_by_vmbr_alone() {
    require(QEMU_HELPER, "qemu-system-common");
    let stage = Stage::new("generated");
    // Lines that QEMU's parser takes apart, put together by a fixed sequence.
    let pieces = [
        "allow",
        "deny",
        "include",
        "all",
        "br0",
        "br1",
        " ",
        "\t",
        "  ",
        "\n",
        "\n",
        "#",
        "\r\n",
        "allow br0\n",
        "allow all\n",
        "deny br1\n",
        "\x0c",
        "\x0b",
        "x",
        "",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let (mut allowed, mut denied) = (0, 0);
    for _ in 0..150 {
        let mut text = String::new();
        for _ in 0..6 {
            // xorshift64: any sequence will do, as long as it is the same.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(pieces[(state % pieces.len() as u64) as usize]);
        }
        stage.bridge_conf(&text);
        match verdict(&stage, HELPER, "") {
            Allow => {
                assert_eq!(verdict(&stage, QEMU_HELPER, ""), Allow, "{text:?}");
                allowed += 1;
            }
            Deny => denied += 1,
        }
    }
    assert!(
        allowed > 5 && denied > 5,
        "{allowed} allowed and {denied} denied show too little"
    );
}
