//! Any bytes as an ACL file.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties.rs"]
mod properties;

fuzz_target!(|text: &[u8]| properties::acl(text));
