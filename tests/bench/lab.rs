//! The namespaces that stand for a host and its LAN, and the ways to put the
//! host's network onto a bridge and back that are compared.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// The host's addresses, on eth0 or br0: see lab.sh.
pub const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x21)),
];
/// The peer's addresses, behind the gateway.
pub const PEER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9)),
];

/// Why a measurement could not be made: a sentence.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// The result of everything here.
pub type Outcome<T> = Result<T, Failure>;

/// Where the programs are that take part.
pub struct Programs {
    /// vmbr itself.
    pub vmbr: PathBuf,
    /// This directory in the project: the scripts of the other contestants.
    pub scripts: PathBuf,
    /// Whether NetworkManager, nmcli and dbus-daemon are installed.
    pub manager: bool,
}

impl Programs {
    /// MAC-NAT's programs as BPF_PROG_TEST_RUN can repeat them: beside vmbr.
    pub fn frames(&self) -> PathBuf {
        self.vmbr.with_file_name("macnat-bench.o")
    }
}

/// A way to migrate the host's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Nothing is done: what is measured now is the harness and the machine.
    Control,
    /// tutorial.sh
    Script,
    /// `vmbr up`, `vmbr down`
    Vmbr,
    /// The same, without the time that the gateways take to answer.
    Unasked,
    /// manager.sh: `nmcli con up`
    Manager,
}

impl Migration {
    /// The name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Migration::Control => "control",
            Migration::Script => "ip script",
            Migration::Vmbr => "vmbr",
            Migration::Unasked => "vmbr --no-verify",
            Migration::Manager => "NetworkManager",
        }
    }
}

/// A host with one NIC and the LAN on its other side, made by lab.sh.
pub struct Lab<'a> {
    programs: &'a Programs,
    migration: Migration,
}

impl<'a> Lab<'a> {
    /// Makes both namespaces anew, and starts what `migration` needs.
    pub fn new(programs: &'a Programs, migration: Migration) -> Outcome<Self> {
        run(Command::new(programs.scripts.join("lab.sh")))?;
        let lab = Lab { programs, migration };
        if migration == Migration::Manager {
            lab.manager("start")?;
        }
        // From the host, so that both sides know each other's MAC.
        for address in ["198.51.100.9", "2001:db8:ffff::9"] {
            run(host(&["ping", "-q", "-c", "1", "-W", "5", address]))?;
        }
        Ok(lab)
    }

    /// Puts the host's network onto br0 and waits for the command to end.
    pub fn up(&self) -> Outcome<()> {
        match self.migration {
            Migration::Control => thread::sleep(Duration::from_millis(300)),
            Migration::Script => self.script("up")?,
            Migration::Vmbr => self.vmbr(&["up", "eth0", "--bridge", "br0"])?,
            Migration::Unasked => self.vmbr(&["up", "eth0", "--bridge", "br0", "--no-verify"])?,
            Migration::Manager => self.manager("up")?,
        }
        self.expect_bridge(self.migration != Migration::Control)
    }

    /// Puts it back onto eth0.
    pub fn down(&self) -> Outcome<()> {
        match self.migration {
            Migration::Control => thread::sleep(Duration::from_millis(300)),
            Migration::Script => self.script("down")?,
            Migration::Vmbr => self.vmbr(&["down", "br0"])?,
            Migration::Unasked => self.vmbr(&["down", "br0", "--no-verify"])?,
            Migration::Manager => self.manager("down")?,
        }
        self.expect_bridge(false)
    }

    /// A contestant that did nothing would win: looks for the result.
    fn expect_bridge(&self, wanted: bool) -> Outcome<()> {
        let device = if wanted { "br0" } else { "eth0" };
        for family in ["-4", "-6"] {
            let shown = run(host(&["ip", family, "-o", "addr", "show", "scope", "global"]))?;
            if !shown
                .lines()
                .any(|line| line.split_whitespace().nth(1) == Some(device))
            {
                return Err(format!(
                    "{}: no address on {device} afterwards: {shown}",
                    self.migration.name()
                )
                .into());
            }
        }
        Ok(())
    }

    fn script(&self, direction: &str) -> Outcome<()> {
        let script = self.programs.scripts.join("tutorial.sh");
        run(host(&[text(&script)?, direction])).map(drop)
    }

    fn vmbr(&self, args: &[&str]) -> Outcome<()> {
        let mut line = vec![text(&self.programs.vmbr)?];
        line.extend(args);
        run(host(&line)).map(drop)
    }

    fn manager(&self, verb: &str) -> Outcome<()> {
        let script = self.programs.scripts.join("manager.sh");
        run(host(&[text(&script)?, verb])).map(drop)
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        if self.migration != Migration::Manager {
            return;
        }
        if let Err(failure) = self.manager("stop") {
            eprintln!("bench: stopping NetworkManager: {failure}");
        }
    }
}

/// The migrations that take part on this machine, `control` first.
pub fn migrations(programs: &Programs) -> Vec<Migration> {
    let mut all = vec![Migration::Control, Migration::Script, Migration::Vmbr];
    if programs.manager {
        all.push(Migration::Manager);
    }
    all
}

/// `command` as it would run in the host's namespace, with a /sys of its own.
pub fn host(command: &[&str]) -> Command {
    let mut line = Command::new("ip");
    line.args(["netns", "exec", "host"]).args(command);
    line
}

/// Does `work` in a namespace of the lab, on a thread of its own, so that
/// nothing else is ever in there by mistake. Sockets that it makes stay there.
pub fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    let path = Path::new("/run/netns").join(namespace);
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let file = File::open(&path).map_err(|error| format!("opening {}: {error}", path.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("entering {namespace}: {error}"))?;
            work()
        });
        thread
            .join()
            .map_err(|_| format!("the thread in {namespace} panicked"))?
    })
}

/// Runs a command to its end and returns what it wrote to stdout; everything
/// but exit status 0 is a failure that quotes stderr.
pub fn run(mut command: Command) -> Outcome<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("running {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}", output.status, stderr.trim()).into())
}

/// A path as an argument.
pub fn text(path: &Path) -> Outcome<&str> {
    path.to_str()
        .ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
