//! What happened to others who were far away, told as in `stories`: a change
//! that the network refuses, and one that is cut off halfway.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/crash.rs"]
mod crash;
#[path = "common/host.rs"]
mod host;
#[path = "common/running.rs"]
mod running;
#[path = "common/story.rs"]
mod story;

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use common::strike::Moment;
use common::wait_until;
use crash::{ORDINARY, PATIENCE, Victim, Whole};
use host::{Host, ping, script_in};
use running::go_on_to;
use story::{SILENCE, STATIC, TUTORIAL, tutorial};

/// A verification that fails takes no longer, way back included.
const VERDICT: Duration = Duration::from_secs(10);

/// A fabric that knows this NIC, and drops what any other MAC sends.
fn knows_only(host: &Host, mac: &str) {
    drops(host, &format!("ether saddr != {mac}"));
}

/// Lets the LAN drop what matches, before anything of it hears of it.
fn drops(host: &Host, what: &str) {
    script_in(
        &host.lan,
        &format!(
            "nft add table netdev fabric
             nft 'add chain netdev fabric in {{ type filter hook ingress device lan0 priority 0; }}'
             nft add rule netdev fabric in {what} drop"
        ),
    );
}

/// kubernetes-nmstate #1063: the bridge speaks with a MAC of its own, the
/// cloud's fabric drops what it says, and the node is lost for good.
#[test]
fn kubernetes_nmstate_1063_the_fabric_knows_the_nics_mac_alone() {
    let host = Host::new("fabric-script", STATIC);
    knows_only(&host, host::MAC);
    // udev gives a bridge such a MAC (MACAddressPolicy), nmstate does.
    let own = TUTORIAL[0].replace("add br0", "add br0 address 02:00:00:00:00:99");
    host.sh(&own);
    host.sh(&TUTORIAL[1..].join("\n"));
    assert!(!ping(&host.ns, "192.0.2.1"), "the fabric lets it through");

    let victim = Victim::new("fabric-vmbr", STATIC);
    knows_only(&victim.host, host::MAC);
    for whole in [Whole::Bridge, Whole::Nic] {
        victim.bring_to(whole).unwrap();
        victim
            .host
            .ping_both_ways(Some("192.0.2.21"), Some("2001:db8::21"));
    }
}

/// The same, where it is not a question of the MAC: a port is dropped whatever
/// it sends. Here from the moment before the NIC becomes one.
#[test]
fn kubernetes_nmstate_1063_what_the_fabric_refuses_is_taken_back() {
    let host = Host::new("refused-script", STATIC);
    drops(&host, "ether type { ip, ip6, arp }");
    tutorial(&host);
    sleep(VERDICT);
    assert!(host.state().has_link("br0"), "the script goes back by itself");

    let _alone = crash::alone();
    let victim = Victim::new("refused-vmbr", ORDINARY);
    let mut tracee = victim.start(&["up", "eth0"]);
    go_on_to(&mut tracee, "netlink set link", Moment::Before);
    drops(&victim.host, "ether type { ip, ip6, arp }");
    let begun = Instant::now();
    let ended = waitpid(tracee.release(None), None).unwrap();
    let taken = begun.elapsed();
    let said = victim.said();
    assert!(matches!(ended, WaitStatus::Exited(_, 1)), "{ended:?}: {said}");
    assert!(taken < VERDICT, "{} ms", taken.as_millis());
    assert!(
        said.contains("192.0.2.1") && said.contains("2001:db8::1"),
        "{said}"
    );
    let left = victim.before.changes(&victim.host.state());
    assert!(left.is_empty(), "{left:?}");
    script_in(&victim.host.lan, "nft delete table netdev fabric");
    assert_eq!(victim.is_back(), Ok(Whole::Nic));
}

/// A terminal on which a script is typed; closing it hangs its shell up, as
/// the end of an SSH connection does.
fn terminal(victim: &Victim, line: &str) -> Child {
    let mut command: Command = victim.host.ns.command("script");
    command.args(["-qec", line, "/dev/null"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The script, cut off after its line with the address, leaves nobody there.
fn the_script_is_lost() {
    let victim = Victim::new("halfway-script", ORDINARY);
    // The connection ends with the address that it went to.
    let done = victim.host.records().join("done");
    let (first, rest) = (TUTORIAL[..3].join("; "), TUTORIAL[3..].join("; "));
    let line = format!("{first}; touch {}; sleep 60; {rest}", done.display());
    let mut shell = terminal(&victim, &line);
    assert!(wait_until(PATIENCE, || done.exists()));
    shell.kill().unwrap();
    shell.wait().unwrap();
    sleep(SILENCE);
    assert!(
        !ping(&victim.host.lan, "192.0.2.21"),
        "the script's host is there"
    );
}

/// What is cut off: a command, the state it begins in, which of its changes,
/// and by what.
type Cut = ([&'static str; 2], Whole, usize, Signal);

/// Hung up and killed at the beginning of each stage: at the first change of
/// each kind.
fn cuts() -> Vec<(String, Cut)> {
    let scout = Victim::new("halfway-scout", ORDINARY);
    let mut cuts = Vec::new();
    for (args, begin) in [(["up", "eth0"], Whole::Nic), (["down", "br0"], Whole::Bridge)] {
        scout.bring_to(begin).unwrap();
        let calls = scout.changes_of(&args);
        let begins = |nth: &usize| {
            let call = &calls[*nth];
            call.starts_with("netlink") && !calls[..*nth].contains(call)
        };
        for nth in (0..calls.len()).filter(begins) {
            for signal in [Signal::SIGHUP, Signal::SIGKILL] {
                let what = format!("{} {signal} at change {} ({})", args[0], nth + 1, calls[nth]);
                cuts.push((what, (args, begin, nth + 1, signal)));
            }
        }
    }
    assert!(cuts.len() >= 16, "only {cuts:?}");
    cuts
}

/// Gives whether it came so far: what the kernel has learned differs, and with it
/// how many changes there are.
fn cut_off(victim: &Victim, (args, begin, nth, signal): Cut) -> Result<bool, String> {
    victim.bring_to(begin)?;
    let mut tracee = victim.start(&args);
    if tracee.go_to(nth, Moment::Before).is_none() {
        return Ok(false);
    }
    let since = if signal == Signal::SIGKILL {
        tracee.kill()
    } else {
        waitpid(tracee.release(Some(signal)), None).unwrap();
        Instant::now()
    };
    victim.comes_back(since).map(|_| true)
}

/// Most of them must have been cut off.
fn assert_most(reached: usize, all: usize) {
    assert!(reached * 4 >= all * 3, "only {reached} of {all} came so far");
}

/// What is learned of neighbours ends, which takes less than 90 seconds.
fn forget_neighbours(victim: &Victim) {
    let host = &victim.host;
    host.sh("for d in $(ls /sys/class/net); do ip neigh flush dev $d; done");
}

/// baremetal-deploy #108: the change cuts the SSH connection, and with it the
/// script that was to make it.
#[test]
fn baremetal_deploy_108_a_lost_connection_does_not_lose_the_host() {
    let _alone = crash::alone();
    the_script_is_lost();
    let victim = Victim::new("halfway", ORDINARY);
    let cuts = cuts();
    let (mut reached, all) = (0, cuts.len());
    for (what, cut) in cuts {
        reached += usize::from(cut_off(&victim, cut).unwrap_or_else(|why| panic!("{what}: {why}")));
        forget_neighbours(&victim);
        let whole = victim.is_back();
        assert!(whole.is_ok(), "{what}, and later: {whole:?}; {}", victim.said());
    }
    assert_most(reached, all);
}

/// The same with 90 seconds that really pass.
#[test]
#[ignore = "waits 90 seconds"]
fn baremetal_deploy_108_and_90_seconds_later_it_is_there() {
    let _alone = crash::alone();
    let mut reached = 0;
    let victims = cuts().into_iter().map(|(what, cut)| {
        let victim = Victim::new("halfway", ORDINARY);
        reached += usize::from(cut_off(&victim, cut).unwrap_or_else(|why| panic!("{what}: {why}")));
        (what, victim)
    });
    let victims: Vec<_> = victims.collect();
    assert_most(reached, victims.len());
    sleep(Duration::from_secs(90));
    for (what, victim) in &victims {
        let whole = victim.is_back();
        assert!(whole.is_ok(), "{what}, and later: {whole:?}; {}", victim.said());
    }
}
