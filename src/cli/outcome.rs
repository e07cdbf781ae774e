//! How a command ends, and how that is said.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::plan::Refusal;
use crate::sys::syslog::{self, Facility, Severity};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// What was asked for makes no sense together.
    Usage {
        /// What does not.
        message: String,
        /// What does.
        remedy: String,
    },
    /// Refused before anything was touched.
    Refused(Vec<Refusal>),
    /// Failed; the host is as it was before.
    Failed {
        /// What was being done, and what the kernel answered.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// Someone else changed what was to be moved, before anything was taken
    /// away; the host is as it was before, but for that. It can be begun anew.
    Disturbed {
        /// What was changed.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// Failed, and something is left.
    Left {
        /// What was being done, what the kernel answered, what is left.
        message: String,
        /// How to mend it.
        remedy: String,
    },
}

impl Error {
    /// A single refusal.
    pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused(vec![Refusal::new(message, remedy)])
    }

    /// Something that the host would not say.
    pub fn unreadable(error: &io::Error) -> Self {
        Self::Failed {
            message: error.to_string(),
            remedy: "nothing was changed".into(),
        }
    }

    /// The exit status of the contract.
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed { .. } | Self::Disturbed { .. } => 1,
            Self::Usage { .. } => 2,
            Self::Refused(_) => 3,
            Self::Left { .. } => 4,
        }
    }

    /// What went wrong, and what to do about it.
    pub fn sentences(&self) -> (String, String) {
        match self {
            Self::Failed { message, remedy }
            | Self::Usage { message, remedy }
            | Self::Disturbed { message, remedy }
            | Self::Left { message, remedy } => (message.clone(), remedy.clone()),
            Self::Refused(refusals) => {
                let join =
                    |part: fn(&Refusal) -> &str| refusals.iter().map(part).collect::<Vec<_>>().join("; ");
                (join(|r| &r.message), join(|r| &r.remedy))
            }
        }
    }

    /// Tells people, or programs, and gives the exit status.
    pub fn tell(&self, json: bool) -> ExitCode {
        let (message, remedy) = self.sentences();
        if json {
            print_json(&json!({"error": {"status": self.status(), "message": message, "remedy": remedy}}));
        } else {
            let kind = match self {
                Self::Refused(_) => "refused",
                Self::Usage { .. } => "bad usage",
                Self::Failed { .. } | Self::Disturbed { .. } => "failed, the host is as it was before",
                Self::Left { .. } => "failed, and something is left",
            };
            match self {
                Self::Refused(refusals) => {
                    for refusal in refusals {
                        say(&format!(
                            "vmbr: {kind}: {}\n  {}",
                            refusal.message, refusal.remedy
                        ));
                    }
                }
                _ => say(&format!("vmbr: {kind}: {message}\n  {remedy}")),
            }
        }
        ExitCode::from(self.status())
    }
}

/// What people and programs read goes to standard output. A reader that went
/// away is no reason to stop halfway.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A document, with the version of its form.
pub fn print_json(document: &serde_json::Value) {
    let mut whole = json!({"format": 1});
    if let (Some(whole), Some(document)) = (whole.as_object_mut(), document.as_object()) {
        whole.extend(document.clone());
    }
    print(&whole.to_string());
}

/// Progress, warnings and errors go to standard error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The outcome of a change goes to the system's log too: an administrator who
/// was cut off finds it there. A host without a log loses nothing else.
pub fn log(severity: Severity, text: &str) {
    let _ = syslog::send(Facility::Daemon, severity, "vmbr", text);
}
