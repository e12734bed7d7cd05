//! The object that the leader lock is, and the record in it: a Lease, or an annotation on an Endpoints object.

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ApiResource, DynamicObject, PostParams, WatchParams};
use kube::{Client, Error as KubeError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::api::{ApiError, answered};
use crate::values::names::is_dns_subdomain;
use crate::values::text::fnv1a;

/// The annotation in which upstream's lock keeps its record.
const ENDPOINTS_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// The record in the lock. The names are those in upstream's annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) holder_identity: String,
    pub(super) lease_duration_seconds: i32,
    #[serde(default)]
    pub(super) acquire_time: Option<Timestamp>,
    #[serde(default)]
    pub(super) renew_time: Option<Timestamp>,
    #[serde(default)]
    pub(super) leader_transitions: i32,
}

/// The kinds of objects that a lock can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// A Lease.
    Lease,
    /// An annotation on an Endpoints object.
    Endpoints,
}

/// Which lock of leader election to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockChoice {
    /// No lock: the administrator runs one process only.
    None,
    /// A Lease, or upstream's Endpoints object where Leases are forbidden.
    Auto,
    /// A lock of this kind only.
    Only(LockKind),
}

impl LockKind {
    /// Returns the other kind.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Lease => Self::Endpoints,
            Self::Endpoints => Self::Lease,
        }
    }

    fn resource(self) -> ApiResource {
        match self {
            Self::Lease => ApiResource::erase::<Lease>(&()),
            Self::Endpoints => ApiResource::erase::<Endpoints>(&()),
        }
    }

    /// Reads the record in an object of this kind; `None` if there is none that can be read.
    fn record(self, object: &DynamicObject) -> Result<Option<Record>, ApiError> {
        match self {
            Self::Lease => {
                let spec = object.data.get("spec").filter(|spec| !spec.is_null());
                let spec = spec.map(LeaseSpec::deserialize).transpose();
                Ok(spec.map_err(|error| ApiError::Kube(KubeError::SerdeError(error)))?.as_ref().map(record_of))
            }
            Self::Endpoints => {
                let annotations = object.metadata.annotations.as_ref();
                let text = annotations.and_then(|all| all.get(ENDPOINTS_ANNOTATION));
                Ok(text.and_then(|text| serde_json::from_str(text).ok()))
            }
        }
    }

    /// Puts a record into an object of this kind.
    fn set_record(self, object: &mut DynamicObject, record: &Record) {
        match self {
            Self::Lease => {
                let spec = json!(spec_of(record));
                if let Some(fields) = object.data.as_object_mut() {
                    fields.insert("spec".to_owned(), spec);
                } else {
                    // The object is a new one.
                    object.data = json!({ "spec": spec });
                }
            }
            Self::Endpoints => {
                // A struct of strings and numbers is always JSON.
                let text = serde_json::to_string(record).unwrap_or_default();
                object.metadata.annotations.get_or_insert_default().insert(ENDPOINTS_ANNOTATION.to_owned(), text);
            }
        }
    }
}

/// Returns the name of a provisioner's lock: that of upstream's lock, which is the provisioner's with `-` for `/`.
///
/// The API server takes names of provisioners that no object can have, with capitals, underscores, or more than 253
/// characters, and upstream never leads with one. Such a lock is called by what can be kept of the name, and its hash, so
/// that no two provisioners share one.
#[must_use]
pub fn lock_name(provisioner: &str) -> String {
    /// With the hash, less than an object's name may have.
    const KEPT_MAX: usize = 200;
    let name = provisioner.replace('/', "-");
    if is_dns_subdomain(&name) {
        return name;
    }
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let kept: String = name.chars().take(KEPT_MAX).map(kept).collect();
    format!("{}-{:016x}", kept.trim_matches('-'), fnv1a(provisioner.as_bytes()))
}

/// The object that holds the record of who leads.
#[derive(Clone)]
pub struct Lock {
    objects: Api<DynamicObject>,
    kind: LockKind,
    namespace: String,
    name: String,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A lock as it was read: to be replaced only if it is still so.
pub(super) struct Read {
    pub(super) record: Option<Record>,
    pub(super) object: DynamicObject,
}

impl Lock {
    /// Makes a handle of the lock of the provisioner of this name, called as [`lock_name`] tells.
    #[must_use]
    pub fn new(client: Client, kind: LockKind, namespace: &str, provisioner: &str) -> Self {
        let objects = Api::namespaced_with(client, namespace, &kind.resource());
        Self { objects, kind, namespace: namespace.to_owned(), name: lock_name(provisioner) }
    }

    /// Returns the kind of the lock.
    pub(super) fn kind(&self) -> LockKind {
        self.kind
    }

    /// Tells whether the lock may be read, whether it exists or not.
    pub(super) async fn is_readable(&self) -> Result<bool, ApiError> {
        match self.read().await {
            Ok(_) => Ok(true),
            Err(error) if error.is_forbidden() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the lock; `None` if it does not exist.
    pub(super) async fn read(&self) -> Result<Option<Read>, ApiError> {
        let Some(object) = answered(self.objects.get_opt(&self.name)).await? else { return Ok(None) };
        Ok(Some(Read { record: self.kind.record(&object)?, object }))
    }

    /// Waits until the lock has changed since this version; for ever, if that is not to be learned.
    pub(super) async fn changed(&self, version: &str) {
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let changed = match self.objects.watch(&only, version).await {
            Ok(events) => std::pin::pin!(events).next().await.is_some_and(|event| event.is_ok()),
            Err(_) => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }

    /// Creates the lock with `record`, or replaces `read` by it if it has not changed since.
    pub(super) async fn write(&self, record: &Record, read: Option<Read>) -> Result<(), ApiError> {
        let post = PostParams::default();
        if let Some(Read { mut object, .. }) = read {
            self.kind.set_record(&mut object, record);
            answered(self.objects.replace(&self.name, &post, &object)).await.map(drop)
        } else {
            let mut object = DynamicObject::new(&self.name, &self.kind.resource());
            self.kind.set_record(&mut object, record);
            answered(self.objects.create(&post, &object)).await.map(drop)
        }
    }
}

fn record_of(spec: &LeaseSpec) -> Record {
    Record {
        holder_identity: spec.holder_identity.clone().unwrap_or_default(),
        lease_duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
        acquire_time: spec.acquire_time.as_ref().map(|time| time.0),
        renew_time: spec.renew_time.as_ref().map(|time| time.0),
        leader_transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

fn spec_of(record: &Record) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder_identity.clone()),
        lease_duration_seconds: Some(record.lease_duration_seconds),
        acquire_time: record.acquire_time.map(MicroTime),
        renew_time: record.renew_time.map(MicroTime),
        lease_transitions: Some(record.leader_transitions),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn record() -> Record {
        let time = |text: &str| Some(text.parse().unwrap());
        Record {
            holder_identity: "host_1".to_owned(),
            lease_duration_seconds: 15,
            acquire_time: time("2026-01-01T00:00:00.000001Z"),
            renew_time: time("2026-01-02T00:00:00.5Z"),
            leader_transitions: 3,
        }
    }

    #[test]
    fn each_provisioner_has_a_lock_that_can_exist_and_is_upstreams_where_that_can() {
        let upstreams = [
            ("k8s-sigs.io/nfs-subdir-external-provisioner", "k8s-sigs.io-nfs-subdir-external-provisioner"),
            ("fuseim.pri/ifs", "fuseim.pri-ifs"),
            ("nfs", "nfs"),
        ];
        for (provisioner, expected) in upstreams {
            assert_eq!(lock_name(provisioner), expected);
        }
        let long = format!("{}.example.com/nfs", "a.".repeat(120));
        let odd = ["Rocketmq-NFS", "rocketmq-nfs_", "nfs_client", "NFS_client", "e.com/a..b", "e.com/a.-b", &long];
        let names: HashSet<String> = odd.into_iter().map(lock_name).collect();
        assert_eq!(names.len(), odd.len(), "{names:?}");
        for name in &names {
            assert!(is_dns_subdomain(name), "{name}");
        }
        // It must not change with an update.
        assert_eq!(lock_name("nfs_client"), "nfs-client-cddccdb1095a3378");
    }

    #[test]
    fn a_record_is_read_as_it_was_written_into_either_kind_of_lock() {
        for kind in [LockKind::Lease, LockKind::Endpoints] {
            let mut object = DynamicObject::new("lock", &kind.resource());
            assert_eq!(kind.record(&object).unwrap(), None);
            kind.set_record(&mut object, &record());
            let sent = serde_json::to_string(&object).unwrap();
            let object: DynamicObject = serde_json::from_str(&sent).unwrap();
            assert_eq!(kind.record(&object).unwrap(), Some(record()), "{sent}");
        }
    }

    #[test]
    fn locks_are_the_objects_that_kubernetes_and_upstream_expect() {
        let sent = |kind: LockKind| {
            let mut object = DynamicObject::new("lock", &kind.resource());
            kind.set_record(&mut object, &record());
            serde_json::to_value(object).unwrap()
        };
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "lock"},
            "spec": {
                "holderIdentity": "host_1", "leaseDurationSeconds": 15, "leaseTransitions": 3,
                "acquireTime": "2026-01-01T00:00:00.000001Z", "renewTime": "2026-01-02T00:00:00.500000Z",
            },
        });
        assert_eq!(sent(LockKind::Lease), lease);
        let endpoints = sent(LockKind::Endpoints);
        assert_eq!((&endpoints["apiVersion"], &endpoints["kind"]), (&json!("v1"), &json!("Endpoints")));
        let text = endpoints["metadata"]["annotations"][ENDPOINTS_ANNOTATION].as_str().unwrap();
        let expected = r#"{"holderIdentity":"host_1","leaseDurationSeconds":15,"acquireTime":"2026-01-01T00:00:00.000001Z","renewTime":"2026-01-02T00:00:00.5Z","leaderTransitions":3}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn what_else_is_in_a_lock_stays_and_a_lease_that_cannot_be_read_is_not_taken() {
        let read = |object: Value| serde_json::from_value::<DynamicObject>(object).unwrap();
        let mut object = read(json!({
            "metadata": {"name": "lock", "resourceVersion": "7", "annotations": {"a": "b"}},
            "subsets": [{"ports": []}],
        }));
        LockKind::Endpoints.set_record(&mut object, &record());
        let sent = serde_json::to_value(&object).unwrap();
        assert_eq!(sent["subsets"], json!([{"ports": []}]));
        assert_eq!(
            (&sent["metadata"]["resourceVersion"], &sent["metadata"]["annotations"]["a"]),
            (&json!("7"), &json!("b"))
        );

        for (spec, is_read) in
            [(json!(null), true), (json!({}), true), (json!({"leaseDurationSeconds": "x"}), false)]
        {
            let object = read(json!({"metadata": {"name": "lock"}, "spec": spec}));
            assert_eq!(LockKind::Lease.record(&object).is_ok(), is_read, "{object:?}");
        }
    }
}
