//! Leader election: of several provisioners with one name, one works.
//!
//! The lock is a Lease, or, where Leases are forbidden, an annotation on an Endpoints object, as upstream has it:
//! under upstream's RBAC the two programs exclude each other. The algorithm is client-go's: a holder renews the
//! record every few seconds, and a candidate that sees it unchanged for the lease's duration may take it. A
//! process compares times with its own clock only.
//!
//! The lock of the other kind is respected: no candidate begins to lead while that one has a holder that is alive,
//! so that upstream and this program can be exchanged for each other while both run. As upstream never looks at a
//! Lease, a leader by a Lease goes on looking at the Endpoints, and stands by as soon as somebody leads by those. A
//! leader by the Endpoints does not look at the Lease: so of two that took both at the same time one goes on.
//!
//! The lock is advisory: it keeps two from working side by side, it does not make it safe. What makes it safe is
//! that every step may run twice, and that a change of files begins only while [`Leadership::is_held`].
//!
//! It is written by hand because no library has both kinds of lock, or respects another one than its own.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Error as KubeError;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::cluster::api::ApiError;
use crate::cluster::lock::{Lock, LockKind, Record};
use crate::values::time::BootTime;

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

/// How long the lock is kept at the end for changes of directories that are under way, before it is left to expire.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// How often to look whether they have ended.
const QUIET_LOOK: Duration = Duration::from_millis(20);

/// Whether this process leads, for all that asks or waits for it. Clones share it.
#[derive(Debug, Clone)]
pub struct Leadership {
    held: watch::Receiver<Option<Held>>,
    trouble: Trouble,
}

/// The other end of a [`Leadership`]: tells it whether this process leads.
#[derive(Debug)]
pub struct Lead {
    held: watch::Sender<Option<Held>>,
    trouble: Trouble,
}

/// What keeps this process from taking part in the election, in words.
type Trouble = Arc<Mutex<Option<String>>>;

/// A leadership that is held: since when, and until when at the least.
#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    until: Moment,
}

/// A moment by two clocks: the one that timers go by, and one that goes on while the machine is suspended. Whichever
/// is ahead counts.
#[derive(Debug, Clone, Copy)]
struct Moment {
    timer: Instant,
    boot: BootTime,
}

impl Moment {
    fn now() -> Self {
        Self { timer: Instant::now(), boot: BootTime::now() }
    }

    fn plus(self, duration: Duration) -> Self {
        Self { timer: self.timer + duration, boot: self.boot + duration }
    }

    fn has_passed(&self) -> bool {
        Instant::now() >= self.timer || BootTime::now() >= self.boot
    }
}

impl Leadership {
    /// Makes a leadership that is not held yet, and what tells it otherwise: [`elect`], or [`Lead::uncontested`].
    #[must_use]
    pub fn new() -> (Lead, Self) {
        let (lead, held) = watch::channel(None);
        let trouble = Trouble::default();
        (Lead { held: lead, trouble: Arc::clone(&trouble) }, Self { held, trouble })
    }

    /// Returns whether this process leads at this moment. Asked before each step that destroys something.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.borrow().is_some_and(|held| !held.until.has_passed())
    }

    /// Returns since when this process leads without a break, if it does. Whatever another one can have done before it
    /// has ended by then.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.held.borrow().map(|held| held.since)
    }

    /// Returns what keeps this process from leading and from taking over, if anything does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone().filter(|_| !self.is_held())
    }

    /// Waits until this process does not lead, or has not for a while since the call.
    pub async fn lost(&mut self) {
        let mut since = None;
        loop {
            let Some(held) = *self.held.borrow_and_update() else { return };
            if *since.get_or_insert(held.since) != held.since || held.until.has_passed() {
                return;
            }
            tokio::select! {
                () = sleep_until(held.until.timer) => return,
                changed = self.held.changed() => if changed.is_err() {
                    // The election has ended with the program, or there is none.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Waits until this process leads.
    pub async fn held(&mut self) {
        while !self.is_held() {
            if self.held.changed().await.is_err() {
                // The election has ended with the program.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Lead {
    /// Leads from now on, for as long as the program runs: there is no election.
    pub fn uncontested(self) {
        let now = Moment::now();
        // A year; the value stays when the sender goes.
        let until = now.plus(Duration::from_hours(365 * 24));
        self.held.send_replace(Some(Held { since: now.timer, until }));
    }

    /// Notes what keeps this process from taking part in the election, in words; `None` if nothing does.
    pub(super) fn in_trouble(&self, words: Option<String>) {
        *self.trouble.lock() = words;
    }

    /// Notes that the lock was taken, or renewed if `goes_on`, by a request that was sent at this time. Returns
    /// whether this process begins to lead by that: also if it led before, but not until just now, so that another one
    /// can have led meanwhile.
    fn renewed(&self, sent: Moment, goes_on: bool) -> bool {
        let before = *self.held.borrow();
        let kept = before.filter(|held| goes_on && !held.until.has_passed());
        let since = kept.map_or_else(Instant::now, |held| held.since);
        self.held.send_replace(Some(Held { since, until: sent.plus(HELD_FOR) }));
        kept.is_none()
    }

    /// Notes that the lock is another one's, or given back. Returns whether that is new.
    fn lost(&self) -> bool {
        self.held.send_replace(None).is_some()
    }

    /// Notes that the lock could not be renewed. Returns whether this process led until it could not any more.
    fn not_renewed(&self) -> bool {
        let over = self.held.borrow().is_some_and(|held| held.until.has_passed());
        over && self.lost()
    }
}

/// Takes part in the election for `lock`, and tells `lead` how it goes, until `stop` ends; then gives the lock
/// back if this process holds it. Does not begin to lead while `other`, if that may be read, has a holder.
///
/// The lock is given back only when `is_quiet` says that no change of a directory is under way any more: one that is
/// carried out later would meet what the next leader has done. Else it is left to expire.
pub async fn elect(
    lead: Lead,
    lock: Lock,
    other: Option<Lock>,
    identity: String,
    is_quiet: impl Fn() -> bool,
    stop: impl Future<Output = ()>,
) {
    let other = other.map(|lock| (lock, Seen::default()));
    let mut candidate = Candidate { lock, other, identity, seen: Seen::default(), term: None };
    tokio::select! {
        () = candidate.run(&lead) => {}
        () = stop => {}
    }
    // From here on no change begins.
    if !lead.lost() {
        return;
    }
    let quiet = async {
        while !is_quiet() {
            sleep(QUIET_LOOK).await;
        }
    };
    if timeout(QUIET_MAX, quiet).await.is_err() {
        warn!(
            lock = ?candidate.lock,
            "an export has not answered whether directories have been changed: the leader lock is left to expire"
        );
        return;
    }
    if let Err(error) = candidate.release().await {
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
    /// The number of the last record with which this process took or renewed the lock.
    term: Option<i32>,
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
    Held {
        /// Whether the record was still our own, so that nobody else has held the lock since the last time.
        goes_on: bool,
    },
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
            let sent = Moment::now();
            // A try that takes longer than the lease is worth would be of no use.
            let attempt = timeout(HELD_FOR, self.attempt()).await.unwrap_or(Err(ApiError::Timeout));
            if attempt.is_ok() {
                lead.in_trouble(None);
            }
            match attempt {
                Ok(Attempt::Held { goes_on }) => {
                    if lead.renewed(sent, goes_on) {
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
                    lead.in_trouble(Some(format!(
                        "failed to take or renew the leader lock {:?}: {error}",
                        self.lock
                    )));
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
        } else if self.lock.kind() == LockKind::Lease
            && let Some(holder) = self.holder_beside().await
        {
            // The lease is not renewed any more, and expires.
            return Ok(Attempt::HeldByOther { holder, version: None });
        }
        let record = self.next_record(found.as_ref(), mine);
        match self.lock.write(&record, read).await {
            Ok(()) => {
                self.seen.see(&record);
                let term = Some(record.leader_transitions);
                let goes_on = mine && self.term == term;
                self.term = term;
                Ok(Attempt::Held { goes_on })
            }
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                debug!("another one was faster");
                Ok(Attempt::HeldByOther { holder: "another one".to_owned(), version: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the holder of the lock of the other kind, if one is seen while this process leads. If that lock cannot
    /// be read, nothing is seen, and this process goes on leading.
    async fn holder_beside(&mut self) -> Option<String> {
        match timeout(RETRY, self.holder_of_other()).await {
            Ok(Ok(holder)) => holder,
            Ok(Err(error)) => {
                debug!(%error, "failed to read the leader lock of the other kind");
                None
            }
            Err(_) => None,
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
                let other = Some(lock(kind.other()));
                let election = elect(lead, lock(kind), other, name.to_owned(), || true, stopped);
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
        assert!(lead.renewed(Moment::now(), false) && leadership.is_held());
        let since = leadership.since();
        tokio::time::advance(HELD_FOR / 2).await;
        assert!(!lead.renewed(Moment::now(), true) && !lead.not_renewed());
        assert_eq!(leadership.since(), since);
        leadership.lost().await;
        assert!(!leadership.is_held());
        assert!(lead.not_renewed() && !lead.not_renewed() && !lead.lost());
        lead.uncontested();
        leadership.held().await;
        assert!(leadership.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn who_led_with_a_break_leads_anew() {
        type Break = fn(&Lead) -> bool;
        let rows: [(&str, Break, bool); 5] = [
            ("renewed in time", |lead| lead.renewed(Moment::now(), true), false),
            ("somebody else had it meanwhile", |lead| lead.renewed(Moment::now(), false), true),
            ("not renewed for too long", |lead| lead.renewed(Moment::now(), true), true),
            ("lost in between", |lead| lead.lost() && lead.renewed(Moment::now(), true), true),
            ("the machine was suspended", |lead| lead.renewed(Moment::now(), true), true),
        ];
        for (name, renew, is_new) in rows {
            let (lead, mut leadership) = Leadership::new();
            lead.renewed(Moment::now(), false);
            let since = leadership.since().unwrap();
            let mut other = leadership.clone();
            let lost = tokio::spawn(async move { other.lost().await });
            tokio::task::yield_now().await;
            match name {
                "not renewed for too long" => tokio::time::advance(HELD_FOR).await,
                // Only one of the clocks has gone on by more than a moment.
                "the machine was suspended" => {
                    tokio::time::advance(Duration::from_millis(1)).await;
                    lead.held.send_modify(|held| held.as_mut().unwrap().until.boot = BootTime::now());
                }
                _ => tokio::time::advance(HELD_FOR / 2).await,
            }
            let is_over = name.contains("too long") || name.contains("suspended");
            assert_eq!(leadership.is_held(), !is_over, "{name}");
            if is_over {
                leadership.lost().await;
            }
            assert_eq!(renew(&lead), is_new, "{name}");
            assert!(leadership.is_held(), "{name}");
            assert_eq!(leadership.since() != Some(since), is_new, "{name}");
            // Whoever waited for the end of the leadership learns of the break.
            tokio::task::yield_now().await;
            assert_eq!(lost.is_finished(), is_new, "{name}");
            lost.abort();
        }
    }

    /// Waits a little longer than it takes to try again.
    async fn soon(what: &str, is_so: impl Fn() -> bool) {
        let waited = timeout(RETRY * 4, async {
            while !is_so() {
                sleep(QUIET_LOOK).await;
            }
        });
        assert!(waited.await.is_ok(), "waited in vain for {what}");
    }

    /// A candidate, and what stops it.
    fn candidate(
        lock: Lock,
        other: Option<Lock>,
        name: &str,
        is_quiet: bool,
    ) -> (Leadership, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let ((lead, leadership), (stop, stopped)) = (Leadership::new(), tokio::sync::oneshot::channel::<()>());
        let stopped = async { drop(stopped.await) };
        (leadership, stop, tokio::spawn(elect(lead, lock, other, name.to_owned(), move || is_quiet, stopped)))
    }

    #[tokio::test]
    async fn a_lock_that_somebody_else_had_meanwhile_is_led_by_anew() {
        let client = api_server(Arc::default()).await;
        let lock = Lock::new(client, LockKind::Lease, "team", "example.com/nfs");
        let (mut leadership, _stop, _) = candidate(lock.clone(), None, "first", true);
        leadership.held().await;
        let since = leadership.since();
        // Somebody takes it and gives it back before it is renewed, as when this process was paused.
        let read = lock.read().await.unwrap().unwrap();
        let record = read.record.clone().unwrap();
        let transitions = record.leader_transitions + 1;
        let given_back = Record { holder_identity: String::new(), leader_transitions: transitions, ..record };
        lock.write(&given_back, Some(read)).await.unwrap();
        soon("a new reign", || leadership.is_held() && leadership.since() != since).await;
        // And goes on with that.
        let (since, renewed) = (leadership.since(), lock.read().await.unwrap().unwrap().record.unwrap());
        sleep(RETRY * 2).await;
        assert_ne!(lock.read().await.unwrap().unwrap().record.unwrap().renew_time, renewed.renew_time);
        assert_eq!(leadership.since(), since);
    }

    #[tokio::test]
    async fn a_lock_is_not_given_back_while_changes_are_under_way() {
        for (is_quiet, expected) in [(false, "first"), (true, "")] {
            let client = api_server(Arc::default()).await;
            let lock = Lock::new(client, LockKind::Lease, "team", "example.com/nfs");
            let (mut leadership, stop, ends) = candidate(lock.clone(), None, "first", is_quiet);
            leadership.held().await;
            stop.send(()).unwrap();
            ends.await.unwrap();
            assert!(!leadership.is_held());
            assert_eq!(lock.read().await.unwrap().unwrap().record.unwrap().holder_identity, expected);
        }
    }

    #[tokio::test]
    async fn of_two_that_hold_both_locks_the_one_by_the_endpoints_goes_on() {
        let client = api_server(Arc::default()).await;
        let lock = |kind| Lock::new(client.clone(), kind, "team", "example.com/nfs");
        let holders = [(LockKind::Lease, "first"), (LockKind::Endpoints, "second")];
        for (kind, holder) in holders {
            let record = Record {
                holder_identity: holder.to_owned(),
                lease_duration_seconds: 15,
                acquire_time: Some(Timestamp::now()),
                renew_time: Some(Timestamp::now()),
                leader_transitions: 0,
            };
            lock(kind).write(&record, None).await.unwrap();
        }
        let [first, second] =
            holders.map(|(kind, holder)| candidate(lock(kind), Some(lock(kind.other())), holder, true));
        for _ in 0..20 {
            sleep(RETRY / 8).await;
            assert!(!first.0.is_held());
        }
        assert!(second.0.is_held());
    }
}
