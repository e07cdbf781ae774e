//! Frames made by hand, sent from a device of a namespace by socat.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::{Namespace, wait_until};

/// A MAC.
pub type Mac = [u8; 6];

/// To everyone.
pub const BROADCAST: Mac = [0xff; 6];
/// To all nodes of IPv6 (RFC 2464, 7).
pub const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Reads `02:00:00:00:00:21`.
pub fn mac(text: &str) -> Mac {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect::<Vec<_>>().try_into().unwrap()
}

/// The MAC of a device.
pub fn mac_of(ns: &Namespace, dev: &str) -> Mac {
    mac(ns.link(dev).unwrap()["address"].as_str().unwrap())
}

/// An ARP packet (RFC 826); 1 is a request, 2 a reply.
pub fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(sender.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0);
    packet.extend(target.1.octets());
    packet
}

/// A neighbour advertisement (RFC 4861, 4.4) in its IPv6 packet; `flags` has
/// the router, solicited and override bits in its highest ones.
pub fn advertisement(to: Ipv6Addr, target: Ipv6Addr, flags: u8, sender: Mac) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(sender);
    let mut packet = vec![0x60, 0, 0, 0, 0, message.len().try_into().unwrap(), 58, 255];
    packet.extend(target.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet[8..], &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet.extend(message);
    packet
}

/// Of ICMPv6, with its pseudo header (RFC 8200, 8.1).
fn checksum(addresses: &[u8], message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap();
    let all = [addresses, &length.to_be_bytes(), &[0, 0, 0, 58], message].concat();
    let mut sum: u32 = all
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

/// An Ethernet frame; ARP is 0x0806, IPv6 is 0x86dd.
pub fn frame(to: Mac, from: Mac, protocol: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &protocol.to_be_bytes(), packet].concat()
}

/// A device that frames are given to.
pub struct Sender {
    socat: Child,
    socket: UnixDatagram,
    path: PathBuf,
}

impl Sender {
    /// On a device of a namespace.
    pub fn on(ns: &Namespace, dev: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmbr-frames-{}", ns.name()));
        let from = format!("UNIX-RECV:{}", path.display());
        let socat = socat(ns, &["-u", &from, &format!("INTERFACE:{dev}")], Stdio::null());
        let socket = UnixDatagram::unbound().unwrap();
        let listens = wait_until(Duration::from_secs(5), || socket.connect(&path).is_ok());
        assert!(listens, "socat does not listen");
        Self { socat, socket, path }
    }

    /// Sends each of the frames every 20 ms while `work` is done.
    pub fn repeat<T>(&self, frames: &[Vec<u8>], work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for frame in frames {
                        self.socket.send(frame).unwrap();
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
            // Also where it panics, which would wait for the other thread else.
            let _over = End(&over);
            work()
        })
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
        let _ = fs::remove_file(&self.path);
    }
}

/// One frame, as often as it can be sent, until it is dropped.
pub struct Flood {
    socat: Child,
    over: Arc<AtomicBool>,
    feeder: Option<JoinHandle<()>>,
}

impl Flood {
    /// From a device of a namespace.
    pub fn of(ns: &Namespace, dev: &str, frame: &[u8]) -> Self {
        let length = frame.len().to_string();
        let to = format!("INTERFACE:{dev}");
        let mut socat = socat(ns, &["-u", "-b", &length, "STDIN", &to], Stdio::piped());
        let mut input = socat.stdin.take().unwrap();
        // Less than a pipe's atomic size: whole frames come out.
        let block = frame.repeat(4096 / frame.len());
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let feeder =
            thread::spawn(move || while !seen.load(Ordering::Relaxed) && input.write_all(&block).is_ok() {});
        Self {
            socat,
            over,
            feeder: Some(feeder),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.socat.kill();
        let _ = self.socat.wait();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
    }
}

fn socat(ns: &Namespace, args: &[&str], input: Stdio) -> Child {
    let mut command: Command = ns.command("socat");
    command.args(args).stdin(input).stdout(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|e| panic!("socat: {e} (apt-get install socat)"))
}
