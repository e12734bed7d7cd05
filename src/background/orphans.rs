//! Counts directories on the exports that belong to no volume of this cluster. They may be another cluster's, or
//! what an onDelete "retain" has left: they are counted and named, never touched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::election::Leadership;
use crate::cluster::state::Catalog;
use crate::export::Export;
use crate::layout::{RootEntry, classify};
use crate::ledger::placements::Relation;
use crate::model::exports::{ExportId, PerExport};
use crate::observe::metrics::{self, Metrics};
use crate::storage::{Storage, StorageError};
use crate::values::path::RelPath;

/// How long after the start orphans are first counted, and how long after that again.
const PAUSES: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// How many orphans are named in the log.
const NAMED: usize = 20;

/// How many directories are looked at, at the most: a count need not be exact, but it must end.
const LOOKED_AT: usize = 100_000;

/// Counts orphans from time to time while we lead, for ever. Exports are looked at at the same time: one that does
/// not answer keeps no other waiting.
pub async fn count_forever(
    exports: PerExport<Export>,
    catalog: Arc<Catalog>,
    metrics: Metrics,
    leadership: Leadership,
) {
    let counting = |(id, export): (ExportId, &Export)| {
        count_on(id, export.clone(), Arc::clone(&catalog), metrics.clone(), leadership.clone())
    };
    futures::future::join_all(exports.iter().map(counting)).await;
}

async fn count_on(
    id: ExportId,
    export: Export,
    catalog: Arc<Catalog>,
    metrics: Metrics,
    mut leadership: Leadership,
) {
    let name = &*export.name;
    sleep(PAUSES.0).await;
    loop {
        leadership.held().await;
        match find(&export.storage, id, &catalog).await {
            Ok(orphans) => {
                let gauge = metrics.orphans.get_or_create(&metrics::export_label(name));
                gauge.set(i64::try_from(orphans.len()).unwrap_or(i64::MAX));
                if !orphans.is_empty() {
                    let named: Vec<&str> = orphans.iter().take(NAMED).map(String::as_str).collect();
                    info!(export = name, count = orphans.len(), first = ?named, "directories on the export belong to no volume of this cluster");
                }
            }
            Err(error) => warn!(export = name, %error, "failed to look for directories that belong to no volume"),
        }
        sleep(PAUSES.1).await;
    }
}

/// Finds the orphans of an export: all directories that are neither a volume's, nor above one, nor ours, nor
/// archives.
///
/// # Errors
/// If a directory cannot be listed.
pub async fn find(storage: &Storage, export: ExportId, catalog: &Catalog) -> Result<Vec<String>, StorageError> {
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
            match (RelPath::parse(&path), catalog.at_or_beneath(export, &path)) {
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
    use k8s_openapi::api::core::v1::PersistentVolume;
    use serde_json::json;

    use super::*;
    use crate::decide::Scope;
    use crate::model::exports::Exports;
    use crate::model::volume::Volume;
    use crate::storage::Root;
    use crate::values::address::ExportAddress;

    fn volume(path: &str) -> Volume {
        let object: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": format!("pv-{}", path.replace('/', "-"))},
            "spec": {"nfs": {"server": "nas", "path": format!("/export/{path}")}},
        }))
        .unwrap();
        Volume::read(&object)
    }

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
        let scope = Scope {
            provisioner: "us".to_owned(),
            exports: Exports::single(ExportAddress::new("nas".into(), "/export".into())),
            share: false,
            may_patch: false,
        };
        let only = scope.exports.locate("nas", "/export/flat").unwrap().export;
        let catalog = Catalog::new(Arc::new(scope));
        for path in ["flat", "team/data", "missing/data"] {
            catalog.heard_of(&volume(path));
        }
        let storage = Storage::from(Root::open(dir.path()).unwrap());
        let mut orphans = find(&storage, only, &catalog).await.unwrap();
        orphans.sort();
        assert_eq!(orphans, ["left", "team/left"]);
    }
}
