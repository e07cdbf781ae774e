//! `vmbr-helper`: makes a TAP for an unprivileged QEMU.
//!
//! # Theory of operation
//!
//! QEMU, or libvirt's session daemon, runs this program as the user, with one
//! end of a socket pair. It answers with a TAP's descriptor and exit status 0,
//! or with a sentence on stderr and another status. The user is the
//! adversary: he chooses the arguments, the environment, the open
//! descriptors, the limits, the signals and the moment. In return the program
//! does one thing, in a straight line (`serve`), in these stages:
//!
//! 1. **Look, as the caller.** Arguments and the inherited socket are checked
//!    before anything is opened. (Descriptors 0 to 2 are open by then: the
//!    Rust runtime opens /dev/null for those that are not, so nothing that is
//!    opened later can become the stdin or stderr of somebody.)
//! 2. **Give up.** Of all capabilities CAP_NET_ADMIN alone stays, and is
//!    merely permitted: it counts for nothing until it is raised. It came
//!    from the file (`setcap cap_net_admin=p`) or from root. A setuid or
//!    setgid copy is refused: it would read the ACL with rights that are not
//!    the caller's.
//! 3. **Decide**, as the caller: the ACL is read with his credentials, so its
//!    files' permissions are part of the policy. Until it has allowed the
//!    bridge, nothing is asked about any device, and every denial reads the
//!    same to the caller; the administrator has the reason in the log.
//! 4. **Open** what is needed, still as the caller, then close the door: the
//!    seccomp filter leaves the few calls that stage 5 and 6 make.
//! 5. **Act**, with CAP_NET_ADMIN raised by a guard: make the TAP, and put it
//!    on the bridge. Then the capability is given up for good.
//! 6. **Hand over**, as the last thing: the one way to exit status 0 is the
//!    value [`Sent`], which only a completed sendmsg makes.
//!
//! Nothing is undone by hand. The TAP lives by its descriptors, so whatever
//! ends the process before stage 6, a signal too, removes it.
//!
//! Where the file capability gives nothing, a service does the same for who
//! connects to it: `service` (its file) has how it comes to stage 2.
//!
//! The environment is never read. There is one thread, no temporary file, no
//! other program, and no state on disk.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use nix::unistd::{Uid, getresgid, getresuid};

use crate::sys::caps::NetAdmin;
use crate::sys::fdpass::{ReplySocket, Sent};
use crate::sys::ids;
use crate::sys::netdev::Control;
use crate::sys::rtnl::Rtnl;
use crate::sys::seccomp::{self, Open};
use crate::sys::syslog::{Facility, Log, Severity};
use crate::sys::tap::Tun;

pub mod acl;
pub mod args;
mod failure;
mod make;
mod port;
mod service;
mod slots;

use acl::Caller;
use args::{Command, Request};
use failure::Failure;
use make::Maker;
use port::Port;

/// How the program ends well.
enum Done {
    /// The descriptors were handed over.
    Gave(Sent),
    /// It was asked for this text by hand, and for nothing else.
    Told(String),
}

/// Runs the helper.
pub fn main() -> ExitCode {
    // A panic is a defect. Its message would be for whoever can cause it, and
    // the standard one reads the environment.
    std::panic::set_hook(Box::new(|_| {}));
    // stderr and stdout may be closed, full, or pipes that nobody reads: what
    // cannot be said there does not change the outcome.
    match run() {
        Ok(Done::Gave(Sent { .. })) => ExitCode::SUCCESS,
        Ok(Done::Told(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(failure) => {
            let text = format!("vmbr-helper: {}\n", failure.told());
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(failure.status())
        }
    }
}

fn run() -> Result<Done, Failure> {
    match args::parse(std::env::args_os().skip(1)).map_err(Failure::Usage)? {
        Command::Give(fd, request) => {
            let reply = ReplySocket::inherited(fd).map_err(|why| Failure::no_socket(fd, why))?;
            let caller = Teller::new()?;
            caller.tell_of(&request, give(&request, reply, &caller))
        }
        Command::Serve => {
            let connection = service::accept()?;
            let served = Teller::new().and_then(|caller| {
                let request = service::hear(connection)?;
                caller.tell_of(&request, serve(&request, connection, &caller))
            });
            if let Err(failure) = &served {
                // Who is gone needs no answer.
                let _ = connection.refuse(failure.status(), &failure.told());
            }
            served
        }
        Command::Help => Ok(Done::Told(args::USAGE.to_owned())),
        Command::Version => Ok(Done::Told(format!("vmbr-helper {}\n", env!("CARGO_PKG_VERSION")))),
    }
}

/// The caller, and the log that hears of him.
struct Teller {
    user: Uid,
    log: Option<Log>,
}

impl Teller {
    fn new() -> Result<Self, Failure> {
        let ids = getresuid().map_err(|e| Failure::refused("cannot ask for the user", e.into()))?;
        Ok(Self {
            user: ids.real,
            // A host without a log daemon must still be able to start guests.
            log: Log::connect(Facility::AuthPriv, "vmbr-helper").ok(),
        })
    }

    fn tell(&self, severity: Severity, request: &Request, text: &str) {
        if let Some(log) = &self.log {
            let about = format!("uid {}, bridge {}", self.user, request.bridge);
            let _ = log.send(severity, &format!("{about}: {text}"));
        }
    }

    fn tell_of(&self, request: &Request, served: Result<Sent, Failure>) -> Result<Done, Failure> {
        match &served {
            Ok(_) | Err(Failure::Elsewhere(..)) => {}
            Err(failure) => self.tell(failure.severity(), request, &failure.logged()),
        }
        served.map(Done::Gave)
    }
}

/// Serves it, or has the service serve it where this process may not.
fn give(request: &Request, reply: ReplySocket, caller: &Teller) -> Result<Sent, Failure> {
    match serve(request, reply, caller) {
        Err(failure @ Failure::NoCapability(_)) => {
            let descriptors = service::ask(request).ok_or(failure)??;
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            reply
                .send(&borrowed)
                .map_err(|e| Failure::failed("cannot send the descriptor", e))
        }
        served => served,
    }
}

/// Stages 2 to 6, in a straight line.
fn serve(request: &Request, reply: ReplySocket, caller: &Teller) -> Result<Sent, Failure> {
    // Stage 2: give up.
    refuse_setuid(caller.user)?;
    let privilege = NetAdmin::keep_only().map_err(Failure::no_capability)?;

    // Stage 3: decide.
    let granted = acl::check(&request.bridge, &identity(caller.user)?).map_err(Failure::Denied)?;
    let port = port::decide(request, &granted).map_err(Failure::beyond)?;

    // Stage 4: open, and close the door.
    let mut tuns = Vec::with_capacity(request.queues as usize);
    for _ in 0..request.queues {
        tuns.push(Tun::open().map_err(Failure::no_tun)?);
    }
    let control = Control::open().map_err(|e| Failure::refused("cannot make a socket", e))?;
    let rtnl = if request.queues > 1 || port != Port::default() {
        // rtnetlink obeys a sender who has the capability on a socket that
        // was opened with it; neither is enough alone.
        let _raised = privilege.raise().map_err(Failure::no_capability)?;
        Some(Rtnl::open().map_err(|e| Failure::refused("cannot open rtnetlink", e))?)
    } else {
        None
    };
    let open = Open {
        reply: reply.as_fd(),
        log: caller.log.as_ref().map(AsFd::as_fd),
        rtnl: rtnl.as_ref().map(AsFd::as_fd),
    };
    seccomp::confine(&open).map_err(Failure::no_filter)?;

    // Asked without the capability, with which the kernel would look for a
    // module of a name that no device has (dev_load, net/core/dev_ioctl.c).
    let likely_slot = port.slots.and_then(|slots| {
        let bridge = control.index(&request.bridge).ok()?;
        slots::likely(bridge, caller.user.as_raw(), slots, |name| control.index(name))
    });
    let likely_tap = slots::likely_tap(|name| control.index(name));

    // Stage 5: act.
    let raised = privilege.raise().map_err(Failure::no_capability)?;
    let maker = Maker {
        request,
        port: &port,
        caller: caller.user,
        control: &control,
        rtnl: rtnl.as_ref(),
        likely_slot,
        likely_tap,
    };
    let (tap, queues) = maker.make(tuns)?;
    drop(raised);
    privilege.give_up().map_err(Failure::no_capability)?;

    // Stage 6: hand over.
    let said = format!("hands over {} (allowed by {})", tap.name(), granted.place);
    caller.tell(Severity::Info, request, &said);
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![tap.as_fd()];
    descriptors.extend(queues.iter().map(AsFd::as_fd));
    reply
        .send(&descriptors)
        .map_err(|e| Failure::failed("cannot send the descriptor", e))
}

/// Refuses to run with other ids than the caller's.
fn refuse_setuid(caller: Uid) -> Result<(), Failure> {
    let users = getresuid().map_err(|e| Failure::refused("cannot ask for the user", e.into()))?;
    let groups = getresgid().map_err(|e| Failure::refused("cannot ask for the group", e.into()))?;
    let same_user = users.effective == caller && users.saved == caller;
    let same_group = groups.effective == groups.real && groups.saved == groups.real;
    if same_user && same_group {
        Ok(())
    } else {
        Err(Failure::setuid())
    }
}

/// The caller's ids, which are this process's.
fn identity(user: Uid) -> Result<Caller, Failure> {
    let ask = |e: std::io::Error| Failure::refused("cannot ask for the groups", e);
    let mut groups = ids::groups().map_err(ask)?;
    groups.push(getresgid().map_err(|e| ask(e.into()))?.real);
    Ok(Caller {
        user: user.as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
    })
}
