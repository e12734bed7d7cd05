//! Notes on the export, and listings of what lies there, a page at a time.

use std::time::SystemTime;

use crate::layout::{
    ClusterMark, NOTE_MAX, NOTES, NUMBERED_MAX, Note, NoteError, Owners, TRASH, VOLUME_NOTES, numbered,
};
use crate::storage::dir::{Dir, File, Listing};
use crate::storage::entry::{Access, Attributes, FileKind};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::root::{LISTED, Root, make_private, make_usable, open_private};
use crate::values::path::{Name, RelPath};

/// What a note is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteOf<'a> {
    /// An archive, by its name.
    Archive(&'a str),
    /// A volume of a cluster, by its name.
    Volume(&'a ClusterMark, &'a str),
}

impl<'a> NoteOf<'a> {
    /// Returns the directory at the root, the one in it if there is one, and the note's own name.
    fn place(self) -> (&'static str, Option<&'a str>, &'a str) {
        match self {
            Self::Archive(name) => (NOTES, None, name),
            Self::Volume(cluster, name) => (VOLUME_NOTES, Some(cluster.as_str()), name),
        }
    }

    fn path(self) -> String {
        match self.place() {
            (top, None, name) => format!("{top}/{name}"),
            (top, Some(cluster), name) => format!("{top}/{cluster}/{name}"),
        }
    }
}

/// A note as it was found; what is no note that we can read says why.
pub type FoundNote = Result<Note, NoteError>;

/// A directory whose entries can be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListOf {
    /// The export's root.
    Root,
    /// A directory of the trash, by its number.
    Trash(u8),
    /// A directory that has one directory for each cluster's notes, by its number.
    Clusters(u8),
    /// A cluster's notes of volumes, in the directory of this number.
    Volumes(u8, ClusterMark),
}

impl ListOf {
    /// The numbers that directories have of which there may be several.
    pub const NUMBERS: std::ops::RangeInclusive<u8> = 1..=NUMBERED_MAX;

    fn path(&self) -> String {
        match self {
            Self::Root => ".".to_owned(),
            Self::Trash(number) => numbered(TRASH, *number),
            Self::Clusters(number) => numbered(VOLUME_NOTES, *number),
            Self::Volumes(number, cluster) => format!("{}/{cluster}", numbered(VOLUME_NOTES, *number)),
        }
    }
}

/// A listing that is under way.
#[derive(Debug)]
pub struct Entries {
    listing: Listing,
    dir: Dir,
    path: String,
}

/// What is known of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The number of its inode.
    pub inode: u64,
    /// Its mode and owners.
    pub owners: Owners,
    /// When anything about it was last changed, its name included, by the file system's clock.
    pub changed: SystemTime,
    /// When an entry was last made, renamed or removed in it.
    pub modified: SystemTime,
}

impl Root {
    /// Writes the note of a volume, and makes the directories that it lies in. One that is there is replaced.
    ///
    /// Cut in the middle it leaves half a note, which is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, the volume's name is no entry's, or the file system refuses.
    pub fn record(&self, cluster: &ClusterMark, volume: &str, note: &Note) -> Result<(), StorageError> {
        let of = NoteOf::Volume(cluster, volume);
        self.write_note(of, note).doing("write the note", of.path())
    }

    /// Removes the note of a volume. None there is success.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn forget(&self, cluster: &ClusterMark, volume: &str) -> Result<(), StorageError> {
        let of = NoteOf::Volume(cluster, volume);
        self.remove_note(of).doing("remove the note", of.path())
    }

    /// Removes a note wherever it lies.
    pub(crate) fn remove_note(&self, of: NoteOf<'_>) -> Result<(), Problem> {
        let (top, inner, name) = of.place();
        let name = Name::parse(name).map_err(|_| Problem::Os(Errno::EINVAL))?;
        for number in ListOf::NUMBERS {
            let removed = self.own(top, number, inner).and_then(|dir| dir.unlink(name.as_str()));
            match removed {
                Ok(()) | Err(Problem::Os(Errno::ENOENT)) => {}
                // Another user's: of the time when the server took us for him, or of another node's.
                Err(problem) if problem.is_denial() => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    /// Reads a note; `None` if there is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn note(&self, of: NoteOf<'_>) -> Result<Option<FoundNote>, StorageError> {
        let (top, inner, name) = of.place();
        let read = || {
            let name = Name::parse(name).map_err(|_| Problem::Os(Errno::EINVAL))?;
            let mut denied = None;
            for number in ListOf::NUMBERS {
                match self.own(top, number, inner).and_then(|dir| text(&dir, name.as_str())) {
                    Ok(text) => return Ok(Some(Note::parse(&text))),
                    Err(Problem::Os(Errno::ENOENT)) => {}
                    Err(problem) if problem.is_denial() => denied = denied.or(Some(problem)),
                    Err(problem) => return Err(problem),
                }
            }
            denied.map_or(Ok(None), Err)
        };
        read().doing("read the note", of.path())
    }

    /// Begins to list a directory; `None` if there is none, or one beside which there may be others is another user's.
    ///
    /// # Errors
    /// If it is a link or no directory, or the file system refuses.
    pub fn entries(&self, of: &ListOf) -> Result<Option<Entries>, StorageError> {
        let listed =
            self.open_list(of).and_then(|dir| Ok(Entries { listing: dir.listing()?, dir, path: of.path() }));
        match listed {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            Err(problem) if problem.is_denial() && *of != ListOf::Root => Ok(None),
            listed => listed.map(Some).doing("list", of.path()),
        }
    }

    /// Tells whether a directory is another user's, so that what it holds cannot be known.
    ///
    /// # Errors
    /// If it is a link or no directory, or the file system refuses for another reason.
    pub fn is_closed(&self, of: &ListOf) -> Result<bool, StorageError> {
        match self.open_list(of).and_then(|dir| dir.listing()) {
            Ok(_) | Err(Problem::Os(Errno::ENOENT)) => Ok(false),
            Err(problem) if problem.is_denial() => Ok(true),
            Err(problem) => Err(problem).doing("look at", of.path()),
        }
    }

    /// Looks at a directory; `None` if there is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn look(&self, directory: &RelPath) -> Result<Option<Seen>, StorageError> {
        let looked = self.volume(directory).and_then(|found| {
            let Some(dir) = found else { return Ok(None) };
            let found = dir.inode().attributes()?;
            Ok(Some(Seen {
                inode: found.inode,
                owners: told(found),
                changed: found.changed.into(),
                modified: found.modified.into(),
            }))
        });
        looked.doing("look at", directory)
    }

    /// Shows others who share the export that a cluster's notes are kept up to date, by the time of their directory.
    ///
    /// # Errors
    /// If it cannot be made, or the file system refuses.
    pub fn show_alive(&self, cluster: &ClusterMark) -> Result<(), StorageError> {
        let shown = || {
            let (_, notes) = make_usable(&self.dir, VOLUME_NOTES, 0)?;
            make_private(&notes, cluster.as_str())?.inode().touch()
        };
        shown().doing("touch", format!("{VOLUME_NOTES}/{cluster}"))
    }

    /// Finds when a cluster has last shown that its notes are kept up to date; `None` if it has none.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn last_alive(&self, cluster: &ClusterMark) -> Result<Option<SystemTime>, StorageError> {
        let mut last = None;
        for number in ListOf::NUMBERS {
            let found = self.own(VOLUME_NOTES, number, Some(cluster.as_str()));
            match found.and_then(|dir| dir.inode().attributes()) {
                Ok(found) => last = last.max(Some(found.modified.into())),
                Err(Problem::Os(Errno::ENOENT)) => {}
                Err(problem) if problem.is_denial() => {}
                Err(problem) => return Err(problem).doing("look at", format!("{VOLUME_NOTES}/{cluster}")),
            }
        }
        Ok(last)
    }

    /// Writes a note into the first directory for it that we can use.
    pub(crate) fn write_note(&self, of: NoteOf<'_>, note: &Note) -> Result<(), Problem> {
        let (top, inner, name) = of.place();
        let name = Name::parse(name).map_err(|_| Problem::Os(Errno::EINVAL))?;
        let json = note.to_json();
        if let Some(notes) = inner.and_then(|inner| self.notes.get(inner)) {
            if notes.write(name.as_str(), json.as_bytes()).is_ok() {
                return Ok(());
            }
            self.notes.clear();
        }
        let mut after = 0;
        loop {
            let (number, mut notes) = make_usable(&self.dir, top, after)?;
            if let Some(inner) = inner {
                // Nearly always it is there, and to make it would be one more call.
                notes = match open_private(&notes, inner) {
                    Err(Problem::Os(Errno::ENOENT)) => make_private(&notes, inner)?,
                    opened => opened?,
                };
            }
            match notes.write(name.as_str(), json.as_bytes()) {
                Ok(()) => {
                    if let Some(inner) = inner {
                        self.notes.put(inner, notes);
                    }
                    return Ok(());
                }
                // An NFS client remembers that it might open the directory as long as that does not change.
                Err(problem) if problem.is_denial() && number < NUMBERED_MAX => after = number,
                Err(problem) => {
                    // Half a note is none. If it stays all the same, nothing is decided by it.
                    let _ = notes.unlink(name.as_str());
                    return Err(problem);
                }
            }
        }
    }

    /// Opens a directory to list it.
    fn open_list(&self, of: &ListOf) -> Result<Dir, Problem> {
        match of {
            ListOf::Root => self.dir.reopen(Access::Read),
            ListOf::Trash(number) => self.own(TRASH, *number, None),
            ListOf::Clusters(number) => self.own(VOLUME_NOTES, *number, None),
            ListOf::Volumes(number, cluster) => self.own(VOLUME_NOTES, *number, Some(cluster.as_str())),
        }
    }

    /// Opens a directory of our own as it is, or the one of this name in it.
    fn own(&self, top: &str, number: u8, inner: Option<&str>) -> Result<Dir, Problem> {
        let access = |is_last| if is_last { Access::Read } else { Access::Pass };
        let dir = self.dir.open(&*numbered(top, number), access(inner.is_none()))?;
        match inner {
            Some(inner) => dir.open(inner, Access::Read),
            None => Ok(dir),
        }
    }
}

impl Entries {
    /// Reads a page: more names, with whether each is a directory; none at the end. Names that are no text have
    /// replacement characters in them.
    ///
    /// # Errors
    /// What the file system says.
    pub fn next_page(&mut self) -> Result<Vec<(String, bool)>, StorageError> {
        let Self { listing, dir, path } = self;
        let page = listing.next(LISTED).doing("list", path)?;
        let read = page.into_iter().map(|(name, kind)| {
            let kind = kind.map_or_else(|| dir.entry(&*name).map(|entry| entry.kind), Ok);
            (name.to_string_lossy().into_owned(), kind == Ok(FileKind::Directory))
        });
        Ok(read.collect())
    }
}

/// Finds the mode and the owners of a directory in `above`, and the number of its inode, as far as they are told.
pub(crate) fn owners(above: &Dir, leaf: &Name) -> Option<(Owners, u64)> {
    above.entry(leaf.as_str()).ok().map(|found| (told(found), found.inode))
}

fn told(Attributes { mode, uid, gid, .. }: Attributes) -> Owners {
    Owners { mode: format!("{mode:04o}").into(), uid, gid }
}

/// Reads the content of a file, no more of it than a note may have and one byte. What is not text any more is replaced.
fn text(dir: &Dir, name: &str) -> Result<String, Problem> {
    let file = dir.open_file(name)?;
    if file.inode().attributes()?.kind != FileKind::File {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&read_whole(&file)?).into_owned())
}

/// Reads a file, up to a byte more than a note may have.
pub(crate) fn read_whole(file: &File) -> Result<Vec<u8>, Problem> {
    let mut block = vec![0; NOTE_MAX + 1];
    let mut read = 0;
    while let Some(rest) = block.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let more = file.read_at(rest, u64::try_from(read).unwrap_or(u64::MAX))?;
        if more == 0 {
            break;
        }
        read += more;
    }
    block.truncate(read);
    Ok(block)
}
