//! `vmbr` is killed at every system call that changes the kernel or the disk,
//! or tells something to whoever has the lease, and the host comes back: on
//! the network within a second, its lease held by the one who should.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/crash.rs"]
mod crash;
#[path = "common/holder.rs"]
mod holder;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/network_manager.rs"]
mod network_manager;
#[path = "common/networkd.rs"]
mod networkd;
#[path = "common/pulse.rs"]
mod pulse;
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/udhcpc.rs"]
mod udhcpc;

use std::path::PathBuf;
use std::time::Duration;

use common::strike::{Moment, Tracee, processes};
use common::{run, wait_until};
use crash::{LIMIT, Point, VMBR, Whole, answers};
use holder::{DHCLIENT, KEEPER, Manager, NETWORK_MANAGER, NETWORKD};
use host::{Host, State};
use lease::{Leased, Server};
use machine::Machine;
use pulse::Pulse;
use sweep::{Summary, moments};

/// How long whoever has the lease may take to be where it should be. The host
/// is on the network meanwhile.
const SETTLED: Duration = Duration::from_secs(15);

/// A host whose address is leased, and what it was.
struct Held {
    manager: &'static Manager,
    pulse: Pulse,
    machine: Machine,
    server: Server,
    host: Host,
    addresses: Vec<String>,
    clients: Vec<Leased>,
    carried: String,
    before: State,
}

impl Held {
    fn new(manager: &'static Manager) -> Self {
        let host = Host::new("sweep", manager.up);
        let server = if manager.both {
            Server::both(&host.lan)
        } else {
            Server::start(&host.lan)
        };
        let machine = (manager.start)(&host);
        let addresses = |family: &str| {
            let list = host
                .ns
                .ip(&[family, "-o", "addr", "show", "dev", "eth0", "scope", "global"]);
            let address = |line: &str| {
                let word = line.split_whitespace().nth(3).unwrap();
                word.split('/').next().unwrap().to_owned()
            };
            list.lines().map(address).collect::<Vec<String>>()
        };
        let mut all = addresses("-4");
        if manager.both {
            all.extend(addresses("-6"));
        }
        let ends = ending(&host);
        let mut held = Self {
            manager,
            pulse: Pulse::start(&host.lan, &all[0]),
            clients: server.clients(),
            carried: carried(&host, "eth0"),
            before: host.state(),
            addresses: all,
            machine,
            server,
            host,
        };
        // What the kernel keeps of a NIC that ever was a port is no matter here.
        held.bring_to(Whole::Bridge).unwrap();
        held.machine.vmbr(&held.host, &["down"]).ok();
        held.machine.until(manager.on_nic);
        // A client may set the lease's end a moment after it has the lease.
        assert!(wait_until(SETTLED, || ending(&held.host) == ends));
        held.before = held.host.state().without_routes_to_routers();
        held
    }

    fn log(&self) -> PathBuf {
        self.host.records().join("said")
    }

    /// `vmbr ARGS`, held before its first instruction.
    fn start(&self, args: &[&str]) -> Tracee {
        let directory = self.host.records().to_str().unwrap();
        let mut all = vec![VMBR, "--state-dir", directory];
        all.extend(args);
        Tracee::start_by(self.machine.command("sh"), &self.log(), &all)
    }

    /// The calls of `vmbr ARGS` that change something; it goes to its end.
    fn changes_of(&self, args: &[&str]) -> Vec<String> {
        let mut tracee = self.start(args);
        std::iter::from_fn(|| tracee.next_change()).collect()
    }

    /// The processes of vmbr that run, keepers of leases aside.
    fn alive(&self) -> Vec<i32> {
        let keeps = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"keeper")
        };
        let mut all = processes(&self.host.ns, VMBR);
        all.retain(|pid| !keeps(pid));
        all
    }

    fn vmbr(&self, args: &[&str]) -> Result<(), String> {
        let ended = self.machine.vmbr(&self.host, args);
        if ended.status.code() == Some(0) {
            Ok(())
        } else {
            Err(format!("vmbr {}: {ended:?}; {}", args.join(" "), self.heard()))
        }
    }

    /// The last that who has the lease has said.
    fn heard(&self) -> String {
        let said = self.machine.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn bring_to(&self, whole: Whole) -> Result<(), String> {
        match whole {
            Whole::Nic => self.vmbr(&["down"]),
            Whole::Bridge => self.vmbr(&["up", "eth0"]),
        }?;
        match self.is_whole()? {
            reached if reached == whole => Ok(()),
            other => Err(format!("{other:?} instead of {whole:?}")),
        }
    }

    /// Kills `vmbr` where it is held, with its watchdog where `alone`; then
    /// `recover` mends. Gives where the network is, and how long the host was
    /// silent.
    fn strike(&self, tracee: Tracee, alone: bool) -> Result<(Whole, Duration), String> {
        let me = tracee.pid();
        if alone {
            for pid in self.alive().into_iter().filter(|pid| *pid != me) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let at = tracee.kill();
        if alone {
            self.vmbr(&["recover"])?;
        }
        self.reachable()?;
        let idle = || self.alive().is_empty();
        if !wait_until(SETTLED, idle) {
            return Err(format!("still running: {:?}", self.alive()));
        }
        let whole = self.is_whole()?;
        self.reachable()?;
        let silent = self.pulse.longest_silence(at);
        if silent > LIMIT {
            return Err(format!("{whole:?}, but silent for {} ms", silent.as_millis()));
        }
        Ok((whole, silent))
    }

    /// Host and LAN reach each other, now.
    fn reachable(&self) -> Result<(), String> {
        let far = |own: &String| {
            if own.contains(':') {
                "2001:db8::1"
            } else {
                "192.0.2.1"
            }
        };
        for own in &self.addresses {
            for (ns, to) in [(&self.host.lan, own.as_str()), (&self.host.ns, far(own))] {
                if !wait_until(LIMIT, || answers(ns, to)) {
                    return Err(format!("{to} does not answer {}", ns.name()));
                }
            }
        }
        Ok(())
    }

    /// Where the network is, where all that has to be is there.
    fn is_whole(&self) -> Result<Whole, String> {
        let whole = if self.host.ns.link("br0").is_some() {
            Whole::Bridge
        } else {
            Whole::Nic
        };
        // What a write that was cut short has left. One of the record's own file
        // goes with the next record.
        let torn = self.machine.sh("find /run /var/lib -name '*.new'");
        if !torn.is_empty() {
            return Err(format!("{whole:?}, but there is {torn}"));
        }
        let (carrier, script, record) = match whole {
            Whole::Bridge => ("br0", self.manager.on_bridge, "settled"),
            Whole::Nic => ("eth0", self.manager.on_nic, "none"),
        };
        let records = progress(&self.host);
        if records != record {
            let why = self.vmbr(&["recover"]);
            return Err(format!(
                "{whole:?}, but the record says {records}; recover: {why:?}; {}",
                self.heard()
            ));
        }
        let holds = || {
            run(self.machine.command("sh").args(["-ec", script]))
                .status
                .success()
        };
        if !wait_until(SETTLED, holds) {
            let shown = self
                .machine
                .sh("ps ax; ls /run /run/systemd/network /run/systemd/netif/* 2>/dev/null || :");
            return Err(format!(
                "{whole:?}, but {} is elsewhere: {shown}",
                self.manager.name
            ));
        }
        let mut now = String::new();
        if !wait_until(Duration::from_secs(2), || {
            now = carried(&self.host, carrier);
            now == self.carried
        }) {
            return Err(format!("{whole:?}: {now}\ninstead of\n{}", self.carried));
        }
        let clients = self.server.clients();
        if clients != self.clients {
            return Err(format!(
                "{whole:?}: the server knows {clients:?} instead of {:?}",
                self.clients
            ));
        }
        if whole == Whole::Bridge {
            let port = self.host.ns.ip(&["-o", "addr", "show", "dev", "eth0"]);
            return if port.is_empty() {
                Ok(whole)
            } else {
                Err(format!("on the port: {port}"))
            };
        }
        // Lifetimes are fresh or old.
        let mut changes = Vec::new();
        let same = wait_until(Duration::from_secs(5), || {
            changes = self
                .before
                .changes(&self.host.state().without_routes_to_routers());
            changes.retain(|text| !text.contains("life_time") && !text.contains("expires"));
            changes.is_empty()
        });
        if same {
            Ok(whole)
        } else {
            Err(format!("{whole:?}, but: {}", changes.join("; ")))
        }
    }
}

/// How many of the NIC's addresses have an end.
fn ending(host: &Host) -> usize {
    let all = host.ns.ip(&["-o", "addr", "show", "dev", "eth0"]);
    all.lines().filter(|line| line.contains(" dynamic ")).count()
}

/// The addresses and default routes that a device carries, without its name
/// and without what runs.
fn carried(host: &Host, device: &str) -> String {
    let addresses = host
        .ns
        .ip(&["-o", "addr", "show", "dev", device, "scope", "global"]);
    let mut lines: Vec<String> = addresses
        .lines()
        .map(|line| {
            line.split_whitespace()
                .nth(3)
                .map_or_else(String::new, str::to_owned)
        })
        .collect();
    for family in ["-4", "-6"] {
        let routes = host.ns.ip(&[family, "route", "show", "default"]);
        let words = |line: &str| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            if let Some(place) = words.iter().position(|word| *word == "expires") {
                words.drain(place..place + 2);
            }
            words.join(" ").replace(&format!("dev {device}"), "dev X")
        };
        lines.extend(routes.lines().map(words));
    }
    lines.sort();
    lines.join("\n")
}

/// What the host's record says of its progress; "none" where there is none.
fn progress(host: &Host) -> String {
    for directory in std::fs::read_dir(host.records()).unwrap().flatten() {
        for entry in std::fs::read_dir(directory.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            // One that is being written is not one yet.
            if entry.path().extension().is_none_or(|end| end != "json") {
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(progress) = value["progress"].as_str() {
                return progress.to_owned();
            }
        }
    }
    "none".into()
}

/// A blow.
struct Blow {
    args: &'static [&'static str],
    begin: Whole,
    point: Point,
}

/// Which moments are struck.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// All.
    All,
    /// Before each call.
    Before,
    /// So many in each command, of those after the network itself has moved.
    Sample(usize),
}

impl Which {
    fn points(self, calls: &[String]) -> Vec<Point> {
        match self {
            Self::All => moments(calls, 1),
            Self::Before => moments(calls, 2),
            Self::Sample(count) => {
                let moved = |call: &String| ["flip", "delete link"].iter().any(|v| call.contains(v));
                let from = calls.iter().rposition(moved).unwrap() + 1;
                let step = (calls.len() - from) / count;
                let point = |number: usize| Point {
                    nth: from + step / 2 + number * step + 1,
                    moment: [Moment::Before, Moment::After][number % 2],
                };
                (0..count).map(point).collect()
            }
        }
    }
}

/// `up` and `down` by turns, so that each blow is followed by a whole change of
/// the same sort.
fn blows(held: &Held, which: Which) -> Vec<Blow> {
    let of = |args: &'static [&'static str], begin| {
        let calls = held.changes_of(args);
        assert!(calls.len() > 20, "only {} changes: {calls:?}", calls.len());
        println!("{args:?}: {} changes: {}", calls.len(), calls.join(", "));
        let blow = |point: Point| Blow { args, begin, point };
        which.points(&calls).into_iter().map(blow).collect::<Vec<Blow>>()
    };
    let mut up = of(&["up", "eth0"], Whole::Nic).into_iter();
    let mut down = of(&["down"], Whole::Bridge).into_iter();
    let mut all = Vec::new();
    loop {
        let pair = [up.next(), down.next()];
        if pair.iter().all(Option::is_none) {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

fn sweep(manager: &'static Manager, name: &str, which: Which, alone: bool) {
    let _alone = crash::alone();
    let mut summary = Summary::default();
    let mut held = Held::new(manager);
    for Blow { args, begin, point } in blows(&held, which) {
        let mut what = format!("{} killed {:?} its change {}", args[0], point.moment, point.nth);
        let mut strike = || {
            held.bring_to(begin).map_err(|why| format!("beforehand: {why}"))?;
            let mut tracee = held.start(args);
            match tracee.go_to(point.nth, point.moment) {
                Some(call) => {
                    what = format!("{what} ({call})");
                    held.strike(tracee, alone).map(Some)
                }
                None => held.is_whole().map(|_| None),
            }
        };
        let outcome = strike();
        if let Err(why) = &outcome {
            println!("{what}: {why}");
        }
        if !summary.record(&what, outcome) {
            // What failed may be left behind: a new host.
            held = Held::new(manager);
        }
    }
    summary.conclude(&format!("{}-{name}", manager.name));
}

#[test]
fn killed_anywhere_networkd_has_what_carries_the_network() {
    sweep(&NETWORKD, "sample", Which::Sample(2), false);
}

#[test]
fn killed_anywhere_network_manager_has_what_carries_the_network() {
    sweep(&NETWORK_MANAGER, "sample", Which::Sample(2), false);
}

#[test]
fn killed_anywhere_one_dhclient_has_what_carries_the_network() {
    sweep(&DHCLIENT, "sample", Which::Sample(2), false);
}

#[test]
fn killed_anywhere_the_lease_has_one_client() {
    sweep(&KEEPER, "sample", Which::Sample(2), false);
}

#[test]
#[ignore = "every moment of every hand-over of networkd, twenty minutes"]
fn killed_at_every_call_networkd_has_what_carries_the_network() {
    sweep(&NETWORKD, "untouched", Which::All, false);
    sweep(&NETWORKD, "recover", Which::Before, true);
}

#[test]
#[ignore = "every moment of every hand-over of NetworkManager, half an hour"]
fn killed_at_every_call_network_manager_has_what_carries_the_network() {
    sweep(&NETWORK_MANAGER, "untouched", Which::Before, false);
    sweep(&NETWORK_MANAGER, "recover", Which::Before, true);
}

#[test]
#[ignore = "every moment of every hand-over of dhclient, a quarter of an hour"]
fn killed_at_every_call_one_dhclient_has_what_carries_the_network() {
    sweep(&DHCLIENT, "untouched", Which::All, false);
    sweep(&DHCLIENT, "recover", Which::Before, true);
}

#[test]
#[ignore = "every moment of every hand-over to the lease keeper, a quarter of an hour"]
fn killed_at_every_call_the_lease_has_one_client() {
    sweep(&KEEPER, "untouched", Which::All, false);
    sweep(&KEEPER, "recover", Which::Before, true);
}
