//! `vmbr run`: a TAP by way of vmbr-helper, and the command that uses it.
//!
//! This program becomes the command: the same process, so that whoever
//! started it waits for, signals and limits the guest itself. What the
//! command gets is what this program got, and the TAP's descriptors.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use clap::CommandFactory;
use clap::error::ErrorKind;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::doctor::gather::helper_path;
use crate::sys::fdpass::{Received, receive};

use super::args::{Args, Run};
use super::outcome::Error;

mod fill;
mod user;

use fill::{Descriptors, fill};
use user::Account;

/// The way to the kernel's own virtio-net.
const VHOST: &str = "/dev/vhost-net";

/// Runs `vmbr run`; comes back only if the command was not started.
pub fn run(run: &Run, args: &Args) -> ExitCode {
    // With numbers that are no descriptors, before anything is made.
    let trial = Descriptors {
        fds: vec![0; run.queues as usize],
        vhostfds: vec![0; if run.vhost { run.queues as usize } else { 0 }],
    };
    if let Err(why) = fill(&run.command, &trial) {
        let error = Args::command().error(ErrorKind::ValueValidation, why);
        return super::usage(&error);
    }
    match start(run) {
        Ok(never) => match never {},
        Err(error) => error.tell(args.json),
    }
}

/// What does not happen: the command has taken the place of this program.
enum Never {}

fn start(run: &Run) -> Result<Never, Error> {
    let account = run.user.as_deref().map(Account::find).transpose()?;
    // Before root is given up, if it is: root asks for it.
    let vhost = if run.vhost { vhost(run.queues)? } else { Vec::new() };
    if let Some(account) = &account {
        account.become_it()?;
    }
    let taps = ask_helper(run)?;

    let descriptors = Descriptors {
        fds: numbers(&taps),
        vhostfds: numbers(&vhost),
    };
    let command =
        fill(&run.command, &descriptors).map_err(|why| Error::refused(why, "see vmbr run --help"))?;
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::refused("there is no command", "see vmbr run --help"))?;
    for descriptor in taps.iter().chain(&vhost) {
        pass_on(descriptor).map_err(|error| Error::unreadable(&error))?;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(account) = &account {
        command.envs(account.environment());
    }
    let error = command.exec();
    Err(Error::Failed {
        message: format!("cannot start {}: {error}", program.display()),
        remedy: "name a program that is in PATH, or its whole path".into(),
    })
}

fn numbers(descriptors: &[OwnedFd]) -> Vec<i32> {
    descriptors.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Lets a descriptor pass to the program that is executed.
fn pass_on(descriptor: &OwnedFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

fn vhost(queues: u32) -> Result<Vec<OwnedFd>, Error> {
    let open = || OpenOptions::new().read(true).write(true).open(VHOST);
    let opened: io::Result<Vec<File>> = (0..queues).map(|_| open()).collect();
    let opened = opened.map_err(|error| {
        let remedy = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                "as root: modprobe vhost_net; or leave --vhost and vhost=on out"
            }
            Some(libc::EACCES | libc::EPERM) => {
                "as root: give this user access to it (group kvm); or leave --vhost and vhost=on out"
            }
            Some(libc::EMFILE) => "raise the limit of open files: ulimit -n",
            _ => "leave --vhost and vhost=on out",
        };
        Error::refused(format!("cannot open {VHOST}: {error}"), remedy)
    })?;
    Ok(opened.into_iter().map(OwnedFd::from).collect())
}

/// Has the installed helper make the TAP.
fn ask_helper(run: &Run) -> Result<Vec<OwnedFd>, Error> {
    let helper = helper_path();
    let (ours, theirs) = UnixStream::pair().map_err(|error| Error::unreadable(&error))?;
    let theirs = OwnedFd::from(theirs);
    pass_on(&theirs).map_err(|error| Error::unreadable(&error))?;
    let mut command = Command::new(&helper);
    command
        .arg(format!("--fd={}", theirs.as_raw_fd()))
        .arg(format!("--br={}", run.bridge))
        .arg("--use-vnet")
        .arg(format!("--queues={}", run.queues))
        .args(run.mac.map(|mac| format!("--mac={mac}")))
        .args(run.isolated.then_some("--isolated"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn();
    drop(theirs);
    let ended = child
        .and_then(|child| child.wait_with_output())
        .map_err(|error| {
            let message = format!("cannot run {}: {error}", helper.display());
            Error::refused(message, "install it beside vmbr: scripts/install")
        })?;
    if !ended.status.success() {
        return Err(refusal(
            ended.status.code(),
            &String::from_utf8_lossy(&ended.stderr),
        ));
    }
    // It has ended: what it sent is there.
    let sent = ours.set_nonblocking(true).and_then(|()| receive(ours.as_fd()));
    match sent {
        Ok(Received { descriptors, .. }) if descriptors.len() == run.queues as usize => Ok(descriptors),
        other => Err(Error::Failed {
            message: format!("{} ended well and gave no TAP: {other:?}", helper.display()),
            remedy: "install the one that belongs to this vmbr: scripts/install".into(),
        }),
    }
}

/// What the helper said when it gave nothing.
fn refusal(status: Option<i32>, said: &str) -> Error {
    let said = said.trim().trim_start_matches("vmbr-helper: ");
    let message = match (said.is_empty(), status) {
        (false, _) => said.to_owned(),
        (true, Some(status)) => format!("vmbr-helper ended with status {status} and said nothing"),
        (true, None) => "vmbr-helper was killed".to_owned(),
    };
    let remedy = "vmbr doctor looks for what is in the way; who may join is said in /etc/vmbr/acl.conf or \
                  /etc/qemu/bridge.conf";
    match status {
        Some(3) => Error::refused(message, remedy),
        _ => Error::Failed {
            message,
            remedy: remedy.into(),
        },
    }
}
