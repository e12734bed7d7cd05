//! The export's directories, for asynchronous callers: the one way by which the rest of the program reaches files.
//!
//! File system calls block, for as long as the server pleases. They run on threads of their own, a bounded number at
//! a time, and are always waited for: a call that the server has not answered may still be carried out when it comes
//! back, so nobody may go on as if it had not been made. Whoever waits learns from [`Storage::silent_for`] for how
//! long there has been no answer.
//!
//! This is also the seam for another way to reach an export: what is above knows only [`Storage`]'s methods,
//! [`RelPath`]s and [`StorageError`]s.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{interval, sleep, timeout};
use tracing::{debug, info, warn};

use crate::layout::STAGING;
use crate::layout::TrashName;
use crate::model::exports::DEFAULT_NAME;
use crate::values::address::ExportAddress;
use crate::values::headroom::FsUsage;
use crate::values::ownership::Ownership;
use crate::values::path::{Name, RelPath};

mod calls;
mod mounted;
mod ops;
mod root;
mod explain;

pub use calls::STUCK_AFTER;
use calls::{Call, Calls};
pub use explain::{advice, explain};
pub use mounted::dirfd::{DirFd, Problem, Resolver};
pub use mounted::mount::Mount;
use ops::copy_tree;
pub use ops::copy_tree::Progress;
pub use ops::disk_usage::{Begun, DiskUsage, Found};
pub use ops::write_test::{Leftovers, Made, WriteTest};
pub use root::{Created, Left, Reaped, Root, Stage, StorageError, Trashed};

/// How many calls on an export run at a time: so many threads can be lost to a server that does not answer.
const CALLS_MAX: usize = 16;

/// How many threads work on one copy.
const COPIERS: usize = 8;

/// How many threads remove what is in the trash at a time, beside those of the other calls.
const REAPERS_MAX: usize = 16;

/// How many of those work on one entry of the trash: never all, so that a small one need not wait for a huge one.
const REAPERS_EACH: usize = 12;

/// How often it is seen whether the export is still what is mounted, and how full it is.
const LOOK: Duration = Duration::from_secs(10);

/// How often, while it cannot be used.
const LOOK_SOON: Duration = Duration::from_secs(2);

/// How long the first look is waited for.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(2);

/// How often it is seen whether the export answers.
const LISTEN: Duration = Duration::from_secs(1);

/// Where the kernel tells what is mounted.
const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// An export's place: where it is mounted, and what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// What the export is called.
    pub name: Box<str>,
    /// The directory where it is mounted.
    pub mount: PathBuf,
    /// What should be mounted there.
    pub source: ExportAddress,
    /// When nothing is done because what is there is no NFS mount. Otherwise that is only said.
    pub must_be_nfs: MustBeNfs,
}

/// When an export must be an NFS mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MustBeNfs {
    /// At any time.
    Always,
    /// As soon as it was one once: then what is there instead must be what lies under the mount.
    OnceItWas,
    /// At no time.
    Never,
}

/// How it stands with an export.
#[derive(Debug, Clone)]
pub enum State {
    /// It has not been looked at yet.
    Unknown,
    /// It can be used.
    Open(Arc<Opened>),
    /// It cannot be used, until that changes by itself or somebody changes it.
    Unusable(StorageError),
}

/// An export that has been opened.
#[derive(Debug)]
pub struct Opened {
    export: Root,
    /// Of its own each: calls that hang on an export that was mounted before do not keep the new one waiting.
    calls: Arc<Semaphore>,
    reapers: Arc<Semaphore>,
}

impl From<Root> for Opened {
    fn from(export: Root) -> Self {
        let (calls, reapers) = (Arc::new(Semaphore::new(CALLS_MAX)), Arc::new(Semaphore::new(REAPERS_MAX)));
        Self { export, calls, reapers }
    }
}

/// An export, shared by all who use it.
#[derive(Debug, Clone)]
pub struct Storage {
    shared: Arc<Shared>,
    fence: Fence,
}

/// How long calls take, in seconds, by export and by what they do, the wait for a thread not counted.
pub type Durations = Family<[(&'static str, String); 2], Histogram, fn() -> Histogram>;

/// No call has been made yet.
#[must_use]
pub fn durations() -> Durations {
    Durations::new_with_constructor(|| Histogram::new(BUCKETS))
}

/// Half a millisecond, doubled up to 16 s: from a server next door to one in trouble.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
    16.384,
];

/// Whether files may be changed now. It is asked last thing before each change.
#[derive(Clone)]
struct Fence(Arc<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fence({})", (self.0)())
    }
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    usage: watch::Sender<Option<FsUsage>>,
    /// Counts how often the export has come back.
    returned: watch::Sender<u64>,
    /// Whether something failed for a reason that concerns the whole export.
    failing: AtomicBool,
    /// Whether the export has been an NFS mount.
    was_nfs: AtomicBool,
    /// Asks for a look at the export.
    suspected: Notify,
    calls: Arc<Calls>,
    /// How many calls that change a directory have passed the fence.
    changing: AtomicUsize,
    /// What it is called.
    name: Box<str>,
    durations: Durations,
}

impl From<Root> for Storage {
    /// One that is open already, and stays as it is.
    fn from(export: Root) -> Self {
        let storage = Self::new(DEFAULT_NAME, durations());
        storage.shared.state.send_replace(State::Open(Arc::new(export.into())));
        storage
    }
}

impl Storage {
    fn new(name: &str, durations: Durations) -> Self {
        let shared = Shared {
            state: watch::Sender::new(State::Unknown),
            usage: watch::Sender::new(None),
            returned: watch::Sender::new(0),
            failing: AtomicBool::new(false),
            was_nfs: AtomicBool::new(false),
            suspected: Notify::new(),
            calls: Arc::default(),
            changing: AtomicUsize::new(0),
            name: name.into(),
            durations,
        };
        Self { shared: Arc::new(shared), fence: Fence(Arc::new(|| true)) }
    }

    /// One whose calls wait until [`Storage::keep`] has opened it, which is only tried here. How long they take is
    /// noted in `durations`.
    ///
    /// # Errors
    /// If there is no such directory. Whatever else is wrong may yet come right, and an export that does not answer
    /// is not waited for.
    pub async fn at(place: &ExportSpec, durations: Durations) -> Result<Self, StorageError> {
        let storage = Self::new(&place.name, durations);
        match timeout(FIRST_LOOK_MAX, storage.look(place)).await {
            Ok(Err(error)) if matches!(error.problem, Problem::Os(Errno::ENOENT | Errno::ENOTDIR)) => Err(error),
            _ => Ok(storage),
        }
    }

    /// Opens the export at its place, sees from time to time whether it is still there, opens it anew if something
    /// else has been mounted, and says in the log what changes; for ever.
    pub async fn keep(&self, place: &ExportSpec) {
        futures::join!(self.watch_place(place), self.listen(&place.source));
    }

    /// The same export, of which nothing is changed any more once `allowed` says no.
    ///
    /// A call that waits, for a thread or because the process was stopped, asks when its turn has come. One that has
    /// begun by then goes on: see [`Storage::changes_under_way`].
    #[must_use]
    pub fn fenced_by(self, allowed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { fence: Fence(Arc::new(allowed)), ..self }
    }

    /// How many directories are just being changed. A server that does not answer may change them when it is back.
    #[must_use]
    pub fn changes_under_way(&self) -> usize {
        self.shared.changing.load(Ordering::SeqCst)
    }

    /// How it stands with the export, as far as the last look could tell.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// How full the export was at the last look.
    #[must_use]
    pub fn usage(&self) -> Option<FsUsage> {
        *self.shared.usage.borrow()
    }

    /// For how long the export has answered no call, though there are some; `None` if there are none.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.shared.calls.silent_for()
    }

    /// How many calls the export has not answered for [`STUCK_AFTER`].
    #[must_use]
    pub fn stuck_calls(&self) -> usize {
        self.shared.calls.stuck()
    }

    /// Changes each time the export can be used again after it could not: what has failed meanwhile is worth a try.
    #[must_use]
    pub fn returned(&self) -> watch::Receiver<u64> {
        self.shared.returned.subscribe()
    }

    /// See [`Root::create`].
    ///
    /// # Errors
    /// Those of [`Root::create`], and if the export cannot be used.
    pub async fn create(&self, directory: &RelPath) -> Result<Created, StorageError> {
        self.change("create", directory, Root::create).await
    }

    /// See [`Root::create_as`].
    ///
    /// # Errors
    /// Those of [`Root::create_as`], and if the export cannot be used.
    pub async fn create_as(&self, directory: &RelPath, ownership: Ownership) -> Result<Created, StorageError> {
        self.change("create", directory, move |export, directory| export.create_as(directory, ownership)).await
    }

    /// See [`Root::group`].
    ///
    /// # Errors
    /// Those of [`Root::group`], and if the export cannot be used.
    pub async fn group(&self, directory: &RelPath) -> Result<Option<u32>, StorageError> {
        let directory = directory.clone();
        self.call("look", move |export| export.group(&directory)).await
    }

    /// See [`Root::survey`].
    ///
    /// # Errors
    /// Those of [`Root::survey`], and if the export cannot be used.
    pub async fn survey(&self, directory: &RelPath) -> Result<Option<Begun>, StorageError> {
        let directory = directory.clone();
        self.call("survey", move |export| export.survey(&directory)).await
    }

    /// See [`DiskUsage::advance`]. The survey of `directory` is given back to go on with.
    ///
    /// # Errors
    /// Those of [`DiskUsage::advance`], and if the export cannot be used.
    pub async fn advance(
        &self,
        mut survey: Box<DiskUsage>,
        calls: u64,
        directory: &RelPath,
    ) -> Result<(Box<DiskUsage>, Option<Found>), StorageError> {
        let path = directory.to_string();
        self.call("survey", move |_| match survey.advance(calls) {
            Ok(found) => Ok((survey, found)),
            Err(problem) => Err(StorageError { doing: "survey", path, problem }),
        })
        .await
    }

    /// See [`Root::open_volume`].
    ///
    /// # Errors
    /// Those of [`Root::open_volume`], and if the export cannot be used.
    pub async fn open_volume(&self, directory: &RelPath) -> Result<Option<DirFd>, StorageError> {
        let directory = directory.clone();
        self.call("open", move |export| export.open_volume(&directory)).await
    }

    /// See [`Root::is_placed`].
    ///
    /// # Errors
    /// Those of [`Root::is_placed`], and if the export cannot be used.
    pub async fn is_placed(&self, volume: &str, directory: &RelPath) -> Result<bool, StorageError> {
        let (volume, directory) = (volume.to_owned(), directory.clone());
        self.call("look", move |export| export.is_placed(&volume, &directory)).await
    }

    /// See [`Root::stage`]. `directory` is where the copy is to go.
    ///
    /// # Errors
    /// Those of [`Root::stage`], and if the export cannot be used.
    pub async fn stage(&self, volume: &str, directory: &RelPath, now: u64) -> Result<Stage, StorageError> {
        let volume = volume.to_owned();
        self.change("stage", directory, move |export, _| export.stage(&volume, now)).await
    }

    /// See [`Root::place`].
    ///
    /// # Errors
    /// Those of [`Root::place`], and if the export cannot be used.
    pub async fn place(
        &self,
        volume: &str,
        directory: &RelPath,
        onto_empty: bool,
    ) -> Result<Created, StorageError> {
        let volume = volume.to_owned();
        self.change("place", directory, move |export, directory| export.place(&volume, directory, onto_empty))
            .await
    }

    /// See [`Root::unstage`].
    ///
    /// # Errors
    /// Those of [`Root::unstage`], and if the export cannot be used.
    pub async fn unstage(&self, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        let directory = RelPath::parse(STAGING).map_err(|_| StorageError {
            doing: "unstage",
            path: STAGING.to_owned(),
            problem: Problem::Reserved,
        })?;
        let volume = volume.to_owned();
        self.change("unstage", &directory, move |export, _| export.unstage(&volume, now)).await
    }

    /// Copies `source` into a place that [`Storage::stage`] has made. Ends soon after `progress` is stopped, or whoever
    /// waits for it goes away, but for the one call in each thread that the server has not answered.
    ///
    /// # Errors
    /// What could not be copied, and why; and if the export cannot be used.
    pub async fn copy(
        &self,
        source: DirFd,
        Stage { copy, links }: Stage,
        (top, group): (Ownership, Option<(u32, u32)>),
        progress: &Progress,
    ) -> Result<(), StorageError> {
        let opened = self.opened().await?;
        let (progress, fence) = (progress.clone(), self.fence.clone());
        let mut stop = StopOnDrop(Some(progress.clone()));
        let copied = self
            .block("copy", opened, (), move |_, call| {
                let goes_on = || {
                    call.answered();
                    (fence.0)()
                };
                let (workers, progress) = (COPIERS, &progress);
                let order = copy_tree::Order {
                    source,
                    target: copy,
                    links,
                    top,
                    group,
                    workers,
                    progress,
                    goes_on: &goes_on,
                };
                copy_tree::copy(order).map_err(|(path, problem)| StorageError { doing: "copy", path, problem })
            })
            .await;
        stop.0 = None;
        copied
    }

    /// See [`Root::undo`].
    ///
    /// # Errors
    /// If the export cannot be used.
    pub async fn undo(&self, directory: &RelPath, created: Created) -> Result<(), StorageError> {
        self.change("undo", directory, move |export, directory| {
            export.undo(directory, created);
            Ok(())
        })
        .await
    }

    /// See [`Root::archive`].
    ///
    /// # Errors
    /// Those of [`Root::archive`], and if the export cannot be used.
    pub async fn archive(
        &self,
        directory: &RelPath,
        volume: &str,
        note: &str,
    ) -> Result<Option<Name>, StorageError> {
        let (volume, note) = (volume.to_owned(), note.to_owned());
        self.change("archive", directory, move |export, directory| export.archive(directory, &volume, &note)).await
    }

    /// See [`Root::directories`].
    ///
    /// # Errors
    /// Those of [`Root::directories`], and if the export cannot be used.
    pub async fn directories(&self, above: Option<&RelPath>) -> Result<Vec<String>, StorageError> {
        let above = above.cloned();
        self.call("list", move |export| export.directories(above.as_ref())).await
    }

    /// See [`Root::trash`].
    ///
    /// # Errors
    /// Those of [`Root::trash`], and if the export cannot be used.
    pub async fn trash(
        &self,
        directory: &RelPath,
        volume: &str,
        now: u64,
    ) -> Result<Option<TrashName>, StorageError> {
        let volume = volume.to_owned();
        self.change("trash", directory, move |export, directory| export.trash(directory, &volume, now)).await
    }

    /// See [`Root::trashed`].
    ///
    /// # Errors
    /// Those of [`Root::trashed`], and if the export cannot be used.
    pub async fn trashed(&self, limit: usize) -> Result<Trashed, StorageError> {
        self.call("list", move |export| export.trashed(limit)).await
    }

    /// See [`Root::reap`]. Ends after `limit`, whatever is left then, and when whoever waits for it goes away, but
    /// for the one call in each thread that the server has not answered.
    ///
    /// # Errors
    /// Those of [`Root::reap`], and if the export cannot be used.
    pub async fn reap(&self, name: &TrashName, limit: Duration) -> Result<Reaped, StorageError> {
        let opened = self.opened().await?;
        // The semaphore is never closed.
        let mut workers = Arc::clone(&opened.reapers).acquire_owned().await.ok();
        for _ in 1..REAPERS_EACH {
            if let (Some(workers), Ok(more)) = (&mut workers, Arc::clone(&opened.reapers).try_acquire_owned()) {
                workers.merge(more);
            }
        }
        let count = workers.as_ref().map_or(1, OwnedSemaphorePermit::num_permits);
        let abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = SetOnDrop(Arc::clone(&abandoned));
        let (name, fence) = (name.clone(), self.fence.clone());
        let deadline = Instant::now() + limit;
        self.block("reap", opened, workers, move |export, call| {
            let goes_on = || {
                call.answered();
                !abandoned.load(Ordering::Relaxed) && Instant::now() < deadline && (fence.0)()
            };
            export.reap(&name, count, &goes_on)
        })
        .await
    }

    /// Runs a call that changes a directory, after any other that does.
    async fn change<T: Send + 'static>(
        &self,
        doing: &'static str,
        directory: &RelPath,
        call: impl FnOnce(&Root, &RelPath) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let change = self.shared.calls.change(directory).await;
        let (directory, fence, shared) = (directory.clone(), self.fence.clone(), Arc::clone(&self.shared));
        let result = self
            .call(doing, move |export| {
                // Until the call has ended, not until nobody waits for it any more.
                let _change = change;
                // Counted first, so that whoever has closed the fence and finds none knows that there is none.
                let _counted = Counted::new(&shared.changing);
                if !(fence.0)() {
                    let path = directory.to_string();
                    return Err(StorageError { doing: "change", path, problem: Problem::NotLeading });
                }
                call(export, &directory)
            })
            .await;
        match &result {
            Ok(_) if self.shared.failing.swap(false, Ordering::Relaxed) => self.has_returned(),
            Err(error) if concerns_all(error.problem) => {
                self.shared.failing.store(true, Ordering::Relaxed);
                self.shared.suspected.notify_one();
            }
            _ => {}
        }
        result
    }

    /// Runs a call to its end, even if whoever waits for it goes away meanwhile.
    async fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        call: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        loop {
            let opened = self.opened().await?;
            // It is closed when something else has been mounted.
            if let Ok(permit) = Arc::clone(&opened.calls).acquire_owned().await {
                return self.block(doing, opened, permit, |export, _| call(export)).await;
            }
        }
    }

    /// The export, once it has been looked at.
    async fn opened(&self) -> Result<Arc<Opened>, StorageError> {
        let mut states = self.shared.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Open(opened) => return Ok(opened),
                State::Unusable(error) => return Err(error),
                // The sender lives as long as `self`.
                State::Unknown => drop(states.changed().await),
            }
        }
    }

    /// Runs a call on a thread of its own, which holds `permit` as long as it runs.
    async fn block<T: Send + 'static>(
        &self,
        doing: &'static str,
        opened: Arc<Opened>,
        permit: impl Send + 'static,
        call: impl FnOnce(&Root, &Call) -> T + Send + 'static,
    ) -> T {
        let (running, durations) = (self.shared.calls.begin(), self.shared.durations.clone());
        let labels = [("export", self.shared.name.to_string()), ("operation", doing.to_owned())];
        let called = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let begun = Instant::now();
            let result = call(&opened.export, &running);
            durations.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
            result
        });
        result_of(called).await
    }

    async fn watch_place(&self, place: &ExportSpec) {
        loop {
            let pause = match self.look(place).await {
                Ok((state, usage)) => {
                    self.shared.usage.send_replace(Some(usage));
                    self.becomes(state, place);
                    LOOK
                }
                Err(error) => {
                    self.becomes(State::Unusable(error), place);
                    LOOK_SOON
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.shared.suspected.notified() => {}
            }
        }
    }

    async fn look(&self, place: &ExportSpec) -> Result<(State, FsUsage), StorageError> {
        let (place, before, running) = (place.clone(), self.state(), self.shared.calls.probe());
        let must_be_nfs = match place.must_be_nfs {
            MustBeNfs::Always => true,
            MustBeNfs::OnceItWas => self.shared.was_nfs.load(Ordering::Relaxed),
            MustBeNfs::Never => false,
        };
        let looking = tokio::task::spawn_blocking(move || {
            let _running = running;
            look(&place.mount, must_be_nfs, before)
        });
        result_of(looking).await
    }

    /// Notes how it stands with the export, and says what has changed.
    fn becomes(&self, state: State, place: &ExportSpec) {
        let before = self.shared.state.send_replace(state.clone());
        match (&before, &state) {
            (State::Open(before), State::Open(now)) if Arc::ptr_eq(before, now) => return,
            (State::Unusable(before), State::Unusable(now)) if before == now => return,
            _ => {}
        }
        if let State::Open(before) = &before {
            // Who waits for one of its threads looks again for what is open.
            before.calls.close();
        }
        match state {
            State::Open(now) => {
                let mount = mount_of(&now.export);
                warn_of_difference(place, mount.as_ref());
                if mount.is_some_and(|mount| mount.is_nfs()) {
                    self.shared.was_nfs.store(true, Ordering::Relaxed);
                }
                info!(export = %place.source, mount = %place.mount.display(), "the export is open");
                if !matches!(before, State::Unknown) {
                    self.has_returned();
                }
            }
            State::Unusable(error) => warn!("the export cannot be used: {}", explain(&error, &place.source)),
            State::Unknown => {}
        }
    }

    /// Says when the export stops answering, and when it begins to again.
    async fn listen(&self, source: &ExportAddress) {
        let mut ticks = interval(LISTEN);
        let mut longest = Duration::ZERO;
        let mut next = STUCK_AFTER;
        loop {
            ticks.tick().await;
            let silent = self.silent_for().unwrap_or_default();
            if silent >= next {
                let (seconds, stuck_calls) = (silent.as_secs(), self.stuck_calls());
                warn!(export = %source, seconds, stuck_calls, "the export does not answer");
                next = silent * 2;
            }
            if silent < longest {
                if longest >= STUCK_AFTER {
                    info!(export = %source, seconds = longest.as_secs(), "the export answers again");
                    self.has_returned();
                }
                (longest, next) = (Duration::ZERO, STUCK_AFTER);
            }
            longest = longest.max(silent);
        }
    }

    fn has_returned(&self) {
        self.shared.returned.send_modify(|times| *times += 1);
    }
}

/// Stops a copy that nobody waits for any more.
struct StopOnDrop(Option<Progress>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(progress) = &self.0 {
            progress.stop();
        }
    }
}

/// The result of a call on a thread of its own.
async fn result_of<T>(called: tokio::task::JoinHandle<T>) -> T {
    match called.await {
        Ok(result) => result,
        // Only a panic ends it, which is a defect of ours: it goes on where it can be seen.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Looks at what is mounted at a path. What was open before stays open unless something else is mounted now. Blocks.
fn look(path: &Path, must_be_nfs: bool, before: State) -> Result<(State, FsUsage), StorageError> {
    let found = Root::open(path)?;
    let usage = found.usage()?;
    if let State::Open(opened) = &before
        && opened.export.mount_id() == found.mount_id()
    {
        return Ok((before, usage));
    }
    if must_be_nfs && mount_of(&found).is_some_and(|mount| !mount.is_nfs()) {
        let path = path.display().to_string();
        return Err(StorageError { doing: "use", path, problem: Problem::NotNfs });
    }
    Ok((State::Open(Arc::new(found.into())), usage))
}

/// What an export's root is on; `None` if the kernel does not tell.
#[must_use]
pub fn mount_of(export: &Root) -> Option<Mount> {
    let table = fs::read_to_string(MOUNT_TABLE).ok()?;
    Mount::find(&table, export.mount_id()?)
}

fn warn_of_difference(place: &ExportSpec, mount: Option<&Mount>) {
    let path = place.mount.display();
    match mount.map(|mount| mount.difference(&place.source)) {
        Some(None) => {}
        Some(Some(difference)) => {
            warn!("what is mounted at {path} may not be the export {}: {difference}", place.source);
        }
        None => debug!("the kernel does not tell what is mounted at {path}"),
    }
}

/// Whether a problem is likely to be the whole export's, not one directory's.
fn concerns_all(problem: Problem) -> bool {
    use Errno::{EDQUOT, EIO, ENOSPC, EROFS, ESTALE, ETIMEDOUT};
    matches!(problem, Problem::Os(EDQUOT | EIO | ENOSPC | EROFS | ESTALE | ETIMEDOUT))
}

/// One more, for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tells those who work for somebody that he has gone away.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A file system on a directory, for as long as the value lives.
    struct Mounted<'a>(&'a Path);

    impl<'a> Mounted<'a> {
        fn on(dir: &'a Path) -> Self {
            let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir).status().unwrap();
            assert!(mounted.success(), "these tests need root");
            Self(dir)
        }
    }

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
        }
    }

    #[test]
    fn what_must_be_an_nfs_mount_and_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = look(dir.path(), true, State::Unknown).unwrap_err();
        assert_eq!(error.problem, Problem::NotNfs);
        let (state, usage) = look(dir.path(), false, State::Unknown).unwrap();
        assert!(matches!(state, State::Open(_)) && usage.bytes > 0, "{state:?} {usage:?}");
    }

    #[test]
    fn what_is_open_stays_open_until_something_else_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let open = |before| {
            let (state, _) = look(dir.path(), false, before).unwrap();
            let State::Open(opened) = state else { panic!("{state:?}") };
            opened
        };
        let first = open(State::Unknown);
        assert!(Arc::ptr_eq(&first, &open(State::Open(Arc::clone(&first)))));
        let mounted = Mounted::on(dir.path());
        let second = open(State::Open(Arc::clone(&first)));
        assert!(!Arc::ptr_eq(&first, &second));
        second.export.create(&RelPath::parse("a").unwrap()).unwrap();
        assert!(dir.path().join("a").exists());
        drop(mounted);
        assert!(!dir.path().join("a").exists());
        assert!(!Arc::ptr_eq(&second, &open(State::Open(Arc::clone(&second)))));
    }

    #[tokio::test]
    async fn who_waits_for_a_thread_of_what_was_mounted_before_gets_one_of_what_is_now() {
        let (before, now) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let storage = Storage::from(Root::open(before.path()).unwrap());
        let State::Open(opened) = storage.state() else { panic!("it is open") };
        // As if that many calls hung.
        let hung = opened.calls.acquire_many(u32::try_from(CALLS_MAX).unwrap()).await.unwrap();
        let directory = RelPath::parse("a").unwrap();
        let mut creating = std::pin::pin!(storage.create(&directory));
        assert!(timeout(Duration::from_millis(50), &mut creating).await.is_err());
        let place = ExportSpec {
            name: "default".into(),
            mount: now.path().to_owned(),
            source: ExportAddress::new("nas".into(), "/export".into()),
            must_be_nfs: MustBeNfs::Never,
        };
        let returned = storage.returned();
        storage.becomes(State::Open(Arc::new(Root::open(now.path()).unwrap().into())), &place);
        assert_eq!(creating.await, Ok(Created { made: 1 }));
        assert!(now.path().join("a").exists() && !before.path().join("a").exists());
        assert!(returned.has_changed().unwrap());
        drop(hung);
    }

    #[tokio::test]
    async fn behind_the_fence_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = Arc::new(AtomicBool::new(true));
        let storage = Storage::from(Root::open(dir.path()).unwrap());
        let storage = storage.fenced_by({
            let allowed = Arc::clone(&allowed);
            move || allowed.load(Ordering::SeqCst)
        });
        let directory = RelPath::parse("a").unwrap();
        let made = storage.create(&directory).await.unwrap();
        allowed.store(false, Ordering::SeqCst);
        let other = RelPath::parse("b").unwrap();
        assert_eq!(storage.create(&other).await.unwrap_err().problem, Problem::NotLeading);
        assert_eq!(storage.undo(&directory, made).await.unwrap_err().problem, Problem::NotLeading);
        assert_eq!(storage.trash(&directory, "pv", 1).await.unwrap_err().problem, Problem::NotLeading);
        assert_eq!(storage.archive(&directory, "pv", "").await.unwrap_err().problem, Problem::NotLeading);
        assert_eq!(storage.directories(None).await.unwrap(), ["a"]);
        allowed.store(true, Ordering::SeqCst);
        let name = storage.trash(&directory, "pv", 1).await.unwrap().unwrap();
        allowed.store(false, Ordering::SeqCst);
        assert_eq!(storage.reap(&name, Duration::from_secs(9)).await.unwrap().left, Left::More);
        assert_eq!(storage.changes_under_way(), 0);
    }

    #[tokio::test]
    async fn an_export_that_cannot_be_used_refuses_all_calls_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let place = ExportSpec {
            name: "default".into(),
            mount: dir.path().to_owned(),
            source: ExportAddress::new("nas".into(), "/export".into()),
            must_be_nfs: MustBeNfs::Always,
        };
        let storage = Storage::at(&place, durations()).await.unwrap();
        let directory = RelPath::parse("a").unwrap();
        let refused = tokio::select! {
            () = storage.keep(&place) => None,
            created = storage.create(&directory) => Some(created),
        };
        assert_eq!(refused.unwrap().unwrap_err().problem, Problem::NotNfs);
        assert!(!dir.path().join("a").exists());
    }
}
