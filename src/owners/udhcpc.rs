//! BusyBox's udhcpc.

use std::net::IpAddr;

use crate::model::IfName;
use crate::plan::hold::{Client, Extra, Hold, Identity, Kept, Sent};
use crate::plan::record;

use super::claim::{Claim, Found, Lease, Manager, Outlook, fixed_address};
use super::process::{Process, printable};
use super::scene::Scene;

/// Options of RFC 2132 and RFC 4702.
const HOST_NAME: u8 = 12;
const VENDOR: u8 = 60;
const CLIENT_IDENTIFIER: u8 = 61;
const FULL_NAME: u8 = 81;

/// The manager.
pub struct Udhcpc;

impl Manager for Udhcpc {
    fn name(&self) -> &'static str {
        "udhcpc"
    }

    fn look(&self, scene: &Scene<'_>) -> Found {
        let here: Vec<(&Process, Options)> = scene
            .by_root()
            .filter_map(|process| Some((process, options(process)?)))
            .filter(|(_, options)| options.device == scene.uplink().as_str())
            .collect();
        let claims = here.iter().map(|(process, options)| {
            // It writes no lease down, and its usual script gives the address
            // without an end.
            let leases = if options.v6 {
                scene.possible_v6()
            } else {
                scene.possible()
            };
            let hold = match here.as_slice() {
                [_] => hold(process, options, &leases),
                _ => Err(Some("another one asks on the same device".to_owned())),
            };
            let (hold, why) = match hold {
                Ok(hold) => (Some(hold), String::new()),
                Err(why) => (None, why.map_or_else(String::new, |why| format!("; {why}"))),
            };
            Claim {
                evidence: format!("process {}: {}{why}", process.id, process.command()),
                processes: vec![process.id],
                leases,
                outlook: Outlook::Asks(
                    "it goes on asking for one, and its script would put the address on the port",
                ),
                hold,
            }
        });
        Found {
            claims: claims.collect(),
            doubts: Vec::new(),
        }
    }

    fn fate(&self) -> &'static str {
        "its script would put the address back on the port when it renews, or take it away when it cannot"
    }

    fn remedy(&self, _: &IfName) -> String {
        fixed_address("and end udhcpc")
    }
}

/// What was said to it (`udhcpc --help`).
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    device: String,
    /// It is udhcpc6.
    v6: bool,
    /// `-C`: no client identifier.
    nameless: bool,
    /// `-x`: options that it sends.
    sends: Vec<String>,
    /// `-V`: its vendor class.
    vendor: Option<String>,
    /// `-F`: the name that the server is to enter.
    full_name: Option<String>,
    /// `-c`, `-H` and `-h` of old ones.
    old: Vec<(char, String)>,
}

/// Options with a value, and those with long names.
const VALUED: &str = "iFHhPpsTtArOVxc";
const LONG: [(&str, char); 13] = [
    ("interface", 'i'),
    ("clientid-none", 'C'),
    ("clientid", 'c'),
    ("hostname", 'H'),
    ("fqdn", 'F'),
    ("vendorclass", 'V'),
    ("pidfile", 'p'),
    ("script", 's'),
    ("request", 'r'),
    ("request-option", 'O'),
    ("timeout", 'T'),
    ("retries", 't'),
    ("tryagain", 'A'),
];

/// The options of a process that is udhcpc, by whatever name BusyBox was
/// called. Without `-i` it asks on eth0.
fn options(process: &Process) -> Option<Options> {
    let called = |at: usize| {
        let name = process.arguments.get(at).map_or("", String::as_str);
        name.rsplit('/').next().unwrap_or_default()
    };
    let applet = |name: &str| ["udhcpc", "udhcpc6"].contains(&name);
    let skip = match process.program.as_str() {
        "busybox" if !applet(called(0)) => 2,
        _ => 1,
    };
    let name = match process.program.as_str() {
        "busybox" => called(skip - 1),
        program => program,
    };
    if !applet(name) {
        return None;
    }
    let mut options = Options {
        device: "eth0".into(),
        v6: name == "udhcpc6",
        ..Options::default()
    };
    let mut arguments = process.arguments.iter().skip(skip);
    while let Some(argument) = arguments.next() {
        if let Some(long) = argument.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            // getopt_long(3) takes a beginning, too, where it is the only one.
            let exact = LONG.iter().find(|(known, _)| *known == name);
            if let Some((_, letter)) = exact {
                let takes = VALUED.contains(*letter);
                let value = value.or_else(|| takes.then(|| arguments.next().cloned()).flatten());
                options.take(*letter, value.unwrap_or_default());
            }
        } else if let Some(letters) = argument.strip_prefix('-') {
            for (at, letter) in letters.char_indices() {
                let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
                if VALUED.contains(letter) {
                    let value = if rest.is_empty() {
                        arguments.next().cloned().unwrap_or_default()
                    } else {
                        rest.to_owned()
                    };
                    options.take(letter, value);
                    break;
                }
                options.take(letter, String::new());
                // Its value is optional, and joined.
                if letter == 'a' {
                    break;
                }
            }
        }
    }
    Some(options)
}

impl Options {
    fn take(&mut self, letter: char, value: String) {
        match letter {
            'i' => self.device = value,
            'C' => self.nameless = true,
            'x' => self.sends.push(value),
            'V' => self.vendor = Some(value),
            'F' => self.full_name = Some(value),
            'c' | 'H' | 'h' => self.old.push((letter, value)),
            _ => {}
        }
    }
}

/// How its lease is kept; the reason, where there is one that is worth a
/// sentence, why it cannot be.
fn hold(process: &Process, options: &Options, leases: &[Lease]) -> Result<Hold, Option<String>> {
    let address = match leases {
        [
            Lease {
                address: IpAddr::V4(address),
                ..
            },
        ] => *address,
        [] => return Err(None),
        _ => {
            return Err(Some(
                "it says of none of several addresses that it has leased it".into(),
            ));
        }
    };
    let record = record::Process::of(process.id).map_err(|error| Some(error.to_string()))?;
    Ok(Hold::Keeper(Kept {
        address,
        server: None,
        sent: sent(options).map_err(Some)?,
        client: Some(Client {
            name: "udhcpc".into(),
            process: record,
            command: process.command(),
        }),
    }))
}

/// What it says to the server (`udhcpc_main()` and `udhcp_str2optset()` of
/// networking/udhcp). What else it may send by `-x` says nothing of who it is.
fn sent(options: &Options) -> Result<Sent, String> {
    let mut identity = None;
    let mut extras = Vec::new();
    let mut add = |code: u8, value: Vec<u8>| {
        if !value.is_empty() && value.len() <= usize::from(u8::MAX) {
            extras.push(Extra { code, value });
        }
    };
    for (letter, value) in &options.old {
        match letter {
            // Of the type 0, which is no hardware's.
            'c' => identity = Some([&[0], value.as_bytes()].concat()),
            _ => add(HOST_NAME, value.clone().into_bytes()),
        }
    }
    for option in &options.sends {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        let hex = name.strip_prefix("0x").map(|name| u8::from_str_radix(name, 16));
        let code = match (hex, name) {
            (Some(Ok(code)), _) => code,
            (None, "hostname") => HOST_NAME,
            (None, name) => match name.parse() {
                Ok(code) => code,
                Err(_) => continue,
            },
            (Some(Err(_)), _) => continue,
        };
        match code {
            HOST_NAME => add(HOST_NAME, value.trim_matches('"').as_bytes().to_vec()),
            CLIENT_IDENTIFIER => {
                let bytes = bytes(value).ok_or_else(|| {
                    format!("its client identifier '{}' is not understood", printable(value))
                })?;
                identity = Some(bytes);
            }
            _ => {}
        }
    }
    if let Some(vendor) = &options.vendor {
        add(VENDOR, vendor.clone().into_bytes());
    }
    if let Some(name) = &options.full_name {
        // "Server, enter it" and two bytes of no use (RFC 4702, 2).
        add(FULL_NAME, [&[1, 0, 0], name.as_bytes()].concat());
    }
    Ok(Sent {
        identities: vec![match identity {
            Some(identity) => Identity::Is(identity),
            None if options.nameless => Identity::Mac,
            None => Identity::TypedMac,
        }],
        extras,
    })
}

/// Digits of hexadecimal numbers, with or without colons; or a text in quotes.
fn bytes(text: &str) -> Option<Vec<u8>> {
    if let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        return Some(text.as_bytes().to_vec()).filter(|bytes| !bytes.is_empty());
    }
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    let found: Option<Vec<u8>> = pairs.collect();
    found.filter(|bytes| (2..=255).contains(&bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: &str) -> Option<Options> {
        options(&Process::of_root(command))
    }

    #[test]
    fn the_device_is_found_in_all_its_forms() {
        for (command, expected) in [
            ("udhcpc", Some("eth0")),
            ("udhcpc -i eth1", Some("eth1")),
            ("udhcpc -ieth1", Some("eth1")),
            ("udhcpc -fnSieth1 -p /run/x", Some("eth1")),
            ("udhcpc -bnqf -a500 -s -i -i eth1", Some("eth1")),
            ("busybox udhcpc --interface=eth1", Some("eth1")),
            ("busybox udhcpc --interface eth1", Some("eth1")),
            ("busybox udhcpc6 -i eth1", Some("eth1")),
            ("busybox udhcpd", None),
            ("dhclient eth0", None),
        ] {
            let device = read(command).map(|options| options.device);
            assert_eq!(device.as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn it_is_known_by_what_it_says() {
        let said = |command: &str| sent(&read(command).unwrap());
        let plain = said("udhcpc -i eth0").unwrap();
        assert_eq!(plain.identities, [Identity::TypedMac]);
        assert_eq!(said("udhcpc -C").unwrap().identities, [Identity::Mac]);
        let own = said("udhcpc -x 0x3d:0100BEEFC0FFEE -x hostname:here -V me -F here.example").unwrap();
        let expected = Identity::Is(vec![1, 0, 0xbe, 0xef, 0xc0, 0xff, 0xee]);
        assert_eq!(own.identities, [expected]);
        let codes: Vec<u8> = own.extras.iter().map(|extra| extra.code).collect();
        assert_eq!(codes, [12, 60, 81]);
        assert!(said("udhcpc -x 61:nonsense").is_err());
        assert!(said("udhcpc -x lease:3600 -x 0xzz:1 -x").is_ok());
    }
}
