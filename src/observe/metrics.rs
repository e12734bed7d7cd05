//! What is counted, in the Prometheus conventions. Labels come from closed sets only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::export::Counts;
use crate::export::Export;
use crate::model::exports::PerExport;

/// One label, from a closed set.
type Label = [(&'static str, &'static str); 1];

/// Two of them.
type Labels = [(&'static str, &'static str); 2];

/// The name of an export that is served.
pub type ExportLabel = [(&'static str, String); 1];

/// A class that exists, and for claims the kind of their source, of which we serve none yet.
type ClassLabel = Vec<(&'static str, String)>;

/// How long things take, in seconds: those of the library that the peer is built on (behaviour 4.7).
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Durations by two labels.
type Histograms = Family<[(&'static str, String); 2], Histogram, fn() -> Histogram>;

/// How long calls on exports take, in seconds, by export and by what they do, the wait for a thread not counted. Clones
/// count together.
#[derive(Debug, Clone)]
pub struct Durations(Histograms);

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)))
    }
}

impl Durations {
    /// Returns what notes the calls on an export.
    pub fn of(&self, export: &str) -> impl Fn(&'static str, Duration) + Send + Sync + 'static {
        let (durations, export) = (self.0.clone(), export.to_owned());
        move |operation, took| {
            let labels = [("export", export.clone()), ("operation", operation.to_owned())];
            durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }
}

/// Half a millisecond, doubled up to 16 s: from a server next door to one in trouble.
const CALL_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
    16.384,
];

/// Asks how many there are in a queue, and since when the oldest.
type QueueDepth = Box<dyn Fn() -> (usize, Duration) + Send + Sync>;

/// What is done for one kind of object, under the names of the library that the peer is built on.
#[derive(Debug, Clone)]
pub struct Operations {
    done: Family<ClassLabel, Counter>,
    failed: Family<ClassLabel, Counter>,
    seconds: Family<ClassLabel, Histogram, fn() -> Histogram>,
    has_source: bool,
}

impl Operations {
    fn registered(registry: &mut Registry, prefix: &str, what: &str, has_source: bool) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(BUCKETS);
        let operations = Self {
            done: Family::default(),
            failed: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            has_source,
        };
        registry.register(prefix, format!("{what} that succeeded, by class"), operations.done.clone());
        let failed = format!("{prefix}_failed");
        registry.register(failed, format!("{what} that failed, by class"), operations.failed.clone());
        let help = format!("Time that {} took, in seconds, by class", what.to_lowercase());
        registry.register(format!("{prefix}_duration_seconds"), help, operations.seconds.clone());
        operations
    }

    fn labels(&self, class: &str) -> ClassLabel {
        let class = [("class", class.to_owned())];
        class.into_iter().chain(self.has_source.then(|| ("source", String::new()))).collect()
    }

    /// Counts one that was done. `class` must be the name of a class that exists: it becomes a label.
    pub fn succeeded(&self, class: &str, took: Duration) {
        self.done.get_or_create(&self.labels(class)).inc();
        // A rate can only be told of what was there before.
        let _ = self.failed.get_or_create(&self.labels(class));
        self.seconds.get_or_create(&self.labels(class)).observe(took.as_secs_f64());
    }

    /// Counts one that failed.
    pub fn failed(&self, class: &str) {
        self.failed.get_or_create(&self.labels(class)).inc();
    }
}

/// Where queues are asked when metrics are read.
#[derive(Clone, Default)]
struct Queues(Arc<Mutex<Vec<(&'static str, QueueDepth)>>>);

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queues")
    }
}

/// What a claim's directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldByClaim {
    /// The claim's namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub claim: Box<str>,
    /// What its directory takes on disk, in bytes.
    pub bytes: u64,
    /// How many files and directories there are.
    pub inodes: u64,
}

/// What is known of volumes in use, by their names. Their claims are labels, because somebody has asked for that by a
/// setting; series go with the volumes. Clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Usages(Arc<Mutex<BTreeMap<Arc<str>, HeldByClaim>>>);

impl Usages {
    /// All that is known.
    pub fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, HeldByClaim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Usages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Of = fn(&HeldByClaim) -> u64;
        let series: [(&str, &str, Of); 2] = [
            ("claim_used_bytes", "What a claim's directory takes on disk", |held| held.bytes),
            ("claim_used_inodes", "Files and directories in a claim's directory", |held| held.inodes),
        ];
        let known = self.known();
        for (name, help, of) in series.iter().filter(|_| !known.is_empty()) {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for held in known.values() {
                let labels = [("namespace", &*held.namespace), ("persistentvolumeclaim", &*held.claim)];
                let gauge = ConstGauge::new(i64::try_from(of(held)).unwrap_or(i64::MAX));
                gauge.encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// What is counted. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Volumes that were made for claims.
    pub provisions: Operations,
    /// Volumes that were deleted.
    pub deletions: Operations,
    /// Rounds that failed and are tried again, by queue and reason.
    pub retries: Family<Labels, Counter>,
    /// 1 while we lead.
    pub leader: Gauge,
    /// Claims that were refused, by reason.
    pub claims_refused: Family<Label, Counter>,
    /// Volumes that were refused, by reason.
    pub volumes_refused: Family<Label, Counter>,
    /// Volumes that were reclaimed, by what happened to their directories.
    pub volumes_reclaimed: Family<Label, Counter>,
    /// Claims whose volumes were to grow, by result.
    pub expansions: Family<Label, Counter>,
    /// Copies that are being made, by export.
    pub copies_running: Family<ExportLabel, Gauge>,
    /// Copies that were made, by result.
    pub copies: Family<Label, Counter>,
    /// Files that were copied, by export.
    pub copied_files: Family<ExportLabel, Counter>,
    /// Bytes that were copied, by export.
    pub copied_bytes: Family<ExportLabel, Counter>,
    /// Directories that belong to no volume, by export.
    pub orphans: Family<ExportLabel, Gauge>,
    /// What volumes hold, as far as is known.
    pub usages: Usages,
    /// Calls that were spent on finding that out, by export.
    pub usage_calls: Family<ExportLabel, Counter>,
    queue_depth: Family<Label, Gauge>,
    queue_age: Family<Label, Gauge<f64, AtomicU64>>,
    queues: Queues,
    per_export: ExportMetrics,
    exports: PerExport<Export>,
    registry: Arc<Registry>,
}

impl Metrics {
    /// Nothing has been counted yet. How it stands with the exports is asked of `exports`, and how long their calls take is
    /// noted in `durations`.
    #[must_use]
    pub fn new(exports: PerExport<Export>, durations: &Durations) -> Self {
        let mut all = Registry::default();
        let what = "Volumes to be made for claims";
        let provisions =
            Operations::registered(&mut all, "controller_persistentvolumeclaim_provision", what, true);
        let what = "Volumes to be deleted";
        let deletions = Operations::registered(&mut all, "controller_persistentvolume_delete", what, false);
        let registry = all.sub_registry_with_prefix("nfs_provisioner");
        let retries = Family::default();
        let help = "Rounds that failed and are tried again, by queue and reason";
        registry.register("retries", help, retries.clone());
        let leader = Gauge::default();
        registry.register("leader", "Whether this process leads (1) or stands by (0)", leader.clone());
        let build = Family::<Labels, Gauge>::default();
        registry.register("build_info", "Version and commit of this program", build.clone());
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)]).set(1);
        let (queue_depth, queue_age) = (Family::default(), Family::default());
        registry.register("queue_depth", "Objects that wait or are worked on, by queue", queue_depth.clone());
        let help = "For how long the oldest of them has been in the queue, in seconds";
        registry.register("queue_oldest_seconds", help, queue_age.clone());
        let help = "Time that operations on directories took, in seconds, by export and operation";
        registry.register("directory_operation_duration_seconds", help, durations.0.clone());
        let claims_refused = Family::default();
        registry.register("claims_refused", "Claims that were refused, by reason", claims_refused.clone());
        let volumes_refused = Family::default();
        registry.register("volumes_refused", "Volumes that were refused, by reason", volumes_refused.clone());
        let volumes_reclaimed = Family::default();
        let help = "Volumes that were reclaimed, by what happened to their directories";
        registry.register("volumes_reclaimed", help, volumes_reclaimed.clone());
        let expansions = Family::default();
        registry.register("expansions", "Claims whose volumes were to grow, by result", expansions.clone());
        for known in [SUCCEEDED, FAILED, REFUSED] {
            // A rate can only be told of what was there before.
            let _ = expansions.get_or_create(&result(known));
        }
        let orphans = Family::<ExportLabel, Gauge>::default();
        registry.register("orphans", "Directories on the export that belong to no volume", orphans.clone());
        for export in exports.values() {
            // None has been found yet.
            let _ = orphans.get_or_create(&export_label(&export.name));
        }
        let copies_running = Family::<ExportLabel, Gauge>::default();
        registry.register(
            "copies_running",
            "Copies of volumes that are being made, by export",
            copies_running.clone(),
        );
        let copies = Family::default();
        registry.register("copies", "Copies of volumes that were to be made, by result", copies.clone());
        let (copied_files, copied_bytes) = (Family::default(), Family::default());
        registry.register("copied_files", "Files that were copied for claims, by export", copied_files.clone());
        registry.register("copied_bytes", "Bytes that were copied for claims, by export", copied_bytes.clone());
        for known in [SUCCEEDED, FAILED] {
            // A rate can only be told of what was there before.
            let _ = copies.get_or_create(&result(known));
        }
        for export in exports.values() {
            let _ = copies_running.get_or_create(&export_label(&export.name));
            let (files, bytes): (&Family<ExportLabel, Counter>, &Family<ExportLabel, Counter>) =
                (&copied_files, &copied_bytes);
            let _ = (
                files.get_or_create(&export_label(&export.name)),
                bytes.get_or_create(&export_label(&export.name)),
            );
        }
        let usages = Usages::default();
        registry.register_collector(Box::new(usages.clone()));
        let usage_calls = Family::default();
        let help = "Calls that were spent on finding out how much volumes hold, by export";
        registry.register("usage_calls", help, usage_calls.clone());
        let per_export = ExportMetrics::registered(registry);
        Self {
            provisions,
            deletions,
            retries,
            leader,
            queue_depth,
            queue_age,
            queues: Queues::default(),
            claims_refused,
            volumes_refused,
            volumes_reclaimed,
            expansions,
            copies_running,
            copies,
            copied_files,
            copied_bytes,
            orphans,
            usages,
            usage_calls,
            per_export,
            exports,
            registry: Arc::new(all),
        }
    }

    /// Has a queue's depth and age shown.
    pub fn show_queue(
        &self,
        name: &'static str,
        depth_and_age: impl Fn() -> (usize, Duration) + Send + Sync + 'static,
    ) {
        self.queues.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, Box::new(depth_and_age)));
    }

    /// All of it, as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        for (name, depth_and_age) in &*self.queues.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let (depth, age) = depth_and_age();
            self.queue_depth.get_or_create(&[("queue", *name)]).set(i64::try_from(depth).unwrap_or(i64::MAX));
            self.queue_age.get_or_create(&[("queue", *name)]).set(age.as_secs_f64());
        }
        self.exports.values().for_each(|export| self.per_export.update(export));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// How it stands with each export.
#[derive(Debug, Clone, Default)]
struct ExportMetrics {
    usable: Family<ExportLabel, Gauge>,
    bytes: Family<ExportLabel, Gauge>,
    bytes_free: Family<ExportLabel, Gauge>,
    inodes: Family<ExportLabel, Gauge>,
    inodes_free: Family<ExportLabel, Gauge>,
    stuck_calls: Family<ExportLabel, Gauge>,
    trash: Family<ExportLabel, Gauge>,
    trash_stuck: Family<ExportLabel, Gauge>,
    trash_removed: Family<ExportLabel, Counter<u64, AtomicU64>>,
}

impl ExportMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let all = Self::default();
        for (name, help, family) in [
            ("export_usable", "Whether the export is open and answers (1) or not (0)", &all.usable),
            ("export_size_bytes", "Size of the export's file system", &all.bytes),
            ("export_free_bytes", "What can be written in the export's file system", &all.bytes_free),
            ("export_inodes", "Inodes of the export's file system; 0 if unlimited", &all.inodes),
            ("export_free_inodes", "Inodes of the export's file system that are free", &all.inodes_free),
            (
                "stuck_calls",
                "File system calls that the export has not answered for 10 s or longer",
                &all.stuck_calls,
            ),
            ("trash_entries", "Directories in the trash", &all.trash),
            (
                "trash_stuck_entries",
                "Directories in the trash that could not be removed whole at the last try",
                &all.trash_stuck,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        let help = "Files and directories removed from the trash";
        registry.register("trash_removed_files", help, all.trash_removed.clone());
        all
    }

    fn update(&self, export: &Export) {
        let usage = export.storage.usage().unwrap_or_default();
        let Counts { waiting, blocked, removed } = export.backlog.counts();
        let label = export_label(&export.name);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        for (family, value) in [
            (&self.usable, export.is_usable().into()),
            (&self.bytes, usage.bytes),
            (&self.bytes_free, usage.bytes_free),
            (&self.inodes, usage.inodes),
            (&self.inodes_free, usage.inodes_free),
            (&self.stuck_calls, count(export.storage.stuck_calls())),
            (&self.trash, count(waiting)),
            (&self.trash_stuck, count(blocked)),
        ] {
            family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.trash_removed.get_or_create(&label).inner().store(removed, Ordering::Relaxed);
    }
}

/// From which commit this program was built, where that was known.
const COMMIT: &str = match option_env!("NFS_PROVISIONER_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// A label that says why.
#[must_use]
pub fn reason(reason: &'static str) -> Label {
    [("reason", reason)]
}

/// How the expansion of a volume ended.
pub const SUCCEEDED: &str = "succeeded";
/// See [`SUCCEEDED`].
pub const FAILED: &str = "failed";
/// See [`SUCCEEDED`].
pub const REFUSED: &str = "refused";

/// A label that says how something ended.
#[must_use]
pub fn result(result: &'static str) -> Label {
    [("result", result)]
}

/// A label that says what happened to a directory.
#[must_use]
pub fn directory(what: &'static str) -> Label {
    [("directory", what)]
}

/// A label that names an export.
#[must_use]
pub fn export_label(name: &str) -> ExportLabel {
    [("export", name.to_owned())]
}
