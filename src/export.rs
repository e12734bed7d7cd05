//! An export as the program works on it: its name, its address, its directories and its trash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::exports::{Exports, NamedExport, PerExport};
use crate::storage::{ExportSpec, STUCK_AFTER, State, Storage};
use crate::values::address::ExportAddress;
use crate::values::headroom::Headroom;

/// An export that is served. Clones are the same export.
#[derive(Debug, Clone)]
pub struct Export {
    /// The name of the export in classes, metrics and logs.
    pub name: Box<str>,
    /// The server, and the path there.
    pub address: ExportAddress,
    /// The directories on the export.
    pub storage: Storage,
    /// The trash on the export.
    pub backlog: Arc<Backlog>,
    /// The archives on the export, as the last look found them.
    pub archives: Arc<Mutex<ArchiveCounts>>,
}

/// What is known of the archives on an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveCounts {
    /// How many there are.
    pub count: usize,
    /// Since when the oldest of them is one.
    pub oldest: Option<Timestamp>,
}

impl ArchiveCounts {
    /// Counts an archive that is one since that time.
    pub fn add(&mut self, since: Timestamp) {
        self.count += 1;
        self.oldest = self.oldest.into_iter().chain([since]).min();
    }
}

impl Export {
    /// Puts an export together. Nothing is known of its trash yet.
    #[must_use]
    pub fn new(export: &NamedExport, storage: Storage) -> Self {
        let NamedExport { name, address } = export.clone();
        Self { name, address, storage, backlog: Arc::default(), archives: Arc::default() }
    }

    /// Returns whether the export is open and answers.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let answers = self.storage.silent_for().is_none_or(|silent| silent < STUCK_AFTER);
        answers && matches!(self.storage.state(), State::Open(_))
    }

    /// Returns the room on the export as of the last look, when its volumes have been promised `promised` bytes.
    #[must_use]
    pub fn headroom(&self, promised: u128) -> Headroom {
        Headroom { usable: self.is_usable(), begun: false, usage: self.storage.usage(), promised }
    }
}

/// Opens the exports. One that does not answer yet is waited for later. `observer` returns, for the name of an
/// export, what is told how long calls on it take.
///
/// # Errors
/// Returns an error if an export is certainly not where the settings say.
pub async fn open_all<O: Fn(&'static str, Duration) + Send + Sync + 'static>(
    exports: &Exports,
    specs: &PerExport<ExportSpec>,
    observer: impl Fn(&str) -> O,
) -> Result<PerExport<Export>> {
    let observer = &observer;
    let open = specs.try_map(|(id, spec)| async move {
        let storage = Storage::at(spec, observer(&spec.name)).await;
        let unless = || format!("the export {:?} is not where NFS_MOUNT_PATH or EXPORTS_FILE says", spec.name);
        Ok(Export::new(exports.get(id), storage.with_context(unless)?))
    });
    open.await
}

/// What is known of an export's trash: for metrics, and to tell that something new is in it.
#[derive(Debug, Default)]
pub struct Backlog {
    pushed: Notify,
    counts: Mutex<Counts>,
    pressed: Notify,
    firm: AtomicUsize,
}

/// The state of an export's trash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many entries are known; more may be there.
    pub waiting: usize,
    /// How many of those cannot be removed for now.
    pub blocked: usize,
    /// How many entries are kept until later, as far as the last listing went.
    pub kept: usize,
    /// When the first of those is to be removed, in seconds since 1970.
    pub due: Option<u64>,
    /// How many files, links and directories were removed since the program began.
    pub removed: u64,
    /// How many entries that were kept were removed since then, when their time had come.
    pub freed_due: u64,
    /// How many of those were removed before their time.
    pub freed_early: u64,
}

impl Backlog {
    /// Tells that something was put into the trash.
    pub fn pushed(&self) {
        self.pushed.notify_one();
    }

    /// Waits until something is put into the trash.
    pub async fn changed(&self) {
        self.pushed.notified().await;
    }

    /// Tells that the export has little room left, while so many entries are kept whatever room that takes.
    pub fn press(&self, firm: usize) {
        self.firm.store(firm, Ordering::Relaxed);
        self.pressed.notify_one();
    }

    /// Waits until that is told, and returns how many are kept.
    pub async fn pressed(&self) -> usize {
        self.pressed.notified().await;
        self.firm.load(Ordering::Relaxed)
    }

    /// Returns the counts as of now. All are zero but for those since the program began while this process does not
    /// lead.
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// Brings the counts up to date.
    pub fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
    }
}
