//! The state of each export: its file system, its trash, its archives, and calls that are not answered.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::export::{ArchiveCounts, Counts, Export};

use super::labels::{ExportLabel, export_label, register};
use crate::values::time::seconds_now;

type Gauges = Family<ExportLabel, Gauge>;

/// The families of series about exports.
#[derive(Debug, Clone)]
pub(super) struct ExportMetrics {
    usable: Gauges,
    bytes: Gauges,
    bytes_free: Gauges,
    inodes: Gauges,
    inodes_free: Gauges,
    stuck_calls: Gauges,
    trash: Gauges,
    trash_stuck: Gauges,
    trash_kept: Gauges,
    trash_kept_due: Gauges,
    archives: Gauges,
    archives_oldest: Gauges,
    trash_removed: Family<ExportLabel, Counter<u64, AtomicU64>>,
    trash_kept_freed: Family<[(&'static str, String); 2], Counter<u64, AtomicU64>>,
}

impl ExportMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let mut gauges = |name, help| -> Gauges { register(registry, name, help) };
        Self {
            usable: gauges("export_usable", "Whether the export is open and answers (1) or not (0)"),
            bytes: gauges("export_size_bytes", "Size of the export's file system"),
            bytes_free: gauges("export_free_bytes", "What can be written in the export's file system"),
            inodes: gauges("export_inodes", "Inodes of the export's file system; 0 if unlimited"),
            inodes_free: gauges("export_free_inodes", "Inodes of the export's file system that are free"),
            stuck_calls: gauges(
                "stuck_calls",
                "File system calls that the export has not answered for 10 s or longer",
            ),
            trash: gauges("trash_entries", "Directories in the trash"),
            trash_stuck: gauges(
                "trash_stuck_entries",
                "Directories in the trash that could not be removed whole at the last try",
            ),
            trash_kept: gauges("trash_kept", "Directories in the trash that are kept until later"),
            trash_kept_due: gauges(
                "trash_kept_due_seconds",
                "In how many seconds the first of those is to be removed; 0 if there are none",
            ),
            archives: gauges("archives", "Archives on the export"),
            archives_oldest: gauges(
                "archives_oldest_seconds",
                "For how long the oldest archive has been one, in seconds; 0 if there are none",
            ),
            trash_kept_freed: register(
                registry,
                "trash_kept_freed",
                "Directories that were kept in the trash and have been removed, when their time had come (due) or \
                 before it (early)",
            ),
            trash_removed: register(
                registry,
                "trash_removed_files",
                "Files and directories removed from the trash",
            ),
        }
    }

    /// Brings the series of this export up to date. Of archives only who leads knows.
    pub(super) fn update(&self, export: &Export, leads: bool) {
        let usage = export.storage.usage().unwrap_or_default();
        let Counts { waiting, blocked, kept, due, removed, freed_due, freed_early } = export.backlog.counts();
        let archives = if leads { *export.archives.lock() } else { ArchiveCounts::default() };
        let label = export_label(&export.name);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        for (gauges, value) in [
            (&self.usable, export.is_usable().into()),
            (&self.bytes, usage.bytes),
            (&self.bytes_free, usage.bytes_free),
            (&self.inodes, usage.inodes),
            (&self.inodes_free, usage.inodes_free),
            (&self.stuck_calls, count(export.storage.stuck_calls())),
            (&self.trash, count(waiting)),
            (&self.trash_stuck, count(blocked)),
            (&self.trash_kept, count(kept)),
            (&self.trash_kept_due, due.map_or(0, |due| due.saturating_sub(seconds_now()))),
            (&self.archives, count(archives.count)),
            (&self.archives_oldest, archives.oldest.map_or(0, age)),
        ] {
            gauges.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        for (when, freed) in [("due", freed_due), ("early", freed_early)] {
            let labels = [("export", export.name.to_string()), ("when", when.to_owned())];
            self.trash_kept_freed.get_or_create(&labels).inner().store(freed, Ordering::Relaxed);
        }
        self.trash_removed.get_or_create(&label).inner().store(removed, Ordering::Relaxed);
    }
}

/// Returns how many seconds ago a time was; none if it is still to come.
fn age(since: Timestamp) -> u64 {
    u64::try_from(Timestamp::now().as_second().saturating_sub(since.as_second())).unwrap_or_default()
}
