//! `vmbr keeper`, which only vmbr itself runs.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::apply::namespace;
use crate::keeper;
use crate::model::IfName;
use crate::sys::syslog::Severity;

use super::args::Keeper;
use super::outcome::{Error, log};
use super::require_privilege;

/// How soon a keeper that died is started again, at first and at last.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);

/// Runs the keeper of a bridge's lease.
pub fn run(args: &Keeper) -> Result<(), Error> {
    require_privilege()?;
    if args.supervise {
        supervise(&args.bridge);
        return Ok(());
    }
    let failed = |why: String| {
        let message = format!("the lease keeper of {} cannot go on: {why}", args.bridge);
        log(Severity::Error, &message);
        Error::Failed {
            message,
            remedy: "it is started by 'vmbr up', not by people; see 'vmbr doctor'".into(),
        }
    };
    let namespace = namespace::identity().map_err(|error| failed(error.to_string()))?;
    keeper::run::run(&namespace, &args.bridge).map_err(failed)
}

/// Starts the keeper, and again when it dies, until it ends by itself: what
/// systemd does where it runs.
fn supervise(bridge: &IfName) {
    let mut pause = SOON;
    loop {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("vmbr")
            .args(["keeper", "--bridge", bridge.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let ended = command.status();
        if ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return;
        }
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        log(
            Severity::Warning,
            &format!("the lease keeper of {bridge} has died ({how}): it is started again"),
        );
        sleep(pause);
        pause = (pause * 2).min(LATE);
    }
}
