//! Where a copy for a volume is made, and how it gets from there to the volume's directory.
//!
//! The place has the copy, a directory for files that have several names in it, and, once the copy is complete, a
//! note that says so with the copy's inode number; see [`crate::layout::staging`].

use crate::failpoint::Failpoint;
use crate::layout::staging::{COPY, LINKS, mark, place};
use crate::layout::{STAGING, TrashName};
use crate::storage::dir::Dir;
use crate::storage::entry::{Access, FileKind};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::create::Created;
use crate::storage::root::{PARENT_MODE, Root, grant, make, make_private};
use crate::values::path::{Name, RelPath};

/// An open directory that is to be copied. It says nothing of how it was reached, and keeps what it was when it
/// was opened, wherever that is moved.
#[derive(Debug)]
pub struct Source(pub(crate) Dir);

/// The place in which a copy is made.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What becomes the copy.
    pub(crate) copy: Dir,
    /// For what has several names in it.
    pub(crate) links: Dir,
}

/// Returns where a volume's copy is made.
pub(crate) fn place_of(volume: &str) -> Result<RelPath, StorageError> {
    place(volume).map_err(|_| Problem::Os(Errno::EINVAL)).doing("clone", volume)
}

impl Root {
    /// Opens a volume's directory, to be copied; `None` if there is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub(crate) fn open_source(&self, directory: &RelPath) -> Result<Option<Source>, StorageError> {
        let open = || self.volume(directory)?.map(|found| found.reopen(Access::Read)).transpose();
        match open() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            opened => opened.map(|opened| opened.map(Source)).doing("open", directory),
        }
    }

    /// Makes the place in which the copy for a volume is made. What was there before goes into the trash.
    ///
    /// May run twice, and leaves nothing that the next run does not take away.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn stage(&self, volume: &str, now: u64) -> Result<Stage, StorageError> {
        self.unstage(volume, now)?;
        let stage = || {
            let own = make_private(&make_private(&self.dir, STAGING)?, volume)?;
            Ok(Stage { copy: make_private(&own, COPY)?, links: make_private(&own, LINKS)? })
        };
        let staged = stage().doing("make", STAGING)?;
        Failpoint::CopyStaged.passed();
        Ok(staged)
    }

    /// Puts what is left in the place of a volume's copy into the trash, if there is such a place.
    ///
    /// # Errors
    /// As [`Root::trash`].
    pub(crate) fn unstage(&self, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        self.trash(&place_of(volume)?, volume, now)
    }

    /// Renames a volume's copy, which is complete, to its directory, and makes those above it. An empty directory
    /// that is there is replaced if `onto_empty`.
    ///
    /// Cut before the rename it leaves a copy that is made again; after it, a directory that is known by
    /// [`Root::is_placed`].
    ///
    /// # Errors
    /// If there is a directory already that is not to be replaced, a component is a link or no directory, or the file
    /// system refuses.
    pub(crate) fn place(
        &self,
        volume: &str,
        directory: &RelPath,
        onto_empty: bool,
    ) -> Result<Created, StorageError> {
        let place = || {
            let stage = self.dir.open(STAGING, Access::Pass)?.open(volume, Access::Read)?;
            let mark = mark(stage.entry(COPY)?.inode);
            stage.write(&*mark, directory.as_str().as_bytes())?;
            Failpoint::CopyMarked.passed();
            let (mut above, mut made) = (None::<Dir>, 1);
            for name in directory.parents() {
                let parent = above.as_ref().unwrap_or(&self.dir);
                let is_new = make(parent, name.as_str(), PARENT_MODE)?;
                let opened = parent.open(name.as_str(), if is_new { Access::Read } else { Access::Pass })?;
                if is_new {
                    grant(&opened, PARENT_MODE)?;
                }
                made = if is_new { made + 1 } else { 1 };
                above = Some(opened);
            }
            let (above, leaf) = (above.as_ref().unwrap_or(&self.dir), directory.leaf());
            if !onto_empty && above.entry(leaf.as_str()).is_ok() {
                return Err(Problem::Os(Errno::EEXIST));
            }
            // One with something in it is not replaced, and nothing else is.
            stage.rename(COPY, above, leaf.as_str())?;
            Failpoint::CopyPlaced.passed();
            Ok(Created { made })
        };
        place().doing("place the copy at", directory)
    }

    /// Tells whether a volume's directory is the copy that was made for it: its number was noted before it was
    /// renamed.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn is_placed(&self, volume: &str, directory: &RelPath) -> Result<bool, StorageError> {
        let look = || {
            let stage = self.dir.open(STAGING, Access::Pass)?.open(volume, Access::Read)?;
            let parents: Vec<Name> = directory.parents().collect();
            let parent = self.descend(parents.iter())?;
            let found = parent.as_ref().unwrap_or(&self.dir).entry(directory.leaf().as_str())?;
            let is_marked = stage.entry(&*mark(found.inode)).is_ok();
            Ok(found.kind == FileKind::Directory && is_marked && stage.entry(COPY).is_err())
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT) | Problem::NotDirectory) => Ok(false),
            looked => looked.doing("look at", directory),
        }
    }
}
