//! Running programs and waiting for what they cause.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// What is left of a program that ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout, bad UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to stderr, bad UTF-8 replaced.
    pub stderr: String,
}

impl Ended {
    /// The exit status as a number; panics if a signal ended it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// Asserts that it succeeded, and gives its stdout.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }
}

/// Runs a command to its end with nothing on stdin.
pub fn run(command: &mut Command) -> Ended {
    command.stdin(std::process::Stdio::null());
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Asks every 5 ms until the answer is yes or the time is over, and gives the
/// last answer.
pub fn wait_until(limit: Duration, mut asked: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if asked() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
