//! An export, as the program works on it: where it is, its directories, its trash.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::exports::NamedExport;
use crate::storage::{STUCK_AFTER, State, Storage};
use crate::values::address::ExportAddress;
use crate::values::headroom::Headroom;

/// One of the exports. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Export {
    /// Its name, as classes and metrics have it.
    pub name: Box<str>,
    /// Where it is.
    pub source: ExportAddress,
    /// Its directories.
    pub storage: Storage,
    /// Its trash.
    pub backlog: Arc<Backlog>,
}

impl Export {
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
    pub fn headroom(&self, promised: u128) -> Headroom {
        Headroom { usable: self.is_usable(), begun: false, usage: self.storage.usage(), promised }
    }
}

/// What is known of the trash: for metrics, and to say that there is something new in it.
#[derive(Debug, Default)]
pub struct Backlog {
    pushed: Notify,
    counts: Mutex<Counts>,
}

/// How it stands with the trash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many entries are known to be there; others may be.
    pub waiting: usize,
    /// How many of those cannot be removed for now.
    pub blocked: usize,
    /// How many files, links and directories were removed since the program began.
    pub removed: u64,
}

impl Backlog {
    /// Says that something was put into the trash.
    pub fn pushed(&self) {
        self.pushed.notify_one();
    }

    /// Waits until something was put into the trash.
    pub async fn changed(&self) {
        self.pushed.notified().await;
    }

    /// How it stands now. All zero but for `removed` when we do not lead.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the counts up to date.
    pub fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
