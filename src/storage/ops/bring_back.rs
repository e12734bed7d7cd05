//! Bringing an archive, or an entry of the trash, back to where it was.

use crate::storage::dir::Dir;
use crate::storage::entry::{Access, FileKind};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::root::{Check, PARENT_MODE, Root, make};
use crate::values::path::RelPath;

impl Root {
    /// Renames a directory to a path at which nothing is, and makes the directories above that; returns false, and does
    /// nothing, if there is no directory to rename. What it holds, its mode and its owners stay as they are.
    ///
    /// Cut in the middle it leaves empty directories above the path. May run twice: after the rename there is nothing
    /// to rename any more.
    ///
    /// # Errors
    /// `EEXIST` if there is anything at the path. If a component of either is a link or no directory, or the file system
    /// refuses. The directory is then where it was.
    pub fn bring_back(&self, from: &RelPath, to: &RelPath) -> Result<bool, StorageError> {
        self.bring_back_if(&|| Ok(()), from, to)
    }

    /// Renames a directory as [`Root::bring_back`] does, if `check` allows it right before the rename.
    pub(crate) fn bring_back_if(
        &self,
        check: Check<'_>,
        from: &RelPath,
        to: &RelPath,
    ) -> Result<bool, StorageError> {
        let above = match self.above(from) {
            Err(Problem::Os(Errno::ENOENT)) => return Ok(false),
            above => above.doing("open", from)?,
        };
        match above.entry(from.leaf().as_str()) {
            Err(Problem::Os(Errno::ENOENT)) => return Ok(false),
            Ok(found) if found.kind != FileKind::Directory => {
                return Err(Problem::NotDirectory).doing("bring back", from);
            }
            found => found.doing("look up", from)?,
        };
        let renamed = self.make_above(to).and_then(|target| {
            let target = target.as_ref().unwrap_or(&self.dir);
            match target.entry(to.leaf().as_str()) {
                Err(Problem::Os(Errno::ENOENT)) => {}
                Ok(_) => return Err(Problem::Os(Errno::EEXIST)),
                Err(problem) => return Err(problem),
            }
            check()?;
            // Should anything be made there this very moment, only an empty directory would be replaced.
            above.rename(from.leaf().as_str(), target, to.leaf().as_str())
        });
        renamed.doing("bring back to", to).map(|()| true)
    }

    /// Opens the directory above a path, and makes what is missing of it; `None` if that is the root.
    fn make_above(&self, path: &RelPath) -> Result<Option<Dir>, Problem> {
        let mut above: Option<Dir> = None;
        for name in path.parents() {
            let parent = above.as_ref().unwrap_or(&self.dir);
            make(parent, name.as_str(), PARENT_MODE)?;
            above = Some(parent.open(name.as_str(), Access::Pass)?);
        }
        Ok(above)
    }
}
