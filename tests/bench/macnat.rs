//! What MAC-NAT costs: the same work by a plain bridge, by MAC-NAT, and by
//! what else gives a guest the network of an uplink that accepts one MAC.
//!
//! Guest and LAN are one thread of this program. A packet goes all its way
//! before send(2) returns, so no scheduler is measured, and it is the
//! processor's time that counts: it limits how much passes, and does not depend
//! on who else has work to do.
//!
//! [`crate::macnat_frames`] measures the programs alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::time::{ClockId, clock_gettime};
use vmbr::mac_nat::{self, Addresses, Settings};

use crate::lab::{Outcome, Programs, in_namespace, run};
use crate::report::{Key, Report};

const PART: &str = "macnat";
const PLAIN: &str = "plain bridge";
const GUEST: [&str; 2] = ["192.0.2.50", "2001:db8::50"];
const LAN: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// In an Ethernet frame of 64 bytes.
const PAYLOAD: [usize; 2] = [18, 8];
const PACKETS: usize = 40_000;
const ANSWERS: usize = 10_000;
const BYTES: usize = 256 << 20;
const STREAMS: usize = 3;
/// A receiver is read before its buffer is full.
const BATCH: usize = 64;
/// What is written before it is read.
const BLOCK: usize = 64 << 10;

struct Contestant {
    name: &'static str,
    kind: &'static str,
    /// How many of the families it can carry.
    families: usize,
    /// Whether the project wants to be as good as a bridge with it, or better.
    ours: bool,
}

const CONTESTANTS: [Contestant; 4] = [
    Contestant {
        name: PLAIN,
        kind: "plain",
        families: 2,
        ours: false,
    },
    Contestant {
        name: "MAC-NAT",
        kind: "macnat",
        families: 2,
        ours: true,
    },
    Contestant {
        name: "nftables",
        kind: "nftables",
        families: 1,
        ours: false,
    },
    Contestant {
        name: "parprouted",
        kind: "parprouted",
        families: 1,
        ours: false,
    },
];

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "from a guest",
            Self::In => "to a guest",
        }
    }
}

/// Measures all of it, the contestants in turn.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    for contestant in &CONTESTANTS {
        make(programs, contestant)?;
    }
    for turn in 0..=4 * runs {
        // Each of them is the first as often as the others.
        for place in 0..CONTESTANTS.len() {
            let contestant = &CONTESTANTS[(place + turn) % CONTESTANTS.len()];
            for family in 0..contestant.families {
                for way in [Way::Out, Way::In] {
                    let packet = packets(contestant, family, way)?;
                    if turn > 0 {
                        report.add(packet_key(contestant, family, way), packet);
                    }
                    for _ in 0..STREAMS {
                        let stream = stream(contestant, family, way)?;
                        if turn > 0 {
                            report.add(stream_key(contestant, family, way), stream);
                        }
                    }
                }
                let answer = answers(contestant, family)?;
                if turn > 0 {
                    report.add(answer_key(contestant, family), answer);
                }
            }
        }
        if turn > 0 {
            attach_again(report)?;
        }
        eprintln!("bench: macnat: {turn} of {}", 4 * runs);
    }
    for family in 0..FAMILIES.len() {
        let Some(ours) = CONTESTANTS.iter().find(|one| one.ours) else {
            continue;
        };
        for against in CONTESTANTS.iter().filter(|one| !one.ours) {
            // Against a bridge, 0.9 of the packets and 1.1 of the latency are
            // enough; the others are to be left behind.
            let (packet, answer) = if against.name == PLAIN {
                (1.0 / 0.9, 1.1)
            } else {
                (1.0, 1.0)
            };
            for way in [Way::Out, Way::In] {
                report.compare(packet_key(ours, family, way), against.name, packet);
                report.compare(stream_key(ours, family, way), against.name, 1.0);
            }
            report.compare(answer_key(ours, family), against.name, answer);
        }
    }
    Ok(())
}

fn key(contestant: &Contestant, case: String, metric: &'static str) -> Key {
    Key {
        part: PART,
        case,
        contestant: contestant.name,
        metric,
    }
}

fn packet_key(contestant: &Contestant, family: usize, way: Way) -> Key {
    let case = format!("frames of 64 bytes {}, {}", way.name(), FAMILIES[family]);
    key(contestant, case, "processor us each")
}

fn stream_key(contestant: &Contestant, family: usize, way: Way) -> Key {
    let case = format!("256 MiB of TCP {}, {}", way.name(), FAMILIES[family]);
    key(contestant, case, "processor ms")
}

fn answer_key(contestant: &Contestant, family: usize) -> Key {
    let case = format!("a request and its answer, {}", FAMILIES[family]);
    key(contestant, case, "us there and back")
}

fn make(programs: &Programs, contestant: &Contestant) -> Outcome<()> {
    let mut command = Command::new(programs.scripts.join("macnat.sh"));
    command.arg(contestant.kind);
    run(command)?;
    let host = format!("{}-host", contestant.kind);
    if contestant.ours {
        in_namespace(&host, || {
            let (settings, addresses) = what_is_translated()?;
            Ok(mac_nat::attach(&settings, &addresses)?)
        })?;
    }
    // A bridge's ports forward at once, its links take up to a second.
    for address in LAN.iter().take(contestant.families) {
        let guest = format!("{}-guest", contestant.kind);
        let mut ping = Command::new("ip");
        ping.args([
            "netns", "exec", &guest, "ping", "-q", "-c", "5", "-i", "0.3", "-W", "1", address,
        ]);
        run(ping).map_err(|error| format!("{}: {error}", contestant.name))?;
    }
    Ok(())
}

/// Takes the programs away and puts them there.
fn attach_again(report: &mut Report) -> Outcome<()> {
    let Some(ours) = CONTESTANTS.iter().find(|one| one.ours) else {
        return Ok(());
    };
    let [attached, detached] = in_namespace(&format!("{}-host", ours.kind), || {
        let (settings, addresses) = what_is_translated()?;
        let began = Instant::now();
        mac_nat::detach(settings.uplink, settings.air)?;
        let detached = began.elapsed();
        mac_nat::attach(&settings, &addresses)?;
        Ok([began.elapsed() - detached, detached])
    })?;
    for (metric, took) in [("ms to attach", attached), ("ms to detach", detached)] {
        let case = "the programs come and go".into();
        report.add(key(ours, case, metric), took.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn what_is_translated() -> Outcome<(Settings, Addresses)> {
    let settings = Settings {
        uplink: nix::net::if_::if_nametoindex("uplink")?,
        mac: "02:00:00:00:00:21".parse()?,
        air: nix::net::if_::if_nametoindex("air0")?,
        dhcp_chaddr: false,
    };
    let mut addresses = Addresses::default();
    for address in ["192.0.2.21", "192.0.2.1", "2001:db8::1"] {
        addresses.protected.insert(address.parse()?);
    }
    Ok((settings, addresses))
}

/// A socket of the guest and one of the LAN, that speak with each other.
fn pair(contestant: &Contestant, family: usize) -> Outcome<[UdpSocket; 2]> {
    let bind = |side: &str, address: &str| {
        let address: SocketAddr = (address.parse::<std::net::IpAddr>()?, 5000).into();
        in_namespace(&format!("{}-{side}", contestant.kind), || {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        })
    };
    let (guest, guest_address) = bind("guest", GUEST[family])?;
    let (lan, lan_address) = bind("lan", LAN[family])?;
    guest.connect(lan_address)?;
    lan.connect(guest_address)?;
    // Neighbours are asked for once, before.
    for _ in 0..20 {
        exchange(&guest, &lan)?;
    }
    Ok([guest, lan])
}

fn exchange(guest: &UdpSocket, lan: &UdpSocket) -> Outcome<()> {
    let mut buffer = [0; 64];
    for (from, to) in [(guest, lan), (lan, guest)] {
        from.send(b"vmbr")?;
        receive(to, &mut buffer)?;
    }
    Ok(())
}

/// It is there already, but when the processor hands such work to a thread of
/// the kernel.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Outcome<()> {
    loop {
        match socket.recv(buffer) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                if poll(&mut asked, 2000_u16)? == 0 {
                    return Err("a packet did not arrive".into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time that this thread has had of the processor.
fn used() -> Outcome<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn packets(contestant: &Contestant, family: usize, way: Way) -> Outcome<f64> {
    let [guest, lan] = pair(contestant, family)?;
    let (from, to) = match way {
        Way::Out => (&guest, &lan),
        Way::In => (&lan, &guest),
    };
    let payload = vec![0; PAYLOAD[family]];
    let mut buffer = [0; 64];
    let began = used()?;
    for _ in 0..PACKETS / BATCH {
        for _ in 0..BATCH {
            from.send(&payload)?;
        }
        for _ in 0..BATCH {
            receive(to, &mut buffer)?;
        }
    }
    Ok((used()? - began).as_secs_f64() * 1e6 / PACKETS as f64)
}

fn answers(contestant: &Contestant, family: usize) -> Outcome<f64> {
    let [guest, lan] = pair(contestant, family)?;
    let began = used()?;
    for _ in 0..ANSWERS {
        exchange(&guest, &lan)?;
    }
    Ok((used()? - began).as_secs_f64() * 1e6 / ANSWERS as f64)
}

fn stream(contestant: &Contestant, family: usize, way: Way) -> Outcome<f64> {
    let (server, client, address) = match way {
        Way::Out => ("lan", "guest", LAN[family]),
        Way::In => ("guest", "lan", GUEST[family]),
    };
    let address: SocketAddr = (address.parse::<std::net::IpAddr>()?, 5001).into();
    let inside = |side: &str| format!("{}-{side}", contestant.kind);
    let listener = in_namespace(&inside(server), || Ok(TcpListener::bind(address)?))?;
    let sender = in_namespace(&inside(client), || Ok(TcpStream::connect(address)?))?;
    let (receiver, _) = listener.accept()?;
    for stream in [&sender, &receiver] {
        stream.set_nonblocking(true)?;
    }
    let mut block = vec![0; 256 << 10];
    let (mut sent, mut received) = (0, 0);
    let began = used()?;
    while received < BYTES {
        if sent < BYTES {
            sent += some((&sender).write(&block[..BLOCK.min(BYTES - sent)]))?;
        }
        match some((&receiver).read(&mut block))? {
            0 => {
                let mut asked = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
                if poll(&mut asked, 5000_u16)? == 0 {
                    return Err(format!("{received} bytes of {BYTES} arrived").into());
                }
            }
            length => received += length,
        }
    }
    Ok((used()? - began).as_secs_f64() * 1e3)
}

/// How much could be done without waiting.
fn some(done: std::io::Result<usize>) -> Outcome<usize> {
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        done => Ok(done?),
    }
}
