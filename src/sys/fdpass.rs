//! Handing descriptors to another process (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect as connect_socket, getpeername, getsockopt, recv, recvmsg, send, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// The most descriptors in one message (`SCM_MAX_FD`, include/net/scm.h).
pub const DESCRIPTORS_MAX: u32 = 253;

/// A connected AF_UNIX socket that another program left open for this one,
/// known by its number only.
#[derive(Debug, Clone, Copy)]
pub struct ReplySocket(BorrowedFd<'static>);

/// The longest message between the two programs, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// Proof that the descriptors were handed over. Nothing else makes one.
#[derive(Debug)]
pub struct Sent(());

/// Why a descriptor cannot be answered on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAReplySocket {
    /// Nothing is open under this number.
    Closed,
    /// It is open, but no connected AF_UNIX stream socket.
    OtherKind,
}

impl ReplySocket {
    /// Looks what an inherited descriptor is, without using it. Must be asked
    /// before this process opens anything: a number that nobody left open
    /// could otherwise be one of its own descriptors.
    ///
    /// # Errors
    /// [`NotAReplySocket`]: it is closed, a pipe or file, of another family
    /// or type, not connected, or listening. The numbers 0 to 2 are refused
    /// as closed: they are stdin, stdout and stderr here.
    pub fn inherited(number: RawFd) -> Result<Self, NotAReplySocket> {
        if number <= 2 {
            return Err(NotAReplySocket::Closed);
        }
        Self::of_type(number, SockType::Stream)
    }

    /// The same for stdin, where a service that is started for each connection
    /// has its own (systemd.exec(5), StandardInput=socket). Its type is that
    /// which keeps messages apart.
    ///
    /// # Errors
    /// [`NotAReplySocket`]: it is something else.
    pub fn accepted() -> Result<Self, NotAReplySocket> {
        Self::of_type(libc::STDIN_FILENO, SockType::SeqPacket)
    }

    fn of_type(number: RawFd, wanted: SockType) -> Result<Self, NotAReplySocket> {
        // Fails for what is no socket (ENOTSOCK), not connected or listening
        // (ENOTCONN), and of another family (EINVAL, from UnixAddr).
        match getpeername::<UnixAddr>(number) {
            Ok(_) => {}
            Err(Errno::EBADF) => return Err(NotAReplySocket::Closed),
            Err(_) => return Err(NotAReplySocket::OtherKind),
        }
        // SAFETY: the kernel has just answered for this number, so it is
        // open; it was inherited, no OwnedFd of this process stands for it,
        // and the type offers no way to close it: it stays open to the end of
        // the process, which is what 'static says.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        match getsockopt(&fd, sockopt::SockType) {
            Ok(found) if found == wanted => Ok(Self(fd)),
            _ => Err(NotAReplySocket::OtherKind),
        }
    }

    /// Waits for one message, as long as `patience`.
    ///
    /// # Errors
    /// EAGAIN if none came, EMSGSIZE if it is longer than [`MESSAGE_MAX`].
    pub fn hear(self, patience: Duration) -> io::Result<Vec<u8>> {
        set_patience(self.0, patience)?;
        // No room for descriptors: the kernel closes what comes along.
        let mut bytes = [0; MESSAGE_MAX + 1];
        let length = recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
        match bytes.get(..length) {
            Some(message) if length <= MESSAGE_MAX => Ok(message.to_vec()),
            _ => Err(Errno::EMSGSIZE.into()),
        }
    }

    /// Sends a status that is not 0 and why, without waiting.
    ///
    /// # Errors
    /// As of [`ReplySocket::send`].
    pub fn refuse(self, status: u8, text: &str) -> io::Result<()> {
        let mut message = vec![status.max(1)];
        message.extend(text.bytes().take(MESSAGE_MAX - 1));
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&message)], &[], flags, None)?;
        Ok(())
    }

    /// Sends one byte 0 and the descriptors, by one message; the other side
    /// gets its own copies. Does not raise SIGPIPE.
    ///
    /// # Errors
    /// EPIPE if the other side is gone, EAGAIN if the socket is non-blocking
    /// and full, EINVAL beyond [`DESCRIPTORS_MAX`].
    pub fn send(self, descriptors: &[BorrowedFd<'_>]) -> io::Result<Sent> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let byte = [IoSlice::new(&[0])];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &byte, &control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(1) => return Ok(Sent(())),
                Ok(_) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for ReplySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

/// A connection to a service of this machine, which keeps messages apart.
///
/// # Errors
/// ENOENT or ECONNREFUSED where nobody listens.
pub fn connect(path: &str, patience: Duration) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    set_patience(socket.as_fd(), patience)?;
    connect_socket(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Sends one message without descriptors.
///
/// # Errors
/// As of send(2).
pub fn say(socket: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// How long a call on a socket may take.
fn set_patience(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let time = TimeVal::new(patience.as_secs().try_into().map_err(io::Error::other)?, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &time)?;
    setsockopt(&socket, sockopt::SendTimeout, &time)?;
    Ok(())
}

/// What [`ReplySocket::send`] sent, at the other side of the connection.
#[derive(Debug)]
pub struct Received {
    /// The bytes beside the descriptors; none if the other side closed.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Waits for one message with up to [`DESCRIPTORS_MAX`] descriptors, as QEMU
/// does after it has run the helper.
///
/// # Errors
/// As of recvmsg(2); ENOBUFS if the descriptors did not fit.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = [0; MESSAGE_MAX];
    let mut room = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX as usize]);
    let mut io = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut io, Some(&mut room), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for this
            // process and told nobody else their numbers; each becomes owned
            // exactly once.
            descriptors.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    Ok(Received {
        bytes: bytes[..length].to_vec(),
        descriptors,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn kind_of(fd: &impl AsRawFd) -> Result<(), NotAReplySocket> {
        ReplySocket::inherited(fd.as_raw_fd()).map(|_| ())
    }

    #[test]
    fn takes_a_connected_unix_stream_only() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(kind_of(&ours), Ok(()));
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(kind_of(&datagram), Err(NotAReplySocket::OtherKind));
        let path = std::env::temp_dir().join(format!("vmbr-fdpass-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(kind_of(&listener), Err(NotAReplySocket::OtherKind));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(kind_of(&file), Err(NotAReplySocket::OtherKind));
        let internet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        internet.connect(internet.local_addr().unwrap()).unwrap();
        assert_eq!(kind_of(&internet), Err(NotAReplySocket::OtherKind));
        for number in [-1, 0, 1, 2, 1_000_000] {
            assert_eq!(
                ReplySocket::inherited(number).map(|_| ()),
                Err(NotAReplySocket::Closed)
            );
        }
    }

    #[test]
    fn sends_a_zero_byte_and_all_descriptors_at_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let one = std::fs::File::open("/dev/null").unwrap();
        let two = std::fs::File::open("/dev/zero").unwrap();
        ReplySocket::inherited(ours.as_raw_fd())
            .unwrap()
            .send(&[one.as_fd(), two.as_fd()])
            .unwrap();
        let got = receive(theirs.as_fd()).unwrap();
        assert_eq!((got.bytes.as_slice(), got.descriptors.len()), (&[0][..], 2));
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = ReplySocket::inherited(ours.as_raw_fd())
            .unwrap()
            .send(&[null.as_fd()])
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }
}
