//! dhclient's lease file (dhclient.leases(5)): read, and written for another
//! device. Pure.

use crate::model::IfName;

/// The option that every acknowledgement has, and so every lease that dhclient
/// has written. One without it was put there by vmbr: what the server has
/// answered since is told apart by it.
const ANSWERED: &str = "option dhcp-message-type ";

/// A lease file, as its declarations in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    declarations: Vec<String>,
}

/// The last lease of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// Its statements.
    statements: Vec<String>,
}

impl Leases {
    /// Reads a whole file; None where it is none.
    pub fn read(text: &str) -> Option<Self> {
        let declarations: Vec<String> = statements(text)?.into_iter().map(str::to_owned).collect();
        let known = |declaration: &String| {
            let word = declaration.split([' ', '\t', '\n', '{', ';']).next();
            matches!(
                word,
                Some("lease" | "lease6" | "default-duid" | "authoring-byte-order" | "option" | "key")
            )
        };
        declarations.iter().all(known).then_some(Self { declarations })
    }

    /// The last lease of a device: the one that counts.
    pub fn last(&self, device: &IfName) -> Option<Last> {
        let mut blocks = self.declarations.iter().rev();
        let block = blocks.find(|block| names(block, device))?;
        let statements = statements(body(block)?)?;
        Some(Last {
            statements: statements.into_iter().map(str::to_owned).collect(),
        })
    }

    /// What a client for `to` begins with, if it was for `from` before: its
    /// leases, and what is not of any device, the DUID before all. The last
    /// lease is marked as not answered.
    pub fn moved(&self, from: &IfName, to: &IfName) -> String {
        let last = self.declarations.iter().rposition(|block| names(block, from));
        let mut text = String::new();
        for (at, declaration) in self.declarations.iter().enumerate() {
            if !is_lease(declaration) {
                text += declaration;
            } else if names(declaration, from) {
                text += &renamed(declaration, from, to, Some(at) == last);
            } else {
                continue;
            }
            text.push('\n');
        }
        text
    }

    /// This file with the leases of another, which were those of `from`, as
    /// leases of `to` behind its own.
    pub fn with(&self, other: &Self, from: &IfName, to: &IfName) -> String {
        let mut all = self.declarations.clone();
        let has_duid = all.iter().any(|declaration| is_duid(declaration));
        let duids = other.declarations.iter().filter(|d| is_duid(d) && !has_duid);
        all.extend(duids.cloned());
        let theirs = other.declarations.iter().filter(|block| names(block, from));
        let moved: Vec<String> = theirs.map(|block| renamed(block, from, to, false)).collect();
        // What an interrupted way back has put there already is not put twice.
        let plain: Vec<String> = moved.iter().map(|block| renamed(block, to, to, true)).collect();
        all.retain(|block| !names(block, to) || !plain.contains(&renamed(block, to, to, true)));
        all.extend(moved);
        if let Some(last) = all.iter_mut().rev().find(|block| names(block, to)) {
            *last = renamed(last, to, to, true);
        }
        let mut text = all.join("\n");
        text.push('\n');
        text
    }
}

impl Last {
    /// The value of a statement.
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut found = self.statements.iter().filter_map(|statement| {
            let rest = statement.strip_prefix(key)?.strip_prefix(' ')?;
            rest.strip_suffix(';')
        });
        found.next().map(str::trim)
    }

    /// Whether the server has answered since vmbr wrote it down.
    pub fn is_answered(&self) -> bool {
        self.statements.iter().any(|s| s.starts_with(ANSWERED))
    }

    /// How long the lease is, in seconds.
    pub fn seconds(&self) -> Option<u32> {
        self.value("option dhcp-lease-time")?.parse().ok()
    }
}

/// A configuration (dhclient.conf(5)) that speaks of one device by its name,
/// for another. What is in quotes and stands for the device is so: a block for
/// it, and the leases and aliases that are fixed there.
pub fn configuration(text: &str, from: &IfName, to: &IfName) -> String {
    text.replace(&quoted(from), &quoted(to))
}

/// Whether a configuration speaks of a device by its name.
pub fn is_configured(text: &str, device: &IfName) -> bool {
    let quoted = quoted(device);
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.any(|line| line.contains(&quoted))
}

fn quoted(device: &IfName) -> String {
    format!("interface \"{device}\"")
}

fn is_lease(declaration: &str) -> bool {
    declaration.starts_with("lease")
}

fn is_duid(declaration: &str) -> bool {
    declaration.starts_with("default-duid")
}

/// Whether a declaration is a lease of a device.
fn names(declaration: &str, device: &IfName) -> bool {
    let named = format!("{};", quoted(device));
    let inside = || statements(body(declaration)?);
    is_lease(declaration) && inside().is_some_and(|all| all.contains(&named.as_str()))
}

fn renamed(block: &str, from: &IfName, to: &IfName, unanswered: bool) -> String {
    let named = format!("{};", quoted(from));
    let kind = block.split(['{', ' ']).next().unwrap_or_default();
    let mut text = format!("{kind} {{\n");
    for statement in body(block).and_then(statements).unwrap_or_default() {
        if statement == named {
            text += &format!("  {};\n", quoted(to));
        } else if !(unanswered && statement.starts_with(ANSWERED)) {
            text += &format!("  {statement}\n");
        }
    }
    text + "}"
}

/// What is between the first brace and the last.
fn body(block: &str) -> Option<&str> {
    let (_, rest) = block.split_once('{')?;
    rest.trim_end().strip_suffix('}')
}

/// The statements of a text, each with the semicolon or the block that ends
/// it; None where one has no end.
fn statements(text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut begin = None;
    let mut depth = 0_usize;
    let (mut in_quotes, mut escaped, mut in_comment) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_comment {
            in_comment = byte != b'\n';
            continue;
        }
        if in_quotes {
            in_quotes = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        if byte == b'#' {
            in_comment = true;
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let from = *begin.get_or_insert(at);
        match byte {
            b'"' => in_quotes = true,
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 && (byte == b';' || byte == b'}') {
            found.push(&text[from..=at]);
            begin = None;
        }
    }
    (begin.is_none() && !in_quotes).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"default-duid "\000\001;{\"x";
lease {
  interface "eth0";
  fixed-address 192.0.2.7;
  option dhcp-lease-time 120;
  option dhcp-message-type 5;
  option host-name "interface \"eth1\"; }";
  expire 2 2026/11/24 00:45:12;
}
# A comment; with }
lease { interface "eth1"; fixed-address 192.0.2.9; }
lease6 {
  interface "eth0";
  ia-na 00:00:00:21 {
    iaaddr 2001:db8::7 {
      max-life 120;
    }
  }
}
"#;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    #[test]
    fn the_leases_of_the_device_move_and_those_of_others_do_not() {
        let leases = Leases::read(TEXT).unwrap();
        let moved = leases.moved(&name("eth0"), &name("br0"));
        assert!(
            moved.starts_with("default-duid \"\\000\\001;{\\\"x\";\n"),
            "{moved}"
        );
        assert!(
            !moved.contains("interface \"eth0\"") && !moved.contains("192.0.2.9"),
            "{moved}"
        );
        assert!(
            moved.contains(r#"option host-name "interface \"eth1\"; }";"#),
            "{moved}"
        );
        assert!(moved.contains("max-life 120;"), "{moved}");
        let read = Leases::read(&moved).unwrap();
        assert_eq!(read.moved(&name("br0"), &name("br0")), moved);
    }

    #[test]
    fn what_is_moved_is_not_answered_until_the_server_does() {
        let block = |address: &str, device: &str| {
            format!(
                "lease {{\n  interface \"{device}\";\n  fixed-address {address};\n  option dhcp-message-type 5;\n}}\n"
            )
        };
        let one = block("192.0.2.7", "eth0");
        let leases = Leases::read(&one).unwrap();
        assert!(leases.last(&name("eth0")).unwrap().is_answered());
        let mut moved = leases.moved(&name("eth0"), &name("br0"));
        let of = |text: &str| Leases::read(text).unwrap().last(&name("br0")).unwrap();
        assert!(!of(&moved).is_answered());
        moved += &block("192.0.2.8", "br0");
        assert!(of(&moved).is_answered());
        assert_eq!(of(&moved).value("fixed-address"), Some("192.0.2.8"));
        // And back, behind what the file had.
        let back = leases.with(&Leases::read(&moved).unwrap(), &name("br0"), &name("eth0"));
        let read = Leases::read(&back).unwrap();
        let last = read.last(&name("eth0")).unwrap();
        assert_eq!(last.value("fixed-address"), Some("192.0.2.8"));
        assert!(!last.is_answered());
        // Once more it is the same.
        assert_eq!(
            read.with(&Leases::read(&moved).unwrap(), &name("br0"), &name("eth0")),
            back
        );
    }

    #[test]
    fn a_torn_or_foreign_file_is_none() {
        for cut in 1..TEXT.len() {
            let Some(text) = TEXT.get(..cut) else { continue };
            if let Some(read) = Leases::read(text) {
                read.moved(&name("eth0"), &name("br0"));
            }
        }
        for text in [
            "lease {",
            "}",
            "\u{0}\u{1};",
            "lease { interface \"eth0 }",
            "root:x:0:0",
        ] {
            assert_eq!(Leases::read(text), None, "{text}");
        }
        assert_eq!(Leases::read("").map(|read| read.last(&name("eth0"))), Some(None));
    }

    #[test]
    fn a_configuration_is_made_for_the_bridge() {
        let text = "send host-name \"eth0\";\ninterface \"eth0\" { send x 1; }\n";
        assert!(is_configured(text, &name("eth0")));
        assert!(!is_configured(text, &name("eth00")));
        assert!(!is_configured("#interface \"eth0\" {}\n", &name("eth0")));
        assert_eq!(
            configuration(text, &name("eth0"), &name("br0")),
            "send host-name \"eth0\";\ninterface \"br0\" { send x 1; }\n"
        );
    }
}
