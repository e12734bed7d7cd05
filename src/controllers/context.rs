//! What both sides of the program work with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::cluster::api::{ApiError, Cluster};
use crate::cluster::events::{Reason, Recorder, Subject};
use crate::cluster::state::ClusterState;
use crate::controllers::report::Report;
use crate::decide::scope::Scope;
use crate::export::Export;
use crate::model::exports::{ExportId, Location, PerExport};
use crate::observe::metrics::Metrics;
use crate::queue::Next;
use crate::storage::STUCK_AFTER;
use crate::values::time::milliseconds;

/// The parts that are shared. Clones share them, too.
#[derive(Debug, Clone)]
pub struct Context {
    /// Who we are and what we serve.
    pub scope: Arc<Scope>,
    /// What is known of the cluster.
    pub state: Arc<ClusterState>,
    /// The exports.
    pub exports: PerExport<Export>,
    /// The API.
    pub cluster: Cluster,
    /// Events.
    pub recorder: Recorder,
    /// What is counted.
    pub metrics: Metrics,
    /// When all volumes were last read, apart from the watch.
    pub refreshed: Arc<Mutex<Option<Instant>>>,
}

/// After how long a wait for the export the next key is worked on, too.
const TURN_MAX: Duration = Duration::from_secs(1);

/// The longest time between two events that say that the export does not answer.
const SAID_AGAIN: Duration = Duration::from_mins(5);

/// The place that a round has among those that are worked on at a time.
#[derive(Debug)]
pub struct Slot(Option<OwnedSemaphorePermit>);

impl Slot {
    /// One that others get when it ends, or is given up.
    #[must_use]
    pub fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self(permit)
    }
}

impl Context {
    /// Makes sure that all volumes are known that existed at a time.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn refresh(&self, since: Instant) -> Result<(), ApiError> {
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|refreshed| refreshed >= since) {
            return Ok(());
        }
        let now = Instant::now();
        self.cluster.volumes(|volume| self.state.heard_of(&volume)).await?;
        *refreshed = Some(now);
        Ok(())
    }

    /// Waits for a call on the export, however long it takes: a call that is not answered may be carried out yet.
    ///
    /// If it takes long, the turn is given up, so that all that does not need the export goes on; and whoever the
    /// call is for is told, first after [`STUCK_AFTER`].
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
                debug!(milliseconds = milliseconds(begun.elapsed()), "the export took its time");
                return result;
            }
            self.say_waiting(&subject, self.exports.get(export), begun.elapsed()).await;
            next += next.min(SAID_AGAIN);
        }
    }

    /// Returns the export that a directory is on.
    #[must_use]
    pub fn export(&self, at: &Location) -> &Export {
        self.exports.get(at.export)
    }

    /// Tells what came of a round, and returns when its object is looked at again.
    pub(super) async fn report(&self, subject: impl Into<Subject>, report: Report) -> Next {
        report.count(&self.metrics);
        report.log();
        if let Some((reason, message)) = report.event {
            self.recorder.record(subject, reason, message).await;
        }
        report.next
    }

    async fn say_waiting(&self, subject: &Subject, export: &Export, waited: Duration) {
        // It may have been silent before this call. If others are answered, this one is just slow, or waits for them.
        let silent = export.storage.silent_for().unwrap_or_default();
        let export = &export.address;
        let message = if silent >= STUCK_AFTER {
            let seconds = silent.as_secs();
            format!(
                "the export {export} has not answered for {seconds} s. This goes on by itself as soon as it does; \
                 see whether the NFS server is up and can be reached."
            )
        } else {
            let seconds = waited.as_secs();
            format!("waiting for the export {export} for {seconds} s; it is slow, or busy with others")
        };
        self.recorder.record(subject.clone(), Reason::ExportNotAnswering, message).await;
    }
}
