//! Guests are kept from answering the host in the place of its DHCP server
//! and its router.
//!
//! A DHCP client believes whoever answers first, and a host every router that
//! advertises itself (RFC 2131, 4.4.1; RFC 4861, 6.3.4). On a plain NIC that
//! takes a neighbour in the LAN; on a bridge a guest is nearer than the server
//! is. A host that has learned nothing so is left as it is: its router may be
//! to be a guest.
//!
//! # Why nftables, where guards are filters of traffic control
//!
//! What a guest says to other guests is not the host's affair: one may well be
//! their DHCP server. So the frame has to be stopped where it is about to leave
//! the bridge for the host, and that is the hook `input` of the bridge family
//! (NF_BR_LOCAL_IN, `br_pass_frame_up()` of net/bridge/br_input.c). There the
//! port that it came by is still known, which a filter at the bridge cannot
//! ask for, and it comes before packet sockets, by which DHCP clients hear;
//! those are served before traffic control (`__netif_receive_skb_core()`). It
//! holds for every port, also one that libvirt or QEMU's own helper has made.
//! A guard at the guest's TAP (`--guard`, the ACL's `guard`) is for the rest of
//! the LAN, too.
//!
//! Whoever flushes the rules of the host takes it away; it is a second lock. A
//! kernel that cannot ask for the bridge (CONFIG_NFT_BRIDGE_META, which
//! distributions have) gets none: the rules would hold for every bridge, and
//! the host may have its address of another one from a guest on purpose.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::model::IfName;
use crate::model::route::protocol;
use crate::plan::Record;
use crate::tool;

/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether the host has learned of its network by what anyone can say.
///
/// Leases and advertisements leave addresses that have an end, and routes that
/// are marked.
fn is_wanted(record: &Record) -> bool {
    let learned = [protocol::RA, protocol::DHCP];
    let mut addresses = record.before.addresses.iter();
    addresses.any(|address| !address.is_permanent())
        || record.before.routes.iter().any(|r| learned.contains(&r.protocol))
        || record.kept().is_some()
}

/// A name that nft takes for itself, in a table's name and in quotes.
fn is_plain(device: &IfName) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    device.as_str().chars().all(plain)
}

fn table(record: &Record) -> String {
    format!("bridge vmbr-{}", record.bridge.name)
}

/// The statements that make the table.
fn statements(record: &Record) -> Vec<String> {
    let table = table(record);
    let (uplink, bridge) = (&record.uplink.name, &record.bridge.name);
    let drop = |what: &str| format!("add rule {table} input meta protocol {what} counter drop");
    vec![
        format!("add table {table}"),
        format!("add chain {table} input {{ type filter hook input priority -300; }}"),
        format!("add rule {table} input meta ibrname != \"{bridge}\" accept"),
        format!("add rule {table} input iifname \"{uplink}\" accept"),
        // Tags of priority alone are taken off one behind the other
        // (`__netif_receive_skb_core()`); the first is off already here.
        drop("{ 8021q, 8021ad }"),
        drop("ip udp dport 68"),
        drop("ip6 udp dport 546"),
        drop("ip6 icmpv6 type nd-router-advert"),
    ]
}

/// The commands that a person would type for [`raise`].
pub(super) fn commands(record: &Record) -> Vec<String> {
    if !is_wanted(record) || !is_plain(&record.uplink.name) || !is_plain(&record.bridge.name) {
        return Vec::new();
    }
    let all = statements(record).into_iter();
    all.map(|statement| format!("nft '{statement}'")).collect()
}

/// The commands that a person would type for [`lower`].
pub(super) fn commands_back(record: &Record) -> Option<String> {
    is_wanted(record).then(|| format!("nft delete table {}", table(record)))
}

/// Keeps guests of the bridge from it.
///
/// # Errors
/// Why they are not, a sentence to warn by.
pub(super) fn raise(record: &Record) -> Result<(), String> {
    if !is_wanted(record) {
        return Ok(());
    }
    let name = &record.bridge.name;
    let warning = |why: &str| {
        format!(
            "a guest on {name} could answer the host in its DHCP server's or router's place ({why}): \
             give guests a guard (vmbr tap add --guard, or 'guard' in the ACL)"
        )
    };
    if !is_plain(&record.uplink.name) || !is_plain(name) {
        return Err(warning("nft has no word for a device of such a name"));
    }
    let table = table(record);
    // One that is left of an earlier bridge goes.
    let mut all = vec![format!("add table {table}"), format!("delete table {table}")];
    all.extend(statements(record));
    match tool::ask("nft", &[&all.join("; ")], Instant::now() + PATIENCE) {
        Some(Ok(_)) => Ok(()),
        Some(Err(why)) => Err(warning(&why)),
        None => Err(warning("there is no nft")),
    }
}

/// Takes that back; it may not be there.
pub(super) fn lower(record: &Record) {
    if is_wanted(record) && is_plain(&record.bridge.name) {
        let words = format!("delete table {}", table(record));
        let _ = tool::ask("nft", &[&words], Instant::now() + PATIENCE);
    }
}
