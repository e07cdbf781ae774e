//! Whether a host answers, all the time: for how long it was silent.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crate::common::{Namespace, wait_until};

/// A question every ten milliseconds, to the host and to the one who asks:
/// where that one is silent, too, it is the machine that stands still.
pub struct Pulse {
    host: Beat,
    control: Beat,
}

impl Pulse {
    /// Begins to ask from a namespace, and waits for the first answer.
    pub fn start(ns: &Namespace, to: &str) -> Self {
        Self {
            host: Beat::start(ns, to),
            control: Beat::start(ns, "127.0.0.1"),
        }
    }

    /// The longest time without an answer since `from`, up to now, less what
    /// the machine was at a stand for. What was before that is forgotten.
    pub fn longest_silence(&self, from: Instant) -> Duration {
        // One that is on its way comes.
        sleep(Duration::from_millis(30));
        let control = self.control.longest_silence(from);
        self.host.longest_silence(from).saturating_sub(control)
    }
}

/// The answers of one.
struct Beat {
    ping: Child,
    heard: Arc<Mutex<Vec<Instant>>>,
}

impl Beat {
    fn start(ns: &Namespace, to: &str) -> Self {
        let mut command = ns.command("stdbuf");
        command
            .args(["-oL", "ping", "-n", "-i", "0.01", to])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut ping = command.spawn().unwrap();
        let lines = BufReader::new(ping.stdout.take().unwrap()).lines();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&heard);
        spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("bytes from") {
                    note.lock().unwrap().push(Instant::now());
                }
            }
        });
        let beat = Self { ping, heard };
        let answered = || !beat.heard.lock().unwrap().is_empty();
        assert!(
            wait_until(Duration::from_secs(5), answered),
            "{to} does not answer"
        );
        beat
    }

    fn longest_silence(&self, from: Instant) -> Duration {
        let mut heard = self.heard.lock().unwrap();
        let since = heard.iter().filter(|at| **at > from).copied();
        let mut longest = Duration::ZERO;
        let mut last = from;
        for at in since.chain([Instant::now()]) {
            longest = longest.max(at - last);
            last = at;
        }
        heard.clear();
        longest
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}
