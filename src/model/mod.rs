//! Plain values of the host's network: no I/O, no unsafe.
#![forbid(unsafe_code)]

pub mod ifname;

pub use ifname::IfName;
