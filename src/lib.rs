//! vmbr puts QEMU/KVM guests on the network of their host.
//!
//! Two programs are built from this library: `vmbr`, which an administrator
//! runs, and `vmbr-helper`, which QEMU runs for an unprivileged user.
//!
//! # The way of the data
//!
//! A network change is a value before it is an act, and there is one way to
//! get anywhere:
//!
//! ```text
//! netlink::dump -> model::HostState --plan::plan(live, target)--> plan::Plan --apply--> kernel
//!                                                                     \-> Display: ip commands
//! ```
//!
//! # The rooms of the house
//!
//! - [`model`]: plain values of the host's network, devices by name. No I/O,
//!   no unsafe.
//! - `plan`: pure functions from (live, target) to operations or a refusal.
//!   No I/O, no unsafe. Its crate doc tells how a migration goes; `Op` is the
//!   only thing that can be done, `Command` how it is shown.
//! - `netlink`: `dump` reads the kernel into the model, `wire` and `write`
//!   give operations to it, `ports` makes and removes many TAPs.
//! - `apply`: the lock, the record of what was changed, the executor,
//!   `migrate`, which plans and acts until the target is reached, and the
//!   watchdog, which leads an interrupted change back.
//! - `doctor`: what was read of a host becomes findings, purely; one place
//!   mends them.
//! - `owners`: who else has a hand on a NIC; `handover` moves them along.
//! - `keeper`: renews a lease that no manager can be given.
//! - `mac_nat`: guests on an uplink that accepts one MAC, by programs for the
//!   kernel's traffic control.
//! - `tool`: the host's own programs, for those two.
//! - [`guard`]: which frames a guest may send, as a program for the kernel;
//!   pure.
//! - [`sys`]: the only unsafe: TAP ioctls, descriptor passing, capabilities,
//!   seccomp, pidfds, packet sockets.
//! - [`helper`], `cli`, `hook`: the ways in.
//!
//! What is not [`model`]'s names, [`guard`], [`sys`] and [`helper`] is behind the feature
//! `cli`: `vmbr-helper` is built without it.
#![deny(unsafe_code)]

#[cfg(feature = "cli")]
pub mod apply;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod doctor;
pub mod guard;
#[cfg(feature = "cli")]
pub mod handover;
pub mod helper;
#[cfg(feature = "cli")]
pub mod hook;
#[cfg(feature = "cli")]
pub mod keeper;
#[cfg(feature = "cli")]
pub mod mac_nat;
pub mod model;
#[cfg(feature = "cli")]
pub mod netlink;
#[cfg(feature = "cli")]
pub mod owners;
#[cfg(feature = "cli")]
pub mod plan;
pub mod sys;
#[cfg(feature = "cli")]
mod tool;
