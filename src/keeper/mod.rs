//! The lease keeper: the one program of vmbr's that stays running.
//!
//! Some leases have no manager that can be given the bridge. BusyBox's udhcpc
//! takes the address away whenever it is started (`deconfig`), and remembers no
//! lease; some clients have long ended. What they have said to the server is
//! known, or can be tried; so the keeper says the same in their
//! place, for the bridge's address, until `vmbr down`.
//!
//! # Why not a crate's client
//!
//! mozim is a whole client, but one that gets leases: it believes any answer
//! with the number of its one exchange, whoever sends it and for whatever MAC;
//! it hears no refusal while it renews, gives a lease up when nobody confirms it
//! in four tries, and listens where guests speak, too. dhcproto knows messages
//! alone, with seventy crates below it. So the messages are read and written by
//! smoltcp's `wire` (0BSD, fuzzed, five small crates below it), which knows
//! IPv4 and UDP, too, and the states are our own, a pure function
//! ([`machine`]).
//!
//! # What it believes
//!
//! A guest is on the bridge with the host, and may well play DHCP server. The
//! keeper hears what arrives at the *uplink*, and speaks there: no guest hears
//! what it asks or is heard by it, as none was before there was a bridge. A
//! server on the LAN is believed as little as the RFC allows ([`machine`]).
//! Two limits follow: a DHCP server that moves into a guest of this host is not
//! heard; and one that answers a renewal from another server's number is not
//! believed before T2.
//!
//! # What it does not do
//!
//! DHCPv6. /etc/resolv.conf, which the client before it has written: it says in
//! the log when the server names other DNS servers. The options' other meanings
//! (MTU, NTP), for which that client's script has cared once.
//!
//! # The rooms
//!
//! - [`message`]: reads and writes packets.
//! - [`lease`]: what is granted, and what is said to get it.
//! - [`machine`]: the states, purely.
//! - [`apply`]: a lease as operations, purely.
//! - [`mod@file`]: what it is told and what it tells, on disk.
//! - [`confine`]: what is left of its privilege.
//! - [`run`]: hears, says, and has the operations performed.
#![forbid(unsafe_code)]

pub mod apply;
pub mod confine;
pub mod file;
pub mod lease;
pub mod machine;
pub mod message;
pub mod run;
