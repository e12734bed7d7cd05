//! The known state of the cluster: compact records of pending claims, of bound claims that ask for more, of
//! volumes to reclaim, and of all classes, kept current by watches. Whole objects are dropped as soon as they are
//! read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::warn;

use crate::cluster::mirror::Mirror;
use crate::decide::scope::Scope;
use crate::decide::volume::{is_work, located};
use crate::ledger::{Entry, Ledger};
use crate::model::claim::Claim;
use crate::model::class::Class;
use crate::model::expansion::Expansion;
use crate::model::volume::{Phase, Volume};
use crate::queue::Queue;
use crate::values::names::{ClaimUid, ClassName, VolumeName};
use crate::values::quantity::bytes;

/// The kinds of objects that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Storage classes.
    Classes,
    /// Persistent volume claims.
    Claims,
    /// Persistent volumes.
    Volumes,
}

impl Watched {
    /// Returns the kind's name in metrics and health checks.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Claims => "claims",
            Self::Volumes => "volumes",
        }
    }
}

/// The known state of the cluster, and the queues of objects to look at because they have changed.
#[derive(Debug)]
pub struct ClusterState {
    scope: Arc<Scope>,
    ledger: Ledger,
    classes: Mutex<Mirror<ClassName, Class>>,
    claims: Mutex<Mirror<ClaimUid, Claim>>,
    expansions: Mutex<Mirror<ClaimUid, Expansion>>,
    /// The volumes' records. Locked before the ledger, so that a volume's record and its entry there change
    /// together.
    volumes: Mutex<Volumes>,
    /// The queue of pending claims to look at.
    pub changed_claims: Arc<Queue<ClaimUid>>,
    /// The queue of volumes to look at.
    pub changed_volumes: Arc<Queue<VolumeName>>,
    /// The queue of bound claims to look at.
    pub changed_expansions: Arc<Queue<ClaimUid>>,
}

impl ClusterState {
    /// Creates a state in which nothing is known yet.
    #[must_use]
    pub fn new(scope: Arc<Scope>) -> Self {
        Self {
            scope,
            ledger: Ledger::default(),
            classes: Mutex::default(),
            claims: Mutex::default(),
            expansions: Mutex::default(),
            volumes: Mutex::default(),
            changed_claims: Arc::default(),
            changed_volumes: Arc::default(),
            changed_expansions: Arc::default(),
        }
    }

    /// Returns the name of the provisioner that the state is for.
    #[must_use]
    pub fn provisioner(&self) -> &str {
        &self.scope.provisioner
    }

    /// Returns the ledger of directories, groups and promised bytes, which the watch of volumes keeps current.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the claim with this uid, if it is pending and for us to serve.
    #[must_use]
    pub fn claim(&self, uid: &ClaimUid) -> Option<Arc<Claim>> {
        self.claims.lock().get(uid)
    }

    /// Returns the bound claim with this uid, whichever provisioner served it, if it asks for more than it has.
    #[must_use]
    pub fn expansion(&self, uid: &ClaimUid) -> Option<Arc<Expansion>> {
        self.expansions.lock().get(uid)
    }

    /// Returns the volume of this name, if there is work to do for it.
    #[must_use]
    pub fn volume(&self, name: &VolumeName) -> Option<Arc<Volume>> {
        self.volumes.lock().work.get(name)
    }

    /// Returns the class of this name, whichever provisioner it names.
    #[must_use]
    pub fn class(&self, name: &ClassName) -> Option<Arc<Class>> {
        self.classes.lock().get(name)
    }

    /// Lists the uids of our classes. No other cluster has any of them, nor has another provisioner of this one.
    #[must_use]
    pub fn own_class_uids(&self) -> Vec<String> {
        let classes = self.classes.lock();
        let ours = classes.iter().filter(|(_, class)| class.is_of(self.provisioner()) && !class.uid.is_empty());
        ours.map(|(_, class)| class.uid.to_string()).collect()
    }

    /// Tells whether any claim or volume waits for a worker.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.changed_claims.is_behind() || self.changed_volumes.is_behind() || self.changed_expansions.is_behind()
    }

    /// Notes that a volume has been reclaimed: there is nothing more to do for it, however often it changes before
    /// it is gone.
    pub fn reclaimed(&self, volume: &Volume) {
        let mut volumes = self.volumes.lock();
        // The watch may have shown already that the volume is gone.
        if self.ledger.exists(&volume.name) {
            volumes.reclaimed.insert(volume.name.clone(), volume.uid.clone());
        }
        volumes.deleted_while_bound.remove(&volume.name);
        volumes.work.remove(&volume.name);
    }

    /// Records a volume that a list has just shown, and that the watch has not shown yet.
    pub fn heard_of(&self, volume: &Volume) {
        let _volumes = self.volumes.lock();
        if !self.ledger.exists(&volume.name) {
            self.settle(volume);
        }
    }

    /// Forgets a volume that does not exist according to the API server.
    pub fn forget_volume(&self, name: &VolumeName) {
        let mut volumes = self.volumes.lock();
        self.ledger.forget(name);
        volumes.reclaimed.remove(name);
        volumes.deleted_while_bound.remove(name);
        volumes.work.remove(name);
    }

    /// Begins a list of all objects of a kind.
    pub fn begin_list(&self, kind: Watched) {
        match kind {
            Watched::Classes => self.classes.lock().begin_list(),
            Watched::Claims => {
                self.claims.lock().begin_list();
                self.expansions.lock().begin_list();
            }
            Watched::Volumes => {
                let mut volumes = self.volumes.lock();
                self.ledger.begin_list();
                volumes.work.begin_list();
            }
        }
    }

    /// Ends a list of all objects of a kind: the objects that it did not show are gone.
    pub fn end_list(&self, kind: Watched) {
        match kind {
            Watched::Classes => {
                let gone = self.classes.lock().end_list();
                for name in &gone {
                    self.reconsider(name);
                }
            }
            Watched::Claims => {
                let gone = self.claims.lock().end_list();
                for uid in gone {
                    self.changed_claims.push(uid);
                }
                let gone = self.expansions.lock().end_list();
                for uid in gone {
                    self.changed_expansions.push(uid);
                }
            }
            Watched::Volumes => self.end_list_of_volumes(),
        }
    }

    fn end_list_of_volumes(&self) {
        let mut volumes = self.volumes.lock();
        let gone = self.ledger.end_list();
        volumes.reclaimed.retain(|volume, _| self.ledger.exists(volume));
        let work = volumes.work.end_list();
        drop(volumes);
        for name in work {
            self.changed_volumes.push(name);
        }
        for name in &gone {
            self.reconsider_claim_of(name);
        }
    }

    /// Records a class as it is now; `None` if the class is gone.
    pub fn put_class(&self, name: &ClassName, record: Option<Class>) {
        let ours = record.as_ref().filter(|class| class.is_of(self.provisioner()));
        let unknown = ours.map(|class| class.parameters.unknown.clone()).unwrap_or_default();
        if !self.classes.lock().put(name, record) {
            return;
        }
        for parameter in unknown {
            warn!(
                class = name.as_str(),
                ?parameter,
                "the StorageClass has an unknown parameter, which has no effect: a typo?"
            );
        }
        self.reconsider(name);
    }

    /// Queues all claims and volumes of a class to be looked at again.
    fn reconsider(&self, class: &ClassName) {
        for (uid, _) in self.claims.lock().iter().filter(|(_, claim)| claim.class == *class) {
            self.changed_claims.push(uid.clone());
        }
        for (name, _) in self.volumes.lock().work.iter().filter(|(_, volume)| volume.class == *class) {
            self.changed_volumes.push(name.clone());
        }
    }

    /// Records a claim as it is now; `None` if the claim does not wait for us, or is gone.
    pub fn put_claim(&self, uid: &ClaimUid, record: Option<Claim>) {
        if self.claims.lock().put(uid, record) {
            self.changed_claims.push(uid.clone());
        }
    }

    /// Records a bound claim as it is now; `None` if the claim asks for no more than it has, or is gone.
    pub fn put_expansion(&self, uid: &ClaimUid, record: Option<Expansion>) {
        if self.expansions.lock().put(uid, record) {
            self.changed_expansions.push(uid.clone());
        }
    }

    /// Queues the claim that a volume was made for, if the claim still waits: it needs another volume.
    fn reconsider_claim_of(&self, volume: &VolumeName) {
        if let Some(claim) = volume.claim_uid().and_then(|uid| self.claim(&uid)) {
            self.changed_claims.push(claim.claim.uid.clone());
        }
    }

    /// Records a volume as it is now; `None` if the volume is gone.
    pub fn put_volume(&self, name: &VolumeName, record: Option<Volume>) {
        let has_gone = record.is_none();
        let mut volumes = self.volumes.lock();
        let has_changed = if let Some(volume) = record {
            self.settle(&volume);
            volumes.put(volume, &self.scope)
        } else {
            self.ledger.forget(name);
            volumes.gone(name)
        };
        drop(volumes);
        if has_changed {
            self.changed_volumes.push(name.clone());
        }
        if has_gone {
            self.reconsider_claim_of(name);
        }
    }

    /// Enters an existing volume in the ledger.
    fn settle(&self, volume: &Volume) {
        let located = located(volume, &self.scope.exports).ok();
        let entry = Entry {
            at: located.as_ref(),
            namespace: volume.claim.as_ref().map(|claim| &*claim.namespace),
            bytes: volume.capacity.as_ref().map_or(0, bytes),
            gid: volume.gid,
        };
        self.ledger.settle(&volume.name, entry);
    }
}

/// The volumes that there is work to do for. All others are not looked at again before they change.
#[derive(Debug, Default)]
struct Volumes {
    work: Mirror<VolumeName, Volume>,
    /// Our volumes that were deleted while they had a claim. They are reclaimed when the claim is gone, even if
    /// the volume object is gone by then.
    deleted_while_bound: HashSet<VolumeName>,
    /// The uids of reclaimed volumes that the watch still shows: their deletion by the API server and the removal
    /// of their finalizers are changes, too.
    reclaimed: HashMap<VolumeName, Box<str>>,
}

impl Volumes {
    fn put(&mut self, mut volume: Volume, scope: &Scope) -> bool {
        let name = volume.name.clone();
        if volume.deleting && volume.phase == Phase::Bound && volume.is_of(&scope.provisioner) {
            self.deleted_while_bound.insert(name.clone());
        }
        volume.deleted_while_bound = self.deleted_while_bound.contains(&name);
        let is_reclaimed = self.reclaimed.get(&name) == Some(&volume.uid);
        let is_work = !is_reclaimed && is_work(&volume, scope);
        self.work.put(&name, is_work.then_some(volume))
    }

    /// Notes that a volume object is gone. If the volume was deleted while bound, the work for it is kept.
    fn gone(&mut self, name: &VolumeName) -> bool {
        self.reclaimed.remove(name);
        if self.work.get(name).is_some_and(|volume| volume.deleted_while_bound) {
            return true;
        }
        self.deleted_while_bound.remove(name);
        self.work.remove(name)
    }
}
