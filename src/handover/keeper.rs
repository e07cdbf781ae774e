//! A lease without a manager that could be moved: vmbr's own keeper renews it
//! on the bridge ([`crate::keeper`]).
//!
//! A client that runs is neither ended nor started: it is stopped by SIGSTOP
//! and goes on by SIGCONT. BusyBox's udhcpc counts the time of its lease by how
//! long its waits took (`udhcpc_main()`, networking/udhcp/dhcpc.c); it is told
//! to renew (SIGUSR1) when it wakes, and nobody's script has taken an address
//! away meanwhile. Started anew, its script would do that first.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::keeper::file::{Duty, Files, Told};
use crate::model::{Family, IfName};
use crate::netlink::dump;
use crate::plan::Record;
use crate::plan::hold::{Client, Kept};
use crate::sys::pidfd::PidFd;

use super::{Handover, HandoverError, service};

/// Its name, as people know it.
const NAME: &str = "vmbr's lease keeper";
/// How long a caller waits for the server's word.
const PATIENCE: Duration = Duration::from_secs(4);
const TICK: Duration = Duration::from_millis(10);

/// The systemd unit of a bridge's keeper.
pub fn unit(bridge: &IfName) -> String {
    format!("vmbr-keeper-{bridge}")
}

impl Handover for Kept {
    fn name(&self) -> &'static str {
        NAME
    }

    fn commands(&self, record: &Record) -> Vec<String> {
        let bridge = &record.bridge.name;
        let stop = self
            .client
            .iter()
            .map(|client| format!("kill -STOP {}   # {}", client.process.pid, client.name));
        let keep = format!(
            "systemd-run --unit={} vmbr keeper --bridge {bridge}   # stays running",
            unit(bridge)
        );
        stop.chain([keep]).collect()
    }

    fn commands_back(&self, record: &Record) -> Vec<String> {
        let end = format!("systemctl stop {}", unit(&record.bridge.name));
        let client = self.client.iter();
        let go_on = client.map(|client| format!("kill -CONT {}   # {}", client.process.pid, client.name));
        [end].into_iter().chain(go_on).collect()
    }

    fn prepare(&self, _: &Record) -> Result<(), HandoverError> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        // From now on it puts no address on a port.
        let stopped = client
            .process
            .hold()
            .and_then(|held| held.signal(Signal::SIGSTOP));
        stopped.map_err(|error| HandoverError {
            manager: NAME,
            message: format!(
                "cannot stop {} (process {}): {error}",
                client.name, client.process.pid
            ),
            remedy: "see whether it has ended meanwhile, then try again".into(),
        })
    }

    fn to_bridge(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let bridge = &record.bridge.name;
        let failed = |what: String| HandoverError {
            manager: NAME,
            message: what,
            remedy: "see 'journalctl -t vmbr', then try again".into(),
        };
        end(record).map_err(|error| failed(format!("one that ran before does not end: {error}")))?;
        self.prepare(record)?;
        let files = Files::of(&record.namespace);
        let duty = self
            .duty(record)
            .ok_or_else(|| failed(format!("{} has no {}", bridge, self.address)))?;
        files.order(&duty).map_err(|error| {
            failed(format!(
                "cannot write its duty to {}: {error}",
                files.directory().display()
            ))
        })?;
        start(&files, bridge).map_err(failed)?;
        let told = await_word(&files, bridge);
        let holder = self
            .client
            .as_ref()
            .map_or("its client", |client| client.name.as_str());
        match told {
            None => Err(failed("it does not start".into())),
            Some(told) if told.state == "refused" => Err(HandoverError {
                manager: NAME,
                message: format!(
                    "the DHCP server does not confirm that {} is leased to this host as {holder} has asked for it",
                    self.address
                ),
                remedy: "give the host a fixed address, then try again".into(),
            }),
            Some(told) if told.state == "bound" => Ok(Vec::new()),
            // A guess that nobody confirms is none.
            Some(_) if self.sent.identities.len() > 1 => Err(HandoverError {
                manager: NAME,
                message: format!(
                    "no DHCP server confirms within {} s that {} is leased to this host, and as whom it was is not known",
                    PATIENCE.as_secs(),
                    self.address
                ),
                remedy:
                    "start a DHCP client that vmbr can move, or give the host a fixed address, then try again"
                        .into(),
            }),
            Some(told) => {
                let end = told.seconds_left().map_or_else(
                    || "when its lease ends is not known".to_owned(),
                    |seconds| format!("its lease ends in {seconds} s"),
                );
                Ok(vec![format!(
                    "no DHCP server has confirmed {} within {} s: the lease keeper goes on asking; {end}",
                    self.address,
                    PATIENCE.as_secs()
                )])
            }
        }
    }

    /// It stays where a change is under way; it may have been killed since.
    fn resume(&self, record: &Record) {
        // Where it cannot be, `status` and `doctor` tell of it.
        let _ = revive(&record.namespace, &record.bridge.name);
    }

    fn to_uplink(&self, record: &Record) -> Result<Vec<String>, HandoverError> {
        let uplink = &record.uplink.name;
        let told = Files::of(&record.namespace).told(&record.bridge.name);
        let granted = told.is_some_and(|told| told.known_as.is_some());
        let ended = end(record);
        let mut warnings = Vec::new();
        let now = leased(record);
        match &self.client {
            Some(client) => match go_on(client, granted) {
                Ok(true) => warnings.extend(now.filter(|now| *now != self.address).map(|now| {
                    format!(
                        "{uplink} has {now} since the server gave it: {} still believes in {}, and takes {now} away for a moment when the server tells it so",
                        client.name, self.address
                    )
                })),
                Ok(false) => warnings.push(format!(
                    "{} (process {}) has ended meanwhile: nobody renews the lease of {uplink} until it is started again: {}",
                    client.name, client.process.pid, client.command
                )),
                Err(error) => {
                    return Err(HandoverError {
                        manager: NAME,
                        message: format!(
                            "cannot let {} (process {}) go on: {error}",
                            client.name, client.process.pid
                        ),
                        remedy: format!("kill -CONT {}", client.process.pid),
                    });
                }
            },
            None => warnings.push(format!(
                "nobody renews the lease of {} on {uplink}, as before: start a DHCP client, or give the host a fixed address",
                now.unwrap_or(self.address)
            )),
        }
        // Not before its client has heard of it, should this be cut short.
        let ended = ended.and_then(|()| Files::of(&record.namespace).forget(&record.bridge.name));
        ended.map_err(|error| HandoverError {
            manager: NAME,
            message: format!("it does not end: {error}"),
            remedy: format!(
                "systemctl stop {}, and kill what is left of 'vmbr keeper'",
                unit(&record.bridge.name)
            ),
        })?;
        Ok(warnings)
    }
}

impl Kept {
    /// What the keeper is told; none where the address is not there.
    fn duty(&self, record: &Record) -> Option<Duty> {
        let before = &record.before;
        let is_ours = |local: &IpAddr| *local == IpAddr::V4(self.address);
        let mut address = before.addresses.iter().find(|a| is_ours(&a.local))?.clone();
        // What is left of it now.
        let live = dump::network().ok()?;
        let mut here = live.addresses_of(&record.bridge.name).iter();
        if let Some(here) = here.find(|a| is_ours(&a.local)) {
            (address.valid, address.preferred) = (here.valid, here.preferred);
        }
        let default = before.routes.iter().find(|route| {
            route.family() == Family::V4
                && route.dst.len == 0
                && route.hops.iter().any(|hop| hop.via.is_some())
        });
        Some(Duty {
            bridge: record.bridge.name.clone(),
            uplink: record.uplink.index,
            mac: record.uplink.mac,
            address,
            server: self.server,
            sent: self.sent.clone(),
            route: default.cloned(),
        })
    }
}

/// The address that the keeper has had last, on the uplink now.
fn leased(record: &Record) -> Option<Ipv4Addr> {
    let live = dump::network().ok()?;
    let mut here = live.addresses_of(&record.uplink.name).iter();
    let before = |a: &&crate::model::Address| record.before.addresses.iter().any(|b| b.local == a.local);
    let new = here.find(|a| a.family() == Family::V4 && !before(a))?;
    match new.local {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Lets a stopped client go on; whether it is there. Where a server has
/// `granted` the lease meanwhile, it asks for that as soon as it wakes.
fn go_on(client: &Client, granted: bool) -> std::io::Result<bool> {
    let Ok(held): std::io::Result<PidFd> = client.process.hold() else {
        return Ok(false);
    };
    let gone = |error: &std::io::Error| error.raw_os_error() == Some(libc::ESRCH);
    // Only once: udhcpc that is told so while it asks already gives up what it
    // has (`perform_renew()`, networking/udhcp/dhcpc.c).
    let signals = [
        Some(Signal::SIGUSR1).filter(|_| granted && is_stopped(client)),
        Some(Signal::SIGCONT),
    ];
    for signal in signals.into_iter().flatten() {
        match held.signal(signal) {
            Err(error) if gone(&error) => return Ok(false),
            other => other?,
        }
    }
    Ok(true)
}

/// Whether a client is stopped (`T` of proc_pid_stat(5)).
fn is_stopped(client: &Client) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", client.process.pid));
    let state = text.ok().and_then(|text| {
        let (_, rest) = text.rsplit_once(')')?;
        rest.split_ascii_whitespace().next().map(|word| word == "T")
    });
    state.unwrap_or(false)
}

/// Starts the keeper of a bridge, which has its duty.
///
/// # Errors
/// In words.
pub fn start(files: &Files, bridge: &IfName) -> Result<(), String> {
    let program = own_program()?;
    let description = format!("Renews the DHCP lease of {bridge}");
    let failed = |error: std::io::Error| format!("it cannot be started: {error}");
    if service::is_systemds() {
        let arguments = ["keeper", "--bridge", bridge.as_str()];
        return service::start_with(
            &unit(bridge),
            &description,
            &program,
            &arguments,
            &properties(files),
        )
        .map_err(failed);
    }
    let arguments = ["keeper", "--bridge", bridge.as_str(), "--supervise"];
    service::start(&unit(bridge), &description, &program, &arguments).map_err(failed)
}

/// Starts the keeper of a bridge again, unless it runs.
///
/// # Errors
/// In words.
pub fn revive(namespace: &str, bridge: &IfName) -> Result<(), String> {
    let files = Files::of(namespace);
    let lives = || files.told(bridge).is_some_and(|told| told.is_alive());
    if lives() {
        return Ok(());
    }
    if files.duty(bridge)?.is_none() {
        return Err("what it was told is gone: vmbr down, then vmbr up".into());
    }
    // Who would start it again, too.
    service::stop(&unit(bridge));
    service::kill(&program_name(), &["keeper", bridge.as_str()]).map_err(|error| error.to_string())?;
    start(&files, bridge)?;
    let deadline = Instant::now() + PATIENCE;
    while !lives() && Instant::now() < deadline {
        sleep(TICK);
    }
    if lives() {
        Ok(())
    } else {
        Err("it does not start: see journalctl -t vmbr".into())
    }
}

/// How systemd confines it, and that it starts it again.
fn properties(files: &Files) -> Vec<String> {
    let writes = format!("ReadWritePaths={}", files.directory().display());
    [
        "Restart=on-failure",
        "RestartSec=1",
        "StartLimitIntervalSec=0",
        "ProtectSystem=strict",
        &writes,
        "ProtectHome=read-only",
        "NoNewPrivileges=yes",
        // CAP_SETPCAP to empty the bounding set, then it goes.
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SETPCAP",
        "RestrictAddressFamilies=AF_INET AF_NETLINK AF_PACKET AF_UNIX",
        "MemoryDenyWriteExecute=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "LockPersonality=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes",
        "SystemCallArchitectures=native",
        "DevicePolicy=closed",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The program that runs, as it can be started again.
fn own_program() -> Result<PathBuf, String> {
    let path =
        std::env::current_exe().map_err(|error| format!("cannot tell which program this is: {error}"))?;
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is gone: was vmbr updated meanwhile?", path.display()))
    }
}

/// The name of the program that runs.
fn program_name() -> String {
    let path = std::env::current_exe().ok();
    let name = path
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(OsStr::to_str);
    name.map_or("vmbr", |name| name.trim_end_matches(" (deleted)"))
        .to_owned()
}

/// Ends the keeper of a record's bridge. What it told stays.
fn end(record: &Record) -> std::io::Result<()> {
    let bridge = &record.bridge.name;
    let files = Files::of(&record.namespace);
    // First: whoever starts it again ends it with that.
    files.dismiss(bridge)?;
    service::stop(&unit(bridge));
    let own = program_name();
    // The one who starts it again is one of them, and may be quicker.
    for _ in 0..3 {
        if service::kill(&own, &["keeper", bridge.as_str()])? == 0 {
            break;
        }
    }
    if let Some(told) = files.told(bridge) {
        service::kill_one(&told.process)?;
    }
    Ok(())
}

/// What the keeper tells as soon as it has something to tell, or after some
/// time.
fn await_word(files: &Files, bridge: &IfName) -> Option<Told> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = files.told(bridge);
        let decided = told
            .as_ref()
            .is_some_and(|told| ["bound", "refused"].contains(&told.state.as_str()));
        if decided || Instant::now() >= deadline {
            return told;
        }
        sleep(TICK);
    }
}
