//! 1,000 ports on a bridge: made, listed and removed.
//!
//! vmbr's side is `vmbr tap`; the other side is what an administrator would
//! write: `ip -batch`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, Migration, Outcome, Programs, host, run, text};
use crate::report::{Key, Report};

const PORTS: usize = 1000;
const OURS: &str = "vmbr";
const BATCH: &str = "ip -batch";
/// The kernel walks through a bridge's ports for each that joins: what that
/// costs is what `ip -batch` takes more for the last.
const FIRST: [(&str, &str); 2] = [(OURS, "vmbr, the first 100"), (BATCH, "ip -batch, the first 100")];
const LAST: [(&str, &str); 2] = [(OURS, "vmbr, the last 100"), (BATCH, "ip -batch, the last 100")];
const LISTING: &str = "ip -j -d link";

/// Times 1,000 ports made and removed.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    let key = |contestant, metric| Key {
        part: "ports",
        case: "1,000 TAPs on a bridge".into(),
        contestant,
        metric,
    };
    for turn in 1..=runs {
        for contestant in [BATCH, OURS] {
            let lab = with_bridge(programs)?;
            let made = timed(|| match contestant {
                OURS => add(programs, "bench", PORTS),
                _ => batch("bench", PORTS, made_by),
            })?;
            expect_ports(PORTS)?;
            let removed = timed(|| {
                if contestant == OURS {
                    remove(programs)
                } else {
                    batch("bench", PORTS, removed_by)
                }
            })?;
            expect_ports(0)?;
            eprintln!("bench: ports: {turn}/{runs}, {contestant}: made {made:?}, removed {removed:?}");
            report.add(key(contestant, "made s"), made.as_secs_f64());
            report.add(key(contestant, "removed s"), removed.as_secs_f64());
            drop(lab);
        }
        for ((contestant, first), (_, last)) in FIRST.into_iter().zip(LAST) {
            let lab = with_bridge(programs)?;
            for hundred in 0..PORTS / 100 {
                let prefix = format!("h{hundred}x");
                let took = timed(|| match contestant {
                    OURS => add(programs, &prefix, 100),
                    _ => batch(&prefix, 100, made_by),
                })?;
                if hundred == 0 {
                    report.add(key(first, "made s"), took.as_secs_f64());
                } else if hundred + 1 == PORTS / 100 {
                    report.add(key(last, "made s"), took.as_secs_f64());
                }
            }
            expect_ports(PORTS)?;
            drop(lab);
        }
    }
    report.compare(key(OURS, "made s"), BATCH, 1.0);
    for ((_, first), (_, last)) in FIRST.into_iter().zip(LAST) {
        report.compare(key(last, "made s"), first, 1.2);
    }
    report.compare(key(OURS, "removed s"), BATCH, 0.05);
    Ok(())
}

/// Times a listing of a bridge with 1,000 ports as JSON.
pub fn measure_status(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    let case = "a bridge with 1,000 ports, as JSON";
    let key = |contestant| Key {
        part: "status",
        case: case.into(),
        contestant,
        metric: "ms",
    };
    let lab = with_bridge(programs)?;
    batch("bench", PORTS, made_by)?;
    let ip = ["ip", "-j", "-d", "link"];
    let vmbr = [text(&programs.vmbr)?, "status", "--json"];
    // Once with a look at the result; that also fills the caches.
    let links: Value = serde_json::from_str(&run(host(&ip))?)?;
    expect(LISTING, links.as_array().map_or(0, Vec::len) > PORTS)?;
    let status: Value = serde_json::from_str(&run(host(&vmbr))?)?;
    expect(
        OURS,
        status["bridges"][0]["ports"]
            .as_array()
            .is_some_and(|ports| ports.len() == PORTS),
    )?;
    // A listing takes milliseconds: a few more samples cost nothing.
    for _ in 0..4 * runs {
        for (contestant, line) in [(LISTING, &ip[..]), (OURS, &vmbr[..])] {
            let took = timed(|| silently(host(line)))?;
            report.add(key(contestant), took.as_secs_f64() * 1e3);
        }
    }
    report.compare(key(OURS), LISTING, 2.0);
    drop(lab);
    Ok(())
}

fn with_bridge(programs: &Programs) -> Outcome<Lab<'_>> {
    let lab = Lab::new(programs, Migration::Control)?;
    run(host(&["ip", "link", "add", "br0", "type", "bridge"]))?;
    run(host(&["ip", "link", "set", "br0", "up"]))?;
    Ok(lab)
}

fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn add(programs: &Programs, prefix: &str, count: usize) -> Outcome<()> {
    let count = count.to_string();
    let options = ["--bridge", "br0", "--owner", "nobody", "--count", &count];
    silently(host(
        &[&[text(&programs.vmbr)?, "tap", "add"], &options[..], &[prefix]].concat(),
    ))
}

fn remove(programs: &Programs) -> Outcome<()> {
    let names: Vec<String> = (0..PORTS).map(|number| format!("bench{number}")).collect();
    let mut line = vec![text(&programs.vmbr)?, "tap", "del"];
    line.extend(names.iter().map(String::as_str));
    silently(host(&line))
}

fn made_by(name: &str) -> String {
    format!("tuntap add dev {name} mode tap user nobody\nlink set dev {name} master br0 up\n")
}

fn removed_by(name: &str) -> String {
    format!("link del dev {name}\n")
}

/// One `ip -batch` with what `lines` gives for each of `count` ports.
fn batch(prefix: &str, count: usize, lines: impl Fn(&str) -> String) -> Outcome<()> {
    const FILE: &str = "/run/bench/batch";
    fs::write(
        FILE,
        (0..count)
            .map(|number| lines(&format!("{prefix}{number}")))
            .collect::<String>(),
    )?;
    run(host(&["ip", "-batch", FILE])).map(drop)
}

fn expect_ports(wanted: usize) -> Outcome<()> {
    let shown = run(host(&["ip", "-o", "link", "show", "master", "br0"]))?;
    let count = shown.lines().count();
    if count == wanted {
        Ok(())
    } else {
        Err(format!("{count} ports on br0, not {wanted}").into())
    }
}

fn expect(who: &str, listed: bool) -> Outcome<()> {
    if listed {
        Ok(())
    } else {
        Err(format!("{who} does not list the {PORTS} ports").into())
    }
}

/// Runs a command whose output nobody reads.
fn silently(mut command: Command) -> Outcome<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {status}").into())
    }
}
