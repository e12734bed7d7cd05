//! Those who use the cluster: they make claims, delete them, change policies, and write in the directories they get.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use fastrand::Rng;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use nfs_provisioner::layout::ARCHIVE_PREFIX;
use serde_json::{Value, json};

use crate::checker::{Fate, Gift, Marker, Promise, Time};
use crate::journal::now;
use crate::support::space::{PATH, SERVER, Space, create, from_json, merge, named};

/// The most claims that there are at a time.
const CLAIMS: usize = 60;

/// The most volumes that are made by hand at a time, but for those that plots need.
const STATIC_VOLUMES: usize = 4;

/// How long all may take to come to rest once nothing goes wrong any more: failed rounds are repeated later and later.
const SETTLE: Duration = Duration::from_mins(4);

/// A class: its name, its fate, and the path of its directories, which may name the claim's annotation `path`.
const CLASSES: [(&str, Fate, Option<&str>); 7] = [
    ("archive", Fate::Archive, None),
    ("delete", Fate::Delete, None),
    ("kept", Fate::Retain, Some("${.PVC.namespace}/kept/${.PVC.annotations.path}")),
    ("shared", Fate::Delete, Some("${.PVC.namespace}/shared/${.PVC.annotations.path}")),
    ("saved", Fate::Archive, Some("${.PVC.namespace}/saved/${.PVC.annotations.path}")),
    // Made again with another fate, again and again.
    ("fickle", Fate::Delete, None),
    // Without the namespace: claims of two may want the same directory, and only one gets it.
    ("common", Fate::Delete, Some("common/${.PVC.annotations.path}")),
];

/// Paths that are the same, or in each other, often. The first three are not in each other.
const PATHS: [&str; 6] = ["a", "b", "c", "a/x", "b/y/z", "b/y"];

#[derive(Debug, Clone)]
pub(crate) struct OneClaim {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) class: &'static str,
    pub(crate) path: String,
    pub(crate) uid: String,
    since: Time,
    pub(crate) deleted: bool,
    /// Somebody has something in mind with it: all others leave it alone.
    pub(crate) is_busy: bool,
    /// The claim that it is a copy of.
    copy_of: Option<String>,
    /// The volume and the directory that it has, once a marker was written there.
    pub(crate) has: Option<(String, String)>,
}

impl OneClaim {
    /// The name of the volume that is made for it.
    pub(crate) fn volume(&self) -> String {
        format!("pvc-{}", self.uid)
    }

    /// Whether its directory is one that no other claim wants.
    pub(crate) fn is_alone(&self) -> bool {
        CLASSES.iter().any(|(name, _, pattern)| *name == self.class && pattern.is_none())
    }
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) claims: Vec<OneClaim>,
    static_volumes: Vec<String>,
    /// Those that a plot needs until it ends.
    plotted_volumes: Vec<String>,
    pub(crate) markers: Vec<Marker>,
    pub(crate) gifts: Vec<Gift>,
    pub(crate) promises: Vec<Promise>,
    /// Directories whose volumes an admin has offered to others.
    tainted: BTreeSet<String>,
    /// Volumes whose `claimRef` an admin has changed.
    given: BTreeSet<String>,
    /// What was seen to be wrong on the way.
    pub(crate) wrong: Vec<String>,
    /// What has happened, in order.
    pub(crate) diary: Vec<(Time, String)>,
    /// How often each plot was carried out.
    pub(crate) plots: BTreeMap<&'static str, usize>,
}

pub(crate) struct World<'a> {
    pub(crate) space: &'a Space,
    pub(crate) namespaces: [String; 2],
    pub(crate) has_ended: Cell<bool>,
    /// How many do not want the provisioner to be killed now.
    pub(crate) truces: Cell<usize>,
    /// Whether nothing is to go wrong on the way to the API server for a moment.
    pub(crate) is_quiet: Cell<bool>,
    /// How many rely on it that the provisioner hears of the claims that there are.
    pub(crate) copies_waiting: Cell<usize>,
    /// Until when it may be told of old claims.
    pub(crate) stale_claims: Cell<Option<Instant>>,
    seen: RefCell<Seen>,
}

impl<'a> World<'a> {
    pub(crate) async fn new(space: &'a Space) -> Self {
        let second = format!("{}-b", space.namespace);
        create(&Api::all(space.client.clone()), named::<Namespace>(&second)).await;
        let world = Self {
            space,
            namespaces: [space.namespace.clone(), second],
            has_ended: Cell::default(),
            truces: Cell::default(),
            is_quiet: Cell::default(),
            copies_waiting: Cell::default(),
            stale_claims: Cell::default(),
            seen: RefCell::default(),
        };
        for (name, fate, pattern) in CLASSES {
            world.make_class(name, fate, pattern).await;
        }
        world
    }

    pub(crate) fn seen(&self) -> RefMut<'_, Seen> {
        self.seen.borrow_mut()
    }

    pub(crate) fn into_seen(self) -> Seen {
        self.seen.into_inner()
    }

    pub(crate) fn note(&self, what: String) {
        self.seen().diary.push((now(), what));
    }

    pub(crate) fn made(&self) -> usize {
        self.seen().claims.len()
    }

    async fn make_class(&self, name: &str, fate: Fate, pattern: Option<&str>) {
        let on_delete = format!("{fate:?}").to_lowercase();
        let parameters = json!({"onDelete": on_delete, "pathPattern": pattern.unwrap_or_default()});
        self.space.class(name, json!({"parameters": parameters})).await;
    }

    pub(crate) fn claims_of(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.space.client.clone(), namespace)
    }

    /// Does one thing after the other until all ends.
    pub(crate) async fn use_cluster(&self, mut rng: Rng) {
        while !self.has_ended.get() {
            tokio::time::sleep(Duration::from_millis(rng.u64(50..600))).await;
            match rng.u8(..100) {
                0..45 => self.make_any(&mut rng).await,
                45..70 => self.delete_any(&mut rng).await,
                70..79 => self.change_policy(&mut rng).await,
                79..87 => self.change_fate(&mut rng).await,
                87..93 => self.make_static(&mut rng).await,
                93..97 => self.delete_static(&mut rng).await,
                97 => self.change_class(&mut rng).await,
                _ => {}
            }
        }
    }

    async fn make_any(&self, rng: &mut Rng) {
        if self.seen().claims.iter().filter(|claim| !claim.deleted).count() >= CLAIMS {
            return;
        }
        let (class, ..) = CLASSES[rng.usize(..CLASSES.len())];
        // What is kept for one that is in it is found by the next claim, whose namespace may be another.
        let paths = if class == "common" { &PATHS[..3] } else { &PATHS[..] };
        // A name that was used before, now and then.
        let (name, path) = (format!("data-{}", rng.usize(..CLAIMS)), paths[rng.usize(..paths.len())]);
        self.make(&self.namespaces[rng.usize(..2)], &name, class, path, json!({})).await;
    }

    /// Makes a claim, unless there is one of that name, or one that is still on its way out. Its number.
    pub(crate) async fn make(
        &self,
        namespace: &str,
        name: &str,
        class: &'static str,
        path: &str,
        patch: Value,
    ) -> Option<usize> {
        let mut object = json!({
            "metadata": {"name": name, "annotations": {"path": path}},
            "spec": {
                "storageClassName": self.space.class_name(class), "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        });
        merge(&mut object, patch);
        let copy_of = object["spec"]["dataSource"]["name"].as_str().map(str::to_owned);
        let since = now();
        let made = self.claims_of(namespace).create(&Default::default(), &from_json(object)).await.ok()?;
        let mut seen = self.seen();
        seen.claims.push(OneClaim {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            class,
            path: path.to_owned(),
            uid: made.metadata.uid.expect("a uid"),
            since,
            deleted: false,
            is_busy: name.starts_with("busy-"),
            copy_of,
            has: None,
        });
        Some(seen.claims.len() - 1)
    }

    pub(crate) fn claim(&self, number: usize) -> OneClaim {
        self.seen().claims[number].clone()
    }

    /// A claim that nobody has something in mind with, living or not.
    pub(crate) fn any_claim(&self, rng: &mut Rng, is_fit: impl Fn(&OneClaim) -> bool) -> Option<usize> {
        let seen = self.seen();
        let mut fit = seen.claims.iter().enumerate().filter(|(_, claim)| !claim.is_busy && is_fit(claim));
        let count = fit.clone().count();
        fit.nth(rng.usize(..count.max(1))).map(|(number, _)| number)
    }

    async fn delete_any(&self, rng: &mut Rng) {
        if let Some(number) = self.any_claim(rng, |claim| !claim.deleted) {
            self.delete(number).await;
        }
    }

    pub(crate) async fn delete(&self, number: usize) {
        self.seen().claims[number].deleted = true;
        let claim = self.claim(number);
        let deleted = self.claims_of(&claim.namespace).delete(&claim.name, &DeleteParams::default()).await;
        deleted.expect("a claim to delete");
    }

    pub(crate) async fn patch_volume(&self, name: &str, patch: Value) -> bool {
        // It may not be there, or not be there any more.
        self.space.volumes().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok()
    }

    async fn change_policy(&self, rng: &mut Rng) {
        let Some(number) = self.any_claim(rng, |_| true) else { return };
        let policy = if rng.bool() { "Retain" } else { "Delete" };
        let patch = json!({"spec": {"persistentVolumeReclaimPolicy": policy}});
        self.patch_volume(&self.claim(number).volume(), patch).await;
    }

    async fn change_fate(&self, rng: &mut Rng) {
        let Some(number) = self.any_claim(rng, |_| true) else { return };
        let claim = self.claim(number);
        // What is kept of another namespace may be found by the next claim, as is documented.
        let fates: &[Value] = &[json!("archive"), json!("delete"), Value::Null, json!("retain")];
        let fate = &fates[rng.usize(..if claim.class == "common" { 3 } else { 4 })];
        let patch = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": fate}}});
        self.patch_volume(&claim.volume(), patch).await;
    }

    /// Makes the class again whose directories all have paths of their own, with another fate.
    async fn change_class(&self, rng: &mut Rng) {
        let fate = [Fate::Retain, Fate::Archive, Fate::Delete][rng.usize(..3)];
        let deleted =
            self.space.classes().delete(&self.space.class_name("fickle"), &DeleteParams::default()).await;
        // Else somebody else is doing the same.
        if deleted.is_ok() {
            self.note(format!("the class fickle is to have the fate {fate:?}"));
            tokio::time::sleep(Duration::from_millis(rng.u64(..500))).await;
            self.make_class("fickle", fate, None).await;
        }
    }

    /// An admin makes a volume by hand for a directory that a claim has, or had.
    async fn make_static(&self, rng: &mut Rng) {
        let Some(number) = self.any_claim(rng, |claim| claim.has.is_some() && claim.class != "common") else {
            return;
        };
        let (_, path) = self.claim(number).has.expect("a directory");
        // While there is one, no claim is given its directory.
        while self.seen().static_volumes.len() >= STATIC_VOLUMES {
            self.delete_static(rng).await;
        }
        let name = self.make_static_at(rng, &path).await;
        self.seen().static_volumes.push(name);
    }

    /// Makes a volume by hand that nobody deletes before the plot has ended.
    pub(crate) async fn share(&self, rng: &mut Rng, path: &str) {
        let name = self.make_static_at(rng, path).await;
        self.seen().plotted_volumes.push(name);
    }

    /// Has the volumes that plots have made deleted by and by.
    pub(crate) fn end_sharing(&self) {
        let mut seen = self.seen();
        let plotted = std::mem::take(&mut seen.plotted_volumes);
        seen.static_volumes.extend(plotted);
    }

    async fn make_static_at(&self, rng: &mut Rng, path: &str) -> String {
        let name = format!("{}-static-{}", ["a", "z"][rng.usize(..2)], rng.u64(..));
        let volume: PersistentVolume = from_json(json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": "by-hand",
                "persistentVolumeReclaimPolicy": "Retain", "nfs": {"server": SERVER, "path": format!("{PATH}/{path}")},
            },
        }));
        create(&self.space.volumes(), volume).await;
        self.note(format!("{name} is made by hand for {path}"));
        name
    }

    async fn delete_static(&self, rng: &mut Rng) {
        let name = {
            let volumes = &mut self.seen().static_volumes;
            if volumes.is_empty() {
                return;
            }
            volumes.swap_remove(rng.usize(..volumes.len()))
        };
        self.space.volumes().delete(&name, &DeleteParams::default()).await.expect("a volume to delete");
    }

    /// Notes that an admin is about to write something else into a volume's `claimRef`: whoever gets the volume then has
    /// the files of the claim before.
    pub(crate) fn give_away(&self, volume: String, path: String) {
        let mut seen = self.seen();
        seen.given.insert(volume);
        seen.tainted.insert(path);
    }

    /// Writes in the directories of the claims that are Bound, until all ends.
    pub(crate) async fn write(&self) {
        while !self.has_ended.get() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.mark().await;
        }
    }

    async fn mark(&self) {
        let waits = |claim: &OneClaim| !claim.deleted && claim.has.is_none();
        if !self.seen().claims.iter().any(waits) {
            return;
        }
        let bound = self.bound().await;
        let numbers: Vec<usize> = {
            let seen = self.seen();
            let all = seen.claims.iter().enumerate();
            all.filter(|(_, claim)| waits(claim)).map(|(number, _)| number).collect()
        };
        for number in numbers {
            if let Some((volume, path)) = bound.get(&self.claim(number).uid) {
                // Nothing is waited for in there, so that nobody deletes the claim meanwhile.
                self.mark_one(number, volume, path);
            }
        }
    }

    /// The volumes and directories of all claims that are Bound, by uid.
    async fn bound(&self) -> BTreeMap<String, (String, String)> {
        let params = ListParams::default();
        let [first, second] = self.namespaces.each_ref().map(|namespace| self.claims_of(namespace));
        let claims = futures::join!(first.list(&params), second.list(&params));
        let volumes = self.space.volumes().list(&params).await.expect("a list").items;
        let paths: BTreeMap<&str, String> = volumes
            .iter()
            .map(|volume| (volume.metadata.name.as_deref().expect("a name"), Space::directory(volume)))
            .collect();
        let claims = [claims.0, claims.1].map(|list| list.expect("a list").items);
        let bound = claims.iter().flatten().filter_map(|claim| {
            let is_bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
            let volume = claim.spec.as_ref()?.volume_name.as_deref().filter(|_| is_bound)?;
            Some((claim.metadata.uid.clone()?, (volume.to_owned(), paths.get(volume)?.clone())))
        });
        bound.collect()
    }

    fn mark_one(&self, number: usize, volume: &str, path: &str) {
        let directory = self.space.at(path);
        let mut seen = self.seen();
        let claim = seen.claims[number].clone();
        let name = format!("marker-{}", claim.uid);
        let there: Vec<String> = match fs::read_dir(&directory) {
            Ok(all) => all.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            Err(error) => {
                seen.wrong.push(format!("{claim:?} is Bound and cannot read {path}: {error}"));
                Vec::new()
            }
        };
        match fs::write(directory.join(&name), &claim.uid) {
            // Somebody has closed it for a while.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return,
            Err(error) => seen.wrong.push(format!("{claim:?} is Bound and cannot write in {path}: {error}")),
            Ok(()) => {}
        }
        let is_there = |other: &&OneClaim| there.contains(&format!("marker-{}", other.uid));
        let others: Vec<OneClaim> = seen.claims.iter().filter(is_there).cloned().collect();
        let is_given = volume != claim.volume() || seen.tainted.contains(path);
        if let Some(theirs) = others.iter().find(|other| other.namespace != claim.namespace && !is_given) {
            seen.wrong.push(format!("{claim:?} was given {path} with files of {theirs:?}"));
        }
        if let Some(source) = &claim.copy_of
            && !is_given
            && !others.iter().any(|other| other.name == *source)
        {
            seen.wrong.push(format!("{claim:?} is a copy, but has not got the files of its source"));
        }
        let earlier = others.iter().filter(|other| other.name == claim.name && other.uid != claim.uid);
        let earlier: Vec<String> = earlier.map(|other| other.uid.clone()).collect();
        let (uid, path) = (claim.uid, path.to_owned());
        if !earlier.is_empty() && !is_given {
            seen.gifts.push(Gift { claim: uid.clone(), path: path.clone(), since: claim.since, earlier });
        }
        seen.claims[number].has = Some((volume.to_owned(), path.clone()));
        seen.markers.push(Marker { claim: uid, path, at: now(), found: Vec::new(), is_bound: false });
    }

    /// What keeps the cluster from being at rest.
    async fn unrest(&self) -> Vec<String> {
        let mut unrest = Vec::new();
        let volumes = self.space.volumes().list(&ListParams::default()).await.expect("a list").items;
        let seen = self.seen();
        for volume in &volumes {
            let (spec, name) = (volume.spec.as_ref().unwrap(), volume.metadata.name.as_deref().unwrap());
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            let is_kept = spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain");
            if phase != Some("Bound") && !is_kept || volume.metadata.deletion_timestamp.is_some() {
                unrest.push(format!("the volume {name} is still there: {phase:?}"));
            }
        }
        let holders: Vec<(String, Option<String>)> = volumes.iter().map(holder).collect();
        for claim in seen.claims.iter().filter(|claim| !claim.deleted && claim.has.is_none()) {
            // The directory is another namespace's, or one above or in it is.
            let (.., pattern) = CLASSES.iter().find(|(name, ..)| *name == claim.class).expect("a class");
            let wanted = pattern.unwrap_or_default().replace("${.PVC.namespace}", &claim.namespace);
            let wanted = wanted.replace("${.PVC.annotations.path}", &claim.path);
            let is_refused = holders.iter().any(|(path, namespace)| {
                let is_in = |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}/"));
                (is_in(path, &wanted) || is_in(&wanted, path)) && namespace.as_ref() != Some(&claim.namespace)
            });
            if !is_refused {
                unrest.push(format!("{claim:?} has no directory"));
            }
        }
        unrest
    }

    /// Waits until all has come to rest, and returns what has not.
    pub(crate) async fn settle(&self) -> Vec<String> {
        let mut rng = Rng::new();
        while !self.seen().static_volumes.is_empty() {
            self.delete_static(&mut rng).await;
        }
        let given = self.seen().given.clone();
        for volume in given {
            self.patch_volume(&volume, json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).await;
        }
        let begun = Instant::now();
        loop {
            self.mark().await;
            let unrest = self.unrest().await;
            if unrest.is_empty() || begun.elapsed() > SETTLE {
                return unrest;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// The markers, and where they are now.
    pub(crate) async fn markers(&self) -> Vec<Marker> {
        let archives: Vec<String> =
            self.space.entries().into_iter().filter(|name| name.starts_with(ARCHIVE_PREFIX)).collect();
        let bound = self.bound().await;
        let seen = self.seen();
        let living = seen.claims.iter().filter(|claim| !claim.deleted && bound.contains_key(&claim.uid));
        let living: BTreeSet<&str> = living.map(|claim| claim.uid.as_str()).collect();
        let mut markers = seen.markers.clone();
        for marker in &mut markers {
            let name = format!("marker-{}", marker.claim);
            let is_in = |directory: &str| {
                let found = fs::read_to_string(self.space.at(directory).join(&name));
                found.is_ok_and(|content| content == marker.claim)
            };
            // A directory that went with the one above it is in that one's archive.
            let inner = |archive: &String| {
                let parts = marker.path.match_indices('/').map(|(at, _)| &marker.path[at + 1..]);
                let parts: Vec<String> = parts.map(|rest| format!("{archive}/{rest}")).collect();
                std::iter::once(archive.clone()).chain(parts)
            };
            let places = std::iter::once(marker.path.clone()).chain(archives.iter().flat_map(inner));
            marker.found = places.filter(|place| is_in(place)).collect();
            marker.is_bound = living.contains(marker.claim.as_str());
        }
        markers
    }
}

/// Where a volume has its directory, and the namespace of its claim.
fn holder(volume: &PersistentVolume) -> (String, Option<String>) {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    (Space::directory(volume), claim.and_then(|claim| claim.namespace.clone()))
}
