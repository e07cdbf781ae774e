//! Plans become the kernel's state here, and are remembered on disk.
//!
//! - [`namespace`]: which network namespace of which boot this is.
//! - [`lock`]: one change of a namespace at a time.
//! - [`store`]: the records of what was changed.
//! - [`executor`]: performs a plan, and stops at the first failure.
//! - [`migrate`]: the way to a target and, where that fails, back.
#![forbid(unsafe_code)]

pub mod executor;
pub mod lock;
pub mod migrate;
pub mod namespace;
pub mod solicit;
pub mod store;
