//! The parts that the controllers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::cluster::api::{ApiError, Cluster};
use crate::cluster::events::{Reason, Recorder, Subject};
use crate::cluster::state::ClusterState;
use crate::controllers::classes::ReadClasses;
use crate::controllers::records::Records;
use crate::controllers::report::Report;
use crate::controllers::restorable::Restorable;
use crate::decide::scope::Scope;
use crate::export::Export;
use crate::model::class::Class;
use crate::model::exports::{ExportId, Location, PerExport};
use crate::model::volume::Volume;
use crate::observe::metrics::Metrics;
use crate::queue::Next;
use crate::storage::STUCK_AFTER;
use crate::values::names::ClassName;
use crate::values::time::{BootTime, milliseconds};

/// The parts that the controllers share. Clones share them, too.
#[derive(Debug, Clone)]
pub struct Context {
    /// Our name, what we serve, and what we may do.
    pub scope: Arc<Scope>,
    /// The known state of the cluster.
    pub state: Arc<ClusterState>,
    /// The exports.
    pub exports: PerExport<Export>,
    /// The API server.
    pub cluster: Cluster,
    /// The recorder of events.
    pub recorder: Recorder,
    /// The metrics.
    pub metrics: Metrics,
    /// The last time that all volumes were read, apart from the watch.
    pub refreshed: Arc<Mutex<Option<Instant>>>,
    /// The classes that were read, apart from the watch.
    pub classes: Arc<parking_lot::Mutex<ReadClasses>>,
    /// Which volumes get notes on the export, and under which mark.
    pub records: Records,
    /// Whose archives, and kept entries of the trash, have been read.
    pub restorable: Restorable,
}

/// The time after which a round that waits for the export frees its slot for another one.
const TURN_MAX: Duration = Duration::from_secs(1);

/// The longest time between two events that say that the export does not answer.
const SAID_AGAIN: Duration = Duration::from_mins(5);

/// The place of a round among those that run at the same time.
#[derive(Debug)]
pub struct Slot(Option<OwnedSemaphorePermit>);

impl Slot {
    /// Creates a slot. Its permit goes to another round when the slot is dropped or given up.
    #[must_use]
    pub fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self(permit)
    }
}

impl Context {
    /// Makes sure that all volumes that existed at the time `since` are known.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn refresh(&self, since: Instant) -> Result<(), ApiError> {
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|refreshed| refreshed >= since) {
            return Ok(());
        }
        *refreshed = Some(self.read_all(|_| ()).await?);
        Ok(())
    }

    /// Reads all volumes, so that all that exist now are known, and passes them to `each`.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn read_volumes(&self, each: impl FnMut(&Volume)) -> Result<(), ApiError> {
        let mut refreshed = self.refreshed.lock().await;
        *refreshed = Some(self.read_all(each).await?);
        Ok(())
    }

    /// Reads all volumes, one such list at a time, and returns when it began.
    async fn read_all(&self, mut each: impl FnMut(&Volume)) -> Result<Instant, ApiError> {
        let now = Instant::now();
        self.state.begin_reading();
        let learn = |volume: Volume| {
            self.state.heard_of(&volume);
            each(&volume);
        };
        let read = self.cluster.volumes(learn).await;
        self.state.end_reading();
        read.map(|()| now)
    }

    /// Returns a class as it was a few seconds ago at most, and not otherwise than the watch has shown it since; `None`
    /// if there is no such class.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn class(&self, name: &ClassName) -> Result<Option<Arc<Class>>, ApiError> {
        let shown = self.state.class(name);
        let now = BootTime::now();
        if let Some(class) = self.classes.lock().get(name, shown.as_ref(), now) {
            return Ok(class);
        }
        let class = self.cluster.class(name).await?.map(Arc::new);
        self.classes.lock().put(name, now, class.clone());
        Ok(class)
    }

    /// Waits for a call on the export, however long it takes: a call without an answer may still be carried out.
    ///
    /// If that takes long, frees the slot, so that work that does not need the export goes on, and tells the
    /// subject by an event, first after [`STUCK_AFTER`].
    pub async fn wait<T>(
        &self,
        slot: &mut Slot,
        subject: impl Into<Subject>,
        export: ExportId,
        call: impl Future<Output = T>,
    ) -> T {
        let begun = Instant::now();
        let mut call = std::pin::pin!(call);
        if let Ok(result) = timeout(TURN_MAX, &mut call).await {
            return result;
        }
        drop(slot.0.take());
        let subject = subject.into();
        let mut next = STUCK_AFTER;
        loop {
            if let Ok(result) = timeout(next.saturating_sub(begun.elapsed()), &mut call).await {
                debug!(milliseconds = milliseconds(begun.elapsed()), "the export was slow to answer");
                return result;
            }
            self.say_waiting(&subject, self.exports.get(export), begun.elapsed());
            next += next.min(SAID_AGAIN);
        }
    }

    /// Returns the export that a directory is on.
    #[must_use]
    pub fn export(&self, at: &Location) -> &Export {
        self.exports.get(at.export)
    }

    /// Reports a round: counts it, logs it and records its event. Returns when the object is looked at again.
    pub(super) fn report(&self, subject: impl Into<Subject>, report: Report) -> Next {
        report.count(&self.metrics);
        report.log();
        if let Some((reason, message)) = report.event {
            self.recorder.record(subject, reason, &message);
        }
        report.next
    }

    fn say_waiting(&self, subject: &Subject, export: &Export, waited: Duration) {
        // The export may have been silent before this call. If it answers other calls, this one is just slow, or
        // waits for them.
        let silent = export.storage.silent_for().unwrap_or_default();
        let export = &export.address;
        let message = if silent >= STUCK_AFTER {
            let seconds = silent.as_secs();
            format!(
                "the export {export} has not answered for {seconds} s. Work goes on by itself as soon as it does; \
                 check that the NFS server is up and can be reached."
            )
        } else {
            let seconds = waited.as_secs();
            format!("waited {seconds} s for the export {export} so far; it is slow, or busy with other work")
        };
        self.recorder.record(subject.clone(), Reason::ExportNotAnswering, &message);
    }
}
