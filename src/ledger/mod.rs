//! The ledger of directories, groups and promised bytes: who has what, of all volumes and of those that are being
//! made.
//!
//! Each question is answered, and the consequence noted, in one step: of two volumes that leave a directory at the
//! same time exactly one is the last, and of many claims at once no more are served than there is room for.
//!
//! Entries that last only as long as a piece of work are guards, which undo themselves when dropped: a
//! [`Reserved`] directory, a [`Promise`], a [`Departure`], a [`Reading`].

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::model::exports::{ExportId, Location};
use crate::values::names::{ClaimUid, VolumeName};
use crate::values::ownership::GidRange;

pub mod generation;
pub mod placements;
pub mod gids;
pub mod sources;

use gids::Gids;
use placements::{Conflict, Neighbour, Placements, Relation};
pub use sources::Judged;
use sources::Sources;

/// The requests of a volume that is about to be made, besides its directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reservation {
    /// Whether the directory may be at, in or above one of another namespace.
    pub across: bool,
    /// The number of bytes to promise to the volume.
    pub bytes: u64,
    /// The number of bytes that all volumes on the export may be promised together.
    pub limit: Option<u128>,
    /// The group that the volume asks for.
    pub gid: GidRequest,
}

/// A request for a group, by a volume that is about to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GidRequest {
    /// The range from which to take a group that no other volume has. If unset, the volume gets the group of the
    /// volumes that share its directory, if they have one.
    pub range: Option<GidRange>,
    /// The group to prefer, because the volume's directory exists already and has it.
    pub there: Option<u32>,
}

/// The group that a volume is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The group's number.
    pub gid: u32,
    /// Whether another volume with the same directory has the same group.
    pub shared: bool,
}

/// Reasons why a volume cannot be made, now or at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveError {
    /// The volume cannot have its directory.
    Directory(Conflict),
    /// The volume asks for a group of its own, but a volume without one has the same directory.
    NoGidThere,
    /// All groups of the range are in use.
    NoGidLeft(GidRange),
    /// The export's capacity is promised to other volumes.
    Promised,
}

impl From<Conflict> for ReserveError {
    fn from(conflict: Conflict) -> Self {
        Self::Directory(conflict)
    }
}

/// An existing volume, as far as others have to respect it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The place of the volume's directory; `None` if it is on none of our exports.
    pub at: Option<&'a Location>,
    /// The namespace of the volume's claim, if it names one.
    pub namespace: Option<&'a str>,
    /// The volume's capacity in bytes.
    pub bytes: u64,
    /// The volume's group, if it has one.
    pub gid: Option<u32>,
}

/// The ledger. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    placements: Placements,
    gids: Gids,
    sources: Sources,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock()
    }

    /// Notes an existing volume, whoever made it.
    pub fn settle(&self, volume: &VolumeName, entry: Entry<'_>) {
        let Books { placements, gids, .. } = &mut *self.books();
        gids.settle(volume, entry.gid);
        match entry.at {
            Some(at) => {
                placements.settle(volume, at, entry.namespace);
                placements.promise(volume, entry.bytes, None);
            }
            None => placements.leave(volume),
        }
    }

    /// Notes that a volume does not exist.
    pub fn forget(&self, volume: &VolumeName) {
        let Books { placements, gids, .. } = &mut *self.books();
        placements.leave(volume);
        gids.leave(volume);
    }

    /// Notes that a neighbour does not exist, unless it was noted again since it was found.
    pub fn forget_neighbour(&self, neighbour: &Neighbour) {
        let Books { placements, gids, .. } = &mut *self.books();
        if placements.leave_as(&neighbour.volume, neighbour.noted) {
            gids.leave(&neighbour.volume);
        }
    }

    /// Begins a list of all volumes.
    pub fn begin_list(&self) {
        let Books { placements, gids, .. } = &mut *self.books();
        placements.begin_list();
        gids.begin_list();
    }

    /// Ends a list of all volumes: volumes that it has not shown do not exist. Returns those of them that were on
    /// our exports. Reservations stay.
    #[must_use]
    pub fn end_list(&self) -> Vec<VolumeName> {
        let Books { placements, gids, .. } = &mut *self.books();
        gids.end_list();
        placements.end_list()
    }

    /// Reserves a directory, bytes and, if one is wanted, a group for a volume that is about to be made for a
    /// claim in `namespace`. Another call for the same volume gives the same; volumes that share a directory share
    /// its group. See [`Placements::reserve`].
    ///
    /// # Errors
    /// Returns what the volume cannot have. Nothing more is reserved then than was before: an earlier reservation of
    /// the same volume, which a directory may have been made for, stays.
    pub fn reserve(
        &self,
        volume: &VolumeName,
        at: &Location,
        namespace: &str,
        wanted: Reservation,
    ) -> Result<Reserved, ReserveError> {
        let mut books = self.books();
        let before = books.placements.before(volume);
        books.placements.reserve(volume, at, namespace, wanted.across)?;
        let promised = books.placements.promise(volume, wanted.bytes, wanted.limit);
        let grant = if promised { books.grant(volume, at, wanted.gid) } else { Err(ReserveError::Promised) };
        if grant.is_err() {
            books.placements.put_back(volume, &before);
            if !before.is_something() {
                books.gids.give_up(volume);
            }
        }
        drop(books);
        Ok(Reserved { ledger: self.clone(), volume: volume.clone(), grant: grant?, is_latest: true })
    }

    /// Notes that a volume that had a directory reserved has been made. Does nothing if the volume is known to be
    /// gone by now.
    pub fn made(&self, volume: &VolumeName) {
        let Books { placements, gids, .. } = &mut *self.books();
        placements.made(volume);
        gids.made(volume);
    }

    /// Promises `bytes` to a volume that is about to grow from the capacity `before`. Returns `None`, and changes
    /// nothing, if all volumes on its export would then be promised more than `limit`.
    #[must_use]
    pub fn promise(&self, volume: &VolumeName, before: u64, bytes: u64, limit: Option<u128>) -> Option<Promise> {
        let promised = self.books().placements.promise(volume, bytes, limit);
        promised.then(|| Promise { ledger: self.clone(), volume: volume.clone(), before, is_kept: false })
    }

    /// Begins the departure of a volume, which tells whether the volume may take its directory with it. Returns
    /// `None`, and changes nothing, while the directory is being copied, or is to be. See [`Placements::depart`].
    #[must_use]
    pub fn depart(&self, volume: &VolumeName, at: &Location) -> Option<Departure> {
        let mut books = self.books();
        if books.placements.is_read(at) || books.sources.is_source(volume) {
            return None;
        }
        let neighbours = books.placements.depart(volume, at);
        drop(books);
        Some(Departure { ledger: self.clone(), volume: volume.clone(), neighbours, is_complete: false })
    }

    /// Begins to read a directory that is to be copied, so that it is not moved away. Returns `None` if it is
    /// being moved already.
    #[must_use]
    pub fn read(&self, at: &Location) -> Option<Reading> {
        let is_free = self.books().placements.begin_reading(at);
        is_free.then(|| Reading { ledger: self.clone(), at: at.clone() })
    }

    /// Tells whether another volume has this very directory, or is being given it.
    #[must_use]
    pub fn is_shared(&self, volume: &VolumeName, at: &Location) -> bool {
        !self.books().placements.sharers(volume, at).is_empty()
    }

    /// Notes that a claim is to be a copy of a volume, which stays with its directory until the claim is judged
    /// otherwise or forgotten. Returns `false`, and notes nothing, if the directory is being moved away.
    #[must_use]
    pub fn keep_for(&self, claim: &ClaimUid, volume: &VolumeName, uid: &str, at: &Location) -> bool {
        let mut books = self.books();
        let is_free = !books.placements.is_moving(at);
        if is_free {
            books.sources.judge(claim, Judged::CopyOf { volume: volume.clone(), uid: uid.into() });
        }
        is_free
    }

    /// Notes that a claim is not to be a copy of anything, as it is. Returns the volume that was kept for it.
    #[must_use]
    pub fn keep_none_for(&self, claim: &ClaimUid) -> Option<VolumeName> {
        self.books().sources.judge(claim, Judged::NoCopy)
    }

    /// Forgets what was found out about the source of a claim. Returns the volume that was kept for it.
    #[must_use]
    pub fn forget_source_of(&self, claim: &ClaimUid) -> Option<VolumeName> {
        self.books().sources.forget(claim)
    }

    /// Forgets which claims are not to be copies of anything.
    pub fn forget_refused_copies(&self) {
        self.books().sources.forget_refused();
    }

    /// Returns what was found out about the source of a claim.
    #[must_use]
    pub fn judged(&self, claim: &ClaimUid) -> Option<Judged> {
        self.books().sources.of(claim).cloned()
    }

    /// Tells whether a volume of another namespace, or of none, has the same directory, one above or one in it.
    #[must_use]
    pub fn is_shared_abroad(&self, volume: &VolumeName, at: &Location, namespace: &str) -> bool {
        self.books().placements.is_shared_abroad(volume, at, namespace)
    }

    /// Tells whether no other volume has the same directory, one above or one in it.
    #[must_use]
    pub fn is_alone(&self, volume: &VolumeName, at: &Location) -> bool {
        self.books().placements.is_alone(volume, at)
    }

    /// Returns the other volumes that have this very directory.
    #[must_use]
    pub fn sharers(&self, volume: &VolumeName, at: &Location) -> Vec<VolumeName> {
        self.books().placements.sharers(volume, at)
    }

    /// Tells whether a volume is known to exist on one of our exports.
    #[must_use]
    pub fn exists(&self, volume: &VolumeName) -> bool {
        self.books().placements.exists(volume)
    }

    /// Returns the number of the latest note of a volume.
    #[must_use]
    pub fn latest(&self) -> u32 {
        self.books().placements.latest()
    }

    /// Tells whether a volume is known to exist on one of our exports, and was noted after the note of this number.
    #[must_use]
    pub fn exists_since(&self, volume: &VolumeName, note: u32) -> bool {
        self.books().placements.exists_since(volume, note)
    }

    /// Returns how many bytes all volumes on an export except `but` have been promised together.
    #[must_use]
    pub fn promised(&self, export: ExportId, but: &VolumeName) -> u128 {
        self.books().placements.promised(export, but)
    }

    /// Tells whether `path` on an export is a volume's directory, or else whether a volume's directory lies in it.
    #[must_use]
    pub fn at_or_beneath(&self, export: ExportId, path: &str) -> Option<Relation> {
        self.books().placements.at_or_beneath(export, path)
    }

    /// Returns the volume on an export that comes next after `position` in the order of directories, and the
    /// volume's own position.
    #[must_use]
    pub fn next(&self, export: ExportId, position: Option<&str>) -> Option<(VolumeName, Arc<str>)> {
        self.books().placements.next(export, position)
    }

    /// Returns a random position to begin at.
    #[must_use]
    pub fn somewhere(&self, export: ExportId) -> Option<Arc<str>> {
        self.books().placements.somewhere(export)
    }
}

impl Books {
    /// Finds the group for a volume that has just been given a directory.
    fn grant(
        &mut self,
        volume: &VolumeName,
        at: &Location,
        wanted: GidRequest,
    ) -> Result<Option<Grant>, ReserveError> {
        let sharers = self.placements.sharers(volume, at);
        let shared = sharers.iter().find_map(|other| self.gids.of(other));
        let own = self.gids.of(volume).filter(|_| self.gids.exists(volume));
        match (own.or(shared), wanted.range) {
            (Some(gid), _) => {
                if own.is_none() {
                    self.gids.share(volume, gid);
                }
                Ok(Some(Grant { gid, shared: shared.is_some() }))
            }
            (None, None) => {
                self.gids.give_up(volume);
                Ok(None)
            }
            (None, Some(_)) if !sharers.is_empty() => Err(ReserveError::NoGidThere),
            (None, Some(range)) => {
                let gid = self.gids.give(volume, range, wanted.there).ok_or(ReserveError::NoGidLeft(range))?;
                Ok(Some(Grant { gid, shared: false }))
            }
        }
    }

    fn give_up(&mut self, volume: &VolumeName) {
        self.placements.give_up(volume);
        self.gids.give_up(volume);
    }
}

/// A directory that is reserved for a volume about to be made. It is given up if the guard is dropped before the
/// volume is made.
#[derive(Debug)]
#[must_use]
pub struct Reserved {
    ledger: Ledger,
    volume: VolumeName,
    grant: Option<Grant>,
    is_latest: bool,
}

impl Reserved {
    /// Returns the group that the volume gets, if it gets one.
    #[must_use]
    pub fn grant(&self) -> Option<Grant> {
        self.grant
    }

    /// Ends this reservation without giving anything up, because a later reservation of the same volume takes
    /// over.
    pub fn hand_over(mut self) {
        self.is_latest = false;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.is_latest {
            self.ledger.books().give_up(&self.volume);
        }
    }
}

/// A promise of more bytes to a volume that is about to grow. If the guard is dropped before [`Promise::keep`],
/// the volume has what it had before; should the volume have grown all the same, the watch will show it.
#[derive(Debug)]
#[must_use]
pub struct Promise {
    ledger: Ledger,
    volume: VolumeName,
    before: u64,
    is_kept: bool,
}

impl Promise {
    /// Notes that the volume has grown.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.is_kept {
            self.ledger.books().placements.promise(&self.volume, self.before, None);
        }
    }
}

/// A volume that is leaving, and so has no say in what becomes of its directory. If the guard is dropped before
/// [`Departure::complete`], the volume stays.
#[derive(Debug)]
#[must_use]
pub struct Departure {
    ledger: Ledger,
    volume: VolumeName,
    neighbours: Vec<Neighbour>,
    is_complete: bool,
}

impl Departure {
    /// Returns the volumes that have a part in the directory, and so keep it where it is. If there are none, the
    /// leaving volume may move the directory, and no claim is given it until [`Departure::moved`].
    #[must_use]
    pub fn neighbours(&self) -> &[Neighbour] {
        &self.neighbours
    }

    /// Tells whether the volume may take its directory with it.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.neighbours.is_empty()
    }

    /// Notes that the directory has been dealt with.
    pub fn moved(&self) {
        self.ledger.books().placements.moved(&self.volume);
    }

    /// Ends the departure for good: the volume has been deleted.
    pub fn complete(mut self) {
        self.is_complete = true;
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if !self.is_complete {
            self.ledger.books().placements.stay(&self.volume);
        }
    }
}

/// A directory that is being read, and is not moved away until the guard is dropped.
#[derive(Debug)]
#[must_use]
pub struct Reading {
    ledger: Ledger,
    at: Location,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.ledger.books().placements.end_reading(&self.at);
    }
}

#[cfg(test)]
mod tests;
