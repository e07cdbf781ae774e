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
       vmbr-helper --socket | --help | --version

Makes a TAP, puts it on a bridge and hands its descriptor over. QEMU runs this
program: -netdev tap,id=net0,br=NAME,helper=/full/path/of/vmbr-helper

  --fd=N        the connected AF_UNIX stream socket to answer on; N is 3 or more
  --br=NAME     the bridge, 1 to 15 bytes
  --use-vnet    frames are preceded by a virtio header
  --queues=N    hand over N descriptors (1 to 253), one for each queue
  --isolated    the port reaches no other isolated port of the bridge
  --mac=MAC     the port is for the guest with this MAC alone; where the ACL
                says `guard` or `mac=` it wants to be told
  --socket      alone, and as root: serve the one connection that is stdin, as
                whoever has connected (vmbr-helper@.service)

Where this program may not make a TAP itself, as in a service with
NoNewPrivileges=, it asks the service behind /run/vmbr/helper.sock.

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
    /// A TAP, by this inherited socket: a number of 3 or more.
    Give(RawFd, Request),
    /// `--socket`, alone.
    Serve,
    /// `--help`, alone.
    Help,
    /// `--version`, alone.
    Version,
}

/// A TAP as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
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
    /// `--socket`, `--help` or `--version` beside something else.
    NotAlone,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("an argument is not one of the options below"),
            Self::Twice(option) => write!(f, "{option} is given twice"),
            Self::Missing(option) => write!(f, "{option} is missing"),
            Self::BadValue(option, need) => write!(f, "{option} must be {need}"),
            Self::NotAlone => f.write_str("--socket, --help and --version stand alone"),
        }
    }
}

impl std::error::Error for UsageError {}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// [`UsageError`] for everything that is not exactly as [`USAGE`] says.
pub fn parse<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command, UsageError> {
    let mut words = Words::default();
    let mut alone = None;
    let mut count = 0_usize;
    for argument in arguments {
        count += 1;
        let text = argument.as_ref().to_str().ok_or(UsageError::Unknown)?;
        match text {
            "--socket" => alone = Some(Command::Serve),
            "--help" => alone = Some(Command::Help),
            "--version" => alone = Some(Command::Version),
            _ => words.take(text)?,
        }
    }
    match alone {
        Some(command) if count == 1 => Ok(command),
        Some(_) => Err(UsageError::NotAlone),
        None => {
            let fd = words.fd.ok_or(UsageError::Missing("--fd"))?;
            Ok(Command::Give(fd, words.request()?))
        }
    }
}

impl Request {
    /// Reads what [`Request::to_message`] wrote, or somebody else.
    ///
    /// # Errors
    /// [`UsageError`] as for a command line; `--fd` is no word here.
    pub fn from_message(message: &[u8]) -> Result<Self, UsageError> {
        let mut words = Words::default();
        for word in message.split(|&b| b == 0) {
            words.take(std::str::from_utf8(word).map_err(|_| UsageError::Unknown)?)?;
        }
        match words.fd {
            None => words.request(),
            Some(_) => Err(UsageError::Unknown),
        }
    }

    /// The same words as on the command line, with NUL between them.
    pub fn to_message(&self) -> Vec<u8> {
        let words = [
            Some(format!("--br={}", self.bridge)),
            self.vnet_hdr.then(|| "--use-vnet".to_owned()),
            Some(format!("--queues={}", self.queues)),
            self.isolated.then(|| "--isolated".to_owned()),
            self.mac.map(|mac| format!("--mac={mac}")),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        words.join("\0").into_bytes()
    }
}

/// The options that were met so far.
#[derive(Default)]
struct Words {
    fd: Option<RawFd>,
    bridge: Option<IfName>,
    queues: Option<u32>,
    mac: Option<Mac>,
    vnet_hdr: Option<()>,
    isolated: Option<()>,
}

impl Words {
    fn take(&mut self, text: &str) -> Result<(), UsageError> {
        let (option, value) = match text.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (text, None),
        };
        match (option, value) {
            ("--fd", Some(value)) => once(&mut self.fd, "--fd", descriptor(value)?),
            ("--br", Some(value)) => once(&mut self.bridge, "--br", device(value)?),
            ("--queues", Some(value)) => once(&mut self.queues, "--queues", queue_count(value)?),
            ("--mac", Some(value)) => once(&mut self.mac, "--mac", station(value)?),
            ("--use-vnet", None) => once(&mut self.vnet_hdr, "--use-vnet", ()),
            ("--isolated", None) => once(&mut self.isolated, "--isolated", ()),
            _ => Err(UsageError::Unknown),
        }
    }

    fn request(self) -> Result<Request, UsageError> {
        Ok(Request {
            bridge: self.bridge.ok_or(UsageError::Missing("--br"))?,
            vnet_hdr: self.vnet_hdr.is_some(),
            queues: self.queues.unwrap_or(1),
            isolated: self.isolated.is_some(),
            mac: self.mac,
        })
    }
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

    fn give(arguments: &[&str]) -> (RawFd, Request) {
        match parse(arguments) {
            Ok(Command::Give(fd, request)) => {
                assert_eq!(
                    Request::from_message(&request.to_message()).as_ref(),
                    Ok(&request)
                );
                (fd, request)
            }
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    #[test]
    fn takes_the_orders_of_qemu_and_of_libvirt() {
        let qemu = give(&["--use-vnet", "--fd=3", "--br=br0"]);
        assert_eq!(qemu, give(&["--use-vnet", "--br=br0", "--fd=3"]));
        assert_eq!(
            qemu.1,
            Request {
                bridge: "br0".parse().unwrap(),
                vnet_hdr: true,
                queues: 1,
                isolated: false,
                mac: None
            }
        );
        let (fd, own) = give(&["--isolated", "--queues=253", "--fd=2147483647", "--br=a=b"]);
        assert_eq!(
            (own.queues, own.isolated, own.vnet_hdr, fd),
            (253, true, false, i32::MAX)
        );
        assert_eq!(own.bridge.as_str(), "a=b");
        let mac = give(&["--fd=3", "--br=br0", "--mac=52:54:00:12:34:56"]).1.mac;
        assert_eq!(mac, Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        assert_eq!(parse(["--help"]), Ok(Command::Help));
        assert_eq!(parse(["--version"]), Ok(Command::Version));
        assert_eq!(parse(["--socket"]), Ok(Command::Serve));
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
            &["--socket", "--br=br0"],
            &["--socket", "--socket"],
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
    fn a_message_has_the_words_of_a_request_and_no_others() {
        let longest = "--br=123456789012345\0--use-vnet\0--queues=253\0--isolated\0--mac=52:54:00:12:34:56";
        let request = Request::from_message(longest.as_bytes()).unwrap();
        assert!(request.to_message().len() <= longest.len());
        let bad: [&[u8]; 8] = [
            b"",
            b"\0",
            b"--br=br0\0",
            b"--br=br0\0--fd=3",
            b"--br=br0\0--socket",
            b"--br=br0\0--help",
            b"--br=br0\n",
            b"--br=\xff",
        ];
        for message in bad {
            assert!(Request::from_message(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn the_usage_names_the_limit() {
        assert_eq!(QUEUES_LIMIT, 253);
        assert!(USAGE.contains("(1 to 253)"));
    }
}
