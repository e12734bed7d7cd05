//! Reclaims volumes whose claims are gone: archives, trashes or keeps the directory, then deletes the volume.
//!
//! A crash before the directory is archived or trashed, which is one rename, leaves the directory where it was; a
//! crash after it leaves a volume without a directory, which the next round deletes.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use crate::cluster::api::{ApiError, Gone};
use crate::cluster::election::Leadership;
use crate::controllers::confirm::{Proof, confirm, know_neighbours};
use crate::controllers::context::{Context, Slot};
use crate::controllers::records::NOTE_MAX;
use crate::controllers::volume_outcome::{Disposal, Unread, VolumeOutcome, VolumeRound};
use crate::decide::record;
use crate::decide::volume::{Doubt, Retentions, VolumeFacts, VolumePlan, for_volume};
use crate::export::Export;
use crate::failpoint::Failpoint;
use crate::layout::Note;
use crate::ledger::Departure;
use crate::model::exports::Location;
use crate::model::parameters::Fate;
use crate::model::volume::Volume;
use crate::queue::{Next, RetryReason};
use crate::storage::{Problem, State, StorageError, explain};
use crate::values::names::VolumeName;
use crate::values::retention::Retention;
use crate::values::time::{seconds_now, timestamp};

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
        self.context.report(&*volume, outcome.report(&told))
    }

    /// Reads, decides and acts.
    async fn round(&self, round: &mut Round<'_>, slot: &mut Slot) -> VolumeOutcome {
        let (volume, cluster) = (round.volume, &self.context.cluster);
        let class = self.context.state.class(&volume.class);
        let plan = for_volume(&VolumeFacts { volume, class: class.as_deref() }, &self.context.scope);
        match &plan {
            VolumePlan::Ignore(why) => VolumeOutcome::Ignored(*why),
            VolumePlan::Refuse(refusal) => VolumeOutcome::Refused(refusal.clone()),
            VolumePlan::Protect => patched("add the finalizer to", cluster.protect(volume).await),
            VolumePlan::Unprotect => patched("remove the finalizer from", cluster.unprotect(volume).await),
            VolumePlan::Delete => self.delete_disposed(round, &plan).await.unwrap_or_else(|ended| ended),
            VolumePlan::LetGo => match cluster.unprotect(volume).await {
                Ok(()) => {
                    self.context.state.reclaimed(volume);
                    VolumeOutcome::LetGo
                }
                Err(error) => VolumeOutcome::FailedToPatch("remove the finalizer from", error),
            },
            VolumePlan::Reclaim { at, doubt, .. } => {
                round.at = Some(at.clone());
                round.doubt.clone_from(doubt);
                self.reclaim(round, &plan, slot).await.unwrap_or_else(|ended| ended)
            }
        }
    }

    /// Disposes of the directory, then deletes the volume. The volume stays if anything goes wrong before that.
    async fn reclaim(
        &self,
        round: &Round<'_>,
        plan: &VolumePlan,
        slot: &mut Slot,
    ) -> Result<VolumeOutcome, VolumeOutcome> {
        let VolumePlan::Reclaim { at, fate, retentions, .. } = plan else { return Err(VolumeOutcome::Changed) };
        let volume = round.volume;
        if round.failures > 0 {
            // What could be found out in vain is cheap; to list all volumes is not.
            self.usable(at, *fate)?;
            confirm(&self.context, volume, plan).await?;
        }
        self.is_no_source(round)?;
        let known = know_neighbours(&self.context, &self.leadership, &volume.name).await;
        known.map_err(|error| VolumeOutcome::FailedToRead(Unread::Volumes, error))?;
        // Before it departs: from then on it has no say in what others do to the directory.
        let proof = confirm(&self.context, volume, plan).await?;
        let departure = self.depart(round, at).await?;
        let disposal = if let Some(neighbour) = departure.neighbours().first() {
            Disposal::Shared(neighbour.clone())
        } else {
            let disposing = self.dispose(at, *fate, retentions, &proof);
            let disposed = self.context.wait(slot, &**volume, at.export, disposing).await;
            departure.moved();
            disposed.map_err(|error| self.failed_to_dispose(at, *fate, &error))?
        };
        let done = disposal.words(at.path.as_str());
        self.context.state.disposed(&proof.volume, &done);
        Failpoint::DirectoryDisposed.passed();
        if !proof.holds() {
            // The server has taken its time. The next round reads the volume anew before it deletes that.
            return Err(VolumeOutcome::Changed);
        }
        // What is kept in the trash keeps its note.
        let is_put_away = matches!(disposal, Disposal::Archived(..) | Disposal::Removed);
        let forgetting = async {
            if is_put_away {
                self.context.records.remove(self.context.export(at), volume.name.as_str()).await;
            }
        };
        let (deleted, ()) = futures::join!(self.delete(&proof.volume, disposal, &done), forgetting);
        departure.complete();
        deleted
    }

    /// Deletes a volume whose directory has been disposed of by an earlier round.
    async fn delete_disposed(&self, round: &Round<'_>, plan: &VolumePlan) -> Result<VolumeOutcome, VolumeOutcome> {
        let Proof { volume, .. } = confirm(&self.context, round.volume, plan).await?;
        let done = volume.disposed.clone().unwrap_or_default();
        self.delete(&volume, Disposal::Before(done.clone()), &done).await
    }

    /// Makes sure that the export can be used, as far as is known without asking it.
    fn usable(&self, at: &Location, fate: Fate) -> Result<(), VolumeOutcome> {
        let state = self.context.export(at).storage.state();
        if let (State::Unusable(error), true) = (state, fate != Fate::Retain) {
            return Err(self.failed_to_dispose(at, fate, &error));
        }
        Ok(())
    }

    /// Lets a volume stay that a claim waits to be a copy of.
    fn is_no_source(&self, round: &Round<'_>) -> Result<(), VolumeOutcome> {
        self.context.state.begin_reign(self.leadership.since());
        let Some(claim) = self.context.state.waits_for_copy(round.volume) else { return Ok(()) };
        Err(VolumeOutcome::WaitsForCopy { claim, is_said: RetryReason::Neighbour.is_worth_saying(round.failures) })
    }

    /// Finds out who else uses the directory. If no volume does, the directory is ours to move, and no claim is
    /// given it meanwhile.
    async fn depart(&self, round: &Round<'_>, at: &Location) -> Result<Departure, VolumeOutcome> {
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
            self.context.state.ledger().forget_neighbour(neighbour);
        }
    }

    /// Archives, trashes or keeps the directory, as `fate` says, for as long as `retentions` say.
    async fn dispose(
        &self,
        at: &Location,
        fate: Fate,
        retentions: &Retentions,
        proof: &Proof,
    ) -> Result<Disposal, StorageError> {
        let Export { storage, backlog, .. } = self.context.export(at);
        let Proof { volume, until } = proof;
        let storage = storage.clone().until(*until);
        let name = volume.name.as_str();
        Ok(match fate {
            Fate::Retain => {
                self.note_release(volume, at).await;
                Disposal::Kept
            }
            Fate::Delete => {
                let keep = retentions.trash.as_ref();
                if keep.is_some() {
                    self.note_release(volume, at).await;
                }
                let Some(entry) = storage.trash(&at.path, name, seconds_now(), keep).await? else {
                    return Ok(Disposal::Missing(fate));
                };
                backlog.pushed();
                entry.kept_until().map_or(Disposal::Removed, |until| {
                    let (path, until) = (entry.path().into(), timestamp(until));
                    Disposal::Trashed { path, until }
                })
            }
            Fate::Archive => {
                let note = self.note(volume, at, retentions.archive);
                match storage.archive(&at.path, name, &note).await? {
                    Some(archive) => {
                        self.context.restorable.forget(at.export, archive.as_str());
                        Disposal::Archived(archive, note.kept_until)
                    }
                    None => Disposal::Missing(fate),
                }
            }
        })
    }

    /// Notes that the claim has gone while the directory stays on the export, here or in the trash.
    async fn note_release(&self, volume: &Volume, at: &Location) {
        let records = &self.context.records;
        let note = record::of_volume(volume, at, &records.mark());
        let export = self.context.export(at);
        // The proof that it may be moved does not last long.
        let seen = timeout(NOTE_MAX / 2, export.storage.look(&at.path)).await;
        let (owners, inode) = match seen {
            Ok(Ok(Some(seen))) => (Some(seen.owners), Some(seen.inode)),
            _ => (None, None),
        };
        records.write(export, Note { released: Some(Timestamp::now()), owners, inode, ..note }).await;
    }

    /// Returns a note that tells those who find an archive whose it was, and until when it is kept.
    fn note(&self, volume: &Volume, at: &Location, retention: Option<Retention>) -> Note {
        let archived = Timestamp::now();
        let note = record::of_archive(volume, at, &self.context.records.mark(), archived);
        Note { kept_until: retention.map(|retention| retention.after(archived)), ..note }
    }

    fn failed_to_dispose(&self, at: &Location, fate: Fate, error: &StorageError) -> VolumeOutcome {
        if error.problem == Problem::NotLeading {
            return VolumeOutcome::NotLeading;
        }
        if error.problem == Problem::TooLate {
            return VolumeOutcome::TookTooLong;
        }
        VolumeOutcome::FailedToDispose { fate, words: explain(error, &self.context.export(at).address) }
    }

    /// Deletes the volume after its directory was disposed of, which is `done` in words.
    async fn delete(
        &self,
        volume: &Volume,
        disposal: Disposal,
        done: &str,
    ) -> Result<VolumeOutcome, VolumeOutcome> {
        if !self.leadership.is_held() {
            return Err(VolumeOutcome::NotLeading);
        }
        match self.note_and_delete(volume, done).await {
            Ok(()) => Ok(VolumeOutcome::Reclaimed(disposal)),
            Err(error) => Err(VolumeOutcome::FailedToDelete(disposal, error)),
        }
    }

    /// Notes on the volume what was done to its directory, so that whatever lies at its path later is never taken
    /// for it; removes our finalizer; and deletes the volume. The finalizer goes first: once the volume is deleted,
    /// the controller manager removes its own, and one of the two would have to try again.
    async fn note_and_delete(&self, volume: &Volume, done: &str) -> Result<(), ApiError> {
        let cluster = &self.context.cluster;
        if volume.finalizer {
            cluster.dispose(volume, done).await?;
            Failpoint::VolumeReleased.passed();
        }
        let deleted = cluster.delete_volume(volume).await;
        if deleted.is_err() && self.context.scope.may_patch.is_granted() && !volume.finalizer {
            // It costs a request that is not worth it where the volume goes. This process remembers it.
            let _ = cluster.dispose(volume, done).await;
        }
        let gone = deleted?;
        Failpoint::VolumeDeleted.passed();
        match gone {
            Gone::Now => self.context.state.reclaimed(volume),
            Gone::Before => self.context.state.forget_volume(volume),
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
