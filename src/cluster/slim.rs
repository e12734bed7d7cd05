//! Volumes and claims as the API server sends them, deserialized with little more than the fields that we read.
//! Written by hand because a metadata-only watch cannot see `spec`, while whole objects cost several times the
//! memory, and several times the time and code to take in.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NFSVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus, PersistentVolumeSpec, PersistentVolumeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{ObjectMeta, Resource};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A volume or a claim, deserialized with little more than the fields that we read, and serialized whole.
#[derive(Debug, Clone)]
pub struct Slim<T>(pub T);

impl<T: Resource<DynamicType = ()>> Resource for Slim<T> {
    type DynamicType = ();
    type Scope = T::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl<T: Serialize> Serialize for Slim<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(read: Metadata) -> Self {
        let Metadata {
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            finalizers,
            labels,
            annotations,
        } = read;
        Self {
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            finalizers,
            labels,
            annotations,
            ..Self::default()
        }
    }
}

#[derive(Deserialize)]
struct Volume {
    metadata: Metadata,
    spec: Option<VolumeSpec>,
    status: Option<VolumeStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    access_modes: Option<Vec<String>>,
    mount_options: Option<Vec<String>>,
    capacity: Option<BTreeMap<String, Quantity>>,
    claim_ref: Option<ObjectReference>,
    nfs: Option<NFSVolumeSource>,
    persistent_volume_reclaim_policy: Option<String>,
    storage_class_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeStatus {
    phase: Option<String>,
    last_phase_transition_time: Option<Time>,
}

impl<'de> Deserialize<'de> for Slim<PersistentVolume> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Volume { metadata, spec, status } = Volume::deserialize(deserializer)?;
        let spec = spec.map(|spec| PersistentVolumeSpec {
            access_modes: spec.access_modes,
            mount_options: spec.mount_options,
            capacity: spec.capacity,
            claim_ref: spec.claim_ref,
            nfs: spec.nfs,
            persistent_volume_reclaim_policy: spec.persistent_volume_reclaim_policy,
            storage_class_name: spec.storage_class_name,
            ..PersistentVolumeSpec::default()
        });
        let status = status.map(|status| PersistentVolumeStatus {
            phase: status.phase,
            last_phase_transition_time: status.last_phase_transition_time,
            ..PersistentVolumeStatus::default()
        });
        Ok(Self(PersistentVolume { metadata: metadata.into(), spec, status }))
    }
}

#[derive(Deserialize)]
struct Claim {
    metadata: Metadata,
    spec: Option<PersistentVolumeClaimSpec>,
    status: Option<PersistentVolumeClaimStatus>,
}

impl<'de> Deserialize<'de> for Slim<PersistentVolumeClaim> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Claim { metadata, spec, status } = Claim::deserialize(deserializer)?;
        Ok(Self(PersistentVolumeClaim { metadata: metadata.into(), spec, status }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{claim, expansion, volume};

    /// Returns metadata as the API server sends it.
    fn metadata(annotations: &Value) -> Value {
        json!({
            "name": "name", "namespace": "ns", "uid": "1-2", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
            "deletionGracePeriodSeconds": 0, "finalizers": ["kubernetes.io/pv-protection", volume::FINALIZER],
            "labels": {"team": "blue"}, "annotations": annotations,
            "managedFields": [{"manager": "x", "operation": "Update", "fieldsV1": {"f:spec": {"f:nfs": {}}}}],
        })
    }

    #[test]
    fn nothing_is_missing_that_is_read_of_a_volume() {
        use volume::annotation::{DISPOSED, MIGRATED_TO, ON_DELETE, ON_DELETE_OF_CLASS, PROVISIONED_BY};
        let object = json!({
            "kind": "PersistentVolume", "apiVersion": "v1",
            "metadata": metadata(&json!({
                PROVISIONED_BY: "us", MIGRATED_TO: "them", ON_DELETE: "retain", ON_DELETE_OF_CLASS: "archive",
                DISPOSED: "1-2 removed",
            })),
            "spec": {
                "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "volumeMode": "Filesystem",
                "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "ns", "name": "data", "uid": "1-2"},
                "nfs": {"server": "nas", "path": "/export/x"}, "mountOptions": ["hard"],
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "nfs",
            },
            "status": {"phase": "Released", "lastPhaseTransitionTime": "2026-01-02T00:00:00Z"},
        });
        let whole: PersistentVolume = serde_json::from_value(object.clone()).unwrap();
        let Slim(slim) = serde_json::from_value(object).unwrap();
        let expected = volume::Volume::read(&whole);
        assert!(expected.deleting && expected.finalizer && expected.phase == volume::Phase::Released);
        assert!(expected.capacity.is_some() && expected.disposed.is_some());
        assert!(expected.created.is_some() && expected.since.is_some());
        assert_eq!(volume::Volume::read(&slim), expected);
        assert_eq!(slim.metadata.managed_fields, None);
    }

    #[test]
    fn nothing_is_missing_that_is_read_of_a_claim() {
        let object = json!({
            "kind": "PersistentVolumeClaim", "apiVersion": "v1",
            "metadata": metadata(&json!({
                "volume.kubernetes.io/storage-provisioner": "us", "other": "annotation",
            })),
            "spec": {
                "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}},
                "storageClassName": "nfs", "volumeMode": "Block", "selector": {},
                "volumeAttributesClassName": "fast",
                "dataSource": {"kind": "PersistentVolumeClaim", "name": "x"},
                "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "x"},
            },
            "status": {"phase": "Pending"},
        });
        let whole: PersistentVolumeClaim = serde_json::from_value(object.clone()).unwrap();
        let Slim(slim) = serde_json::from_value(object).unwrap();
        let expected = claim::Claim::read(&whole, "us");
        assert!(expected.as_ref().is_some_and(|claim| claim.block && claim.selector && claim.source.is_some()));
        assert!(expected.as_ref().is_some_and(|claim| claim.created.is_some()));
        assert_eq!(claim::Claim::read(&slim, "us"), expected);
    }

    #[test]
    fn nothing_is_missing_that_is_read_of_a_claim_that_grows() {
        let object = json!({
            "metadata": metadata(&json!({})),
            "spec": {
                "resources": {"requests": {"storage": "2Mi"}}, "storageClassName": "nfs", "volumeName": "pvc-1-2",
            },
            "status": {
                "phase": "Bound", "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteMany"],
                "conditions": [
                    {"type": "Resizing", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            },
        });
        let whole: PersistentVolumeClaim = serde_json::from_value(object.clone()).unwrap();
        let Slim(slim) = serde_json::from_value(object).unwrap();
        let expected = expansion::Expansion::read(&whole);
        assert!(
            expected.as_ref().is_some_and(|expansion| expansion.deleting && expansion.conditions == ["Resizing"])
        );
        assert_eq!(expansion::Expansion::read(&slim), expected);
    }

    #[test]
    fn what_is_sent_is_whole() {
        let object = json!({"metadata": {"name": "x"}, "spec": {"capacity": {"storage": "1Mi"}}});
        let whole: PersistentVolume = serde_json::from_value(object).unwrap();
        let sent = serde_json::to_value(Slim(whole.clone())).unwrap();
        assert_eq!(sent, serde_json::to_value(whole).unwrap());
        assert_eq!(sent["spec"]["capacity"]["storage"], "1Mi");
    }
}
