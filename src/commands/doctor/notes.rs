//! Looks at the notes of volumes on an export. Where there are many, at a sample.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout_at};

use super::facts::{ClusterFacts, ExportFacts, NotesFacts, OtherCluster, Try, Volumes};
use crate::commands::adopt::SILENT;
use crate::commands::inventory::Notes;
use crate::layout::ClusterMark;
use crate::model::exports::{ExportId, Location};
use crate::storage::{ExportSpec, ListOf, Storage, StorageError};
use crate::values::names::VolumeName;
use crate::values::path::RelPath;

/// The time that the look at an export's notes may take.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// The number of notes of each cluster that are read at the most.
const READ_MAX: usize = 200;

/// The number of other clusters that are looked at, at the most.
const CLUSTERS_MAX: usize = 16;

/// The number of names that are shown of each kind.
const SHOWN: usize = 3;

/// Looks at the notes on an export that answers, until then at the latest.
pub(super) async fn look(
    id: ExportId,
    spec: &ExportSpec,
    cluster: &ClusterFacts,
    export: &mut ExportFacts,
    until: Instant,
) {
    let (Ok(mark), Ok(volumes)) = (&cluster.mark, &cluster.volumes) else { return };
    let is_open = export.tried.iter().any(|(what, result)| *what == Try::Open && result.is_ok());
    let is_refused = export.mount.as_ref().is_some_and(|mount| spec.reach.refuses(mount));
    if !is_open || is_refused || export.unanswered.is_some() {
        return;
    }
    let looked = timeout_at(until.min(Instant::now() + LOOK_MAX), notes(id, spec, mark, volumes)).await;
    export.notes = Some(match looked {
        Ok(found) => found.map_err(|error| format!("{error:#}")),
        Err(_) => Err("there was no time to look at all of them".to_owned()),
    });
}

async fn notes(
    id: ExportId,
    spec: &ExportSpec,
    mark: &ClusterMark,
    volumes: &Volumes,
) -> anyhow::Result<NotesFacts> {
    let storage = Storage::visit(spec).await?;
    let mut found = NotesFacts { is_partial: volumes.is_partial, ..NotesFacts::default() };
    let clusters = Notes::find(&storage, mark).await?;
    found.is_closed = clusters.is_partial;
    own(id, &storage, mark, volumes, &mut found).await?;
    let others = clusters.marks.into_iter().filter(|other| other != mark);
    for (number, mark) in others.enumerate() {
        if number == CLUSTERS_MAX {
            found.is_partial = true;
            break;
        }
        let last = storage.last_alive(&mark).await?;
        // What is in the future is not long ago.
        let is_silent =
            |last: SystemTime| SystemTime::now().duration_since(last).is_ok_and(|silent| silent >= SILENT);
        if last.is_some_and(|last| !is_silent(last)) {
            found.others.extend(other(id, &storage, mark, volumes).await?);
        }
    }
    Ok(found)
}

/// Compares this cluster's notes with its volumes.
async fn own(
    id: ExportId,
    storage: &Storage,
    mark: &ClusterMark,
    volumes: &Volumes,
    found: &mut NotesFacts,
) -> Result<(), StorageError> {
    let here = volumes.noted.iter().filter(|(_, at)| at.export == id);
    let mut left: HashMap<&str, &RelPath> = here.map(|(name, at)| (name.as_str(), &at.path)).collect();
    found.wanted = left.len();
    let mut to_read = Vec::new();
    for number in ListOf::NUMBERS {
        let take = |name: String, _: bool| {
            if left.remove(name.as_str()).is_some() && to_read.len() < READ_MAX {
                to_read.push(name);
            }
        };
        storage.each_entry(&ListOf::Volumes(number, mark.clone()), take).await?;
    }
    found.missing = left.len();
    let mut missing: Vec<(&str, &RelPath)> = left.into_iter().collect();
    missing.sort_unstable();
    found.first_missing = missing.iter().take(SHOWN).map(|(name, _)| VolumeName::from(*name)).collect();
    for (_, path) in missing.into_iter().take(READ_MAX) {
        found.without_directory += usize::from(matches!(storage.look(path).await, Ok(None)));
    }
    for name in to_read {
        match storage.note_of_volume(mark, &name).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => found.bad.push(format!("{name} {error}")),
            Err(error) => found.bad.push(format!("{name}: {error}")),
            // Gone since.
            Ok(None) => continue,
        }
        found.read += 1;
    }
    Ok(())
}

/// Reads notes of another cluster, those first whose volumes have names that this cluster's have, too: so it is where one
/// cluster was made from a copy of the other. None if it has none.
async fn other(
    id: ExportId,
    storage: &Storage,
    mark: ClusterMark,
    volumes: &Volumes,
) -> Result<Option<OtherCluster>, StorageError> {
    let (mut same, mut rest) = (Vec::new(), Vec::new());
    for number in ListOf::NUMBERS {
        let take = |name: String, _: bool| {
            let names =
                if volumes.ledger.exists(&VolumeName::from(name.as_str())) { &mut same } else { &mut rest };
            if names.len() < READ_MAX {
                names.push(name);
            }
        };
        storage.each_entry(&ListOf::Volumes(number, mark.clone()), take).await?;
    }
    if same.is_empty() && rest.is_empty() {
        return Ok(None);
    }
    let mut other = OtherCluster { mark, read: 0, shared: Vec::new() };
    for name in same.into_iter().chain(rest).take(READ_MAX) {
        let Ok(Some(Ok(note))) = storage.note_of_volume(&other.mark, &name).await else { continue };
        other.read += 1;
        let at = Location { export: id, path: note.directory };
        // No volume of this cluster has such a name, so that none is taken for it. A note that says since when nobody has
        // the directory there is no danger.
        let nobody = VolumeName::from(&*format!("{id}/{}", at.path));
        if note.released.is_none() && !volumes.ledger.is_alone(&nobody, &at) {
            other.shared.push(at.path.to_string());
        }
    }
    Ok(Some(other))
}
