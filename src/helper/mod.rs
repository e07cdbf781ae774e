//! `vmbr-helper`: makes a TAP for an unprivileged QEMU.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Runs the helper.
pub fn main() -> ExitCode {
    ExitCode::from(1)
}
