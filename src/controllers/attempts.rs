//! Work begun for claims whose volumes do not exist yet. Kept here and nowhere else.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controllers::copies::{Copy, CopyFailure, CopyJob, CopyState};
use crate::decide::copy::CopySource;
use crate::decide::restore::Entry;
use crate::ledger::Reserved;
use crate::model::exports::{ExportId, Location};
use crate::storage::Created;
use crate::values::names::{ClaimRef, ClaimUid};

/// The progress of a claim's directory.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// The directory is reserved; as far as this process knows, nothing of it is on the export.
    Reserved,
    /// The directory was made, or existed before.
    Made(Created),
    /// What the claim gets back is at its path.
    Restored(Box<Entry>),
    /// A copy was ordered, and is being made or has ended one way or the other.
    Copying(Copy),
    /// A copy has failed, and is made again.
    Failed(Arc<Failure>),
    /// The volume was created; the claim only has to be bound to it.
    VolumeCreated,
}

/// A copy that has failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The order.
    pub(super) job: CopyJob,
    /// How the copy has failed.
    pub(super) copy: CopyFailure,
    /// When that was.
    pub(super) at: Instant,
}

/// The leftovers of an attempt on the export.
#[derive(Debug, Clone)]
pub(super) enum Left {
    /// Nothing is left.
    Nothing,
    /// A directory.
    Directory(Created),
    /// What was archived or deleted.
    Restored(Box<Entry>),
    /// A copy that is not in its place yet.
    Unplaced(Copy),
    /// A complete copy that is still where it was made.
    Staged,
    /// A copy in its place.
    Placed(Created),
}

impl Stage {
    /// Returns what is left on the export if the attempt ends here.
    pub(super) fn left(&self) -> Left {
        match self {
            Self::Reserved | Self::VolumeCreated => Left::Nothing,
            Self::Made(created) => Left::Directory(*created),
            Self::Restored(entry) => Left::Restored(entry.clone()),
            Self::Copying(copy) => match copy.state() {
                CopyState::Waiting | CopyState::Running => Left::Unplaced(copy.clone()),
                CopyState::Ended(Ok(created)) => Left::Placed(created),
                CopyState::Ended(Err(failure)) => left_by(&failure),
            },
            Self::Failed(failure) => left_by(&failure.copy),
        }
    }
}

/// Returns what a failed copy has left. The remains of one that was not complete have been removed.
fn left_by(failure: &CopyFailure) -> Left {
    if failure.complete.is_some() { Left::Staged } else { Left::Nothing }
}

#[derive(Debug)]
struct Attempt {
    at: Location,
    /// The source of the copy, if the claim is to be one.
    source: Option<CopySource>,
    stage: Stage,
    /// How many copies have failed in a row.
    failed_copies: u32,
    /// The reservation, which is given up when it is dropped.
    reserved: Reserved,
}

/// The attempts under way, at most one for each claim.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<ClaimUid, Attempt>>);

impl Attempts {
    /// Tells whether an attempt is under way for a claim.
    pub(super) fn contains(&self, claim: &ClaimUid) -> bool {
        self.0.lock().contains_key(claim)
    }

    /// Tells whether this process has created a claim's volume.
    pub(super) fn has_volume(&self, claim: &ClaimUid) -> bool {
        let attempts = self.0.lock();
        attempts.get(claim).is_some_and(|attempt| matches!(attempt.stage, Stage::VolumeCreated))
    }

    /// Returns where a claim's directory goes and how far it has come.
    pub(super) fn get(&self, claim: &ClaimUid) -> Option<(Location, Stage)> {
        self.0.lock().get(claim).map(|attempt| (attempt.at.clone(), attempt.stage.clone()))
    }

    /// Returns the export on which a claim's directory was begun, and has to be finished.
    pub(super) fn export(&self, claim: &ClaimUid) -> Option<ExportId> {
        self.get(claim).and_then(|(at, stage)| match stage {
            Stage::Made(_) | Stage::Restored(_) | Stage::Copying(_) => Some(at.export),
            // A copy that found no room, say, may be made elsewhere.
            Stage::Failed(failure) => failure.copy.complete.map(|_| at.export),
            Stage::Reserved | Stage::VolumeCreated => None,
        })
    }

    /// Tells whether something was brought back for this claim, as far as this process knows.
    pub(super) fn is_restored(&self, claim: &ClaimUid) -> bool {
        let attempts = self.0.lock();
        attempts.get(claim).is_some_and(|attempt| matches!(attempt.stage, Stage::Restored(_)))
    }

    /// Tells whether something was brought back for an earlier claim of this name, and is not put away again yet.
    pub(super) fn is_restored_for_earlier(&self, claim: &ClaimRef) -> bool {
        let is_it = |attempt: &Attempt| match &attempt.stage {
            Stage::Restored(entry) => {
                let name = |claim: &ClaimRef| (claim.namespace.clone(), claim.name.clone());
                name(&entry.claim) == name(claim) && entry.claim.uid != claim.uid
            }
            Stage::Reserved | Stage::Made(_) | Stage::Copying(_) | Stage::Failed(_) | Stage::VolumeCreated => {
                false
            }
        };
        self.0.lock().values().any(is_it)
    }

    /// Returns the source of a claim's copy, once the copy was ordered.
    pub(super) fn source(&self, claim: &ClaimUid) -> Option<CopySource> {
        let attempts = self.0.lock();
        let is_ordered = |attempt: &&Attempt| matches!(attempt.stage, Stage::Copying(_) | Stage::Failed(_));
        attempts.get(claim).filter(is_ordered)?.source.clone()
    }

    /// Begins an attempt, or continues the one that is under way in the same place.
    pub(super) fn begin(&self, claim: &ClaimUid, at: &Location, source: Option<CopySource>, reserved: Reserved) {
        let mut attempts = self.0.lock();
        let (mut stage, mut failed_copies) = (Stage::Reserved, 0);
        if let Some(before) = attempts.remove(claim) {
            failed_copies = before.failed_copies;
            if before.at == *at && !matches!(before.stage, Stage::VolumeCreated) {
                stage = before.stage;
            }
            before.reserved.hand_over();
        }
        attempts.insert(claim.clone(), Attempt { at: at.clone(), source, stage, failed_copies, reserved });
    }

    /// Returns how many copies for a claim have failed in a row.
    pub(super) fn failed_copies(&self, claim: &ClaimUid) -> u32 {
        self.0.lock().get(claim).map_or(0, |attempt| attempt.failed_copies)
    }

    /// Notes that a copy for a claim has failed. One that was stopped does not count.
    pub(super) fn failed(&self, claim: &ClaimUid, failure: Failure) {
        let mut attempts = self.0.lock();
        let Some(attempt) = attempts.get_mut(claim) else { return };
        if !failure.copy.error.is_stop() {
            attempt.failed_copies = attempt.failed_copies.saturating_add(1);
        }
        attempt.stage = Stage::Failed(Arc::new(failure));
    }

    /// Notes that a copy for a claim has failed, and that there is nothing more to copy for now.
    pub(super) fn failed_for_good(&self, claim: &ClaimUid) {
        if let Some(attempt) = self.0.lock().get_mut(claim) {
            attempt.failed_copies = attempt.failed_copies.saturating_add(1);
            attempt.stage = Stage::Reserved;
        }
    }

    /// Notes that a claim's directory was made. Returns what all rounds together have made of it.
    pub(super) fn made(&self, claim: &ClaimUid, created: Created) -> Created {
        let mut attempts = self.0.lock();
        let Some(attempt) = attempts.get_mut(claim) else { return created };
        let before = if let Stage::Made(before) = attempt.stage { before.made } else { 0 };
        let created = Created { made: created.made.max(before) };
        attempt.stage = Stage::Made(created);
        created
    }

    /// Notes how far a claim's directory has come.
    pub(super) fn set(&self, claim: &ClaimUid, stage: Stage) {
        if let Some(attempt) = self.0.lock().get_mut(claim) {
            attempt.stage = stage;
        }
    }

    /// Ends an attempt. Gives the directory up unless the volume is known to exist.
    pub(super) fn end(&self, claim: &ClaimUid) {
        let attempt = self.0.lock().remove(claim);
        drop(attempt);
    }
}
