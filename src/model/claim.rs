//! The parts that we keep of a PersistentVolumeClaim that waits for us.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::values::names::{ClaimRef, ClaimUid, ClassName, VolumeName};
use crate::values::quantity::STORAGE;

/// The annotations of a claim that we read.
pub mod annotation {
    /// Names the provisioner that the claim is for; written by the controller manager.
    pub(super) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
    /// Names the provisioner, too: the older key, which Kubernetes 1.36 still writes.
    pub(super) const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
    /// Names the node where the first consumer will run; written by the scheduler.
    pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
    /// Says that the claim's volume was found, and that the claim is Lost without it; written by the controller
    /// manager, and copied along by who copies a claim.
    pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
    /// Names the archive, or the kept entry of the trash, that the claim wants back, or asks for the `latest` of its own;
    /// written by users.
    pub const RESTORE_FROM: &str = "nfs-provisioner/restore-from";
    /// Names the class; written by users before `storageClassName` existed.
    pub(super) const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
}

/// A pending claim: it has no volume yet and is for us to serve.
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the claim that is there or not")]
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The claim's namespace, name and uid.
    pub claim: ClaimRef,
    /// The version that was read, for the volume's `claimRef`.
    pub resource_version: Box<str>,
    /// When the claim was created, by the API server's clock.
    pub created: Option<Timestamp>,
    /// The name of the claim's class; empty if it names none.
    pub class: ClassName,
    /// Whether the claim is being deleted.
    pub deleting: bool,
    /// Whether the scheduler has picked a node for the claim.
    pub node_selected: bool,
    /// Whether an annotation says that the claim has been bound before. As it names no volume, it is Lost to the
    /// controller manager, and is never bound to one.
    pub lost: bool,
    /// Whether the claim has `volumeMode: Block`.
    pub block: bool,
    /// Whether the claim has a selector, even an empty one.
    pub selector: bool,
    /// The name of the claim's `VolumeAttributesClass`, if it names one.
    pub attributes_class: Option<Box<str>>,
    /// The source of the files that the volume is to be filled with.
    pub source: Option<DataSource>,
    /// The claim's access modes, verbatim.
    pub access_modes: Vec<String>,
    /// The storage that the claim asks for, verbatim.
    pub request: Option<Quantity>,
    /// The claim's labels, for patterns.
    pub labels: BTreeMap<String, String>,
    /// The claim's annotations, for patterns.
    pub annotations: BTreeMap<String, String>,
}

/// A claim's `dataSource` or `dataSourceRef`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// Another claim, by name. The volume becomes a copy of that claim's.
    Claim(Box<str>),
    /// A claim of another namespace, by that and its name.
    Abroad {
        /// The other namespace.
        namespace: Box<str>,
        /// The claim's name.
        name: Box<str>,
    },
    /// A `VolumeSnapshot`, by name.
    Snapshot(Box<str>),
    /// Any other source. A populator takes care of it.
    Other,
}

impl Claim {
    /// Reads a claim; returns `None` if it has a volume already or does not wait for `provisioner`.
    #[must_use]
    pub fn read(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<Self> {
        let spec = claim.spec.as_ref()?;
        let metadata = &claim.metadata;
        let annotation = |key| metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let bound = spec.volume_name.as_deref().is_some_and(|volume| !volume.is_empty());
        // The older annotation counts only without the newer: Kubernetes writes both, but means to drop the older.
        let wanted = annotation(annotation::PROVISIONER).or_else(|| annotation(annotation::PROVISIONER_BETA));
        if bound || wanted != Some(provisioner) {
            return None;
        }
        Some(Self {
            claim: claim_ref(claim)?,
            resource_version: metadata.resource_version.as_deref().unwrap_or_default().into(),
            created: metadata.creation_timestamp.as_ref().map(|created| created.0),
            class: class_of(claim).into(),
            deleting: metadata.deletion_timestamp.is_some(),
            node_selected: annotation(annotation::SELECTED_NODE).is_some_and(|node| !node.is_empty()),
            lost: annotation(annotation::BIND_COMPLETED).is_some(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec.selector.is_some(),
            attributes_class: spec
                .volume_attributes_class_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(Into::into),
            source: DataSource::read(spec, metadata.namespace.as_deref().unwrap_or_default()),
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            request: spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(STORAGE).cloned()),
            labels: metadata.labels.clone().unwrap_or_default(),
            annotations: metadata.annotations.clone().unwrap_or_default(),
        })
    }

    /// Tells whether `ReadOnlyMany` is the claim's only access mode. With any other mode the volume is writable.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        !self.access_modes.is_empty() && self.access_modes.iter().all(|mode| mode == "ReadOnlyMany")
    }

    /// Returns the name of the claim's volume, which no other claim's volume has.
    #[must_use]
    pub fn volume_name(&self) -> VolumeName {
        self.claim.uid.volume_name()
    }
}

/// Returns the name of a claim's class; empty if it names none. The older annotation, even an empty one, counts
/// before the field, as in Kubernetes.
#[must_use]
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let annotation = claim.metadata.annotations.as_ref().and_then(|all| all.get(annotation::CLASS_BETA));
    let field = || claim.spec.as_ref()?.storage_class_name.as_deref();
    annotation.map(String::as_str).or_else(field).unwrap_or_default()
}

/// Reads a claim's namespace, name and uid; `None` if one is missing, which the API server would not send.
#[must_use]
pub fn claim_ref(claim: &PersistentVolumeClaim) -> Option<ClaimRef> {
    let metadata = &claim.metadata;
    Some(ClaimRef {
        namespace: metadata.namespace.as_deref()?.into(),
        name: metadata.name.as_deref()?.into(),
        uid: metadata.uid.as_deref()?.into(),
    })
}

/// A claim that another claim is to be a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceClaim {
    /// The claim's uid.
    pub uid: ClaimUid,
    /// The volume that the claim is bound to; `None` while it is not bound.
    pub volume: Option<VolumeName>,
    /// Since when the claim is being deleted, by the API server's clock, if it is.
    pub deleting: Option<Timestamp>,
}

impl SourceClaim {
    /// Reads the claim that a copy is made of.
    #[must_use]
    pub fn read(claim: &PersistentVolumeClaim) -> Self {
        let is_bound = claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        Self {
            uid: claim.metadata.uid.as_deref().unwrap_or_default().into(),
            volume: volume.filter(|_| is_bound).map(Into::into),
            deleting: claim.metadata.deletion_timestamp.as_ref().map(|since| since.0),
        }
    }
}

impl DataSource {
    /// Reads the data source of a claim in the namespace `own`. One of the two fields is enough: the API server mirrors
    /// `dataSource` and `dataSourceRef` into each other, and only the latter may name a namespace.
    fn read(spec: &PersistentVolumeClaimSpec, own: &str) -> Option<Self> {
        let (group, kind, name, namespace) = match (&spec.data_source_ref, &spec.data_source) {
            (Some(source), _) => {
                (source.api_group.as_deref(), &source.kind, &source.name, source.namespace.as_deref())
            }
            (None, Some(source)) => (source.api_group.as_deref(), &source.kind, &source.name, None),
            (None, None) => return None,
        };
        let abroad = namespace.filter(|namespace| !namespace.is_empty() && *namespace != own);
        Some(match (group.unwrap_or_default(), kind.as_str()) {
            ("", "PersistentVolumeClaim") => match abroad {
                Some(namespace) => Self::Abroad { namespace: namespace.into(), name: name.as_str().into() },
                None => Self::Claim(name.as_str().into()),
            },
            ("snapshot.storage.k8s.io", "VolumeSnapshot") => Self::Snapshot(name.as_str().into()),
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OURS: &str = "example.com/nfs";

    fn claim(patch: Value) -> PersistentVolumeClaim {
        let mut object = json!({
            "metadata": {
                "name": "data", "namespace": "shop", "uid": "1-2", "resourceVersion": "7",
                "annotations": { annotation::PROVISIONER: OURS },
            },
            "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
                "resources": { "requests": { "storage": "100Mi" } },
            },
        });
        merge(&mut object, patch);
        serde_json::from_value(object).unwrap()
    }

    /// Applies a JSON merge patch, in which null removes.
    fn merge(into: &mut Value, patch: Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    if value.is_null() {
                        into.remove(&key);
                    } else {
                        merge(into.entry(key).or_insert(Value::Null), value);
                    }
                }
            }
            (into, patch) => *into = patch,
        }
    }

    #[test]
    fn only_claims_that_wait_for_us_are_read() {
        let beta = annotation::PROVISIONER_BETA;
        let rows = [
            ("plain", json!({}), true),
            ("both annotations", json!({"metadata": {"annotations": {beta: OURS}}}), true),
            (
                "only the older",
                json!({"metadata": {"annotations": {annotation::PROVISIONER: null, beta: OURS}}}),
                true,
            ),
            (
                "the newer wins",
                json!({"metadata": {"annotations": {annotation::PROVISIONER: "other", beta: OURS}}}),
                false,
            ),
            ("another's", json!({"metadata": {"annotations": {annotation::PROVISIONER: "other"}}}), false),
            (
                "another case",
                json!({"metadata": {"annotations": {annotation::PROVISIONER: "Example.com/nfs"}}}),
                false,
            ),
            ("nobody's", json!({"metadata": {"annotations": null}}), false),
            ("bound", json!({"spec": {"volumeName": "pv"}}), false),
            ("empty volume name", json!({"spec": {"volumeName": ""}}), true),
        ];
        for (name, patch, expected) in rows {
            assert_eq!(Claim::read(&claim(patch), OURS).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn a_copied_manifest_that_says_it_was_bound_is_lost() {
        for (value, expected) in [(json!(null), false), (json!("yes"), true), (json!(""), true)] {
            let claim = claim(json!({"metadata": {"annotations": {annotation::BIND_COMPLETED: value}}}));
            assert_eq!(Claim::read(&claim, OURS).unwrap().lost, expected);
        }
    }

    #[test]
    fn the_class_annotation_beats_the_field_even_when_empty() {
        let key = annotation::CLASS_BETA;
        let rows = [
            (json!({}), "nfs"),
            (json!({"metadata": {"annotations": {key: "old"}}}), "old"),
            (json!({"metadata": {"annotations": {key: ""}}}), ""),
        ];
        for (patch, expected) in rows {
            assert_eq!(Claim::read(&claim(patch), OURS).unwrap().class.as_str(), expected);
        }
    }

    #[test]
    fn data_sources_are_told_apart() {
        let source = |group: &str, kind: &str| json!({"apiGroup": group, "kind": kind, "name": "x"});
        let rows = [
            (json!({}), None),
            (
                json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}}),
                Some(DataSource::Claim("x".into())),
            ),
            (
                json!({"spec": {"dataSourceRef": source("", "PersistentVolumeClaim")}}),
                Some(DataSource::Claim("x".into())),
            ),
            (
                json!({"spec": {"dataSourceRef": source("snapshot.storage.k8s.io", "VolumeSnapshot")}}),
                Some(DataSource::Snapshot("x".into())),
            ),
            (json!({"spec": {"dataSourceRef": source("example.com", "VolumeSnapshot")}}), Some(DataSource::Other)),
            (json!({"spec": {"dataSourceRef": source("example.com", "Backup")}}), Some(DataSource::Other)),
            (
                json!({"spec": {"dataSourceRef": {
                    "kind": "PersistentVolumeClaim", "name": "x", "namespace": "bank",
                }}}),
                Some(DataSource::Abroad { namespace: "bank".into(), name: "x".into() }),
            ),
            (
                json!({"spec": {"dataSourceRef": {
                    "kind": "PersistentVolumeClaim", "name": "x", "namespace": "shop",
                }}}),
                Some(DataSource::Claim("x".into())),
            ),
            (
                json!({"spec": {"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "x", "namespace": ""}}}),
                Some(DataSource::Claim("x".into())),
            ),
        ];
        for (patch, expected) in rows {
            assert_eq!(Claim::read(&claim(patch), OURS).unwrap().source, expected);
        }
    }
}
