//! The fuzzer's corpora, as ordinary tests, and the ACL sample.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use vmbr::helper::acl::{Dialect, Statement, statements};

#[path = "../fuzz/packets.rs"]
mod packets;
#[path = "../fuzz/properties.rs"]
mod properties;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .map(|file| (file.clone(), fs::read(&file).unwrap()))
        .collect()
}

#[test]
fn the_acl_corpus_holds() {
    let files = corpus("acl");
    assert!(files.len() >= 20, "{} files", files.len());
    for (file, text) in files {
        println!("{}", file.display());
        properties::acl(&text);
    }
}

#[test]
fn the_argv_corpus_holds() {
    let files = corpus("argv");
    assert!(files.len() >= 20, "{} files", files.len());
    for (file, text) in files {
        println!("{}", file.display());
        properties::argv(&text);
    }
}

#[test]
fn the_packet_corpus_holds() {
    let files = corpus("packet");
    assert!(files.len() >= 20, "{} files", files.len());
    let mut read = 0;
    for (file, bytes) in files {
        println!("{}", file.display());
        packets::packet(&bytes);
        // And cut, and with each of its bytes another.
        for place in 0..bytes.len() {
            packets::packet(&bytes[..place]);
            let mut other = bytes.clone();
            other[place] ^= 0xff;
            packets::packet(&other);
        }
        read += usize::from(vmbr::keeper::message::payload(&bytes).is_some());
    }
    assert!(read >= 20, "{read} are packets to a client");
}

#[test]
fn the_sample_is_valid_allows_nobody_and_shows_every_word() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/acl.conf");
    let text = fs::read(file).unwrap();
    assert_eq!(
        statements(&text, Dialect::Vmbr).count(),
        0,
        "installed as it is, it must allow nothing"
    );

    // Its examples, which stand behind `#:`, are lines of an ACL.
    let text = String::from_utf8(text).unwrap();
    let examples: String = text
        .lines()
        .filter_map(|l| l.strip_prefix("#:"))
        .map(|l| format!("{l}\n"))
        .collect();
    let mut words = [false; 4];
    let mut narrowed = [false; 8];
    for (line, statement) in statements(examples.as_bytes(), Dialect::Vmbr) {
        let word = match statement.unwrap_or_else(|e| panic!("example {line}: {e}")) {
            Statement::Allow(_, terms) => {
                let said = [
                    terms.users.is_some(),
                    terms.groups.is_some(),
                    terms.taps.is_some(),
                    terms.isolated,
                    terms.mac.is_some(),
                    terms.guard.is_some(),
                    terms.mtu.is_some(),
                    terms.queues.is_some(),
                ];
                narrowed.iter_mut().zip(said).for_each(|(all, one)| *all |= one);
                0
            }
            Statement::Deny(_) => 1,
            Statement::Include(_) => 2,
            Statement::IncludeReadable(_) => 3,
        };
        words[word] = true;
    }
    assert_eq!(
        words, [true; 4],
        "an example for allow, deny, include and include-readable"
    );
    assert_eq!(narrowed, [true; 8], "an example for each word behind a bridge");

    // The manual explains each, and its example is one.
    let page = include_str!("../src/cli/vmbr-acl.conf.5");
    for word in [
        "fBuser=",
        "fBgroup=",
        "fBtaps=",
        "B isolated",
        "fBqueues=",
        "fBmtu=",
        "fBmac=",
        "B guard",
        "fBguard=",
    ] {
        let head = format!(".TP\n{}{word}", if word.starts_with('f') { "\\" } else { "." });
        assert!(page.contains(&head), "the manual does not explain {word}");
    }
    let example = page.split(".nf\n").nth(1).unwrap().split(".fi").next().unwrap();
    let lines: Vec<_> = statements(example.as_bytes(), Dialect::Vmbr).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|(_, statement)| statement.is_ok()));
}
