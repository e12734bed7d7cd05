//! Making a volume's directory, and taking back what was made.

use std::ops::Range;

use crate::failpoint::Failpoint;
use crate::storage::dir::Dir;
use crate::storage::entry::Access;
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::root::{PARENT_MODE, Root, grant};
use crate::values::ownership::Ownership;
use crate::values::path::{Name, RelPath};

/// The mode of a volume's own directory unless the class says otherwise: any Pod's user may write in it, as with
/// upstream.
pub(crate) const VOLUME_MODE: u32 = 0o777;

/// The mode of a directory that has yet to get the owners and the mode that it is to have: nobody else's looks so.
const UNFINISHED: u32 = 0o1700;

/// The bit by which a directory's group is that of what is made in it.
const SETGID: u32 = 0o2000;

/// What [`Root::create`] found and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// How many of the path's innermost components are new. None is a directory that was there before, with
    /// whatever is in it: it is adopted, because a claim may ask by its path for data that is there already.
    pub made: usize,
}

impl Root {
    /// Makes a volume's directory as [`Root::create_as`] does, so that all can write in it.
    ///
    /// # Errors
    /// Those of [`Root::create_as`].
    pub fn create(&self, directory: &RelPath) -> Result<Created, StorageError> {
        self.create_as(directory, Ownership::default())
    }

    /// Makes a volume's directory, those above it included, or adopts the one that is there. Either way it has the
    /// mode and owners afterwards that it is to have, whatever the umask, unless what is there is to be kept so.
    ///
    /// May run twice. Cut in the middle it leaves empty directories, which the next run adopts; one that has not
    /// got its owners yet is known by its mode.
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
            self.remove_new(names.get(..new.end).unwrap_or_default(), new.len());
        }
        result.map(|()| Created { made: new.len() })
    }

    /// Finds the group of a volume's directory; `None` if there is no directory.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn group(&self, directory: &RelPath) -> Result<Option<u32>, StorageError> {
        let look = || {
            let found = self.volume(directory)?.map(|found| found.inode().attributes());
            Ok(found.transpose()?.map(|found| found.gid))
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            found => found.doing("look at", directory),
        }
    }

    /// Takes back a [`Root::create`] whose volume did not come to be: removes the directories that it made, as
    /// far as they are empty. Never touches what was there before.
    pub fn undo(&self, directory: &RelPath, created: Created) {
        self.remove_new(&directory.names().collect::<Vec<_>>(), created.made);
    }

    /// Makes what is missing of `names` and opens the last; `new` becomes the range of those that were. Once
    /// somebody else turns out to be in a directory that was new, none counts as new.
    fn make_all(&self, names: &[Name], ownership: Ownership, new: &mut Range<usize>) -> Result<Dir, Problem> {
        let mut above: Option<Dir> = None;
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
            let parent = above.as_ref().unwrap_or(&self.dir);
            match parent.make(name.as_str(), mode) {
                Ok(()) if new.start == new.end => *new = index..index + 1,
                Ok(()) => new.end = index + 1,
                Err(Problem::Os(Errno::EEXIST)) => *new = 0..0,
                // An NFS server may say this first of a directory that is there.
                Err(problem) if problem.is_refusal() && parent.open(name.as_str(), Access::Pass).is_ok() => {
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
                grant(&opened, mode)?;
            }
            above = Some(opened);
        }
        // No path is without a name.
        above.ok_or(Problem::Os(Errno::ENOENT))
    }

    /// Removes the innermost `count` of `names`, as far as they are empty.
    fn remove_new(&self, names: &[Name], count: usize) {
        for depth in (names.len().saturating_sub(count)..names.len()).rev() {
            let Some((name, parents)) = names.get(..=depth).and_then(<[Name]>::split_last) else {
                return;
            };
            let Ok(parent) = self.descend(parents.iter()) else {
                return;
            };
            if parent.remove_empty(name.as_str()).is_err() {
                return;
            }
        }
    }
}

/// Gives a volume's directory its owners and its mode, in this order: until it has its own mode it can be seen
/// that it has not got them yet.
fn hand_over(opened: &Dir, is_new: bool, ownership: Ownership, path: &RelPath) -> Result<(), StorageError> {
    let found = opened.inode().attributes().doing("look at", path)?;
    // It may have the bit of the directory above besides, and lack what the umask took.
    let inherited = found.mode & SETGID;
    let unfinished = found.mode & !inherited == UNFINISHED || (is_new && ownership != Ownership::default());
    if ownership.keep && !unfinished {
        return Ok(());
    }
    // One that was there is open for passing only, if it was to be kept.
    let reopened = if ownership.keep { Some(opened.reopen(Access::Read).doing("open", path)?) } else { None };
    let opened = reopened.as_ref().unwrap_or(opened).inode();
    let is = |wanted: Option<u32>, found| wanted.is_none_or(|wanted| wanted == found);
    let is_given = !is(ownership.uid, found.uid) || !is(ownership.gid, found.gid);
    if is_given {
        opened.set_owners(ownership.uid, ownership.gid).doing("chown", path)?;
    }
    let mode = match ownership.mode {
        Some(mode) => mode.bits(),
        None if unfinished => inherited | VOLUME_MODE,
        None => found.mode | VOLUME_MODE,
    };
    // A change of owners may have taken bits from it.
    if is_given || mode != found.mode { opened.set_mode(mode).doing("chmod", path) } else { Ok(()) }
}
