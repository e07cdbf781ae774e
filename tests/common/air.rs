//! A host whose uplink accepts one MAC, and the air beyond it: the lab of
//! MAC-NAT.
//!
//! ```text
//!   guest a: eth0 ── pa ┐
//!                       br0 ── air0 ── air1      uplink ── ap ┐
//!   guest b: eth0 ── pb ┘        (host)                       lan0 (gateway)
//!                                            station: eth0 ── sta ┘   (air)
//! ```
//!
//! At `ap` somebody listens from the first moment on: a frame that comes out
//! of the uplink with a MAC that is not the uplink's fails the test.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmbr::mac_nat::{self, Addresses, Guest, MacNatError, Settings, Way};

use crate::common::{Namespace, VethEnd, run, veth_pair, wait_until};

/// The uplink's MAC.
pub const UPLINK: &str = "02:00:00:00:00:21";
/// The guests' MACs.
pub const A: &str = "52:54:00:00:00:0a";
/// Of the second one.
pub const B: &str = "52:54:00:00:00:0b";
/// The gateway's MAC.
pub const GATEWAY: &str = "02:00:00:00:01:01";
/// The station's MAC.
pub const STATION: &str = "02:00:00:00:01:02";

/// Counts frames that come in by their sources, until it is asked.
const LISTENER: &str = "
import collections, signal, socket, sys
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
heard.bind((sys.argv[1], 0))
count = collections.Counter()
first = {}
def tell(*_):
    heard.settimeout(0.05)
    try:
        while True: take()
    except OSError: pass
    for source, frames in count.items():
        print(source, frames, first[source], flush=True)
    sys.exit()
def take():
    frame, where = heard.recvfrom(65536 + 64)
    if where[2] != 4:
        source = frame[6:12].hex(':')
        count[source] += 1
        first.setdefault(source, frame[:96].hex())
signal.signal(signal.SIGTERM, tell)
print('ready', flush=True)
while True:
    try: take()
    except OSError: pass # the device is down
";

/// The whole of it.
pub struct Air {
    /// Where the uplink and the bridge are.
    pub host: Namespace,
    /// Where the access point is.
    pub lan: Namespace,
    /// Another station.
    pub station: Namespace,
    /// The guests.
    pub a: Namespace,
    /// The second one.
    pub b: Namespace,
    uplink: u32,
    listener: Option<Child>,
}

/// Runs a script by `sh -e`; panics where it fails.
pub fn sh(ns: &Namespace, script: &str) -> String {
    let ended = run(ns.command("sh").args(["-ec", script]));
    assert!(
        ended.status.success(),
        "{}: {script}\n{}{}",
        ns.name(),
        ended.stdout,
        ended.stderr
    );
    ended.stdout
}

/// Whether a script succeeds within some time.
pub fn soon(ns: &Namespace, seconds: u64, script: &str) -> bool {
    wait_until(Duration::from_secs(seconds), || {
        run(ns.command("sh").args(["-ec", script])).status.success()
    })
}

/// Asserts that an address answers within some seconds.
pub fn reaches(from: &Namespace, address: &str) {
    assert!(
        soon(from, 5, &format!("ping -c 1 -W 1 {address}")),
        "{} does not reach {address}\n{}",
        from.name(),
        sh(from, "ip addr; ip neigh")
    );
}

/// Asserts that an address does not answer.
pub fn unreachable(from: &Namespace, address: &str) {
    let ended = run(from
        .command("ping")
        .args(["-c", "2", "-i", "0.3", "-W", "1", address]));
    assert!(!ended.status.success(), "{} reaches {address}", from.name());
}

/// Does something in a network namespace, on a thread of its own, so that no
/// other is ever in there.
pub fn inside<T: Send>(ns: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(File::open(ns.path()).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn index(ns: &Namespace, device: &str) -> u32 {
    let index = ns.link(device).unwrap()["ifindex"].as_u64().unwrap();
    index.try_into().unwrap()
}

impl Air {
    /// Makes it, without MAC-NAT and without addresses of the guests.
    pub fn bare(hint: &str) -> Self {
        let name = |of: &str| format!("{hint}-{of}");
        let [host, lan, station, a, b] = ["host", "lan", "sta", "a", "b"].map(|of| Namespace::new(&name(of)));
        let end = |namespace, name, mac| VethEnd { namespace, name, mac };
        veth_pair(
            &end(&host, "uplink", Some(UPLINK)),
            &end(&lan, "ap", Some("02:00:00:00:01:ff")),
        );
        veth_pair(
            &end(&station, "eth0", Some(STATION)),
            &end(&lan, "sta", Some("02:00:00:00:01:fe")),
        );
        veth_pair(&end(&a, "eth0", Some(A)), &end(&host, "pa", None));
        veth_pair(&end(&b, "eth0", Some(B)), &end(&host, "pb", None));
        sh(
            &lan,
            &format!(
                "ip link add lan0 address {GATEWAY} type bridge
                 ip link set ap master lan0 up; ip link set sta master lan0 up; ip link set lan0 up
                 ip addr add 192.0.2.1/24 brd + dev lan0; ip addr add 2001:db8::1/64 dev lan0 nodad"
            ),
        );
        sh(
            &station,
            "ip link set eth0 up; ip addr add 192.0.2.9/24 brd + dev eth0
             ip addr add 2001:db8::9/64 dev eth0 nodad
             sysctl -qw net.ipv4.icmp_echo_ignore_broadcasts=0",
        );
        sh(
            &host,
            "ip link set uplink up; ip addr add 192.0.2.21/24 brd + dev uplink
             ip addr add 2001:db8::21/64 dev uplink nodad
             ip route add default via 192.0.2.1
             ip link add air0 type veth peer name air1
             ip link add br0 type bridge
             sysctl -qw net.ipv6.conf.br0.disable_ipv6=1 net.ipv6.conf.air0.disable_ipv6=1 \
                net.ipv6.conf.air1.disable_ipv6=1 net.ipv6.conf.pa.disable_ipv6=1 net.ipv6.conf.pb.disable_ipv6=1
             for port in air0 pa pb; do ip link set $port master br0 up; done
             ip link set air1 up; ip link set br0 arp off up",
        );
        let mut listener = lan
            .command("python3")
            .args(["-c", LISTENER, "ap"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(listener.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self {
            uplink: index(&host, "uplink"),
            host,
            lan,
            station,
            a,
            b,
            listener: Some(listener),
        }
    }

    /// The same with MAC-NAT, and with addresses of the guests: .50 and .51.
    pub fn new(hint: &str, way: Way) -> Self {
        let air = Self::bare(hint);
        air.attach(way).unwrap();
        for (guest, number) in [(&air.a, 50), (&air.b, 51)] {
            sh(
                guest,
                &format!(
                    "ip link set eth0 up; ip addr add 192.0.2.{number}/24 brd + dev eth0
                     ip addr add 2001:db8::{number}/64 dev eth0 nodad
                     ip route add default via 192.0.2.1"
                ),
            );
        }
        air
    }

    /// The index of one of the host's devices.
    pub fn index(&self, device: &str) -> u32 {
        index(&self.host, device)
    }

    /// Between what MAC-NAT translates.
    pub fn settings(&self) -> Settings {
        let link = self.host.link("uplink").unwrap();
        let mac = link["address"].as_str().unwrap();
        Settings {
            uplink: self.index("uplink"),
            mac: mac.parse().unwrap(),
            air: self.index("air0"),
            dhcp_chaddr: false,
        }
    }

    /// What no guest may claim.
    pub fn addresses(&self) -> Addresses {
        let list = ["192.0.2.21", "2001:db8::21", "192.0.2.1", "2001:db8::1"];
        Addresses {
            protected: list.map(|text| text.parse().unwrap()).into(),
            ..Addresses::default()
        }
    }

    /// Attaches it, as `vmbr up` does.
    pub fn attach(&self, way: Way) -> Result<(), MacNatError> {
        self.attach_with(way, &self.settings(), &self.addresses())
    }

    /// The same with other settings.
    pub fn attach_with(
        &self,
        way: Way,
        settings: &Settings,
        addresses: &Addresses,
    ) -> Result<(), MacNatError> {
        inside(&self.host, || mac_nat::attach_by(Some(way), settings, addresses))
    }

    /// What it has learned.
    pub fn guests(&self) -> Vec<Guest> {
        let uplink = self.uplink;
        inside(&self.host, || mac_nat::guests(uplink)).unwrap()
    }

    /// What was learned of one address.
    pub fn guest(&self, address: &str) -> Option<Guest> {
        let address: IpAddr = address.parse().unwrap();
        self.guests().into_iter().find(|guest| guest.address == address)
    }

    /// How often something was counted.
    pub fn counted(&self, reason: &str) -> u64 {
        let uplink = self.uplink;
        inside(&self.host, || mac_nat::counters(uplink)).unwrap()[reason]
    }

    /// How many frames came out of the uplink, by their sources, and how the
    /// first one of each began.
    pub fn heard(&mut self) -> BTreeMap<String, (u64, String)> {
        let listener = self.listener.take().expect("nobody listens any more");
        kill(Pid::from_raw(listener.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let output = listener.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let read = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            (
                words[0].to_owned(),
                (words[1].parse().unwrap(), words[2].to_owned()),
            )
        };
        text.lines().map(read).collect()
    }

    /// Ends the test: nobody else's MAC was in the air.
    pub fn assert_one_mac(mut self) {
        let heard = self.heard();
        assert!(heard.contains_key(UPLINK), "nothing was heard at all: {heard:?}");
        let foreign: Vec<_> = heard.iter().filter(|(source, _)| *source != UPLINK).collect();
        assert!(foreign.is_empty(), "in the air: {foreign:?}");
    }
}

impl Drop for Air {
    fn drop(&mut self) {
        if let Some(mut listener) = self.listener.take() {
            let _ = listener.kill();
            let _ = listener.wait();
        }
        // A test that has failed says what was counted.
        if thread::panicking() {
            let uplink = self.uplink;
            let said = inside(&self.host, || {
                (mac_nat::counters(uplink).ok(), mac_nat::guests(uplink).ok())
            });
            eprintln!("{said:?}");
        }
    }
}
