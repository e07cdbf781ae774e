//! The holder of a TAP: what he says and hears on it, and what he does to it
//! by ioctls that take no capability.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::common::stage::{Call, Stage};

/// The TAP of descriptor 3 gets another owner.
pub const OWN: &str = "ioctl($tap, 0x400454cc, 1) or print qq(TUNSETOWNER: $!\\n);";
/// It outlives its descriptors.
pub const PERSIST: &str = "ioctl($tap, 0x400454cb, 1) or print qq(TUNSETPERSIST: $!\\n);";
/// It gets another MAC: SIOCSIFHWADDR on the descriptor itself.
pub const SET_MAC: &str = r#"
my $request = pack("a16 S C6 x16", "", 1, 0x52, 0x54, 0, 0, 0, 0x66);
ioctl($tap, 0x8924, $request) or print qq(SIOCSIFHWADDR: $!\n);
"#;

/// Runs Perl as a user who holds a TAP as `$tap`, and gives what it printed.
pub fn holder(stage: &Stage, uid: u32, code: &str, tap: BorrowedFd<'_>) -> String {
    let code = format!("open(my $tap, '+<&=', 3) or open($tap, '<&=', 3) or die; {code}");
    let call = Call::new(&["-e", &code]).program("/usr/bin/perl").uid(uid);
    stage.run_on(&call, tap.try_clone_to_owned().unwrap()).ok()
}

/// Ethernet frames on a TAP without a virtio header.
pub struct Frames(File);

impl Frames {
    /// Takes the TAP's descriptor.
    pub fn new(tap: OwnedFd) -> Self {
        fcntl(&tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self(tap.into())
    }

    /// Sends a frame of an experimental protocol (RFC 5342).
    pub fn say(&mut self, from: [u8; 6], to: [u8; 6], text: &[u8]) {
        let mut frame = [to, from].concat();
        frame.extend([0x88, 0xb5]);
        frame.extend(text);
        frame.resize(60, 0);
        self.0.write_all(&frame).unwrap();
    }

    /// Sends a packet of IPv4 and UDP to everyone.
    pub fn say_ipv4(&mut self, from: [u8; 6], address: [u8; 4], text: &[u8]) {
        let length = (28 + text.len()) as u8;
        let mut packet = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(address);
        packet.extend([192, 0, 2, 255]);
        // Bridge netfilter, where it is on, drops what has none.
        let words = packet
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend([0x30, 0x39, 0x30, 0x39, 0, length - 20, 0, 0]);
        packet.extend(text);
        let mut frame = [[0xff; 6], from].concat();
        frame.extend([8, 0]);
        frame.extend(packet);
        frame.resize(frame.len().max(60), 0);
        self.0.write_all(&frame).unwrap();
    }

    /// Sends this frame.
    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }

    /// Whether this text comes, or has come.
    pub fn hears(&mut self, text: &[u8]) -> bool {
        self.hears_within(text, Duration::from_secs(3))
    }

    /// Whether it does not come. What passes comes at once, but on a machine
    /// that has much to do.
    pub fn misses(&mut self, text: &[u8]) -> bool {
        !self.hears_within(text, Duration::from_millis(100))
    }

    fn hears_within(&mut self, text: &[u8], limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut frame = [0; 2048];
        loop {
            match self.0.read(&mut frame) {
                Ok(length) if frame[..length].windows(text.len()).any(|part| part == text) => return true,
                Ok(_) => {}
                Err(_) if Instant::now() >= end => return false,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
