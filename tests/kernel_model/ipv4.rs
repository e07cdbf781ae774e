//! IPv4 addresses and what comes and goes with them: net/ipv4/devinet.c and
//! net/ipv4/fib_frontend.c.

use nix::errno::Errno;
use vmbr::model::address::flag;
use vmbr::model::{Address, Family, HostState, IfName, Route};

use super::{Answer, Kernel, Place};

const PROMOTE: &str = "ipv4/conf/promote_secondaries";

/// The device's IPv4 addresses, which stand before its IPv6 ones in a dump.
fn list<'a>(state: &'a mut HostState, dev: &IfName) -> &'a mut Vec<Address> {
    state.addresses.entry(dev.clone()).or_default()
}

fn is_secondary(address: &Address) -> bool {
    address.flags & flag::SECONDARY != 0
}

/// Whether one is of the other's prefix (`inet_ifa_match()` and equal masks).
fn same_prefix(a: &Address, b: &Address) -> bool {
    a.family() == Family::V4 && a.prefix_len == b.prefix_len && a.on_link() == b.on_link()
}

impl Kernel {
    /// `inet_insert_ifa()`.
    pub(super) fn add_v4(&mut self, dev: &IfName, address: &Address) -> Answer {
        let up = self.is_up(dev);
        let addresses = list(&mut self.state, dev);
        let mut new = Address {
            flags: address.settable_flags() | if address.is_permanent() { PERMANENT } else { 0 },
            ..address.clone()
        };
        let v4s = addresses.iter().filter(|a| a.family() == Family::V4).count();
        let mut behind_primaries = 0;
        for (place, other) in addresses[..v4s].iter().enumerate() {
            if !is_secondary(other) && new.scope <= other.scope {
                behind_primaries = place + 1;
            }
            if same_prefix(other, &new) {
                if other.local == new.local {
                    return Err(Errno::EEXIST);
                }
                if other.scope != new.scope {
                    return Err(Errno::EINVAL);
                }
                new.flags |= flag::SECONDARY;
            }
        }
        let place = if is_secondary(&new) { v4s } else { behind_primaries };
        addresses.insert(place, new.clone());
        if up {
            self.add_prefix_route_v4(dev, &new);
        }
        Ok(())
    }

    pub(super) fn change_v4(&mut self, dev: &IfName, address: &Address) -> Answer {
        let addresses = list(&mut self.state, dev);
        let found = addresses.iter_mut().find(|a| a.same_key(address));
        let old = found.ok_or(Errno::ENOENT)?;
        old.preferred = address.preferred;
        old.valid = address.valid;
        old.protocol = address.protocol;
        Ok(())
    }

    /// `__inet_del_ifa()`.
    pub(super) fn delete_v4(&mut self, dev: &IfName, address: &Address) -> Answer {
        let promote = self.setting(dev, PROMOTE) != 0;
        let addresses = list(&mut self.state, dev);
        let place = addresses.iter().position(|a| a.same_key(address));
        let place = place.ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = addresses.remove(place);
        let mut sources = vec![gone.local];
        let mut promoted = None;
        if !is_secondary(&gone) {
            let heir = addresses.iter().position(|a| same_prefix(a, &gone));
            match heir.filter(|_| promote) {
                Some(heir) => {
                    let mut next = addresses.remove(heir);
                    next.flags &= !flag::SECONDARY;
                    let mut last = addresses.iter().enumerate().skip(place).filter(|(_, a)| {
                        a.family() == Family::V4 && !is_secondary(a) && gone.scope <= a.scope
                    });
                    let to = match last.next_back() {
                        Some((last, _)) => last + 1,
                        None if heir == place => place,
                        None => 1.min(addresses.len()),
                    };
                    addresses.insert(to, next.clone());
                    promoted = Some(next);
                }
                None => {
                    sources.extend(
                        addresses
                            .iter()
                            .filter(|a| same_prefix(a, &gone))
                            .map(|a| a.local),
                    );
                    addresses.retain(|a| !same_prefix(a, &gone));
                }
            }
            for made in super::world::prefix_routes(&gone, dev) {
                let same = |r: &Route| r.same_slot(&made) && r.prefsrc == made.prefsrc && r.hops == made.hops;
                if let Some(at) = self.state.routes.iter().position(same) {
                    self.state.routes.remove(at);
                }
            }
        }
        sources.into_iter().for_each(|source| self.forget_source(source));
        if let Some(next) = promoted {
            self.add_prefix_route_v4(dev, &next);
        }
        // With the last address go all routes (`fib_disable_ip()`).
        if !self
            .state
            .addresses_of(dev)
            .iter()
            .any(|a| a.family() == Family::V4)
        {
            let stays = |r: &Route| r.family() == Family::V6 || !r.uses(dev);
            self.state.routes.retain(stays);
            self.state
                .neighbours
                .retain(|n| n.dev != *dev || n.family() == Family::V6);
        }
        Ok(())
    }

    pub(super) fn up_v4(&mut self, dev: &IfName) {
        for address in self.state.addresses_of(dev).to_vec() {
            if address.family() == Family::V4 {
                self.add_prefix_route_v4(dev, &address);
            }
        }
    }

    fn add_prefix_route_v4(&mut self, dev: &IfName, address: &Address) {
        for route in super::world::prefix_routes(address, dev) {
            let _ = self.add_route(&route, Place::Behind);
        }
    }
}

/// `IFA_F_PERMANENT`, which the kernel sets itself.
pub(super) const PERMANENT: u32 = 0x80;
