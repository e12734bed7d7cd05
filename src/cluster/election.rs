//! Leader election: of several provisioners with one name, one works.
//!
//! The lock is a Lease, or, where Leases are forbidden, an annotation on an Endpoints object, as the peer has it:
//! under the peer's RBAC the two programs exclude each other. The algorithm is client-go's: a holder renews
//! the record every few seconds, and whoever sees it unchanged for the lease's duration may take it. Nobody's
//! clock but one's own is compared with.
//!
//! The lock of the other kind is respected: nobody begins to lead while that one has a holder that is alive, so that
//! the peer and we can be exchanged for each other while both run.
//!
//! The lock is advisory: it keeps two from working side by side, it does not make it safe. What makes it safe is
//! that every step may run twice, and that a change of files begins only while [`Leadership::is_held`].

use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams, WatchParams};
use kube::{Client, Error as KubeError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::cluster::api::{ApiError, answered};

/// How long a record counts after it was last seen to change.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// For how long after a renewal was sent we work. Shorter than [`LEASE_DURATION`]: the rest is for slow steps.
const HELD_FOR: Duration = Duration::from_secs(10);

/// When a record of the other kind was renewed so long ago, by our own clock, its holder has not been alive since
/// long. It saves every start the wait for the record to change; no clock that works is so wrong.
const LONG_DEAD: SignedDuration = SignedDuration::from_hours(24);

/// How long to wait between two tries to take or renew the lock.
const RETRY: Duration = Duration::from_secs(2);

/// Where the peer's lock keeps its record.
const ENDPOINTS_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Whether we lead, for those who work.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Held>>);

/// That we lead: since when, and until when at the least.
#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    until: Instant,
}

impl Leadership {
    /// A leadership that nobody contests.
    #[must_use]
    pub fn uncontested() -> Self {
        // A year; the sender may go, the value stays.
        let since = Instant::now();
        Self(watch::channel(Some(Held { since, until: since + Duration::from_hours(365 * 24) })).1)
    }

    /// Whether we lead at this moment. Asked before each step that destroys something.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|held| Instant::now() < held.until)
    }

    /// Since when we lead, if we do.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.0.borrow().map(|held| held.since)
    }

    /// Waits until we do not lead.
    pub async fn lost(&mut self) {
        loop {
            let Some(held) = *self.0.borrow_and_update() else { return };
            tokio::select! {
                () = sleep_until(held.until) => return,
                changed = self.0.changed() => if changed.is_err() {
                    // The election has ended with the program, or there is none.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Waits until we lead.
    pub async fn held(&mut self) {
        while !self.is_held() {
            if self.0.changed().await.is_err() {
                // The election has ended with the program.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The record in the lock. The names are those of the peer's annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    holder_identity: String,
    lease_duration_seconds: i32,
    #[serde(default)]
    acquire_time: Option<Timestamp>,
    #[serde(default)]
    renew_time: Option<Timestamp>,
    #[serde(default)]
    leader_transitions: i32,
}

/// What kind of object the lock is.
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
    /// None: whoever sets this runs one process only.
    None,
    /// A Lease, or the peer's Endpoints object where Leases are forbidden.
    Auto,
    /// This kind only.
    Only(LockKind),
}

/// Where the lock is.
#[derive(Clone)]
pub struct Lock {
    client: Client,
    kind: LockKind,
    namespace: String,
    name: String,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl LockKind {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Lease => Self::Endpoints,
            Self::Endpoints => Self::Lease,
        }
    }
}

/// A record, and the object it was read from, to be replaced as it was.
struct Read {
    record: Option<Record>,
    object: Object,
}

enum Object {
    Lease(Box<Lease>),
    Endpoints(Box<Endpoints>),
}

impl Object {
    /// From which version on a watch tells what becomes of it.
    fn version(&self) -> Option<&str> {
        let metadata = match self {
            Self::Lease(lease) => &lease.metadata,
            Self::Endpoints(endpoints) => &endpoints.metadata,
        };
        metadata.resource_version.as_deref()
    }
}

impl Lock {
    /// The lock of the provisioner of this name, called as the peer's is (behaviour 4.4).
    #[must_use]
    pub fn new(client: Client, kind: LockKind, namespace: &str, provisioner: &str) -> Self {
        Self { client, kind, namespace: namespace.to_owned(), name: provisioner.replace('/', "-") }
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn endpoints(&self) -> Api<Endpoints> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn read(&self) -> Result<Option<Read>, ApiError> {
        Ok(match self.kind {
            LockKind::Lease => answered(self.leases().get_opt(&self.name)).await?.map(|lease| Read {
                record: lease.spec.as_ref().map(record_of),
                object: Object::Lease(Box::new(lease)),
            }),
            LockKind::Endpoints => answered(self.endpoints().get_opt(&self.name)).await?.map(|endpoints| {
                let text = endpoints.metadata.annotations.as_ref().and_then(|all| all.get(ENDPOINTS_ANNOTATION));
                let record = text.and_then(|text| serde_json::from_str(text).ok());
                Read { record, object: Object::Endpoints(Box::new(endpoints)) }
            }),
        })
    }

    /// Waits until the lock is not as it was at this version any more; for ever, if that is not to be learned.
    async fn changed(&self, version: &str) {
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let changed = match self.kind {
            LockKind::Lease => match self.leases().watch(&only, version).await {
                Ok(events) => std::pin::pin!(events).next().await.is_some_and(|event| event.is_ok()),
                Err(_) => false,
            },
            LockKind::Endpoints => match self.endpoints().watch(&only, version).await {
                Ok(events) => std::pin::pin!(events).next().await.is_some_and(|event| event.is_ok()),
                Err(_) => false,
            },
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }

    /// Creates the lock with `record`, or replaces `read` by it if it has not changed since.
    async fn write(&self, record: &Record, read: Option<Read>) -> Result<(), ApiError> {
        let post = PostParams::default();
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        match (read.map(|read| read.object), self.kind) {
            (Some(Object::Lease(mut lease)), _) => {
                lease.spec = Some(spec_of(record));
                answered(self.leases().replace(&self.name, &post, &lease)).await.map(drop)
            }
            (None, LockKind::Lease) => {
                let lease = Lease { metadata, spec: Some(spec_of(record)) };
                answered(self.leases().create(&post, &lease)).await.map(drop)
            }
            (Some(Object::Endpoints(mut endpoints)), _) => {
                annotate(&mut endpoints.metadata, record);
                answered(self.endpoints().replace(&self.name, &post, &endpoints)).await.map(drop)
            }
            (None, LockKind::Endpoints) => {
                let mut endpoints = Endpoints { metadata, subsets: None };
                annotate(&mut endpoints.metadata, record);
                answered(self.endpoints().create(&post, &endpoints)).await.map(drop)
            }
        }
    }
}

fn annotate(metadata: &mut ObjectMeta, record: &Record) {
    // A struct of strings and numbers is always JSON.
    let text = serde_json::to_string(record).unwrap_or_default();
    metadata.annotations.get_or_insert_default().insert(ENDPOINTS_ANNOTATION.to_owned(), text);
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

/// Takes part in the election for `lock` until `stop` ends, then gives it back if it is ours. Does not begin to lead
/// while `other`, if we may read that, has a holder. The other half of what is returned says whether we lead.
pub fn elect(
    lock: Lock,
    other: Option<Lock>,
    identity: String,
    stop: impl Future<Output = ()>,
) -> (Leadership, impl Future<Output = ()>) {
    let (leads, leadership) = watch::channel(None);
    let other = other.map(|lock| (lock, Seen::default()));
    let mut candidate = Candidate { lock, other, identity, seen: Seen::default() };
    let run = async move {
        tokio::select! {
            () = candidate.run(&leads) => {}
            () = stop => {}
        }
        let led = leads.send_replace(None).is_some();
        if led && let Err(error) = candidate.release().await {
            warn!(lock = ?candidate.lock, %error, "failed to give the leader lock back, others have to wait for it");
        }
    };
    (Leadership(leadership), run)
}

struct Candidate {
    lock: Lock,
    other: Option<(Lock, Seen)>,
    identity: String,
    seen: Seen,
}

/// A record as last seen, and since when it has been like that.
#[derive(Default)]
struct Seen(Option<(Record, Instant)>);

impl Seen {
    fn see(&mut self, record: &Record) {
        if self.0.as_ref().is_none_or(|(seen, _)| seen != record) {
            self.0 = Some((record.clone(), Instant::now()));
        }
    }

    /// Who holds it, if that one has renewed it for as long as it is worth.
    fn holder(&self) -> Option<&str> {
        let (record, since) = self.0.as_ref()?;
        let alive = !record.holder_identity.is_empty() && since.elapsed() < duration_of(record);
        alive.then_some(&*record.holder_identity)
    }
}

/// What one try led to.
enum Attempt {
    Held,
    /// Another one holds it, and has since this version of the lock at least.
    HeldBy {
        holder: String,
        version: Option<String>,
    },
}

impl Candidate {
    async fn run(&mut self, leads: &watch::Sender<Option<Held>>) {
        let mut told = None;
        loop {
            let sent = Instant::now();
            // A try that takes longer than the lease is worth would be of no use.
            let attempt = timeout(HELD_FOR, self.attempt()).await.unwrap_or(Err(ApiError::Timeout));
            match attempt {
                Ok(Attempt::Held) => {
                    let since = leads.borrow().map_or_else(Instant::now, |held| held.since);
                    if leads.send_replace(Some(Held { since, until: sent + HELD_FOR })).is_none() {
                        info!(lock = ?self.lock, identity = self.identity, "leading");
                        told = None;
                    }
                }
                Ok(Attempt::HeldBy { holder, version }) => {
                    if leads.send_replace(None).is_some() {
                        warn!(holder, "lost the leader lock, standing by");
                    } else if told.as_ref() != Some(&holder) {
                        info!(holder, lock = ?self.lock, "another one leads, standing by");
                    }
                    told = Some(holder);
                    // Given back, it is free at once.
                    if let Some(version) = version {
                        let _ = timeout(RETRY, self.lock.changed(&version)).await;
                        continue;
                    }
                }
                Err(error) => {
                    warn!(lock = ?self.lock, %error, "failed to take or renew the leader lock");
                    let over = leads.borrow().is_some_and(|held| Instant::now() >= held.until);
                    if over {
                        leads.send_replace(None);
                        warn!("the leader lock was not renewed in time, standing by");
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Takes the lock if it is free or has expired, renews it if it is ours.
    async fn attempt(&mut self) -> Result<Attempt, ApiError> {
        let read = self.lock.read().await?;
        let found = read.as_ref().and_then(|read| read.record.clone());
        if let Some(record) = &found {
            self.seen.see(record);
        }
        let mine = found.as_ref().is_some_and(|record| record.holder_identity == self.identity);
        if !mine {
            if let Some(holder) = found.as_ref().and_then(|_| self.seen.holder()) {
                let version = read.as_ref().and_then(|read| read.object.version()).map(ToOwned::to_owned);
                return Ok(Attempt::HeldBy { holder: holder.to_owned(), version });
            }
            if let Some(holder) = self.holder_of_other().await? {
                return Ok(Attempt::HeldBy { holder, version: None });
            }
        }
        let record = self.next_record(found.as_ref(), mine);
        match self.lock.write(&record, read).await {
            Ok(()) => {
                self.seen.see(&record);
                Ok(Attempt::Held)
            }
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                debug!("another one was faster");
                Ok(Attempt::HeldBy { holder: "another one".to_owned(), version: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Who holds the lock of the other kind, if anybody.
    async fn holder_of_other(&mut self) -> Result<Option<String>, ApiError> {
        let Some((lock, seen)) = &mut self.other else { return Ok(None) };
        let Some(record) = lock.read().await?.and_then(|read| read.record) else { return Ok(None) };
        seen.see(&record);
        let age = record.renew_time.map(|renewed| Timestamp::now().duration_since(renewed));
        let holder = seen.holder().filter(|_| age.is_none_or(|age| age < LONG_DEAD));
        Ok(holder.map(|holder| format!("{holder} ({lock:?})")))
    }

    fn next_record(&self, found: Option<&Record>, mine: bool) -> Record {
        let now = Timestamp::now();
        let transitions = found.map_or(0, |record| record.leader_transitions);
        Record {
            holder_identity: self.identity.clone(),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX),
            acquire_time: found.filter(|_| mine).and_then(|record| record.acquire_time).or(Some(now)),
            renew_time: Some(now),
            leader_transitions: if mine || found.is_none() { transitions } else { transitions.saturating_add(1) },
        }
    }

    /// Gives the lock back, so that the next one need not wait for it to expire.
    async fn release(&mut self) -> Result<(), ApiError> {
        let Some(read) = self.lock.read().await? else {
            return Ok(());
        };
        let Some(record) = read.record.clone().filter(|record| record.holder_identity == self.identity) else {
            return Ok(());
        };
        let record = Record { holder_identity: String::new(), lease_duration_seconds: 1, ..record };
        self.lock.write(&record, Some(read)).await?;
        info!(lock = ?self.lock, "gave the leader lock back");
        Ok(())
    }
}

/// For how long a record counts; what makes no sense counts as long as ours.
fn duration_of(record: &Record) -> Duration {
    let duration = SignedDuration::from_secs(i64::from(record.lease_duration_seconds));
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero()).unwrap_or(LEASE_DURATION)
}
