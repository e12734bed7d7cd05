//! The export's directories, for asynchronous callers: the one way by which the rest of the program reaches files.
//!
//! File system calls block, for as long as the server pleases. They run on threads of their own, a bounded number
//! at a time, and are always waited for: a call that the server has not answered may still be carried out when it
//! comes back, so nobody may go on as if it had not been made. Whoever waits learns from [`Storage::silent_for`]
//! for how long there has been no answer.
//!
//! What is above knows only [`Storage`]'s methods, [`RelPath`]s and [`StorageError`]s: no descriptor, no library's
//! error and no engine. How an export is reached is decided in two files, `dir.rs`, below all operations, and
//! `reach.rs`.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::layout::staging::Maker;
use crate::layout::{Note, TrashName, TrashPlace};
use crate::values::headroom::FsUsage;
use crate::values::ownership::Ownership;
use crate::values::path::{Name, RelPath};
use crate::values::time::BootTime;

mod error;
mod explain;
mod entry;
mod mounted;
mod dir;
mod root;
mod ops;
mod calls;
mod pool;
mod reach;
mod supervise;

pub use calls::STUCK_AFTER;
use dir::Dir;
use entry::Access;
use error::Doing;
pub use error::{Errno, Problem, StorageError};
pub use explain::{advice, explain};
pub use mounted::mount::Mount;
pub use ops::complete::Complete;
pub use ops::copy_file::Progress;
use ops::copy_tree::{self, TreeCopy};
pub use ops::create::Created;
pub use ops::disk_usage::{Begun, DiskUsage, Found};
pub use ops::stage::Source;
pub use ops::stage::Staged;
use ops::stage::place_of;
pub use ops::trash::{Left, Reaped, Trashed};
pub use ops::write_test::{Leftovers, Made, WriteStep, WriteTest};
pub use pool::COPY_PAUSE_MAX;
use pool::{Fence, Observer, Others, Pool, on_thread};
pub use pool::{Opened, State};
pub use reach::{ExportSpec, MustBeNfs, Reach};
pub use root::Root;
use supervise::Supervisor;

#[cfg(test)]
mod tests;

/// How long the first look is waited for.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(2);

/// How often a copy that is being made is shown to be.
const TOUCH: Duration = Duration::from_mins(1);

/// An export. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Storage {
    pool: Arc<Pool>,
    supervisor: Arc<Supervisor>,
    fence: Fence,
    others: Others,
    /// Whether entries of the trash may lie at the export's root.
    at_root: Arc<AtomicBool>,
    owners: Owners,
}

/// The names by which those who make copies here are known.
#[derive(Clone)]
struct Owners(Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owners({:?})", (self.0)())
    }
}

/// What a copy is made for, and what it is to be.
#[derive(Debug, Clone, Copy)]
pub struct CopyTo<'a> {
    /// The volume that the copy is for: the copy is made in a place of this name.
    pub volume: &'a str,
    /// The directory to which the copy is to go.
    pub directory: &'a RelPath,
    /// Whose the copy's own directory is to be, where not as the source.
    pub top: Ownership,
    /// A group that becomes another one.
    pub group: Option<(u32, u32)>,
    /// The time in seconds since 1970.
    pub now: u64,
}

impl From<Root> for Storage {
    /// Takes an export that is open already, and stays as it is.
    fn from(root: Root) -> Self {
        Self::new(State::Open(Arc::new(root.into())), |_, _| {})
    }
}

impl Storage {
    fn new(state: State, observe: impl Fn(&'static str, Duration) + Send + Sync + 'static) -> Self {
        let pool = Arc::new(Pool::new(state, Observer::new(observe)));
        let supervisor = Arc::new(Supervisor::new(Arc::clone(&pool)));
        Self {
            supervisor,
            pool,
            fence: Fence::new(|| true),
            others: Others::new(|| false),
            at_root: Arc::new(AtomicBool::new(true)),
            owners: Owners(Arc::new(Vec::new)),
        }
    }

    /// Creates a handle whose calls wait until [`Storage::keep`] has opened the export, which is only tried here.
    /// `observe` is told of each call what it did and how long it took, the wait for a thread not counted.
    ///
    /// # Errors
    /// If there is no such directory. Whatever else is wrong may yet come right, and an export that does not answer
    /// is not waited for.
    pub async fn at(
        spec: &ExportSpec,
        observe: impl Fn(&'static str, Duration) + Send + Sync + 'static,
    ) -> Result<Self, StorageError> {
        let storage = Self::new(State::Unknown, observe);
        match timeout(FIRST_LOOK_MAX, storage.supervisor.look(spec)).await {
            Ok(Err(error)) if matches!(error.problem, Problem::Os(Errno::ENOENT | Errno::ENOTDIR)) => Err(error),
            _ => Ok(storage),
        }
    }

    /// Opens an export as it is now, whatever is there, and keeps it so: for those who look at it once.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn visit(spec: &ExportSpec) -> Result<Self, StorageError> {
        let reach = spec.reach.clone();
        on_thread(move || reach.open()).await.map(Self::from)
    }

    /// Opens the export, sees from time to time whether it is still there, opens it anew if something else has
    /// been mounted, and says in the log what changes; for ever.
    pub async fn keep(&self, spec: &ExportSpec) {
        self.supervisor.keep(spec).await;
    }

    /// Returns the same export, of which nothing is changed any more once `allowed` says no.
    ///
    /// A call that waits, for a thread or because the process was stopped, asks when its turn has come. One that
    /// has begun by then goes on: see [`Storage::changes_under_way`].
    #[must_use]
    pub fn fenced_by(self, allowed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { fence: Fence::new(allowed), ..self }
    }

    /// Returns the same export, of which nothing is changed any more from that time on, with
    /// [`Problem::TooLate`]. A call that has begun by then goes on.
    #[must_use]
    pub fn until(self, until: BootTime) -> Self {
        Self { fence: self.fence.until(until), ..self }
    }

    /// Returns the same export, whose trash is emptied slowly while `others_wait` returns true.
    #[must_use]
    pub fn yielding_to(self, others_wait: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { others: Others::new(others_wait), ..self }
    }

    /// Returns the same export, on which copies are noted as made by one of these names. Nobody else who shares the
    /// export may have any of them, in whatever cluster.
    #[must_use]
    pub fn owned_by(self, owners: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { owners: Owners(Arc::new(owners)), ..self }
    }

    /// Counts the calls that are just changing directories. A server that does not answer may carry them out when
    /// it is back.
    #[must_use]
    pub fn changes_under_way(&self) -> usize {
        self.pool.changes_under_way()
    }

    /// Tells how it stands with the export, as far as the last look could tell.
    #[must_use]
    pub fn state(&self) -> State {
        self.pool.state.borrow().clone()
    }

    /// Tells how full the export was at the last look.
    #[must_use]
    pub fn usage(&self) -> Option<FsUsage> {
        self.supervisor.usage()
    }

    /// Tells for how long the export has answered no call, though there are some; `None` if there are none.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.pool.calls.silent_for()
    }

    /// Counts the calls that the export has not answered for [`STUCK_AFTER`].
    #[must_use]
    pub fn stuck_calls(&self) -> usize {
        self.pool.calls.stuck()
    }

    /// Changes each time the export can be used again after it could not: what has failed meanwhile is worth a
    /// try.
    #[must_use]
    pub fn returned(&self) -> watch::Receiver<u64> {
        self.supervisor.returned()
    }

    /// Makes a volume's directory that all can write in; see [`Root::create`].
    ///
    /// # Errors
    /// Those of [`Root::create`], and if the export cannot be used.
    pub async fn create(&self, directory: &RelPath) -> Result<Created, StorageError> {
        self.create_as(directory, Ownership::default()).await
    }

    /// Makes a volume's directory, or adopts the one that is there; see [`Root::create_as`].
    ///
    /// # Errors
    /// Those of [`Root::create_as`], and if the export cannot be used.
    pub async fn create_as(&self, directory: &RelPath, ownership: Ownership) -> Result<Created, StorageError> {
        self.change("create", directory, move |root, directory| root.create_as(directory, ownership)).await
    }

    /// Takes back what a call of [`Storage::create_as`] has made; see [`Root::undo`].
    ///
    /// # Errors
    /// If the export cannot be used.
    pub async fn undo(&self, directory: &RelPath, created: Created) -> Result<(), StorageError> {
        let undo = move |root: &Root, directory: &RelPath| {
            root.undo(directory, created);
            Ok(())
        };
        self.change("undo", directory, undo).await
    }

    /// Finds the group of a volume's directory; see [`Root::group`].
    ///
    /// # Errors
    /// Those of [`Root::group`], and if the export cannot be used.
    pub async fn group(&self, directory: &RelPath) -> Result<Option<u32>, StorageError> {
        let directory = directory.clone();
        self.pool.call("look", move |root| root.group(&directory)).await
    }

    /// Lists the directories in another one, or in the root; see [`Root::directories`].
    ///
    /// # Errors
    /// Those of [`Root::directories`], and if the export cannot be used.
    pub async fn directories(&self, above: Option<&RelPath>) -> Result<Vec<String>, StorageError> {
        let above = above.cloned();
        self.pool.call("list", move |root| root.directories(above.as_ref())).await
    }

    /// Begins to find out how much is in a volume's directory; see [`Root::survey`].
    ///
    /// # Errors
    /// Those of [`Root::survey`], and if the export cannot be used.
    pub async fn survey(&self, directory: &RelPath) -> Result<Option<Begun>, StorageError> {
        let directory = directory.clone();
        self.pool.call("survey", move |root| root.survey(&directory)).await
    }

    /// Goes on with the survey of `directory`, which is given back to go on with; see [`DiskUsage::advance`].
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
        let advance = move |_: &Root| match survey.advance(calls) {
            Ok(found) => Ok((survey, found)),
            Err(problem) => Err(StorageError { doing: "survey", path, problem }),
        };
        self.pool.call("survey", advance).await
    }

    /// Keeps a volume's directory under another name, and a note on whose it was; see [`Root::archive`].
    ///
    /// # Errors
    /// Those of [`Root::archive`], and if the export cannot be used.
    pub async fn archive(
        &self,
        directory: &RelPath,
        volume: &str,
        note: &Note,
    ) -> Result<Option<Name>, StorageError> {
        let (volume, note, fence) = (volume.to_owned(), note.clone(), self.fence.clone());
        let archive = move |root: &Root, directory: &RelPath| {
            // What comes before the rename may take as long as the server pleases.
            root.archive_if(&|| fence.check(), directory, &volume, &note)
        };
        self.change("archive", directory, archive).await
    }

    /// Puts a volume's directory into the trash; see [`Root::trash`].
    ///
    /// # Errors
    /// Those of [`Root::trash`], and if the export cannot be used.
    pub async fn trash(
        &self,
        directory: &RelPath,
        volume: &str,
        now: u64,
    ) -> Result<Option<TrashName>, StorageError> {
        let (volume, at_root, fence) = (volume.to_owned(), Arc::clone(&self.at_root), self.fence.clone());
        let trash = move |root: &Root, directory: &RelPath| {
            let name = root.trash_if(&|| fence.check(), directory, &volume, now)?;
            if name.as_ref().is_some_and(|name| name.place() == TrashPlace::Root) {
                at_root.store(true, Ordering::Relaxed);
            }
            Ok(name)
        };
        self.change("trash", directory, trash).await
    }

    /// Makes the directories in which deleting and archiving put something; see [`Root::prepare`].
    ///
    /// # Errors
    /// Those of [`Root::prepare`], and if the export cannot be used.
    pub async fn prepare(&self) -> Result<(), StorageError> {
        // Not among the changes that must not be carried out later: it does no harm, whenever it is done. And its
        // success says nothing of whether others would succeed, so it wakes nobody.
        let fence = self.fence.clone();
        let prepare = move |root: &Root| if fence.lets_pass() { root.prepare() } else { Ok(()) };
        self.pool.call("prepare", prepare).await
    }

    /// Lists what lies in the trash; see [`Root::trashed`]. The export's root is listed only as long as something may
    /// lie there: at first, when this process has put something there, and after [`Storage::suspect_root`].
    ///
    /// # Errors
    /// Those of [`Root::trashed`], and if the export cannot be used.
    pub async fn trashed(&self, limit: usize) -> Result<Trashed, StorageError> {
        let at_root = Arc::clone(&self.at_root);
        self.pool.call("list", move |root| root.trashed_if(&at_root, limit)).await
    }

    /// Has the next [`Storage::trashed`] look at the export's root, too: others may have put something there.
    pub fn suspect_root(&self) {
        self.at_root.store(true, Ordering::Relaxed);
    }

    /// Removes an entry of the trash; see [`Root::reap`]. Ends after `limit`, whatever is left then, and when
    /// whoever waits for it goes away, but for the one call in each thread that the server has not answered.
    ///
    /// # Errors
    /// Those of [`Root::reap`], and if the export cannot be used.
    pub async fn reap(&self, name: &TrashName, limit: Duration) -> Result<Reaped, StorageError> {
        let name = name.clone();
        let reap =
            move |root: &Root, workers, goes_on: &(dyn Fn() -> bool + Sync)| root.reap(&name, workers, goes_on);
        self.pool.remove(&self.fence, &self.others, limit, reap).await
    }

    /// Opens a volume's directory, to be copied; `None` if there is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, the file system refuses, or the export cannot be used.
    pub async fn open_source(&self, directory: &RelPath) -> Result<Option<Source>, StorageError> {
        let directory = directory.clone();
        self.pool.call("open", move |root| root.open_source(&directory)).await
    }

    /// Copies all that is in a directory, perhaps of another export, into a place of its own on this one, from
    /// where [`Storage::place`] puts it to its directory. What was left there by an earlier attempt goes into the
    /// trash.
    ///
    /// Ends soon after `progress` is stopped, or whoever waits for it goes away, but for the one call in each
    /// thread that the server has not answered. Pauses while nothing may be changed, for [`COPY_PAUSE_MAX`] at most.
    /// Cut anywhere it leaves what [`Storage::unstage`] and the next copy take away. As long as it goes on, others see
    /// that it does ([`Storage::staged`]).
    ///
    /// # Errors
    /// `ENOENT` if the source does not lie where it was opened any more. What could not be copied, and why;
    /// [`Problem::NotLeading`] if it was stopped; and if the export cannot be used.
    pub async fn copy(
        &self,
        source: Source,
        job: CopyTo<'_>,
        progress: &Progress,
    ) -> Result<Complete, StorageError> {
        let CopyTo { volume: volume_name, directory, top, group, now } = job;
        let (paths, volume) = (vec![directory.clone(), place_of(volume_name)?], volume_name.to_owned());
        let maker = Maker { owners: (self.owners.0)() };
        let stage = self.change_all("stage", paths, move |root| root.stage(&volume, &maker, now)).await?;
        let directory = directory.clone();
        let copy = move |workers, goes_on: &(dyn Fn() -> bool + Sync), progress: &Progress| {
            let failed = |path, problem| StorageError { doing: "copy", path, problem };
            let own = |problem| failed(".".to_owned(), problem);
            let open = |dir: &Dir| dir.reopen(Access::Read).map_err(own);
            let order = TreeCopy {
                source: open(&source.dir)?,
                target: open(&stage.copy)?,
                links: &stage.links,
                top,
                group,
                workers,
                progress,
                goes_on,
            };
            copy_tree::copy(order).map_err(|(path, problem)| failed(path, problem))?;
            // What was moved or removed meanwhile may have been copied in part, and be nobody's to copy any more.
            if !source.is_in_place().map_err(own)? {
                return Err(own(Problem::Os(Errno::ENOENT)));
            }
            if !goes_on() {
                return Err(own(Problem::NotLeading));
            }
            stage.complete(&directory).doing("complete the copy for", &directory)
        };
        let copied = self.pool.copy(&self.fence, progress, copy);
        tokio::select! {
            copied = copied => copied,
            never = self.touch_forever(volume_name) => match never {},
        }
    }

    /// Shows others who share the export that a volume's copy is being made, or waits to be placed, for ever.
    pub async fn touch_forever(&self, volume: &str) -> Infallible {
        loop {
            // What is wrong with the export, the copy itself says. It is tried again.
            let _ = self.touch(volume).await;
            sleep(TOUCH).await;
        }
    }

    /// Shows others once, as [`Storage::touch_forever`] does.
    ///
    /// # Errors
    /// If there is no such copy, the file system refuses, or the export cannot be used.
    pub async fn touch(&self, volume: &str) -> Result<(), StorageError> {
        let (volume, fence) = (volume.to_owned(), self.fence.clone());
        let touch = move |root: &Root| if fence.lets_pass() { root.touch(&volume) } else { Ok(()) };
        self.pool.call("touch", touch).await
    }

    /// Lists the places of all copies; see [`Root::staged`].
    ///
    /// # Errors
    /// Those of [`Root::staged`], and if the export cannot be used.
    pub async fn staged(&self) -> Result<Vec<Staged>, StorageError> {
        self.pool.call("list", Root::staged).await
    }

    /// Tells whether a copy that is being made, or was left, is this handle's own; see [`Storage::owned_by`].
    #[must_use]
    pub fn is_own(&self, staged: &Staged) -> bool {
        staged.maker.as_ref().is_some_and(|maker| maker.is_one_of(&(self.owners.0)()))
    }

    /// Renames a volume's copy, which is complete, to its directory, and makes those above it. An empty directory
    /// that is there is replaced if `onto_empty`. A copy that is there already is left, which is success: an answer may
    /// have been lost.
    ///
    /// Cut before the rename it leaves a copy that can be placed by another call; after it, a directory that is known
    /// by [`Storage::is_placed`].
    ///
    /// # Errors
    /// If the copy is not complete, or not in the place any more in which it was made; if there is a directory already
    /// that is not to be replaced, a component is a link or no directory, the file system refuses, or the export cannot
    /// be used.
    pub async fn place(
        &self,
        volume: &str,
        complete: Complete,
        directory: &RelPath,
        onto_empty: bool,
    ) -> Result<Created, StorageError> {
        let (paths, volume) = (vec![directory.clone(), place_of(volume)?], volume.to_owned());
        let (directory, fence) = (directory.clone(), self.fence.clone());
        let place = move |root: &Root| {
            // One that was put there by a call without an answer is found by the call that follows.
            if root.is_staged(&volume, complete)? || root.is_placed(&volume, &directory)? {
                return root.place(&|| fence.check(), &volume, &directory, onto_empty);
            }
            Err(Problem::Os(Errno::ESTALE)).doing("place the copy at", directory)
        };
        self.change_all("place", paths, place).await
    }

    /// Makes sure that a copy could be put to its directory as things are; see [`Root::is_vacant`].
    ///
    /// # Errors
    /// Those of [`Root::is_vacant`], and if the export cannot be used.
    pub async fn is_vacant(&self, directory: &RelPath, onto_empty: bool) -> Result<(), StorageError> {
        let directory = directory.clone();
        self.pool.call("look", move |root| root.is_vacant(&directory, onto_empty)).await
    }

    /// Tells whether a volume's copy is still in the place in which it was made; see [`Root::is_staged`].
    ///
    /// # Errors
    /// Those of [`Root::is_staged`], and if the export cannot be used.
    pub async fn is_staged(&self, volume: &str, complete: Complete) -> Result<bool, StorageError> {
        let volume = volume.to_owned();
        self.pool.call("look", move |root| root.is_staged(&volume, complete)).await
    }

    /// Tells whether a volume's directory is the copy that was made for it.
    ///
    /// # Errors
    /// If the file system refuses, or the export cannot be used.
    pub async fn is_placed(&self, volume: &str, directory: &RelPath) -> Result<bool, StorageError> {
        let (volume, directory) = (volume.to_owned(), directory.clone());
        self.pool.call("look", move |root| root.is_placed(&volume, &directory)).await
    }

    /// Puts what is left in the place of a volume's copy into the trash, if there is such a place.
    ///
    /// # Errors
    /// Those of [`Storage::trash`].
    pub async fn unstage(&self, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        let (place, volume) = (place_of(volume)?, volume.to_owned());
        self.change("unstage", &place, move |root, _| root.unstage(&volume, now)).await
    }

    /// Finds what is mounted where the export is; `None` if the kernel does not tell.
    ///
    /// # Errors
    /// If the export cannot be used.
    pub async fn mount(&self) -> Result<Option<Mount>, StorageError> {
        self.pool.call("look", |root| Ok(root.mount())).await
    }

    /// Asks how full the export is now.
    ///
    /// # Errors
    /// What the file system says, and if the export cannot be used.
    pub async fn measure(&self) -> Result<FsUsage, StorageError> {
        self.pool.call("look", Root::usage).await
    }

    /// Begins a write test: makes a directory of its own, in which steps are taken by [`Storage::write_test`].
    /// Nothing else is touched. A test that is cut leaves its directory, which a later test removes.
    ///
    /// # Errors
    /// What the file system says, and if the export cannot be used.
    pub async fn begin_write_test(&self) -> Result<Arc<WriteTest>, StorageError> {
        self.pool.call("test", |root| root.begin_write_test().map(Arc::new)).await
    }

    /// Takes a step of a write test. [`WriteStep::Remove`] ends it.
    ///
    /// # Errors
    /// What the file system says, and if the export cannot be used.
    pub async fn write_test(&self, test: &Arc<WriteTest>, step: WriteStep) -> Result<(), StorageError> {
        let test = Arc::clone(test);
        self.pool.call("test", move |_| test.take(step)).await
    }

    /// Removes what earlier write tests have left, and only what is certainly theirs. `answered` is called
    /// whenever the file system has answered.
    ///
    /// # Errors
    /// If the export's root cannot be listed, and if the export cannot be used.
    pub async fn remove_leftovers(
        &self,
        test: &Arc<WriteTest>,
        answered: impl Fn() + Send + 'static,
    ) -> Result<Leftovers, StorageError> {
        let test = Arc::clone(test);
        self.pool.call("test", move |_| test.remove_leftovers(&answered)).await
    }

    /// Runs a call that changes a directory, after any other that does.
    async fn change<T: Send + 'static>(
        &self,
        doing: &'static str,
        directory: &RelPath,
        call: impl FnOnce(&Root, &RelPath) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let paths = vec![directory.clone()];
        let directory = directory.clone();
        self.change_all(doing, paths, move |root| call(root, &directory)).await
    }

    /// Runs a call that changes directories, after any other that changes one of them.
    async fn change_all<T: Send + 'static>(
        &self,
        doing: &'static str,
        directories: Vec<RelPath>,
        call: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let result = self.pool.change(&self.fence, doing, directories, call).await;
        self.supervisor.heard(result.as_ref().err().map(|error| error.problem));
        result
    }
}
