//! What the integration tests share: network namespaces of their own.
//!
//! A test that needs the kernel's network makes a [`Namespace`] and works in
//! it by commands; the namespace of the machine itself is never touched, and
//! no thread of the test ever enters another one. A test that cannot make a
//! namespace fails and says why: it is never skipped in silence.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code, unused_imports)]
// Clippy knows that `#[test]` functions may unwrap, but not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod namespace;
mod process;
pub mod stage;
pub mod strike;

pub use namespace::{Namespace, VethEnd, veth_pair};
pub use process::{Ended, run, wait_until};
