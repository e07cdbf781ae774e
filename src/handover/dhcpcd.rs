//! dhcpcd: the one that works for the uplink is replaced by one that works for
//! the bridge, with the same leases, DUID, IAID (it is made of the MAC) and
//! configuration, and the uplink's metric.
//!
//! When an address goes from its device it takes the lease for lost, and its
//! hooks take the name servers away: it stands still while the network moves,
//! and is killed. The new one finds the addresses there and renews them, its
//! own routes are those that were moved. It writes a title over its arguments
//! (setproctitle(3)), so that its processes are told by that.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::apply::store;
use crate::model::IfName;
use crate::model::route::{METRIC_USER_V6, protocol};
use crate::netlink::dump;
use crate::owners::dhcpcd::{CONFIGURATION, Instance};
use crate::owners::file;
use crate::plan::Record;
use crate::plan::hold::Dhcpcd;
use crate::plan::record::Process;

use super::{Handover, HandoverError, names, service, written};

/// How long the server may take to answer. dhcpcd waits by itself for up to
/// two seconds before it asks.
const PATIENCE: Duration = Duration::from_secs(6);
const TICK: Duration = Duration::from_millis(20);
/// How long it may take to be there, where it has no server to ask.
const START: Duration = Duration::from_millis(500);
/// How long dhcpcd asks for an old lease before it gives it up, in seconds.
const REBOOT: u32 = 5;
/// The metric of its routes is this and the number of the device, unless it is
/// told another (`if_metric` of its if.c).
const METRIC: u32 = 1000;
/// Its files for a device: the last answer of each protocol's server.
const LEASES: [&str; 2] = ["lease", "lease6"];

impl Handover for Dhcpcd {
    fn name(&self) -> &'static str {
        "dhcpcd"
    }

    fn commands(&self, record: &Record) -> Vec<String> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let pids: Vec<String> = self.processes.iter().map(|p| p.pid.to_string()).collect();
        // A person's goes to the background.
        let mut arguments = self.bridges(record);
        arguments.retain(|argument| argument != "-B");
        vec![
            written(&self.for_bridge(record), &self.configuration(record)),
            format!("cp -p {0}/{uplink}.lease {0}/{bridge}.lease", self.directory),
            format!("kill -9 {}", pids.join(" ")),
            format!("{} {}", self.program, arguments.join(" ")),
        ]
    }

    fn commands_back(&self, record: &Record) -> Vec<String> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        // `dhcpcd -P` says where its number is.
        let mut which = self.family.clone().into_iter().collect::<Vec<String>>();
        which.push("-P".into());
        which.extend(self.alone.then(|| bridge.to_string()));
        vec![
            format!("kill -9 $(cat $({} {}))", self.program, which.join(" ")),
            format!("cp -p {0}/{bridge}.lease {0}/{uplink}.lease", self.directory),
            format!("{} {}", self.program, self.uplinks(uplink).join(" ")),
        ]
    }

    fn prepare(&self, _: &Record) -> Result<(), HandoverError> {
        for (at, process) in self.processes.iter().enumerate() {
            let stopped = process.hold().and_then(|held| held.signal(Signal::SIGSTOP));
            if at > 0 && !process.is_alive() {
                // It was there for an announcement.
                continue;
            }
            stopped.map_err(|error| {
                error_of(
                    format!("cannot stop its process {}: {error}", process.pid),
                    "it may have ended meanwhile: try again",
                )
            })?;
        }
        Ok(())
    }

    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            error_of(
                format!("{what}: {error}"),
                "try again; if it stays so, end dhcpcd and give the host a fixed address",
            )
        };
        names::forget(bridge);
        let mut text = self.for_bridge(record);
        text += &left(bridge).map_or_else(String::new, |left| format!("reboot {left}\n"));
        // The host's may be for root alone.
        store::write_as(&self.configuration(record), text.as_bytes(), 0o600)
            .map_err(|error| failed("cannot write its new configuration", &error))?;
        self.copy_leases(uplink, bridge)
            .map_err(|error| failed("cannot copy its leases", &error))?;
        let since = self.modified(bridge);
        end(&self.processes).map_err(|error| failed("cannot end it", &error))?;
        service::start(
            &unit(record, bridge),
            &format!("DHCP client of {bridge} (vmbr)"),
            Path::new(&self.program),
            &self.bridges(record),
        )
        .map_err(|error| failed(&format!("cannot start {} for {bridge}", self.program), &error))?;
        let answered = self.await_answer(bridge, since);
        if self.of_bridge(record).is_empty() {
            return Err(error_of(
                format!("{} ended when it was started for {bridge}", self.program),
                format!("see why: {} {}", self.program, self.bridges(record).join(" ")),
            ));
        }
        names::forget(uplink);
        Ok(silent(bridge, answered))
    }

    fn pause(&self, record: &Record) {
        self.signal_bridges(record, Signal::SIGSTOP);
    }

    fn resume(&self, record: &Record) {
        self.signal_bridges(record, Signal::SIGCONT);
    }

    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            error_of(format!("{what}: {error}"), "start it as it was")
        };
        let alive: Vec<_> = self.processes.iter().filter(|p| p.is_alive()).copied().collect();
        // It is ended first.
        let whole = self.processes.first().is_some_and(Process::is_alive);
        if !self.is_back(record) {
            end(&self.of_bridge(record))
                .map_err(|error| failed(&format!("cannot end the one for {bridge}"), &error))?;
        }
        if whole {
            // It never let go.
            for process in &alive {
                let _ = process.hold().and_then(|held| held.signal(Signal::SIGCONT));
            }
            self.remove_files(record);
            return Ok(Vec::new());
        }
        let mut answered = true;
        let mut warnings = Vec::new();
        if !self.is_back(record) {
            end(&alive).map_err(|error| failed("cannot end what is left of it", &error))?;
            // A client with an older lease is better than none.
            warnings.extend(self.copy_leases(bridge, uplink).err().map(|error| {
                format!(
                    "cannot write the lease of {bridge} to {}: {error}; dhcpcd begins on {uplink} with what is there",
                    self.directory
                )
            }));
            let since = self.modified(uplink);
            let arguments = self.uplinks(uplink);
            service::start_daemon(
                &unit(record, uplink),
                &format!("DHCP client of {uplink}, given back by vmbr"),
                Path::new(&self.program),
                &arguments,
            )
            .map_err(|error| failed(&format!("cannot start {} for {uplink}", self.program), &error))?;
            answered = self.await_answer(uplink, since);
        }
        names::forget(bridge);
        self.remove_files(record);
        warnings.extend(silent(uplink, answered));
        Ok(warnings)
    }
}

impl Dhcpcd {
    /// The arguments of the one that works for the uplink, as it did before.
    fn uplinks(&self, uplink: &IfName) -> Vec<String> {
        let mut arguments = vec!["-q".to_owned()];
        arguments.extend(self.family.clone());
        if let Some(left) = left(uplink) {
            arguments.extend(["-y".into(), left.to_string()]);
        }
        arguments.extend(self.alone.then(|| uplink.to_string()));
        arguments
    }

    fn configuration(&self, record: &Record) -> PathBuf {
        let of = &record.namespace;
        format!("/run/dhcpcd-vmbr-{of}-{}.conf", record.bridge.name).into()
    }

    /// The configuration of the bridge's.
    fn for_bridge(&self, record: &Record) -> String {
        let text = file::read(Path::new(CONFIGURATION), None).map(|kept| kept.text());
        configuration(
            &text.unwrap_or_default(),
            &record.uplink.name,
            &record.bridge.name,
            metric(record),
        )
    }

    /// The arguments of the bridge's.
    fn bridges(&self, record: &Record) -> Vec<String> {
        let configuration = self.configuration(record).display().to_string();
        let mut arguments = vec!["-B".to_owned(), "-q".into(), "-f".into(), configuration];
        arguments.extend(self.family.clone());
        arguments.extend(self.alone.then(|| record.bridge.name.to_string()));
        arguments
    }

    fn lease_file(&self, dev: &IfName, kind: &str) -> PathBuf {
        Path::new(&self.directory).join(format!("{dev}.{kind}"))
    }

    /// The leases of one device become those of another.
    fn copy_leases(&self, from: &IfName, to: &IfName) -> io::Result<()> {
        for kind in LEASES {
            let original = self.lease_file(from, kind);
            let Some(kept) = file::read(&original, None) else {
                continue;
            };
            let copy = self.lease_file(to, kind);
            let mode = fs::metadata(&original)?.permissions().mode();
            store::write_as(&copy, &kept.bytes, mode)?;
            // From then on the lease's time counts.
            if let Some(time) = kept.modified {
                fs::File::options().write(true).open(copy)?.set_modified(time)?;
            }
        }
        Ok(())
    }

    fn remove_files(&self, record: &Record) {
        let _ = store::remove(&self.configuration(record));
        for kind in LEASES {
            let _ = store::remove(&self.lease_file(&record.bridge.name, kind));
        }
    }

    /// When the server's last answer was written down.
    fn modified(&self, dev: &IfName) -> Option<SystemTime> {
        fs::metadata(self.lease_file(dev, LEASES[0]))
            .ok()?
            .modified()
            .ok()
    }

    /// Waits until the server has answered; where it had none before, for a
    /// moment.
    fn await_answer(&self, dev: &IfName, since: Option<SystemTime>) -> bool {
        let began = Instant::now();
        if since.is_none() {
            sleep(START);
            return true;
        }
        // It removes the file where it has given up.
        while self.modified(dev).is_none_or(|now| Some(now) == since) {
            if began.elapsed() > PATIENCE {
                return false;
            }
            sleep(TICK);
        }
        true
    }

    /// The processes of the bridge's.
    fn of_bridge(&self, record: &Record) -> Vec<Process> {
        let mark = self.configuration(record).display().to_string();
        let dev = self.alone.then_some(&record.bridge.name);
        let mut found = Instance::find(dev, Some(&mark)).processes;
        found.retain(|process| !self.processes.contains(process));
        found
    }

    /// Whether another one works for the uplink already, as it did before: the
    /// bridge's has been ended then, and its files are gone.
    fn is_back(&self, record: &Record) -> bool {
        let dev = self.alone.then_some(&record.uplink.name);
        let mut found = Instance::find(dev, None).processes;
        found.retain(|process| !self.processes.contains(process));
        let ended = self.alone || !self.configuration(record).exists();
        ended && !found.is_empty()
    }

    /// Best effort: one that has ended does nothing by itself.
    fn signal_bridges(&self, record: &Record, signal: Signal) {
        for process in self.of_bridge(record) {
            let _ = process.hold().and_then(|held| held.signal(signal));
        }
    }
}

/// Kills all, at once and without a word to anyone.
fn end(processes: &[Process]) -> io::Result<()> {
    processes.iter().try_for_each(service::kill_one)
}

/// The metric of the uplink's routes that are its own.
fn metric(record: &Record) -> u32 {
    let of = |protocol| {
        let mut routes = record
            .before
            .routes
            .iter()
            .filter(move |r| r.protocol == protocol);
        routes.find_map(|route| (route.metric != 0 && route.metric != METRIC_USER_V6).then_some(route.metric))
    };
    of(protocol::DHCP)
        .or_else(|| of(protocol::RA))
        .unwrap_or(METRIC + record.uplink.index)
}

/// For how long the lease of a device is good still, in seconds: so long the
/// new one may ask for it. By itself it takes the address away after five
/// seconds without an answer ("reboot" of dhcpcd.conf(5)).
fn left(dev: &IfName) -> Option<u32> {
    let live = dump::network().ok()?;
    let leased = live.addresses_of(dev).iter();
    let leased = leased.filter(|a| a.local.is_ipv4() && !a.is_permanent());
    leased.map(|a| a.valid).max().filter(|left| *left > REBOOT)
}

/// The configuration (dhcpcd.conf(5)) for the bridge: what is said of the
/// uplink is said of it, and the uplink is let alone.
fn configuration(text: &str, uplink: &IfName, bridge: &IfName, metric: u32) -> String {
    // What stands before the first block is of all devices.
    let mut made = format!("denyinterfaces {uplink}\n");
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["interface", dev, ..] if *dev == uplink.as_str() => made += &format!("interface {bridge}\n"),
            ["allowinterfaces", rest @ ..] => {
                made += &format!("allowinterfaces {} {bridge}\n", rest.join(" "))
            }
            _ => made += &format!("{line}\n"),
        }
    }
    made + &format!("interface {bridge}\nmetric {metric}\n")
}

fn unit(record: &Record, dev: &IfName) -> String {
    let cookie = record.namespace.rsplit('-').next().unwrap_or_default();
    format!("vmbr-dhcpcd-{cookie}-{dev}")
}

fn silent(dev: &IfName, answered: bool) -> Vec<String> {
    let warning = || format!("the DHCP server does not answer on {dev}: dhcpcd goes on asking there");
    (!answered).then(warning).into_iter().collect()
}

fn error_of(message: String, remedy: impl Into<String>) -> HandoverError {
    HandoverError {
        manager: "dhcpcd",
        message,
        remedy: remedy.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_the_uplink_is_said_of_the_bridge() {
        let (eth0, br0) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        let text = "persistent\nallowinterfaces eth*\ninterface eth0\nstatic ip_address=192.0.2.7/24\ninterface eth1\nmetric 5\n";
        let expected = "denyinterfaces eth0\npersistent\nallowinterfaces eth* br0\ninterface br0\n\
                        static ip_address=192.0.2.7/24\ninterface eth1\nmetric 5\ninterface br0\nmetric 1002\n";
        assert_eq!(configuration(text, &eth0, &br0, 1002), expected);
    }
}
