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

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::api::ApiError;
use crate::cluster::election::Leadership;
use crate::controllers::context::Context;
use crate::controllers::volume_outcome::{Unread, VolumeOutcome};
use crate::decide::volume::{VolumeFacts, VolumePlan, for_volume};
use crate::model::volume::Volume;
use crate::values::names::VolumeName;
use crate::values::time::BootTime;

/// How old what is known of other volumes may be.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// How long a proof lasts: as long as a call may wait for a thread.
const PROOF_FOR: Duration = Duration::from_secs(5);

/// The certainty that a volume was to be reclaimed in this way a moment ago.
#[derive(Debug)]
pub(super) struct Proof {
    /// The volume as it was read, or as it was when it was seen last if it has gone.
    pub(super) volume: Volume,
    /// Until when a change of files may begin.
    pub(super) until: BootTime,
}

impl Proof {
    /// Tells whether the proof still holds.
    pub(super) fn holds(&self) -> bool {
        BootTime::now() < self.until
    }
}

/// Makes sure that other volumes are known well enough to say who has a part in a volume's directory.
///
/// # Errors
/// Returns any API error.
pub(super) async fn know_neighbours(
    context: &Context,
    leadership: &Leadership,
    volume: &VolumeName,
) -> Result<(), ApiError> {
    // If the machine has just started, so has this process, and a list has doubted the watch.
    let recent = Instant::now().checked_sub(KNOWN_FOR);
    let since = [recent, leadership.since(), context.state.doubted()].into_iter().flatten().max();
    let Some(since) = since else { return Ok(()) };
    let is_watched = context.state.watched(volume).is_some_and(|watched| watched > since);
    if is_watched
        && context.state.volume(volume).is_some_and(|record| is_released_lately(&record, Timestamp::now()))
    {
        return Ok(());
    }
    context.refresh(since).await
}

/// Tells whether what the watch showed before it showed a volume's release is as new as [`KNOWN_FOR`] says: a connection
/// may have stood still, and bring what happened long ago. The API server's clock says when that was. If it is slow or
/// far ahead of ours, this is never so, which costs a list now and then; if it is ahead by less, what is known may be
/// older by so much.
fn is_released_lately(volume: &Volume, now: Timestamp) -> bool {
    let since = volume.since.map(|since| now.duration_since(since));
    since.is_some_and(|since| since.unsigned_abs() <= KNOWN_FOR)
}

/// Reads the volume, and confirms that `plan` is still what is to be done.
///
/// # Errors
/// Returns how the round ends if that cannot be confirmed.
pub(super) async fn confirm(
    context: &Context,
    volume: &Volume,
    plan: &VolumePlan,
) -> Result<Proof, VolumeOutcome> {
    let begun = BootTime::now();
    let class = context.class(&volume.class).await;
    let class = class.map_err(|error| VolumeOutcome::FailedToRead(Unread::Class, error))?;
    let found = context.cluster.volume(&volume.name).await;
    let found = found.map_err(|error| VolumeOutcome::FailedToRead(Unread::Volume, error))?;
    let has_gone = found.is_none();
    let now = match found {
        Some(now) if now.uid == volume.uid => now.remembered(volume),
        // What an admin has said of it last is not known before the watch or a list has shown that it has gone.
        None if volume.deleted_while_bound && context.state.ledger().exists(&volume.name) => {
            return Err(VolumeOutcome::Changed);
        }
        // Not as the round began with it: the watch may have brought the end of it while the API server was asked.
        None if volume.deleted_while_bound => {
            let record = context.state.volume(&volume.name).filter(|record| record.uid == volume.uid);
            Volume::clone(&*record.ok_or(VolumeOutcome::Changed)?)
        }
        found => {
            context.state.forget_volume(volume);
            if let Some(another) = found {
                // Its name is another volume's by now, which the watch has not shown.
                context.state.heard_of(&another);
            }
            return Err(VolumeOutcome::Gone);
        }
    };
    let facts = VolumeFacts { volume: &now, class: class.as_deref() };
    if for_volume(&facts, &context.scope) != *plan {
        return Err(VolumeOutcome::Changed);
    }
    if has_gone || !is_proved_released(&now) {
        claim_has_gone(context, &now).await?;
    }
    Ok(Proof { volume: now, until: begun + PROOF_FOR })
}

/// Tells whether a released volume proves that no claim has it. The controller manager calls a volume released when it
/// has found that the claim in its `claimRef` has gone, or is bound to another volume, which never changes; but
/// somebody may have written another claim there since. The one that the volume was made for, and is named after,
/// never comes back.
fn is_proved_released(volume: &Volume) -> bool {
    volume.is_named_after_own_claim()
}

/// Makes sure that there is no claim any more with the uid that is in the volume's `claimRef`.
async fn claim_has_gone(context: &Context, volume: &Volume) -> Result<(), VolumeOutcome> {
    let claim = volume.own_claim().ok_or(VolumeOutcome::Changed)?;
    let found = context.cluster.source_claim(&claim.namespace, &claim.name).await;
    let found = found.map_err(|error| VolumeOutcome::FailedToRead(Unread::Claim, error))?;
    if found.is_some_and(|found| found.uid == claim.uid) { Err(VolumeOutcome::ClaimExists) } else { Ok(()) }
}
