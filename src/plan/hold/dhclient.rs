//! What a dhclient holds.

use serde::{Deserialize, Serialize};

use crate::model::is_default;
use crate::plan::record::Process;

/// A dhclient that works for the uplink alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhclient {
    /// The one that has the uplink.
    pub process: Process,
    /// The file that it was executed from.
    pub program: String,
    /// All of its arguments, its name first.
    pub arguments: Vec<String>,
    /// Those of them that the bridge's is given, too: all that do not name the
    /// uplink, its files, or how it goes to the background.
    pub options: Vec<String>,
    /// Whether it speaks DHCPv6.
    #[serde(default, skip_serializing_if = "is_default")]
    pub v6: bool,
    /// Its lease file.
    pub leases: String,
    /// Where it writes its number, if it does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pid_file: Option<String>,
    /// Its configuration, where that speaks of the uplink by its name: the
    /// bridge's needs another.
    #[serde(default, skip_serializing_if = "is_default")]
    pub configuration: Option<String>,
}
