//! Reclaims volumes whose claims have gone: does to the directory what the class says, then deletes the volume.
//!
//! What a crash leaves behind: before the directory is archived or removed, everything; in the middle of a
//! removal, the rest of the tree, which the next round removes; after it, a volume without a directory, which the
//! next round deletes.

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::cluster::api::{ApiError, Gone};
use crate::cluster::election::Leadership;
use crate::cluster::events::Reason;
use crate::cluster::state::Key;
use crate::controllers::context::{Context, Slot};
use crate::decide::{Doubt, VolumePlan, VolumeRefusal, for_volume};
use crate::export::Export;
use crate::failpoint::Failpoint;
use crate::layout::Note;
use crate::ledger::placements::Neighbour;
use crate::model::exports::Location;
use crate::model::parameters::Fate;
use crate::model::volume::Volume;
use crate::observe::metrics;
use crate::queue::{Next, RetryReason};
use crate::storage::{Problem, StorageError, explain};
use crate::values::time::milliseconds;
use crate::values::time::seconds_now;

/// Whose an archive was, for those who find it.
fn note(volume: &Volume, directory: &Location) -> Note {
    let claim = volume.claim.as_ref();
    Note {
        directory: directory.path.clone(),
        volume: volume.name.clone(),
        class: volume.class.clone(),
        namespace: claim.map(|claim| claim.namespace.clone()),
        claim: claim.map(|claim| claim.name.clone()),
        claim_uid: None,
        archived: jiff::Timestamp::now(),
        capacity: None,
        access_modes: Vec::new(),
        gid: None,
        provisioner: None,
    }
}

/// The claim that a volume was made for, for the log.
fn claim(volume: &Volume) -> Option<String> {
    volume.claim.as_ref().map(|claim| format!("{}/{}", claim.namespace, claim.name))
}

/// What was done to a volume's directory.
struct Done {
    /// In words, for log and events.
    words: String,
    /// Whether it was left where it is because others have a part in it.
    shared: bool,
}

impl Done {
    fn shared(directory: &Location, neighbour: &Neighbour) -> Self {
        let Neighbour { volume, relation, .. } = neighbour;
        let because = format!("the volume {:?} has {relation}: the last of them to go decides", &**volume);
        Self { words: format!("kept {:?}, because {because}", directory.path.as_str()), shared: true }
    }
}

/// What is to be done with a volume's directory.
#[derive(Clone, Copy)]
struct Order<'a> {
    directory: &'a Location,
    fate: Fate,
    doubt: Option<&'a Doubt>,
}

/// The volumes' side of the program.
#[derive(Debug)]
pub struct Reclaimer {
    context: Context,
    leadership: Leadership,
}

impl Reclaimer {
    /// Puts it together from its parts.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership) -> Self {
        Self { context, leadership }
    }

    /// One round for the volume of this name, which has failed `failures` times in a row.
    pub async fn reconcile(&self, name: Key, failures: u32, slot: &mut Slot) -> Next {
        let Some(volume) = self.context.catalog.volume(&name) else { return Next::Done };
        let class = self.context.catalog.class(&volume.class);
        match for_volume(&volume, class.as_deref(), &self.context.scope) {
            VolumePlan::Ignore(why) => {
                debug!(volume = %name, ?why, "ignored");
                Next::Done
            }
            VolumePlan::Refuse(refusal) => self.refuse(&volume, &refusal).await,
            VolumePlan::Protect => Self::patched(&volume, "protect", self.context.cluster.protect(&volume).await),
            VolumePlan::Unprotect => {
                Self::patched(&volume, "unprotect", self.context.cluster.unprotect(&volume).await)
            }
            VolumePlan::Reclaim { directory, fate, doubt } => {
                let order = Order { directory: &directory, fate, doubt: doubt.as_ref() };
                let after = self.reclaim(&name, &volume, order, failures, slot).await;
                if after != Next::Done {
                    self.context.catalog.stay(&name);
                }
                after
            }
        }
    }

    fn patched(volume: &Volume, doing: &str, result: Result<(), ApiError>) -> Next {
        match result {
            Ok(()) => Next::Done,
            Err(error) if error.is_not_found() => Next::Done,
            Err(error) => {
                warn!(volume = &*volume.name, %error, "failed to {doing} the volume");
                Next::Retry(RetryReason::ApiServer)
            }
        }
    }

    async fn refuse(&self, volume: &Volume, refusal: &VolumeRefusal) -> Next {
        let (claim, path) = (claim(volume), volume.source.as_ref().map(|source| &*source.path));
        warn!(claim, volume = &*volume.name, class = &*volume.class, path, reason = %refusal, "refused");
        self.context.metrics.volumes_refused.get_or_create(&metrics::reason(refusal.reason())).inc();
        self.context.recorder.record(volume, Reason::VolumeFailedDelete, refusal.to_string()).await;
        // Where a volume is never changes.
        Next::Done
    }

    async fn reclaim(
        &self,
        name: &Key,
        volume: &Volume,
        Order { directory, fate, doubt }: Order<'_>,
        failures: u32,
        slot: &mut Slot,
    ) -> Next {
        let started = Instant::now();
        let done = match self.neighbours(name, directory, failures).await {
            Ok(Some(neighbour)) => Ok(Done::shared(directory, &neighbour)),
            Ok(None) => {
                let disposing = self.dispose(volume, directory, fate);
                self.context.wait(slot, volume, directory.export, disposing).await
            }
            Err(after) => return after,
        };
        self.context.catalog.moved(name);
        Failpoint::DirectoryDisposed.passed();
        let Done { words: done, shared } = match done {
            Ok(done) => done,
            Err(error) if error.problem == Problem::NotLeading => return Next::PutBack,
            Err(error) => {
                let error = explain(&error, &self.export(directory).source);
                self.context.metrics.deletions.failed(self.class_label(volume));
                error!(
                    claim = claim(volume),
                    volume = &*volume.name,
                    class = &*volume.class,
                    export = &*self.export(directory).name,
                    path = directory.path.as_str(),
                    milliseconds = milliseconds(started.elapsed()),
                    error,
                    "failed to {fate} the directory"
                );
                self.context.recorder.record(volume, Reason::VolumeFailedDelete, error).await;
                return Next::Retry(RetryReason::Export);
            }
        };
        if !self.leadership.is_held() {
            return Next::PutBack;
        }
        if let Err(error) = self.delete(name, volume).await {
            self.context.metrics.deletions.failed(self.class_label(volume));
            error!(
                claim = claim(volume), volume = &*volume.name, class = &*volume.class,
                export = &*self.export(directory).name, path = directory.path.as_str(), %done,
                milliseconds = milliseconds(started.elapsed()), %error, "failed to delete the volume"
            );
            let message = format!("{done}, but the volume could not be deleted: {error}");
            self.context.recorder.record(volume, Reason::VolumeFailedDelete, message).await;
            return Next::Retry(RetryReason::ApiServer);
        }
        info!(
            claim = claim(volume), volume = &*volume.name, class = &*volume.class, export = &*self.export(directory).name,
            path = directory.path.as_str(), %done, milliseconds = milliseconds(started.elapsed()), "reclaimed"
        );
        self.context.metrics.deletions.succeeded(self.class_label(volume), started.elapsed());
        let what = if shared { "shared" } else { fate.as_str() };
        self.context.metrics.volumes_reclaimed.get_or_create(&metrics::directory(what)).inc();
        // What an admin would not expect.
        if shared {
            self.context.recorder.record(volume, Reason::VolumeDirectoryKept, done).await;
        } else if let Some(doubt) = doubt {
            warn!(volume = &*volume.name, %doubt, %done, "it was not clear how to reclaim the volume");
            self.context
                .recorder
                .record(volume, Reason::VolumeReclaimUnclear, format!("{done}, because {doubt}"))
                .await;
        }
        Next::Done
    }

    /// The name of the volume's class, if there is one of that name: anybody may write others on a volume.
    fn class_label<'a>(&self, volume: &'a Volume) -> &'a str {
        if self.context.catalog.class(&volume.class).is_some() { &volume.class } else { "" }
    }

    /// Finds a volume that has a part in the directory, and so keeps it where it is; after `None` the directory is
    /// ours to move, and nobody is given it meanwhile.
    ///
    /// What the watch has brought is at least as new as this volume's own release. That is enough, unless that was
    /// long ago, or seen by another leader: then all volumes are read once, for all that ask at that time.
    async fn neighbours(
        &self,
        name: &Key,
        directory: &Location,
        failures: u32,
    ) -> Result<Option<Neighbour>, Next> {
        let since = if failures > 0 { Some(Instant::now()) } else { self.leadership.since() };
        if let Some(since) = since
            && let Err(error) = self.context.refresh(since).await
        {
            warn!(volume = %name, %error, "failed to read which volumes there are");
            return Err(Next::Retry(RetryReason::ApiServer));
        }
        loop {
            let Some(left) = self.context.catalog.depart(name, directory) else {
                debug!(volume = %name, "its directory is being copied");
                return Err(Next::Retry(RetryReason::Neighbour));
            };
            let Some(neighbour) = left.into_iter().next() else { return Ok(None) };
            if !neighbour.exists {
                debug!(volume = %name, "a claim is just being given the directory");
                return Err(Next::Retry(RetryReason::Neighbour));
            }
            // A volume that has gone must not keep the directory for ever.
            match self.context.cluster.volume(&neighbour.volume).await {
                Ok(Some(_)) => return Ok(Some(neighbour)),
                Ok(None) => self.context.catalog.forget_volume(&neighbour.volume),
                Err(error) => {
                    warn!(volume = %name, %error, "failed to find out whether another volume has the directory");
                    return Err(Next::Retry(RetryReason::ApiServer));
                }
            }
        }
    }

    /// Deletes the volume, after it has taken our finalizer off, if it has that: once it is deleted, the controller
    /// manager takes off its own at the same time, and one of the two would have to try again.
    async fn delete(&self, name: &Key, volume: &Volume) -> Result<(), ApiError> {
        if volume.finalizer {
            self.context.cluster.unprotect(volume).await?;
            Failpoint::VolumeReleased.passed();
        }
        let gone = self.context.cluster.delete_volume(volume).await?;
        Failpoint::VolumeDeleted.passed();
        match gone {
            Gone::Now => self.context.catalog.reclaimed(volume),
            Gone::Before => self.context.catalog.forget_volume(name),
        }
        Ok(())
    }

    fn export(&self, directory: &Location) -> &Export {
        self.context.exports.get(directory.export)
    }

    /// Does to the directory what `fate` says, and tells what was done.
    async fn dispose(&self, volume: &Volume, directory: &Location, fate: Fate) -> Result<Done, StorageError> {
        let Export { storage, backlog, .. } = self.export(directory);
        let path = &directory.path;
        let directory_shown = path.as_str();
        let words = match fate {
            Fate::Retain => format!("kept {directory_shown:?}"),
            Fate::Delete => match storage.trash(path, &volume.name, seconds_now()).await? {
                Some(_) => {
                    backlog.pushed();
                    format!("removed {directory_shown:?}")
                }
                None => format!("found no directory {directory_shown:?}"),
            },
            Fate::Archive => match storage.archive(path, &volume.name, &note(volume, directory)).await? {
                Some(archive) => format!("archived {directory_shown:?} as {:?}", archive.as_str()),
                None => format!("found no directory {directory_shown:?}"),
            },
        };
        Ok(Done { words, shared: false })
    }
}
