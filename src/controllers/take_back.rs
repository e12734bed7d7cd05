//! Takes back what was begun for claims that no longer wait, or that are to lie elsewhere.
//!
//! Nothing is taken back before the API server has said that no volume was made of it, nor while another volume or
//! claim has a part in it.

use std::sync::Arc;

use tracing::warn;

use crate::cluster::api::ApiError;
use crate::controllers::attempts::{Attempts, Left, Stage};
use crate::controllers::claim_copies::ClaimCopies;
use crate::controllers::claim_outcome::{ClaimOutcome, Unread};
use crate::controllers::context::Context;
use crate::decide::volume::located;
use crate::ledger::Departure;
use crate::model::claim::Claim;
use crate::model::exports::Location;
use crate::queue::{Next, RetryReason};
use crate::storage::Created;
use crate::values::names::{ClaimUid, VolumeName};
use crate::values::time::seconds_now;

/// Takes back what attempts have left. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct TakeBack {
    context: Context,
    copies: ClaimCopies,
    attempts: Arc<Attempts>,
}

impl TakeBack {
    /// Puts it together from its parts.
    pub(super) fn new(context: Context, copies: ClaimCopies, attempts: Arc<Attempts>) -> Self {
        Self { context, copies, attempts }
    }

    /// Removes what earlier rounds made for the claim in another place than it is to have now. That comes before
    /// the new place is reserved, because during the removal the claim's volume counts as leaving, and so protects
    /// no directory.
    ///
    /// The volume may exist in that place all the same, although the API server has not said so. Then the claim
    /// has it.
    pub(super) async fn leave_elsewhere(&self, claim: &Claim, at: &Location) -> Result<(), ClaimOutcome> {
        let uid = &claim.claim.uid;
        let before = self.attempts.get(uid).filter(|(elsewhere, _)| elsewhere != at);
        let Some((elsewhere, stage)) = before else { return Ok(()) };
        let left = stage.left();
        match &left {
            Left::Nothing => return Ok(()),
            Left::Unplaced(copy) => {
                copy.cancel();
                return Err(ClaimOutcome::Copying);
            }
            Left::Directory(_) | Left::Placed => {}
        }
        let volume = claim.volume_name();
        let has_volume = self.has_volume_at(&volume, &elsewhere).await;
        // Once the claim is bound to that volume, there is nothing more to do.
        if has_volume.map_err(|error| ClaimOutcome::FailedToRead(Unread::Elsewhere, error))? {
            return Err(ClaimOutcome::ExistsElsewhere);
        }
        self.take_back(&volume, &elsewhere, &left).await;
        self.attempts.set(uid, Stage::Reserved);
        Ok(())
    }

    /// Tells whether a claim's volume exists in this place. Another provisioner of our name may have made it
    /// elsewhere.
    async fn has_volume_at(&self, volume: &VolumeName, at: &Location) -> Result<bool, ApiError> {
        let volume = self.context.cluster.volume(volume).await?;
        let lies_there = |volume| located(&volume, &self.context.scope.exports).is_ok_and(|found| found == *at);
        Ok(volume.is_some_and(lies_there))
    }

    /// Removes the leftovers of an attempt.
    async fn take_back(&self, volume: &VolumeName, at: &Location, left: &Left) {
        match left {
            Left::Nothing | Left::Unplaced(_) => {}
            Left::Directory(created) => self.undo(volume, at, *created).await,
            Left::Placed => self.trash_copy(volume, at).await,
        }
    }

    /// Removes the directories made for a claim, as far as they are empty, unless another volume or claim uses
    /// them by now. Meanwhile no claim is given them. Does not wait for an export that does not answer.
    pub(super) async fn undo(&self, volume: &VolumeName, at: &Location, created: Created) {
        let export = self.context.export(at);
        let (path, name) = (at.path.as_str(), &*export.name);
        if !export.is_usable() {
            warn!(path, export = name, "an empty directory that is no longer needed was left");
            return;
        }
        let departure = self.context.state.ledger().depart(volume, at);
        if departure.as_ref().is_some_and(Departure::is_alone)
            && let Err(error) = export.storage.undo(&at.path, created).await
        {
            warn!(path, export = name, %error, "an empty directory that is no longer needed was left");
        }
    }

    /// Moves a copy in its place into the trash, unless another volume or claim uses the directory by now. The
    /// copy was renamed to where nothing was, so the directory was its claim's alone at first.
    async fn trash_copy(&self, volume: &VolumeName, at: &Location) {
        let export = self.context.export(at);
        let departure = self.context.state.ledger().depart(volume, at);
        if departure.as_ref().is_some_and(Departure::is_alone) {
            match export.storage.trash(&at.path, volume.as_str(), seconds_now()).await {
                Ok(Some(_)) => export.backlog.pushed(),
                Ok(None) => {}
                Err(error) => warn!(volume = volume.as_str(), %error, "a copy that is no longer needed was left"),
            }
        }
        drop(departure);
        self.copies.clear(volume, at).await;
    }

    /// Removes what was made for a claim that no longer waits for us, unless its volume exists.
    pub(super) async fn forget(&self, uid: &ClaimUid) -> Next {
        let Some((at, stage)) = self.attempts.get(uid) else { return Next::Done };
        let (volume, left) = (uid.volume_name(), stage.left());
        match &left {
            Left::Nothing => {}
            // The claim comes back when the copy has ended.
            Left::Unplaced(copy) => {
                copy.cancel();
                return Next::Done;
            }
            Left::Directory(_) | Left::Placed => match self.has_volume_at(&volume, &at).await {
                Ok(true) => self.keep(volume, at, &left),
                Ok(false) => self.take_back(&volume, &at, &left).await,
                Err(error) => {
                    warn!(%uid, %error, "failed to find out whether a claim that is gone has a volume");
                    return Next::Retry(RetryReason::ApiServer);
                }
            },
        }
        self.attempts.end(uid);
        Next::Done
    }

    /// Notes that a claim's volume exists, which the watch may not have shown yet.
    fn keep(&self, volume: VolumeName, at: Location, left: &Left) {
        self.context.state.ledger().made(&volume);
        if matches!(left, Left::Placed) {
            self.copies.clear_later(volume, at);
        }
    }
}
