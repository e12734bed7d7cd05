//! `PersistentVolumes`: what we keep of those that exist, and how ours are spelled. No other file knows that.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NFSVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::ObjectMeta;

use crate::model::parameters::Fate;
use crate::values::names::{ClaimRef, ClaimUid, ClassName, VolumeName};
use crate::values::quantity::STORAGE;

/// The annotations of a volume that we read or write.
pub mod annotation {
    /// Which provisioner made the volume.
    pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
    /// Which provisioner has taken it over.
    pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
    /// What is to happen to its directory; set by an admin. Beats all else. On a claim it is the claim's wish.
    pub const ON_DELETE: &str = "nfs-provisioner/on-delete";
    /// What its claim wanted when it was made, and its class allowed; set by us. Beats the class.
    pub const ON_DELETE_OF_CLAIM: &str = "nfs-provisioner/on-delete-of-claim";
    /// What its class said when it was made; set by us. Counts where the class has gone.
    pub const ON_DELETE_OF_CLASS: &str = "nfs-provisioner/on-delete-of-class";
    /// The group that Pods with the volume have besides their own; the kubelet sees to that (behaviour 7.21b).
    pub const GID: &str = "pv.beta.kubernetes.io/gid";
    /// Its class, from before `storageClassName` was there.
    pub const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
}

/// Keeps a volume that is deleted while it has a claim until it has been reclaimed (behaviour 2.8).
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// A volume's or a class's reclaim policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReclaimPolicy {
    /// The volume goes when its claim has gone.
    Delete,
    /// It stays.
    Retain,
    /// A policy that nobody implements any more; it is left alone.
    Recycle,
}

impl ReclaimPolicy {
    /// Reads a policy; what we do not know is treated as `Retain`, which destroys nothing.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match text {
            "Delete" => Self::Delete,
            "Recycle" => Self::Recycle,
            _ => Self::Retain,
        }
    }

    /// As Kubernetes spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Retain => "Retain",
            Self::Recycle => "Recycle",
        }
    }
}

/// A volume's phase, as far as we tell phases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has a claim.
    Bound,
    /// It had a claim, which has gone.
    Released,
    /// Anything else.
    Other,
}

/// Any volume of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its uid.
    pub uid: Box<str>,
    /// The version that was read. A new one is worth a new try.
    pub resource_version: Box<str>,
    /// Its phase.
    pub phase: Phase,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its own reclaim policy, which an admin may have changed since it was made.
    pub reclaim: ReclaimPolicy,
    /// Whether it was deleted while it had a claim, as far as we have seen. [`Volume::read`] cannot tell.
    pub deleted_while_bound: bool,
    /// Whether it has our [`FINALIZER`].
    pub finalizer: bool,
    /// What an admin wants to happen to its directory, verbatim.
    pub on_delete: Option<Box<str>>,
    /// What its claim wanted when it was made, verbatim.
    pub on_delete_of_claim: Option<Box<str>>,
    /// What its class wanted when it was made.
    pub on_delete_of_class: Option<Fate>,
    /// The group that its Pods have besides their own.
    pub gid: Option<u32>,
    /// Who made it, if the volume says so.
    pub provisioned_by: Option<Box<str>>,
    /// Who has taken it over, if anybody.
    pub migrated_to: Option<Box<str>>,
    /// Its class's name; empty if it names none.
    pub class: ClassName,
    /// Where it is, if it is an NFS volume.
    pub source: Option<NfsSource>,
    /// The claim it was made for.
    pub claim: Option<ClaimRef>,
    /// The storage it is said to have, verbatim.
    pub capacity: Option<Quantity>,
}

/// Where an NFS volume is: its `server` and `path`, verbatim.
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
            deleting: metadata.deletion_timestamp.is_some(),
            reclaim: policy.map_or(ReclaimPolicy::Retain, ReclaimPolicy::read),
            deleted_while_bound: false,
            finalizer: metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|name| name == FINALIZER)),
            on_delete: annotation(annotation::ON_DELETE).map(Into::into),
            on_delete_of_claim: annotation(annotation::ON_DELETE_OF_CLAIM).map(Into::into),
            on_delete_of_class: annotation(annotation::ON_DELETE_OF_CLASS).and_then(|text| text.parse().ok()),
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
        }
    }

    /// Whether it is `provisioner`'s to reclaim: made by it, or by another and since taken over (behaviour 2.1).
    #[must_use]
    pub fn is_of(&self, provisioner: &str) -> bool {
        let names = |owner: &Option<Box<str>>| owner.as_deref() == Some(provisioner);
        self.provisioned_by.is_some() && (names(&self.provisioned_by) || names(&self.migrated_to))
    }

    /// Whether it was made by `provisioner` for the claim with this uid: the proof that a volume is the one we
    /// were about to make.
    #[must_use]
    pub fn was_made_for(&self, claim: &ClaimUid, provisioner: &str) -> bool {
        self.is_of(provisioner) && self.claim.as_ref().is_some_and(|made_for| made_for.uid == *claim)
    }
}

/// A volume that is to be made: what is decided of it. [`NewVolume::object`] spells it as Kubernetes wants it.
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
    /// Our name.
    pub provisioner: Box<str>,
    /// The class's reclaim policy.
    pub reclaim: ReclaimPolicy,
    /// The options to mount the volume with.
    pub mount_options: Vec<String>,
    /// Where the volume's directory is.
    pub source: NfsSource,
    /// What the class says is to happen to the directory.
    pub fate: Fate,
    /// What the claim says of that, if its class lets it.
    pub fate_of_claim: Option<Fate>,
    /// The group that the volume's Pods have besides their own.
    pub gid: Option<u32>,
    /// Whether the volume gets our [`FINALIZER`]. Never put one on that could not be taken off again.
    pub finalizer: bool,
}

impl NewVolume {
    /// Returns the volume's name, which tells its claim.
    #[must_use]
    pub fn name(&self) -> VolumeName {
        self.claim.uid.volume_name()
    }

    /// Tells whether a volume that exists is this one: made by us for this very claim, with its directory in the same
    /// place and the same group. Had it another place, another provisioner of our name would have made it, and our
    /// directory would be nobody's.
    #[must_use]
    pub fn is(&self, there: &Volume) -> bool {
        let is_made_for_it = there.was_made_for(&self.claim.uid, &self.provisioner);
        is_made_for_it && there.source.as_ref() == Some(&self.source) && there.gid == self.gid
    }

    /// Spells the object to create: the fields that upstream's library sets, what class and claim say of the volume's
    /// fate, its group, and a finalizer if it is to have one.
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
        let said = [
            (annotation::PROVISIONED_BY, Some(self.provisioner.to_string())),
            (annotation::ON_DELETE_OF_CLASS, Some(self.fate.to_string())),
            (annotation::ON_DELETE_OF_CLAIM, self.fate_of_claim.map(|fate| fate.to_string())),
            (annotation::GID, self.gid.map(|gid| gid.to_string())),
        ];
        said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// Makes mount options by which nobody can write: with `ro` if they lack it, and without `rw`, whatever the order. That is
/// all that makes a volume read-only: the kubelet ignores `spec.nfs.readOnly`.
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
    use super::*;

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
