//! How a user's TAPs on a bridge are counted. No I/O.
//!
//! A TAP that is given under a quota takes one of so many names that the
//! quota leaves to its user on its bridge, as an alternative name of the
//! device (`altname` in `ip link`). The kernel gives a name to one device at
//! a time, in one step, and takes it back when the device goes, whoever ends
//! how: so there is nothing to count, to lock, to write down or to clean up,
//! and of any number of helpers at once exactly as many get a name as there
//! are. Who holds a TAP's descriptor can change its owner, its MAC and
//! whether it stays, but not its names: that takes CAP_NET_ADMIN.
//!
//! The owner that `ip` shows is no mark to count by: whoever holds the TAP
//! could have set another user's, to his own profit or the other's loss.

use crate::model::IfName;
use crate::sys::netdev::IfIndex;

/// How many names of TAPs are looked at.
const TAPS: u32 = 1 << 14;

/// As many slots as are looked through one by one before the steps get wide.
const NEAR: u32 = 32;

/// The name of a user's slot on a bridge, which has its number: a bridge that
/// is made anew has another one.
pub fn name(bridge: IfIndex, user: u32, slot: u32) -> String {
    format!("vmbr{}.{user}.{slot}", bridge.0)
}

/// The first slot whose name is free, as far as `index` can tell: it asks
/// nothing of the kernel that anyone would have to wait for, and knows names
/// of a device's length only. Another helper may take it meanwhile.
pub fn likely(
    bridge: IfIndex,
    user: u32,
    slots: u32,
    index: impl Fn(&IfName) -> std::io::Result<IfIndex>,
) -> Option<u32> {
    order(slots).find(|slot| match name(bridge, user, *slot).parse() {
        Ok(name) => index(&name).is_err(),
        Err(_) => true,
    })
}

/// A name for a TAP that is free, as far as `index` can tell.
pub fn likely_tap(index: impl Fn(&IfName) -> std::io::Result<IfIndex>) -> Option<IfName> {
    order(TAPS).find_map(|number| {
        let name = format!("tap{number}").parse().ok()?;
        index(&name).is_err().then_some(name)
    })
}

/// Every slot once, in the order in which they are tried: the lowest first,
/// so that a quota that gets smaller still meets the TAPs of before; with
/// hundreds in use, wide steps find a free one soon.
pub fn order(slots: u32) -> impl Iterator<Item = u32> {
    let wide = || std::iter::successors(Some(NEAR), |slot| slot.checked_mul(2));
    let near = 0..slots.min(NEAR);
    near.chain(wide().take_while(move |slot| *slot < slots))
        .chain((NEAR..slots).filter(|slot| !slot.is_power_of_two()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_tried_once() {
        for slots in [1, 2, 31, 32, 33, 64, 65, 1023] {
            let mut tried: Vec<u32> = order(slots).collect();
            let first_far = tried.get(33).copied();
            assert!(first_far.is_none_or(|slot| slot == 64 || slots <= 64));
            tried.sort_unstable();
            assert_eq!(tried, (0..slots).collect::<Vec<_>>());
        }
        assert_eq!(order(3).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn the_longest_name_is_one() {
        // ALTIFNAMSIZ of include/uapi/linux/if.h.
        assert!(name(IfIndex(u32::MAX), u32::MAX, 1022).len() < 128);
    }
}
