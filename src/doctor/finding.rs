//! What doctor says of a host, and what mends it.

use std::path::PathBuf;

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use crate::model::bridge::Setting;
use crate::model::{Address, IfName, Route};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Guests or the host are cut off, or soon will be.
    Error,
    /// It may cut them off.
    Warning,
    /// Something could not be looked at: no finding to the exit status.
    Note,
}

impl Severity {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing that is wrong with a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A word for programs, the same in every version: `stp`, `tun-mode`.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The network device, where it is one's.
    pub device: Option<IfName>,
    /// What is so, and what comes of it.
    pub message: String,
    /// The command that mends it, as it can be pasted; where none does, a
    /// sentence.
    pub remedy: String,
    /// What `--fix` does, in its order; nothing where it does not mend it.
    pub fix: Vec<Change>,
}

impl Finding {
    /// A finding that `--fix` does not mend.
    pub fn new(
        id: &'static str,
        severity: Severity,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            id,
            severity,
            device: None,
            message: message.into(),
            remedy: remedy.into(),
            fix: Vec::new(),
        }
    }

    /// The same, of a device.
    pub fn of(self, device: &IfName) -> Self {
        let device = Some(device.clone());
        Self { device, ..self }
    }

    /// The same, mended by `fix`.
    pub fn fixed_by(self, fix: Vec<Change>) -> Self {
        Self { fix, ..self }
    }

    /// Whether `--fix` mends it.
    pub fn fixable(&self) -> bool {
        !self.fix.is_empty()
    }

    /// Whether both are the same finding, seen twice.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.id, &self.device) == (other.id, &other.device)
    }
}

/// One change of `--fix`, with what it takes to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A setting of a device under /proc/sys/net.
    Sysctl {
        /// The device.
        dev: IfName,
        /// The path without the device's part: `ipv4/conf/arp_ignore`.
        key: String,
        /// The value before.
        old: String,
        /// The value now.
        new: String,
    },
    /// An option of a bridge.
    Option {
        /// The bridge.
        bridge: IfName,
        /// The option.
        setting: Setting,
        /// The value before.
        old: u32,
        /// The value now.
        new: u32,
    },
    /// A bridge's MAC is set, which pins it: the kernel no longer derives it
    /// from the ports'. The same MAC again undoes all but the pin, which
    /// stays until the bridge is made anew.
    Mac {
        /// The bridge.
        bridge: IfName,
        /// The MAC before.
        old: MacAddr6,
        /// The MAC now.
        new: MacAddr6,
    },
    /// An address is taken from a port.
    Address {
        /// The bridge.
        bridge: IfName,
        /// The port.
        port: IfName,
        /// The address.
        address: Address,
    },
    /// A route is taken from a port.
    Route {
        /// The bridge.
        bridge: IfName,
        /// The port.
        port: IfName,
        /// The route.
        route: Box<Route>,
    },
    /// A rule of the firewall lets frames pass that stay on a bridge.
    Accept {
        /// The bridge.
        bridge: IfName,
        /// The chain that had dropped them.
        chain: FirewallChain,
    },
    /// The lease keeper of a bridge is started again; it ends with the bridge.
    Keeper {
        /// The bridge.
        bridge: IfName,
    },
    /// A bridge in mode mac-nat is brought up to date, as by `vmbr sync`; what
    /// that makes ends with the bridge.
    Translation {
        /// The bridge.
        bridge: IfName,
    },
    /// The mode of a file.
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions before.
        old: u32,
        /// Its permissions now.
        new: u32,
    },
}

impl Change {
    /// The bridge that it serves; none for what serves the whole host.
    pub fn bridge(&self) -> Option<&IfName> {
        match self {
            Self::Option { bridge, .. }
            | Self::Mac { bridge, .. }
            | Self::Address { bridge, .. }
            | Self::Route { bridge, .. }
            | Self::Accept { bridge, .. }
            | Self::Keeper { bridge }
            | Self::Translation { bridge } => Some(bridge),
            Self::Sysctl { .. } | Self::Mode { .. } => None,
        }
    }

    /// Whether both change the same thing.
    pub fn same_thing(&self, other: &Self) -> bool {
        use Change as C;
        match (self, other) {
            (C::Sysctl { dev: a, key: k, .. }, C::Sysctl { dev: b, key: l, .. }) => (a, k) == (b, l),
            (
                C::Option {
                    bridge: a,
                    setting: s,
                    ..
                },
                C::Option {
                    bridge: b,
                    setting: t,
                    ..
                },
            ) => (a, s) == (b, t),
            (C::Mac { bridge: a, .. }, C::Mac { bridge: b, .. }) => a == b,
            (C::Mode { path: a, .. }, C::Mode { path: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }

    /// The change that leads from where `self` began to where `later`, of the
    /// same thing, ended.
    pub fn followed_by(&self, later: &Self) -> Self {
        let mut whole = self.clone();
        match (&mut whole, later) {
            (Self::Sysctl { new, .. }, Self::Sysctl { new: end, .. }) => new.clone_from(end),
            (Self::Option { new, .. }, Self::Option { new: end, .. }) => *new = *end,
            (Self::Mac { new, .. }, Self::Mac { new: end, .. }) => *new = *end,
            (Self::Mode { new, .. }, Self::Mode { new: end, .. }) => *new = *end,
            _ => {}
        }
        whole
    }
}

/// A chain of the host's firewall that forwarded packets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "firewall", rename_all = "kebab-case")]
pub enum FirewallChain {
    /// Of nftables, iptables-nft's included.
    Nftables {
        /// `ip`, `ip6` or `inet`.
        family: String,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// firewalld's, which it makes anew when it is told to reload: it has to
    /// be told of the bridge. In a zone, what stays on one device passes.
    Firewalld,
    /// FORWARD of the old iptables.
    Iptables {
        /// The program that changes it: `iptables-legacy`, `ip6tables`.
        program: String,
    },
}

impl std::fmt::Display for FirewallChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nftables { family, table, chain } => {
                write!(f, "the chain {chain} of the nftables table {family} {table}")
            }
            Self::Firewalld => f.write_str("firewalld"),
            Self::Iptables { program } => write!(f, "the chain FORWARD of {program}"),
        }
    }
}

impl FirewallChain {
    /// The words of the command that lets pass what stays on `bridge`, by a
    /// rule in front of the others.
    pub fn accept(&self, bridge: &IfName) -> Vec<String> {
        let name = bridge.as_str();
        // In quotes a name is no word of nft's language.
        let quoted = format!("\"{name}\"");
        let interface = format!("--add-interface={name}");
        let words: Vec<&str> = match self {
            Self::Firewalld => vec!["firewall-cmd", &interface],
            Self::Nftables { family, table, chain } => vec![
                "nft", "insert", "rule", family, table, chain, "iifname", &quoted, "oifname", &quoted,
                "accept",
            ],
            Self::Iptables { program } => {
                vec![program, "-I", "FORWARD", "-i", name, "-o", name, "-j", "ACCEPT"]
            }
        };
        words.into_iter().map(str::to_owned).collect()
    }
}
