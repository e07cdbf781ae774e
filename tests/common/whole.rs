//! A whole machine: the distribution's kernel, systemd and network manager
//! under QEMU (scripts/lib/machine-image), on a LAN with a real dnsmasq.

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Namespace, run, wait_until};
use crate::machine::Machine;
use crate::qemu::{Lines, QEMU};

/// The NIC's MAC.
pub const MAC: &str = "02:00:00:00:00:21";
/// A DHCPv4 or DHCPv6 lease of the LAN, the shortest that dnsmasq gives.
pub const LEASE: Duration = Duration::from_secs(120);
/// A machine under software emulation takes less than half of it to boot.
const BOOT: Duration = Duration::from_secs(240);
/// How often a [`Meter`] asks, a second.
pub const PACE: u32 = 100;

static IMAGE: LazyLock<(PathBuf, String)> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let script = |name: &str| run(&mut Command::new(root.join("scripts/lib").join(name))).ok();
    script("machine-image");
    script("guest-image");
    let accel = script("guest-accel").trim().to_owned();
    (target.join("machine"), accel)
});

/// The machine, and the LAN that its `eth0`, an e1000e, is plugged into.
pub struct Whole {
    /// The LAN: `lan0` leads to the machine, with 192.0.2.1/24 and
    /// 2001:db8::1/64.
    pub lan: Namespace,
    server: Machine,
    qemu: Child,
    lines: Option<Lines>,
    asked: u32,
    directory: PathBuf,
}

impl Whole {
    /// Boots one that starts `units`, never those of `without`, and has `files`,
    /// each a path below / and its text.
    pub fn boot(units: &[&str], without: &[&str], files: &[(&str, &str)]) -> Self {
        let (image, accel) = &*IMAGE;
        let lan = Namespace::new("whole");
        let directory = std::env::temp_dir().join(lan.name());
        fs::create_dir(&directory).unwrap();
        disk(&directory, files);
        // A host whose router's answers say that it is none (RFC 4861, 4.4) takes
        // the routes away that it has learned of it.
        let script = "sysctl -qw net.ipv6.conf.all.forwarding=1
             ip tuntap add lan0 mode tap
             ip link set lan0 address 02:00:00:00:00:01 up
             ip addr add 192.0.2.1/24 dev lan0
             ip addr add 2001:db8::1/64 dev lan0 nodad
             ip addr add fe80::1/64 dev lan0 nodad";
        run(lan.command("sh").args(["-ec", script])).ok();
        let server = Machine::new(&lan);
        server.start("dnsmasq", &dnsmasq());
        let mut line = "root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.show_status=0".to_owned();
        for (word, units) in [("wants", units), ("mask", without)] {
            for unit in units {
                line.push_str(&format!(" systemd.{word}={unit}"));
            }
        }
        let path = |name: &str| directory.join(name).display().to_string();
        let log = File::create(directory.join("qemu.log")).unwrap();
        let qemu = lan
            .command("setpriv")
            .args(["--pdeathsig", "KILL", QEMU])
            .args([
                "-M", "q35", "-accel", accel, "-cpu", "max", "-smp", "2", "-m", "768",
            ])
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-snapshot"])
            .args([
                "-drive",
                &format!("file={},format=raw,if=virtio", image.join("root.ext4").display()),
            ])
            .args([
                "-drive",
                &format!("file={},format=raw,if=virtio", path("files.tar")),
            ])
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd"))
            .args(["-append", &line])
            .args(["-netdev", "tap,id=n0,ifname=lan0,script=no,downscript=no"])
            .args(["-device", &format!("e1000e,netdev=n0,mac={MAC}")])
            .args(["-serial", &format!("file:{}", path("console"))])
            .args(["-serial", &format!("unix:{},server=on,wait=off", path("agent"))])
            .env("TMPDIR", &directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut machine = Self {
            lan,
            server,
            qemu,
            lines: None,
            asked: 0,
            directory,
        };
        machine.connect();
        machine.await_ready();
        machine
    }

    fn connect(&mut self) {
        let path = self.directory.join("agent");
        let mut stream = None;
        wait_until(Duration::from_secs(30), || {
            stream = UnixStream::connect(&path).ok();
            stream.is_some() || self.qemu.try_wait().unwrap().is_some()
        });
        let Some(stream) = stream else {
            panic!("QEMU did not start: {}", self.said());
        };
        self.lines = Some(Lines::new(stream));
    }

    fn await_ready(&mut self) {
        let end = Instant::now() + BOOT;
        let lines = self.lines.as_mut().unwrap();
        while lines.next(end.saturating_duration_since(Instant::now())) != "MACHINE-READY" {}
    }

    /// Runs a command by `bash -e`; gives its exit status and its output.
    pub fn try_sh(&mut self, command: &str) -> (i32, String) {
        self.asked += 1;
        let done = format!("MACHINE-DONE {} ", self.asked);
        let command = command.split('\n').map(str::trim).collect::<Vec<_>>().join("; ");
        let lines = self.lines.as_mut().unwrap();
        lines.tell(&format!("{} set -e; {command}", self.asked));
        let mut output = String::new();
        loop {
            let line = lines.next(Duration::from_secs(90));
            // What came before may have had no end of line.
            if let Some((last, status)) = line.split_once(&done) {
                output.push_str(last);
                return (status.parse().unwrap(), output);
            }
            output.push_str(&line);
            output.push('\n');
        }
    }

    /// The same of a command that succeeds; panics where it fails.
    pub fn sh(&mut self, command: &str) -> String {
        let (status, output) = self.try_sh(command);
        assert_eq!(status, 0, "{command}\n{output}\n{}", self.said());
        output
    }

    /// Waits until a command succeeds, and says how long that took.
    pub fn until(&mut self, limit: Duration, command: &str) -> Duration {
        let began = Instant::now();
        loop {
            let (status, output) = self.try_sh(command);
            if status == 0 {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < limit,
                "{command}\n{output}\n{}\n{}",
                self.try_sh("ip addr; ip route; journalctl -b --no-pager -n 60").1,
                self.said()
            );
            sleep(Duration::from_millis(500));
        }
    }

    /// Reboots it, and waits until it is there again.
    pub fn reboot(&mut self) {
        self.sh("systemctl reboot");
        self.await_ready();
    }

    /// How often the server has given the address so far, at first and again.
    pub fn given(&self, address: &str) -> usize {
        let said = self.server.said();
        let given = |line: &&str| {
            let mut words = line.split_whitespace();
            (line.contains("DHCPACK(") || line.contains("DHCPREPLY(")) && words.any(|word| word == address)
        };
        said.lines().filter(given).count()
    }

    /// What the server, the console and QEMU have said.
    pub fn said(&self) -> String {
        let read = |name: &str| {
            let text = fs::read(self.directory.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        format!("{}{}{}", self.server.said(), read("console"), read("qemu.log"))
    }

    /// Begins to ask an address from the LAN, [`PACE`] times a second.
    pub fn meter(&self, address: &str) -> Meter {
        let path = self.directory.join(format!("ping-{}", address.replace(':', "-")));
        let pause = format!("{:.3}", 1.0 / f64::from(PACE));
        let ping = self
            .lan
            .command("ping")
            .args(["-n", "-D", "-i", &pause, address])
            .stdin(Stdio::null())
            .stdout(File::create(&path).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Meter { ping, path, seen: 0 }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Questions that the machine answers, at an even pace.
pub struct Meter {
    ping: Child,
    path: PathBuf,
    seen: usize,
}

impl Meter {
    /// How many questions had no answer, of how many, and the longest silence
    /// in questions; since the last time this was asked.
    pub fn lost(&mut self) -> (usize, usize, usize) {
        // The answers that are under way.
        sleep(Duration::from_secs(2));
        let text = fs::read_to_string(&self.path).unwrap();
        let number = |line: &str| {
            let (_, rest) = line.split_once("icmp_seq=")?;
            rest.split(' ').next()?.parse::<usize>().ok()
        };
        let mut answered: Vec<usize> = text
            .lines()
            .filter(|line| line.contains("bytes from"))
            .filter_map(number)
            .filter(|number| *number > self.seen)
            .collect();
        answered.sort_unstable();
        answered.dedup();
        let last = *answered.last().expect("no answer at all");
        let (mut before, mut silence) = (self.seen, 0);
        for number in &answered {
            silence = silence.max(number - before - 1);
            before = *number;
        }
        let all = last - self.seen;
        self.seen = last;
        (all - answered.len(), all, silence)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}

/// The second disk: an archive of what the test adds to the machine, vmbr
/// among it.
fn disk(directory: &Path, files: &[(&str, &str)]) {
    let root = directory.join("files");
    let bin = root.join("usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    let vmbr = bin.join("vmbr");
    fs::copy(env!("CARGO_BIN_EXE_vmbr"), &vmbr).unwrap();
    // A tenth of its size; all of it has to come through an emulated disk.
    run(Command::new("strip").arg(&vmbr)).ok();
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let script = "cd \"$0\"
         find files -type d -exec chmod 755 {} +
         find files -path '*NetworkManager*' -type f -exec chmod 600 {} +
         tar --owner=0 --group=0 -C files -cf files.tar .
         truncate -s %1M files.tar
         rm -r files";
    run(Command::new("sh").args(["-ec", script]).arg(directory)).ok();
}

/// It leases 192.0.2.100 to .110 and 2001:db8::100 to ::1ff, advertises itself
/// as the router every minute, and knows one name.
fn dnsmasq() -> [&'static str; 16] {
    [
        "--no-ping",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--address=/known.example/192.0.2.77",
        "--interface=lan0",
        "--user=root",
        "--dhcp-range=192.0.2.100,192.0.2.110,120",
        "--dhcp-range=2001:db8::100,2001:db8::1ff,slaac,64,120",
        "--enable-ra",
        "--ra-param=lan0,60,1800",
        "--dhcp-leasefile=/run/leases",
        "--log-dhcp",
        "--log-facility=-",
        "--pid-file=",
    ]
}
