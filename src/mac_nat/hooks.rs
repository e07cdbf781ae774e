//! Which program belongs to which device, and how it gets there and away.
//!
//! From Linux 6.6 on a device holds programs by itself (tcx); before, they
//! are filters of a `clsact` qdisc. A qdisc that vmbr has made for them goes
//! with them, and one that somebody else had made stays: the filters' names
//! tell which it is.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::MacNatError;
use crate::sys::bpf::{self, Hook, ProgramInfo};
use crate::sys::netdev::IfIndex;
use crate::sys::rtnl::{Filter, Rtnl};

/// Behind the name of a filter whose qdisc is vmbr's, too.
const OWN_QDISC: &str = "+clsact";

/// At the bridge.
pub(super) const BRIDGE_IN: &str = "vmbr_bridge_in";

/// How a device holds a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By itself.
    Tcx,
    /// As a filter of its `clsact` qdisc.
    Clsact,
}

/// The place of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The program.
    pub name: &'static str,
    /// The device.
    pub device: IfIndex,
    /// Its direction.
    pub hook: Hook,
}

/// The places: first those by which frames come back, so that no guest is
/// heard that could not be answered.
pub(super) fn places(uplink: u32, air: u32) -> [Place; 3] {
    let place = |name, device, hook| Place {
        name,
        device: IfIndex(device),
        hook,
    };
    [
        place("vmbr_uplink_in", uplink, Hook::Ingress),
        place("vmbr_uplink_out", uplink, Hook::Egress),
        place("vmbr_air_out", air, Hook::Egress),
    ]
}

/// The place of the program that keeps guests from the host by the bridge
/// itself, where there is a bridge.
pub(super) fn bridge_place(air: u32) -> Result<Option<Place>, MacNatError> {
    let master = bridges_of([air])?.remove(&air).flatten();
    Ok(master.map(|device| Place {
        name: BRIDGE_IN,
        device,
        hook: Hook::Ingress,
    }))
}

/// On which bridge each of these ports is, if on any; those that are gone are
/// left out.
pub(super) fn bridges_of(
    ports: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Option<IfIndex>>, MacNatError> {
    let asked = |port: u32, error: io::Error| MacNatError {
        message: format!("asking for the bridge of {}: {error}", name_of(IfIndex(port))),
        remedy: remedy(&error),
    };
    let mut found = BTreeMap::new();
    let mut rtnl = None;
    for port in ports {
        let rtnl = match &mut rtnl {
            Some(open) => open,
            none => none.insert(Rtnl::open().map_err(|error| asked(port, error))?),
        };
        match rtnl.master(IfIndex(port)) {
            Ok(master) => {
                found.insert(port, master);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(asked(port, error)),
        }
    }
    Ok(found)
}

/// A program that stands at its place.
#[derive(Debug)]
pub(super) struct Standing {
    /// Itself.
    pub program: OwnedFd,
    /// What it is.
    pub info: ProgramInfo,
    filter: Option<Filter>,
}

impl Standing {
    /// How it is held.
    pub fn way(&self) -> Way {
        match self.filter {
            Some(_) => Way::Clsact,
            None => Way::Tcx,
        }
    }
}

impl Place {
    /// What stands there; nothing where the device is gone, too.
    pub fn standing(&self) -> Result<Vec<Standing>, MacNatError> {
        match self.look() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
            done => done.map_err(|error| self.failure("looking for", &error)),
        }
    }

    fn look(&self) -> io::Result<Vec<Standing>> {
        let mut found = Vec::new();
        for id in bpf::attached(self.device, self.hook)? {
            found.extend(self.ours(id, None)?);
        }
        for filter in Rtnl::open()?.programs(self.device, self.hook)? {
            if filter.name.trim_end_matches(OWN_QDISC) == self.name {
                found.extend(self.ours(filter.program, Some(filter))?);
            }
        }
        Ok(found)
    }

    fn ours(&self, id: u32, filter: Option<Filter>) -> io::Result<Option<Standing>> {
        let program = match bpf::program(id) {
            // It has just gone.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            done => done?,
        };
        let info = bpf::info(program.as_fd())?;
        Ok((info.name == self.name).then_some(Standing {
            program,
            info,
            filter,
        }))
    }

    /// Puts a program there; by which way is up to the kernel, unless one is
    /// said.
    pub fn attach(&self, program: BorrowedFd<'_>, way: Option<Way>) -> Result<(), MacNatError> {
        let standing = self.standing()?;
        let way = way.or(standing.first().map(Standing::way));
        let before = standing.iter().find(|one| one.way() == Way::Tcx);
        let done = match way {
            Some(Way::Clsact) => self.attach_filter(program),
            Some(Way::Tcx) => self.attach_to_device(program, before),
            None => match self.attach_to_device(program, before) {
                // Before Linux 6.6 this is no place for programs.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.attach_filter(program),
                done => done,
            },
        };
        done.map_err(|error| self.failure("attaching", &error))
    }

    fn attach_to_device(&self, program: BorrowedFd<'_>, before: Option<&Standing>) -> io::Result<()> {
        let instead = before.map(|standing| standing.program.as_fd());
        bpf::attach(self.device, self.hook, program, instead)
    }

    fn attach_filter(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let rtnl = Rtnl::open()?;
        let made = rtnl.add_clsact(self.device)?;
        // Of the two filters of the uplink one alone has made the qdisc, and a
        // filter that is replaced keeps what its name says.
        let kept = rtnl
            .programs(self.device, self.hook)?
            .iter()
            .any(|filter| filter.name.strip_suffix(OWN_QDISC) == Some(self.name));
        let mark = if made || kept { OWN_QDISC } else { "" };
        rtnl.add_program(self.device, self.hook, program, &format!("{}{mark}", self.name))
    }

    /// Takes away what stands there.
    pub fn detach(&self) -> Result<(), MacNatError> {
        for standing in self.standing()? {
            match self.take(&standing) {
                // Somebody was faster.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                done => done.map_err(|error| self.failure("detaching", &error))?,
            }
        }
        Ok(())
    }

    fn take(&self, standing: &Standing) -> io::Result<()> {
        let Some(filter) = &standing.filter else {
            return bpf::detach(self.device, self.hook, standing.program.as_fd());
        };
        let rtnl = Rtnl::open()?;
        rtnl.remove_program(self.device, self.hook, filter)?;
        // The mark moves to the other filter of ours while there is one.
        if !filter.name.ends_with(OWN_QDISC) {
            return Ok(());
        }
        if rtnl.clsact_is_empty(self.device)? {
            return rtnl.remove_clsact(self.device);
        }
        let other = match self.hook {
            Hook::Ingress => Hook::Egress,
            Hook::Egress => Hook::Ingress,
        };
        for filter in rtnl.programs(self.device, other)? {
            let program = bpf::program(filter.program)?;
            if bpf::info(program.as_fd())?.name == filter.name && filter.name.starts_with("vmbr_") {
                let name = format!("{}{OWN_QDISC}", filter.name);
                rtnl.add_program(self.device, other, program.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    fn failure(&self, doing: &str, error: &io::Error) -> MacNatError {
        let direction = match self.hook {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        };
        MacNatError {
            message: format!(
                "{doing} {} at the {direction} of {}: {error}",
                self.name,
                name_of(self.device)
            ),
            remedy: remedy(error),
        }
    }
}

/// What helps where the kernel says no.
pub(super) fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Some("run it as root, with CAP_NET_ADMIN and CAP_BPF"),
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENOSYS) => Some(
            "this kernel lacks BPF at traffic control: CONFIG_BPF_SYSCALL, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF",
        ),
        Some(libc::ENODEV) => Some("the device is gone: run vmbr up again"),
        _ => None,
    }
}

/// The name of a device, for people.
pub(super) fn name_of(device: IfIndex) -> String {
    nix::net::if_::if_indextoname(device.0)
        .ok()
        .and_then(|name| name.into_string().ok())
        // That is what it makes of one that is gone.
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("the device with index {}", device.0))
}
