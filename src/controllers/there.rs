//! What is at a claim's path already: on which export, and whether it is about to go with the volume of an earlier
//! claim.
//!
//! A claim that is made again under its name, as those of a StatefulSet are, would find the files of the deleted
//! one where its pattern leads to the same directory, if the old volume has not been reclaimed by then. So it waits
//! for that.

use std::collections::HashMap;

use tracing::warn;

use crate::cluster::api::ApiError;
use crate::controllers::context::{Context, Slot};
use crate::decide::choice::There;
use crate::decide::claim::sought;
use crate::decide::volume::{VolumeFacts, VolumePlan, for_volume};
use crate::export::Export;
use crate::model::claim::Claim;
use crate::model::class::Class;
use crate::model::exports::{Location, PerExport};
use crate::model::parameters::Fate;
use crate::model::volume::{Phase, Volume};
use crate::storage::explain;
use crate::values::names::{ClaimRef, VolumeName};

/// Of how many volumes in a directory the API server is asked whose they are. A directory that more of them share
/// is meant to be shared, and nobody's files in it go with one of them.
const SHARERS_MAX: usize = 3;

/// Finds out on which export the claim's path exists already, if that can be on several: there the claim belongs,
/// with what is in it. What the volumes tell comes first, and the exports are only asked if those do not decide.
pub(super) async fn there(
    context: &Context,
    claim: &Claim,
    class: Option<&Class>,
    slot: &mut Slot,
) -> PerExport<There> {
    let mut found = HashMap::new();
    let sought = sought(claim, class, &context.scope);
    let has_volume = |at: &&Location| context.state.ledger().is_shared(&claim.volume_name(), at);
    if let Some(at) = sought.iter().find(has_volume) {
        found.insert(at.export, There::Volume);
    } else {
        for at in &sought {
            found.insert(at.export, look_at(context, claim, at, slot).await);
        }
        // Another claim may have been given the path while the exports were looked at.
        found.extend(sought.iter().filter(has_volume).map(|at| (at.export, There::Volume)));
        let directories = found.iter().filter(|(_, there)| **there == There::Directory);
        if let (true, Some(at)) = (directories.count() > 1, sought.first()) {
            warn!(
                claim = %claim.claim, path = at.path.as_str(),
                "the directory exists on several exports of the class; the first of them in the order of the class \
                 is taken"
            );
        }
    }
    context.exports.map(|(id, _)| found.remove(&id).unwrap_or_default())
}

async fn look_at(context: &Context, claim: &Claim, at: &Location, slot: &mut Slot) -> There {
    let Export { storage, address, .. } = context.export(at);
    match context.wait(slot, &claim.claim, at.export, storage.group(&at.path)).await {
        Ok(Some(_)) => There::Directory,
        Ok(None) => There::Nothing,
        Err(error) => There::Unknown(explain(&error, address).into()),
    }
}

/// Finds a volume with the claim's directory that is to be reclaimed, directory and all: one whose claim has gone,
/// or one that was made for an earlier claim of the same name, whose release has not been seen yet. There is none if
/// another volume has the directory, too, and keeps it where it is.
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
    let mut going = None;
    for name in sharers {
        let volume = match context.state.volume(&name) {
            Some(volume) => Some(Volume::clone(&volume)),
            None if are_few && !is_being_made(context, &name) => match context.cluster.volume(&name).await? {
                Some(volume) => Some(volume).filter(|volume| is_of_earlier(volume, &claim.claim)),
                // It has gone meanwhile, or was not made in the end.
                None => continue,
            },
            None => None,
        };
        if !volume.is_some_and(|volume| takes_directory(context, volume)) {
            return Ok(None);
        }
        going = Some(name);
    }
    Ok(going)
}

/// Tells whether a volume is yet to be made for a claim that waits for it. Once the claim does not wait any more, the
/// volume may exist although the API server has not said so.
fn is_being_made(context: &Context, volume: &VolumeName) -> bool {
    let waits = || volume.claim_uid().is_some_and(|uid| context.state.claim(&uid).is_some());
    !context.state.ledger().exists(volume) && waits()
}

/// Tells whether a volume was made for another claim that had the same name, and so has gone.
pub(super) fn is_of_earlier(volume: &Volume, claim: &ClaimRef) -> bool {
    volume.own_claim().is_some_and(|own| {
        let is_namesake = (&own.namespace, &own.name) == (&claim.namespace, &claim.name);
        is_namesake && own.uid != claim.uid
    })
}

/// Tells whether a volume takes its directory along once it is released.
pub(super) fn takes_directory(context: &Context, volume: Volume) -> bool {
    let class = context.state.class(&volume.class);
    let released = Volume { phase: Phase::Released, ..volume };
    let facts = VolumeFacts { volume: &released, class: class.as_deref() };
    let plan = for_volume(&facts, &context.scope);
    matches!(plan, VolumePlan::Reclaim { fate: Fate::Archive | Fate::Delete, .. })
}
