//! Policy routing rules.

use serde::{Deserialize, Serialize};

use super::{Family, IfName, RawAttribute, is_default};

/// A rule of `ip rule`. Only what vmbr changes or shows is taken apart; the
/// rest travels as the kernel gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Order among the rules, lowest first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: u32,
    /// The device a packet came in by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub iif: Option<IfName>,
    /// The device a socket is bound to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oif: Option<IfName>,
    /// The rest of `struct fib_rule_hdr` (include/uapi/linux/fib_rules.h):
    /// destination and source length, TOS, table, action, flags.
    pub header: RuleHeader,
    /// Every other attribute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rest: Vec<RawAttribute>,
}

/// The fixed part of a rule's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleHeader {
    /// Length of the destination prefix in bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dst_len: u8,
    /// Length of the source prefix in bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub src_len: u8,
    /// Type of service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tos: u8,
    /// The table's number, 0 where it needs more than a byte.
    #[serde(default, skip_serializing_if = "is_default")]
    pub table: u8,
    /// `FR_ACT_*`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action: u8,
    /// `FIB_RULE_*`: invert is the one that user space sets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flags: u32,
}

impl Rule {
    /// Whether the rule names `device`.
    pub fn names(&self, device: &IfName) -> bool {
        self.iif.as_ref() == Some(device) || self.oif.as_ref() == Some(device)
    }

    /// The same rule with `to` wherever it names `from`.
    pub fn renamed(&self, from: &IfName, to: &IfName) -> Self {
        let swap = |name: &Option<IfName>| match name {
            Some(name) if name == from => Some(to.clone()),
            other => other.clone(),
        };
        Self {
            iif: swap(&self.iif),
            oif: swap(&self.oif),
            ..self.clone()
        }
    }
}
