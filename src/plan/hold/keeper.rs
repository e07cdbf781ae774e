//! A lease that nobody could be given.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::plan::record::Process;

/// A lease that vmbr's own keeper renews, and who has renewed it before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The address.
    pub address: Ipv4Addr,
    /// Who gave it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Ipv4Addr>,
    /// What is said to the server.
    pub sent: Sent,
    /// The client that has renewed it; none where it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
}

/// A DHCP client that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its name, as people know it.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Its command line, for a sentence.
    pub command: String,
}

/// What a DHCP client says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Who it may be known as. Each is tried until a server confirms one.
    pub identities: Vec<Identity>,
    /// Other options that are sent as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extras: Vec<Extra>,
}

/// A DHCP option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// Its code.
    pub code: u8,
    /// Its value, 255 bytes at most.
    pub value: Vec<u8>,
}

/// Who a client says it is (option 61, RFC 2132, 9.14).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Nothing: its MAC, in a field of every message, is its name.
    Mac,
    /// Its MAC once more, with the type of the hardware.
    TypedMac,
    /// This.
    Is(Vec<u8>),
}

impl Identity {
    /// The option's value for the client with this MAC.
    pub fn option(&self, mac: [u8; 6]) -> Option<Vec<u8>> {
        match self {
            Self::Mac => None,
            Self::TypedMac => Some([&[1], mac.as_slice()].concat()),
            Self::Is(value) => Some(value.clone()),
        }
    }
}
