//! The trash: where directories go that are to be removed, and how they are.

use std::ffi::{CStr, CString};

use crate::layout::{TRASH, TrashName};
use crate::storage::dir::Dir;
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::remove_tree::{self, Removed};
use crate::storage::root::{LISTED, OWN_MODE, Root, make, open_private};
use crate::values::path::RelPath;

/// How many names are tried for an entry of the trash before giving up.
const NAMES_MAX: u64 = 1000;

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

impl Root {
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
        let parent = parent.as_ref().unwrap_or(&self.dir);
        let trash = self.make_trash().doing("open", TRASH)?;
        let leaf = directory.leaf();
        for at in now..now.saturating_add(NAMES_MAX) {
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

    /// Lists what lies in the trash, up to `limit` entries of ours, in no order. Where there is no trash, nothing
    /// does.
    ///
    /// # Errors
    /// If the trash is not ours, or cannot be read.
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
    /// cut at any point; what is left is removed by the next run. The trash being shared, the entry may have gone,
    /// which is success.
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
    fn open_trash(&self) -> Result<Option<Dir>, Problem> {
        match open_private(&self.dir, TRASH) {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens the trash as [`Root::open_trash`] does, and makes it if there is none.
    fn make_trash(&self) -> Result<Dir, Problem> {
        if let Some(trash) = self.open_trash()? {
            return Ok(trash);
        }
        make(&self.dir, TRASH, OWN_MODE)?;
        self.open_trash()?.ok_or(Problem::Os(Errno::ENOENT))
    }
}

/// Removes an entry that is not a directory. None there is success.
fn remove_file(dir: &Dir, name: &CStr) -> Result<Removed, Problem> {
    match dir.unlink(name) {
        Ok(()) => Ok(Removed { entries: 1, ..Removed::default() }),
        Err(Problem::Os(Errno::ENOENT)) => Ok(Removed::default()),
        Err(problem) => Err(problem),
    }
}

/// Returns `path` beneath `directory`, "" being that itself.
fn joined(directory: &str, path: &str) -> String {
    if path.is_empty() { directory.to_owned() } else { format!("{directory}/{path}") }
}
