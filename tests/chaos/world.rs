//! Those who use the cluster: they make claims, delete them, change policies, and write in the directories they get.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use fastrand::Rng;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use nfs_provisioner::layout::ARCHIVE_PREFIX;
use serde_json::{Value, json};

use crate::checker::{Fate, Marker};
use crate::journal::now;
use crate::support::space::{PATH, SERVER, Space, create, from_json, named};

/// The most claims that there are at a time.
const CLAIMS: usize = 60;

/// How long all may take to come to rest once nothing goes wrong any more: failed rounds are repeated later and later.
const SETTLE: Duration = Duration::from_mins(4);

/// A class: its name, its fate, and the path of its directories, which may name the claim's annotation `path`.
const CLASSES: [(&str, Fate, Option<&str>); 6] = [
    ("archive", Fate::Archive, None),
    ("delete", Fate::Delete, None),
    ("kept", Fate::Retain, Some("${.PVC.namespace}/kept/${.PVC.annotations.path}")),
    ("shared", Fate::Delete, Some("${.PVC.namespace}/shared/${.PVC.annotations.path}")),
    ("saved", Fate::Archive, Some("${.PVC.namespace}/saved/${.PVC.annotations.path}")),
    // Without the namespace: claims of two may want the same directory, and only one gets it.
    ("common", Fate::Delete, Some("common/${.PVC.annotations.path}")),
];

/// Paths that are the same, or in each other, often. The first three are not in each other.
const PATHS: [&str; 6] = ["a", "b", "c", "a/x", "b/y/z", "b/y"];

#[derive(Debug, Clone)]
struct OneClaim {
    namespace: String,
    name: String,
    class: usize,
    path: &'static str,
    uid: String,
    deleted: bool,
    /// The marker that was written when it was Bound.
    marked: Option<usize>,
}

pub(crate) struct World<'a> {
    space: &'a Space,
    rng: Rng,
    namespaces: Vec<String>,
    claims: Vec<OneClaim>,
    static_volumes: Vec<String>,
    markers: Vec<Marker>,
    /// What was seen to be wrong on the way.
    pub(crate) wrong: Vec<String>,
}

impl<'a> World<'a> {
    pub(crate) async fn new(space: &'a Space, seed: u64) -> Self {
        let second = format!("{}-b", space.namespace);
        create(&Api::all(space.client.clone()), named::<Namespace>(&second)).await;
        for (name, fate, pattern) in CLASSES {
            let on_delete = format!("{fate:?}").to_lowercase();
            let parameters = json!({"onDelete": on_delete, "pathPattern": pattern.unwrap_or_default()});
            space.class(name, json!({"parameters": parameters})).await;
        }
        Self {
            space,
            rng: Rng::with_seed(seed),
            namespaces: vec![space.namespace.clone(), second],
            claims: Vec::new(),
            static_volumes: Vec::new(),
            markers: Vec::new(),
            wrong: Vec::new(),
        }
    }

    pub(crate) fn made(&self) -> usize {
        self.claims.len()
    }

    /// The fates of the classes, by their full names.
    pub(crate) fn fates(&self) -> BTreeMap<String, Fate> {
        CLASSES.iter().map(|(name, fate, _)| (self.space.class_name(name), *fate)).collect()
    }

    fn claims_of(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.space.client.clone(), namespace)
    }

    /// Somebody does something.
    pub(crate) async fn step(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(10..150))).await;
        match self.rng.u8(..100) {
            0..40 => self.make().await,
            40..65 => self.delete().await,
            65..75 => self.change_policy().await,
            75..82 => self.change_fate().await,
            82..88 => self.make_static().await,
            88..92 => self.delete_static().await,
            _ => {}
        }
        self.mark().await;
    }

    async fn make(&mut self) {
        if self.claims.iter().filter(|claim| !claim.deleted).count() >= CLAIMS {
            return;
        }
        let class = self.rng.usize(..CLASSES.len());
        let namespace = self.namespaces[self.rng.usize(..2)].clone();
        // A name that was used before, now and then.
        let name = format!("data-{}", self.rng.usize(..CLAIMS));
        if self.claims.iter().any(|claim| !claim.deleted && claim.namespace == namespace && claim.name == name) {
            return;
        }
        let is_common = CLASSES[class].0 == "common";
        // What is kept for one that is in it is found by the next claim, whose namespace may be another.
        let paths = if is_common { &PATHS[..3] } else { &PATHS[..] };
        let path = paths[self.rng.usize(..paths.len())];
        let object = json!({
            "metadata": {"name": name, "annotations": {"path": path}},
            "spec": {
                "storageClassName": self.space.class_name(CLASSES[class].0), "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        });
        // One of the same name may still be on its way out.
        let made = self.claims_of(&namespace).create(&Default::default(), &from_json(object)).await;
        if let Ok(made) = made {
            let uid = made.metadata.uid.expect("a uid");
            self.claims.push(OneClaim { namespace, name, class, path, uid, deleted: false, marked: None });
        }
    }

    /// A claim, living or not.
    fn any_claim(&mut self) -> Option<usize> {
        let number = self.rng.usize(..self.claims.len().max(1));
        self.claims.get(number).map(|_| number)
    }

    async fn delete(&mut self) {
        let Some(number) = self.any_claim().filter(|number| !self.claims[*number].deleted) else { return };
        let claim = &mut self.claims[number];
        claim.deleted = true;
        let (namespace, name) = (claim.namespace.clone(), claim.name.clone());
        self.claims_of(&namespace).delete(&name, &DeleteParams::default()).await.expect("a claim to delete");
    }

    async fn patch_volume(&self, claim: &OneClaim, patch: Value) {
        let name = format!("pvc-{}", claim.uid);
        // It may not be there, or not be there any more.
        let _ = self.space.volumes().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }

    async fn change_policy(&mut self) {
        let Some(claim) = self.any_claim().map(|number| self.claims[number].clone()) else { return };
        let policy = if self.rng.bool() { "Retain" } else { "Delete" };
        self.patch_volume(&claim, json!({"spec": {"persistentVolumeReclaimPolicy": policy}})).await;
    }

    async fn change_fate(&mut self) {
        let Some(claim) = self.any_claim().map(|number| self.claims[number].clone()) else { return };
        // What is kept of another namespace may be found by the next claim, as is documented.
        let fates: &[Value] = &[json!("archive"), json!("delete"), Value::Null, json!("retain")];
        let choices = if CLASSES[claim.class].0 == "common" { 3 } else { 4 };
        let fate = &fates[self.rng.usize(..choices)];
        self.patch_volume(&claim, json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": fate}}})).await;
    }

    /// An admin makes a volume by hand for a directory that a claim has.
    async fn make_static(&mut self) {
        let Some(claim) = self.any_claim().map(|number| self.claims[number].clone()) else { return };
        let Some(marker) = claim.marked.and_then(|number| self.markers.get(number).cloned()) else { return };
        if claim.deleted || CLASSES[claim.class].0 == "common" {
            return;
        }
        let first = ["a", "z"][self.rng.usize(..2)];
        let name = format!("{first}-static-{}-{}", self.static_volumes.len(), self.rng.u32(..));
        let volume: PersistentVolume = from_json(json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": "by-hand",
                "persistentVolumeReclaimPolicy": "Retain",
                "nfs": {"server": SERVER, "path": format!("{PATH}/{}", marker.path)},
            },
        }));
        create(&self.space.volumes(), volume).await;
        self.static_volumes.push(name);
    }

    async fn delete_static(&mut self) {
        if self.static_volumes.is_empty() {
            return;
        }
        let name = self.static_volumes.swap_remove(self.rng.usize(..self.static_volumes.len()));
        self.space.volumes().delete(&name, &DeleteParams::default()).await.expect("a volume to delete");
    }

    /// Where the volume of a Bound claim has its directory.
    async fn directory(&self, claim: &OneClaim) -> Option<String> {
        let found = self.claims_of(&claim.namespace).get_opt(&claim.name).await.expect("an answer")?;
        let is_it =
            found.metadata.uid.as_deref() == Some(&claim.uid) && found.metadata.deletion_timestamp.is_none();
        let is_bound = found.status?.phase.as_deref() == Some("Bound");
        let volume = found.spec?.volume_name.filter(|_| is_it && is_bound)?;
        Some(Space::directory(&self.space.volumes().get(&volume).await.expect("the volume of a Bound claim")))
    }

    /// Writes in the directories of the claims that are Bound by now.
    async fn mark(&mut self) {
        for number in 0..self.claims.len() {
            let claim = self.claims[number].clone();
            if claim.deleted || claim.marked.is_some() {
                continue;
            }
            let Some(path) = self.directory(&claim).await else { continue };
            let directory = self.space.at(&path);
            let entries = fs::read_dir(&directory).map(|all| all.flatten().map(|entry| entry.file_name()));
            let Ok(entries) = entries else {
                self.wrong.push(format!("{claim:?} is Bound and has no directory {path}"));
                self.claims[number].marked = Some(usize::MAX);
                continue;
            };
            let theirs = self.claims.iter().filter(|other| other.namespace != claim.namespace);
            let theirs: BTreeSet<String> = theirs.map(|other| other.uid.clone()).collect();
            for name in entries {
                let name = name.to_string_lossy();
                if name.strip_prefix("marker-").is_some_and(|uid| theirs.contains(uid)) {
                    self.wrong.push(format!("{claim:?} was given {path} with another namespace's {name}"));
                }
            }
            let written = fs::write(directory.join(format!("marker-{}", claim.uid)), &claim.uid);
            if let Err(error) = written {
                self.wrong.push(format!("{claim:?} is Bound and cannot write in {path}: {error}"));
            }
            self.claims[number].marked = Some(self.markers.len());
            let at = now();
            self.markers.push(Marker { claim: claim.uid, path, at, found: None, is_bound: false });
        }
    }

    /// What keeps the cluster from being at rest.
    async fn unrest(&self) -> Vec<String> {
        let mut unrest = Vec::new();
        let volumes = self.space.volumes().list(&ListParams::default()).await.expect("a list").items;
        for volume in &volumes {
            let (spec, name) = (volume.spec.as_ref().unwrap(), volume.metadata.name.as_deref().unwrap());
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            let is_kept = spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain");
            if phase != Some("Bound") && !is_kept || volume.metadata.deletion_timestamp.is_some() {
                unrest.push(format!("the volume {name} is still there: {phase:?}"));
            }
        }
        let holders: Vec<(String, Option<String>)> = volumes.iter().map(holder).collect();
        for claim in self.claims.iter().filter(|claim| !claim.deleted && claim.marked.is_none()) {
            // The directory is another namespace's, or one above or in it is.
            let pattern = CLASSES[claim.class].2.unwrap_or_default();
            let wanted = pattern.replace("${.PVC.namespace}", &claim.namespace);
            let wanted = wanted.replace("${.PVC.annotations.path}", claim.path);
            let is_refused = holders.iter().any(|(path, namespace)| {
                let is_in = |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}/"));
                (is_in(path, &wanted) || is_in(&wanted, path)) && namespace.as_ref() != Some(&claim.namespace)
            });
            if !is_refused {
                unrest.push(format!("{claim:?} is not Bound"));
            }
        }
        unrest
    }

    /// Waits until all has come to rest, and returns what has not.
    pub(crate) async fn settle(&mut self) -> Vec<String> {
        while !self.static_volumes.is_empty() {
            self.delete_static().await;
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
        let mut markers = self.markers.clone();
        for marker in &mut markers {
            let name = format!("marker-{}", marker.claim);
            let is_in = |directory: &str| {
                let found = fs::read_to_string(self.space.at(directory).join(&name));
                found.is_ok_and(|content| content == marker.claim)
            };
            marker.found = if is_in(&marker.path) {
                Some(marker.path.clone())
            } else {
                // A directory that went with the one above it is in that one's archive.
                let inner = |archive: &String| {
                    let parts = marker.path.match_indices('/').map(|(at, _)| &marker.path[at + 1..]);
                    let parts = parts.map(|rest| format!("{archive}/{rest}"));
                    std::iter::once(archive.clone()).chain(parts).find(|path| is_in(path))
                };
                archives.iter().find_map(inner)
            };
            let claim = self.claims.iter().find(|claim| claim.uid == marker.claim).unwrap();
            marker.is_bound = !claim.deleted && self.directory(claim).await.is_some();
        }
        markers
    }
}

/// Where a volume has its directory, and the namespace of its claim.
fn holder(volume: &PersistentVolume) -> (String, Option<String>) {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    (Space::directory(volume), claim.and_then(|claim| claim.namespace.clone()))
}
