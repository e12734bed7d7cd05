//! Copies directories in the background, for as long as that takes.
//!
//! The module does not know whom a copy is for: it copies a volume's directory to another place, on the same export
//! or another one, and tells the caller how the copy ended.
//!
//! Each copy is made in a staging place of its own on the export, and renamed to where it belongs when it is
//! complete. A crash before the rename leaves the staging place, which the next copy for the same volume empties
//! to begin anew; a crash after it leaves a directory that is recognized by its inode number, noted in the staging
//! place.
//!
//! What is copied is a volume, not a place: when its directory has been opened, and again before the copy goes to its
//! own place, the API server is asked whether the volume is still the one that was ordered.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use crate::cluster::election::Leadership;
use crate::controllers::context::Context;
use crate::controllers::copy_slots::CopySlots;
use crate::decide::copy::{CopySource, Full};
use crate::model::exports::{ExportId, Location};
use crate::model::volume::Phase;
use crate::observe::metrics;
use crate::queue::retry_after;
use crate::storage::{COPY_PAUSE_MAX, Complete, CopyTo, Created, Errno, Problem, Progress, Storage, StorageError};
use crate::values::headroom::FsUsage;
use crate::values::names::VolumeName;
use crate::values::ownership::Ownership;
use crate::values::time::seconds_now;

/// The interval at which the progress of a copy is counted, and a copy that waits looks whether it was stopped.
const COUNT: Duration = Duration::from_secs(1);

/// An order for a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyJob {
    /// The volume that the copy is for; its staging place has the same name.
    pub volume: VolumeName,
    /// The namespace that the copy is for, which takes turns with others.
    pub namespace: Box<str>,
    /// The volume whose directory is copied.
    pub from: CopySource,
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
    /// The copy is in its place; or it failed.
    Ended(Result<Created, CopyFailure>),
}

/// How a copy has failed. What there was of it has been removed, unless it was complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFailure {
    /// The reason.
    pub error: CopyError,
    /// The complete copy, which is still where it was made: only its place could not be had.
    pub complete: Option<Complete>,
    /// The space that was not enough, if that was the reason.
    pub full: Option<Full>,
}

/// Reasons why a copy failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyError {
    /// An export refused, or could not be used; or the copy was stopped.
    Storage(StorageError),
    /// The volume to copy is not what it was when the copy was ordered.
    SourceChanged,
    /// The volume to copy has no directory.
    NoDirectory,
    /// A defect of this program broke the copy off.
    Defect,
}

impl CopyError {
    /// Tells whether the copy was stopped, or might not go on because another process leads.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Storage(error) if error.problem == Problem::NotLeading)
    }
}

impl From<StorageError> for CopyError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
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

/// The task of a copy, as far as others see it. However the task ends, the copy has ended.
struct Task(watch::Sender<CopyState>);

impl Task {
    fn ended(&self, result: Result<Created, CopyFailure>) {
        self.0.send_replace(CopyState::Ended(result));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !matches!(*self.0.borrow(), CopyState::Ended(_)) {
            if std::thread::panicking() {
                error!("a defect of this program broke off a copy; will make it again");
            }
            self.ended(Err(CopyFailure { error: CopyError::Defect, complete: None, full: None }));
        }
    }
}

/// Counts a copy that is being made.
struct Running(Gauge);

impl Running {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is known of a copy while it is made, and counts if it fails.
#[derive(Debug, Default)]
struct Made {
    /// The complete copy, once there is one and its source was still the same.
    complete: Option<Complete>,
    /// How full the copy's export was before.
    before: Option<FsUsage>,
}

/// What came of a copy's turn.
enum Copied {
    /// It is complete where it was made.
    Aside(Complete),
    /// It was in its place.
    Placed(Created),
}

/// Makes copies. Clones share the copies under way.
#[derive(Debug, Clone)]
pub struct Copies {
    context: Context,
    leadership: Leadership,
    slots: CopySlots,
}

impl Copies {
    /// Creates a maker of copies, with no copy under way.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership) -> Self {
        let exports = context.exports.clone();
        let slots = CopySlots::new(move |export| exports.get(export).is_usable());
        Self { context, leadership, slots }
    }

    /// Starts a copy. One that is complete already only goes to its place.
    #[must_use]
    pub fn start(&self, job: CopyJob, complete: Option<Complete>) -> Copy {
        let (sender, state) = watch::channel(CopyState::Waiting);
        let copy = Copy { job: Arc::new(job), progress: Progress::default(), state };
        let (copies, started) = (self.clone(), copy.clone());
        let task = Task(sender);
        tokio::spawn(async move { copies.run(started, complete, task).await });
        copy
    }

    /// Moves a volume's staging place on an export into the trash.
    pub async fn clear(&self, volume: &VolumeName, export: ExportId) {
        let export = self.context.exports.get(export);
        match export.storage.unstage(volume.as_str(), seconds_now()).await {
            Ok(Some(_)) => export.backlog.pushed(),
            Ok(None) => {}
            Err(error) if error.problem == Problem::NotLeading => {}
            Err(error) => warn!(volume = volume.as_str(), %error, "could not remove the rest of a copy yet"),
        }
    }

    async fn run(self, copy: Copy, complete: Option<Complete>, task: Task) {
        let made = Mutex::new(Made { complete, before: None });
        let result = self.make(&copy, &made, &task).await;
        let ended = if result.is_ok() { metrics::SUCCEEDED } else { metrics::FAILED };
        self.context.metrics.copies.get_or_create(&metrics::result(ended)).inc();
        let result = match result {
            Ok(created) => Ok(created),
            Err(error) => {
                let made = made.into_inner();
                Err(self.failed(&copy, error, &made).await)
            }
        };
        task.ended(result);
    }

    /// Finds out what is left of a copy that has failed. The remains of one that is not complete would only take up
    /// space.
    async fn failed(&self, copy: &Copy, error: CopyError, made: &Made) -> CopyFailure {
        let job = copy.job();
        let complete = match made.complete {
            Some(staged) if !copy.progress.is_stopped() && self.is_staged(job, staged).await => Some(staged),
            _ => None,
        };
        if complete.is_none() && self.is_unplaced(job).await {
            self.clear(&job.volume, job.to.export).await;
        }
        let is_full = matches!(&error, CopyError::Storage(error) if error.problem.is_lack_of_room());
        let (progress, before) = (copy.progress(), made.before);
        let full = is_full.then(|| Full::new(before, progress.bytes(), progress.files()));
        CopyFailure { error, complete, full: full.filter(|_| complete.is_none()) }
    }

    /// Tells whether a complete copy is still where it was made, as far as can be told.
    async fn is_staged(&self, job: &CopyJob, staged: Complete) -> bool {
        self.to(job).is_staged(job.volume.as_str(), staged).await.unwrap_or(true)
    }

    /// Tells whether a copy is surely not in its place. One that is there is known by what is in its staging place.
    async fn is_unplaced(&self, job: &CopyJob) -> bool {
        matches!(self.to(job).is_placed(job.volume.as_str(), &job.to.path).await, Ok(false))
    }

    fn to(&self, job: &CopyJob) -> &Storage {
        &self.context.export(&job.to).storage
    }

    async fn make(&self, copy: &Copy, made: &Mutex<Made>, task: &Task) -> Result<Created, CopyError> {
        let job = copy.job();
        let complete = made.lock().complete;
        if complete.is_some() {
            // It waits for its place, perhaps for long. If it has gone, that is found out below.
            let _ = self.to(job).touch(job.volume.as_str()).await;
        }
        // Before it waits, so that whoever ordered it learns soon what stands in the way.
        if let Some(created) = self.look(job).await? {
            return Ok(created);
        }
        let staged = match complete {
            // Only to be renamed, it waits for nobody.
            Some(staged) => staged,
            None => match self.copy_in_turn(copy, made, task).await? {
                Copied::Aside(staged) => staged,
                Copied::Placed(created) => return Ok(created),
            },
        };
        tokio::select! {
            placed = self.place(copy, staged) => placed,
            never = self.to(job).touch_forever(job.volume.as_str()) => match never {},
        }
    }

    /// Copies the source's directory aside when it is the copy's turn, unless there is a copy in its place by then.
    async fn copy_in_turn(&self, copy: &Copy, made: &Mutex<Made>, task: &Task) -> Result<Copied, CopyError> {
        let job = copy.job();
        let turn = self.slots.take(&job.namespace, [job.from.at.export, job.to.export]);
        // A copy that was cancelled does not wait: its claim's directory stays reserved until it has ended.
        let _slot = tokio::select! {
            slot = turn => slot,
            () = stopped(&copy.progress) => return Err(halted(job)),
        };
        let label = metrics::export_label(&self.context.export(&job.to).name);
        let _running = Running::new(self.context.metrics.copies_running.get_or_create(&label).clone());
        if let Some(created) = self.look(job).await? {
            return Ok(Copied::Placed(created));
        }
        let staged = self.copy(copy, made, task).await?;
        made.lock().complete = Some(staged);
        Ok(Copied::Aside(staged))
    }

    /// Returns that a copy is in its place already, if it is; else makes sure that it can go there: to find that out
    /// after the copying would be late.
    async fn look(&self, job: &CopyJob) -> Result<Option<Created>, CopyError> {
        if self.to(job).is_placed(job.volume.as_str(), &job.to.path).await? {
            return Ok(Some(Created { made: 1 }));
        }
        self.to(job).is_vacant(&job.to.path, self.is_alone(job)).await?;
        Ok(None)
    }

    /// Tells whether no other volume has the copy's directory. One that another volume has may be mounted, so it is
    /// not replaced, be it empty.
    fn is_alone(&self, job: &CopyJob) -> bool {
        self.context.state.ledger().is_alone(&job.volume, &job.to)
    }

    /// Copies the source's directory aside.
    async fn copy(&self, copy: &Copy, made: &Mutex<Made>, task: &Task) -> Result<Complete, CopyError> {
        let (job, progress) = (copy.job(), copy.progress());
        let from = &self.context.export(&job.from.at).storage;
        let moving = || StorageError {
            doing: "copy",
            path: job.from.at.path.to_string(),
            problem: Problem::Os(Errno::ESTALE),
        };
        let _reading = self.context.state.ledger().read(&job.from.at).ok_or_else(moving)?;
        // It stays this directory from here on, whatever is moved. What else could be at the path by now is found
        // out after that.
        let source = from.open_source(&job.from.at.path).await?.ok_or(CopyError::NoDirectory)?;
        self.identify(job, progress).await?;
        task.0.send_replace(CopyState::Running);
        let to = self.to(job);
        made.lock().before = to.usage();
        let (volume, directory) = (job.volume.as_str(), &job.to.path);
        let order = CopyTo { volume, directory, top: job.top, group: job.group, now: seconds_now() };
        let mut counted = (0, 0);
        let copied = tokio::select! {
            copied = to.copy(source, order, progress) => copied,
            never = self.count_forever(job, progress, &mut counted) => match never {},
        };
        self.count(job, progress, &mut counted);
        let staged = copied?;
        tokio::select! {
            same = self.identify(job, progress) => same.map(|()| staged),
            never = to.touch_forever(volume) => match never {},
        }
    }

    /// Puts a complete copy to its place, as soon as this process leads, if that is soon.
    async fn place(&self, copy: &Copy, staged: Complete) -> Result<Created, CopyError> {
        let (job, mut leadership) = (copy.job(), self.leadership.clone());
        tokio::select! {
            // If that takes too long, the change is refused.
            _ = timeout(COPY_PAUSE_MAX, leadership.held()) => {}
            () = stopped(copy.progress()) => {}
        }
        if copy.progress().is_stopped() {
            return Err(halted(job));
        }
        Ok(self.to(job).place(job.volume.as_str(), staged, &job.to.path, self.is_alone(job)).await?)
    }

    /// Makes sure that the volume to copy is still the one that was ordered. Waits until the API server answers: it
    /// would be a waste to throw a copy away because it does not.
    async fn identify(&self, job: &CopyJob, progress: &Progress) -> Result<(), CopyError> {
        let Context { cluster, state, scope, .. } = &self.context;
        let mut failures = 0;
        let found = loop {
            match cluster.volume(&job.from.volume).await {
                Ok(found) => break found,
                Err(error) => {
                    debug!(volume = job.from.volume.as_str(), %error, "failed to read the volume to copy");
                }
            }
            failures += 1;
            tokio::select! {
                () = sleep(retry_after(failures)) => {}
                () = stopped(progress) => return Err(halted(job)),
            }
        };
        // One that was deleted while it had a claim is still ours to reclaim, and stays until the copy is made.
        let remembered = || state.volume(&job.from.volume).filter(|volume| volume.deleted_while_bound);
        let volume = found.or_else(|| remembered().map(Arc::unwrap_or_clone)).ok_or(CopyError::SourceChanged)?;
        let ledger = state.ledger();
        // Without its claim, nothing tells whether what lies there is the volume's own or another's by now.
        let is_doubtful = volume.phase != Phase::Bound
            && ledger.is_shared_abroad(&job.from.volume, &job.from.at, &job.namespace);
        if is_doubtful || volume.disposed.is_some() || !job.from.is(&volume, scope) {
            return Err(CopyError::SourceChanged);
        }
        Ok(())
    }

    async fn count_forever(
        &self,
        job: &CopyJob,
        progress: &Progress,
        counted: &mut (u64, u64),
    ) -> std::convert::Infallible {
        loop {
            sleep(COUNT).await;
            self.count(job, progress, counted);
        }
    }

    /// Counts what has been copied since the last time.
    fn count(&self, job: &CopyJob, progress: &Progress, counted: &mut (u64, u64)) {
        let label = metrics::export_label(&self.context.export(&job.to).name);
        let (now, metrics) = ((progress.files(), progress.bytes()), &self.context.metrics);
        metrics.copied_files.get_or_create(&label).inc_by(now.0.saturating_sub(counted.0));
        metrics.copied_bytes.get_or_create(&label).inc_by(now.1.saturating_sub(counted.1));
        *counted = now;
    }
}

/// Waits until a copy is stopped.
async fn stopped(progress: &Progress) {
    while !progress.is_stopped() {
        sleep(COUNT).await;
    }
}

/// The error of a copy that was stopped.
fn halted(job: &CopyJob) -> CopyError {
    let path = job.from.at.path.to_string();
    StorageError { doing: "copy", path, problem: Problem::NotLeading }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::api::Cluster;
    use crate::cluster::events::Recorder;
    use crate::cluster::state::ClusterState;
    use crate::controllers::records::Records;
    use crate::decide::scope::{Permitted, Scope};
    use crate::export::Export;
    use crate::model::exports::{Exports, NamedExport};
    use crate::observe::metrics::{Durations, Metrics};
    use crate::storage::Root;
    use crate::values::address::ExportAddress;
    use crate::values::path::RelPath;

    /// What makes copies on the export `nas:/a`, and an API server that is not there.
    fn copies_on(storage: Storage) -> (Copies, Exports) {
        let address = ExportAddress::new("nas".into(), "/a".into());
        let named = NamedExport { name: "a".into(), address };
        let export = Export::new(&named, storage);
        let (served, exports) = Exports::new(vec![(named, export)]).unwrap();
        let (lead, leadership) = Leadership::new();
        lead.uncontested();
        let nobody = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = kube::Client::try_from(nobody).unwrap();
        let may_patch = Permitted::default();
        let scope = Arc::new(Scope { provisioner: "p".into(), exports: served.clone(), share: false, may_patch });
        let context = Context {
            state: Arc::new(ClusterState::new(Arc::clone(&scope))),
            scope,
            metrics: Metrics::new(exports.clone(), &Durations::default(), leadership.clone()),
            exports,
            cluster: Cluster::new(client.clone(), "p"),
            recorder: Recorder::new(client, "p".to_owned()).0,
            refreshed: Arc::default(),
            restorable: crate::controllers::restorable::Restorable::default(),
            classes: Arc::default(),
            records: Records::default(),
        };
        (Copies::new(context, leadership), served)
    }

    #[tokio::test]
    async fn a_complete_copy_goes_to_its_place_though_all_turns_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::from(Root::open(dir.path()).unwrap());
        let [from, to] = ["from", "to"].map(|path| RelPath::parse(path).unwrap());
        storage.create(&from).await.unwrap();
        let source = storage.open_source(&from).await.unwrap().unwrap();
        let top = Ownership::default();
        let order = CopyTo { volume: "pvc-1", directory: &to, top, group: None, now: 1 };
        let complete = storage.copy(source, order, &Progress::default()).await.unwrap();
        let (copies, exports) = copies_on(storage);
        let at = |path| exports.locate("nas", path).unwrap();
        let volume = VolumeName::from("pvc-0");
        let claim = volume.claim_uid().unwrap();
        let from = CopySource { volume, uid: "uid".into(), claim, at: at("/a/from"), gid: None };
        let (volume, to) = (VolumeName::from("pvc-1"), at("/a/to"));
        let namespace = "mine".into();
        let both = [to.export; 2];
        let _taken = [copies.slots.take("others", both).await, copies.slots.take("others", both).await];
        let copy = copies.start(CopyJob { volume, namespace, from, to, top, group: None }, Some(complete));
        timeout(Duration::from_secs(20), copy.ended()).await.expect("it waits for a turn");
        assert!(matches!(copy.state(), CopyState::Ended(Ok(Created { made: 1 }))), "{:?}", copy.state());
        assert!(dir.path().join("to").is_dir());
    }

    #[tokio::test]
    async fn a_copy_has_ended_however_its_task_ends() {
        for breaks_off in [true, false] {
            let (sender, mut state) = watch::channel(CopyState::Running);
            let task = Task(sender);
            let running = tokio::spawn(async move {
                let _task = task;
                assert!(!breaks_off, "a defect");
                std::future::pending::<()>().await;
            });
            if !breaks_off {
                running.abort();
            }
            assert!(running.await.is_err());
            let ended = state.wait_for(|state| matches!(state, CopyState::Ended(_))).await;
            let CopyState::Ended(result) = ended.unwrap().clone() else { panic!("it is under way for ever") };
            assert_eq!(result.unwrap_err().error, CopyError::Defect);
        }
    }
}
