//! Whether the gateways that answered before a change answer after it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::apply::migrate::MigrateError;
use crate::apply::probe::Question;
use crate::model::{HostState, IfName};
use crate::netlink::dump;

use super::outcome::say;
use super::warn;

/// How long the gateways have to answer, before and after.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(4);

/// What must answer after a change.
pub struct Verification {
    answering: BTreeSet<IpAddr>,
    old: IfName,
    new: IfName,
}

impl Verification {
    /// Asks the gateways behind the device `old`, from which the network moves
    /// to `new`. One that is silent is reported, and not asked again. Asks
    /// nobody where `off`.
    pub fn before(live: &HostState, old: &IfName, new: &IfName, off: bool) -> Self {
        let none = Self {
            answering: BTreeSet::new(),
            old: old.clone(),
            new: new.clone(),
        };
        // What is down has no answers.
        let is_up = live.link(old).is_some_and(|link| link.up);
        let question = Question::of(live, old, None).filter(|question| !question.gateways().is_empty());
        let Some(question) = question.filter(|_| is_up && !off) else {
            return none;
        };
        let answering = match question.ask(BEFORE) {
            Ok(answering) => answering,
            Err(error) => {
                warn(&format!("cannot ask the gateways whether they answer: {error}"));
                return none;
            }
        };
        let silent: BTreeSet<IpAddr> = question.gateways().difference(&answering).copied().collect();
        if !answering.is_empty() {
            say(&format!(
                "gateways that answer, and must afterwards: {}",
                list(&answering)
            ));
        }
        if !silent.is_empty() {
            warn(&format!(
                "no answer from the gateway {}: it is not asked afterwards",
                list(&silent)
            ));
        }
        Self { answering, ..none }
    }

    /// Asks them again, through the new device.
    ///
    /// # Errors
    /// [`MigrateError::Unverified`] names who did not answer.
    pub fn check(&self) -> Result<(), MigrateError> {
        if self.answering.is_empty() {
            return Ok(());
        }
        let live = dump::network().map_err(MigrateError::Read)?;
        let question = Question::of(&live, &self.new, Some(&self.answering));
        let answered = match question {
            Some(question) => question.ask(AFTER).map_err(MigrateError::Read)?,
            None => BTreeSet::new(),
        };
        let silent: BTreeSet<IpAddr> = self.answering.difference(&answered).copied().collect();
        if silent.is_empty() {
            return Ok(());
        }
        if self.old == self.new {
            return Err(MigrateError::Unverified(format!(
                "the gateway {} answered on {}, and does not any more (asked for {} s)",
                list(&silent),
                self.old,
                AFTER.as_secs()
            )));
        }
        Err(MigrateError::Unverified(format!(
            "the gateway {} answered on {}, and does not answer through {} (asked for {} s)",
            list(&silent),
            self.old,
            self.new,
            AFTER.as_secs()
        )))
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    words.join(", ")
}
