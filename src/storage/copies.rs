//! The calls that make copies: in a place of their own first, from where they are put to their directories.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::layout::TrashName;
use crate::layout::staging::Maker;
use crate::storage::dir::Dir;
use crate::storage::entry::Access;
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::handle::Storage;
use crate::storage::ops::complete::Complete;
use crate::storage::ops::copy_file::Progress;
use crate::storage::ops::copy_tree::{self, TreeCopy};
use crate::storage::ops::create::Created;
use crate::storage::ops::stage::{Source, Staged, place_of};
use crate::storage::root::Root;
use crate::values::ownership::Ownership;
use crate::values::path::RelPath;

/// How often a copy that is being made is shown to be.
const TOUCH: Duration = Duration::from_mins(1);

/// What a copy is made for, and what it is to be.
#[derive(Debug, Clone, Copy)]
pub struct CopyTo<'a> {
    /// The volume that the copy is for: the copy is made in a place of this name.
    pub volume: &'a str,
    /// The directory to which the copy is to go.
    pub directory: &'a RelPath,
    /// Whose the copy's own directory is to be, where not as the source.
    pub top: Ownership,
    /// A group that becomes another one.
    pub group: Option<(u32, u32)>,
    /// The time in seconds since 1970.
    pub now: u64,
}

impl Storage {
    /// Opens a volume's directory, to be copied; `None` if there is none.
    ///
    /// # Errors
    /// If a component is a link or no directory, the file system refuses, or the export cannot be used.
    pub async fn open_source(&self, directory: &RelPath) -> Result<Option<Source>, StorageError> {
        let directory = directory.clone();
        self.pool.call("open", move |root| root.open_source(&directory)).await
    }

    /// Copies all that is in a directory, perhaps of another export, into a place of its own on this one, from
    /// where [`Storage::place`] puts it to its directory. What was left there by an earlier attempt goes into the
    /// trash.
    ///
    /// Ends soon after `progress` is stopped, or whoever waits for it goes away, but for the one call in each
    /// thread that the server has not answered. Pauses while nothing may be changed, for [`COPY_PAUSE_MAX`] at most.
    /// Cut anywhere it leaves what [`Storage::unstage`] and the next copy take away. As long as it goes on, others see
    /// that it does ([`Storage::staged`]).
    ///
    /// # Errors
    /// `ENOENT` if the source does not lie where it was opened any more. What could not be copied, and why;
    /// [`Problem::NotLeading`] if it was stopped; and if the export cannot be used.
    pub async fn copy(
        &self,
        source: Source,
        job: CopyTo<'_>,
        progress: &Progress,
    ) -> Result<Complete, StorageError> {
        let CopyTo { volume: volume_name, directory, top, group, now } = job;
        let (paths, volume) = (vec![directory.clone(), place_of(volume_name)?], volume_name.to_owned());
        let maker = Maker { owners: (self.owners.0)() };
        let stage = self.change_all("stage", paths, move |root| root.stage(&volume, &maker, now)).await?;
        let directory = directory.clone();
        let copy = move |workers, goes_on: &(dyn Fn() -> bool + Sync), progress: &Progress| {
            let failed = |path, problem| StorageError { doing: "copy", path, problem };
            let own = |problem| failed(".".to_owned(), problem);
            let open = |dir: &Dir| dir.reopen(Access::Read).map_err(own);
            let order = TreeCopy {
                source: open(&source.dir)?,
                target: open(&stage.copy)?,
                links: &stage.links,
                top,
                group,
                workers,
                progress,
                goes_on,
            };
            copy_tree::copy(order).map_err(|(path, problem)| failed(path, problem))?;
            // What was moved or removed meanwhile may have been copied in part, and be nobody's to copy any more.
            if !source.is_in_place().map_err(own)? {
                return Err(own(Problem::Os(Errno::ENOENT)));
            }
            if !goes_on() {
                return Err(own(Problem::NotLeading));
            }
            stage.complete(&directory).doing("complete the copy for", &directory)
        };
        let copied = self.pool.copy(&self.fence, progress, copy);
        // The place has just been made, which shows it for the first minute.
        let touched = async {
            sleep(TOUCH).await;
            self.touch_forever(volume_name).await
        };
        tokio::select! {
            copied = copied => copied,
            never = touched => match never {},
        }
    }

    /// Shows others who share the export that a volume's copy is being made, or waits to be placed, for ever.
    pub async fn touch_forever(&self, volume: &str) -> Infallible {
        loop {
            // What is wrong with the export, the copy itself says. It is tried again.
            let _ = self.touch(volume).await;
            sleep(TOUCH).await;
        }
    }

    /// Shows others once, as [`Storage::touch_forever`] does.
    ///
    /// # Errors
    /// If there is no such copy, the file system refuses, or the export cannot be used.
    pub async fn touch(&self, volume: &str) -> Result<(), StorageError> {
        let (volume, fence) = (volume.to_owned(), self.fence.clone());
        let touch = move |root: &Root| if fence.lets_pass() { root.touch(&volume) } else { Ok(()) };
        self.pool.call("touch", touch).await
    }

    /// Lists the places of all copies; see [`Root::staged`].
    ///
    /// # Errors
    /// Those of [`Root::staged`], and if the export cannot be used.
    pub async fn staged(&self) -> Result<Vec<Staged>, StorageError> {
        self.pool.call("list", Root::staged).await
    }

    /// Tells whether a copy that is being made, or was left, is this handle's own; see [`Storage::owned_by`].
    #[must_use]
    pub fn is_own(&self, staged: &Staged) -> bool {
        staged.maker.as_ref().is_some_and(|maker| maker.is_one_of(&(self.owners.0)()))
    }

    /// Renames a volume's copy, which is complete, to its directory, and makes those above it. An empty directory
    /// that is there is replaced if `onto_empty`. A copy that is there already is left, which is success: an answer may
    /// have been lost.
    ///
    /// Cut before the rename it leaves a copy that can be placed by another call; after it, a directory that is known
    /// by [`Storage::is_placed`].
    ///
    /// # Errors
    /// If the copy is not complete, or not in the place any more in which it was made; if there is a directory already
    /// that is not to be replaced, a component is a link or no directory, the file system refuses, or the export cannot
    /// be used.
    pub async fn place(
        &self,
        volume: &str,
        complete: Complete,
        directory: &RelPath,
        onto_empty: bool,
    ) -> Result<Created, StorageError> {
        let (paths, volume) = (vec![directory.clone(), place_of(volume)?], volume.to_owned());
        let (directory, fence) = (directory.clone(), self.fence.clone());
        let place = move |root: &Root| {
            // One that was put there by a call without an answer is found by the call that follows.
            if root.is_staged(&volume, complete)? || root.is_placed(&volume, &directory)? {
                return root.place(&|| fence.check(), &volume, &directory, onto_empty);
            }
            Err(Problem::Os(Errno::ESTALE)).doing("place the copy at", directory)
        };
        self.change_all("place", paths, place).await
    }

    /// Makes sure that a copy could be put to its directory as things are; see [`Root::is_vacant`].
    ///
    /// # Errors
    /// Those of [`Root::is_vacant`], and if the export cannot be used.
    pub async fn is_vacant(&self, directory: &RelPath, onto_empty: bool) -> Result<(), StorageError> {
        let directory = directory.clone();
        self.pool.call("look", move |root| root.is_vacant(&directory, onto_empty)).await
    }

    /// Tells whether a volume's copy is still in the place in which it was made; see [`Root::is_staged`].
    ///
    /// # Errors
    /// Those of [`Root::is_staged`], and if the export cannot be used.
    pub async fn is_staged(&self, volume: &str, complete: Complete) -> Result<bool, StorageError> {
        let volume = volume.to_owned();
        self.pool.call("look", move |root| root.is_staged(&volume, complete)).await
    }

    /// Tells whether a volume's directory is the copy that was made for it.
    ///
    /// # Errors
    /// If the file system refuses, or the export cannot be used.
    pub async fn is_placed(&self, volume: &str, directory: &RelPath) -> Result<bool, StorageError> {
        let (volume, directory) = (volume.to_owned(), directory.clone());
        self.pool.call("look", move |root| root.is_placed(&volume, &directory)).await
    }

    /// Puts what is left in the place of a volume's copy into the trash, if there is such a place.
    ///
    /// # Errors
    /// Those of [`Storage::trash`].
    pub async fn unstage(&self, volume: &str, now: u64) -> Result<Option<TrashName>, StorageError> {
        let (place, volume) = (place_of(volume)?, volume.to_owned());
        self.change("unstage", &place, move |root, _| root.unstage(&volume, now)).await
    }
}
