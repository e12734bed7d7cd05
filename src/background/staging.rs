//! Removes unfinished copies for claims that no longer wait. After a crash nothing else does.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::interval;
use tracing::debug;

use crate::cluster::election::Leadership;
use crate::controllers::copies::Copies;
use crate::export::Export;
use crate::layout::staging::above_places;
use crate::model::exports::{ExportId, Location, PerExport};
use crate::values::names::{ClaimUid, VolumeName};

/// The time between two searches for staging places that no claim waits for.
const SWEEP: Duration = Duration::from_hours(1);

/// Sweeps all exports from time to time while we lead, for ever: puts the staging places of volumes for whose
/// claims `is_needed` returns false into the trash.
pub async fn sweep_forever(
    exports: PerExport<Export>,
    copies: Copies,
    mut leadership: Leadership,
    is_needed: impl Fn(&ClaimUid) -> bool,
) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        leadership.held().await;
        join_all(exports.iter().map(|(id, export)| sweep(id, export, &copies, &is_needed))).await;
    }
}

async fn sweep(id: ExportId, export: &Export, copies: &Copies, is_needed: &impl Fn(&ClaimUid) -> bool) {
    let Ok(above) = above_places() else { return };
    let places = export.storage.directories(Some(&above)).await;
    for place in places
        .inspect_err(|error| debug!(%error, "failed to list the staging places of copies"))
        .unwrap_or_default()
    {
        let volume = VolumeName::from(&*place);
        // We make no volume of any other name for a claim.
        if volume.claim_uid().is_some_and(|claim| !is_needed(&claim)) {
            copies.clear(&volume, &Location { export: id, path: above.clone() }).await;
        }
    }
}
