//! What the API server permits this process, and which leader lock and abilities follow from that.

use kube::Client;
use tracing::{error, info, warn};

use crate::cluster::lock::{LockChoice, LockKind};
use crate::cluster::permissions::{self, Awaited, Permission};

/// What follows from the permissions that were found.
#[derive(Debug)]
pub struct Granted {
    /// The locks to hold and to respect; `None` if there is no election.
    pub locks: Option<Locks>,
    /// Whether volumes may be changed, and so get finalizers.
    pub may_patch: bool,
    /// The permissions that volumes need to grow.
    pub expand: Awaited,
}

/// The lock that this process uses, and the one that it respects.
#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// The lock that this process holds while it leads.
    pub own: LockKind,
    /// The lock of the other kind, where it may be read.
    pub other: Option<LockKind>,
}

/// Asks the API server for permissions, and logs which abilities are off for lack of which of them.
pub async fn check_access(client: &Client, namespace: &str, lock: LockChoice) -> Granted {
    let (needed, protect, expand) = futures::join!(
        missing(client, permissions::NEEDED, None),
        missing(client, permissions::PROTECT, None),
        missing(client, permissions::EXPAND, None),
    );
    if !needed.is_empty() {
        error!(
            "not allowed to {}: grant it, as in rbac/, or claims and volumes will wait",
            permissions::listed(&needed)
        );
    }
    if !protect.is_empty() {
        info!(
            "volumes get no finalizer, for lack of: {}. One that is deleted while it has a claim is reclaimed only \
             while this process lives",
            permissions::listed(&protect)
        );
    }
    if !expand.is_empty() {
        info!("volumes do not grow when their claims ask for more, for lack of: {}", permissions::listed(&expand));
    }
    let expand = Awaited::new(client.clone(), permissions::EXPAND, expand);
    let own = match lock {
        LockChoice::None => None,
        LockChoice::Only(kind) => Some(kind),
        LockChoice::Auto => Some(find_lock(client, namespace).await),
    };
    let locks = match own {
        None => None,
        Some(own) => Some(Locks { own, other: find_other(client, namespace, own).await }),
    };
    Granted { locks, may_patch: protect.is_empty(), expand }
}

/// Returns which of `permissions` are missing; none, if the API server does not say.
async fn missing(client: &Client, permissions: &[Permission], namespace: Option<&str>) -> Vec<Permission> {
    permissions::missing(client, permissions, namespace).await.unwrap_or_else(|error| {
        warn!(%error, "failed to ask the API server for the permissions of this process; assuming that none is missing");
        Vec::new()
    })
}

/// Chooses a Lease where one may be used, else upstream's Endpoints object.
async fn find_lock(client: &Client, namespace: &str) -> LockKind {
    let lease = missing(client, permissions::LEASE, Some(namespace)).await;
    if lease.is_empty() {
        return LockKind::Lease;
    }
    if missing(client, permissions::ENDPOINTS, Some(namespace)).await.is_empty() {
        info!(
            "leader election uses an Endpoints object instead of a Lease, for lack of: {} in namespace {namespace}",
            permissions::listed(&lease)
        );
        return LockKind::Endpoints;
    }
    error!(
        "leader election is not possible, and without it nothing is done: grant {} in namespace {namespace}, \
         as in rbac/, or set ENABLE_LEADER_ELECTION to false and run one replica only",
        permissions::listed(&lease)
    );
    LockKind::Lease
}

/// Returns the kind of lock that is not our own, if such a lock may be read.
async fn find_other(client: &Client, namespace: &str, own: LockKind) -> Option<LockKind> {
    let needed = match own {
        LockKind::Lease => permissions::ENDPOINTS_READ,
        LockKind::Endpoints => permissions::LEASE_READ,
    };
    let missing = missing(client, needed, Some(namespace)).await;
    if missing.is_empty() {
        return Some(own.other());
    }
    if own == LockKind::Endpoints {
        // Where Leases are forbidden no other provisioner of this name has one.
        return None;
    }
    info!(
        "a provisioner that leads by the other kind of lock is not seen, for lack of: {} in namespace {namespace}",
        permissions::listed(&missing)
    );
    None
}
