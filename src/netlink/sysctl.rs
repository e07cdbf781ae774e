//! Settings of one device under /proc/sys/net.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::model::network::Sysctls;

const ROOT: &str = "/proc/sys/net";
/// Where settings are kept by device.
const DIRECTORIES: [&str; 5] = ["ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh", "mpls/conf"];

/// Settings that say again, in a coarser unit, what the one with `_ms` says.
const COARSER: [&str; 2] = ["base_reachable_time", "retrans_time"];

/// Every setting of `device` (a device, or `all` or `default`) that can be
/// written and read: some have no value until one is set.
pub fn read_all(device: &str) -> Sysctls {
    let mut found = Sysctls::new();
    for directory in DIRECTORIES {
        let Ok(entries) = fs::read_dir(format!("{ROOT}/{directory}/{device}")) else {
            continue;
        };
        for entry in entries.flatten() {
            let writable = entry
                .metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o200 != 0);
            let Some(leaf) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if !writable || COARSER.contains(&leaf.as_str()) {
                continue;
            }
            if let Ok(value) = fs::read_to_string(entry.path()) {
                found.insert(format!("{directory}/{leaf}"), value.trim_end().to_owned());
            }
        }
    }
    found
}

/// The file of a setting; `key` is `ipv4/conf/rp_filter`.
fn path(device: &str, key: &str) -> PathBuf {
    let (directory, leaf) = key.rsplit_once('/').unwrap_or(("", key));
    [ROOT, directory, device, leaf].iter().collect()
}

/// Reads one setting; none where there is no such device or setting.
pub fn read(device: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path(device, key)).ok()?;
    Some(text.trim_end().to_owned())
}

/// Writes one setting.
///
/// # Errors
/// As of open(2) and write(2): EINVAL for a value that the kernel refuses,
/// EROFS in a container whose /proc/sys cannot be written.
pub fn write(device: &str, key: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path(device, key))
        .and_then(|mut file| {
            use io::Write;
            // One write: procfs takes a value as a whole.
            file.write_all(value.as_bytes())
        })
}
