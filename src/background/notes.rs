//! Keeps the notes of volumes complete: writes those that lack, of volumes that were made before there were notes or
//! while none could be written, and removes those whose volumes and directories are both gone.
//!
//! Notes inform, and nothing waits for them, so this has all the time that there is: claims go first.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::cluster::api::Cluster;
use crate::cluster::election::Leadership;
use crate::controllers::context::Context;
use crate::controllers::records::Records;
use crate::decide::record;
use crate::decide::volume::located;
use crate::export::Export;
use crate::layout::{ClusterMark, Note, TrashName};
use crate::model::exports::ExportId;
use crate::model::volume::Volume;
use crate::observe::metrics;
use crate::storage::{ListOf, Storage, StorageError};
use crate::values::names::VolumeName;

/// How often those who share the export are shown that a cluster's notes are kept.
pub const ALIVE: Duration = Duration::from_mins(5);

/// The time from the start to the first look for notes that lack, and from each to the next.
const PAUSES: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// How long is waited before each note that is looked at or written.
const PACE: Duration = Duration::from_millis(50);

/// How long is waited while claims wait, and how often at the most.
const COURTESY: (Duration, usize) = (Duration::from_millis(200), 50);

/// How old the note of a volume that is not there must be, for the volume not to be in the making.
const YOUNG: SignedDuration = SignedDuration::from_hours(1);

/// Reads the cluster's mark, unless it is known. Where it may not be read, the log says what to do.
pub async fn learn_mark(cluster: &Cluster, records: &Records) {
    if records.mark().is_known() {
        return;
    }
    match cluster.mark().await {
        Ok(mark) => records.learn(mark),
        Err(error) if error.is_forbidden() => info!(
            "the right to read the namespace kube-system lacks, whose uid marks this cluster's notes on exports: they are \
             kept as those of an unknown cluster. Grant \"get\" on namespaces, as rbac/rbac.yaml does"
        ),
        Err(error) => debug!(%error, "failed to read the uid of the namespace kube-system"),
    }
}

/// Keeps the notes on all exports while we lead, for ever. One that does not answer keeps no other waiting.
pub async fn keep_forever(context: Context, leadership: Leadership) {
    let keeping = context.exports.iter().map(|(id, export)| {
        let keeper = Keeper { context: &context, id, export };
        keeper.keep(leadership.clone())
    });
    futures::future::join_all(keeping).await;
}

/// Who keeps the notes on one export.
struct Keeper<'a> {
    context: &'a Context,
    id: ExportId,
    export: &'a Export,
}

/// The volumes of the cluster by name, and whether each is to have a note on the export.
type Known = HashMap<VolumeName, bool>;

impl Keeper<'_> {
    async fn keep(self, mut leadership: Leadership) {
        let mut next = Instant::now() + PAUSES.0;
        loop {
            leadership.held().await;
            if self.context.records.wanted {
                // What is wrong with the export, others say.
                let _ = self.export.storage.show_alive(&self.context.records.mark()).await;
            }
            if Instant::now() >= next {
                next = Instant::now() + PAUSES.1;
                learn_mark(&self.context.cluster, &self.context.records).await;
                if let Err(error) = self.pass().await {
                    warn!(export = &*self.export.name, %error, "failed to bring the notes of volumes up to date");
                }
            }
            sleep(ALIVE.min(next.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Looks once for notes that lack, and for those that nobody needs any more.
    async fn pass(&self) -> anyhow::Result<()> {
        let known = self.known().await?;
        let (mark, storage) = (self.context.records.mark(), &self.export.storage);
        let noted = noted(storage, &mark).await?;
        let lacking: Vec<_> =
            known.iter().filter(|(name, wanted)| **wanted && !noted.contains(name.as_str())).collect();
        let (mut missing, mut written) = (lacking.len(), 0_usize);
        self.say_missing(missing);
        for (name, _) in lacking {
            self.wait().await;
            if self.write(name, &mark).await? {
                written += 1;
                missing -= 1;
                self.say_missing(missing);
            }
        }
        if written > 0 {
            info!(export = &*self.export.name, count = written, "wrote the notes of volumes that had none");
        }
        self.tidy(&known, &noted, &mark).await?;
        Ok(())
    }

    fn say_missing(&self, missing: usize) {
        let gauge = self.context.metrics.notes_missing.get_or_create(&metrics::export_label(&self.export.name));
        gauge.set(i64::try_from(missing).unwrap_or(i64::MAX));
    }

    /// Waits for a turn: claims go first, but not for ever.
    async fn wait(&self) {
        sleep(PACE).await;
        for _ in 0..COURTESY.1 {
            if !self.context.state.is_busy() {
                return;
            }
            sleep(COURTESY.0).await;
        }
    }

    async fn known(&self) -> anyhow::Result<Known> {
        let mut known = Known::new();
        let learn = |volume: Volume| {
            let wanted = self.is_wanted(&volume);
            known.insert(volume.name, wanted);
        };
        self.context.cluster.volumes(learn).await?;
        Ok(known)
    }

    /// Tells whether a volume is ours, on this export, and is to have a note.
    fn is_wanted(&self, volume: &Volume) -> bool {
        let Context { scope, state, records, .. } = self.context;
        let is_here = || located(volume, &scope.exports).is_ok_and(|at| at.export == self.id);
        let class = state.class(&volume.class);
        volume.is_of(&scope.provisioner)
            && volume.disposed.is_none()
            && record::is_wanted(class.as_deref(), records.wanted)
            && is_here()
    }

    /// Writes the note of a volume as it is now, if it is still there with its directory.
    async fn write(&self, name: &VolumeName, mark: &ClusterMark) -> anyhow::Result<bool> {
        let Context { cluster, scope, .. } = self.context;
        let Some(volume) = cluster.volume(name).await?.filter(|volume| self.is_wanted(volume)) else {
            return Ok(false);
        };
        let Ok(at) = located(&volume, &scope.exports) else { return Ok(false) };
        let Some(seen) = self.export.storage.look(&at.path).await? else { return Ok(false) };
        let note = Note { owners: Some(seen.owners), ..record::of_volume(&volume, &at, mark) };
        self.export.storage.record(mark, note).await?;
        Ok(true)
    }

    /// Removes notes whose volumes and directories are gone, and those that were written before the mark was known.
    async fn tidy(&self, known: &Known, noted: &HashSet<Box<str>>, mark: &ClusterMark) -> anyhow::Result<()> {
        let storage = &self.export.storage;
        let left: Vec<_> = noted.iter().filter(|name| !known.contains_key(&VolumeName::from(&***name))).collect();
        let in_trash = if left.is_empty() { HashSet::new() } else { trashed(storage).await? };
        for name in left {
            self.wait().await;
            if !in_trash.contains(name) && self.is_done_with(name, mark).await? {
                storage.forget(mark, name).await?;
            }
        }
        if mark.is_known() {
            let unknown = ClusterMark::unknown();
            for name in self::noted(storage, &unknown).await? {
                if known.contains_key(&VolumeName::from(&*name)) && noted.contains(&name) {
                    self.wait().await;
                    storage.forget(&unknown, &name).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells whether nobody needs the note of a volume that a list has not shown: it is ours and not of late, the API
    /// server has no such volume, and the directory is not there either. What is no note that we can read is left.
    async fn is_done_with(&self, name: &str, mark: &ClusterMark) -> anyhow::Result<bool> {
        let storage = &self.export.storage;
        let Some(Ok(note)) = storage.note_of_volume(mark, name).await? else { return Ok(false) };
        let is_young = note.created.is_none_or(|created| Timestamp::now().duration_since(created) < YOUNG);
        if note.provisioner.as_deref() != Some(&*self.context.scope.provisioner) || is_young {
            return Ok(false);
        }
        let has_gone = self.context.cluster.volume(&name.into()).await?.is_none();
        Ok(has_gone && storage.look(&note.directory).await?.is_none())
    }
}

/// Lists the names of the volumes that a cluster has notes of.
///
/// # Errors
/// Returns an error if they cannot be listed.
pub async fn noted(storage: &Storage, mark: &ClusterMark) -> Result<HashSet<Box<str>>, StorageError> {
    let mut names = HashSet::new();
    for number in ListOf::NUMBERS {
        let Some(mut entries) = storage.entries(&ListOf::Volumes(number, mark.clone())).await? else { continue };
        loop {
            let (rest, page) = storage.page(entries).await?;
            if page.is_empty() {
                break;
            }
            names.extend(page.into_iter().map(|(name, _)| name.into_boxed_str()));
            entries = rest;
        }
    }
    Ok(names)
}

/// Lists the names of the volumes that have directories in the trash.
async fn trashed(storage: &Storage) -> Result<HashSet<Box<str>>, StorageError> {
    let mut volumes = HashSet::new();
    for number in ListOf::NUMBERS {
        let Some(mut entries) = storage.entries(&ListOf::Trash(number)).await? else { continue };
        loop {
            let (rest, page) = storage.page(entries).await?;
            if page.is_empty() {
                break;
            }
            let names = page.iter().filter_map(|(name, _)| name.parse::<TrashName>().ok());
            volumes.extend(names.map(|name| Box::from(name.volume())));
            entries = rest;
        }
    }
    Ok(volumes)
}
