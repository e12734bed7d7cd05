//! Reclaims volumes whose claims are gone: archives, trashes or keeps the directory, then deletes the volume.
//!
//! A crash before the directory is archived or trashed, which is one rename, leaves the directory where it was; a
//! crash after it leaves a volume without a directory, which the next round deletes.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::api::{ApiError, Gone};
use crate::cluster::election::Leadership;
use crate::controllers::context::{Context, Slot};
use crate::controllers::volume_outcome::{Disposal, Unread, VolumeOutcome, VolumeRound};
use crate::decide::volume::{Doubt, VolumeFacts, VolumePlan, for_volume};
use crate::export::Export;
use crate::failpoint::Failpoint;
use crate::layout::Note;
use crate::ledger::Departure;
use crate::model::exports::Location;
use crate::model::parameters::Fate;
use crate::model::volume::Volume;
use crate::queue::Next;
use crate::storage::{Problem, StorageError, explain};
use crate::values::names::VolumeName;
use crate::values::time::seconds_now;

/// The controller of volumes.
#[derive(Debug)]
pub struct Reclaimer {
    context: Context,
    leadership: Leadership,
}

/// The volume of a round, and how the round has gone so far.
struct Round<'a> {
    volume: &'a Arc<Volume>,
    at: Option<Location>,
    doubt: Option<Doubt>,
    failures: u32,
    started: Instant,
}

impl Reclaimer {
    /// Assembles the controller.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership) -> Self {
        Self { context, leadership }
    }

    /// Runs one round for the volume of this name, which has failed `failures` times in a row.
    pub async fn reconcile(&self, name: VolumeName, failures: u32, slot: &mut Slot) -> Next {
        let Some(volume) = self.context.state.volume(&name) else { return Next::Done };
        let mut round = Round { volume: &volume, at: None, doubt: None, failures, started: Instant::now() };
        let outcome = self.round(&mut round, slot).await;
        let at = round.at.as_ref().map(|at| (&*self.context.export(at).name, at.path.as_str()));
        let class_exists = self.context.state.class(&volume.class).is_some();
        let (doubt, took) = (round.doubt.as_ref(), round.started.elapsed());
        let told = VolumeRound { volume: &volume, class_exists, at, doubt, took };
        self.context.report(&*volume, outcome.report(&told)).await
    }

    /// Reads, decides and acts.
    async fn round(&self, round: &mut Round<'_>, slot: &mut Slot) -> VolumeOutcome {
        let (volume, cluster) = (round.volume, &self.context.cluster);
        let class = self.context.state.class(&volume.class);
        match for_volume(&VolumeFacts { volume, class: class.as_deref() }, &self.context.scope) {
            VolumePlan::Ignore(why) => VolumeOutcome::Ignored(why),
            VolumePlan::Refuse(refusal) => VolumeOutcome::Refused(refusal),
            VolumePlan::Protect => patched("add the finalizer to", cluster.protect(volume).await),
            VolumePlan::Unprotect => patched("remove the finalizer from", cluster.unprotect(volume).await),
            VolumePlan::LetGo => match cluster.unprotect(volume).await {
                Ok(()) => {
                    self.context.state.reclaimed(volume);
                    VolumeOutcome::LetGo
                }
                Err(error) => VolumeOutcome::FailedToPatch("remove the finalizer from", error),
            },
            VolumePlan::Reclaim { at, fate, doubt } => {
                round.at = Some(at.clone());
                round.doubt = doubt;
                self.reclaim(round, &at, fate, slot).await.unwrap_or_else(|ended| ended)
            }
        }
    }

    /// Disposes of the directory, then deletes the volume. The volume stays if anything goes wrong before that.
    async fn reclaim(
        &self,
        round: &Round<'_>,
        at: &Location,
        fate: Fate,
        slot: &mut Slot,
    ) -> Result<VolumeOutcome, VolumeOutcome> {
        let volume = round.volume;
        let departure = self.depart(round, at).await?;
        let disposal = if let Some(neighbour) = departure.neighbours().first() {
            Disposal::Shared(neighbour.clone())
        } else {
            let disposing = self.dispose(volume, at, fate);
            let disposed = self.context.wait(slot, &**volume, at.export, disposing).await;
            departure.moved();
            disposed.map_err(|error| self.failed_to_dispose(at, fate, &error))?
        };
        Failpoint::DirectoryDisposed.passed();
        if !self.leadership.is_held() {
            return Err(VolumeOutcome::NotLeading);
        }
        if let Err(error) = self.delete(volume).await {
            return Err(VolumeOutcome::FailedToDelete(disposal, error));
        }
        departure.complete();
        Ok(VolumeOutcome::Reclaimed(disposal))
    }

    /// Finds out who else uses the directory. If no volume does, the directory is ours to move, and no claim is
    /// given it meanwhile.
    ///
    /// The watch has shown at least everything up to this volume's release. That is enough, unless the release was
    /// long ago, or was seen by another leader: then all volumes are read once, for all rounds that ask at that
    /// time.
    async fn depart(&self, round: &Round<'_>, at: &Location) -> Result<Departure, VolumeOutcome> {
        let since = if round.failures > 0 { Some(Instant::now()) } else { self.leadership.since() };
        if let Some(since) = since {
            let refreshed = self.context.refresh(since).await;
            refreshed.map_err(|error| VolumeOutcome::FailedToRead(Unread::Volumes, error))?;
        }
        loop {
            let departure = self.context.state.ledger().depart(&round.volume.name, at);
            let departure = departure.ok_or(VolumeOutcome::BeingCopied)?;
            let Some(neighbour) = departure.neighbours().first() else { return Ok(departure) };
            if !neighbour.exists {
                return Err(VolumeOutcome::BeingGiven);
            }
            // A volume that is gone must not keep the directory forever.
            let found = self.context.cluster.volume(&neighbour.volume).await;
            if found.map_err(|error| VolumeOutcome::FailedToRead(Unread::Neighbour, error))?.is_some() {
                return Ok(departure);
            }
            self.context.state.forget_volume(&neighbour.volume);
        }
    }

    /// Archives, trashes or keeps the directory, as `fate` says.
    async fn dispose(&self, volume: &Volume, at: &Location, fate: Fate) -> Result<Disposal, StorageError> {
        let Export { storage, backlog, .. } = self.context.export(at);
        let name = volume.name.as_str();
        Ok(match fate {
            Fate::Retain => Disposal::Kept,
            Fate::Delete => match storage.trash(&at.path, name, seconds_now()).await? {
                Some(_) => {
                    backlog.pushed();
                    Disposal::Removed
                }
                None => Disposal::Missing(fate),
            },
            Fate::Archive => match storage.archive(&at.path, name, &note(volume, at)).await? {
                Some(archive) => Disposal::Archived(archive),
                None => Disposal::Missing(fate),
            },
        })
    }

    fn failed_to_dispose(&self, at: &Location, fate: Fate, error: &StorageError) -> VolumeOutcome {
        if error.problem == Problem::NotLeading {
            return VolumeOutcome::NotLeading;
        }
        VolumeOutcome::FailedToDispose { fate, words: explain(error, &self.context.export(at).address) }
    }

    /// Deletes the volume, after removing our finalizer if the volume has it: once the volume is deleted, the
    /// controller manager removes its own finalizer at the same time, and one of the two would have to try again.
    async fn delete(&self, volume: &Volume) -> Result<(), ApiError> {
        if volume.finalizer {
            self.context.cluster.unprotect(volume).await?;
            Failpoint::VolumeReleased.passed();
        }
        let gone = self.context.cluster.delete_volume(volume).await?;
        Failpoint::VolumeDeleted.passed();
        match gone {
            Gone::Now => self.context.state.reclaimed(volume),
            Gone::Before => self.context.state.forget_volume(&volume.name),
        }
        Ok(())
    }
}

fn patched(doing: &'static str, result: Result<(), ApiError>) -> VolumeOutcome {
    match result {
        Err(error) if !error.is_not_found() => VolumeOutcome::FailedToPatch(doing, error),
        _ => VolumeOutcome::Patched,
    }
}

/// Returns a note that tells those who find an archive whose it was.
fn note(volume: &Volume, at: &Location) -> Note {
    let claim = volume.claim.as_ref();
    Note {
        directory: at.path.clone(),
        volume: volume.name.as_str().into(),
        class: volume.class.as_str().into(),
        namespace: claim.map(|claim| claim.namespace.clone()),
        claim: claim.map(|claim| claim.name.clone()),
        claim_uid: claim.map(|claim| claim.uid.as_str().into()),
        archived: Timestamp::now(),
        capacity: volume.capacity.as_ref().map(|capacity| capacity.0.as_str().into()),
        access_modes: Vec::new(),
        gid: volume.gid,
        provisioner: volume.provisioned_by.clone(),
    }
}
