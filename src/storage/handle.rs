//! An export, as the rest of the program has it: each call on a thread of its own, behind the fence, and observed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::layout::{Note, TrashName, TrashPlace, archive_name};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::mounted::mount::Mount;
use crate::storage::ops::archives::{Archive, Archives};
use crate::storage::ops::create::Created;
use crate::storage::ops::disk_usage::{Begun, DiskUsage, Found};
use crate::storage::ops::trash::{Reaped, Trashed};
use crate::storage::ops::write_test::{Leftovers, WriteStep, WriteTest};
use crate::storage::pool::{Fence, Observer, Opened, Others, Pool, State, on_thread};
use crate::storage::reach::ExportSpec;
use crate::storage::root::Root;
use crate::storage::supervise::Supervisor;
use crate::values::headroom::FsUsage;
use crate::values::ownership::Ownership;
use crate::values::path::{Name, RelPath};
use crate::values::retention::Keep;
use crate::values::time::BootTime;

/// How long the first look is waited for.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(2);

/// An export. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Storage {
    pub(super) pool: Arc<Pool>,
    pub(super) supervisor: Arc<Supervisor>,
    pub(super) fence: Fence,
    others: Others,
    /// Whether entries of the trash may lie at the export's root.
    at_root: Arc<AtomicBool>,
    pub(super) owners: Owners,
}

/// The names by which those who make copies here are known.
#[derive(Clone)]
pub(super) struct Owners(pub(super) Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owners({:?})", (self.0)())
    }
}

/// A count of what is in a volume's directory that is under way.
#[derive(Debug)]
pub struct Survey {
    count: Box<DiskUsage>,
    /// What its directories are open on. It does not keep that mounted, its directories do.
    on: Weak<Opened>,
    directory: RelPath,
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
        let spec = spec.clone();
        on_thread(move || spec.reach.open(&spec.address)).await.map(Self::from)
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

    /// Counts the calls that the export has not answered for [`STUCK_AFTER`](crate::storage::STUCK_AFTER).
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
    pub async fn survey(&self, directory: &RelPath) -> Result<Option<Begun<Survey>>, StorageError> {
        let path = directory.clone();
        // Known before: if something else is mounted meanwhile, the survey is begun anew for nothing, which does no harm.
        let on = self.pool.opening().await?;
        let begun = self.pool.call("survey", move |root| root.survey(&path)).await?;
        Ok(begun.map(|begun| match begun {
            Begun::Known(found) => Begun::Known(found),
            Begun::DiskUsage(count) => Begun::DiskUsage(Survey { count, on, directory: directory.clone() }),
        }))
    }

    /// Goes on with a survey, which is given back to go on with; see [`DiskUsage::advance`]. Ends with `ESTALE` when the
    /// export has been mounted anew since the survey began, also while a call hangs on what was mounted before.
    ///
    /// # Errors
    /// Those of [`DiskUsage::advance`], and if the export cannot be used.
    pub async fn advance(&self, survey: Survey, calls: u64) -> Result<(Survey, Option<Found>), StorageError> {
        let Survey { mut count, on, directory } = survey;
        let (began_on, failed_at) = (on.clone(), directory.to_string());
        let advance = move |_: &Root| {
            let found = count.advance(calls).doing("survey", &directory)?;
            Ok((Survey { count, on, directory }, found))
        };
        tokio::select! {
            biased;
            () = self.pool.replaced(&began_on) => Err(Problem::Os(Errno::ESTALE)).doing("survey", failed_at),
            advanced = self.pool.call("survey", advance) => advanced,
        }
    }

    /// Tells whether a survey can be gone on with, because nothing else has been mounted since it began, as far as the
    /// last look could tell.
    #[must_use]
    pub fn is_current(&self, survey: &Survey) -> bool {
        !self.pool.state.borrow().replaces(&survey.on)
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
        // Two of the same last name would write their notes to one place. Later names have the volume's in them.
        let first = archive_name(directory, &volume, 0).ok().and_then(|name| RelPath::parse(name.as_str()).ok());
        let paths = [directory.clone()].into_iter().chain(first).collect();
        let directory = directory.clone();
        let archive = move |root: &Root| {
            // What comes before the rename may take as long as the server pleases.
            root.archive_if(&|| fence.check(), &directory, &volume, &note)
        };
        self.change_all("archive", paths, archive).await
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
        keep: Option<&Keep>,
    ) -> Result<Option<TrashName>, StorageError> {
        let (volume, at_root, fence) = (volume.to_owned(), Arc::clone(&self.at_root), self.fence.clone());
        let keep = keep.cloned();
        let trash = move |root: &Root, directory: &RelPath| {
            let name = root.trash_if(&|| fence.check(), directory, &volume, now, keep.as_ref())?;
            if name.as_ref().is_some_and(|name| name.place() == TrashPlace::Root) {
                at_root.store(true, Ordering::Relaxed);
            }
            Ok(name)
        };
        self.change("trash", directory, trash).await
    }

    /// Reads which archives there are, a page at a time; see [`Root::archives`].
    ///
    /// # Errors
    /// Those of [`Root::archives`], and if the export cannot be used.
    pub async fn archives(&self, after: Option<&str>) -> Result<Archives, StorageError> {
        let after = after.map(ToOwned::to_owned);
        self.pool.call("list", move |root| root.archives(after.as_deref())).await
    }

    /// Puts an archive into the trash that has not changed since it was read; see [`Root::expire`].
    ///
    /// # Errors
    /// Those of [`Root::expire`], and if the export cannot be used.
    pub async fn expire(&self, archive: &Archive, now: u64) -> Result<Option<TrashName>, StorageError> {
        let (archive, at_root, fence) = (archive.clone(), Arc::clone(&self.at_root), self.fence.clone());
        let directory = archive.path().clone();
        let expire = move |root: &Root, _: &RelPath| {
            let name = root.expire_if(&|| fence.check(), &archive, now)?;
            if name.as_ref().is_some_and(|name| name.place() == TrashPlace::Root) {
                at_root.store(true, Ordering::Relaxed);
            }
            Ok(name)
        };
        self.change("trash", &directory, expire).await
    }

    /// Makes the directories in which deleting and archiving put something; see [`Root::prepare`].
    ///
    /// # Errors
    /// Those of [`Root::prepare`], [`Problem::NotLeading`] if this process does not lead, and if the export cannot be
    /// used.
    pub async fn prepare(&self) -> Result<(), StorageError> {
        // Not among the changes that must not be carried out later: it does no harm, whenever it is done. And its
        // success says nothing of whether others would succeed, so it wakes nobody.
        let fence = self.fence.clone();
        let prepare = move |root: &Root| {
            fence.check().doing("prepare", ".")?;
            root.prepare()
        };
        self.pool.call("prepare", prepare).await
    }

    /// Lists what lies in the trash; see [`Root::trashed`]. The export's root is listed only as long as something may
    /// lie there: at first, when this process has put something there, and after [`Storage::suspect_root`].
    ///
    /// # Errors
    /// Those of [`Root::trashed`], and if the export cannot be used.
    pub async fn trashed(&self, limit: usize, now: u64) -> Result<Trashed, StorageError> {
        let at_root = Arc::clone(&self.at_root);
        self.pool.call("list", move |root| root.trashed_if(&at_root, limit, now)).await
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
    pub(super) async fn change<T: Send + 'static>(
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
    pub(super) async fn change_all<T: Send + 'static>(
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
