//! Golden directories: each is a case, with what is given and the text that
//! must come of it. `VMBR_BLESS=1` writes the texts, which a person must then
//! read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads a file of a case.
pub fn json<T: serde::de::DeserializeOwned>(path: &Path, name: &str) -> T {
    let path = path.join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of a directory of tests, `least` of them or more.
pub fn paths(directory: &str, least: usize) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(directory);
    let mut paths: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let count = paths.len();
    assert!(count >= least, "only {count} cases: are they all there?");
    paths
}

/// What a case is called.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// What has come of a case.
pub struct Outcome<'a> {
    /// Its directory.
    pub path: &'a Path,
    /// The file that has the text.
    pub file: &'a str,
    /// What has come of it.
    pub text: String,
    /// Every file that the directory should have.
    pub files: &'a BTreeSet<String>,
}

/// Asserts that each text is as it is written, and that no file is there that
/// nobody reads.
pub fn assert_as_written<'a>(outcomes: impl Iterator<Item = Outcome<'a>>) {
    let bless = std::env::var_os("VMBR_BLESS").is_some();
    assert!(
        !(bless && std::env::var_os("CI").is_some()),
        "a machine cannot bless a plan: a person must read it"
    );
    let mut wrong = Vec::new();
    for outcome in outcomes {
        let Outcome {
            path,
            file,
            text,
            files,
        } = outcome;
        let (name, file) = (name(path), path.join(file));
        if bless {
            fs::write(&file, &text).unwrap();
        }
        let found: BTreeSet<String> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        if found != *files {
            wrong.push(format!("{name}: has {found:?}, should have {files:?}"));
            continue;
        }
        let written = fs::read_to_string(&file).unwrap();
        if written != text {
            wrong.push(format!("{name}: planned\n{text}and not\n{written}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
