//! `vmbr`: the command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Runs the command line.
pub fn main() -> ExitCode {
    ExitCode::from(1)
}
