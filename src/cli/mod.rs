//! `vmbr`: the command line that an administrator runs.
#![forbid(unsafe_code)]

mod air;
pub mod args;
mod change;
mod confirm;
mod doctor;
mod down;
mod generate;
mod hook;
mod keeper;
pub mod outcome;
mod picture;
mod recover;
mod run;
mod status;
mod sync;
mod tap;
mod translation;
mod up;
mod verification;
mod watchdog;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Args, Command};
use outcome::{Error, print_json, say};

/// Runs the command line.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let done = match &args.command {
        Command::Up(up) => up::run(up, &args),
        Command::Down(down) => down::run(down, &args),
        Command::Confirm(confirm) => confirm::run(confirm, &args),
        Command::Recover => recover::run(&args),
        Command::Sync(sync) => sync::run(sync, &args),
        Command::Status(status) => status::run(status, &args),
        Command::Tap(tap) => tap::run(tap, &args),
        Command::Hook(call) => hook::run(call, &args),
        // Findings are no failure, and yet a status.
        Command::Doctor(doctor) => return doctor::run(doctor, &args).unwrap_or_else(|e| e.tell(args.json)),
        // The command that it starts takes its place.
        Command::Run(run) => return run::run(run, &args),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { dir } => generate::man(dir.as_deref()),
        Command::Watchdog(duty) => watchdog::run(duty, &args),
        Command::Keeper(keeper) => keeper::run(keeper),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.tell(args.json),
    }
}

/// Help and version are asked for, the rest is bad usage.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        print_json(
            &serde_json::json!({"error": {"status": 2, "message": message, "remedy": "see vmbr --help"}}),
        );
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// Says a warning.
fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

/// Refuses where the kernel would: without CAP_NET_ADMIN nothing can change.
fn require_privilege() -> Result<(), Error> {
    let has = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN);
    if has.unwrap_or(false) && nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::refused(
            "changing the host's network needs root",
            "run it with sudo",
        ))
    }
}
