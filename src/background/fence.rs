//! The fence: nothing on an export is changed by a process that does not lead any more.

use std::time::Duration;

use tokio::time::sleep;
use tracing::error;

use crate::cluster::election::Leadership;
use crate::export::Export;
use crate::model::exports::PerExport;

/// How long after this process has stopped leading a change of a directory may still be under way. Together with
/// what was left of the lock then it is less than the lock's whole duration.
const FENCE_AFTER: Duration = Duration::from_secs(4);

/// Returns the exports with storage that begins no change unless this process leads.
#[must_use]
pub fn fenced(exports: &PerExport<Export>, leadership: &Leadership) -> PerExport<Export> {
    exports.map(|(_, export)| {
        let leadership = leadership.clone();
        let storage = export.storage.clone().fenced_by(move || leadership.is_held());
        Export { storage, ..export.clone() }
    })
}

/// Ends the program if it stops leading while a directory is being changed and the server does not say whether
/// that has been done: it could be done later, when another process leads and has given the path to a new claim.
/// The kernel gives up the calls of a process that has ended.
pub async fn end_if_changes_outlive_leadership(exports: PerExport<Export>, mut leadership: Leadership) {
    loop {
        leadership.held().await;
        leadership.lost().await;
        sleep(FENCE_AFTER).await;
        // If this process leads again by now, what is under way can also be what it has begun since. A call that hangs
        // on the same export tells that it is not.
        let is_late = |export: &&Export| {
            let Export { storage, .. } = export;
            storage.changes_under_way() > 0 && (storage.stuck_calls() > 0 || !leadership.is_held())
        };
        let late = exports.values().find(is_late);
        if let Some(Export { name, storage, .. }) = late {
            let under_way = storage.changes_under_way();
            error!(
                export = &**name,
                under_way,
                "stopped leading while the export has not answered whether directories have been changed; ending, so \
                 that they will not be changed later"
            );
            #[expect(clippy::exit, reason = "an end in order would wait for what must not happen any more")]
            std::process::exit(1);
        }
    }
}
