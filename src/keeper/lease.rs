//! What a server grants.

use std::net::Ipv4Addr;

use super::message::{Answer, Way};

/// A lease without an end (RFC 2131, 3.3).
const FOREVER: u32 = u32::MAX;
/// A shorter lease is none: renewing it would be all that one does.
const SHORTEST: u32 = 5;

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its prefix, where the server says it.
    pub prefix: Option<u8>,
    /// The server.
    pub server: Ipv4Addr,
    /// How long it lasts; none for one without an end.
    pub seconds: Option<u32>,
    /// When to ask the server to prolong it, in seconds.
    pub t1: u32,
    /// When to ask everyone.
    pub t2: u32,
    /// Where the server says that others are.
    pub ways: Vec<Way>,
    /// The DNS servers.
    pub dns: Vec<Ipv4Addr>,
}

impl Lease {
    /// The lease of an offer or a grant. None where an address, a server or a
    /// time is missing, or is none.
    pub fn of(answer: &Answer) -> Option<Self> {
        let server = answer.server.filter(is_host)?;
        let seconds = answer.seconds.filter(|seconds| *seconds >= SHORTEST)?;
        // RFC 2131, 4.4.5: half, and seven eighths; a server may say others,
        // in this order.
        let (half, most) = (seconds / 2, seconds - (seconds / 8).max(1));
        let said = |time: Option<u32>, usual: u32| time.filter(|time| *time > 0).unwrap_or(usual);
        let (mut t1, mut t2) = (said(answer.times.0, half), said(answer.times.1, most));
        if t1 >= t2 || t2 >= seconds {
            (t1, t2) = (half, most);
        }
        let mut ways = answer.ways.clone();
        ways.retain(|way| way.via.is_none_or(|via| is_host(&via)));
        Some(Self {
            address: Some(answer.address).filter(is_host)?,
            prefix: answer.prefix,
            server,
            seconds: (seconds != FOREVER).then_some(seconds),
            t1,
            t2,
            ways,
            dns: answer.dns.clone(),
        })
    }
}

/// Whether an address can be a host's.
pub fn is_host(address: &Ipv4Addr) -> bool {
    let first = address.octets()[0];
    !(first == 0 || first >= 224 || address.is_loopback())
}
