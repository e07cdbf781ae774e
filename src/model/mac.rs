//! Ethernet addresses, for the program that links no crate for them.

use std::fmt;
use std::str::FromStr;

/// The address of one Ethernet station.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

/// A text is not six octets in hexadecimal, each of two digits, with colons
/// between them, or the address is not that of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the MAC of one station, as 52:54:00:12:34:56")
    }
}

impl std::error::Error for NotAMac {}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let (octets, length) = octets(text).ok_or(NotAMac)?;
        // All zeros is what a device has that was given none.
        if length == 6 && octets != [0; 6] {
            Ok(Self(octets))
        } else {
            Err(NotAMac)
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The first one to six octets of a MAC, and how many they are. The first
/// one says whether the address is of a group of stations (its lowest bit);
/// those are refused: nobody sends from one.
pub fn octets(text: &str) -> Option<([u8; 6], usize)> {
    let mut octets = [0; 6];
    let mut count = 0;
    for part in text.split(':') {
        let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let octet = u8::from_str_radix(part, 16).ok().filter(|_| plain)?;
        *octets.get_mut(count)? = octet;
        count += 1;
    }
    (octets[0] & 1 == 0).then_some((octets, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stations_only_and_in_one_form() {
        let mac: Mac = "52:54:00:aB:CD:ef".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:0:12:34:56",
            "52-54-00-12-34-56",
            "525400123456",
            "+2:54:00:12:34:56",
            "52:54:00:12:34:5g",
            "52:54:00:12:34:56 ",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(NotAMac), "{bad:?}");
        }
        assert_eq!(octets("52:54:00"), Some(([0x52, 0x54, 0, 0, 0, 0], 3)));
        assert_eq!(octets("00"), Some(([0; 6], 1)));
        assert_eq!(octets("52:"), None);
    }
}
