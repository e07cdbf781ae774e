//! The only place with `unsafe`: thin, checked wrappers of system calls.
#![allow(unsafe_code)]

pub mod netns;
pub mod syslog;
