//! Copies whole trees that belong to somebody else, while their owner may be busy inside.
//!
//! Several threads work on one copy. They share a stack of tasks, so that they stay together deep in the tree: few
//! directories are open, and few names in memory. No link is followed and no mount point crossed. A file that has
//! several names in the tree is copied once, into a directory beside the copy, and given its names from there.
//!
//! A copy is no snapshot: each file is as it was when its turn came, and what goes before its turn is not in the
//! copy.

use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::storage::dir::{Dir, Listing};
use crate::storage::entry::{Access, Attributes, FileKind};
use crate::storage::error::{Errno, Problem};
use crate::storage::mounted::thread::give_way;
use crate::storage::ops::copy_file::{Entries, Progress, copy_xattrs};
use crate::storage::root::OWN_MODE;
use crate::values::ownership::{Mode, Ownership};

/// How many names are read, and how many entries one thread takes, at a time.
const BATCH: usize = 128;

/// How many locks the files with several names share.
const STRIPES: usize = 64;

/// What is copied, and where to.
pub(crate) struct TreeCopy<'a> {
    /// The directory that is copied.
    pub(crate) source: Dir,
    /// An empty directory that becomes its copy.
    pub(crate) target: Dir,
    /// An empty directory on the same file system as `target`.
    pub(crate) links: Dir,
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
    let top = Arc::new(Node { source, target, status, parent: None, pending: AtomicUsize::new(1) });
    copy.push(Task::List(top, listing));
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
    parent: Option<Arc<Self>>,
    /// How many of its tasks and of the directories in it are not done.
    pending: AtomicUsize,
}

enum Task {
    /// Reads the next page of a directory's listing.
    List(Arc<Node>, Listing),
    /// Copies entries of a directory.
    Entries(Arc<Node>, Vec<CString>),
    /// Begins with a directory in another one.
    Enter(Arc<Node>, CString),
}

struct Crew {
    tasks: Vec<Task>,
    busy: usize,
    failed: Option<(String, Problem)>,
}

struct Copy<'a> {
    links: Dir,
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
            let result = self.perform(task);
            let mut crew = self.crew.lock();
            crew.busy -= 1;
            if let Err((name, problem)) = result {
                crew.failed.get_or_insert_with(|| (name.to_string_lossy().into_owned(), problem));
            }
            drop(crew);
            self.changed.notify_all();
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
                let names = listing.next(BATCH).map_err(|problem| (c".".to_owned(), problem))?;
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
                    if !self.entries.go_on() {
                        return Err((name, Problem::NotLeading));
                    }
                    match self.entry(&node, &name) {
                        Err(problem) if is_passed_by(problem, &node, &name) => {}
                        Err(problem) => return Err((name, problem)),
                        Ok(()) => {}
                    }
                }
                self.release(node)
            }
            Task::Enter(node, name) => {
                match self.enter(&node, &name) {
                    Err(problem) if is_passed_by(problem, &node, &name) => {}
                    Err(problem) => return Err((name, problem)),
                    Ok(()) => {}
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
            copy_xattrs(node.source.inode(), node.target.inode()).map_err(own)?;
            self.entries.own(node.target.inode(), &node.status).map_err(own)?;
            self.entries.progress.count_entry();
            next = node.parent.as_ref().map(Arc::clone);
        }
        Ok(())
    }

    fn entry(&self, node: &Arc<Node>, name: &CStr) -> Result<(), Problem> {
        let found = node.source.entry(name)?;
        match found.kind {
            FileKind::Directory => {
                node.pending.fetch_add(1, Ordering::Relaxed);
                self.push(Task::Enter(Arc::clone(node), name.to_owned()));
                return Ok(());
            }
            FileKind::File if found.links > 1 => self.file_with_names(node, name, &found)?,
            FileKind::File => self.entries.file(&node.source, name, &node.target, name)?,
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

    fn enter(&self, above: &Arc<Node>, name: &CStr) -> Result<(), Problem> {
        let source = above.source.open(name, Access::Read)?;
        let status = source.inode().attributes()?;
        let listing = source.listing()?;
        above.target.make(name, OWN_MODE)?;
        let target = above.target.open(name, Access::Read)?;
        above.pending.fetch_add(1, Ordering::Relaxed);
        let parent = Some(Arc::clone(above));
        let node = Arc::new(Node { source, target, status, parent, pending: AtomicUsize::new(1) });
        self.push(Task::List(node, listing));
        Ok(())
    }

    /// Copies a file that has several names, perhaps in this tree: once, and then gives it each name.
    fn file_with_names(&self, node: &Node, name: &CStr, found: &Attributes) -> Result<(), Problem> {
        let stripe = usize::try_from(found.inode % STRIPES as u64).unwrap_or_default();
        let _lock = self.stripes.get(stripe).map(Mutex::lock);
        // A number has no NUL in it.
        let own = CString::new(found.inode.to_string()).unwrap_or_default();
        let link = || self.links.link(&*own, &node.target, name);
        match link() {
            Err(Problem::Os(Errno::ENOENT)) => {
                self.entries.file(&node.source, name, &self.links, &own)?;
                link()
            }
            Err(Problem::Os(Errno::EMLINK)) => self.entries.file(&node.source, name, &node.target, name),
            linked => linked,
        }
    }
}

/// Tells whether an entry is not to be copied: it has gone, or a listing has shown it twice while others came and
/// went.
fn is_passed_by(problem: Problem, node: &Node, name: &CStr) -> bool {
    problem == Problem::Os(Errno::EEXIST) || (problem.has_gone() && has_gone(node, name))
}

/// Tells whether an entry of the source is not there any more, or is another by now.
fn has_gone(node: &Node, name: &CStr) -> bool {
    let now = node.source.entry(name).map(|found| found.kind);
    !matches!(now, Ok(FileKind::Directory | FileKind::File))
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
            let open = |name: &str| {
                let top = Dir::open_mounted(self.dir.path()).unwrap();
                top.open(name, Access::Read).unwrap()
            };
            copy(TreeCopy {
                source: open("source"),
                target: open("copy"),
                links: open("links"),
                top,
                group,
                workers: 4,
                progress: &self.progress,
                goes_on: &|| true,
            })
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
