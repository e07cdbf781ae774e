//! A guard given to the kernel, and read back.
//!
//! The filters hang on a `clsact` qdisc of the TAP (net/sched/sch_ingress.c),
//! which goes with it. Layouts: include/uapi/linux/{rtnetlink,pkt_sched,
//! pkt_cls,neighbour}.h.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

use macaddr::MacAddr6;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::guard::{Guard, Instruction, program};

use super::{
    HEADER, IFLA_PROTINFO, NLA_F_NESTED, NLM_F_ACK, NLMSG_ERROR, RTM_SETLINK, Rtnl, attribute, find, message,
    request, u16_at, u32_at,
};
use crate::sys::netdev::IfIndex;

const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
pub(super) const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_GETTFILTER: u16 = 46;

const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_LOCKED: u16 = 39;

const NDA_LLADDR: u16 = 2;
const NTF_MASTER: u8 = 0x04;
const NTF_STICKY: u8 = 0x40;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
pub(super) const TCA_BPF_FLAGS: u16 = 8;
pub(super) const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// `TC_H_CLSACT`: the qdisc's parent, and its own handle with nothing below.
pub(super) const CLSACT: u32 = 0xffff_fff1;
pub(super) const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`
pub(super) const INGRESS: u32 = 0xffff_fff2;
/// `ETH_P_ALL`
pub(super) const EVERY_PROTOCOL: u16 = 3;
pub(super) const TCMSG: usize = 20;

/// The filter that lets pass is asked first, of all that there are.
const PASSES: u16 = 1;
/// The one that drops what the first did not let pass.
const DROPS: u16 = 2;

impl Rtnl {
    /// Guards a TAP that is a port of a bridge. It must be down: what it sends
    /// before would not be held to anything. Needs CAP_NET_ADMIN.
    ///
    /// The filter at its ingress is the guard. Beside it the bridge learns
    /// nothing from the port and has the guest's MAC fixed on it, where no
    /// other port's frame can move it away ("sticky", `br_fdb_update()`,
    /// net/bridge/br_fdb.c); from Linux 5.16 on the port takes frames of that
    /// MAC only ("locked").
    ///
    /// # Errors
    /// ENOENT or EOPNOTSUPP where the kernel was built without such filters
    /// (`CONFIG_NET_CLS_BPF`, `CONFIG_NET_SCH_INGRESS`); EEXIST where another
    /// port of the bridge has the MAC fixed on it; ENODEV.
    pub fn guard(&self, port: IfIndex, guard: &Guard) -> io::Result<()> {
        self.hold(port, guard)?;
        self.pin(port, guard.mac)
    }

    /// The filter of it alone.
    ///
    /// # Errors
    /// As of [`Rtnl::guard`], but for EEXIST.
    pub fn hold(&self, port: IfIndex, guard: &Guard) -> io::Result<()> {
        let qdisc = tc(
            RTM_NEWQDISC,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            port,
            (CLSACT_HANDLE, CLSACT, 0),
            &attribute(TCA_KIND, b"clsact\0"),
        );
        match self.acknowledged(&qdisc) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            done => done?,
        }
        // What drops comes first: there is no moment without.
        self.filter(port, DROPS, &program::DROP, TCA_BPF_FLAG_ACT_DIRECT)?;
        self.filter(port, PASSES, &program::write(guard), 0)
    }

    fn acknowledged(&self, message: &[u8]) -> io::Result<()> {
        self.ask(message, |kind, _| (kind == NLMSG_ERROR).then_some(()))
    }

    fn filter(&self, port: IfIndex, order: u16, program: &[Instruction], flags: u32) -> io::Result<()> {
        let length =
            u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let bytes: Vec<u8> = program.iter().flat_map(|one| one.to_bytes()).collect();
        let options = [
            attribute(TCA_BPF_OPS_LEN, &length.to_ne_bytes()),
            attribute(TCA_BPF_OPS, &bytes),
            attribute(TCA_BPF_FLAGS, &flags.to_ne_bytes()),
        ];
        let attributes = [
            attribute(TCA_KIND, b"bpf\0"),
            attribute(TCA_OPTIONS | NLA_F_NESTED, &options.concat()),
        ];
        self.acknowledged(&tc(
            RTM_NEWTFILTER,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            port,
            (1, INGRESS, info(order)),
            &attributes.concat(),
        ))
    }

    /// Fixes a MAC on a port.
    fn pin(&self, port: IfIndex, mac: MacAddr6) -> io::Result<()> {
        let entry = |flags| {
            neighbour(
                RTM_NEWNEIGH,
                NLM_F_ACK | flags,
                port,
                NTF_MASTER | NTF_STICKY,
                mac,
            )
        };
        match self.acknowledged(&entry(NLM_F_CREATE | NLM_F_EXCL)) {
            // One that the bridge learned somewhere moves here; one that was
            // fixed is another guest's.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && !self.is_fixed(port, mac)? => {
                self.acknowledged(&entry(NLM_F_CREATE | NLM_F_REPLACE))?;
            }
            done => done?,
        }
        let options = [
            attribute(IFLA_BRPORT_LEARNING, &[0]),
            attribute(IFLA_BRPORT_LOCKED, &[1]),
        ];
        let info = attribute(IFLA_PROTINFO | NLA_F_NESTED, &options.concat());
        self.acknowledged(&message(
            RTM_SETLINK,
            NLM_F_ACK,
            libc::AF_BRIDGE as u8,
            port,
            &info,
        ))
    }

    /// Whether the table of the port's bridge has an entry for a MAC that
    /// somebody made, and not the bridge itself.
    fn is_fixed(&self, port: IfIndex, mac: MacAddr6) -> io::Result<bool> {
        let question = neighbour(RTM_GETNEIGH, 0, port, NTF_MASTER, mac);
        let state = self.ask(&question, |kind, body| {
            // struct ndmsg: family, padding, ifindex, state.
            (kind == RTM_NEWNEIGH).then(|| u16_at(body, 8).unwrap_or(NUD_NOARP))
        });
        match state {
            Ok(state) => Ok(state & (NUD_NOARP | NUD_PERMANENT) != 0),
            // It is gone again.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The devices that can have a guard: they have the qdisc for it. With a
    /// thousand ports this is one question instead of one for each.
    ///
    /// # Errors
    /// As of send(2) and recv(2), or what the kernel answers.
    pub fn guardable(&self) -> io::Result<BTreeSet<IfIndex>> {
        let mut found = BTreeSet::new();
        self.dump(
            &tc(RTM_GETQDISC, NLM_F_DUMP, IfIndex(0), (0, 0, 0), &[]),
            |kind, body| {
                // struct tcmsg: family, padding, ifindex, handle, parent.
                if kind == RTM_NEWQDISC && u32_at(body, 12) == Some(CLSACT) {
                    found.extend(u32_at(body, 4).map(IfIndex));
                }
            },
        )?;
        Ok(found)
    }

    /// The guard of a device; none where it has none of vmbr's. Needs no
    /// capability.
    ///
    /// # Errors
    /// As of send(2) and recv(2), or what the kernel answers.
    pub fn guard_of(&self, device: IfIndex) -> io::Result<Option<Guard>> {
        // A program is longer than what the kernel makes room for in the first
        // part of an answer, unless it has seen the size of the buffer.
        self.ask(&message(super::RTM_GETLINK, 0, 0, device, &[]), |_, _| Some(()))?;
        let mut found = None;
        let question = tc(
            RTM_GETTFILTER,
            NLM_F_DUMP,
            device,
            (0, INGRESS, info(PASSES)),
            &[],
        );
        let asked = self.dump(&question, |kind, body| {
            if kind == RTM_NEWTFILTER && found.is_none() {
                found = guard(body);
            }
        });
        match asked {
            // There is no such qdisc.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(None),
            done => done.map(|()| found),
        }
    }

    /// Asks for everything of a kind, and gives each answer to `take`.
    pub(super) fn dump(&self, question: &[u8], mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        send(self.0.as_raw_fd(), question, MsgFlags::empty())?;
        let mut buffer = vec![0; super::ANSWER];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
                let length = (length as usize).max(HEADER);
                let body = rest.get(HEADER..length).unwrap_or_default();
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = u32_at(body, 0).unwrap_or_default().cast_signed();
                        return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                    }
                    kind => take(kind, body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// The guard of a filter's description.
fn guard(body: &[u8]) -> Option<Guard> {
    let options = find(body.get(TCMSG..)?, TCA_OPTIONS)?;
    let bytes = find(options, TCA_BPF_OPS)?;
    let instructions = bytes
        .chunks_exact(8)
        .filter_map(|chunk| Some(Instruction::from_bytes(chunk.try_into().ok()?)));
    program::read(&instructions.collect::<Vec<_>>())
}

/// `tcm_info`: a filter's place among others, and which protocols it is for.
fn info(order: u16) -> u32 {
    u32::from(order) << 16 | u32::from(EVERY_PROTOCOL.to_be())
}

/// `nlmsghdr`, `tcmsg`, and the attributes as they are given.
pub(super) fn tc(
    kind: u16,
    flags: u16,
    device: IfIndex,
    (handle, parent, info): (u32, u32, u32),
    attributes: &[u8],
) -> Vec<u8> {
    let mut body = vec![0; 4]; // family, padding
    for number in [device.0, handle, parent, info] {
        body.extend_from_slice(&number.to_ne_bytes());
    }
    body.extend_from_slice(attributes);
    request(kind, flags, &body)
}

/// `nlmsghdr`, `ndmsg`, and a MAC: of an entry of a bridge's table that does
/// not age.
fn neighbour(kind: u16, flags: u16, port: IfIndex, what: u8, mac: MacAddr6) -> Vec<u8> {
    let mut body = vec![libc::AF_BRIDGE as u8, 0, 0, 0];
    body.extend_from_slice(&port.0.to_ne_bytes());
    // A question that says a state is none.
    let state = if kind == RTM_GETNEIGH { 0 } else { NUD_NOARP };
    body.extend_from_slice(&state.to_ne_bytes());
    body.extend_from_slice(&[what, 0]); // flags, type
    body.extend_from_slice(&attribute(NDA_LLADDR, mac.as_bytes()));
    request(kind, flags, &body)
}
