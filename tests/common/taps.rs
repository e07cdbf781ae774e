//! The guest's side of a TAP, and who hears what it sends.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Namespace, wait_until};
use crate::host::Host;

/// What the number of a frame stands behind, in its last eight bytes.
const MARK: &[u8; 4] = b"vmbr";
/// The number of the frame that is sent last.
const LAST: u32 = u32::MAX;

/// A host with a bridge that vmbr did not make.
pub fn bridged(hint: &str) -> Host {
    Host::new(
        hint,
        "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0 up
         ip addr add 192.0.2.21/24 dev br0; ip addr add 2001:db8::21/64 dev br0 nodad",
    )
}

/// A program that holds a TAP as a guest does and sends frames.
pub struct Holder {
    socat: Child,
    socket: UnixDatagram,
    path: PathBuf,
}

impl Holder {
    /// Attaches to a TAP that is there.
    pub fn of(ns: &Namespace, tap: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmbr-tap-{}-{tap}", ns.name()));
        let socat = ns
            .command("socat")
            .args(["-u", &format!("UNIX-RECV:{}", path.display())])
            .arg(format!("TUN,tun-type=tap,iff-no-pi,tun-name={tap}"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        let listens = wait_until(Duration::from_secs(5), || socket.connect(&path).is_ok());
        assert!(listens, "socat does not listen");
        Self { socat, socket, path }
    }

    /// Sends each frame, with its place as its number, and gives the numbers
    /// of those that arrive at `ear`. `honest` is one that is known to arrive.
    pub fn arrive(&self, ear: &Ear, frames: &[Vec<u8>], honest: &[u8]) -> BTreeSet<usize> {
        // Until the port forwards.
        let through = wait_until(Duration::from_secs(5), || {
            self.socket.send(&marked(honest, LAST)).unwrap();
            ear.next(Duration::from_millis(50)) == Some(LAST)
        });
        assert!(through, "not even an honest frame arrives");
        while ear.next(Duration::from_millis(100)).is_some() {}
        for (number, frame) in frames.iter().enumerate() {
            self.socket.send(&marked(frame, number as u32)).unwrap();
            // The listener's buffer is not endless.
            std::thread::sleep(Duration::from_micros(300));
        }
        self.socket.send(&marked(honest, LAST)).unwrap();
        let mut heard = BTreeSet::new();
        loop {
            match ear.next(Duration::from_secs(5)) {
                Some(LAST) => return heard,
                Some(number) => assert!(heard.insert(number as usize), "frame {number} came twice"),
                None => panic!("the last frame did not arrive"),
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
        let _ = fs::remove_file(&self.path);
    }
}

fn marked(frame: &[u8], number: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(frame.len().max(60), 0);
    frame.extend(MARK);
    frame.extend(number.to_be_bytes());
    frame
}

/// Hands whole frames on; socat's INTERFACE takes their ends off.
const LISTENER: &str = "
import socket, sys
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
heard.bind((sys.argv[1], 0))
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
while True:
    told.sendto(heard.recv(9216), sys.argv[2])
";

/// A program that hears what comes in at a device.
pub struct Ear {
    listener: Child,
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ear {
    /// At a device of a namespace.
    pub fn at(ns: &Namespace, dev: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmbr-ear-{}-{dev}", ns.name()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        let listener = ns
            .command("python3")
            .args(["-c", LISTENER, dev])
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            listener,
            socket,
            path,
        }
    }

    /// The number of the next marked frame, if one comes in time.
    fn next(&self, limit: Duration) -> Option<u32> {
        let end = Instant::now() + limit;
        let mut buffer = [0; 9216];
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .unwrap();
            let Ok(length) = self.socket.recv(&mut buffer) else {
                continue;
            };
            let tail = &buffer[length.saturating_sub(8)..length];
            if let Some(number) = tail.strip_prefix(MARK) {
                return Some(u32::from_be_bytes(number.try_into().unwrap()));
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
        let _ = fs::remove_file(&self.path);
    }
}

/// A cable from a TAP of one namespace to a device `eth0` of another: the
/// guest there has a whole Linux behind its TAP.
pub struct Cable {
    ends: Vec<Child>,
    paths: Vec<PathBuf>,
}

impl Cable {
    /// Lays it. `eth0` has the MAC and is down.
    pub fn lay(host: &Namespace, tap: &str, guest: &Namespace, mac: &str) -> Self {
        let path = |end: &str| std::env::temp_dir().join(format!("vmbr-cable-{}-{end}", guest.name()));
        let paths = vec![path("host"), path("guest")];
        guest.ip(&["tuntap", "add", "dev", "eth0", "mode", "tap"]);
        guest.ip(&["link", "set", "eth0", "address", mac]);
        let end = |ns: &Namespace, dev: &str, own: usize, other: usize| {
            ns.command("socat")
                .args(["-b", "70000"])
                .arg(format!("TUN,tun-type=tap,iff-no-pi,tun-name={dev}"))
                .arg(format!(
                    "UNIX-SENDTO:{},bind={}",
                    paths[other].display(),
                    paths[own].display()
                ))
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        // The guest's first: it is down and says nothing, and what is sent to
        // nobody ends a socat.
        let mut ends = Vec::new();
        for (ns, dev, own, other) in [(guest, "eth0", 1, 0), (host, tap, 0, 1)] {
            ends.push(end(ns, dev, own, other));
            let there = wait_until(Duration::from_secs(5), || paths[own].exists());
            assert!(there, "socat does not listen");
        }
        Self { ends, paths }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in &mut self.ends {
            let _ = end.kill();
            let _ = end.wait();
        }
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}
