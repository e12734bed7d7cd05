//! Copies directories in the background, for as long as that takes.
//!
//! The module does not know whom a copy is for: it copies a directory to another place, on the same export or
//! another one, and tells the caller how the copy ended.
//!
//! Each copy is made in a staging place of its own on the export, and renamed to where it belongs when it is
//! complete. A crash before the rename leaves the staging place, which the next copy for the same volume empties
//! to begin anew; a crash after it leaves a directory that is recognized by its inode number, noted in the staging
//! place.

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

/// The number of copies that are made at the same time.
const AT_A_TIME: usize = 2;

/// The interval at which the progress of a copy is counted, and a copy that waits looks whether it was stopped.
const COUNT: Duration = Duration::from_secs(1);

/// An order for a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyJob {
    /// The volume that the copy is for; its staging place has the same name.
    pub volume: VolumeName,
    /// The directory to copy.
    pub from: Location,
    /// The place where the copy belongs.
    pub to: Location,
    /// The mode and owners of the copy's top directory, where they differ from the source's.
    pub top: Ownership,
    /// A group in the source, and the group that takes its place in the copy.
    pub group: Option<(u32, u32)>,
}

/// The state of a copy.
#[derive(Debug, Clone)]
pub enum CopyState {
    /// The copy waits for its turn.
    Waiting,
    /// The copy is being made.
    Running,
    /// The copy is in its place; or it failed, and what there was of it has been removed.
    Ended(Result<Created, StorageError>),
}

/// A copy that was ordered. Clones are the same copy.
#[derive(Debug, Clone)]
pub struct Copy {
    job: Arc<CopyJob>,
    progress: Progress,
    state: watch::Receiver<CopyState>,
}

impl Copy {
    /// Returns the order.
    #[must_use]
    pub fn job(&self) -> &CopyJob {
        &self.job
    }

    /// Returns how many files and bytes have been copied.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns the state of the copy.
    #[must_use]
    pub fn state(&self) -> CopyState {
        self.state.borrow().clone()
    }

    /// Stops the copy soon. What there is of it is then removed.
    pub fn cancel(&self) {
        self.progress.stop();
    }

    /// Waits until the copy is being made, or has ended.
    pub async fn begun(&self) {
        let mut state = self.state.clone();
        // The sender lives until the copy has ended.
        let _ = state.wait_for(|state| !matches!(state, CopyState::Waiting)).await;
    }

    /// Waits until the copy has ended.
    pub async fn ended(&self) {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, CopyState::Ended(_))).await;
    }
}

/// Makes copies. Clones share the copies under way.
#[derive(Debug, Clone)]
pub struct Copies {
    exports: PerExport<Export>,
    ledger: Ledger,
    metrics: Metrics,
    slots: Arc<Semaphore>,
}

impl Copies {
    /// Creates a maker of copies, with no copy under way.
    #[must_use]
    pub fn new(exports: PerExport<Export>, ledger: Ledger, metrics: Metrics) -> Self {
        Self { exports, ledger, metrics, slots: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Starts a copy.
    #[must_use]
    pub fn start(&self, job: CopyJob) -> Copy {
        let (sender, state) = watch::channel(CopyState::Waiting);
        let copy = Copy { job: Arc::new(job), progress: Progress::default(), state };
        let (copies, started) = (self.clone(), copy.clone());
        tokio::spawn(async move { copies.run(started, sender).await });
        copy
    }

    /// Moves a volume's staging place on an export into the trash.
    pub async fn clear(&self, volume: &VolumeName, at: &Location) {
        let export = self.exports.get(at.export);
        match export.storage.unstage(volume.as_str(), seconds_now()).await {
            Ok(Some(_)) => export.backlog.pushed(),
            Ok(None) => {}
            Err(error) if error.problem == Problem::NotLeading => {}
            Err(error) => warn!(volume = volume.as_str(), %error, "could not remove the rest of a copy yet"),
        }
    }

    async fn run(self, copy: Copy, state: watch::Sender<CopyState>) {
        let job = copy.job();
        let result = {
            // A copy that was cancelled does not wait: its claim's directory stays reserved until it has ended.
            let _slot = tokio::select! {
                slot = self.slots.acquire() => slot.ok(),
                () = stopped(&copy.progress) => None,
            };
            let label = metrics::export_label(&self.exports.get(job.to.export).name);
            let running = self.metrics.copies_running.get_or_create(&label).clone();
            running.inc();
            let result = self.copy_and_place(job, &copy.progress, &state).await;
            running.dec();
            let ended = if result.is_ok() { metrics::SUCCEEDED } else { metrics::FAILED };
            self.metrics.copies.get_or_create(&metrics::result(ended)).inc();
            result
        };
        if result.is_err() && self.is_unplaced(job).await {
            // The remains of a copy would only take up space.
            self.clear(&job.volume, &job.to).await;
        }
        state.send_replace(CopyState::Ended(result));
    }

    /// Tells whether a copy is surely not in its place. One that is there is known by what is in its staging place.
    async fn is_unplaced(&self, job: &CopyJob) -> bool {
        let storage = &self.exports.get(job.to.export).storage;
        matches!(storage.is_placed(job.volume.as_str(), &job.to.path).await, Ok(false))
    }

    async fn copy_and_place(
        &self,
        job: &CopyJob,
        progress: &Progress,
        state: &watch::Sender<CopyState>,
    ) -> Result<Created, StorageError> {
        let volume = job.volume.as_str();
        let (from, to) = (&self.exports.get(job.from.export).storage, &self.exports.get(job.to.export).storage);
        let failed = |problem| StorageError { doing: "copy", path: job.from.path.to_string(), problem };
        if to.is_placed(volume, &job.to.path).await? {
            return Ok(Created { made: 1 });
        }
        if progress.is_stopped() {
            return Err(failed(Problem::NotLeading));
        }
        let Some(_reading) = self.ledger.read(&job.from) else {
            return Err(failed(Problem::Os(Errno::ESTALE)));
        };
        let gone = || failed(Problem::Os(Errno::ENOENT));
        let source = from.open_source(&job.from.path).await?.ok_or_else(gone)?;
        state.send_replace(CopyState::Running);
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
        // An empty directory that another volume has may be mounted, so it is not replaced.
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

/// Waits until a copy is stopped.
async fn stopped(progress: &Progress) {
    while !progress.is_stopped() {
        sleep(COUNT).await;
    }
}
