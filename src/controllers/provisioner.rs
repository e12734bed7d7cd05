//! Serves claims: makes the directory, then the volume.
//!
//! What a crash leaves behind: before the directory is made, nothing; after it, an empty directory, which the
//! next round for the same claim adopts; after the volume is made, nothing that is missing: the next round finds
//! the volume there.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::PersistentVolume;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::cluster::api::ApiError;
use crate::cluster::election::Leadership;
use crate::cluster::events::Reason;
use crate::cluster::state::{Denied, Group, Key, Promise, Wants, Wish};
use crate::controllers::context::{Context, Slot};
use crate::controllers::copies::{self, Cloner, Stage};
use crate::decide::{ClaimPlan, ClaimRefusal, CopyOf, Origin, Passing, for_claim, located};
use crate::export::Export;
use crate::failpoint::Failpoint;
use crate::ledger::placements::Conflict;
use crate::model::claim::{Claim, DataSource, volume_name};
use crate::model::class::Class;
use crate::model::exports::{Location, PerExport};
use crate::model::volume::{Volume, set_gid};
use crate::observe::metrics;
use crate::queue::{Next, RetryReason, is_worth_saying};
use crate::storage::{Created, Problem, StorageError, explain};
use crate::values::headroom::Headroom;
use crate::values::ownership::{GROUP_MODE, GidRange, Ownership};
use crate::values::time::milliseconds;

/// What is made for a claim.
struct Order<'a> {
    directory: &'a Location,
    ownership: Ownership,
    volume: &'a PersistentVolume,
}

/// The claims' side of the program.
#[derive(Debug)]
pub struct Provisioner {
    context: Context,
    leadership: Leadership,
    /// The directories that this process has made for claims whose volumes do not exist yet, by claim uid.
    unfinished: Mutex<HashMap<Key, (Location, Created)>>,
    /// The uids of claims that wait to be bound to a volume that this process has made.
    made: Mutex<HashSet<Key>>,
    cloner: Cloner,
}

impl Provisioner {
    /// Puts it together from its parts.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership, cloner: Cloner) -> Self {
        Self { context, leadership, unfinished: Mutex::default(), made: Mutex::default(), cloner }
    }

    /// One round for the claim with this uid, which has failed `failures` times in a row.
    pub async fn reconcile(&self, uid: Key, failures: u32, slot: &mut Slot) -> Next {
        let Some(claim) = self.context.catalog.claim(&uid) else {
            self.made().remove(&uid);
            return self.forget(&uid).await;
        };
        if self.made().contains(&uid) && self.context.catalog.exists(&claim.volume_name()) {
            // Should the volume go before that, the claim comes back.
            debug!(claim = %name(&claim), "has changed while it waits to be bound to its volume");
            return Next::Done;
        }
        let class = match self.class(&claim).await {
            Ok(class) => class,
            Err(error) => {
                warn!(claim = %name(&claim), class = &*claim.class, %error, "failed to read the StorageClass");
                return Next::Retry(RetryReason::ApiServer);
            }
        };
        let origin = match self.origin(&claim, class.as_deref()).await {
            Ok(origin) => origin,
            Err(error) => {
                warn!(claim = %name(&claim), %error, "failed to read the claim that it is to be a copy of");
                return Next::Retry(RetryReason::ApiServer);
            }
        };
        match for_claim(&claim, class.as_deref(), &self.context.scope, &self.headrooms(&uid), &origin) {
            ClaimPlan::Ignore(why) => {
                debug!(claim = %name(&claim), ?why, "ignored");
                Next::Done
            }
            ClaimPlan::Refuse(refusal) if refusal.passes_with().is_some() => {
                if is_worth_saying(failures) {
                    let _ = self.refuse(&claim, &refusal).await;
                }
                Next::Retry(if refusal.passes_with() == Some(Passing::Headroom) {
                    RetryReason::Headroom
                } else {
                    RetryReason::Source
                })
            }
            ClaimPlan::Refuse(refusal) => self.refuse(&claim, &refusal).await,
            ClaimPlan::Provision { directory, mut volume, across, ownership, gids, request, most, copy_of } => {
                if let Err(after) = self.leave_elsewhere(&uid, &directory).await {
                    return after;
                }
                let group = match self.wish(&claim, &directory, gids, slot).await {
                    Ok(wish) => {
                        let promise = Promise { bytes: request, most };
                        self.reserve(&claim, &directory, Wants { across, promise, wish }).await
                    }
                    Err(after) => Err(after),
                };
                let ownership = match group {
                    Ok(None) => ownership,
                    Ok(Some(Group { gid, shared })) => {
                        set_gid(&mut volume, gid);
                        // Who was there first keeps what he has.
                        let (mode, keep) = (Some(ownership.mode.unwrap_or(GROUP_MODE)), ownership.keep || shared);
                        Ownership { gid: Some(gid), mode, keep, ..ownership }
                    }
                    Err(after) => return after,
                };
                let order = Order { directory: &directory, ownership, volume: &volume };
                self.provision(&uid, &claim, order, copy_of, failures, slot).await
            }
        }
    }

    /// The claim's class. Only if the watch has brought none is the API server asked: a refusal must be true.
    async fn class(&self, claim: &Claim) -> Result<Option<Arc<Class>>, ApiError> {
        match self.context.catalog.class(&claim.class) {
            Some(class) => Ok(Some(class)),
            None => Ok(self.context.cluster.class(&claim.class).await?.map(Arc::new)),
        }
    }

    /// What a claim is to be a copy of, if it is. Nothing is asked for those that are not for us to serve.
    async fn origin(&self, claim: &Claim, class: Option<&Class>) -> Result<Origin, ApiError> {
        if let Some(order) = self.cloner.order(&Key::from(&*claim.uid)) {
            // It goes on even if the source has gone meanwhile, which is kept until then.
            return Ok(Origin { known: Some(order.copy_of), ..Origin::default() });
        }
        let is_ours = class.is_some_and(|class| *class.provisioner == *self.context.scope.provisioner);
        let Some(DataSource::Claim(source)) = claim.source.as_ref().filter(|_| is_ours && !claim.deleting) else {
            return Ok(Origin::default());
        };
        let cluster = &self.context.cluster;
        let source = cluster.source_claim(&claim.namespace, source).await?;
        let volume = match source.as_ref().and_then(|source| source.volume.as_deref()) {
            Some(volume) => cluster.volume(volume).await?,
            None => None,
        };
        Ok(Origin { known: None, claim: source, volume })
    }

    async fn refuse(&self, claim: &Claim, refusal: &ClaimRefusal) -> Next {
        if self.context.catalog.class(&claim.class).is_some() {
            self.context.metrics.provisions.failed(&claim.class, "");
        }
        let message = refusal.message(&claim.class, &self.context.scope.provisioner);
        warn!(claim = %name(claim), class = &*claim.class, reason = message, "refused");
        self.context.metrics.claims_refused.get_or_create(&metrics::reason(refusal.reason())).inc();
        self.context.recorder.record(claim, Reason::ProvisioningFailed, message).await;
        // Nothing of this changes by itself. If the claim or its class does, it comes back.
        Next::Done
    }

    /// Finds out what group the claim's volume is to have. Before one is given out, all are known that are in use: what
    /// a leader before us has given out last, the watch may not have brought yet.
    async fn wish(
        &self,
        claim: &Claim,
        directory: &Location,
        gids: Option<GidRange>,
        slot: &mut Slot,
    ) -> Result<Wish, Next> {
        if gids.is_none() {
            return Ok(Wish::default());
        }
        let since = self.leadership.since().ok_or(Next::PutBack)?;
        if let Err(error) = self.context.refresh(since).await {
            warn!(claim = %name(claim), %error, "failed to read which groups are in use");
            return Err(Next::Retry(RetryReason::ApiServer));
        }
        let started = Instant::now();
        let looking = self.export(directory).storage.group(&directory.path);
        match self.context.wait(slot, claim, directory.export, looking).await {
            Ok(gid) => Ok(Wish { gids, gid }),
            Err(error) => Err(self.failed_to_make(claim, directory, started, &error).await),
        }
    }

    /// Takes the directory for the claim, so that from now on nothing there is moved away, what it asks for, and a group.
    async fn reserve(&self, claim: &Claim, directory: &Location, wants: Wants) -> Result<Option<Group>, Next> {
        let volume = claim.volume_name().into();
        let refusal = match self.context.catalog.reserve(&volume, directory, &claim.namespace, wants) {
            Ok(group) => return Ok(group),
            Err(Denied::Directory(Conflict::Moving)) => {
                debug!(claim = %name(claim), path = directory.path.as_str(), "waits until what is there has been moved away");
                return Err(Next::Retry(RetryReason::Neighbour));
            }
            Err(Denied::Directory(Conflict::OtherNamespace(relation))) => {
                ClaimRefusal::OtherNamespace { path: directory.path.clone(), relation }
            }
            Err(Denied::Promised) => {
                debug!(claim = %name(claim), "others were faster to be promised what there is, looks again");
                return Err(Next::Retry(RetryReason::Headroom));
            }
            Err(Denied::NoGroupThere) => ClaimRefusal::NoGroupThere(directory.path.clone()),
            Err(Denied::NoGroupLeft(gids)) => ClaimRefusal::NoGroupLeft(gids),
        };
        // The other volume may go without our claim changing.
        let _ = self.refuse(claim, &refusal).await;
        Err(Next::Retry(RetryReason::Neighbour))
    }

    async fn provision(
        &self,
        uid: &Key,
        claim: &Claim,
        Order { directory, ownership, volume }: Order<'_>,
        copy_of: Option<CopyOf>,
        failures: u32,
        slot: &mut Slot,
    ) -> Next {
        let started = Instant::now();
        let _under_way = if failures == 0 {
            let message = format!("External provisioner is provisioning volume for claim {:?}", name(claim));
            Some(self.context.recorder.record_start(claim, Reason::Provisioning, message).await)
        } else {
            None
        };
        let is_copy = copy_of.is_some();
        let made = if let Some(copy_of) = copy_of {
            let gid = Volume::read(volume).gid;
            let order = copies::Order { copy_of, directory: directory.clone(), ownership, gid };
            match self.cloner.ask(uid, claim, order) {
                Stage::UnderWay => return Next::Done,
                Stage::Done(created) => Ok(created),
                Stage::Failed(error) => Err(error),
            }
        } else {
            let creating = self.export(directory).storage.create_as(&directory.path, ownership);
            self.context.wait(slot, claim, directory.export, creating).await
        };
        let created = match made {
            Ok(created) => created,
            Err(error) => return self.failed_to_make(claim, directory, started, &error).await,
        };
        Failpoint::DirectoryReady.passed();
        let created = self.begin(uid, directory, created);
        if self.context.catalog.claim(uid).is_none_or(|claim| claim.deleting) {
            return self.forget(uid).await;
        }
        if let Err(error) = self.context.cluster.create_volume(volume, claim).await {
            return self.failed_to_create(uid, claim, directory, (created, started), &error).await;
        }
        Failpoint::VolumeCreated.passed();
        self.context.catalog.made(&claim.volume_name());
        self.made().insert(Arc::clone(uid));
        self.finish(uid);
        self.cloner.finish(uid);
        let adopted = match (created.made, is_copy) {
            (_, true) => " as a copy",
            (0, false) => " in a directory that was there before",
            _ => "",
        };
        self.context.metrics.provisions.succeeded(&claim.class, "", started.elapsed());
        let volume = claim.volume_name();
        info!(
            claim = %name(claim), volume, class = &*claim.class, export = &*self.export(directory).name,
            path = directory.path.as_str(), adopted = created.made == 0,
            milliseconds = milliseconds(started.elapsed()), "provisioned"
        );
        let message = format!("Successfully provisioned volume {volume}{adopted}");
        self.context.recorder.record(claim, Reason::ProvisioningSucceeded, message).await;
        Next::Done
    }

    async fn failed_to_make(
        &self,
        claim: &Claim,
        directory: &Location,
        started: Instant,
        error: &StorageError,
    ) -> Next {
        if error.problem == Problem::NotLeading {
            return Next::PutBack;
        }
        self.context.metrics.provisions.failed(&claim.class, "");
        let words = explain(error, &self.export(directory).source);
        error!(
            claim = %name(claim), volume = claim.volume_name(), class = &*claim.class,
            export = &*self.export(directory).name, path = error.path,
            milliseconds = milliseconds(started.elapsed()), error = words, "failed to make the directory"
        );
        let cause = format!("unable to create directory to provision new pv: {words}");
        let message = format!("failed to provision volume with StorageClass {:?}: {cause}", claim.class);
        self.context.recorder.record(claim, Reason::ProvisioningFailed, message).await;
        Next::Retry(RetryReason::Export)
    }

    async fn failed_to_create(
        &self,
        uid: &Key,
        claim: &Claim,
        directory: &Location,
        (created, started): (Created, Instant),
        error: &ApiError,
    ) -> Next {
        self.context.metrics.provisions.failed(&claim.class, "");
        error!(
            claim = %name(claim), volume = claim.volume_name(), class = &*claim.class,
            export = &*self.export(directory).name, path = directory.path.as_str(),
            milliseconds = milliseconds(started.elapsed()), %error, "failed to create the volume"
        );
        if error.is_refusal() {
            // Only what this process has made, and only while it is empty (defect D7).
            self.take_back(uid, directory, created).await;
            self.finish(uid);
        }
        let message = format!(
            "Error creating provisioned PV object for claim {}: {error}. It will be tried again; a directory that \
             was there before is left as it was.",
            name(claim)
        );
        self.context.recorder.record(claim, Reason::ProvisioningFailed, message).await;
        Next::Retry(RetryReason::ApiServer)
    }

    /// Takes back what earlier rounds have made for the claim in another place than it is to have now. That comes before
    /// it is given the new one, because whoever takes back has no say in what becomes of any directory meanwhile.
    ///
    /// Its volume may have been made there all the same, where the API server has not said so: then that is it.
    async fn leave_elsewhere(&self, uid: &Key, directory: &Location) -> Result<(), Next> {
        let before = self.unfinished().get(uid).filter(|(earlier, _)| earlier != directory).cloned();
        let Some((elsewhere, created)) = before else { return Ok(()) };
        match self.has_volume_at(uid, &elsewhere).await {
            // Once the claim is bound to it, nothing is to be done any more.
            Ok(true) => Err(Next::Retry(RetryReason::Neighbour)),
            Ok(false) => {
                self.take_back(uid, &elsewhere, created).await;
                self.finish(uid);
                Ok(())
            }
            Err(error) => {
                warn!(%uid, %error, "failed to find out whether a volume was made for a claim that is to lie elsewhere");
                Err(Next::Retry(RetryReason::ApiServer))
            }
        }
    }

    /// Whether a claim's volume exists and lies there. Another provisioner of our name may have made it elsewhere.
    async fn has_volume_at(&self, uid: &Key, directory: &Location) -> Result<bool, ApiError> {
        let volume = self.context.cluster.volume(&volume_name(uid)).await?;
        let lies_there = |volume| located(&volume, &self.context.scope.exports).is_ok_and(|at| at == *directory);
        Ok(volume.is_some_and(lies_there))
    }

    /// How much room there is on each export for a claim: what has been begun goes on where it was.
    fn headrooms(&self, uid: &Key) -> PerExport<Headroom> {
        let begun = self.unfinished().get(uid).map(|(directory, _)| directory.export);
        let begun = begun.or_else(|| self.cloner.order(uid).map(|order| order.directory.export));
        let volume = volume_name(uid);
        self.context.exports.map(|(id, export)| {
            let room = export.room(self.context.catalog.promised(id, &volume));
            Headroom { begun: Some(id) == begun, ..room }
        })
    }

    /// Notes that a directory has been made whose volume does not exist yet, and tells what earlier rounds and
    /// this one have made of it together.
    fn begin(&self, uid: &Key, directory: &Location, created: Created) -> Created {
        let mut unfinished = self.unfinished();
        let before = unfinished.get(uid).map_or(0, |(_, before)| before.made);
        let created = Created { made: created.made.max(before) };
        unfinished.insert(Arc::clone(uid), (directory.clone(), created));
        created
    }

    /// Removes what was made for a claim, as far as it is empty, unless another volume or claim has a part in it by
    /// now; while it does so nobody is given it. An export that does not answer is not waited for.
    async fn take_back(&self, uid: &Key, directory: &Location, created: Created) {
        let volume = volume_name(uid).into();
        let export = self.export(directory);
        let path = directory.path.as_str();
        if !export.is_usable() {
            warn!(path, export = &*export.name, "an empty directory that is not needed stays");
            return;
        }
        if self.context.catalog.depart(&volume, directory).is_some_and(|others| others.is_empty())
            && let Err(error) = export.storage.undo(&directory.path, created).await
        {
            warn!(path, export = &*export.name, %error, "an empty directory that is not needed stays");
        }
        self.context.catalog.stay(&volume);
    }

    fn finish(&self, uid: &Key) {
        self.unfinished().remove(uid);
    }

    /// Takes back what was made for a claim that does not wait for us any more, unless its volume exists.
    async fn forget(&self, uid: &Key) -> Next {
        let volume = volume_name(uid);
        if self.cloner.has(uid) {
            match self.context.cluster.volume(&volume).await {
                Ok(Some(_)) => self.cloner.finish(uid),
                Ok(None) => self.cloner.forget(uid).await,
                Err(error) => {
                    warn!(%uid, %error, "failed to find out whether a volume was made for a claim that has gone");
                    return Next::Retry(RetryReason::ApiServer);
                }
            }
        }
        let Some((directory, created)) = self.unfinished().get(uid).cloned() else {
            self.context.catalog.give_up(&volume);
            return Next::Done;
        };
        match self.has_volume_at(uid, &directory).await {
            Ok(true) => {}
            Ok(false) => {
                self.take_back(uid, &directory, created).await;
                self.context.catalog.give_up(&volume);
            }
            Err(error) => {
                warn!(%uid, %error, "failed to find out whether a volume was made for a claim that has gone");
                return Next::Retry(RetryReason::ApiServer);
            }
        }
        self.finish(uid);
        Next::Done
    }

    fn export(&self, directory: &Location) -> &Export {
        self.context.exports.get(directory.export)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unfinished(&self) -> std::sync::MutexGuard<'_, HashMap<Key, (Location, Created)>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(claim: &Claim) -> String {
    format!("{}/{}", claim.namespace, claim.name)
}
