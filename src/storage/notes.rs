//! Notes and listings, for asynchronous callers.

use std::time::SystemTime;

use crate::layout::{ClusterMark, Note, TrashName};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::handle::Storage;
use crate::storage::ops::notes::{Entries, FoundNote, ListOf, NoteOf, Seen};
use crate::storage::root::Root;
use crate::values::path::RelPath;

impl Storage {
    /// Writes the note of a volume; see [`Root::record`].
    ///
    /// # Errors
    /// Those of [`Root::record`], [`Problem::NotLeading`](crate::storage::Problem::NotLeading) if this process does not
    /// lead, and if the export cannot be used.
    pub async fn record(&self, cluster: &ClusterMark, note: Note) -> Result<(), StorageError> {
        let cluster = cluster.clone();
        self.fenced("record", move |root| root.record(&cluster, &note.volume, &note)).await
    }

    /// Removes the note of a volume; see [`Root::forget`].
    ///
    /// # Errors
    /// Those of [`Root::forget`], and of [`Storage::record`].
    pub async fn forget(&self, cluster: &ClusterMark, volume: &str) -> Result<(), StorageError> {
        let (cluster, volume) = (cluster.clone(), volume.to_owned());
        self.fenced("forget", move |root| root.forget(&cluster, &volume)).await
    }

    /// Shows that a cluster's notes are kept up to date; see [`Root::show_alive`].
    ///
    /// # Errors
    /// Those of [`Root::show_alive`], and of [`Storage::record`].
    pub async fn show_alive(&self, cluster: &ClusterMark) -> Result<(), StorageError> {
        let cluster = cluster.clone();
        self.fenced("touch", move |root| root.show_alive(&cluster)).await
    }

    /// Finds when a cluster's notes were last kept up to date; see [`Root::last_alive`].
    ///
    /// # Errors
    /// Those of [`Root::last_alive`], and if the export cannot be used.
    pub async fn last_alive(&self, cluster: &ClusterMark) -> Result<Option<SystemTime>, StorageError> {
        let cluster = cluster.clone();
        self.pool.call("look", move |root| root.last_alive(&cluster)).await
    }

    /// Reads the note of a volume; see [`Root::note`].
    ///
    /// # Errors
    /// Those of [`Root::note`], and if the export cannot be used.
    pub async fn note_of_volume(
        &self,
        cluster: &ClusterMark,
        volume: &str,
    ) -> Result<Option<FoundNote>, StorageError> {
        let (cluster, volume) = (cluster.clone(), volume.to_owned());
        self.pool.call("read", move |root| root.note(NoteOf::Volume(&cluster, &volume))).await
    }

    /// Reads the note of an archive; see [`Root::note`].
    ///
    /// # Errors
    /// Those of [`Root::note`], and if the export cannot be used.
    pub async fn note_of_archive(&self, archive: &str) -> Result<Option<FoundNote>, StorageError> {
        let archive = archive.to_owned();
        self.pool.call("read", move |root| root.note(NoteOf::Archive(&archive))).await
    }

    /// Begins to list a directory; see [`Root::entries`].
    ///
    /// # Errors
    /// Those of [`Root::entries`], and if the export cannot be used.
    pub async fn entries(&self, of: &ListOf) -> Result<Option<Entries>, StorageError> {
        let of = of.clone();
        self.pool.call("list", move |root| root.entries(&of)).await
    }

    /// Passes the name of each entry of a directory to `take`, with whether it is a directory. None of one that is not
    /// there, or is another user's.
    ///
    /// # Errors
    /// Those of [`Storage::entries`] and [`Storage::page`].
    pub async fn each_entry(&self, of: &ListOf, mut take: impl FnMut(String, bool)) -> Result<(), StorageError> {
        let Some(mut entries) = self.entries(of).await? else { return Ok(()) };
        loop {
            let (rest, page) = self.page(entries).await?;
            if page.is_empty() {
                return Ok(());
            }
            for (name, is_directory) in page {
                take(name, is_directory);
            }
            entries = rest;
        }
    }

    /// Tells whether a directory is another user's; see [`Root::is_closed`].
    ///
    /// # Errors
    /// Those of [`Root::is_closed`], and if the export cannot be used.
    pub async fn is_closed(&self, of: &ListOf) -> Result<bool, StorageError> {
        let of = of.clone();
        self.pool.call("look", move |root| root.is_closed(&of)).await
    }

    /// Reads the next page of a listing; see [`Entries::next_page`].
    ///
    /// # Errors
    /// Those of [`Entries::next_page`], and if the export cannot be used.
    pub async fn page(&self, mut entries: Entries) -> Result<(Entries, Vec<(String, bool)>), StorageError> {
        let next = move |_: &Root| {
            let page = entries.next_page()?;
            Ok((entries, page))
        };
        self.pool.call("list", next).await
    }

    /// Looks at a directory; see [`Root::look`].
    ///
    /// # Errors
    /// Those of [`Root::look`], and if the export cannot be used.
    pub async fn look(&self, directory: &RelPath) -> Result<Option<Seen>, StorageError> {
        let directory = directory.clone();
        self.pool.call("look", move |root| root.look(&directory)).await
    }

    /// Renames a directory to a path at which nothing is; see [`Root::bring_back`].
    ///
    /// # Errors
    /// Those of [`Root::bring_back`], and of [`Storage::record`].
    pub async fn bring_back(&self, from: &RelPath, to: &RelPath) -> Result<bool, StorageError> {
        let (paths, fence) = (vec![from.clone(), to.clone()], self.fence.clone());
        let (from, to) = (from.clone(), to.clone());
        let bring_back = move |root: &Root| root.bring_back_if(&|| fence.check(), &from, &to);
        self.change_all("bring back", paths, bring_back).await
    }

    /// Renames a kept entry of the trash so that it is not kept any more, and returns its new name; `None` if there is no
    /// such entry.
    ///
    /// # Errors
    /// Those of [`Root::bring_back`], and of [`Storage::record`].
    pub async fn release(&self, name: &TrashName) -> Result<Option<TrashName>, StorageError> {
        let path = |name: &TrashName| {
            RelPath::parse(&name.path()).map_err(|_| Problem::Os(Errno::EINVAL)).doing("release", name)
        };
        let released = name.released();
        let is_there = self.bring_back(&path(name)?, &path(&released)?).await?;
        Ok(is_there.then_some(released))
    }

    /// Removes the note of an archive. None there is success.
    ///
    /// # Errors
    /// Those of [`Root::forget`], and of [`Storage::record`].
    pub async fn forget_archive(&self, archive: &str) -> Result<(), StorageError> {
        let archive = archive.to_owned();
        let forget = move |root: &Root| {
            let of = NoteOf::Archive(&archive);
            root.remove_note(of).doing("remove the note of", &archive)
        };
        self.fenced("forget", forget).await
    }

    /// Removes the note of an archive that is not there any more, if it is still this note.
    ///
    /// # Errors
    /// Those of [`Root::forget`], and of [`Storage::record`].
    pub async fn forget_archive_of(&self, archive: &RelPath, note: &Note) -> Result<(), StorageError> {
        let (paths, archive, note) = (vec![archive.clone()], archive.clone(), note.clone());
        let forget = move |root: &Root| {
            let of = NoteOf::Archive(archive.as_str());
            if root.look(&archive)?.is_none() && root.note(of)? == Some(Ok(note)) {
                root.remove_note(of).doing("remove the note of", &archive)?;
            }
            Ok(())
        };
        // Nobody makes another one of that name meanwhile.
        self.change_all("forget", paths, forget).await
    }

    /// Runs a call that changes nothing but notes, if this process may. Not among the changes that must not be carried
    /// out later: a note does no harm, whenever it is written.
    async fn fenced<T: Send + 'static>(
        &self,
        doing: &'static str,
        call: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let fence = self.fence.clone();
        let fenced = move |root: &Root| {
            fence.check().doing(doing, ".")?;
            call(root)
        };
        self.pool.call(doing, fenced).await
    }
}
