//! Makes copies of volumes for claims that ask for one, beside all else and for as long as it takes.
//!
//! A copy is made in a place of its own on the export ([`STAGING`]), and renamed to the claim's directory when it is complete.
//! What a crash leaves behind: before the rename, a place that the next round for the claim empties and begins with anew;
//! after it, a directory that is known by its number, noted in the place; once the volume is there, a place that nobody
//! needs. Places that no claim waits for go into the trash while we lead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, info, warn};

use crate::cluster::election::Leadership;
use crate::cluster::events::Reason;
use crate::cluster::state::Key;
use crate::controllers::context::Context;
use crate::decide::CopyOf;
use crate::export::Export;
use crate::layout::STAGING;
use crate::model::claim::{Claim, claim_uid, volume_name};
use crate::model::exports::{ExportId, Location};
use crate::observe::metrics;
use crate::storage::{CopyTo, Created, Errno, Problem, Progress, StorageError};
use crate::values::ownership::Ownership;
use crate::values::path::RelPath;
use crate::values::time::milliseconds;
use crate::values::time::seconds_now;

/// How many copies are made at a time.
const AT_A_TIME: usize = 2;

/// When it is first said how far a copy is. After that each time when it has taken twice as long.
const SAY_AFTER: Duration = Duration::from_secs(30);

/// How often to count what has been copied.
const COUNT: Duration = Duration::from_secs(1);

/// How often to look for places that nobody waits for.
const SWEEP: Duration = Duration::from_hours(1);

/// How long to wait for a lead before that.
const LEADS: Duration = Duration::from_secs(5);

/// What is to be copied for a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub copy_of: CopyOf,
    /// Where to.
    pub directory: Location,
    /// Whose the copy's own directory is to be, where not as the source.
    pub ownership: Ownership,
    /// The group that is to be in place of the source's.
    pub gid: Option<u32>,
}

/// How it stands with a claim's copy.
#[derive(Debug)]
pub enum Stage {
    /// It is being made. The claim is looked at again when that has ended.
    UnderWay,
    /// It is in its place.
    Done(Created),
    /// It could not be made; what there was of it has been taken away.
    Failed(StorageError),
}

#[derive(Debug)]
struct Job {
    order: Order,
    progress: Progress,
    result: Option<Result<Created, StorageError>>,
}

/// The copies that are being made. Clones know the same.
#[derive(Debug, Clone)]
pub struct Cloner {
    context: Context,
    leadership: Leadership,
    jobs: Arc<Mutex<HashMap<Key, Job>>>,
    slots: Arc<Semaphore>,
}

impl Cloner {
    /// Nothing is being copied yet.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership) -> Self {
        Self { context, leadership, jobs: Arc::default(), slots: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Begins to make a claim's copy, or tells how it stands with it.
    #[must_use]
    pub fn ask(&self, uid: &Key, claim: &Claim, order: Order) -> Stage {
        let mut jobs = self.jobs();
        if let Some(job) = jobs.get_mut(uid) {
            if job.order != order {
                // It is taken away, and then the claim is looked at again.
                job.progress.stop();
            }
            return match (job.result.take(), job.order == order) {
                (Some(Ok(created)), true) => {
                    job.result = Some(Ok(created));
                    Stage::Done(created)
                }
                (Some(Err(error)), true) => {
                    jobs.remove(uid);
                    Stage::Failed(error)
                }
                (Some(_), false) => {
                    jobs.remove(uid);
                    self.context.catalog.changed_claims.push(Arc::clone(uid));
                    Stage::UnderWay
                }
                (None, _) => Stage::UnderWay,
            };
        }
        let progress = Progress::default();
        jobs.insert(Arc::clone(uid), Job { order: order.clone(), progress: progress.clone(), result: None });
        let (cloner, uid, claim) = (self.clone(), Arc::clone(uid), claim.clone());
        tokio::spawn(async move { cloner.run(uid, claim, order, progress).await });
        Stage::UnderWay
    }

    /// What is being copied for a claim, and where to.
    #[must_use]
    pub fn order(&self, uid: &Key) -> Option<Order> {
        self.jobs().get(uid).map(|job| job.order.clone())
    }

    /// Whether there is a copy for a claim, or one is being made.
    #[must_use]
    pub fn has(&self, uid: &Key) -> bool {
        self.jobs().contains_key(uid)
    }

    /// Says that a claim has its volume: its copy's place is not needed any more.
    pub fn finish(&self, uid: &Key) {
        if let Some(job) = self.jobs().remove(uid) {
            let (cloner, volume) = (self.clone(), volume_name(uid));
            tokio::spawn(async move { cloner.clear(&volume, &job.order.directory).await });
        }
    }

    /// Stops to make a copy for a claim that has gone, and has what there is of it taken away.
    pub async fn forget(&self, uid: &Key) {
        let Some(order) = self.jobs().get_mut(uid).map(|job| {
            job.progress.stop();
            (job.order.clone(), matches!(job.result, Some(Ok(_))), job.result.is_some())
        }) else {
            return;
        };
        let (Order { directory, .. }, is_placed, has_ended) = order;
        let volume = volume_name(uid);
        let key = Key::from(&*volume);
        if is_placed && self.context.catalog.depart(&key, &directory).is_some_and(|others| others.is_empty()) {
            // The copy is this claim's alone: it was renamed to where nothing was, and nobody has come since.
            let now = seconds_now();
            match self.export(&directory).storage.trash(&directory.path, &volume, now).await {
                Ok(Some(_)) => self.export(&directory).backlog.pushed(),
                Ok(None) => {}
                Err(error) => warn!(volume, %error, "a copy that is not needed stays"),
            }
            self.context.catalog.stay(&key);
        }
        if is_placed {
            self.clear(&volume, &directory).await;
        }
        if has_ended {
            self.jobs().remove(uid);
        }
    }

    async fn run(self, uid: Key, claim: Claim, order: Order, progress: Progress) {
        let started = Instant::now();
        let result = {
            // It is never closed.
            let _slot = self.slots.acquire().await;
            let label = metrics::export_label(&self.export(&order.directory).name);
            let running = self.context.metrics.copies_running.get_or_create(&label).clone();
            running.inc();
            let result = self.copy(&uid, &claim, &order, &progress).await;
            running.dec();
            let result_label = metrics::result(if result.is_ok() { metrics::SUCCEEDED } else { metrics::FAILED });
            self.context.metrics.copies.get_or_create(&result_label).inc();
            result
        };
        let volume = volume_name(&uid);
        match &result {
            Ok(_) => info!(
                claim = %format!("{}/{}", claim.namespace, claim.name), volume, files = progress.files(),
                bytes = progress.bytes(), left_out = progress.left_out(), milliseconds = milliseconds(started.elapsed()), "copied"
            ),
            // Whatever there is of it takes room.
            Err(_) => self.clear(&volume, &order.directory).await,
        }
        if self.context.catalog.claim(&uid).is_none() && result.is_err() {
            self.jobs().remove(&uid);
            return;
        }
        if let Some(job) = self.jobs().get_mut(&uid) {
            job.result = Some(result);
        }
        self.context.catalog.changed_claims.push(uid);
    }

    async fn copy(
        &self,
        uid: &Key,
        claim: &Claim,
        order: &Order,
        progress: &Progress,
    ) -> Result<Created, StorageError> {
        let (volume, source) = (volume_name(uid), &order.copy_of.location);
        let (from, to) = (&self.export(source).storage, &self.export(&order.directory).storage);
        let failed = |problem| StorageError { doing: "copy", path: source.path.to_string(), problem };
        if to.is_placed(&volume, &order.directory.path).await? {
            return Ok(Created { made: 1 });
        }
        if !self.context.catalog.begin_reading(source) {
            return Err(failed(Problem::Os(Errno::ESTALE)));
        }
        let _reading = Reading(self, source);
        let opened = from.open_source(&source.path).await?.ok_or_else(|| failed(Problem::Os(Errno::ENOENT)))?;
        let job = CopyTo {
            volume: &volume,
            directory: &order.directory.path,
            top: order.ownership,
            group: order.copy_of.gid.zip(order.gid),
            now: seconds_now(),
        };
        let (mut counted, label) = ((0, 0), metrics::export_label(&self.export(&order.directory).name));
        let copying = to.copy(opened, job, progress);
        let copied = tokio::select! {
            copied = copying => copied,
            () = self.say_progress(claim, progress, &mut counted, &label) => Ok(()),
        };
        self.count(progress, &mut counted, &label);
        copied?;
        if progress.is_stopped() {
            return Err(failed(Problem::NotLeading));
        }
        // An empty directory that another volume has is that one's, and may be mounted.
        let onto_empty = self.context.catalog.is_alone(&volume, &order.directory);
        to.place(&volume, &order.directory.path, onto_empty).await
    }

    /// Tells the claim how far its copy is, for ever.
    async fn say_progress(
        &self,
        claim: &Claim,
        progress: &Progress,
        counted: &mut (u64, u64),
        label: &metrics::ExportLabel,
    ) {
        let message = "copying the files of the claim that spec.dataSource names".to_owned();
        self.context.recorder.record(claim, Reason::Cloning, message).await;
        let (started, mut say_after) = (Instant::now(), SAY_AFTER);
        loop {
            sleep(COUNT).await;
            self.count(progress, counted, label);
            if started.elapsed() < say_after {
                continue;
            }
            say_after *= 2;
            let (files, mebibytes) = (progress.files(), progress.bytes() >> 20);
            let message = format!("copied {files} files and {mebibytes} MiB so far");
            self.context.recorder.record(claim, Reason::Cloning, message).await;
        }
    }

    /// Counts what has been copied since the last time.
    fn count(&self, progress: &Progress, counted: &mut (u64, u64), label: &metrics::ExportLabel) {
        let now = (progress.files(), progress.bytes());
        let metrics = &self.context.metrics;
        metrics.copied_files.get_or_create(label).inc_by(now.0.saturating_sub(counted.0));
        metrics.copied_bytes.get_or_create(label).inc_by(now.1.saturating_sub(counted.1));
        *counted = now;
    }

    /// Takes away what is in the place of a volume's copy.
    async fn clear(&self, volume: &str, directory: &Location) {
        let export = self.export(directory);
        match export.storage.unstage(volume, seconds_now()).await {
            Ok(Some(_)) => export.backlog.pushed(),
            Ok(None) => {}
            Err(error) if error.problem == Problem::NotLeading => {}
            Err(error) => warn!(volume, %error, "what is left of a copy stays until later"),
        }
    }

    /// Takes away, from time to time while we lead, what was begun for claims that do not wait any more, for ever.
    pub async fn sweep_forever(self) {
        let Ok(clones) = RelPath::parse(STAGING) else { return };
        let mut ticks = interval(SWEEP);
        loop {
            ticks.tick().await;
            while !self.leadership.is_held() {
                sleep(LEADS).await;
            }
            futures::future::join_all(
                self.context.exports.iter().map(|(id, export)| self.sweep(id, export, &clones)),
            )
            .await;
        }
    }

    async fn sweep(&self, id: ExportId, export: &Export, clones: &RelPath) {
        let places = export.storage.directories(Some(clones)).await;
        for volume in places.inspect_err(|error| debug!(%error, "no copies can be listed")).unwrap_or_default() {
            let needed = claim_uid(&volume)
                .is_none_or(|uid| self.context.catalog.claim(uid).is_some() || self.jobs().contains_key(uid));
            if !needed {
                self.clear(&volume, &Location { export: id, path: clones.clone() }).await;
            }
        }
    }

    fn export(&self, directory: &Location) -> &Export {
        self.context.exports.get(directory.export)
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a directory is being copied.
struct Reading<'a>(&'a Cloner, &'a Location);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.context.catalog.end_reading(self.1);
    }
}
