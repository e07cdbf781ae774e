//! What the programs of MAC-NAT are told that the kernel's network does not
//! say: the servers of names, and what the ACL gives to a guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use macaddr::MacAddr6;

use crate::helper::acl::{self, Dialect, FILES_MAX, Guard, OWN_FILE, Statement, Trouble};
use crate::model::IfName;

/// Where the host's servers of names are written: by resolv.conf(5) itself,
/// and behind a stub on the loopback by those who run it, of every link.
const RESOLVERS: [&str; 3] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
];
/// The most that is read of one of them.
const LARGEST: u64 = 64 * 1024;

/// The servers of names that the host asks. What cannot be read has none.
pub fn servers() -> BTreeSet<IpAddr> {
    let texts = RESOLVERS.iter().filter_map(|path| {
        let mut text = String::new();
        let file = fs::File::open(path).ok()?;
        file.take(LARGEST).read_to_string(&mut text).ok()?;
        Some(text)
    });
    texts.flat_map(|text| in_resolv_conf(&text)).collect()
}

/// The servers of a resolv.conf(5), but those on the host itself.
fn in_resolv_conf(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        // fe80::1%wlan0
        let address = address.split('%').next()?;
        address.parse::<IpAddr>().ok().filter(|a| !a.is_loopback())
    };
    text.lines().filter_map(server).collect()
}

/// The addresses that lines of acl.conf for `bridge` give to one guest: those
/// with a whole `mac=` and a `guard=` with addresses. Without the file there are
/// none.
///
/// # Errors
/// Where it is wrong, and what: an ACL that is not obeyed. What it had given
/// before is not free for that.
pub fn pins(bridge: &IfName) -> Result<BTreeMap<IpAddr, MacAddr6>, String> {
    let file = Path::new(OWN_FILE);
    // What cannot be looked at may be there.
    if file.try_exists().is_ok_and(|there| !there) {
        return Ok(BTreeMap::new());
    }
    let mut reading = Reading {
        bridge,
        seen: Vec::new(),
        found: BTreeMap::new(),
    };
    reading.read(file)?;
    Ok(reading.found)
}

struct Reading<'a> {
    bridge: &'a IfName,
    seen: Vec<PathBuf>,
    found: BTreeMap<IpAddr, MacAddr6>,
}

impl Reading<'_> {
    /// Reads one file and what it includes; a sentence where the ACL denies
    /// everything.
    fn read(&mut self, path: &Path) -> Result<(), String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        if self.seen.len() >= FILES_MAX {
            return Err(wrong(&Trouble::TooMany));
        }
        if self.seen.iter().any(|seen| seen == path) {
            return Err(wrong(&Trouble::Loop));
        }
        self.seen.push(path.to_owned());
        let (text, _) = acl::read_file(path).map_err(|trouble| wrong(&trouble))?;
        for (line, statement) in acl::statements(&text, Dialect::Vmbr) {
            match statement.map_err(|error| wrong(&format_args!("line {line}, {error}")))? {
                Statement::Allow(target, terms) if target.covers(self.bridge) => {
                    let (Some(mac), Some(Guard::Addresses(addresses))) = (terms.exact_mac(), terms.guard)
                    else {
                        continue;
                    };
                    for address in addresses.iter() {
                        // The first line counts, as for who may join.
                        self.found.entry(address).or_insert(MacAddr6::from(mac.0));
                    }
                }
                Statement::Allow(..) | Statement::Deny(_) => {}
                Statement::Include(included) | Statement::IncludeReadable(included) => {
                    self.read(&acl::included(path, included))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_resolv_conf() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.53\nnameserver\t2001:db8::53 # b\n\
                    nameserver fe80::1%wlan0\nnameserver 127.0.0.53\nnameserver ::1\nnameserver x\nnameserver\n";
        let found: Vec<String> = in_resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.53", "2001:db8::53", "fe80::1"]);
    }
}
