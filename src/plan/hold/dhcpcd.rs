//! What a dhcpcd holds.

use serde::{Deserialize, Serialize};

use crate::model::is_default;
use crate::plan::record::Process;

/// A dhcpcd that works for the uplink, or for every device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcpcd {
    /// All of its processes: the one that has started the others first. Some of
    /// those may be there for a moment only.
    pub processes: Vec<Process>,
    /// The file that they were executed from.
    pub program: String,
    /// Whether it works for the uplink alone.
    pub alone: bool,
    /// `-4` or `-6`, where it keeps to one of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: Option<String>,
    /// Where it keeps its leases.
    pub directory: String,
}
