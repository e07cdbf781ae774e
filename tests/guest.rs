//! The main job with a real QEMU and a real guest: the host's NIC goes on a
//! bridge, a guest joins as an ordinary user, everyone reaches everyone, and
//! when the guest has ended the host is as it was.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/qemu.rs"]
mod qemu;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use common::stage::{CALLER, Call, HELPER, Stage, require};
use common::{Ended, Namespace, VethEnd, run, veth_pair, wait_until};
use host::{MAC, State, ping, script_in};
use qemu::{Console, QEMU, Qemu};

const GUEST_MAC: &str = "52:54:00:00:00:50";
const HOST: [&str; 2] = ["192.0.2.21", "2001:db8::21"];
const LAN: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const GUEST: [&str; 2] = ["192.0.2.50", "2001:db8::50"];

/// A host with `eth0` on a LAN, where helper and QEMU find an /etc of their own.
struct Lab {
    stage: Stage,
    lan: Namespace,
}

impl Lab {
    fn new() -> Self {
        let stage = Stage::without_bridge("guest");
        let lan = Namespace::new("lan");
        let near = VethEnd {
            namespace: &stage.ns,
            name: "eth0",
            mac: Some(MAC),
        };
        let far = VethEnd {
            namespace: &lan,
            name: "lan0",
            mac: None,
        };
        veth_pair(&near, &far);
        script_in(
            &lan,
            "ip addr add 192.0.2.1/24 dev lan0
             ip addr add 2001:db8::1/64 dev lan0 nodad
             ip link set lan0 up",
        );
        script_in(
            &stage.ns,
            "ip link set eth0 up
             ip addr add 192.0.2.21/24 brd + dev eth0
             ip addr add 2001:db8::21/64 dev eth0 nodad
             ip route add default via 192.0.2.1
             ip -6 route add default via 2001:db8::1",
        );
        let settled = wait_until(Duration::from_secs(10), || {
            let none_tentative = |ns: &Namespace| ns.ip(&["addr", "show", "tentative"]).is_empty();
            none_tentative(&stage.ns) && none_tentative(&lan)
        });
        assert!(settled, "{}", stage.ns.ip(&["addr"]));
        fs::create_dir(stage.path("records")).unwrap();
        Self { stage, lan }
    }

    fn vmbr(&self, args: &[&str]) -> Ended {
        let mut command = self.stage.ns.command(env!("CARGO_BIN_EXE_vmbr"));
        command.arg("--state-dir").arg(self.stage.path("records"));
        run(command.args(args).env_remove("SUDO_USER"))
    }

    /// `vmbr status --json` of br0.
    fn status(&self) -> Value {
        let text = self.vmbr(&["status", "br0", "--json"]).ok();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["bridges"].as_array().unwrap().len(), 1, "{document}");
        document["bridges"][0].clone()
    }

    fn host_and_lan_reach_each_other(&self) {
        for (mine, theirs) in HOST.iter().zip(LAN) {
            assert!(
                ping(&self.stage.ns, theirs),
                "the LAN does not answer at {theirs}"
            );
            assert!(ping(&self.lan, mine), "the host does not answer at {mine}");
        }
    }

    /// In all directions, after the guest has asked first.
    fn all_reach_each_other(&self, guest: &mut Console) {
        for to in LAN.iter().chain(&HOST) {
            guest.run(&format!("ping -c 2 -W 5 {to}"));
        }
        for to in GUEST {
            assert!(ping(&self.lan, to), "the guest does not answer the LAN at {to}");
            assert!(
                ping(&self.stage.ns, to),
                "the guest does not answer the host at {to}"
            );
        }
        self.host_and_lan_reach_each_other();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The lock's file is in /run/vmbr, by the name of the namespace.
        for entry in fs::read_dir(self.stage.path("records"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Some(name) = entry.file_name().to_str() {
                let _ = fs::remove_file(format!("/run/vmbr/{name}.lock"));
            }
        }
    }
}

/// Copies the guest's kernel and initrd to where QEMU's user can read them.
fn bring_guest(stage: &Stage) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Does nothing where the files are there already.
    run(&mut Command::new(root.join("scripts/lib/guest-image"))).ok();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    for file in ["vmlinuz", "initrd"] {
        let copy = stage.path(file);
        fs::copy(target.join("guest").join(file), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// Boots the guest on br0 as the stage's ordinary user. Always without KVM:
/// the stage has no /dev/kvm, and every machine can do that.
fn boot(stage: &Stage, console: &mut Console) -> Qemu {
    let path = |name: &str| stage.path(name).display().to_string();
    let serial = format!("unix:{}", console.path().display());
    let netdev = format!("tap,id=net0,br=br0,helper={}", path(HELPER));
    let device = format!("virtio-net-pci,netdev=net0,mac={GUEST_MAC},romfile=");
    let (kernel, initrd) = (path("vmlinuz"), path("initrd"));
    let append = "console=ttyS0 quiet vmbr.addr=192.0.2.50/24,2001:db8::50/64 vmbr.gw=192.0.2.1,2001:db8::1";
    #[rustfmt::skip]
    let arguments = [
        "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-display", "none", "-nodefaults", "-no-reboot",
        "-serial", &serial, "-kernel", &kernel, "-initrd", &initrd, "-append", append,
        "-netdev", &netdev, "-device", &device,
    ];
    let mut qemu = Qemu::start(stage, "qemu", Call::new(&arguments).program(QEMU));
    console.wait_ready(&mut qemu);
    qemu
}

/// A TAP with a MAC lower than the NIC's: a bridge left to itself would take it.
fn join_with_a_lower_mac(lab: &Lab, guest: &mut Console) {
    let ns = &lab.stage.ns;
    let mac = |name: &str| ns.link(name).unwrap()["address"].clone();
    let low = "02:00:00:00:00:01";
    assert!(low < MAC);
    // That the kernel does so is seen on a bridge beside.
    script_in(
        ns,
        &format!(
            "ip link add br9 type bridge
             ip tuntap add dev high9 mode tap
             ip link set high9 address 02:00:00:00:00:99 master br9
             ip tuntap add dev tap9 mode tap
             ip link set tap9 address {low} master br9"
        ),
    );
    assert_eq!(mac("br9"), low, "the kernel's own choice");
    ns.ip(&["link", "set", "tap9", "master", "br0", "up"]);
    assert_eq!(mac("tap9"), low);
    assert_eq!(mac("br0"), MAC, "br0 took the MAC of a TAP");
    lab.all_reach_each_other(guest);
    for name in ["tap9", "high9", "br9"] {
        ns.ip(&["link", "del", name]);
    }
    assert_eq!(mac("br0"), MAC);
}

#[test]
fn a_guest_joins_and_leaves() {
    require(QEMU, "qemu-system-x86");
    let lab = Lab::new();
    let stage = &lab.stage;
    bring_guest(stage);
    stage.bridge_conf("allow br0\n");
    lab.host_and_lan_reach_each_other();
    let before = State::of(&stage.ns);

    lab.vmbr(&["up", "eth0"]).ok();
    lab.host_and_lan_reach_each_other();
    before.assert_moved(&State::of(&stage.ns), "eth0", "br0");

    let mut guest = Console::new(stage);
    let qemu = boot(stage, &mut guest);
    assert_eq!(qemu.credentials(), (CALLER, 0), "user and capabilities of QEMU");
    let taps = stage.taps();
    let [tap] = taps.as_slice() else {
        panic!("one TAP, not {taps:?}");
    };
    assert_eq!(stage.ports(), ["eth0", tap.as_str()]);
    let addresses = guest.run("ip addr show dev eth0");
    for address in GUEST.iter().chain(&[GUEST_MAC]) {
        assert!(addresses.contains(address), "no {address} in {addresses}");
    }
    lab.all_reach_each_other(&mut guest);

    let status = lab.status();
    let port = |name: &str| {
        let mut ports = status["ports"].as_array().unwrap().iter();
        ports.find(|port| port["name"] == name).unwrap()
    };
    assert_eq!(
        (&status["managed"], &status["uplink"]),
        (&json!(true), &json!("eth0"))
    );
    assert_eq!(port("eth0")["kind"], "uplink");
    let guests_port = port(tap);
    for (key, value) in [
        ("kind", json!("tap")),
        ("state", json!("forwarding")),
        ("owner", json!(CALLER)),
        ("isolated", json!(false)),
    ] {
        assert_eq!(guests_port[key], value, "{key} in {guests_port}");
    }
    let learned = guests_port["guests"].as_array().unwrap();
    let [one] = learned.as_slice() else {
        panic!("one guest, not {guests_port}");
    };
    assert_eq!(one["mac"], GUEST_MAC);
    for address in GUEST {
        let known = one["addresses"].as_array().unwrap();
        assert!(known.contains(&json!(address)), "no {address} in {one}");
    }
    for direction in ["sent_bytes", "received_bytes"] {
        assert!(
            guests_port["traffic"][direction].as_u64().unwrap() > 0,
            "{guests_port}"
        );
    }

    join_with_a_lower_mac(&lab, &mut guest);

    let refused = lab.vmbr(&["down", "br0"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains(tap.as_str()), "{refused:?}");
    lab.all_reach_each_other(&mut guest);

    guest.power_off();
    qemu.wait();
    stage.assert_no_tap();
    assert_eq!(stage.ports(), ["eth0"]);
    lab.vmbr(&["down", "br0"]).ok();
    let after = State::of(&stage.ns);
    lab.host_and_lan_reach_each_other();
    before.assert_same(&after);
}

#[test]
#[ignore = "boots a guest with four processors in software emulation"]
fn a_guest_with_four_queues_sees_four() {
    require(QEMU, "qemu-system-x86");
    let stage = Stage::new("queues");
    bring_guest(&stage);
    let vmbr = stage.path("vmbr");
    fs::copy(env!("CARGO_BIN_EXE_vmbr"), &vmbr).unwrap();
    fs::set_permissions(&vmbr, fs::Permissions::from_mode(0o755)).unwrap();
    stage.acl_conf(&format!("allow br0 user={CALLER} queues=4 mac={GUEST_MAC}\n"));
    stage.ns.ip(&["addr", "add", "192.0.2.21/24", "dev", "br0"]);
    let mut console = Console::new(&stage);
    let serial = format!("unix:{}", console.path().display());
    let path = |name: &str| stage.path(name).display().to_string();
    let device = format!("virtio-net-pci,netdev=net0,mq=on,vectors=10,mac={GUEST_MAC},romfile=");
    let append = "console=ttyS0 quiet vmbr.addr=192.0.2.50/24";
    #[rustfmt::skip]
    let arguments = [
        "run", "--queues", "4", "--", QEMU, "-sandbox", "on,spawn=deny",
        "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "4", "-m", "256", "-display", "none", "-nodefaults",
        "-no-reboot", "-serial", &serial, "-kernel", &path("vmlinuz"), "-initrd", &path("initrd"), "-append", append,
        "-netdev", "tap,id=net0,fds={fds}", "-device", &device,
    ];
    let mut qemu = Qemu::start(&stage, "qemu", Call::new(&arguments).program("vmbr"));
    console.wait_ready(&mut qemu);
    for direction in ["rx", "tx"] {
        let queues = console.run(&format!("ls -d /sys/class/net/eth0/queues/{direction}-*"));
        assert_eq!(queues.split_whitespace().count(), 4, "{queues}");
    }
    let data = &stage.ns.link("tap0").unwrap()["linkinfo"]["info_data"];
    assert_eq!(
        (&data["numqueues"], &data["numdisabled"]),
        (&json!(4), &json!(0)),
        "{data}"
    );
    console.run("ping -c 2 -W 5 192.0.2.21");
    assert!(ping(&stage.ns, "192.0.2.50"));
    console.power_off();
    qemu.wait();
    stage.assert_no_tap();
}
