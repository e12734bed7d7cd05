//! What is found out right before a directory is moved or a volume is deleted: that it is still to be done.
//!
//! What a watch has shown is hearsay: its connection may be dead, its answer old, and the round may have waited
//! for long. So each round that destroys something
//!
//! 1. knows all other volumes as they were when the watch showed the release, or not long ago ([`KNOWN_FOR`]), and
//!    after whatever made the watch doubtful;
//! 2. then reads its volume, and decides again on what it has read;
//! 3. makes sure that the volume's claim has gone, where the volume itself does not prove that.
//!
//! The result is a [`Proof`], which lasts only a moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::api::ApiError;
use crate::cluster::election::Leadership;
use crate::controllers::context::Context;
use crate::controllers::volume_outcome::{Unread, VolumeOutcome};
use crate::decide::volume::{VolumeFacts, VolumePlan, for_volume};
use crate::model::volume::Volume;
use crate::values::time::BootTime;

/// How old what is known of other volumes may be.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// How long a proof lasts: as long as a call may wait for a thread.
const PROOF_FOR: Duration = Duration::from_secs(5);

/// The certainty that a volume was to be reclaimed in this way a moment ago.
#[derive(Debug)]
pub(super) struct Proof {
    /// Until when a change of files may begin.
    pub(super) until: BootTime,
}

impl Proof {
    /// Tells whether the proof still holds.
    pub(super) fn holds(&self) -> bool {
        BootTime::now() < self.until
    }
}

/// Returns since when other volumes have to be known; `None` if the machine has just started, and so has this process.
pub(super) fn known_since(context: &Context, leadership: &Leadership) -> Option<Instant> {
    let recent = Instant::now().checked_sub(KNOWN_FOR);
    [recent, leadership.since(), context.state.doubted()].into_iter().flatten().max()
}

/// Makes sure that other volumes are known well enough to say who has a part in a volume's directory.
///
/// # Errors
/// Returns any API error.
pub(super) async fn know_neighbours(
    context: &Context,
    leadership: &Leadership,
    volume: &Volume,
) -> Result<(), ApiError> {
    let Some(since) = known_since(context, leadership) else { return Ok(()) };
    if context.state.watched(&volume.name).is_some_and(|watched| watched > since) {
        return Ok(());
    }
    context.refresh(since).await
}

/// Reads the volume, and confirms that `plan` is still what is to be done. `is_retry` tells whether a round for the
/// volume has failed before, so that what is known of its class may be old.
///
/// # Errors
/// Returns how the round ends if that cannot be confirmed.
pub(super) async fn confirm(
    context: &Context,
    volume: &Volume,
    plan: &VolumePlan,
    is_retry: bool,
) -> Result<Proof, VolumeOutcome> {
    let cluster = &context.cluster;
    let class = if is_retry || context.state.are_classes_doubted() {
        let class = cluster.class(&volume.class).await;
        class.map_err(|error| VolumeOutcome::FailedToRead(Unread::Class, error))?.map(Arc::new)
    } else {
        context.state.class(&volume.class)
    };
    let begun = BootTime::now();
    let found = cluster.volume(&volume.name).await;
    match found.map_err(|error| VolumeOutcome::FailedToRead(Unread::Volume, error))? {
        Some(now) if now.uid == volume.uid => {
            let now = now.remembered(volume);
            let facts = VolumeFacts { volume: &now, class: class.as_deref() };
            if for_volume(&facts, &context.scope) != *plan {
                return Err(VolumeOutcome::Changed);
            }
            if !is_proved_released(&now) {
                claim_has_gone(context, &now).await?;
            }
        }
        None if volume.deleted_while_bound => claim_has_gone(context, volume).await?,
        // Its name may be another volume's by now.
        _ => {
            context.state.forget_volume(volume);
            return Err(VolumeOutcome::Gone);
        }
    }
    Ok(Proof { until: begun + PROOF_FOR })
}

/// Tells whether a released volume proves that its claim has gone. The controller manager calls a volume released
/// when it has found that the claim in its `claimRef` has gone; but somebody may have written another claim there
/// since. The one that the volume was made for, and is named after, never comes back.
fn is_proved_released(volume: &Volume) -> bool {
    volume.own_claim().is_some_and(|claim| volume.name.claim_uid().as_ref() == Some(&claim.uid))
}

/// Makes sure that there is no claim any more with the uid that is in the volume's `claimRef`.
async fn claim_has_gone(context: &Context, volume: &Volume) -> Result<(), VolumeOutcome> {
    let claim = volume.own_claim().ok_or(VolumeOutcome::Changed)?;
    let found = context.cluster.source_claim(&claim.namespace, &claim.name).await;
    let found = found.map_err(|error| VolumeOutcome::FailedToRead(Unread::Claim, error))?;
    if found.is_some_and(|found| found.uid == claim.uid) { Err(VolumeOutcome::ClaimExists) } else { Ok(()) }
}
