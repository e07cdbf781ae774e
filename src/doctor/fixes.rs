//! What `--fix` changed, on disk: `doctor.fixes` beside the records.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::apply::store::{self, Store};
use crate::model::IfName;

use super::Change;

/// Version of the file's form.
const VERSION: u32 = 1;

/// The changes of one network namespace, in the order in which they were made.
#[derive(Debug)]
pub struct Fixes {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    changes: Vec<Change>,
}

impl Fixes {
    /// Reads what was changed.
    ///
    /// # Errors
    /// In words: a file that cannot be read, or that this vmbr does not
    /// understand. It is never acted on.
    pub fn load(store: &Store) -> Result<Self, String> {
        let path = store.file("doctor.fixes");
        let about = |why: String| format!("{}: {why}", path.display());
        let content = match store::read(&path).map_err(about)? {
            None => Content {
                version: VERSION,
                changes: Vec::new(),
            },
            Some(text) => {
                let value: serde_json::Value = serde_json::from_slice(&text)
                    .map_err(|error| about(format!("it is damaged: {error}")))?;
                match value.get("version").and_then(serde_json::Value::as_u64) {
                    Some(version) if version == u64::from(VERSION) => {}
                    _ => return Err(about(format!("it is not of version {VERSION}"))),
                }
                serde_json::from_value(value).map_err(|error| about(format!("it is damaged: {error}")))?
            }
        };
        Ok(Self { path, content })
    }

    /// Remembers a change, before it is made. Gives what was remembered of the
    /// same thing until then.
    ///
    /// # Errors
    /// Where that cannot be written: then the change must not be made.
    pub fn remember(&mut self, change: &Change) -> std::io::Result<Option<Change>> {
        let changes = &mut self.content.changes;
        let known = changes.iter_mut().find(|known| known.same_thing(change));
        let before = known.as_deref().cloned();
        match known {
            // What stood there before doctor came is what is put back.
            Some(known) => *known = known.followed_by(change),
            None => changes.push(change.clone()),
        }
        self.save().map(|()| before)
    }

    /// Forgets a change that was undone, or not made; `before` is remembered
    /// in its place.
    ///
    /// # Errors
    /// As of [`Fixes::remember`].
    pub fn forget(&mut self, change: &Change, before: Option<Change>) -> std::io::Result<()> {
        let changes = &mut self.content.changes;
        changes.retain(|known| !known.same_thing(change));
        changes.extend(before);
        self.save()
    }

    /// What is to be undone when `gone`, a bridge that vmbr made, has been
    /// taken down: what served it, and everything where it was the `last`.
    /// The newest first.
    pub fn to_undo(&self, gone: Option<&IfName>, last: bool) -> Vec<Change> {
        let newest_first = self.content.changes.iter().rev();
        let concerned = |change: &&Change| last || (gone.is_some() && change.bridge() == gone);
        newest_first.filter(concerned).cloned().collect()
    }

    fn save(&self) -> std::io::Result<()> {
        if self.content.changes.is_empty() {
            return store::remove(&self.path);
        }
        store::write(&self.path, &serde_json::to_vec_pretty(&self.content)?)
    }
}
