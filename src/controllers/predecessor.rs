//! Whether a claim's directory is about to go with the volume of a claim that was there before.
//!
//! A claim that is made again under its name, as those of a StatefulSet are, would find the files of the deleted
//! one where its pattern leads to the same directory, if the old volume has not been reclaimed by then. So it waits
//! for that.

use crate::cluster::api::ApiError;
use crate::controllers::context::Context;
use crate::decide::volume::{VolumeFacts, VolumePlan, for_volume};
use crate::model::claim::Claim;
use crate::model::exports::Location;
use crate::model::parameters::Fate;
use crate::model::volume::{Phase, Volume};
use crate::values::names::VolumeName;

/// Of how many volumes in a directory the API server is asked whose they are. A directory that more of them share
/// is meant to be shared, and nobody's files in it go with one of them.
const SHARERS_MAX: usize = 3;

/// Finds a volume with the claim's directory that is to be reclaimed, directory and all: one whose claim has gone,
/// or one that was made for an earlier claim of the same name, whose release has not been seen yet.
///
/// # Errors
/// Returns any API error.
pub(super) async fn predecessor(
    context: &Context,
    claim: &Claim,
    at: &Location,
) -> Result<Option<VolumeName>, ApiError> {
    let sharers = context.state.ledger().sharers(&claim.volume_name(), at);
    let are_few = sharers.len() <= SHARERS_MAX;
    for name in sharers {
        let volume = match context.state.volume(&name) {
            Some(volume) => Some(Volume::clone(&volume)),
            None if are_few => context.cluster.volume(&name).await?.filter(|volume| is_of_earlier(volume, claim)),
            None => None,
        };
        if volume.is_some_and(|volume| takes_directory(context, volume)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Tells whether a volume was made for another claim that had the same name, and so has gone.
fn is_of_earlier(volume: &Volume, claim: &Claim) -> bool {
    volume.own_claim().is_some_and(|own| {
        let is_namesake = (&own.namespace, &own.name) == (&claim.claim.namespace, &claim.claim.name);
        is_namesake && own.uid != claim.claim.uid
    })
}

/// Tells whether a volume takes its directory along once it is released.
fn takes_directory(context: &Context, volume: Volume) -> bool {
    let class = context.state.class(&volume.class);
    let released = Volume { phase: Phase::Released, ..volume };
    let facts = VolumeFacts { volume: &released, class: class.as_deref() };
    let plan = for_volume(&facts, &context.scope);
    matches!(plan, VolumePlan::Reclaim { fate: Fate::Archive | Fate::Delete, .. })
}
