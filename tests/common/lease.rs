//! A DHCP server with leases of two minutes, and who counts what is lost while
//! a client holds one: what the tests of every hand-over need.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Namespace, run};
use crate::machine::Machine;

/// How long a lease is, in seconds: the shortest that dnsmasq gives.
pub const LEASE: u64 = 120;

/// A real dnsmasq in a LAN. It leases 192.0.2.100 to 192.0.2.110, says that
/// 192.0.2.1 is the router and the name server, and has no ping check.
pub struct Server {
    /// What it runs in.
    pub machine: Machine,
    more: Vec<String>,
}

/// A lease as the server has it written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// When it ends, in seconds since 1970.
    pub end: u64,
    /// The client's MAC; the IAID where it is of DHCPv6.
    pub mac: String,
    /// The address.
    pub address: String,
    /// The name that the client has given, `*` for none.
    pub host: String,
    /// The client identifier or the DUID, `*` for none.
    pub client: String,
}

impl Server {
    /// Starts one for IPv4.
    pub fn start(lan: &Namespace) -> Self {
        Self::with(lan, &[])
    }

    /// The same, with router advertisements and DHCPv6: 2001:db8::100 to
    /// 2001:db8::1ff, and an address of SLAAC.
    pub fn both(lan: &Namespace) -> Self {
        Self::with(
            lan,
            &[
                "--enable-ra",
                "--dhcp-range=2001:db8::100,2001:db8::1ff,slaac,64,120",
                "--dhcp-option=option6:dns-server,[2001:db8::1]",
            ],
        )
    }

    /// One with further arguments.
    pub fn with(lan: &Namespace, more: &[&str]) -> Self {
        let server = Self {
            machine: Machine::new(lan),
            more: more.iter().map(|word| (*word).to_owned()).collect(),
        };
        server.go_on();
        server
    }

    /// Starts it (again); what it has leased it knows.
    pub fn go_on(&self) {
        self.go_on_with(&[]);
    }

    /// The same, with arguments that it had not before.
    pub fn go_on_with(&self, more: &[&str]) {
        let all: Vec<&str> = self.more.iter().map(String::as_str).collect();
        self.run("192.0.2.100,192.0.2.110", &[all.as_slice(), more].concat());
    }

    /// In its place, one that knows nothing of its leases, refuses them, and
    /// has these addresses to give.
    pub fn replace(&self, range: &str, more: &[&str]) {
        self.fall_silent();
        self.machine.sh("rm -f /run/leases");
        self.run(range, more);
    }

    fn run(&self, range: &str, more: &[&str]) {
        let range = format!("--dhcp-range={range},{LEASE}");
        let mut words = vec![
            "--no-ping",
            "--dhcp-authoritative",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=lan0",
            "--user=root",
            "--dhcp-option=option:dns-server,192.0.2.1",
            "--dhcp-leasefile=/run/leases",
            "--pid-file=/run/dnsmasq.pid",
        ];
        words.push(&range);
        words.extend(more);
        self.machine.start("dnsmasq", &words);
        self.machine.until("grep -q :0043 /proc/net/udp");
    }

    /// Has it go away without a word; [`Self::go_on`] brings it back.
    pub fn fall_silent(&self) {
        self.machine.sh("kill -9 $(cat /run/dnsmasq.pid)");
        self.machine.until("! grep -q :0043 /proc/net/udp");
    }

    /// What it has leased now.
    pub fn leases(&self) -> Vec<Leased> {
        let text = self.machine.sh("cat /run/leases 2>/dev/null || :");
        let read = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [end, mac, address, host, client] = words.as_slice() else {
                return None;
            };
            Some(Leased {
                end: end.parse().ok()?,
                mac: (*mac).to_owned(),
                address: (*address).to_owned(),
                host: (*host).to_owned(),
                client: (*client).to_owned(),
            })
        };
        text.lines().filter_map(read).collect()
    }

    /// Who has leased what: all that it knows of a client but the end.
    pub fn clients(&self) -> Vec<Leased> {
        let known = |lease: Leased| Leased { end: 0, ..lease };
        self.leases().into_iter().map(known).collect()
    }

    /// The lease of one address.
    pub fn lease(&self, address: &str) -> Leased {
        let mut all = self.leases().into_iter();
        all.find(|lease| lease.address == address)
            .unwrap_or_else(|| panic!("nobody has leased {address}: {:?}", self.leases()))
    }
}

/// Up to a thousand echo requests a second to each of some addresses, and as many
/// to the one who asks: what is lost of those the machine that runs the test has
/// lost, which was too busy to read the answers. What is late is not made up
/// for: several requests at once would be lost in a moment of one.
pub struct Stream {
    pings: Vec<(String, Child)>,
}

/// The one who asks.
const CONTROL: &str = "127.0.0.1";

/// What became of the requests to one address.
#[derive(Debug)]
pub struct Count {
    /// The address.
    pub to: String,
    /// How many were sent.
    pub sent: u64,
    /// How many had no answer.
    pub lost: u64,
}

impl Stream {
    /// Begins to ask from a namespace, whose addresses in the LAN are
    /// 192.0.2.1 and 2001:db8::1.
    pub fn start(ns: &Namespace, to: &[&str]) -> Self {
        let ping = |to: &&str| {
            let mut command: Command = ns.command("ping");
            command
                .args(["-n", "-q", "-i", "0.001", to])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            ((*to).to_owned(), command.spawn().unwrap())
        };
        let stream = Self {
            pings: to.iter().chain([&CONTROL]).map(ping).collect(),
        };
        // What goes wrong later is nobody's but the hand-over's.
        sleep(Duration::from_millis(300));
        stream
    }

    /// Ends, and counts what is lost of the host's.
    pub fn end(mut self) -> Vec<Count> {
        // What the hand-over has left behind may show a moment later.
        sleep(Duration::from_millis(300));
        let count = |(to, child): (String, Child)| {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().find(|line| line.contains("packets transmitted"));
            let line = line.unwrap_or_else(|| panic!("{text}"));
            let numbers: Vec<u64> = line
                .split([' ', ','])
                .filter_map(|word| word.parse().ok())
                .collect();
            // The last one was sent just now: its answer may be on its way.
            let missing = numbers[0] - numbers[1].min(numbers[0]);
            Count {
                to,
                sent: numbers[0],
                lost: missing,
            }
        };
        let mut counts: Vec<Count> = std::mem::take(&mut self.pings).into_iter().map(count).collect();
        println!("{counts:?}");
        let control = counts.pop().unwrap().lost;
        for count in &mut counts {
            count.lost = count.lost.saturating_sub(control);
        }
        counts
    }

    /// Ends, and asserts that at most so many were lost to each address.
    pub fn assert_lost_at_most(self, most: u64) {
        for count in self.end() {
            assert!(count.sent > 50, "{count:?}");
            assert!(count.lost <= most, "{count:?}");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for (_, child) in &mut self.pings {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What happens to a host's addresses and routes, as `ip monitor` tells it.
pub struct Monitor {
    child: Child,
}

impl Monitor {
    /// Begins to listen.
    pub fn start(ns: &Namespace) -> Self {
        let mut command: Command = ns.command("ip");
        command
            .args(["-ts", "-o", "monitor", "address", "route"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        sleep(Duration::from_millis(100));
        Self { child }
    }

    /// Ends, and gives what was heard, a line each.
    pub fn end(self) -> Vec<String> {
        let Self { child } = self;
        run(Command::new("kill").arg(child.id().to_string()));
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    }
}
