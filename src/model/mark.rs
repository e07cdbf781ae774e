//! What vmbr writes into the alias of a TAP that it makes, because the kernel
//! has no place for it. Only who has CAP_NET_ADMIN can write an alias
//! (`IFLA_IFALIAS`), and `ip link show` shows it.

use std::fmt;

/// The word that an alias of vmbr's begins with.
const OURS: &str = "vmbr";

/// What an alias says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// How many queues the TAP was made for, where it was for more than one:
    /// the kernel knows only whether there can be more.
    pub queues: Option<u32>,
    /// The libvirt domain that it was made for.
    pub domain: Option<String>,
}

impl Mark {
    /// Reads an alias; nothing where it is not vmbr's. Words that another
    /// vmbr may have written are passed over.
    pub fn read(alias: &str) -> Self {
        let mut words = alias.split(' ');
        let mut mark = Self::default();
        if words.next() != Some(OURS) {
            return mark;
        }
        for word in words {
            match word.split_once('=') {
                Some(("queues", number)) => mark.queues = number.parse().ok(),
                Some(("domain", domain)) => mark.domain = Some(domain.to_owned()),
                _ => {}
            }
        }
        mark
    }

    /// Whether there is anything to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OURS)?;
        if let Some(queues) = self.queues {
            write!(f, " queues={queues}")?;
        }
        if let Some(domain) = &self.domain {
            write!(f, " domain={domain}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for mark in [
            Mark::default(),
            Mark {
                queues: Some(4),
                domain: None,
            },
            Mark {
                queues: Some(4),
                domain: Some("6c3f0a3e-0000-4000-8000-000000000001".into()),
            },
        ] {
            assert_eq!(Mark::read(&mark.to_string()), mark);
        }
        for other in ["", "vmbrs queues=4", "my vmbr queues=4", "vmbr queues=x later=1"] {
            assert!(Mark::read(other).is_empty(), "{other}");
        }
    }
}
