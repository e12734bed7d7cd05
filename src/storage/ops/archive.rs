//! Keeping a volume's directory under another name.

use tracing::warn;

use crate::layout::{Note, archive_name};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::notes::{NoteOf, owners};
use crate::storage::root::{Check, Root};
use crate::values::path::{Name, RelPath};

/// How many names are tried for an archive before giving up.
const NAMES_MAX: u32 = 1000;

impl Root {
    /// Renames a volume's directory to `archived-…` at the export's root, under a name that is free, and returns
    /// that name; `None` if there is no directory. `volume` is the volume's name.
    ///
    /// The `note` tells whose the archive is, which its name does not. It goes into a file of the archive's name
    /// in [`NOTES`](crate::layout::NOTES), or the one beside it that we can use, before the rename. An export that is full or refuses the
    /// note keeps no directory at its root from being archived, because all that a reclaim must do there is a rename;
    /// the archive is then without a note. A directory deeper down has parts of its path told by the note alone, and
    /// so stays where it is.
    ///
    /// May run twice: after the rename there is no directory any more. Cut before it, it leaves a note for an
    /// archive that is not there, which the next run writes again.
    ///
    /// # Errors
    /// If a component is a link or no directory, the note cannot be written, or the file system refuses. The
    /// directory is then where it was.
    pub fn archive(&self, directory: &RelPath, volume: &str, note: &Note) -> Result<Option<Name>, StorageError> {
        self.archive_if(&|| Ok(()), directory, volume, note)
    }

    /// Archives a volume's directory as [`Root::archive`] does, if `check` allows it right before the rename.
    pub(crate) fn archive_if(
        &self,
        check: Check<'_>,
        directory: &RelPath,
        volume: &str,
        note: &Note,
    ) -> Result<Option<Name>, StorageError> {
        let Some(parent) = self.parent(directory)? else {
            return Ok(None);
        };
        let leaf = directory.leaf();
        let (owners, inode) = owners(&parent, &leaf).unzip();
        let note = &Note { owners: owners.or_else(|| note.owners.clone()), inode, ..note.clone() };
        for nth in 0..NAMES_MAX {
            let archive = archive_name(directory, volume, nth)
                .map_err(|_| Problem::Os(Errno::EINVAL))
                .doing("archive", directory)?;
            match self.dir.entry(archive.as_str()) {
                Ok(_) => continue,
                Err(Problem::Os(Errno::ENOENT)) => {}
                Err(problem) => return Err(problem).doing("look up", &archive),
            }
            match self.write_note(NoteOf::Archive(archive.as_str()), note) {
                Err(problem) if problem.is_refusal() && parent.is_root() => {
                    warn!(archive = archive.as_str(), %problem, "the archive is without a note: it was refused");
                }
                written => written.doing("write the note for", &archive)?,
            }
            check().doing("archive", directory)?;
            // Nobody but us makes archives. Were one made this very moment, an empty directory could be lost to
            // it and nothing else: a rename onto anything with content fails.
            return match parent.rename(leaf.as_str(), &self.dir, archive.as_str()) {
                Ok(()) => Ok(Some(archive)),
                Err(Problem::Os(Errno::ENOENT)) => Ok(None),
                Err(Problem::Os(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR)) => continue,
                Err(problem) => Err(problem).doing("archive", directory),
            };
        }
        Err(Problem::Os(Errno::EEXIST)).doing("archive", directory)
    }
}
