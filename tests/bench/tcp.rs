//! What a live TCP stream sees of a migration: retransmission timeouts (each
//! costs 200 ms or more) and the longest gap in what arrives.
//!
//! One connection over IPv4 and one over IPv6, opened by the peer on the LAN.
//! The timeouts are counted by the kernel, in both namespaces of the lab:
//! these two connections are all the TCP there is.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{HOST, Lab, Migration, Outcome, PEER, Programs, in_namespace, migrations};
use crate::report::{Key, Report};

const PORT: u16 = 7007;
const FAMILIES: [&str; 2] = ["v4", "v6"];
const WARM_UP: Duration = Duration::from_millis(500);
const SETTLE: Duration = Duration::from_millis(1500);

/// What the connections carry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// 1 kB each millisecond from the peer, sent back by the host: a session
    /// that is never idle, so that each side notices each outage.
    Echo,
    /// As fast as it goes, from the host: a download, with its many packets
    /// under way.
    Bulk,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Echo => "1 kB each ms there and back, v4 and v6 at once",
            Load::Bulk => "bulk from the host, v4 and v6 at once",
        }
    }
}

/// Measures all of it, the contestants in turn.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    for load in [Load::Echo, Load::Bulk] {
        let case = load.name();
        for run in 1..=runs {
            for migration in migrations(programs) {
                let lab = Lab::new(programs, migration)?;
                let seen = observe(&lab, load)?;
                let contestant = migration.name();
                eprintln!("bench: tcp: {case}, {run}/{runs}, {contestant}: {seen:?}");
                let mut add = |metric, value| {
                    report.add(
                        Key {
                            part: "tcp",
                            case: case.to_owned(),
                            contestant,
                            metric,
                        },
                        value,
                    );
                };
                add("up timeouts", seen.up.timeouts as f64);
                add("down timeouts", seen.down.timeouts as f64);
                add(
                    "retransmitted",
                    (seen.up.retransmitted + seen.down.retransmitted) as f64,
                );
                add("up gap ms", seen.up.gap.as_secs_f64() * 1e3);
                add("down gap ms", seen.down.gap.as_secs_f64() * 1e3);
            }
        }
        for metric in ["up timeouts", "down timeouts"] {
            let contestant = Migration::Vmbr.name();
            report.at_most(
                Key {
                    part: "tcp",
                    case: case.to_owned(),
                    contestant,
                    metric,
                },
                0.0,
            );
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Phase {
    timeouts: u64,
    retransmitted: u64,
    gap: Duration,
}

#[derive(Debug)]
struct Seen {
    up: Phase,
    down: Phase,
}

fn observe(lab: &Lab, load: Load) -> Outcome<Seen> {
    let listeners = in_namespace("host", || {
        Ok([
            TcpListener::bind((HOST[0], PORT))?,
            TcpListener::bind((HOST[1], PORT))?,
        ])
    })?;
    let peers = in_namespace("lan", || {
        let connect = |index: usize| -> Outcome<TcpStream> {
            // Without a source of its own it would be the gateway's, on-link.
            let stream = TcpStream::connect((HOST[index], PORT))
                .map_err(|error| format!("TCP {} from {}: {error}", FAMILIES[index], PEER[index]))?;
            Ok(stream)
        };
        Ok([connect(0)?, connect(1)?])
    })?;
    let hosts = [listeners[0].accept()?.0, listeners[1].accept()?.0];
    for stream in peers.iter().chain(&hosts) {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    }

    let running = AtomicBool::new(true);
    let start = Instant::now();
    thread::scope(|scope| {
        for (peer, host) in peers.iter().zip(&hosts) {
            match load {
                Load::Echo => {
                    scope.spawn(|| drip(peer, start, &running));
                    scope.spawn(|| send_back(host, &running));
                }
                Load::Bulk => {
                    scope.spawn(|| flood(host, &running));
                }
            }
        }
        let readers = peers
            .each_ref()
            .map(|peer| scope.spawn(|| arrivals(peer, start, &running)));
        let migrate = || -> Outcome<_> {
            thread::sleep(WARM_UP);
            let before = counters()?;
            lab.up()?;
            thread::sleep(SETTLE);
            let middle = (start.elapsed(), counters()?);
            lab.down()?;
            thread::sleep(SETTLE);
            Ok((before, middle, (start.elapsed(), counters()?)))
        };
        let marks = migrate();
        // The threads end whatever became of the migration.
        running.store(false, Ordering::Relaxed);
        let mut times = Vec::new();
        for reader in readers {
            times.push(reader.join().map_err(|_| "a TCP reader panicked")?);
        }
        let (before, (down_began, middle), (ended, after)) = marks?;
        let phase = |from, to, first: [u64; 2], last: [u64; 2]| Phase {
            timeouts: last[0] - first[0],
            retransmitted: last[1] - first[1],
            gap: times
                .iter()
                .map(|times| longest_gap(times, from, to))
                .max()
                .unwrap_or_default(),
        };
        Ok(Seen {
            up: phase(WARM_UP / 2, down_began, before, middle),
            down: phase(down_began, ended, middle, after),
        })
    })
}

/// Sends 1 kB each millisecond, late rather than never.
fn drip(mut stream: &TcpStream, start: Instant, running: &AtomicBool) {
    let mut number = 0;
    while running.load(Ordering::Relaxed) {
        let slot = Duration::from_millis(number);
        thread::sleep(slot.saturating_sub(start.elapsed()));
        // A full send buffer is the outage that the reader measures.
        let _ = stream.write(&[0; 1000]);
        number += 1;
    }
}

fn send_back(mut stream: &TcpStream, running: &AtomicBool) {
    let mut buffer = [0; 64 * 1024];
    while running.load(Ordering::Relaxed) {
        if let Ok(length @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write(&buffer[..length]);
        }
    }
}

fn flood(mut stream: &TcpStream, running: &AtomicBool) {
    let buffer = [0; 64 * 1024];
    while running.load(Ordering::Relaxed) {
        let _ = stream.write(&buffer);
    }
}

/// When something arrived.
fn arrivals(mut stream: &TcpStream, start: Instant, running: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut buffer = [0; 256 * 1024];
    while running.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(1..) => times.push(start.elapsed()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The connection died: the silence until the end shows it.
            Ok(0) | Err(_) => break,
        }
    }
    times
}

fn longest_gap(times: &[Duration], from: Duration, to: Duration) -> Duration {
    let inside = times.iter().copied().filter(|at| (from..to).contains(at));
    let edges: Vec<Duration> = std::iter::once(from).chain(inside).chain([to]).collect();
    edges
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default()
}

/// Retransmission timeouts and retransmitted segments, of both namespaces.
fn counters() -> Outcome<[u64; 2]> {
    let mut sum = [0; 2];
    for namespace in ["host", "lan"] {
        sum[0] += in_namespace(namespace, || {
            counter("/proc/thread-self/net/netstat", "TcpExt:", "TCPTimeouts")
        })?;
        sum[1] += in_namespace(namespace, || {
            counter("/proc/thread-self/net/snmp", "Tcp:", "RetransSegs")
        })?;
    }
    Ok(sum)
}

/// One counter of a file in which a line of names precedes a line of values
/// (net/ipv4/proc.c).
fn counter(file: &str, group: &str, name: &str) -> Outcome<u64> {
    let text = fs::read_to_string(file)?;
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return Err(format!("{file} has no {group}").into());
    };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs
        .find(|(key, _)| *key == name)
        .ok_or_else(|| format!("{file} has no {name}"))?;
    Ok(value.1.parse()?)
}
