//! Any bytes as a command line, the arguments separated by NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties.rs"]
mod properties;

fuzz_target!(|text: &[u8]| properties::argv(text));
