//! `vmbr doctor` on what is around the bridge: other devices, the helper, its
//! ACL, /dev/net/tun, udev, records; and what `vmbr up` says of it before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/site.rs"]
mod site;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use common::{VethEnd, run, veth_pair};
use host::script_in;
use site::Site;

/// How many MACs the LAN hears for an address of the host.
fn macs(site: &Site, address: &str) -> usize {
    let script = format!(
        "ip neigh flush dev sw0
         timeout 4 tcpdump -lnni sw0 'arp[6:2] = 2' 2>/dev/null >{0} &
         sleep 1.5
         ping -n -c 1 -W 2 {address} >/dev/null
         wait || true
         sed -n 's/.*Reply {address} is-at \\([0-9a-f:]*\\).*/\\1/p' {0} | sort -u | wc -l",
        site.path("heard").display()
    );
    script_in(&site.lan, &script).trim().parse().unwrap()
}

#[test]
fn two_devices_on_one_segment() {
    let site = Site::new("doctor-arp", "");
    // The LAN becomes a switch, and the host gets a second NIC on it.
    let end = |namespace, name| VethEnd {
        namespace,
        name,
        mac: None,
    };
    veth_pair(&end(&site.ns, "eth2"), &end(&site.lan, "lan2"));
    script_in(
        &site.lan,
        "ip link add sw0 type bridge; ip link set sw0 up; ip addr flush dev lan0
         ip link set lan0 master sw0; ip link set lan2 master sw0 up; ip addr add 192.0.2.1/24 dev sw0",
    );
    site.assert_clean();
    site.sh("ip link set eth2 up; ip addr add 192.0.2.22/24 dev eth2");
    site.settle();
    assert_eq!(macs(&site, "192.0.2.21"), 2, "the finding is no trouble at all");
    let finding = site.only("two-macs", Some("eth0"));
    assert!(finding["message"].as_str().unwrap().contains("eth2"), "{finding}");
    let key = |dev: &str, leaf: &str| site.ns.sysctl(&format!("net/ipv4/conf/{dev}/arp_{leaf}"));
    site.paste(&finding);
    site.assert_clean();
    assert_eq!(macs(&site, "192.0.2.21"), 1, "the remedy does not help");
    for (dev, leaf) in [
        ("eth0", "ignore"),
        ("eth2", "ignore"),
        ("eth0", "announce"),
        ("eth2", "announce"),
    ] {
        site.ns
            .set_sysctl(&format!("net/ipv4/conf/{dev}/arp_{leaf}"), "0");
    }
    let ended = site.up();
    assert!(
        ended.stderr.contains("eth2 have addresses of one network"),
        "{ended:?}"
    );
    site.only("two-macs", Some("eth2"));
    site.fix("two-macs");
    assert_eq!(
        (key("br0", "ignore"), key("eth2", "announce")),
        ("1".into(), "2".into())
    );
    site.down();
    for (dev, leaf) in [
        ("eth0", "ignore"),
        ("eth2", "ignore"),
        ("eth0", "announce"),
        ("eth2", "announce"),
    ] {
        assert_eq!(key(dev, leaf), "0", "{dev} {leaf}");
    }
}

#[test]
fn a_tun_node_that_users_cannot_open() {
    let site = Site::new("doctor-tun", "");
    let mode = || fs::metadata(site.path("tun")).unwrap().permissions().mode() & 0o777;
    site.both_ways("chmod 600 /dev/net/tun", "tun-mode", None);
    assert_eq!(mode(), 0o666);
    site.down();
    assert_eq!(mode(), 0o600);
    site.sh("chgrp 108 /dev/net/tun; chmod 660 /dev/net/tun");
    site.assert_clean();
    let (status, findings) = site.doctor_after("mount -t tmpfs none /dev/net", &[]);
    assert_eq!((status, findings.len()), (1, 1), "{findings:?}");
    assert_eq!(findings[0]["id"], "tun-missing");
}

#[test]
fn a_helper_without_its_capability_or_on_a_nosuid_mount() {
    let site = Site::new("doctor-helper", "");
    let helper = site.path("libexec/vmbr-helper");
    site.sh(&format!("setcap -r {}", helper.display()));
    let finding = site.by_hand("helper-capability", None);
    assert!(
        finding["message"]
            .as_str()
            .unwrap()
            .contains(helper.to_str().unwrap()),
        "{finding}"
    );
    site.sh(&format!("setcap cap_net_raw=p {}", helper.display()));
    site.by_hand("helper-capability", None);

    let nosuid = "mkdir -p $site/new; mount -t tmpfs -o nosuid new $site/new
        cp -a $site/libexec/vmbr-helper $site/new; setcap cap_net_admin=p $site/new/vmbr-helper
        mount --move $site/new $site/libexec";
    let (status, findings) = site.doctor_after(nosuid, &[]);
    assert_eq!((status, findings.len()), (1, 1), "{findings:?}");
    assert_eq!(findings[0]["id"], "helper-nosuid");
    let remedy = findings[0]["remedy"].as_str().unwrap();
    let mended = site.doctor_after(&format!("{nosuid}\n{remedy}"), &[]);
    assert_eq!(mended, (0, vec![]));

    site.sh("mv $site/libexec/vmbr-helper $site/away");
    let (status, findings) = site.doctor(&[]);
    // Another one may be installed on the machine.
    assert!(
        status == 0 || findings[0]["id"] == "helper-missing",
        "{findings:?}"
    );
}

#[test]
fn an_acl_that_is_not_obeyed() {
    let site = Site::new("doctor-acl", "");
    site.etc("qemu/bridge.conf", "# nobody yet\n");
    site.assert_clean();
    site.sh("chmod 666 /etc/qemu/bridge.conf");
    let finding = site.by_hand("acl-writable", None);
    assert!(
        finding["message"]
            .as_str()
            .unwrap()
            .contains("/etc/qemu/bridge.conf"),
        "{finding}"
    );
    site.sh("chown 4711 /etc/qemu/bridge.conf");
    site.by_hand("acl-owner", None);

    let included = site.etc("qemu/more.conf", "allow br0\n");
    site.etc("qemu/bridge.conf", "include more.conf\nallow br1\n");
    site.assert_clean();
    fs::set_permissions(&included, fs::Permissions::from_mode(0o664)).unwrap();
    site.by_hand("acl-writable", None);
    // A slip of the pen is nobody's name.
    site.sh("chmod 644 /etc/qemu/more.conf");
    site.etc("passwd", "root:x:0:0::/root:/bin/sh\n");
    site.etc(
        "vmbr/acl.conf",
        "allow br0 user=root,1000\nallow br0 user=alcie,root\n",
    );
    let finding = site.only("acl-stranger", None);
    let message = finding["message"].as_str().unwrap();
    assert!(
        message.contains("line 2") && message.contains("alcie"),
        "{message}"
    );
    site.sh("rm /etc/vmbr/acl.conf");
    // A group's file: QEMU's idiom, but for a deny.
    site.sh("chmod 640 /etc/qemu/more.conf");
    site.assert_clean();
    site.etc("qemu/more.conf", "deny br1\n");
    site.sh("chmod 640 /etc/qemu/more.conf");
    site.by_hand("acl-hidden-deny", None);

    for (text, word) in [
        ("include gone.conf\n", "gone.conf"),
        ("allow br0 # mine\n", "line 1"),
        ("# fine\npermit br0\n", "line 2"),
    ] {
        site.etc("qemu/bridge.conf", text);
        let finding = site.only("acl-unusable", None);
        assert!(finding["message"].as_str().unwrap().contains(word), "{finding}");
    }
    // vmbr's own file hides the other.
    site.etc("vmbr/acl.conf", "allow br0 # mine\n");
    site.assert_clean();
}

#[test]
fn udev_that_names_the_bridges_mac() {
    let site = Site::new("doctor-udev", "");
    site.etc(
        "systemd/network/10-lan.link",
        "[Match]\nOriginalName=br*\n\n[Link]\nMACAddress=02:00:00:00:00:77\n",
    );
    let dry = site.vmbr(&["up", "--dry-run", "eth0"]);
    assert!(
        dry.stdout
            .contains("warning: udev gives br0 the MAC 02:00:00:00:00:77"),
        "{dry:?}"
    );
    assert!(site.up().stderr.contains("udev gives br0"));
    site.by_hand("udev-mac", Some("br0"));
    // What udev does by default leaves the MAC that vmbr sets.
    site.sh("rm /etc/systemd/network/*.link");
    site.assert_clean();
}

#[test]
fn a_change_that_was_cut_short() {
    let site = Site::new("doctor-interrupted", "");
    let before = site.state();
    site.up();
    let path = site.fixes().with_file_name("br0.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    record["progress"] = "changing".into();
    fs::write(&path, record.to_string()).unwrap();
    // What a half-done change leaves is not told a second time.
    site.sh("ip addr add 192.0.2.21/24 dev eth0; ip link set br0 type bridge stp_state 0");
    let finding = site.only("interrupted", Some("br0"));
    assert_eq!(finding["severity"], "error", "{finding}");
    let refused = site.vmbr(&["doctor", "--fix"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    site.paste(&finding);
    site.assert_clean();
    before.assert_same(&site.state());

    fs::write(path.with_file_name("br7.json"), "{").unwrap();
    let finding = site.only("record-unusable", None);
    assert!(
        finding["message"].as_str().unwrap().contains("br7.json"),
        "{finding}"
    );
}

/// `iptables-legacy` is another program than nft, with tables of its own.
#[test]
fn the_old_iptables_drops() {
    let site = Site::new("doctor-legacy", "");
    site.up();
    let drop = "iptables-legacy -F; iptables-legacy -P FORWARD DROP
        ip6tables-legacy -F; ip6tables-legacy -A FORWARD -j REJECT";
    let before = site.sh(&format!("{drop}; iptables-legacy -S; ip6tables-legacy -S"));
    let finding = site.only("bridge-netfilter", Some("br0"));
    site.paste(&finding);
    site.assert_clean();
    site.sh(drop);
    site.fix("bridge-netfilter");
    let dry = site.vmbr(&["down", "--dry-run"]).ok();
    assert!(
        dry.contains("# what doctor changed is undone: a rule for br0"),
        "{dry}"
    );
    site.down();
    assert_eq!(site.sh("iptables-legacy -S; ip6tables-legacy -S"), before);
}

/// firewalld's chains are its own: it is told of the bridge.
#[test]
fn firewalld_drops() {
    let site = Site::new("doctor-firewalld", "");
    let etc = site.path("etc");
    let copy = "cp -a /etc/. \"$0\"; rm -rf \"$0\"/qemu \"$0\"/vmbr \"$0\"/systemd/network";
    run(std::process::Command::new("sh")
        .args(["-e", "-c", copy])
        .arg(&etc))
    .ok();
    // All in one: the daemons have a /run of their own.
    let said = site.sh("mount -t tmpfs tmpfs /run
         mkdir -p /run/dbus
         dbus-daemon --system --fork
         firewalld --nofork --nopid >$site/firewalld 2>&1 &
         for i in $(seq 100); do firewall-cmd --state >/dev/null 2>&1 && break; sleep 0.2; done
         firewall-cmd --state || cat $site/firewalld
         zone() { firewall-cmd --get-zone-of-interface=br0 2>&1 || true; }
         vmbr up eth0 2>&1 >/dev/null | grep warning
         remedy=$(vmbr doctor | sed -n 's/^  remedy: //p')
         echo \"remedy: $remedy\"
         eval \"$remedy\"
         vmbr doctor
         echo \"pasted: $(zone)\"
         firewall-cmd --remove-interface=br0
         vmbr doctor --fix
         echo \"mended: $(zone)\"
         vmbr down
         echo \"undone: $(zone)\"");
    for line in [
        "warning: what guests on br0 send to the network passes this host's IP firewall",
        "remedy: firewall-cmd --add-interface=br0",
        "Nothing was found.",
        "pasted: public",
        "mended: what guests on br0",
        "mended: public",
        "undone: no zone",
    ] {
        assert!(said.contains(line), "no {line:?} in {said}");
    }
}

#[test]
fn up_says_what_bears_on_it() {
    let site = Site::new("doctor-up", "");
    let warnings = |site: &Site| {
        let ended = site.vmbr(&["--json", "up", "--dry-run", "eth0"]);
        let document: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
        document["warnings"].as_array().unwrap().clone()
    };
    assert!(warnings(&site).is_empty());
    site.sh("nft add table inet fw
        nft add chain inet fw f '{ type filter hook forward priority 0; policy drop; }'");
    let said = warnings(&site);
    assert_eq!(said.len(), 1, "{said:?}");
    let text = said[0].as_str().unwrap();
    // Before the bridge is there, its rule can be.
    let (_, remedy) = text.split_once("; remedy: ").unwrap();
    site.sh(remedy);
    assert!(warnings(&site).is_empty());
    site.up();
    site.assert_clean();
}

#[test]
fn without_root_it_says_what_it_could_not_see() {
    let site = Site::new("doctor-user", "");
    site.up();
    let user = |args: &str| {
        let script = format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups $site/bin/vmbr --state-dir $records {args}; exit $?"
        );
        run(&mut site.script(&script))
    };
    let ended = user("--json doctor");
    let document: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    let findings = document["findings"].as_array().unwrap();
    assert_eq!((ended.code(), findings.len()), (0, 1), "{findings:?}");
    assert_eq!(
        (&findings[0]["id"], &findings[0]["severity"]),
        (&"bridge-netfilter".into(), &"note".into())
    );
    site.sh("ip link set br0 type bridge stp_state 1");
    let ended = user("doctor");
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stdout.contains("spanning tree"), "{ended:?}");
    let ended = user("doctor --fix");
    assert_eq!(ended.code(), 3, "{ended:?}");
    assert!(ended.stderr.contains("root"), "{ended:?}");
}

#[test]
fn what_cannot_be_remembered_is_not_done() {
    let site = Site::new("doctor-full", "");
    site.up();
    let damaged = site.fixes();
    site.sh("ip link set br0 type bridge stp_state 1");
    fs::write(&damaged, "{\"version\":99}").unwrap();
    let ended = site.vmbr(&["doctor", "--fix"]);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("doctor.fixes"), "{ended:?}");
    site.only("stp", Some("br0"));
    fs::remove_file(&damaged).unwrap();
    // A directory of this name cannot be replaced by a file.
    fs::create_dir(&damaged).unwrap();
    site.vmbr(&["doctor", "--fix"]);
    site.only("stp", Some("br0"));
    fs::remove_dir(&damaged).unwrap();
    site.fix("stp");
    site.down();
}
