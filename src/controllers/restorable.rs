//! Which archives, and which kept entries of the trash, are noted as a claim's.
//!
//! Only its note tells whose an entry is, so each has to be read once. A claim then costs a list of names: of each entry
//! no more is remembered than two numbers, because there may be a million.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::controllers::batch::Batch;
use crate::export::Export;
use crate::layout::{ClusterMark, Note, RootEntry, TrashName, classify};
use crate::model::exports::{ExportId, PerExport};
use crate::storage::{Errno, FoundNote, ListOf, Problem, Storage, StorageError};
use crate::values::names::ClaimRef;
use crate::values::time::seconds_now;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;

/// How many notes are read at a time.
const READS_MAX: usize = 8;

/// The number of what nobody gets back by its claim.
const NOBODYS: u64 = 0;

/// The names of entries.
type Names = Vec<Box<str>>;

/// Of each entry by its export and its name, as a number: the claim, as a number, and the list that last showed the entry.
type Read = HashMap<(ExportId, u64), (u64, u32)>;

/// The entries whose notes have been read. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Restorable {
    read: Arc<Mutex<Read>>,
    /// Nobody who names directories can know which numbers meet.
    numbers: RandomState,
}

impl Restorable {
    /// Forgets what is known of an entry, because another one may have its name now.
    pub fn forget(&self, export: ExportId, name: &str) {
        self.read.lock().remove(&(export, self.numbers.hash_one(name)));
    }

    /// Forgets all: others may have put anything there.
    pub fn forget_all(&self) {
        self.read.lock().clear();
    }

    fn number(&self, namespace: &str, claim: &str) -> u64 {
        self.numbers.hash_one((namespace, claim)).max(NOBODYS + 1)
    }

    fn number_of(&self, note: Option<&FoundNote>) -> u64 {
        match note {
            Some(Ok(Note { namespace: Some(namespace), claim: Some(claim), .. })) => self.number(namespace, claim),
            _ => NOBODYS,
        }
    }
}

/// Finds the entries that are noted as a claim's.
#[derive(Debug)]
pub(super) struct Finder {
    exports: PerExport<Export>,
    restorable: Restorable,
    /// The lists of each export, for claims as numbers.
    lists: PerExport<Batch<u64, Result<Names, StorageError>>>,
    /// How many lists there were.
    count: AtomicU32,
}

impl Finder {
    /// Makes one for these exports.
    pub(super) fn new(exports: PerExport<Export>, restorable: Restorable) -> Self {
        let lists = exports.map(|_| Batch::default());
        Self { exports, restorable, lists, count: AtomicU32::new(0) }
    }

    /// Returns the names of the entries on an export whose notes say that they are of a claim of this namespace and name,
    /// or seem to: each is to be read before it is used. All that was there at the time of the call is among them. Those
    /// who ask while an export is being listed share the next list.
    ///
    /// # Errors
    /// If the export cannot be listed, or a note not be read.
    pub(super) async fn names(
        &self,
        id: ExportId,
        claim: &ClaimRef,
        mark: &ClusterMark,
    ) -> Result<Names, StorageError> {
        let number = self.restorable.number(&claim.namespace, &claim.name);
        // An error is an answer, too: an export that fails is not listed once more for each who waits.
        let run = async |numbers: Vec<u64>| {
            let count = numbers.len();
            Ok::<_, Infallible>(match self.list(id, mark, numbers).await {
                Ok(names) => names.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); count],
            })
        };
        match self.lists.get(id).ask(number, run).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }

    /// Lists an export, and returns the names of the entries of each claim.
    async fn list(&self, id: ExportId, mark: &ClusterMark, numbers: Vec<u64>) -> Result<Vec<Names>, StorageError> {
        let list = self.count.fetch_add(1, Ordering::Relaxed);
        let mut found: HashMap<u64, Names> = numbers.iter().map(|number| (*number, Vec::new())).collect();
        let storage = &self.exports.get(id).storage;
        for of in ListOf::NUMBERS.map(ListOf::Trash).chain([ListOf::Root]) {
            let Some(mut entries) = storage.entries(&of).await? else { continue };
            loop {
                let (rest, page) = storage.page(entries).await?;
                if page.is_empty() {
                    break;
                }
                entries = rest;
                let reading = stream::iter(page).map(|(name, _)| self.read(id, &of, name, mark, list));
                let mut reading = reading.buffer_unordered(READS_MAX);
                while let Some((name, number)) = reading.try_next().await? {
                    if let Some(names) = found.get_mut(&number) {
                        names.push(name);
                    }
                }
            }
        }
        self.restorable.read.lock().retain(|(export, _), (_, seen)| *export != id || *seen == list);
        Ok(numbers.iter().map(|number| found.get(number).cloned().unwrap_or_default()).collect())
    }

    /// Finds the number of the claim that an entry is noted as.
    async fn read(
        &self,
        id: ExportId,
        of: &ListOf,
        name: String,
        mark: &ClusterMark,
        list: u32,
    ) -> Result<(Box<str>, u64), StorageError> {
        let storage = &self.exports.get(id).storage;
        let trash = if *of == ListOf::Root { TrashName::at_root(&name) } else { name.parse().ok() };
        let is_archive = *of == ListOf::Root && classify(&name) == RootEntry::Archive;
        let is_kept = trash.as_ref().is_some_and(|trash| trash.keep().is_some() && !trash.is_due(seconds_now()));
        if !is_archive && !is_kept {
            return Ok((name.into(), NOBODYS));
        }
        let Restorable { read, numbers } = &self.restorable;
        let key = (id, numbers.hash_one(&*name));
        if let Some((number, seen)) = read.lock().get_mut(&key) {
            *seen = list;
            return Ok((name.into(), *number));
        }
        let found = note(storage, mark, &name, trash.as_ref()).await;
        // One that could not be read may be soon. An archive without one gets none: that is written first.
        let is_certain = match &found {
            Ok(None) => is_archive,
            found => matches!(found, Ok(Some(Ok(_)))),
        };
        let number = self.restorable.number_of(read_note(found)?.as_ref());
        if is_certain {
            read.lock().insert(key, (number, list));
        }
        Ok((name.into(), number))
    }
}

/// Reads the note of an entry.
///
/// # Errors
/// Those of reading a note.
pub(super) async fn note(
    storage: &Storage,
    mark: &ClusterMark,
    archive: &str,
    trash: Option<&TrashName>,
) -> Result<Option<FoundNote>, StorageError> {
    match trash {
        Some(trash) => storage.note_of_volume(mark, trash.volume()).await,
        None => storage.note_of_archive(archive).await,
    }
}

/// Takes a note that we may not read, or something else in its place, for none.
///
/// # Errors
/// If the note may be readable soon.
pub(super) fn read_note(
    found: Result<Option<FoundNote>, StorageError>,
) -> Result<Option<FoundNote>, StorageError> {
    use Errno::{EACCES, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, EPERM};
    match found {
        Err(StorageError {
            problem: Problem::Os(EACCES | EINVAL | EISDIR | ELOOP | ENOENT | ENOTDIR | EPERM),
            ..
        }) => Ok(None),
        found => found,
    }
}
