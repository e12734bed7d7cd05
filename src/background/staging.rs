//! Removes unfinished copies for claims that no longer wait. After a crash nothing else does.
//!
//! Several clusters, and several provisioners of one, may share an export, and none of them knows the claims of the
//! others. So a copy is removed at once only if its place says that we made it. Any other is removed once nobody has
//! worked on it for long, by the export's own clock; and since a server that hangs keeps everybody from working, only
//! if that is still so after it has answered for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::cluster::election::Leadership;
use crate::cluster::state::ClusterState;
use crate::controllers::copies::Copies;
use crate::export::Export;
use crate::model::exports::{ExportId, PerExport};
use crate::storage::Staged;
use crate::values::names::{ClaimUid, VolumeName};

/// The time between two searches for staging places that no claim waits for.
const SWEEP: Duration = Duration::from_mins(10);

/// The time after which a copy has been left, if its maker says that he works on it: he says so every minute.
const LEFT_AFTER: Duration = Duration::from_hours(1);

/// The time after which a copy has been left, if its maker is of a version that does not say so. In between nothing
/// may show that he works on it.
const SILENT_LEFT_AFTER: Duration = Duration::from_hours(48);

/// Returns the exports with storage that notes the copies that it makes as ours, and knows those that are: by the uids
/// of our classes.
#[must_use]
pub fn noted_as_ours(exports: &PerExport<Export>, state: &Arc<ClusterState>) -> PerExport<Export> {
    exports.map(|(_, export)| {
        let state = Arc::clone(state);
        let storage = export.storage.clone().owned_by(move || state.own_class_uids());
        Export { storage, ..export.clone() }
    })
}

/// Sweeps all exports from time to time while we lead, for ever: puts the staging places of volumes for whose
/// claims `is_needed` returns false into the trash, if we made them or nobody works on them any more.
pub async fn sweep_forever(
    exports: PerExport<Export>,
    copies: Copies,
    leadership: Leadership,
    is_needed: impl Fn(&ClaimUid) -> bool,
) {
    join_all(exports.iter().map(async |(id, export)| {
        let (mut leadership, mut seen, mut since) = (leadership.clone(), Seen::default(), None);
        loop {
            leadership.held().await;
            if since != leadership.since() {
                // What was seen long ago says nothing of the time in between.
                (seen, since) = (Seen::default(), leadership.since());
            }
            sweep(id, export, &copies, &mut seen, &is_needed).await;
            // After the look, however long that has taken: two looks in a row are so far apart.
            sleep(SWEEP).await;
        }
    }))
    .await;
}

async fn sweep(
    id: ExportId,
    export: &Export,
    copies: &Copies,
    seen: &mut Seen,
    is_needed: &impl Fn(&ClaimUid) -> bool,
) {
    let places = match export.storage.staged().await {
        Ok(places) => places,
        Err(error) => return debug!(%error, "failed to look at the staging places of copies"),
    };
    let is_own = |place: &Staged| export.storage.is_own(place);
    for (volume, whose) in seen.left(&places, is_own, is_needed) {
        if whose == Whose::Somebodys {
            info!(volume = volume.as_str(), "what somebody has left of a copy is removed");
        }
        copies.clear(&volume, id).await;
    }
}

/// Whose copy is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    /// Nobody works on it any more.
    Somebodys,
}

/// The copies that seemed to be left at the last look, and when they were last worked on.
#[derive(Debug, Default)]
struct Seen(HashMap<String, SystemTime>);

impl Seen {
    /// Finds the copies that are to be removed.
    fn left(
        &mut self,
        places: &[Staged],
        is_own: impl Fn(&Staged) -> bool,
        is_needed: impl Fn(&ClaimUid) -> bool,
    ) -> Vec<(VolumeName, Whose)> {
        let mut left = Vec::new();
        let before = std::mem::take(&mut self.0);
        for place in places {
            let volume = VolumeName::from(&*place.volume);
            // We make no volume of any other name for a claim, nor does any provisioner of our kind.
            if volume.claim_uid().is_none_or(|claim| is_needed(&claim)) {
                continue;
            }
            if is_own(place) {
                left.push((volume, Whose::Ours));
                continue;
            }
            let limit = if place.maker.is_some() { LEFT_AFTER } else { SILENT_LEFT_AFTER };
            if place.quiet < limit {
                continue;
            }
            if before.get(&place.volume) == Some(&place.touched) {
                left.push((volume, Whose::Somebodys));
            } else {
                self.0.insert(place.volume.clone(), place.touched);
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::staging::Maker;

    fn place(volume: &str, maker: Option<&str>, touched: u64, quiet: Duration) -> Staged {
        let maker = maker.map(|name| Maker { owners: vec![name.to_owned()] });
        let touched = SystemTime::UNIX_EPOCH + Duration::from_secs(touched);
        Staged { volume: volume.to_owned(), maker, touched, quiet }
    }

    fn look(seen: &mut Seen, places: &[Staged]) -> Vec<(String, Whose)> {
        let is_own =
            |place: &Staged| place.maker.as_ref().is_some_and(|maker| maker.is_one_of(&["us".to_owned()]));
        let left = seen.left(places, is_own, |claim| claim.as_str() == "needed");
        left.into_iter().map(|(volume, whose)| (volume.to_string(), whose)).collect()
    }

    #[test]
    fn only_what_is_ours_goes_at_once_and_what_others_have_left_after_two_looks() {
        let long = LEFT_AFTER + Duration::from_secs(1);
        let places = [
            place("pvc-needed", Some("us"), 1, long),
            place("pvc-ours", Some("us"), 1, Duration::ZERO),
            place("pvc-busy", Some("them"), 1, Duration::from_mins(59)),
            place("pvc-left", Some("them"), 1, long),
            place("pvc-old", None, 1, long),
            place("pvc-very-old", None, 1, SILENT_LEFT_AFTER),
            place("by-hand", Some("us"), 1, long),
        ];
        let mut seen = Seen::default();
        assert_eq!(look(&mut seen, &places), [("pvc-ours".to_owned(), Whose::Ours)]);
        let somebodys = |name: &str| (name.to_owned(), Whose::Somebodys);
        assert_eq!(
            look(&mut seen, &places),
            [("pvc-ours".to_owned(), Whose::Ours), somebodys("pvc-left"), somebodys("pvc-very-old")]
        );
    }

    #[test]
    fn what_is_worked_on_again_after_a_server_has_hung_is_not_left() {
        let long = Duration::from_hours(5);
        let mut seen = Seen::default();
        assert_eq!(look(&mut seen, &[place("pvc-1", Some("them"), 1, long)]), []);
        assert_eq!(look(&mut seen, &[place("pvc-1", Some("them"), 2, Duration::from_secs(1))]), []);
        assert_eq!(look(&mut seen, &[place("pvc-1", Some("them"), 2, long)]), []);
        assert_eq!(look(&mut seen, &[place("pvc-1", Some("them"), 3, long)]), []);
        assert_eq!(look(&mut seen, &[]), []);
        assert_eq!(look(&mut seen, &[place("pvc-1", Some("them"), 3, long)]), [], "two looks in a row");
        assert_eq!(look(&mut seen, &[place("pvc-1", Some("them"), 3, long)]).len(), 1);
    }
}
