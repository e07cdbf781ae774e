//! `vmbr hook`: what libvirt calls around a domain's and a network's life
//! (<https://libvirt.org/hooks.html>).
//!
//! - [`domain`]: what a domain's XML asks for. Pure.
//! - [`qemu_conf`]: as whom libvirt runs QEMU. Pure, but for one read.
//! - [`qemu`], [`network`]: the two hooks.
//!
//! libvirt waits for a hook, holds locks meanwhile, and takes what it prints
//! for an answer: nothing is printed to standard output, and libvirt is never
//! asked anything. Which of its calls may fail, and what comes of it, is in
//! [`qemu`].
#![forbid(unsafe_code)]

pub mod domain;
pub mod qemu_conf;
