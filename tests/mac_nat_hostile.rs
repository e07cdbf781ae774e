//! MAC-NAT against guests that want what is not theirs.
#![cfg(feature = "mac-nat")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[path = "common/air.rs"]
mod air;
mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/packets.rs"]
mod packets;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use air::{A, Air, B, GATEWAY, UPLINK, reaches, sh};
use common::wait_until;
use frames::{BROADCAST, Sender, frame, mac};
use packets::{ARP, IPV4, IPV6, arp_as, ipv4, udp};
use vmbr::mac_nat::Way;

/// How many frames went out by a device of the host.
fn sent(air: &Air, device: &str) -> u64 {
    let text = sh(
        &air.host,
        &format!("ip -s -j link show {device} | grep -o '\"tx\":{{[^}}]*' | grep -o 'packets\":[0-9]*'"),
    );
    text.trim().rsplit(':').next().unwrap().parse().unwrap()
}

/// A frame that comes to where it was would never leave the kernel again.
#[test]
fn nothing_goes_round_for_ever() {
    for way in [Way::Tcx, Way::Clsact] {
        let air = Air::new("round", way);
        reaches(&air.a, "192.0.2.1");
        reaches(&air.b, "192.0.2.1");
        let b = mac(B);
        let claimed = Ipv4Addr::new(192, 0, 2, 77);
        let target = ([0; 6], Ipv4Addr::new(192, 0, 2, 78));
        let to_claimed = |from| ipv4(from, claimed, 17, (0, false), &udp(9, 9));
        let frames = [
            frame(BROADCAST, b, ARP, &arp_as(1, 1, (mac(UPLINK), claimed), target)),
            frame(mac(UPLINK), b, IPV4, &to_claimed(Ipv4Addr::new(192, 0, 2, 51))),
            // To a guest that is nowhere: the bridge floods it.
            frame(
                BROADCAST,
                b,
                ARP,
                &arp_as(1, 1, ([0x52, 0x54, 0, 0, 0, 0x99], claimed), target),
            ),
        ];
        let before = sent(&air, "pa");
        Sender::on(&air.b, "eth0").repeat(&frames, || {
            assert!(wait_until(Duration::from_secs(5), || air.counted("arp") > 20
                && air.counted("loop") > 20));
        });
        let flooded = sent(&air, "pa") - before;
        assert!(flooded < 2000, "{flooded} frames");
        assert_eq!(
            air.guest("192.0.2.77").unwrap().mac.to_string().to_lowercase(),
            "52:54:00:00:00:99"
        );
        // Of an uplink that has just got the MAC of a guest nobody is left.
        let mut settings = air.settings();
        settings.mac = A.parse().unwrap();
        air::inside(&air.host, || vmbr::mac_nat::sync(&settings, &air.addresses())).unwrap();
        assert_eq!(air.guest("192.0.2.50"), None);
    }
}

/// A guest's TAP with a virtio header, in the host's namespace, whose checksums
/// are written at the uplink. Each frame is sent with a place and an offset.
const HARDWARE: &str = "
import array, fcntl, os, socket, struct, sys, time
def offload(device, on):
    value = array.array('B', struct.pack('II', 0x17, on))
    request = struct.pack('16sP16x', device, value.buffer_info()[0])
    fcntl.ioctl(socket.socket(), 0x8946, request)
offload(b'uplink', 0)
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'tapv', 0x5002))
os.system('ip link set tapv master br0 up')
time.sleep(0.5)
for line in sys.stdin:
    flags, start, offset, frame = line.split()
    header = struct.pack('<BBHHHH', int(flags), 0, 0, 0, int(start), int(offset))
    try: os.write(tap, header + bytes.fromhex(frame))
    except OSError as error: print(error, flush=True)
    time.sleep(0.02)
time.sleep(0.5)
";

/// Tells what comes out of the uplink: UDP from port 9 by where it goes, and
/// replies of ARP.
const EAR: &str = "
import signal, socket
signal.alarm(30)
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.bind(('ap', 0))
print('ready', flush=True)
while True:
    frame, where = heard.recvfrom(4096)
    if where[2] == 4 or frame[6:12] != bytes.fromhex('020000000021'): continue
    kind = frame[12:14].hex()
    if kind == '0806' and frame[21] == 2: print(frame[12:32].hex(), flush=True)
    at = 34 if kind == '0800' else 54
    if kind != '0806' and frame[at:at + 2] == b'\\0\\x09': print(frame[at + 3], flush=True)
";

#[test]
fn checksums_overwrite_no_headers() {
    let air = Air::new("hardware", Way::Tcx);
    reaches(&air.station, "192.0.2.1");
    let v = [0x52, 0x54, 0, 0, 0, 0x0c];
    let own = Ipv4Addr::new(192, 0, 2, 52);
    let gateway = mac(GATEWAY);
    let announced = |pad: u16| {
        let mut frame = frame(
            BROADCAST,
            v,
            ARP,
            &arp_as(1, 2, (v, own), ([0; 6], Ipv4Addr::new(192, 0, 2, 200))),
        );
        frame.extend(pad.to_be_bytes());
        frame
    };
    let ipv6 = |next, payload: &[u8]| {
        let [from, to] = ["2001:db8::52", "2001:db8::1"].map(|text| text.parse().unwrap());
        frame(gateway, v, IPV6, &packets::ipv6(from, to, next, payload))
    };
    let udp4 = |port| {
        let packet = ipv4(own, Ipv4Addr::new(192, 0, 2, 1), 17, (0, false), &udp(9, port));
        frame(gateway, v, IPV4, &packet)
    };
    let [from, to] = ["2001:db8::52", "2001:db8::1"].map(|text| text.parse().unwrap());
    let echo = frame(gateway, v, IPV6, &packets::icmpv6(from, to, 128, [0; 4], &[0; 8]));
    let bad = [
        // The sender's address, and MAC, of ARP.
        (28, 0, announced(0)),
        (22, 0, announced(0)),
        (22, 2, announced(0)),
        // The type of ICMPv6.
        (54, 0, echo.clone()),
        (54, 2, echo),
    ];
    let good = [
        (0, 0, 0, udp4(80)),
        (1, 34, 6, udp4(81)),
        (1, 54, 6, ipv6(17, &udp(9, 82))),
        (0, 0, 0, announced(0)),
    ];
    let all = bad
        .iter()
        .map(|(start, offset, frame)| (1, *start, *offset, frame))
        .chain(
            good.iter()
                .map(|(flags, start, offset, frame)| (*flags, *start, *offset, frame)),
        );
    let lines: String = all
        .map(|(flags, start, offset, frame)| {
            let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{flags} {start} {offset} {hex}\\n")
        })
        .collect();
    let mut ear = air.lan.command("python3");
    ear.args(["-c", EAR]).stdout(std::process::Stdio::piped());
    let mut ear = ear.spawn().unwrap();
    let mut told = BufReader::new(ear.stdout.take().unwrap()).lines();
    assert_eq!(told.next().unwrap().unwrap(), "ready");
    let complaints = sh(
        &air.host,
        &format!("printf '{lines}' >/tmp/$$; python3 -c \"{HARDWARE}\" </tmp/$$; rm /tmp/$$"),
    );
    assert_eq!(complaints, "");
    let mut heard: Vec<String> = told.by_ref().take(good.len()).map(Result::unwrap).collect();
    heard.sort();
    let arp = "0806 0001080006040002 020000000021 c0000234".replace(' ', "");
    assert_eq!(heard, [&arp, "80", "81", "82"]);
    assert_eq!(air.counted("checksum"), bad.len() as u64);
    ear.kill().unwrap();
    ear.wait().unwrap();
    air.assert_one_mac();
}

/// Before vmbr hears of it, and whoever claims it meanwhile.
#[test]
fn a_new_address_of_the_hosts_is_the_hosts() {
    let air = Air::new("new", Way::Tcx);
    reaches(&air.a, "192.0.2.1");
    let to = Ipv4Addr::new(192, 0, 2, 1);
    let packet = ipv4(Ipv4Addr::new(192, 0, 2, 77), to, 17, (0, false), &udp(9, 9));
    let [from, to] = ["2001:db8::77", "2001:db8::1"].map(|text| text.parse().unwrap());
    let claims = [
        frame(mac(GATEWAY), mac(B), IPV4, &packet),
        frame(
            mac(GATEWAY),
            mac(B),
            IPV6,
            &packets::ipv6(from, to, 17, &udp(9, 9)),
        ),
    ];
    Sender::on(&air.b, "eth0").repeat(&claims, || {
        let claimed = || air.guest("192.0.2.77").is_some() && air.guest("2001:db8::77").is_some();
        assert!(wait_until(Duration::from_secs(5), claimed));
        sh(
            &air.host,
            "ip addr add 192.0.2.77/24 dev uplink; ip addr add 2001:db8::77/64 dev uplink",
        );
        reaches(&air.station, "192.0.2.77");
        reaches(&air.station, "2001:db8::77");
        assert_eq!(air.guest("192.0.2.77"), None);
        assert_eq!(air.guest("2001:db8::77"), None);
        assert!(wait_until(Duration::from_secs(5), || air.counted("protected") > 20));
    });
    air.assert_one_mac();
}

/// How many packets of UDP the host has received, and nobody waited for.
fn unexpected(air: &Air) -> u64 {
    let text = sh(
        &air.host,
        "nstat -asz UdpNoPorts | sed -n 's/^UdpNoPorts *\\([0-9]*\\).*/\\1/p'",
    );
    text.trim().parse().unwrap()
}

#[test]
fn the_bridge_itself_is_no_way_to_the_host() {
    for way in [Way::Tcx, Way::Clsact] {
        let air = Air::new("bridge", way);
        reaches(&air.a, "192.0.2.21");
        let bridge = frames::mac_of(&air.host, "br0");
        // As the gateway, which is dropped elsewhere, and as itself.
        let [gateway, own, host] = [1, 50, 21].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let packet = |from, to| ipv4(from, to, 17, (0, false), &udp(9, 9));
        let [a, all] = [mac(A), BROADCAST];
        let sender = Sender::on(&air.a, "eth0");
        let hears = |frames: &[Vec<u8>]| {
            let before = unexpected(&air);
            sender.repeat(frames, || {
                wait_until(Duration::from_secs(1), || unexpected(&air) > before)
            })
        };
        assert!(!hears(&[
            frame(bridge, a, IPV4, &packet(gateway, host)),
            frame(bridge, a, IPV4, &packet(own, host)),
            frame(all, a, IPV4, &packet(gateway, host)),
        ]));
        assert!(hears(&[frame(mac(UPLINK), a, IPV4, &packet(own, host))]));
        let (settings, addresses) = (air.settings(), air.addresses());
        air::inside(&air.host, || vmbr::mac_nat::sync(&settings, &addresses)).unwrap();
        // Somebody takes the program away.
        sh(&air.host, "tc qdisc del dev br0 clsact || true");
        let stale = || air::inside(&air.host, || vmbr::mac_nat::stale(&settings, &addresses)).unwrap();
        assert_eq!(stale(), way == Way::Clsact);
        air::inside(&air.host, || vmbr::mac_nat::sync(&settings, &addresses)).unwrap();
        assert!(!stale());
        assert!(!hears(&[frame(bridge, a, IPV4, &packet(own, host))]));
        air.assert_one_mac();
    }
}

/// Tells the programs what no guest may claim, and which addresses are one's.
fn sync(air: &Air, protected: &[&str], pins: &[(&str, &str)]) -> bool {
    let mut addresses = air.addresses();
    addresses.protected.extend(
        protected
            .iter()
            .map(|text| text.parse::<std::net::IpAddr>().unwrap()),
    );
    let pins = pins.iter().map(|(address, mac)| {
        let address: std::net::IpAddr = address.parse().unwrap();
        (address, mac.parse().unwrap())
    });
    addresses.pins.extend(pins);
    let settings = air.settings();
    air::inside(&air.host, || vmbr::mac_nat::sync(&settings, &addresses)).unwrap()
}

/// A frame of another guest's port takes away what the ACL gives to one.
fn a_pinned_address_stays(hint: &str, stolen: &[u8]) {
    let air = Air::new(hint, Way::Tcx);
    sync(&air, &[], &[("192.0.2.50", A)]);
    // As the ACL's line has it done: no other port's frame moves it.
    sh(
        &air.host,
        &format!("bridge fdb replace {A} dev pa master static sticky"),
    );
    reaches(&air.a, "192.0.2.1");
    assert!(air.guest("192.0.2.50").unwrap().pinned);
    // Both ask for it: what comes is for the one.
    let heard = Sender::on(&air.b, "eth0").repeat(&[stolen.to_vec()], || {
        sh(&air.lan, "ping -n -c 15 -i 0.2 -W 1 192.0.2.50 || true")
    });
    assert!(heard.contains(" 15 received"), "{heard}: {:?}", air.guests());
}

/// The MAC that ARP tells is not the frame's, which alone a port can be locked to.
#[test]
fn a_pinned_address_is_not_taken_by_what_arp_tells() {
    let own = Ipv4Addr::new(192, 0, 2, 50);
    let asks = arp_as(1, 1, (mac(A), own), ([0; 6], Ipv4Addr::new(192, 0, 2, 200)));
    a_pinned_address_stays("pin-arp", &frame(BROADCAST, mac(B), ARP, &asks));
}

#[test]
fn a_pinned_address_is_not_taken_by_its_guests_mac() {
    let [own, other] = [50, 1].map(|last| Ipv4Addr::new(192, 0, 2, last));
    let packet = ipv4(own, other, 17, (0, false), &udp(9, 9));
    a_pinned_address_stays("pin-mac", &frame(mac(GATEWAY), mac(A), IPV4, &packet));
}

/// A few frames by the gateway's MAC, whose own go past the bridge: others' frames
/// to it would be that guest's for up to a minute.
#[test]
fn a_guest_does_not_get_what_others_send_to_the_gateway() {
    let air = Air::new("gateway-fdb", Way::Tcx);
    // A gateway is a router, and asks for none.
    sh(&air.lan, "sysctl -qw net.ipv6.conf.all.forwarding=1");
    // What it says when it has just come is over.
    sh(&air.a, "ping -c 5 192.0.2.1");
    let packet = ipv4(
        Ipv4Addr::new(192, 0, 2, 51),
        Ipv4Addr::new(192, 0, 2, 51),
        17,
        (0, false),
        &udp(9, 9),
    );
    // To itself: the bridge gives it to nobody, and learns.
    let as_gateway = frame(mac(B), mac(GATEWAY), IPV4, &packet);
    let sender = Sender::on(&air.b, "eth0");
    sender.repeat(&[as_gateway], || {
        thread::sleep(Duration::from_millis(100));
    });
    let silent = !air::soon(&air.a, 5, "ping -c 1 -W 1 192.0.2.1");
    assert!(!silent, "the other's frames to the gateway do not get there");
}

/// A guest's advertisement, and its answer to the host's DHCP client.
#[test]
fn a_guest_does_not_become_the_hosts_router() {
    let air = Air::new("router", Way::Tcx);
    reaches(&air.b, "192.0.2.1");
    let [from, to] = ["fe80::b", "ff02::1"].map(|text| text.parse().unwrap());
    let told = packets::icmpv6(from, to, 134, [64, 0, 7, 8], &[0; 8]);
    let advertised = frame([0x33, 0x33, 0, 0, 0, 1], mac(B), IPV6, &told);
    let routes = || sh(&air.host, "ip -6 route show default");
    assert_eq!(routes(), "");
    let led = || !routes().is_empty();
    let believed =
        Sender::on(&air.b, "eth0").repeat(&[advertised], || wait_until(Duration::from_secs(3), led));
    assert!(!believed, "{}", routes());
}

/// A name server that was somewhere else before it became a guest.
#[test]
fn who_answered_for_a_server_may_become_a_guest() {
    let air = Air::new("server", Way::Tcx);
    sync(&air, &["192.0.2.53"], &[]);
    let target = ([0; 6], Ipv4Addr::new(192, 0, 2, 21));
    let asks = arp_as(1, 1, (mac(A), Ipv4Addr::new(192, 0, 2, 53)), target);
    Sender::on(&air.station, "eth0").repeat(&[frame(BROADCAST, mac(A), ARP, &asks)], || {
        thread::sleep(Duration::from_millis(100));
    });
    sync(&air, &[], &[("192.0.2.53", A)]);
    sh(&air.a, "ip addr add 192.0.2.53/24 dev eth0");
    let says = |from: &str| format!("ping -c 1 -W 1 -I {from} 192.0.2.1");
    assert!(
        air::soon(&air.a, 4, &says("192.0.2.53")),
        "{:?}",
        air.counted("source-mac")
    );
    assert!(air::soon(&air.a, 4, &says("192.0.2.50")));
}

/// One frame from the air that says a guest were the gateway.
#[test]
fn a_neighbour_does_not_cut_off_a_guest() {
    let air = Air::new("neighbour", Way::Tcx);
    reaches(&air.a, "192.0.2.1");
    let target = ([0; 6], Ipv4Addr::new(192, 0, 2, 99));
    let says = arp_as(1, 1, (mac(A), Ipv4Addr::new(192, 0, 2, 1)), target);
    // To the uplink alone: the bridge does not hear it.
    let frames = [frame(mac(UPLINK), mac(A), ARP, &says)];
    let sender = Sender::on(&air.station, "eth0");
    sender.repeat(&frames, || thread::sleep(Duration::from_millis(100)));
    drop(sender);
    // What was heard within the last second passes.
    thread::sleep(Duration::from_secs(2));
    let soon = air::soon(&air.a, 8, "ping -c 1 -W 1 192.0.2.1");
    sync(&air, &[], &[]);
    let synced = air::soon(&air.a, 8, "ping -c 1 -W 1 192.0.2.1");
    assert!(soon && synced, "{soon}, {synced}, {}", air.counted("source-mac"));
}

#[test]
fn our_own_frames_that_come_back_are_not_heard() {
    let air = Air::new("echo", Way::Tcx);
    reaches(&air.a, "192.0.2.1");
    // What looks to a like somebody else with its address; and of another
    // guest, which it hears, what shows that it would hear that.
    let claims = |last| {
        let own = Ipv4Addr::new(192, 0, 2, last);
        frame(
            BROADCAST,
            mac(UPLINK),
            ARP,
            &arp_as(1, 1, (mac(UPLINK), own), ([0; 6], own)),
        )
    };
    let (sender, neighbour) = (Sender::on(&air.lan, "ap"), Sender::on(&air.b, "eth0"));
    let of_either = "arp[14:4] == 0xc0000232 or arp[14:4] == 0xc0000263";
    let mut ear = air.a.command("tcpdump");
    ear.args(["--immediate-mode", "-lnni", "eth0", of_either]);
    let mut ear = ear.stdout(Stdio::piped()).spawn().unwrap();
    let (tell, heard) = mpsc::channel();
    let lines = BufReader::new(ear.stdout.take().unwrap()).lines();
    let listener = thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .for_each(|line| tell.send(line).unwrap())
    });
    let hears_neighbour = || {
        let line = heard.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(line.contains("192.0.2.99"), "{line}");
    };
    neighbour.repeat(&[claims(99)], || {
        hears_neighbour();
        sender.repeat(&[claims(50)], || {
            let counted = wait_until(Duration::from_secs(5), || air.counted("echo") > 20);
            assert!(counted, "{} were counted", air.counted("echo"));
        });
        hears_neighbour();
    });
    ear.kill().unwrap();
    ear.wait().unwrap();
    listener.join().unwrap();
    for line in heard {
        assert!(line.contains("192.0.2.99"), "{line}");
    }
    air.assert_one_mac();
}
