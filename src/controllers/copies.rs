//! Makes copies of directories, beside all else and for as long as it takes.
//!
//! Who a copy is for is not known here: a directory is copied to another place, on the same export or another one, and
//! whoever ordered the copy learns how it ends.
//!
//! A copy is made in a staging place of its own on the export, and renamed to where it belongs when it is complete. What a
//! crash leaves behind: before the rename, a staging place that the next copy for the same volume empties and begins with
//! anew; after it, a directory that is known by its inode's number, noted in the staging place.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::export::Export;
use crate::ledger::Ledger;
use crate::model::exports::{Location, PerExport};
use crate::observe::metrics::{self, Metrics};
use crate::storage::{CopyTo, Created, Errno, Problem, Progress, StorageError};
use crate::values::names::VolumeName;
use crate::values::ownership::Ownership;
use crate::values::time::seconds_now;

/// How many copies are made at a time.
const AT_A_TIME: usize = 2;

/// How often what has been copied is counted.
const COUNT: Duration = Duration::from_secs(1);

/// What is to be copied, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyJob {
    /// The volume that the copy becomes; its staging place is called so.
    pub volume: VolumeName,
    /// The directory to copy.
    pub from: Location,
    /// Where the copy belongs.
    pub to: Location,
    /// Whose the copy's own directory is to be, where not as the source.
    pub top: Ownership,
    /// A group in the source, and the one that takes its place.
    pub group: Option<(u32, u32)>,
}

/// How far a copy is.
#[derive(Debug, Clone)]
pub enum CopyState {
    /// Others have their turn first.
    Waiting,
    /// It is being made.
    Running,
    /// It is in its place; or it could not be made, and what there was of it has been taken away.
    Ended(Result<Created, StorageError>),
}

/// A copy that was ordered. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Copy {
    job: Arc<CopyJob>,
    progress: Progress,
    state: watch::Receiver<CopyState>,
}

impl Copy {
    /// Returns what was ordered.
    #[must_use]
    pub fn job(&self) -> &CopyJob {
        &self.job
    }

    /// Returns how many files and bytes have been copied.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns how far it is.
    #[must_use]
    pub fn state(&self) -> CopyState {
        self.state.borrow().clone()
    }

    /// Has it stopped soon. What there is of it is then taken away.
    pub fn cancel(&self) {
        self.progress.stop();
    }

    /// Waits until it is being made, or has ended.
    pub async fn begun(&self) {
        let mut state = self.state.clone();
        // The sender lives until it has ended.
        let _ = state.wait_for(|state| !matches!(state, CopyState::Waiting)).await;
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, CopyState::Ended(_))).await;
    }
}

/// Makes copies. Clones share what is being made.
#[derive(Debug, Clone)]
pub struct Copies {
    exports: PerExport<Export>,
    ledger: Ledger,
    metrics: Metrics,
    slots: Arc<Semaphore>,
}

impl Copies {
    /// Creates it; nothing is being copied yet.
    #[must_use]
    pub fn new(exports: PerExport<Export>, ledger: Ledger, metrics: Metrics) -> Self {
        Self { exports, ledger, metrics, slots: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Begins to make a copy.
    #[must_use]
    pub fn start(&self, job: CopyJob) -> Copy {
        let (sender, state) = watch::channel(CopyState::Waiting);
        let copy = Copy { job: Arc::new(job), progress: Progress::default(), state };
        let (copies, started) = (self.clone(), copy.clone());
        tokio::spawn(async move { copies.run(started, sender).await });
        copy
    }

    /// Puts what is in a volume's staging place on an export into the trash.
    pub async fn clear(&self, volume: &VolumeName, at: &Location) {
        let export = self.exports.get(at.export);
        match export.storage.unstage(volume.as_str(), seconds_now()).await {
            Ok(Some(_)) => export.backlog.pushed(),
            Ok(None) => {}
            Err(error) if error.problem == Problem::NotLeading => {}
            Err(error) => warn!(volume = volume.as_str(), %error, "what is left of a copy stays until later"),
        }
    }

    async fn run(self, copy: Copy, state: watch::Sender<CopyState>) {
        let job = copy.job();
        let result = {
            // The semaphore is never closed.
            let _slot = self.slots.acquire().await;
            state.send_replace(CopyState::Running);
            let label = metrics::export_label(&self.exports.get(job.to.export).name);
            let running = self.metrics.copies_running.get_or_create(&label).clone();
            running.inc();
            let result = self.copy_and_place(job, &copy.progress).await;
            running.dec();
            let ended = if result.is_ok() { metrics::SUCCEEDED } else { metrics::FAILED };
            self.metrics.copies.get_or_create(&metrics::result(ended)).inc();
            result
        };
        if result.is_err() {
            // Whatever there is of it takes room.
            self.clear(&job.volume, &job.to).await;
        }
        state.send_replace(CopyState::Ended(result));
    }

    async fn copy_and_place(&self, job: &CopyJob, progress: &Progress) -> Result<Created, StorageError> {
        let volume = job.volume.as_str();
        let (from, to) = (&self.exports.get(job.from.export).storage, &self.exports.get(job.to.export).storage);
        let failed = |problem| StorageError { doing: "copy", path: job.from.path.to_string(), problem };
        if to.is_placed(volume, &job.to.path).await? {
            return Ok(Created { made: 1 });
        }
        let Some(_reading) = self.ledger.read(&job.from) else {
            return Err(failed(Problem::Os(Errno::ESTALE)));
        };
        let gone = || failed(Problem::Os(Errno::ENOENT));
        let source = from.open_source(&job.from.path).await?.ok_or_else(gone)?;
        let order = CopyTo { volume, directory: &job.to.path, top: job.top, group: job.group, now: seconds_now() };
        let copying = to.copy(source, order, progress);
        let mut counted = (0, 0);
        let copied = tokio::select! {
            copied = copying => copied,
            () = self.count_forever(job, progress, &mut counted) => Ok(()),
        };
        self.count(job, progress, &mut counted);
        copied?;
        if progress.is_stopped() {
            return Err(failed(Problem::NotLeading));
        }
        // An empty directory that another volume has is that one's, and may be mounted.
        let onto_empty = self.ledger.is_alone(&job.volume, &job.to);
        to.place(volume, &job.to.path, onto_empty).await
    }

    async fn count_forever(&self, job: &CopyJob, progress: &Progress, counted: &mut (u64, u64)) {
        loop {
            sleep(COUNT).await;
            self.count(job, progress, counted);
        }
    }

    /// Counts what has been copied since the last time.
    fn count(&self, job: &CopyJob, progress: &Progress, counted: &mut (u64, u64)) {
        let label = metrics::export_label(&self.exports.get(job.to.export).name);
        let now = (progress.files(), progress.bytes());
        self.metrics.copied_files.get_or_create(&label).inc_by(now.0.saturating_sub(counted.0));
        self.metrics.copied_bytes.get_or_create(&label).inc_by(now.1.saturating_sub(counted.1));
        *counted = now;
    }
}
