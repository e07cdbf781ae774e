//! The client with a clock of the tests', and servers of all kinds.

use super::*;
use crate::plan::hold::Identity;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const MINE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);

/// A client, its clock, and the last random number.
struct Play {
    machine: Machine,
    now: Time,
    random: u32,
}

fn play(identities: &[Identity], held: Option<Held>) -> Play {
    let sent = Sent {
        identities: identities.to_vec(),
        extras: Vec::new(),
    };
    Play {
        machine: Machine::new(sent, MAC, held, None, 0),
        now: 0,
        random: 1,
    }
}

/// One that udhcpc has left: nothing is known but the address.
fn udhcpc() -> Play {
    play(
        &[Identity::TypedMac],
        Some(Held {
            address: MINE,
            server: None,
            times: None,
        }),
    )
}

impl Play {
    fn step(&mut self, event: Event) -> Vec<Action> {
        self.random += 1;
        self.machine.step(self.now, self.random, event)
    }

    fn tick(&mut self) -> Vec<Action> {
        self.step(Event::Tick)
    }

    /// Goes on to where something happens by itself.
    fn next(&mut self) -> Vec<Action> {
        self.now = self.machine.idle_until();
        self.tick()
    }

    fn answer(&self, kind: Kind, server: Ipv4Addr, address: Ipv4Addr) -> Answer {
        Answer {
            kind,
            xid: self.machine.xid,
            mac: MAC,
            address,
            server: Some(server),
            seconds: Some(120),
            times: (None, None),
            prefix: Some(24),
            ways: Vec::new(),
            dns: Vec::new(),
        }
    }

    fn hear(&mut self, kind: Kind, server: Ipv4Addr, address: Ipv4Addr) -> Vec<Action> {
        self.step(Event::Heard(self.answer(kind, server, address)))
    }

    fn bound(mut self) -> Self {
        self.tick();
        self.hear(Kind::Ack, SERVER, MINE);
        assert_eq!(self.machine.phase(), Phase::Bound);
        self
    }
}

/// What is said, without the words for the log.
fn asks(actions: &[Action]) -> Vec<(Option<Ipv4Addr>, &Ask)> {
    let said = actions.iter().filter_map(|action| match action {
        Action::Broadcast(ask) => Some((None, ask)),
        Action::Tell(server, ask) => Some((Some(*server), ask)),
        _ => None,
    });
    said.collect()
}

fn kept(actions: &[Action]) -> Option<(Ipv4Addr, Option<Ipv4Addr>)> {
    actions.iter().find_map(|action| match action {
        Action::Keep { lease, old } => Some((lease.address, *old)),
        _ => None,
    })
}

#[test]
fn it_begins_by_asking_for_the_address_that_it_has() {
    let mut play = udhcpc();
    let actions = play.tick();
    let [(None, ask)] = asks(&actions)[..] else {
        panic!("{actions:?}")
    };
    // RFC 2131, 4.3.2: no server, no address of its own, the wanted one.
    assert_eq!(
        (ask.kind, ask.server, ask.holds, ask.wants),
        (Kind::Request, None, None, Some(MINE))
    );
    assert_eq!(ask.client, Some(vec![1, 2, 0, 0, 0, 0, 0x21]));
    assert_eq!(kept(&play.hear(Kind::Ack, SERVER, MINE)), Some((MINE, None)));
    assert_eq!(play.machine.held().unwrap().server, Some(SERVER));
}

#[test]
fn it_renews_at_its_server_then_at_any_and_then_loses_the_address() {
    let mut play = udhcpc().bound();
    let actions = play.next();
    assert_eq!(play.now, 60_000);
    let [(Some(SERVER), ask)] = asks(&actions)[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((ask.holds, ask.wants, ask.server), (Some(MINE), None, None));
    let mut said = Vec::new();
    while play.machine.phase() == Phase::Renewing {
        let actions = play.next();
        said.extend(asks(&actions).iter().map(|(to, _)| (play.now, *to)));
    }
    assert_eq!(play.now, 105_000, "{said:?}");
    assert!((2..=6).contains(&said.len()), "{said:?}");
    assert_eq!(said.last().unwrap().1, None, "to everyone");
    let actions = loop {
        let actions = play.next();
        if play.machine.phase() != Phase::Rebinding {
            break actions;
        }
    };
    assert_eq!(play.now, 120_000);
    assert!(actions.contains(&Action::Drop(MINE)), "{actions:?}");
    assert_eq!(asks(&actions)[0].1.kind, Kind::Discover);
    // It goes on asking, and takes what it is given.
    play.now += 600_000;
    assert!(!asks(&play.tick()).is_empty());
    let actions = play.hear(Kind::Offer, OTHER, NEW);
    let [(None, ask)] = asks(&actions)[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (ask.wants, ask.server, ask.broadcast),
        (Some(NEW), Some(OTHER), true)
    );
    assert_eq!(kept(&play.hear(Kind::Ack, OTHER, NEW)), Some((NEW, None)));
}

#[test]
fn a_renewal_moves_the_end() {
    let mut play = udhcpc().bound();
    for round in 1..=5 {
        play.next();
        assert_eq!(play.now, round * 60_000);
        assert_eq!(kept(&play.hear(Kind::Ack, SERVER, MINE)), Some((MINE, None)));
    }
    assert_eq!(play.machine.held().unwrap().times.unwrap().2, 420_000);
}

#[test]
fn what_is_not_the_answer_is_not_believed() {
    let mut play = udhcpc().bound();
    play.next();
    let good = play.answer(Kind::Ack, SERVER, MINE);
    for bad in [
        Answer {
            xid: good.xid ^ 1,
            ..good.clone()
        },
        Answer {
            mac: [2; 6],
            ..good.clone()
        },
        Answer {
            server: Some(OTHER),
            ..good.clone()
        },
        Answer {
            server: None,
            ..good.clone()
        },
        Answer {
            address: NEW,
            ..good.clone()
        },
        Answer {
            seconds: None,
            ..good.clone()
        },
        Answer {
            seconds: Some(0),
            ..good.clone()
        },
        Answer {
            kind: Kind::Offer,
            ..good.clone()
        },
        Answer {
            kind: Kind::Nak,
            server: Some(OTHER),
            ..good.clone()
        },
        Answer {
            kind: Kind::Nak,
            server: None,
            ..good.clone()
        },
        Answer {
            address: Ipv4Addr::BROADCAST,
            ..good.clone()
        },
    ] {
        assert_eq!(play.step(Event::Heard(bad.clone())), [], "{bad:?}");
        assert_eq!(play.machine.phase(), Phase::Renewing);
    }
    assert!(kept(&play.step(Event::Heard(good.clone()))).is_some());
    // Said twice, it is no news.
    assert_eq!(play.step(Event::Heard(good)), []);
}

#[test]
fn another_server_is_believed_when_every_one_is_asked() {
    let mut play = udhcpc().bound();
    while play.machine.phase() != Phase::Rebinding {
        play.next();
    }
    assert_eq!(play.hear(Kind::Nak, OTHER, MINE), [], "but no refusal of its");
    assert!(kept(&play.hear(Kind::Ack, OTHER, MINE)).is_some());
    assert_eq!(play.machine.held().unwrap().server, Some(OTHER));
}

#[test]
fn a_refusal_leads_to_another_address_and_the_old_one_stays_until_then() {
    let mut play = udhcpc().bound();
    play.next();
    let actions = play.hear(Kind::Nak, SERVER, Ipv4Addr::UNSPECIFIED);
    assert_eq!(asks(&actions)[0].1.kind, Kind::Discover);
    assert!(!actions.contains(&Action::Drop(MINE)));
    play.hear(Kind::Offer, SERVER, NEW);
    assert_eq!(kept(&play.hear(Kind::Ack, SERVER, NEW)), Some((NEW, Some(MINE))));
    // Where nobody offers one, it goes within a minute.
    let mut play = udhcpc().bound();
    play.next();
    play.hear(Kind::Nak, SERVER, Ipv4Addr::UNSPECIFIED);
    let refused = play.now;
    let dropped = (0..100).any(|_| play.next().contains(&Action::Drop(MINE)));
    assert!(dropped && play.now <= refused + 60_000);
}

#[test]
fn a_refusal_at_once_is_for_who_started_it() {
    let mut play = udhcpc();
    play.tick();
    let actions = play.hear(Kind::Nak, SERVER, Ipv4Addr::UNSPECIFIED);
    assert_eq!(play.machine.phase(), Phase::Refused);
    assert_eq!(asks(&actions), []);
    // Nobody ended it: it does what it can.
    let actions = play.next();
    assert_eq!(asks(&actions)[0].1.kind, Kind::Discover);
    // A late one finds nobody who waits.
    let mut play = udhcpc();
    play.tick();
    play.now = PATIENCE;
    play.hear(Kind::Nak, SERVER, Ipv4Addr::UNSPECIFIED);
    assert_eq!(play.machine.phase(), Phase::Selecting);
}

#[test]
fn each_that_it_may_be_is_tried() {
    let identities = [Identity::Mac, Identity::TypedMac, Identity::Is(vec![0, 7])];
    let held = Some(Held {
        address: MINE,
        server: None,
        times: None,
    });
    // In turn, where no server says a word.
    let mut silent = play(&identities, held.clone());
    let said: Vec<Option<Vec<u8>>> = (0..4).map(|_| asks(&silent.next())[0].1.client.clone()).collect();
    assert_eq!(said[0], None);
    assert_eq!(said[2], Some(vec![0, 7]));
    assert_eq!(said[3], None);
    // One after the other, where it refuses them; then it stays so.
    let mut play = play(&identities, held);
    play.tick();
    play.hear(Kind::Nak, SERVER, MINE);
    let actions = play.hear(Kind::Nak, SERVER, MINE);
    assert_eq!(asks(&actions)[0].1.client, Some(vec![0, 7]));
    assert!(kept(&play.hear(Kind::Ack, SERVER, MINE)).is_some());
    assert_eq!(asks(&play.next())[0].1.client, Some(vec![0, 7]));
    assert_eq!(play.machine.known_as(), Some(2));
}

#[test]
fn without_a_server_the_address_stays_and_is_asked_for_ever_less_often() {
    let mut play = udhcpc();
    let times: Vec<Time> = (0..12)
        .map(|_| {
            let actions = play.next();
            assert_eq!(asks(&actions).len(), 1, "{actions:?}");
            play.now
        })
        .collect();
    assert_eq!(times[..4], [0, 1_000, 3_000, 7_000]);
    assert_eq!(times[11] - times[10], 64_000);
    assert!(play.machine.held().is_some());
}

#[test]
fn a_carrier_that_comes_back_is_a_new_beginning() {
    let mut play = udhcpc().bound();
    play.now = 10_000;
    assert_eq!(asks(&play.step(Event::Link(false))), []);
    assert_eq!(play.step(Event::Link(false)), [], "no news");
    play.now = 90_000;
    assert_eq!(play.tick(), [], "without a carrier nothing is said");
    let actions = play.step(Event::Link(true));
    assert_eq!(asks(&actions)[0].1.wants, Some(MINE));
    assert!(kept(&play.hear(Kind::Ack, SERVER, MINE)).is_some());
    // The lease ends without one, too.
    play.step(Event::Link(false));
    play.now = 300_000;
    assert!(play.tick().contains(&Action::Drop(MINE)));
    let actions = play.step(Event::Link(true));
    assert_eq!(asks(&actions)[0].1.kind, Kind::Discover);
}

#[test]
fn a_lease_without_an_end_is_never_renewed() {
    let mut play = udhcpc();
    play.tick();
    let forever = Answer {
        seconds: Some(u32::MAX),
        ..play.answer(Kind::Ack, SERVER, MINE)
    };
    play.step(Event::Heard(forever));
    assert_eq!(play.machine.idle_until(), Time::MAX);
}

#[test]
fn an_offer_that_is_never_granted_is_given_up() {
    let mut play = play(&[Identity::Mac], None);
    play.tick();
    play.hear(Kind::Offer, SERVER, NEW);
    let kinds: Vec<Kind> = (0..5).map(|_| asks(&play.next())[0].1.kind).collect();
    assert!(kinds.ends_with(&[Kind::Discover]), "{kinds:?}");
}

/// Whatever is said, whenever: it never sleeps for ever while it wants
/// something, never says more than a few messages at a time, and holds only
/// what was granted.
#[test]
fn no_order_of_words_confuses_it() {
    use proptest::prelude::*;
    let event = (0_u8..6, 0_u8..3, 0_u8..2, 0_u64..200_000, any::<bool>());
    proptest!(|(events in proptest::collection::vec(event, 0..60))| {
        let mut play = udhcpc();
        play.tick();
        for (what, server, address, time, right) in events {
            play.now += time;
            let server = [SERVER, OTHER, Ipv4Addr::UNSPECIFIED][usize::from(server)];
            let address = [MINE, NEW][usize::from(address)];
            let kind = [Kind::Offer, Kind::Ack, Kind::Nak][usize::from(what % 3)];
            let mut answer = play.answer(kind, server, address);
            answer.xid ^= u32::from(!right);
            let before = play.machine.held().map(|held| held.address);
            let actions = play.step(match what {
                3 => Event::Link(right),
                4 | 5 => Event::Tick,
                _ => Event::Heard(answer),
            });
            prop_assert!(asks(&actions).len() <= 2);
            let after = play.machine.held().map(|held| held.address);
            if after != before {
                let told = kept(&actions).is_some() || actions.iter().any(|a| matches!(a, Action::Drop(_)));
                prop_assert!(told, "{actions:?}");
            }
            let idle = play.machine.idle_until();
            if play.machine.carrier && play.machine.phase() != Phase::Bound {
                prop_assert!(idle != Time::MAX);
            }
        }
    });
}
