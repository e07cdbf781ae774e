//! What a domain asks of vmbr, by its XML.
//!
//! An interface is vmbr's where it is of type `ethernet`, names its TAP and
//! says `managed='no'`: libvirt then expects that the TAP is there
//! (<https://libvirt.org/formatdomain.html#generic-ethernet-connection>). How
//! it is to be made stands in the domain's metadata, as elements of
//! [`NAMESPACE`]:
//!
//! ```xml
//! <metadata>
//!   <vmbr:taps xmlns:vmbr="https://github.com/vmbr/vmbr/libvirt/1">
//!     <vmbr:tap bridge="br0"/>
//!     <vmbr:tap dev="web0" bridge="br1" isolated="yes" guard="192.0.2.50,2001:db8::50"/>
//!   </vmbr:taps>
//! </metadata>
//! ```
//!
//! A `tap` without `dev` is for every interface that has none of its own.

use std::fmt;

use macaddr::MacAddr6;
use roxmltree::{Document, Node, ParsingOptions};

use crate::guard::Rule;
use crate::model::IfName;

/// The namespace of vmbr's elements in a domain's metadata.
pub const NAMESPACE: &str = "https://github.com/vmbr/vmbr/libvirt/1";
/// More elements than any domain has: a document is not looked at beyond.
const MOST_NODES: u32 = 100_000;

/// A TAP that a domain needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The TAP's name.
    pub dev: IfName,
    /// The guest's MAC.
    pub mac: Option<MacAddr6>,
    /// How many queues libvirt will open.
    pub queues: u16,
    /// Largest packet in bytes, where the domain says one.
    pub mtu: Option<u32>,
    /// What the metadata says of it.
    pub settings: Settings,
}

/// What the metadata says of a TAP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The bridge; by default the only one that vmbr made.
    pub bridge: Option<IfName>,
    /// Whether it is kept apart from other isolated ports.
    pub isolated: bool,
    /// What the guest may speak as, as `vmbr tap add --guard` has it.
    pub guard: Option<Rule>,
}

/// What a domain asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// What tells it from every other: its UUID.
    pub uuid: Option<String>,
    /// Its TAPs, in the order of its interfaces.
    pub taps: Vec<Wanted>,
    /// As whom QEMU runs, where the domain says so itself
    /// (`<seclabel type='static' model='dac'>`): `user:group`, each a name or
    /// a number with a `+`.
    pub label: Option<String>,
}

/// Why a domain is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainError(String);

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DomainError {}

impl DomainError {
    /// What was given is of something else.
    pub(super) fn other(what: &str, root: Node<'_, '_>) -> Self {
        Self(format!(
            "this is no {what}'s XML, but a <{}>",
            root.tag_name().name()
        ))
    }
}

/// Reads XML that others wrote; `what` is said to be of.
pub(super) fn document<'a>(xml: &'a str, what: &str) -> Result<Document<'a>, DomainError> {
    let options = ParsingOptions {
        // Entities could make a short document a long one.
        allow_dtd: false,
        nodes_limit: MOST_NODES,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(xml, options)
        .map_err(|error| DomainError(format!("the {what}'s XML cannot be read: {error}")))
}

impl Domain {
    /// Reads a domain's XML. What vmbr is not asked for is not looked at.
    ///
    /// # Errors
    /// It is no XML, or no domain's; vmbr's own words in it are not
    /// understood, or ask for what cannot be.
    pub fn parse(xml: &str) -> Result<Self, DomainError> {
        let document = document(xml, "domain")?;
        let root = document.root_element();
        // For a migration libvirt wraps it (qemuMigrationSrcBegin()).
        let domain = if root.has_tag_name("domain") {
            root
        } else {
            child(root, "domain").ok_or_else(|| DomainError::other("domain", root))?
        };
        let told = told(domain)?;
        let mut taps: Vec<Wanted> = Vec::new();
        let devices = domain.children().filter(|node| node.has_tag_name("devices"));
        for interface in devices
            .flat_map(|d| d.children())
            .filter(|n| n.has_tag_name("interface"))
        {
            let Some(wanted) = wanted(interface, &told)? else {
                continue;
            };
            if taps.iter().any(|tap| tap.dev == wanted.dev) {
                return Err(DomainError(format!("two interfaces name the TAP {}", wanted.dev)));
            }
            taps.push(wanted);
        }
        if let Some((Some(dev), _)) = told.iter().find(|(dev, _)| {
            dev.as_ref()
                .is_some_and(|dev| !taps.iter().any(|tap| tap.dev == *dev))
        }) {
            return Err(DomainError(format!(
                "vmbr's metadata names {dev}, which no <interface type='ethernet'> with <target dev='{dev}' managed='no'/> is"
            )));
        }
        let dac =
            |node: &Node<'_, '_>| node.has_tag_name("seclabel") && node.attribute("model") == Some("dac");
        let label = domain.children().find(dac).and_then(|node| child(node, "label"));
        let uuid = child(domain, "uuid").and_then(|node| node.text());
        let uuid = uuid
            .map(str::trim)
            .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'));
        Ok(Self {
            uuid: uuid.filter(|text| !text.is_empty()).map(str::to_owned),
            taps,
            label: label
                .and_then(|node| node.text())
                .map(|text| text.trim().to_owned()),
        })
    }
}

/// The first child of a name.
pub(super) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// What vmbr's metadata says: for one TAP, or for all others.
fn told(domain: Node<'_, '_>) -> Result<Vec<(Option<IfName>, Settings)>, DomainError> {
    let mut told: Vec<(Option<IfName>, Settings)> = Vec::new();
    let metadata = domain.children().filter(|node| node.has_tag_name("metadata"));
    let ours = metadata
        .flat_map(|m| m.children())
        .filter(|n| n.tag_name().namespace() == Some(NAMESPACE));
    for element in ours {
        if element.tag_name().name() != "taps" {
            return Err(unknown("element", element.tag_name().name()));
        }
        for tap in element.children().filter(Node::is_element) {
            if !tap.has_tag_name((NAMESPACE, "tap")) {
                return Err(unknown("element", tap.tag_name().name()));
            }
            let (dev, settings) = settings(tap)?;
            if told.iter().any(|(other, _)| *other == dev) {
                let whose = dev.map_or_else(|| "all other TAPs".to_owned(), |dev| dev.to_string());
                return Err(DomainError(format!("vmbr's metadata speaks twice of {whose}")));
            }
            told.push((dev, settings));
        }
    }
    Ok(told)
}

fn settings(tap: Node<'_, '_>) -> Result<(Option<IfName>, Settings), DomainError> {
    let mut dev = None;
    let mut settings = Settings::default();
    for attribute in tap.attributes() {
        let value = attribute.value();
        match attribute.name() {
            "dev" => dev = Some(name("dev", value)?),
            "bridge" => settings.bridge = Some(name("bridge", value)?),
            "guard" => {
                let rule = value.parse();
                let rule = rule.map_err(|error| DomainError(format!("vmbr's metadata: guard: {error}")))?;
                settings.guard = Some(rule);
            }
            "isolated" => {
                settings.isolated = match value {
                    "yes" => true,
                    "no" => false,
                    other => {
                        return Err(DomainError(format!(
                            "vmbr's metadata: isolated='{}' is neither 'yes' nor 'no'",
                            other.escape_default()
                        )));
                    }
                }
            }
            other => return Err(unknown("attribute", other)),
        }
    }
    Ok((dev, settings))
}

/// The TAP that an interface needs; None where it is not vmbr's.
fn wanted(
    interface: Node<'_, '_>,
    told: &[(Option<IfName>, Settings)],
) -> Result<Option<Wanted>, DomainError> {
    if interface.attribute("type") != Some("ethernet") {
        return Ok(None);
    }
    let target = child(interface, "target").filter(|target| target.attribute("managed") == Some("no"));
    let Some(dev) = target.and_then(|target| target.attribute("dev")) else {
        return Ok(None);
    };
    let dev = name("dev", dev)?;
    let number = |node: Option<Node<'_, '_>>, key: &str| match node.and_then(|node| node.attribute(key)) {
        Some(text) => text
            .parse::<u32>()
            .map(Some)
            .map_err(|_| DomainError(format!("{dev}: {key}='{}' is no number", text.escape_default()))),
        None => Ok(None),
    };
    let queues = number(child(interface, "driver"), "queues")?.unwrap_or(1);
    let mac = match child(interface, "mac").and_then(|mac| mac.attribute("address")) {
        Some(text) => Some(
            text.parse()
                .map_err(|_| DomainError(format!("{dev}: '{}' is no MAC", text.escape_default())))?,
        ),
        None => None,
    };
    let own = told.iter().find(|(other, _)| other.as_ref() == Some(&dev));
    let settings = own.or_else(|| told.iter().find(|(other, _)| other.is_none()));
    Ok(Some(Wanted {
        mac,
        queues: u16::try_from(queues.max(1))
            .map_err(|_| DomainError(format!("{dev}: no TAP has {queues} queues")))?,
        mtu: number(child(interface, "mtu"), "size")?,
        settings: settings.map(|(_, settings)| settings.clone()).unwrap_or_default(),
        dev,
    }))
}

fn name(what: &str, text: &str) -> Result<IfName, DomainError> {
    text.parse()
        .map_err(|error| DomainError(format!("{what}='{}': {error}", text.escape_default())))
}

fn unknown(what: &str, name: &str) -> DomainError {
    DomainError(format!(
        "vmbr's metadata: the {what} '{}' is not known",
        name.escape_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(metadata: &str, interfaces: &str) -> Result<Domain, DomainError> {
        Domain::parse(&format!(
            "<domain type='kvm'><name>web</name><metadata>{metadata}</metadata>\
             <devices><emulator>/usr/bin/x</emulator>{interfaces}</devices></domain>"
        ))
    }

    fn ours(taps: &str) -> String {
        format!("<other xmlns='urn:x'><tap dev='y'/></other><v:taps xmlns:v='{NAMESPACE}'>{taps}</v:taps>")
    }

    const WEB0: &str = "<interface type='ethernet'><mac address='52:54:00:00:00:01'/>\
        <target dev='web0' managed='no'/><mtu size='9000'/><driver name='vhost' queues='4'/></interface>";

    #[test]
    fn an_interface_of_vmbrs_is_read_whole() {
        let told = ours("<v:tap bridge='br0'/><v:tap dev='web0' bridge='br1' isolated='yes' guard='mac'/>");
        let found = domain(&told, WEB0).unwrap();
        assert_eq!(
            found.taps,
            [Wanted {
                dev: "web0".parse().unwrap(),
                mac: "52:54:00:00:00:01".parse().ok(),
                queues: 4,
                mtu: Some(9000),
                settings: Settings {
                    bridge: "br1".parse().ok(),
                    isolated: true,
                    guard: "mac".parse().ok(),
                },
            }]
        );
    }

    #[test]
    fn what_has_no_word_of_its_own_has_the_common_one() {
        let one = "<interface type='ethernet'><target dev='a0' managed='no'/></interface>";
        let found = domain(&ours("<v:tap bridge='br7'/>"), &format!("{one}{WEB0}")).unwrap();
        let bridges: Vec<_> = found
            .taps
            .iter()
            .map(|tap| tap.settings.bridge.clone().unwrap())
            .collect();
        assert_eq!(bridges, ["br7".parse().unwrap(), "br7".parse().unwrap()]);
        let found = domain("", one).unwrap();
        assert_eq!(found.taps[0].settings, Settings::default());
        assert_eq!((found.taps[0].queues, found.taps[0].mac), (1, None));
    }

    #[test]
    fn other_interfaces_are_not_vmbrs() {
        for other in [
            "<interface type='bridge'><source bridge='br0'/><target dev='x' managed='no'/></interface>",
            "<interface type='ethernet'><target dev='x'/></interface>",
            "<interface type='ethernet'><target dev='x' managed='yes'/></interface>",
            "<interface type='ethernet'><target managed='no'/></interface>",
            "<interface type='ethernet'/>",
        ] {
            assert_eq!(domain("", other).unwrap().taps, [], "{other}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (metadata, interfaces, said) in [
            (ours("<v:tap bridg='br0'/>"), WEB0, "attribute 'bridg'"),
            (ours("<v:tab/>"), WEB0, "element 'tab'"),
            (ours("<v:tap isolated='1'/>"), WEB0, "isolated='1'"),
            (ours("<v:tap/><v:tap/>"), WEB0, "twice of all other TAPs"),
            (ours("<v:tap dev='web1'/>"), WEB0, "names web1"),
            (ours("<v:tap bridge='a/b'/>"), WEB0, "bridge='a/b'"),
            (ours("<v:tap guard='192.0.2'/>"), WEB0, "guard: "),
            (
                String::new(),
                "<interface type='ethernet'><target dev='far-too-long-a-name' managed='no'/></interface>",
                "at most 15 bytes",
            ),
            (
                String::new(),
                "<interface type='ethernet'><target dev='a' managed='no'/><driver queues='x'/></interface>",
                "queues='x'",
            ),
            (
                String::new(),
                "<interface type='ethernet'><target dev='a' managed='no'/><driver queues='70000'/></interface>",
                "70000 queues",
            ),
        ] {
            let error = domain(&metadata, interfaces).unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let twice = format!("{WEB0}{WEB0}");
        assert!(
            domain("", &twice)
                .unwrap_err()
                .to_string()
                .contains("two interfaces")
        );
        for text in [
            "",
            "<domain>",
            "<network/>",
            "<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>",
        ] {
            Domain::parse(text).unwrap_err();
        }
    }

    #[test]
    fn a_label_of_the_domains_own_is_read() {
        let text = "<domain><seclabel model='apparmor'><label>x</label></seclabel>\
            <seclabel type='static' model='dac'><label> +107:+107 </label></seclabel></domain>";
        assert_eq!(Domain::parse(text).unwrap().label.as_deref(), Some("+107:+107"));
        assert_eq!(Domain::parse("<domain/>").unwrap().label, None);
        let uuid = |text: &str| {
            Domain::parse(&format!("<domain><uuid>{text}</uuid></domain>"))
                .unwrap()
                .uuid
        };
        assert_eq!(uuid(" 6c3f-01 ").as_deref(), Some("6c3f-01"));
        assert_eq!((uuid(""), uuid("a b")), (None, None));
    }

    #[test]
    fn no_document_breaks_it() {
        let text = format!(
            "<domain><metadata>{}</metadata><devices>{WEB0}</devices></domain>",
            ours("<v:tap dev='web0' bridge='br1' isolated='yes' guard='mac'/>")
        );
        for end in 0..text.len() {
            let _ = Domain::parse(&text[..end]);
        }
    }
}
