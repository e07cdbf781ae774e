//! The only place with `unsafe`: thin, checked wrappers of system calls.
//!
//! Each module holds one family of calls, gives values with types of their
//! own instead of numbers, and answers with [`std::io::Error`] as the kernel
//! said it; the sentence around it is the caller's. What is not `unsafe` is
//! here too where it belongs to the same family.
#![allow(unsafe_code)]

#[cfg(feature = "mac-nat")]
pub mod bpf;
pub mod caps;
#[cfg(feature = "cli")]
pub mod descriptors;
pub mod fdpass;
pub mod ids;
mod ifreq;
pub mod netdev;
pub mod netns;
#[cfg(feature = "cli")]
pub mod packet;
#[cfg(feature = "cli")]
pub mod pidfd;
pub mod rtnl;
pub mod seccomp;
pub mod syslog;
pub mod tap;
