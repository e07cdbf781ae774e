//! What `status` tells of a bridge in mode mac-nat.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use macaddr::MacAddr6;
use serde::Serialize;

use crate::apply::air;
use crate::mac_nat;
use crate::model::{HostState, Link};
use crate::plan::Record;
use crate::plan::air::Programs;

use super::status::Guest;

/// The translation of MACs, as a bridge has it.
#[derive(Debug, Serialize)]
pub struct Translation {
    /// `attached`; `stale` where they know an earlier state of the host;
    /// `incomplete` or `missing` where guests reach no network; `unknown` to who
    /// is not root.
    pub programs: &'static str,
    /// Whether DHCP clients' hardware addresses are translated, too.
    pub dhcp_chaddr: bool,
    /// How many addresses of guests are known; none to who is not root.
    pub learned: Option<usize>,
    /// Frames by what became of them, those that are none left out: dropped
    /// for this reason, or counted for it.
    pub counters: BTreeMap<&'static str, u64>,
}

/// An address that a guest has.
#[derive(Debug, Clone, Serialize)]
pub struct LearnedAddress {
    /// The address.
    pub address: IpAddr,
    /// Seconds since it was last heard.
    pub age_seconds: u64,
    /// Whether the ACL gives it to this guest alone.
    pub pinned: bool,
}

/// What the programs have learned, by the port's number.
pub type Learned = HashMap<u32, Vec<mac_nat::Guest>>;

/// Asks the programs. Who is not root hears nothing of them.
pub fn ask(live: &HostState, record: &Record, uplink: Option<&Link>) -> (Translation, Learned) {
    let programs = match air::programs(live, record) {
        Ok(Programs::All) if air::is_current(record).is_ok_and(|current| !current) => "stale",
        Ok(Programs::All) => "attached",
        Ok(Programs::Some) => "incomplete",
        Ok(Programs::None) => "missing",
        Err(_) => "unknown",
    };
    let index = uplink.map(|link| link.index);
    let guests = index.and_then(|index| mac_nat::guests(index).ok());
    let mut counters = index
        .and_then(|index| mac_nat::counters(index).ok())
        .unwrap_or_default();
    counters.retain(|_, count| *count > 0);
    let translation = Translation {
        programs,
        dhcp_chaddr: record.air.as_ref().is_some_and(|air| air.dhcp_chaddr),
        learned: guests.as_ref().map(Vec::len),
        counters,
    };
    let mut learned = Learned::new();
    for guest in guests.unwrap_or_default() {
        learned.entry(guest.port).or_default().push(guest);
    }
    (translation, learned)
}

/// Adds what the programs learned behind a port to what its bridge did.
pub fn add(guests: &mut Vec<Guest>, learned: &[mac_nat::Guest]) {
    for one in learned {
        let known = guests.iter_mut().find(|guest| guest.mac == Some(one.mac));
        let guest = match known {
            Some(guest) => guest,
            None => {
                guests.push(Guest::of(one.mac));
                let Some(last) = guests.last_mut() else { continue };
                last
            }
        };
        if !guest.addresses.contains(&one.address) {
            guest.addresses.push(one.address);
        }
        guest.learned.push(LearnedAddress {
            address: one.address,
            age_seconds: one.age.as_secs(),
            pinned: one.pinned,
        });
    }
    for guest in guests {
        guest.addresses.sort_by_key(super::status::rank);
    }
}

/// How it is with the uplink.
pub fn uplink_state(link: Option<&Link>) -> &'static str {
    match link {
        None => "gone",
        Some(link) if !link.up => "down",
        Some(link) if !link.carrier => "no-carrier",
        Some(_) => "up",
    }
}

/// The number's reason for people; what is no word of this vmbr's stays.
pub fn reason(word: &str) -> &str {
    match word {
        "source-mac" => "sent as the uplink, a gateway, or a group of stations",
        "protocol" => "neither ARP nor IP, or in a VLAN",
        "short" => "cut short",
        "arp" => "no sound ARP",
        "address" => "from an address that is nobody's",
        "protected" => "claimed an address of the host, a gateway or a name server",
        "pinned" => "claimed an address that the ACL gives to another guest",
        "headers" => "IPv6 headers without an end",
        "discovery" => "no sound neighbour discovery",
        "bridge" => "sent by the bridge itself",
        "echo" => "our own, echoed by the access point",
        "dhcp-transaction" => "asked DHCP by a number that another asks by",
        "server" => "to this host, as a router or a DHCP server",
        "loop" => "to another guest by the uplink's MAC, and not there",
        "checksum" => "would have had headers overwritten by a checksum",
        "moves-refused" => "addresses that moved too often",
        "quota-replaced" => "addresses beyond a port's 64: its oldest made place",
        other => other,
    }
}

/// A MAC of two that are one: for a sentence.
pub fn lower(mac: MacAddr6) -> String {
    mac.to_string().to_lowercase()
}
