//! What the API server permits this process, and which leader lock and abilities follow from that.
//!
//! What it has not said is not known, and counts as forbidden: it is asked again until it answers.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::cluster::api::{ApiError, Cluster};
use crate::cluster::election::{Lead, Leadership};
use crate::cluster::lock::{Lock, LockChoice, LockKind};
use crate::cluster::permissions::{self, Awaited, Permission};
use crate::decide::scope::{Permitted, Scope};
use crate::decide::volume::{VolumeFacts, VolumePlan, for_volume};

/// How long to wait until the API server is asked again: at first, and at the most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The rights of this process in the whole cluster, as far as the API server has said.
pub struct Granted {
    client: Client,
    /// Whether volumes may be changed, and so get finalizers.
    pub may_patch: Permitted,
    /// The permissions that are missing of those without which nothing works; `None` if that is not known.
    needed: Option<Vec<Permission>>,
    /// The permissions that are missing for finalizers; `None` if that is not known.
    protect: Option<Vec<Permission>>,
    /// The permissions that are missing for volumes to grow; `None` if that is not known.
    expand: Option<Vec<Permission>>,
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Granted").field("may_patch", &self.may_patch).finish_non_exhaustive()
    }
}

/// The lock that this process uses, and the one that it respects.
#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// The lock that this process holds while it leads.
    pub own: LockKind,
    /// The lock of the other kind, where it may be read.
    pub other: Option<LockKind>,
}

impl Granted {
    /// Asks the API server for permissions, once, and logs which abilities are off for lack of which of them.
    pub async fn ask(client: &Client) -> Self {
        let (needed, protect, expand) = futures::join!(
            missing(client, permissions::NEEDED),
            missing(client, permissions::PROTECT),
            missing(client, permissions::EXPAND),
        );
        let may_patch = Permitted::from(protect.as_ref().is_some_and(Vec::is_empty));
        let granted = Self { client: client.clone(), may_patch, needed, protect, expand };
        granted.say_needed();
        granted.say_protect();
        if let Some(lacking) = granted.expand.as_ref().filter(|lacking| !lacking.is_empty()) {
            info!(
                "volumes do not grow when their claims ask for more, for lack of: {}",
                permissions::listed(lacking)
            );
        }
        granted
    }

    /// Returns the permissions that volumes need to grow.
    #[must_use]
    pub fn expand(&self) -> Awaited {
        Awaited::new(self.client.clone(), permissions::EXPAND, self.expand.clone())
    }

    /// Asks for what was not answered, and for finalizers until they are permitted. If that is only now, then gives
    /// them to the volumes that are there.
    pub async fn follow(mut self, cluster: Cluster, scope: Arc<Scope>, leadership: Leadership) {
        if self.may_patch.is_granted() && self.needed.is_some() {
            return;
        }
        let was_granted = self.may_patch.is_granted();
        let mut pause = ASK_AGAIN.0;
        while !self.may_patch.is_granted() || self.needed.is_none() {
            sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN.1);
            if self.needed.is_none() {
                self.needed = still_missing(&self.client, permissions::NEEDED).await;
                self.say_needed();
            }
            if let Some(now) = still_missing(&self.client, permissions::PROTECT).await {
                let is_new = self.protect.replace(now.clone()).is_none_or(|before| before != now);
                if now.is_empty() {
                    self.may_patch.grant();
                }
                if is_new {
                    self.say_protect();
                }
            }
        }
        if !was_granted {
            info!("volumes get finalizers from now on: the permission for that is there");
            protect_all(&cluster, &scope, leadership).await;
        }
    }

    fn say_needed(&self) {
        if let Some(lacking) = self.needed.as_ref().filter(|lacking| !lacking.is_empty()) {
            error!(
                "not allowed to {}: grant it, as in rbac/, or claims and volumes will wait",
                permissions::listed(lacking)
            );
        }
    }

    fn say_protect(&self) {
        if let Some(lacking) = self.protect.as_ref().filter(|lacking| !lacking.is_empty()) {
            info!(
                "volumes get no finalizer, for lack of: {}. One that is deleted while it has a claim is reclaimed \
                 only while this process lives",
                permissions::listed(lacking)
            );
        }
    }
}

/// Returns which of `permissions` are missing; `None` if the API server does not say.
async fn missing(client: &Client, permissions: &[Permission]) -> Option<Vec<Permission>> {
    match permissions::missing(client, permissions, None).await {
        Ok(missing) => Some(missing),
        Err(error) => {
            warn!(
                %error,
                "the API server did not say whether this process is allowed to {}: will ask again, and do without \
                 until then", permissions::listed(permissions)
            );
            None
        }
    }
}

/// Asks as [`missing`] does, after that has said that there was no answer.
async fn still_missing(client: &Client, permissions: &[Permission]) -> Option<Vec<Permission>> {
    let answer = permissions::missing(client, permissions, None).await;
    answer.inspect_err(|error| debug!(%error, "the API server still does not say what is allowed")).ok()
}

/// Adds our finalizer to the volumes that should have it, and takes it off those that should not. The watch has shown
/// most of them before that was possible.
async fn protect_all(cluster: &Cluster, scope: &Scope, mut leadership: Leadership) {
    loop {
        leadership.held().await;
        match protect_each(cluster, scope, &leadership).await {
            Ok(()) => return,
            Err(error) => warn!(%error, "failed to give finalizers to all volumes, will try again"),
        }
        sleep(ASK_AGAIN.1).await;
    }
}

/// Protects as many volumes as it can. Returns the last error.
async fn protect_each(cluster: &Cluster, scope: &Scope, leadership: &Leadership) -> Result<(), ApiError> {
    let mut due = Vec::new();
    let listed = cluster.volumes(|volume| {
        let plan = for_volume(&VolumeFacts { volume: &volume, class: None }, scope);
        if matches!(plan, VolumePlan::Protect | VolumePlan::Unprotect | VolumePlan::LetGo) {
            due.push((volume, plan));
        }
    });
    listed.await?;
    let mut failed = Ok(());
    for (volume, plan) in due.into_iter().take_while(|_| leadership.is_held()) {
        let done = if plan == VolumePlan::Protect {
            cluster.protect_unchanged(&volume).await
        } else {
            cluster.unprotect(&volume).await
        };
        match done {
            // A volume that has changed is looked at for that.
            Err(error) if !error.is_not_found() && !error.is_conflict() => failed = Err(error),
            _ => {}
        }
    }
    failed
}

/// Finds the lock to hold; `None` if there is to be no election. Waits until the API server has said what is allowed,
/// and until one of the locks is: meanwhile `lead` knows why nobody can lead here.
pub async fn find_locks(
    client: &Client,
    namespace: &str,
    provisioner: &str,
    choice: LockChoice,
    lead: &Lead,
) -> Option<Locks> {
    let finder = Finder { client, namespace, provisioner };
    let mut told = None;
    loop {
        match finder.find(choice).await {
            Ok(locks) => {
                lead.in_trouble(None);
                return locks;
            }
            Err(words) => {
                if told.as_ref() != Some(&words) {
                    error!("{words}");
                    lead.in_trouble(Some(words.clone()));
                    told = Some(words);
                }
            }
        }
        sleep(ASK_AGAIN.0 * 2).await;
    }
}

struct Finder<'a> {
    client: &'a Client,
    namespace: &'a str,
    provisioner: &'a str,
}

impl Finder<'_> {
    /// Finds the lock to hold, or says why there is none yet.
    async fn find(&self, choice: LockChoice) -> Result<Option<Locks>, String> {
        let own = match choice {
            LockChoice::None => return Ok(None),
            LockChoice::Only(kind) => kind,
            LockChoice::Auto => self.own().await?,
        };
        Ok(Some(Locks { own, other: self.other(own).await? }))
    }

    /// Chooses a Lease where one may be used, else upstream's Endpoints object.
    async fn own(&self) -> Result<LockKind, String> {
        let lease = self.missing(LockKind::Lease, permissions::LEASE).await?;
        if lease.is_empty() {
            return Ok(LockKind::Lease);
        }
        let namespace = self.namespace;
        if self.missing(LockKind::Endpoints, permissions::ENDPOINTS).await?.is_empty() {
            info!(
                "leader election uses an Endpoints object instead of a Lease, for lack of: {} in namespace {namespace}",
                permissions::listed(&lease)
            );
            return Ok(LockKind::Endpoints);
        }
        Err(format!(
            "leader election is not possible, and without it nothing is done: grant {} in namespace {namespace}, \
             as in rbac/, or set ENABLE_LEADER_ELECTION to false and run one replica only",
            permissions::listed(&lease)
        ))
    }

    /// Returns the kind of lock that is not our own, if such a lock may be read.
    async fn other(&self, own: LockKind) -> Result<Option<LockKind>, String> {
        let needed = match own {
            LockKind::Lease => permissions::ENDPOINTS_READ,
            LockKind::Endpoints => permissions::LEASE_READ,
        };
        let missing = self.missing(own.other(), needed).await?;
        if missing.is_empty() {
            return Ok(Some(own.other()));
        }
        // Where Leases are forbidden no other provisioner of this name has one.
        if own == LockKind::Lease {
            info!(
                "a provisioner that leads by the other kind of lock is not seen, for lack of: {} in namespace {}",
                permissions::listed(&missing),
                self.namespace
            );
        }
        Ok(None)
    }

    /// Returns which of the permissions for a lock are missing. Where the API server tells nobody what he may do, a
    /// lock that can be read counts as one that may be used.
    async fn missing(&self, kind: LockKind, needed: &[Permission]) -> Result<Vec<Permission>, String> {
        let error = match permissions::missing(self.client, needed, Some(self.namespace)).await {
            Ok(missing) => return Ok(missing),
            Err(error) if error.is_forbidden() => {
                let lock = Lock::new(self.client.clone(), kind, self.namespace, self.provisioner);
                match lock.is_readable().await {
                    Ok(true) => return Ok(Vec::new()),
                    Ok(false) => return Ok(needed.to_vec()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        Err(format!(
            "leader election waits until the API server says whether this process is allowed to {} in namespace {}: \
             {error}",
            permissions::listed(needed),
            self.namespace
        ))
    }
}
