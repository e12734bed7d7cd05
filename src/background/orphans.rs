//! Orphans: directories on the export that belong to no volume of this cluster. They may be another cluster's, or
//! left by `onDelete: retain`, so they are counted and named, never touched.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::election::Leadership;
use crate::export::Export;
use crate::layout::{RootEntry, classify};
use crate::ledger::Ledger;
use crate::ledger::placements::Relation;
use crate::model::exports::{ExportId, PerExport};
use crate::observe::metrics::{self, Metrics};
use crate::storage::{Storage, StorageError};
use crate::values::path::RelPath;

/// The time from the start to the first count, and from each count to the next.
const PAUSES: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// The number of orphans that are named in the log.
const NAMED: usize = 20;

/// The largest number of directories that a count looks at: it need not be exact, but it must end.
const LOOKED_AT: usize = 100_000;

/// Counts the orphans from time to time while we lead, for ever.
///
/// All exports are counted at the same time: one that does not answer keeps no other waiting.
pub async fn count_forever(exports: PerExport<Export>, ledger: Ledger, metrics: Metrics, leadership: Leadership) {
    let counting = |(id, export): (ExportId, &Export)| {
        count_on(id, export.clone(), ledger.clone(), metrics.clone(), leadership.clone())
    };
    futures::future::join_all(exports.iter().map(counting)).await;
}

async fn count_on(id: ExportId, export: Export, ledger: Ledger, metrics: Metrics, mut leadership: Leadership) {
    let name = &*export.name;
    sleep(PAUSES.0).await;
    loop {
        leadership.held().await;
        match find(&export.storage, id, &ledger).await {
            Ok(orphans) => {
                let gauge = metrics.orphans.get_or_create(&metrics::export_label(name));
                gauge.set(i64::try_from(orphans.len()).unwrap_or(i64::MAX));
                if !orphans.is_empty() {
                    let named: Vec<&str> = orphans.iter().take(NAMED).map(String::as_str).collect();
                    info!(
                        export = name,
                        count = orphans.len(),
                        first = ?named,
                        "directories on the export belong to no volume of this cluster"
                    );
                }
            }
            Err(error) => warn!(export = name, %error, "failed to look for directories that belong to no volume"),
        }
        sleep(PAUSES.1).await;
    }
}

/// Finds the orphans: all directories that are neither a volume's, nor above one, nor reserved for us.
///
/// # Errors
/// Returns an error if a directory cannot be listed.
pub async fn find(storage: &Storage, export: ExportId, ledger: &Ledger) -> Result<Vec<String>, StorageError> {
    let mut orphans = Vec::new();
    let mut to_list: VecDeque<Option<RelPath>> = VecDeque::from([None]);
    let mut looked_at = 0;
    while let Some(above) = to_list.pop_front() {
        for name in storage.directories(above.as_ref()).await? {
            looked_at += 1;
            if looked_at > LOOKED_AT {
                return Ok(orphans);
            }
            if above.is_none() && classify(&name) != RootEntry::Volume {
                continue;
            }
            let path = above.as_ref().map_or_else(|| name.clone(), |above| format!("{above}/{name}"));
            match (RelPath::parse(&path), ledger.at_or_beneath(export, &path)) {
                (_, Some(Relation::Same)) => {}
                (Ok(path), Some(_)) => to_list.push_back(Some(path)),
                _ => orphans.push(path),
            }
        }
    }
    Ok(orphans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Entry;
    use crate::model::exports::Exports;
    use crate::storage::Root;
    use crate::values::address::ExportAddress;

    #[tokio::test]
    async fn what_belongs_to_no_volume_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "flat/inside/deeper",
            "team/data/inside",
            "team/left",
            "left/over",
            "archived-x",
            ".nfs-provisioner-trash/x",
        ] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("flat", dir.path().join("link")).unwrap();
        let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
        let only = exports.locate("nas", "/export/flat").unwrap().export;
        let ledger = Ledger::default();
        for path in ["flat", "team/data", "missing/data"] {
            let at = exports.locate("nas", &format!("/export/{path}")).unwrap();
            let entry = Entry { at: Some(&at), namespace: None, bytes: 0, gid: None };
            ledger.settle(&path.into(), entry);
        }
        let storage = Storage::from(Root::open(dir.path()).unwrap());
        let mut orphans = find(&storage, only, &ledger).await.unwrap();
        orphans.sort();
        assert_eq!(orphans, ["left", "team/left"]);
    }
}
