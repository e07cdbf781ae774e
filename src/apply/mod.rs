//! Plans become the kernel's state here, and are remembered on disk.
//!
//! - [`namespace`]: which network namespace of which boot this is.
//! - [`lock`]: one change of a namespace at a time.
//! - [`store`]: the records of what was changed.
//! - [`still`]: the picture of the host that a plan rests on.
//! - [`executor`]: performs a plan, and stops at the first failure.
//! - [`migrate`]: the way to a target and, where that fails, back.
//! - [`air`]: the way to a bridge with MAC-NAT and back; [`told`] reads what
//!   its programs are told beside the kernel's network.
//! - [`announce`]: tells the network of the guests' new MAC.
//! - [`probe`]: whether gateways answer.
//! - [`recover`]: the way back of a change that did not end.
//! - [`watchdog`]: the process that takes it when the one that changes dies.
//! - [`clock`], [`process`], [`watch`]: time, processes and directories, as
//!   the watchdog sees them.
#![forbid(unsafe_code)]

pub mod air;
pub mod announce;
pub mod clock;
pub mod executor;
pub mod lock;
pub mod migrate;
pub mod namespace;
pub mod probe;
pub mod process;
pub mod recover;
pub mod solicit;
pub mod still;
pub mod store;
pub mod told;
pub mod watch;
pub mod watchdog;
