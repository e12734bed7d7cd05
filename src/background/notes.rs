//! Keeps the notes of volumes complete: writes those that lack, of volumes that were made before there were notes or
//! while none could be written, and removes those whose volumes and directories are both gone.
//!
//! Notes inform, and nothing waits for them, so this has all the time that there is: claims go first.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::cluster::api::Cluster;
use crate::cluster::election::Leadership;
use crate::controllers::context::Context;
use crate::controllers::records::Records;
use crate::decide::record;
use crate::decide::volume::located;
use crate::export::Export;
use crate::layout::{ClusterMark, Note, TrashName};
use crate::model::exports::{ExportId, Location};
use crate::model::volume::Volume;
use crate::observe::metrics;
use crate::storage::{ListOf, Storage, StorageError};
use crate::values::names::VolumeName;
use crate::values::text::fnv1a;

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
        let mut keeper = Keeper { context: &context, id, export, verified: HashMap::new() };
        let (leading, alive) = (leadership.clone(), leadership.clone());
        let context = &context;
        async move {
            futures::join!(keeper.keep(leading), show_alive(context, export, alive));
        }
    });
    futures::future::join_all(keeping).await;
}

/// Shows others who share an export that this cluster's volumes are looked after, for as long as we lead. Never waits for
/// anything else: a cluster that is silent counts as gone.
async fn show_alive(context: &Context, export: &Export, mut leadership: Leadership) {
    loop {
        leadership.held().await;
        let (mark, storage) = (context.records.mark(), &export.storage);
        // Where none are wanted, a class may still have some.
        if context.records.wanted || matches!(storage.last_alive(&mark).await, Ok(Some(_))) {
            // What is wrong with the export, others say.
            let _ = storage.show_alive(&mark).await;
        }
        sleep(ALIVE).await;
    }
}

/// Who keeps the notes on one export.
struct Keeper<'a> {
    context: &'a Context,
    id: ExportId,
    export: &'a Export,
    /// Of the volumes whose notes were found or written: the notes, as hashes.
    verified: HashMap<VolumeName, u64>,
}

/// The volumes of the cluster by name; of each that is to have a note on the export, the note as a hash.
type Known = HashMap<VolumeName, Option<u64>>;

impl Keeper<'_> {
    async fn keep(&mut self, mut leadership: Leadership) {
        sleep(PAUSES.0).await;
        loop {
            leadership.held().await;
            learn_mark(&self.context.cluster, &self.context.records).await;
            if let Err(error) = self.pass().await {
                warn!(export = &*self.export.name, %error, "failed to bring the notes of volumes up to date");
            }
            sleep(PAUSES.1).await;
        }
    }

    /// Looks once for notes that lack or are not up to date, and for those that nobody needs any more.
    async fn pass(&mut self) -> anyhow::Result<()> {
        let (known, restored) = self.known().await?;
        self.say(&self.context.metrics.volumes_restored, restored);
        let (mark, storage) = (self.context.records.mark(), &self.export.storage);
        let noted = noted(storage, &mark).await?;
        self.verified.retain(|name, _| noted.contains(name.as_str()) && known.contains_key(name));
        let mut missing =
            known.iter().filter(|(name, hash)| hash.is_some() && !noted.contains(name.as_str())).count();
        self.say_missing(missing);
        let mut written = 0_usize;
        for (name, hash) in known.iter().filter_map(|(name, hash)| Some((name, (*hash)?))) {
            if self.verified.get(name) == Some(&hash) {
                continue;
            }
            self.wait().await;
            let was_there = noted.contains(name.as_str());
            // One that cannot be written keeps no other from it.
            match self.write(name, &mark).await {
                Ok(wrote) => {
                    written += usize::from(wrote);
                    missing = missing.saturating_sub(usize::from(wrote && !was_there));
                    self.verified.insert(name.clone(), hash);
                    self.say_missing(missing);
                }
                Err(error) => {
                    debug!(volume = name.as_str(), %error, "failed to bring the volume's note up to date");
                }
            }
        }
        if written > 0 {
            info!(
                export = &*self.export.name,
                count = written,
                "wrote notes of volumes that had none, or an old one"
            );
        }
        self.tidy(&known, &noted, &mark).await?;
        Ok(())
    }

    fn say_missing(&self, missing: usize) {
        self.say(&self.context.metrics.notes_missing, missing);
    }

    fn say(&self, gauges: &metrics::ExportGauges, number: usize) {
        let gauge = gauges.get_or_create(&metrics::export_label(&self.export.name));
        gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
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

    /// Lists the volumes, and counts those of ours on this export that were restored.
    async fn known(&self) -> anyhow::Result<(Known, usize)> {
        let (mark, scope) = (self.context.records.mark(), &self.context.scope);
        let (mut known, mut restored) = (Known::new(), 0);
        let is_here = |volume: &Volume| located(volume, &scope.exports).is_ok_and(|at| at.export == self.id);
        let learn = |volume: Volume| {
            let hash = self.note(&volume, &mark).map(|(_, note)| {
                let said = Note { created: None, ..note };
                fnv1a(said.to_json().as_bytes())
            });
            let is_restored = volume.restored_from.is_some() && volume.is_of(&scope.provisioner);
            restored += usize::from(is_restored && is_here(&volume));
            known.insert(volume.name, hash);
        };
        self.context.cluster.volumes(learn).await?;
        Ok((known, restored))
    }

    /// Returns where a volume lies, and the note that it is to have; `None` if it is not ours, not on this export, or
    /// is to have none.
    fn note(&self, volume: &Volume, mark: &ClusterMark) -> Option<(Location, Note)> {
        let Context { scope, state, records, .. } = self.context;
        let class = state.class(&volume.class);
        let is_wanted = volume.is_of(&scope.provisioner)
            && volume.disposed.is_none()
            && record::is_wanted(class.as_deref(), records.wanted);
        let at = located(volume, &scope.exports).ok().filter(|at| is_wanted && at.export == self.id)?;
        let note = record::of_volume(volume, &at, mark);
        Some((at, note))
    }

    /// Writes the note of a volume as it is now, if it is still there with its directory and the note does not say so
    /// already. Returns whether it has.
    async fn write(&self, name: &VolumeName, mark: &ClusterMark) -> anyhow::Result<bool> {
        let Some(volume) = self.context.cluster.volume(name).await? else { return Ok(false) };
        let Some((at, note)) = self.note(&volume, mark) else { return Ok(false) };
        let found = self.export.storage.note_of_volume(mark, name.as_str()).await;
        if matches!(found, Ok(Some(Ok(found))) if record::is_current(&found, &note) && found.owners.is_some()) {
            return Ok(false);
        }
        let Some(seen) = self.export.storage.look(&at.path).await? else { return Ok(false) };
        self.export.storage.record(mark, Note { owners: Some(seen.owners), ..note }).await?;
        Ok(true)
    }

    /// Removes notes whose volumes and directories are gone, and those that were written before the mark was known.
    async fn tidy(&self, known: &Known, noted: &HashSet<Box<str>>, mark: &ClusterMark) -> anyhow::Result<()> {
        let storage = &self.export.storage;
        let left: Vec<_> = noted.iter().filter(|name| !known.contains_key(&VolumeName::from(&***name))).collect();
        let in_trash = if left.is_empty() { HashSet::new() } else { trashed(storage).await? };
        for name in left {
            self.wait().await;
            // What cannot be looked at stays.
            if in_trash.contains(name) {
                continue;
            }
            match self.end_of(name, mark).await {
                Ok(End::Gone) => storage.forget(mark, name).await?,
                Ok(End::Left(note)) => storage.record(mark, *note).await?,
                Ok(End::Unclear) => {}
                Err(error) => debug!(volume = &**name, %error, "failed to look whether the note is needed"),
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

    /// Finds what has become of a volume that a list has not shown. It must be ours and not of late, and the API server
    /// must have no such volume. What is no note that we can read is left.
    async fn end_of(&self, name: &str, mark: &ClusterMark) -> anyhow::Result<End> {
        let storage = &self.export.storage;
        let Some(Ok(note)) = storage.note_of_volume(mark, name).await? else { return Ok(End::Unclear) };
        let now = Timestamp::now();
        let is_young = note.created.is_none_or(|created| now.duration_since(created) < YOUNG);
        let is_ours = note.provisioner.as_deref() == Some(&*self.context.scope.provisioner);
        if !is_ours || is_young || self.context.cluster.volume(&name.into()).await?.is_some() {
            return Ok(End::Unclear);
        }
        if storage.look(&note.directory).await?.is_none() {
            return Ok(End::Gone);
        }
        // A note without owners is that of a volume which nobody has seen: what lies there may never have been its.
        let was_seen = note.owners.is_some() && note.released.is_none();
        Ok(if was_seen { End::Left(Box::new(Note { released: Some(now), ..note })) } else { End::Unclear })
    }
}

/// What has become of a volume that is not there any more.
enum End {
    /// Its directory is gone, too, and nobody needs the note.
    Gone,
    /// Its directory is there, and the note is to say since when nobody has it.
    Left(Box<Note>),
    /// Nothing is certain.
    Unclear,
}

/// Lists the names of the volumes that a cluster has notes of.
///
/// # Errors
/// Returns an error if they cannot be listed.
pub async fn noted(storage: &Storage, mark: &ClusterMark) -> Result<HashSet<Box<str>>, StorageError> {
    let mut names = HashSet::new();
    for number in ListOf::NUMBERS {
        let of = ListOf::Volumes(number, mark.clone());
        storage.each_entry(&of, |name, _| names.extend([name.into_boxed_str()])).await?;
    }
    Ok(names)
}

/// Lists the names of the volumes that have directories in the trash.
///
/// # Errors
/// Returns an error if they cannot be listed.
pub async fn trashed(storage: &Storage) -> Result<HashSet<Box<str>>, StorageError> {
    let mut volumes = HashSet::new();
    for of in ListOf::NUMBERS.map(ListOf::Trash).chain([ListOf::Root]) {
        let read = |name: &str| if of == ListOf::Root { TrashName::at_root(name) } else { name.parse().ok() };
        let add = |name: String, _| volumes.extend(read(&name).map(|name| Box::from(name.volume())));
        storage.each_entry(&of, add).await?;
    }
    Ok(volumes)
}
