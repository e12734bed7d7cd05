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

use jiff::{SignedDuration, Timestamp};
use kube::Error as KubeError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::cluster::api::ApiError;
use crate::cluster::lock::{Lock, Record};

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
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper::{Method, Request, Response};
    use hyper_util::rt::TokioIo;
    use kube::Client;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::lock::LockKind;

    /// The objects of an API server, by path, and what it was asked for.
    #[derive(Default)]
    struct Objects {
        by_path: BTreeMap<String, Value>,
        asked: Vec<String>,
        versions: u64,
    }

    impl Objects {
        /// Answers as the API server does: creates what is not there, and replaces only the version that was read.
        fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> Result<Value, (u16, &'static str)> {
            let sent: Value = serde_json::from_slice(body).unwrap_or_default();
            let name = sent["metadata"]["name"].as_str().unwrap_or_default();
            let place = if *method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
            self.asked.push(format!("{method} {place}"));
            let there = self.by_path.get(&place);
            match *method {
                Method::GET => return there.cloned().ok_or((404, "NotFound")),
                Method::POST if there.is_some() => return Err((409, "AlreadyExists")),
                Method::PUT if there.is_none_or(|there| !has_version_of(&sent, there)) => {
                    return Err((409, "Conflict"));
                }
                _ => {}
            }
            self.versions += 1;
            let mut object = sent;
            object["metadata"]["resourceVersion"] = json!(self.versions.to_string());
            self.by_path.insert(place, object.clone());
            Ok(object)
        }
    }

    fn has_version_of(sent: &Value, there: &Value) -> bool {
        sent["metadata"]["resourceVersion"] == there["metadata"]["resourceVersion"]
    }

    /// Starts an API server that has leases and endpoints, and cannot be watched.
    async fn api_server(objects: Arc<Mutex<Objects>>) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let objects = Arc::clone(&objects);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let objects = Arc::clone(&objects);
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let (code, answer) = match objects.lock().answer(&parts.method, parts.uri.path(), &body) {
                            Ok(object) => (200, object),
                            Err((code, reason)) => {
                                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure"});
                                let mut status = status;
                                status["code"] = json!(code);
                                status["reason"] = json!(reason);
                                (code, status)
                            }
                        };
                        let body = Full::new(Bytes::from(answer.to_string()));
                        Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
                );
            }
        });
        Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn one_leads_by_either_kind_of_lock_and_the_next_one_once_it_is_given_back() {
        for kind in [LockKind::Lease, LockKind::Endpoints] {
            let objects = Arc::<Mutex<Objects>>::default();
            let client = api_server(Arc::clone(&objects)).await;
            let lock = |kind| Lock::new(client.clone(), kind, "team", "example.com/nfs");
            let candidate = |name: &str| {
                let ((lead, leadership), (stop, stopped)) =
                    (Leadership::new(), tokio::sync::oneshot::channel::<()>());
                let stopped = async { drop(stopped.await) };
                let election = elect(lead, lock(kind), Some(lock(kind.other())), name.to_owned(), stopped);
                (leadership, stop, tokio::spawn(election))
            };
            let (mut first, stop_first, first_ends) = candidate("first");
            first.held().await;
            let (mut second, _stop_second, _) = candidate("second");
            sleep(Duration::from_millis(200)).await;
            assert!(first.is_held() && !second.is_held());
            stop_first.send(()).unwrap();
            first_ends.await.unwrap();
            assert!(!first.is_held());
            timeout(RETRY * 2, second.held()).await.unwrap();

            let place = match kind {
                LockKind::Lease => "/apis/coordination.k8s.io/v1/namespaces/team/leases/example.com-nfs",
                LockKind::Endpoints => "/api/v1/namespaces/team/endpoints/example.com-nfs",
            };
            let record = lock(kind).read().await.unwrap().unwrap().record.unwrap();
            assert_eq!((&*record.holder_identity, record.leader_transitions), ("second", 1));
            assert!(objects.lock().asked.contains(&format!("POST {place}")), "{:?}", objects.lock().asked);
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
