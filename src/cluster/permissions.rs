//! Permissions, which the API server is asked for before they are relied on.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::api::{ApiError, answered};

/// A permission: a verb on a resource, in one namespace or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// The verb.
    pub verb: &'static str,
    /// The API group of the resource; empty for the core group.
    pub group: &'static str,
    /// The resource, or a part of it such as `persistentvolumeclaims/status`.
    pub resource: &'static str,
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

const fn permission(verb: &'static str, group: &'static str, resource: &'static str) -> Permission {
    Permission { verb, group, resource }
}

/// The permissions without which nothing works. Users of upstream have granted all of them: its RBAC has them.
pub const NEEDED: &[Permission] = &[
    permission("list", "", "persistentvolumeclaims"),
    permission("watch", "", "persistentvolumeclaims"),
    permission("get", "", "persistentvolumes"),
    permission("list", "", "persistentvolumes"),
    permission("watch", "", "persistentvolumes"),
    permission("create", "", "persistentvolumes"),
    permission("delete", "", "persistentvolumes"),
    permission("get", "storage.k8s.io", "storageclasses"),
    permission("list", "storage.k8s.io", "storageclasses"),
    permission("watch", "storage.k8s.io", "storageclasses"),
    permission("create", "", "events"),
    permission("patch", "", "events"),
];

/// The permissions for finalizers on volumes.
pub const PROTECT: &[Permission] = &[permission("patch", "", "persistentvolumes")];

/// The permissions for volumes to grow.
pub const EXPAND: &[Permission] =
    &[permission("patch", "", "persistentvolumes"), permission("patch", "", "persistentvolumeclaims/status")];

/// The permission to read the namespace `kube-system`, and no other, whose uid marks this cluster's notes.
pub const MARK: &[Permission] = &[permission("get", "", "namespaces")];

/// The permissions for leader election by a Lease, in the namespace of the lock.
pub const LEASE: &[Permission] = &[
    permission("get", "coordination.k8s.io", "leases"),
    permission("create", "coordination.k8s.io", "leases"),
    permission("update", "coordination.k8s.io", "leases"),
];

/// The permission to learn at once that the leader has given its Lease back.
pub const LEASE_WATCH: &[Permission] = &[permission("watch", "coordination.k8s.io", "leases")];

/// The permission to see whether upstream leads by its lock, where this process uses a Lease.
pub const ENDPOINTS_READ: &[Permission] = &[permission("get", "", "endpoints")];

/// The permission to see whether another process leads by a Lease, where this one uses upstream's lock.
pub const LEASE_READ: &[Permission] = &[permission("get", "coordination.k8s.io", "leases")];

/// The permissions for leader election as upstream does it, in the namespace of the lock.
pub const ENDPOINTS: &[Permission] = &[
    permission("get", "", "endpoints"),
    permission("create", "", "endpoints"),
    permission("update", "", "endpoints"),
];

/// Returns a list of permissions, in words.
#[must_use]
pub fn listed(permissions: &[Permission]) -> String {
    permissions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns which of `permissions` this process does not have, in `namespace` or, without one, in all.
///
/// # Errors
/// Returns any API error.
pub async fn missing(
    client: &Client,
    permissions: &[Permission],
    namespace: Option<&str>,
) -> Result<Vec<Permission>, ApiError> {
    let asked = permissions.iter().map(|permission| async move {
        allowed(client, *permission, namespace).await.map(|allowed| (!allowed).then_some(*permission))
    });
    join_all(asked).await.into_iter().filter_map(Result::transpose).collect()
}

async fn allowed(client: &Client, permission: Permission, namespace: Option<&str>) -> Result<bool, ApiError> {
    let (resource, part) = permission.resource.split_once('/').unwrap_or((permission.resource, ""));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(permission.verb.to_owned()),
                group: Some(permission.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(part.to_owned()),
                namespace: namespace.map(ToOwned::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = answered(reviews.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// How long a missing permission is taken to be missing still.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Permissions of which the missing ones may be granted while this process runs. None counts as granted before the
/// API server has said so.
pub struct Awaited {
    client: Client,
    permissions: &'static [Permission],
    known: Mutex<Known>,
}

impl std::fmt::Debug for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Awaited").field("permissions", &self.permissions).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Known {
    /// The permissions that are missing; `None` while the API server has not said.
    missing: Option<Vec<Permission>>,
    since: Instant,
}

impl Awaited {
    /// Takes note of `permissions`, of which `missing` were found missing just now; `None` if the API server did not
    /// say.
    #[must_use]
    pub fn new(client: Client, permissions: &'static [Permission], missing: Option<Vec<Permission>>) -> Self {
        Self { client, permissions, known: Mutex::new(Known { missing, since: Instant::now() }) }
    }

    /// Returns which of the permissions are missing. As long as there are any the API server is asked, but not
    /// each time.
    ///
    /// # Errors
    /// Returns the API error if the API server has never said.
    pub async fn missing(&self) -> Result<Vec<Permission>, ApiError> {
        let mut known = self.known.lock().await;
        let is_due = known.since.elapsed() >= ASK_AGAIN;
        if known.missing.as_ref().is_none_or(|missing| !missing.is_empty() && is_due) {
            match missing(&self.client, self.permissions, None).await {
                Ok(missing) => known.missing = Some(missing),
                Err(error) if known.missing.is_none() => return Err(error),
                // Without an answer everything is as before.
                Err(_) => {}
            }
            known.since = Instant::now();
        }
        Ok(known.missing.clone().unwrap_or_default())
    }
}
