//! Where a copy for a volume is made, and how it gets from there to the volume's directory.
//!
//! The place has the copy, a directory for files that have several names in it, a note on who makes it, which is
//! touched while that goes on, and, once the copy is complete, a mark that tells the copy from any other directory;
//! see [`crate::layout::staging`].

use std::ffi::CString;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::failpoint::Failpoint;
use crate::layout::staging::{COPY, FILE_MAX, LINKS, MAKER, Maker, Mark, above_places, mark, place};
use crate::layout::{STAGING, TrashName};
use crate::storage::dir::Dir;
use crate::storage::entry::{Access, Attributes, FileKind, Time};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::complete::Complete;
use crate::storage::ops::create::Created;
use crate::storage::ops::in_place::{Shown, shown};
use crate::storage::ops::remove_tree;
use crate::storage::root::{Check, PARENT_MODE, Root, grant, make, make_private};
use crate::values::path::{Name, RelPath};

/// How many entries are removed at a time where they cannot be moved into the trash for lack of room.
const IN_PLACE_MAX: u32 = 1000;

/// An open directory that is to be copied. It keeps what it was when it was opened, wherever that is moved.
#[derive(Debug)]
pub struct Source {
    pub(crate) dir: Dir,
    /// Where it lay when it was opened.
    above: Dir,
    name: Name,
}

impl Source {
    /// Tells whether the directory lies where it lay when it was opened.
    pub(crate) fn is_in_place(&self) -> Result<bool, Problem> {
        Ok(shown(&self.above, self.name.as_str(), &self.dir)? == Shown::Same)
    }
}

/// The place in which a copy is made.
#[derive(Debug)]
pub(crate) struct Stage {
    place: Dir,
    /// What becomes the copy.
    pub(crate) copy: Dir,
    /// For what has several names in it.
    pub(crate) links: Dir,
}

impl Stage {
    /// Notes that the copy for a directory is complete. It is on disk then.
    pub(crate) fn complete(&self, directory: &RelPath) -> Result<Complete, Problem> {
        let (found, said) = described(&self.copy, directory)?;
        self.place.write(&*mark(found.inode), said.to_json().as_bytes())?;
        Failpoint::CopyMarked.passed();
        Ok(Complete { inode: found.inode })
    }
}

/// The place of a copy, as a look finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The name of the volume that the copy is for.
    pub volume: String,
    /// Who makes it, if that is said.
    pub maker: Option<Maker>,
    /// When it was last seen to be worked on, by the export's clock.
    pub touched: SystemTime,
    /// How long that was ago, by the same clock.
    pub quiet: Duration,
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
        let open = || {
            let above = self.above(directory)?.reopen(Access::Pass)?;
            let name = directory.leaf();
            Ok(Source { dir: above.open(name.as_str(), Access::Read)?, above, name })
        };
        match open() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            opened => opened.map(Some).doing("open", directory),
        }
    }

    /// Shows others that a volume's copy is being made, or waits to be placed.
    ///
    /// # Errors
    /// If it is not, or the file system refuses.
    pub(crate) fn touch(&self, volume: &str) -> Result<(), StorageError> {
        let touch = || {
            let place = self.dir.open(STAGING, Access::Pass)?.open(volume, Access::Pass)?;
            place.open_file(MAKER)?.inode().touch()
        };
        touch().doing("touch", volume)
    }

    /// Makes the place in which the copy for a volume is made, and notes in it who makes it. What was there before
    /// goes into the trash.
    ///
    /// May run twice, and leaves nothing that the next run does not take away.
    ///
    /// # Errors
    /// If the file system refuses; `ENOTEMPTY` if somebody else makes a copy there at the same time.
    pub(crate) fn stage(&self, volume: &str, maker: &Maker, now: u64) -> Result<Stage, StorageError> {
        self.unstage(volume, now)?;
        let stage = || {
            let place = make_private(&make_private(&self.dir, STAGING)?, volume)?;
            place.write(MAKER, maker.to_json().as_bytes())?;
            let stage = Stage { copy: make_private(&place, COPY)?, links: make_private(&place, LINKS)?, place };
            for made in [&stage.copy, &stage.links] {
                if !made.listing()?.next(1)?.is_empty() {
                    return Err(Problem::Os(Errno::ENOTEMPTY));
                }
            }
            Ok(stage)
        };
        let staged = stage().doing("make", STAGING)?;
        Failpoint::CopyStaged.passed();
        Ok(staged)
    }

    /// Puts what is left in the place of a volume's copy into the trash, if there is such a place. Where there is no
    /// room even for that, it is removed where it is until there is.
    ///
    /// # Errors
    /// As [`Root::trash`].
    pub(crate) fn unstage(&self, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        let place = place_of(volume)?;
        let trashed = self.trash(&place, volume, now, None);
        match trashed {
            Err(error) if error.problem.is_lack_of_room() => {
                self.remove_some(volume).doing("remove", &place)?;
                self.trash(&place, volume, now, None)
            }
            trashed => trashed,
        }
    }

    /// Removes some of what is in the place of a volume's copy, to make room.
    fn remove_some(&self, volume: &str) -> Result<(), Problem> {
        let above = self.dir.open(STAGING, Access::Pass)?;
        let left = AtomicU32::new(IN_PLACE_MAX);
        let goes_on =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        // A name of a volume has no NUL in it, or it would have no place.
        let name = CString::new(volume).unwrap_or_default();
        remove_tree::remove(&above, &name, 1, &goes_on).map(drop)
    }

    /// Renames a volume's copy, which is complete, to its directory, and makes those above it, if `check` allows it
    /// right before the rename. An empty directory that is there is replaced if `onto_empty`. A copy that is there
    /// already is left, which is success.
    ///
    /// Cut before the rename it leaves a copy that can be placed by another call; after it, a directory that is known
    /// by [`Root::is_placed`].
    ///
    /// # Errors
    /// If the copy is not complete, there is a directory already that is not to be replaced, a component is a link or
    /// no directory, or the file system refuses.
    pub(crate) fn place(
        &self,
        check: Check<'_>,
        volume: &str,
        directory: &RelPath,
        onto_empty: bool,
    ) -> Result<Created, StorageError> {
        let place = || {
            let stage = self.dir.open(STAGING, Access::Pass)?.open(volume, Access::Read)?;
            let copy = match stage.open(COPY, Access::Read) {
                Ok(copy) => Some(copy),
                Err(Problem::Os(Errno::ENOENT)) => None,
                Err(problem) => return Err(problem),
            };
            if let Some(copy) = &copy {
                mark_as_placed(&stage, copy, directory)?;
            }
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
            let above = above.as_ref().unwrap_or(&self.dir);
            // Another leader may have put the place into the trash meanwhile, which goes on being emptied.
            check()?;
            let there = self.dir.open(STAGING, Access::Pass)?.entry(volume)?;
            if there.inode != stage.inode().attributes()?.inode {
                return Err(Problem::Os(Errno::ESTALE));
            }
            match rename_copy(&stage, above, directory, onto_empty) {
                // Carried out, by this call or one before it, and then an answer was lost.
                Err(_) if is_copy(&stage, above, directory)? => {}
                renamed => renamed?,
            }
            Failpoint::CopyPlaced.passed();
            Ok(Created { made })
        };
        place().doing("place the copy at", directory)
    }

    /// Tells whether a volume's directory is the copy that was made for it: what tells it from any other was noted
    /// before it was renamed; see [`Mark`].
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn is_placed(&self, volume: &str, directory: &RelPath) -> Result<bool, StorageError> {
        let look = || {
            let stage = self.dir.open(STAGING, Access::Pass)?.open(volume, Access::Read)?;
            is_copy(&stage, &*self.above(directory)?, directory)
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT) | Problem::NotDirectory) => Ok(false),
            looked => looked.doing("look at", directory),
        }
    }

    /// Lists the places of all copies, and how long each has not been worked on. Where none is, there are none.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn staged(&self) -> Result<Vec<Staged>, StorageError> {
        let look = |volume: &str, above: &Dir, now: Time| {
            let place = above.open(volume, Access::Read)?;
            let (maker, touched) = match read(&place, MAKER) {
                Ok((text, found)) => (Some(Maker::parse(&text)), found.modified),
                // Of a version that made none: then what is known is when something was made there.
                Err(Problem::Os(Errno::ENOENT)) => {
                    let mut last = place.inode().attributes()?.modified;
                    for name in [COPY, LINKS] {
                        last = last.max(place.entry(name).map_or(last, |found| found.modified));
                    }
                    (None, last)
                }
                Err(problem) => return Err(problem),
            };
            let touched = SystemTime::from(touched);
            let quiet = SystemTime::from(now).duration_since(touched).unwrap_or_default();
            Ok(Staged { volume: volume.to_owned(), maker, touched, quiet })
        };
        let above = match self.dir.open(STAGING, Access::Read) {
            Err(Problem::Os(Errno::ENOENT)) => return Ok(Vec::new()),
            opened => opened.doing("open", STAGING)?,
        };
        let path = above_places().map_err(|_| Problem::Reserved).doing("list", STAGING)?;
        let names = self.directories(Some(&path))?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // By the clock that the others' times are of.
        above.inode().touch().doing("touch", STAGING)?;
        let now = above.inode().attributes().doing("look at", STAGING)?.modified;
        // One that cannot be looked at is no reason not to look at the others, and is left.
        Ok(names.iter().filter_map(|volume| look(volume, &above, now).ok()).collect())
    }
}

/// Has the mark of a complete copy say that it goes to its directory now. Its content is left alone unless the copy was
/// made for another directory: on a full export, what was cut off could not be written again.
///
/// # Errors
/// `ENOENT` if there is no mark: what was copied lies elsewhere by now, and this is another one's half copy.
fn mark_as_placed(stage: &Dir, copy: &Dir, directory: &RelPath) -> Result<(), Problem> {
    let (found, said) = described(copy, directory)?;
    let mark = mark(found.inode);
    let (text, said) = (read(stage, &mark)?.0, said.to_json());
    if text == said { stage.open_file(&*mark)?.inode().touch() } else { stage.write(&*mark, said.as_bytes()) }
}

/// Renames the complete copy to its directory in `above`.
fn rename_copy(stage: &Dir, above: &Dir, directory: &RelPath, onto_empty: bool) -> Result<(), Problem> {
    let leaf = directory.leaf();
    if !onto_empty {
        match above.entry(leaf.as_str()) {
            Err(Problem::Os(Errno::ENOENT)) => {}
            found => return found.and(Err(Problem::Os(Errno::EEXIST))),
        }
    }
    // One with something in it is not replaced, and nothing else is.
    stage.rename(COPY, above, leaf.as_str())
}

/// Tells whether a directory in `above` is the copy that was made in a place, and is there no more.
fn is_copy(stage: &Dir, above: &Dir, directory: &RelPath) -> Result<bool, Problem> {
    match stage.entry(COPY) {
        Err(Problem::Os(Errno::ENOENT)) => {}
        found => return found.map(|_| false),
    }
    let (found, said) = match above.open(directory.leaf().as_str(), Access::Pass) {
        Err(Problem::Os(Errno::ENOENT) | Problem::NotDirectory | Problem::Link) => return Ok(false),
        opened => described(&opened?, directory)?,
    };
    match read(stage, &mark(found.inode)) {
        Err(Problem::Os(Errno::ENOENT)) => Ok(false),
        marked => marked.map(|(text, file)| Mark::is_for(&text, file.modified.seconds, &said)),
    }
}

/// Returns what a mark says of a directory.
fn described(dir: &Dir, directory: &RelPath) -> Result<(Attributes, Mark), Problem> {
    let found = dir.inode().attributes()?;
    let time = |Time { seconds, nanoseconds }| (seconds, nanoseconds);
    let said = Mark {
        directory: directory.to_string(),
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        modified: time(found.modified),
        born: dir.inode().born().map(time),
    };
    Ok((found, said))
}

/// Reads a file of ours in a volume's place.
fn read(place: &Dir, name: &str) -> Result<(String, Attributes), Problem> {
    let file = place.open_file(name)?;
    let found = file.inode().attributes()?;
    if found.kind != FileKind::File {
        return Err(Problem::Os(Errno::EINVAL));
    }
    let (mut text, mut block) = (Vec::new(), vec![0; FILE_MAX]);
    while text.len() < FILE_MAX {
        let length = file.read_at(&mut block, text.len() as u64)?;
        if length == 0 {
            break;
        }
        text.extend_from_slice(block.get(..length).unwrap_or_default());
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), found))
}
