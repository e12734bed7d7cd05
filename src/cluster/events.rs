//! Events: what `kubectl describe` shows a claim's author or an administrator.
//!
//! They are core/v1 events: the RBAC that users of upstream have granted allows no others, which kube's own
//! recorder would write.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Error as KubeError};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::cluster::api::{ApiError, answered};
use crate::model::class::Class;
use crate::model::volume::Volume;
use crate::values::names::ClaimRef;
use crate::values::text::{fnv1a, printable, truncated};

/// The `reason` of an event: the one that upstream gives, where it has such an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A claim is being served.
    Provisioning,
    /// A claim has been served.
    ProvisioningSucceeded,
    /// A claim has been served, but its class does not say clearly what happens to the data when it goes.
    ReclaimUnclear,
    /// A claim could not be served, now or ever.
    ProvisioningFailed,
    /// A claim or a volume waits for an export that does not answer.
    ExportNotAnswering,
    /// A volume could not be reclaimed, now or ever.
    VolumeFailedDelete,
    /// A volume whose claim is gone stays until another claim is a copy of it.
    VolumeWaitsForCopy,
    /// A volume was deleted, but its directory stays: another volume uses it, or no claim had the volume.
    VolumeDirectoryKept,
    /// A volume was deleted, and its directory is kept in the trash for some time.
    VolumeDirectoryTrashed,
    /// A volume was reclaimed, though it was not clear how it should be.
    VolumeReclaimUnclear,
    /// A claim's volume is growing. Kubernetes' own resizers give this reason and the next two.
    Resizing,
    /// A claim's volume has grown.
    VolumeResizeSuccessful,
    /// A claim's volume could not grow, now or ever.
    VolumeResizeFailed,
    /// A claim is being filled with the files of another claim.
    Cloning,
    /// A claim's directory holds more than the claim asks for.
    UsageExceedsRequest,
    /// A claim's directory holds no more than the claim asks for again.
    UsageWithinRequest,
    /// A claim has the data again that was archived or deleted.
    Restored,
    /// An export has little room left, and a class has what is deleted there kept all the same.
    TrashKeptWithLittleRoom,
}

impl Reason {
    /// Returns the `type` of events with this reason.
    fn kind(self) -> &'static str {
        match self {
            Self::Provisioning
            | Self::ProvisioningSucceeded
            | Self::Resizing
            | Self::Cloning
            | Self::VolumeWaitsForCopy
            | Self::VolumeDirectoryTrashed
            | Self::VolumeResizeSuccessful
            | Self::UsageWithinRequest
            | Self::Restored => "Normal",
            Self::ReclaimUnclear
            | Self::ProvisioningFailed
            | Self::ExportNotAnswering
            | Self::VolumeFailedDelete
            | Self::VolumeDirectoryKept
            | Self::VolumeReclaimUnclear
            | Self::VolumeResizeFailed
            | Self::UsageExceedsRequest
            | Self::TrashKeptWithLittleRoom => "Warning",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "Provisioning",
            Self::ProvisioningSucceeded => "ProvisioningSucceeded",
            Self::ReclaimUnclear => "ReclaimUnclear",
            Self::ProvisioningFailed => "ProvisioningFailed",
            Self::ExportNotAnswering => "ExportNotAnswering",
            Self::VolumeFailedDelete => "VolumeFailedDelete",
            Self::VolumeWaitsForCopy => "VolumeWaitsForCopy",
            Self::VolumeDirectoryKept => "VolumeDirectoryKept",
            Self::VolumeDirectoryTrashed => "VolumeDirectoryTrashed",
            Self::VolumeReclaimUnclear => "VolumeReclaimUnclear",
            Self::Resizing => "Resizing",
            Self::VolumeResizeSuccessful => "VolumeResizeSuccessful",
            Self::VolumeResizeFailed => "VolumeResizeFailed",
            Self::Cloning => "Cloning",
            Self::UsageExceedsRequest => "UsageExceedsRequest",
            Self::UsageWithinRequest => "UsageWithinRequest",
            Self::Restored => "Restored",
            Self::TrashKeptWithLittleRoom => "TrashKeptWithLittleRoom",
        }
    }
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    api_version: &'static str,
    kind: &'static str,
    namespace: Option<Box<str>>,
    name: Box<str>,
    uid: Box<str>,
}

impl From<&ClaimRef> for Subject {
    fn from(claim: &ClaimRef) -> Self {
        let (namespace, name, uid) =
            (Some(claim.namespace.clone()), claim.name.clone(), claim.uid.as_str().into());
        Self { api_version: "v1", kind: "PersistentVolumeClaim", namespace, name, uid }
    }
}

impl From<&Class> for Subject {
    fn from(class: &Class) -> Self {
        let (name, uid) = (class.name.as_str().into(), class.uid.clone());
        Self { api_version: "storage.k8s.io/v1", kind: "StorageClass", namespace: None, name, uid }
    }
}

impl From<&Volume> for Subject {
    fn from(volume: &Volume) -> Self {
        Self {
            api_version: "v1",
            kind: "PersistentVolume",
            namespace: None,
            name: volume.name.as_str().into(),
            uid: volume.uid.clone(),
        }
    }
}

/// The longest message that the API server takes, in bytes.
const MESSAGE_MAX: usize = 1024;

/// How many events may wait to be written. With so many waiting, the oldest makes room for one more.
const WAITING_MAX: usize = 1024;

/// How long after the last time it is said again that events were dropped.
const DROPPED_AGAIN: Duration = Duration::from_mins(1);

/// How long something is under way before its start is worth an event: see [`Recorder::record_start`].
const SLOW: Duration = Duration::from_secs(1);

/// How many requests for events are under way at a time.
const WRITERS: usize = 4;

/// How long after the last time the same event is written again, and not before.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

/// How long to wait between tries to write an event.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// How many different events are remembered, to recognise a repeat.
const REMEMBERED_MAX: usize = 4096;

/// An event that is to be written.
#[derive(Debug)]
struct Note {
    subject: Subject,
    reason: Reason,
    message: String,
}

/// Something that is under way: it has ended when this is dropped.
#[derive(Debug)]
pub struct UnderWay(AbortHandle);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes events and has them written in the background.
///
/// Guarantees: the same event about the same object is one Event object, whose count and time are brought up to
/// date at most once a minute; an event that cannot be written is logged and forgotten; and no event holds up who
/// records it, even if the API server takes none: then the oldest ones are dropped, and that is logged.
#[derive(Debug, Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    /// The other end of `notes`, shared with those who write.
    waiting: Arc<Waiting>,
    dropped: Arc<Mutex<Dropped>>,
}

/// The events that wait to be written.
type Waiting = tokio::sync::Mutex<mpsc::Receiver<Note>>;

/// The events that have been dropped since that was said last.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    said: Option<Instant>,
}

impl Recorder {
    /// `component` is what events name as their source. The future writes the events; it ends when the last
    /// recorder has gone and everything is written.
    pub fn new(client: Client, component: String) -> (Self, impl Future<Output = ()>) {
        let (notes, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(Waiting::new(waiting));
        let written = Arc::clone(&waiting);
        let writer = Arc::new(Writer { client, component, sent: Mutex::default() });
        let run = async move {
            let writers = (0..WRITERS).map(|_| write_all(Arc::clone(&writer), Arc::clone(&written)));
            futures::future::join_all(writers).await;
        };
        (Self { notes, waiting, dropped: Arc::default() }, run)
    }

    /// Records an event. If very many are waiting, the oldest goes: the newer ones tell more of how it stands by the time
    /// that they can be written.
    pub fn record(&self, subject: impl Into<Subject>, reason: Reason, message: &str) {
        let note = Note { subject: subject.into(), reason, message: shown(message) };
        // It fails otherwise only when the program ends.
        let Err(TrySendError::Full(note)) = self.notes.try_send(note) else { return };
        // Who waits for events holds that lock; but nobody waits for any while there are so many.
        let oldest = self.waiting.try_lock().ok().and_then(|mut waiting| waiting.try_recv().ok());
        let lost = u64::from(oldest.is_some()) + u64::from(self.notes.try_send(note).is_err());
        self.dropped.lock().add(lost);
    }

    /// Records the start of something that is under way until the returned value is dropped, once it has been so for a
    /// second. The start of what is quick is not worth an event: that of the end says all, and in a burst each request is
    /// one less for all that wait.
    #[must_use]
    pub fn record_start(&self, subject: impl Into<Subject>, reason: Reason, message: String) -> UnderWay {
        let (subject, notes) = (subject.into(), self.notes.downgrade());
        let (waiting, dropped) = (Arc::clone(&self.waiting), Arc::clone(&self.dropped));
        let say = async move {
            sleep(SLOW).await;
            // Else the program ends.
            if let Some(notes) = notes.upgrade() {
                Self { notes, waiting, dropped }.record(subject, reason, &message);
            }
        };
        UnderWay(tokio::spawn(say).abort_handle())
    }
}

impl Dropped {
    /// Counts events that were dropped, and says so from time to time.
    fn add(&mut self, lost: u64) {
        self.count += lost;
        if self.count > 0 && self.said.is_none_or(|said| said.elapsed() >= DROPPED_AGAIN) {
            warn!(events = self.count, "dropped events, because the API server does not take them fast enough");
            *self = Self { count: 0, said: Some(Instant::now()) };
        }
    }
}

/// Returns the message as it can be written: what a tenant put into it cannot break lines, and it is short enough.
fn shown(message: &str) -> String {
    let message = printable(message);
    if message.len() <= MESSAGE_MAX {
        return message;
    }
    format!("{}…", truncated(&message, MESSAGE_MAX - '…'.len_utf8()))
}

async fn write_all(writer: Arc<Writer>, waiting: Arc<Waiting>) {
    loop {
        let next = waiting.lock().await.recv().await;
        let Some(note) = next else { return };
        if let Err(error) = writer.write_surely(&note).await {
            warn!(reason = note.reason.as_str(), object = &*note.subject.name, %error, "failed to write an event");
        }
    }
}

struct Writer {
    client: Client,
    component: String,
    sent: Mutex<HashMap<u64, Sent>>,
}

/// When an event was last written, and how often it has happened.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    count: i32,
}

/// The request that writes an event.
enum Write {
    Create,
    Update { count: i32 },
    Nothing,
}

impl Writer {
    /// Writes an event, and tries again while the API server gives no answer, or forbids it: an API server that
    /// has just been started forbids everything until it knows the roles.
    async fn write_surely(&self, note: &Note) -> Result<(), ApiError> {
        for pause in PAUSES {
            match self.write(note).await {
                Err(error) if !error.is_refusal() || error.is_forbidden() => {
                    debug!(%error, "will try the event again");
                }
                result => return result,
            }
            self.sent.lock().remove(&key(note));
            sleep(pause).await;
        }
        self.write(note).await
    }

    async fn write(&self, note: &Note) -> Result<(), ApiError> {
        let key = key(note);
        let namespace = note.subject.namespace.as_deref().unwrap_or("default");
        let name = name(note);
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        match self.due(key, Instant::now()) {
            Write::Nothing => Ok(()),
            Write::Create => {
                match answered(events.create(&PostParams::default(), &self.event(note, &name))).await {
                    // Written before this process was started.
                    Err(ApiError::Kube(KubeError::Api(status))) if status.is_already_exists() => {
                        self.touch(&events, &name, None).await
                    }
                    // Nobody is left to read it.
                    Err(ApiError::Kube(KubeError::Api(status)))
                        if status.is_not_found() || status.message.contains("being terminated") =>
                    {
                        debug!(namespace, name, "not written: the namespace has gone");
                        Ok(())
                    }
                    result => result.map(drop),
                }
            }
            Write::Update { count } => match self.touch(&events, &name, Some(count)).await {
                // The API server keeps events for an hour only.
                Err(ApiError::Kube(KubeError::Api(status))) if status.is_not_found() => {
                    let event = self.event(note, &name);
                    answered(events.create(&PostParams::default(), &event)).await.map(drop)
                }
                result => result,
            },
        }
    }

    /// Returns whether an event is to be created, to be brought up to date, or was written only just now.
    fn due(&self, key: u64, now: Instant) -> Write {
        let mut sent = self.sent.lock();
        if sent.len() >= REMEMBERED_MAX && !sent.contains_key(&key) {
            // The older half goes. Should one of those come back, its object is found by its name.
            let mut times: Vec<Instant> = sent.values().map(|sent| sent.at).collect();
            times.sort_unstable();
            let middle = times.get(times.len() / 2).copied().unwrap_or(now);
            sent.retain(|_, sent| sent.at > middle);
        }
        match sent.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Sent { at: now, count: 1 });
                Write::Create
            }
            Entry::Occupied(mut entry) => {
                let Sent { at, count } = *entry.get();
                let write = now.duration_since(at) >= REPEAT_AFTER;
                entry.insert(Sent { at: if write { now } else { at }, count: count.saturating_add(1) });
                if write { Write::Update { count: count.saturating_add(1) } } else { Write::Nothing }
            }
        }
    }

    /// Brings an Event object's time and, if given, its count up to date.
    async fn touch(&self, events: &Api<Event>, name: &str, count: Option<i32>) -> Result<(), ApiError> {
        let mut patch = json!({ "lastTimestamp": Time(jiff::Timestamp::now()) });
        if let (Some(count), Some(fields)) = (count, patch.as_object_mut()) {
            fields.insert("count".to_owned(), count.into());
        }
        answered(events.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }

    fn event(&self, note: &Note, name: &str) -> Event {
        let Note { subject, reason, message, .. } = note;
        let now = Some(Time(jiff::Timestamp::now()));
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(subject.namespace.as_deref().unwrap_or("default").to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(subject.api_version.to_owned()),
                kind: Some(subject.kind.to_owned()),
                namespace: subject.namespace.as_deref().map(ToOwned::to_owned),
                name: Some(subject.name.to_string()),
                uid: Some(subject.uid.to_string()),
                ..ObjectReference::default()
            },
            type_: Some(reason.kind().to_owned()),
            reason: Some(reason.as_str().to_owned()),
            message: Some(message.clone()),
            source: Some(EventSource { component: Some(self.component.clone()), host: None }),
            count: Some(1),
            first_timestamp: now.clone(),
            last_timestamp: now,
            ..Event::default()
        }
    }
}

/// Returns what tells events apart: a hash of all that they say.
///
/// It is part of the name of the Event object, so that a provisioner that was restarted, or built by another
/// compiler, finds it again: std's hasher may change with the compiler.
fn key(note: &Note) -> u64 {
    let Subject { kind, namespace, name, uid, .. } = &note.subject;
    let namespace = namespace.as_deref().unwrap_or_default();
    // No name and no reason has a control character, and no message has one any more.
    fnv1a([*kind, namespace, name, uid, note.reason.as_str(), &note.message].join("\n").as_bytes())
}

/// Returns the name of the Event object for an event.
fn name(note: &Note) -> String {
    format!("{}.{:016x}", note.subject.name, key(note))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::{BodyExt, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use serde_json::Value;
    use tokio::time::timeout;

    use super::*;

    const OURS: &str = "example.com/nfs";

    fn note(reason: Reason, message: &str) -> Note {
        let (namespace, name, uid) = (Some("team".into()), "data".into(), "1-2".into());
        let subject = Subject { api_version: "v1", kind: "PersistentVolumeClaim", namespace, name, uid };
        Note { subject, reason, message: shown(message) }
    }

    #[test]
    fn an_event_has_the_same_name_after_a_restart_and_an_update() {
        let failed = note(Reason::ProvisioningFailed, "no such class");
        assert_eq!(name(&failed), "data.846efc3bc333c3e3");
        let other_reason = note(Reason::Provisioning, "no such class");
        let other_message = note(Reason::ProvisioningFailed, "no such class!");
        let volume = Subject { kind: "PersistentVolume", ..failed.subject.clone() };
        let other_subject = Note { subject: volume, ..note(Reason::ProvisioningFailed, "no such class") };
        for other in [other_reason, other_message, other_subject] {
            assert_ne!(name(&other), name(&failed));
        }
    }

    #[test]
    fn messages_are_one_line_that_the_api_server_takes() {
        assert_eq!(shown("a\nb\u{1b}[1m"), "a\u{fffd}b\u{fffd}[1m");
        let longest = "é".repeat(MESSAGE_MAX / 2);
        assert_eq!(shown(&longest), longest);
        let cut = shown(&format!("{longest}x"));
        assert!(cut.len() <= MESSAGE_MAX && cut.ends_with("é…"), "{}", cut.len());
    }

    /// Starts an API server that takes events only while `is_well` is true, and fails otherwise. Returns a client, and
    /// the messages of those that it has taken.
    async fn api_server(is_well: Arc<AtomicBool>) -> (Client, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::<Mutex<Vec<String>>>::default();
        let all = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (is_well, all) = (Arc::clone(&is_well), Arc::clone(&all));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (is_well, all) = (Arc::clone(&is_well), Arc::clone(&all));
                    async move {
                        let sent = request.into_body().collect().await.unwrap().to_bytes();
                        let (code, answer) = if is_well.load(Ordering::Relaxed) {
                            let event: Value = serde_json::from_slice(&sent).unwrap();
                            all.lock().push(event["message"].as_str().unwrap().to_owned());
                            (201, event)
                        } else {
                            (500, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500}))
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
        (Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap(), taken)
    }

    #[tokio::test]
    async fn the_start_of_what_is_quick_is_not_worth_an_event() {
        let (client, taken) = api_server(Arc::new(AtomicBool::new(true))).await;
        let (recorder, run) = Recorder::new(client, OURS.to_owned());
        let run = tokio::spawn(run);
        let subject = note(Reason::Provisioning, "").subject;
        let start =
            |message: &str| recorder.record_start(subject.clone(), Reason::Provisioning, message.to_owned());
        let (quick, slow) = (start("quick"), start("slow"));
        sleep(SLOW / 2).await;
        drop(quick);
        sleep(SLOW).await;
        drop(slow);
        let _never = start("when the program ends");
        drop(recorder);
        timeout(SLOW / 2, run).await.unwrap().unwrap();
        assert_eq!(*taken.lock(), ["slow"]);
    }

    #[tokio::test]
    async fn events_that_the_api_server_does_not_take_hold_nobody_up_and_the_newest_are_kept() {
        const MANY: usize = WAITING_MAX * 3;
        let is_well = Arc::new(AtomicBool::new(false));
        let (client, taken) = api_server(Arc::clone(&is_well)).await;
        let (recorder, run) = Recorder::new(client, OURS.to_owned());
        let run = tokio::spawn(run);
        let subject = note(Reason::Provisioning, "").subject;
        let recording = async {
            for number in 0..MANY {
                recorder.record(subject.clone(), Reason::ProvisioningFailed, &format!("event {number}"));
                // Those who write get their turn, too.
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), recording).await.unwrap();
        is_well.store(true, Ordering::Relaxed);
        drop(recorder);
        timeout(Duration::from_mins(1), run).await.unwrap().unwrap();
        let taken = taken.lock();
        assert!(taken.contains(&format!("event {}", MANY - 1)), "the newest is written");
        let (all, most) = (WAITING_MAX - WRITERS..=WAITING_MAX + WRITERS, MANY - WAITING_MAX - WRITERS);
        assert!(all.contains(&taken.len()), "{} were written", taken.len());
        // The first few were being tried when the others came.
        let old = taken.iter().filter(|message| {
            message
                .strip_prefix("event ")
                .and_then(|number| number.parse::<usize>().ok())
                .is_some_and(|n| n < most)
        });
        assert!(old.count() <= WRITERS, "the oldest are dropped");
    }
}
