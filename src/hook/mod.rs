//! `vmbr hook`: what libvirt calls around a domain's and a network's life
//! (<https://libvirt.org/hooks.html>).
//!
//! - [`domain`]: what a domain's XML asks for. Pure.
//! - [`qemu_conf`]: as whom libvirt runs QEMU. Pure, but for one read.
//! - [`network`]: what a network's XML asks for. Pure.
//!
//! `cli::hook` does what these ask for.
#![forbid(unsafe_code)]

pub mod domain;
pub mod network;
pub mod qemu_conf;
