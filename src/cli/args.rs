//! The command line's grammar.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use macaddr::MacAddr6;

use crate::apply::namespace::RUN_DIR;
use crate::guard::Rule;
use crate::helper::args::QUEUES_LIMIT;
use crate::model::bridge::PORTS_MAX;
use crate::model::ifname::IfNameError;
use crate::model::{IfName, Mac};
use crate::sys::tap::{QUEUES_MAX, TAP_MAC_BYTE};

/// Puts QEMU/KVM guests on the network of their host.
#[derive(Debug, Parser)]
#[command(
    name = "vmbr",
    version,
    about,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Exit status: 0 done, 1 failed and the host is as before, 2 bad usage, \
    3 refused before touching anything, 4 failed and something is left."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say every operation as it is done
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Directory of the records of what was changed
    #[arg(long, global = true, value_name = "DIR", default_value = RUN_DIR)]
    pub state_dir: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a NIC on a bridge that guests can join, without losing a packet
    ///
    /// Makes the bridge and moves everything that the NIC has to it:
    /// addresses, routes, rules, neighbours, settings. Where the NIC is a
    /// wireless station, it stays as it is, and the guests' MACs are translated
    /// into its own (mode mac-nat). Nothing is kept across a reboot.
    Up(Up),
    /// Give a bridge's network back to its NIC
    ///
    /// What the bridge has now goes back, in the order and with the settings
    /// of before; then the bridge goes. In mode mac-nat the NIC has never lost
    /// its network, and only the bridge goes.
    Down(Down),
    /// Keep a bridge that 'vmbr up --confirm' made
    ///
    /// Run it from a new connection: that it can be made is what has to be
    /// confirmed.
    Confirm(Confirm),
    /// Lead changes that did not end back to the NIC
    ///
    /// Whatever was interrupted ends with the network on the NIC itself. This
    /// is what the watchdog of a change does; it is for the case that it was
    /// killed, too.
    Recover,
    /// Tell the translation of MACs what the host's network is now
    ///
    /// For bridges in mode mac-nat: the uplink's MAC, which may be random, the
    /// addresses that no guest may claim, the ACL's pins; and mends what is
    /// missing. Hooks of NetworkManager, networkd-dispatcher and udev run it
    /// ('scripts/install' puts them there), and it may be run at any time.
    /// Where there is no such bridge it does nothing, without root too.
    Sync(Sync),
    /// Show bridges, their uplink and their guests
    Status(Status),
    /// Make, remove and list persistent TAPs for guests
    ///
    /// For programs that take a TAP by its name: libvirt, Firecracker, QEMU
    /// with ifname=. A TAP of 'vmbr tap add' stays until it is removed, or the
    /// host is booted.
    #[command(subcommand)]
    Tap(Tap),
    /// Do what libvirt's hooks ask for
    ///
    /// Makes the TAPs of a domain before it starts and removes them when it is
    /// gone: those of its interfaces of type 'ethernet' that name their TAP and
    /// say managed='no'. libvirt calls this by the hook that
    /// 'scripts/install --libvirt' installs, with the XML on standard input.
    #[command(subcommand)]
    Hook(Hook),
    /// Find and explain what cuts guests, or the host, off the network
    ///
    /// Looks at bridges and their ports, at the firewall, the kernel's
    /// settings, the helper and its ACL. Each finding comes with a remedy, as
    /// a command where one mends it. Works without root, and says what it
    /// could not look at. Exit status: 0 where nothing was found, 1 where
    /// something was.
    Doctor(Doctor),
    /// Start a guest with a TAP on a bridge, as any user that the ACL allows
    ///
    /// vmbr-helper makes the TAP, COMMAND takes the place of vmbr and inherits
    /// its descriptors; it is gone when the guest ends. In COMMAND {fds}
    /// becomes the descriptors with colons, as QEMU wants them, {fds,} with
    /// commas, {fd0} the first, {fd1} the second; {vhostfds}, {vhostfds,} and
    /// {vhostfd0} the same of /dev/vhost-net.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write it and one page for each command into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Lead the host back if the vmbr that changes it dies
    #[command(hide = true)]
    Watchdog(Watchdog),
    /// Keep the lease of a bridge that no manager can be given
    #[command(hide = true)]
    Keeper(Keeper),
}

/// Which of libvirt's hooks it is (<https://libvirt.org/hooks.html>).
#[derive(Debug, Subcommand)]
pub enum Hook {
    /// Of a domain
    Qemu(HookCall),
    /// Of a network
    Network(HookCall),
}

/// What libvirt's hooks are called with.
#[derive(Debug, clap::Args)]
pub struct HookCall {
    /// The domain's or the network's name
    #[arg(allow_hyphen_values = true)]
    pub object: String,
    /// What happens to it: prepare, start, release, ...
    #[arg(allow_hyphen_values = true)]
    pub operation: String,
    /// Whether that begins or has ended
    #[arg(allow_hyphen_values = true)]
    pub suboperation: String,
    /// More of it
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    pub extra: Vec<String>,
}

/// Arguments of `vmbr up`.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// The NIC; by default the device of the default route
    pub uplink: Option<IfName>,
    /// Name of the bridge
    #[arg(long, default_value = "br0", value_name = "NAME")]
    pub bridge: IfName,
    /// How guests reach the network: 'bridge', the NIC is a port of the bridge;
    /// 'mac-nat', the NIC stays as it is and guests speak by its MAC, for
    /// wireless stations and for networks that let no other MAC pass; 'auto',
    /// whichever the NIC can
    #[arg(long, value_name = "MODE", default_value = "auto", value_enum)]
    pub mode: ModeChoice,
    /// In mode mac-nat, translate the hardware address in guests' DHCP
    /// requests, too: for access points that let no other pass
    #[arg(long)]
    pub dhcp_chaddr: bool,
    /// Go back unless 'vmbr confirm' says within SECS seconds, a minute without
    /// a number, that the host is still reached
    #[arg(
        long,
        value_name = "SECS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60",
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub confirm: Option<u32>,
    /// Do not ask the gateways whether they still answer
    #[arg(long)]
    pub no_verify: bool,
    /// Print what would be done, as commands, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How guests shall reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeChoice {
    /// As the uplink can
    Auto,
    /// The uplink is a port of the bridge
    Bridge,
    /// The uplink stays as it is, and guests speak by its MAC
    MacNat,
}

const RUN_EXAMPLES: &str = "Examples:
  vmbr run -- qemu-system-x86_64 -nic tap,fd={fds},model=virtio ...
  vmbr run --queues 4 --vhost -- qemu-system-x86_64 \\
    -netdev tap,id=n0,fds={fds},vhost=on,vhostfds={vhostfds} \\
    -device virtio-net-pci,netdev=n0,mq=on,vectors=10 ...
  vmbr run --queues 2 -- cloud-hypervisor --net 'fd=[{fds,}],num_queues=4' ...
  vmbr run -- crosvm run --net tap-fd={fd0} ...";

/// Arguments of `vmbr run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The bridge
    #[arg(long, default_value = "br0", value_name = "NAME")]
    pub bridge: IfName,
    /// How many queues, and so descriptors, the TAP has
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(QUEUES_LIMIT))
    )]
    pub queues: u32,
    /// Open /dev/vhost-net for each queue, too
    #[arg(long)]
    pub vhost: bool,
    /// Give up root and become this user first
    #[arg(long)]
    pub user: Option<String>,
    /// The guest's MAC: the port is for it alone
    #[arg(long)]
    pub mac: Option<Mac>,
    /// Let the guest reach no other isolated guest of the bridge
    #[arg(long)]
    pub isolated: bool,
    /// The program to start, and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `vmbr confirm`.
#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// The bridge; by default the one that waits
    pub bridge: Option<IfName>,
}

/// Arguments of `vmbr sync`.
#[derive(Debug, clap::Args)]
pub struct Sync {
    /// The bridge; by default every one in mode mac-nat
    pub bridge: Option<IfName>,
}

/// Arguments of the watchdog.
#[derive(Debug, clap::Args)]
pub struct Watchdog {
    /// Process that changes the host
    #[arg(long)]
    pub parent: u32,
    /// When it was started, in clock ticks since the boot
    #[arg(long)]
    pub started: u64,
    /// Its descriptor that is told when the watchdog is ready
    #[arg(long)]
    pub ready: u32,
    /// The bridge
    #[arg(long)]
    pub bridge: IfName,
}

/// Arguments of the lease keeper.
#[derive(Debug, clap::Args)]
pub struct Keeper {
    /// The bridge
    #[arg(long)]
    pub bridge: IfName,
    /// Start it again when it dies
    #[arg(long)]
    pub supervise: bool,
}

/// Arguments of `vmbr down`.
#[derive(Debug, clap::Args)]
pub struct Down {
    /// The bridge; by default the only one that vmbr made
    pub bridge: Option<IfName>,
    /// Remove the guests' TAPs that are on the bridge
    #[arg(long)]
    pub force: bool,
    /// Do not ask the gateways whether they still answer
    #[arg(long)]
    pub no_verify: bool,
    /// Print what would be done, as commands, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `vmbr status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// The bridge; by default every bridge of the host
    pub bridge: Option<IfName>,
}

/// Arguments of `vmbr doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Mend what can be mended; 'vmbr down' undoes it
    #[arg(long)]
    pub fix: bool,
}

/// What to do with TAPs.
#[derive(Debug, Subcommand)]
pub enum Tap {
    /// Make a persistent TAP and put it on a bridge
    ///
    /// Only its owner can attach to it, from the first moment on. One that
    /// stands as it was asked for is left as it is; one that stands otherwise
    /// is a refusal that says the difference.
    Add(Box<TapAdd>),
    /// Remove TAPs
    Del(TapDel),
    /// List the TAPs of the host
    List,
}

/// Arguments of `vmbr tap add`.
#[derive(Debug, clap::Args)]
pub struct TapAdd {
    /// Its name; with --count, what their names begin with
    #[arg(value_parser = tap_name)]
    pub name: IfName,
    /// Make N of them, NAME0 and so on: all or none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=PORTS_MAX as i64))]
    pub count: Option<u32>,
    /// The bridge; by default the only one that vmbr made, or br0
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<IfName>,
    /// The user who may attach to it, by name or number; root by default
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// The group whose members may attach to it; with --owner, both must fit
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// How many queues the guest will have; QEMU, libvirt and others must ask
    /// for more than one where this is more than one, and for one otherwise
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        hide_default_value = true,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(QUEUES_MAX))
    )]
    pub queues: u32,
    /// The guest's MAC; the TAP's own is the same with fe as its first byte
    #[arg(long, value_name = "MAC", value_parser = guest_mac, conflicts_with = "count")]
    pub mac: Option<MacAddr6>,
    /// Largest packet in bytes; by default that of the bridge
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(68..=65_521))]
    pub mtu: Option<u32>,
    /// It reaches the uplink and the host, but no other isolated port
    #[arg(long)]
    pub isolated: bool,
    /// Let the guest speak as itself only: as its MAC ('mac'), or as its MAC
    /// and these addresses and prefixes, with commas between
    ///
    /// With addresses given, what is dropped: other sources in IPv4, IPv6, ARP
    /// and neighbour discovery, VLAN tags, answers of DHCP servers, router
    /// advertisements, redirects. A family with no address given is shut. The
    /// link-local address is the one made of the MAC; one that the guest makes
    /// otherwise has to be given, too.
    #[arg(long, value_name = "mac|ADDR,...", requires = "mac", conflicts_with = "count")]
    pub guard: Option<Rule>,
}

/// Arguments of `vmbr tap del`.
#[derive(Debug, clap::Args)]
pub struct TapDel {
    /// Their names
    #[arg(required = true)]
    pub names: Vec<IfName>,
    /// Also those that a guest has, and those that are on no bridge
    #[arg(long)]
    pub force: bool,
}

/// A name for a TAP. The kernel fills a `%d` in.
fn tap_name(text: &str) -> Result<IfName, String> {
    let name: IfName = text.parse().map_err(|error: IfNameError| error.to_string())?;
    if text.contains('%') {
        return Err("the name of a TAP has no '%'".into());
    }
    Ok(name)
}

/// The MAC of a guest.
fn guest_mac(text: &str) -> Result<MacAddr6, String> {
    let mac: MacAddr6 = text
        .parse()
        .map_err(|_| "write a MAC as 52:54:00:12:34:56".to_owned())?;
    if mac.is_nil() || mac.is_multicast() {
        return Err("this is no MAC of a single device".into());
    }
    if mac.as_bytes().first() == Some(&TAP_MAC_BYTE) {
        return Err("a guest's MAC does not begin with fe: that of its TAP does".into());
    }
    Ok(mac)
}
