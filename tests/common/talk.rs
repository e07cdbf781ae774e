//! Live TCP connections between two namespaces, by socat.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Namespace, run, wait_until};

const PORT: u16 = 7007;

fn spawn(mut command: Command) -> Child {
    command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e} (apt-get install socat)"))
}

/// Sends back what it is told, over both families.
pub struct Server {
    child: Child,
}

impl Server {
    /// Listens on every address of the namespace.
    pub fn start(ns: &Namespace) -> Self {
        let mut command = ns.command("socat");
        command.arg(format!("TCP6-LISTEN:{PORT},ipv6only=0,reuseaddr,fork"));
        let server = Self {
            child: spawn(command_without_input(command.arg("PIPE"))),
        };
        let listens = || {
            run(ns.command("ss").args(["-Htln"]))
                .stdout
                .contains(&PORT.to_string())
        };
        assert!(
            wait_until(Duration::from_secs(5), listens),
            "socat does not listen"
        );
        server
    }
}

fn command_without_input(command: &mut Command) -> Command {
    command.stdin(Stdio::null());
    std::mem::replace(command, Command::new("true"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection to a [`Server`].
pub struct Talk {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    said: usize,
}

impl Talk {
    /// Connects from a namespace to an address.
    pub fn with(ns: &Namespace, to: &str) -> Self {
        let address = if to.contains(':') {
            format!("TCP6:[{to}]:{PORT}")
        } else {
            format!("TCP4:{to}:{PORT}")
        };
        let mut command = ns.command("socat");
        command
            .args(["-", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn(command);
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, answers) = channel();
        // It ends with socat.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self {
            child,
            input,
            answers,
            said: 0,
        }
    }

    /// Says something new, and whether that comes back in time.
    pub fn answered(&mut self, limit: Duration) -> bool {
        self.said += 1;
        let word = format!("word {}", self.said);
        if writeln!(self.input, "{word}").is_err() {
            return false;
        }
        let end = Instant::now() + limit;
        while let Ok(answer) = self
            .answers
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if answer == word {
                return true;
            }
        }
        false
    }

    /// Asserts that the connection lives.
    pub fn assert_answered(&mut self, limit: Duration) {
        assert!(self.answered(limit), "the connection is silent for {limit:?}");
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
