//! Uplinks that need more than veth: VLANs, bonds, a NIC with a VLAN on top,
//! dummies, VRFs, NICs with a driver of their own. A virtual machine with the distribution's kernel has them
//! where the kernel at hand may not, and shows that vmbr works on another
//! kernel too. One machine runs all cases (tests/vm/cases, tests/vm/nics) and reports; each
//! test here looks at the report of one case.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "vm/report.rs"]
mod report;
#[path = "vm/state.rs"]
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

use report::{Report, boot, succeed};
use state::State;

/// How long the machine may take; half of it is usual.
const LIMIT: Duration = Duration::from_secs(600);

static REPORT: LazyLock<Result<Report, String>> = LazyLock::new(|| {
    boot("uplinks", LIMIT, |root, target, initrd, qemu| {
        let guest = target.join("guest");
        succeed(&mut Command::new(root.join("scripts/lib/guest-image")))?;
        succeed(
            Command::new(root.join("tests/vm/initrd"))
                .arg(env!("CARGO_BIN_EXE_vmbr"))
                .args([&guest.join("root"), Path::new(initrd)]),
        )?;
        qemu.args("-smp 1 -m 512".split(' '))
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            // It says that it is another's, for doctor.
            .args(["-smbios", "type=1,manufacturer=VMware"])
            .args("-netdev hubport,id=a,hubid=0 -device e1000e,netdev=a,mac=02:00:00:00:00:71".split(' '))
            .args(
                "-netdev hubport,id=b,hubid=0 -device virtio-net-pci,netdev=b,mac=02:00:00:00:00:72"
                    .split(' '),
            );
        Ok(())
    })
});

fn report() -> &'static Report {
    REPORT.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// The network that a step showed.
fn state(case: &str, name: &str) -> State {
    let mut parts = BTreeMap::new();
    let mut settings = Vec::new();
    let mut part = "";
    for line in report().ended(case, name, 0).lines() {
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

/// Up, both ways reachable, all carried, down, exactly as before.
fn there_and_back(case: &str, uplink: &str) {
    let report = report();
    report.all_well(case, &["network", "before-out", "before-in"]);
    report.all_well(case, &["up", "bridged-out", "bridged-in"]);
    report.all_well(case, &["down", "after-out", "after-in"]);
    let before = state(case, "before");
    assert!(
        before.addresses(uplink).len() >= 6,
        "{:?}",
        before.addresses(uplink)
    );
    state(case, "bridged").assert_carries("br0", uplink, &before);
    state(case, "after").assert_same(&before);
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_nic_of_the_distributions_kernel() {
    there_and_back("plain", "eth0");
    assert!(report().ended("plain", "again", 0).contains("already so"));
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_vlan_is_an_uplink() {
    there_and_back("vlan", "eth0.100");
    let report = report();
    assert!(
        report
            .ended("vlan", "up", 0)
            .contains("uplink eth0.100: the default routes")
    );
    report.all_well("vlan", &["bridged-beneath"]);
    let bridged = state("vlan", "bridged");
    assert_eq!(bridged.link("br0")["mtu"], 1400);
    // The device beneath keeps its own network.
    assert_eq!(
        bridged.addresses("eth0"),
        state("vlan", "before").addresses("eth0")
    );
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
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
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_slave_of_a_bond_is_refused() {
    let report = report();
    let words = report.ended("bond", "slave", 3);
    assert!(
        words.contains("bond0") && words.contains("vmbr up bond0"),
        "{words}"
    );
    state("bond", "refused").assert_same(&state("bond", "before"));
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_vlan_on_top_of_the_uplink_keeps_working() {
    there_and_back("on-top", "eth0");
    let report = report();
    let before = state("on-top", "before");
    for moment in ["before", "bridged", "after"] {
        for way in ["vlan-out", "vlan-in"] {
            report.ended("on-top", &format!("{moment}-{way}"), 0);
        }
        let now = state("on-top", moment);
        assert_eq!(now.link("eth0.200"), before.link("eth0.200"), "{moment}");
        for part in ["route", "route6"] {
            let routes = now.of(part, "eth0.200", "eth0.200");
            assert!(routes.len() >= 3, "{routes:?}");
            assert_eq!(routes, before.of(part, "eth0.200", "eth0.200"), "{moment}");
        }
    }
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn an_uplink_without_an_address_is_fine() {
    let report = report();
    report.all_well("bare", &["up-down-one", "up-up-one", "down-one", "down-two"]);
    let (before, bridged) = (state("bare", "before"), state("bare", "bridged"));
    for (bridge, uplink) in [("br0", "dummy0"), ("br1", "dummy1")] {
        assert_eq!(before.addresses(uplink), [] as [Value; 0]);
        bridged.assert_carries(bridge, uplink, &before);
    }
    // Two bridges: which one is a person's choice.
    let words = report.ended("bare", "which", 3);
    assert!(words.contains("br0") && words.contains("br1"), "{words}");
    state("bare", "after").assert_same(&before);
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_vrf_and_its_ports_are_refused() {
    let report = report();
    for step in ["port", "vrf"] {
        let words = report.ended("vrf", step, 3);
        assert!(words.contains("vrf0"), "{words}");
    }
    state("vrf", "after").assert_same(&state("vrf", "before"));
}

/// How many questions of one family had no answer while a command ran: the
/// numbers of those that had none.
fn unanswered(case: &str, command: &str, family: u8) -> Vec<String> {
    let report = report();
    report.all_well(case, &[&format!("{command}-asking")]);
    let words = report.ended(case, &format!("{command}-flow-{family}"), 0);
    let lost: Vec<String> = words
        .lines()
        .filter_map(|line| line.strip_prefix("no answer to "))
        .map(str::to_owned)
        .collect();
    assert!(
        words.contains(&format!("lost {} of 600", lost.len())),
        "{case} {command}: {words}"
    );
    lost
}

/// There and back under flows of 40 questions a second and family (tests/vm/nics
/// says why no more). What it loses while nothing is done is asked
/// first, and what the script of `ip` commands loses last.
fn loses_at_most_one(case: &str, driver: &str) {
    there_and_back(case, "eth0");
    let used = report().ended(case, "driver", 0);
    assert!(used.trim_end().ends_with(driver), "{used}");
    let mut script = 0;
    for family in [4, 6] {
        let of = |command| unanswered(case, command, family);
        let (nothing, up, down) = (of("nothing"), of("up"), of("down"));
        let by_script = of("script");
        eprintln!("{case} IPv{family}: up lost {up:?}, down {down:?}, the script {by_script:?}");
        assert_eq!(nothing, [""; 0], "the machine itself loses packets");
        assert!(up.len() <= 1, "{case}: up lost {up:?} of IPv{family}");
        assert!(down.len() <= 1, "{case}: down lost {down:?} of IPv{family}");
        script += by_script.len();
    }
    assert!(script > 2, "{case}: the script loses no more: {script}");
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn an_e1000e_loses_at_most_one_packet() {
    loses_at_most_one("e1000e", "e1000e");
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_virtio_nic_loses_at_most_one_packet() {
    loses_at_most_one("virtio_net", "virtio_net");
}

#[test]
#[ignore = "boots a virtual machine: four minutes of software emulation; scripts/test --all runs it"]
fn a_hypervisor_that_filters_is_known_by_its_name_and_its_nic() {
    let word = "accept promiscuous mode";
    let said = |case, step| report().step(case, step).output.as_str();
    assert!(
        said("e1000e", "doctor").contains(word),
        "{}",
        said("e1000e", "doctor")
    );
    let warning = "behind eth0 (driver e1000e) is VMware";
    assert!(said("e1000e", "up").contains(warning), "{}", said("e1000e", "up"));
    // VMware gives its guests no virtio.
    let virtio = said("virtio_net", "doctor");
    assert!(
        !virtio.contains(word) && virtio.contains("vmbr-helper"),
        "{virtio}"
    );
}
