//! A host on which `vmbr` comes to harm, and what must be true afterwards.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::strike::{Moment, Tracee, processes};
use crate::common::{Ended, Namespace, run, wait_until};
use crate::host::{Host, State};

/// The program.
pub const VMBR: &str = env!("CARGO_BIN_EXE_vmbr");
/// How long a host may be cut off, and not be itself, after anything.
pub const LIMIT: Duration = Duration::from_secs(1);
/// How long a command may take that has to wait for nothing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An ordinary host: both families, static.
pub const ORDINARY: &str = "
    ip link set eth0 up
    ip addr add 192.0.2.21/24 brd + dev eth0
    ip addr add 2001:db8::21/64 dev eth0 nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8::1";

/// One with all that makes it hard: strict rp_filter, secondaries, several
/// prefixes, a default route as from a router's advertisement, a second NIC.
pub const HOSTILE: &str = "
    sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.arp_ignore=1 net.ipv4.conf.eth0.arp_announce=2
    ip link set eth0 up
    ip link set eth1 up
    for a in 192.0.2.21/24 192.0.2.22/24 203.0.113.5/24 203.0.113.4/24; do ip addr add $a dev eth0; done
    for a in 2001:db8::21/64 2001:db8::20/64 2001:db8:5::1/48; do ip addr add $a dev eth0 nodad; done
    ip addr add 198.51.100.21/24 dev eth1
    ip addr add 2001:db8:1::21/64 dev eth1 nodad
    ip route add default via 192.0.2.1
    ip route add default via 198.51.100.1 metric 500
    ip route add 10.9.0.0/16 via 192.0.2.2 src 192.0.2.22
    ip -6 route add default via fe80::1 dev eth0 proto static expires 1800
    ip rule add from 192.0.2.22 lookup 77
    ip route add default via 192.0.2.2 table 77
    until ip nexthop add id 7 via 192.0.2.2 dev eth0 2>/dev/null; do sleep 0.05; done
    ip nexthop add id 8 via fe80::2 dev eth0
    ip nexthop add id 9 group 7
    ip route add 10.8.0.0/16 nhid 9
    ip -6 route add 2001:db8:8::/48 nhid 8
    ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0";

/// Which of the two whole states a host is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// The NIC carries its network, as if nothing had been.
    Nic,
    /// The bridge does.
    Bridge,
}

/// Where `vmbr` is struck.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Which of the calls that change something, from 1.
    pub nth: usize,
    /// Before or after it.
    pub moment: Moment,
}

/// One victim at a time: the kernel has one lock for all namespaces' devices,
/// and one test's namespaces that go would hold up what another measures.
static ALONE: Mutex<()> = Mutex::new(());

/// The right to be the only victim, until it is dropped.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host, and what it was.
pub struct Victim {
    /// The host.
    pub host: Host,
    /// Its state, the NIC carrying its network.
    pub before: State,
}

impl Victim {
    /// Makes it. Its first bridge goes again before the look: what the kernel
    /// keeps of a NIC that ever was a port is no matter of these tests.
    pub fn new(hint: &str, script: &str) -> Self {
        let host = Host::new(hint, script);
        host.vmbr(&["up", "eth0"]).ok();
        host.vmbr(&["down"]).ok();
        let before = host.state();
        Self { host, before }
    }

    /// The names of the calls of `vmbr ARGS` that change something, in their
    /// order. The command goes to its end.
    pub fn changes_of(&self, args: &[&str]) -> Vec<String> {
        let mut tracee = self.start(args);
        std::iter::from_fn(|| tracee.next_change()).collect()
    }

    /// `vmbr ARGS`, held before its first instruction.
    pub fn start(&self, args: &[&str]) -> Tracee {
        let directory = self.host.records().to_str().unwrap();
        let mut all = vec![VMBR, "--state-dir", directory];
        all.extend(args);
        Tracee::start(&self.host.ns, &self.log(), &all)
    }

    /// What a command that was held has said.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.host.records().join("said")
    }

    /// The processes of vmbr that run.
    pub fn alive(&self) -> Vec<i32> {
        processes(&self.host.ns, VMBR)
    }

    /// Kills all processes of vmbr, and waits until they are dead: on a busy
    /// machine that takes a moment.
    pub fn kill_all(&self) {
        let killed = self.alive();
        for pid in &killed {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        // One that ends has left its namespaces before it is dead (do_exit(),
        // kernel/exit.c): it is looked for by its number.
        let is_dead = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            matches!(state, None | Some('Z' | 'X'))
        };
        let dead = wait_until(PATIENCE, || self.alive().is_empty() && killed.iter().all(is_dead));
        assert!(dead, "they live: {:?}", self.alive());
    }

    /// Runs `vmbr ARGS`; a sentence where its status is another than one of these.
    pub fn vmbr(&self, args: &[&str], allowed: &[i32]) -> Result<Ended, String> {
        let ended = self.host.vmbr(args);
        match ended.status.code() {
            Some(code) if allowed.contains(&code) => Ok(ended),
            _ => Err(format!("vmbr {}: {ended:?}", args.join(" "))),
        }
    }

    /// Waits until host and LAN reach each other over both families, and gives
    /// the time since `from`.
    pub fn reachable(&self, from: Instant, limit: Duration) -> Result<Duration, String> {
        let host = &self.host;
        for (ns, to) in [
            (&host.ns, "192.0.2.1"),
            (&host.lan, "192.0.2.21"),
            (&host.ns, "2001:db8::1"),
            (&host.lan, "2001:db8::21"),
        ] {
            let answered = wait_until(limit.saturating_sub(from.elapsed()), || answers(ns, to));
            let taken = from.elapsed();
            if !answered || taken > limit {
                let near = ns.ip(&["neigh", "show", "to", to]);
                return Err(format!(
                    "{to} from {}: {} after {} ms; {near}",
                    ns.name(),
                    if answered { "an answer" } else { "none" },
                    taken.as_millis()
                ));
            }
        }
        Ok(from.elapsed())
    }

    /// The progress of every record's file, by name.
    pub fn records(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for directory in fs::read_dir(self.host.records()).unwrap().flatten() {
            for entry in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.ends_with(".json") {
                    continue;
                }
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let value: Value = serde_json::from_str(&text).unwrap_or_default();
                // A rollback is remembered for `status`, in a file of its own.
                if let Some(progress) = value["progress"].as_str() {
                    found.push((name, progress.to_owned()));
                }
            }
        }
        found
    }

    /// Whether the host is in one of the two whole states, and its records say
    /// the same.
    pub fn whole(&self) -> Result<Whole, String> {
        let state = self.host.state();
        let records = self.records();
        let (whole, differences) = if state.has_link("br0") {
            (Whole::Bridge, self.before.not_moved(&state, "eth0", "br0"))
        } else {
            (Whole::Nic, self.before.changes(&state))
        };
        if !differences.is_empty() {
            return Err(format!("{whole:?}, but: {}", differences.join("; ")));
        }
        let told: Vec<&str> = records.iter().map(|(_, progress)| progress.as_str()).collect();
        match (whole, told.as_slice()) {
            (Whole::Nic, []) => Ok(whole),
            (Whole::Bridge, ["settled"]) => Ok(whole),
            _ => Err(format!("{whole:?}, but the records say {records:?}")),
        }
    }

    /// All that must be true within [`LIMIT`] of `from` when nobody does
    /// anything. Gives the whole state and the time to be reachable.
    pub fn comes_back(&self, from: Instant) -> Result<(Whole, Duration), String> {
        let taken = self.reachable(from, LIMIT)?;
        let left = LIMIT.saturating_sub(from.elapsed());
        let idle = || self.alive().is_empty() && self.records().iter().all(|(_, p)| p != "changing");
        if !wait_until(left, idle) {
            return Err(format!(
                "after {} ms: processes {:?}, records {:?}",
                from.elapsed().as_millis(),
                self.alive(),
                self.records()
            ));
        }
        Ok((self.whole()?, taken))
    }

    /// All that must be true as soon as a command has mended the host.
    pub fn is_back(&self) -> Result<Whole, String> {
        self.reachable(Instant::now(), LIMIT)?;
        match self.alive().as_slice() {
            [] => self.whole(),
            left => Err(format!("still running: {left:?}")),
        }
    }

    /// Brings the host to one of the two states by vmbr itself.
    pub fn bring_to(&self, whole: Whole) -> Result<(), String> {
        match whole {
            Whole::Nic => self.vmbr(&["down"], &[0]),
            Whole::Bridge => self.vmbr(&["up", "eth0"], &[0]),
        }?;
        match self.is_back()? {
            reached if reached == whole => Ok(()),
            other => Err(format!("{other:?} instead of {whole:?}")),
        }
    }
}

/// Whether one ping is answered, soon. Not by `ip netns exec`, which mounts a
/// /sys: that waits for whoever else mounts one, and time is measured here.
pub fn answers(ns: &Namespace, to: &str) -> bool {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", ns.path().display()));
    command.args(["ping", "-n", "-q", "-c", "1", "-W", "0.2", to]);
    run(&mut command).status.success()
}
