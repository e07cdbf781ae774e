//! Name servers that a client's hooks have noted.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::model::IfName;
use crate::tool;

/// How long a program of the host's may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes away the name servers that a client's hooks have noted for a device
/// that it does not have any more: the other device has them by now. Each hook
/// would do so itself at the end of a lease, and that would come too late or
/// too early.
pub fn forget(dev: &IfName) {
    let deadline = Instant::now() + PATIENCE;
    let prefix = format!("{dev}.");
    let noted = |directory: &str| {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = files.filter_map(|entry| entry.file_name().into_string().ok());
        let own = |name: &String| {
            let by = name.strip_prefix(&prefix).unwrap_or_default();
            ["dhclient", "dhcp", "dhcp6", "ra", "link", "static"].contains(&by) || by.contains("dhclient")
        };
        names.filter(own).collect::<Vec<String>>()
    };
    for directory in ["/run/resolvconf/interface", "/run/resolvconf/interfaces"] {
        for name in noted(directory) {
            let _ = tool::ask("resolvconf", &["-d", &name], deadline);
        }
    }
    // dhcpcd's, where there is no resolvconf (20-resolv.conf of its hooks).
    let directory = "/run/dhcpcd/hook-state/resolv.conf";
    for name in noted(directory) {
        let _ = fs::remove_file(Path::new(directory).join(name));
    }
    for version in ["v4", "v6"] {
        for path in [
            format!("/run/systemd/resolved.conf.d/isc-dhcp-{version}-{dev}.conf"),
            // Where it is there the hook takes the name servers for told.
            format!("/run/network/isc-dhcp-{version}-{dev}"),
        ] {
            let _ = fs::remove_file(path);
        }
    }
}
