//! A real systemd-udevd, and files of the host's that name a MAC for what is
//! made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/udev.rs"]
mod udev;

use std::fs;
use std::time::Duration;

use common::{Ended, run, wait_until};
use host::{Host, MAC};
use udev::Udev;

const STATIC: &str =
    "ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0; ip route add default via 192.0.2.1";
const OTHER: &str = "02:00:00:00:00:99";

fn vmbr(udev: &Udev, host: &Host, args: &[&str]) -> Ended {
    let mut command = udev.command(env!("CARGO_BIN_EXE_vmbr"));
    command
        .env_remove("SUDO_USER")
        .arg("--state-dir")
        .arg(host.records());
    run(command.args(args))
}

fn sh(udev: &Udev, script: &str) -> String {
    run(udev.command("sh").args(["-ec", script])).ok()
}

fn mac_of(host: &Host, dev: &str) -> String {
    host.ns.link(dev).unwrap()["address"].as_str().unwrap().to_owned()
}

/// What the host's files make of any bridge is not made of vmbr's, and of it
/// nothing stays, on any way back.
#[test]
fn udevd_leaves_the_bridges_mac_alone_while_it_is_there() {
    let host = Host::new("udev-link", STATIC);
    let udev = Udev::start(&host.ns);
    let file = format!("[Match]\\nOriginalName=br*\\n[Link]\\nMACAddress={OTHER}\\n");
    sh(
        &udev,
        &format!(
            "mkdir -p /run/systemd/network; printf '{file}' >/run/systemd/network/10-bridges.link; udevadm control --reload"
        ),
    );
    host.sh("ip link add br7 type bridge");
    udev.settle();
    assert_eq!(
        mac_of(&host, "br7"),
        OTHER,
        "the file is not obeyed:\n{}",
        udev.log()
    );
    host.sh("ip link del br7");

    let files = "ls /run/systemd/network";
    let dry = vmbr(&udev, &host, &["up", "eth0", "--dry-run"]).ok();
    assert!(
        dry.contains("'OriginalName=br0' '[Link]' 'MACAddressPolicy=none'"),
        "{dry}"
    );
    assert_eq!(sh(&udev, files), "10-bridges.link\n");
    vmbr(&udev, &host, &["up", "eth0"]).ok();
    udev.settle();
    assert!(udev.log().contains("br0: Device processed"), "{}", udev.log());
    assert_eq!(mac_of(&host, "br0"), MAC);
    assert_eq!(sh(&udev, files), "00-vmbr-br0.link\n10-bridges.link\n");
    let dry = vmbr(&udev, &host, &["down", "--dry-run"]).ok();
    assert!(
        dry.contains("rm -f '/run/systemd/network/00-vmbr-br0.link'"),
        "{dry}"
    );
    vmbr(&udev, &host, &["down"]).ok();
    assert_eq!(sh(&udev, files), "10-bridges.link\n");

    // Unverified, it goes back: the gateway is silent.
    host.lan.ip(&["link", "set", "lan0", "arp", "off"]);
    host.sh("ip neigh replace 192.0.2.1 dev eth0 lladdr 02:00:00:00:00:01 nud reachable");
    let waiting = vmbr(&udev, &host, &["up", "eth0", "--confirm=1", "--no-verify"]);
    assert_ne!(waiting.code(), 0, "nobody has confirmed it: {waiting:?}");
    assert!(host.ns.link("br0").is_none());
    assert_eq!(sh(&udev, files), "10-bridges.link\n");
}

/// The TAP that the helper makes has a MAC of the kernel's, which udev would
/// replace by one made of the TAP's name.
#[test]
fn udevd_leaves_a_taps_mac_alone() {
    let installed = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install")).unwrap();
    let text = installed.split_once("<<'END'\n").unwrap().1;
    let text = text.split_once("\nEND\n").unwrap().0;
    let host = Host::new("udev-tap", "ip link set eth0 up");
    let udev = Udev::start(&host.ns);
    // The distribution's, which is for every device.
    sh(&udev, "test -e /usr/lib/systemd/network/99-default.link");
    let is_replaced = |name: &str| {
        host.sh(&format!("ip tuntap add dev {name} mode tap"));
        let done = || udev.log().contains(&format!("{name}: Device processed"));
        assert!(wait_until(Duration::from_secs(10), done), "{}", udev.log());
        udev.log()
            .contains(&format!("{name}: Applying persistent MAC address"))
    };
    assert!(
        is_replaced("tap0"),
        "udev leaves every MAC as it is:\n{}",
        udev.log()
    );
    let write = format!(
        "mkdir -p /run/systemd/network; cat >/run/systemd/network/80-vmbr-tap.link <<'END'\n{text}\nEND\nudevadm control --reload"
    );
    sh(&udev, &write);
    assert!(!is_replaced("tap1"), "{}", udev.log());
    // Others' devices are none of its business.
    assert!(is_replaced("vnet0"), "{}", udev.log());
}
