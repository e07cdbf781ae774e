//! What a manager says of the uplink, and how that is judged.

use std::fmt;
use std::net::IpAddr;

use crate::model::IfName;
use crate::plan::Refusal;
use crate::plan::hold::Hold;

use super::scene::Scene;

/// A program that configures NICs.
pub trait Manager {
    /// Its name, as people know it.
    fn name(&self) -> &'static str;

    /// Whether it manages the uplink of `scene`, and how that is known.
    fn look(&self, scene: &Scene<'_>) -> Found;

    /// Whether it tells systemd-resolved by itself what a device's servers are.
    fn feeds_resolved(&self) -> bool {
        false
    }

    /// What becomes of a lease once the uplink is a port, as the end of a
    /// sentence.
    fn fate(&self) -> &'static str;

    /// What to do before `vmbr up`, where there is a lease.
    fn remedy(&self, uplink: &IfName) -> String;
}

/// What a look for a manager gave.
#[derive(Debug, Default)]
pub struct Found {
    /// What it manages; empty where it has no hand on the uplink.
    pub claims: Vec<Claim>,
    /// What could not be found out, each a sentence.
    pub doubts: Vec<String>,
}

impl From<Option<Claim>> for Found {
    fn from(claim: Option<Claim>) -> Self {
        Self {
            claims: claim.into_iter().collect(),
            doubts: Vec::new(),
        }
    }
}

/// A manager has its hand on the uplink.
#[derive(Debug)]
pub struct Claim {
    /// How that is known.
    pub evidence: String,
    /// Its processes.
    pub processes: Vec<u32>,
    /// What it holds for the uplink's addresses.
    pub leases: Vec<Lease>,
    /// What it will do where it holds no lease.
    pub outlook: Outlook,
    /// How it is moved to the bridge; None where vmbr knows no safe way.
    pub hold: Option<Hold>,
}

/// What a manager without a lease will do; each text is the end of a sentence.
#[derive(Debug)]
pub enum Outlook {
    /// A reason to refuse, also where there is a lease: it puts addresses back
    /// on the NIC by itself, and the host would be cut off then; or it is one
    /// that cannot be moved.
    Returns {
        /// What it does.
        fate: &'static str,
        /// How to make it let go of the NIC.
        remedy: String,
    },
    /// It asks for a lease on the NIC.
    Asks(&'static str),
    /// It does nothing until somebody calls it.
    Waits(&'static str),
}

/// An address that somebody has to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address, which the uplink has now.
    pub address: IpAddr,
    /// Who gave it, where that is known.
    pub server: Option<IpAddr>,
    /// When it ends.
    pub end: End,
}

/// The end of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// In seconds from now.
    In(u64),
    /// At a time that somebody else wrote.
    At(String),
    /// Not known.
    Unknown,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(server) = self.server {
            write!(f, " (from {server})")?;
        }
        match &self.end {
            End::In(seconds) => write!(f, ", which ends in {seconds} s"),
            End::At(time) => write!(f, ", which ends at {time}"),
            End::Unknown => write!(f, ", whose end is not known"),
        }
    }
}

impl Claim {
    /// What is said of a lease whose client has ended.
    pub fn left_over(&self, uplink: &IfName) -> Option<String> {
        let lease = self.leases.first()?;
        let fate = self.hold.as_ref()?.fate();
        Some(format!(
            "{uplink} has {lease}, leased by a client that has ended ({}): {fate}",
            self.evidence
        ))
    }

    /// How the claim is judged: what stands in the way, or what the
    /// administrator should know.
    pub fn verdict(&self, uplink: &IfName, manager: &dyn Manager) -> Result<String, Refusal> {
        let who = format!("{uplink} is managed by {} ({})", manager.name(), self.evidence);
        let leases: Vec<String> = self.leases.iter().map(Lease::to_string).collect();
        let what = match leases.as_slice() {
            [] => who.clone(),
            _ => format!("{who}, which has leased {}", leases.join("; and ")),
        };
        if let Some(hold) = &self.hold {
            return Ok(format!("{what}: {}", hold.fate()));
        }
        match &self.outlook {
            Outlook::Returns { fate, remedy } => Err(Refusal::new(format!("{what}: {fate}"), remedy)),
            _ if !leases.is_empty() => Err(Refusal::new(
                format!("{what}: {}", manager.fate()),
                manager.remedy(uplink),
            )),
            Outlook::Asks(fate) => Ok(format!("{who}, without a lease: {fate}")),
            Outlook::Waits(fate) => Ok(format!("{who}: {fate}")),
        }
    }
}

/// The refusal of an uplink that several managers configure: whichever is
/// given the bridge, the other goes on with the uplink.
pub fn several(uplink: &IfName, managers: &[&str]) -> Option<Refusal> {
    (managers.len() > 1).then(|| {
        Refusal::new(
            format!(
                "{uplink} is managed by {} at the same time",
                managers.join(" and by ")
            ),
            "decide for one, and have the others let go of the NIC, then try again",
        )
    })
}

/// The refusal of an address that says itself that a DHCP client keeps it,
/// where none of the clients that vmbr knows has it.
pub fn marked(uplink: &IfName, leases: &[Lease]) -> Option<Refusal> {
    let leases: Vec<String> = leases.iter().map(Lease::to_string).collect();
    (!leases.is_empty()).then(|| {
        Refusal::new(
            format!(
                "{uplink} has by its address's protocol (dhcp) leased {}, by a client that vmbr does not know: nobody would renew the lease on the bridge",
                leases.join("; and ")
            ),
            fixed_address("see 'ip -d address show', and end the client"),
        )
    })
}

/// The remedy that is the same for all: an address that nobody has to renew.
pub fn fixed_address(how: &str) -> String {
    format!("vmbr cannot hand a lease over yet. Give the host a fixed address ({how}), then try again")
}
