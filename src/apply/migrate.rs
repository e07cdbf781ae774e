//! The way to a target.

use std::borrow::Cow;
use std::io;

use nix::sys::signal::{SigSet, Signal};

use crate::handover::HandoverError;
use crate::model::{HostState, IfName, Network};
use crate::netlink::changes::Changes;
use crate::netlink::dump;
use crate::plan::{Plan, Stage, Target, plan, verify};

use super::executor::{Executor, Failure};

/// How often a plan is made anew: the kernel may add to what one did (a
/// prefix route that someone had removed comes back with its address).
const ROUNDS: usize = 4;
/// How often a host that differs in the end is looked at: a look at one that
/// changes can lack what is there.
const LOOKS: usize = 3;

/// How often the device that is about to lose its network is looked at until
/// nothing changes meanwhile.
const LAST_LOOKS: usize = 10;

/// Why a target was not reached.
#[derive(Debug)]
pub enum MigrateError {
    /// The host's network could not be read.
    Read(io::Error),
    /// An operation failed.
    Failed(Failure),
    /// All was done, and yet the host differs, told in sentences.
    Differs(Vec<String>),
    /// Someone else changed what was to be moved, this of it, before anything
    /// was taken away.
    Restless(String),
    /// The device that carried what was to be moved was set down, and lost it,
    /// before anything was taken away.
    Fell(IfName),
    /// The uplink of a bridge with MAC-NAT is gone.
    Gone(IfName),
    /// All was done, but what was reached before does not answer.
    Unverified(String),
    /// All was done, but who configured the old holder would not take the new.
    NotHandedOver(HandoverError),
    /// All was done, but guests came meanwhile to the bridge that was to go:
    /// these.
    Joined(String),
    /// All was done, but that could not be written down.
    Unwritten(io::Error),
}

impl std::fmt::Display for MigrateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Restless(what) => write!(
                f,
                "the host's network does not hold still: {what} changed in the middle"
            ),
            Self::Fell(dev) => write!(
                f,
                "{dev} was set down in the middle, and lost its routes with that"
            ),
            Self::Gone(dev) => write!(f, "the uplink {dev} is gone"),
            Self::Unverified(sentence) => f.write_str(sentence),
            Self::NotHandedOver(error) => error.fmt(f),
            Self::Joined(names) => write!(f, "guests came to the bridge meanwhile: {names}"),
            Self::Unwritten(error) => write!(f, "cannot write the record: {error}"),
            Self::Differs(sentences) => {
                write!(f, "the host is not as it should be: {}", sentences.join("; "))
            }
        }
    }
}

impl std::error::Error for MigrateError {}

/// Leads the host to `target`: looks, plans, acts, until nothing is left to
/// do, and compares in the end. `from` is what the old holder carries, where
/// the target was made of that: it is taken away only if it is still so.
/// `adjust` may add to each plan, `check` is asked when the target's holder has
/// everything and what served only the way still stands, and `report` hears of
/// each stage.
///
/// The caller holds back the signals that end the program ([`HeldSignals`]):
/// between two operations the host would be between two states.
///
/// # Errors
/// [`MigrateError`]; the host may then be anywhere between. With
/// [`MigrateError::Restless`] the old holder still has everything, with
/// [`MigrateError::Fell`] what the kernel left it.
pub fn reach(
    target: &Target,
    from: Option<&Network>,
    adjust: &dyn Fn(&mut Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    report: &mut dyn FnMut(Stage),
) -> Result<(), MigrateError> {
    lead(&|_| Cow::Borrowed(target), target, from, adjust, check, report)
}

/// Leads back where nothing was taken away yet: the target's holder keeps the
/// network that it has, whoever changes that meanwhile, and what was prepared
/// goes.
///
/// # Errors
/// As of [`reach`].
pub fn stay(target: &Target) -> Result<(), MigrateError> {
    let as_it_is = |live: &HostState| {
        let network = Network {
            sysctls: target.network.sysctls.clone(),
            ..Network::of(live, target.holder_name())
        };
        Cow::Owned(Target {
            network,
            ..target.clone()
        })
    };
    lead(&as_it_is, target, None, &|_| {}, &mut || Ok(()), &mut |_| {})
}

/// Leads on where the holder has had the network already, and those who
/// configure it may have had their hand on it since: what they have set there
/// stands, whenever they do it.
///
/// # Errors
/// As of [`reach`].
pub fn complete(target: &Target, adjust: &dyn Fn(&mut Plan)) -> Result<(), MigrateError> {
    let unless_there = |live: &HostState| {
        let now = Network::of(live, target.holder_name());
        Cow::Owned(Target {
            network: target.network.unless_there(&now),
            ..target.clone()
        })
    };
    lead(&unless_there, target, None, adjust, &mut || Ok(()), &mut |_| {})
}

/// As [`reach`], to what `aim` makes of each look. `devices` are those of this
/// target.
fn lead<'a>(
    aim: &dyn Fn(&HostState) -> Cow<'a, Target>,
    devices: &Target,
    from: Option<&Network>,
    adjust: &dyn Fn(&mut Plan),
    check: &mut dyn FnMut() -> Result<(), MigrateError>,
    report: &mut dyn FnMut(Stage),
) -> Result<(), MigrateError> {
    let look = || dump::snapshot(&[&devices.uplink, &devices.bridge.name]).map_err(MigrateError::Read);
    let mut executor = Executor::new().map_err(MigrateError::Read)?;
    let mut run = |plan: &Plan| executor.execute(plan, report).map_err(MigrateError::Failed);
    let mut live = look()?;
    for round in 0..ROUNDS {
        let target = aim(&live);
        let mut plan = plan(&live, &target);
        adjust(&mut plan);
        if plan.is_empty() {
            break;
        }
        let tidy = plan.split_off(Stage::Tidy);
        // From then on the old holder has nothing.
        if let Some(from) = from.filter(|_| round == 0) {
            stands(&live, from)?;
            let flip = plan.split_off(Stage::Flip);
            run(&plan)?;
            stays(&live, from)?;
            plan = flip;
        }
        run(&plan)?;
        check()?;
        run(&tidy)?;
        live = look()?;
    }
    for _ in 1..LOOKS {
        if verify::differences(&live, &aim(&live)).is_empty() {
            return Ok(());
        }
        live = look()?;
    }
    match verify::differences(&live, &aim(&live)) {
        none if none.is_empty() => Ok(()),
        differences => Err(MigrateError::Differs(differences)),
    }
}

/// Whether a device still carries this.
fn stands(live: &HostState, network: &Network) -> Result<(), MigrateError> {
    let now = Network::of(live, &network.dev);
    match now.change_since(network) {
        None => Ok(()),
        Some(_) if now.fell_since(network) => Err(MigrateError::Fell(network.dev.clone())),
        Some(what) => Err(MigrateError::Restless(format!("the {what} of {}", network.dev))),
    }
}

/// The same, looked at so that nothing has changed since: what someone gives
/// the device now would be taken from it unseen. A change is made known in the
/// system call that makes it.
fn stays(live: &HostState, network: &Network) -> Result<(), MigrateError> {
    let index = live.link(&network.dev).map_or(0, |link| link.index);
    let changes = Changes::of(index).map_err(MigrateError::Read)?;
    for _ in 0..LAST_LOOKS {
        stands(&dump::network().map_err(MigrateError::Read)?, network)?;
        if !changes.heard().map_err(MigrateError::Read)? {
            return Ok(());
        }
    }
    Err(MigrateError::Restless(format!("the network of {}", network.dev)))
}

/// Keeps the signals that ask the program to end, or to stop, until it is
/// dropped: from before the record of a change is written until it tells the
/// end of it.
#[derive(Debug)]
#[must_use = "they are held until this is dropped"]
pub struct HeldSignals(SigSet);

impl HeldSignals {
    /// Holds them in the calling thread.
    pub fn hold() -> Self {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGPIPE,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            set.add(signal);
        }
        // Fails for no valid set.
        let _ = set.thread_block();
        Self(set)
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        let _ = self.0.thread_unblock();
    }
}
