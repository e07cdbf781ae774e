//! Uplinks that need more than veth: VLANs, bonds, a NIC with a VLAN on top,
//! dummies, VRFs. A virtual machine with the distribution's kernel has them
//! where the kernel at hand may not, and shows that vmbr works on another
//! kernel too. One machine runs all cases (tests/vm/cases) and reports; each
//! test here looks at the report of one case.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long the machine may take; a third is usual.
const LIMIT: Duration = Duration::from_secs(360);

static REPORT: LazyLock<Result<Report, String>> = LazyLock::new(Report::make);

/// What the machine reported.
struct Report {
    steps: BTreeMap<(String, String), Step>,
}

/// One step of a case.
struct Step {
    status: i32,
    output: String,
}

/// A network, by parts (`show_state` in tests/vm/init).
#[derive(Debug, PartialEq)]
struct State {
    parts: BTreeMap<String, Value>,
    settings: Vec<String>,
}

impl Report {
    fn make() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let work = target.join(format!("vm-uplinks-{}", std::process::id()));
        fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
        let made = Self::of_machine(root, &target.join("guest"), &work);
        let _ = fs::remove_dir_all(&work);
        made
    }

    fn of_machine(root: &Path, guest: &Path, work: &Path) -> Result<Self, String> {
        let initrd = work.join("initrd");
        succeed(&mut Command::new(root.join("scripts/lib/guest-image")))?;
        succeed(
            Command::new(root.join("tests/vm/initrd"))
                .arg(env!("CARGO_BIN_EXE_vmbr"))
                .args([&guest.join("root"), &initrd]),
        )?;
        let (console, report) = (work.join("console"), work.join("report"));
        // Software emulation even where there is a /dev/kvm: it opens on
        // machines whose guests then hang.
        let mut qemu = Command::new("qemu-system-x86_64")
            .args("-M q35 -accel tcg -cpu max -smp 1 -m 512 -display none -nodefaults -no-reboot".split(' '))
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-kernel")
            .arg(guest.join("vmlinuz"))
            .arg("-initrd")
            .arg(&initrd)
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("file:{}", report.display())])
            .stdin(Stdio::null())
            .stderr(File::create(work.join("qemu")).unwrap())
            .spawn()
            .map_err(|e| format!("qemu-system-x86_64: {e} (apt-get install qemu-system-x86)"))?;
        let end = Instant::now() + LIMIT;
        let mut over = false;
        while !over && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            over = qemu.try_wait().unwrap().is_some();
        }
        if !over {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let text = read(&report);
        // A failure that no step reports is said here; it shows when a test fails.
        eprint!("{}", read(&console));
        if over && text.lines().any(|line| line == "@over") {
            return Ok(Self::parse(&text));
        }
        let last = text
            .lines()
            .rfind(|line| line.starts_with('@'))
            .unwrap_or("nothing");
        Err(format!(
            "the machine {}, its last report is {last:?}; QEMU: {}\nits console:\n{}",
            if over { "ended early" } else { "took too long" },
            read(&work.join("qemu")),
            read(&console)
        ))
    }

    fn parse(text: &str) -> Self {
        let mut steps = BTreeMap::new();
        let mut output = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["@begin", ..] => output.clear(),
                ["@end", case, name, status, _] => {
                    let step = Step {
                        status: status.parse().unwrap(),
                        output: std::mem::take(&mut output),
                    };
                    let twice = steps.insert(((*case).to_owned(), (*name).to_owned()), step);
                    assert!(twice.is_none(), "two steps {case} {name}");
                }
                _ => {
                    output.push_str(line);
                    output.push('\n');
                }
            }
        }
        Self { steps }
    }

    fn step(&self, case: &str, name: &str) -> &Step {
        let key = (case.to_owned(), name.to_owned());
        self.steps
            .get(&key)
            .unwrap_or_else(|| panic!("{case}: no step {name}"))
    }

    /// Asserts the exit status of a step, and gives its words.
    fn ended(&self, case: &str, name: &str, status: i32) -> &str {
        let step = self.step(case, name);
        assert_eq!(step.status, status, "{case} {name}: {}", step.output);
        &step.output
    }

    /// Asserts that each of the steps succeeded.
    fn all_well(&self, case: &str, names: &[&str]) {
        for name in names {
            self.ended(case, name, 0);
        }
    }

    fn state(&self, case: &str, name: &str) -> State {
        let mut parts = BTreeMap::new();
        let mut settings = Vec::new();
        let mut part = "";
        for line in self.ended(case, name, 0).lines() {
            if let Some(name) = line.strip_prefix('=') {
                part = name;
                if part != "settings" {
                    parts.insert(part.to_owned(), Value::Array(Vec::new()));
                }
            } else if part == "settings" {
                settings.push(line.to_owned());
            } else if !line.is_empty() {
                let value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
                parts.insert(part.to_owned(), value);
            }
        }
        settings.retain(|line| !line.is_empty());
        assert!(parts.len() == 6 && settings.len() > 50, "{parts:?} {settings:?}");
        State { parts, settings }
    }
}

impl State {
    fn list(&self, part: &str) -> &[Value] {
        self.parts[part].as_array().unwrap()
    }

    fn link(&self, name: &str) -> &Value {
        let is = |link: &&Value| link["ifname"] == name;
        self.list("addr")
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("no device {name}"))
    }

    fn addresses(&self, name: &str) -> Vec<Value> {
        let mut all = self.link(name)["addr_info"].as_array().unwrap().clone();
        all.iter_mut().for_each(no_time);
        all
    }

    /// What of a part names the device, as if it named `called`. The kernel
    /// gives every device that is up its multicast route.
    fn of(&self, part: &str, device: &str, called: &str) -> Vec<String> {
        let names = |entry: &&Value| {
            ["dev", "iif"].iter().any(|key| entry[*key] == device) && entry["type"] != "multicast"
        };
        let renamed = |entry: &Value| {
            let mut entry = entry.clone();
            for key in ["dev", "iif"] {
                if entry[key] == device {
                    entry[key] = called.into();
                }
            }
            no_time(&mut entry);
            entry.to_string()
        };
        let mut all: Vec<String> = self.list(part).iter().filter(names).map(renamed).collect();
        all.sort();
        all
    }

    /// Asserts that `self` is exactly what `before` was.
    fn assert_same(&self, before: &Self) {
        for (part, value) in &before.parts {
            let (mut was, mut is) = (value.clone(), self.parts[part].clone());
            for list in [&mut was, &mut is] {
                for entry in list.as_array_mut().unwrap() {
                    let addresses = entry.get_mut("addr_info").and_then(Value::as_array_mut);
                    addresses.into_iter().flatten().for_each(no_time);
                    no_time(entry);
                    no_history(entry);
                }
            }
            match part.as_str() {
                "addr" => never_up(&was, &mut is),
                "route6" => [&mut was, &mut is].into_iter().for_each(by_kernel_last),
                _ => {}
            }
            assert_eq!(is, was, "{part} is not as it was");
        }
        let gone: Vec<_> = before
            .settings
            .iter()
            .filter(|s| !self.settings.contains(s))
            .collect();
        let new: Vec<_> = self
            .settings
            .iter()
            .filter(|s| !before.settings.contains(s))
            .collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "settings: {gone:?} became {new:?}"
        );
    }

    /// Asserts that `bridge` carries what `uplink` carried in `before`.
    fn assert_carries(&self, bridge: &str, uplink: &str, before: &Self) {
        let (old, port, new) = (before.link(uplink), self.link(uplink), self.link(bridge));
        assert_eq!(new["linkinfo"]["info_kind"], "bridge");
        assert_eq!(port["master"], bridge);
        for key in ["address", "mtu"] {
            assert_eq!(new[key], old[key], "{key}");
            assert_eq!(port[key], old[key], "{key} of the port");
        }
        assert_eq!(self.addresses(uplink), [] as [Value; 0]);
        let called = |mut address: Value| {
            // A label begins with the name of its device.
            if let Some(label) = address["label"].as_str() {
                address["label"] = label.replacen(uplink, bridge, 1).into();
            }
            address
        };
        let expected: Vec<Value> = before.addresses(uplink).into_iter().map(called).collect();
        assert_eq!(self.addresses(bridge), expected, "addresses");
        for part in ["route", "route6", "rule", "neighbours"] {
            assert_eq!(
                self.of(part, bridge, bridge),
                before.of(part, uplink, bridge),
                "{part}"
            );
            assert!(self.of(part, uplink, uplink).is_empty(), "{part} of the port");
        }
    }
}

/// Takes away what passes by itself: the time that is left. Whether an end
/// was set at all stays.
fn no_time(entry: &mut Value) {
    for key in ["valid_life_time", "preferred_life_time", "expires"] {
        if entry[key].as_u64().is_some_and(|left| left < 4_294_967_295) {
            entry[key] = "some".into();
        }
    }
    // Indexing makes a missing key: take those away again.
    if let Some(map) = entry.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
}

/// Takes away what a bond counts: a test that cuts a cable is counted.
fn no_history(link: &mut Value) {
    let slave = link.pointer_mut("/linkinfo/info_slave_data");
    if let Some(counters) = slave.and_then(Value::as_object_mut) {
        counters.remove("link_failure_count");
    }
}

/// A device that was never up has no queueing discipline yet; from its first
/// time on it keeps one (`dev_activate()`, net/sched/sch_generic.c).
fn never_up(was: &Value, is: &mut Value) {
    for link in is.as_array_mut().unwrap() {
        let same = |old: &&Value| old["ifindex"] == link["ifindex"];
        let old = was.as_array().unwrap().iter().find(same);
        if old.is_some_and(|old| old["qdisc"] == "noop") {
            link["qdisc"] = "noop".into();
        }
    }
}

/// Puts the kernel's own routes of the table `local` last, sorted: they say
/// which addresses are the host's, and two devices' for one address may stand
/// in either order. No program can order them. All others keep their places.
fn by_kernel_last(routes: &mut Value) {
    let routes = routes.as_array_mut().unwrap();
    let of_kernel = |r: &Value| r["table"] == "local" && r["protocol"] == "kernel";
    routes.sort_by_cached_key(|r| {
        let own = of_kernel(r);
        (own, if own { r.to_string() } else { String::new() })
    });
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn report() -> &'static Report {
    REPORT.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// Up, both ways reachable, all carried, down, exactly as before.
fn there_and_back(case: &str, uplink: &str) {
    let report = report();
    report.all_well(case, &["network", "before-out", "before-in"]);
    report.all_well(case, &["up", "bridged-out", "bridged-in"]);
    report.all_well(case, &["down", "after-out", "after-in"]);
    let before = report.state(case, "before");
    assert!(
        before.addresses(uplink).len() >= 6,
        "{:?}",
        before.addresses(uplink)
    );
    report
        .state(case, "bridged")
        .assert_carries("br0", uplink, &before);
    report.state(case, "after").assert_same(&before);
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn a_nic_of_the_distributions_kernel() {
    there_and_back("plain", "eth0");
    assert!(report().ended("plain", "again", 0).contains("already so"));
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn a_vlan_is_an_uplink() {
    there_and_back("vlan", "eth0.100");
    let report = report();
    assert!(
        report
            .ended("vlan", "up", 0)
            .contains("uplink eth0.100: the default routes")
    );
    report.all_well("vlan", &["bridged-beneath"]);
    let bridged = report.state("vlan", "bridged");
    assert_eq!(bridged.link("br0")["mtu"], 1400);
    // The device beneath keeps its own network.
    assert_eq!(
        bridged.addresses("eth0"),
        report.state("vlan", "before").addresses("eth0")
    );
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn a_bond_is_an_uplink_and_fails_over_as_a_port() {
    there_and_back("bond", "bond0");
    let moments = [
        "failover",
        "failover-out",
        "failover-in",
        "failback",
        "failback-out",
        "failback-in",
    ];
    report().all_well("bond", &moments);
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn a_slave_of_a_bond_is_refused() {
    let report = report();
    let words = report.ended("bond", "slave", 3);
    assert!(
        words.contains("bond0") && words.contains("vmbr up bond0"),
        "{words}"
    );
    report
        .state("bond", "refused")
        .assert_same(&report.state("bond", "before"));
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn a_vlan_on_top_of_the_uplink_keeps_working() {
    there_and_back("on-top", "eth0");
    let report = report();
    let before = report.state("on-top", "before");
    for moment in ["before", "bridged", "after"] {
        for way in ["vlan-out", "vlan-in"] {
            report.ended("on-top", &format!("{moment}-{way}"), 0);
        }
        let now = report.state("on-top", moment);
        assert_eq!(now.link("eth0.200"), before.link("eth0.200"), "{moment}");
        for part in ["route", "route6"] {
            let routes = now.of(part, "eth0.200", "eth0.200");
            assert!(routes.len() >= 3, "{routes:?}");
            assert_eq!(routes, before.of(part, "eth0.200", "eth0.200"), "{moment}");
        }
    }
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn an_uplink_without_an_address_is_fine() {
    let report = report();
    report.all_well("bare", &["up-down-one", "up-up-one", "down-one", "down-two"]);
    let (before, bridged) = (report.state("bare", "before"), report.state("bare", "bridged"));
    for (bridge, uplink) in [("br0", "dummy0"), ("br1", "dummy1")] {
        assert_eq!(before.addresses(uplink), [] as [Value; 0]);
        bridged.assert_carries(bridge, uplink, &before);
    }
    // Two bridges: which one is a person's choice.
    let words = report.ended("bare", "which", 3);
    assert!(words.contains("br0") && words.contains("br1"), "{words}");
    report.state("bare", "after").assert_same(&before);
}

#[test]
#[ignore = "boots a virtual machine: two minutes of software emulation; scripts/test --all runs it"]
fn a_vrf_and_its_ports_are_refused() {
    let report = report();
    for step in ["port", "vrf"] {
        let words = report.ended("vrf", step, 3);
        assert!(words.contains("vrf0"), "{words}");
    }
    report
        .state("vrf", "after")
        .assert_same(&report.state("vrf", "before"));
}
