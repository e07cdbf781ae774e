//! How many ports a bridge can have, and its options (`IFLA_BR_*`) that decide
//! whether its guests have a network.

/// The most ports that a bridge can have (`BR_MAX_PORTS`,
/// net/bridge/br_private.h, without the one that is never used).
pub const PORTS_MAX: usize = 1023;

/// What a bridge is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The spanning tree protocol: 0 off, 1 the kernel's, 2 a program's.
    pub stp: u32,
    /// Hundredths of a second for which a port listens, and then learns,
    /// before it forwards; with STP only.
    pub forward_delay: u32,
    /// Multicast goes only to ports behind which someone asked for it.
    pub snooping: bool,
    /// The bridge itself asks who listens.
    pub querier: bool,
    /// Another querier of IGMP was heard, and has not fallen silent.
    pub other_querier_v4: bool,
    /// The same of MLD.
    pub other_querier_v6: bool,
    /// IPv4 that stays on the bridge passes the IP firewall, whatever the
    /// host's setting says.
    pub calls_v4: bool,
    /// The same of IPv6.
    pub calls_v6: bool,
}

/// An option that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// [`Options::stp`].
    Stp,
    /// [`Options::snooping`].
    Snooping,
}

impl Setting {
    /// What `ip link set dev BRIDGE type bridge` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stp => "stp_state",
            Self::Snooping => "mcast_snooping",
        }
    }

    /// Its value in `options`.
    pub fn value(self, options: &Options) -> u32 {
        match self {
            Self::Stp => options.stp,
            Self::Snooping => options.snooping.into(),
        }
    }
}
