//! The parts that we keep of a bound claim that asks for more than it has.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::claim::{claim_ref, class_of};
use crate::values::names::{ClaimRef, ClassName, VolumeName};
use crate::values::quantity::{STORAGE, exceeds};

/// The conditions of a claim that is being resized, or could not be. They go when the volume has grown.
const CONDITIONS: [&str; 4] = ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];

/// A bound claim that asks for more than its status says that it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Expansion {
    /// The claim's namespace, name and uid.
    pub claim: ClaimRef,
    /// The version that was read. Decisions hold for this version only.
    pub resource_version: Box<str>,
    /// The name of the claim's class; empty if it names none.
    pub class: ClassName,
    /// The name of the claim's volume.
    pub volume: VolumeName,
    /// Whether the claim is being deleted.
    pub deleting: bool,
    /// The storage that the claim asks for, verbatim.
    pub request: Quantity,
    /// The storage that the claim has, verbatim.
    pub capacity: Quantity,
    /// The conditions on the claim that say that it is being resized, or could not be.
    pub conditions: Vec<&'static str>,
}

impl Expansion {
    /// Reads a claim; returns `None` if it has what it asks for, or is not bound. A claim that is just being bound
    /// gets its capacity and the phase `Bound` in one change, so it never looks as if it had to grow.
    #[must_use]
    pub fn read(claim: &PersistentVolumeClaim) -> Option<Self> {
        let (metadata, spec, status) = (&claim.metadata, claim.spec.as_ref()?, claim.status.as_ref()?);
        let request = spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE)?;
        let capacity = status.capacity.as_ref()?.get(STORAGE)?;
        if status.phase.as_deref() != Some("Bound") || !exceeds(request, capacity) {
            return None;
        }
        let has = |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind);
        Some(Self {
            claim: claim_ref(claim)?,
            resource_version: metadata.resource_version.as_deref()?.into(),
            class: class_of(claim).into(),
            volume: spec.volume_name.as_deref().filter(|name| !name.is_empty())?.into(),
            deleting: metadata.deletion_timestamp.is_some(),
            request: request.clone(),
            capacity: capacity.clone(),
            conditions: CONDITIONS.into_iter().filter(|kind| has(kind)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(request: &str, status: &Value) -> Option<Expansion> {
        let claim = json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "1-2", "resourceVersion": "7"},
            "spec": {
                "storageClassName": "nfs", "resources": {"requests": {"storage": request}}, "volumeName": "pvc-1-2",
            },
            "status": status,
        });
        Expansion::read(&serde_json::from_value(claim).unwrap())
    }

    fn bound(capacity: &str) -> Value {
        json!({"phase": "Bound", "capacity": {"storage": capacity}})
    }

    #[test]
    fn only_bound_claims_that_ask_for_more_are_read() {
        let rows = [
            ("2Gi", bound("1Gi"), true),
            ("1025Mi", bound("1Gi"), true),
            ("1Gi", bound("1Gi"), false),
            ("1Gi", bound("1024Mi"), false),
            ("1Gi", bound("2Gi"), false),
            ("2G", bound("2Gi"), false),
            // Claims that are just being bound.
            ("1Gi", json!({"phase": "Pending"}), false),
            ("1Gi", json!({"phase": "Bound"}), false),
            ("1Gi", json!({"phase": "Pending", "capacity": {"storage": "1Mi"}}), false),
            ("1Gi", json!({"phase": "Lost", "capacity": {"storage": "1Mi"}}), false),
            ("1Gi", Value::Null, false),
        ];
        for (request, status, expected) in rows {
            assert_eq!(read(request, &status).is_some(), expected, "{request} {status}");
        }
    }

    #[test]
    fn of_the_conditions_those_of_resizing_are_read() {
        let mut status = bound("1Gi");
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        status["conditions"] = ["ModifyingVolume", "Resizing", "NodeResizeError"].map(condition).into();
        assert_eq!(read("2Gi", &status).unwrap().conditions, ["Resizing", "NodeResizeError"]);
    }
}
