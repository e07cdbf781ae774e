//! What a guard costs: the same work by a guarded port and by one without.
//!
//! The guest is this program: it holds the TAP as QEMU does. For TCP a whole
//! Linux is behind it, in a namespace of its own, by frames of 1,500 bytes;
//! QEMU's are up to 64 kB, and so fewer.
//!
//! What is measured is the time by the clock, and the time of the processor:
//! it limits how much passes, and does not depend on who else has work to do.
//! The kernel takes a frame through filter and bridge before write(2) returns,
//! so the time is that of this program.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vmbr::sys::tap::{self, TapFeatures, Tun};

use crate::lab::{Lab, Migration, Outcome, Programs, host, in_namespace, run, text};
use crate::report::{Key, Report};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const MAC_TEXT: &str = "52:54:00:12:34:56";
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const GUARD: &str = "192.0.2.50,2001:db8::50,2001:db8:a::/64";
const GUARDED: &str = "guarded";
const OPEN: &str = "unguarded";
const CLOCK: &str = "s";
const PROCESSOR: &str = "processor s";
const PACKETS: usize = 200_000;
const BYTES: usize = 128 << 20;
const PORT: u16 = 5001;

/// Measures both.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    let key = |case: &str, contestant, metric| Key {
        part: "guard",
        case: case.into(),
        contestant,
        metric,
    };
    let cases = ["200,000 UDP packets of 64 bytes", "128 MiB of TCP"];
    let lab = Lab::new(programs, Migration::Control)?;
    run(host(&["ip", "link", "add", "br0", "type", "bridge"]))?;
    run(host(&["ip", "link", "set", "br0", "up"]))?;
    run(host(&["ip", "link", "set", "eth0", "master", "br0"]))?;
    ip(&["netns", "add", "guest"])?;
    // The first pass only warms up. A pass takes a second or two: a few more
    // samples make what a busy machine does to both the same.
    for turn in 0..=4 * runs {
        for contestant in if turn % 2 == 0 {
            [OPEN, GUARDED]
        } else {
            [GUARDED, OPEN]
        } {
            let sent = with_tap(programs, contestant, send_packets)?;
            let carried = with_tap(programs, contestant, carry_stream)?;
            eprintln!("bench: guard: {turn}, {contestant}: packets {sent:?}, TCP {carried:?}");
            if turn == 0 {
                continue;
            }
            for (case, took) in cases.iter().zip([sent, carried]) {
                report.add(key(case, contestant, CLOCK), took.clock.as_secs_f64());
                report.add(key(case, contestant, PROCESSOR), took.processor.as_secs_f64());
            }
        }
    }
    // Throughput of 0.95 and 0.9 is so much of the time.
    for (case, throughput) in cases.iter().zip([0.9, 0.95]) {
        for metric in [CLOCK, PROCESSOR] {
            report.compare(key(case, GUARDED, metric), OPEN, 1.0 / throughput);
        }
    }
    drop(lab);
    Ok(())
}

/// Makes a TAP, holds it while `work` is done, and removes it.
fn with_tap(
    programs: &Programs,
    contestant: &str,
    work: impl FnOnce(OwnedFd) -> Outcome<Took>,
) -> Outcome<Took> {
    let vmbr = text(&programs.vmbr)?;
    let mut add = vec![vmbr, "tap", "add", "t0", "--bridge", "br0", "--mac", MAC_TEXT];
    if contestant == GUARDED {
        add.extend(["--guard", GUARD]);
    }
    run(host(&add))?;
    let held = in_namespace("host", || hold("t0"))?;
    let took = work(held);
    run(host(&[vmbr, "tap", "del", "--force", "t0"]))?;
    took
}

fn hold(name: &str) -> Outcome<OwnedFd> {
    Ok(tap::attach(Tun::open()?, &name.parse()?, TapFeatures::default())?)
}

/// How long something took.
#[derive(Debug, Clone, Copy)]
struct Took {
    clock: Duration,
    /// What this program has had of the processor meanwhile.
    processor: Duration,
}

/// When something began.
struct Began(Instant, Duration);

impl Began {
    fn now() -> Outcome<Self> {
        Ok(Self(Instant::now(), used()?))
    }

    fn took(&self) -> Outcome<Took> {
        Ok(Took {
            clock: self.0.elapsed(),
            processor: used()? - self.1,
        })
    }
}

/// The time that this program has had of the processor.
fn used() -> Outcome<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn send_packets(held: OwnedFd) -> Outcome<Took> {
    let mut udp = vec![
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 50, 192, 0, 2, 1,
    ];
    udp.extend([0x13, 0x88, 0, 9, 0, 26, 0, 0]);
    udp.resize(46, 0);
    let sum: u32 = udp[..20]
        .chunks(2)
        .map(|p| u32::from(p[0]) << 8 | u32::from(p[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    udp[10..12].copy_from_slice(&sum.to_be_bytes());
    let frame = [&LAN_MAC[..], &MAC, &[8, 0], &udp].concat();
    let mut tap = File::from(held);
    let began = Began::now()?;
    for _ in 0..PACKETS {
        tap.write_all(&frame)?;
    }
    began.took()
}

/// A guest's Linux sends a stream to the LAN.
fn carry_stream(held: OwnedFd) -> Outcome<Took> {
    ip(&["-n", "guest", "tuntap", "add", "dev", "eth0", "mode", "tap"])?;
    ip(&["-n", "guest", "link", "set", "eth0", "address", MAC_TEXT, "up"])?;
    ip(&["-n", "guest", "addr", "add", "192.0.2.50/24", "dev", "eth0"])?;
    let inside = in_namespace("guest", || hold("eth0"))?;
    let over = AtomicBool::new(false);
    let ends = [File::from(held), File::from(inside)];
    for end in &ends {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let took = thread::scope(|scope| {
        scope.spawn(|| relay(&ends[0], &ends[1], &over));
        scope.spawn(|| relay(&ends[1], &ends[0], &over));
        let took = transfer();
        over.store(true, Ordering::Relaxed);
        took
    });
    drop(ends);
    ip(&["-n", "guest", "link", "del", "eth0"])?;
    took
}

/// From outside: a namespace that was made inside of another's is not seen.
fn ip(words: &[&str]) -> Outcome<()> {
    let mut command = Command::new("ip");
    command.args(words);
    run(command).map(drop)
}

/// Hands frames on until it is over.
fn relay(mut from: &File, mut to: &File, over: &AtomicBool) {
    let mut frame = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        match from.read(&mut frame) {
            Ok(length) => {
                // A queue that is full drops, as a NIC does.
                let _ = to.write(&frame[..length]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut fds = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(from),
                    nix::poll::PollFlags::POLLIN,
                )];
                let _ = nix::poll::poll(&mut fds, 50_u16);
            }
            Err(_) => return,
        }
    }
}

fn transfer() -> Outcome<Took> {
    let listener = in_namespace("lan", || Ok(TcpListener::bind(("192.0.2.1", PORT))?))?;
    let mut sender = in_namespace("guest", || Ok(TcpStream::connect(("192.0.2.1", PORT))?))?;
    let (mut receiver, _) = listener.accept()?;
    for stream in [&sender, &receiver] {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    }
    let began = Began::now()?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Outcome<()> {
            let block = vec![0; 128 << 10];
            for _ in 0..BYTES / block.len() {
                sender.write_all(&block)?;
            }
            Ok(())
        });
        let mut block = vec![0; 256 << 10];
        let mut received = 0;
        loop {
            match receiver.read(&mut block)? {
                0 => break,
                length => received += length,
            }
        }
        sending.join().map_err(|_| "the sender panicked")??;
        if received == BYTES {
            began.took()
        } else {
            Err(format!("{received} bytes of {BYTES} arrived").into())
        }
    })
}
