//! An export's root, and the way down from there. What is done to directories is in `ops`, as methods of [`Root`].
//!
//! Synchronous: a call ends when the file system has answered.

use std::borrow::Borrow;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::layout::{NUMBERED_MAX, numbered};
use crate::storage::dir::Dir;
use crate::storage::direct::server::{Minor, Servers};
use crate::storage::entry::{Access, FileKind};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::mounted::mount::Mount;
use crate::values::address::ExportAddress;
use crate::values::headroom::FsUsage;
use crate::values::path::{Name, RelPath};

/// The mode of the directories above a volume's, in which nobody but us makes anything.
pub(crate) const PARENT_MODE: u32 = 0o755;

/// The mode of the directories that are the provisioner's own.
pub(crate) const OWN_MODE: u32 = 0o700;

/// How many entries of a directory are listed at a time.
pub(crate) const LISTED: usize = 256;

/// What tells, right before a directory is moved, whether it may still be.
pub(crate) type Check<'a> = &'a dyn Fn() -> Result<(), Problem>;

/// The open root of an export.
#[derive(Debug)]
pub struct Root {
    pub(crate) dir: Dir,
    pub(crate) notes: KeptOpen,
}

/// How long a directory of notes is kept open: should somebody move it away, notes are written into what is there soon.
const KEPT_OPEN: Duration = Duration::from_mins(1);

/// The name of a directory, since when it is open, and the directory.
type Opened = (Box<str>, Instant, Arc<Dir>);

/// A directory of notes of volumes, open: to find it again would cost as many round trips as to write the note.
#[derive(Debug, Default)]
pub(crate) struct KeptOpen(Mutex<Option<Opened>>);

impl KeptOpen {
    /// Returns the open directory of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Dir>> {
        let kept = self.0.lock();
        let (_, _, dir) =
            kept.as_ref().filter(|(kept, since, _)| **kept == *name && since.elapsed() < KEPT_OPEN)?;
        Some(Arc::clone(dir))
    }

    /// Keeps a directory open.
    pub(crate) fn put(&self, name: &str, dir: Dir) {
        *self.0.lock() = Some((name.into(), Instant::now(), Arc::new(dir)));
    }

    /// Lets go of the directory: it does not do any more.
    pub(crate) fn clear(&self) {
        *self.0.lock() = None;
    }
}

impl Root {
    fn new(dir: Dir) -> Self {
        Self { dir, notes: KeptOpen::default() }
    }

    /// Opens the export that the kernel has mounted at a path.
    ///
    /// # Errors
    /// If there is no directory, or it cannot be opened.
    pub fn open(mount: &Path) -> Result<Self, StorageError> {
        Dir::open_mounted(mount).doing("open", mount.display()).map(Self::new)
    }

    /// Opens a mounted export of which directories are opened by `openat2`, and by nothing else should the kernel
    /// lack it. For tests; [`Root::open`] takes what there is.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_by_openat2(mount: &Path) -> Result<Self, StorageError> {
        Dir::open_mounted_by(mount, true).doing("open", mount.display()).map(Self::new)
    }

    /// Opens a mounted export of which directories are opened without `openat2`, as where the kernel lacks it. For
    /// tests; [`Root::open`] takes what there is.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_by_openat(mount: &Path) -> Result<Self, StorageError> {
        Dir::open_mounted_by(mount, false).doing("open", mount.display()).map(Self::new)
    }

    /// Opens an export that nobody has mounted: speaks NFS with the server at this port.
    ///
    /// # Errors
    /// If the server cannot be reached or does not answer, or has no such directory.
    pub fn open_direct(
        servers: &Servers,
        address: &ExportAddress,
        port: u16,
        minor: Minor,
    ) -> Result<Self, StorageError> {
        let server = servers.get(address.server_name(), port, minor);
        Dir::open_direct(server, address.path_name()).doing("open", address).map(Self::new)
    }

    /// Asks how full the export is. The server is asked each time.
    ///
    /// # Errors
    /// What the file system says.
    pub fn usage(&self) -> Result<FsUsage, StorageError> {
        self.dir.usage().doing("look at", ".")
    }

    /// Returns what is mounted where the export is; `None` if the kernel does not tell.
    pub(crate) fn mount(&self) -> Option<Mount> {
        self.dir.mount()
    }

    /// Lists the names of the directories in `above`, or in the root; links and files are left out. Where nothing
    /// is, there are none.
    ///
    /// # Errors
    /// If `above` is a link or no directory, or the file system refuses.
    pub fn directories(&self, above: Option<&RelPath>) -> Result<Vec<String>, StorageError> {
        let path = above.map_or(".", RelPath::as_str);
        let list = || {
            let mut dir = self.dir.reopen(Access::Read)?;
            for name in above.into_iter().flat_map(RelPath::names) {
                dir = dir.open(name.as_str(), Access::Read)?;
            }
            let mut listing = dir.listing()?;
            let mut names = Vec::new();
            loop {
                let entries = listing.next(LISTED)?;
                if entries.is_empty() {
                    return Ok(names);
                }
                for (name, kind) in entries {
                    let kind = kind.map_or_else(|| dir.entry(&*name).map(|entry| entry.kind), Ok);
                    if kind == Ok(FileKind::Directory) {
                        names.push(name.to_string_lossy().into_owned());
                    }
                }
            }
        };
        match list() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(Vec::new()),
            names => names.doing("list", path),
        }
    }

    /// Opens the directory above `directory`'s last component; `None` if there is none, or if it holds no directory of
    /// that name. Anything else of that name is an error.
    pub(crate) fn parent(&self, directory: &RelPath) -> Result<Option<Above<'_>>, StorageError> {
        let found = self.above(directory).and_then(|above| {
            above.open(directory.leaf().as_str(), Access::Pass)?;
            Ok(above)
        });
        match found {
            Ok(above) => Ok(Some(above)),
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            Err(problem) => Err(problem).doing("open", directory),
        }
    }

    /// Opens the directory above `directory`'s last component, whether or not it holds anything of that name.
    pub(crate) fn above(&self, directory: &RelPath) -> Result<Above<'_>, Problem> {
        self.descend(directory.parents())
    }

    /// Opens the directory that `names` lead to from the root.
    pub(crate) fn descend(&self, names: impl Iterator<Item = impl Borrow<Name>>) -> Result<Above<'_>, Problem> {
        let mut above = Above::Root(&self.dir);
        for name in names {
            above = Above::Beneath(above.open(name.borrow().as_str(), Access::Pass)?);
        }
        Ok(above)
    }

    /// Opens a volume's directory; `None` if there is none.
    pub(crate) fn volume(&self, directory: &RelPath) -> Result<Option<Dir>, Problem> {
        let opened = self.above(directory).and_then(|above| above.open(directory.leaf().as_str(), Access::Pass));
        match opened {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            opened => opened.map(Some),
        }
    }
}

/// The directory that another one lies in.
#[derive(Debug)]
pub(crate) enum Above<'a> {
    /// The export's root.
    Root(&'a Dir),
    /// One beneath it.
    Beneath(Dir),
}

impl Above<'_> {
    /// Tells whether it is the export's root.
    pub(crate) fn is_root(&self) -> bool {
        matches!(self, Self::Root(_))
    }
}

impl Deref for Above<'_> {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match self {
            Self::Root(dir) => dir,
            Self::Beneath(dir) => dir,
        }
    }
}

/// Makes a directory unless one is there, and tells whether it has.
pub(crate) fn make(above: &Dir, name: &str, mode: u32) -> Result<bool, Problem> {
    match above.make(name, mode) {
        Ok(()) => Ok(true),
        Err(Problem::Os(Errno::EEXIST)) => Ok(false),
        Err(problem) => Err(problem),
    }
}

/// Opens a directory of the provisioner's own, which it makes unless it is there, and makes sure that it is
/// private.
pub(crate) fn make_private(above: &Dir, name: &str) -> Result<Dir, Problem> {
    make(above, name, OWN_MODE)?;
    open_private(above, name)
}

/// Opens the first directory that [`numbered`] names and that we can use, as [`make_private`] does, and returns its
/// number. Those of other users are passed by: the server may have taken us for somebody else before, or take us for
/// somebody else on another node. Numbers up to `after` are left out.
///
/// # Errors
/// If one is not there and cannot be made, is no directory, or all of them are other users'.
pub(crate) fn make_usable(above: &Dir, name: &str, after: u8) -> Result<(u8, Dir), Problem> {
    let mut denied = None;
    for number in after + 1..=NUMBERED_MAX {
        let name = numbered(name, number);
        let opened = match open_private(above, &name) {
            // Where nothing can be made, what is there can be used nevertheless.
            Err(Problem::Os(Errno::ENOENT)) => make_private(above, &name).map_err(|problem| (problem, false)),
            opened => opened.map_err(|problem| (problem, problem.is_denial())),
        };
        match opened {
            Err((problem, true)) => denied = denied.or(Some(problem)),
            opened => return opened.map(|dir| (number, dir)).map_err(|(problem, _)| problem),
        }
    }
    Err(denied.unwrap_or(Problem::Os(Errno::EACCES)))
}

/// Opens a directory of the provisioner's own, and makes sure that it is private: root's, with mode 0700.
///
/// Data of others lies there, and they may be in the same cluster.
///
/// # Errors
/// `EPERM` if it belongs to somebody else and cannot be taken from them.
pub(crate) fn open_private(above: &Dir, name: &str) -> Result<Dir, Problem> {
    let dir = above.open(name, Access::Read)?;
    let found = dir.inode().attributes()?;
    if found.uid != 0 {
        // Not allowed where the server takes us for somebody else than root, or we are not root. Then only its
        // owner can change the mode, which is what tells whether it is ours.
        let _ = dir.inode().set_owners(Some(0), None);
    }
    if found.uid != 0 || found.mode != OWN_MODE {
        dir.inode().set_mode(OWN_MODE)?;
    }
    Ok(dir)
}

/// Sets bits in a directory's own mode that are not set; it must be open for [`Access::Read`].
pub(crate) fn grant(dir: &Dir, mode: u32) -> Result<(), Problem> {
    let current = dir.inode().attributes()?.mode;
    if current & mode == mode { Ok(()) } else { dir.inode().set_mode(current | mode) }
}
