//! What may be done to the directories of an export. Synchronous: a call ends when the file system has answered.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::failpoint::Failpoint;
use crate::layout::TrashName;
use crate::layout::archive_name;
use crate::layout::{NOTES, STAGING, TRASH};
use crate::storage::mounted::dirfd::{Access, DirFd, FileKind, Problem};
use crate::storage::ops::disk_usage::{Begun, DiskUsage, counted_by_server};
use crate::storage::ops::remove_tree::{self, Removed};
use crate::values::headroom::FsUsage;
use crate::values::ownership::Ownership;
use crate::values::path::{Name, RelPath};

/// The mode of a volume's own directory: any Pod's user may write (behaviour 3.4).
pub(super) const VOLUME_MODE: Mode = Mode::from_bits_truncate(0o777);

/// The mode of a directory that has yet to get the owners and the mode that it is to have: nobody else's looks so.
const UNFINISHED: Mode = Mode::from_bits_truncate(0o1700);

/// The mode of the directories above it, which are nobody's to write in.
const PARENT_MODE: Mode = Mode::from_bits_truncate(0o755);

/// In the place of a volume there: the copy, files that have several names in it, and the note that it is complete, with
/// its inode's number.
const COPY: &str = "copy";
const LINKS: &str = "links";
const COMPLETE: &str = "complete-";

/// Where a volume's copy is made.
fn staged(volume: &str) -> Result<RelPath, StorageError> {
    RelPath::parse(&format!("{STAGING}/{volume}")).map_err(|_| Problem::Os(Errno::EINVAL)).doing("clone", volume)
}

/// The place in which a copy is made.
#[derive(Debug)]
pub struct Stage {
    /// What becomes the copy.
    pub copy: DirFd,
    /// For what has several names in it.
    pub links: DirFd,
}

/// How many names are tried for an archive before giving up.
const ARCHIVE_NAMES: u32 = 1000;

/// How many names are tried for an entry of the trash before giving up.
const TRASH_NAMES: u64 = 1000;

/// How many entries of a directory are listed at a time.
pub(super) const LISTED: usize = 256;

/// What a call on an export was doing, to which entry, and what was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing} {path:?}: {problem}")]
pub struct StorageError {
    /// What was being done: "mkdir", "rename".
    pub doing: &'static str,
    /// The path beneath the export. Tenants choose it: it is shown escaped.
    pub path: String,
    /// What was wrong.
    pub problem: Problem,
}

/// Puts what was being done and to what beside a [`Problem`].
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl ToString) -> Result<T, StorageError>;
}

impl<T> Doing<T> for Result<T, Problem> {
    fn doing(self, doing: &'static str, path: impl ToString) -> Result<T, StorageError> {
        self.map_err(|problem| StorageError { doing, path: path.to_string(), problem })
    }
}

/// What [`Root::create`] found and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// How many of the path's innermost components are new. None is a directory that was there before, with
    /// whatever is in it: it is adopted (behaviour 3.6).
    pub made: usize,
}

/// What lies in the trash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trashed {
    /// What is to be removed.
    pub names: Vec<TrashName>,
    /// How many entries have names that are none of ours, and one of those names. They are nobody's to remove.
    pub foreign: Option<(usize, String)>,
}

impl Trashed {
    fn add(&mut self, name: &CStr) {
        if let Some(ours) = name.to_str().ok().and_then(|name| name.parse().ok()) {
            self.names.push(ours);
            return;
        }
        let (count, _) = self.foreign.get_or_insert_with(|| (0, name.to_string_lossy().into_owned()));
        *count += 1;
    }
}

/// What [`Root::reap`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaped {
    /// How many files, links and directories it removed. Not how many bytes: to learn that costs a call a file.
    pub entries: u64,
    /// What it left.
    pub left: Left,
}

/// What is left of an entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Some, because it was cut or somebody keeps adding to it.
    More,
    /// What the file system does not let go.
    Blocked {
        /// How many files, links and directories, what they lie in not counted.
        entries: u64,
        /// What is wrong with one of them: the first that is not just still open, if there is any.
        first: StorageError,
    },
}

/// An open export.
#[derive(Debug)]
pub struct Root {
    pub(super) root: DirFd,
}

impl Root {
    /// Opens the export where it is mounted.
    ///
    /// # Errors
    /// If there is no directory, or it cannot be opened.
    pub fn open(mount: &Path) -> Result<Self, StorageError> {
        DirFd::open_top(mount).doing("open", mount.display()).map(Self::at)
    }

    /// The number of the mount that its root is on, in /proc/self/mountinfo; `None` where there is no /proc.
    #[must_use]
    pub fn mount_id(&self) -> Option<u64> {
        self.root.mount_id()
    }

    /// How full it is. The server is asked each time.
    ///
    /// # Errors
    /// What the file system says.
    pub fn usage(&self) -> Result<FsUsage, StorageError> {
        self.root.usage().doing("look at", ".")
    }

    /// The export whose root is open already.
    #[must_use]
    pub fn at(root: DirFd) -> Self {
        Self { root }
    }

    /// As [`Root::create_as`], for one that can be written by all afterwards.
    ///
    /// # Errors
    /// Those of [`Root::create_as`].
    pub fn create(&self, directory: &RelPath) -> Result<Created, StorageError> {
        self.create_as(directory, Ownership::default())
    }

    /// Makes a volume's directory, those above it included, or adopts the one that is there. Either way it has the
    /// mode and owners afterwards that it is to have, whatever the umask, unless what is there is to be kept so.
    ///
    /// May run twice. Cut in the middle it leaves empty directories, which the next run adopts; one that has not got
    /// its owners yet is known by its mode.
    ///
    /// # Errors
    /// If a component is a link, another file, or a mount point, or the file system refuses. What this call has
    /// made is then removed again, unless somebody else uses it already.
    pub fn create_as(&self, directory: &RelPath, ownership: Ownership) -> Result<Created, StorageError> {
        let names: Vec<Name> = directory.names().collect();
        let mut new = 0..0;
        let made = self.make_all(&names, ownership, &mut new).doing("mkdir", directory);
        let result = made.and_then(|made| hand_over(&made, !new.is_empty(), ownership, directory));
        if result.is_err() {
            self.remove_empty(names.get(..new.end).unwrap_or_default(), new.len());
        }
        result.map(|()| Created { made: new.len() })
    }

    /// The group of a volume's directory; `None` if there is no directory.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn group(&self, directory: &RelPath) -> Result<Option<u32>, StorageError> {
        let names: Vec<Name> = directory.names().collect();
        let found = self.descend(names.iter()).and_then(|found| found.as_ref().map(DirFd::group).transpose());
        match found {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            found => found.doing("look at", directory),
        }
    }

    /// Opens a volume's directory, to be copied; `None` if there is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn open_volume(&self, directory: &RelPath) -> Result<Option<DirFd>, StorageError> {
        let names: Vec<Name> = directory.names().collect();
        let opened = self
            .descend(names.iter())
            .and_then(|found| found.map(|found| found.open(".", Access::Read)).transpose());
        match opened {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            opened => opened.doing("open", directory),
        }
    }

    /// Makes the place in which the copy for a volume is made. What was there before goes into the trash.
    ///
    /// May run twice, and leaves nothing that the next run does not take away.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn stage(&self, volume: &str, now: u64) -> Result<Stage, StorageError> {
        self.unstage(volume, now)?;
        let make = |above: &DirFd, name: &str| {
            match above.make(name, Mode::S_IRWXU) {
                Ok(()) | Err(Problem::Os(Errno::EEXIST)) => {}
                Err(problem) => return Err(problem),
            }
            let made = above.open(name, Access::Read)?;
            made.make_private()?;
            Ok(made)
        };
        let stage = || {
            let own = make(&make(&self.root, STAGING)?, volume)?;
            Ok(Stage { copy: make(&own, COPY)?, links: make(&own, LINKS)? })
        };
        stage().doing("make", STAGING)
    }

    /// Puts what is left in the place of a volume's copy into the trash, if there is such a place.
    ///
    /// # Errors
    /// As [`Root::trash`].
    pub fn unstage(&self, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        self.trash(&staged(volume)?, volume, now)
    }

    /// Renames a volume's copy, which is complete, to its directory, and makes those above it. An empty directory that is
    /// there is replaced if `onto_empty`.
    ///
    /// Cut before the rename it leaves a copy that is made again; after it, a directory that is known by
    /// [`Root::is_placed`].
    ///
    /// # Errors
    /// If there is a directory already that is not to be replaced, a component is a link or no directory, or the file system refuses.
    pub fn place(&self, volume: &str, directory: &RelPath, onto_empty: bool) -> Result<Created, StorageError> {
        let place = || {
            let stage = self.root.open(STAGING, Access::Pass)?.open(volume, Access::Read)?;
            let mark = format!("{COMPLETE}{}", stage.entry(COPY)?.inode);
            stage.write_through(&*mark, directory.as_str().as_bytes())?;
            let (mut above, mut made) = (None::<DirFd>, 1);
            for name in directory.parents() {
                let parent = above.as_ref().unwrap_or(&self.root);
                let is_new = match parent.make(name.as_str(), PARENT_MODE) {
                    Ok(()) => true,
                    Err(Problem::Os(Errno::EEXIST)) => false,
                    Err(problem) => return Err(problem),
                };
                let opened = parent.open(name.as_str(), if is_new { Access::Read } else { Access::Pass })?;
                if is_new {
                    opened.grant(PARENT_MODE)?;
                }
                made = if is_new { made + 1 } else { 1 };
                above = Some(opened);
            }
            let (above, leaf) = (above.as_ref().unwrap_or(&self.root), directory.leaf());
            if !onto_empty && above.kind(leaf.as_str()).is_ok() {
                return Err(Problem::Os(Errno::EEXIST));
            }
            // One with something in it is not replaced, and nothing else is.
            stage.rename(COPY, above, leaf.as_str())?;
            Ok(Created { made })
        };
        place().doing("place the copy at", directory)
    }

    /// Whether a volume's directory is the copy that was made for it: its number was noted before it was renamed.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn is_placed(&self, volume: &str, directory: &RelPath) -> Result<bool, StorageError> {
        let look = || {
            let stage = self.root.open(STAGING, Access::Pass)?.open(volume, Access::Read)?;
            let parents: Vec<Name> = directory.parents().collect();
            let parent = self.descend(parents.iter())?;
            let found = parent.as_ref().unwrap_or(&self.root).entry(directory.leaf().as_str())?;
            let mark = format!("{COMPLETE}{}", found.inode);
            Ok(found.kind == FileKind::Directory && stage.kind(&*mark).is_ok() && stage.kind(COPY).is_err())
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT) | Problem::NotDirectory) => Ok(false),
            looked => looked.doing("look at", directory),
        }
    }

    /// Begins to find out how much is in a volume's directory; `None` if there is no directory.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn survey(&self, directory: &RelPath) -> Result<Option<Begun>, StorageError> {
        let names: Vec<Name> = directory.names().collect();
        let look = || {
            let Some(found) = self.descend(names.iter())? else { return Ok(None) };
            if let Some(found) = counted_by_server(found.usage()?, self.root.usage()?) {
                return Ok(Some(Begun::Known(found)));
            }
            Ok(Some(Begun::DiskUsage(Box::new(DiskUsage::new(found)?))))
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            begun => begun.doing("survey", directory),
        }
    }

    /// Makes what is missing of `names` and opens the last; `new` becomes the range of those that were. Once somebody
    /// else turns out to be in a directory that was new, none counts as new.
    fn make_all(&self, names: &[Name], ownership: Ownership, new: &mut Range<usize>) -> Result<DirFd, Problem> {
        let mut above: Option<DirFd> = None;
        for (index, name) in names.iter().enumerate() {
            let is_last = index + 1 == names.len();
            let mode = if !is_last {
                PARENT_MODE
            } else if ownership == Ownership::default() {
                VOLUME_MODE
            } else {
                UNFINISHED
            };
            // What is to be kept as it is may be closed to us.
            let access = if is_last && !ownership.keep { Access::Read } else { Access::Pass };
            let parent = above.as_ref().unwrap_or(&self.root);
            match parent.make(name.as_str(), mode) {
                Ok(()) if new.start == new.end => *new = index..index + 1,
                Ok(()) => new.end = index + 1,
                Err(Problem::Os(Errno::EEXIST)) => *new = 0..0,
                // An NFS server may say this first of a directory that is there.
                Err(problem) if is_refusal(problem) && parent.open(name.as_str(), Access::Pass).is_ok() => {
                    *new = 0..0;
                }
                Err(problem) => return Err(problem),
            }
            let is_new = new.contains(&index);
            if is_new {
                Failpoint::DirectoryMade.passed();
            }
            let opened = parent.open(name.as_str(), if is_new { Access::Read } else { access })?;
            // The umask may have taken bits from what is new. The volume's own is handed over.
            if is_new && !is_last {
                opened.grant(mode)?;
            }
            above = Some(opened);
        }
        // No path is without a name.
        above.ok_or(Problem::Os(Errno::ENOENT))
    }

    /// Takes back a [`Root::create`] whose volume did not come to be: removes the directories that it made, as
    /// far as they are empty. Never touches what was there before.
    pub fn undo(&self, directory: &RelPath, created: Created) {
        self.remove_empty(&directory.names().collect::<Vec<_>>(), created.made);
    }

    /// Removes the innermost `count` of `names`, as far as they are empty.
    fn remove_empty(&self, names: &[Name], count: usize) {
        for depth in (names.len().saturating_sub(count)..names.len()).rev() {
            let Some((name, parents)) = names.get(..=depth).and_then(<[Name]>::split_last) else {
                return;
            };
            let Ok(parent) = self.descend(parents.iter()) else {
                return;
            };
            if parent.as_ref().unwrap_or(&self.root).remove_empty(name.as_str()).is_err() {
                return;
            }
        }
    }

    /// Renames a volume's directory to `archived-…` at the export's root, under a name that is free, and returns
    /// that name; `None` if there is no directory. `volume` is the volume's name.
    ///
    /// An archive's name does not tell whose it was if the directory had others above it: `note` then goes into a
    /// file of the archive's name in [`NOTES`].
    ///
    /// May run twice: after the rename there is no directory any more. Cut before it, it leaves a note for an archive
    /// that is not there, which the next run writes again.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses. The directory is then where it was.
    pub fn archive(&self, directory: &RelPath, volume: &str, note: &str) -> Result<Option<Name>, StorageError> {
        let Some(parent) = self.parent(directory)? else {
            return Ok(None);
        };
        let parent = parent.as_ref().unwrap_or(&self.root);
        let leaf = directory.leaf();
        for nth in 0..ARCHIVE_NAMES {
            let archive = archive_name(directory, volume, nth)
                .map_err(|_| Problem::Os(Errno::EINVAL))
                .doing("archive", directory)?;
            match self.root.kind(archive.as_str()) {
                Ok(_) => continue,
                Err(Problem::Os(Errno::ENOENT)) => {}
                Err(problem) => return Err(problem).doing("look up", &archive),
            }
            if directory.parents().next().is_some() {
                self.write_note(&archive, note).doing("write the note for", &archive)?;
            }
            // Nobody but us makes archives. Were one made this very moment, an empty directory could be lost to
            // it and nothing else: a rename onto anything with content fails.
            return match parent.rename(leaf.as_str(), &self.root, archive.as_str()) {
                Ok(()) => Ok(Some(archive)),
                Err(Problem::Os(Errno::ENOENT)) => Ok(None),
                Err(Problem::Os(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR)) => continue,
                Err(problem) => Err(problem).doing("archive", directory),
            };
        }
        Err(Problem::Os(Errno::EEXIST)).doing("archive", directory)
    }

    fn write_note(&self, archive: &Name, note: &str) -> Result<(), Problem> {
        match self.root.make(NOTES, Mode::S_IRWXU) {
            Ok(()) | Err(Problem::Os(Errno::EEXIST)) => {}
            Err(problem) => return Err(problem),
        }
        let notes = self.root.open(NOTES, Access::Read)?;
        notes.make_private()?;
        notes.write(archive.as_str(), note.as_bytes())
    }

    /// The names of the directories in `above`, or in the root; links and files are none. Nothing there is empty.
    ///
    /// # Errors
    /// If `above` is a link or no directory, or the file system refuses.
    pub fn directories(&self, above: Option<&RelPath>) -> Result<Vec<String>, StorageError> {
        let path = above.map_or(".", RelPath::as_str);
        let list = || {
            let mut dir = self.root.open(".", Access::Read)?;
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
                    let kind = kind.map_or_else(|| dir.kind(&*name), Ok);
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

    /// Renames a volume's directory into the trash, and returns its name there; `None` if there is no directory.
    /// `volume` is the volume's name, `now` the time in seconds since 1970.
    ///
    /// May run twice: after the rename there is no directory any more. Nothing can reach the directory by its path
    /// then; whoever has it open or mounted already keeps it until it is reaped.
    ///
    /// # Errors
    /// If a component is a link or no directory, the trash is not ours, or the file system refuses; `EXDEV` where it
    /// cannot rename there, as with one quota for each directory. The directory is then where it was.
    pub fn trash(&self, directory: &RelPath, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        if directory.names().next().is_some_and(|first| first.as_str() == TRASH) {
            return Err(Problem::Reserved).doing("trash", directory);
        }
        let Some(parent) = self.parent(directory)? else {
            return Ok(None);
        };
        let parent = parent.as_ref().unwrap_or(&self.root);
        let trash = self.make_trash().doing("open", TRASH)?;
        let leaf = directory.leaf();
        for at in now..now.saturating_add(TRASH_NAMES) {
            let name = TrashName::new(at, volume, directory);
            // An empty directory of that name is replaced; it was to be removed anyway.
            return match parent.rename(leaf.as_str(), &trash, &*name.to_string()) {
                Ok(()) => Ok(Some(name)),
                Err(Problem::Os(Errno::ENOENT)) => Ok(None),
                Err(Problem::Os(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR)) => continue,
                Err(problem) => Err(problem).doing("trash", directory),
            };
        }
        Err(Problem::Os(Errno::EEXIST)).doing("trash", directory)
    }

    /// Lists what lies in the trash, up to `limit` entries of ours, in no order.
    ///
    /// # Errors
    /// If the trash is not ours, or cannot be read. None is empty.
    pub fn trashed(&self, limit: usize) -> Result<Trashed, StorageError> {
        let mut found = Trashed::default();
        let Some(trash) = self.open_trash().doing("open", TRASH)? else {
            return Ok(found);
        };
        let mut listing = trash.listing().doing("list", TRASH)?;
        loop {
            let entries = listing.next(LISTED).doing("list", TRASH)?;
            if entries.is_empty() {
                return Ok(found);
            }
            for (name, _) in entries {
                found.add(&name);
                if found.names.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }

    /// Removes an entry of the trash and all that is in it, as far as it can be removed, with up to `workers`
    /// threads, as long as `goes_on`, which is asked before each removal and stays false once it was.
    ///
    /// Links are removed, not followed; mount points are not crossed. May run twice, also at the same time, and be
    /// cut at any point; what is left is removed by the next run. The trash being shared, it may have gone, which
    /// is success.
    ///
    /// # Errors
    /// If the trash or the entry cannot be opened. What cannot be removed inside of it is no error of this call.
    pub fn reap(
        &self,
        name: &TrashName,
        workers: usize,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Reaped, StorageError> {
        let Some(trash) = self.open_trash().doing("open", TRASH)? else {
            return Ok(Reaped { entries: 0, left: Left::Nothing });
        };
        let entry = format!("{TRASH}/{name}");
        // A trash name holds no NUL.
        let name = CString::new(name.to_string()).unwrap_or_default();
        let removed = match remove_tree::remove(&trash, &name, workers, goes_on) {
            // Exchanged with the directory when that was put into the trash.
            Err(Problem::Link | Problem::NotDirectory) => remove_file(&trash, &name),
            removed => removed,
        };
        let Removed { entries, rest } = removed.doing("reap", &entry)?;
        let left = match rest.first {
            Some((path, problem)) => {
                let first = StorageError { doing: "reap", path: joined(&entry, &path), problem };
                Left::Blocked { entries: rest.blocked, first }
            }
            None if rest.more => Left::More,
            None => Left::Nothing,
        };
        Ok(Reaped { entries, left })
    }

    /// Opens the trash and makes sure that it is ours alone; `None` if there is none.
    fn open_trash(&self) -> Result<Option<DirFd>, Problem> {
        let trash = match self.root.open(TRASH, Access::Read) {
            Err(Problem::Os(Errno::ENOENT)) => return Ok(None),
            opened => opened?,
        };
        // Deleted data lies there, and its owners may be in the same cluster.
        trash.make_private()?;
        Ok(Some(trash))
    }

    /// As [`Root::open_trash`], and makes it if there is none.
    fn make_trash(&self) -> Result<DirFd, Problem> {
        if let Some(trash) = self.open_trash()? {
            return Ok(trash);
        }
        match self.root.make(TRASH, Mode::S_IRWXU) {
            Ok(()) | Err(Problem::Os(Errno::EEXIST)) => {}
            Err(problem) => return Err(problem),
        }
        self.open_trash()?.ok_or(Problem::Os(Errno::ENOENT))
    }

    /// Opens the directory above `directory`'s last component, `Some(None)` being the root; `None` if there is
    /// none, or if it holds no directory of that name. Anything else of that name is an error.
    #[expect(clippy::option_option, reason = "absent and root are different answers")]
    fn parent(&self, directory: &RelPath) -> Result<Option<Option<DirFd>>, StorageError> {
        let parents: Vec<Name> = directory.parents().collect();
        let found = self.descend(parents.iter()).and_then(|parent| {
            parent.as_ref().unwrap_or(&self.root).open(directory.leaf().as_str(), Access::Pass).map(|_| parent)
        });
        match found {
            Ok(parent) => Ok(Some(parent)),
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            Err(problem) => Err(problem).doing("open", directory),
        }
    }

    /// Opens the directory that `names` lead to from the root; `None` is the root itself.
    fn descend<'a>(&self, names: impl Iterator<Item = &'a Name>) -> Result<Option<DirFd>, Problem> {
        let mut above: Option<DirFd> = None;
        for name in names {
            above = Some(above.as_ref().unwrap_or(&self.root).open(name.as_str(), Access::Pass)?);
        }
        Ok(above)
    }
}

/// Gives a volume's directory its owners and its mode, in this order: until it has its own mode it can be seen that it
/// has not got them yet.
fn hand_over(opened: &DirFd, is_new: bool, ownership: Ownership, path: &RelPath) -> Result<(), StorageError> {
    let found = opened.mode().doing("look at", path)?;
    // It may have the bit of the directory above besides, and lack what the umask took.
    let inherited = found & Mode::S_ISGID;
    let unfinished = found.difference(inherited) == UNFINISHED || (is_new && ownership != Ownership::default());
    if ownership.keep && !unfinished {
        return Ok(());
    }
    // One that was there is open for passing only, if it was to be kept.
    let reopened = if ownership.keep { Some(opened.open(".", Access::Read).doing("open", path)?) } else { None };
    let opened = reopened.as_ref().unwrap_or(opened);
    let is_given = opened.set_owners(ownership.uid, ownership.gid).doing("chown", path)?;
    let mode = match ownership.mode {
        Some(mode) => Mode::from_bits_truncate(mode.bits()),
        None if unfinished => inherited | VOLUME_MODE,
        None => found | VOLUME_MODE,
    };
    // A change of owners may have taken bits from it.
    if is_given || mode != found { opened.set_mode(mode).doing("chmod", path) } else { Ok(()) }
}

/// Whether nothing new may be made in a directory, whatever is there.
fn is_refusal(problem: Problem) -> bool {
    use Errno::{EACCES, EDQUOT, ENOSPC, EPERM, EROFS};
    matches!(problem, Problem::Os(EACCES | EDQUOT | ENOSPC | EPERM | EROFS))
}

/// Removes an entry that is not a directory. None there is success.
fn remove_file(dir: &DirFd, name: &CStr) -> Result<Removed, Problem> {
    match dir.unlink(name) {
        Ok(()) => Ok(Removed { entries: 1, ..Removed::default() }),
        Err(Problem::Os(Errno::ENOENT)) => Ok(Removed::default()),
        Err(problem) => Err(problem),
    }
}

/// `path` beneath `directory`, "" being that itself.
fn joined(directory: &str, path: &str) -> String {
    if path.is_empty() { directory.to_owned() } else { format!("{directory}/{path}") }
}
