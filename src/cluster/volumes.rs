//! What is remembered of volumes from one event of the watch to the next, besides where they lie.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::mirror::Mirror;
use crate::decide::scope::Scope;
use crate::decide::volume::is_work;
use crate::model::volume::{Phase, Volume};
use crate::values::names::VolumeName;

/// The volumes that there is work to do for. All others are not looked at again before they change.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// The volumes as they were last seen.
    pub(super) work: Mirror<VolumeName, Volume>,
    /// Our volumes that were deleted while they had a claim. They are reclaimed when the claim is gone, even if
    /// the volume object is gone by then.
    deleted_while_bound: HashMap<VolumeName, Volume>,
    /// The uids of reclaimed volumes that the watch still shows: their deletion by the API server and the removal
    /// of their finalizers are changes, too.
    reclaimed: Mirror<VolumeName, Box<str>>,
    /// The volumes whose directories have been dealt with.
    disposed: HashMap<VolumeName, Disposed>,
    /// The volumes that were bound not long after they were created.
    bound: Recent,
}

/// What was done to the directory of a volume that is still there.
#[derive(Debug)]
struct Disposed {
    /// The volume as it was then.
    volume: Volume,
    /// What was done.
    done: Box<str>,
}

impl Volumes {
    /// Tells whether this very volume is recorded, and not a later one of its name.
    pub(super) fn is_recorded(&self, volume: &Volume) -> bool {
        self.work.get(&volume.name).is_some_and(|record| record.uid == volume.uid)
    }

    /// Drops all that is recorded of a volume: there is nothing more to do for it.
    fn drop_work(&mut self, name: &VolumeName) {
        self.deleted_while_bound.remove(name);
        self.disposed.remove(name);
        self.work.remove(name);
    }

    /// Forgets a volume that is gone.
    pub(super) fn forget(&mut self, name: &VolumeName) {
        self.reclaimed.remove(name);
        self.drop_work(name);
    }

    /// Notes what is seen of a volume, and adds what was seen of it before.
    pub(super) fn remember(&mut self, mut volume: Volume, scope: &Scope) -> Volume {
        let is_ours = volume.is_of(&scope.provisioner);
        let is_bound = volume.phase == Phase::Bound;
        self.bound.hear(&volume);
        if is_ours && is_bound {
            self.bound.note(&volume);
        }
        let is_known = |before: &Volume| before.uid == volume.uid;
        let was_deleted_bound = self.deleted_while_bound.get(&volume.name).is_some_and(is_known);
        volume.deleted_while_bound = volume.deleting && (was_deleted_bound || (is_ours && is_bound));
        if volume.deleted_while_bound {
            // As it is now: an admin may have changed his mind.
            self.deleted_while_bound.insert(volume.name.clone(), volume.clone());
        } else if was_deleted_bound {
            self.deleted_while_bound.remove(&volume.name);
        }
        let recorded = self.work.get(&volume.name).filter(|record| record.uid == volume.uid);
        volume.seen_bound =
            is_ours && (self.bound.contains(&volume) || recorded.is_some_and(|record| record.seen_bound));
        let disposed = self.disposed.get(&volume.name).filter(|disposed| volume.is_released_as(&disposed.volume));
        volume.disposed = volume.disposed.or_else(|| disposed.map(|disposed| disposed.done.clone()));
        volume
    }

    /// Records a volume that was [remembered](Self::remember). Tells whether there is anything new to do for it.
    pub(super) fn put(&mut self, volume: Volume, scope: &Scope) -> bool {
        let name = volume.name.clone();
        let is_reclaimed = self.reclaimed.get(&name).is_some_and(|uid| *uid == volume.uid);
        if is_reclaimed {
            self.reclaimed.put(&name, Some(volume.uid.clone()));
        }
        let is_work = !is_reclaimed && is_work(&volume, scope);
        self.work.put(&name, is_work.then_some(volume))
    }

    /// Notes that a volume object is gone. If the volume was deleted while bound, the work for it is kept: whether
    /// its claim has gone, too, is asked before anything is done.
    pub(super) fn gone(&mut self, name: &VolumeName, scope: &Scope) -> bool {
        self.reclaimed.remove(name);
        if self.work.get(name).is_some_and(|volume| volume.deleted_while_bound) {
            return true;
        }
        if let Some(deleted) = self.deleted_while_bound.remove(name) {
            // Its release was not seen, if it was bound when it was seen last.
            let released = Volume { phase: Phase::Released, seen_bound: true, ..deleted };
            if is_work(&released, scope) {
                return self.work.put(name, Some(released));
            }
        }
        self.disposed.remove(name);
        self.work.remove(name)
    }

    /// Notes that a list does not show a volume any more, so that nobody knows what it was like in the end.
    fn gone_unseen(&mut self, name: &VolumeName, scope: &Scope) -> bool {
        let has_changed = self.gone(name, scope);
        if let Some(record) = self.work.get(name) {
            self.work.put(name, Some(Volume { is_unseen_gone: true, ..Volume::clone(&record) }));
        }
        has_changed
    }

    /// Notes that this process has made a volume.
    pub(super) fn made(&mut self, volume: &Volume) {
        self.bound.hear(volume);
        self.bound.note(volume);
    }

    /// Notes that a volume has been reclaimed: however it changes before it is gone, that is no work.
    pub(super) fn reclaimed(&mut self, volume: &Volume) {
        // The watch may have shown already that a volume is gone which is done from memory.
        if !volume.deleted_while_bound || volume.finalizer {
            self.reclaimed.put(&volume.name, Some(volume.uid.clone()));
        }
        self.drop_work(&volume.name);
    }

    /// Notes that a volume's directory has been dealt with. Returns the record of the volume as it is then, if there
    /// is one.
    pub(super) fn disposed(&mut self, volume: &Volume, done: &str) -> Option<Volume> {
        let disposed = Disposed { volume: volume.clone(), done: done.into() };
        self.disposed.insert(volume.name.clone(), disposed);
        let record = self.work.get(&volume.name).filter(|record| record.is_released_as(volume))?;
        let record = Volume { disposed: Some(done.into()), ..Volume::clone(&record) };
        self.work.put(&volume.name, Some(record.clone()));
        Some(record)
    }

    /// Begins a list of all volumes.
    pub(super) fn begin_list(&mut self) {
        self.work.begin_list();
        self.reclaimed.begin_list();
    }

    /// Ends a list of all volumes, after which these are known to be gone. Returns the volumes to look at.
    pub(super) fn end_list(&mut self, gone: &[VolumeName], scope: &Scope) -> Vec<VolumeName> {
        // While the list is still under way: what comes of it, no watch has shown.
        let mut changed: Vec<VolumeName> =
            gone.iter().filter(|name| self.gone_unseen(name, scope)).cloned().collect();
        self.reclaimed.end_list();
        changed.extend(self.work.end_list_but(|volume| volume.deleted_while_bound));
        let Self { work, disposed, .. } = self;
        disposed.retain(|name, _| work.get(name).is_some());
        changed
    }
}

/// The volumes that were bound, or made here, not long after they were created, by a hash of their uids: there may be
/// a hundred in a second. Who waits to be reclaimed has that in the record.
#[derive(Debug, Default)]
struct Recent {
    seen: HashSet<u64>,
    by_time: VecDeque<(Instant, u64)>,
    /// The latest time that the API server has told. Its clock and ours may differ.
    latest: Option<Timestamp>,
}

impl Recent {
    /// How long a volume is remembered, and how old it may be at first: longer than its life, if
    /// [`Volume::seen_bound`] is to matter.
    const FOR: Duration = Duration::from_mins(5);

    /// Notes what a volume tells of the time.
    fn hear(&mut self, volume: &Volume) {
        self.latest = [self.latest, volume.created, volume.since].into_iter().flatten().max();
    }

    fn note(&mut self, volume: &Volume) {
        let now = Instant::now();
        while self.by_time.front().is_some_and(|(noted, _)| now.duration_since(*noted) > Self::FOR) {
            if let Some((_, key)) = self.by_time.pop_front() {
                self.seen.remove(&key);
            }
        }
        let age = self.latest.zip(volume.created).map(|(latest, created)| latest.duration_since(created));
        let is_old = age.is_some_and(|age| age.unsigned_abs() > Self::FOR);
        let key = Self::key(volume);
        if !is_old && self.seen.insert(key) {
            self.by_time.push_back((now, key));
        }
    }

    fn contains(&self, volume: &Volume) -> bool {
        self.seen.contains(&Self::key(volume))
    }

    fn key(volume: &Volume) -> u64 {
        let mut hasher = DefaultHasher::new();
        volume.uid.hash(&mut hasher);
        hasher.finish()
    }
}
