//! Every file of qemu/ is used as it says: the scripts and the configuration
//! by a real QEMU, the ACLs by the helper.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/qemu.rs"]
mod qemu;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use common::stage::{CALLER, Call, HELPER, Stage, require};
use qemu::{QEMU, Qemu};

/// Without a picture, without a disk to boot from, without a boot ROM.
const QUIET: [&str; 6] = ["-display", "none", "-nodefaults", "-m", "32", "-no-user-config"];

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A copy of an example where every user can read it.
fn bring(stage: &Stage, name: &str, mode: u32) -> String {
    let copy = stage.path(name);
    fs::write(&copy, example(name)).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
    copy.display().to_string()
}

/// Puts the helper where the examples look for it, in a /usr/local of its own.
fn installed(stage: &Stage, before: &str) -> String {
    format!(
        "mount -t tmpfs -o mode=755 local /usr/local; mkdir /usr/local/libexec
         cp -a {} /usr/local/libexec/; {before}",
        stage.path(HELPER).display()
    )
}

/// Asserts that QEMU runs as the ordinary user with one TAP, a port of
/// `bridge`, and gives the guest's MAC.
fn assert_joined(stage: &Stage, qemu: &mut Qemu, bridge: &str, isolated: bool) -> String {
    assert!(qemu.is_running(), "{}", qemu.said());
    assert_eq!(qemu.credentials(), (CALLER, 0), "user and capabilities of QEMU");
    let taps = stage.taps();
    let [tap] = taps.as_slice() else {
        panic!("one TAP, not {taps:?}: {}", qemu.said());
    };
    let link = stage.ns.link(tap).unwrap();
    assert_eq!(link["master"], bridge, "{link}");
    assert_eq!(
        link["linkinfo"]["info_slave_data"]["isolated"], isolated,
        "{link}"
    );
    let filter = qemu.ask("query-rx-filter", &json!({}));
    filter[0]["main-mac"].as_str().unwrap().to_owned()
}

#[test]
fn the_scripts_start_a_guest() {
    require(QEMU, "qemu-system-x86");
    let stage = Stage::new("scripts");
    stage.ns.ip(&["link", "add", "br7", "type", "bridge"]);
    stage.ns.ip(&["link", "set", "br7", "up"]);
    stage.bridge_conf("allow br0\nallow br7\n");
    let mut macs = Vec::new();
    for (name, isolated) in [("guest.sh", false), ("guest-isolated.sh", true)] {
        let script = bring(&stage, name, 0o755);
        for (run, settings, bridge) in [
            ("plain", "", "br0"),
            ("set", "export BRIDGE=br7 MAC=52:54:00:00:00:77", "br7"),
        ] {
            let prelude = installed(&stage, settings);
            let call = Call::new(&QUIET).program(&script).prelude(&prelude);
            let mut qemu = Qemu::start(&stage, &format!("{name}-{run}"), call);
            macs.push(assert_joined(&stage, &mut qemu, bridge, isolated));
            qemu.quit();
            stage.assert_no_tap();
        }
    }
    assert_eq!([&macs[1], &macs[3]], ["52:54:00:00:00:77"; 2]);
    assert!(
        macs[0].starts_with("52:54:00:") && macs[2].starts_with("52:54:00:"),
        "{macs:?}"
    );
    assert_ne!(macs[0], macs[2], "each guest gets a MAC of its own");
}

#[test]
fn a_script_takes_another_helper() {
    require(QEMU, "qemu-system-x86");
    let stage = Stage::new("helper");
    stage.bridge_conf("allow br0\n");
    let script = bring(&stage, "guest.sh", 0o755);
    let prelude = format!("export HELPER={}", stage.path(HELPER).display());
    let call = Call::new(&QUIET).program(&script).prelude(&prelude);
    let mut qemu = Qemu::start(&stage, "other", call);
    assert_joined(&stage, &mut qemu, "br0", false);
    qemu.quit();
    stage.assert_no_tap();
}

#[test]
fn the_configuration_makes_the_network_card() {
    require(QEMU, "qemu-system-x86");
    let stage = Stage::new("config");
    stage.bridge_conf("allow br0\n");
    let config = bring(&stage, "network.cfg", 0o644);
    let mut arguments = vec!["-accel", "tcg", "-readconfig", &config];
    arguments.extend(QUIET);
    let prelude = installed(&stage, "");
    let call = Call::new(&arguments).program(QEMU).prelude(&prelude);
    let mut qemu = Qemu::start(&stage, "config", call);
    let mac = assert_joined(&stage, &mut qemu, "br0", false);
    assert_eq!(mac, "52:54:00:12:34:56");
    qemu.quit();
    stage.assert_no_tap();
}

/// What the helper's log says when it denies `bridge`; it must deny it.
fn denied(stage: &Stage, bridge: &str) -> String {
    stage.logged();
    stage.call(&["--fd=3", &format!("--br={bridge}")]).refused(3);
    stage.logged().concat()
}

/// Removes `mark` from lines that begin with it.
fn switched_on(text: &str, mark: &str, which: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.strip_prefix(mark) {
        Some(rest) if which(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_start_for_qemus_acl_is_understood() {
    let stage = Stage::new("bridge-conf");
    let text = example("bridge.conf");
    let file = stage.bridge_conf(&text);
    let said = denied(&stage, "br0");
    // It allows nothing; that is not the same as one that cannot be read.
    assert!(said.contains("no line") || said.contains("not allowed"), "{said}");
    assert!(!said.contains(&format!("{}:", file.display())), "{said}");

    stage.bridge_conf(&switched_on(&text, "#", |rest| rest == "allow br0"));
    stage.call(&["--fd=3", "--br=br0"]).descriptors();

    stage.bridge_conf(&switched_on(&text, "#", |rest| rest.starts_with("include ")));
    stage.etc("qemu/br0-users.conf", "allow br0\n");
    stage.call(&["--fd=3", "--br=br0"]).descriptors();
}

#[test]
fn the_sample_of_vmbrs_acl_is_understood() {
    let stage = Stage::new("acl-conf");
    let text = example("acl.conf");
    // It is read in place of this one, and allows nothing as it is.
    stage.bridge_conf("allow br0\n");
    stage.acl_conf(&text);
    let said = denied(&stage, "br0");
    assert!(said.contains("no line") || said.contains("not allowed"), "{said}");

    let included = [
        ("vmbr/acl.d/servers.conf", "# nothing\n"),
        ("vmbr/acl.d/lab.conf", "# nothing\n"),
    ];
    for (name, text) in included {
        stage.etc(name, text);
    }
    stage.bridge_conf("# nothing\n");
    stage.acl_conf(&switched_on(&text, "#: ", |_| true));
    stage.call(&["--fd=3", "--br=br0"]).descriptors();
    stage.ns.ip(&["link", "add", "br-management", "type", "bridge"]);
    denied(&stage, "br-management");

    // Each line that allows something does so alone.
    for (line, file) in [
        ("allow br0", None),
        ("allow all", None),
        ("include acl.d/servers.conf", Some("vmbr/acl.d/servers.conf")),
        ("include-readable acl.d/lab.conf", Some("vmbr/acl.d/lab.conf")),
        ("include /etc/qemu/bridge.conf", Some("qemu/bridge.conf")),
    ] {
        let on = switched_on(&text, "#: ", |rest| {
            rest.split('#').next().unwrap().trim() == line
        });
        assert_ne!(on, text, "no line {line:?}");
        stage.acl_conf(&on);
        if let Some(file) = file {
            denied(&stage, "br0");
            stage.etc(file, "allow br0\n");
        }
        stage.call(&["--fd=3", "--br=br0"]).descriptors();
        if let Some(file) = file {
            stage.etc(file, "# nothing\n");
        }
    }
}

#[test]
fn every_file_is_tested_here_and_listed() {
    let mut names: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let tested = [
        "README.md",
        "acl.conf",
        "apparmor-libvirtd",
        "bridge.conf",
        "domain.xml",
        "guest-isolated.sh",
        "guest.sh",
        "libvirt-hook",
        "network.cfg",
        "network.xml",
    ];
    assert_eq!(names, tested);
    let list = example("README.md");
    for name in &tested[1..] {
        assert!(
            list.contains(&format!("| `{name}` |")),
            "{name} is not in the list"
        );
    }
}
