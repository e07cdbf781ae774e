//! The keeper at its work: the one place where it hears, says and changes
//! anything.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

use macaddr::MacAddr6;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use crate::apply::executor::Executor;
use crate::apply::{clock, lock};
use crate::model::IfName;
use crate::netlink::changes::Changes;
use crate::netlink::dump;
use crate::netlink::wire::Wire;
use crate::plan::Plan;
use crate::plan::record::Process;
use crate::sys::packet::PacketSocket;
use crate::sys::syslog::{Facility, Log, Severity};

use super::apply;
use super::confine::confine;
use super::file::{Duty, Files, Told, tell};
use super::lease::Lease;
use super::machine::{Action, Event, Held, Machine, Phase, Time};
use super::message::{self, Answer, CLIENT_PORT, SERVER_PORT, Way};

/// The longest sleep: the clock of the waiting stands still while the machine
/// sleeps, that of the lease does not.
const LONGEST_SLEEP: Time = 30_000;
/// How soon what another vmbr's change has put off is tried again.
const AGAIN: Time = 300;
/// More packets are not read before something else is looked at.
const BURST: usize = 32;
/// Longer packets are none of ours: what is longer is cut.
const LARGEST: usize = 2048;

/// Something that the kernel has yet to be told.
#[derive(Debug)]
enum Due {
    Keep { lease: Lease, old: Option<Ipv4Addr> },
    Drop(Ipv4Addr),
}

/// A keeper.
struct Keeper<'a> {
    namespace: &'a str,
    duty: Duty,
    machine: Machine,
    process: Process,
    random: File,
    told: File,
    log: Option<Log>,
    last: Option<Told>,
    /// Open only while an answer is waited for.
    ears: Option<PacketSocket>,
    /// Keeps the port of clients open for a server that is spoken to.
    port: Option<UdpSocket>,
    due: Vec<Due>,
    ways: Option<Vec<Way>>,
}

/// Keeps the lease of a bridge in the namespace of this name, until the bridge
/// is gone or the duty is taken away.
///
/// # Errors
/// In words. Whoever started it starts it again.
pub fn run(namespace: &str, bridge: &IfName) -> Result<(), String> {
    let files = Files::of(namespace);
    let Some(duty) = files.duty(bridge)? else {
        return Ok(());
    };
    let said = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let changes = Changes::of(duty.uplink).map_err(|e| said("cannot hear of changes", &e))?;
    let mut wire = Wire::open().map_err(|e| said("no netlink socket", &e))?;
    let Some(mut uplink) = look(&mut wire, &duty) else {
        return Ok(());
    };
    let before = files.told(bridge);
    let now = clock::boot_milliseconds();
    let process = Process::this().map_err(|e| said("cannot tell who this is", &e))?;
    let mut keeper = Keeper {
        namespace,
        machine: machine(&duty, before.as_ref(), now),
        process,
        random: File::open("/dev/urandom").map_err(|e| said("/dev/urandom", &e))?,
        told: files
            .open(bridge)
            .map_err(|e| said("cannot write what is kept", &e))?,
        log: Log::connect(Facility::Daemon, &format!("vmbr[{}]", std::process::id())).ok(),
        last: None,
        ears: None,
        port: None,
        due: Vec::new(),
        ways: None,
        duty,
    };
    confine()?;
    keeper.step(Event::Link(uplink.carrier))?;
    loop {
        keeper.wait(&changes)?;
        if changes.heard().map_err(|e| said("cannot hear of changes", &e))? {
            let home = look(&mut wire, &keeper.duty).filter(|now| now.bridge == uplink.bridge);
            // Else the uplink is no port of the bridge any more: `vmbr down`,
            // or someone else.
            let home = home.or_else(|| come_back(&files, namespace, &keeper.duty, &mut wire));
            let Some(now) = home else {
                return Ok(());
            };
            // The kernel tells of it late, and may tell of the end alone.
            if now.losses != uplink.losses {
                keeper.step(Event::Link(false))?;
            }
            keeper.step(Event::Link(now.carrier))?;
            uplink = now;
        }
        for answer in keeper.hear()? {
            keeper.step(Event::Heard(answer))?;
        }
        keeper.step(Event::Tick)?;
    }
}

/// Waits until the uplink is a port of the bridge again, for as long as a vmbr
/// is at work and has not taken the duty away: a `down` whose gateways are
/// silent leads back. None where there is nothing to keep.
fn come_back(files: &Files, namespace: &str, duty: &Duty, wire: &mut Wire) -> Option<Uplink> {
    loop {
        // Asked first: where it has ended, what is found next is final.
        let at_work = lock::is_held(namespace) == Some(true);
        files.duty(&duty.bridge).ok()??;
        // It may have been made anew.
        let is_bridge = |index| if_nametoindex(duty.bridge.as_str()) == Ok(index);
        let home = look(wire, duty).filter(|found| is_bridge(found.bridge));
        if home.is_some() || !at_work {
            return home;
        }
        sleep(Duration::from_millis(AGAIN));
    }
}

/// The client as the one before it has left it.
fn machine(duty: &Duty, before: Option<&Told>, now: Time) -> Machine {
    let known_as = before.and_then(|told| told.known_as);
    let local = match duty.address.local {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    };
    let held = match before.filter(|_| known_as.is_some()) {
        Some(told) => told.address.map(|address| Held {
            address,
            server: told.server,
            times: told.ends.map(|end| (end, end, end)),
        }),
        None => local.map(|address| Held {
            address,
            server: duty.server,
            times: (!duty.address.is_permanent()).then(|| {
                let end = now.saturating_add(u64::from(duty.address.valid) * 1000);
                (end, end, end)
            }),
        }),
    };
    let mut mac = [0; 6];
    mac.copy_from_slice(duty.mac.as_bytes());
    Machine::new(duty.sent.clone(), mac, held, known_as, now)
}

/// The uplink as it is now.
struct Uplink {
    /// The number of the bridge whose port it is.
    bridge: u32,
    carrier: bool,
    /// How often it has lost its carrier.
    losses: u32,
}

/// None where it is no port.
fn look(wire: &mut Wire, duty: &Duty) -> Option<Uplink> {
    let link = wire.link(duty.uplink).ok()?;
    let (mut bridge, mut losses) = (None, 0);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Controller(number) => bridge = Some(*number),
            LinkAttribute::CarrierDownCount(count) => losses = *count,
            _ => {}
        }
    }
    Some(Uplink {
        bridge: bridge?,
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        losses,
    })
}

impl Keeper<'_> {
    fn step(&mut self, event: Event) -> Result<(), String> {
        let now = clock::boot_milliseconds();
        let mut bytes = [0; 4];
        self.random
            .read_exact(&mut bytes)
            .map_err(|error| format!("/dev/urandom: {error}"))?;
        let actions = self.machine.step(now, u32::from_ne_bytes(bytes), event);
        if matches!(self.machine.phase(), Phase::Bound | Phase::Refused) {
            self.ears = None;
            self.port = None;
        } else if self.ears.is_none() {
            // Before anything is said: the answer may be quick.
            match PacketSocket::hear_udp(self.duty.uplink, CLIENT_PORT) {
                Ok(ears) => self.ears = Some(ears),
                Err(error) => return Err(format!("cannot hear what arrives at the uplink: {error}")),
            }
        }
        for action in actions {
            self.perform(action);
        }
        self.make_due();
        self.report();
        Ok(())
    }

    fn perform(&mut self, action: Action) {
        let mac = self.mac();
        match action {
            Action::Broadcast(ask) => {
                let from = ask.holds.unwrap_or(Ipv4Addr::UNSPECIFIED);
                let message = ask.encode(mac, &self.duty.sent.extras);
                let packet = message.map(|message| message::broadcast(&message, from));
                if let (Some(packet), Some(ears)) = (packet, &self.ears) {
                    // Out of the uplink alone: guests do not hear it. A device
                    // that is down says so by its carrier.
                    let _ = ears.send(MacAddr6::broadcast(), &packet);
                }
            }
            Action::Tell(server, ask) => {
                let message = ask.encode(mac, &self.duty.sent.extras);
                let told = message.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
                let told = told.and_then(|message| self.tell(server, ask.holds, &message));
                if let Err(error) = told {
                    self.note(
                        Severity::Warning,
                        &format!("cannot ask {server} to prolong the lease: {error}"),
                    );
                }
            }
            Action::Keep { lease, old } => self.due.push(Due::Keep { lease, old }),
            Action::Drop(address) => self.due.push(Due::Drop(address)),
            Action::Note(text) => self.note(Severity::Notice, &text),
            Action::Warn(text) => self.note(Severity::Warning, &text),
        }
    }

    fn mac(&self) -> [u8; 6] {
        let mut mac = [0; 6];
        mac.copy_from_slice(self.duty.mac.as_bytes());
        mac
    }

    /// Says something to a server, the usual way. The answer is heard where
    /// all answers are.
    fn tell(&mut self, server: Ipv4Addr, from: Option<Ipv4Addr>, message: &[u8]) -> io::Result<()> {
        let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // The one before may be of another address.
        self.port = None;
        let port = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        setsockopt(&port, sockopt::ReuseAddr, &true)?;
        setsockopt(&port, sockopt::BindToDevice, &self.duty.bridge.as_str().into())?;
        let address = SockaddrIn::from(SocketAddrV4::new(from, CLIENT_PORT));
        bind(std::os::fd::AsRawFd::as_raw_fd(&port), &address)?;
        let port = UdpSocket::from(port);
        port.send_to(message, SocketAddrV4::new(server, SERVER_PORT))?;
        self.port = Some(port);
        Ok(())
    }

    /// Waits until something happens.
    fn wait(&self, changes: &Changes) -> Result<(), String> {
        let now = clock::boot_milliseconds();
        let until = if self.due.is_empty() {
            self.machine.idle_until()
        } else {
            now.saturating_add(AGAIN)
        };
        // One more: a wait that ends before its time is one more wait.
        let left = until.saturating_sub(now).saturating_add(1).min(LONGEST_SLEEP);
        let timeout = PollTimeout::try_from(Duration::from_millis(left)).unwrap_or(PollTimeout::MAX);
        let mut asked = vec![PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        asked.extend(
            self.ears
                .iter()
                .map(|ears| PollFd::new(ears.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut asked, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(format!("cannot wait: {errno}")),
        }
    }

    /// What servers have said meanwhile.
    fn hear(&mut self) -> Result<Vec<Answer>, String> {
        let mut heard = Vec::new();
        let Some(ears) = &self.ears else {
            return Ok(heard);
        };
        for _ in 0..BURST {
            let mut buffer = [0; LARGEST];
            match ears.receive(&mut buffer) {
                Ok(Some(packet)) => heard.extend(message::payload(packet).and_then(Answer::decode)),
                Ok(None) => break,
                // The device went down; its carrier says the rest.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => break,
                Err(error) => return Err(format!("cannot hear what arrives at the uplink: {error}")),
            }
        }
        Ok(heard)
    }

    /// Tells the kernel what is due, unless a vmbr is changing the network:
    /// what it read must stay.
    fn make_due(&mut self) {
        while let Some(due) = self.due.first() {
            let live = match dump::network() {
                Ok(live) => live,
                Err(error) => {
                    return self.note(Severity::Error, &format!("cannot read the network: {error}"));
                }
            };
            let plan = match due {
                Due::Keep { lease, old } => apply::plan(&live, &self.duty, lease, *old, self.ways.as_deref()),
                Due::Drop(address) => apply::removal(&live, &self.duty.bridge, *address),
            };
            if !plan.steps.is_empty() && lock::is_held(self.namespace) == Some(true) {
                return;
            }
            let due = self.due.remove(0);
            if let Err(error) = perform(&plan) {
                self.note(
                    Severity::Error,
                    &format!("cannot give {} its lease: {error}", self.duty.bridge),
                );
            }
            if let Due::Keep { lease, .. } = due {
                self.ways = Some(lease.ways);
            }
        }
    }

    fn note(&mut self, severity: Severity, text: &str) {
        let text = format!("lease keeper of {}: {text}", self.duty.bridge);
        if let Some(log) = &self.log {
            let _ = log.send(severity, &text);
        }
    }

    /// Tells where it is, where that is news.
    fn report(&mut self) {
        let held = self.machine.held();
        let told = Told {
            process: self.process,
            state: match self.machine.phase() {
                Phase::Confirming => "confirming",
                Phase::Refused => "refused",
                Phase::Selecting => "selecting",
                Phase::Requesting => "requesting",
                Phase::Bound => "bound",
                Phase::Renewing => "renewing",
                Phase::Rebinding => "rebinding",
            }
            .to_owned(),
            address: held.map(|held| held.address),
            server: held.and_then(|held| held.server),
            ends: held.and_then(|held| held.times).map(|(_, _, end)| end),
            known_as: self.machine.known_as(),
        };
        if self.last.as_ref() != Some(&told) {
            if let Err(error) = tell(&self.told, &told) {
                self.note(Severity::Error, &format!("cannot write what is kept: {error}"));
            }
            self.last = Some(told);
        }
    }
}

fn perform(plan: &Plan) -> Result<(), String> {
    let mut executor = Executor::new().map_err(|error| error.to_string())?;
    executor
        .execute(plan, &mut |_| {})
        .map_err(|failure| failure.to_string())
}
