//! The trash: where directories go that are to be removed, and how they are.
//!
//! It is a directory at the export's root that nobody else can enter. Where the server takes us for another user than
//! the one who made it, which cannot be helped from here, there is another one beside it. Where there is no room for
//! one, an entry lies at the root: a full export must not keep anybody from deleting what fills it.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::layout::{
    NOTES, NUMBERED_MAX, RootEntry, TRASH, TRASH_TRIED, TrashName, TrashPlace, classify, numbered,
};
use crate::storage::dir::Dir;
use crate::storage::entry::Access;
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::remove_tree::{self, Removed};
use crate::storage::root::{Check, LISTED, OWN_MODE, Root, make_usable, open_private};
use crate::values::headroom::FsUsage;
use crate::values::path::RelPath;
use crate::values::retention::Keep;

/// How many names are tried for an entry of the trash before giving up.
const NAMES_MAX: u64 = 1000;

/// How many entries of the export's root are looked at for those of the trash, at the most.
const LOOKED_AT: usize = 100_000;

/// How many of the entries that go before their time a listing brings, at the most.
const EARLY_MAX: usize = 64;

/// What lies in the trash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trashed {
    /// What is to be removed.
    pub names: Vec<TrashName>,
    /// What is kept until later.
    pub kept: Kept,
    /// How many entries have names that are none of ours, and one of those names. They are nobody's to remove.
    pub foreign: Option<(usize, String)>,
    /// The directories of the trash that could not be looked into because they are another user's, and nothing else.
    pub closed: Vec<StorageError>,
    /// What could not be looked into for any other reason: a directory of the trash that is not the first, or the
    /// export's root.
    pub unlisted: Vec<StorageError>,
}

/// What lies in the trash and is kept until later. However much that is, this takes little memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// How many entries are kept. Where there is more to be removed than was to be listed, there may be others.
    pub count: usize,
    /// How many of them never go before their time, however full the export is.
    pub firm: usize,
    /// The oldest of those that go before their time now because the export is so full, the oldest first.
    pub early: Vec<TrashName>,
    /// When the next entry is to be removed, in seconds since 1970.
    pub next: Option<u64>,
    /// How full the export is, if anything is kept and the file system tells.
    pub usage: Option<FsUsage>,
}

impl Kept {
    fn add(&mut self, name: TrashName) {
        self.count += 1;
        self.firm += usize::from(name.keep().is_none_or(|keep| keep.min_free().is_none()));
        self.next = self.next.into_iter().chain(name.kept_until()).min();
        let gives_way = |usage: &FsUsage| name.keep().is_some_and(|keep| keep.gives_way(usage));
        if !self.usage.as_ref().is_some_and(gives_way) {
            return;
        }
        let place = self.early.partition_point(|other| other.at() <= name.at());
        if place < EARLY_MAX {
            self.early.insert(place, name);
            self.early.truncate(EARLY_MAX);
        }
    }
}

/// A look at what lies in the trash.
struct Look<'a> {
    root: &'a Root,
    now: u64,
    limit: usize,
    found: Trashed,
}

impl Look<'_> {
    /// Takes note of an entry of a directory of the trash, and tells whether to go on.
    fn add(&mut self, name: &CStr, place: TrashPlace) -> bool {
        if let Some(ours) = name.to_str().ok().and_then(|name| name.parse::<TrashName>().ok()) {
            return self.add_ours(ours.found_in(place));
        }
        if name.to_bytes() != TRASH_TRIED.as_bytes() {
            let (count, _) = self.found.foreign.get_or_insert_with(|| (0, name.to_string_lossy().into_owned()));
            *count += 1;
        }
        !self.is_full()
    }

    fn add_ours(&mut self, name: TrashName) -> bool {
        let kept = &mut self.found.kept;
        if name.is_due(self.now) {
            self.found.names.push(name);
        } else {
            if kept.count == 0 {
                // Who cannot tell how full it is has nothing go before its time.
                kept.usage = self.root.usage().ok();
            }
            kept.add(name);
        }
        !self.is_full()
    }

    fn at_directories(&mut self) -> Result<(), StorageError> {
        for number in 1..=NUMBERED_MAX {
            let place = TrashPlace::Directory(number);
            let listed = match self.root.open_trash(number) {
                Ok(None) => continue,
                Ok(Some(trash)) => each_entry(&trash, usize::MAX, |entry| self.add(entry, place))
                    .doing("list", numbered(TRASH, number)),
                Err(problem) => Err(problem).doing("open", numbered(TRASH, number)),
            };
            match listed {
                Ok(()) => {}
                Err(error) if error.problem.is_denial() => self.found.closed.push(error),
                Err(error) if number > 1 => self.found.unlisted.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds what lies at the export's root, which may be long, and tells whether there is any, or may be.
    fn at_root(&mut self) -> bool {
        let mut is_any = false;
        let listed = each_entry(&self.root.dir, LOOKED_AT, |entry| {
            let Some(name) = entry.to_str().ok().and_then(TrashName::at_root) else { return !self.is_full() };
            is_any = true;
            self.add_ours(name)
        });
        let is_listed = listed.is_ok();
        // Who may make directories there may not list it: that must not keep the others from being emptied.
        self.found.unlisted.extend(listed.doing("list", ".").err());
        !is_listed || is_any || self.is_full()
    }

    /// Tells whether as much was found as is to be listed. What is kept does not count: it must not hide what is due.
    fn is_full(&self) -> bool {
        self.found.names.len() >= self.limit
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
    /// Makes the directories of our own in which deleting and archiving put something, unless they are there: once
    /// the export is full, it is too late.
    ///
    /// # Errors
    /// If one cannot be made. Then [`Root::trash`] and [`Root::archive`] do without, as far as they can.
    pub fn prepare(&self) -> Result<(), StorageError> {
        let [trash, notes] = [TRASH, NOTES].map(|name| make_usable(&self.dir, name, 0).doing("mkdir", name));
        trash.and(notes).map(drop)
    }

    /// Renames a volume's directory into the trash, and returns its name there; `None` if there is no directory.
    /// `volume` is the volume's name, `now` the time in seconds since 1970. What it is to be kept for is part of its
    /// name, in which the first version that had a trash sees nothing that it may remove.
    ///
    /// Where there is no room in the trash, it becomes an entry of it at the export's root: others who have that
    /// mounted may then reach it until it is reaped, as they could before.
    ///
    /// May run twice: after the rename there is no directory any more. Nothing can reach the directory by its path
    /// then; whoever has it open or mounted already keeps it until it is reaped.
    ///
    /// # Errors
    /// If a component is a link or no directory, the trash is not ours, or the file system refuses; `EXDEV` where it
    /// cannot rename there, as with one quota for each directory. The directory is then where it was.
    pub fn trash(
        &self,
        directory: &RelPath,
        volume: &str,
        now: u64,
        keep: Option<&Keep>,
    ) -> Result<Option<TrashName>, StorageError> {
        self.trash_if(&|| Ok(()), directory, volume, now, keep)
    }

    /// Puts a volume's directory into the trash as [`Root::trash`] does, if `check` allows it right before the rename.
    pub(crate) fn trash_if(
        &self,
        check: Check<'_>,
        directory: &RelPath,
        volume: &str,
        now: u64,
        keep: Option<&Keep>,
    ) -> Result<Option<TrashName>, StorageError> {
        if directory.names().next().is_some_and(|first| classify(first.as_str()) == RootEntry::Trash) {
            return Err(Problem::Reserved).doing("trash", directory);
        }
        let Some(parent) = self.parent(directory)? else {
            return Ok(None);
        };
        let named = |place| move |at| TrashName::new_in(place, at, keep, volume, directory);
        let mut after = 0;
        let trashed = loop {
            let (number, trash) = match make_usable(&self.dir, TRASH, after) {
                Ok(found) => found,
                Err(problem) => break Err(problem).doing("open", TRASH),
            };
            let place = TrashPlace::Directory(number);
            check().doing("trash", directory)?;
            match rename_into(&parent, directory, &trash, now, named(place)) {
                // An NFS client remembers that it might open a directory as long as that does not change.
                Err(error) if error.problem.is_denial() && number < NUMBERED_MAX => {
                    if !is_closed(&trash) {
                        break Err(error);
                    }
                    after = number;
                }
                trashed => break trashed,
            }
        };
        match trashed {
            Err(error) if error.problem.is_lack_of_room() => {
                check().doing("trash", directory)?;
                rename_into(&parent, directory, &self.dir, now, named(TrashPlace::Root)).map_err(|_| error)
            }
            trashed => trashed,
        }
    }

    /// Lists what lies in the trash, up to `limit` entries that are to be removed by the time `now`, in seconds since
    /// 1970, in no order. Where there is no trash, nothing does.
    ///
    /// # Errors
    /// If the trash is no directory, or cannot be read.
    pub fn trashed(&self, limit: usize, now: u64) -> Result<Trashed, StorageError> {
        self.trashed_if(&AtomicBool::new(true), limit, now)
    }

    /// Lists what lies in the trash, as [`Root::trashed`] does; at the export's root only if something may lie there,
    /// which this call notes anew.
    pub(crate) fn trashed_if(
        &self,
        at_root: &AtomicBool,
        limit: usize,
        now: u64,
    ) -> Result<Trashed, StorageError> {
        let mut look = Look { root: self, now, limit, found: Trashed::default() };
        look.at_directories()?;
        // Before the look, for who puts something there meanwhile.
        if at_root.swap(false, Ordering::Relaxed) && look.at_root() {
            at_root.store(true, Ordering::Relaxed);
        }
        Ok(look.found)
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
        let trash = match name.place() {
            TrashPlace::Root => None,
            TrashPlace::Directory(number) => match self.open_trash(number) {
                Ok(Some(trash)) => Some(trash),
                Ok(None) => return Ok(Reaped { entries: 0, left: Left::Nothing }),
                Err(problem) => return Err(problem).doing("open", numbered(TRASH, number)),
            },
        };
        let trash = trash.as_ref().unwrap_or(&self.dir);
        let path = name.path();
        // A trash name holds no NUL.
        let name = CString::new(name.entry()).unwrap_or_default();
        let removed = match remove_tree::remove(trash, &name, workers, goes_on) {
            // Exchanged with the directory when that was put into the trash.
            Err(Problem::Link | Problem::NotDirectory) => remove_file(trash, &name),
            removed => removed,
        };
        let Removed { entries, rest } = removed.doing("reap", &path)?;
        let left = match rest.first {
            Some((inside, problem)) => {
                let first = StorageError { doing: "reap", path: joined(&path, &inside), problem };
                Left::Blocked { entries: rest.blocked, first }
            }
            None if rest.more => Left::More,
            None => Left::Nothing,
        };
        Ok(Reaped { entries, left })
    }

    /// Opens a directory of the trash; `None` if there is none. The first one is made ours alone; those beside it are
    /// other users', who are to go on using them.
    fn open_trash(&self, number: u8) -> Result<Option<Dir>, Problem> {
        let name = numbered(TRASH, number);
        let opened =
            if number == 1 { open_private(&self.dir, &name) } else { self.dir.open(&*name, Access::Read) };
        match opened {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            opened => opened.map(Some),
        }
    }
}

/// Renames a directory into the trash, to the first name that is free of those that `named` makes for the seconds from
/// `now` on, and returns that; `None` if there is no directory.
fn rename_into(
    parent: &Dir,
    directory: &RelPath,
    trash: &Dir,
    now: u64,
    named: impl Fn(u64) -> TrashName,
) -> Result<Option<TrashName>, StorageError> {
    for name in (now..now.saturating_add(NAMES_MAX)).map(named) {
        // An empty directory of that name is replaced; it was to be removed anyway.
        return match parent.rename(directory.leaf().as_str(), trash, &*name.entry()) {
            Ok(()) => Ok(Some(name)),
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            Err(Problem::Os(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR)) => continue,
            Err(problem) => Err(problem).doing("trash", directory),
        };
    }
    Err(Problem::Os(Errno::EEXIST)).doing("trash", directory)
}

/// Asks the server whether nothing may be put into a directory of the trash, by making an entry there, an empty one.
fn is_closed(trash: &Dir) -> bool {
    let is_denied = |result: Result<(), Problem>| result.is_err_and(Problem::is_denial);
    match trash.make(TRASH_TRIED, OWN_MODE) {
        // One is there, of somebody who asks at the same time or could not remove it. That it is, is said before
        // anybody's rights are looked at.
        Err(Problem::Os(Errno::EEXIST)) => is_denied(trash.remove_empty(TRASH_TRIED)),
        Ok(()) => {
            // If it stays, the next one finds it.
            let _ = trash.remove_empty(TRASH_TRIED);
            false
        }
        refused => is_denied(refused),
    }
}

/// Calls `take` with the name of each entry of a directory, up to about `most`, until it returns false.
fn each_entry(dir: &Dir, most: usize, mut take: impl FnMut(&CStr) -> bool) -> Result<(), Problem> {
    let mut listing = dir.listing()?;
    let mut seen = 0;
    loop {
        let entries = listing.next(LISTED)?;
        seen += entries.len();
        if entries.is_empty() || seen > most || !entries.iter().all(|(name, _)| take(name)) {
            return Ok(());
        }
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
