//! The helper for those to whom its file capability gives nothing: processes
//! that have set `no_new_privs`, as services with NoNewPrivileges= or
//! DynamicUser= do, and QEMU with -sandbox on.
//!
//! systemd listens on [`SOCKET`] and starts the program anew for each
//! connection (Accept=yes), as root with three capabilities; nothing of it
//! stays. The kernel says who has connected (SO_PEERCRED, SO_PEERGROUPS). The
//! program becomes him, with all his groups, before it has read a byte of
//! him, and keeps CAP_NET_ADMIN alone, as merely permitted: from there on it is
//! in the very state that the file capability gives, and goes the same way.
//!
//! One message says what is wanted: the words of the command line, without
//! `--fd`. One answers: a byte 0 with the descriptors, or a status and why.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::unistd::{Uid, getresgid, getresuid};

use super::args::Request;
use super::failure::Failure;
use crate::sys::caps::NetAdmin;
use crate::sys::fdpass::{self, NotAReplySocket, ReplySocket};
use crate::sys::ids::Peer;

/// Where the service listens.
pub const SOCKET: &str = "/run/vmbr/helper.sock";

/// Whose numbers are whose to be in a user namespace.
const SUBORDINATES: &str = "/etc/subuid";

/// How long a connection may say nothing. It has a process to itself, of which
/// there are a limited number.
const SERVICE_PATIENCE: Duration = Duration::from_secs(3);

/// How long the service may take: it may be one of many.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// The connection that is stdin, and this process as the one who made it.
pub fn accept() -> Result<ReplySocket, Failure> {
    let connection = ReplySocket::accepted().map_err(|why| {
        let why = match why {
            NotAReplySocket::Closed => "it is closed",
            NotAReplySocket::OtherKind => "it is something else",
        };
        Failure::not_a_service(&format!("stdin has to be a connection to {SOCKET}, and {why}"))
    })?;
    // Whoever could make another user's connection his stdin would otherwise
    // have that user's word with his own privilege.
    let users = getresuid().map_err(|e| Failure::not_a_service(&e.to_string()))?;
    let groups = getresgid().map_err(|e| Failure::not_a_service(&e.to_string()))?;
    let all_root = [users.real, users.effective, users.saved]
        .iter()
        .all(|user| user.is_root())
        && [groups.real, groups.effective, groups.saved]
            .iter()
            .all(|group| group.as_raw() == 0);
    if !all_root {
        return Err(Failure::not_a_service("systemd has to start it, as root"));
    }
    let peer =
        Peer::of(connection.as_fd()).map_err(|e| Failure::refused("cannot ask who has connected", e))?;
    refuse_subordinate(peer.user)?;
    peer.become_it()
        .map_err(|e| Failure::not_a_service(&format!("cannot become the one who has connected: {e}")))?;
    // CAP_SETUID and CAP_SETGID have done what they are for.
    NetAdmin::keep_only().map_err(Failure::no_capability)?;
    Ok(connection)
}

/// Refuses a user of a range of [`SUBORDINATES`]: newuidmap(1) makes anyone any
/// of his, with his groups, and each would have TAPs of its own count.
fn refuse_subordinate(user: Uid) -> Result<(), Failure> {
    let text = match std::fs::read(SUBORDINATES) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::refused(&format!("cannot read {SUBORDINATES}"), e)),
    };
    if is_subordinate(&text, user.as_raw()) {
        let why = format!("the user {user} is one of a range of {SUBORDINATES}, which stands for no user");
        Err(Failure::not_a_service(&why))
    } else {
        Ok(())
    }
}

/// Whether a line of subuid(5), `USER:FIRST:COUNT`, has this user in its range.
fn is_subordinate(text: &[u8], user: u32) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().any(|line| {
        let mut numbers = line.split(':').skip(1).map(|word| word.trim().parse::<u64>());
        match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&u64::from(user))
            }
            _ => false,
        }
    })
}

/// What he wants.
pub fn hear(connection: ReplySocket) -> Result<Request, Failure> {
    let message = connection
        .hear(SERVICE_PATIENCE)
        .map_err(|e| Failure::refused("no request came", e))?;
    Request::from_message(&message).map_err(Failure::Usage)
}

/// Asks the service for a TAP; none where there is no service.
pub fn ask(request: &Request) -> Option<Result<Vec<OwnedFd>, Failure>> {
    let connection = fdpass::connect(SOCKET, CLIENT_PATIENCE).ok()?;
    let fail = |e: io::Error| Failure::refused(&format!("cannot ask the service at {SOCKET}"), e);
    Some(converse(connection.as_fd(), request).unwrap_or_else(|e| Err(fail(e))))
}

fn converse(connection: BorrowedFd<'_>, request: &Request) -> io::Result<Result<Vec<OwnedFd>, Failure>> {
    // Only root can have put it there; who asks root is sure to be answered
    // by root.
    if !Peer::of(connection)?.user.is_root() {
        return Ok(Err(Failure::not_a_service(&format!("{SOCKET} is not root's"))));
    }
    fdpass::say(connection, &request.to_message())?;
    let answer = fdpass::receive(connection)?;
    Ok(match answer.bytes.split_first() {
        Some((0, [])) if answer.descriptors.len() == request.queues as usize => Ok(answer.descriptors),
        Some((status @ 1.., text)) => Err(Failure::Elsewhere(
            *status,
            String::from_utf8_lossy(text).into_owned(),
        )),
        _ => Err(Failure::not_a_service("it ended without an answer")),
    })
}

#[cfg(test)]
mod tests {
    use super::is_subordinate;

    #[test]
    fn subordinates_are_known_by_their_ranges() {
        let text = b"# none\nalice:100000:65536\nbob:x:1\n1001:200000:1\n\xff:300000:2\n";
        for (user, is) in [
            (0, false),
            (1000, false),
            (99_999, false),
            (100_000, true),
            (165_535, true),
            (165_536, false),
            (200_000, true),
            (200_001, false),
            (300_001, true),
        ] {
            assert_eq!(is_subordinate(text, user), is, "{user}");
        }
        assert!(!is_subordinate(b"", 1000));
    }
}
