//! DHCP clients without a manager, ifupdown, and sockets that are bound to the
//! uplink: the real programs, and files that nobody should believe.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;

use std::time::{Duration, Instant};

use host::Host;
use lease::Server;
use machine::Machine;

const STATIC: &str =
    "ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0; ip route add default via 192.0.2.1";

/// A host whose NIC is up, without any address, and its machine.
fn bare() -> (Host, Machine) {
    let host = Host::new("clients", "ip link set eth0 up");
    let machine = Machine::new(&host.ns);
    (host, machine)
}

/// Asserts that `up` is refused because of a client's lease: its name and the
/// end are said.
fn refused(host: &Host, machine: &Machine, client: &str, end: &str, remedy: &str) {
    machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    machine.until("ip -4 route show default | grep -q eth0");
    let list = machine.sh("ip -4 -o addr show dev eth0");
    let address = list.split_whitespace().nth(3).unwrap();
    let address = address.split('/').next().unwrap();
    let said = machine.refused(host);
    for part in [
        &format!("eth0 is managed by {client} (process "),
        &format!("has leased {address}"),
        end,
        remedy,
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
}

/// What a dry run says where nothing stands in the way.
fn dry_run(host: &Host, machine: &Machine) -> String {
    machine.vmbr(host, &["up", "eth0", "--dry-run"]).ok()
}

/// Asserts that a lease of dhclient would move along.
fn would_move(host: &Host, machine: &Machine) {
    machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    let said = dry_run(host, machine);
    for part in [
        "eth0 is managed by dhclient (process ",
        "(from 192.0.2.1), which ends in ",
        ": it is given the bridge instead",
        "\nkill -9 ",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
}

#[test]
fn a_lease_of_dhclient_is_refused_where_its_file_is_not_to_be_used() {
    let (host, machine) = bare();
    let _server = Server::start(&host.lan);
    machine.sh("dhclient -4 -pf /run/dhclient.pid eth0");
    would_move(&host, &machine);
    machine.sh("cp -p /var/lib/dhcp/dhclient.leases /run/good");
    for (file, why) in [
        ("rm -f $F", "its lease file is not there"),
        ("rm -f $F; mkfifo $F", "its lease file is not there"),
        ("rm -f $F; ln -s /dev/zero $F", "its lease file is not there"),
        (
            "rm -f $F; head -c 3000000 /dev/urandom >$F",
            "its lease file is not there",
        ),
        (
            "cp -p /run/good $F; chown 65534 $F",
            "or others than root can write it",
        ),
        (
            "cp -p /run/good $F; chmod 666 $F",
            "or others than root can write it",
        ),
        (
            "rm -f $F; head -c 30000 /dev/urandom >$F",
            "its lease file is malformed",
        ),
        (
            "rm -f $F; yes 'lease {' | head -c 900000 >$F",
            "its lease file is malformed",
        ),
        (
            "rm -f $F; printf 'lease {\\n  interface \"eth0\";\\n  fixed-address 192.0.2.1' >$F",
            "its lease file is malformed",
        ),
        (
            "rm -f $F; sed s/eth0/eth1/ /run/good >$F",
            "has not the lease that the host lives on",
        ),
        (
            "cp -p /run/good $F; chmod 775 ${F%/*}",
            "its lease is written back to the directory",
        ),
    ] {
        machine.sh(&format!("F=/var/lib/dhcp/dhclient.leases; {file}"));
        let began = Instant::now();
        refused(&host, &machine, "dhclient", ", which ends in ", "kill -9");
        assert!(machine.refused(&host).contains(why), "{file}");
        assert!(began.elapsed() < Duration::from_secs(10), "{file}");
    }
    // Ended, it is forgotten: the address runs out, and that is said.
    machine.sh("rm -f /var/lib/dhcp/dhclient.leases; dhclient -x -pf /run/dhclient.pid eth0");
    machine.until("! pidof dhclient");
    let said = dry_run(&host, &machine);
    assert!(said.contains("nobody is known who renews 192.0.2.1"), "{said}");
}

/// One that serves others as well, one that somebody starts again, and one
/// whose script others can write.
#[test]
fn a_dhclient_that_is_not_for_the_nic_alone_is_refused() {
    let (host, machine) = bare();
    let _server = Server::start(&host.lan);
    machine.sh("ip link set eth1 up");
    host.settle();
    for (start, remedy) in [
        (
            "dhclient -4 -nw eth0 eth1",
            "give each device a dhclient of its own",
        ),
        ("dhclient -4 -nw", "give each device a dhclient of its own"),
        (
            "cp /sbin/dhclient-script /run/script; chmod 777 /run/script; dhclient -4 -sf /run/script eth0",
            "see -sf in its command line",
        ),
        (
            "printf 'while :; do dhclient -4 -d eth0; done' >/run/keep; setsid --fork sh /run/keep >/dev/null 2>&1 </dev/null; sleep 0.5",
            "it is kept running by process ",
        ),
    ] {
        machine.sh(&format!("rm -f /var/lib/dhcp/*; {start}"));
        refused(&host, &machine, "dhclient", ", which ends in ", remedy);
        machine
            .sh("pkill -9 -f '^sh /run/[k]eep' || :; kill -9 $(pidof dhclient); ip addr flush dev eth0 scope global");
    }
}

/// Asserts that a lease of dhcpcd would move along, and is refused where its
/// file is not to be used.
fn dhcpcd_is_known(arguments: &str) {
    let (host, machine) = bare();
    let _server = Server::start(&host.lan);
    // It would give the other device an address of its own making.
    machine.sh(&format!(
        "echo denyinterfaces eth1 >>/etc/dhcpcd.conf; mkdir -p /var/lib/dhcpcd; dhcpcd -q {arguments}"
    ));
    machine.until("test -s /var/lib/dhcpcd/eth0.lease");
    machine.until("ip -4 route show default | grep -q eth0");
    let said = dry_run(&host, &machine);
    for part in [
        "eth0 is managed by dhcpcd (",
        "(from 192.0.2.1), which ends in ",
        ": it is given the bridge instead",
        "denyinterfaces eth0",
        "metric 1002",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    machine.sh("cp -p /var/lib/dhcpcd/eth0.lease /run/good");
    for file in [
        "rm $F",
        "head -c 300 /dev/urandom >$F",
        "head -c 100 /run/good >$F",
        "cp -p /run/good $F; chown 65534 $F",
    ] {
        machine.sh(&format!("F=/var/lib/dhcpcd/eth0.lease; {file}"));
        let said = machine.refused(&host);
        assert!(said.contains("its lease file is not there, malformed"), "{said}");
        assert!(said.contains("dhcpcd -n eth0"), "{said}");
    }
    machine.sh("rm /var/lib/dhcpcd/eth0.lease; cp -p /run/good /var/lib/dhcpcd/eth0.lease; chmod 666 /etc/dhcpcd.conf");
    let said = machine.refused(&host);
    assert!(
        said.contains("others than root can write its program or its configuration"),
        "{said}"
    );
}

#[test]
fn a_lease_of_dhcpcd_for_every_device_is_known() {
    dhcpcd_is_known("-4");
}

#[test]
#[ignore = "dhcpcd takes ten seconds for a lease"]
fn a_lease_of_dhcpcd_for_one_device_is_known() {
    dhcpcd_is_known("-4 eth0");
}

/// It runs for another device, or is denied this one.
#[test]
fn a_dhcpcd_that_does_not_manage_the_nic_is_no_reason() {
    let host = Host::new("clients", STATIC);
    let machine = Machine::new(&host.ns);
    machine.sh("mkdir -p /var/lib/dhcpcd; ip link set eth1 up; dhcpcd -q -4 -b eth1");
    machine.until("pidof dhcpcd");
    assert!(!dry_run(&host, &machine).contains("dhcpcd"));
    machine.sh("dhcpcd -4 -x eth1");
    machine.until("! pidof dhcpcd");
    machine.sh("echo denyinterfaces eth0 >>/etc/dhcpcd.conf; dhcpcd -q -4 -b");
    machine.until("pidof dhcpcd");
    assert!(!dry_run(&host, &machine).contains("dhcpcd"));
}

/// BusyBox's gives the address without an end, and writes nothing down: what it
/// says to the server is what it was started with.
#[test]
fn a_lease_of_udhcpc_is_kept_or_refused() {
    let (host, machine) = bare();
    let _server = Server::start(&host.lan);
    let start = |more: &[&str]| {
        let words = ["udhcpc", "-f", "-i", "eth0", "-s", "/etc/udhcpc/default.script"];
        machine.start("busybox", &[&words[..], more].concat());
        machine.until("ip -4 addr show dev eth0 | grep -q 'inet 192.0.2.1'");
    };
    let end = || {
        machine.sh(
            "kill -9 $(pidof busybox); while pidof busybox; do sleep 0.01; done; ip -4 addr flush dev eth0",
        )
    };
    start(&[]);
    let said = dry_run(&host, &machine);
    for part in [
        "eth0 is managed by udhcpc (process ",
        "has leased 192.0.2.1",
        "whose end is not known",
        "a lease keeper of vmbr's stays running",
        "kill -STOP ",
        "vmbr keeper --bridge br0",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    // Which of two it has leased it does not say.
    machine.sh("ip addr add 198.51.100.7/24 dev eth0");
    refused(
        &host,
        &machine,
        "udhcpc",
        "whose end is not known",
        "vmbr cannot hand a lease over yet",
    );
    machine.sh("ip addr del 198.51.100.7/24 dev eth0");
    end();
    assert!(!dry_run(&host, &machine).contains("warning"));
    // Known to the server by something that is not understood.
    start(&["-x", "0x3d:01234"]);
    let said = machine.refused(&host);
    assert!(
        said.contains("its client identifier '01234' is not understood"),
        "{said}"
    );
    end();
}

#[test]
fn ifupdown_is_no_daemon_but_its_client_is() {
    let (host, machine) = bare();
    let _server = Server::start(&host.lan);
    machine.sh(
        "printf 'iface lan inet static\\n address 192.0.2.21/24\\n gateway 192.0.2.1\\n\
         iface leased inet dhcp\\n' >/etc/network/interfaces
         ifup eth0=lan",
    );
    let said = dry_run(&host, &machine);
    assert!(
        said.contains("eth0 is managed by ifupdown (/etc/network/interfaces gives 192.0.2.21 to lan)"),
        "{said}"
    );
    machine.vmbr(&host, &["up", "eth0"]).ok();
    host.ping_both_ways(Some("192.0.2.21"), None);
    machine.vmbr(&host, &["down"]).ok();
    machine.sh("ifdown eth0; ifup eth0=leased");
    would_move(&host, &machine);
}

/// An end of an address says nothing of who gave it; its protocol does.
#[test]
fn an_end_alone_is_no_lease() {
    let host = Host::new("ends", STATIC);
    let machine = Machine::new(&host.ns);
    machine.sh("ip addr add 198.51.100.9/24 dev eth0 valid_lft 600 preferred_lft 300");
    let said = dry_run(&host, &machine);
    let expected = "nobody is known who renews 198.51.100.9, which ends in ";
    assert_eq!(said.matches("198.51.100.9,").count(), 1, "said once: {said}");
    assert!(said.contains(expected), "{said}");
    // iproute2 of this age cannot set IFA_PROTO (16, as RTPROT_DHCP): by hand.
    machine.sh(
        r#"python3 -c '
import socket, struct
index = socket.if_nametoindex("eth0")
attribute = lambda kind, data: struct.pack("=HH", 4 + len(data), kind) + data.ljust(4 * ((len(data) + 3) // 4), b"\0")
address = socket.inet_aton("203.0.113.9")
body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, index)
body += attribute(1, address) + attribute(2, address) + attribute(11, b"\x10")
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.send(struct.pack("=IHHII", 16 + len(body), 20, 0x505, 1, 0) + body)
assert struct.unpack_from("=i", s.recv(4096), 16)[0] == 0
'"#,
    );
    let said = dry_run(&host, &machine);
    let left = "eth0 has 203.0.113.9, whose end is not known, leased by a client that has ended";
    assert!(said.contains(left), "{said}");
    // As whom is not known; no server says so.
    let before = host.state();
    let said = machine.vmbr(&host, &["up", "eth0"]);
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.stderr.contains("as whom it was is not known"), "{said:?}");
    before.assert_same(&host.state());
    // A program that hears what a client hears may be the client.
    machine.start(
        "python3",
        &[
            "-c",
            "import socket, time\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\n\
             s.bind(('eth0', 0x0800))\nopen('/run/bound', 'w')\ntime.sleep(600)",
        ],
    );
    machine.until("test -e /run/bound");
    let said = machine.refused(&host);
    assert!(
        said.contains("by its address's protocol (dhcp) leased 203.0.113.9"),
        "{said}"
    );
}

#[test]
fn a_lease_of_the_initramfs_is_told_of() {
    let host = Host::new("initramfs", STATIC);
    let machine = Machine::new(&host.ns);
    let write = |address: &str, proto: &str| {
        machine.sh(&format!(
            "printf \"DEVICE='eth0'\\nPROTO='{proto}'\\nIPV4ADDR='{address}'\\n\" >/run/net-eth0.conf"
        ));
        dry_run(&host, &machine)
    };
    let said = write("192.0.2.21", "dhcp");
    let expected = "the initramfs has leased 192.0.2.21 (/run/net-eth0.conf)";
    assert!(said.contains(expected), "{said}");
    assert!(!write("192.0.2.21", "none").contains("initramfs"));
    assert!(!write("192.0.2.99", "dhcp").contains("initramfs"));
}

#[test]
fn sockets_that_are_bound_to_the_nic_are_told_of() {
    let host = Host::new("sockets", STATIC);
    let machine = Machine::new(&host.ns);
    for (script, expected) in [
        (
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0'); s.bind(('', 5067))",
            (
                "UDP port 5067",
                "hears nothing there any more: tell it to use br0",
            ),
        ),
        (
            "s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0'); s.bind(('::', 5068)); s.listen()",
            ("TCP port 5068", "hears nothing there any more"),
        ),
        (
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)); s.bind(('eth0', 0x0806))",
            ("packets of protocol 0x0806", "hears nothing there any more"),
        ),
        (
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('eth0', 3))",
            ("packets of every protocol", "goes on hearing"),
        ),
        (
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88cc)); s.bind(('eth0', 0x88cc))",
            ("packets of protocol 0x88cc", "goes on hearing"),
        ),
    ] {
        let script = format!("import socket, time\n{script}\nopen('/run/bound', 'w')\ntime.sleep(600)");
        machine.start("python3", &["-c", &script]);
        machine.until("test -e /run/bound");
        let said = dry_run(&host, &machine);
        let line = said.lines().find(|line| line.contains("socket bound to eth0"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        for part in ["python3 (process ", expected.0, expected.1] {
            assert!(line.contains(part), "no '{part}' in: {line}");
        }
        machine.sh("kill -9 $(pidof python3); rm /run/bound");
        machine.until("! pidof python3");
    }
    // One that is bound to another device is nobody's business.
    let other = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                 s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo'); s.bind(('', 5069))\ntime.sleep(600)";
    machine.start("python3", &["-c", other]);
    machine.until("grep -q :13CD /proc/net/udp");
    assert!(!dry_run(&host, &machine).contains("socket bound"));
}

/// Files in the places where clients write, with nobody behind them.
#[test]
fn files_without_a_client_are_nothing() {
    let host = Host::new("files", STATIC);
    let machine = Machine::new(&host.ns);
    machine.sh(
        "index=$(cat /sys/class/net/eth0/ifindex)
         mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/NetworkManager/devices /var/lib/dhcpcd
         printf 'ADMIN_STATE=configured\\n' >/run/systemd/netif/links/$index
         printf 'ADDRESS=192.0.2.21\\n' >/run/systemd/netif/leases/$index
         printf '[device]\\nmanaged=true\\nconnection-uuid=x\\n' >/run/NetworkManager/devices/$index
         head -c 300 /dev/urandom >/var/lib/dhcpcd/eth0.lease
         mkfifo /run/network/ifstate
         printf 'lease {\\n  interface \"eth0\";\\n  fixed-address 192.0.2.21;\\n}\\n' >/var/lib/dhcp/dhclient.leases",
    );
    let said = dry_run(&host, &machine);
    assert!(!said.contains("warning"), "{said}");
    // Nor is somebody's program that only calls itself by such a name.
    let liar = "import time; time.sleep(600)";
    let script = format!(
        "exec setpriv --reuid=65534 --clear-groups bash -c 'exec -a dhclient python3 -c \"{liar}\" eth0'"
    );
    machine.start("bash", &["-c", &script]);
    machine.until("pgrep -u 65534 -f '^dhclient'");
    let said = dry_run(&host, &machine);
    assert!(!said.contains("dhclient"), "{said}");
    // What it says of itself is not even looked at: it could keep the reader
    // waiting, or give it more than there is memory.
    let opened = machine.sh(&format!(
        "strace -fe trace=openat -o /run/trace {} up eth0 --dry-run >/dev/null 2>&1
         grep -o '/proc/[0-9]*/[a-z]*\"' /run/trace | tr -d '\"' >/run/opened
         id=$(pgrep -u 65534); grep \"/proc/$id/\" /run/opened; grep -c /proc/1/cmdline /run/opened",
        env!("CARGO_BIN_EXE_vmbr")
    ));
    let opened: Vec<&str> = opened.lines().collect();
    assert!(opened.len() > 1 && opened.last() != Some(&"0"), "{opened:?}");
    let files = &opened[..opened.len() - 1];
    assert!(files.iter().all(|file| file.ends_with("/status")), "{opened:?}");
}

/// A host with none of all that does not pay for the looking.
#[test]
fn an_ordinary_host_is_looked_at_in_no_time() {
    let host = Host::new("fast", STATIC);
    let machine = Machine::new(&host.ns);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let began = Instant::now();
            dry_run(&host, &machine);
            began.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "up --dry-run takes {:?} (median), {:?} at least",
        times[2], times[0]
    );
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
}
