//! What a network asks of vmbr, by the XML that its hook is given.

use crate::model::IfName;

use super::domain::{DomainError, child, document};

/// The bridge that a network puts its domains on, where that is one of the
/// host's own: `<forward mode='bridge'/>` and `<bridge name='...'/>`
/// (<https://libvirt.org/formatnetwork.html#using-an-existing-host-bridge>).
///
/// # Errors
/// It is no XML, or no network's.
pub fn bridge(xml: &str) -> Result<Option<IfName>, DomainError> {
    let document = document(xml, "network")?;
    let root = document.root_element();
    let Some(network) = root.descendants().find(|node| node.has_tag_name("network")) else {
        return Err(DomainError::other("network", root));
    };
    let is_bridge = child(network, "forward").is_some_and(|node| node.attribute("mode") == Some("bridge"));
    let name = child(network, "bridge").and_then(|node| node.attribute("name"));
    Ok(name.filter(|_| is_bridge).and_then(|name| name.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bridge_of_the_hosts_counts() {
        let of = |text: &str| bridge(&format!("<hookData><network>{text}</network></hookData>")).unwrap();
        assert_eq!(
            of("<forward mode='bridge'/><bridge name='br0'/>"),
            "br0".parse().ok()
        );
        assert_eq!(of("<forward mode='nat'/><bridge name='virbr0'/>"), None);
        assert_eq!(of("<bridge name='virbr1'/>"), None);
        assert_eq!(
            of("<forward mode='bridge'><interface dev='eth0'/></forward>"),
            None
        );
        bridge("<domain/>").unwrap_err();
        bridge("<network").unwrap_err();
    }
}
