//! Copies whole trees that belong to somebody else, while their owner may be busy inside.
//!
//! Several threads work on one copy. They share a stack of tasks, so that they stay together deep in the tree: few
//! directories are open, and few names in memory. No link is followed and no mount point crossed. A file that has
//! several names in the tree is copied once, into a directory beside the copy, and given its names from there. Its
//! name there tells which file it is and how it was, so that no other file's content, nor older content of the same,
//! gets a name of it.
//!
//! A copy is no snapshot: each file is as it was when its turn came, and what goes before its turn is not in the
//! copy. Nothing else is passed by: that an entry has gone is what the source says of its name, or of a directory
//! above it, never an error by itself. What goes wrong in the copy, to which nobody else has access, is never passed
//! by.
//!
//! A directory is copied whole or not at all: when all that is in it has been copied, its name must still lead to it.
//! If another one has its place by then, that is copied anew; if none has and something was missed, there is none in
//! the copy either.

use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::storage::dir::{Dir, Listing};
use crate::storage::entry::{Access, Attributes, FileKind, Time};
use crate::storage::error::{Errno, Problem};
use crate::storage::mounted::thread::give_way;
use crate::storage::ops::copy_file::{Entries, Missed, Progress, TRIES, copy_xattrs, made_anew, take_away};
use crate::storage::ops::in_place::{Shown, shown};
use crate::storage::ops::remove_tree;
use crate::storage::root::OWN_MODE;
use crate::values::ownership::{Mode, Ownership};

/// How many names are read, and how many entries one thread takes, at a time.
const BATCH: usize = 128;

/// How many locks the files with several names share.
const STRIPES: usize = 64;

/// How many directories deep a tree may be. Each level of a thread's branch takes three descriptors: this many leave
/// enough for all others in the process.
pub(crate) const DEPTH_MAX: usize = 1000;

/// How many names of a path that is too deep are shown.
const NAMED: usize = 4;

/// What is copied, and where to.
pub(crate) struct TreeCopy<'a> {
    /// The directory that is copied.
    pub(crate) source: Dir,
    /// An empty directory that becomes its copy.
    pub(crate) target: Dir,
    /// An empty directory on the same file system as `target`.
    pub(crate) links: &'a Dir,
    /// The owner, group and mode of the copy's own directory, where they differ from the source's.
    pub(crate) top: Ownership,
    /// A group, and the one that takes its place in the copy.
    pub(crate) group: Option<(u32, u32)>,
    /// How many threads work on it.
    pub(crate) workers: usize,
    /// What counts how far the copy is.
    pub(crate) progress: &'a Progress,
    /// Whether to go on; asked before each entry.
    pub(crate) goes_on: &'a (dyn Fn() -> bool + Sync),
}

/// Copies all that is in a directory, and the directory's own attributes.
///
/// # Errors
/// The name of an entry that could not be copied, and why; [`Problem::NotLeading`] if the copy was stopped. What has been
/// copied by then is left.
pub(crate) fn copy(order: TreeCopy<'_>) -> Result<(), (String, Problem)> {
    let TreeCopy { source, target, links, top, group, workers, progress, goes_on } = order;
    let own = |problem| (".".to_owned(), problem);
    let found = source.inode().attributes().map_err(own)?;
    let status = Attributes {
        mode: top.mode.map_or(found.mode, Mode::bits),
        uid: top.uid.unwrap_or(found.uid),
        gid: top.gid.unwrap_or(found.gid),
        ..found
    };
    let copy = Copy {
        links,
        entries: Entries { group, progress, goes_on },
        crew: Mutex::new(Crew { tasks: Vec::new(), busy: 0, failed: None }),
        changed: Condvar::new(),
        stripes: std::array::from_fn(|_| Mutex::new(())),
    };
    let listing = source.listing().map_err(own)?;
    copy.push(Task::List(Node::new(source, target, status, None, 0), listing));
    thread::scope(|scope| {
        // On threads that do nothing else, because they give way. With fewer it takes longer.
        let spawn = |_: &usize| {
            let work = || {
                give_way();
                copy.work();
            };
            thread::Builder::new().spawn_scoped(scope, work).is_ok()
        };
        if (0..workers).filter(spawn).count() == 0 {
            copy.work();
        }
    });
    let failed = copy.crew.lock().failed.take();
    failed.map_or(Ok(()), Err)
}

/// A directory that is being copied. Its times are set when all that is in it has been.
struct Node {
    source: Dir,
    target: Dir,
    status: Attributes,
    /// The directory that it is in, and its name there; `None` is the top.
    above: Option<(Arc<Self>, CString)>,
    /// How many directories it is in.
    depth: usize,
    /// How often something of its name was copied before, and had been replaced by then.
    tried: u32,
    /// How many of its tasks and of the directories in it are not done.
    pending: AtomicUsize,
    /// Whether something that was found in it had gone before it was copied.
    has_lost_some: AtomicBool,
}

impl Node {
    fn new(
        source: Dir,
        target: Dir,
        status: Attributes,
        above: Option<(Arc<Self>, CString)>,
        tried: u32,
    ) -> Arc<Self> {
        let depth = above.as_ref().map_or(0, |(above, _)| above.depth + 1);
        let (pending, has_lost_some) = (AtomicUsize::new(1), AtomicBool::new(false));
        Arc::new(Self { source, target, status, above, depth, tried, pending, has_lost_some })
    }

    /// Tells whether this directory is not in the source any more, where it was found, and notes that something in it
    /// is lost if so. The top is never said to be gone.
    fn has_gone(&self) -> bool {
        let mut node = self;
        while let Some((above, name)) = &node.above {
            let has_gone = match above.source.entry(&**name) {
                Ok(found) => (found.inode, found.file_system) != (node.status.inode, node.status.file_system),
                Err(Problem::Os(Errno::ENOENT)) => true,
                Err(_) => {
                    node = above;
                    continue;
                }
            };
            self.has_lost_some.fetch_or(has_gone, Ordering::Relaxed);
            return has_gone;
        }
        false
    }

    /// Tells whether the source has no entry of this name any more, and notes that if so.
    fn has_lost(&self, name: &CStr) -> bool {
        let is_lost = matches!(self.source.entry(name), Err(Problem::Os(Errno::ENOENT)));
        self.has_lost_some.fetch_or(is_lost, Ordering::Relaxed);
        is_lost || self.has_gone()
    }

    /// Returns the first names of the path of this directory, beneath the top.
    fn beginning(&self) -> CString {
        let (mut names, mut node) = (Vec::new(), self);
        while let Some((above, name)) = &node.above {
            if node.depth <= NAMED {
                names.push(name.to_bytes());
            }
            node = above;
        }
        names.reverse();
        let path = [&*names.join(&b'/'), b"/\xe2\x80\xa6"].concat();
        // No name has a NUL in it.
        CString::new(path).unwrap_or_default()
    }
}

/// One after the other: each would drop the one above it, and the stack has an end.
impl Drop for Node {
    fn drop(&mut self) {
        let mut next = self.above.take();
        while let Some((above, _)) = next {
            next = Arc::into_inner(above).and_then(|mut above| above.above.take());
        }
    }
}

enum Task {
    /// Reads the next page of a directory's listing.
    List(Arc<Node>, Listing),
    /// Copies entries of a directory.
    Entries(Arc<Node>, Vec<CString>),
    /// Begins with a directory in another one, for the first time or not.
    Enter(Arc<Node>, CString, u32),
}

struct Crew {
    tasks: Vec<Task>,
    busy: usize,
    failed: Option<(String, Problem)>,
}

/// Notes that a task is done, when it is dropped.
struct Done<'a> {
    crew: &'a Mutex<Crew>,
    changed: &'a Condvar,
    failed: Option<(String, Problem)>,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut crew = self.crew.lock();
        crew.busy -= 1;
        if let Some(failed) = self.failed.take() {
            crew.failed.get_or_insert(failed);
        }
        drop(crew);
        self.changed.notify_all();
    }
}

struct Copy<'a> {
    links: &'a Dir,
    entries: Entries<'a>,
    crew: Mutex<Crew>,
    changed: Condvar,
    /// The locks for files that have several names: who copies one holds that of its number.
    stripes: [Mutex<()>; STRIPES],
}

/// The name of an entry that could not be copied, and why.
type Failed = (CString, Problem);

impl Copy<'_> {
    fn push(&self, task: Task) {
        self.crew.lock().tasks.push(task);
        self.changed.notify_one();
    }

    /// Takes and does tasks until all are done, or one has failed.
    fn work(&self) {
        while let Some(task) = self.take() {
            let mut done = Done { crew: &self.crew, changed: &self.changed, failed: None };
            // Whatever a defect of ours breaks off has failed, and the others must not wait for it.
            done.failed = Some((".".to_owned(), Problem::Os(Errno::EFAULT)));
            done.failed =
                self.perform(task).err().map(|(name, problem)| (name.to_string_lossy().into_owned(), problem));
        }
    }

    fn take(&self) -> Option<Task> {
        let mut crew = self.crew.lock();
        loop {
            if crew.failed.is_some() {
                return None;
            }
            if let Some(task) = crew.tasks.pop() {
                crew.busy += 1;
                return Some(task);
            }
            if crew.busy == 0 {
                return None;
            }
            self.changed.wait(&mut crew);
        }
    }

    fn perform(&self, task: Task) -> Result<(), Failed> {
        match task {
            Task::List(node, mut listing) => {
                let names = match listing.next(BATCH).map_err(Missed::in_source) {
                    Ok(names) => names,
                    Err(Missed::Changed(_)) if node.has_gone() => Vec::new(),
                    Err(Missed::Changed(problem) | Missed::Failed(problem)) => {
                        return Err((c".".to_owned(), problem));
                    }
                };
                if names.is_empty() {
                    return self.release(node);
                }
                // Below what is in it, so that this comes first.
                node.pending.fetch_add(1, Ordering::Relaxed);
                self.push(Task::List(Arc::clone(&node), listing));
                self.push(Task::Entries(node, names.into_iter().map(|(name, _)| name).collect()));
                Ok(())
            }
            Task::Entries(node, names) => {
                for name in names {
                    self.entry(&node, &name, 0).map_err(|problem| (name, problem))?;
                }
                self.release(node)
            }
            Task::Enter(node, name, tried) => {
                match self.enter(&node, &name, tried) {
                    Ok(()) => {}
                    Err(Missed::Failed(Problem::TooDeep)) => return Err((node.beginning(), Problem::TooDeep)),
                    Err(Missed::Changed(_)) if node.has_lost(&name) => {}
                    Err(Missed::Changed(_)) if tried < TRIES => {
                        self.entry(&node, &name, tried + 1).map_err(|problem| (name, problem))?;
                    }
                    Err(Missed::Changed(problem) | Missed::Failed(problem)) => return Err((name, problem)),
                }
                self.release(node)
            }
        }
    }

    /// Ends a task of a directory, and with the last one the directory, and so on upwards.
    fn release(&self, node: Arc<Node>) -> Result<(), Failed> {
        let mut next = Some(node);
        while let Some(node) = next {
            if node.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
                break;
            }
            let own = |problem| (c".".to_owned(), problem);
            match copy_xattrs(node.source.inode(), node.target.inode()) {
                Ok(()) => {}
                Err(Missed::Changed(_)) if node.has_gone() => {}
                Err(Missed::Changed(problem) | Missed::Failed(problem)) => return Err(own(problem)),
            }
            self.entries.own(node.target.inode(), &node.status).map_err(own)?;
            self.entries.progress.count_entry();
            let Some((above, name)) = &node.above else { break };
            self.settle(&node, above, name).map_err(|problem| (name.clone(), problem))?;
            next = Some(Arc::clone(above));
        }
        Ok(())
    }

    /// Makes sure that a directory whose copy is done was the one that its name in `above` leads to, all the time. If
    /// it was not, what there is of the copy may be half of it: it is taken away, and what has the name now is copied.
    fn settle(&self, node: &Node, above: &Arc<Node>, name: &CStr) -> Result<(), Problem> {
        match shown(&above.source, name, &node.source)? {
            Shown::Same => Ok(()),
            Shown::Nothing => {
                if node.has_lost_some.load(Ordering::Relaxed) {
                    above.has_lost_some.store(true, Ordering::Relaxed);
                    self.take_away_tree(&above.target, name)?;
                }
                Ok(())
            }
            Shown::Another if node.tried < TRIES => {
                self.take_away_tree(&above.target, name)?;
                self.entry(above, name, node.tried + 1)
            }
            Shown::Another => Err(Problem::Os(Errno::ESTALE)),
        }
    }

    /// Removes a directory of the copy, in which nobody works any more.
    fn take_away_tree(&self, target: &Dir, name: &CStr) -> Result<(), Problem> {
        let rest = remove_tree::remove(target, name, 1, &|| self.entries.go_on())?.rest;
        match rest.first {
            Some((_, problem)) => Err(problem),
            None if rest.more => Err(Problem::NotLeading),
            None => Ok(()),
        }
    }

    /// Copies an entry, which is looked at again as long as it is another each time, unless it has gone. A directory
    /// becomes a task of its own; `tried` is how many there were for it.
    fn entry(&self, node: &Arc<Node>, name: &CStr, tried: u32) -> Result<(), Problem> {
        let mut last = Problem::NotLeading;
        for _ in 0..TRIES {
            if !self.entries.go_on() {
                return Err(Problem::NotLeading);
            }
            match self.entry_once(node, name, tried) {
                Ok(()) => return Ok(()),
                Err(Missed::Changed(_)) if node.has_lost(name) => return Ok(()),
                Err(Missed::Changed(problem)) => last = problem,
                Err(Missed::Failed(problem)) => return Err(problem),
            }
        }
        Err(last)
    }

    fn entry_once(&self, node: &Arc<Node>, name: &CStr, tried: u32) -> Result<(), Missed> {
        let found = node.source.entry(name).map_err(Missed::in_source)?;
        match found.kind {
            FileKind::Directory => {
                node.pending.fetch_add(1, Ordering::Relaxed);
                self.push(Task::Enter(Arc::clone(node), name.to_owned(), tried));
                return Ok(());
            }
            FileKind::File => self.file(node, name)?,
            FileKind::Link => self.entries.link(&node.source, &node.target, name, &found)?,
            FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharacterDevice
            | FileKind::BlockDevice
            | FileKind::Other => {
                if !self.entries.node(&node.target, name, &found)? {
                    self.entries.progress.count_left_out();
                    return Ok(());
                }
            }
        }
        self.entries.progress.count_entry();
        Ok(())
    }

    fn enter(&self, above: &Arc<Node>, name: &CStr, tried: u32) -> Result<(), Missed> {
        if above.depth >= DEPTH_MAX {
            return Err(Missed::Failed(Problem::TooDeep));
        }
        let source = above.source.open(name, Access::Read).map_err(Missed::in_source)?;
        let status = source.inode().attributes().map_err(Missed::in_source)?;
        let listing = source.listing().map_err(Missed::in_source)?;
        make_directory(&above.target, name)?;
        let target = above.target.open(name, Access::Read)?;
        above.pending.fetch_add(1, Ordering::Relaxed);
        let above = Some((Arc::clone(above), name.to_owned()));
        self.push(Task::List(Node::new(source, target, status, above, tried), listing));
        Ok(())
    }

    /// Copies a file. One that has several names, perhaps in this tree, is copied once and then given each name.
    fn file(&self, node: &Node, name: &CStr) -> Result<(), Missed> {
        // From here on it is the open file that is copied, whatever gets its name.
        let (from, found) = Entries::open(&node.source, name)?;
        if found.links < 2 {
            return self.entries.file(&from, &found, &node.target, name);
        }
        let stripe = usize::try_from(found.inode % STRIPES as u64).unwrap_or_default();
        let _lock = self.stripes.get(stripe).map(Mutex::lock);
        let own = name_of(&found);
        match self.give_name(&own, node, name)? {
            Named::Yes => return Ok(()),
            Named::Refused => return self.entries.file(&from, &found, &node.target, name),
            Named::Absent => {}
        }
        self.entries.file(&from, &found, self.links, &own)?;
        let named = self.give_name(&own, node, name)?;
        if !from.inode().attributes().is_ok_and(|now| name_of(&now) == own) {
            // Half of what is in it may be newer: no other name is to get that.
            take_away(self.links, &own)?;
        }
        match named {
            Named::Yes => Ok(()),
            Named::Refused => self.entries.file(&from, &found, &node.target, name),
            // Made just now, and nobody but us takes it away.
            Named::Absent => Err(Missed::Failed(Problem::Os(Errno::ENOENT))),
        }
    }

    /// Gives the copy of a file one of the file's names, if there is such a copy.
    fn give_name(&self, own: &CStr, node: &Node, name: &CStr) -> Result<Named, Problem> {
        let linked = made_anew(&node.target, name, || match self.links.link(own, &node.target, name) {
            // Carried out, and then an answer was lost.
            Err(Problem::Os(Errno::EEXIST)) if self.is_named(own, node, name) => Ok(()),
            linked => linked,
        });
        match linked {
            Ok(()) => Ok(Named::Yes),
            Err(Problem::Os(Errno::ENOENT)) => Ok(Named::Absent),
            Err(Problem::Os(Errno::EMLINK | Errno::EPERM | Errno::EXDEV | Errno::EOPNOTSUPP)) => {
                Ok(Named::Refused)
            }
            Err(problem) => Err(problem),
        }
    }

    fn is_named(&self, own: &CStr, node: &Node, name: &CStr) -> bool {
        let (own, named) = (self.links.entry(own), node.target.entry(name));
        let of = |found: Attributes| (found.inode, found.file_system);
        own.is_ok_and(|own| named.is_ok_and(|named| of(named) == of(own)))
    }
}

/// Whether the copy of a file that has several names has got one of them.
enum Named {
    Yes,
    /// There is no copy of the file as it is now.
    Absent,
    /// It cannot have one more, or the file system has no such names.
    Refused,
}

/// Makes a directory of the copy, or takes the one that is there: a lost answer has made it, or a listing has shown its
/// name twice while others came and went.
fn make_directory(target: &Dir, name: &CStr) -> Result<(), Problem> {
    made_anew(target, name, || match target.make(name, OWN_MODE) {
        Err(Problem::Os(Errno::EEXIST)) if target.entry(name)?.kind == FileKind::Directory => Ok(()),
        made => made,
    })
}

/// Makes the name of a file's copy among those of files with several names. It says which file that is, and how it was
/// when it was copied. A file of the same number is another, or another by now, if anything else differs, and then it
/// has another name.
fn name_of(found: &Attributes) -> CString {
    let Attributes { kind: _, mode, uid, gid, size, on_disk: _, inode, links, .. } = found;
    let Attributes { file_system, device: _, accessed: _, modified, changed, .. } = found;
    let time = |time: &Time| format!("{}.{}", time.seconds, time.nanoseconds);
    let (modified, changed) = (time(modified), time(changed));
    let name = format!("{file_system}-{inode}-{links}-{size}-{modified}-{changed}-{mode:o}-{uid}-{gid}");
    // Numbers have no NUL in them.
    CString::new(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Seek, Write};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Trees {
        dir: tempfile::TempDir,
        progress: Progress,
    }

    impl Trees {
        fn new() -> Self {
            let trees = Self { dir: tempfile::tempdir().unwrap(), progress: Progress::default() };
            for name in ["source", "copy", "links"] {
                fs::create_dir(trees.dir.path().join(name)).unwrap();
            }
            trees
        }

        fn source(&self, path: &str) -> PathBuf {
            self.dir.path().join("source").join(path)
        }

        fn copied(&self, path: &str) -> PathBuf {
            self.dir.path().join("copy").join(path)
        }

        fn copy_as(&self, top: Ownership, group: Option<(u32, u32)>) -> Result<(), (String, Problem)> {
            self.copy_while(top, group, &|| {})
        }

        /// Copies, and calls `meanwhile` before each entry.
        fn copy_while(
            &self,
            top: Ownership,
            group: Option<(u32, u32)>,
            meanwhile: &(dyn Fn() + Sync),
        ) -> Result<(), (String, Problem)> {
            self.copy_with(4, top, group, meanwhile)
        }

        /// Copies with one thread, and calls `meanwhile` before each entry.
        fn copy_alone_while(&self, meanwhile: &(dyn Fn() + Sync)) -> Result<(), (String, Problem)> {
            self.copy_with(1, Ownership::default(), None, meanwhile)
        }

        fn copy_with(
            &self,
            workers: usize,
            top: Ownership,
            group: Option<(u32, u32)>,
            meanwhile: &(dyn Fn() + Sync),
        ) -> Result<(), (String, Problem)> {
            let open = |name: &str| {
                let top = Dir::open_mounted(self.dir.path()).unwrap();
                top.open(name, Access::Read).unwrap()
            };
            copy(TreeCopy {
                source: open("source"),
                target: open("copy"),
                links: &open("links"),
                top,
                group,
                workers,
                progress: &self.progress,
                goes_on: &|| {
                    meanwhile();
                    true
                },
            })
        }

        /// Copies, and once there is an entry `path` in the copy, does something, once.
        fn copy_and_when(&self, path: &str, act: impl Fn() + Sync) -> Result<(), (String, Problem)> {
            self.copy_and_once(|| self.copied(path).symlink_metadata().is_ok(), act)
        }

        /// Copies, and does something, once, before the first entry for which it is time.
        fn copy_and_once(
            &self,
            is_time: impl Fn() -> bool + Sync,
            act: impl Fn() + Sync,
        ) -> Result<(), (String, Problem)> {
            let done = Mutex::new(false);
            let meanwhile = || {
                let mut done = done.lock();
                if !*done && is_time() {
                    *done = true;
                    act();
                }
            };
            let copied = self.copy_alone_while(&meanwhile);
            assert!(*done.lock(), "it was never time before the last entry");
            copied
        }

        fn copy(&self) {
            self.copy_as(Ownership::default(), None).unwrap();
        }
    }

    /// What is to be the same of a file and its copy.
    fn seen(path: &Path) -> (u32, u32, u32, i64, i64, u64) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec(), found.rdev())
    }

    #[test]
    fn what_a_tree_is_its_copy_is() {
        let trees = Trees::new();
        fs::create_dir_all(trees.source("a/b/c")).unwrap();
        fs::write(trees.source("a/file"), "text").unwrap();
        fs::write(trees.source("a/b/program"), "x").unwrap();
        fs::set_permissions(trees.source("a/b/program"), fs::Permissions::from_mode(0o6751)).unwrap();
        std::os::unix::fs::chown(trees.source("a/file"), Some(1000), Some(2000)).unwrap();
        std::os::unix::fs::chown(trees.source("a/b"), Some(1001), Some(2000)).unwrap();
        symlink("/nowhere", trees.source("a/link")).unwrap();
        std::os::unix::fs::lchown(trees.source("a/link"), Some(7), Some(8)).unwrap();
        let top = Dir::open_mounted(&trees.source("")).unwrap();
        top.make_node("pipe", FileKind::Fifo, 0o400, 0).unwrap();
        // What Linux calls 1:3.
        top.make_node("null", FileKind::CharacterDevice, 0o400, 0x103).unwrap();
        let long = "n".repeat(255);
        fs::write(trees.source(&long), vec![7; 3 << 20]).unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_000_000);
        for path in ["a/file", "a/b/c", "a/b", "a", ""] {
            File::open(trees.source(path)).unwrap().set_modified(old).unwrap();
        }
        trees.copy();
        for path in ["", "a", "a/b", "a/b/c", "a/file", "a/b/program", "a/link", "pipe", "null", &long] {
            assert_eq!(seen(&trees.copied(path)), seen(&trees.source(path)), "{path}");
        }
        assert_eq!(fs::read_to_string(trees.copied("a/file")).unwrap(), "text");
        assert_eq!(fs::read(trees.copied(&long)).unwrap(), vec![7; 3 << 20]);
        assert_eq!(fs::read_link(trees.copied("a/link")).unwrap(), Path::new("/nowhere"));
        assert!(fs::symlink_metadata(trees.copied("pipe")).unwrap().file_type().is_fifo());
        assert_eq!((trees.progress.files(), trees.progress.left_out()), (10, 0));
    }

    #[test]
    fn files_with_several_names_are_copied_once_and_holes_stay_holes() {
        let trees = Trees::new();
        for directory in ["a", "b"] {
            fs::create_dir(trees.source(directory)).unwrap();
        }
        fs::write(trees.source("a/one"), vec![1; 1 << 20]).unwrap();
        for again in ["a/two", "b/three"] {
            fs::hard_link(trees.source("a/one"), trees.source(again)).unwrap();
        }
        let mut sparse = File::create(trees.source("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.seek(std::io::SeekFrom::Start(500 << 20)).unwrap();
        sparse.write_all(b"in the middle").unwrap();
        trees.copy();
        let found = ["a/one", "a/two", "b/three"].map(|path| fs::metadata(trees.copied(path)).unwrap());
        assert!(found.iter().all(|file| file.ino() == found[0].ino()), "{found:?}");
        let copied = fs::metadata(trees.copied("sparse")).unwrap();
        assert_eq!(copied.len(), 1 << 30);
        assert!(copied.blocks() * 512 < 1 << 20, "{}", copied.blocks());
        assert!(trees.progress.bytes() < 4 << 20, "{}", trees.progress.bytes());
    }

    /// An answer that is lost makes mkdir and all others say that the name is taken, by what they have made.
    #[test]
    fn what_a_lost_answer_has_made_is_gone_into_or_made_anew_and_never_passed_by() {
        let trees = Trees::new();
        for made in ["source/a/b", "copy/a/b"] {
            fs::create_dir_all(trees.dir.path().join(made)).unwrap();
        }
        for path in ["a/b/file", "a/one", "changed/file"] {
            fs::create_dir_all(trees.source(path).parent().unwrap()).unwrap();
            fs::write(trees.source(path), path).unwrap();
        }
        fs::hard_link(trees.source("a/one"), trees.source("a/two")).unwrap();
        symlink("there", trees.source("a/link")).unwrap();
        let top = Dir::open_mounted(&trees.source("")).unwrap();
        top.make_node("pipe", FileKind::Fifo, 0o640, 0).unwrap();
        for path in ["a/b/file", "a/one", "a/two", "changed"] {
            fs::write(trees.copied(path), "half").unwrap();
        }
        fs::write(trees.copied("pipe"), "").unwrap();
        symlink("elsewhere", trees.copied("a/link")).unwrap();
        trees.copy();
        for path in ["", "a", "a/b", "a/b/file", "a/one", "a/two", "a/link", "pipe", "changed", "changed/file"] {
            assert_eq!(seen(&trees.copied(path)), seen(&trees.source(path)), "{path}");
        }
        for (path, text) in [("a/b/file", "a/b/file"), ("a/two", "a/one"), ("changed/file", "changed/file")] {
            assert_eq!(fs::read_to_string(trees.copied(path)).unwrap(), text);
        }
        assert_eq!(fs::read_link(trees.copied("a/link")).unwrap(), Path::new("there"));
        let inode = |path| fs::metadata(trees.copied(path)).unwrap().ino();
        assert_eq!(inode("a/one"), inode("a/two"));
    }

    #[test]
    fn a_file_that_was_changed_between_two_of_its_names_is_copied_again_for_the_second() {
        let trees = Trees::new();
        for name in ["a", "b"] {
            fs::create_dir(trees.source(name)).unwrap();
        }
        fs::write(trees.source("a/one"), "old").unwrap();
        fs::hard_link(trees.source("a/one"), trees.source("b/two")).unwrap();
        let before = fs::metadata(trees.source("a/one")).unwrap();
        let is_first = |path: &str| trees.copied(path).symlink_metadata().is_ok();
        let done = Mutex::new(None);
        let meanwhile = || {
            let first = ["a/one", "b/two"].into_iter().find(|path| is_first(path));
            let mut done = done.lock();
            if done.is_some() || first.is_none() {
                return;
            }
            // Only the time that nobody can set tells that it is not as it was.
            loop {
                fs::write(trees.source("a/one"), "new").unwrap();
                let file = File::options().write(true).open(trees.source("a/one")).unwrap();
                file.set_modified(before.modified().unwrap()).unwrap();
                let now = file.metadata().unwrap();
                if (now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec()) {
                    break;
                }
            }
            *done = first;
        };
        trees.copy_alone_while(&meanwhile).unwrap();
        let first = done.lock().unwrap();
        let second = if first == "a/one" { "b/two" } else { "a/one" };
        assert_eq!(fs::read_to_string(trees.copied(first)).unwrap(), "old");
        assert_eq!(fs::read_to_string(trees.copied(second)).unwrap(), "new");
    }

    #[test]
    fn files_that_differ_in_anything_but_their_number_are_not_taken_for_one() {
        let time = |seconds| Time { seconds, nanoseconds: 5 };
        let found = Attributes {
            kind: FileKind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            size: 3,
            on_disk: 4096,
            inode: u64::MAX,
            links: 2,
            file_system: 9,
            device: 0,
            accessed: time(1),
            modified: time(i64::MIN),
            changed: time(3),
        };
        let others = [
            Attributes { mode: 0o600, ..found },
            Attributes { uid: 2, ..found },
            Attributes { gid: 1, ..found },
            Attributes { size: 4, ..found },
            Attributes { inode: 1, ..found },
            Attributes { links: 3, ..found },
            Attributes { file_system: 8, ..found },
            Attributes { modified: time(3), ..found },
            Attributes { changed: Time { nanoseconds: 6, ..time(3) }, ..found },
        ];
        for other in others {
            assert_ne!(name_of(&other), name_of(&found), "{other:?}");
        }
        let read_and_flushed = Attributes { accessed: time(2), on_disk: 8192, ..found };
        assert_eq!(name_of(&read_and_flushed), name_of(&found));
        assert!(name_of(&found).to_bytes().len() < 255);
    }

    #[test]
    fn what_goes_from_the_source_is_not_missed_and_what_goes_from_the_copy_is() {
        let trees = Trees::new();
        for number in 0..300 {
            fs::create_dir_all(trees.source("a")).unwrap();
            symlink("there", trees.source("a").join(number.to_string())).unwrap();
        }
        let remains = |path| fs::read_dir(path).unwrap().count();
        let gone = || fs::rename(trees.source("a"), trees.dir.path().join("kept")).unwrap();
        trees.copy_and_when("a", gone).unwrap();
        assert_eq!(remains(trees.copied("a")), 300, "what was open when it was moved is copied");
        fs::rename(trees.dir.path().join("kept"), trees.source("a")).unwrap();
        fs::remove_dir_all(trees.copied("a")).unwrap();
        trees.copy_and_when("a", || fs::remove_dir_all(trees.source("a")).unwrap()).unwrap();

        let swept = Trees::new();
        fs::create_dir(swept.source("a")).unwrap();
        for number in 0..300 {
            symlink("there", swept.source("a").join(number.to_string())).unwrap();
        }
        let failed = swept.copy_and_when("a", || fs::remove_dir_all(swept.copied("a")).unwrap());
        assert_eq!(failed.unwrap_err().1, Problem::Os(Errno::ENOENT));
    }

    /// Owners do so: what is old is moved away and removed, and what is new comes in its place.
    #[test]
    fn a_directory_that_is_replaced_while_it_is_copied_is_copied_anew_and_one_that_goes_is_not_there() {
        type Act = fn(&Trees, &dyn Fn(PathBuf));
        let make = |path: PathBuf, count: u32, text: &str| {
            fs::create_dir(&path).unwrap();
            for number in 0..count {
                symlink(text, path.join(number.to_string())).unwrap();
            }
        };
        let acts: [(&str, Act, Option<usize>); 5] = [
            (
                "moved and removed, then made",
                |trees, make| {
                    fs::rename(trees.source("d/a"), trees.source("old")).unwrap();
                    fs::remove_dir_all(trees.source("old")).unwrap();
                    make(trees.source("d/a"));
                },
                Some(5),
            ),
            (
                // On a server often under the same number; here that is kept as long as the old one is open.
                "removed, then made",
                |trees, make| {
                    fs::remove_dir_all(trees.source("d/a")).unwrap();
                    make(trees.source("d/a"));
                },
                Some(5),
            ),
            (
                "the one above it replaced",
                |trees, make| {
                    fs::remove_dir_all(trees.source("d")).unwrap();
                    fs::create_dir(trees.source("d")).unwrap();
                    make(trees.source("d/a"));
                },
                Some(5),
            ),
            ("removed", |trees, _| fs::remove_dir_all(trees.source("d/a")).unwrap(), None),
            (
                "the one above it moved and both removed",
                |trees, _| {
                    fs::rename(trees.source("d"), trees.source("old")).unwrap();
                    fs::remove_dir_all(trees.source("old")).unwrap();
                },
                None,
            ),
        ];
        for (what, act, expected) in acts {
            let trees = Trees::new();
            fs::create_dir(trees.source("d")).unwrap();
            make(trees.source("d/a"), 300, "old");
            let count = || fs::read_dir(trees.copied("d/a")).map_or(0, Iterator::count);
            let copied = trees.copy_and_once(|| count() >= 50, || act(&trees, &|path| make(path, 5, "new")));
            copied.unwrap();
            let names = fs::read_dir(trees.copied("d/a")).ok().map(|names| names.map(|name| name.unwrap().path()));
            let texts = names.map(|names| names.map(|name| fs::read_link(name).unwrap()).collect::<Vec<_>>());
            assert_eq!(texts, expected.map(|count| vec![PathBuf::from("new"); count]), "{what}");
        }
    }

    #[test]
    fn a_directory_that_becomes_a_file_while_it_is_copied_is_a_file_in_the_copy() {
        let trees = Trees::new();
        fs::create_dir_all(trees.source("a/in")).unwrap();
        for number in 0..100 {
            fs::write(trees.source("a/in").join(number.to_string()), "old").unwrap();
        }
        let begun = || trees.copied("a/in/1").exists() || trees.copied("a/in/2").exists();
        let act = || {
            fs::remove_dir_all(trees.source("a")).unwrap();
            fs::write(trees.source("a"), "new").unwrap();
        };
        trees.copy_and_once(begun, act).unwrap();
        assert_eq!(fs::read_to_string(trees.copied("a")).unwrap(), "new");
    }

    #[test]
    fn the_copy_itself_is_whose_the_class_says_and_one_group_becomes_another() {
        let trees = Trees::new();
        for name in ["theirs", "others"] {
            fs::write(trees.source(name), "").unwrap();
        }
        std::os::unix::fs::chown(trees.source("theirs"), Some(5), Some(50_001)).unwrap();
        let top = Ownership { mode: "2770".parse().ok(), uid: Some(3), gid: Some(50_002), ..Ownership::default() };
        trees.copy_as(top, Some((50_001, 50_002))).unwrap();
        let (mode, uid, gid, ..) = seen(&trees.copied(""));
        assert_eq!((mode & 0o7777, uid, gid), (0o2770, 3, 50_002));
        assert_eq!((seen(&trees.copied("theirs")).1, seen(&trees.copied("theirs")).2), (5, 50_002));
        assert_eq!(seen(&trees.copied("others")), seen(&trees.source("others")));
    }

    #[test]
    fn a_copy_stops_when_it_is_told_to_and_many_files_deep_down_are_no_matter() {
        let trees = Trees::new();
        let mut deep = trees.source("d");
        for _ in 0..100 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        for number in 0..1000 {
            fs::write(deep.join(number.to_string()), number.to_string()).unwrap();
        }
        trees.copy();
        assert_eq!(trees.progress.files(), 1102);
        let copied = trees.copied("").join(deep.strip_prefix(trees.source("")).unwrap());
        assert_eq!(fs::read_dir(copied).unwrap().count(), 1000);

        let again = Trees::new();
        fs::write(again.source("file"), "").unwrap();
        again.progress.stop();
        assert_eq!(again.copy_as(Ownership::default(), None).unwrap_err().1, Problem::NotLeading);
    }
}
