//! How the helper says no: to the caller, and to the log.

use std::io;

use super::acl::Denial;
use super::args::{USAGE, UsageError};
use super::port::Beyond;
use crate::model::{IfName, Mac};
use crate::sys::caps::CapabilityError;
use crate::sys::fdpass::NotAReplySocket;
use crate::sys::syslog::Severity;
use crate::sys::tap::TUN_DEVICE;

/// All that a denied caller learns, whatever the reason.
pub const DENIED: &str = "access denied; the reason is in the system's log, for its administrator";

/// Why no descriptor was handed over.
#[derive(Debug)]
pub enum Failure {
    /// The arguments are none.
    Usage(UsageError),
    /// The ACL does not allow the bridge, or cannot be obeyed.
    Denied(Denial),
    /// The ACL allows the bridge, and not this. The caller is told why.
    NotGranted(String),
    /// Something that is needed is missing. Nothing was changed.
    Refused(String),
    /// A step failed. What had been made is gone with the process.
    Failed(String),
    /// There is no privilege, or it does not obey. Nothing was changed.
    NoCapability(String),
    /// The service said so, with this status. The log has it from there.
    Elsewhere(u8, String),
}

impl Failure {
    /// The program's exit status; never 0.
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Elsewhere(status, _) => (*status).clamp(1, 3),
            Self::Usage(_) => 2,
            Self::Denied(_) | Self::NotGranted(_) | Self::NoCapability(_) | Self::Refused(_) => 3,
        }
    }

    /// What the caller is told.
    pub fn told(&self) -> String {
        match self {
            Self::Usage(error) => format!("{error}\n{}", USAGE.trim_end()),
            Self::Denied(_) => DENIED.to_owned(),
            Self::NotGranted(text)
            | Self::NoCapability(text)
            | Self::Refused(text)
            | Self::Failed(text)
            | Self::Elsewhere(_, text) => text.clone(),
        }
    }

    /// What the administrator is told.
    pub fn logged(&self) -> String {
        match self {
            Self::Denied(denial) => format!("access denied: {denial}"),
            other => other.told(),
        }
    }

    /// How much it matters to the administrator.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Denied(Denial::Denied(_) | Denial::NotAllowed(_) | Denial::NoFile)
            | Self::NotGranted(_) => Severity::Notice,
            Self::Denied(Denial::Unusable(..) | Denial::Unparsable(..) | Denial::NoNames(..)) => {
                Severity::Warning
            }
            Self::Usage(_)
            | Self::NoCapability(_)
            | Self::Refused(_)
            | Self::Failed(_)
            | Self::Elsewhere(..) => Severity::Error,
        }
    }

    /// A question failed before anything was changed.
    pub fn refused(doing: &str, error: io::Error) -> Self {
        Self::Refused(format!("{doing}: {error}"))
    }

    /// A step failed.
    pub fn failed(doing: &str, error: io::Error) -> Self {
        Self::Failed(format!("{doing}: {error}"))
    }

    /// More is asked for than is granted.
    pub fn beyond(beyond: Beyond) -> Self {
        Self::NotGranted(beyond.to_string())
    }

    /// The caller has as many TAPs as he may have.
    pub fn all_in_use(bridge: &IfName, slots: u32) -> Self {
        Self::NotGranted(format!(
            "your {slots} TAPs on {bridge} are all in use; end a guest first, or remove a TAP that one has left behind"
        ))
    }

    /// The guest's MAC is another's.
    pub fn mac_in_use(bridge: &IfName, mac: Mac) -> Self {
        Self::NotGranted(format!(
            "{mac} is in use on {bridge}: give the guest another MAC, or wait until {bridge} has forgotten it"
        ))
    }

    /// The port cannot be made one guest's alone.
    pub fn not_locked(tap: &IfName, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::Unsupported {
            return Self::Refused(
                "a port for one MAC alone needs Linux 5.18 or newer (locked ports), so no guest is let in"
                    .to_owned(),
            );
        }
        Self::failed(&format!("cannot lock {tap}"), error)
    }

    /// The descriptor cannot be answered on.
    pub fn no_socket(number: i32, why: NotAReplySocket) -> Self {
        Self::Refused(match why {
            NotAReplySocket::Closed => format!("--fd={number}: no descriptor of this number is open"),
            NotAReplySocket::OtherKind => {
                format!("--fd={number}: the descriptor is no connected AF_UNIX stream socket")
            }
        })
    }

    /// It cannot be, or ask, the service.
    pub fn not_a_service(why: &str) -> Self {
        Self::Refused(format!("the helper as a service: {why}"))
    }

    /// It runs with the ids of its file.
    pub fn setuid() -> Self {
        let program = program();
        Self::Refused(format!(
            "this program must not be setuid or setgid; as root: \
             chmod ug-s {program} && setcap cap_net_admin=p {program}"
        ))
    }

    /// There is no privilege, or it does not obey.
    pub fn no_capability(error: CapabilityError) -> Self {
        let remedy = match error {
            CapabilityError::Missing { no_new_privs: true } => {
                "the program that ran this one has set no_new_privs (QEMU does with -sandbox on), \
                 under which no file capability is gained: start QEMU by `vmbr run`, or, for a service with \
                 NoNewPrivileges=, as root: systemctl enable --now vmbr-helper.socket"
                    .to_owned()
            }
            CapabilityError::Missing { no_new_privs: false } => format!(
                "as root: setcap cap_net_admin=p {}; it is without effect on a file system mounted nosuid",
                program()
            ),
            CapabilityError::Kernel(_) => "this kernel cannot be used".to_owned(),
        };
        Self::NoCapability(format!("{error}: {remedy}"))
    }

    /// /dev/net/tun does not open.
    pub fn no_tun(error: io::Error) -> Self {
        let remedy = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "; as root: modprobe tun",
            Some(libc::EACCES | libc::EPERM) => {
                "; it should be readable and writable by everyone (mode 0666)"
            }
            Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n)",
            _ => "",
        };
        Self::Refused(format!("cannot open {TUN_DEVICE}: {error}{remedy}"))
    }

    /// The seccomp filter cannot be installed.
    pub fn no_filter(why: String) -> Self {
        Self::Refused(format!(
            "cannot confine itself by seccomp, and does not go on without: {why}"
        ))
    }

    /// The device exists and is no bridge.
    pub fn not_a_bridge(name: &IfName) -> Self {
        Self::Refused(format!(
            "{name} is not a bridge; name one (`ip link show type bridge` lists them)"
        ))
    }

    /// The device does not exist.
    pub fn no_bridge(name: &IfName) -> Self {
        Self::Refused(format!(
            "there is no bridge {name}; as root: vmbr up --bridge {name}"
        ))
    }

    /// No descriptor was opened, which the arguments exclude.
    pub fn no_queue() -> Self {
        Self::Failed("no queue was asked for".to_owned())
    }

    /// The TAP does not become a port.
    pub fn not_joined(tap: &IfName, bridge: &IfName, error: io::Error) -> Self {
        let remedy = match error.raw_os_error() {
            Some(libc::EXFULL) => "; a bridge has at most 1,023 ports: end a guest, or use a second bridge",
            _ => "",
        };
        Self::Failed(format!("cannot put {tap} on {bridge}: {error}{remedy}"))
    }

    /// Another process attached to the TAP.
    pub fn strangers(tap: &IfName) -> Self {
        Self::Failed(format!(
            "another process has attached itself to {tap}, which is therefore given up"
        ))
    }
}

/// The path of this program, for a remedy that can be pasted.
fn program() -> String {
    match std::env::current_exe() {
        Ok(path) => path.display().to_string(),
        Err(_) => "/usr/libexec/vmbr-helper".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::acl;
    use super::*;

    #[test]
    fn every_denial_reads_the_same_to_the_caller() {
        let place = || acl::Place {
            file: acl::QEMU_FILE.into(),
            line: 7,
        };
        let denials = [
            Denial::Denied(place()),
            Denial::NotAllowed(acl::QEMU_FILE.into()),
            Denial::NoFile,
            Denial::Unusable("/x".into(), acl::Trouble::Loop, Some(place())),
            Denial::Unparsable(
                place(),
                acl::ParseError {
                    column: 7,
                    fault: acl::Fault::BadName,
                },
            ),
            Denial::NoNames(place(), Path::new(acl::USERS_FILE), acl::Trouble::Writable),
        ];
        for denial in denials {
            let failure = Failure::Denied(denial);
            assert_eq!((failure.told().as_str(), failure.status()), (DENIED, 3));
            assert_ne!(failure.logged(), failure.told());
        }
        let denied = Failure::Denied(Denial::Denied(place())).logged();
        assert_eq!(denied, "access denied: /etc/qemu/bridge.conf:7: a line denies it");
    }

    #[test]
    fn no_failure_ends_with_status_0() {
        let usage = Failure::Usage(UsageError::Unknown);
        assert_eq!(usage.status(), 2);
        assert!(usage.told().contains("usage: vmbr-helper"));
        assert_eq!(Failure::no_queue().status(), 1);
        let gone = Failure::no_bridge(&"br0".parse().unwrap());
        assert_eq!((gone.status(), gone.told().contains("vmbr up")), (3, true));
    }
}
