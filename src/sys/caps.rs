//! Capabilities of the calling thread (capabilities(7)), by the crate `caps`.
//!
//! The program that uses this has one thread, so what holds for the thread
//! holds for the process.
#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// All that is left of the process's privilege: CAP_NET_ADMIN, permitted but
/// not effective.
#[derive(Debug)]
pub struct NetAdmin {
    only: CapsHashSet,
}

/// CAP_NET_ADMIN is effective as long as this lives.
#[derive(Debug)]
pub struct Raised<'a>(PhantomData<&'a NetAdmin>);

/// Why privilege cannot be held as it should be.
#[derive(Debug)]
pub enum CapabilityError {
    /// The process has no CAP_NET_ADMIN to raise.
    Missing {
        /// No file capability can ever be gained under this process: it, or
        /// one that started it, has set `no_new_privs`.
        no_new_privs: bool,
    },
    /// A call failed that only a broken or forbidding kernel fails.
    Kernel(String),
}

impl fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { .. } => f.write_str("no permitted CAP_NET_ADMIN"),
            Self::Kernel(why) => write!(f, "cannot set capabilities: {why}"),
        }
    }
}

impl std::error::Error for CapabilityError {}

impl From<CapsError> for CapabilityError {
    fn from(error: CapsError) -> Self {
        Self::Kernel(error.to_string())
    }
}

impl NetAdmin {
    /// Gives up every capability but CAP_NET_ADMIN, in every set, and lets
    /// that one be permitted only. No program that this one might start can
    /// gain anything again (`no_new_privs`).
    ///
    /// The bounding set can only be emptied by who has CAP_SETPCAP: root has
    /// it. Where it cannot be emptied it does not matter, as `no_new_privs`
    /// denies what it would bound.
    ///
    /// # Errors
    /// [`CapabilityError::Missing`] without CAP_NET_ADMIN; then nothing was
    /// changed.
    pub fn keep_only() -> Result<Self, CapabilityError> {
        if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_ADMIN)? {
            let no_new_privs = prctl::get_no_new_privs().unwrap_or(false);
            return Err(CapabilityError::Missing { no_new_privs });
        }
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            caps::clear(None, CapSet::Bounding)?;
        }
        let only = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Inheritable)?;
        caps::clear(None, CapSet::Effective)?;
        caps::set(None, CapSet::Permitted, &only)?;
        prctl::set_no_new_privs().map_err(|e| CapabilityError::Kernel(e.to_string()))?;
        Ok(Self { only })
    }

    /// Makes it effective until the guard is dropped.
    ///
    /// # Errors
    /// As the kernel says; none is expected.
    pub fn raise(&self) -> Result<Raised<'_>, CapabilityError> {
        caps::set(None, CapSet::Effective, &self.only)?;
        Ok(Raised(PhantomData))
    }

    /// Gives it up for good.
    ///
    /// # Errors
    /// As the kernel says; none is expected.
    pub fn give_up(self) -> Result<(), CapabilityError> {
        Ok(caps::clear(None, CapSet::Permitted)?)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        // To lower what one holds cannot be refused. If it were, going on
        // with privilege would be the one wrong answer.
        if caps::clear(None, CapSet::Effective).is_err() {
            std::process::abort();
        }
    }
}
