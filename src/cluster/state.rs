//! What we know of the cluster: slim records of the claims that wait for us or ask for more than they have, of the
//! volumes we have to reclaim, and of all classes, kept up to date by watches. Whole objects are forgotten as soon as
//! they are read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::decide::{Scope, is_work, located};
use crate::ledger::gids::Gids;
use crate::ledger::placements::{Conflict, Neighbour, Placements, Relation};
use crate::model::claim::{Claim, claim_uid};
use crate::model::class::Class;
use crate::model::expansion::Expansion;
use crate::model::exports::{ExportId, Location};
use crate::model::volume::{Phase, Volume};
use crate::queue::Queue;
use crate::values::ownership::GidRange;
use crate::values::quantity::bytes;

/// What a record is found by: a claim's uid, a volume's or a class's name.
pub type Key = Arc<str>;

/// Why a new volume cannot be made, now or at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It cannot have its directory.
    Directory(Conflict),
    /// It is to have a group of its own, and a volume without one has the same directory.
    NoGroupThere,
    /// All groups of the range are in use.
    NoGroupLeft(GidRange),
    /// Its export has been promised to others meanwhile.
    Promised,
}

/// What a volume is promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promise {
    /// How many bytes.
    pub bytes: u64,
    /// How many all on its export may be promised together.
    pub most: Option<u128>,
}

impl From<Conflict> for Denied {
    fn from(conflict: Conflict) -> Self {
        Self::Directory(conflict)
    }
}

/// The group that a new volume gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub gid: u32,
    /// Whether it is that of another volume with the same directory.
    pub shared: bool,
}

/// What kind of group a new volume wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// One of these, which no other volume has; unset, that of the others with the same directory, if they have one.
    pub gids: Option<GidRange>,
    /// Rather this one than another: its directory is there already, and has it.
    pub gid: Option<u32>,
}

/// What a volume that is about to be made wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// Whether its directory may be at, in or above one of another namespace.
    pub across: bool,
    /// What it is promised.
    pub promise: Promise,
    /// What group it wants.
    pub wish: Wish,
}

/// The kinds of objects that we know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// `StorageClasses`.
    Classes,
    /// `PersistentVolumeClaims`.
    Claims,
    /// `PersistentVolumes`.
    Volumes,
}

impl Watched {
    /// What they are called in metrics and health checks.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Claims => "claims",
            Self::Volumes => "volumes",
        }
    }
}

/// The records of one kind of object, as a watch brings them.
#[derive(Debug)]
struct Mirror<R> {
    records: HashMap<Key, Arc<R>>,
    /// Those that a list under way has brought so far.
    listed: Option<HashSet<Key>>,
}

impl<R> Default for Mirror<R> {
    fn default() -> Self {
        Self { records: HashMap::new(), listed: None }
    }
}

impl<R: PartialEq> Mirror<R> {
    /// Takes in an object as it is now; `None` is one that does not concern us. Says whether anything changed.
    fn put(&mut self, key: &Key, record: Option<R>) -> bool {
        let Some(record) = record else {
            return self.records.remove(key).is_some();
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(Arc::clone(key));
        }
        let record = Arc::new(record);
        let before = self.records.insert(Arc::clone(key), Arc::clone(&record));
        before != Some(record)
    }

    fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// Ends a list: what it did not bring has gone, and is returned.
    fn end_list(&mut self) -> Vec<Key> {
        let Some(listed) = self.listed.take() else {
            return Vec::new();
        };
        let gone: Vec<Key> = self.records.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in &gone {
            self.records.remove(key);
        }
        gone
    }
}

/// What we know of the cluster, and the queues of what is to be looked at because it has changed.
#[derive(Debug)]
pub struct Catalog {
    scope: Arc<Scope>,
    classes: Mutex<Mirror<Class>>,
    claims: Mutex<Mirror<Claim>>,
    expansions: Mutex<Mirror<Expansion>>,
    volumes: Mutex<Volumes>,
    /// The claims to look at, by uid.
    pub changed_claims: Arc<Queue<Key>>,
    /// The volumes to look at, by name.
    pub changed_volumes: Arc<Queue<Key>>,
    /// The bound claims to look at, by uid.
    pub changed_expansions: Arc<Queue<Key>>,
}

impl Catalog {
    /// An empty catalog.
    #[must_use]
    pub fn new(scope: Arc<Scope>) -> Self {
        Self {
            scope,
            classes: Mutex::default(),
            claims: Mutex::default(),
            expansions: Mutex::default(),
            volumes: Mutex::default(),
            changed_claims: Arc::default(),
            changed_volumes: Arc::default(),
            changed_expansions: Arc::default(),
        }
    }

    /// The name of the provisioner it is for.
    #[must_use]
    pub fn provisioner(&self) -> &str {
        &self.scope.provisioner
    }

    /// The claim with this uid, if it waits for us.
    #[must_use]
    pub fn claim(&self, uid: &str) -> Option<Arc<Claim>> {
        lock(&self.claims).records.get(uid).cloned()
    }

    /// The bound claim with this uid, anybody's, if it asks for more than it has.
    #[must_use]
    pub fn expansion(&self, uid: &str) -> Option<Arc<Expansion>> {
        lock(&self.expansions).records.get(uid).cloned()
    }

    /// The volume of this name, if there is something to do for it.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Arc<Volume>> {
        lock(&self.volumes).work.records.get(name).cloned()
    }

    /// Gives a directory, what it is promised and, where it is to have one, a group to a volume that is about to be made,
    /// in one step: see [`Placements::reserve`]. Volumes that share a directory share its group.
    ///
    /// # Errors
    /// If it cannot have one of them. It then has none.
    pub fn reserve(
        &self,
        volume: &Key,
        location: &Location,
        namespace: &str,
        Wants { across, promise, wish }: Wants,
    ) -> Result<Option<Group>, Denied> {
        let mut volumes = lock(&self.volumes);
        volumes.placements.reserve(volume, location, namespace, across)?;
        let promised = volumes.placements.promise(volume, promise.bytes, promise.most);
        let group = if promised { volumes.group(volume, location, wish) } else { Err(Denied::Promised) };
        if group.is_err() {
            volumes.give_up(volume);
        }
        group
    }

    /// Promises more to a volume that is about to grow; see [`Placements::promise`].
    #[must_use]
    pub fn promise(&self, volume: &str, Promise { bytes, most }: Promise) -> bool {
        lock(&self.volumes).placements.promise(volume, bytes, most)
    }

    /// See [`Placements::next`].
    #[must_use]
    pub fn next_volume(&self, export: ExportId, position: Option<&str>) -> Option<(Key, Arc<str>)> {
        lock(&self.volumes).placements.next(export, position)
    }

    /// See [`Placements::somewhere`].
    #[must_use]
    pub fn somewhere(&self, export: ExportId) -> Option<Arc<str>> {
        lock(&self.volumes).placements.somewhere(export)
    }

    /// Whether claims or volumes wait for their turn just now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.changed_claims.is_behind() || self.changed_volumes.is_behind() || self.changed_expansions.is_behind()
    }

    /// See [`Placements::promised`].
    #[must_use]
    pub fn promised(&self, export: ExportId, but: &str) -> u128 {
        lock(&self.volumes).placements.promised(export, but)
    }

    /// See [`Placements::made`].
    pub fn made(&self, volume: &str) {
        let mut volumes = lock(&self.volumes);
        volumes.placements.made(volume);
        volumes.gids.made(volume);
    }

    /// See [`Placements::exists`].
    #[must_use]
    pub fn exists(&self, volume: &str) -> bool {
        lock(&self.volumes).placements.exists(volume)
    }

    /// Says that a volume has been reclaimed: there is nothing to do for it any more, however often it changes before
    /// it has gone.
    pub fn reclaimed(&self, volume: &Volume) {
        lock(&self.volumes).reclaimed(volume);
    }

    /// See [`Placements::give_up`].
    pub fn give_up(&self, volume: &str) {
        lock(&self.volumes).give_up(volume);
    }

    /// See [`Placements::depart`]; `None`, and nothing is noted, while the directory is being copied.
    pub fn depart(&self, volume: &Key, location: &Location) -> Option<Vec<Neighbour>> {
        let mut volumes = lock(&self.volumes);
        if volumes.placements.is_read(location) {
            return None;
        }
        Some(volumes.placements.depart(volume, location))
    }

    /// See [`Placements::is_alone`].
    #[must_use]
    pub fn is_alone(&self, volume: &str, location: &Location) -> bool {
        lock(&self.volumes).placements.is_alone(volume, location)
    }

    /// See [`Placements::begin_reading`].
    #[must_use]
    pub fn begin_reading(&self, location: &Location) -> bool {
        lock(&self.volumes).placements.begin_reading(location)
    }

    /// See [`Placements::end_reading`].
    pub fn end_reading(&self, location: &Location) {
        lock(&self.volumes).placements.end_reading(location);
    }

    /// See [`Placements::moved`].
    pub fn moved(&self, volume: &str) {
        lock(&self.volumes).placements.moved(volume);
    }

    /// See [`Placements::at_or_beneath`].
    #[must_use]
    pub fn at_or_beneath(&self, export: ExportId, path: &str) -> Option<Relation> {
        lock(&self.volumes).placements.at_or_beneath(export, path)
    }

    /// See [`Placements::stay`].
    pub fn stay(&self, volume: &str) {
        lock(&self.volumes).placements.stay(volume);
    }

    /// Takes in a volume that a list has shown just now, of which the watch has not told yet.
    pub fn heard_of(&self, volume: &Volume) {
        let mut volumes = lock(&self.volumes);
        if !volumes.placements.exists(&volume.name) {
            volumes.settle(&Arc::from(&*volume.name), volume, &self.scope);
        }
    }

    /// Forgets a volume of which the API server says that it does not exist.
    pub fn forget_volume(&self, name: &str) {
        lock(&self.volumes).forget(name);
    }

    /// The class of this name, anybody's.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<Arc<Class>> {
        lock(&self.classes).records.get(name).cloned()
    }

    /// Says that a list of all objects of a kind begins.
    pub fn begin_list(&self, kind: Watched) {
        match kind {
            Watched::Classes => lock(&self.classes).begin_list(),
            Watched::Claims => {
                lock(&self.claims).begin_list();
                lock(&self.expansions).begin_list();
            }
            Watched::Volumes => lock(&self.volumes).begin_list(),
        }
    }

    /// Says that the list is complete: what it did not bring has gone.
    pub fn end_list(&self, kind: Watched) {
        match kind {
            Watched::Classes => lock(&self.classes).end_list().into_iter().for_each(|name| self.reconsider(&name)),
            Watched::Claims => {
                lock(&self.claims).end_list().into_iter().for_each(|uid| self.changed_claims.push(uid));
                lock(&self.expansions).end_list().into_iter().for_each(|uid| self.changed_expansions.push(uid));
            }
            Watched::Volumes => {
                let Ended { work, gone } = lock(&self.volumes).end_list();
                for name in work {
                    self.changed_volumes.push(name);
                }
                for name in gone {
                    self.reconsider_claim_of(&name);
                }
            }
        }
    }

    /// Takes in a class as it is now; `None` is one that has gone.
    pub fn put_class(&self, key: &Key, record: Option<Class>) {
        let unknown = record.as_ref().filter(|class| *class.provisioner == *self.scope.provisioner);
        let unknown = unknown.map(|class| class.parameters.unknown.clone()).unwrap_or_default();
        if !lock(&self.classes).put(key, record) {
            return;
        }
        for parameter in unknown {
            warn!(
                class = &**key,
                ?parameter,
                "the StorageClass has a parameter that is not known, and has no effect: a typo?"
            );
        }
        self.reconsider(key);
    }

    /// Has all claims and volumes of a class looked at again.
    fn reconsider(&self, class: &Key) {
        for (uid, _) in lock(&self.claims).records.iter().filter(|(_, claim)| *claim.class == **class) {
            self.changed_claims.push(Arc::clone(uid));
        }
        for (name, _) in lock(&self.volumes).work.records.iter().filter(|(_, volume)| *volume.class == **class) {
            self.changed_volumes.push(Arc::clone(name));
        }
    }

    /// Takes in a claim as it is now; `None` is one that does not wait for us, or has gone.
    pub fn put_claim(&self, key: &Key, record: Option<Claim>) {
        if lock(&self.claims).put(key, record) {
            self.changed_claims.push(Arc::clone(key));
        }
    }

    /// Takes in a bound claim as it is now; `None` is one that does not grow, or has gone.
    pub fn put_expansion(&self, key: &Key, record: Option<Expansion>) {
        if lock(&self.expansions).put(key, record) {
            self.changed_expansions.push(Arc::clone(key));
        }
    }

    /// Has the claim looked at again that a volume was made for, if it waits still: it needs another one.
    fn reconsider_claim_of(&self, volume: &str) {
        let claims = lock(&self.claims);
        if let Some((uid, _)) = claim_uid(volume).and_then(|uid| claims.records.get_key_value(uid)) {
            self.changed_claims.push(Arc::clone(uid));
        }
    }

    /// Takes in a volume as it is now; `None` is one that has gone.
    pub fn put_volume(&self, key: &Key, record: Option<Volume>) {
        let gone = record.is_none();
        if lock(&self.volumes).put(key, record, &self.scope) {
            self.changed_volumes.push(Arc::clone(key));
        }
        if gone {
            self.reconsider_claim_of(key);
        }
    }
}

/// What a list of all volumes has not shown any more.
struct Ended {
    /// Those that there was something to do for.
    work: Vec<Key>,
    /// Those that lay on our exports.
    gone: Vec<Key>,
}

/// What we know of volumes.
#[derive(Debug, Default)]
struct Volumes {
    /// Those that there is something to do for. The others are not looked at again before they change.
    work: Mirror<Volume>,
    /// Where those on our exports lie, whoever made them.
    placements: Placements,
    /// The groups of all.
    gids: Gids,
    /// Those of ours that were deleted while they had a claim, and are to be reclaimed all the same when that has
    /// gone, even if the object has gone by then.
    deleted_while_bound: HashSet<Key>,
    /// The uids of those that have been reclaimed and are still shown by the watch: what the API server does with one
    /// that is deleted, and what takes the finalizers off, are changes, too.
    reclaimed: HashMap<Key, Box<str>>,
}

impl Volumes {
    fn put(&mut self, key: &Key, record: Option<Volume>, scope: &Scope) -> bool {
        let Some(mut volume) = record else { return self.gone(key) };
        self.settle(key, &volume, scope);
        if volume.deleting && volume.phase == Phase::Bound && volume.is_of(&scope.provisioner) {
            self.deleted_while_bound.insert(Arc::clone(key));
        }
        volume.deleted_while_bound = self.deleted_while_bound.contains(key);
        let is_reclaimed = self.reclaimed.get(key) == Some(&volume.uid);
        let is_work = !is_reclaimed && is_work(&volume, scope);
        self.work.put(key, is_work.then_some(volume))
    }

    /// Notes which group a volume has, and where it lies, if it is on one of our exports.
    fn settle(&mut self, key: &Key, volume: &Volume, scope: &Scope) {
        self.gids.settle(key, volume.gid);
        match located(volume, &scope.exports) {
            Ok(location) => {
                let namespace = volume.claim.as_ref().map(|claim| &*claim.namespace);
                self.placements.settle(key, &location, namespace);
                self.placements.promise(key, volume.capacity.as_ref().map_or(0, bytes), None);
            }
            Err(_) => self.placements.leave(key),
        }
    }

    /// The group that a volume is to have that has just been given a directory.
    fn group(&mut self, volume: &Key, location: &Location, wish: Wish) -> Result<Option<Group>, Denied> {
        let sharers = self.placements.sharers(volume, location);
        let shared = sharers.iter().find_map(|other| self.gids.of(other));
        let own = self.gids.of(volume).filter(|_| self.gids.exists(volume));
        match (own.or(shared), wish.gids) {
            (Some(gid), _) => {
                if own.is_none() {
                    self.gids.share(volume, gid);
                }
                Ok(Some(Group { gid, shared: shared.is_some() }))
            }
            (None, None) => {
                self.gids.give_up(volume);
                Ok(None)
            }
            (None, Some(_)) if !sharers.is_empty() => Err(Denied::NoGroupThere),
            (None, Some(gids)) => {
                let gid = self.gids.give(volume, gids, wish.gid).ok_or(Denied::NoGroupLeft(gids))?;
                Ok(Some(Group { gid, shared: false }))
            }
        }
    }

    fn give_up(&mut self, volume: &str) {
        self.placements.give_up(volume);
        self.gids.give_up(volume);
    }

    /// The object has gone. What was still to be done for it is not forgotten if it was deleted while bound.
    fn gone(&mut self, key: &Key) -> bool {
        self.placements.leave(key);
        self.gids.leave(key);
        self.reclaimed.remove(key);
        let to_do = self.work.records.get(key).is_some_and(|volume| volume.deleted_while_bound);
        if to_do {
            return true;
        }
        self.deleted_while_bound.remove(key);
        self.work.put(key, None)
    }

    fn reclaimed(&mut self, volume: &Volume) {
        // The watch may have said already that it has gone.
        if self.placements.exists(&volume.name) {
            self.reclaimed.insert(Arc::from(&*volume.name), volume.uid.clone());
        }
        self.deleted_while_bound.remove(&*volume.name);
        self.work.records.remove(&*volume.name);
    }

    fn forget(&mut self, name: &str) {
        self.placements.leave(name);
        self.gids.leave(name);
        self.reclaimed.remove(name);
        self.deleted_while_bound.remove(name);
        self.work.records.remove(name);
    }

    fn begin_list(&mut self) {
        self.placements.begin_list();
        self.gids.begin_list();
        self.work.begin_list();
    }

    fn end_list(&mut self) -> Ended {
        let gone = self.placements.end_list();
        self.gids.end_list();
        let placements = &self.placements;
        self.reclaimed.retain(|volume, _| placements.exists(volume));
        Ended { work: self.work.end_list(), gone }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds it panics in between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::exports::Exports;
    use crate::values::address::ExportAddress;

    fn key(text: &str) -> Key {
        text.into()
    }

    fn put(mirror: &mut Mirror<u32>, name: &str, record: Option<u32>) -> bool {
        mirror.put(&key(name), record)
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut mirror = Mirror::default();
        assert!(put(&mut mirror, "a", Some(1)));
        assert!(!put(&mut mirror, "a", Some(1)));
        assert!(put(&mut mirror, "a", Some(2)));
        assert!(put(&mut mirror, "a", None));
        assert!(!put(&mut mirror, "a", None));
    }

    #[test]
    fn what_a_list_does_not_bring_has_gone() {
        let mut mirror = Mirror::default();
        for name in ["a", "b", "c"] {
            put(&mut mirror, name, Some(1));
        }
        mirror.begin_list();
        assert!(!put(&mut mirror, "a", Some(1)));
        put(&mut mirror, "b", None);
        assert_eq!(mirror.end_list(), [key("c")]);
        assert_eq!(mirror.records.len(), 1);
    }

    #[test]
    fn a_list_that_is_cut_short_loses_nothing() {
        let mut mirror = Mirror::default();
        put(&mut mirror, "a", Some(1));
        mirror.begin_list();
        mirror.begin_list();
        put(&mut mirror, "a", Some(1));
        assert!(mirror.end_list().is_empty());
        assert!(mirror.records.contains_key("a"));
    }

    #[test]
    fn directory_and_group_are_given_together_or_not_at_all() {
        let scope = Scope {
            provisioner: "us".to_owned(),
            exports: Exports::single(ExportAddress::new("nas".into(), "/export".into())),
            share: false,
            may_patch: false,
        };
        let at = |path: &str| scope.exports.locate("nas", &format!("/export/{path}")).unwrap();
        let catalog = Catalog::new(Arc::new(scope.clone()));
        let wish = Wish { gids: "50-51".parse().ok(), gid: None };
        let reserve = |volume: &str, path: &str, wish| {
            let promise = Promise { bytes: 10, most: Some(70) };
            catalog.reserve(&key(volume), &at(path), "ns", Wants { across: false, promise, wish })
        };
        let group = |gid, shared| Ok(Some(Group { gid, shared }));
        assert_eq!(reserve("a", "x", wish), group(50, false));
        assert_eq!(reserve("a", "x", wish), group(50, false), "again");
        assert_eq!(reserve("b", "x", wish), group(50, true));
        assert_eq!(reserve("c", "x", Wish::default()), group(50, true));
        assert_eq!(reserve("d", "y", Wish::default()), Ok(None));
        assert_eq!(reserve("e", "y", wish), Err(Denied::NoGroupThere));
        assert_eq!(reserve("f", "z", wish), group(51, false));
        assert_eq!(reserve("g", "x/beneath", wish), Err(Denied::NoGroupLeft("50-51".parse().unwrap())));
        assert_eq!(catalog.at_or_beneath(at("x").export, "x/beneath"), None, "what is denied leaves nothing");
        catalog.give_up("f");
        assert_eq!(reserve("g", "x/beneath", wish), group(51, false));
        assert_eq!(reserve("h", "h", Wish::default()), Ok(None));
        assert_eq!(catalog.promised(at("x").export, ""), 60, "a, b, c, d, g and h");
        assert_eq!(reserve("i", "i", Wish::default()), Ok(None));
        assert_eq!(reserve("j", "j", Wish::default()), Err(Denied::Promised));
        assert_eq!(catalog.promised(at("x").export, "i"), 60);
    }
}
