//! Names of network devices.

use std::fmt;
use std::str::FromStr;

/// The longest name of a device in bytes, without the terminating NUL
/// (`IFNAMSIZ - 1`, include/uapi/linux/if.h).
pub const IFNAME_MAX: usize = 15;

/// The name of a network device, checked by the kernel's own rule.
///
/// The rule is `dev_valid_name()` in net/core/dev.c: 1 to 15 bytes, not `.`
/// or `..`, no `/`, no `:`, no white space. Besides, only ASCII's printable
/// characters are taken: a name ends up in paths, logs and terminals.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "cli", serde(try_from = "String", into = "String"))]
pub struct IfName(String);

/// Why a text cannot name a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfNameError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`IFNAME_MAX`] bytes.
    TooLong,
    /// The text is `.` or `..`, or has a character that the kernel refuses.
    BadCharacter,
}

impl fmt::Display for IfNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a device name cannot be empty"),
            Self::TooLong => write!(f, "a device name has at most {IFNAME_MAX} bytes"),
            Self::BadCharacter => f.write_str(
                "a device name has printable ASCII characters only, no space, '/' or ':', and is not '.' or '..'",
            ),
        }
    }
}

impl std::error::Error for IfNameError {}

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, IfNameError> {
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl IfName {
    /// Whether a text can name a device.
    ///
    /// # Errors
    /// [`IfNameError`]: why it cannot.
    pub fn check(text: &str) -> Result<(), IfNameError> {
        if text.is_empty() {
            return Err(IfNameError::Empty);
        }
        if text.len() > IFNAME_MAX {
            return Err(IfNameError::TooLong);
        }
        let ok = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
        if text == "." || text == ".." || !text.bytes().all(ok) {
            return Err(IfNameError::BadCharacter);
        }
        Ok(())
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;

    fn try_from(text: String) -> Result<Self, IfNameError> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_kernels_rule() {
        for good in ["a", "eth0", "br-lan", "enp0s31f6.100", "...", "123456789012345"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", IfNameError::Empty),
            ("1234567890123456", IfNameError::TooLong),
            (".", IfNameError::BadCharacter),
            ("..", IfNameError::BadCharacter),
            ("a/b", IfNameError::BadCharacter),
            ("a:1", IfNameError::BadCharacter),
            ("a b", IfNameError::BadCharacter),
            ("a\n", IfNameError::BadCharacter),
            ("a\0", IfNameError::BadCharacter),
            ("\u{e9}th0", IfNameError::BadCharacter),
        ] {
            assert_eq!(bad.parse::<IfName>(), Err(why), "{bad:?}");
        }
    }
}
