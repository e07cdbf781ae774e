//! TAPs, by /dev/net/tun (drivers/net/tun.c).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::{Gid, Uid};

use super::ifreq::{self, request};
use crate::model::IfName;

/// The device that makes TAPs.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// The most queues that a TAP can have (`MAX_TAP_QUEUES`, drivers/net/tun.c).
pub const QUEUES_MAX: u32 = 256;

/// The first byte of a TAP's own MAC, see [`Tap::raise_mac`].
pub const TAP_MAC_BYTE: u8 = 0xfe;

/// An opened /dev/net/tun that is no queue of any TAP yet. It belongs to the
/// network namespace in which it was opened.
#[derive(Debug)]
pub struct Tun(OwnedFd);

/// What a new TAP is called.
#[derive(Debug, Clone, Copy)]
pub enum TapName<'a> {
    /// The kernel takes the first free one of `tap0`, `tap1`, ...
    Any,
    /// Exactly this one.
    Exact(&'a IfName),
    /// This one if it is free, else any: to find a free name the kernel looks
    /// at every device.
    Likely(&'a IfName),
}

/// What a new TAP can do. All its queues are made with the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TapFeatures {
    /// Each frame is preceded by a `struct virtio_net_hdr`.
    pub vnet_hdr: bool,
    /// More than one descriptor may be a queue of the TAP. QEMU and libvirt
    /// fail with "Invalid argument" if this differs from what they ask for.
    pub multi_queue: bool,
}

/// A TAP, held by its first queue. It is gone when its last queue is closed,
/// unless it was made persistent.
#[derive(Debug)]
pub struct Tap {
    queue: OwnedFd,
    name: IfName,
    features: TapFeatures,
}

impl Tun {
    /// Opens /dev/net/tun, close-on-exec. Needs no capability, but the
    /// permissions of the device.
    ///
    /// # Errors
    /// As of open(2): ENOENT where the module `tun` is not loaded.
    pub fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(TUN_DEVICE)?;
        Ok(Self(file.into()))
    }
}

impl TapFeatures {
    fn flags(self) -> libc::c_int {
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if self.vnet_hdr {
            flags |= libc::IFF_VNET_HDR;
        }
        if self.multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        flags
    }
}

impl Tap {
    /// Makes a TAP; `tun` becomes its first queue. Needs CAP_NET_ADMIN. It is
    /// down, on no bridge, has a random MAC and an MTU of 1500 bytes.
    ///
    /// # Errors
    /// EBUSY if the exact name is taken by a TAP (IFF_TUN_EXCL: it is never
    /// attached to), EINVAL if it is taken by another device, EPERM without
    /// the capability, ENFILE if there is no free name.
    pub fn create(tun: Tun, name: TapName<'_>, features: TapFeatures) -> io::Result<Self> {
        let mut asked = ifreq::empty();
        match name {
            TapName::Any => ifreq::set_name(&mut asked, "tap%d"),
            // The kernel fills a `%d` in, wherever it stands: such a name
            // would not be the exact one.
            TapName::Exact(name) | TapName::Likely(name) if name.as_str().contains('%') => {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            TapName::Exact(name) | TapName::Likely(name) => ifreq::set_name(&mut asked, name.as_str()),
        }
        let Tun(queue) = tun;
        let flags = features.flags() | libc::IFF_TUN_EXCL;
        match set_iff(&queue, flags, &mut asked) {
            // By a TAP, by another device, by one that is just being made.
            Err(e)
                if matches!(name, TapName::Likely(_))
                    && matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EINVAL | libc::EEXIST)) =>
            {
                asked = ifreq::empty();
                ifreq::set_name(&mut asked, "tap%d");
                set_iff(&queue, flags, &mut asked)?;
            }
            done => done?,
        }
        let name = ifreq::name(&asked)?;
        Ok(Self {
            queue,
            name,
            features,
        })
    }

    /// The name that the kernel gave it. Who has the capability may rename it.
    pub fn name(&self) -> &IfName {
        &self.name
    }

    /// Makes `tun` one more queue of it. Needs CAP_NET_ADMIN, or to be the
    /// owner.
    ///
    /// # Errors
    /// E2BIG beyond [`QUEUES_MAX`], EINVAL if the TAP was not made for more
    /// than one queue.
    pub fn add_queue(&self, tun: Tun) -> io::Result<OwnedFd> {
        let mut asked = ifreq::named(&self.name);
        let Tun(queue) = tun;
        set_iff(&queue, self.features.flags(), &mut asked)?;
        Ok(queue)
    }

    /// Lets only this user (and who has CAP_NET_ADMIN) attach to it. Without
    /// owner and group anyone may who can open /dev/net/tun.
    ///
    /// # Errors
    /// EINVAL if the user namespace does not know the user.
    pub fn set_owner(&self, owner: Uid) -> io::Result<()> {
        ifreq::call_number(self.queue.as_fd(), request::TUNSETOWNER, owner.as_raw())
    }

    /// Lets only members of this group (and who has CAP_NET_ADMIN) attach to
    /// it; with an owner too, both must fit.
    ///
    /// # Errors
    /// EINVAL if the user namespace does not know the group.
    pub fn set_group(&self, group: Gid) -> io::Result<()> {
        ifreq::call_number(self.queue.as_fd(), request::TUNSETGROUP, group.as_raw())
    }

    /// Lets it outlive its descriptors, or not.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        ifreq::call_number(self.queue.as_fd(), request::TUNSETPERSIST, u32::from(persistent))
    }

    /// Sets the first byte of its MAC to 0xFE, as QEMU does: a bridge whose
    /// MAC was not set takes the lowest of its ports', so a guest that joins
    /// must have a high one, or the host's own address changes on the wire.
    ///
    /// Asked on the TAP's own descriptor this needs no capability. A MAC that
    /// was set (`addr_assign_type` 3) is also left alone by udev.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn raise_mac(&self) -> io::Result<()> {
        let mut asked = ifreq::named(&self.name);
        ifreq::call(self.queue.as_fd(), request::SIOCGIFHWADDR, &mut asked)?;
        // SAFETY: SIOCGIFHWADDR has just filled in ifr_hwaddr, which is made
        // of integers: every bit pattern of it is a value.
        let mut address = unsafe { asked.ifr_ifru.ifru_hwaddr };
        address.sa_data[0] = TAP_MAC_BYTE as libc::c_char;
        asked.ifr_ifru.ifru_hwaddr = address;
        ifreq::call(self.queue.as_fd(), request::SIOCSIFHWADDR, &mut asked)
    }

    /// Its first queue, which is all that holds it if it is not persistent.
    pub fn into_queue(self) -> OwnedFd {
        self.queue
    }
}

/// Attaches `tun` to a TAP that is there, as a guest's program does: it becomes
/// a queue of it. Needs to be the owner, or CAP_NET_ADMIN. Where there is none
/// of this name one is made.
///
/// # Errors
/// EBUSY if somebody holds it, EPERM if it is another's, EINVAL if it was not
/// made with the same [`TapFeatures::multi_queue`] or is no TAP.
pub fn attach(tun: Tun, name: &IfName, features: TapFeatures) -> io::Result<OwnedFd> {
    let Tun(queue) = tun;
    set_iff(&queue, features.flags(), &mut ifreq::named(name))?;
    Ok(queue)
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// What a descriptor is a queue of (TUNGETIFF).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapInfo {
    /// The name of the device now.
    pub name: IfName,
    /// How it was made.
    pub features: TapFeatures,
}

/// Asks which TAP a descriptor is a queue of. This is what QEMU asks first.
///
/// # Errors
/// ENOTTY or EINVAL if it is none; EBADFD if it is a [`Tun`] still;
/// `InvalidData` if it is of a TUN, which has no Ethernet header.
pub fn info(queue: BorrowedFd<'_>) -> io::Result<TapInfo> {
    let mut asked = ifreq::empty();
    ifreq::call(queue, request::TUNGETIFF, &mut asked)?;
    // SAFETY: TUNGETIFF has just filled in ifr_flags, a short: every bit
    // pattern of it is a value.
    let flags = libc::c_int::from(unsafe { asked.ifr_ifru.ifru_flags } as u16);
    if flags & libc::IFF_TAP == 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let features = TapFeatures {
        vnet_hdr: flags & libc::IFF_VNET_HDR != 0,
        multi_queue: flags & libc::IFF_MULTI_QUEUE != 0,
    };
    Ok(TapInfo {
        name: ifreq::name(&asked)?,
        features,
    })
}

fn set_iff(queue: &OwnedFd, flags: libc::c_int, asked: &mut libc::ifreq) -> io::Result<()> {
    // The flags fill all 16 bits (IFF_TUN_EXCL is the highest), so the cast
    // to a signed short wraps by intention.
    asked.ifr_ifru.ifru_flags = flags as libc::c_short;
    ifreq::call(queue.as_fd(), request::TUNSETIFF, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_qemus_own_helper() {
        let plain = TapFeatures::default();
        assert_eq!(plain.flags(), 0x1002);
        assert_eq!(
            TapFeatures {
                vnet_hdr: true,
                ..plain
            }
            .flags(),
            0x5002
        );
        assert_eq!(
            TapFeatures {
                multi_queue: true,
                ..plain
            }
            .flags(),
            0x1102
        );
    }

    #[test]
    fn a_file_is_no_tap_and_a_template_no_exact_name() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(info(file.as_fd()).is_err());
        let template: IfName = "tap%d".parse().unwrap();
        let null = Tun(std::fs::File::open("/dev/null").unwrap().into());
        let error = Tap::create(null, TapName::Exact(&template), TapFeatures::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
