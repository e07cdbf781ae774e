//! Programs of the host that are run, with an end to the waiting.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How much a program may say.
const LONGEST: u64 = 16 << 20;
/// Where an administrator's programs are, whatever PATH says.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Time between two looks whether a program that has said all has ended, too,
/// and how long one that was killed may take.
const TICK: Duration = Duration::from_millis(1);
const LAST: Duration = Duration::from_millis(100);

/// What a program says until `deadline`, or why it says nothing (its first
/// complaint); None where it is not there. It gets nothing of the caller's
/// environment, and is looked for where only root can put it. One that is late
/// is killed; it may have done its work all the same.
pub fn ask(program: &str, arguments: &[&str], deadline: Instant) -> Option<Result<String, String>> {
    let directory = DIRECTORIES
        .iter()
        .find(|d| Path::new(d).join(program).is_file())?;
    let mut command = Command::new(Path::new(directory).join(program));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", DIRECTORIES.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Some(Err(format!("{program} does not start: {error}"))),
    };
    let output = child.stdout.take().map(hear);
    let complaints = child.stderr.take().map(hear);
    let said = output.and_then(|output| until(&output, deadline));
    let status = said.is_some().then(|| end_of(&mut child, deadline)).flatten();
    if status.is_none() {
        // Should it not even end now, it is left: vmbr does not wait for it.
        let _ = child.kill();
        end_of(&mut child, Instant::now() + LAST);
    }
    Some(match (said, status) {
        (Some(text), Some(status)) if status.success() => Ok(text),
        (Some(_), Some(_)) => {
            let complaints = complaints.and_then(|heard| until(&heard, Instant::now() + LAST));
            Err(
                match complaints
                    .as_deref()
                    .map(str::trim_start)
                    .and_then(|text| text.lines().next())
                {
                    Some(first) => format!("{program}: {first}"),
                    None => format!("{program} failed"),
                },
            )
        }
        _ => Err(format!("{program} did not answer in time")),
    })
}

/// Reads to the end what a program says, beside the waiting for it.
fn hear(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(LONGEST).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// What was heard, if it ends until `deadline`.
fn until(heard: &Receiver<Vec<u8>>, deadline: Instant) -> Option<String> {
    let bytes = heard.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    bytes
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// How a program ended, if it does until `deadline`.
fn end_of(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => thread::sleep(TICK),
            ended => return ended.ok().flatten(),
        }
    }
}
