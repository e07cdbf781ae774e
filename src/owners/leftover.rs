//! A lease whose client has ended: an address that says itself that it comes
//! from DHCP, or that has an end and stands in dhclient's file.
//!
//! Who that client was for the server is not written down. There are few ways
//! to be known, and the server confirms one of them or none: each is tried.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::model::Family;
use crate::plan::hold::{Hold, Identity, Kept, Sent};

use super::claim::{Claim, Lease, Outlook};
use super::scene::Scene;
use super::{file, sockets};

/// Where distributions have dhclient keep its leases.
const LEASES: [&str; 2] = [
    "/var/lib/dhcp/dhclient.leases",
    "/var/lib/dhclient/dhclient.leases",
];
/// `htype` of an identifier that is an IAID and a DUID (RFC 4361, 6.1).
const OF_DUID: u8 = 255;

/// What dhclient has written of an address.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    server: Option<Ipv4Addr>,
    duid: Option<Vec<u8>>,
}

/// The lease that was left, if there is one and only one; `known` are the
/// addresses that somebody renews. None, too, where a program that vmbr does
/// not know hears what a DHCP client hears: it may be the client.
pub fn claim(scene: &Scene<'_>, known: &[IpAddr]) -> Option<Claim> {
    let files = LEASES.iter().filter_map(|path| file::read(Path::new(path), None));
    let texts: Vec<String> = files.map(|kept| kept.text()).collect();
    let marked = scene.marked();
    let mut left = Vec::new();
    for lease in [marked.clone(), scene.renewed(Family::V4)].concat() {
        let IpAddr::V4(address) = lease.address else {
            continue;
        };
        let seen = left
            .iter()
            .any(|(other, ..): &(Ipv4Addr, Lease, _)| *other == address);
        if seen || known.contains(&lease.address) {
            continue;
        }
        let mut found = texts
            .iter()
            .filter_map(|text| written(text, scene.uplink().as_str(), address));
        let found = found.next();
        if found.is_some() || marked.contains(&lease) {
            left.push((address, lease, found));
        }
    }
    let [(address, lease, found)] = left.as_slice() else {
        return None;
    };
    if sockets::hears_dhcp(scene) {
        return None;
    }
    let evidence = match found {
        Some(_) => "dhclient has written it down, and has ended",
        None => "the protocol of its address is dhcp",
    };
    let found = found.as_ref();
    let server = found.and_then(|written| written.server);
    let mac = scene.link.mac?;
    let duid = found.and_then(|written| written.duid.as_deref()).map(|duid| {
        // dhclient's IAID is the end of the MAC (`form_duid()`, client/dhclient.c).
        let iaid = mac.as_bytes().get(2..).unwrap_or_default();
        Identity::Is([&[OF_DUID], iaid, duid].concat())
    });
    Some(Claim {
        evidence: evidence.to_owned(),
        processes: Vec::new(),
        leases: vec![Lease {
            server: server.map(IpAddr::V4),
            ..lease.clone()
        }],
        outlook: Outlook::Waits("nobody renews it"),
        hold: Some(Hold::Keeper(Kept {
            address: *address,
            server,
            sent: Sent {
                identities: [Identity::Mac, Identity::TypedMac]
                    .into_iter()
                    .chain(duid)
                    .collect(),
                extras: Vec::new(),
            },
            client: None,
        })),
    })
}

/// What is said of an address that the initramfs has leased, by what it has left
/// (ipconfig of klibc, and cloud-init's initramfs): it ends there, and the
/// address has no end.
pub fn of_initramfs(scene: &Scene<'_>, known: &[IpAddr]) -> Option<String> {
    let path = format!("/run/net-{}.conf", scene.uplink());
    let kept = file::read(Path::new(&path), None)?;
    let value = |key: &str| Some(kept.value(key)?.trim_matches(['\'', '"']).to_owned());
    let address: IpAddr = value("IPV4ADDR")?.parse().ok()?;
    let leased = value("PROTO")? == "dhcp" && scene.has(address) && !known.contains(&address);
    leased.then(|| {
        format!(
            "the initramfs has leased {address} ({path}), and nobody has renewed it since: no more will on the bridge"
        )
    })
}

/// What a lease file (dhclient.leases(5)) says of the last lease of a device,
/// if that is of this address.
fn written(text: &str, device: &str, address: Ipv4Addr) -> Option<Written> {
    let device = format!("interface \"{device}\";");
    let blocks = text.split("lease {").skip(1);
    let block = blocks.filter(|block| block.contains(&device)).last()?;
    let block = block.split_once("\n}").map_or(block, |(inside, _)| inside);
    let value = |text: &str, key: &str| {
        let lines = text.lines().map(str::trim);
        let mut found =
            lines.filter_map(|line| Some(line.strip_prefix(key)?.strip_suffix(';')?.trim().to_owned()));
        found.next()
    };
    let is_it = value(block, "fixed-address ")?.parse() == Ok(address);
    is_it.then(|| Written {
        server: value(block, "option dhcp-server-identifier ").and_then(|server| server.parse().ok()),
        duid: value(text, "default-duid ").and_then(|quoted| unquoted(&quoted)),
    })
}

/// The bytes of a text in quotes, with `\ooo` for what is no letter
/// (`quotify_buf()`, common/tables.c of dhclient).
fn unquoted(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.strip_prefix('"')?.strip_suffix('"')?.bytes();
    let mut found = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            found.push(byte);
            continue;
        }
        let next = bytes.next()?;
        if !next.is_ascii_digit() {
            found.push(next);
            continue;
        }
        let digits = [next, bytes.next()?, bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        found.push(u8::from_str_radix(digits, 8).ok()?);
    }
    // RFC 8415, 11.1.
    (3..=130).contains(&found.len()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dhclient_has_written_is_read() {
        let mine: Ipv4Addr = "192.0.2.8".parse().unwrap();
        let text = "default-duid \"\\000\\003\\000\\001\\002\\\"\\000\\000\\000!\";\n\
            lease {\n  interface \"eth0\";\n  fixed-address 192.0.2.7;\n}\n\
            lease {\n  interface \"eth0\";\n  fixed-address 192.0.2.8;\n  option dhcp-server-identifier 192.0.2.1;\n}\n";
        let found = written(text, "eth0", mine).unwrap();
        assert_eq!(found.server, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(found.duid.unwrap(), [0, 3, 0, 1, 2, b'"', 0, 0, 0, b'!']);
        assert_eq!(
            written(text, "eth0", Ipv4Addr::new(192, 0, 2, 7)),
            None,
            "not the last"
        );
        assert_eq!(written(text, "eth1", mine), None);
        for cut in 0..text.len() {
            let _ = written(&text[..cut], "eth0", mine);
        }
        for bad in ["", "\"", "\"\"", "\"\\9\"", "\"\\777aaa\"", "\"abc\\\""] {
            assert_eq!(unquoted(bad), None, "{bad}");
        }
    }
}
