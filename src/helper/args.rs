//! The helper's command line: what QEMU and libvirt write, and nothing else.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::RawFd;

use crate::model::{IfName, Mac};
use crate::sys::fdpass::DESCRIPTORS_MAX;
use crate::sys::tap::QUEUES_MAX;

/// How the helper is called.
pub const USAGE: &str = "\
usage: vmbr-helper --fd=N --br=NAME [--use-vnet] [--queues=N] [--isolated]
                   [--mac=MAC]
       vmbr-helper --help | --version

Makes a TAP, puts it on a bridge and hands its descriptor over. QEMU runs this
program: -netdev tap,id=net0,br=NAME,helper=/full/path/of/vmbr-helper

  --fd=N        the connected AF_UNIX stream socket to answer on; N is 3 or more
  --br=NAME     the bridge, 1 to 15 bytes
  --use-vnet    frames are preceded by a virtio header
  --queues=N    hand over N descriptors (1 to 253), one for each queue
  --isolated    the port reaches no other isolated port of the bridge
  --mac=MAC     the port is for the guest with this MAC alone; where the ACL
                says `guard` or `mac=` it wants to be told

Exit status: 0 the descriptors were sent; 1 failed, nothing is left behind;
2 bad usage; 3 refused before anything was changed.
";

/// The most queues: as many as a TAP has, as far as one message carries.
pub const QUEUES_LIMIT: u32 = if QUEUES_MAX < DESCRIPTORS_MAX {
    QUEUES_MAX
} else {
    DESCRIPTORS_MAX
};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A TAP.
    Give(Request),
    /// `--help`, alone.
    Help,
    /// `--version`, alone.
    Version,
}

/// A TAP as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The number of the socket to answer on, 3 or more.
    pub fd: RawFd,
    /// The name given as the bridge. Whether it is one is not known yet.
    pub bridge: IfName,
    /// With IFF_VNET_HDR.
    pub vnet_hdr: bool,
    /// How many descriptors, 1 to [`QUEUES_LIMIT`].
    pub queues: u32,
    /// As an isolated port.
    pub isolated: bool,
    /// For the guest with this MAC alone.
    pub mac: Option<Mac>,
}

/// Why a command line is none. It never repeats what was given: that may hold
/// anything, terminal escapes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageError {
    /// An argument that is not one of the options, or not in the form
    /// `--option=value`.
    Unknown,
    /// This option was given twice.
    Twice(&'static str),
    /// This option is needed.
    Missing(&'static str),
    /// The value of this option cannot be used; the second is what it must be.
    BadValue(&'static str, &'static str),
    /// `--help` or `--version` beside something else.
    NotAlone,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("an argument is not one of the options below"),
            Self::Twice(option) => write!(f, "{option} is given twice"),
            Self::Missing(option) => write!(f, "{option} is missing"),
            Self::BadValue(option, need) => write!(f, "{option} must be {need}"),
            Self::NotAlone => f.write_str("--help and --version stand alone"),
        }
    }
}

impl std::error::Error for UsageError {}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// [`UsageError`] for everything that is not exactly as [`USAGE`] says.
pub fn parse<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command, UsageError> {
    let mut alone = None;
    let mut count = 0_usize;
    let (mut fd, mut bridge, mut queues, mut mac) = (None, None, None, None);
    let (mut vnet_hdr, mut isolated) = (None, None);

    for argument in arguments {
        count += 1;
        let text = argument.as_ref().to_str().ok_or(UsageError::Unknown)?;
        let (option, value) = match text.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (text, None),
        };
        match (option, value) {
            ("--fd", Some(value)) => once(&mut fd, "--fd", descriptor(value)?)?,
            ("--br", Some(value)) => once(&mut bridge, "--br", device(value)?)?,
            ("--queues", Some(value)) => once(&mut queues, "--queues", queue_count(value)?)?,
            ("--mac", Some(value)) => once(&mut mac, "--mac", station(value)?)?,
            ("--use-vnet", None) => once(&mut vnet_hdr, "--use-vnet", ())?,
            ("--isolated", None) => once(&mut isolated, "--isolated", ())?,
            ("--help", None) => alone = Some(Command::Help),
            ("--version", None) => alone = Some(Command::Version),
            _ => return Err(UsageError::Unknown),
        }
    }
    if let Some(command) = alone {
        return if count == 1 {
            Ok(command)
        } else {
            Err(UsageError::NotAlone)
        };
    }
    Ok(Command::Give(Request {
        fd: fd.ok_or(UsageError::Missing("--fd"))?,
        bridge: bridge.ok_or(UsageError::Missing("--br"))?,
        vnet_hdr: vnet_hdr.is_some(),
        queues: queues.unwrap_or(1),
        isolated: isolated.is_some(),
        mac,
    }))
}

fn once<T>(place: &mut Option<T>, option: &'static str, value: T) -> Result<(), UsageError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UsageError::Twice(option)),
    }
}

fn descriptor(value: &str) -> Result<RawFd, UsageError> {
    let need = UsageError::BadValue("--fd", "the number of an open descriptor, 3 or more");
    let number = decimal(value).ok_or(need)?;
    let number = RawFd::try_from(number).map_err(|_| need)?;
    if number > 2 { Ok(number) } else { Err(need) }
}

fn device(value: &str) -> Result<IfName, UsageError> {
    let need = "the name of a device: 1 to 15 printable ASCII characters, no space, '/' or ':'";
    value.parse().map_err(|_| UsageError::BadValue("--br", need))
}

fn station(value: &str) -> Result<Mac, UsageError> {
    let need = "the MAC of one station, as 52:54:00:12:34:56";
    value.parse().map_err(|_| UsageError::BadValue("--mac", need))
}

fn queue_count(value: &str) -> Result<u32, UsageError> {
    let need = UsageError::BadValue("--queues", "a number from 1 to 253");
    let number = decimal(value).ok_or(need)?;
    if (1..=QUEUES_LIMIT).contains(&number) {
        Ok(number)
    } else {
        Err(need)
    }
}

/// Digits and nothing else, without a leading zero: `+3` and `03`, which some
/// parsers take and others read as something else, are nobody's numbers.
pub(super) fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn give(arguments: &[&str]) -> Request {
        match parse(arguments) {
            Ok(Command::Give(request)) => request,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    #[test]
    fn takes_the_orders_of_qemu_and_of_libvirt() {
        let qemu = give(&["--use-vnet", "--fd=3", "--br=br0"]);
        assert_eq!(qemu, give(&["--use-vnet", "--br=br0", "--fd=3"]));
        assert_eq!(
            qemu,
            Request {
                fd: 3,
                bridge: "br0".parse().unwrap(),
                vnet_hdr: true,
                queues: 1,
                isolated: false,
                mac: None
            }
        );
        let own = give(&["--isolated", "--queues=253", "--fd=2147483647", "--br=a=b"]);
        assert_eq!(
            (own.queues, own.isolated, own.vnet_hdr, own.fd),
            (253, true, false, i32::MAX)
        );
        assert_eq!(own.bridge.as_str(), "a=b");
        let mac = give(&["--fd=3", "--br=br0", "--mac=52:54:00:12:34:56"]).mac;
        assert_eq!(mac, Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        assert_eq!(parse(["--help"]), Ok(Command::Help));
        assert_eq!(parse(["--version"]), Ok(Command::Version));
    }

    #[test]
    fn refuses_everything_else() {
        let none: [&str; 0] = [];
        assert_eq!(parse(none), Err(UsageError::Missing("--fd")));
        let bad: &[&[&str]] = &[
            &["--fd=3"],
            &["--br=br0"],
            &["--fd=3", "--br=br0", "--fd=3"],
            &["--fd=3", "--br=br0", "--br=br1"],
            &["--fd=3", "--br=br0", "--use-vnet", "--use-vnet"],
            &["--fd=3", "--br=br0", "--isolated", "--isolated"],
            &["--fd=3", "--br=br0", "--queues=1", "--queues=1"],
            &["--fd=3", "--br=br0", ""],
            &["--fd=3", "--br=br0", "--"],
            &["--fd=3", "--br=br0", "x"],
            &["--fd=3", "--br=br0", "--use-vnet=1"],
            &["--fd=3", "--br=br0", "--isolated="],
            &["--fd=3", "--br=br0", "--help"],
            &["--version", "--help"],
            &["--help", "--help"],
            &["--help="],
            &["--fd", "3", "--br", "br0"],
            &["-fd=3", "-br=br0"],
            &["--f=3", "--b=br0"],
            &["--fd=", "--br=br0"],
            &["--fd=0", "--br=br0"],
            &["--fd=1", "--br=br0"],
            &["--fd=2", "--br=br0"],
            &["--fd=-3", "--br=br0"],
            &["--fd=+3", "--br=br0"],
            &["--fd=03", "--br=br0"],
            &["--fd=0x3", "--br=br0"],
            &["--fd=3 ", "--br=br0"],
            &["--fd=2147483648", "--br=br0"],
            &["--fd=4294967299", "--br=br0"],
            &["--fd=18446744073709551619", "--br=br0"],
            &["--fd=3", "--br="],
            &["--fd=3", "--br=1234567890123456"],
            &["--fd=3", "--br=br0 "],
            &["--fd=3", "--br=../br0"],
            &["--fd=3", "--br=br0\n"],
            &["--fd=3", "--br=br0\0"],
            &["--fd=3", "--br=br\u{f6}"],
            &["--fd=3", "--br=br0", "--queues=0"],
            &["--fd=3", "--br=br0", "--queues=254"],
            &["--fd=3", "--br=br0", "--queues=4294967297"],
            &["--fd=3", "--br=br0", "--queues="],
            &["--fd=3", "--br=br0", "--mac"],
            &["--fd=3", "--br=br0", "--mac="],
            &["--fd=3", "--br=br0", "--mac=52:54:00"],
            &["--fd=3", "--br=br0", "--mac=01:00:5e:00:00:01"],
            &[
                "--fd=3",
                "--br=br0",
                "--mac=52:54:00:12:34:56",
                "--mac=52:54:00:12:34:56",
            ],
        ];
        for arguments in bad {
            assert!(parse(*arguments).is_err(), "{arguments:?}");
        }
        let latin1 = OsStr::from_bytes(b"--br=br\xf6");
        assert_eq!(parse([OsStr::new("--fd=3"), latin1]), Err(UsageError::Unknown));
    }

    #[test]
    fn the_usage_names_the_limit() {
        assert_eq!(QUEUES_LIMIT, 253);
        assert!(USAGE.contains("(1 to 253)"));
    }
}
