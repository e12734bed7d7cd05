//! Leader election: of several provisioners with one name, one works.
//!
//! The lock is a Lease, or, where Leases are forbidden, an annotation on an Endpoints object, as upstream has it:
//! under upstream's RBAC the two programs exclude each other. The algorithm is client-go's: a holder renews the
//! record every few seconds, and a candidate that sees it unchanged for the lease's duration may take it. A
//! process compares times with its own clock only.
//!
//! The lock of the other kind is respected: no candidate begins to lead while that one has a holder that is alive,
//! so that upstream and this program can be exchanged for each other while both run.
//!
//! The lock is advisory: it keeps two from working side by side, it does not make it safe. What makes it safe is
//! that every step may run twice, and that a change of files begins only while [`Leadership::is_held`].
//!
//! It is written by hand because no library has both kinds of lock, or respects another one than its own.

use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ApiResource, DynamicObject, PostParams, WatchParams};
use kube::{Client, Error as KubeError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::cluster::api::{ApiError, answered};

/// How long a record counts after it was last seen to change.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long this process leads after a renewal was sent. Shorter than [`LEASE_DURATION`]: the rest is for slow
/// steps.
const HELD_FOR: Duration = Duration::from_secs(10);

/// The age, by our own clock, of a record of the other kind whose holder died long ago. It saves every start the
/// wait for the record to change; no clock that works is so wrong.
const LONG_DEAD: SignedDuration = SignedDuration::from_hours(24);

/// How long to wait between two tries to take or renew the lock.
const RETRY: Duration = Duration::from_secs(2);

/// The annotation in which upstream's lock keeps its record.
const ENDPOINTS_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// Whether this process leads, for all that asks or waits for it. Clones share it.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Held>>);

/// The other end of a [`Leadership`]: tells it whether this process leads.
#[derive(Debug)]
pub struct Lead(watch::Sender<Option<Held>>);

/// A leadership that is held: since when, and until when at the least.
#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    until: Instant,
}

impl Leadership {
    /// Makes a leadership that is not held yet, and what tells it otherwise: [`elect`], or [`Lead::uncontested`].
    #[must_use]
    pub fn new() -> (Lead, Self) {
        let (lead, leadership) = watch::channel(None);
        (Lead(lead), Self(leadership))
    }

    /// Returns whether this process leads at this moment. Asked before each step that destroys something.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|held| Instant::now() < held.until)
    }

    /// Returns since when this process leads, if it does.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.0.borrow().map(|held| held.since)
    }

    /// Waits until this process does not lead.
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

    /// Waits until this process leads.
    pub async fn held(&mut self) {
        while !self.is_held() {
            if self.0.changed().await.is_err() {
                // The election has ended with the program.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Lead {
    /// Leads from now on, for as long as the program runs: there is no election.
    pub fn uncontested(self) {
        let since = Instant::now();
        // A year; the value stays when the sender goes.
        self.0.send_replace(Some(Held { since, until: since + Duration::from_hours(365 * 24) }));
    }

    /// Notes that the lock was taken or renewed, by a request that was sent at this time. Returns whether that is
    /// new.
    fn renewed(&self, sent: Instant) -> bool {
        let since = self.0.borrow().map_or_else(Instant::now, |held| held.since);
        self.0.send_replace(Some(Held { since, until: sent + HELD_FOR })).is_none()
    }

    /// Notes that the lock is another one's, or given back. Returns whether that is new.
    fn lost(&self) -> bool {
        self.0.send_replace(None).is_some()
    }

    /// Notes that the lock could not be renewed. Returns whether this process led until it could not any more.
    fn not_renewed(&self) -> bool {
        let over = self.0.borrow().is_some_and(|held| Instant::now() >= held.until);
        over && self.lost()
    }
}

/// The record in the lock. The names are those in upstream's annotation.
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
struct Read {
    record: Option<Record>,
    object: DynamicObject,
}

impl Lock {
    /// Makes a handle of the lock of the provisioner of this name. The lock has the name that upstream's has.
    #[must_use]
    pub fn new(client: Client, kind: LockKind, namespace: &str, provisioner: &str) -> Self {
        let objects = Api::namespaced_with(client, namespace, &kind.resource());
        Self { objects, kind, namespace: namespace.to_owned(), name: provisioner.replace('/', "-") }
    }

    async fn read(&self) -> Result<Option<Read>, ApiError> {
        let Some(object) = answered(self.objects.get_opt(&self.name)).await? else { return Ok(None) };
        Ok(Some(Read { record: self.kind.record(&object)?, object }))
    }

    /// Waits until the lock has changed since this version; for ever, if that is not to be learned.
    async fn changed(&self, version: &str) {
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
    async fn write(&self, record: &Record, read: Option<Read>) -> Result<(), ApiError> {
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

/// Takes part in the election for `lock`, and tells `lead` how it goes, until `stop` ends; then gives the lock
/// back if this process holds it. Does not begin to lead while `other`, if that may be read, has a holder.
pub async fn elect(lead: Lead, lock: Lock, other: Option<Lock>, identity: String, stop: impl Future<Output = ()>) {
    let other = other.map(|lock| (lock, Seen::default()));
    let mut candidate = Candidate { lock, other, identity, seen: Seen::default() };
    tokio::select! {
        () = candidate.run(&lead) => {}
        () = stop => {}
    }
    if lead.lost()
        && let Err(error) = candidate.release().await
    {
        warn!(lock = ?candidate.lock, %error, "failed to give the leader lock back; the next leader waits until it expires");
    }
}

/// Returns a name for this process that no other process has.
#[must_use]
pub fn own_identity() -> String {
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{host}_{:032x}", fastrand::u128(..))
}

struct Candidate {
    lock: Lock,
    other: Option<(Lock, Seen)>,
    identity: String,
    seen: Seen,
}

/// The last record that was seen, and since when it has been as it is.
#[derive(Default)]
struct Seen(Option<(Record, Instant)>);

impl Seen {
    fn see(&mut self, record: &Record) {
        if self.0.as_ref().is_none_or(|(seen, _)| seen != record) {
            self.0 = Some((record.clone(), Instant::now()));
        }
    }

    /// Returns the holder, unless it has not renewed the record for as long as that counts.
    fn holder(&self) -> Option<&str> {
        let (record, since) = self.0.as_ref()?;
        let alive = !record.holder_identity.is_empty() && since.elapsed() < duration_of(record);
        alive.then_some(&*record.holder_identity)
    }
}

/// The result of one try to take or renew the lock.
enum Attempt {
    Held,
    HeldByOther {
        holder: String,
        /// A version of the lock in which that one holds it, if the lock can be watched from there on.
        version: Option<String>,
    },
}

impl Candidate {
    async fn run(&mut self, lead: &Lead) {
        let mut told = None;
        loop {
            let sent = Instant::now();
            // A try that takes longer than the lease is worth would be of no use.
            let attempt = timeout(HELD_FOR, self.attempt()).await.unwrap_or(Err(ApiError::Timeout));
            match attempt {
                Ok(Attempt::Held) => {
                    if lead.renewed(sent) {
                        info!(lock = ?self.lock, identity = self.identity, "leading");
                        told = None;
                    }
                }
                Ok(Attempt::HeldByOther { holder, version }) => {
                    if lead.lost() {
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
                    if lead.not_renewed() {
                        warn!("the leader lock was not renewed in time, standing by");
                    }
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Takes the lock if it is free or has expired; renews it if this process holds it.
    async fn attempt(&mut self) -> Result<Attempt, ApiError> {
        let read = self.lock.read().await?;
        let found = read.as_ref().and_then(|read| read.record.clone());
        if let Some(record) = &found {
            self.seen.see(record);
        }
        let mine = found.as_ref().is_some_and(|record| record.holder_identity == self.identity);
        if !mine {
            if let Some(holder) = found.as_ref().and_then(|_| self.seen.holder()) {
                let version = read.as_ref().and_then(|read| read.object.metadata.resource_version.clone());
                return Ok(Attempt::HeldByOther { holder: holder.to_owned(), version });
            }
            if let Some(holder) = self.holder_of_other().await? {
                return Ok(Attempt::HeldByOther { holder, version: None });
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
                Ok(Attempt::HeldByOther { holder: "another one".to_owned(), version: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the holder of the lock of the other kind, if it has one.
    async fn holder_of_other(&mut self) -> Result<Option<String>, ApiError> {
        let Some((lock, seen)) = &mut self.other else { return Ok(None) };
        let Some(record) = lock.read().await?.and_then(|read| read.record) else { return Ok(None) };
        seen.see(&record);
        let age = record.renew_time.map(|renewed| Timestamp::now().duration_since(renewed));
        let holder = seen.holder().filter(|_| age.is_none_or(|age| age < LONG_DEAD));
        Ok(holder.map(|holder| format!("{holder} ({lock:?})")))
    }

    /// Returns the record with which this process holds the lock from now on.
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

    /// Gives the lock back, so that the next leader need not wait for it to expire.
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

/// Returns how long a record counts; one with a duration that makes no sense counts as long as our own.
fn duration_of(record: &Record) -> Duration {
    let duration = SignedDuration::from_secs(i64::from(record.lease_duration_seconds));
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero()).unwrap_or(LEASE_DURATION)
}

#[cfg(test)]
mod tests {
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

    #[tokio::test(start_paused = true)]
    async fn a_leadership_ends_when_it_is_not_renewed_in_time() {
        let (lead, mut leadership) = Leadership::new();
        assert!(!leadership.is_held() && leadership.since().is_none());
        assert!(lead.renewed(Instant::now()) && leadership.is_held());
        let since = leadership.since();
        tokio::time::advance(HELD_FOR / 2).await;
        assert!(!lead.renewed(Instant::now()) && !lead.not_renewed());
        assert_eq!(leadership.since(), since);
        leadership.lost().await;
        assert!(!leadership.is_held());
        assert!(lead.not_renewed() && !lead.not_renewed() && !lead.lost());
        lead.uncontested();
        leadership.held().await;
        assert!(leadership.is_held());
    }
}
