//! Users and groups: of this process, and of who is at the other end of a
//! socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid};

/// `NGROUPS_MAX` of include/uapi/linux/limits.h.
const GROUPS_MAX: usize = 65_536;

/// Whom the kernel says is at the other end of a connected AF_UNIX socket: the
/// ids that he had in effect when he connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// His user.
    pub user: Uid,
    /// His group.
    pub group: Gid,
    /// His supplementary groups.
    pub groups: Vec<Gid>,
}

/// The supplementary groups of the calling process. nix's own question reads
/// a file of /proc for a limit first.
///
/// # Errors
/// As of getgroups(2).
pub fn groups() -> io::Result<Vec<Gid>> {
    // SAFETY: with a length of 0 getgroups(2) writes nothing and answers how
    // many there are.
    let count = Errno::result(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    let mut groups = vec![0; usize::try_from(count).unwrap_or_default()];
    // SAFETY: `groups` has room for `count` numbers, and the kernel writes no
    // more than it is told there is room for.
    let count = Errno::result(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(usize::try_from(count).unwrap_or_default());
    Ok(groups.into_iter().map(Gid::from_raw).collect())
}

impl Peer {
    /// Asks who it is (SO_PEERCRED, and SO_PEERGROUPS since Linux 4.13).
    ///
    /// # Errors
    /// As of getsockopt(2).
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        Ok(Self {
            user: Uid::from_raw(credentials.uid()),
            group: Gid::from_raw(credentials.gid()),
            groups: peer_groups(socket)?,
        })
    }

    /// Becomes him, for good, and keeps the capabilities that this process is
    /// permitted; they are not in effect then. Needs to be root.
    ///
    /// # Errors
    /// As of setgroups(2), setresgid(2) and setresuid(2); `Other` if the
    /// kernel shows other ids than those that were set.
    pub fn become_it(&self) -> io::Result<()> {
        prctl::set_keepcaps(true)?;
        setgroups(&self.groups)?;
        setresgid(self.group, self.group, self.group)?;
        setresuid(self.user, self.user, self.user)?;
        prctl::set_keepcaps(false)?;
        let (users, their) = (getresuid()?, getresgid()?);
        let all = [users.real, users.effective, users.saved] == [self.user; 3]
            && [their.real, their.effective, their.saved] == [self.group; 3];
        let sorted = |groups: &[Gid]| {
            let mut numbers: Vec<u32> = groups.iter().map(|group| group.as_raw()).collect();
            numbers.sort_unstable();
            numbers
        };
        if all && sorted(&groups()?) == sorted(&self.groups) {
            Ok(())
        } else {
            Err(io::Error::other(
                "the kernel shows other ids than those that were set",
            ))
        }
    }
}

fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<Gid>> {
    let mut groups: Vec<libc::gid_t> = Vec::new();
    loop {
        let mut length = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: `groups` has the `length` bytes that are told, both outlive
        // the call, and the kernel writes at most so many to the first and one
        // socklen_t to the second (sk_getsockopt, net/core/sock.c).
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        match Errno::result(answer) {
            // It says how much room it wants.
            Err(Errno::ERANGE) if count > groups.len() && count <= GROUPS_MAX => groups.resize(count, 0),
            Err(e) => return Err(e.into()),
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups.into_iter().map(Gid::from_raw).collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_made_a_pair_of_sockets_is_at_its_other_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd()).unwrap();
        assert_eq!((peer.user, peer.group), (Uid::effective(), Gid::effective()));
        assert_eq!(peer.groups, groups().unwrap());
    }
}
