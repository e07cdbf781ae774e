//! Programs that go on when vmbr has ended: DHCP clients on the bridge.
//!
//! Where systemd runs, each is a transient unit of its own, so that the end of
//! an SSH session or of a service does not end it; else a process in a session
//! of its own. Either way it is found again by what it was started with: its
//! program, and an argument that nobody else gives it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::owners::process::Around;
use crate::plan::record::Process;
use crate::sys::descriptors::keep_from_children;
use crate::tool;

/// What the names of the units of DHCP clients begin with that vmbr has
/// started.
pub const GIVEN_BACK: &str = "vmbr-dhc";
/// systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Asks it for a transient unit. By its path: the caller's PATH may be anyone's.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
/// How long a process that was killed may take to go.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long systemd may take to stop a unit that is killed for that.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Starts a program that stays in the foreground and outlives vmbr. `unit` is
/// the name of its systemd unit, without `.service`; one of the same name that
/// has ended is no hindrance.
///
/// # Errors
/// It cannot be executed.
pub fn start(
    unit: &str,
    description: &str,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> io::Result<()> {
    start_with(unit, description, program, arguments, &[])
}

/// The same, and where it is a unit, it has these `properties`
/// (systemd.exec(5)).
///
/// # Errors
/// It cannot be executed.
pub fn start_with(
    unit: &str,
    description: &str,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    properties: &[String],
) -> io::Result<()> {
    // What cannot be executed is known at once.
    let mut how = vec!["--property=Type=exec".to_owned()];
    how.extend(properties.iter().map(|property| format!("--property={property}")));
    launch(unit, description, &how, program, arguments)
}

/// Starts a program that goes to the background by itself, at once or when it
/// has what it needs; that is not waited for.
///
/// # Errors
/// It cannot be asked for.
pub fn start_daemon(
    unit: &str,
    description: &str,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> io::Result<()> {
    let how = [
        "--no-block",
        "--property=Type=forking",
        "--property=TimeoutStartSec=infinity",
    ];
    launch(unit, description, &how.map(str::to_owned), program, arguments)
}

fn launch(
    unit: &str,
    description: &str,
    how: &[String],
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> io::Result<()> {
    if is_systemds() {
        let mut command = Command::new(SYSTEMD_RUN);
        command
            .args(["--quiet", "--collect", "--no-ask-password"])
            .arg(format!("--unit={unit}"))
            .arg(format!("--description={description}"))
            .args(how)
            // Nothing is released or run down when the unit is stopped.
            .args(["--property=KillSignal=SIGKILL", "--"])
            .arg(program)
            .args(arguments);
        let status = quiet(&mut command).status()?;
        return if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("systemd-run: {status}")))
        };
    }
    // Whoever called vmbr may wait for the end of a pipe or a lock that it was
    // given.
    keep_from_children()?;
    // Two processes, the second of which belongs to nobody: this one does not
    // wait for it, and would keep it as a zombie.
    let mut command = Command::new("/usr/bin/setsid");
    command.arg("--fork").arg(program).args(arguments);
    let status = quiet(&mut command).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("setsid: {status}")))
    }
}

/// Stops a unit of [`start`], so that systemd does not start its program again.
/// The program may have been none.
pub fn stop(unit: &str) {
    if is_systemds() {
        let deadline = Instant::now() + STOP_PATIENCE;
        let _ = tool::ask("systemctl", &["stop", &format!("{unit}.service")], deadline);
    }
}

/// Kills, at once and without a word to anyone, root's processes of this
/// network namespace that run `program` with all of these arguments among
/// theirs. Gives how many there were.
///
/// # Errors
/// One that does not go.
pub fn kill(program: &str, marks: &[&str]) -> io::Result<usize> {
    let around = Around::look();
    let fits = |process: &&crate::owners::process::Process| {
        let has = |mark: &&str| process.arguments.iter().any(|argument| argument == mark);
        process.is_roots() && process.runs(program) && marks.iter().all(has)
    };
    let found: Vec<u32> = around.processes.iter().filter(fits).map(|p| p.id).collect();
    for id in &found {
        let Ok(process) = Process::of(*id) else {
            continue;
        };
        kill_one(&process)?;
    }
    Ok(found.len())
}

/// Kills one process; one that has ended already counts as killed.
///
/// # Errors
/// It does not go.
pub fn kill_one(process: &Process) -> io::Result<()> {
    let Ok(held) = process.hold() else {
        return Ok(());
    };
    match held.signal(Signal::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
        _ => {}
    }
    if held.has_ended(END_PATIENCE) {
        Ok(())
    } else {
        Err(io::Error::other(format!("process {} does not end", process.pid)))
    }
}

/// Whether a systemd would start its units where the caller is: it is process
/// 1 here, in the same network and mount namespaces.
pub fn is_systemds() -> bool {
    let same = |name: &str| {
        let of = |process: &str| {
            let file = fs::metadata(format!("/proc/{process}/ns/{name}"));
            file.map(|file| (file.dev(), file.ino())).ok()
        };
        of("1").is_some() && of("1") == of("self")
    };
    Path::new(SYSTEMD).is_dir() && same("net") && same("mnt")
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Nothing of the terminal's reaches it.
        .process_group(0)
}
