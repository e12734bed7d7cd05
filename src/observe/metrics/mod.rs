//! What is counted and measured, in the Prometheus conventions.
//!
//! Labels have values from closed sets only, but for the usage of claims.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::cluster::election::Leadership;
use crate::export::Export;
use crate::model::exports::PerExport;

mod durations;
mod labels;
mod operations;
mod usages;
mod exports;

pub use durations::Durations;
use exports::ExportMetrics;
pub use labels::{ExportGauges, ExportLabel, FAILED, REFUSED, SUCCEEDED, directory, export_label, reason, result};
use labels::{Label, Labels, register, register_as};
pub use operations::{DeletionLabels, Operations, ProvisionLabels};
pub use usages::{HeldByClaim, Usages};

/// Returns how many objects are in a queue, and for how long the oldest of them has been there.
type DepthAndAge = Box<dyn Fn() -> (usize, Duration) + Send + Sync>;

/// The queues that are asked when metrics are read.
#[derive(Clone, Default)]
struct Queues(Arc<Mutex<Vec<(&'static str, DepthAndAge)>>>);

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queues")
    }
}

/// Everything that is counted and measured. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Volumes made for claims.
    pub provisions: Operations<ProvisionLabels>,
    /// Volumes deleted.
    pub deletions: Operations<DeletionLabels>,
    /// Rounds that failed and are tried again, by queue and reason.
    pub retries: Family<Labels, Counter>,
    /// Claims that were refused, by reason.
    pub claims_refused: Family<Label, Counter>,
    /// Volumes that were refused, by reason.
    pub volumes_refused: Family<Label, Counter>,
    /// Volumes that were reclaimed, by what happened to their directories.
    pub volumes_reclaimed: Family<Label, Counter>,
    /// Claims whose volumes were to grow, by result.
    pub expansions: Family<Label, Counter>,
    /// Directories that belong to no volume, by export.
    pub orphans: Family<ExportLabel, Gauge>,
    /// Volumes that are to have notes on the export, and had none at the last look.
    pub notes_missing: ExportGauges,
    /// Volumes that were restored from an archive or the trash, and are there, by export.
    pub volumes_restored: ExportGauges,
    /// Archives that had expired and were put into the trash, by export.
    pub archives_expired: Family<ExportLabel, Counter>,
    /// Copies that are being made, by export.
    pub copies_running: Family<ExportLabel, Gauge>,
    /// Copies that were made, by result.
    pub copies: Family<Label, Counter>,
    /// Files that were copied, by export.
    pub copied_files: Family<ExportLabel, Counter>,
    /// Bytes that were copied, by export.
    pub copied_bytes: Family<ExportLabel, Counter>,
    /// How much the directories of claims hold, as far as is known.
    pub usages: Usages,
    /// Calls that were spent on finding out how much volumes hold, by export.
    pub usage_calls: Family<ExportLabel, Counter>,
    leader: Gauge,
    queue_depth: Family<Label, Gauge>,
    queue_age: Family<Label, Gauge<f64, AtomicU64>>,
    per_export: ExportMetrics,
    queues: Queues,
    exports: PerExport<Export>,
    leadership: Leadership,
    registry: Arc<Registry>,
}

impl Metrics {
    /// Registers all metrics. What can be asked for when metrics are read is not counted but asked for then: the
    /// state of `exports`, and `leadership`. Storage notes in `durations` how long its calls take.
    #[must_use]
    pub fn new(exports: PerExport<Export>, durations: &Durations, leadership: Leadership) -> Self {
        let mut all = Registry::default();
        let what = "Volumes to be made for claims";
        let provisions = Operations::registered(&mut all, "controller_persistentvolumeclaim_provision", what);
        let what = "Volumes to be deleted";
        let deletions = Operations::registered(&mut all, "controller_persistentvolume_delete", what);
        let ours = all.sub_registry_with_prefix("nfs_provisioner");
        let build: Family<Labels, Gauge> = register(ours, "build_info", "Version and commit of this program");
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)]).set(1);
        let help = "Time that operations on directories took, in seconds, by export and operation";
        register_as(ours, "directory_operation_duration_seconds", help, durations.0.clone());
        let usages = Usages::default();
        ours.register_collector(Box::new(usages.clone()));
        let metrics = Self {
            provisions,
            deletions,
            retries: register(ours, "retries", "Rounds that failed and are tried again, by queue and reason"),
            leader: register(ours, "leader", "Whether this process leads (1) or stands by (0)"),
            queue_depth: register(ours, "queue_depth", "Objects that wait or are worked on, by queue"),
            queue_age: register(
                ours,
                "queue_oldest_seconds",
                "For how long the oldest of them has been in the queue, in seconds",
            ),
            claims_refused: register(ours, "claims_refused", "Claims that were refused, by reason"),
            volumes_refused: register(ours, "volumes_refused", "Volumes that were refused, by reason"),
            volumes_reclaimed: register(
                ours,
                "volumes_reclaimed",
                "Volumes that were reclaimed, by what happened to their directories",
            ),
            expansions: register(ours, "expansions", "Claims whose volumes were to grow, by result"),
            orphans: register(ours, "orphans", "Directories on the export that belong to no volume"),
            notes_missing: register(ours, "notes_missing", "Volumes that have no note on the export yet"),
            volumes_restored: register(ours, "volumes_restored", "Volumes that are there and were restored"),
            archives_expired: register(
                ours,
                "archives_expired",
                "Archives that were put into the trash because their time had come",
            ),
            copies_running: register(ours, "copies_running", "Copies of volumes that are being made, by export"),
            copies: register(ours, "copies", "Copies of volumes that were to be made, by result"),
            copied_files: register(ours, "copied_files", "Files that were copied for claims, by export"),
            copied_bytes: register(ours, "copied_bytes", "Bytes that were copied for claims, by export"),
            usages,
            usage_calls: register(
                ours,
                "usage_calls",
                "Calls that were spent on finding out how much volumes hold, by export",
            ),
            per_export: ExportMetrics::registered(ours),
            queues: Queues::default(),
            exports,
            leadership,
            registry: Arc::new(all),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Makes the series that exist before anything is counted: a rate can only be told of what was there before.
    fn begin_at_zero(&self) {
        for known in [SUCCEEDED, FAILED, REFUSED] {
            let _ = self.expansions.get_or_create(&result(known));
        }
        for known in [SUCCEEDED, FAILED] {
            let _ = self.copies.get_or_create(&result(known));
        }
        for export in self.exports.values() {
            let label = export_label(&export.name);
            let _ = (self.orphans.get_or_create(&label), self.copies_running.get_or_create(&label));
            let _ = (self.notes_missing.get_or_create(&label), self.volumes_restored.get_or_create(&label));
            let _ = self.archives_expired.get_or_create(&label);
            let _ = (self.copied_files.get_or_create(&label), self.copied_bytes.get_or_create(&label));
        }
    }

    /// Shows a queue's depth and age under this name, from what `depth_and_age` returns when metrics are read.
    pub fn show_queue(
        &self,
        name: &'static str,
        depth_and_age: impl Fn() -> (usize, Duration) + Send + Sync + 'static,
    ) {
        self.queues.0.lock().push((name, Box::new(depth_and_age)));
    }

    /// Returns all metrics in the text format of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let leads = self.leadership.is_held();
        self.leader.set(leads.into());
        for (name, depth_and_age) in &*self.queues.0.lock() {
            let (depth, age) = depth_and_age();
            self.queue_depth.get_or_create(&[("queue", *name)]).set(i64::try_from(depth).unwrap_or(i64::MAX));
            self.queue_age.get_or_create(&[("queue", *name)]).set(age.as_secs_f64());
        }
        for export in self.exports.values() {
            self.per_export.update(export, leads);
            if !leads {
                // Who leads knows better than what was found out here before.
                for gauges in [&self.notes_missing, &self.volumes_restored] {
                    gauges.get_or_create(&export_label(&export.name)).set(0);
                }
            }
        }
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests;

/// The commit that this program was built from, where that was known.
const COMMIT: &str = env!("NFS_PROVISIONER_COMMIT");
