//! The `.network` files of systemd-networkd (systemd.network(5)): what one
//! says of a NIC, for another device.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::model::IfName;

use super::file;
use super::process::printable;

/// Where they are; of files with one name the first counts
/// (`NETWORK_DIRS` of src/network/networkd-network.c).
pub(crate) const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/network",
    "/run/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
    "/lib/systemd/network",
];
/// More drop-ins than anyone has.
const MOST: usize = 200;

/// Sections that say how a device is addressed; all others are of the device
/// itself (its queues, its VLANs, its radio), and stay with it.
const SECTIONS: [&str; 18] = [
    "Address",
    "Neighbor",
    "IPv6AddressLabel",
    "RoutingPolicyRule",
    "NextHop",
    "Route",
    "DHCP",
    "DHCPv4",
    "DHCPv6",
    "DHCPv6PrefixDelegation",
    "DHCPPrefixDelegation",
    "IPv6AcceptRA",
    "DHCPServer",
    "DHCPServerStaticLease",
    "IPv6SendRA",
    "IPv6Prefix",
    "IPv6RoutePrefix",
    "IPv6PREF64Prefix",
];
/// Of `[Network]` what is of the device itself: its master, what is stacked
/// on it, what it says to its neighbour.
const OF_THE_LINK: [&str; 21] = [
    "Bridge",
    "Bond",
    "VRF",
    "BatmanAdvanced",
    "VLAN",
    "IPVLAN",
    "IPVTAP",
    "L2TP",
    "MACsec",
    "MACVLAN",
    "MACVTAP",
    "IPoIB",
    "Tunnel",
    "VXLAN",
    "Xfrm",
    "BindCarrier",
    "ActiveSlave",
    "PrimarySlave",
    "LLDP",
    "EmitLLDP",
    "KeepConfiguration",
];
/// Of `[Link]` what is of the host's network: whether the boot waits for it.
const OF_THE_NETWORK: [&str; 2] = ["RequiredForOnline", "RequiredFamilyForOnline"];

/// A line of a file that says something.
#[derive(Debug, PartialEq, Eq)]
struct Assignment {
    section: String,
    /// The section begins with it: there can be several of one name.
    begins: bool,
    key: String,
    value: String,
}

/// What of the files that configure a NIC has to be said of the bridge.
///
/// # Errors
/// Why they cannot be carried over, as the end of a sentence.
pub(crate) fn for_bridge(texts: &[String], hosts: &[IpAddr]) -> Result<String, String> {
    let mut written = String::new();
    let mut open = String::new();
    for text in texts {
        open.clear();
        for Assignment {
            section,
            begins,
            key,
            value,
        } in parse(text)?
        {
            if begins {
                open.clear();
            }
            let Some((key, value)) = carried(&section, &key, &value, hosts)? else {
                continue;
            };
            if open != section {
                written.push_str(&format!("\n[{section}]\n"));
                open = section;
            }
            written.push_str(&format!("{key}={value}\n"));
        }
    }
    Ok(written)
}

/// What the files that configure a NIC say, of that NIC alone, and that what is
/// there is kept.
pub(crate) fn for_uplink(texts: &[String], uplink: &IfName) -> String {
    let mut written = format!("[Match]\nName={uplink}\n");
    for text in texts {
        let mut matches = false;
        for line in text.lines() {
            if line.trim_start().starts_with('[') {
                matches = line.trim() == "[Match]";
            }
            if !matches {
                written.push_str(line);
                written.push('\n');
            }
        }
    }
    written + "[Network]\nKeepConfiguration=yes\n"
}

/// How an assignment is said of the bridge; None where it stays with the NIC.
fn carried(
    section: &str,
    key: &str,
    value: &str,
    hosts: &[IpAddr],
) -> Result<Option<(String, String)>, String> {
    let taken = match section {
        "Link" => OF_THE_NETWORK.contains(&key),
        "Network" => !OF_THE_LINK.contains(&key),
        other => SECTIONS.contains(&other),
    };
    if !taken {
        return Ok(None);
    }
    let value = match (section, key) {
        // The kernel would make the bridge another link-local address than
        // the NIC's, which is there already.
        ("Network", "IPv6StableSecretAddress") => return Ok(None),
        ("Network", "IPv6LinkLocalAddressGenerationMode") if value != "eui64" => "none".to_owned(),
        ("IPv6AcceptRA", "Token") | ("Network", "IPv6Token") if value.starts_with("prefixstable") => {
            token(hosts)?
        }
        _ => value.to_owned(),
    };
    Ok(Some((key.to_owned(), value)))
}

/// The interface identifier of the addresses that are there: a stable one is
/// made of the device's name, too (`generate_stable_private_address()` of
/// networkd-address-generation.c).
fn token(hosts: &[IpAddr]) -> Result<String, String> {
    let mut parts = hosts.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(u128::from(*address) & u128::from(u64::MAX)),
        IpAddr::V4(_) => None,
    });
    match (parts.next(), parts.next()) {
        (Some(part), None) => Ok(format!("static:{}", std::net::Ipv6Addr::from(part))),
        _ => Err("its IPv6 addresses are made of the device's name and of several prefixes (Token=prefixstable), so the bridge's would be others".into()),
    }
}

/// Reads a file as networkd does (config_parse() of src/shared/conf-parser.c):
/// a line that ends with a backslash goes on in the next one.
fn parse(text: &str) -> Result<Vec<Assignment>, String> {
    let mut found = Vec::new();
    let mut section: Option<String> = None;
    let mut begins = false;
    let mut whole = String::new();
    for line in text.lines().chain([""]) {
        let trimmed = line.trim();
        let comment = trimmed.starts_with(['#', ';']);
        if comment || (trimmed.is_empty() && whole.is_empty()) {
            continue;
        }
        if let Some(begun) = trimmed.strip_suffix('\\') {
            whole.push_str(begun);
            whole.push(' ');
            continue;
        }
        whole.push_str(trimmed);
        let said = std::mem::take(&mut whole);
        let said = said.trim();
        if let Some(name) = said.strip_prefix('[') {
            let name = name
                .strip_suffix(']')
                .ok_or_else(|| unreadable(said, "is no section's name"))?;
            section = Some(name.to_owned());
            begins = true;
            continue;
        }
        let (key, value) = said
            .split_once('=')
            .ok_or_else(|| unreadable(said, "says nothing"))?;
        let section = section
            .clone()
            .ok_or_else(|| unreadable(said, "is in no section"))?;
        found.push(Assignment {
            section,
            begins: std::mem::take(&mut begins),
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        });
    }
    Ok(found)
}

fn unreadable(line: &str, why: &str) -> String {
    format!("its line '{}' {why}", printable(line))
}

/// A file and its drop-ins, in the order in which they count.
///
/// # Errors
/// The one that cannot be read, or that somebody else could have written.
pub(crate) fn read_all(path: &Path) -> Result<Vec<String>, String> {
    let mut paths = vec![path.to_owned()];
    paths.extend(drop_ins(path));
    let read = |path: &PathBuf| {
        let kept = file::read(path, None)
            .ok_or_else(|| format!("{} cannot be read or is not root's alone", path.display()))?;
        String::from_utf8(kept.bytes).map_err(|_| format!("{} is no text", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The drop-ins of a file (systemd.network(5)): sorted by name, whatever the
/// directory.
fn drop_ins(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let mut found: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        let directory = Path::new(directory).join(format!("{name}.d"));
        for entry in std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .take(MOST)
        {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "conf") {
                found.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    let masked = |path: &PathBuf| std::fs::canonicalize(path).is_ok_and(|to| to == Path::new("/dev/null"));
    found.into_values().filter(|path| !masked(path)).collect()
}

/// All files with an ending, by their names; of one name the one that counts.
pub(crate) fn all(ending: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for directory in DIRECTORIES {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(ending) {
                found.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    found
}

/// Whether the `[Match]` of a file may be about a bridge of this name; what
/// cannot be told without the device may be.
pub(crate) fn may_match(text: &str, bridge: &IfName) -> bool {
    let Ok(lines) = parse(text) else {
        return true;
    };
    let fits = |key: &str, is: &str| {
        let of_key = |line: &&Assignment| line.section == "Match" && line.key == key;
        let mut said = lines.iter().filter(of_key).peekable();
        said.peek().is_none()
            || said.any(|line| line.value.split_whitespace().any(|pattern| may_be(pattern, is)))
    };
    fits("Name", bridge.as_str()) && fits("Type", "bridge") && fits("Kind", "bridge")
}

/// Whether a pattern may be about this word: what is before its first special
/// character fits.
fn may_be(pattern: &str, word: &str) -> bool {
    match pattern.find(['*', '?', '[', '!', '\\', '"', '\'']) {
        None => pattern == word,
        Some(at) => word.starts_with(pattern.get(..at).unwrap_or_default()),
    }
}

/// Whether a name can be written into `Name=` of a `[Match]`, and means itself
/// there.
pub(crate) fn is_plain(device: &IfName) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
    device.as_str().chars().all(plain)
}

/// Gives a file for the bridge what it says by the NIC's name.
pub(crate) fn renamed(sections: &str, uplink: &IfName, bridge: &IfName) -> String {
    let keys = ["Label", "IncomingInterface", "OutgoingInterface"];
    let mut written = String::new();
    for line in sections.lines() {
        let renamed = line.split_once('=').filter(|(key, _)| keys.contains(key));
        let renamed = renamed.and_then(|(key, value)| {
            let rest = value.strip_prefix(uplink.as_str())?;
            (rest.is_empty() || rest.starts_with(':')).then(|| format!("{key}={bridge}{rest}"))
        });
        written.push_str(renamed.as_deref().unwrap_or(line));
        written.push('\n');
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# netplan\n[Match]\nName=eth0\nMACAddress=02:00:00:00:00:11\n[Link]\nMTUBytes=1400\nRequiredForOnline=no\n\
        [Network]\nDHCP=yes\nBridge=br9\nVLAN=eth0.100\nDNS=192.0.2.1 \\\n  ; between\n  192.0.2.2\n\
        [Address]\nAddress=192.0.2.21/24\nLabel=eth0:web\n[Address]\nAddress=192.0.2.22/24\n[TBF]\nRate=1G\n\
        [DHCPv4]\nUseDNS=no\n";

    #[test]
    fn what_is_the_links_stays_with_it() {
        let text = for_bridge(&[TEXT.into(), "[Network]\nLLDP=yes\nNTP=192.0.2.3\n".into()], &[]).unwrap();
        assert_eq!(
            text,
            "\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=yes\nDNS=192.0.2.1  192.0.2.2\n\
             \n[Address]\nAddress=192.0.2.21/24\nLabel=eth0:web\n\n[Address]\nAddress=192.0.2.22/24\n\
             \n[DHCPv4]\nUseDNS=no\n\n[Network]\nNTP=192.0.2.3\n"
        );
        let (eth0, br0) = ("eth0".parse().unwrap(), "br0".parse().unwrap());
        assert!(renamed(&text, &eth0, &br0).contains("\nLabel=br0:web\n"));
    }

    #[test]
    fn a_file_of_many_becomes_one_of_the_uplink() {
        let texts = [
            "[Match]\nName=en*\n[Network]\nDHCP=yes\nVLAN=v7\n".to_owned(),
            "[DHCPv4]\nRouteMetric=7\n".to_owned(),
        ];
        let eth0: IfName = "eth0".parse().unwrap();
        let once = for_uplink(&texts, &eth0);
        let expected = "[Match]\nName=eth0\n[Network]\nDHCP=yes\nVLAN=v7\n[DHCPv4]\nRouteMetric=7\n\
                        [Network]\nKeepConfiguration=yes\n";
        assert_eq!(once, expected);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, part) in [
            ("[Network\nDHCP=yes", "is no section's name"),
            ("[Network]\nDHCP", "says nothing"),
            ("DHCP=yes", "is in no section"),
        ] {
            let error = for_bridge(&[text.into()], &[]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for cut in 0..TEXT.len() {
            let _ = for_bridge(&[TEXT[..cut].into()], &[]);
        }
    }

    #[test]
    fn a_stable_token_becomes_the_part_that_is_there() {
        let text = ["[IPv6AcceptRA]\nToken=prefixstable\n".to_owned()];
        let one: IpAddr = "2001:db8::abcd:1:2:3".parse().unwrap();
        let two: IpAddr = "2001:db8:1::4:5:6:7".parse().unwrap();
        assert_eq!(
            for_bridge(&text, &[one]).unwrap(),
            "\n[IPv6AcceptRA]\nToken=static:::abcd:1:2:3\n"
        );
        assert!(for_bridge(&text, &[one, two]).is_err());
    }

    #[test]
    fn a_match_that_may_be_about_the_bridge_is_seen() {
        let br0 = "br0".parse().unwrap();
        for (text, expected) in [
            ("[Match]\nName=eth0\n", false),
            ("[Match]\nName=en* eth*\n", false),
            ("[Match]\nName=*\n", true),
            ("[Match]\nName=en* b*\n", true),
            ("[Match]\nName=!lo\n", true),
            ("[Match]\nMACAddress=02:00:00:00:00:11\n", true),
            ("[Match]\nType=wlan\n", false),
            ("[Match]\nType=ether bridge\nKind=*\n", true),
            ("[Match]\nKind=bridge\nName=br1\n", false),
            ("[Network]\nDHCP=yes\n", true),
            ("nonsense", true),
        ] {
            assert_eq!(may_match(text, &br0), expected, "{text}");
        }
    }
}
