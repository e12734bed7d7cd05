//! Notes of volumes on the export: written before a volume is made, removed once its directory is put away.
//!
//! No claim and no volume waits for a note that cannot be written: what lacks, [`crate::background::notes`] adds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, warn};

use crate::export::Export;
use crate::layout::{ClusterMark, Note};

/// How long a claim waits for its note, at most.
pub(super) const NOTE_MAX: Duration = Duration::from_secs(2);

/// Which volumes get notes on the export, and under which mark. Clones share what they learn.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Whether a volume gets a note if its class does not say.
    pub wanted: bool,
    mark: Arc<OnceLock<ClusterMark>>,
    /// Whether the log has said that notes cannot be written, and none has been since.
    said: Arc<AtomicBool>,
}

impl Records {
    /// Takes the setting; the cluster's mark is not known yet.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Returns the cluster's mark, as far as it is known.
    #[must_use]
    pub fn mark(&self) -> ClusterMark {
        self.mark.get().cloned().unwrap_or_else(ClusterMark::unknown)
    }

    /// Learns the cluster's mark, which does not change any more.
    pub fn learn(&self, mark: ClusterMark) {
        // Whoever was first has read the same.
        let _ = self.mark.set(mark);
    }

    /// Writes the note of a volume that is about to be made. Ends soon, whatever happens; what goes wrong is logged.
    pub async fn write(&self, Export { name, storage, .. }: &Export, note: Note) {
        let volume = note.volume.clone();
        let written = timeout(NOTE_MAX, storage.record(&self.mark(), note)).await;
        let words = match written {
            Ok(Ok(())) => return self.said.store(false, Ordering::Relaxed),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it takes longer than {} s", NOTE_MAX.as_secs()),
        };
        // Once: what keeps one note from being written keeps all of them.
        if self.said.swap(true, Ordering::Relaxed) {
            debug!(export = &**name, volume = &*volume, "wrote no note of the volume: {words}");
        } else {
            warn!(
                export = &**name,
                volume = &*volume,
                "cannot write notes of volumes, which are served without: {words}. They are written later; set \
                 RECORD_VOLUMES to false if none are wanted"
            );
        }
    }

    /// Removes the note of a volume whose directory is not at its place any more. What is left is removed later.
    pub async fn remove(&self, Export { name, storage, .. }: &Export, volume: &str) {
        let removed = timeout(NOTE_MAX, storage.forget(&self.mark(), volume)).await;
        if !matches!(removed, Ok(Ok(()))) {
            debug!(export = &**name, volume, ?removed, "did not remove the volume's note");
        }
    }
}
