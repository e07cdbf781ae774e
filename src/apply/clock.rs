//! The clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Seconds since 1970, for people.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Time since the boot, suspended or not: nobody can set it, and all
/// processes have the same.
pub fn since_boot() -> Duration {
    // Fails for no clock that the kernel has, and it has this one.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Milliseconds since the boot.
pub fn boot_milliseconds() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}
