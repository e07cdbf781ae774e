//! IPv6 addresses and what comes and goes with them: net/ipv6/addrconf.c.

use nix::errno::Errno;
use vmbr::model::address::flag;
use vmbr::model::route::{kind, protocol};
use vmbr::model::{Address, Family, IfName, Route};

use super::ipv4::PERMANENT;
use super::{Answer, Kernel, Place};

fn as_kept(address: &Address) -> Address {
    Address {
        flags: address.settable_flags() | if address.is_permanent() { PERMANENT } else { 0 },
        ..address.clone()
    }
}

impl Kernel {
    /// `inet6_addr_add()`, `ipv6_link_dev_addr()`: a new address stands before
    /// those of its scope.
    pub(super) fn add_v6(&mut self, dev: &IfName, address: &Address) -> Answer {
        let list = self.state.addresses.entry(dev.clone()).or_default();
        if list.iter().any(|a| a.same_key(address)) {
            return Err(Errno::EEXIST);
        }
        let behind = |a: &Address| a.family() == Family::V6 && a.scope >= address.scope;
        let place = list.iter().position(behind).unwrap_or(list.len());
        list.insert(place, as_kept(address));
        if self.is_up(dev) {
            self.add_prefix_route_v6(dev, address);
        }
        Ok(())
    }

    /// `inet6_addr_modify()`.
    pub(super) fn change_v6(&mut self, dev: &IfName, address: &Address) -> Answer {
        let list = self.state.addresses.entry(dev.clone()).or_default();
        let old = list
            .iter_mut()
            .find(|a| a.same_key(address))
            .ok_or(Errno::ENOENT)?;
        let had = old.clone();
        *old = as_kept(address);
        if had.has_prefix_route() && (!address.has_prefix_route() || had.metric != address.metric) {
            self.clean_prefix_route(dev, &had);
        }
        self.add_prefix_route_v6(dev, address);
        Ok(())
    }

    /// `ipv6_del_addr()`.
    pub(super) fn delete_v6(&mut self, dev: &IfName, address: &Address) -> Answer {
        let list = self.state.addresses.entry(dev.clone()).or_default();
        let place = list.iter().position(|a| a.same_key(address));
        let gone = list.remove(place.ok_or(Errno::EADDRNOTAVAIL)?);
        if gone.has_prefix_route() {
            self.clean_prefix_route(dev, &gone);
        }
        for route in self.state.routes.iter_mut().filter(|r| r.uses(dev)) {
            if route.prefsrc == Some(gone.local) {
                route.prefsrc = None;
            }
        }
        Ok(())
    }

    /// Those without an end get their routes (`addrconf_permanent_addr()`).
    pub(super) fn up_v6(&mut self, dev: &IfName) {
        for address in self.state.addresses_of(dev).to_vec() {
            if address.family() == Family::V6 && address.is_permanent() {
                self.add_prefix_route_v6(dev, &address);
            }
        }
    }

    fn add_prefix_route_v6(&mut self, dev: &IfName, address: &Address) {
        for route in super::world::prefix_routes(address, dev) {
            let _ = self.add_route(&route, Place::Behind);
        }
    }

    /// The prefix route goes when no other address of the device wants it
    /// (`check_cleanup_prefix_route()`).
    fn clean_prefix_route(&mut self, dev: &IfName, gone: &Address) {
        let wants = |a: &Address| {
            a.local != gone.local
                && a.family() == Family::V6
                && a.prefix_len == gone.prefix_len
                && a.on_link() == gone.on_link()
                && a.flags & flag::NOPREFIXROUTE == 0
        };
        let heirs: Vec<Address> = self
            .state
            .addresses_of(dev)
            .iter()
            .filter(|a| wants(a))
            .cloned()
            .collect();
        if gone.flags & PERMANENT == 0 || heirs.iter().any(Address::is_permanent) {
            return;
        }
        let its = |r: &Route| {
            r.dst == gone.on_link()
                && r.uses(dev)
                && r.protocol == protocol::KERNEL
                && r.kind == kind::UNICAST
        };
        if let Some(place) = self.state.routes.iter().position(its) {
            match heirs.iter().map(|a| a.valid).max() {
                Some(valid) => self.state.routes[place].expires = Some(valid),
                None => drop(self.state.routes.remove(place)),
            }
        }
    }
}
