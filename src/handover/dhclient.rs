//! dhclient: one for the uplink is replaced by one for the bridge, with the
//! same leases, DUID and options.
//!
//! The bridge's asks for the address that it finds in its lease file
//! (INIT-REBOOT of RFC 2131) under the same identifier, and the server goes on
//! with the lease. The uplink's stands still while the network moves (it hears
//! every frame of the port, and would put its address there at a renewal), and
//! is ended by SIGKILL once the other has its answer: any other end runs
//! dhclient-script, which takes addresses and name servers away.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::apply::store;
use crate::model::IfName;
use crate::netlink::dump;
use crate::owners::file;
use crate::owners::process::Around;
use crate::plan::Record;
use crate::plan::hold::Dhclient;
use crate::plan::record::Process;

use super::dhclient_leases::{self, Last, Leases};
use super::{Handover, HandoverError, kernel, names, service, written};

/// How long the server may take to answer before it is called silent. Where
/// there is one it takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(4);
const TICK: Duration = Duration::from_millis(20);

/// The files of the bridge's client. Their names are among those that AppArmor
/// lets a dhclient write (Debian's /etc/apparmor.d/sbin.dhclient), and in /run
/// a reboot removes them.
struct Files {
    leases: PathBuf,
    pid: PathBuf,
    configuration: PathBuf,
}

/// What a client for a device was given, and what came of it.
enum Answer {
    /// The server goes on with the lease, or has given another.
    Bound,
    /// Nothing yet.
    Silent,
}

impl Handover for Dhclient {
    fn name(&self) -> &'static str {
        "dhclient"
    }

    fn commands(&self, record: &Record) -> Vec<String> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let files = self.files(record);
        let leases = renamed(uplink, bridge, &self.leases);
        let mut commands = vec![format!("{leases} >{}", files.leases.display())];
        if let Some(from) = &self.configuration {
            let text = file::read(Path::new(from), None).map_or_else(String::new, |kept| kept.text());
            let text = dhclient_leases::configuration(&text, uplink, bridge);
            commands.push(written(&text, &files.configuration));
        }
        // A person's goes to the background.
        let mut arguments = self.bridges(record);
        arguments.retain(|argument| argument != "-d");
        commands.push(format!("{} {}", self.program, arguments.join(" ")));
        commands.push(format!("kill -9 {}", self.process.pid));
        commands
    }

    fn commands_back(&self, record: &Record) -> Vec<String> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let files = self.files(record);
        let leases = renamed(bridge, uplink, &files.leases.display().to_string());
        vec![
            format!("kill -9 $(cat {})", files.pid.display()),
            format!("{leases} >>{}", self.leases),
            self.arguments.join(" "),
        ]
    }

    fn prepare(&self, _: &Record) -> Result<(), HandoverError> {
        let stopped = self.process.hold().and_then(|held| held.signal(Signal::SIGSTOP));
        stopped.map_err(|error| {
            let pid = self.process.pid;
            error_of(
                format!("cannot stop its process {pid}: {error}"),
                "it may have ended meanwhile: try again",
            )
        })
    }

    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let again = "try again; if it stays so, end dhclient and give the host a fixed address";
        let failed = |what: &str, error: &dyn std::fmt::Display| error_of(format!("{what}: {error}"), again);
        let files = self.files(record);
        self.end_bridges(&files)
            .map_err(|error| failed("cannot end an earlier one", &error))?;
        files.remove();
        let leases = read_leases(Path::new(&self.leases));
        let leases = leases.map_err(|error| failed(&format!("its lease file {}", self.leases), &error))?;
        let begun = leases.last(uplink);
        write(&files.leases, &leases.moved(uplink, bridge))
            .map_err(|error| failed("cannot write its new lease file", &error))?;
        if let Some(from) = &self.configuration {
            let text = file::read(Path::new(from), None).map(|kept| kept.text());
            let text =
                text.ok_or_else(|| failed(from, &"it cannot be read, or others than root can write it"))?;
            write(
                &files.configuration,
                &dhclient_leases::configuration(&text, uplink, bridge),
            )
            .map_err(|error| failed("cannot write its new configuration", &error))?;
        }
        names::forget(bridge);
        let before = dump::network().map_err(|error| failed("cannot read the network", &error))?;
        service::start(
            &unit(record, bridge, self.v6),
            &format!("DHCP client of {bridge} (vmbr)"),
            Path::new(&self.program),
            &self.bridges(record),
        )
        .map_err(|error| failed(&format!("cannot start {} for {bridge}", self.program), &error))?;
        let answer = self.await_answer(&files.leases, Some(&files.pid), bridge);
        if !self.runs_on_bridge(&files) {
            return Err(error_of(
                format!("{} ended when it was started for {bridge}", self.program),
                format!("see why: {} {}", self.program, self.bridges(record).join(" ")),
            ));
        }
        service::kill_one(&self.process).map_err(|error| failed("cannot end it", &error))?;
        // Whoever ends the client by the number that is in there ends another
        // process by now.
        if let Some(path) = &self.pid_file {
            let _ = fs::remove_file(path);
        }
        names::forget(uplink);
        let warnings = self.finish(bridge, &files.leases, begun.as_ref(), &answer, &before);
        warnings.map_err(|error| failed(bridge.as_str(), &error))
    }

    fn pause(&self, record: &Record) {
        self.signal_bridges(record, Signal::SIGSTOP);
    }

    fn resume(&self, record: &Record) {
        self.signal_bridges(record, Signal::SIGCONT);
    }

    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
        let again = "see 'dhclient -v' and its lease file, and start it as it was";
        let failed = |what: &str, error: &dyn std::fmt::Display| error_of(format!("{what}: {error}"), again);
        let files = self.files(record);
        self.end_bridges(&files)
            .map_err(|error| failed(&format!("cannot end the one for {bridge}"), &error))?;
        if let Ok(held) = self.process.hold() {
            // It never let go.
            files.remove();
            return match held.signal(Signal::SIGCONT) {
                Ok(()) => Ok(Vec::new()),
                Err(error) => Err(failed("cannot wake it", &error)),
            };
        }
        let original = Path::new(&self.leases);
        let before = dump::network().map_err(|error| failed("cannot read the network", &error))?;
        let mut begun = None;
        let mut answer = Answer::Bound;
        let mut warnings = Vec::new();
        if !self.is_back() {
            // A client with an older lease is better than none.
            warnings.extend(self.give_back_leases(&files, bridge, uplink).err());
            if let Some(path) = &self.pid_file {
                let _ = fs::remove_file(path);
            }
            begun = read_leases(original).ok().and_then(|leases| leases.last(uplink));
            let started = service::start_daemon(
                &unit(record, uplink, self.v6),
                &format!("DHCP client of {uplink}, given back by vmbr"),
                Path::new(&self.program),
                self.arguments.get(1..).unwrap_or_default(),
            );
            started
                .map_err(|error| failed(&format!("cannot start {} for {uplink}", self.program), &error))?;
            let pid = self.pid_file.as_deref().map(Path::new);
            answer = self.await_answer(original, pid, uplink);
        }
        names::forget(bridge);
        files.remove();
        let finished = self.finish(uplink, original, begun.as_ref(), &answer, &before);
        warnings.extend(finished.map_err(|error| failed(uplink.as_str(), &error))?);
        Ok(warnings)
    }
}

impl Dhclient {
    fn files(&self, record: &Record) -> Files {
        let six = if self.v6 { "6" } else { "" };
        let stem = format!(
            "/run/dhclient{six}-vmbr-{}-{}",
            record.namespace, record.bridge.name
        );
        Files {
            leases: format!("{stem}.leases").into(),
            pid: format!("{stem}.pid").into(),
            configuration: format!("{stem}.leases.conf").into(),
        }
    }

    /// The arguments of the bridge's client.
    fn bridges(&self, record: &Record) -> Vec<String> {
        let files = self.files(record);
        let mut arguments = self.options.clone();
        if self.configuration.is_some() {
            arguments.extend(["-cf".into(), files.configuration.display().to_string()]);
        }
        arguments.extend(["-d".into(), "-lf".into(), files.leases.display().to_string()]);
        arguments.extend(["-pf".into(), files.pid.display().to_string()]);
        arguments.push(record.bridge.name.to_string());
        arguments
    }

    /// Adds the bridge's leases to the uplink's; why they could not be, in a
    /// sentence.
    fn give_back_leases(&self, files: &Files, bridge: &IfName, uplink: &IfName) -> Result<(), String> {
        let Ok(theirs) = read_leases(&files.leases) else {
            return Ok(());
        };
        let original = Path::new(&self.leases);
        let text = match read_leases(original) {
            Ok(own) => own.with(&theirs, bridge, uplink),
            // Someone broke it, or removed it.
            Err(_) => theirs.moved(bridge, uplink),
        };
        write(original, &text).map_err(|error| {
            format!(
                "cannot write the lease of {bridge} to {}: {error}; dhclient begins on {uplink} with what is there",
                self.leases
            )
        })
    }

    /// Best effort: one that has ended does nothing by itself.
    fn signal_bridges(&self, record: &Record, signal: Signal) {
        let mark = self.files(record).leases.display().to_string();
        let around = Around::look();
        let roots = around
            .processes
            .iter()
            .filter(|p| p.is_roots() && p.runs("dhclient"));
        for process in roots.filter(|process| process.arguments.contains(&mark)) {
            let held = Process::of(process.id).and_then(|process| process.hold());
            let _ = held.and_then(|held| held.signal(signal));
        }
    }

    fn end_bridges(&self, files: &Files) -> io::Result<usize> {
        service::kill("dhclient", &[&files.leases.display().to_string()])
    }

    fn runs_on_bridge(&self, files: &Files) -> bool {
        let mark = files.leases.display().to_string();
        let around = Around::look();
        let mut roots = around
            .processes
            .iter()
            .filter(|p| p.is_roots() && p.runs("dhclient"));
        roots.any(|process| process.arguments.contains(&mark))
    }

    /// Whether one with all of the uplink's arguments runs.
    fn is_back(&self) -> bool {
        let own: Vec<&String> = self.arguments.iter().skip(1).filter(|a| !a.is_empty()).collect();
        let around = Around::look();
        let mut roots = around
            .processes
            .iter()
            .filter(|p| p.is_roots() && p.runs("dhclient"));
        roots.any(|process| process.arguments.iter().skip(1).eq(own.iter().copied()))
    }

    /// Waits until the server has answered the client of `dev`. With DHCPv6 it
    /// may confirm the lease without a word of the lease in it: there the file
    /// with the number tells, which is written when the client is done.
    fn await_answer(&self, leases: &Path, pid: Option<&Path>, dev: &IfName) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        let answered = || {
            let last = || read_leases(leases).ok()?.last(dev);
            if self.v6 {
                pid.is_none_or(Path::exists)
            } else {
                // The script has run when the number is written.
                last().is_some_and(|last| last.is_answered()) && pid.is_none_or(Path::exists)
            }
        };
        while !answered() {
            if Instant::now() >= deadline {
                return Answer::Silent;
            }
            sleep(TICK);
        }
        Answer::Bound
    }

    /// Brings the kernel up to what the client of `dev` has. `begun` is the
    /// lease that it began with.
    fn finish(
        &self,
        dev: &IfName,
        leases: &Path,
        begun: Option<&Last>,
        answer: &Answer,
        before: &crate::model::HostState,
    ) -> io::Result<Vec<String>> {
        if self.v6 {
            // The script replaces its addresses, lifetimes included.
            return Ok(match answer {
                Answer::Bound => Vec::new(),
                Answer::Silent => vec![silent(dev, None)],
            });
        }
        kernel::drop_seconds(dev, before)?;
        let now = read_leases(leases).ok().and_then(|leases| leases.last(dev));
        let address = |last: &Last| last.value("fixed-address")?.parse::<IpAddr>().ok();
        match answer {
            Answer::Bound => {
                if let Some((local, seconds)) = now.as_ref().and_then(|n| address(n).zip(n.seconds())) {
                    kernel::set_lifetime(dev, local, |_| seconds)?;
                }
                Ok(Vec::new())
            }
            Answer::Silent => {
                let Some((last, local)) = begun.and_then(|b| Some((b, address(b)?))) else {
                    return Ok(vec![silent(dev, None)]);
                };
                // Should the server answer later, the client finds its address
                // there and leaves the kernel's end of it as it is, until it
                // renews for the first time. It takes the address away itself
                // when the lease is over.
                let more = last.seconds().unwrap_or_default();
                kernel::set_lifetime(dev, local, |a| a.valid.saturating_add(more))?;
                Ok(vec![silent(dev, last.value("expire"))])
            }
        }
    }
}

impl Files {
    fn remove(&self) {
        for path in [&self.leases, &self.pid, &self.configuration] {
            let _ = store::remove(path);
        }
    }
}

/// The command that gives the leases in a file another device.
fn renamed(from: &IfName, to: &IfName, file: &str) -> String {
    format!("sed 's/\"{from}\"/\"{to}\"/' {file}")
}

fn error_of(message: String, remedy: impl Into<String>) -> HandoverError {
    HandoverError {
        manager: "dhclient",
        message,
        remedy: remedy.into(),
    }
}

fn silent(dev: &IfName, end: Option<&str>) -> String {
    // `expire 2 2026/11/24 00:45:12` begins with the day of the week.
    let end = end
        .and_then(|end| end.split_once(' '))
        .map_or_else(String::new, |(_, time)| {
            format!(
                "; the lease ends at {} UTC",
                crate::owners::process::printable(time)
            )
        });
    format!("the DHCP server does not answer on {dev}: dhclient goes on asking there{end}")
}

fn unit(record: &Record, dev: &IfName, v6: bool) -> String {
    let six = if v6 { "6" } else { "" };
    let cookie = record.namespace.rsplit('-').next().unwrap_or_default();
    format!("vmbr-dhclient{six}-{cookie}-{dev}")
}

/// Reads a lease file.
///
/// # Errors
/// In words.
fn read_leases(path: &Path) -> Result<Leases, &'static str> {
    let kept = file::read(path, None).ok_or("it is not there, or others than root can write it")?;
    let text = String::from_utf8(kept.bytes).map_err(|_| "it is malformed")?;
    Leases::read(&text).ok_or("it is malformed")
}

/// Writes a file that root alone reads, as the one that it is made of may be;
/// in the place of another with that one's mode.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(0o600, |is| is.permissions().mode());
    store::write_as(path, text.as_bytes(), mode)
}
