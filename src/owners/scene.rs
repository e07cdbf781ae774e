//! What every manager looks at: the uplink and the processes around it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::route::protocol;
use crate::model::{Address, Family, HostState, IfName, Link, address};

use super::claim::{End, Lease};
use super::process::{Around, Process};

/// How long all the asking together may take. Who answers does so within some
/// milliseconds; on a machine that has just booted, or is busy, a first call by
/// D-Bus was seen to take more than a second, and a manager that is not heard
/// is a host that is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// `IFAPROT_KERNEL_RA` of include/uapi/linux/if_addr.h: the kernel made the
/// address from a router advertisement, and renews it by the next.
const KERNEL_RA: u8 = 2;

/// The uplink, and what runs in its network namespace.
pub struct Scene<'a> {
    /// The uplink.
    pub link: &'a Link,
    /// Its addresses.
    pub addresses: &'a [Address],
    /// Until when others may be waited for.
    pub deadline: Instant,
    around: Around,
}

impl<'a> Scene<'a> {
    /// Looks around; None where there is no such device.
    pub fn new(live: &'a HostState, uplink: &IfName) -> Option<Self> {
        Some(Self {
            link: live.link(uplink)?,
            addresses: live.addresses_of(uplink),
            deadline: Instant::now() + PATIENCE,
            around: Around::look(),
        })
    }

    /// The uplink's name.
    pub fn uplink(&self) -> &'a IfName {
        &self.link.name
    }

    /// Whether the caller could look at every process.
    pub fn sees_all(&self) -> bool {
        self.around.sees_all
    }

    /// The processes of this network namespace.
    pub fn processes(&self) -> &[Process] {
        &self.around.processes
    }

    /// Root's processes that run the program.
    pub fn roots(&self, program: &str) -> impl Iterator<Item = &Process> {
        self.by_root().filter(move |process| process.runs(program))
    }

    /// Root's processes.
    pub fn by_root(&self) -> impl Iterator<Item = &Process> {
        self.processes().iter().filter(|process| process.is_roots())
    }

    /// A process that runs the program as `user`.
    pub fn runs(&self, program: &str, user: u32) -> Option<&Process> {
        let fits = |process: &&Process| process.runs(program) && process.user == user;
        self.processes().iter().find(fits)
    }

    /// Whether the uplink has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.local == address)
    }

    /// The lease of `address`, if the uplink has that address. The end is the
    /// kernel's where the kernel knows one.
    pub fn lease(&self, address: IpAddr, server: Option<IpAddr>, end: End) -> Option<Lease> {
        let has = self.addresses.iter().find(|a| a.local == address)?;
        Some(Lease {
            address,
            server,
            end: if has.is_permanent() {
                end
            } else {
                End::In(has.valid.into())
            },
        })
    }

    /// Addresses of a family that somebody but the kernel has to renew.
    pub fn renewed(&self, family: Family) -> Vec<Lease> {
        let of_user_space = |a: &&Address| match family {
            Family::V4 => true,
            // Managers that answer advertisements themselves want no prefix
            // route of the kernel's; DHCPv6 has no prefix to make one of.
            Family::V6 => {
                a.protocol != Some(KERNEL_RA)
                    && !a.is_link_local_v6()
                    && a.flags & address::flag::TEMPORARY == 0
                    && (!a.has_prefix_route() || a.prefix_len == 128)
            }
        };
        let found = self
            .addresses
            .iter()
            .filter(|a| a.family() == family && !a.is_permanent());
        found
            .filter(of_user_space)
            .filter_map(|a| self.lease(a.local, None, End::Unknown))
            .collect()
    }

    /// IPv4 addresses that a client of which nothing is known but that it runs
    /// may have leased: all that no one can have made but by DHCP or by hand.
    pub fn possible(&self) -> Vec<Lease> {
        let mine = self.addresses.iter().filter(|a| a.family() == Family::V4);
        mine.filter_map(|a| self.lease(a.local, None, End::Unknown))
            .collect()
    }

    /// The same of IPv6: DHCPv6 has no prefix to give.
    pub fn possible_v6(&self) -> Vec<Lease> {
        let mine = self.addresses.iter();
        let mine = mine.filter(|a| a.family() == Family::V6 && a.prefix_len == 128);
        mine.filter_map(|a| self.lease(a.local, None, End::Unknown))
            .collect()
    }

    /// Addresses that say themselves that they come from DHCP.
    pub fn marked(&self) -> Vec<Lease> {
        let marked = self
            .addresses
            .iter()
            .filter(|a| a.protocol == Some(protocol::DHCP));
        marked
            .filter_map(|a| self.lease(a.local, None, End::Unknown))
            .collect()
    }

    /// Warnings for the addresses with an end that nobody is `known` to renew.
    pub fn unclaimed(&self, known: &[IpAddr]) -> Vec<String> {
        let leases = [self.renewed(Family::V4), self.renewed(Family::V6)].concat();
        let left = leases.into_iter().filter(|lease| !known.contains(&lease.address));
        left.map(|lease| {
            format!(
                "nobody is known who renews {lease}: whoever gave it must renew it on the bridge, or the host loses it then"
            )
        })
        .collect()
    }
}

/// Adds what the kernel says has an end to the leases that a manager told of.
pub fn complete(mut told: Vec<Lease>, kernels: Vec<Lease>) -> Vec<Lease> {
    for lease in kernels {
        if !told.iter().any(|known| known.address == lease.address) {
            told.push(lease);
        }
    }
    told
}
