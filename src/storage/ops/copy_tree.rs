//! Copies of whole trees that belong to somebody else, while their owner may be busy inside.
//!
//! Several threads work on one copy. What is to be done is on a stack that they share, so that they stay together deep in
//! the tree, and few directories are open, few names in memory. No link is followed and no mount point crossed. A file that
//! has several names in the tree is copied once, into a directory beside the copy, and given its names from there.
//!
//! It is no snapshot: each file is as it was when its turn came, and what goes before its turn is not in the copy.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno as NixErrno;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
    copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, fsync, ftruncate, futimens, linkat,
    mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use crate::storage::mounted::dirfd::{Access, DirFd, Listing, Problem};
use crate::storage::ops::remove_tree::give_way;
use crate::values::ownership::Ownership;

/// How many names are read, and how many entries one thread takes, at a time.
const BATCH: usize = 128;

/// How many bytes are asked to be copied in one call. Between two of them the copy can be stopped.
const CHUNK: usize = 8 << 20;

/// How many bytes are copied at a time where the kernel or the server does not copy by itself. One such block of nothing
/// but zeros is left out: the file then has a hole there.
const BLOCK: usize = 128 << 10;

/// How many locks the files with several names share.
const STRIPES: usize = 64;

/// How far a copy is. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    left_out: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// How many files and others have been copied, directories included.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// How many devices and sockets were left out, because this process may not make any.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Has the copy stopped soon.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it has been stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }
}

/// What is copied, and where to.
pub(in crate::storage) struct Order<'a> {
    /// The directory that is copied.
    pub(in crate::storage) source: DirFd,
    /// An empty directory that becomes its copy.
    pub(in crate::storage) target: DirFd,
    /// An empty directory on the same file system as `target`.
    pub(in crate::storage) links: DirFd,
    /// Whose the copy itself is to be, where not as the source.
    pub(in crate::storage) top: Ownership,
    /// A group that becomes another one.
    pub(in crate::storage) group: Option<(u32, u32)>,
    /// How many threads work on it.
    pub(in crate::storage) workers: usize,
    /// Is told how far it is.
    pub(in crate::storage) progress: &'a Progress,
    /// Is asked before each entry.
    pub(in crate::storage) goes_on: &'a (dyn Fn() -> bool + Sync),
}

/// Copies all that is in a directory, and what it is itself.
///
/// # Errors
/// The name of what could not be copied, and why; [`Problem::NotLeading`] if it was stopped. What has been copied by then
/// is left.
pub(in crate::storage) fn copy(order: Order<'_>) -> Result<(), (String, Problem)> {
    let Order { source, target, links, top, group, workers, progress, goes_on } = order;
    let own = |problem| (".".to_owned(), problem);
    let mut status = fstat(source.as_fd()).map_err(|error| own(of(error)))?;
    if let Some(mode) = top.mode {
        status.st_mode = (status.st_mode & !0o7777) | mode.bits();
    }
    status.st_uid = top.uid.unwrap_or(status.st_uid);
    status.st_gid = top.gid.unwrap_or(status.st_gid);
    let copy = Copy {
        links,
        group,
        progress,
        goes_on,
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
    let failed = copy.crew().failed.take();
    failed.map_or(Ok(()), Err)
}

/// A directory that is being copied. Its times are set when all that is in it has been.
struct Node {
    source: DirFd,
    target: DirFd,
    status: Stat,
    parent: Option<Arc<Self>>,
    /// How many tasks in it are left, and directories that are not done.
    pending: AtomicUsize,
}

enum Task {
    /// Read on which entries it has.
    List(Arc<Node>, Listing),
    /// Copy these.
    Entries(Arc<Node>, Vec<CString>),
    /// Begin with this directory in it.
    Enter(Arc<Node>, CString),
}

struct Crew {
    tasks: Vec<Task>,
    busy: usize,
    failed: Option<(String, Problem)>,
}

struct Copy<'a> {
    links: DirFd,
    group: Option<(u32, u32)>,
    progress: &'a Progress,
    goes_on: &'a (dyn Fn() -> bool + Sync),
    crew: Mutex<Crew>,
    changed: Condvar,
    /// One is held by whoever copies a file that has several names.
    stripes: [Mutex<()>; STRIPES],
}

/// What went wrong, and with what.
type Failed = (CString, Problem);

impl Copy<'_> {
    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) {
        self.crew().tasks.push(task);
        self.changed.notify_one();
    }

    /// Does what there is to do until all is done, or something has failed.
    fn work(&self) {
        while let Some(task) = self.take() {
            let result = self.perform(task);
            let mut crew = self.crew();
            crew.busy -= 1;
            if let Err((name, problem)) = result {
                crew.failed.get_or_insert_with(|| (name.to_string_lossy().into_owned(), problem));
            }
            drop(crew);
            self.changed.notify_all();
        }
    }

    fn take(&self) -> Option<Task> {
        let mut crew = self.crew();
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
            crew = self.changed.wait(crew).unwrap_or_else(PoisonError::into_inner);
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
                    if self.progress.is_stopped() || !(self.goes_on)() {
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
            copy_attributes(&node.source, &node.target).map_err(own)?;
            self.own(&node.target, &node.status).map_err(|error| own(of(error)))?;
            self.progress.0.files.fetch_add(1, Ordering::Relaxed);
            next = node.parent.as_ref().map(Arc::clone);
        }
        Ok(())
    }

    fn entry(&self, node: &Arc<Node>, name: &CStr) -> Result<(), Problem> {
        let status = statat(node.source.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).map_err(of)?;
        let target = node.target.as_fd();
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                node.pending.fetch_add(1, Ordering::Relaxed);
                self.push(Task::Enter(Arc::clone(node), name.to_owned()));
                return Ok(());
            }
            FileType::RegularFile if status.st_nlink > 1 => self.file_with_names(node, name, &status)?,
            FileType::RegularFile => self.file(&node.source, name, &node.target, name)?,
            FileType::Symlink => {
                let leads_to = readlinkat(node.source.as_fd(), name, Vec::new()).map_err(of)?;
                symlinkat(&*leads_to, target, name).map_err(of)?;
                let (uid, gid) = self.owners(&status);
                chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(of)?;
                utimensat(target, name, &times(&status), AtFlags::SYMLINK_NOFOLLOW).map_err(of)?;
            }
            kind @ (FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => {
                let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
                match mknodat(target, name, kind, mode, status.st_rdev) {
                    Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                        self.progress.0.left_out.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    result => result.map_err(of)?,
                }
                let (uid, gid) = self.owners(&status);
                chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(of)?;
                utimensat(target, name, &times(&status), AtFlags::SYMLINK_NOFOLLOW).map_err(of)?;
            }
        }
        self.progress.0.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn enter(&self, above: &Arc<Node>, name: &CStr) -> Result<(), Problem> {
        let source = above.source.open(name, Access::Read)?;
        let status = fstat(source.as_fd()).map_err(of)?;
        let listing = source.listing()?;
        mkdirat(above.target.as_fd(), name, Mode::RWXU).map_err(of)?;
        let target = above.target.open(name, Access::Read)?;
        above.pending.fetch_add(1, Ordering::Relaxed);
        let parent = Some(Arc::clone(above));
        let node = Arc::new(Node { source, target, status, parent, pending: AtomicUsize::new(1) });
        self.push(Task::List(node, listing));
        Ok(())
    }

    /// A file that has several names, perhaps in this tree.
    fn file_with_names(&self, node: &Node, name: &CStr, status: &Stat) -> Result<(), Problem> {
        let stripe = usize::try_from(status.st_ino % STRIPES as u64).unwrap_or_default();
        let _lock = self.stripes.get(stripe).map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // A number has no NUL in it.
        let own = CString::new(status.st_ino.to_string()).unwrap_or_default();
        let link = || linkat(self.links.as_fd(), &*own, node.target.as_fd(), name, AtFlags::empty());
        match link() {
            Err(Errno::NOENT) => {
                self.file(&node.source, name, &self.links, &own)?;
                link().map_err(of)
            }
            Err(Errno::MLINK) => self.file(&node.source, name, &node.target, name),
            linked => linked.map_err(of),
        }
    }

    fn file(&self, source: &DirFd, name: &CStr, target: &DirFd, new: &CStr) -> Result<(), Problem> {
        // Whatever it is by now, it is not waited for and not followed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = openat(source.as_fd(), name, flags, Mode::empty()).map_err(of)?;
        let status = fstat(&from).map_err(of)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Problem::Os(NixErrno::ESTALE));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(target.as_fd(), new, flags, Mode::RUSR | Mode::WUSR).map_err(of)?;
        self.content(&from, &to, &status)?;
        copy_attributes(&from, &to)?;
        self.own(&to, &status).map_err(of)?;
        // An NFS client says only now that there was no room.
        fsync(&to).map_err(of)
    }

    /// Copies what is in a file, and leaves holes where it has some.
    fn content(&self, from: &OwnedFd, to: &OwnedFd, status: &Stat) -> Result<(), Problem> {
        let size = u64::try_from(status.st_size).unwrap_or_default();
        let on_disk = u64::try_from(status.st_blocks).unwrap_or_default().saturating_mul(512);
        ftruncate(to, size).map_err(of)?;
        let mut at = 0;
        while at < size {
            let data = match seek(from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                // Not all file systems can tell.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                data => data.map_err(of)?,
            };
            let end = match seek(from, SeekFrom::Hole(data)) {
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => size,
                end => end.map_err(of)?.min(size),
            };
            // Where it has holes of which nobody tells, as over NFS v3, they are looked for.
            let has_hidden_holes = data == 0 && end == size && on_disk < size;
            if end <= data || !self.part(from, to, data..end, has_hidden_holes)? {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// Copies a part of a file, by reading it if that is wanted or there is no other way; whether it was all there.
    fn part(&self, from: &OwnedFd, to: &OwnedFd, part: Range<u64>, by_reading: bool) -> Result<bool, Problem> {
        let Range { start: mut at, end } = part;
        let mut block = if by_reading { vec![0; BLOCK] } else { Vec::new() };
        while at < end {
            if self.progress.is_stopped() || !(self.goes_on)() {
                return Err(Problem::NotLeading);
            }
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let copied = if block.is_empty() {
                let (mut read_at, mut write_at) = (at, at);
                copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left.min(CHUNK))
            } else {
                copy_block(from, to, at, block.get_mut(..left.min(BLOCK)).unwrap_or_default())
            };
            match copied {
                Ok(0) => return Ok(false),
                Ok(copied) => {
                    at += copied as u64;
                    self.progress.0.bytes.fetch_add(copied as u64, Ordering::Relaxed);
                }
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM)
                    if block.is_empty() =>
                {
                    block = vec![0; BLOCK];
                }
                Err(error) => return Err(of(error)),
            }
        }
        Ok(true)
    }

    /// Gives a copy its owners, its mode and its times, in this order: an owner loses some of the mode's bits.
    fn own(&self, copy: impl AsFd, status: &Stat) -> Result<(), Errno> {
        let (uid, gid) = self.owners(status);
        fchown(&copy, uid, gid)?;
        fchmod(&copy, Mode::from_raw_mode(status.st_mode & 0o7777))?;
        futimens(&copy, &times(status))
    }

    fn owners(&self, status: &Stat) -> (Option<Uid>, Option<Gid>) {
        let gid = match self.group {
            Some((from, to)) if status.st_gid == from => to,
            _ => status.st_gid,
        };
        (Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(gid)))
    }
}

/// Copies one block by reading and writing it, unless it is nothing but zeros.
fn copy_block(from: &OwnedFd, to: &OwnedFd, at: u64, block: &mut [u8]) -> Result<usize, Errno> {
    let read = pread(from, &mut *block, at)?;
    let mut rest = block.get(..read).unwrap_or_default();
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(read);
    }
    let mut at = at;
    while !rest.is_empty() {
        let written = pwrite(to, rest, at)?;
        at += written as u64;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(read)
}

/// Copies extended attributes, access lists among them, where both sides have such. Those of the kernel's security modules
/// are nobody's to copy.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> Result<(), Problem> {
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(&from, &mut *names) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
        length => length.map_err(of)?,
    };
    let names = names.get(..length).unwrap_or_default();
    for name in names.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        if name.to_bytes().starts_with(b"security.") || name.to_bytes().starts_with(b"trusted.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = match fgetxattr(&from, name, &mut *value) {
            Err(Errno::NODATA) => continue,
            length => length.map_err(of)?,
        };
        match fsetxattr(&to, name, value.get(..length).unwrap_or_default(), XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {}
            set => set.map_err(of)?,
        }
    }
    Ok(())
}

fn times(status: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}

/// Whether an entry is not to be copied: it has gone, or a listing has shown it twice while others came and went.
fn is_passed_by(problem: Problem, node: &Node, name: &CStr) -> bool {
    let may_have_gone = matches!(
        problem,
        Problem::Os(NixErrno::ENOENT | NixErrno::ESTALE) | Problem::Link | Problem::NotDirectory
    );
    problem == Problem::Os(NixErrno::EEXIST) || (may_have_gone && has_gone(node, name))
}

/// Whether an entry of the source is not there any more, or is another by now.
fn has_gone(node: &Node, name: &CStr) -> bool {
    let now = statat(node.source.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
    !matches!(
        now.map(|status| FileType::from_raw_mode(status.st_mode)),
        Ok(FileType::Directory | FileType::RegularFile)
    )
}

fn of(error: Errno) -> Problem {
    Problem::Os(NixErrno::from_raw(error.raw_os_error()))
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
                let top = DirFd::open_top(self.dir.path()).unwrap();
                top.open(name, Access::Read).unwrap()
            };
            copy(Order {
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
        rustix::fs::mknodat(rustix::fs::CWD, trees.source("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, trees.source("null"), FileType::CharacterDevice, Mode::RUSR, device)
            .unwrap();
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
    fn blocks_of_zeros_are_left_out_where_nobody_else_tells_of_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; 5 * BLOCK + 10];
        content[2 * BLOCK + 5] = 1;
        let last = content.len() - 1;
        content[last] = 2;
        fs::write(dir.path().join("from"), &content).unwrap();
        let from = OwnedFd::from(File::open(dir.path().join("from")).unwrap());
        let to = File::create(dir.path().join("to")).unwrap();
        to.set_len(content.len() as u64).unwrap();
        let to = OwnedFd::from(to);
        let (mut at, mut block) = (0, vec![0; BLOCK]);
        while at < content.len() as u64 {
            at += copy_block(&from, &to, at, &mut block).unwrap() as u64;
        }
        assert_eq!(fs::read(dir.path().join("to")).unwrap(), content);
        assert!(fs::metadata(dir.path().join("to")).unwrap().blocks() * 512 <= 3 * BLOCK as u64);
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
