//! `PersistentVolumes`: the parts that we keep of existing ones, and the objects that we write. Only this file
//! spells them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NFSVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::ObjectMeta;

use crate::model::parameters::{Fate, RecordedRetention};
use crate::values::names::{ClaimRef, ClaimUid, ClassName, VolumeName};
use crate::values::quantity::STORAGE;

/// The annotations of volumes that we read or write.
pub mod annotation {
    /// Names the provisioner that made the volume.
    pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
    /// Names the provisioner that has taken the volume over.
    pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
    /// Sets the fate of the volume's directory before all else; written by an admin. On a claim: the claim's wish.
    pub const ON_DELETE: &str = "nfs-provisioner/on-delete";
    /// Records the fate that the claim chose, and the class allowed, when the volume was made; written by us.
    /// Counts before the class.
    pub const ON_DELETE_OF_CLAIM: &str = "nfs-provisioner/on-delete-of-claim";
    /// Records the fate that the class set when the volume was made; written by us. Counts if the class has gone.
    pub const ON_DELETE_OF_CLASS: &str = "nfs-provisioner/on-delete-of-class";
    /// Records for how long the class kept what is deleted when the volume was made; written by us. This and the next
    /// two count if the class has gone.
    pub const DELETE_RETENTION: &str = "nfs-provisioner/delete-retention";
    /// Records the free space below which the class had that go earlier; written by us.
    pub const DELETE_RETENTION_MIN_FREE: &str = "nfs-provisioner/delete-retention-min-free";
    /// Records for how long the class kept archives when the volume was made; written by us.
    pub const ARCHIVE_RETENTION: &str = "nfs-provisioner/archive-retention";
    /// Records what was done to the volume's directory when its claim had gone: that claim's uid, a blank, and what
    /// was done, in words; written by us before the volume is deleted. What lies at its path by then is not the
    /// volume's any more, unless the volume has got another claim.
    pub const DISPOSED: &str = "nfs-provisioner/disposed";
    /// Names the archive, or the entry of the trash, that the volume's directory was before; written by us when it is
    /// brought back.
    pub const RESTORED_FROM: &str = "nfs-provisioner/restored-from";
    /// Marks a volume that `nfs-provisioner rehome` is about to make anew, and the new one until all is done: the name of
    /// its keeper.
    pub const REHOMED_BY: &str = "nfs-provisioner/rehomed-by";
    /// On a keeper, which is no volume for anybody: the volume that is made anew, as JSON.
    pub const REHOME_OF: &str = "nfs-provisioner/rehome-of";
    /// On a keeper: the server and the path that the new volume gets, as JSON.
    pub const REHOME_TO: &str = "nfs-provisioner/rehome-to";
    /// On a keeper: that the old volume is marked and cannot be reclaimed, and may be deleted.
    pub const REHOME_READY: &str = "nfs-provisioner/rehome-ready";
    /// Names a group that the kubelet gives to Pods with the volume besides their own.
    pub const GID: &str = "pv.beta.kubernetes.io/gid";
    /// Names the class; from before `storageClassName` existed.
    pub const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
}

/// The finalizer that keeps a volume which was deleted while it had a claim, until it has been reclaimed. Newer
/// versions of upstream's library have the same one.
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// A volume's or a class's reclaim policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReclaimPolicy {
    /// The volume is reclaimed when its claim has gone.
    Delete,
    /// The volume stays.
    Retain,
    /// A policy that no longer exists in Kubernetes; the volume is left alone.
    Recycle,
}

impl ReclaimPolicy {
    /// Reads a policy. An unknown one counts as `Retain`, which destroys nothing.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match text {
            "Delete" => Self::Delete,
            "Recycle" => Self::Recycle,
            _ => Self::Retain,
        }
    }

    /// Returns Kubernetes' spelling of the policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Retain => "Retain",
            Self::Recycle => "Recycle",
        }
    }
}

/// The phase of a volume, as far as we tell phases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The volume has a claim.
    Bound,
    /// The volume had a claim, which has gone.
    Released,
    /// Any other phase.
    Other,
}

/// Any volume of the cluster.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// The volume's name.
    pub name: VolumeName,
    /// The volume's uid.
    pub uid: Box<str>,
    /// The version that was read. A newer one is worth a new try.
    pub resource_version: Box<str>,
    /// The volume's phase.
    pub phase: Phase,
    /// When the volume got its phase, by the API server's clock; unset if the API server does not tell.
    pub since: Option<Timestamp>,
    /// Whether the volume is being deleted.
    pub deleting: bool,
    /// The volume's own reclaim policy, which an admin may have changed since the volume was made.
    pub reclaim: ReclaimPolicy,
    /// Whether the volume was deleted while it had a claim, as far as we have seen. [`Volume::read`] cannot tell.
    pub deleted_while_bound: bool,
    /// Whether the volume was deleted while it had a claim and has gone, and only a list has shown that: what it was
    /// like in the end is not known. [`Volume::read`] cannot tell.
    pub is_unseen_gone: bool,
    /// Whether the volume was bound at some time, or made by this process, as far as we have seen. [`Volume::read`] cannot tell.
    pub seen_bound: bool,
    /// When the volume was created, by the API server's clock.
    pub created: Option<Timestamp>,
    /// What was done to the volume's directory, if that has been dealt with already: as the volume says, or, where
    /// it could not be written there, as this process remembers.
    pub disposed: Option<Box<str>>,
    /// Whether the volume has our [`FINALIZER`].
    pub finalizer: bool,
    /// The fate that an admin has set for the volume's directory, verbatim.
    pub on_delete: Option<Box<str>>,
    /// The fate that the claim chose when the volume was made, verbatim.
    pub on_delete_of_claim: Option<Box<str>>,
    /// The fate that the class set when the volume was made.
    pub on_delete_of_class: Option<Fate>,
    /// How long the class kept data when the volume was made.
    pub retention: RecordedRetention,
    /// The group that the volume's Pods have besides their own.
    pub gid: Option<u32>,
    /// The provisioner that made the volume, if the volume says so.
    pub provisioned_by: Option<Box<str>>,
    /// The provisioner that has taken the volume over, if any.
    pub migrated_to: Option<Box<str>>,
    /// The name of the volume's class; empty if it names none.
    pub class: ClassName,
    /// The server and path of the volume, if it is an NFS volume.
    pub source: Option<NfsSource>,
    /// The claim that the volume was made for.
    pub claim: Option<ClaimRef>,
    /// The storage that the volume is said to have, verbatim.
    pub capacity: Option<Quantity>,
    /// The volume's access modes, verbatim.
    pub access_modes: Vec<Box<str>>,
    /// The options that the volume is mounted with, verbatim.
    pub mount_options: Vec<Box<str>>,
    /// What the volume's directory was before, if it was brought back.
    pub restored_from: Option<Box<str>>,
}

/// The server and path of an NFS volume, verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsSource {
    /// `spec.nfs.server`.
    pub server: Box<str>,
    /// `spec.nfs.path`.
    pub path: Box<str>,
}

impl Volume {
    /// Reads a volume as the API server gives it.
    #[must_use]
    pub fn read(volume: &PersistentVolume) -> Self {
        let metadata = &volume.metadata;
        let spec = volume.spec.as_ref();
        let annotation = |key| metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let text = |value: &Option<String>| Box::from(value.as_deref().unwrap_or_default());
        let class = annotation(annotation::CLASS_BETA).or_else(|| spec?.storage_class_name.as_deref());
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        Self {
            name: metadata.name.as_deref().unwrap_or_default().into(),
            uid: text(&metadata.uid),
            resource_version: text(&metadata.resource_version),
            phase: match phase {
                Some("Bound") => Phase::Bound,
                Some("Released") => Phase::Released,
                _ => Phase::Other,
            },
            since: volume.status.as_ref().and_then(|status| Some(status.last_phase_transition_time.as_ref()?.0)),
            deleting: metadata.deletion_timestamp.is_some(),
            reclaim: policy.map_or(ReclaimPolicy::Retain, ReclaimPolicy::read),
            deleted_while_bound: false,
            is_unseen_gone: false,
            seen_bound: false,
            created: metadata.creation_timestamp.as_ref().map(|created| created.0),
            disposed: annotation(annotation::DISPOSED).and_then(|said| disposed(volume, said)),
            finalizer: metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|name| name == FINALIZER)),
            on_delete: annotation(annotation::ON_DELETE).map(Into::into),
            on_delete_of_claim: annotation(annotation::ON_DELETE_OF_CLAIM).map(Into::into),
            on_delete_of_class: annotation(annotation::ON_DELETE_OF_CLASS).and_then(|text| text.parse().ok()),
            retention: RecordedRetention {
                delete: annotation(annotation::DELETE_RETENTION).map(Into::into),
                delete_min_free: annotation(annotation::DELETE_RETENTION_MIN_FREE).map(Into::into),
                archive: annotation(annotation::ARCHIVE_RETENTION).map(Into::into),
            },
            gid: annotation(annotation::GID).and_then(|text| text.parse().ok()),
            provisioned_by: annotation(annotation::PROVISIONED_BY).map(Into::into),
            migrated_to: annotation(annotation::MIGRATED_TO).map(Into::into),
            class: class.unwrap_or_default().into(),
            source: spec
                .and_then(|spec| spec.nfs.as_ref())
                .map(|nfs| NfsSource { server: nfs.server.as_str().into(), path: nfs.path.as_str().into() }),
            claim: spec.and_then(|spec| spec.claim_ref.as_ref()).map(|claim| ClaimRef {
                namespace: text(&claim.namespace),
                name: text(&claim.name),
                uid: claim.uid.as_deref().unwrap_or_default().into(),
            }),
            capacity: spec.and_then(|spec| spec.capacity.as_ref()?.get(STORAGE).cloned()),
            access_modes: texts(spec.and_then(|spec| spec.access_modes.as_deref())),
            mount_options: texts(spec.and_then(|spec| spec.mount_options.as_deref())),
            restored_from: annotation(annotation::RESTORED_FROM).map(Into::into),
        }
    }

    /// Tells whether the volume is `provisioner`'s to reclaim: made by it, or by another and taken over since.
    #[must_use]
    pub fn is_of(&self, provisioner: &str) -> bool {
        let names = |owner: &Option<Box<str>>| owner.as_deref() == Some(provisioner);
        self.provisioned_by.is_some() && (names(&self.provisioned_by) || names(&self.migrated_to))
    }

    /// Returns how long after it was created the volume got its phase; `None` if the API server does not tell.
    #[must_use]
    pub fn lived(&self) -> Option<Duration> {
        Duration::try_from(self.since?.duration_since(self.created?)).ok()
    }

    /// Adds to a volume that was just read what only those know who have watched it: `before` is the same volume.
    #[must_use]
    pub fn remembered(self, before: &Self) -> Self {
        let disposed = before.disposed.clone().filter(|_| self.is_released_as(before));
        Self {
            deleted_while_bound: before.deleted_while_bound,
            seen_bound: before.seen_bound,
            disposed: self.disposed.or(disposed),
            ..self
        }
    }

    /// Tells whether the volume is released by the same claim as it was when it was seen before. One that has got
    /// another claim meanwhile has a directory again, whatever was done to it then.
    #[must_use]
    pub fn is_released_as(&self, before: &Self) -> bool {
        let claim = |volume: &Self| volume.own_claim().map(|claim| claim.uid.clone());
        self.phase == Phase::Released && self.uid == before.uid && claim(self) == claim(before)
    }

    /// Returns the claim that the volume had, if its `claimRef` tells which one: one without a uid is an offer to
    /// any claim of that name.
    #[must_use]
    pub fn own_claim(&self) -> Option<&ClaimRef> {
        self.claim.as_ref().filter(|claim| !claim.uid.as_str().is_empty())
    }

    /// Tells whether the volume is named after the claim that it has, or had: it was made for that one.
    #[must_use]
    pub fn is_named_after_own_claim(&self) -> bool {
        self.own_claim().is_some_and(|claim| self.name.claim_uid().as_ref() == Some(&claim.uid))
    }

    /// Tells whether the volume was made by `provisioner` for the claim with this uid. That proves that it is the
    /// volume we were about to make.
    #[must_use]
    pub fn was_made_for(&self, claim: &ClaimUid, provisioner: &str) -> bool {
        self.is_of(provisioner) && self.claim.as_ref().is_some_and(|made_for| made_for.uid == *claim)
    }
}

fn texts(all: Option<&[String]>) -> Vec<Box<str>> {
    all.unwrap_or_default().iter().map(|text| text.as_str().into()).collect()
}

/// Reads what was done to the directory of a released volume, if that was for the claim which it still names.
fn disposed(volume: &PersistentVolume, said: &str) -> Option<Box<str>> {
    let (claim, done) = said.split_once(' ')?;
    let own = volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref()?;
    let is_released = volume.status.as_ref()?.phase.as_deref() == Some("Released");
    (is_released && claim == own).then(|| done.into())
}

/// A volume to be made, as it was decided. [`NewVolume::object`] spells it for Kubernetes.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVolume {
    /// The claim that the volume is for.
    pub claim: ClaimRef,
    /// The version of the claim that was decided on.
    pub claim_version: Box<str>,
    /// The claim's class.
    pub class: ClassName,
    /// The claim's access modes, verbatim.
    pub access_modes: Vec<String>,
    /// The storage that the claim asks for, verbatim.
    pub request: Quantity,
    /// The name of this provisioner.
    pub provisioner: Box<str>,
    /// The class's reclaim policy.
    pub reclaim: ReclaimPolicy,
    /// The options to mount the volume with.
    pub mount_options: Vec<String>,
    /// The server and path of the volume's directory.
    pub source: NfsSource,
    /// The fate that the class sets for the directory.
    pub fate: Fate,
    /// The fate that the claim chooses, if its class allows that.
    pub fate_of_claim: Option<Fate>,
    /// How long the class keeps data.
    pub retention: RecordedRetention,
    /// The group that the volume's Pods have besides their own.
    pub gid: Option<u32>,
    /// What the volume's directory was before, if it was brought back.
    pub restored_from: Option<Box<str>>,
    /// Whether the volume gets our [`FINALIZER`]. It must not get one that we could not take off again.
    pub finalizer: bool,
}

impl NewVolume {
    /// Returns the volume's name, which is derived from the claim's uid.
    #[must_use]
    pub fn name(&self) -> VolumeName {
        self.claim.uid.volume_name()
    }

    /// Tells whether an existing volume is this one: made by us for this very claim, with the same directory and
    /// the same group. If the directory differs, another provisioner of our name has made the volume, and our
    /// directory belongs to no volume.
    #[must_use]
    pub fn is(&self, there: &Volume) -> bool {
        let is_made_for_it = there.was_made_for(&self.claim.uid, &self.provisioner);
        is_made_for_it && there.source.as_ref() == Some(&self.source) && there.gid == self.gid
    }

    /// Spells the object to create: the fields that upstream's library sets, the fates that class and claim want, how
    /// long the class keeps data, the group, and the finalizer if the volume gets one.
    #[must_use]
    pub fn object(&self) -> PersistentVolume {
        let metadata = ObjectMeta {
            name: Some(self.name().to_string()),
            annotations: Some(self.annotations()),
            finalizers: self.finalizer.then(|| vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        };
        let spec = PersistentVolumeSpec {
            access_modes: Some(self.access_modes.clone()),
            capacity: Some(BTreeMap::from([(STORAGE.to_owned(), self.request.clone())])),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(self.claim.namespace.to_string()),
                name: Some(self.claim.name.to_string()),
                uid: Some(self.claim.uid.to_string()),
                resource_version: Some(self.claim_version.to_string()),
                field_path: None,
            }),
            mount_options: (!self.mount_options.is_empty()).then(|| self.mount_options.clone()),
            nfs: Some(NFSVolumeSource {
                server: self.source.server.to_string(),
                path: self.source.path.to_string(),
                read_only: None,
            }),
            persistent_volume_reclaim_policy: Some(self.reclaim.as_str().to_owned()),
            storage_class_name: Some(self.class.to_string()),
            ..PersistentVolumeSpec::default()
        };
        PersistentVolume { metadata, spec: Some(spec), status: None }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let text = |value: &Option<Box<str>>| value.as_deref().map(ToOwned::to_owned);
        let said = [
            (annotation::PROVISIONED_BY, Some(self.provisioner.to_string())),
            (annotation::ON_DELETE_OF_CLASS, Some(self.fate.to_string())),
            (annotation::ON_DELETE_OF_CLAIM, self.fate_of_claim.map(|fate| fate.to_string())),
            (annotation::DELETE_RETENTION, text(&self.retention.delete)),
            (annotation::DELETE_RETENTION_MIN_FREE, text(&self.retention.delete_min_free)),
            (annotation::ARCHIVE_RETENTION, text(&self.retention.archive)),
            (annotation::GID, self.gid.map(|gid| gid.to_string())),
            (annotation::RESTORED_FROM, text(&self.restored_from)),
        ];
        said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// Makes mount options read-only: drops each `rw`, and adds `ro` if it is missing. Nothing else makes a volume
/// read-only: the kubelet ignores `spec.nfs.readOnly`.
#[must_use]
pub fn read_only(options: &[String]) -> Vec<String> {
    let without_rw =
        |option: &String| option.split(',').filter(|part| *part != "rw").collect::<Vec<_>>().join(",");
    let mut options: Vec<String> = options.iter().map(without_rw).filter(|option| !option.is_empty()).collect();
    if !options.iter().any(|option| option.split(',').any(|part| part == "ro")) {
        options.push("ro".to_owned());
    }
    options
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_done_to_a_directory_counts_for_the_claim_that_had_gone_and_no_other() {
        let rows = [
            ("Released", "1 removed \"x\"", Some("removed \"x\"")),
            ("Bound", "1 removed", None),
            ("Released", "2 removed", None),
            ("Released", "removed", None),
            ("Released", "", None),
        ];
        for (phase, said, expected) in rows {
            let volume = serde_json::from_value(json!({
                "metadata": {"annotations": {annotation::DISPOSED: said}},
                "spec": {"claimRef": {"uid": "1"}}, "status": {"phase": phase},
            }));
            assert_eq!(Volume::read(&volume.unwrap()).disposed.as_deref(), expected, "{phase} {said}");
        }
    }

    fn volume(provisioned_by: Option<&str>, migrated_to: Option<&str>) -> Volume {
        let annotations = [(annotation::PROVISIONED_BY, provisioned_by), (annotation::MIGRATED_TO, migrated_to)];
        let annotations =
            annotations.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        Volume::read(&PersistentVolume {
            metadata: ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() },
            ..PersistentVolume::default()
        })
    }

    #[test]
    fn a_volume_is_ours_by_its_maker_or_by_takeover() {
        let rows = [
            (Some("us"), None, true),
            (Some("us"), Some("them"), true),
            (Some("them"), Some("us"), true),
            (Some("them"), None, false),
            (None, Some("us"), false),
            (None, None, false),
            (Some("US"), None, false),
            (Some(""), None, false),
        ];
        for (made, taken, expected) in rows {
            assert_eq!(volume(made, taken).is_of("us"), expected, "{made:?} {taken:?}");
        }
    }

    #[test]
    fn read_only_options_have_ro_once_and_no_rw() {
        let rows: &[(&[&str], &[&str])] = &[
            (&[], &["ro"]),
            (&["hard", "nfsvers=4.2"], &["hard", "nfsvers=4.2", "ro"]),
            (&["ro", "hard"], &["ro", "hard"]),
            (&["rw"], &["ro"]),
            (&["ro", "rw"], &["ro"]),
            (&["hard,rw,noac", "proto=tcp"], &["hard,noac", "proto=tcp", "ro"]),
            (&["rw,ro"], &["ro"]),
            (&["retrans=3", "timeo=600,ro"], &["retrans=3", "timeo=600,ro"]),
        ];
        for (options, expected) in rows {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            assert_eq!(read_only(&options), *expected, "{options:?}");
        }
    }

    #[test]
    fn a_volume_without_a_spec_is_read_as_one_to_leave_alone() {
        let bare = volume(Some("us"), None);
        assert_eq!((bare.phase, bare.reclaim, bare.source), (Phase::Other, ReclaimPolicy::Retain, None));
    }

    #[test]
    fn reclaim_policies_are_spelled_as_they_are_read() {
        for policy in [ReclaimPolicy::Delete, ReclaimPolicy::Retain, ReclaimPolicy::Recycle] {
            assert_eq!(ReclaimPolicy::read(policy.as_str()), policy);
        }
    }
}
