//! Events: what `kubectl describe` shows a claim's author or an admin.
//!
//! They are core/v1 events, which is all that the RBAC of the peer's users allows to write.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Error as KubeError};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::cluster::api::{ApiError, answered};
use crate::model::volume::Volume;
use crate::values::names::ClaimRef;

/// Why an event is written: its `reason`. The peer's where it has one (behaviour 1.23–1.26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A claim is being served.
    Provisioning,
    /// A claim has been served.
    ProvisioningSucceeded,
    /// A claim could not be served, now or at all.
    ProvisioningFailed,
    /// A claim or a volume waits for an export that does not answer.
    ExportNotAnswering,
    /// A volume could not be reclaimed, now or at all.
    VolumeFailedDelete,
    /// A volume was deleted, but its directory stays, because others have a part in it.
    VolumeDirectoryKept,
    /// A volume was reclaimed, though it was not clear how it should be.
    VolumeReclaimUnclear,
    /// A claim's volume is growing. This and the next two are those of Kubernetes' own resizers.
    Resizing,
    /// A claim's volume has grown.
    VolumeResizeSuccessful,
    /// A claim's volume could not grow, now or at all.
    VolumeResizeFailed,
    /// The files of another claim are being copied for a claim.
    Cloning,
    /// A claim's directory holds more than the claim asks for.
    UsageExceedsRequest,
    /// It does not any more.
    UsageWithinRequest,
}

impl Reason {
    fn kind(self) -> &'static str {
        match self {
            Self::Provisioning
            | Self::ProvisioningSucceeded
            | Self::Resizing
            | Self::Cloning
            | Self::VolumeResizeSuccessful
            | Self::UsageWithinRequest => "Normal",
            Self::ProvisioningFailed
            | Self::ExportNotAnswering
            | Self::VolumeFailedDelete
            | Self::VolumeDirectoryKept
            | Self::VolumeReclaimUnclear
            | Self::VolumeResizeFailed
            | Self::UsageExceedsRequest => "Warning",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "Provisioning",
            Self::ProvisioningSucceeded => "ProvisioningSucceeded",
            Self::ProvisioningFailed => "ProvisioningFailed",
            Self::ExportNotAnswering => "ExportNotAnswering",
            Self::VolumeFailedDelete => "VolumeFailedDelete",
            Self::VolumeDirectoryKept => "VolumeDirectoryKept",
            Self::VolumeReclaimUnclear => "VolumeReclaimUnclear",
            Self::Resizing => "Resizing",
            Self::VolumeResizeSuccessful => "VolumeResizeSuccessful",
            Self::VolumeResizeFailed => "VolumeResizeFailed",
            Self::Cloning => "Cloning",
            Self::UsageExceedsRequest => "UsageExceedsRequest",
            Self::UsageWithinRequest => "UsageWithinRequest",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    kind: &'static str,
    namespace: Option<Box<str>>,
    name: Box<str>,
    uid: Box<str>,
}

impl From<&ClaimRef> for Subject {
    fn from(claim: &ClaimRef) -> Self {
        let (namespace, name, uid) =
            (Some(claim.namespace.clone()), claim.name.clone(), claim.uid.as_str().into());
        Self { kind: "PersistentVolumeClaim", namespace, name, uid }
    }
}

impl From<&Volume> for Subject {
    fn from(volume: &Volume) -> Self {
        Self {
            kind: "PersistentVolume",
            namespace: None,
            name: volume.name.as_str().into(),
            uid: volume.uid.clone(),
        }
    }
}

/// The longest message that the API server takes, in bytes.
const MESSAGE_MAX: usize = 1024;

/// How many events may wait to be written. Beyond that whoever has one more waits.
const WAITING_MAX: usize = 1024;

/// With this many waiting, what has been overtaken is not written any more: see [`Recorder::record_start`].
const CROWD: usize = 64;

/// How many requests for events are under way at a time.
const WRITERS: usize = 4;

/// The same event again is written this long after the last time, and not before.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

/// How long to wait between tries to write an event.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

/// How many different events are remembered, so as to recognise a repeat.
const REMEMBERED_MAX: usize = 4096;

#[derive(Debug)]
struct Note {
    subject: Subject,
    reason: Reason,
    message: String,
    /// For the start of something: goes when that has ended.
    under_way: Option<Weak<()>>,
}

impl Note {
    fn is_overtaken(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.strong_count() == 0)
    }
}

/// Takes events and has them written in the background.
///
/// Guarantees: the same event about the same object is one Event object, whose count and time are brought up to
/// date at most once a minute; an event that cannot be written is logged and forgotten, and holds nothing up
/// for longer than the API server takes to answer.
#[derive(Debug, Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

impl Recorder {
    /// `component` is what events name as their source. The future writes the events; it ends when the last
    /// recorder has gone and everything is written.
    pub fn new(client: Client, component: String) -> (Self, impl Future<Output = ()>) {
        let (notes, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        let writer = Arc::new(Writer { client, component, sent: Mutex::default() });
        let run = async move {
            let writers = (0..WRITERS).map(|_| write_all(Arc::clone(&writer), Arc::clone(&waiting)));
            futures::future::join_all(writers).await;
        };
        (Self { notes }, run)
    }

    /// Records an event. Waits only if very many are waiting already.
    pub async fn record(&self, subject: impl Into<Subject>, reason: Reason, message: String) {
        self.send(Note { subject: subject.into(), reason, message: shown(&message), under_way: None }).await;
    }

    /// As [`Recorder::record`], for the start of something that is under way as long as the returned value is there. If
    /// it has ended before its turn comes, and very many are waiting, then the start is not written: how it ended says
    /// more, and in a burst each request is one less for those who wait.
    pub async fn record_start(&self, subject: impl Into<Subject>, reason: Reason, message: String) -> Arc<()> {
        let under_way = Arc::new(());
        let (subject, message) = (subject.into(), shown(&message));
        self.send(Note { subject, reason, message, under_way: Some(Arc::downgrade(&under_way)) }).await;
        under_way
    }

    async fn send(&self, note: Note) {
        // It fails only when the program ends.
        let _ = self.notes.send(note).await;
    }
}

/// The message as it can be written: what a tenant put in it cannot break lines, and it fits.
fn shown(message: &str) -> String {
    let mut message: String = message.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if message.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

async fn write_all(writer: Arc<Writer>, waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Note>>>) {
    loop {
        let (next, behind) = {
            let mut waiting = waiting.lock().await;
            (waiting.recv().await, waiting.len())
        };
        let Some(note) = next else { return };
        if behind >= CROWD && note.is_overtaken() {
            continue;
        }
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

/// An event that has been written.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    count: i32,
}

/// What is to be done for an event.
enum Write {
    Create,
    Update { count: i32 },
    Nothing,
}

impl Writer {
    /// Writes an event, trying again while the API server gives no answer, or forbids it: one that has just
    /// been started forbids everything until it knows the roles.
    async fn write_surely(&self, note: &Note) -> Result<(), ApiError> {
        for pause in PAUSES {
            match self.write(note).await {
                Err(error) if !error.is_refusal() || error.is_forbidden() => {
                    debug!(%error, "will try the event again");
                }
                result => return result,
            }
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(note));
            tokio::time::sleep(pause).await;
        }
        self.write(note).await
    }

    async fn write(&self, note: &Note) -> Result<(), ApiError> {
        let key = key(note);
        let namespace = note.subject.namespace.as_deref().unwrap_or("default");
        let name = format!("{}.{key:016x}", note.subject.name);
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

    /// Whether an event is to be written, or brought up to date, or was written only just now.
    fn due(&self, key: u64, now: Instant) -> Write {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.len() >= REMEMBERED_MAX && !sent.contains_key(&key) {
            // The older half. Should one of those come back, its object is found by its name.
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
                api_version: Some("v1".to_owned()),
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

/// Tells events apart. It is part of the Event object's name, so that a restarted provisioner finds it again.
fn key(note: &Note) -> u64 {
    // Not keyed: the same in every process.
    let mut hasher = DefaultHasher::new();
    (&note.subject, note.reason, &note.message).hash(&mut hasher);
    hasher.finish()
}
