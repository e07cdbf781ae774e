//! Any network device, by the ioctls of a socket (net/core/dev_ioctl.c).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::ifreq::{self, request};
use crate::model::IfName;

/// The number by which the kernel knows a device; it stays when the name
/// changes, and is not used again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(pub u32);

/// A socket for questions about devices in the network namespace it was made
/// in.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Makes the socket. Device ioctls work on one of any family; AF_UNIX is
    /// the one that is always there.
    ///
    /// # Errors
    /// As of socket(2).
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(Self(fd))
    }

    fn call(&self, request: u32, argument: &mut libc::ifreq) -> io::Result<()> {
        ifreq::call(self.0.as_fd(), request, argument)
    }

    /// The index of a device.
    ///
    /// # Errors
    /// ENODEV if there is none of this name.
    pub fn index(&self, name: &IfName) -> io::Result<IfIndex> {
        let mut asked = ifreq::named(name);
        self.call(request::SIOCGIFINDEX, &mut asked)?;
        // SAFETY: the kernel has just filled in ifr_ifindex, an integer.
        let index = unsafe { asked.ifr_ifru.ifru_ifindex };
        u32::try_from(index)
            .map(IfIndex)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The MTU of a device, in bytes.
    ///
    /// # Errors
    /// ENODEV if there is none of this name.
    pub fn mtu(&self, name: &IfName) -> io::Result<i32> {
        let mut asked = ifreq::named(name);
        self.call(request::SIOCGIFMTU, &mut asked)?;
        // SAFETY: the kernel has just filled in ifr_mtu, an integer.
        Ok(unsafe { asked.ifr_ifru.ifru_mtu })
    }

    /// Sets the MTU of a device, in bytes. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENODEV; EINVAL if the device cannot carry so much.
    pub fn set_mtu(&self, name: &IfName, mtu: i32) -> io::Result<()> {
        let mut asked = ifreq::named(name);
        asked.ifr_ifru.ifru_mtu = mtu;
        self.call(request::SIOCSIFMTU, &mut asked)
    }

    /// Sets a device up and leaves its other flags. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENODEV, or what the driver says.
    pub fn set_up(&self, name: &IfName) -> io::Result<()> {
        let mut asked = ifreq::named(name);
        self.call(request::SIOCGIFFLAGS, &mut asked)?;
        // SAFETY: the kernel has just filled in ifr_flags, an integer.
        let flags = unsafe { asked.ifr_ifru.ifru_flags };
        asked.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.call(request::SIOCSIFFLAGS, &mut asked)
    }

    /// Whether a device is a bridge. Needs CAP_NET_ADMIN.
    ///
    /// It asks the question that counts, in one call: may a port be added?
    /// For a port with index 0, which no device has, a bridge answers EINVAL
    /// (add_del_if, net/bridge/br_ioctl.c) and changes nothing, any other
    /// device EOPNOTSUPP (dev_ifsioc, net/core/dev_ioctl.c).
    ///
    /// # Errors
    /// ENODEV if there is none of this name, EPERM without the capability.
    pub fn is_bridge(&self, name: &IfName) -> io::Result<bool> {
        match self.bridge_add(name, IfIndex(0)) {
            Ok(()) => Err(io::Error::from(io::ErrorKind::InvalidData)),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// How many ports a bridge has. A dump of as many devices takes a hundred
    /// times as long. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENODEV if there is none of this name, EOPNOTSUPP if it is no bridge.
    #[cfg(feature = "cli")]
    pub fn port_count(&self, bridge: &IfName) -> io::Result<usize> {
        // The bridge's part of include/uapi/linux/sockios.h and if_bridge.h.
        const SIOCDEVPRIVATE: u32 = 0x89f0;
        const BRCTL_GET_PORT_LIST: libc::c_ulong = 7;
        // Of any other device it is a request of the driver's own, and may do
        // anything.
        if !self.is_bridge(bridge)? {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let mut indices = [0 as libc::c_int; crate::model::bridge::PORTS_MAX + 1];
        let mut arguments = [
            BRCTL_GET_PORT_LIST,
            indices.as_mut_ptr() as libc::c_ulong,
            indices.len() as libc::c_ulong,
            0,
        ];
        let mut asked = ifreq::named(bridge);
        asked.ifr_ifru.ifru_data = arguments.as_mut_ptr().cast();
        // The kernel reads the four arguments and writes as many indices as
        // the third says at most (br_dev_siocdevprivate(),
        // net/bridge/br_ioctl.c); both outlive the call, and nothing else is
        // reached by the pointer in the ifreq.
        self.call(SIOCDEVPRIVATE, &mut asked)?;
        // By the port's number, from 1 on; 0 where there is none.
        Ok(indices.iter().filter(|index| **index != 0).count())
    }

    /// Makes a device a port of a bridge. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// EBUSY if it has a master, EXFULL ("Exchange full") if the bridge has
    /// its 1,023 ports, EOPNOTSUPP if `bridge` is none, ENODEV if there is
    /// no such.
    pub fn bridge_add(&self, bridge: &IfName, port: IfIndex) -> io::Result<()> {
        let mut asked = ifreq::named(bridge);
        asked.ifr_ifru.ifru_ifindex =
            i32::try_from(port.0).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.call(request::SIOCBRADDIF, &mut asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_device_that_is_always_there() {
        let control = Control::open().unwrap();
        let lo: IfName = "lo".parse().unwrap();
        assert_eq!(control.index(&lo).unwrap(), IfIndex(1));
        assert!(control.mtu(&lo).unwrap() > 0);
        let missing: IfName = "no-such-device".parse().unwrap();
        assert_eq!(
            control.index(&missing).unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
    }
}
