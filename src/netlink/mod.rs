//! The kernel's network, read and changed by rtnetlink(7).
//!
//! - [`dump`]: reads the kernel into a [`crate::model::HostState`], by
//!   rtnetlink on a current-thread runtime.
//! - [`wire`]: a small synchronous socket for what changes the kernel: several
//!   messages in one datagram, and the kernel's own words on a refusal.
//! - [`mod@read`] and [`mod@write`]: the model from messages and messages from the
//!   model.
//! - [`multicast`]: the groups that programs joined, from /proc/net.
//! - [`nexthop`]: the messages of nexthop objects, which no crate has.
//! - [`sysctl`]: the settings under /proc/sys/net.
//! - [`wireless`]: what a wireless device is, by nl80211.
//! - [`bridges`]: the options of bridges.
//! - [`changes`]: what the kernel tells of changes.
//! - [`ports`]: many TAPs at once.
#![forbid(unsafe_code)]

pub mod bridges;
pub mod changes;
pub mod dump;
pub mod multicast;
pub mod nexthop;
pub mod ports;
pub mod read;
pub mod sysctl;
pub mod wire;
pub mod wireless;
pub mod write;

use std::io;

/// What the kernel answered to a request.
#[derive(Debug)]
pub struct KernelError {
    /// The error number, as an [`io::Error`].
    pub source: io::Error,
    /// The kernel's own sentence (extended acknowledgement), where it said one.
    pub detail: Option<String>,
}

impl KernelError {
    /// Whether the kernel answered with this error number.
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }
}

impl From<io::Error> for KernelError {
    fn from(source: io::Error) -> Self {
        Self { source, detail: None }
    }
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.source),
            None => self.source.fmt(f),
        }
    }
}

impl std::error::Error for KernelError {}
