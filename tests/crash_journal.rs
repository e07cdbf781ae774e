//! Records that are torn, foreign, newer, or no files at all are recognised,
//! and no command acts on them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/crash.rs"]
mod crash;
#[path = "common/host.rs"]
mod host;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use common::Ended;
use crash::{ORDINARY, PATIENCE, Victim, Whole};

/// The file of the record of br0, once there was one.
fn record(victim: &Victim) -> PathBuf {
    let directories = fs::read_dir(victim.host.records()).unwrap().flatten();
    let directory = directories.map(|e| e.path()).find(|path| path.is_dir()).unwrap();
    directory.join("br0.json")
}

/// A host with a bridge, and the text of its record.
fn bridged(hint: &str) -> (Victim, PathBuf, String) {
    let victim = Victim::new(hint, ORDINARY);
    victim.bring_to(Whole::Bridge).unwrap();
    let path = record(&victim);
    let text = fs::read_to_string(&path).unwrap();
    (victim, path, text)
}

/// Runs a command, which must end soon: a FIFO must not hold it.
fn run_soon(victim: &Victim, args: &[&str]) -> Ended {
    let begun = Instant::now();
    let directory = victim.host.records().to_str().unwrap();
    let mut all = vec!["-k", "1", "20", crash::VMBR, "--state-dir", directory];
    all.extend(args);
    let mut command = victim.host.ns.command("timeout");
    command.args(&all).env_remove("SUDO_USER");
    let ended = common::run(&mut command);
    assert!(
        begun.elapsed() < PATIENCE && ended.status.code() != Some(124),
        "{args:?} hangs: {ended:?}"
    );
    ended
}

/// Every command meets the unusable record, and none acts on it: the network
/// stays as it is, the record too.
fn never_acted_on(victim: &Victim, path: &Path, what: &str) {
    let kept = fs::symlink_metadata(path).unwrap();
    let state = victim.host.state();
    for args in [
        &["down", "br0"][..],
        &["down"],
        &["up", "eth0"],
        &["status", "--json"],
        &["up", "eth0", "--dry-run"],
        &["down", "br0", "--dry-run"],
        &["recover"],
        &["confirm"],
        &["confirm", "br0"],
    ] {
        let ended = run_soon(victim, args);
        let code = ended.code();
        if args[0] == "status" {
            assert_eq!(code, 0, "{what}: {args:?}: {ended:?}");
        } else if ["recover", "confirm"].contains(&args[0]) && code == 0 {
            // A record of a change that has ended leaves nothing to do.
            assert!(ended.stdout.contains("nothing"), "{what}: {args:?}: {ended:?}");
        } else {
            assert_eq!(code, 3, "{what}: {args:?}: {ended:?}");
            assert!(ended.stderr.contains("br0"), "{what}: {args:?}: {ended:?}");
        }
        let changes = state.changes(&victim.host.state());
        assert!(changes.is_empty(), "{what}: {args:?} changed {changes:?}");
        let now = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{what}: {args:?} removed it: {e}"));
        assert_eq!(
            (now.len(), now.file_type()),
            (kept.len(), kept.file_type()),
            "{what}: {args:?}"
        );
    }
}

/// Takes away whatever is at a path.
fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

#[test]
fn a_record_torn_at_any_length() {
    let (victim, path, text) = bridged("torn");
    let state = victim.host.state();
    // Everything but the record's last brace and the newline that may follow.
    let whole = text.trim_end().len();
    for length in (0..whole).step_by(97).chain([1, 2, whole - 2, whole - 1]) {
        fs::write(&path, &text[..length]).unwrap();
        let down = run_soon(&victim, &["down", "br0"]);
        assert_eq!(down.code(), 3, "{length} of {whole}: {down:?}");
    }
    assert_eq!(state.changes(&victim.host.state()), Vec::<String>::new());
    for length in [0, whole / 2, whole - 1] {
        fs::write(&path, &text[..length]).unwrap();
        never_acted_on(&victim, &path, &format!("torn at {length} of {whole}"));
    }
    fs::write(&path, &text).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

#[test]
fn a_record_of_another_world() {
    let (victim, path, text) = bridged("foreign");
    let change = |key: &str, new: Value| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        *value.pointer_mut(key).unwrap() = new;
        fs::write(&path, value.to_string()).unwrap();
    };
    let namespace = serde_json::from_str::<Value>(&text).unwrap()["namespace"].clone();
    let (boot, cookie) = namespace.as_str().unwrap().rsplit_once('-').unwrap();
    for (what, key, new) in [
        (
            "another boot",
            "/namespace",
            format!("00000000-0000-4000-8000-000000000000-{cookie}").into(),
        ),
        (
            "another namespace",
            "/namespace",
            format!("{boot}-1{cookie}").into(),
        ),
        ("no namespace", "/namespace", Value::Null),
        ("another bridge", "/bridge/name", "br7".into()),
        ("a newer version", "/version", 1000.into()),
        ("an older version than any", "/version", 0.into()),
        ("a version that is none", "/version", "1".into()),
        ("another NIC behind the name", "/uplink/index", 4711.into()),
        ("a NIC of another name", "/uplink/name", "eth7".into()),
        ("a name that is none", "/uplink/name", "../../etc/passwd".into()),
        ("an unknown progress", "/progress", "finished".into()),
        ("no network", "/before", Value::Null),
    ] {
        change(key, new);
        never_acted_on(&victim, &path, what);
    }
    fs::write(&path, &text).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

/// The same of a change that did not end, or that nobody confirmed in time:
/// these are acted on, but only where they are this host's. Nobody is at work.
#[test]
fn an_unfinished_record_of_another_world() {
    let (victim, path, text) = bridged("foreign-torn");
    let namespace = serde_json::from_str::<Value>(&text).unwrap()["namespace"].clone();
    let (boot, cookie) = namespace.as_str().unwrap().rsplit_once('-').unwrap();
    let (changing, unconfirmed) = ("changing", "awaiting-confirm");
    let other_boot = format!("00000000-0000-4000-8000-000000000000-{cookie}");
    let other_namespace = format!("{boot}-1{cookie}");
    for (progress, what, key, new) in [
        (changing, "another boot", "/namespace", other_boot.into()),
        (
            unconfirmed,
            "another namespace",
            "/namespace",
            other_namespace.into(),
        ),
        (changing, "a newer version", "/version", 1000.into()),
        (
            changing,
            "another NIC behind the name",
            "/uplink/index",
            4711.into(),
        ),
        (
            unconfirmed,
            "another NIC behind the name",
            "/uplink/index",
            4711.into(),
        ),
        (changing, "a NIC of another name", "/uplink/name", "eth7".into()),
    ] {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["progress"] = progress.into();
        value["confirm_by"] = 1.into();
        *value.pointer_mut(key).unwrap() = new;
        fs::write(&path, value.to_string()).unwrap();
        never_acted_on(&victim, &path, &format!("{progress}, {what}"));
    }
    fs::write(&path, &text).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

/// An update of vmbr finds bridges that the one before has made.
#[test]
fn a_record_of_the_version_before() {
    let (victim, path, text) = bridged("older");
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["version"] = vmbr::plan::record::OLDEST.into();
    let record = value.as_object_mut().unwrap();
    for since in ["read_at", "watchdog", "confirm_by", "end", "zone"] {
        record.remove(since);
    }
    fs::write(&path, value.to_string()).unwrap();
    let up = run_soon(&victim, &["up", "eth0"]);
    assert!(up.code() == 0 && up.stdout.contains("already so"), "{up:?}");
    victim.bring_to(Whole::Nic).unwrap();
    // One that is cut short is led back, too.
    victim.bring_to(Whole::Bridge).unwrap();
    value["progress"] = "changing".into();
    fs::write(&path, value.to_string()).unwrap();
    victim.vmbr(&["recover"], &[0]).unwrap();
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

#[test]
fn a_record_that_is_no_file() {
    let (victim, path, text) = bridged("no-file");
    let elsewhere = victim.host.records().join("elsewhere");
    fs::write(&elsewhere, &text).unwrap();
    clear(&path);
    symlink(&elsewhere, &path).unwrap();
    never_acted_on(&victim, &path, "a symbolic link");
    clear(&path);
    symlink("/dev/zero", &path).unwrap();
    never_acted_on(&victim, &path, "a symbolic link to a device");
    clear(&path);
    fs::create_dir(&path).unwrap();
    never_acted_on(&victim, &path, "a directory");
    clear(&path);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    never_acted_on(&victim, &path, "a FIFO");
    clear(&path);
    fs::write(&path, &text).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}

#[test]
fn a_record_that_others_can_write() {
    let (victim, path, text) = bridged("others");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    never_acted_on(&victim, &path, "mode 666");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&path, Some(4711), None).unwrap();
    never_acted_on(&victim, &path, "another owner");
    clear(&path);
    fs::write(&path, &text).unwrap();
    victim.bring_to(Whole::Nic).unwrap();
}
