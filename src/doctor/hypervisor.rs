//! A host that is a virtual machine itself: what is above it may deliver only
//! frames for the MAC that it gave to the NIC, and drop those from others.

use std::collections::BTreeMap;

use crate::model::IfName;
use crate::plan::refuse;

use super::{Facts, Finding, Severity};

/// What the host runs on.
#[derive(Debug, Default)]
pub struct Machine {
    /// Who made it: `sys_vendor` of the DMI.
    pub vendor: String,
    /// What it is: `product_name`.
    pub product: String,
    /// The number on its case, by which some clouds can be told.
    pub asset: String,
    /// The drivers of NICs that have one.
    pub drivers: BTreeMap<IfName, String>,
}

/// A hypervisor, a cloud or a NIC that filters.
struct Filter {
    /// Words of vendor, product or asset tag; one of them is enough. None:
    /// the driver alone tells.
    machine: &'static [&'static str],
    /// Drivers of the NICs that it gives to guests; none where all are.
    drivers: &'static [&'static str],
    /// Its name.
    name: &'static str,
    /// What to do.
    remedy: &'static str,
}

const ROUTED: &str =
    "no setting lifts it: give the guests addresses that the cloud routes to this host, or NAT";

/// The first that fits counts.
const FILTERS: &[Filter] = &[
    Filter {
        machine: &[],
        drivers: &["ena"],
        name: "Amazon EC2",
        remedy: ROUTED,
    },
    Filter {
        machine: &["Amazon EC2"],
        drivers: &[],
        name: "Amazon EC2",
        remedy: ROUTED,
    },
    Filter {
        machine: &["7783-7084-3265-9085-8269-3286-77"],
        drivers: &[],
        name: "Microsoft Azure",
        remedy: ROUTED,
    },
    Filter {
        machine: &[],
        drivers: &["hv_netvsc"],
        name: "Hyper-V",
        remedy: "on the Hyper-V host: Set-VMNetworkAdapter -VMName NAME -MacAddressSpoofing On",
    },
    Filter {
        machine: &["Google"],
        drivers: &["gve", "virtio_net"],
        name: "Google Cloud",
        remedy: ROUTED,
    },
    Filter {
        machine: &["OpenStack"],
        drivers: &[],
        name: "OpenStack",
        remedy: "if port security is on: openstack port set --no-security-group --disable-port-security PORT",
    },
    Filter {
        machine: &["VirtualBox"],
        drivers: &["e1000", "pcnet32", "virtio_net"],
        name: "VirtualBox",
        remedy: "on the VirtualBox host: VBoxManage modifyvm NAME --nicpromisc1 allow-all",
    },
    Filter {
        machine: &["VMware"],
        drivers: &["vmxnet3", "e1000", "e1000e", "pcnet32"],
        name: "VMware",
        remedy: "in the security policy of its port group, accept promiscuous mode, MAC address changes and forged \
                 transmits",
    },
    Filter {
        machine: &[
            "Alibaba Cloud",
            "DigitalOcean",
            "Hetzner",
            "Linode",
            "Akamai",
            "OracleCloud.com",
            "OVHcloud",
            "Scaleway",
            "Tencent Cloud",
            "UpCloud",
            "Vultr",
        ],
        drivers: &[],
        name: "the cloud",
        remedy: ROUTED,
    },
    Filter {
        machine: &[],
        drivers: &["igbvf", "ixgbevf", "i40evf", "iavf"],
        name: "the NIC, a virtual function of another,",
        remedy: "on the host that has the whole NIC: ip link set dev NIC vf NUMBER spoofchk off trust on",
    },
];

impl Machine {
    /// The finding for a NIC that is, or will be, a bridge's uplink.
    pub fn check(&self, uplink: &IfName) -> Option<Finding> {
        let driver = self.drivers.get(uplink)?;
        let says = |word: &&str| {
            [&self.vendor, &self.product, &self.asset]
                .iter()
                .any(|text| text.contains(*word))
        };
        let fits = |filter: &&Filter| {
            (filter.machine.is_empty() || filter.machine.iter().any(says))
                && (filter.drivers.is_empty() || filter.drivers.contains(&driver.as_str()))
        };
        let filter = FILTERS.iter().find(fits)?;
        let message = format!(
            "behind {uplink} (driver {driver}) is {}, which by default delivers nothing to other MACs than the \
             NIC's, and drops what they send: this host works, guests on a bridge reach nobody",
            filter.name
        );
        let remedy = format!(
            "{}; or let the guests speak by the NIC's MAC: vmbr up {uplink} --mode mac-nat",
            filter.remedy
        );
        Some(Finding::new("hypervisor-filters", Severity::Warning, message, remedy).of(uplink))
    }
}

/// Uplinks behind which something filters: those of the bridges, or the one
/// that a bridge would take.
pub fn filters(facts: &Facts) -> Vec<Finding> {
    let bridges: Vec<IfName> = facts.guest_bridges().map(|bridge| bridge.name.clone()).collect();
    let mut uplinks: Vec<IfName> = Vec::new();
    for bridge in &bridges {
        uplinks.extend(facts.ways_out(bridge).iter().map(|link| link.name.clone()));
    }
    if uplinks.is_empty() {
        uplinks.extend(refuse::choose_uplink(&facts.host).map(|(name, _)| name));
    }
    uplinks
        .iter()
        .filter_map(|uplink| facts.machine.check(uplink))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(vendor: &str, product: &str, driver: Option<&str>) -> Option<String> {
        let uplink: IfName = "eth0".parse().unwrap();
        let machine = Machine {
            vendor: vendor.into(),
            product: product.into(),
            asset: String::new(),
            drivers: driver
                .into_iter()
                .map(|d| (uplink.clone(), d.to_owned()))
                .collect(),
        };
        machine
            .check(&uplink)
            .map(|finding| finding.message + &finding.remedy)
    }

    #[test]
    fn each_is_known_by_its_name_and_its_nic() {
        for (vendor, product, driver, word) in [
            ("VMware, Inc.", "VMware20,1", "vmxnet3", "forged"),
            (
                "Microsoft Corporation",
                "Virtual Machine",
                "hv_netvsc",
                "MacAddressSpoofing",
            ),
            ("Amazon EC2", "m5.large", "ena", "EC2"),
            ("Google", "Google Compute Engine", "virtio_net", "Google"),
            ("innotek GmbH", "VirtualBox", "e1000", "nicpromisc1"),
            (
                "OpenStack Foundation",
                "OpenStack Nova",
                "virtio_net",
                "disable-port-security",
            ),
            ("QEMU", "Standard PC (Q35 + ICH9, 2009)", "iavf", "spoofchk"),
        ] {
            let said = found(vendor, product, Some(driver)).unwrap_or_else(|| panic!("nothing of {vendor}"));
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn what_does_not_filter_is_no_finding() {
        assert_eq!(
            found("QEMU", "Standard PC (Q35 + ICH9, 2009)", Some("virtio_net")),
            None
        );
        assert_eq!(found("Dell Inc.", "PowerEdge R640", Some("ixgbe")), None);
        // A NIC that was handed through is no port of the hypervisor's switch.
        assert_eq!(found("VMware, Inc.", "VMware20,1", Some("ixgbe")), None);
        assert_eq!(
            found("Amazon EC2", "m5.large", None),
            None,
            "a veth leads to no fabric"
        );
    }
}
