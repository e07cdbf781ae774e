//! What systemd-resolved was told of a device, as it is written down.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::model::is_default;

/// What systemd-resolved was told of the uplink, and not what every device has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedHold {
    /// The servers that are asked through it, in their order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: Vec<Server>,
    /// The domains that are searched, or asked for, there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub domains: Vec<Domain>,
    /// Whether names of no domain are asked for there, where that was said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default_route: Option<bool>,
    /// How it is asked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub modes: Vec<(Mode, String)>,
    /// Domains whose answers need no signature.
    #[serde(default, skip_serializing_if = "is_default")]
    pub untrusted: Vec<String>,
}

/// A server of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Where it is.
    pub address: IpAddr,
    /// Its port; 0 is the usual one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port: u16,
    /// The name that its certificate has; empty is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: String,
}

impl fmt::Display for Server {
    /// As resolvectl(1) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, 0) => address.fmt(f)?,
            (address, port) => SocketAddr::new(address, port).fmt(f)?,
        }
        if !self.name.is_empty() {
            write!(f, "#{}", self.name)?;
        }
        Ok(())
    }
}

/// A domain of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Whether it is not appended to short names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub route_only: bool,
}

impl fmt::Display for Domain {
    /// As resolvectl(1) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.route_only { "~" } else { "" };
        write!(f, "{sign}{}", self.name)
    }
}

/// How systemd-resolved asks through a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// LLMNR (RFC 4795).
    Llmnr,
    /// Multicast DNS (RFC 6762).
    MulticastDns,
    /// DNS over TLS (RFC 7858).
    DnsOverTls,
    /// Signed answers (RFC 4033).
    Dnssec,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llmnr, Self::MulticastDns, Self::DnsOverTls, Self::Dnssec];

    /// The property of D-Bus that it is read by (org.freedesktop.resolve1(5));
    /// `SetLink` and this is the call that it is set by.
    pub fn property(self) -> &'static str {
        match self {
            Self::Llmnr => "LLMNR",
            Self::MulticastDns => "MulticastDNS",
            Self::DnsOverTls => "DNSOverTLS",
            Self::Dnssec => "DNSSEC",
        }
    }

    /// The word of resolvectl(1) for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Llmnr => "llmnr",
            Self::MulticastDns => "mdns",
            Self::DnsOverTls => "dnsovertls",
            Self::Dnssec => "dnssec",
        }
    }
}
