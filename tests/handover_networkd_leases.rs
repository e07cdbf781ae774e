//! What becomes of systemd-networkd's lease on the bridge with time: renewals,
//! a daemon that is started anew or killed, a server that is silent or gives
//! another address. Each waits for leases of two minutes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/lease.rs"]
mod lease;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/networkd.rs"]
mod networkd;

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Ended, Namespace};
use host::Host;
use lease::{LEASE, Monitor, Server, Stream};
use machine::Machine;
use networkd::{
    DHCP, DHCP4, OWN, address, configured, defaults, files, host, managed, nothing_went, start, told,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A host whose networkd has leased its address, and who gave it.
struct Leased {
    host: Host,
    server: Server,
    machine: Machine,
    /// The address.
    local: String,
    known: Vec<lease::Leased>,
}

impl Leased {
    /// By DHCP alone.
    fn ipv4() -> Self {
        Self::new(Server::start, DHCP4, |_| {})
    }

    /// By both families, and by a router.
    fn both() -> Self {
        Self::new(Server::both, DHCP, |machine| {
            machine.until("ip -6 addr show dev eth0 | grep -q /128");
            machine.until("! ip addr show dev eth0 | grep -q tentative");
        })
    }

    fn new(server: fn(&Namespace) -> Server, file: &str, ready: fn(&Machine)) -> Self {
        let host = host();
        let server = server(&host.lan);
        let machine = managed(&host, file);
        ready(&machine);
        Self {
            local: address(&host, "eth0"),
            known: server.clients(),
            host,
            server,
            machine,
        }
    }

    fn vmbr(&self, args: &[&str]) -> Ended {
        self.machine.vmbr(&self.host, args)
    }

    fn stream(&self) -> Stream {
        Stream::start(&self.host.ns, &["192.0.2.1", "2001:db8::1"])
    }

    fn stream_of_ipv4(&self) -> Stream {
        Stream::start(&self.host.ns, &["192.0.2.1"])
    }

    /// Stops networkd where it is; it goes on, or is ended, later.
    fn hold_networkd(&self) {
        self.machine.sh("kill -STOP $(pidof systemd-networkd)");
    }

    fn let_networkd_go_on(&self) {
        self.machine.sh("kill -CONT $(pidof systemd-networkd)");
    }

    /// Asserts that a device has the address, and nobody has leased another.
    fn is_kept_by(&self, device: &str) {
        assert_eq!(address(&self.host, device), self.local);
        self.is_held(&self.local);
        assert_eq!(self.server.clients(), self.known);
    }

    /// Asserts that the server's lease of an address is alive, and not an old
    /// one.
    fn is_held(&self, local: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let end = self.server.lease(local).end;
        assert!(
            end > now + LEASE / 4,
            "the lease of {local} ends at {end}, it is {now}"
        );
    }

    /// Asserts that a device, and no other, has a default route of each family.
    fn leads_by(&self, device: &str) {
        for family in ["-4", "-6"] {
            assert_eq!(defaults(&self.host, family), [(device.to_owned(), 100)]);
        }
    }

    /// Asserts that nothing of vmbr's is left among networkd's files.
    fn has_its_own_file_alone(&self) {
        assert_eq!(files(&self.machine), format!("./{OWN} "));
    }
}

#[test]
#[ignore = "waits past three leases, seven minutes"]
fn a_lease_of_networkd_is_renewed_on_the_bridge_and_after_it() {
    let leased = Leased::both();
    for (args, device, wait) in [
        (&["up", "eth0"][..], "br0", 2 * LEASE + 20),
        (&["down"], "eth0", LEASE + 20),
    ] {
        let stream = leased.stream();
        let monitor = Monitor::start(&leased.host.ns);
        leased.vmbr(args).ok();
        sleep(seconds(2));
        stream.assert_lost_at_most(1);
        let stream = leased.stream();
        sleep(seconds(wait));
        stream.assert_lost_at_most(0);
        nothing_went(&monitor.end(), device);
        leased.is_kept_by(device);
        leased.leads_by(device);
    }
    leased.has_its_own_file_alone();
}

#[test]
#[ignore = "waits past a lease, three minutes"]
fn a_networkd_that_is_started_anew_or_killed_keeps_the_bridges_lease() {
    let leased = Leased::both();
    let machine = &leased.machine;
    leased.vmbr(&["up", "eth0"]).ok();
    let stream = leased.stream();
    let monitor = Monitor::start(&leased.host.ns);
    for signal in ["TERM", "KILL"] {
        machine.sh(&format!("kill -{signal} $(pidof systemd-networkd)"));
        machine.until("! pidof systemd-networkd");
        sleep(seconds(10));
        start(machine);
        configured(machine, "br0");
        sleep(seconds(5));
    }
    assert_eq!(told(machine, "eth0", "ADMIN_STATE"), "unmanaged");
    sleep(seconds(LEASE + 5));
    stream.assert_lost_at_most(0);
    nothing_went(&monitor.end(), "br0");
    leased.is_kept_by("br0");
    // It has learned of the NIC without having lost it.
    let stream = leased.stream();
    leased.vmbr(&["down"]).ok();
    configured(machine, "eth0");
    sleep(seconds(2));
    stream.assert_lost_at_most(1);
    assert_eq!(address(&leased.host, "eth0"), leased.local);
    leased.has_its_own_file_alone();
}

#[test]
#[ignore = "waits past a lease, three minutes"]
fn a_server_that_is_silent_for_half_a_lease_is_waited_for() {
    let leased = Leased::ipv4();
    // Silent at the hand-over, too: a warning with the lease's end.
    leased.server.fall_silent();
    let up = leased.vmbr(&["up", "eth0"]);
    assert_eq!(up.code(), 0, "{up:?}");
    let warning = "the DHCP server does not answer: systemd-networkd goes on asking it for 192.0.2.1";
    assert!(up.stderr.contains(warning), "{}", up.stderr);
    assert!(up.stderr.contains("its lease ends in 1"), "{}", up.stderr);
    let stream = leased.stream_of_ipv4();
    let monitor = Monitor::start(&leased.host.ns);
    sleep(seconds(LEASE / 2));
    leased.server.go_on();
    sleep(seconds(LEASE));
    stream.assert_lost_at_most(0);
    nothing_went(&monitor.end(), "br0");
    leased.is_kept_by("br0");
    leased.vmbr(&["down"]).ok();
    assert_eq!(address(&leased.host, "eth0"), leased.local);
}

#[test]
#[ignore = "waits for a renewal, two minutes"]
fn another_address_at_a_renewal_is_taken_on_the_bridge() {
    let leased = Leased::ipv4();
    let host = &leased.host;
    leased.vmbr(&["up", "eth0"]).ok();
    leased.server.replace("192.0.2.150,192.0.2.160", &[]);
    common::wait_until(seconds(LEASE), || address(host, "br0") != leased.local);
    let given = address(host, "br0");
    assert!(
        given.starts_with("192.0.2.15") || given == "192.0.2.160",
        "{given}"
    );
    leased.is_held(&given);
    assert_eq!(defaults(host, "-4"), [("br0".to_owned(), 100)]);
    host.ping_both_ways(Some(&given), None);
    leased.vmbr(&["down"]).ok();
    assert_eq!(address(host, "eth0"), given);
    assert_eq!(defaults(host, "-4"), [("eth0".to_owned(), 100)]);
    leased.has_its_own_file_alone();
    host.ping_both_ways(Some(&given), None);
}

/// It wakes when `down` has given up on it, is told once more, and is told to
/// keep what it finds: what it knows could not be asked.
#[test]
#[ignore = "waits for a networkd that does not answer, fifteen seconds"]
fn a_networkd_that_is_silent_at_the_end_takes_the_nic_later() {
    let leased = Leased::ipv4();
    let machine = &leased.machine;
    leased.vmbr(&["up", "eth0"]).ok();
    leased.hold_networkd();
    let stream = leased.stream_of_ipv4();
    let monitor = Monitor::start(&leased.host.ns);
    let down = leased.vmbr(&["down"]);
    assert_eq!(down.code(), 4, "{down:?}");
    assert!(
        down.stderr
            .contains("eth0 carries its network itself again, but systemd-networkd"),
        "{}",
        down.stderr
    );
    leased.let_networkd_go_on();
    machine.until("vmbr=$(ls /proc/*/exe -l | grep -c /vmbr$ || :); test $vmbr = 0");
    leased.vmbr(&["recover"]).ok();
    configured(machine, "eth0");
    stream.assert_lost_at_most(1);
    nothing_went(&monitor.end(), "eth0");
    assert_eq!(address(&leased.host, "eth0"), leased.local);
    let kept = format!("./{OWN} ./{OWN}.d ./{OWN}.d/zz-vmbr-keep.conf ");
    assert_eq!(files(machine), kept);
    // And again, with nothing of it in the way.
    leased.vmbr(&["up", "eth0"]).ok();
    assert!(!files(machine).contains("keep"), "{}", files(machine));
    let stream = leased.stream_of_ipv4();
    leased.vmbr(&["down"]).ok();
    stream.assert_lost_at_most(1);
    assert_eq!(address(&leased.host, "eth0"), leased.local);
    leased.has_its_own_file_alone();
}

/// A networkd that does not answer the watchdog either is asked again, without
/// anybody's doing.
#[test]
#[ignore = "waits for a networkd that does not answer, ten seconds"]
fn a_networkd_that_wakes_later_is_given_the_nic_by_the_watchdog() {
    let leased = Leased::ipv4();
    leased.vmbr(&["up", "eth0"]).ok();
    leased.hold_networkd();
    let stream = leased.stream_of_ipv4();
    let down = leased.vmbr(&["down"]);
    assert_eq!(down.code(), 4, "{down:?}");
    // The watchdog's own first try is over, too.
    sleep(seconds(4));
    leased.let_networkd_go_on();
    let record = leased.host.records().join("*/br0.json");
    leased.machine.until(&format!("! ls {}", record.display()));
    configured(&leased.machine, "eth0");
    stream.assert_lost_at_most(1);
    assert_eq!(address(&leased.host, "eth0"), leased.local);
}

/// Starts `vmbr ARGS`, kills it after a time, and waits until the watchdog has
/// done its work. Whether it had ended by itself.
fn killed_after(machine: &Machine, host: &Host, args: &[&str], delay: Duration) -> bool {
    let mut command = machine.command(env!("CARGO_BIN_EXE_vmbr"));
    command.arg("--state-dir").arg(host.records()).args(args);
    let mut vmbr = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sleep(delay);
    let ended = vmbr.try_wait().unwrap().is_some();
    machine.sh(&format!("pkill -KILL -f '{}$' || :", args.join(" ")));
    let _ = vmbr.wait();
    machine.until("! pgrep -f '^[^ ]*/vmbr '");
    ended
}

/// Wherever a change is cut short, the host is on the network, with its lease,
/// and networkd has the one device that carries it.
#[test]
#[ignore = "kills every moment of up and down, three minutes"]
fn killed_at_any_moment_networkd_has_the_device_that_carries_the_network() {
    let leased = Leased::both();
    let (host, machine) = (&leased.host, &leased.machine);
    let (mut cut, mut lost) = (0, 0);
    for down in [false, true] {
        for step in 0..60 {
            let delay = Duration::from_millis(30 * step);
            if down {
                leased.vmbr(&["up", "eth0"]).ok();
            }
            let stream = leased.stream();
            let args: &[&str] = if down { &["down"] } else { &["up", "eth0"] };
            let ended = killed_after(machine, host, args, delay);
            leased.vmbr(&["recover"]).ok();
            let carrier = if host.ns.link("br0").is_some() {
                "br0"
            } else {
                "eth0"
            };
            configured(machine, carrier);
            let counts = stream.end();
            lost += counts.iter().map(|count| count.lost).sum::<u64>();
            assert!(
                counts.iter().all(|count| count.lost <= 2),
                "{args:?} {delay:?}: {counts:?}"
            );
            assert_eq!(address(host, carrier), leased.local, "{args:?} {delay:?}");
            assert_eq!(leased.server.clients(), leased.known, "{args:?} {delay:?}");
            for family in ["-4", "-6"] {
                assert_eq!(
                    defaults(host, family),
                    [(carrier.to_owned(), 100)],
                    "{args:?} {delay:?}"
                );
            }
            if carrier == "br0" {
                assert_eq!(told(machine, "eth0", "ADMIN_STATE"), "unmanaged");
                leased.vmbr(&["down"]).ok();
                configured(machine, "eth0");
            }
            assert!(!files(machine).contains("00-vmbr"), "{}", files(machine));
            if ended {
                break;
            }
            cut += 1;
        }
    }
    println!("{cut} changes were cut short, {lost} packets were lost in all");
    assert!(cut > 10, "only {cut} changes were cut short");
}
