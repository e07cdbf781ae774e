//! A vmbr that was built without the feature `mac-nat`: it says so.

use std::collections::BTreeMap;
use std::net::IpAddr;

use macaddr::MacAddr6;

use super::{Addresses, Attached, Guest, MacNatError, Settings};

fn left_out<T>() -> Result<T, MacNatError> {
    Err(MacNatError {
        message: "this vmbr was built without MAC-NAT".to_owned(),
        remedy: Some("build it with the feature mac-nat, which is on unless it is left out, and needs clang"),
    })
}

/// Whether this vmbr has the programs.
pub fn supported() -> bool {
    false
}

/// Puts the programs to their devices.
///
/// # Errors
/// Always.
pub fn attach(_: &Settings, _: &Addresses) -> Result<(), MacNatError> {
    left_out()
}

/// Tells the programs what has changed.
///
/// # Errors
/// Always.
pub fn sync(_: &Settings, _: &Addresses) -> Result<bool, MacNatError> {
    left_out()
}

/// Whether the programs know something else.
///
/// # Errors
/// Always.
pub fn stale(_: &Settings, _: &Addresses) -> Result<bool, MacNatError> {
    left_out()
}

/// Whether the programs have heard of the host's addresses.
///
/// # Errors
/// Always.
pub fn has_heard_host(_uplink: u32) -> Result<bool, MacNatError> {
    left_out()
}

/// Takes the programs off their devices.
///
/// # Errors
/// Always.
pub fn detach(_uplink: u32, _air: u32) -> Result<(), MacNatError> {
    left_out()
}

/// Has the programs do nothing.
///
/// # Errors
/// Always.
pub fn stop(_uplink: u32, _air: u32) -> Result<(), MacNatError> {
    left_out()
}

/// Which programs stand.
///
/// # Errors
/// Always.
pub fn attached(_uplink: u32, _air: u32) -> Result<Attached, MacNatError> {
    left_out()
}

/// What was learned.
///
/// # Errors
/// Always.
pub fn guests(_uplink: u32) -> Result<Vec<Guest>, MacNatError> {
    left_out()
}

/// Which addresses are one guest's.
///
/// # Errors
/// Always.
pub fn pins(_uplink: u32) -> Result<BTreeMap<IpAddr, MacAddr6>, MacNatError> {
    left_out()
}

/// What was dropped, by reason.
///
/// # Errors
/// Always.
pub fn counters(_uplink: u32) -> Result<BTreeMap<&'static str, u64>, MacNatError> {
    left_out()
}
