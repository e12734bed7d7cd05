//! An export, as the program works on it: where it is, its directories, its trash.

use std::sync::Arc;

use crate::exports::NamedExport;
use crate::path::ExportSource;
use crate::reaper::Backlog;
use crate::room::Room;
use crate::storage::{STUCK_AFTER, State, Storage};

/// One of the exports. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name, as classes and metrics have it.
    pub name: Box<str>,
    /// Where it is.
    pub source: ExportSource,
    /// Its directories.
    pub storage: Storage,
    /// Its trash.
    pub backlog: Arc<Backlog>,
}

impl Site {
    /// Nothing is known of its trash yet.
    #[must_use]
    pub fn new(export: &NamedExport, storage: Storage) -> Self {
        let NamedExport { name, source } = export.clone();
        Self { name, source, storage, backlog: Arc::default() }
    }

    /// Whether it is open and answers.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let answers = self.storage.silent_for().is_none_or(|silent| silent < STUCK_AFTER);
        answers && matches!(self.storage.state(), State::Open(_))
    }

    /// How it stood at the last look; its volumes have been promised `promised` bytes.
    #[must_use]
    pub fn room(&self, promised: u128) -> Room {
        Room { usable: self.is_usable(), begun: false, usage: self.storage.usage(), promised }
    }
}
