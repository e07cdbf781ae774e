//! What holds for every input, for the fuzzer and for the ordinary tests.

#![allow(dead_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use vmbr::helper::acl::{Dialect, LINE_MAX, ParseError, Statement, Target, statements};
use vmbr::helper::args::{self, Command, QUEUES_LIMIT};

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
                Ok(Statement::Allow(target) | Statement::Deny(target)) => bridge(line, &target),
                Ok(Statement::Include(path)) => {
                    assert!(!path.as_os_str().is_empty());
                }
                Ok(Statement::IncludeReadable(path)) => {
                    assert!(dialect == Dialect::Vmbr && !path.as_os_str().is_empty());
                }
                Err(ParseError::Nul) => assert!(line.contains(&0)),
                Err(ParseError::TooLong) => assert!(line.len() > LINE_MAX),
                Err(_) => assert!(!line.trim_ascii().is_empty()),
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

fn bridge(line: &[u8], target: &Target) {
    let name = match target {
        Target::All => "all",
        Target::Bridge(name) => name.as_str(),
    };
    assert!((1..=15).contains(&name.len()));
    assert!(
        line.windows(name.len()).any(|w| w == name.as_bytes()),
        "a name is on its line, whole"
    );
}

/// A command line: what is taken is within its limits, and reads the same in
/// every order.
pub fn argv(text: &[u8]) {
    let arguments: Vec<&OsStr> = text.split(|&b| b == 0).map(OsStr::from_bytes).collect();
    let parsed = args::parse(&arguments);
    if let Ok(Command::Give(request)) = &parsed {
        assert!(request.fd > 2 && (1..=QUEUES_LIMIT).contains(&request.queues));
        let again = [
            Some(format!("--br={}", request.bridge)),
            Some(format!("--fd={}", request.fd)),
            Some(format!("--queues={}", request.queues)),
            request.isolated.then(|| "--isolated".to_owned()),
            request.vnet_hdr.then(|| "--use-vnet".to_owned()),
        ];
        assert_eq!(args::parse(again.iter().flatten()), parsed);
        assert_eq!(args::parse(arguments.iter().rev()), parsed);
        assert!(args::parse(arguments.iter().chain(&[OsStr::new("")])).is_err());
    }
    if let Err(error) = parsed {
        let said = error.to_string();
        assert!(said.is_ascii() && !said.chars().any(char::is_control));
    }
}
