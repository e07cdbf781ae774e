//! The words behind the bridge of an `allow`: for whom, and how. No I/O.

use std::net::IpAddr;

use super::parse::{Fault, ParseError};
use crate::helper::args::{QUEUES_LIMIT, decimal};
use crate::model::Mac;
use crate::model::mac;

/// The most TAPs that `taps=` can say: as many ports as a bridge can have
/// (`BR_MAX_PORTS` less one, net/bridge/br_private.h).
pub const TAPS_MAX: u32 = 1023;

/// The most addresses that `guard=` can say.
pub const ADDRESSES_MAX: usize = 16;

const MTU_NEED: &str = "a number of bytes from 68 to 65521";
/// The least MTU of IPv4 (RFC 791), and the most of a TAP (65535 less the
/// Ethernet header, drivers/net/tun.c).
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_521;
const ADDRESSES_NEED: &str = "1 to 16 IPv4 or IPv6 addresses of single hosts, with commas between them";
const WHO_NEED: &str = "names, numbers or ranges of numbers (1000-1999), with commas between them";

/// What narrows an `allow`. As a whole it allows everybody everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms<'a> {
    /// `user=`: only these users.
    pub users: Option<Who<'a>>,
    /// `group=`: only members of one of these groups.
    pub groups: Option<Who<'a>>,
    /// `taps=`: how many TAPs at once each user has on each bridge.
    pub taps: Option<u32>,
    /// `isolated`: the port reaches no other isolated port.
    pub isolated: bool,
    /// `mac=`: the port is its guest's alone, whose MAC is this.
    pub mac: Option<MacRule>,
    /// `guard`, `guard=`.
    pub guard: Option<Guard<'a>>,
    /// `mtu=`: the TAP's MTU, in place of the bridge's.
    pub mtu: Option<u32>,
    /// `queues=`: how many queues may be asked for.
    pub queues: Option<u32>,
}

/// A list of users or of groups, found to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who<'a>(&'a str);

/// Some of the members of [`Who`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member<'a> {
    /// Whom /etc/passwd or /etc/group calls so.
    Name(&'a str),
    /// The ids from one to the other, both included.
    Ids(u32, u32),
}

/// Which MACs a guest may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacRule {
    /// This one.
    Exactly(Mac),
    /// Those that begin with so many octets of these.
    Prefix([u8; 6], usize),
}

/// What a port is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard<'a> {
    /// Its guest's MAC.
    Mac,
    /// Its guest's MAC and these addresses.
    Addresses(Addresses<'a>),
}

/// A list of addresses, found to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses<'a>(&'a str);

impl<'a> Terms<'a> {
    /// The one MAC that `mac=` says, where it is a whole one.
    pub fn exact_mac(&self) -> Option<Mac> {
        match self.mac {
            Some(MacRule::Exactly(mac)) => Some(mac),
            Some(MacRule::Prefix(..)) | None => None,
        }
    }

    /// Reads the words of a line from `column` on.
    pub(super) fn parse(text: &'a [u8], mut column: usize) -> Result<Self, ParseError> {
        let mut terms = Self::default();
        for word in text.split(u8::is_ascii_whitespace) {
            if !word.is_empty() {
                terms.take(word, column)?;
            }
            column += word.len() + 1;
        }
        Ok(terms)
    }

    fn take(&mut self, word: &'a [u8], column: usize) -> Result<(), ParseError> {
        let unknown = || Fault::UnknownTerm.at(column);
        let word = std::str::from_utf8(word).map_err(|_| unknown())?;
        let Some((key, value)) = word.split_once('=') else {
            return match word {
                "isolated" if self.isolated => Err(Fault::Twice("isolated").at(column)),
                "isolated" => {
                    self.isolated = true;
                    Ok(())
                }
                "guard" => once(&mut self.guard, "guard", Guard::Mac, column),
                _ => Err(unknown()),
            };
        };
        // The value is what is wrong, where one is.
        let at = column + key.len() + 1;
        let bad = |word, need| Fault::BadValue(word, need).at(at);
        match key {
            "user" => {
                let who = Who::parse(value).ok_or(bad("user=", WHO_NEED))?;
                once(&mut self.users, "user=", who, column)
            }
            "group" => {
                let who = Who::parse(value).ok_or(bad("group=", WHO_NEED))?;
                once(&mut self.groups, "group=", who, column)
            }
            "taps" => {
                let taps = number(value, 1, TAPS_MAX).ok_or(bad("taps=", "a number from 1 to 1023"))?;
                once(&mut self.taps, "taps=", taps, column)
            }
            "mac" => {
                let need = "a MAC of one station, or its first octets: 52:54:00:12:34:56, 52:54:00";
                let rule = MacRule::parse(value).ok_or(bad("mac=", need))?;
                once(&mut self.mac, "mac=", rule, column)
            }
            "guard" => {
                let addresses = Addresses::parse(value).ok_or(bad("guard=", ADDRESSES_NEED))?;
                once(&mut self.guard, "guard", Guard::Addresses(addresses), column)
            }
            "mtu" => {
                let mtu = number(value, *MTU_RANGE.start(), *MTU_RANGE.end()).ok_or(bad("mtu=", MTU_NEED))?;
                once(&mut self.mtu, "mtu=", mtu, column)
            }
            "queues" => {
                let queues =
                    number(value, 1, QUEUES_LIMIT).ok_or(bad("queues=", "a number from 1 to 253"))?;
                once(&mut self.queues, "queues=", queues, column)
            }
            _ => Err(unknown()),
        }
    }
}

fn once<T>(place: &mut Option<T>, word: &'static str, value: T, column: usize) -> Result<(), ParseError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::Twice(word).at(column)),
    }
}

fn number(text: &str, least: u32, most: u32) -> Option<u32> {
    decimal(text).filter(|number| (least..=most).contains(number))
}

impl<'a> Who<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        text.split(',')
            .all(|part| member(part).is_some())
            .then_some(Self(text))
    }

    /// Its members, in their order.
    pub fn members(self) -> impl Iterator<Item = Member<'a>> {
        self.0.split(',').filter_map(member)
    }
}

/// A name is what useradd(8) takes for one, and not all digits: what looks
/// like a number is one.
fn member(text: &str) -> Option<Member<'_>> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let id = |text: &str| decimal(text).filter(|&id| id != u32::MAX);
    if digits(text) {
        let id = id(text)?;
        return Some(Member::Ids(id, id));
    }
    if let Some((first, last)) = text.split_once('-')
        && digits(first)
        && digits(last)
    {
        let (first, last) = (id(first)?, id(last)?);
        return (first <= last).then_some(Member::Ids(first, last));
    }
    let body = text.strip_suffix('$').unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let begins = body
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    (begins && body.bytes().all(plain)).then_some(Member::Name(text))
}

impl MacRule {
    fn parse(text: &str) -> Option<Self> {
        let (octets, count) = mac::octets(text)?;
        if count == 6 {
            text.parse().ok().map(Self::Exactly)
        } else {
            Some(Self::Prefix(octets, count))
        }
    }

    /// Whether a guest may have this MAC.
    pub fn admits(&self, mac: Mac) -> bool {
        match self {
            Self::Exactly(only) => *only == mac,
            Self::Prefix(octets, count) => octets.iter().zip(mac.0).take(*count).all(|(a, b)| *a == b),
        }
    }
}

impl<'a> Addresses<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        // What nobody has as his own address would guard against everything.
        let own = |text: &str| {
            let address: IpAddr = text.parse().ok()?;
            let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            (!address.is_unspecified() && !address.is_multicast() && !broadcast).then_some(())
        };
        let few = text.split(',').count() <= ADDRESSES_MAX;
        (few && text.split(',').all(|part| own(part).is_some())).then_some(Self(text))
    }

    /// The addresses, in their order.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.0.split(',').filter_map(|part| part.parse().ok())
    }
}
