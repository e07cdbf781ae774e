//! Stage 5: makes the TAP and puts it on the bridge.

use std::os::fd::OwnedFd;

use nix::unistd::Uid;

use super::args::Request;
use super::failure::Failure;
use super::port::{Pin, Port};
use super::slots;
use crate::guard::{Guard, Network};
use crate::model::IfName;
use crate::sys::netdev::{Control, IfIndex};
use crate::sys::rtnl::{Holding, Rtnl};
use crate::sys::tap::{Tap, TapFeatures, TapName, Tun};

/// The MTU in bytes that the kernel gives a new TAP (`ETH_DATA_LEN`).
const NEW_TAP_MTU: i32 = 1500;

/// What the port is to be, and by what it is made.
pub struct Maker<'a> {
    /// What was asked for.
    pub request: &'a Request,
    /// What was granted of it.
    pub port: &'a Port,
    /// For whom.
    pub caller: Uid,
    /// The way to devices.
    pub control: &'a Control,
    /// The other one, where it is needed.
    pub rtnl: Option<&'a Rtnl>,
    /// The slot that is tried first.
    pub likely_slot: Option<u32>,
    /// The TAP's name that is tried first.
    pub likely_tap: Option<IfName>,
}

impl Maker<'_> {
    /// Makes the TAP and puts it on the bridge, as qemu-bridge-helper would:
    /// the first descriptor is the TAP itself, the others are its further
    /// queues. Needs CAP_NET_ADMIN.
    pub fn make(&self, tuns: Vec<Tun>) -> Result<(Tap, Vec<OwnedFd>), Failure> {
        let bridge = &self.request.bridge;
        match self.control.is_bridge(bridge) {
            Ok(true) => {}
            Ok(false) => return Err(Failure::not_a_bridge(bridge)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Err(Failure::no_bridge(bridge)),
            Err(e) => return Err(Failure::refused(&format!("cannot ask about {bridge}"), e)),
        }
        let bridge_mtu = self.mtu_of_bridge()?;

        let features = TapFeatures {
            // By the header a guest asks for a checksum anywhere in its frame,
            // which is written behind the guard: over an address, too. QEMU
            // asks what it was given (TUNGETIFF) and goes without.
            vnet_hdr: self.request.vnet_hdr && self.port.addresses.is_empty(),
            multi_queue: self.request.queues > 1,
        };
        let mut tuns = tuns.into_iter();
        let first = tuns.next().ok_or_else(Failure::no_queue)?;
        let likely = self.likely_tap.as_ref();
        let wanted = likely.map_or(TapName::Any, TapName::Likely);
        let tap =
            Tap::create(first, wanted, features).map_err(|e| Failure::failed("cannot make a TAP", e))?;
        let name = tap.name().clone();
        let about = |doing: &str| format!("cannot {doing} {name}");

        // From here on nobody but the caller can attach to it.
        tap.set_owner(self.caller)
            .map_err(|e| Failure::failed(&about("set the owner of"), e))?;
        let mut queues = Vec::with_capacity(tuns.len());
        for tun in tuns {
            queues.push(
                tap.add_queue(tun)
                    .map_err(|e| Failure::failed(&about("add a queue to"), e))?,
            );
        }
        let index = self
            .control
            .index(&name)
            .map_err(|e| Failure::failed(&about("find"), e))?;
        if let Some(rtnl) = self.rtnl.filter(|_| features.multi_queue) {
            let ours = Holding {
                enabled: self.request.queues,
                disabled: 0,
                owner: Some(self.caller.as_raw()),
                group: None,
                persistent: false,
            };
            refuse_strangers(rtnl, index, ours, &name)?;
        }
        self.take_slot(index)?;

        tap.raise_mac()
            .map_err(|e| Failure::failed(&about("set the MAC of"), e))?;
        // Before it joins, else the bridge's own MTU could follow it.
        let mtu = self.port.mtu.unwrap_or(bridge_mtu);
        if mtu != NEW_TAP_MTU {
            self.control
                .set_mtu(&name, mtu)
                .map_err(|e| Failure::failed(&about("set the MTU of"), e))?;
        }
        self.control
            .bridge_add(bridge, index)
            .map_err(|e| Failure::not_joined(&name, bridge, e))?;
        self.hold_mtu_of_bridge(bridge_mtu)?;
        // While it is down: no frame has passed yet.
        if let Some(rtnl) = self.rtnl.filter(|_| self.port.isolated) {
            rtnl.isolate(index)
                .map_err(|e| Failure::failed(&about("isolate"), e))?;
        }
        if let (Some(rtnl), Some(pin)) = (self.rtnl, self.port.pin) {
            self.pin(rtnl, index, pin, &name)?;
        }
        self.control
            .set_up(&name)
            .map_err(|e| Failure::failed(&about("set up"), e))?;
        Ok((tap, queues))
    }

    fn mtu_of_bridge(&self) -> Result<i32, Failure> {
        let bridge = &self.request.bridge;
        self.control
            .mtu(bridge)
            .map_err(|e| Failure::failed(&format!("cannot read the MTU of {bridge}"), e))
    }

    /// A bridge whose MTU was never set takes the least of its ports'
    /// (br_mtu_auto_adjust, net/bridge/br_if.c): one guest's would become
    /// everybody's. Setting it ends that.
    fn hold_mtu_of_bridge(&self, before: i32) -> Result<(), Failure> {
        if self.port.mtu.is_none() || self.mtu_of_bridge()? == before {
            return Ok(());
        }
        let bridge = &self.request.bridge;
        self.control
            .set_mtu(bridge, before)
            .map_err(|e| Failure::failed(&format!("cannot hold the MTU of {bridge} at {before}"), e))
    }

    /// Takes one of the caller's slots on the bridge.
    fn take_slot(&self, tap: IfIndex) -> Result<(), Failure> {
        let (Some(slots), Some(rtnl)) = (self.port.slots, self.rtnl) else {
            return Ok(());
        };
        let bridge = self.bridge_index()?;
        for slot in self.likely_slot.into_iter().chain(slots::order(slots)) {
            let name = slots::name(bridge, self.caller.as_raw(), slot);
            match rtnl.take_name(tap, &name) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => return Err(Failure::failed("cannot count the TAP", e)),
            }
        }
        Err(Failure::all_in_use(&self.request.bridge, slots))
    }

    fn bridge_index(&self) -> Result<IfIndex, Failure> {
        let bridge = &self.request.bridge;
        self.control
            .index(bridge)
            .map_err(|e| Failure::failed(&format!("cannot find {bridge}"), e))
    }

    /// Makes the port its guest's alone.
    fn pin(&self, rtnl: &Rtnl, tap: IfIndex, pin: Pin, name: &IfName) -> Result<(), Failure> {
        rtnl.lock(tap).map_err(|e| Failure::not_locked(name, e))?;
        self.place(rtnl, tap, pin, name)?;
        let guard = Guard {
            mac: pin.mac.0.into(),
            networks: self.port.addresses.iter().copied().map(Network::single).collect(),
        };
        rtnl.hold(tap, &guard)
            .map_err(|e| Failure::failed(&format!("cannot filter what {name} sends"), e))
    }

    /// Has the bridge send its guest's frames there, and nowhere else.
    fn place(&self, rtnl: &Rtnl, tap: IfIndex, pin: Pin, name: &IfName) -> Result<(), Failure> {
        let fail = |e| Failure::failed(&format!("cannot pin {name} to {}", pin.mac), e);
        let exists = |e: &std::io::Error| e.raw_os_error() == Some(libc::EEXIST);
        match rtnl.station_add(tap, pin.mac) {
            Err(e) if exists(&e) => {}
            done => return done.map_err(fail),
        }
        // Somebody has this MAC. Who is behind a port that is for it alone,
        // or is the host, keeps it; so does everyone against a caller's wish.
        let taken = || Failure::mac_in_use(&self.request.bridge, pin.mac);
        let known = rtnl.station(self.bridge_index()?, pin.mac).map_err(fail)?;
        if known.fixed || !pin.by_acl {
            return Err(taken());
        }
        match rtnl.station_forget(known.port, pin.mac) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(fail(e)),
            Ok(()) | Err(_) => {}
        }
        rtnl.station_add(tap, pin.mac)
            .map_err(|e| if exists(&e) { taken() } else { fail(e) })
    }
}

/// Between the making of a TAP with many queues and the setting of its owner
/// anyone may attach to it: whoever did would hear the guest's network. By the
/// descriptor he could also make it his own (TUNSETOWNER asks nobody) and close
/// that again, to attach later. It must be ours and no more.
fn refuse_strangers(rtnl: &Rtnl, index: IfIndex, ours: Holding, name: &IfName) -> Result<(), Failure> {
    let held = rtnl
        .holding(index)
        .map_err(|e| Failure::failed(&format!("cannot count the queues of {name}"), e))?;
    if held == ours {
        Ok(())
    } else {
        // He may have made it persistent.
        let _ = rtnl.remove(index);
        Err(Failure::strangers(name))
    }
}
