//! What QEMU and libvirt rely on, with the real kernel and an unprivileged
//! caller: the helper has its file capability and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::os::fd::AsFd;

use common::stage::{CALLER, Call, QEMU_HELPER, Stage, require};
use vmbr::sys::tap::{self, TapFeatures};

const ARGUMENTS: [&str; 3] = ["--use-vnet", "--fd=3", "--br=br0"];

#[test]
fn qemus_call_gets_a_working_tap_on_the_bridge() {
    let stage = Stage::new("contract");
    stage.bridge_conf("allow br0\n");
    stage.ns.ip(&["link", "set", "br0", "mtu", "9000"]);
    let fds = stage.call(&ARGUMENTS).descriptors();
    assert_eq!(fds.len(), 1);

    let info = tap::info(fds[0].as_fd()).unwrap();
    assert_eq!(info.name.as_str(), "tap0");
    assert_eq!(
        info.features,
        TapFeatures {
            vnet_hdr: true,
            multi_queue: false
        }
    );
    let link = stage.ns.link("tap0").unwrap();
    assert_eq!(link["master"], "br0");
    assert_eq!(link["mtu"], 9000);
    assert!(
        link["flags"].as_array().unwrap().iter().any(|f| f == "UP"),
        "{link}"
    );
    assert!(
        link["flags"].as_array().unwrap().iter().any(|f| f == "MULTICAST"),
        "{link}"
    );
    assert!(link["address"].as_str().unwrap().starts_with("fe:"), "{link}");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(
        (&data["type"], &data["persist"], &data["pi"]),
        (&"tap".into(), &false.into(), &false.into())
    );
    assert_eq!(data["user"], CALLER, "{data}");
    let port = &link["linkinfo"]["info_slave_data"];
    assert_eq!(
        (&port["state"], &port["isolated"]),
        (&"forwarding".into(), &false.into()),
        "{port}"
    );
    assert_eq!(stage.ns.link("br0").unwrap()["mtu"], 9000);

    let log = stage.logged();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].starts_with("<86>vmbr-helper["), "{log:?}");
    let end = "]: uid 4711, bridge br0: hands over tap0 (allowed by /etc/qemu/bridge.conf:1)";
    assert!(log[0].ends_with(end), "{log:?}");

    drop(fds);
    stage.assert_no_tap();
}

#[test]
fn libvirts_order_and_every_other_are_the_same() {
    let stage = Stage::new("order");
    stage.bridge_conf("allow br0\n");
    let orders: [&[&str]; 5] = [
        &["--use-vnet", "--br=br0", "--fd=3"],
        &["--br=br0", "--fd=3"],
        &["--fd=3", "--br=br0"],
        &["--br=br0", "--use-vnet", "--fd=3"],
        &["--isolated", "--queues=1", "--fd=3", "--br=br0", "--use-vnet"],
    ];
    for order in orders {
        let fds = stage.call(order).descriptors();
        let info = tap::info(fds[0].as_fd()).unwrap();
        assert_eq!(info.features.vnet_hdr, order.contains(&"--use-vnet"), "{order:?}");
        assert_eq!(stage.ports(), [info.name.as_str()]);
        drop(fds);
        stage.assert_no_tap();
    }
}

#[test]
fn frames_pass_between_the_descriptor_and_the_bridge() {
    let stage = Stage::new("frames");
    stage.bridge_conf("allow br0\n");
    stage.ns.ip(&["addr", "add", "192.0.2.1/24", "dev", "br0"]);
    let fds = stage.call(&["--fd=3", "--br=br0"]).descriptors();
    let mut tap = std::fs::File::from(fds.into_iter().next().unwrap());
    // "Who has 192.0.2.1? Tell 192.0.2.9", from 02:00:00:00:00:09.
    let guest = [2, 0, 0, 0, 0, 9];
    let mut question = vec![0xff; 6];
    question.extend(guest);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(guest);
    question.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    std::io::Write::write_all(&mut tap, &question).unwrap();
    let (answers, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut frame = [0; 2048];
        while let Ok(length) = std::io::Read::read(&mut tap, &mut frame) {
            if length >= 42 && frame[12..14] == [8, 6] && frame[21] == 2 {
                let _ = answers.send(frame[..42].to_vec());
                return;
            }
        }
    });
    let answer = heard
        .recv_timeout(std::time::Duration::from_secs(10))
        .expect("no ARP answer came");
    assert_eq!((&answer[..6], &answer[28..32]), (&guest[..], &[192, 0, 2, 1][..]));
}

#[test]
fn queues_are_one_tap_and_arrive_in_one_message() {
    let stage = Stage::new("queues");
    stage.bridge_conf("allow br0\n");
    for queues in [2, 8, 253] {
        let fds = stage
            .call(&["--use-vnet", "--fd=3", "--br=br0", &format!("--queues={queues}")])
            .descriptors();
        assert_eq!(fds.len(), queues);
        for fd in &fds {
            let info = tap::info(fd.as_fd()).unwrap();
            assert_eq!(info.name.as_str(), "tap0");
            assert_eq!(
                info.features,
                TapFeatures {
                    vnet_hdr: true,
                    multi_queue: true
                }
            );
        }
        let data = &stage.ns.link("tap0").unwrap()["linkinfo"]["info_data"];
        assert_eq!(
            (&data["numqueues"], &data["multi_queue"]),
            (&queues.into(), &true.into()),
            "{data}"
        );
    }
    stage.assert_no_tap();
}

#[test]
fn an_isolated_port_is_isolated_before_it_is_up() {
    let stage = Stage::new("isolated");
    stage.bridge_conf("allow br0\n");
    let fds = stage.call(&["--fd=3", "--br=br0", "--isolated"]).descriptors();
    let port = stage.ns.link("tap0").unwrap();
    assert_eq!(port["linkinfo"]["info_slave_data"]["isolated"], true, "{port}");
    drop(fds);
    stage.assert_no_tap();

    let trace = stage.path("trace");
    let wrapper = [
        "strace",
        "-qq",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        "trace=ioctl,sendto",
    ];
    let call = Call::new(&["--fd=3", "--br=br0", "--isolated"])
        .uid(0)
        .wrapper(&wrapper);
    drop(stage.run(&call).descriptors());
    let trace = std::fs::read_to_string(&trace).unwrap();
    // The first message is rtnetlink's, the second the log's.
    let isolating = trace.find("sendto(").expect("no message to rtnetlink");
    let up = trace.find("SIOCSIFFLAGS").expect("no SIOCSIFFLAGS");
    assert!(isolating < up, "{trace}");
}

#[test]
fn root_may_call_it_without_any_file_capability() {
    let stage = Stage::new("root");
    stage.bridge_conf("allow br0\n");
    stage.install("plain", "");
    let fds = stage
        .run(&Call::new(&ARGUMENTS).uid(0).program("plain"))
        .descriptors();
    assert_eq!(fds.len(), 1);
    // Root, too, asks the ACL.
    stage.bridge_conf("deny br0\n");
    stage.run(&Call::new(&ARGUMENTS).uid(0)).refused(3);
}

#[test]
fn the_caller_needs_no_file_capability_but_the_helper_does() {
    let stage = Stage::new("nocap");
    stage.bridge_conf("allow br0\n");
    stage.install("plain", "");
    let said = stage.run(&Call::new(&ARGUMENTS).program("plain")).refused(3);
    let remedy = format!("setcap cap_net_admin=p {}", stage.path("plain").display());
    assert!(said.contains(&remedy), "{said}");
    let call = Call::new(&ARGUMENTS).wrapper(&["setpriv", "--no-new-privs"]);
    let said = stage.run(&call).refused(3);
    assert!(
        said.contains("no_new_privs") && said.contains("vmbr run"),
        "{said}"
    );
    stage.assert_no_tap();
}

#[test]
fn a_setuid_or_setgid_copy_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new("setuid");
    stage.bridge_conf("allow br0\n");
    for mode in [0o4755, 0o2755] {
        let copy = stage.path("vmbr-helper");
        std::fs::set_permissions(copy, std::fs::Permissions::from_mode(mode)).unwrap();
        let said = stage.call(&ARGUMENTS).refused(3);
        assert!(said.contains("must not be setuid or setgid"), "{said}");
    }
    stage.assert_no_tap();
}

#[test]
fn what_is_not_there_is_said_to_who_is_allowed() {
    let stage = Stage::new("missing");
    stage.bridge_conf("allow all\n");
    stage
        .ns
        .ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
    let said = stage.call(&["--fd=3", "--br=br7"]).refused(3);
    assert!(
        said.contains("there is no bridge br7") && said.contains("vmbr up"),
        "{said}"
    );
    for other in ["veth0", "lo"] {
        let said = stage.call(&["--fd=3", &format!("--br={other}")]).refused(3);
        assert!(said.contains(&format!("{other} is not a bridge")), "{said}");
    }
    let said = stage
        .run(&Call::new(&ARGUMENTS).prelude("rm /dev/net/tun"))
        .refused(3);
    assert!(said.contains("modprobe tun"), "{said}");
    let said = stage
        .run(&Call::new(&ARGUMENTS).prelude("chmod 600 /dev/net/tun"))
        .refused(3);
    assert!(said.contains("mode 0666"), "{said}");
    assert!(stage.ports().is_empty());
}

#[test]
fn usage_is_status_2_and_help_stands_alone() {
    let stage = Stage::new("usage");
    stage.bridge_conf("allow all\n");
    let bad: [&[&str]; 6] = [
        &[],
        &["--fd=3"],
        &["--br=br0"],
        &["--fd=3", "--br=br0", "--br=br0"],
        &["--fd=3", "--br=br01234567890123"],
        &["--help", "--fd=3", "--br=br0", "--use-vnet"],
    ];
    for arguments in bad {
        let said = stage.call(arguments).refused(2);
        assert!(said.contains("usage: vmbr-helper"), "{arguments:?}: {said}");
    }
    let help = stage.call(&["--help"]).ended;
    assert!(help.status.success() && help.stdout.starts_with("usage: vmbr-helper --fd=N"));
    let version = stage.call(&["--version"]).ended.ok();
    assert_eq!(version, format!("vmbr-helper {}\n", env!("CARGO_PKG_VERSION")));
    stage.assert_no_tap();
}

#[test]
fn the_result_is_that_of_qemu_bridge_helper() {
    require(QEMU_HELPER, "qemu-system-common");
    let stage = Stage::new("same");
    stage.bridge_conf("allow br0\n");
    stage.ns.ip(&["link", "set", "br0", "mtu", "1400"]);
    let arguments: [&[&str]; 2] = [&ARGUMENTS, &["--fd=3", "--br=br0"]];
    for arguments in arguments {
        let mut results = Vec::new();
        for call in [
            Call::new(arguments),
            Call::new(arguments).uid(0).program(QEMU_HELPER),
        ] {
            let fds = stage.run(&call).descriptors();
            let info = tap::info(fds[0].as_fd()).unwrap();
            let mut link = stage.ns.link("tap0").unwrap();
            // Five random bytes of the MAC, the index, and the owner, whom
            // only vmbr-helper sets.
            let address = link["address"].as_str().unwrap()[..3].to_owned();
            link["address"] = address.into();
            link["ifindex"] = 0.into();
            link["linkinfo"]["info_data"]
                .as_object_mut()
                .unwrap()
                .remove("user");
            let port = link["linkinfo"]["info_slave_data"].as_object_mut().unwrap();
            // The bridge's identity has its MAC, which is the port's here;
            // timers run while the two are looked at.
            port.retain(|key, _| !key.ends_with("_timer") && key != "bridge_id" && key != "root_id");
            results.push((info, link));
            drop(fds);
            stage.assert_no_tap();
        }
        assert_eq!(results[0], results[1], "{arguments:?}");
    }
}
