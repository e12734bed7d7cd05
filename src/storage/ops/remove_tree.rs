//! Removes whole trees that belong to somebody else: of any depth and width, with any names in them, and with
//! their owner still busy inside.
//!
//! Several threads work on one tree, each in another directory. One thread works on one directory, because the
//! kernel takes no two removals in the same directory at a time. The threads share a stack of tasks, so that they
//! stay together deep in the tree: few directories are open, and few names in memory. They are there to wait for a
//! server that is far: where files are near, one is enough, as for `rm -rf`, and more would take the processor from
//! those who wait for claims. All have the priority of any other thread. A lower one would stand still for as long as
//! anything else on the machine has something to do.
//!
//! Entries that cannot be removed are skipped. A directory is listed again as long as something new shows up in
//! it, unless something in it has to stay anyway: a later removal tries that again.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::layout::moved_up;
use crate::storage::dir::{Dir, Listing};
use crate::storage::entry::{Access, FileKind};
use crate::storage::error::{Errno, Problem};

/// How many entries a page of a listing has, and so how many names an open directory can have waiting.
const BATCH: usize = 128;

/// How many directories of a tree may be open. One more is moved up to the top instead, and entered when others
/// are done. Each takes one descriptor, or two while it is listed.
const OPEN_MAX: usize = 96;

/// How long even the fastest calls that remove take, on average of a page, where the file system is far: more threads share
/// the waiting then.
const FAR: Duration = Duration::from_micros(100);

/// How many times a directory is listed that has new entries whenever it has been emptied.
const ROUNDS_MAX: u32 = 1000;

/// How much of a path is reported, in bytes, from its end.
const REPORTED_MAX: usize = 1024;

/// What [`remove`] did.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// How many entries were removed.
    pub(crate) entries: u64,
    /// What was left.
    pub(crate) rest: Rest,
}

/// What is left of a directory.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// How many entries could not be removed. What they lie in does not count.
    pub(crate) blocked: u64,
    /// The path beneath the top of the first of those entries, and what was wrong with it. An entry that is only
    /// still open gives way to any other.
    pub(crate) first: Option<(String, Problem)>,
    /// Whether more may be left, because the work was cut or could not keep up with the owner's.
    pub(crate) more: bool,
}

impl Rest {
    fn is_nothing(&self) -> bool {
        self.blocked == 0 && !self.more
    }

    fn add(&mut self, problem: Problem, path: impl FnOnce() -> String) {
        self.blocked += 1;
        if self.takes(problem) {
            self.first = Some((path(), problem));
        }
    }

    fn merge(&mut self, other: Self) {
        self.blocked += other.blocked;
        self.more |= other.more;
        if other.first.as_ref().is_some_and(|(_, problem)| self.takes(*problem)) {
            self.first = other.first;
        }
    }

    fn takes(&self, problem: Problem) -> bool {
        match self.first {
            None => true,
            Some((_, first)) => first == Problem::StillOpen && problem != Problem::StillOpen,
        }
    }
}

/// Removes the directory `name` in `parent` and all that is in it, with up to `workers` threads, as long as
/// `goes_on`, which is asked before each removal. Succeeds if there is no such directory.
///
/// Links are removed, not followed; mount points are not crossed. A removal may be cut at any point and run again,
/// and two may run at the same time. An owner who does not stop adding entries can make it last as long as
/// `goes_on`, not longer.
///
/// # Errors
/// If something else than a directory has that name, or the directory cannot be opened. Nothing is removed then.
pub(crate) fn remove(
    parent: &Dir,
    name: &CStr,
    workers: usize,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<Removed, Problem> {
    let top = match parent.open(name, Access::Pass) {
        Err(Problem::Os(Errno::ENOENT)) => return Ok(Removed::default()),
        opened => Arc::new(Directory::new(None, name.to_owned(), opened?)),
    };
    let walk = Walk {
        parent,
        top,
        workers,
        goes_on,
        crew: Mutex::new(Crew { tasks: Vec::new(), workers: 1, left: None, is_over: false }),
        changed: Condvar::new(),
        open: AtomicUsize::new(1),
        moved_up: AtomicU64::new(0),
        entries: AtomicU64::new(0),
        fastest: AtomicU64::new(u64::MAX),
    };
    walk.begin_pass(&walk.top);
    thread::scope(|scope| walk.work(scope));
    let cut = || Rest { more: true, ..Rest::default() };
    Ok(Removed {
        entries: walk.entries.load(Ordering::Relaxed),
        rest: walk.crew.lock().left.take().unwrap_or_else(cut),
    })
}

/// One removal of a tree.
struct Walk<'a> {
    parent: &'a Dir,
    top: Arc<Directory>,
    workers: usize,
    goes_on: &'a (dyn Fn() -> bool + Sync),
    crew: Mutex<Crew>,
    /// Tells that there are new tasks, or that the removal is over.
    changed: Condvar,
    /// How many directories are open.
    open: AtomicUsize,
    /// The number of the last directory that was moved up.
    moved_up: AtomicU64,
    entries: AtomicU64,
    /// How long the fastest calls have taken, each, in microseconds; the largest number while there were none.
    fastest: AtomicU64,
}

/// What the threads share.
struct Crew {
    /// The tasks, the next one at the end.
    tasks: Vec<Task>,
    /// How many threads there are.
    workers: usize,
    /// What is left of the top, once all is done.
    left: Option<Rest>,
    is_over: bool,
}

enum Task {
    /// Opens a directory and begins with it, or moves it up.
    Enter { above: Arc<Directory>, name: CString },
    /// Goes on with a listing, or begins one.
    Scan { directory: Arc<Directory>, listing: Option<Listing> },
}

/// An open directory, on the way from the top to where a thread works.
struct Directory {
    above: Option<Arc<Directory>>,
    name: CString,
    dir: Dir,
    pass: Mutex<Pass>,
}

/// How far one pass through a directory has got.
#[derive(Default)]
struct Pass {
    /// The number of this pass, from 1.
    round: u32,
    /// How many parts of the pass are not at their end: the listing, and each directory that was found.
    unfinished: usize,
    /// What is left of the parts that are at their end.
    rest: Rest,
    /// The number of the last directory that was moved up before the pass.
    moved_up: u64,
}

impl Directory {
    fn new(above: Option<Arc<Self>>, name: CString, dir: Dir) -> Self {
        Self { above, name, dir, pass: Mutex::default() }
    }

    /// Makes a call on this directory, again with all rights for its owner if they are what was missing: root is
    /// nobody special on many servers.
    fn with_rights<T>(&self, call: impl Fn(&Dir) -> Result<T, Problem>) -> Result<T, Problem> {
        match call(&self.dir) {
            Err(Problem::Os(Errno::EACCES)) if self.dir.unlock().is_ok() => call(&self.dir),
            result => result,
        }
    }

    /// Returns the path beneath the top of the entry `name`, or the end of it if it is long; "" is the directory
    /// itself.
    fn path(&self, name: &CStr) -> String {
        let mut path = name.to_string_lossy().into_owned();
        let mut directory = self;
        while let Some(above) = &directory.above {
            if path.len() > REPORTED_MAX {
                return format!("…/{path}");
            }
            let separator = if path.is_empty() { "" } else { "/" };
            path = format!("{}{separator}{path}", directory.name.to_string_lossy());
            directory = above;
        }
        path
    }
}

impl Walk<'_> {
    /// Takes and does tasks until the removal is over.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let _released = Released(self);
        while let Some(task) = self.take(scope) {
            match task {
                Task::Enter { above, name } => self.enter(above, name),
                Task::Scan { directory, listing } => self.scan(directory, listing),
            }
        }
    }

    /// Notes how long so many calls have taken.
    fn took(&self, took: Duration, calls: usize) {
        let each = took.as_micros() / u128::try_from(calls.max(1)).unwrap_or(1);
        self.fastest.fetch_min(u64::try_from(each).unwrap_or(u64::MAX - 1), Ordering::Relaxed);
    }

    /// Tells whether the file system is known to be far. The fastest removals tell: any may have had to wait for the
    /// processor, or for others to go first.
    fn is_far(&self) -> bool {
        let fastest = self.fastest.load(Ordering::Relaxed);
        fastest != u64::MAX && Duration::from_micros(fastest) >= FAR
    }

    /// Waits for the next task; `None` if the removal is over. If there are more tasks, another thread is started.
    fn take<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Option<Task> {
        // Without the lock: it may let others go first. Whoever ends wakes those that wait.
        if !(self.goes_on)() {
            return None;
        }
        let mut crew = self.crew.lock();
        loop {
            if crew.is_over {
                return None;
            }
            if let Some(task) = crew.tasks.pop() {
                if !crew.tasks.is_empty() && crew.workers < self.workers && self.is_far() {
                    // If there can be no more threads, those that there are do it.
                    let started = thread::Builder::new().spawn_scoped(scope, || self.work(scope));
                    crew.workers += usize::from(started.is_ok());
                }
                return Some(task);
            }
            self.changed.wait(&mut crew);
        }
    }

    fn push(&self, tasks: impl IntoIterator<Item = Task>) {
        let mut crew = self.crew.lock();
        crew.tasks.extend(tasks);
        // Whoever pushes is going to take one.
        if crew.tasks.len() > 1 {
            self.changed.notify_all();
        }
    }

    /// Enters a directory that was found.
    fn enter(&self, above: Arc<Directory>, name: CString) {
        let is_deep = !Arc::ptr_eq(&above, &self.top);
        if is_deep && self.open.load(Ordering::Relaxed) >= OPEN_MAX {
            let moved = self.move_up(&above, &name);
            return self.settle(above, moved, &name);
        }
        match above.with_rights(|above| above.open(&*name, Access::Pass)) {
            Ok(dir) => {
                self.open.fetch_add(1, Ordering::Relaxed);
                self.begin_pass(&Arc::new(Directory::new(Some(above), name, dir)));
            }
            Err(problem) => self.settle(above, Err(problem), &name),
        }
    }

    /// Moves a directory to the top, under a name that is free there. A later page of the top's listing, or its
    /// next pass, finds it.
    fn move_up(&self, above: &Directory, name: &CStr) -> Result<(), Problem> {
        loop {
            let number = self.moved_up.fetch_add(1, Ordering::Relaxed) + 1;
            let free = moved_up(number);
            let rename = || above.with_rights(|above| above.rename(name, &self.top.dir, &*free));
            let renamed = match rename() {
                // The top is written to, and so is a directory that changes its parent.
                Err(Problem::Os(Errno::EACCES)) => {
                    let moved = above.dir.open(name, Access::Pass);
                    moved.and_then(|dir| dir.unlock()).and_then(|()| self.top.dir.unlock()).and_then(|()| rename())
                }
                renamed => renamed,
            };
            match renamed {
                // An earlier run has left it, or the owner has made it.
                Err(Problem::Os(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR)) if (self.goes_on)() => {}
                renamed => return renamed,
            }
        }
    }

    /// Begins a pass through a directory.
    fn begin_pass(&self, directory: &Arc<Directory>) {
        {
            let mut pass = directory.pass.lock();
            let (round, moved_up) = (pass.round + 1, self.moved_up.load(Ordering::Relaxed));
            *pass = Pass { round, unfinished: 1, rest: Rest::default(), moved_up };
        }
        self.push([Task::Scan { directory: Arc::clone(directory), listing: None }]);
    }

    /// Removes what a listing shows until it shows directories, which become tasks of their own.
    fn scan(&self, directory: Arc<Directory>, listing: Option<Listing>) {
        let mut listing = match listing.map_or_else(|| directory.with_rights(Dir::listing), Ok) {
            Ok(listing) => listing,
            Err(problem) => return self.settle(directory, Err(problem), c""),
        };
        loop {
            let entries = match listing.next(BATCH) {
                Ok(entries) => entries,
                Err(problem) => return self.settle(directory, Err(problem), c""),
            };
            if entries.is_empty() {
                return self.settle(directory, Ok(()), c"");
            }
            let Some(found) = self.remove_page(&directory, entries) else { return self.end() };
            if !found.is_empty() {
                directory.pass.lock().unfinished += found.len();
                let enter = |name| Task::Enter { above: Arc::clone(&directory), name };
                let tasks: Vec<_> = found.into_iter().rev().map(enter).collect();
                let go_on = Task::Scan { directory, listing: Some(listing) };
                return self.push([go_on].into_iter().chain(tasks));
            }
        }
    }

    /// Removes what a listing has shown, and returns the directories among it; `None` if the work is cut.
    fn remove_page(
        &self,
        directory: &Directory,
        entries: Vec<(CString, Option<FileKind>)>,
    ) -> Option<Vec<CString>> {
        let (mut directories, mut others) = (Vec::new(), Vec::with_capacity(entries.len()));
        for (name, kind) in entries {
            let kind = match kind {
                Some(kind) => Ok(kind),
                None if !(self.goes_on)() => return None,
                None => directory.with_rights(|dir| dir.entry(&*name)).map(|entry| entry.kind),
            };
            match kind {
                Ok(FileKind::Directory) => directories.push(name),
                Ok(_) => others.push(name),
                Err(problem) => self.note(directory, &name, Err(problem)),
            }
        }
        // An engine asks before it sends, however many removals that are.
        let sent = Cell::new(0);
        let goes_on = || {
            sent.set(sent.get() + 1);
            (self.goes_on)()
        };
        let (begun, mut names) = (Instant::now(), &*others);
        while !names.is_empty() {
            let results = directory.dir.remove_many(names, &goes_on);
            if results.is_empty() {
                return None;
            }
            let (tried, rest) = names.split_at_checked(results.len())?;
            for (name, result) in tried.iter().zip(results) {
                let removed = match result {
                    Err(Problem::Os(Errno::EACCES)) if directory.dir.unlock().is_ok() => {
                        directory.dir.unlink(&**name)
                    }
                    result => result,
                };
                self.note(directory, name, removed);
            }
            names = rest;
        }
        if !others.is_empty() {
            self.took(begun.elapsed(), sent.get());
        }
        Some(directories)
    }

    /// Notes what came of an entry that was to be removed.
    fn note(&self, directory: &Directory, name: &CStr, removed: Result<(), Problem>) {
        match removed {
            Ok(()) => {
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
            Err(problem) if problem.is_another() => {}
            Err(problem) => directory.pass.lock().rest.add(problem, || directory.path(name)),
        }
    }

    /// Notes that one part of a directory is at its end, which is the directory's own end if it was the last, and
    /// so on upwards. The problem, if there is one, is that of the entry `name` in the directory, "" being itself.
    fn settle(&self, mut directory: Arc<Directory>, result: Result<(), Problem>, name: &CStr) {
        let mut rest = Rest::default();
        if let Err(problem) = result
            && !problem.is_another()
        {
            rest.add(problem, || directory.path(name));
        }
        loop {
            let left = {
                let mut pass = directory.pass.lock();
                pass.rest.merge(rest);
                pass.unfinished -= 1;
                if pass.unfinished > 0 {
                    return;
                }
                mem::take(&mut pass.rest)
            };
            let Some(left) = self.end_pass(&directory, left) else {
                return self.begin_pass(&directory);
            };
            self.open.fetch_sub(1, Ordering::Relaxed);
            let Some(above) = directory.above.clone() else {
                self.crew.lock().left = Some(left);
                return self.end();
            };
            (directory, rest) = (above, left);
        }
    }

    /// Ends a pass: removes the directory if nothing in it is known to be left. Returns what is left then; `None`
    /// if the directory needs another pass.
    fn end_pass(&self, directory: &Directory, mut left: Rest) -> Option<Rest> {
        let removed = if left.is_nothing() { self.remove_empty(directory) } else { Ok(()) };
        let Pass { round, moved_up, .. } = *directory.pass.lock();
        let is_top = directory.above.is_none();
        let has_more = match removed {
            // What was moved up may not have been listed any more.
            Ok(()) => is_top && !left.is_nothing() && self.moved_up.load(Ordering::Relaxed) > moved_up,
            // The file system has passed over it, or the owner has put it there meanwhile.
            Err(Problem::Os(Errno::ENOTEMPTY | Errno::EEXIST)) => true,
            Err(problem) => {
                // One that is not there any more, or something else now, shows in the one above. The top has none.
                if is_top || !problem.is_another() {
                    left.add(problem, || directory.path(c""));
                }
                false
            }
        };
        if has_more && round < ROUNDS_MAX && (self.goes_on)() {
            return None;
        }
        left.more |= has_more;
        Some(left)
    }

    /// Removes a directory that should be empty. Succeeds if there is none.
    fn remove_empty(&self, directory: &Directory) -> Result<(), Problem> {
        let (begun, name) = (Instant::now(), &*directory.name);
        let removed = match &directory.above {
            Some(above) => above.with_rights(|above| above.remove_empty(name)),
            None => self.parent.remove_empty(name),
        };
        match removed {
            Ok(()) => {
                if self.fastest.load(Ordering::Relaxed) == u64::MAX {
                    self.took(begun.elapsed(), 1);
                }
                self.entries.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Problem::Os(Errno::ENOENT)) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    fn end(&self) {
        self.crew.lock().is_over = true;
        self.changed.notify_all();
    }
}

/// Ends the others' waiting when one thread ends, be it by a defect of ours: there is always one that works until
/// all is done.
struct Released<'a>(&'a Walk<'a>);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
