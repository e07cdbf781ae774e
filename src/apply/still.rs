//! A host that holds still.
//!
//! The kernel tells its devices, addresses, routes and rules one after the
//! other, and of thousands of IPv6 routes it may leave some out when others
//! come or go meanwhile (`inet6_dump_fib()` counts where it was). A plan that
//! rests on such a picture would move a half of the network. So it rests on
//! two looks that agree, and is checked against the host again before it takes
//! something away ([`super::migrate`]).

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::model::{HostState, IfName};
use crate::netlink::dump;

/// How long the host may take to come to rest: one that is being configured
/// does within a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long a host that was seen to change must be seen not to.
const QUIET: Duration = Duration::from_millis(150);
/// Time between two looks at a host that changes.
const BETWEEN: Duration = Duration::from_millis(5);

/// Why there is no picture to rest a plan on.
#[derive(Debug)]
pub enum StillError {
    /// The host's network could not be read.
    Read(io::Error),
    /// It changed all the time: this of it.
    Restless(String),
}

/// Looks at the host until it is as in the look before, in all on which a
/// change of `devices` rests. `earlier` is the first of these looks; where
/// nothing has changed since, one more is enough, but for a host that has
/// `disturbed` a change already: that is watched for a while.
///
/// # Errors
/// [`StillError`]; a host that does not come to rest for some seconds.
pub fn look_again(earlier: HostState, devices: &[&IfName], disturbed: bool) -> Result<HostState, StillError> {
    let begun = Instant::now();
    let mut before = earlier;
    let mut changed = disturbed.then_some(begun);
    let mut last = String::new();
    loop {
        let now = dump::network().map_err(StillError::Read)?;
        if let Some(what) = now.change_since(&before, devices) {
            changed = Some(Instant::now());
            last = what;
        }
        if changed.is_none_or(|at| at.elapsed() >= QUIET) {
            return Ok(now);
        }
        if begun.elapsed() >= PATIENCE {
            return Err(StillError::Restless(last));
        }
        before = now;
        sleep(BETWEEN);
    }
}
