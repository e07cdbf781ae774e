//! What holds for every input, for the fuzzer and for the ordinary tests.

#![allow(dead_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use vmbr::helper::acl::{
    ADDRESSES_MAX, Dialect, Fault, Guard, LINE_MAX, MacRule, Member, Statement, TAPS_MAX, Target, Terms, Who,
    statements,
};
use vmbr::helper::args::{self, Command, QUEUES_LIMIT, Request};

/// An ACL file: lines in order, each with one meaning or an error, and
/// nothing that QEMU could not read lets anybody in.
pub fn acl(text: &[u8]) {
    for dialect in [Dialect::Qemu, Dialect::Vmbr] {
        let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
        let mut before = 0;
        for (number, statement) in statements(text, dialect) {
            assert!(number > before && number <= lines.len(), "lines come in order");
            before = number;
            let line = lines[number - 1];
            match statement {
                Ok(Statement::Allow(target, terms)) => {
                    bridge(line, &target);
                    assert!(dialect == Dialect::Vmbr || terms == Terms::default());
                    narrowed(line, &terms);
                }
                Ok(Statement::Deny(target)) => bridge(line, &target),
                Ok(Statement::Include(path)) => {
                    assert!(!path.as_os_str().is_empty());
                }
                Ok(Statement::IncludeReadable(path)) => {
                    assert!(dialect == Dialect::Vmbr && !path.as_os_str().is_empty());
                }
                Err(error) => {
                    assert!(
                        (1..=line.len() + 1).contains(&error.column),
                        "a column of the line"
                    );
                    match error.fault {
                        Fault::Nul => assert_eq!(line[error.column - 1], 0),
                        Fault::TooLong => assert!(line.len() > LINE_MAX),
                        _ => assert!(!line.trim_ascii().is_empty()),
                    }
                }
            }
            assert!(
                matches!(statements(line, dialect).next(), Some((1, _))),
                "a line stands for itself"
            );
        }
    }
    // vmbr's dialect only adds: what is a rule in both is the same rule.
    let own: Vec<_> = statements(text, Dialect::Vmbr).collect();
    for (number, statement) in statements(text, Dialect::Qemu) {
        if let (Ok(statement), Some((_, Ok(same)))) = (statement, own.iter().find(|(n, _)| *n == number))
            && !text.contains(&b'#')
        {
            assert_eq!(&statement, same);
        }
    }
}

fn bridge(line: &[u8], target: &Target<'_>) {
    let name = match target {
        Target::All => "all",
        Target::Bridge(name) => name,
    };
    assert!((1..=15).contains(&name.len()));
    assert!(
        line.windows(name.len()).any(|w| w == name.as_bytes()),
        "a name is on its line, whole"
    );
}

/// The words behind a bridge are within their limits, and on the line.
fn narrowed(line: &[u8], terms: &Terms<'_>) {
    assert!(terms.taps.is_none_or(|taps| (1..=TAPS_MAX).contains(&taps)));
    assert!(
        terms
            .queues
            .is_none_or(|queues| (1..=QUEUES_LIMIT).contains(&queues))
    );
    assert!(terms.mtu.is_none_or(|mtu| (68..=65_521).contains(&mtu)));
    for who in [terms.users, terms.groups].into_iter().flatten() {
        members(line, who);
    }
    match terms.mac {
        Some(MacRule::Exactly(mac)) => assert!(mac.0[0] & 1 == 0 && mac.0 != [0; 6]),
        Some(MacRule::Prefix(octets, count)) => {
            assert!((1..6).contains(&count) && octets[0] & 1 == 0 && octets[count..].iter().all(|o| *o == 0));
        }
        None => {}
    }
    if let Some(Guard::Addresses(addresses)) = terms.guard {
        assert!((1..=ADDRESSES_MAX).contains(&addresses.iter().count()));
        assert!(addresses.iter().all(|a| !a.is_multicast() && !a.is_unspecified()));
    }
}

fn members(line: &[u8], who: Who<'_>) {
    assert!(who.members().count() > 0);
    for member in who.members() {
        match member {
            Member::Ids(first, last) => assert!(first <= last && last < u32::MAX),
            Member::Name(name) => {
                assert!(!name.bytes().all(|b| b.is_ascii_digit()));
                assert!(line.windows(name.len()).any(|w| w == name.as_bytes()));
            }
        }
    }
}

/// A command line: what is taken is within its limits, and reads the same in
/// every order.
pub fn argv(text: &[u8]) {
    let arguments: Vec<&OsStr> = text.split(|&b| b == 0).map(OsStr::from_bytes).collect();
    let parsed = args::parse(&arguments);
    if let Ok(Command::Give(fd, request)) = &parsed {
        assert!(*fd > 2 && (1..=QUEUES_LIMIT).contains(&request.queues));
        assert_eq!(Request::from_message(&request.to_message()).as_ref(), Ok(request));
        let again = [
            Some(format!("--br={}", request.bridge)),
            Some(format!("--fd={fd}")),
            Some(format!("--queues={}", request.queues)),
            request.isolated.then(|| "--isolated".to_owned()),
            request.mac.map(|mac| format!("--mac={mac}")),
            request.vnet_hdr.then(|| "--use-vnet".to_owned()),
        ];
        assert_eq!(args::parse(again.iter().flatten()), parsed);
        assert_eq!(args::parse(arguments.iter().rev()), parsed);
        assert!(args::parse(arguments.iter().chain(&[OsStr::new("")])).is_err());
    }
    // The same bytes as what a client of the socket sends.
    if let Ok(request) = Request::from_message(text) {
        assert_eq!(Request::from_message(&request.to_message()), Ok(request));
    }
    if let Err(error) = parsed {
        let said = error.to_string();
        assert!(said.is_ascii() && !said.chars().any(char::is_control));
    }
}
