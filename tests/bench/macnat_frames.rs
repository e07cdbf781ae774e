//! What MAC-NAT's programs take for a frame, by BPF_PROG_TEST_RUN, beyond what
//! an empty program takes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use crate::lab::Outcome;
use crate::report::{Key, Report};

const TAKEN: &str = "ns";
const BEYOND: &str = "ns beyond empty";
const EMPTY: &str = "empty program";
const REPEAT: u32 = 1_000_000;
/// What a frame of data may take beyond the empty program.
const REACH: f64 = 50.0;
/// As many addresses as 64 guests may have.
const MANY: usize = 4096;

const UPLINK: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x0a];
const OTHER: [u8; 6] = [2, 0, 0, 0, 1, 1];
const PORT: u32 = 5;
/// Of `struct __sk_buff`.
const CONTEXT: usize = 192;
const CONTEXT_INGRESS: usize = 36;

/// How many addresses have been learned, and how many of them send or are sent
/// to in turn: the processor has no longer at hand what is needed for each.
const CASES: [(&str, usize, usize); 3] = [
    ("1 learned", 1, 1),
    ("4,096 learned", MANY, 1),
    ("4,096 learned, in turn", MANY, MANY / 2),
];

/// A kind of frame.
struct Kind {
    name: &'static str,
    program: &'static str,
    /// Where the guest's address ends.
    ends: u32,
    frame: fn() -> Vec<u8>,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "IPv4 from a guest",
        program: "bench_air_out",
        ends: 28,
        frame: || ipv4(OTHER, GUEST, address4(0), FAR4),
    },
    Kind {
        name: "IPv4 to a guest",
        program: "bench_uplink_in",
        ends: 32,
        frame: || ipv4(UPLINK, OTHER, FAR4, address4(0)),
    },
    Kind {
        name: "IPv6 from a guest",
        program: "bench_air_out",
        ends: 36,
        frame: || ipv6(OTHER, GUEST, address6(0), FAR6),
    },
    Kind {
        name: "IPv6 to a guest",
        program: "bench_uplink_in",
        ends: 52,
        frame: || ipv6(UPLINK, OTHER, FAR6, address6(0)),
    },
    Kind {
        name: "IPv4 of the host",
        program: "bench_uplink_in",
        ends: 26,
        frame: || ipv4(UPLINK, OTHER, FAR4, Ipv4Addr::new(192, 0, 2, 21)),
    },
    Kind {
        name: "IPv4 of the host, outgoing",
        program: "bench_uplink_out",
        ends: 28,
        frame: || ipv4(OTHER, UPLINK, Ipv4Addr::new(192, 0, 2, 21), FAR4),
    },
];

const FAR4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);

fn address4(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(203, 0, 113, 0).to_bits() + number as u32)
}

fn address6(number: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).to_bits() + 1 + number as u128)
}

fn ipv4(to: [u8; 6], from: [u8; 6], source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[8, 0, 0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend([0x13, 0x88, 0x13, 0x89, 0, 72, 0, 0]);
    frame.resize(14 + 92, 0);
    frame
}

fn ipv6(to: [u8; 6], from: [u8; 6], source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 72, 17, 64]].concat();
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend([0x13, 0x88, 0x13, 0x89, 0, 72, 0, 0]);
    frame.resize(14 + 112, 0);
    frame
}

/// Measures each kind, with one address learned and with many.
pub fn measure(object: &Path, runs: usize, report: &mut Report) -> Outcome<()> {
    let bytes = fs::read(object).map_err(|error| format!("reading {}: {error}", object.display()))?;
    let mut object = aya::EbpfLoader::new().load(&bytes)?;
    for name in [
        "bench_empty",
        "bench_air_out",
        "bench_uplink_in",
        "bench_uplink_out",
    ] {
        let program: &mut SchedClassifier = object.program_mut(name).ok_or(name)?.try_into()?;
        program.load()?;
    }
    set(&mut object, ".data.settings", settings())?;
    let key = |kind: &Kind, contestant, metric| Key {
        part: "frames",
        case: kind.name.into(),
        contestant,
        metric,
    };
    for turn in 0..=4 * runs {
        for kind in &KINDS {
            for (learned, known, speak) in CASES {
                learn(&mut object, known)?;
                let empty = run(&mut object, "bench_empty", kind, speak)?;
                let taken = run(&mut object, kind.program, kind, speak)?;
                // The first pass only warms up.
                if turn > 0 {
                    report.add(key(kind, EMPTY, TAKEN), empty);
                    report.add(key(kind, learned, TAKEN), taken);
                    report.add(key(kind, learned, BEYOND), taken - empty);
                }
            }
        }
    }
    for kind in &KINDS {
        for (learned, ..) in CASES {
            report.median_at_most(key(kind, learned, BEYOND), REACH);
        }
        for (learned, ..) in &CASES[1..] {
            report.compare(key(kind, learned, TAKEN), CASES[0].0, 1.1);
        }
    }
    Ok(())
}

fn settings() -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[0] = 3;
    bytes[4] = 4;
    bytes[8..14].copy_from_slice(&UPLINK);
    // A second and an age that do not end, as frames come always in time.
    bytes[16..24].copy_from_slice(&(1_u64 << 40).to_ne_bytes());
    bytes[24..32].copy_from_slice(&(1_u64 << 62).to_ne_bytes());
    bytes[32] = 63;
    bytes
}

fn set<const N: usize>(object: &mut Ebpf, name: &str, bytes: [u8; N]) -> Outcome<()> {
    let mut map: Array<_, [u8; N]> = object
        .map_mut(name)
        .ok_or_else(|| format!("no map {name}"))?
        .try_into()?;
    Ok(map.set(0, bytes, 0)?)
}

/// Has so many addresses learned, half of them of IPv4.
fn learn(object: &mut Ebpf, wanted: usize) -> Outcome<()> {
    let mut map: HashMap<_, [u8; 16], [u8; 64]> = object.map_mut("guests").ok_or("no guests")?.try_into()?;
    let known: Vec<[u8; 16]> = map.keys().collect::<Result<_, _>>()?;
    if known.len() == wanted.max(2) {
        return Ok(());
    }
    for key in known {
        map.remove(&key)?;
    }
    let mut guest = [0; 64];
    guest[..6].copy_from_slice(&GUEST);
    guest[8..12].copy_from_slice(&PORT.to_ne_bytes());
    guest[32 + 8 * usize::from(OTHER[5] & 3)..][..6].copy_from_slice(&OTHER);
    for number in 0..wanted.div_ceil(2) {
        let addresses = [IpAddr::from(address4(number)), address6(number).into()];
        for address in addresses {
            let key = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            map.insert(key.octets(), guest, 0)?;
        }
    }
    Ok(())
}

/// How many nanoseconds a program takes for a frame.
fn run(object: &mut Ebpf, name: &str, kind: &Kind, speak: usize) -> Outcome<f64> {
    let frame = (kind.frame)();
    let end = kind.ends as usize;
    let first = u32::from(u16::from_be_bytes([frame[end], frame[end + 1]]));
    // Each of the addresses in turn.
    let mask = speak as u32 - 1;
    let mut again = [0; 32];
    again[..6].copy_from_slice(&frame[..6]);
    again[8..14].copy_from_slice(&frame[6..12]);
    again[16..20].copy_from_slice(&kind.ends.to_ne_bytes());
    again[20..24].copy_from_slice(&first.to_ne_bytes());
    again[24..28].copy_from_slice(&mask.to_ne_bytes());
    set(object, ".data.again", again)?;
    let program: &SchedClassifier = object.program(name).ok_or("no such program")?.try_into()?;
    let mut context = [0; CONTEXT];
    context[CONTEXT_INGRESS..][..4].copy_from_slice(&PORT.to_ne_bytes());
    let mut out = vec![0; frame.len() + 64];
    let ran = program.test_run(TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        repeat: REPEAT,
        ..TestRunOptions::default()
    })?;
    Ok(ran.duration.as_nanos() as f64)
}
