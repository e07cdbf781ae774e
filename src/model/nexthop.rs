//! Nexthop objects: ways out that many routes share, by number.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Family, Hop, IfName, RawAttribute, is_default};

/// A member of a group of nexthop objects (`struct nexthop_grp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member's number.
    pub id: u32,
    /// Its weight among the others, counted from 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: u16,
}

/// A nexthop object (include/uapi/linux/nexthop.h): one way out, or a group of
/// others. What has neither a device nor members leads nowhere (blackhole) or
/// is of a bridge's table, and is no device's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nexthop {
    /// Its number, by which routes name it.
    pub id: u32,
    /// The family of the routes that can use it; none for a group.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: Option<Family>,
    /// `RTPROT_*`: who made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: u8,
    /// The device.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dev: Option<IfName>,
    /// The gateway, of either family.
    #[serde(default, skip_serializing_if = "is_default")]
    pub via: Option<IpAddr>,
    /// The gateway is on the link whatever the routes say (`RTNH_F_ONLINK`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub onlink: bool,
    /// The members of a group.
    #[serde(default, skip_serializing_if = "is_default")]
    pub members: Vec<Member>,
    /// Every other attribute, an encapsulation's among them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rest: Vec<RawAttribute>,
}

impl Nexthop {
    /// Whether it is a group of others.
    pub fn is_group(&self) -> bool {
        !self.members.is_empty()
    }

    /// Whether it leaves by `device` itself.
    pub fn uses(&self, device: &IfName) -> bool {
        self.dev.as_ref() == Some(device)
    }

    /// The same object with `to` where it leaves by `from`.
    pub fn renamed(&self, from: &IfName, to: &IfName) -> Self {
        let dev = if self.uses(from) {
            Some(to)
        } else {
            self.dev.as_ref()
        };
        Self {
            dev: dev.cloned(),
            ..self.clone()
        }
    }
}

/// The ways out of a route that uses the object `id`, as a route without
/// objects has them.
pub fn hops(objects: &[Nexthop], id: u32) -> Vec<Hop> {
    let find = |id: u32| objects.iter().find(|object| object.id == id);
    let hop = |object: &Nexthop, weight: u16| Hop {
        dev: object.dev.clone(),
        via: object.via,
        weight: u8::try_from(weight).unwrap_or(u8::MAX),
        onlink: object.onlink,
        rest: Vec::new(),
    };
    match find(id) {
        Some(object) if object.is_group() => {
            let members = object.members.iter();
            members
                .filter_map(|m| find(m.id).map(|object| hop(object, m.weight)))
                .collect()
        }
        Some(object) => vec![hop(object, 0)],
        None => Vec::new(),
    }
}

/// What of `objects` a device carries: its own, and the groups that have one
/// of these as a member. Groups come last: their members must be there.
pub fn of_device(objects: &[Nexthop], device: &IfName) -> Vec<Nexthop> {
    let own: Vec<&Nexthop> = objects.iter().filter(|object| object.uses(device)).collect();
    let has_own = |group: &&Nexthop| {
        let mut members = group.members.iter();
        members.any(|member| own.iter().any(|object| object.id == member.id))
    };
    let groups = objects.iter().filter(has_own);
    own.iter().copied().chain(groups).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Vec<Nexthop> {
        let text = r#"[
            {"id": 1, "family": "v4", "dev": "eth0", "via": "192.0.2.1"},
            {"id": 2, "family": "v4", "dev": "eth1", "via": "198.51.100.1"},
            {"id": 3, "family": "v4"},
            {"id": 10, "members": [{"id": 1, "weight": 4}, {"id": 2}]},
            {"id": 11, "members": [{"id": 2}]}
        ]"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_device_carries_its_objects_and_their_groups() {
        let numbers = |dev: &str| -> Vec<u32> {
            let found = of_device(&objects(), &dev.parse().unwrap());
            found.iter().map(|object| object.id).collect()
        };
        assert_eq!(numbers("eth0"), [1, 10]);
        assert_eq!(numbers("eth1"), [2, 10, 11]);
        assert_eq!(numbers("br0"), [0_u32; 0]);
    }

    #[test]
    fn a_group_leads_by_each_member() {
        let ways = hops(&objects(), 10);
        let told: Vec<_> = ways
            .iter()
            .map(|h| (h.dev.as_ref().unwrap().as_str(), h.weight))
            .collect();
        assert_eq!(told, [("eth0", 4), ("eth1", 0)]);
        assert_eq!(hops(&objects(), 2).len(), 1);
        assert_eq!(hops(&objects(), 9), []);
    }
}
