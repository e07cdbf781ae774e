//! Programs of the host that are asked, with an end to the waiting.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
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

/// What a program says until `deadline`, or why it says nothing; None where it
/// is not there.
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
        .stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Some(Err(format!("{program} does not start: {error}"))),
    };
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = output.take(LONGEST).read_to_end(&mut bytes);
            let _ = sender.send(bytes);
        });
    }
    let said = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    let status = said.is_ok().then(|| end_of(&mut child, deadline)).flatten();
    if status.is_none() {
        // Should it not even end now, it is left: vmbr does not wait for it.
        let _ = child.kill();
        end_of(&mut child, Instant::now() + LAST);
    }
    Some(match (said, status) {
        (Ok(bytes), Some(status)) if status.success() => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        (Ok(_), Some(_)) => Err(format!("{program} failed")),
        _ => Err(format!("{program} did not answer in time")),
    })
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
