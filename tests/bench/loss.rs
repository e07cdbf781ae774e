//! Packets lost while the host's network moves onto the bridge and back.
//!
//! A client sends numbered datagrams over IPv4 and IPv6 at once, an echo
//! server sends each one back. The client's schedule is fixed before it
//! starts (an open loop): a late datagram is sent at once, and none is left
//! out because an earlier one is missing. Whatever has no echo a while after
//! the end is lost; where it was lost follows from what the server saw.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::{HOST, Lab, Migration, Outcome, PEER, Programs, in_namespace, migrations};
use crate::report::{Key, Report};

const FAMILIES: [&str; 2] = ["v4", "v6"];
const PORT: u16 = 7007;

/// Datagrams a second and family.
const RATES: [u32; 2] = [5_000, 10_000];
/// Traffic before the migration begins.
const WARM_UP: Duration = Duration::from_millis(300);
/// Traffic after each command's end. What goes wrong late (a neighbour entry
/// that cannot be confirmed takes 1.03 s to fail) is the migration's, too.
const SETTLE: Duration = Duration::from_millis(1500);
/// How long an echo may be on its way after the last datagram was sent.
const DRAIN: Duration = Duration::from_millis(1000);
/// Room for what arrives while a receiver waits for a processor, and for what
/// waits for a neighbour's MAC (a sender that blocks has no schedule): 8 MiB.
const BUFFER: usize = 8 << 20;
const PAYLOAD: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// The LAN's side speaks first: an administrator's SSH session.
    LanToHost,
    /// The host speaks first, from a connected socket: its own DNS queries.
    HostToLan,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::LanToHost => "LAN to host",
            Direction::HostToLan => "host to LAN",
        }
    }

    /// (client's namespace, server's namespace, server's addresses)
    fn ends(self) -> (&'static str, &'static str, [IpAddr; 2]) {
        match self {
            Direction::LanToHost => ("lan", "host", HOST),
            Direction::HostToLan => ("host", "lan", PEER),
        }
    }
}

/// Measures all of it, the contestants in turn.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    for direction in [Direction::LanToHost, Direction::HostToLan] {
        for rate in RATES {
            let case = format!("{}, {rate}/s v4 and v6 each", direction.name());
            for run in 1..=runs {
                for migration in migrations(programs) {
                    let lab = Lab::new(programs, migration)?;
                    let trace = observe(&lab, direction, rate)?;
                    let name = migration.name();
                    eprintln!("bench: loss: {case}, {run}/{runs}, {name}: {}", trace.account());
                    trace.add_to(report, &case, name);
                }
            }
            for metric in ["up lost v4", "up lost v6", "down lost v4", "down lost v6"] {
                let contestant = Migration::Vmbr.name();
                report.at_most(
                    Key {
                        part: "loss",
                        case: case.clone(),
                        contestant,
                        metric,
                    },
                    1.0,
                );
            }
        }
    }
    Ok(())
}

/// What became of the datagrams of one family; times since the start.
#[derive(Default)]
struct Flow {
    /// When each datagram was sent, by its number, and whether the kernel
    /// took it.
    sent: Vec<(Duration, bool)>,
    /// The numbers that reached the server.
    served: Vec<u32>,
    /// Echoes that the server's kernel would not take.
    unanswered: usize,
    /// When each echo came back, with its number.
    echoed: Vec<(Duration, u32)>,
}

/// One up and one down under traffic.
struct Trace {
    flows: [Flow; 2],
    up: Duration,
    down: Duration,
    /// The latest datagram: sent this long after its slot.
    latest: Duration,
}

fn observe(lab: &Lab, direction: Direction, rate: u32) -> Outcome<Trace> {
    let (client_side, server_side, targets) = direction.ends();
    let sending = AtomicBool::new(true);
    let receiving = AtomicBool::new(true);
    let servers = in_namespace(server_side, || {
        let bind =
            |address| -> Outcome<UdpSocket> { prepare(UdpSocket::bind(SocketAddr::new(address, PORT))?) };
        Ok([bind(targets[0])?, bind(targets[1])?])
    })?;
    let clients = in_namespace(client_side, || {
        let connect = |index: usize| -> Outcome<UdpSocket> {
            let any: IpAddr = if index == 0 {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            // The peer's own address, not the gateway's: the host shall need
            // its default route. The host's socket chooses for itself.
            let own = if direction == Direction::LanToHost {
                PEER[index]
            } else {
                any
            };
            let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
            socket.connect(SocketAddr::new(targets[index], PORT))?;
            prepare(socket)
        };
        Ok([connect(0)?, connect(1)?])
    })?;

    let start = Instant::now();
    thread::scope(|scope| {
        let echoes = servers
            .each_ref()
            .map(|server| scope.spawn(|| echo(server, &receiving)));
        let returns = clients
            .each_ref()
            .map(|client| scope.spawn(|| collect(client, start, &receiving)));
        let sender = scope.spawn(|| send(&clients, start, rate, &sending));

        let migrate = || -> Outcome<(Duration, Duration)> {
            thread::sleep(WARM_UP);
            let up = start.elapsed();
            lab.up()?;
            thread::sleep(SETTLE);
            let down = start.elapsed();
            lab.down()?;
            thread::sleep(SETTLE);
            Ok((up, down))
        };
        let marks = migrate();
        // The threads end whatever became of the migration.
        sending.store(false, Ordering::Relaxed);
        let sent = sender.join();
        thread::sleep(DRAIN);
        receiving.store(false, Ordering::Relaxed);
        let (up, down) = marks?;
        let (sent, latest) = sent.map_err(|_| "the sender panicked")?;
        let mut flows = [Flow::default(), Flow::default()];
        for (flow, sent) in flows.iter_mut().zip(sent) {
            flow.sent = sent;
        }
        for (flow, echo) in flows.iter_mut().zip(echoes) {
            (flow.served, flow.unanswered) = echo.join().map_err(|_| "the echo server panicked")?;
        }
        for (flow, returned) in flows.iter_mut().zip(returns) {
            flow.echoed = returned.join().map_err(|_| "the receiver panicked")?;
        }
        Ok(Trace {
            flows,
            up,
            down,
            latest,
        })
    })
}

fn prepare(socket: UdpSocket) -> Outcome<UdpSocket> {
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::SndBufForce, &BUFFER)?;
    // So that a receiver looks up now and then whether it shall end.
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

/// When each datagram of one family was sent, and whether the kernel took it.
type Sent = Vec<(Duration, bool)>;

fn send(clients: &[UdpSocket; 2], start: Instant, rate: u32, sending: &AtomicBool) -> ([Sent; 2], Duration) {
    // Without it a sleep is up to 50 µs longer: half a slot. Best effort:
    // what it comes to is reported as lateness.
    let _ = prctl::set_timerslack(1);
    let mut sent = [Vec::new(), Vec::new()];
    let mut latest = Duration::ZERO;
    let mut packet = [0; PAYLOAD];
    for number in 0u32.. {
        let slot = Duration::from_nanos(u64::from(number) * 1_000_000_000 / u64::from(rate));
        if let Some(early) = slot.checked_sub(start.elapsed()) {
            thread::sleep(early);
        }
        if !sending.load(Ordering::Relaxed) {
            break;
        }
        latest = latest.max(start.elapsed().saturating_sub(slot));
        packet[..4].copy_from_slice(&number.to_be_bytes());
        for (client, sent) in clients.iter().zip(&mut sent) {
            let now = start.elapsed();
            sent.push((now, client.send(&packet).is_ok()));
        }
    }
    (sent, latest)
}

/// The echo server: the numbers it saw, and the echoes it could not send.
fn echo(server: &UdpSocket, receiving: &AtomicBool) -> (Vec<u32>, usize) {
    let mut served = Vec::new();
    let mut unanswered = 0;
    let mut packet = [0; PAYLOAD];
    while receiving.load(Ordering::Relaxed) {
        if let Ok((PAYLOAD, client)) = server.recv_from(&mut packet) {
            served.push(number_of(&packet));
            unanswered += usize::from(server.send_to(&packet, client).is_err());
        }
    }
    (served, unanswered)
}

/// The client's ear: when each echo came.
fn collect(client: &UdpSocket, start: Instant, receiving: &AtomicBool) -> Vec<(Duration, u32)> {
    let mut echoed = Vec::new();
    let mut packet = [0; PAYLOAD];
    while receiving.load(Ordering::Relaxed) {
        match client.recv(&mut packet) {
            Ok(PAYLOAD) => echoed.push((start.elapsed(), number_of(&packet))),
            // An ICMP error that came back is not an echo, and not the end.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => thread::yield_now(),
        }
    }
    echoed
}

fn number_of(packet: &[u8; PAYLOAD]) -> u32 {
    u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]])
}

/// What one family lost in one phase.
struct Loss {
    lost: usize,
    unsent: usize,
    on_the_way_in: usize,
    /// When the first and the last lost datagram were sent, since the start.
    span: Option<(Duration, Duration)>,
    silence: Duration,
}

impl Flow {
    /// The phase from `from` to `to`. A datagram belongs to the phase that it
    /// was sent in.
    fn loss(&self, from: Duration, to: Duration) -> Loss {
        let mut back = vec![false; self.sent.len()];
        let mut served = back.clone();
        for (_, number) in &self.echoed {
            back[*number as usize] = true;
        }
        for number in &self.served {
            served[*number as usize] = true;
        }
        let mut loss = Loss {
            lost: 0,
            unsent: 0,
            on_the_way_in: 0,
            span: None,
            silence: self.silence(from, to),
        };
        for (number, (at, taken)) in self.sent.iter().enumerate() {
            if back[number] || !(from..to).contains(at) {
                continue;
            }
            loss.lost += 1;
            loss.unsent += usize::from(!taken);
            loss.on_the_way_in += usize::from(*taken && !served[number]);
            loss.span = Some((loss.span.map_or(*at, |(first, _)| first), *at));
        }
        loss
    }

    /// The longest time between two echoes, in this phase.
    fn silence(&self, from: Duration, to: Duration) -> Duration {
        let edges = [from.max(self.echoed.first().map_or(from, |echo| echo.0)), to];
        let mut times: Vec<Duration> = self
            .echoed
            .iter()
            .map(|echo| echo.0)
            .filter(|at| (from..to).contains(at))
            .chain(edges)
            .collect();
        times.sort_unstable();
        times
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default()
    }
}

impl Trace {
    /// The phases: what precedes `up` belongs to it, so that no datagram is
    /// left uncounted.
    fn phases(&self) -> [(&'static str, Duration, Duration, Duration); 2] {
        let end = self.flows[0].sent.last().map_or(self.down, |last| last.0);
        [
            ("up", self.up, Duration::ZERO, self.down),
            ("down", self.down, self.down, end),
        ]
    }

    fn add_to(&self, report: &mut Report, case: &str, contestant: &'static str) {
        let mut add = |metric, value| {
            report.add(
                Key {
                    part: "loss",
                    case: case.to_owned(),
                    contestant,
                    metric,
                },
                value,
            );
        };
        for (phase, _, from, to) in self.phases() {
            for (family, flow) in FAMILIES.into_iter().zip(&self.flows) {
                let (lost, silence) = match (phase, family) {
                    ("up", "v4") => ("up lost v4", "up silence v4 ms"),
                    ("up", _) => ("up lost v6", "up silence v6 ms"),
                    (_, "v4") => ("down lost v4", "down silence v4 ms"),
                    _ => ("down lost v6", "down silence v6 ms"),
                };
                let loss = flow.loss(from, to);
                add(lost, loss.lost as f64);
                add(silence, loss.silence.as_secs_f64() * 1e3);
            }
        }
        add("latest send ms", self.latest.as_secs_f64() * 1e3);
    }

    /// One line for a person who looks for the place where packets are lost.
    fn account(&self) -> String {
        let mut words = Vec::new();
        for (phase, began, from, to) in self.phases() {
            for (family, flow) in FAMILIES.into_iter().zip(&self.flows) {
                let loss = flow.loss(from, to);
                let Some((first, last)) = loss.span else { continue };
                let since = |at: Duration| (at.as_secs_f64() - began.as_secs_f64()) * 1e3;
                words.push(format!(
                    "{phase} {family} lost {} ({} unsent, {} on the way there, {} back), sent {:.1} to {:.1} ms after the command began",
                    loss.lost,
                    loss.unsent,
                    loss.on_the_way_in,
                    loss.lost - loss.unsent - loss.on_the_way_in,
                    since(first),
                    since(last),
                ));
            }
        }
        let sent = self.flows[0].sent.len() + self.flows[1].sent.len();
        let refused: usize = self.flows.iter().map(|flow| flow.unanswered).sum();
        if refused > 0 {
            words.push(format!("{refused} echoes refused by the server's kernel"));
        }
        let lost = if words.is_empty() {
            "none lost".to_owned()
        } else {
            words.join("; ")
        };
        format!("{sent} sent, {lost}")
    }
}
