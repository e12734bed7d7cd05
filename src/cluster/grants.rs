//! What this process may do beyond what it needs, and which leader lock follows from that.

use kube::Client;
use tracing::{error, info, warn};

use crate::cluster::election::{LockChoice, LockKind};
use crate::cluster::permissions::{self, Awaited, Permission};

/// What we are allowed to do beyond what is needed.
#[derive(Debug)]
pub struct Granted {
    /// The locks that there are to hold, and to respect; none, if there is no election.
    pub locks: Option<Locks>,
    /// Whether we may change volumes.
    pub may_patch: bool,
    /// What it takes for volumes to grow.
    pub expand: Awaited,
}

/// Which lock we use, and which one we respect.
#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// The one that this process holds while it leads.
    pub own: LockKind,
    /// The other one, where we may read it.
    pub other: Option<LockKind>,
}

/// Finds out what we are allowed to do; says in the log what is off for lack of what.
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

/// Which of `permissions` we do not have; none, if the API server does not say.
async fn missing(client: &Client, permissions: &[Permission], namespace: Option<&str>) -> Vec<Permission> {
    permissions::missing(client, permissions, namespace).await.unwrap_or_else(|error| {
        warn!(%error, "failed to ask the API server what is allowed");
        Vec::new()
    })
}

/// A Lease where we may use one, else the peer's Endpoints object.
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

/// The lock of the other kind, if we may read it.
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
        // Where Leases are forbidden nobody else of our name has one.
        return None;
    }
    info!(
        "a provisioner that leads by the other kind of lock is not seen, for lack of: {} in namespace {namespace}",
        permissions::listed(&missing)
    );
    None
}
