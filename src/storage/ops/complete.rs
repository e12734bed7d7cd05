//! What is known of a copy's two places, the one in which it is made and the one to which it goes, without a change to
//! either.

use crate::layout::STAGING;
use crate::layout::staging::{COPY, mark};
use crate::storage::entry::{Access, FileKind};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::root::Root;
use crate::values::path::RelPath;

/// A copy that is complete, in the place in which it was made. It is known by its inode's number: should another
/// process have begun a copy there meanwhile, that one is not taken for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    /// The number of the copy's own directory.
    pub(crate) inode: u64,
}

impl Root {
    /// Makes sure that a copy could be put to its directory as things are: nothing is there, or, if `onto_empty`, an
    /// empty directory.
    ///
    /// # Errors
    /// What [`Root::place`] would say of what is there; if a component is a link or no directory, or the file system
    /// refuses.
    pub(crate) fn is_vacant(&self, directory: &RelPath, onto_empty: bool) -> Result<(), StorageError> {
        let look = || {
            let (above, leaf) = (self.above(directory)?, directory.leaf());
            let found = above.entry(leaf.as_str())?;
            if !onto_empty {
                return Err(Problem::Os(Errno::EEXIST));
            }
            if found.kind != FileKind::Directory {
                return Err(Problem::NotDirectory);
            }
            let mut listing = above.open(leaf.as_str(), Access::Read)?.listing()?;
            if listing.next(1)?.is_empty() { Ok(()) } else { Err(Problem::Os(Errno::ENOTEMPTY)) }
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(()),
            looked => looked.doing("place the copy at", directory),
        }
    }

    /// Tells whether a volume's copy is still in the place in which it was made, with the mark that says that it is
    /// complete.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn is_staged(&self, volume: &str, complete: Complete) -> Result<bool, StorageError> {
        let look = || {
            let place = self.dir.open(STAGING, Access::Pass)?.open(volume, Access::Pass)?;
            place.entry(&*mark(complete.inode))?;
            Ok(place.entry(COPY)?.inode)
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(false),
            looked => Ok(looked.doing("look at the copy for", volume)? == complete.inode),
        }
    }
}
