//! What a network manager holds of the uplink, as it is written down: enough
//! to give it to the bridge, and to give it back.

use serde::{Deserialize, Serialize};

use super::resolved::ResolvedHold;

/// How one manager's hand is moved from the uplink to the bridge and back.
///
/// A value that is made before anything is touched, and a part of the
/// [`Record`](super::Record): whoever leads the host back after a crash has
/// nothing else. Names of units, files and profiles that the way makes are
/// therefore chosen here, or derived from the bridge's name, never made up on
/// the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "manager", rename_all = "kebab-case")]
pub enum Hold {
    /// systemd-resolved, where nobody else tells it of the bridge.
    Resolved(ResolvedHold),
}
