//! Any bytes as a packet to a DHCP client.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../packets.rs"]
mod packets;

fuzz_target!(|bytes: &[u8]| packets::packet(bytes));
