//! Keepers, and the next step for a volume that has one: decided from the keeper and the volume as they are, so that
//! a run goes on wherever another one has ended.
//!
//! A keeper is a `PersistentVolume` that is no volume for anybody. It holds the whole manifest of a volume while that
//! is deleted and made anew, because nothing but rights on volumes is needed to keep it there. No claim can be bound
//! to it: its `claimRef` has a uid that no claim has, so Kubernetes calls it Released, and its policy is Retain. No
//! provisioner takes it for its own, because no annotation says who made it. It has the address, the group and
//! the claim's name of the volume that it stands for, so that a provisioner which serves the old export takes the
//! directory and the group for taken while the volume is away.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::DynamicObject;
use kube::core::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::claim::SourceClaim;
use crate::model::volume::{FINALIZER, NfsSource, Phase, ReclaimPolicy, Volume, annotation};
use crate::values::text::{fnv1a, truncated};

/// A volume with all its fields, those that this program does not know among them.
pub(super) type Object = DynamicObject;

/// The longest name of a volume.
const NAME_MAX: usize = 253;

/// What a keeper's name has after that of its volume.
const SUFFIX: &str = "-rehome";

/// The uid in a keeper's `claimRef`, which is no uid of any object.
const NO_UID: &str = "rehome-keeper";

/// A class that does not exist: names under `.invalid` belong to nobody.
const NO_CLASS: &str = "rehome.invalid";

/// The fields that are read or written here.
const SPEC: &str = "/spec";
const POLICY: &str = "/spec/persistentVolumeReclaimPolicy";
const SERVER: &str = "/spec/nfs/server";
const PATH: &str = "/spec/nfs/path";
const CLAIM_NAMESPACE: &str = "/spec/claimRef/namespace";
const CLAIM_NAME: &str = "/spec/claimRef/name";
const CLAIM_UID: &str = "/spec/claimRef/uid";

/// The finalizer that Kubernetes puts on each volume, and takes off once no claim has it.
const PV_PROTECTION: &str = "kubernetes.io/pv-protection";

/// A volume's new address, as a keeper records it.
#[derive(Serialize, Deserialize)]
struct Target {
    server: Box<str>,
    path: Box<str>,
}

/// A keeper as it was read.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    /// The keeper itself.
    pub(super) volume: Volume,
    /// The volume that it stands for, as it is to be again but for its address.
    pub(super) old: Object,
    /// The address that the new volume gets.
    pub(super) to: NfsSource,
    /// Whether the old volume may be deleted.
    pub(super) is_ready: bool,
}

/// What is to be done next for a volume that has a keeper, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Put the policy Retain and the mark on the old volume.
    Mark,
    /// Record the old volume anew: it has changed, or it bears the mark now.
    Record,
    /// Delete the old volume, as it is recorded.
    Delete,
    /// Take the finalizers off the old volume, which is being deleted.
    Strip,
    /// Make the new volume.
    Create,
    /// Give the new volume its policy back, and take the mark off, once it has its claim.
    Restore,
    /// Delete the keeper: all is done.
    Forget,
    /// Delete the keeper: somebody has deleted the old volume before anything was done to it.
    Abandon,
}

/// How far a volume is to be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The old volume cannot be reclaimed any more, and is recorded.
    Ready,
    /// The new volume is there.
    Replaced,
    /// The new volume is as the old one was.
    Restored,
    /// The keeper has gone.
    Done,
}

impl Step {
    /// Returns the stage that the step is needed for.
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Mark | Self::Record | Self::Abandon => Stage::Ready,
            Self::Delete | Self::Strip | Self::Create => Stage::Replaced,
            Self::Restore => Stage::Restored,
            Self::Forget => Stage::Done,
        }
    }
}

/// Returns the name of a volume's keeper: of a long name as much as there is room for, and a hash of the whole.
pub(super) fn keeper_name(volume: &str) -> String {
    if volume.len() + SUFFIX.len() <= NAME_MAX {
        return format!("{volume}{SUFFIX}");
    }
    let hash = format!("-{:016x}{SUFFIX}", fnv1a(volume.as_bytes()));
    // A part of a name must not end with either.
    let begin = truncated(volume, NAME_MAX - hash.len()).trim_end_matches(['.', '-']);
    format!("{begin}{hash}")
}

/// Reads an object as the volume that the rest of the program knows.
///
/// # Errors
/// Returns an error if the object is not a volume.
pub(super) fn volume_of(object: &Object) -> Result<Volume, serde_json::Error> {
    let whole: PersistentVolume = serde_json::from_value(serde_json::to_value(object)?)?;
    Ok(Volume::read(&whole))
}

/// Returns a field of a volume, as a JSON pointer names it; null if there is none.
fn field<'a>(object: &'a Object, pointer: &str) -> &'a Value {
    object.data.pointer(pointer).unwrap_or(&Value::Null)
}

/// Sets a field of a volume, if there is what it belongs to.
fn set(object: &mut Object, pointer: &str, text: &str) {
    let Some((above, key)) = pointer.rsplit_once('/') else { return };
    if let Some(Value::Object(fields)) = object.data.pointer_mut(above) {
        fields.insert(key.to_owned(), text.into());
    }
}

fn annotation_of<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Tells whether an object is a keeper.
pub(super) fn is_keeper(object: &Object) -> bool {
    annotation_of(&object.metadata, annotation::REHOME_OF).is_some()
}

impl Keeper {
    /// Reads a keeper.
    ///
    /// # Errors
    /// Returns what is wrong with it, in words.
    pub(super) fn read(object: &Object) -> Result<Self, String> {
        let text = |key| annotation_of(&object.metadata, key).ok_or_else(|| format!("it has no annotation {key}"));
        let wrong = |key| move |error| format!("its annotation {key} is wrong: {error}");
        let of = text(annotation::REHOME_OF)?;
        let old: Object = serde_json::from_str(of).map_err(wrong(annotation::REHOME_OF))?;
        let to = text(annotation::REHOME_TO)?;
        let Target { server, path } = serde_json::from_str(to).map_err(wrong(annotation::REHOME_TO))?;
        let volume = volume_of(object).map_err(|error| format!("it cannot be read: {error}"))?;
        let name = old.metadata.name.as_deref().unwrap_or_default();
        if volume.name.as_str() != keeper_name(name) {
            return Err(format!("it has not the name of a keeper of {name:?}"));
        }
        let is_ready = annotation_of(&object.metadata, annotation::REHOME_READY).is_some();
        Ok(Self { volume, old, to: NfsSource { server, path }, is_ready })
    }

    /// Returns the name of the volume that the keeper stands for.
    pub(super) fn of(&self) -> &str {
        self.old.metadata.name.as_deref().unwrap_or_default()
    }

    /// Tells whether the keeper is of a volume of this provisioner.
    pub(super) fn is_of(&self, provisioner: &str) -> bool {
        volume_of(&self.old).is_ok_and(|old| old.is_of(provisioner))
    }

    /// Tells whether a volume is the one that is made anew, and not the new one.
    pub(super) fn is_old(&self, volume: &Volume) -> bool {
        self.old.metadata.uid.as_deref() == Some(&*volume.uid)
    }

    /// Decides the next step, by the volume of the old one's name as it is now, if there is one.
    ///
    /// While the old volume is there it is first made one that no provisioner reclaims, then recorded as it is by then,
    /// and deleted only as it is recorded.
    ///
    /// # Errors
    /// Returns what somebody has to decide or to mend before it can go on, in words.
    pub(super) fn next(&self, now: Option<&Object>) -> Result<Step, String> {
        let Some(now) = now else { return Ok(if self.is_ready { Step::Create } else { Step::Abandon }) };
        let has_mark = self.has_marked(now);
        if now.metadata.uid != self.old.metadata.uid {
            return match self.is_new(now) {
                false => Err(self.taken(now)),
                true if has_mark => Ok(Step::Restore),
                true => Ok(Step::Forget),
            };
        }
        let is_deleting = now.metadata.deletion_timestamp.is_some();
        let has_changed = manifest(&self.recorded(now)) != manifest(&self.old);
        match (self.is_safe(now), is_deleting) {
            (false, true) if !has_mark => Ok(Step::Abandon),
            (false, false) if !has_mark && has_changed => Ok(Step::Record),
            (false, _) => Ok(Step::Mark),
            (true, _) if has_changed || !self.is_ready => Ok(Step::Record),
            (true, _) => match other_finalizer(&now.metadata) {
                Some(other) => Err(format!(
                    "it has the finalizer {other:?}, and whoever set that may act on a deletion: take it off"
                )),
                None if is_deleting => Ok(Step::Strip),
                None => Ok(Step::Delete),
            },
        }
    }

    fn has_marked(&self, now: &Object) -> bool {
        annotation_of(&now.metadata, annotation::REHOMED_BY) == Some(self.volume.name.as_str())
    }

    /// Tells whether a volume has the mark, and no provisioner reclaims it.
    pub(super) fn is_safe(&self, now: &Object) -> bool {
        self.has_marked(now) && policy(now) == ReclaimPolicy::Retain.as_str()
    }

    /// Tells whether this is the new volume, be it with the mark or finished.
    fn is_new(&self, now: &Object) -> bool {
        // One that names no claim may have got any by now.
        let is_same = |key: &str| {
            let old = field(&self.old, key);
            old.is_null() || field(now, key) == old
        };
        let Ok(Volume { source: Some(source), .. }) = volume_of(now) else { return false };
        source == self.to && [CLAIM_NAMESPACE, CLAIM_NAME, CLAIM_UID].into_iter().all(is_same)
    }

    fn taken(&self, now: &Object) -> String {
        let keeper = &self.volume.name;
        let at = |key: &str| field(now, key).as_str().unwrap_or("?").to_owned();
        format!(
            "somebody has made another volume of this name, at {}:{}, while it was away. If that one is right, delete \
             the volume {keeper}; if not, delete that one, and run this again",
            at(SERVER),
            at(PATH)
        )
    }

    /// Returns what is to be recorded of the old volume as it is now. What it has only because of the mark is not: then
    /// the policy and the finalizers are as they were recorded before, since a leader takes its finalizer off a volume
    /// that is to be kept, and Kubernetes its own off one that is being deleted.
    pub(super) fn recorded(&self, now: &Object) -> Object {
        let mut recorded = record(now);
        if let Some(annotations) = &mut recorded.metadata.annotations
            && annotations.remove(annotation::REHOMED_BY).is_some()
        {
            recorded.metadata.finalizers.clone_from(&self.old.metadata.finalizers);
            set(&mut recorded, POLICY, policy(&self.old));
        }
        recorded
    }

    /// Returns the new volume: the old one with another address, the policy Retain and the mark.
    pub(super) fn replacement(&self) -> Object {
        let ObjectMeta { name, labels, annotations, finalizers, owner_references, .. } = self.old.metadata.clone();
        let mut annotations = annotations.unwrap_or_default();
        annotations.insert(annotation::REHOMED_BY.to_owned(), self.volume.name.to_string());
        let annotations = Some(annotations);
        let metadata =
            ObjectMeta { name, labels, annotations, finalizers, owner_references, ..ObjectMeta::default() };
        let mut new = Object { types: Some(kind()), metadata, data: json!({"spec": field(&self.old, SPEC)}) };
        set(&mut new, SERVER, &self.to.server);
        set(&mut new, PATH, &self.to.path);
        set(&mut new, POLICY, ReclaimPolicy::Retain.as_str());
        new
    }

    /// Returns the policy that the new volume gets in the end.
    pub(super) fn policy(&self) -> &str {
        policy(&self.old)
    }
}

/// Returns a volume's reclaim policy; Kubernetes' default for volumes that are made by hand is Retain.
fn policy(object: &Object) -> &str {
    field(object, POLICY).as_str().unwrap_or(ReclaimPolicy::Retain.as_str())
}

/// Returns a volume without what the API server keeps for itself and what changes by itself.
fn record(object: &Object) -> Object {
    let ObjectMeta { name, uid, labels, annotations, finalizers, owner_references, .. } = object.metadata.clone();
    let metadata =
        ObjectMeta { name, uid, labels, annotations, finalizers, owner_references, ..ObjectMeta::default() };
    Object { types: Some(kind()), metadata, data: json!({"spec": field(object, SPEC)}) }
}

fn manifest(object: &Object) -> Value {
    json!({"metadata": object.metadata, "spec": field(object, SPEC)})
}

/// The objects of a list do not say what they are.
fn kind() -> TypeMeta {
    TypeMeta::resource::<PersistentVolume>()
}

/// Spells what a keeper records of a volume.
pub(super) fn manifest_text(recorded: &Object) -> String {
    json!(recorded).to_string()
}

/// Spells the keeper of a volume that is to get this address.
pub(super) fn new_keeper(old: &Object, to: &NfsSource) -> Object {
    let name = old.metadata.name.as_deref().unwrap_or_default();
    let target = Target { server: to.server.clone(), path: to.path.clone() };
    let annotations = [
        (annotation::REHOME_OF, Some(manifest_text(&record(old)))),
        (annotation::REHOME_TO, Some(json!(target).to_string())),
        (annotation::GID, annotation_of(&old.metadata, annotation::GID).map(ToOwned::to_owned)),
    ];
    let annotations = annotations.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let or_none = |key| field(old, key).as_str().unwrap_or("none");
    let spec = json!({
        "accessModes": ["ReadOnlyMany"],
        // It takes no room from others.
        "capacity": {"storage": "1"},
        "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": or_none(CLAIM_NAMESPACE), "name": or_none(CLAIM_NAME), "uid": NO_UID,
        },
        "nfs": {"server": field(old, SERVER), "path": field(old, PATH)},
        "persistentVolumeReclaimPolicy": ReclaimPolicy::Retain.as_str(),
        "storageClassName": NO_CLASS,
    });
    let metadata = ObjectMeta {
        name: Some(keeper_name(name)),
        annotations: Some(annotations.collect()),
        ..ObjectMeta::default()
    };
    Object { types: Some(kind()), metadata, data: json!({"spec": spec}) }
}

/// Returns a finalizer that is neither Kubernetes' own nor a provisioner's.
pub(super) fn other_finalizer(metadata: &ObjectMeta) -> Option<&str> {
    let finalizers = metadata.finalizers.iter().flatten().map(String::as_str);
    finalizers.into_iter().find(|name| ![PV_PROTECTION, FINALIZER].contains(name))
}

/// Tells whether a new volume is what its old one was to its claim: bound if the claim exists and is bound to it, and
/// released if the claim has gone, or has another volume.
pub(super) fn is_settled(volume: &Volume, claim: Option<&SourceClaim>) -> bool {
    let Some(own) = volume.own_claim() else { return true };
    match claim.filter(|claim| claim.uid == own.uid).map(|claim| claim.volume.as_ref()) {
        // It is not bound yet, or not again.
        Some(None) => false,
        Some(Some(bound)) if *bound == volume.name => volume.phase == Phase::Bound,
        Some(Some(_)) | None => volume.phase == Phase::Released,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPER: &str = "pvc-1-rehome";

    fn to() -> NfsSource {
        NfsSource { server: "new".into(), path: "/b/x".into() }
    }

    /// A volume as the API server gives it, with what `change` does to it.
    fn object(change: impl Fn(&mut Value)) -> Object {
        let mut object = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {
                "name": "pvc-1", "uid": "u-1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"team": "blue"}, "annotations": {"pv.kubernetes.io/provisioned-by": "us"},
                "finalizers": [PV_PROTECTION, FINALIZER], "managedFields": [{"manager": "x"}],
            },
            "spec": {
                "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "mountOptions": ["hard"],
                "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "1"},
                "nfs": {"server": "old", "path": "/a/x", "readOnly": true},
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "nfs", "volumeMode": "Filesystem",
                "aFieldOfLater": {"kept": true},
            },
            "status": {"phase": "Bound"},
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn marked(object: &mut Value) {
        object["metadata"]["annotations"][annotation::REHOMED_BY] = KEEPER.into();
        object["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into();
    }

    fn deleting(object: &mut Value) {
        object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
    }

    fn new(object: &mut Value) {
        object["metadata"]["uid"] = "u-2".into();
        object["spec"]["nfs"] = json!({"server": "new", "path": "/b/x", "readOnly": true});
    }

    fn keeper(is_ready: bool) -> Keeper {
        let mut object = new_keeper(&object(|_| {}), &to());
        if is_ready {
            object.metadata.annotations.as_mut().unwrap().insert(annotation::REHOME_READY.into(), "true".into());
        }
        Keeper::read(&object).unwrap()
    }

    #[test]
    fn the_next_step_follows_from_the_keeper_and_the_volume() {
        let both = |one: fn(&mut Value), other: fn(&mut Value)| {
            object(|object| {
                one(object);
                other(object);
            })
        };
        let grown: fn(&mut Value) = |object| object["spec"]["capacity"]["storage"] = "2Mi".into();
        let unprotected: fn(&mut Value) = |object| object["metadata"]["finalizers"] = json!([PV_PROTECTION]);
        let odd: fn(&mut Value) = |object| object["metadata"]["finalizers"] = json!(["example.com/backup"]);
        let delete: fn(&mut Value) = |object| object["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
        let retain: fn(&mut Value) = |object| object["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into();
        let elsewhere: fn(&mut Value) = |object| object["metadata"]["uid"] = "u-3".into();
        let other_claim: fn(&mut Value) = |object| object["spec"]["claimRef"]["uid"] = "2".into();
        let rows = [
            ("nothing was done, and it is gone", false, None, Ok(Step::Abandon)),
            ("somebody deletes it", false, Some(object(deleting)), Ok(Step::Abandon)),
            ("nothing was done", false, Some(object(|_| {})), Ok(Step::Mark)),
            ("it has grown", false, Some(object(grown)), Ok(Step::Record)),
            ("it is to be kept by now", false, Some(object(retain)), Ok(Step::Record)),
            ("it has the mark", false, Some(object(marked)), Ok(Step::Record)),
            ("its policy was set again", true, Some(both(marked, delete)), Ok(Step::Mark)),
            (
                "also while it is deleted",
                true,
                Some(both(|o| both_of(o, marked, deleting), delete)),
                Ok(Step::Mark),
            ),
            ("it is recorded", true, Some(object(marked)), Ok(Step::Delete)),
            ("a leader takes its finalizer off", true, Some(both(marked, unprotected)), Ok(Step::Delete)),
            ("it has grown since", true, Some(both(marked, grown)), Ok(Step::Record)),
            ("whose finalizer?", true, Some(both(marked, odd)), Err("example.com/backup")),
            ("it is deleted", true, Some(both(marked, deleting)), Ok(Step::Strip)),
            (
                "it grows at the last moment",
                true,
                Some(both(|o| both_of(o, marked, deleting), grown)),
                Ok(Step::Record),
            ),
            ("it is gone", true, None, Ok(Step::Create)),
            ("it is there anew", true, Some(both(marked, new)), Ok(Step::Restore)),
            ("all is done", true, Some(object(new)), Ok(Step::Forget)),
            ("another run has done all", false, Some(object(new)), Ok(Step::Forget)),
            ("somebody has brought it back", true, Some(object(elsewhere)), Err("at old:/a/x")),
            ("for another claim", true, Some(both(new, other_claim)), Err("at new:/b/x")),
        ];
        for (what, is_ready, now, expected) in rows {
            match (keeper(is_ready).next(now.as_ref()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{what}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{what}: {found}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }

    fn both_of(object: &mut Value, one: fn(&mut Value), other: fn(&mut Value)) {
        one(object);
        other(object);
    }

    #[test]
    fn the_new_volume_is_the_old_one_but_for_its_address() {
        // As it is recorded after the mark, when a leader has taken its finalizer off.
        let keeper = keeper(false);
        let now = object(|object| {
            marked(object);
            object["metadata"]["finalizers"] = json!([PV_PROTECTION]);
        });
        let recorded = keeper.recorded(&now);
        let keeper = Keeper { old: recorded, ..keeper };
        let found = json!(keeper.replacement());
        let mut expected = json!(object(|object| {
            new(object);
            marked(object);
        }));
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            expected["metadata"].as_object_mut().unwrap().remove(field);
        }
        expected.as_object_mut().unwrap().remove("status");
        assert_eq!(found, expected);
        assert_eq!(keeper.policy(), "Delete");
    }

    #[test]
    fn a_keeper_is_nobodys_volume() {
        let old = object(|object| object["metadata"]["annotations"][annotation::GID] = "50000".into());
        let keeper = new_keeper(&old, &to());
        let read = volume_of(&keeper).unwrap();
        assert_eq!((read.provisioned_by, read.reclaim, read.finalizer), (None, ReclaimPolicy::Retain, false));
        assert_eq!((read.gid, read.source), (Some(50_000), volume_of(&old).unwrap().source));
        let claim = read.claim.unwrap();
        assert_eq!((claim.to_string().as_str(), claim.uid.as_str()), ("shop/data", NO_UID));
    }

    #[test]
    fn a_keepers_name_is_a_name() {
        assert_eq!(keeper_name("pvc-1"), KEEPER);
        let long = |end: &str| keeper_name(&format!("{}{end}", "a".repeat(250)));
        assert_eq!(long("aaa").len(), NAME_MAX);
        assert_ne!(long("aaa"), long("aab"));
        let dots = keeper_name(&format!("{}{}z", "a".repeat(200), ".b".repeat(26)));
        for name in [long("aaa"), long("-.a"), dots] {
            assert!(crate::values::names::is_dns_subdomain(&name) && name.ends_with(SUFFIX), "{name}");
        }
    }

    #[test]
    fn a_volume_is_settled_when_it_is_to_its_claim_what_it_was() {
        let claim = |uid: &str, volume: Option<&str>| {
            Some(SourceClaim { uid: uid.into(), volume: volume.map(Into::into), deleting: None })
        };
        let rows = [
            (Some("1"), "Bound", claim("1", Some("pvc-1")), true),
            (Some("1"), "Bound", claim("1", None), false),
            (Some("1"), "Pending", claim("1", Some("pvc-1")), false),
            (Some("1"), "Released", claim("1", None), false),
            (Some("1"), "Released", claim("1", Some("other")), true),
            (Some("1"), "Bound", None, false),
            (Some("1"), "Released", None, true),
            (Some("1"), "Released", claim("2", Some("other")), true),
            (None, "Available", None, true),
        ];
        for (uid, phase, claim, expected) in rows {
            let volume = volume_of(&object(|object| {
                object["spec"]["claimRef"]["uid"] = json!(uid);
                object["status"]["phase"] = phase.into();
            }));
            assert_eq!(is_settled(&volume.unwrap(), claim.as_ref()), expected, "{uid:?} {phase} {claim:?}");
        }
    }
}
