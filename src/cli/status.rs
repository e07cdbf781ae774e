//! `vmbr status`.
use super::args::{Args, Status};
use super::outcome::Error;
/// Runs `vmbr status`.
pub fn run(_status: &Status, _args: &Args) -> Result<(), Error> {
    Ok(())
}
