//! Whether a user's QEMU gets a TAP: the helper's capability, the file system
//! that it is on, /dev/net/tun.

use std::path::PathBuf;

use super::{Change, Facts, Finding, Severity};

/// Where TAPs are made.
pub const TUN: &str = "/dev/net/tun";
/// What udev gives it (50-udev-default.rules).
const FOR_ALL: u32 = 0o666;
/// CAP_NET_ADMIN of include/uapi/linux/capability.h.
const NET_ADMIN: u32 = 12;

/// The helper's file.
#[derive(Debug, Default)]
pub struct HelperFile {
    /// Where it is, or should be.
    pub path: String,
    /// Whether it is there.
    pub is_there: bool,
    /// Its extended attribute `security.capability`; empty where it has none.
    pub capability: Vec<u8>,
    /// The mount point of its file system where that is mounted nosuid.
    pub nosuid: Option<String>,
}

/// /dev/net/tun, where it is there.
#[derive(Debug, Clone, Copy)]
pub struct TunNode {
    /// Its permissions.
    pub mode: u32,
    /// Its group.
    pub group: u32,
}

/// Whether the attribute permits CAP_NET_ADMIN: a word of version and flags,
/// then the low words of what is permitted and inheritable, little-endian
/// (`struct vfs_cap_data` of include/uapi/linux/capability.h).
fn permits_net_admin(attribute: &[u8]) -> bool {
    let word = attribute.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
    word.is_some_and(|bytes| u32::from_le_bytes(*bytes) & (1 << NET_ADMIN) != 0)
}

/// The mount point of the file system that `path` is on, where it is mounted
/// nosuid; `mountinfo` is /proc/self/mountinfo (proc_pid_mountinfo(5)).
pub fn nosuid_mount(mountinfo: &str, path: &str) -> Option<String> {
    let below = |point: &str| {
        let rest = path.strip_prefix(point.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut best: Option<(String, bool)> = None;
    for line in mountinfo.lines() {
        let mut words = line.split(' ').skip(4);
        let (Some(point), Some(options)) = (words.next(), words.next()) else {
            continue;
        };
        let point = point.replace("\\040", " ");
        // The last of several on one point hides the others.
        let nearer = |(other, _): &(String, bool)| point.len() >= other.len();
        if below(&point) && best.as_ref().is_none_or(nearer) {
            best = Some((point, options.split(',').any(|option| option == "nosuid")));
        }
    }
    best.filter(|(_, nosuid)| *nosuid).map(|(point, _)| point)
}

/// What keeps the helper from working.
pub fn file(facts: &Facts) -> Vec<Finding> {
    let Some(helper) = &facts.helper else {
        return Vec::new();
    };
    let path = &helper.path;
    if !helper.is_there {
        let message = format!("there is no {path}: no user's QEMU can join a bridge by it");
        let remedy = "install it beside vmbr: scripts/install";
        return vec![Finding::new("helper-missing", Severity::Warning, message, remedy)];
    }
    let mut found = Vec::new();
    if !permits_net_admin(&helper.capability) {
        let message =
            format!("{path} has no file capability, so it may not make a TAP: every guest is refused");
        let remedy = format!("setcap cap_net_admin=p {path}");
        found.push(Finding::new(
            "helper-capability",
            Severity::Error,
            message,
            remedy,
        ));
    }
    if let Some(point) = &helper.nosuid {
        let message = format!(
            "{path} is on {point}, which is mounted nosuid: there its file capability does nothing, and every guest is \
             refused"
        );
        let remedy = format!("mount -o remount,suid {point}");
        found.push(Finding::new("helper-nosuid", Severity::Error, message, remedy));
    }
    found
}

/// Whether users can open /dev/net/tun.
pub fn tun(facts: &Facts) -> Vec<Finding> {
    let Some(node) = facts.tun else {
        let message = format!("there is no {TUN}, so there are no TAPs: no guest can join");
        return vec![Finding::new(
            "tun-missing",
            Severity::Error,
            message,
            "modprobe tun",
        )];
    };
    // A group that was given it is someone's will.
    let of_a_group = node.group != 0 && node.mode & 0o060 == 0o060;
    if node.mode & 0o006 == 0o006 || of_a_group {
        return Vec::new();
    }
    let message = format!(
        "{TUN} has the mode {:04o}: users' QEMU cannot open it, nor can the helper for them. Opening it alone gives \
         nobody a network",
        node.mode
    );
    let change = Change::Mode {
        path: PathBuf::from(TUN),
        old: node.mode,
        new: FOR_ALL,
    };
    let remedy = format!("chmod {FOR_ALL:o} {TUN}");
    vec![Finding::new("tun-mode", Severity::Error, message, remedy).fixed_by(vec![change])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_setcap_writes_them() {
        // setcap cap_net_admin=p, cap_net_raw=ep, cap_net_admin=i.
        let attribute = |first: u8, permitted: u32, inheritable: u32| {
            let mut bytes = vec![first, 0, 0, 2];
            for word in [permitted, inheritable, 0, 0] {
                bytes.extend(u32::to_le_bytes(word));
            }
            bytes
        };
        assert!(permits_net_admin(&attribute(0, 1 << 12, 0)));
        assert!(!permits_net_admin(&attribute(1, 1 << 13, 0)));
        assert!(!permits_net_admin(&attribute(0, 0, 1 << 12)));
        assert!(!permits_net_admin(&[]));
    }

    #[test]
    fn the_nearest_and_last_mount_counts() {
        let info = "1 0 8:1 / / rw,relatime - ext4 /dev/a rw
2 1 8:2 / /usr rw,nosuid - ext4 /dev/b rw
3 2 8:3 / /usr/local rw - ext4 /dev/c rw
4 1 8:4 / /opt rw - ext4 /dev/d rw
5 1 8:5 / /opt rw,nosuid,nodev - ext4 /dev/e rw
6 1 8:6 / /my\\040disk rw,nosuid - ext4 /dev/f rw";
        let at = |path| nosuid_mount(info, path);
        assert_eq!(at("/usr/libexec/vmbr-helper").as_deref(), Some("/usr"));
        assert_eq!(at("/usr/local/libexec/vmbr-helper"), None);
        assert_eq!(at("/usrlocal/vmbr-helper"), None);
        assert_eq!(at("/opt/vmbr-helper").as_deref(), Some("/opt"));
        assert_eq!(at("/my disk/vmbr-helper").as_deref(), Some("/my disk"));
    }

    #[test]
    fn a_tun_node_for_a_group_is_someones_will() {
        let facts = |mode, group| Facts {
            tun: Some(TunNode { mode, group }),
            ..Facts::default()
        };
        assert!(tun(&facts(0o666, 0)).is_empty());
        assert!(tun(&facts(0o660, 108)).is_empty());
        assert!(tun(&facts(0o660, 0))[0].fixable());
        assert!(tun(&facts(0o600, 108))[0].fixable());
        assert_eq!(tun(&Facts::default())[0].id, "tun-missing");
    }
}
