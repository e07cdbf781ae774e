//! What a port has to be: what was asked for, as far as the ACL grants it.
//! No I/O.

use std::fmt;
use std::net::IpAddr;

use super::acl::{Grant, MacRule, TAPS_MAX};
use super::args::Request;
use crate::model::Mac;

/// A port as it is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Port {
    /// How many of its kind its user may have on the bridge, this one
    /// included; none where it is not counted.
    pub slots: Option<u32>,
    /// It reaches no other isolated port.
    pub isolated: bool,
    /// It is for this MAC alone.
    pub pin: Option<Pin>,
    /// It is for these addresses alone; none where any will do.
    pub addresses: Vec<IpAddr>,
    /// Its MTU, where it is not the bridge's.
    pub mtu: Option<i32>,
}

/// A MAC that only one port may speak as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The MAC.
    pub mac: Mac,
    /// The ACL itself says which MAC it is. Whoever speaks as it now, by
    /// another port, is wrong; a MAC that the caller chose must be free.
    pub by_acl: bool,
}

/// What is asked for is more than what is granted. The caller is told: he may
/// join, and this is how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// More queues than this.
    Queues(u32),
    /// The guest's MAC has to be named.
    MacUnknown,
    /// The guest's MAC has to be another.
    MacDiffers,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queues(most) => write!(f, "at most {most} queues are granted to you (--queues)"),
            Self::MacUnknown => f.write_str(
                "a port there is for one MAC alone, so say which the guest has: --mac=MAC, the same as in -device",
            ),
            Self::MacDiffers => f.write_str("a guest with this MAC is not granted to you (--mac)"),
        }
    }
}

/// What the port has to be.
///
/// # Errors
/// [`Beyond`]: the ACL does not grant what is asked for.
pub fn decide(request: &Request, grant: &Grant) -> Result<Port, Beyond> {
    if let Some(most) = grant.queues.filter(|most| request.queues > *most) {
        return Err(Beyond::Queues(most));
    }
    Ok(Port {
        slots: grant.counted.then(|| grant.taps.unwrap_or(TAPS_MAX)),
        isolated: request.isolated || grant.isolated,
        pin: pin(request.mac, grant)?,
        addresses: grant.addresses.clone(),
        mtu: grant.mtu.and_then(|mtu| mtu.try_into().ok()),
    })
}

fn pin(asked: Option<Mac>, grant: &Grant) -> Result<Option<Pin>, Beyond> {
    let chosen = |mac| Pin { mac, by_acl: false };
    match (grant.mac, asked) {
        (Some(rule), Some(mac)) if !rule.admits(mac) => Err(Beyond::MacDiffers),
        (Some(MacRule::Exactly(mac)), _) => Ok(Some(Pin { mac, by_acl: true })),
        // Else whoever comes first would keep the other's guest out, and hear
        // what is for it.
        (_, Some(mac)) if grant.of_others.contains(&mac) => Err(Beyond::MacDiffers),
        (_, Some(mac)) => Ok(Some(chosen(mac))),
        (Some(MacRule::Prefix(..)), None) => Err(Beyond::MacUnknown),
        (None, None) if grant.guard => Err(Beyond::MacUnknown),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::acl::Place;
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn grant() -> Grant {
        Grant {
            place: Place {
                file: "/etc/vmbr/acl.conf".into(),
                line: 1,
            },
            counted: true,
            taps: None,
            queues: None,
            isolated: false,
            mac: None,
            guard: false,
            addresses: Vec::new(),
            mtu: None,
            of_others: Vec::new(),
        }
    }

    fn request(queues: u32, mac: Option<Mac>) -> Request {
        Request {
            bridge: "br0".parse().unwrap(),
            vnet_hdr: true,
            queues,
            isolated: false,
            mac,
        }
    }

    #[test]
    fn an_acl_of_qemu_grants_everything_and_counts_nothing() {
        let qemu = Grant {
            counted: false,
            ..grant()
        };
        assert_eq!(decide(&request(253, None), &qemu), Ok(Port::default()));
        let own = decide(&request(253, None), &grant()).unwrap();
        assert_eq!(own.slots, Some(TAPS_MAX));
    }

    #[test]
    fn what_is_granted_bounds_what_is_asked_for() {
        let narrow = Grant {
            taps: Some(3),
            queues: Some(4),
            isolated: true,
            mtu: Some(1400),
            ..grant()
        };
        let port = decide(&request(4, None), &narrow).unwrap();
        assert_eq!((port.slots, port.isolated, port.mtu), (Some(3), true, Some(1400)));
        assert_eq!(decide(&request(5, None), &narrow), Err(Beyond::Queues(4)));
    }

    #[test]
    fn a_port_is_pinned_where_the_acl_or_the_caller_says_so() {
        let other = Mac([0x52, 0x54, 1, 0, 0, 0]);
        let with = |mac| Grant { mac, ..grant() };
        let guarded = Grant {
            guard: true,
            ..grant()
        };
        let exact = with(Some(MacRule::Exactly(MAC)));
        let prefix = with(Some(MacRule::Prefix([0x52, 0x54, 0, 0, 0, 0], 3)));
        let anothers = Grant {
            of_others: vec![MAC],
            ..prefix.clone()
        };
        let by_acl = Ok(Some(Pin {
            mac: MAC,
            by_acl: true,
        }));
        let chosen = Ok(Some(Pin {
            mac: MAC,
            by_acl: false,
        }));
        for (grant, asked, pinned) in [
            (&exact, None, by_acl),
            (&exact, Some(MAC), by_acl),
            (&exact, Some(other), Err(Beyond::MacDiffers)),
            (&prefix, None, Err(Beyond::MacUnknown)),
            (&prefix, Some(MAC), chosen),
            (&prefix, Some(other), Err(Beyond::MacDiffers)),
            (&anothers, Some(MAC), Err(Beyond::MacDiffers)),
            (&guarded, None, Err(Beyond::MacUnknown)),
            (&guarded, Some(MAC), chosen),
            (&with(None), None, Ok(None)),
            (&with(None), Some(MAC), chosen),
        ] {
            assert_eq!(
                decide(&request(1, asked), grant).map(|port| port.pin),
                pinned,
                "{grant:?} {asked:?}"
            );
        }
    }
}
