//! Serves claims: makes the directory, then the volume.
//!
//! A crash before the directory is made leaves nothing; a crash after it leaves an empty directory, which the next
//! round for the same claim adopts; a crash after the volume is created leaves nothing undone: the next round
//! finds the volume. A copy is recognized by what [`Copies`] notes beside it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::cluster::api::ApiError;
use crate::cluster::election::Leadership;
use crate::cluster::events::{Reason, UnderWay};
use crate::controllers::attempts::{Attempts, Stage};
use crate::controllers::claim_copies::{ClaimCopies, copy_job};
use crate::controllers::claim_outcome::{ClaimOutcome, ClaimRound, Directory, Unread, awaited};
use crate::controllers::context::{Context, Slot};
use crate::controllers::copies::{Copies, CopyError, CopyJob};
use crate::controllers::restores::{self, Found, Restores};
use crate::controllers::take_back::TakeBack;
use crate::controllers::there::{predecessor, there};
use crate::decide::choice::There;
use crate::decide::claim::{ClaimFacts, ClaimPlan, Denial, Provision, denied, for_claim};
use crate::decide::copy::{Origin, names};
use crate::decide::record;
use crate::decide::restore::{Entry, RestoreProblem, Wish};
use crate::decide::volume::located;
use crate::failpoint::Failpoint;
use crate::ledger::{GidRequest, Reservation, ReserveError};
use crate::model::claim::{Claim, DataSource};
use crate::model::class::Class;
use crate::model::exports::{Location, PerExport};
use crate::model::parameters::{BadParameter, Fate};
use crate::model::volume::Phase;
use crate::queue::Next;
use crate::storage::{Created, StorageError, explain};
use crate::values::headroom::Headroom;
use crate::values::names::ClaimUid;
use tokio::time::Instant;

/// The controller of pending claims.
#[derive(Debug)]
pub struct Provisioner {
    context: Context,
    leadership: Leadership,
    attempts: Arc<Attempts>,
    copies: ClaimCopies,
    restores: Arc<Restores>,
    take_back: TakeBack,
}

/// An early end of a round: with an outcome, or because the claim is gone.
enum Ended {
    Outcome(ClaimOutcome),
    Gone,
}

impl From<ClaimOutcome> for Ended {
    fn from(outcome: ClaimOutcome) -> Self {
        Self::Outcome(outcome)
    }
}

impl Provisioner {
    /// Assembles the controller.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership, copies: Copies) -> Self {
        let attempts = Arc::<Attempts>::default();
        let copies = ClaimCopies::new(context.clone(), copies, Arc::clone(&attempts));
        let restores = Arc::new(Restores::new(context.clone(), leadership.clone()));
        let (ours, others) = (Arc::clone(&attempts), Arc::clone(&restores));
        let take_back = TakeBack::new(context.clone(), leadership.clone(), copies.clone(), others, ours);
        Self { context, leadership, attempts, copies, restores, take_back }
    }

    /// Tells whether a claim waits for a volume, or an attempt for it is under way.
    #[must_use]
    pub fn is_waited_for(&self, claim: &ClaimUid) -> bool {
        self.context.state.claim(claim).is_some() || self.attempts.contains(claim)
    }

    /// Runs one round for the claim with this uid, which has failed `failures` times in a row.
    pub async fn reconcile(&self, uid: ClaimUid, failures: u32, slot: &mut Slot) -> Next {
        let Some(claim) = self.context.state.claim(&uid) else { return self.take_back.forget(&uid).await };
        let mut round = Round { claim: &claim, at: None, doubt: None, failures, started: Instant::now() };
        match self.round(&mut round, slot).await {
            Ok(outcome) | Err(Ended::Outcome(outcome)) => self.report(&round, &outcome),
            Err(Ended::Gone) => self.take_back.forget(&uid).await,
        }
    }

    /// Reads, decides and acts.
    async fn round(&self, round: &mut Round<'_>, slot: &mut Slot) -> Result<ClaimOutcome, Ended> {
        let claim = round.claim;
        self.context.state.begin_reign(self.leadership.since());
        if self.attempts.has_volume(&claim.claim.uid) && self.context.state.ledger().exists(&claim.volume_name()) {
            return Ok(ClaimOutcome::AwaitsBinding);
        }
        if self.has_copy(claim).await.map_err(|error| ClaimOutcome::FailedToRead(Unread::Source, error))? {
            return Ok(ClaimOutcome::AwaitsBinding);
        }
        let class = self.class(claim).await.map_err(|error| ClaimOutcome::FailedToRead(Unread::Class, error))?;
        let origin = self.origin(claim, class.as_deref()).await;
        let origin = origin.map_err(|error| ClaimOutcome::FailedToRead(Unread::Source, error))?;
        let headroom = self.headroom(claim);
        let there = if self.attempts.export(&claim.claim.uid).is_some() {
            // It goes on where it was begun.
            self.context.exports.map(|_| There::default())
        } else {
            there(&self.context, claim, class.as_deref(), slot).await
        };
        let facts =
            ClaimFacts { claim, class: class.as_deref(), headrooms: &headroom, there: &there, origin: &origin };
        let plan = for_claim(&facts, &self.context.scope);
        let plan = self.with_wish(round, plan, &facts, slot).await?;
        self.keep_source(claim, &plan)?;
        match plan {
            ClaimPlan::Ignore(why) => Ok(ClaimOutcome::Ignored(why)),
            ClaimPlan::Refuse(refusal) => {
                let is_worth_saying = |passing| awaited(passing).is_worth_saying(round.failures);
                let is_said = refusal.passes_with().is_none_or(is_worth_saying);
                Ok(ClaimOutcome::Refused { refusal, by_neighbour: false, is_said })
            }
            ClaimPlan::Provision(provision) => {
                round.at = Some(provision.at.clone());
                round.doubt = provision.doubt.clone().map(|bad| (bad, provision.volume.fate));
                self.take_back.leave_elsewhere(claim, &provision).await?;
                let known = self.wait_for_place(round, &provision).await?;
                let provision = self.reserve(round, *provision, known, slot).await?;
                round.started = Instant::now();
                self.provision(round, &provision, slot).await
            }
        }
    }

    fn report(&self, round: &Round<'_>, outcome: &ClaimOutcome) -> Next {
        let at = round.at.as_ref().map(|at| (&*self.context.export(at).name, at.path.as_str()));
        let round = ClaimRound {
            claim: round.claim,
            provisioner: &self.context.scope.provisioner,
            class_exists: self.context.state.class(&round.claim.class).is_some(),
            at,
            doubt: round.doubt.as_ref(),
            took: round.started.elapsed(),
        };
        let claim = &round.claim.claim;
        if let Some((reason, message)) = outcome.warning(&round) {
            self.context.recorder.record(claim, reason, &message);
        }
        self.context.report(claim, outcome.report(&round))
    }

    /// Finds the claim's class. If the watch has not shown the class, asks the API server, because a refusal must
    /// be true.
    async fn class(&self, claim: &Claim) -> Result<Option<Arc<Class>>, ApiError> {
        match self.context.state.class(&claim.class) {
            Some(class) => Ok(Some(class)),
            None => Ok(self.context.cluster.class(&claim.class).await?.map(Arc::new)),
        }
    }

    /// Finds the source of a claim that is to be a copy. Asks nothing about claims that are not for us to serve.
    async fn origin(&self, claim: &Claim, class: Option<&Class>) -> Result<Origin, ApiError> {
        if let Some(known) = self.attempts.source(&claim.claim.uid) {
            // The copy goes on even if the source claim is gone by now; the source's directory is kept until then.
            return Ok(Origin { known: Some(known), ..Origin::default() });
        }
        let is_ours = class.is_some_and(|class| class.is_of(&self.context.scope.provisioner));
        let Some(DataSource::Claim(source)) = claim.source.as_ref().filter(|_| is_ours && !claim.deleting) else {
            return Ok(Origin::default());
        };
        let cluster = &self.context.cluster;
        let kept = match self.context.state.kept_for(claim) {
            Some(volume) => cluster.volume(&volume).await?.filter(|volume| {
                let is_named = volume.claim.as_ref().is_some_and(|of| names(claim, of));
                is_named && volume.phase == Phase::Released && volume.disposed.is_none()
            }),
            None => None,
        };
        let source = cluster.source_claim(&claim.claim.namespace, source).await?;
        let volume = match source.as_ref().and_then(|source| source.volume.as_ref()) {
            Some(volume) => cluster.volume(volume).await?,
            None => None,
        };
        Ok(Origin { known: None, kept, claim: source, volume })
    }

    /// Tells whether a claim that is to be a copy has its volume already, as after a restart. Then there is nothing
    /// to copy, and nothing of the making of the copy is needed any more.
    async fn has_copy(&self, claim: &Claim) -> Result<bool, ApiError> {
        if !matches!(claim.source, Some(DataSource::Claim(_))) || self.attempts.contains(&claim.claim.uid) {
            return Ok(false);
        }
        let (uid, scope) = (&claim.claim.uid, &self.context.scope);
        let found = self.context.cluster.volume(&claim.volume_name()).await?;
        let Some(volume) = found.filter(|found| found.was_made_for(uid, &scope.provisioner)) else {
            return Ok(false);
        };
        if let Ok(at) = located(&volume, &scope.exports) {
            self.copies.clear_later(volume.name, at.export);
        }
        Ok(true)
    }

    /// Finds what a claim is to get back, if it wants that, and plans for it: on the export where it lies.
    async fn with_wish(
        &self,
        round: &Round<'_>,
        plan: ClaimPlan,
        facts: &ClaimFacts<'_>,
        slot: &mut Slot,
    ) -> Result<ClaimPlan, ClaimOutcome> {
        let (claim, scope) = (round.claim, &self.context.scope);
        let (ClaimPlan::Provision(provision), Some(class)) = (&plan, facts.class) else { return Ok(plan) };
        let Some(wish) = &provision.wish else { return Ok(plan) };
        let begun = self.attempts.get(&claim.claim.uid).map(|(_, stage)| stage);
        if *wish == Wish::LatestIfAny && matches!(begun, Some(Stage::Made(_))) {
            // It goes on with what it was given.
            return Ok(plan);
        }
        let found = self.context.cluster.volume(&claim.volume_name()).await;
        let found = found.map_err(|error| ClaimOutcome::FailedToRead(Unread::Elsewhere, error))?;
        if found.is_some_and(|volume| volume.was_made_for(&claim.claim.uid, &scope.provisioner)) {
            // As after a restart: nothing is missing that was to come back.
            return Err(ClaimOutcome::AwaitsBinding);
        }
        if !matches!(wish, Wish::Named(_)) && self.attempts.is_restored_for_earlier(&claim.claim) {
            return Err(ClaimOutcome::WaitsForMove);
        }
        let exports = scope.exports.meant_by(&class.parameters.export).unwrap_or_default();
        let finding = self.restores.find(claim, wish, &provision.at.path, &exports, round.failures);
        let found = self.context.wait(slot, &claim.claim, provision.at.export, finding).await?;
        let entry = match found {
            Found::Nothing => return Ok(plan),
            Found::Entry(entry) => entry,
            Found::Unwanted(entry) => {
                let left = self.take_back.leave_unwanted(claim, &entry).await;
                left.map_err(|error| ClaimOutcome::FailedToRead(Unread::Elsewhere, error))?;
                return Err(ClaimOutcome::WaitsForMove);
            }
        };
        let lies_on = |id| if id == entry.lies_at.export { There::Directory } else { There::Nothing };
        let there = self.context.exports.map(|(id, _)| lies_on(id));
        // A directory that was begun on another export is left.
        let headrooms = self.context.exports.map(|(id, _)| {
            let headroom = *facts.headrooms.get(id);
            Headroom { begun: headroom.begun && id == entry.lies_at.export, ..headroom }
        });
        Ok(match for_claim(&ClaimFacts { there: &there, headrooms: &headrooms, ..*facts }, scope) {
            ClaimPlan::Provision(provision) => ClaimPlan::Provision(Box::new(provision.restoring(entry))),
            refused @ (ClaimPlan::Ignore(_) | ClaimPlan::Refuse(_)) => refused,
        })
    }

    /// Notes which volume has to stay because the claim is to be a copy of it, from now on until the claim is bound or
    /// gone; or that none has to, because the claim is refused for good.
    fn keep_source(&self, claim: &Claim, plan: &ClaimPlan) -> Result<(), ClaimOutcome> {
        let (uid, ledger) = (&claim.claim.uid, self.context.state.ledger());
        match plan {
            ClaimPlan::Provision(provision) => match &provision.copy_of {
                Some(source) if !ledger.keep_for(uid, &source.volume, &source.uid, &source.at) => {
                    return Err(ClaimOutcome::WaitsForMove);
                }
                _ => {}
            },
            ClaimPlan::Refuse(refusal) if claim.source.is_some() && refusal.passes_with().is_none() => {
                self.copies.let_go(ledger.keep_none_for(uid));
                self.context.state.reconsider_sources_of(claim);
            }
            ClaimPlan::Refuse(_) | ClaimPlan::Ignore(_) => {}
        }
        Ok(())
    }

    /// Finds the headroom that each export has for a claim. A directory that was begun stays on its export.
    fn headroom(&self, claim: &Claim) -> PerExport<Headroom> {
        let begun = self.attempts.export(&claim.claim.uid);
        let (volume, ledger) = (claim.volume_name(), self.context.state.ledger());
        self.context.exports.map(|(id, export)| {
            let headroom = export.headroom(ledger.promised(id, &volume));
            Headroom { begun: Some(id) == begun, ..headroom }
        })
    }

    /// Makes sure that all volumes are known that may lie around the claim's directory, and lets the one go first that is
    /// about to take the directory away; unless the directory was begun already. Returns since when what is known of
    /// volumes must not have been doubted again.
    async fn wait_for_place(
        &self,
        round: &Round<'_>,
        provision: &Provision,
    ) -> Result<Option<Instant>, ClaimOutcome> {
        let (claim, at, restores) = (round.claim, &provision.at, provision.restored.is_some());
        if self.attempts.get(&claim.claim.uid).is_some_and(|(begun, _)| begun == *at) {
            return Ok(None);
        }
        // Nobody has anything around a name with the volume's own in it.
        let first = at.path.as_str().split('/').next();
        let is_own = first.is_some_and(|name| name.contains(claim.volume_name().as_str()));
        let known = if is_own && !restores { None } else { Some(self.know_volumes(Unread::Predecessor).await?) };
        let found = predecessor(&self.context, claim, at).await;
        match found.map_err(|error| ClaimOutcome::FailedToRead(Unread::Predecessor, error))? {
            Some(volume) => Err(ClaimOutcome::WaitsForRelease { volume, failures: round.failures }),
            None => Ok(known),
        }
    }

    /// Makes sure that all volumes are known: what the watch has listed may be old, and may not show yet what an earlier
    /// leader did last. Returns since when what is known must not have been doubted.
    async fn know_volumes(&self, what: Unread) -> Result<Instant, ClaimOutcome> {
        let since = self.leadership.since().ok_or(ClaimOutcome::NotLeading)?;
        let since = self.context.state.doubted().map_or(since, |doubted| doubted.max(since));
        let refreshed = self.context.refresh(since).await;
        refreshed.map_err(|error| ClaimOutcome::FailedToRead(what, error))?;
        Ok(since)
    }

    /// Reserves the directory, the bytes that the claim asks for, and a group, as far as what is `known` has not been
    /// doubted since. From then on nothing there is moved away.
    async fn reserve(
        &self,
        round: &Round<'_>,
        provision: Provision,
        known: Option<Instant>,
        slot: &mut Slot,
    ) -> Result<Provision, ClaimOutcome> {
        let (claim, at) = (round.claim, &provision.at);
        let there = match provision.gid_range {
            Some(_) => self.group_there(claim, at, slot).await?,
            None => None,
        };
        let gid = GidRequest { range: provision.gid_range, there };
        let gid = provision.restored.as_ref().map_or(gid, Entry::gid_request);
        let (across, bytes, limit) = (provision.across, provision.request, provision.limit);
        let wanted = Reservation { across, bytes, limit, gid };
        let ledger = self.context.state.ledger();
        match ledger.reserve(&claim.volume_name(), at, &claim.claim.namespace, wanted) {
            // What a list has not shown meanwhile is not in the ledger any more, and nothing proves that it has gone.
            Ok(_) if known.is_some_and(|since| self.context.state.doubted() > Some(since)) => {
                Err(ClaimOutcome::WaitsForList)
            }
            Ok(reserved) => {
                let grant = reserved.grant();
                self.attempts.begin(&claim.claim.uid, at, provision.copy_of.clone(), reserved);
                Ok(provision.granted(grant))
            }
            Err(ReserveError::NoGidLeft(_)) if let Some(entry) = &provision.restored => Err(restores::refused(
                &entry.name,
                RestoreProblem::GroupTaken(entry.note.gid.unwrap_or_default()),
                round.failures,
            )),
            Err(error) => Err(match denied(error, at) {
                Denial::Moving => ClaimOutcome::WaitsForMove,
                Denial::Promised => ClaimOutcome::WaitsForPromise,
                Denial::Refused(refusal) => ClaimOutcome::Refused { refusal, by_neighbour: true, is_said: true },
            }),
        }
    }

    /// Finds the group of a directory that may exist already. Before that, makes sure that all groups in use are known.
    async fn group_there(
        &self,
        claim: &Claim,
        at: &Location,
        slot: &mut Slot,
    ) -> Result<Option<u32>, ClaimOutcome> {
        self.know_volumes(Unread::Gids).await?;
        let looking = self.context.export(at).storage.group(&at.path);
        let found = self.context.wait(slot, &claim.claim, at.export, looking).await;
        found.map_err(|error| self.failed_to_make(at, &error))
    }

    /// Tells the claim's author that the claim is being served: at once if it is to be a copy, which goes on after this
    /// round, else if the round takes long.
    fn say_start(&self, round: &Round<'_>, is_copy: bool) -> Option<UnderWay> {
        let (recorder, claim) = (&self.context.recorder, &round.claim.claim);
        let message = format!("External provisioner is provisioning volume for claim {:?}", claim.to_string());
        match (round.failures, is_copy) {
            (0, true) => recorder.record(claim, Reason::Provisioning, &message),
            (0, false) => return Some(recorder.record_start(claim, Reason::Provisioning, message)),
            _ => {}
        }
        None
    }

    /// Makes the directory, then the volume.
    async fn provision(
        &self,
        round: &Round<'_>,
        provision: &Provision,
        slot: &mut Slot,
    ) -> Result<ClaimOutcome, Ended> {
        let (claim, at) = (round.claim, &provision.at);
        let uid = &claim.claim.uid;
        let _under_way = self.say_start(round, provision.copy_of.is_some());
        let created = self.make_directory(round, provision, slot).await?;
        Failpoint::DirectoryReady.passed();
        if self.context.state.claim(uid).is_none_or(|claim| claim.deleting) {
            return Err(Ended::Gone);
        }
        let volume = match self.context.cluster.create_volume(&provision.volume).await {
            Ok(volume) => volume,
            Err(error) => {
                // A finished copy stays, and is known, for the next round, and so does what was brought back.
                let is_new = provision.copy_of.is_none() && provision.restored.is_none();
                // Only what this process has made is removed, and only while it is empty.
                if error.is_refusal()
                    && is_new
                    && self.take_back.undo_refused(&claim.volume_name(), at, created).await
                {
                    self.attempts.set(uid, Stage::Reserved);
                }
                return Ok(ClaimOutcome::FailedToCreate(error));
            }
        };
        Failpoint::VolumeCreated.passed();
        self.context.state.made(&volume);
        self.attempts.set(uid, Stage::VolumeCreated);
        let is_copy = provision.copy_of.is_some();
        if is_copy {
            self.copies.clear_later(claim.volume_name(), at.export);
        }
        Ok(ClaimOutcome::Provisioned(match (&provision.restored, created.made) {
            (Some(entry), _) => {
                self.restores.forget(provision, entry).await;
                Directory::Restored(Box::new(entry.clone()))
            }
            (None, _) if is_copy => Directory::Copied,
            (None, 0) => Directory::Adopted,
            (None, _) => Directory::New,
        }))
    }

    /// Makes the directory: copied, brought back, or new.
    async fn make_directory(
        &self,
        round: &Round<'_>,
        provision: &Provision,
        slot: &mut Slot,
    ) -> Result<Created, ClaimOutcome> {
        let (claim, at) = (round.claim, &provision.at);
        let uid = &claim.claim.uid;
        if let Some(job) = copy_job(claim, provision) {
            return self.copy(round, provision, job, slot).await;
        }
        if let Some(entry) = &provision.restored {
            // Before it is done: an answer may be lost.
            self.attempts.set(uid, Stage::Restored(Box::new(entry.clone())));
            let restoring = self.restores.bring_back(claim, provision, entry);
            self.context.wait(slot, &claim.claim, at.export, restoring).await?;
            return Ok(Created { made: 0 });
        }
        let storage = &self.context.export(at).storage;
        // At the same time, so that a claim takes hardly longer for its note.
        let creating =
            async { futures::join!(storage.create_as(&at.path, provision.ownership), self.record(provision)).0 };
        let made = self.context.wait(slot, &claim.claim, at.export, creating).await;
        let created = made.map_err(|error| self.failed_to_make(at, &error))?;
        Ok(self.attempts.made(uid, created))
    }

    /// Has a copy made, and returns it once it is in its place.
    async fn copy(
        &self,
        round: &Round<'_>,
        provision: &Provision,
        job: CopyJob,
        slot: &mut Slot,
    ) -> Result<Created, ClaimOutcome> {
        let (claim, at) = (round.claim, &provision.at);
        if round.failures > 0 {
            let looking = self.copies.look_again(claim);
            let looked = self.context.wait(slot, &claim.claim, at.export, looking).await;
            looked.map_err(|error| self.failed_to_make(at, &error))?;
        }
        if self.copies.is_outdated(claim, &job)
            && self.take_back.trash_copy(&claim.volume_name(), at).await.is_err()
        {
            return Err(ClaimOutcome::WaitsForMove);
        }
        let copied = self.copies.result(claim, job).ok_or(ClaimOutcome::Copying)?;
        let copied = copied.map_err(|error| self.failed_to_copy(provision, &error))?;
        self.record(provision).await;
        Ok(copied)
    }

    /// Writes the volume's note, if it is to have one.
    async fn record(&self, Provision { volume, at, .. }: &Provision) {
        let Context { state, records, .. } = &self.context;
        if record::is_wanted(state.class(&volume.class).as_deref(), records.wanted) {
            let note = record::of_new(volume, at, &records.mark(), Timestamp::now());
            records.write(self.context.export(at), note).await;
        }
    }

    fn failed_to_copy(&self, provision: &Provision, error: &CopyError) -> ClaimOutcome {
        let source = provision.copy_of.as_ref();
        let (volume, path) =
            source.map(|source| (source.volume.as_str(), source.at.path.as_str())).unwrap_or_default();
        let words = match error {
            CopyError::Storage(error) => return self.failed_to_make(&provision.at, error),
            CopyError::SourceChanged => format!(
                "the volume {volume:?} of the claim to copy was deleted, or given to another claim or path, before \
                 the copy was complete: what was copied is thrown away"
            ),
            CopyError::NoDirectory => {
                format!("the volume {volume:?} of the claim to copy has no directory {path:?} any more")
            }
            CopyError::Defect => "a defect of this program broke the copy off; it is made again".to_owned(),
        };
        ClaimOutcome::FailedToMake { words, path: path.to_owned() }
    }

    fn failed_to_make(&self, at: &Location, error: &StorageError) -> ClaimOutcome {
        ClaimOutcome::failed_to_make(error, &explain(error, &self.context.export(at).address))
    }
}

/// The claim of a round, and how the round has gone so far.
struct Round<'a> {
    claim: &'a Claim,
    at: Option<Location>,
    /// The class's parameter that leaves the fate of the directory in doubt, and that fate.
    doubt: Option<(BadParameter, Fate)>,
    failures: u32,
    started: Instant,
}
