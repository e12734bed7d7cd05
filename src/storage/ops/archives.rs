//! The archives on an export, as they lie there with their notes, and the end of those that have expired.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::layout::{NOTE_MAX, NOTES, NUMBERED_MAX, Note, RootEntry, TrashName, classify, numbered};
use crate::storage::dir::Dir;
use crate::storage::entry::{Access, Attributes, FileKind, Time};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::notes::read_whole;
use crate::storage::root::{Check, LISTED, Root, open_private};
use crate::values::path::{Name, RelPath};

/// How many archives a page has, at most.
const PAGE: usize = 256;

/// How many seconds after its note was written a directory may have become an archive, by the export's own clock.
const ARCHIVED_WITHIN: i64 = 10 * 60;

/// A page of the archives on an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archives {
    /// All of them, each with the time since when it is one: as its note says, else when the directory was last changed.
    pub all: Vec<(RelPath, Timestamp)>,
    /// Those of which a note says until when they are kept.
    pub limited: Vec<Archive>,
    /// The name after which the next page begins; `None` at the end.
    pub next: Option<Box<str>>,
}

/// An archive whose note says until when it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    name: Name,
    path: RelPath,
    note: Note,
    inode: u64,
    changed: Time,
    written: Time,
}

impl Archive {
    /// Returns its path beneath the export, which is one name.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Returns its note.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Tells whether the directory is as it was when it was archived: nothing was made, renamed or removed at its
    /// top, nor its owner or mode changed, since its note was written, by the export's own clock. So the note was
    /// written for this directory, and not for an earlier one of its name.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.changed.seconds <= self.written.seconds.saturating_add(ARCHIVED_WITHIN)
    }
}

impl Root {
    /// Reads which archives there are, and which of them have notes that say until when they are kept: a page of those
    /// whose names come after `after`, in the order of their names. Takes little memory, however many there are. Whatever
    /// is not certainly a note that this provisioner has written for that name is passed by:
    ///
    /// - the note is a file in [`NOTES`], which is private and ours, and has the owner of that;
    /// - no directory beside that, of another user, holds a note for the same name, or could without our seeing it.
    ///
    /// # Errors
    /// If the export's root or a directory of notes cannot be read.
    pub fn archives(&self, after: Option<&str>) -> Result<Archives, StorageError> {
        let names = self.archive_names(after).doing("list", ".")?;
        let next = names.last().filter(|_| names.len() == PAGE).map(|name| name.as_str().into());
        let notes = Notes::open(&self.dir).doing("open", NOTES)?;
        let mut page = Archives { next, ..Archives::default() };
        for name in names {
            let Some((path, since, limited)) = self.archive_of(notes.as_ref(), &name).doing("look up", name)?
            else {
                continue;
            };
            page.all.push((path, since));
            page.limited.extend(limited);
        }
        Ok(page)
    }

    /// Puts an archive into the trash, to be removed at once, and removes its note, if both are as they were when
    /// they were read; else returns `None` and changes nothing. That it has expired, and is nobody's, is for the
    /// caller to know.
    ///
    /// May run twice: there is no archive any more then. Cut after the rename, it leaves a note for an archive that
    /// is not there, by which nothing is decided: a later archive of that name either writes its own, or is newer
    /// than the note.
    ///
    /// # Errors
    /// Those of [`Root::trash`], and if the archive or its note cannot be read.
    pub fn expire(&self, archive: &Archive, now: u64) -> Result<Option<TrashName>, StorageError> {
        self.expire_if(&|| Ok(()), archive, now)
    }

    /// Puts an archive into the trash as [`Root::expire`] does, if `check` allows it right before the rename.
    pub(crate) fn expire_if(
        &self,
        check: Check<'_>,
        archive: &Archive,
        now: u64,
    ) -> Result<Option<TrashName>, StorageError> {
        let name = archive.name.as_str();
        let Some(notes) = Notes::open(&self.dir).doing("open", NOTES)? else { return Ok(None) };
        let found = self.archive_of(Some(&notes), name).doing("look up", name)?;
        if found.and_then(|(_, _, limited)| limited).as_ref() != Some(archive) {
            return Ok(None);
        }
        let trashed = self.trash_if(check, &archive.path, &archive.note.volume, now, None)?;
        if trashed.is_some() {
            // If it stays, nothing is decided by it.
            let _ = notes.own.unlink(name);
        }
        Ok(trashed)
    }

    /// Returns the first names of archives after `after`.
    fn archive_names(&self, after: Option<&str>) -> Result<BTreeSet<String>, Problem> {
        let mut names = BTreeSet::new();
        let mut listing = self.dir.listing()?;
        loop {
            let entries = listing.next(LISTED)?;
            if entries.is_empty() {
                return Ok(names);
            }
            for (name, _) in &entries {
                // We give no archive any other name than text.
                let Ok(name) = name.to_str() else { continue };
                if classify(name) == RootEntry::Archive && after.is_none_or(|after| name > after) {
                    names.insert(name.to_owned());
                }
                if names.len() > PAGE {
                    names.pop_last();
                }
            }
        }
    }

    /// Reads an archive and its note; `None` unless it is a directory. With what its note says if that says until when
    /// it is kept.
    fn archive_of(&self, notes: Option<&Notes>, name: &str) -> Result<Option<Looked>, Problem> {
        let (Ok(parsed), Ok(path)) = (Name::parse(name), RelPath::parse(name)) else { return Ok(None) };
        let found = match self.dir.entry(name) {
            Err(Problem::Os(Errno::ENOENT)) => return Ok(None),
            found => found?,
        };
        if found.kind != FileKind::Directory {
            return Ok(None);
        }
        let Attributes { inode, changed, .. } = found;
        let found = match notes {
            Some(notes) => notes.read(name)?,
            None => None,
        };
        let archived = found.as_ref().and_then(|(note, _)| note.archived);
        let since = archived.or_else(|| Timestamp::from_second(changed.seconds).ok()).unwrap_or_default();
        let limited = found.filter(|(note, _)| note.kept_until.is_some()).map(|(note, written)| {
            let path = path.clone();
            Archive { name: parsed, path, note, inode, changed, written }
        });
        Ok(Some((path, since, limited)))
    }
}

/// An archive's path, the time since when it is one, and what its note says if that says until when it is kept.
type Looked = (RelPath, Timestamp, Option<Archive>);

/// The directories of notes.
struct Notes {
    /// The one that is ours.
    own: Dir,
    /// The number of whoever the server takes us for.
    owner: u32,
    /// Those of other users.
    others: Vec<Dir>,
}

impl Notes {
    /// Opens the directories of notes; `None` if there are none.
    ///
    /// # Errors
    /// If the first one is not ours, or one beside it cannot be looked into.
    fn open(root: &Dir) -> Result<Option<Self>, Problem> {
        let own = match open_private(root, NOTES) {
            Err(Problem::Os(Errno::ENOENT)) => return Ok(None),
            own => own?,
        };
        let owner = own.inode().attributes()?.uid;
        let mut others = Vec::new();
        for number in 2..=NUMBERED_MAX {
            match root.open(&*numbered(NOTES, number), Access::Pass) {
                Err(Problem::Os(Errno::ENOENT)) => {}
                other => others.push(other?),
            }
        }
        Ok(Some(Self { own, owner, others }))
    }

    /// Reads the note of this name, and when it was written; `None` if there is none that is certainly ours, or it is
    /// none that we can read.
    fn read(&self, name: &str) -> Result<Option<(Note, Time)>, Problem> {
        for other in &self.others {
            match other.entry(name) {
                Err(Problem::Os(Errno::ENOENT)) => {}
                found => return found.map(|_| None),
            }
        }
        let file = match self.own.open_file(name) {
            // ELOOP is a link.
            Err(Problem::Os(Errno::ENOENT | Errno::ELOOP) | Problem::Link) => return Ok(None),
            // One that is closed to us must not hide the others.
            Err(problem) if problem.is_denial() => return Ok(None),
            file => file?,
        };
        let found = file.inode().attributes()?;
        let is_note = found.kind == FileKind::File && found.uid == self.owner && found.links == 1;
        if !is_note || usize::try_from(found.size).map_or(true, |size| size > NOTE_MAX) {
            return Ok(None);
        }
        let text = read_whole(&file)?;
        let note = std::str::from_utf8(&text).ok().and_then(|text| Note::parse(text).ok());
        Ok(note.map(|note| (note, found.modified)))
    }
}
