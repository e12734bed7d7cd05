//! The known state of the cluster: compact records of pending claims, of bound claims that ask for more, of
//! volumes to reclaim, and of all classes, kept current by watches. Whole objects are dropped as soon as they are
//! read.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::cluster::mirror::Mirror;
use crate::cluster::volumes::Volumes;
use crate::decide::copy::{holds, names};
use crate::decide::scope::Scope;
use crate::decide::volume::located;
use crate::ledger::{Entry, Ledger};
use crate::model::claim::Claim;
use crate::model::class::Class;
use crate::model::expansion::Expansion;
use crate::model::exports::Location;
use crate::model::volume::{Phase, Volume};
use crate::queue::Queue;
use crate::values::names::{ClaimRef, ClaimUid, ClassName, VolumeName};
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
    /// When there was last a reason to doubt that the watch of volumes had shown all volumes.
    doubted: Mutex<Option<Instant>>,
    /// The list of all volumes that is being read apart from the watch.
    reading: Mutex<Option<Reading>>,
    /// When the leadership began under which claims were judged last.
    reign: Mutex<Option<Instant>>,
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
            doubted: Mutex::default(),
            reading: Mutex::default(),
            reign: Mutex::default(),
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

    /// Returns the volumes that there is work to do for, and of which this is so.
    #[must_use]
    pub fn volumes_where(&self, is_so: impl Fn(&Volume) -> bool) -> Vec<Arc<Volume>> {
        self.volumes.lock().work.all(is_so)
    }

    /// Returns a claim that waits and may be a copy of a volume whose own claim is gone. The volume stays until the
    /// claim is bound, gone, or refused for good.
    #[must_use]
    pub fn waits_for_copy(&self, volume: &Volume) -> Option<ClaimRef> {
        // The records are copied out: no lock is taken while another is held.
        let named = volume.claim.as_ref()?;
        let waiting: Vec<Arc<Claim>> = self.claims.lock().all(|claim| names(claim, named));
        let found = waiting.iter().find(|claim| self.holds(claim, volume));
        found.map(|claim| claim.claim.clone())
    }

    /// Returns the name of a volume whose own claim is gone and that stays for this claim to be a copy of it: of
    /// several, the one that was released first.
    #[must_use]
    pub fn kept_for(&self, claim: &Claim) -> Option<VolumeName> {
        let released = self.released_sources_of(claim);
        let held = released.iter().filter(|volume| self.holds(claim, volume));
        held.min_by_key(|volume| volume.since).map(|volume| volume.name.clone())
    }

    fn holds(&self, claim: &Claim, volume: &Volume) -> bool {
        let (class, judged) = (self.class(&claim.class), self.ledger.judged(&claim.claim.uid));
        holds(claim, class.as_deref(), judged.as_ref(), volume, &self.scope)
    }

    /// Queues the volumes that may have stayed for a claim to be a copy of them.
    pub fn reconsider_sources_of(&self, claim: &Claim) {
        for volume in self.released_sources_of(claim) {
            self.changed_volumes.push(volume.name.clone());
        }
    }

    /// Finds the released volumes whose own claims had the name of the source that a claim names.
    fn released_sources_of(&self, claim: &Claim) -> Vec<Arc<Volume>> {
        self.volumes.lock().work.all(|volume| {
            volume.phase == Phase::Released && volume.claim.as_ref().is_some_and(|named| names(claim, named))
        })
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

    /// Lists our classes.
    #[must_use]
    pub fn own_classes(&self) -> Vec<Class> {
        let classes = self.classes.lock();
        classes
            .iter()
            .filter(|(_, class)| class.is_of(self.provisioner()))
            .map(|(_, class)| class.clone())
            .collect()
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
        if volumes.is_recorded(volume) {
            volumes.reclaimed(volume);
        }
    }

    /// Notes what was done to a volume's directory: it is not the volume's any more, and is never touched again on
    /// its behalf.
    pub fn disposed(&self, volume: &Volume, done: &str) {
        let mut volumes = self.volumes.lock();
        if let Some(record) = volumes.disposed(volume, done) {
            self.settle(&record);
        }
        drop(volumes);
        if let Some(claim) = &volume.claim {
            self.reconsider_namesakes(claim);
        }
    }

    /// Queues the claims that have the name of a claim that has gone: they may have waited for its directory to go.
    fn reconsider_namesakes(&self, gone: &ClaimRef) {
        let is_namesake = |claim: &Claim| claim.claim.name == gone.name && claim.claim.namespace == gone.namespace;
        for (uid, _) in self.claims.lock().iter().filter(|(_, claim)| is_namesake(claim)) {
            self.changed_claims.push(uid.clone());
        }
    }

    /// Returns when the watch showed this volume as it is recorded, and so all that had happened to any volume
    /// before, unless the watch has been [doubted](Self::doubted) since; `None` if a list showed it.
    pub fn watched(&self, volume: &VolumeName) -> Option<Instant> {
        self.volumes.lock().work.watched(volume)
    }

    /// Notes that what the watch of volumes has not shown may exist all the same.
    pub fn doubt(&self) {
        *self.doubted.lock() = Some(Instant::now());
    }

    /// Returns since when the watch of volumes has had no reason to be doubted; `None` if there never was one.
    pub fn doubted(&self) -> Option<Instant> {
        *self.doubted.lock()
    }

    /// Begins to read a list of all volumes apart from the watch, one such list at a time. Ends with
    /// [`ClusterState::end_reading`].
    pub fn begin_reading(&self) {
        *self.reading.lock() = Some(Reading { begun: self.ledger.latest(), gone: HashSet::new() });
    }

    /// Records a volume that the list has shown, unless the watch has shown it, or that it is gone, since the list
    /// began.
    pub fn heard_of(&self, volume: &Volume) {
        let mut volumes = self.volumes.lock();
        let reading = self.reading.lock();
        let is_outdated = reading.as_ref().is_some_and(|Reading { begun, gone }| {
            gone.contains(&volume.name) || self.ledger.exists_since(&volume.name, *begun)
        });
        if !is_outdated {
            let volume = volumes.remember(volume.clone(), &self.scope);
            self.settle(&volume);
        }
    }

    /// Ends the list.
    pub fn end_reading(&self) {
        *self.reading.lock() = None;
    }

    /// Notes under which leadership claims are judged from now on. What another leader has promised meanwhile is not
    /// known: claims that were refused as copies are judged anew.
    pub fn begin_reign(&self, since: Option<Instant>) {
        let before = std::mem::replace(&mut *self.reign.lock(), since);
        if before != since {
            self.ledger.forget_refused_copies();
            for claim in self.claims.lock().all(|claim| claim.source.is_some()) {
                self.changed_claims.push(claim.claim.uid.clone());
            }
        }
    }

    /// Notes that this process has made a volume.
    pub fn made(&self, volume: &Volume) {
        let mut volumes = self.volumes.lock();
        volumes.made(volume);
        self.ledger.made(&volume.name);
    }

    /// Forgets a volume that does not exist according to the API server, unless another one has its name by now.
    pub fn forget_volume(&self, volume: &Volume) {
        let mut volumes = self.volumes.lock();
        if volumes.is_recorded(volume) {
            self.ledger.forget(&volume.name);
            volumes.forget(&volume.name);
        }
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
                self.doubt();
                let mut volumes = self.volumes.lock();
                self.ledger.begin_list();
                volumes.begin_list();
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
                let copies = self.claims.lock().all(|claim| claim.source.is_some());
                let gone = self.claims.lock().end_list();
                for claim in copies.iter().filter(|claim| gone.contains(&claim.claim.uid)) {
                    self.reconsider_sources_of(claim);
                }
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
        // The list may have been older than what was known.
        self.doubt();
        let mut volumes = self.volumes.lock();
        let gone = self.ledger.end_list();
        let work = volumes.end_list(&gone, &self.scope);
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
        let before = self.claim(uid).filter(|claim| claim.source.is_some());
        if self.claims.lock().put(uid, record) {
            self.changed_claims.push(uid.clone());
            if let Some(before) = before {
                self.reconsider_sources_of(&before);
            }
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
            let volume = volumes.remember(volume, &self.scope);
            self.settle(&volume);
            volumes.put(volume, &self.scope)
        } else {
            self.ledger.forget(name);
            if let Some(reading) = &mut *self.reading.lock() {
                reading.gone.insert(name.clone());
            }
            volumes.gone(name, &self.scope)
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
        // A directory that has been dealt with is not the volume's any more.
        let located = located(volume, &self.scope.exports).ok().filter(|_| volume.disposed.is_none());
        self.ledger.settle(&volume.name, entry(volume, located.as_ref()));
    }
}

/// A list of all volumes that is being read.
#[derive(Debug)]
struct Reading {
    /// The number of the ledger's latest note when the list began.
    begun: u32,
    /// The volumes that the watch has shown to be gone since.
    gone: HashSet<VolumeName>,
}

/// Returns what others have to respect of a volume whose directory lies there.
fn entry<'a>(volume: &'a Volume, at: Option<&'a Location>) -> Entry<'a> {
    Entry {
        at,
        namespace: volume.claim.as_ref().map(|claim| &*claim.namespace),
        bytes: volume.capacity.as_ref().map_or(0, bytes),
        gid: volume.gid,
    }
}
