//! Takes back what was begun for claims that no longer wait, or that are to lie elsewhere.
//!
//! Nothing is taken back before the API server has said that no volume was made of it, nor while another volume or
//! claim has a part in it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::cluster::api::ApiError;
use crate::cluster::election::Leadership;
use crate::controllers::attempts::{Attempts, Left, Stage};
use crate::controllers::claim_copies::ClaimCopies;
use crate::controllers::claim_outcome::{ClaimOutcome, Unread};
use crate::controllers::confirm::know_neighbours;
use crate::controllers::context::Context;
use crate::controllers::restores::Restores;
use crate::decide::claim::Provision;
use crate::decide::restore::Entry;
use crate::decide::volume::located;
use crate::ledger::Departure;
use crate::model::claim::Claim;
use crate::model::exports::Location;
use crate::queue::{Next, RetryReason};
use crate::storage::{Created, Problem, StorageError};
use crate::values::names::{ClaimUid, VolumeName};
use crate::values::time::seconds_now;

/// How long it is waited for what was brought back to be put away again, before that is tried anew: an export that does not
/// answer is to hold up nothing.
const PUT_BACK_MAX: Duration = Duration::from_secs(10);

/// Takes back what attempts have left. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct TakeBack {
    context: Context,
    leadership: Leadership,
    copies: ClaimCopies,
    restores: Arc<Restores>,
    attempts: Arc<Attempts>,
}

impl TakeBack {
    /// Puts it together from its parts.
    pub(super) fn new(
        context: Context,
        leadership: Leadership,
        copies: ClaimCopies,
        restores: Arc<Restores>,
        attempts: Arc<Attempts>,
    ) -> Self {
        Self { context, leadership, copies, restores, attempts }
    }

    /// Removes what earlier rounds made for the claim in another place than it is to have now. That comes before
    /// the new place is reserved, because during the removal the claim's volume counts as leaving, and so protects
    /// no directory.
    ///
    /// What was brought back for the claim is put away again also where it is to have the same place without that.
    ///
    /// The volume may exist in that place all the same, although the API server has not said so. Then the claim
    /// has it.
    pub(super) async fn leave_elsewhere(&self, claim: &Claim, provision: &Provision) -> Result<(), ClaimOutcome> {
        let (uid, at) = (&claim.claim.uid, &provision.at);
        let is_over = provision.restored.is_none() && self.attempts.is_restored(uid);
        let before = self.attempts.get(uid).filter(|(elsewhere, _)| elsewhere != at || is_over);
        let Some((elsewhere, stage)) = before else { return Ok(()) };
        let left = stage.left();
        match &left {
            Left::Nothing => return Ok(()),
            Left::Unplaced(copy) => {
                copy.cancel();
                return Err(ClaimOutcome::Copying);
            }
            Left::Staged => {
                self.copies.clear(&claim.volume_name(), &elsewhere).await;
                return Ok(());
            }
            Left::Directory(_) | Left::Restored(_) | Left::Placed(_) => {}
        }
        let volume = claim.volume_name();
        let found = self.find_volume(&volume, &elsewhere).await;
        match found.map_err(|error| ClaimOutcome::FailedToRead(Unread::Elsewhere, error))? {
            // Once the claim is bound to that volume, there is nothing more to do.
            Found::There => return Err(ClaimOutcome::ExistsElsewhere),
            Found::InAnotherPlace | Found::OnAnotherExport => {}
            // A copy stays unless it is empty: the claim still waits, and may get its place back.
            Found::Nowhere => {
                if let Left::Directory(created) | Left::Placed(created) = left {
                    self.undo(&volume, &elsewhere, created).await;
                }
                if let Left::Restored(entry) = &left
                    && !self.put_back(&volume, &elsewhere, entry).await
                {
                    return Err(ClaimOutcome::WaitsForMove);
                }
                if let Left::Placed(_) = left {
                    let (path, export) = (elsewhere.path.as_str(), &*self.context.export(&elsewhere).name);
                    warn!(
                        claim = %claim.claim, path, export,
                        "the claim is to lie elsewhere now: the copy that was made for it is left where it is unless \
                         it is empty, and is made again"
                    );
                }
            }
        }
        self.attempts.set(uid, Stage::Reserved);
        Ok(())
    }

    /// Finds out where a claim's volume lies. Another provisioner of our name may have made it in another place.
    async fn find_volume(&self, volume: &VolumeName, at: &Location) -> Result<Found, ApiError> {
        let Some(volume) = self.context.cluster.volume(volume).await? else { return Ok(Found::Nowhere) };
        Ok(match located(&volume, &self.context.scope.exports) {
            Ok(found) if found == *at => Found::There,
            Ok(found) if found.export == at.export => Found::InAnotherPlace,
            _ => Found::OnAnotherExport,
        })
    }

    /// Removes the directories made for a claim, as far as they are empty, unless another volume or claim uses
    /// them by now. Meanwhile no claim is given them. Does not wait for an export that does not answer.
    pub(super) async fn undo(&self, volume: &VolumeName, at: &Location, created: Created) {
        let export = self.context.export(at);
        let (path, name) = (at.path.as_str(), &*export.name);
        if !export.is_usable() || !self.knows_neighbours(volume).await {
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

    /// Removes the directories made for a claim whose volume the API server has just refused, as [`Self::undo`] does,
    /// unless there is a volume on the export all the same: an earlier request, whose answer was lost, may have made it,
    /// or another process, with its directory in or around what was made here. Tells whether the volume does not lie
    /// there.
    pub(super) async fn undo_refused(&self, volume: &VolumeName, at: &Location, created: Created) -> bool {
        match self.find_volume(volume, at).await {
            Ok(Found::Nowhere | Found::OnAnotherExport) => {
                self.undo(volume, at, created).await;
                true
            }
            Ok(Found::InAnotherPlace) => true,
            Ok(Found::There) => false,
            Err(error) => {
                warn!(volume = volume.as_str(), %error, "failed to find out whether a volume that was refused exists");
                false
            }
        }
    }

    /// Moves a copy in its place into the trash, unless its claim has a volume, or another volume or claim uses the
    /// directory by now.
    ///
    /// # Errors
    /// Returns when to try again, if the copy cannot be moved, or not yet.
    pub(super) async fn trash_copy(&self, volume: &VolumeName, at: &Location) -> Result<(), Next> {
        let found = self.find_volume(volume, at).await.map_err(|error| {
            warn!(volume = volume.as_str(), %error, "failed to find out whether a copy is a volume's");
            Next::Retry(RetryReason::ApiServer)
        })?;
        if found != Found::Nowhere {
            return Err(Next::Retry(RetryReason::Neighbour));
        }
        if !self.knows_neighbours(volume).await {
            return Err(Next::Retry(RetryReason::ApiServer));
        }
        let departure = self.context.state.ledger().depart(volume, at);
        let departure = departure.ok_or(Next::Retry(RetryReason::Neighbour))?;
        if departure.is_alone() {
            self.trash(volume, at).await.map_err(|error| {
                warn!(volume = volume.as_str(), %error, "a copy that is no longer needed was left for now");
                if error.problem == Problem::NotLeading { Next::PutBack } else { Next::Retry(RetryReason::Export) }
            })?;
        }
        drop(departure);
        self.copies.clear(volume, at).await;
        Ok(())
    }

    /// Puts what was brought back for a claim away again, because the claim asks for something else by now; unless the claim
    /// has its volume all the same.
    ///
    /// # Errors
    /// Returns any API error.
    pub(super) async fn leave_unwanted(&self, claim: &Claim, entry: &Entry) -> Result<(), ApiError> {
        let volume = claim.volume_name();
        if self.find_volume(&volume, &entry.lies_at).await? == Found::Nowhere {
            self.put_back(&volume, &entry.lies_at, entry).await;
        }
        Ok(())
    }

    /// Puts what was brought back for a claim where it was, unless another volume or claim uses the directory by now. Tells
    /// whether nothing more is to be done.
    async fn put_back(&self, volume: &VolumeName, at: &Location, entry: &Entry) -> bool {
        if !self.knows_neighbours(volume).await {
            return false;
        }
        match self.context.state.ledger().depart(volume, at) {
            Some(departure) if departure.is_alone() => {
                let restores = Arc::clone(&self.restores);
                let (volume, at, entry) = (volume.clone(), at.clone(), entry.clone());
                // It may still be carried out when nobody waits for it any more, and nobody is to be given the place.
                let putting = tokio::spawn(async move {
                    let is_put = restores.put_back(&volume, &at, &entry).await;
                    drop(departure);
                    is_put
                });
                matches!(timeout(PUT_BACK_MAX, putting).await, Ok(Ok(true)))
            }
            // Whoever has it keeps it.
            Some(_) => {
                self.context.records.remove(self.context.export(at), volume.as_str()).await;
                true
            }
            None => false,
        }
    }

    /// Makes sure that other volumes are known well enough: one of them may lie in what is taken back.
    async fn knows_neighbours(&self, volume: &VolumeName) -> bool {
        if !self.leadership.is_held() {
            return false;
        }
        let known = know_neighbours(&self.context, &self.leadership, volume).await;
        known.inspect_err(|error| warn!(%error, "failed to read which volumes exist")).is_ok()
    }

    /// Moves what is in the place of a copy into the trash, if it is the copy: somebody may have moved that away,
    /// and put something else there.
    async fn trash(&self, volume: &VolumeName, at: &Location) -> Result<(), StorageError> {
        let export = self.context.export(at);
        if !export.storage.is_placed(volume.as_str(), &at.path).await? {
            let path = at.path.as_str();
            warn!(
                volume = volume.as_str(),
                path,
                export = &*export.name,
                "it is not the copy that was made, and is left"
            );
        } else if export.storage.trash(&at.path, volume.as_str(), seconds_now(), None).await?.is_some() {
            export.backlog.pushed();
        }
        Ok(())
    }

    /// Removes what was made for a claim that no longer waits for us, unless its volume exists.
    pub(super) async fn forget(&self, uid: &ClaimUid) -> Next {
        self.copies.let_go(self.context.state.ledger().forget_source_of(uid));
        let Some((at, stage)) = self.attempts.get(uid) else { return Next::Done };
        let (volume, left) = (uid.volume_name(), stage.left());
        match &left {
            Left::Nothing => {}
            // The claim comes back when the copy has ended.
            Left::Unplaced(copy) => {
                copy.cancel();
                return Next::Done;
            }
            Left::Staged => self.copies.clear(&volume, &at).await,
            Left::Directory(_) | Left::Restored(_) | Left::Placed(_) => {
                let found = match self.find_volume(&volume, &at).await {
                    Ok(found) => found,
                    Err(error) => {
                        warn!(%uid, %error, "failed to find out whether a claim that is gone has a volume");
                        return Next::Retry(RetryReason::ApiServer);
                    }
                };
                if found == Found::There {
                    // The watch may not have shown it yet.
                    self.context.state.ledger().made(&volume);
                }
                if let Err(next) = self.take_back(volume, at, &left, found).await {
                    return next;
                }
            }
        }
        self.attempts.end(uid);
        Next::Done
    }

    /// Removes what was made for a claim, but only if the claim has no volume at all. The volume's directory may
    /// lie in what was made, or around it.
    async fn take_back(&self, volume: VolumeName, at: Location, left: &Left, found: Found) -> Result<(), Next> {
        match (left, found) {
            // As of one that was refused: what is empty, and made here, is nobody's.
            (Left::Directory(created), Found::Nowhere | Found::OnAnotherExport) => {
                self.undo(&volume, &at, *created).await;
            }
            (Left::Restored(entry), Found::Nowhere) if !self.put_back(&volume, &at, entry).await => {
                return Err(Next::Retry(RetryReason::Export));
            }
            (Left::Placed(_), Found::Nowhere) => self.trash_copy(&volume, &at).await?,
            (Left::Placed(_), _) => self.copies.clear_later(volume, at.export),
            _ => {}
        }
        Ok(())
    }
}

/// Where the volume of a claim was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The claim has no volume.
    Nowhere,
    /// The volume lies where this process was to put it.
    There,
    /// The volume lies in another place on the same export.
    InAnotherPlace,
    /// The volume lies on another export, or on none of ours.
    OnAnotherExport,
}
