//! The states of a client that has an address already (RFC 2131, 4.4, figure
//! 5), purely: events in, actions out, the time and the random numbers said.
//!
//! ```text
//! Confirming --ACK--> Bound --T1--> Renewing --T2--> Rebinding --end--> Selecting
//!  (INIT-REBOOT)        ^------ACK-----'---ACK--------'                    | OFFER
//!       |  NAK          |                                                  v
//!       '--> Selecting  '------------------------ACK----------------- Requesting
//! ```
//!
//! What it believes: only an answer to the exchange that is open, by its random
//! number, and to its own MAC. While it renews, only the server that gave the
//! lease. A refusal is believed of that server alone, where it is known. A
//! confirmation is one only of the address that is held.

use std::net::Ipv4Addr;

use crate::plan::hold::Sent;

use super::lease::Lease;
use super::message::{Answer, Ask, Kind};

/// Milliseconds since the boot.
pub type Time = u64;

/// The first wait for an answer, and the longest (RFC 2131, 4.1, says 4 and
/// 64 s; a caller waits for the first, and this is a LAN).
const FIRST_WAIT: Time = 1_000;
const LONGEST_WAIT: Time = 64_000;
/// Between two renewals a client waits half of what is left (RFC 2131, 4.4.5),
/// but not less than this. The RFC's 60 s would let a short lease run out for
/// one lost packet.
const LEAST_RENEWAL: Time = 10_000;
/// Offers that are taken so often in vain are taken no more.
const TAKES: u32 = 4;
/// An address that the server refuses to prolong is used for so long at most
/// while another is asked for: without one the host is cut off.
const GRACE: Time = 60_000;
/// A refusal within this time of the beginning is told to who started the
/// keeper, and nothing is done about it yet.
pub const PATIENCE: Time = 5_000;
/// How long it then waits to be ended.
const REFUSED: Time = 15_000;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It asks whether the address is still its own (INIT-REBOOT, REBOOTING).
    Confirming,
    /// The server said no at once; who started it decides.
    Refused,
    /// It looks for servers (SELECTING).
    Selecting,
    /// It has taken an offer (REQUESTING).
    Requesting,
    /// It has the lease (BOUND).
    Bound,
    /// It asks its server to prolong it (RENEWING).
    Renewing,
    /// It asks any server to (REBINDING).
    Rebinding,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A server said something.
    Heard(Answer),
    /// The uplink has its carrier, or lost it.
    Link(bool),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say this to everyone.
    Broadcast(Ask),
    /// Say this to a server, from the address that is held.
    Tell(Ipv4Addr, Ask),
    /// The lease is granted: the device has its address, and no longer `old`.
    Keep {
        /// What was granted.
        lease: Lease,
        /// The address that it is instead of.
        old: Option<Ipv4Addr>,
    },
    /// The lease is over: the device loses the address.
    Drop(Ipv4Addr),
    /// Something that an administrator wants to know.
    Note(String),
    /// Something that an administrator should do something about.
    Warn(String),
}

/// The lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: Ipv4Addr,
    /// Who gave it, where that is known.
    pub server: Option<Ipv4Addr>,
    /// When to ask the server, when anyone, and when it is over; none where it
    /// is not known, or never.
    pub times: Option<(Time, Time, Time)>,
}

/// The client.
#[derive(Debug)]
pub struct Machine {
    sent: Sent,
    mac: [u8; 6],
    phase: Phase,
    held: Option<Held>,
    /// As whom it is known, a place in the identities that may be.
    identity: usize,
    /// Those that the server refused.
    refused: Vec<usize>,
    /// Whether a server has confirmed one.
    known: bool,
    offer: Option<Lease>,
    carrier: bool,
    xid: u32,
    /// When the exchange began, when the next try is, how long after the last.
    began: Time,
    next: Time,
    wait: Time,
    tries: u32,
    started: Time,
    dns: Option<Vec<Ipv4Addr>>,
}

impl Machine {
    /// A client that begins by asking for the address that it has. Where a
    /// server has confirmed one of its identities before, it is known `as_which`.
    pub fn new(sent: Sent, mac: [u8; 6], held: Option<Held>, as_which: Option<usize>, now: Time) -> Self {
        Self {
            sent,
            mac,
            phase: if held.is_some() {
                Phase::Confirming
            } else {
                Phase::Selecting
            },
            held,
            identity: as_which.unwrap_or(0),
            refused: Vec::new(),
            known: as_which.is_some(),
            offer: None,
            carrier: true,
            xid: 0,
            began: now,
            next: now,
            wait: 0,
            tries: 0,
            started: now,
            dns: None,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What it holds.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// As which of its identities a server knows it.
    pub fn known_as(&self) -> Option<usize> {
        self.known.then_some(self.identity)
    }

    /// Until when nothing happens by itself.
    pub fn idle_until(&self) -> Time {
        let end = self.end().unwrap_or(Time::MAX);
        if !self.carrier {
            return end;
        }
        match self.phase {
            Phase::Bound => self.times().map_or(Time::MAX, |(t1, ..)| t1),
            _ => self.next.min(end),
        }
    }

    fn times(&self) -> Option<(Time, Time, Time)> {
        self.held.as_ref().and_then(|held| held.times)
    }

    fn end(&self) -> Option<Time> {
        self.times().map(|(_, _, end)| end)
    }

    /// Takes an event; `random` is a number that nobody could know before.
    pub fn step(&mut self, now: Time, random: u32, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.end().is_some_and(|end| now >= end) {
            self.lose(now, random, &mut actions);
        }
        match event {
            Event::Tick => {}
            Event::Link(carrier) => self.link(carrier, now, random, &mut actions),
            Event::Heard(answer) => self.hear(&answer, now, random, &mut actions),
        }
        if self.carrier {
            self.go_on(now, random, &mut actions);
        }
        actions
    }

    /// The lease is over.
    fn lose(&mut self, now: Time, random: u32, actions: &mut Vec<Action>) {
        let Some(held) = self.held.take() else { return };
        actions.push(Action::Warn(format!(
            "the lease of {} is over, no server prolonged it: the address is taken away, and another asked for",
            held.address
        )));
        actions.push(Action::Drop(held.address));
        if !matches!(self.phase, Phase::Selecting | Phase::Requesting) {
            self.begin(Phase::Selecting, now, random);
        }
    }

    fn link(&mut self, carrier: bool, now: Time, random: u32, actions: &mut Vec<Action>) {
        if carrier == self.carrier {
            return;
        }
        self.carrier = carrier;
        actions.push(Action::Note(if carrier {
            "the uplink has its carrier again: the lease is asked about".into()
        } else {
            "the uplink has lost its carrier".into()
        }));
        if carrier && self.phase != Phase::Refused {
            // It may be another network (RFC 2131, 3.7).
            let next = if self.held.is_some() {
                Phase::Confirming
            } else {
                Phase::Selecting
            };
            self.begin(next, now, random);
        }
    }

    /// Begins an exchange.
    fn begin(&mut self, phase: Phase, now: Time, random: u32) {
        self.phase = phase;
        self.xid = random;
        self.began = now;
        self.next = now;
        self.wait = 0;
        self.tries = 0;
        if phase != Phase::Requesting {
            self.offer = None;
        }
    }

    /// Does what is due.
    fn go_on(&mut self, now: Time, random: u32, actions: &mut Vec<Action>) {
        match (self.phase, self.times()) {
            (Phase::Bound, Some((t1, ..))) if now >= t1 => self.begin(Phase::Renewing, now, random),
            (Phase::Refused, _) if now >= self.next => {
                self.refused.clear();
                self.begin(Phase::Selecting, now, random);
            }
            _ => {}
        }
        if let (Phase::Renewing, Some((_, t2, _))) = (self.phase, self.times()) {
            if now >= t2 {
                let server = self.held.as_ref().and_then(|held| held.server);
                let who = server.map_or_else(|| "the server".into(), |server| server.to_string());
                actions.push(Action::Warn(format!(
                    "{who} does not prolong the lease: every server is asked"
                )));
                self.begin(Phase::Rebinding, now, random);
            }
        }
        if matches!(self.phase, Phase::Bound | Phase::Refused) || now < self.next {
            return;
        }
        if self.phase == Phase::Requesting && self.tries == TAKES {
            self.begin(Phase::Selecting, now, random);
        }
        if self.tries == 0 && self.xid == 0 {
            self.xid = random;
        }
        self.say(now, actions);
        let left = match (self.phase, self.times()) {
            (Phase::Renewing, Some((_, t2, _))) => Some(t2.saturating_sub(now)),
            (Phase::Rebinding, Some((_, _, end))) => Some(end.saturating_sub(now)),
            _ => None,
        };
        self.wait = match left {
            Some(left) => (left / 2).max(LEAST_RENEWAL).min(left.max(1)),
            None => (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT),
        };
        self.next = now.saturating_add(self.wait);
        self.tries += 1;
    }

    /// Says what the phase has to say.
    fn say(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.phase == Phase::Confirming && !self.known {
            // As each that it may be, in turn.
            let count = self.sent.identities.len().max(1);
            let next = (0..count).map(|step| (self.tries as usize + step) % count);
            self.identity = next
                .into_iter()
                .find(|place| !self.refused.contains(place))
                .unwrap_or(0);
        }
        let held = self.held.as_ref();
        let address = held.map(|held| held.address);
        let identity = self.sent.identities.get(self.identity);
        let client = identity.and_then(|identity| identity.option(self.mac));
        let plain = Ask {
            kind: Kind::Request,
            xid: self.xid,
            seconds: u16::try_from(now.saturating_sub(self.began) / 1000).unwrap_or(u16::MAX),
            holds: None,
            wants: None,
            server: None,
            broadcast: false,
            client,
        };
        let action = match self.phase {
            Phase::Confirming => Action::Broadcast(Ask {
                wants: address,
                ..plain
            }),
            Phase::Selecting => Action::Broadcast(Ask {
                kind: Kind::Discover,
                wants: address,
                broadcast: address.is_none(),
                ..plain
            }),
            Phase::Requesting => {
                let offer = self.offer.as_ref();
                Action::Broadcast(Ask {
                    wants: offer.map(|offer| offer.address),
                    server: offer.map(|offer| offer.server),
                    broadcast: address.is_none(),
                    ..plain
                })
            }
            Phase::Renewing | Phase::Rebinding => {
                let ask = Ask {
                    holds: address,
                    ..plain
                };
                match held.and_then(|held| held.server) {
                    Some(server) if self.phase == Phase::Renewing => Action::Tell(server, ask),
                    _ => Action::Broadcast(ask),
                }
            }
            Phase::Bound | Phase::Refused => return,
        };
        actions.push(action);
    }

    fn hear(&mut self, answer: &Answer, now: Time, random: u32, actions: &mut Vec<Action>) {
        if answer.xid != self.xid || answer.mac != self.mac || self.tries == 0 {
            return;
        }
        if answer.kind == Kind::Nak {
            return self.hear_no(answer, now, random, actions);
        }
        let Some(lease) = Lease::of(answer) else {
            return;
        };
        let server = self.held.as_ref().and_then(|held| held.server);
        let address = self.held.as_ref().map(|held| held.address);
        let same = address == Some(lease.address);
        match (self.phase, answer.kind) {
            (Phase::Confirming | Phase::Rebinding, Kind::Ack) if same => self.bind(lease, now, actions),
            (Phase::Renewing, Kind::Ack) if same && server == Some(lease.server) => {
                self.bind(lease, now, actions);
            }
            (Phase::Selecting, Kind::Offer) => {
                let began = self.began;
                self.begin(Phase::Requesting, now, random);
                // The same exchange (RFC 2131, 4.4.1).
                self.xid = answer.xid;
                self.began = began;
                self.offer = Some(lease);
            }
            (Phase::Requesting, Kind::Ack) => {
                let offer = self.offer.as_ref();
                if offer.is_some_and(|o| o.address == lease.address && o.server == lease.server) {
                    self.bind(lease, now, actions);
                }
            }
            _ => {}
        }
    }

    /// A server refuses.
    fn hear_no(&mut self, answer: &Answer, now: Time, random: u32, actions: &mut Vec<Action>) {
        let Some(server) = answer.server else { return };
        let ours = self.held.as_ref().and_then(|held| held.server);
        match self.phase {
            Phase::Requesting => {
                if self.offer.as_ref().is_some_and(|offer| offer.server == server) {
                    self.begin(Phase::Selecting, now, random);
                    // Not at once: it may refuse for ever.
                    self.next = now.saturating_add(LEAST_RENEWAL);
                }
                return;
            }
            Phase::Confirming | Phase::Renewing | Phase::Rebinding => {}
            Phase::Refused | Phase::Selecting | Phase::Bound => return,
        }
        if ours.is_some_and(|ours| ours != server) {
            return;
        }
        if self.phase == Phase::Confirming && !self.known {
            self.refused.push(self.identity);
            let count = self.sent.identities.len().max(1);
            if (0..count).any(|place| !self.refused.contains(&place)) {
                // As the next that it may be, under a number of its own: a
                // late word would count for the wrong one.
                let (tries, began) = (self.tries, self.began);
                self.begin(Phase::Confirming, now, random);
                (self.tries, self.began) = (tries, began);
                return;
            }
            if now.saturating_sub(self.started) < PATIENCE {
                self.phase = Phase::Refused;
                self.next = now.saturating_add(REFUSED);
                actions.push(Action::Warn(format!("{server} refuses to confirm the lease")));
                return;
            }
            self.refused.clear();
        }
        if let Some(held) = &mut self.held {
            actions.push(Action::Warn(format!(
                "{server} refuses to prolong the lease of {}: another address is asked for",
                held.address
            )));
            let until = now.saturating_add(GRACE);
            let end = held.times.map_or(until, |(_, _, end)| end.min(until));
            held.times = Some((end, end, end));
            held.server = None;
        }
        self.begin(Phase::Selecting, now, random);
    }

    /// The lease is granted.
    fn bind(&mut self, lease: Lease, now: Time, actions: &mut Vec<Action>) {
        let old = self.held.take();
        let times = lease.seconds.map(|seconds| {
            let at = |seconds: u32| now.saturating_add(u64::from(seconds) * 1000);
            (at(lease.t1), at(lease.t2), at(seconds))
        });
        let replaced = old.as_ref().map(|old| old.address);
        if replaced != Some(lease.address) {
            actions.push(Action::Warn(match replaced {
                Some(old) => format!("{} gives {} instead of {old}", lease.server, lease.address),
                None => format!("{} gives {}", lease.server, lease.address),
            }));
        } else if !self.known || self.phase != Phase::Renewing {
            actions.push(Action::Note(format!(
                "{} confirms the lease of {}",
                lease.server, lease.address
            )));
        }
        if self.dns.as_ref().is_some_and(|dns| *dns != lease.dns) {
            let names: Vec<String> = lease.dns.iter().map(ToString::to_string).collect();
            actions.push(Action::Warn(format!(
                "{} names other DNS servers ({}): nobody but you writes them into /etc/resolv.conf",
                lease.server,
                names.join(", ")
            )));
        }
        self.dns = Some(lease.dns.clone());
        self.known = true;
        self.refused.clear();
        self.offer = None;
        self.phase = Phase::Bound;
        self.tries = 0;
        self.held = Some(Held {
            address: lease.address,
            server: Some(lease.server),
            times,
        });
        actions.push(Action::Keep {
            old: replaced.filter(|old| *old != lease.address),
            lease,
        });
    }
}

#[cfg(test)]
mod tests;
