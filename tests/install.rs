//! scripts/install on real trees: what it puts there, twice, and removes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vmbr-install-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every path below `top`: its mode, inode and content.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            if about.is_dir() {
                left.push(path.clone());
            }
            let name = path.strip_prefix(top).unwrap().to_owned();
            found.insert(name, (about.permissions().mode(), about.ino(), content));
        }
    }
    found
}

fn names(top: &Path) -> Vec<String> {
    tree(top)
        .into_keys()
        .map(|path| path.to_str().unwrap().to_owned())
        .collect()
}

/// scripts/install in a mount namespace whose /etc is `scratch`/etc, after
/// the shell commands of `prelude`.
fn install(scratch: &Scratch, prelude: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let etc = scratch.0.join("etc");
    if !etc.exists() {
        fs::create_dir(&etc).unwrap();
        for file in ["passwd", "group"] {
            fs::copy(Path::new("/etc").join(file), etc.join(file)).unwrap();
        }
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("set -e; mount --bind \"$1\" /etc; eval \"$2\"; shift 2; exec \"$@\"");
    command.arg("sh").arg(&etc).arg(prelude);
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install"))
        .args(arguments);
    command
        .env_remove("PREFIX")
        .env_remove("DESTDIR")
        .envs(variables.iter().copied());
    command.output().expect("running unshare")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ok(output: Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, words(&output));
    words(&output)
}

#[test]
fn a_prefix_gets_everything_once_and_loses_exactly_that() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::write(prefix.join("bin/other"), "not ours").unwrap();
    let variables = [("PREFIX", prefix.to_str().unwrap())];
    assert!(ok(install(&scratch, "", &variables, &["--uninstall"])).contains("nothing is installed"));
    let hooks = scratch.0.join("etc/NetworkManager/dispatcher.d");
    fs::create_dir_all(hooks.join("pre-up.d")).unwrap();
    let before = tree(&scratch.0);

    ok(install(&scratch, "", &variables, &[]));
    let installed = names(&prefix);
    for wanted in [
        "bin/vmbr",
        "libexec/vmbr-helper",
        "lib/systemd/network/80-vmbr-tap.link",
        "lib/udev/rules.d/90-vmbr.rules",
        "share/man/man1/vmbr.1",
        "share/man/man1/vmbr-up.1",
        "share/man/man5/vmbr-acl.conf.5",
        "lib/systemd/system/vmbr-helper.socket",
        "lib/systemd/system/vmbr-helper@.service",
        "share/bash-completion/completions/vmbr",
        "share/zsh/site-functions/_vmbr",
        "share/fish/vendor_completions.d/vmbr.fish",
    ] {
        assert!(
            installed.iter().any(|name| name == wanted),
            "{wanted} is not in {installed:#?}"
        );
    }
    let helper = prefix.join("libexec/vmbr-helper");
    let mode = fs::metadata(&helper).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "no setuid");
    let capability = Command::new("getcap").arg(&helper).output().unwrap();
    let capability = String::from_utf8_lossy(&capability.stdout).into_owned();
    assert!(capability.trim_end().ends_with("cap_net_admin=p"), "{capability}");
    let conf = fs::read_to_string(scratch.0.join("etc/qemu/bridge.conf")).unwrap();
    assert!(
        conf.lines().all(|line| line.is_empty() || line.starts_with('#')),
        "allows something: {conf}"
    );
    assert!(
        !scratch.0.join("etc/vmbr").exists(),
        "acl.conf would shadow bridge.conf"
    );
    let example = fs::read_to_string(prefix.join("share/doc/vmbr/qemu/network.cfg")).unwrap();
    assert!(example.contains(helper.to_str().unwrap()), "{example}");

    let unit = fs::read_to_string(prefix.join("lib/systemd/system/vmbr-helper@.service")).unwrap();
    assert!(
        unit.contains(&format!("ExecStart={} --socket\n", helper.display())),
        "{unit}"
    );

    let hook = fs::read_to_string(hooks.join("90-vmbr")).unwrap();
    let vmbr = prefix.join("bin/vmbr");
    assert!(hook.contains(&format!("exec {} sync", vmbr.display())), "{hook}");
    assert!(!scratch.0.join("etc/networkd-dispatcher").exists());
    // On a host without a bridge in that mode it is silent.
    let ran = Command::new(hooks.join("90-vmbr"))
        .args(["eth0", "up"])
        .output()
        .unwrap();
    assert!(
        ran.status.success() && ran.stdout.is_empty() && ran.stderr.is_empty(),
        "{ran:?}"
    );

    let once = tree(&scratch.0);
    assert!(ok(install(&scratch, "", &variables, &[])).contains("already installed"));
    let twice = tree(&scratch.0);
    let keep = |tree: &BTreeMap<PathBuf, (u32, u64, Vec<u8>)>| {
        let mut kept = tree.clone();
        kept.retain(|path, _| !path.ends_with("share/vmbr/manifest"));
        kept
    };
    assert!(keep(&once) == keep(&twice), "the second run replaced files");

    ok(install(&scratch, "", &variables, &["--uninstall"]));
    let after = tree(&scratch.0);
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    assert!(after == before);
}

#[test]
fn a_lost_capability_and_a_changed_file_are_mended() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let variables = [("PREFIX", prefix.to_str().unwrap())];
    ok(install(&scratch, "", &variables, &[]));
    let helper = prefix.join("libexec/vmbr-helper");
    // Writing to a file takes its capability away.
    fs::write(&helper, "something else").unwrap();
    ok(install(&scratch, "", &variables, &[]));
    let capability = Command::new("getcap").arg(&helper).output().unwrap();
    assert!(String::from_utf8_lossy(&capability.stdout).contains("cap_net_admin=p"));
}

#[test]
fn an_existing_bridge_conf_is_left_alone() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let variables = [("PREFIX", prefix.to_str().unwrap())];
    ok(install(&scratch, "", &variables, &[]));
    let conf = scratch.0.join("etc/qemu/bridge.conf");
    fs::write(&conf, "allow br0\n").unwrap();
    ok(install(&scratch, "", &variables, &[]));
    assert_eq!(fs::read_to_string(&conf).unwrap(), "allow br0\n");
    let said = ok(install(&scratch, "", &variables, &["--uninstall"]));
    assert!(said.contains("bridge.conf"), "{said}");
    assert_eq!(fs::read_to_string(&conf).unwrap(), "allow br0\n");
    assert!(!prefix.exists());

    // One that was there first is none of the installer's, changed or not.
    ok(install(&scratch, "", &variables, &[]));
    ok(install(&scratch, "", &variables, &["--uninstall"]));
    assert_eq!(fs::read_to_string(&conf).unwrap(), "allow br0\n");
}

#[test]
fn a_package_tree_needs_no_privilege_and_says_what_is_left_to_do() {
    let scratch = Scratch::new();
    let stage = scratch.0.join("stage");
    let stage_name = stage.to_str().unwrap();
    let variables = [("DESTDIR", stage_name), ("PREFIX", "/usr")];
    let said = ok(install(&scratch, "", &variables, &[]));
    assert!(
        said.contains("setcap cap_net_admin=p /usr/libexec/vmbr-helper"),
        "{said}"
    );
    let installed = names(&stage);
    for wanted in [
        "usr/bin/vmbr",
        "usr/libexec/vmbr-helper",
        "usr/lib/NetworkManager/dispatcher.d/90-vmbr",
        "usr/lib/NetworkManager/dispatcher.d/pre-up.d/90-vmbr",
        "etc/qemu/bridge.conf",
    ] {
        assert!(
            installed.iter().any(|name| name == wanted),
            "{wanted} is not in {installed:#?}"
        );
    }
    let helper = fs::read(stage.join("usr/libexec/vmbr-helper")).unwrap();
    let about = fs::metadata(stage.join("usr/libexec/vmbr-helper")).unwrap();
    assert_eq!(about.uid(), 0);
    assert!(!helper.is_empty());
    assert!(
        !scratch.0.join("etc/qemu").exists(),
        "the machine's own /etc was touched"
    );
    ok(install(&scratch, "", &variables, &["--uninstall"]));
    assert!(!stage.exists() || names(&stage).is_empty(), "{:?}", names(&stage));
}

#[test]
fn a_nosuid_mount_is_refused_before_anything_is_installed() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    fs::create_dir(&prefix).unwrap();
    let prefix = prefix.to_str().unwrap();
    let prelude = format!("mount -t tmpfs -o nosuid none {prefix}; trap 'ls -A {prefix} >&2' EXIT");
    let refused = install(&scratch, &prelude, &[("PREFIX", prefix)], &[]);
    assert_eq!(refused.status.code(), Some(3), "{}", words(&refused));
    assert!(words(&refused).contains("nosuid"), "{}", words(&refused));
    assert!(!scratch.0.join("etc/qemu").exists());
}

#[test]
fn without_setfcap_the_helper_is_said_to_be_useless() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let variables = [("PREFIX", prefix.to_str().unwrap())];
    let prelude = "shift 2; set -- - - setpriv --bounding-set=-setfcap \"$@\"";
    let ended = install(&scratch, prelude, &variables, &[]);
    assert_eq!(ended.status.code(), Some(4), "{}", words(&ended));
    assert!(
        words(&ended).contains("setcap cap_net_admin=p"),
        "{}",
        words(&ended)
    );
}

#[test]
fn a_missing_tun_device_is_told_with_its_remedy() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let prelude = "mount -t tmpfs none /dev/net";
    let said = ok(install(
        &scratch,
        prelude,
        &[("PREFIX", prefix.to_str().unwrap())],
        &[],
    ));
    assert!(said.contains("modprobe tun"), "{said}");
}

#[test]
fn bad_usage_is_told() {
    let scratch = Scratch::new();
    assert_eq!(install(&scratch, "", &[], &["--sideways"]).status.code(), Some(2));
    assert_eq!(
        install(&scratch, "", &[("PREFIX", "usr")], &[]).status.code(),
        Some(2)
    );
}

/// Where QEMU's own helper and dpkg's database are the test's.
const DEBIAN: &str = "
    mkdir -p \"$SCRATCH\"/qemu \"$SCRATCH\"/dpkg/info \"$SCRATCH\"/dpkg/updates; touch \"$SCRATCH\"/dpkg/status
    mount --bind \"$SCRATCH\"/dpkg /var/lib/dpkg; mount --bind \"$SCRATCH\"/qemu /usr/lib/qemu";

#[test]
fn qemus_own_helper_makes_room_and_comes_back() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let variables = [
        ("PREFIX", prefix.to_str().unwrap()),
        ("SCRATCH", scratch.0.to_str().unwrap()),
    ];
    let theirs = scratch.0.join("qemu/qemu-bridge-helper");
    let aside = scratch.0.join("qemu/qemu-bridge-helper.qemu");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "QEMU's own").unwrap();
    let before = fs::metadata(&theirs).unwrap().ino();
    let diversions = || fs::read_to_string(scratch.0.join("dpkg/diversions")).unwrap_or_default();
    let run = |arguments: &[&str]| ok(install(&scratch, DEBIAN, &variables, arguments));
    let is_vmbrs = || {
        let capability = Command::new("getcap").arg(&theirs).output().unwrap();
        let capable = String::from_utf8_lossy(&capability.stdout).contains("cap_net_admin=p");
        capable && fs::read(&theirs).unwrap() == fs::read(prefix.join("libexec/vmbr-helper")).unwrap()
    };
    let is_qemus = || {
        assert!(!aside.exists(), "{:?}", names(&scratch.0.join("qemu")));
        assert_eq!(diversions(), "");
        fs::metadata(&theirs).unwrap().ino() == before
    };

    run(&["--divert"]);
    assert!(is_vmbrs());
    assert_eq!(fs::read(&aside).unwrap(), b"QEMU's own");
    assert!(
        diversions().contains("/usr/lib/qemu/qemu-bridge-helper.qemu\n:"),
        "{}",
        diversions()
    );
    // It stays, without being asked for again, and is mended.
    assert!(run(&[]).contains("already installed"));
    fs::write(&theirs, "something else").unwrap();
    run(&[]);
    assert!(is_vmbrs());
    // QEMU's package is updated: dpkg puts the new one aside.
    let said = ok(install(
        &scratch,
        &format!(
            "{DEBIAN}; test \"$(dpkg-divert --truename /usr/lib/qemu/qemu-bridge-helper)\" = /usr/lib/qemu/qemu-bridge-helper.qemu"
        ),
        &variables,
        &["--no-divert"],
    ));
    assert!(is_qemus(), "{said}");

    run(&["--divert"]);
    run(&["--uninstall"]);
    assert!(is_qemus());
    assert!(!prefix.exists(), "{:?}", names(&prefix));

    // One without its capability does not take the place of one that works,
    // nor does one on a file system where it would have none.
    let prelude = format!("{DEBIAN}; shift 2; set -- - - setpriv --bounding-set=-setfcap \"$@\"");
    let ended = install(&scratch, &prelude, &variables, &["--divert"]);
    assert_eq!(ended.status.code(), Some(4), "{}", words(&ended));
    assert!(is_qemus());
    run(&["--uninstall"]);
    let prelude = format!("{DEBIAN}; mount -o remount,bind,nosuid /usr/lib/qemu");
    let ended = install(&scratch, &prelude, &variables, &["--divert"]);
    assert!(words(&ended).contains("nosuid"), "{}", words(&ended));
    assert_eq!(ended.status.code(), Some(3));
    assert!(is_qemus() && !prefix.exists());

    // What somebody put there since is his.
    run(&["--divert"]);
    fs::write(&theirs, "something else").unwrap();
    assert!(run(&["--uninstall"]).contains("was changed"));
    assert_eq!(fs::read(&theirs).unwrap(), b"something else");
    assert_eq!(fs::read(&aside).unwrap(), b"QEMU's own");
}

#[test]
fn a_diversion_of_somebody_elses_is_refused() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let variables = [
        ("PREFIX", prefix.to_str().unwrap()),
        ("SCRATCH", scratch.0.to_str().unwrap()),
    ];
    for (how, said) in [
        ("--local --divert /usr/lib/qemu/elsewhere", "already"),
        ("--package other", "the package other"),
    ] {
        let helper = "/usr/lib/qemu/qemu-bridge-helper";
        let prelude = format!("{DEBIAN}; dpkg-divert --quiet --no-rename {how} --add {helper}");
        let refused = install(&scratch, &prelude, &variables, &["--divert"]);
        assert_eq!(refused.status.code(), Some(3), "{}", words(&refused));
        assert!(words(&refused).contains(said), "{}", words(&refused));
        assert!(!prefix.exists(), "something was installed");
        fs::remove_file(scratch.0.join("dpkg/diversions")).unwrap();
    }
    let usage = install(&scratch, "", &[("DESTDIR", "/nowhere")], &["--divert"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn libvirts_hooks_stand_beside_others() {
    let scratch = Scratch::new();
    let prefix = scratch.0.join("usr");
    let variables = [("PREFIX", prefix.to_str().unwrap())];
    ok(install(&scratch, "", &variables, &[]));
    assert!(!scratch.0.join("etc/libvirt").exists(), "only who asks gets them");
    let other = scratch.0.join("etc/libvirt/hooks/qemu");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::write(&other, "somebody's").unwrap();
    assert!(ok(install(&scratch, "", &variables, &["--libvirt"])).contains("reload libvirtd"));
    assert!(ok(install(&scratch, "", &variables, &[])).contains("already installed"));
    for kind in ["qemu", "network"] {
        let hook = scratch.0.join(format!("etc/libvirt/hooks/{kind}.d/vmbr"));
        let text = fs::read_to_string(&hook).unwrap();
        assert!(
            text.contains(&format!("exec {}/bin/vmbr hook", prefix.display())),
            "{text}"
        );
        assert_ne!(fs::metadata(&hook).unwrap().mode() & 0o111, 0, "it is executed");
    }
    // Without the program only what needs it fails: "reconnect" would kill a
    // guest.
    fs::remove_file(prefix.join("bin/vmbr")).unwrap();
    let hook = |kind: &str| scratch.0.join(format!("etc/libvirt/hooks/{kind}.d/vmbr"));
    for (kind, operation, suboperation, wanted) in [
        ("qemu", "reconnect", "begin", 0),
        ("qemu", "migrate", "begin", 0),
        ("qemu", "release", "begin", 0),
        ("network", "started", "begin", 0),
        ("network", "prepare", "begin", 0),
        ("qemu", "prepare", "begin", 127),
        ("qemu", "release", "end", 127),
        ("network", "start", "begin", 127),
    ] {
        let ended = Command::new(hook(kind))
            .args(["web", operation, suboperation, "-"])
            .output()
            .unwrap();
        assert_eq!(
            ended.status.code(),
            Some(wanted),
            "{kind} {operation} {suboperation}"
        );
        assert_eq!(ended.stdout, b"");
    }

    fs::write(hook("network"), "changed").unwrap();
    let said = ok(install(&scratch, "", &variables, &["--uninstall"]));
    assert!(said.contains("network.d/vmbr"), "{said}");
    assert_eq!(fs::metadata(hook("network")).unwrap().mode() & 0o111, 0);
    assert_eq!(
        names(&scratch.0.join("etc/libvirt")),
        ["hooks", "hooks/network.d", "hooks/network.d/vmbr", "hooks/qemu"]
    );
    assert_eq!(fs::read(&other).unwrap(), b"somebody's");
}
