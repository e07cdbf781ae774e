//! What holds for every packet that a lease keeper may hear.

use std::net::Ipv4Addr;

use vmbr::keeper::lease::{Lease, is_host};
use vmbr::keeper::machine::{Action, Event, Held, Machine, PATIENCE};
use vmbr::keeper::message::{Answer, Kind, payload};
use vmbr::plan::hold::{Identity, Sent};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
const MINE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A packet, as an answer at every stage: what is granted is a lease, and
/// nothing is granted but to who has asked.
pub fn packet(bytes: &[u8]) {
    let Some(answer) = payload(bytes).and_then(Answer::decode) else {
        return;
    };
    assert!(answer.ways.len() <= 64 && answer.dns.len() <= 64);
    if let Some(lease) = Lease::of(&answer) {
        assert!(is_host(&lease.address) && is_host(&lease.server));
        assert!(0 < lease.t1 && lease.t1 < lease.t2);
        assert!(lease.seconds.is_none_or(|seconds| lease.t2 < seconds));
        assert!(lease.prefix.is_none_or(|length| (1..=32).contains(&length)));
    }
    // A stranger's, and the right one's, at each time.
    for later in [0, PATIENCE, 61_000, 110_000, 200_000] {
        for right in [false, true] {
            let sent = Sent {
                identities: vec![Identity::Mac, Identity::TypedMac],
                extras: Vec::new(),
            };
            let held = Held {
                address: MINE,
                server: Some(SERVER),
                times: Some((60_000, 105_000, 120_000)),
            };
            let mut machine = Machine::new(sent, MAC, Some(held), Some(0), 0);
            let asked = machine.step(later, 7, Event::Tick);
            let xid = asked.iter().find_map(|action| match action {
                Action::Broadcast(ask) | Action::Tell(_, ask) => Some(ask.xid),
                _ => None,
            });
            let mut heard = answer.clone();
            if right {
                (heard.xid, heard.mac) = (xid.unwrap_or(7), MAC);
            }
            let known = xid == Some(heard.xid) && heard.mac == MAC;
            let before = machine.held().cloned();
            let mut actions = machine.step(later + 1, 8, Event::Heard(heard.clone()));
            if !known {
                assert_eq!(machine.held(), before.as_ref(), "a stranger is believed");
            }
            actions.extend(machine.step(later + 2, 9, Event::Heard(heard)));
            let granted = actions.iter().any(|action| matches!(action, Action::Keep { .. }));
            assert!(!granted || answer.kind == Kind::Ack);
        }
    }
}
