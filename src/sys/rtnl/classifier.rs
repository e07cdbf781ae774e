//! Programs at a device's `clsact` qdisc (net/sched/cls_bpf.c), for kernels
//! that have no tcx. Layouts: include/uapi/linux/{pkt_sched,pkt_cls}.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::guard::{
    CLSACT, CLSACT_HANDLE, EVERY_PROTOCOL, INGRESS, NLM_F_DUMP, NLM_F_REPLACE, RTM_GETTFILTER, RTM_NEWQDISC,
    RTM_NEWTFILTER, TCA_BPF_FLAG_ACT_DIRECT, TCA_BPF_FLAGS, TCA_KIND, TCA_OPTIONS, TCMSG, tc,
};
use super::{NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLMSG_ERROR, Rtnl, attribute, find, u32_at};
use crate::sys::bpf::Hook;
use crate::sys::netdev::IfIndex;

const RTM_DELQDISC: u16 = 37;
const RTM_DELTFILTER: u16 = 45;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`
const EGRESS: u32 = 0xffff_fff3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// The first priorities, of which one is free of other kinds of filters.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=16;
/// "vmbr", so that no other program of the same priority is meant.
const HANDLE: u32 = 0x766d_6272;

/// A program at a `clsact` qdisc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The number of the program.
    pub program: u32,
    /// What it was called when it was put there.
    pub name: String,
    place: (u32, u32),
}

impl Rtnl {
    /// Makes the qdisc; false where there is one. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENOENT or EOPNOTSUPP where the kernel was built without it
    /// (`CONFIG_NET_SCH_INGRESS`); ENODEV.
    pub fn add_clsact(&self, device: IfIndex) -> io::Result<bool> {
        let kind = attribute(TCA_KIND, b"clsact\0");
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let asked = tc(RTM_NEWQDISC, flags, device, (CLSACT_HANDLE, CLSACT, 0), &kind);
        match self.acknowledge(&asked) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the qdisc with all that hangs on it. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENOENT or EINVAL if there is none, ENODEV.
    pub fn remove_clsact(&self, device: IfIndex) -> io::Result<()> {
        let kind = attribute(TCA_KIND, b"clsact\0");
        self.acknowledge(&tc(
            RTM_DELQDISC,
            NLM_F_ACK,
            device,
            (CLSACT_HANDLE, CLSACT, 0),
            &kind,
        ))
    }

    /// Puts a program to the qdisc, before the programs of others, in place
    /// of the one that was put there so. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENOENT or EOPNOTSUPP where the kernel was built without such filters
    /// (`CONFIG_NET_CLS_BPF`); EINVAL without the qdisc; ENODEV.
    pub fn add_program(
        &self,
        device: IfIndex,
        hook: Hook,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let options = [
            attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
            attribute(TCA_BPF_NAME, &text),
            attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
        ];
        let attributes = [
            attribute(TCA_KIND, b"bpf\0"),
            attribute(TCA_OPTIONS | NLA_F_NESTED, &options.concat()),
        ]
        .concat();
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut last = io::Error::from(io::ErrorKind::InvalidInput);
        for priority in PRIORITIES {
            let place = (HANDLE, parent(hook), info(priority));
            match self.acknowledge(&tc(RTM_NEWTFILTER, flags, device, place, &attributes)) {
                Ok(()) => return Ok(()),
                // Filters of another kind have this priority.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EEXIST)) => {
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The programs of a direction of the qdisc; none where there is no such
    /// qdisc.
    ///
    /// # Errors
    /// As of send(2) and recv(2), or what the kernel answers.
    pub fn programs(&self, device: IfIndex, hook: Hook) -> io::Result<Vec<Filter>> {
        let mut found = Vec::new();
        let asked = self.dump_filters(device, hook, |body| {
            // struct tcmsg: family, padding, ifindex, handle, parent, info.
            let place = u32_at(body, 8).zip(u32_at(body, 16));
            let options = body
                .get(TCMSG..)
                .filter(|attributes| find(attributes, TCA_KIND) == Some(b"bpf\0"))
                .and_then(|attributes| find(attributes, TCA_OPTIONS));
            if let (Some(place), Some(options)) = (place, options) {
                let name = find(options, TCA_BPF_NAME).unwrap_or_default();
                let name = name.strip_suffix(b"\0").unwrap_or(name);
                let program = find(options, TCA_BPF_ID).and_then(|id| u32_at(id, 0));
                found.extend(program.map(|program| Filter {
                    program,
                    name: String::from_utf8_lossy(name).into_owned(),
                    place,
                }));
            }
        });
        asked.map(|()| found)
    }

    /// Whether the qdisc has no filters, of whatever kind.
    ///
    /// # Errors
    /// As of [`Rtnl::programs`].
    pub fn clsact_is_empty(&self, device: IfIndex) -> io::Result<bool> {
        let mut empty = true;
        for hook in [Hook::Ingress, Hook::Egress] {
            self.dump_filters(device, hook, |_| empty = false)?;
        }
        Ok(empty)
    }

    /// Takes a program away. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// ENOENT if it is not there, ENODEV.
    pub fn remove_program(&self, device: IfIndex, hook: Hook, filter: &Filter) -> io::Result<()> {
        let (handle, info) = filter.place;
        let kind = attribute(TCA_KIND, b"bpf\0");
        let place = (handle, parent(hook), info);
        self.acknowledge(&tc(RTM_DELTFILTER, NLM_F_ACK, device, place, &kind))
    }

    fn dump_filters(&self, device: IfIndex, hook: Hook, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let asked = tc(RTM_GETTFILTER, NLM_F_DUMP, device, (0, parent(hook), 0), &[]);
        let done = self.dump(&asked, |kind, body| {
            if kind == RTM_NEWTFILTER {
                take(body);
            }
        });
        match done {
            // There is no such qdisc.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
            done => done,
        }
    }

    fn acknowledge(&self, message: &[u8]) -> io::Result<()> {
        self.ask(message, |kind, _| (kind == NLMSG_ERROR).then_some(()))
    }
}

fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => INGRESS,
        Hook::Egress => EGRESS,
    }
}

/// `tcm_info`: the place among others, and which protocols it is for.
fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(EVERY_PROTOCOL.to_be())
}
