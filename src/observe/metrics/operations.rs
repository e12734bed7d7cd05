//! Volumes made and deleted, under the metric names of the library that upstream is built on, so that its
//! dashboards and alerts go on working.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{register, register_as};

/// How long operations take, in seconds: the buckets of the library that upstream is built on.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The labels of a volume that is made for a claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProvisionLabels {
    class: String,
    source: &'static str,
}

/// The labels of a volume that is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeletionLabels {
    class: String,
}

/// Counts how often one kind of operation succeeded and failed, and how long those that succeeded took.
///
/// Classes become labels: only names of classes that exist may be given, or anybody who can make a claim could
/// make a series.
#[derive(Debug, Clone)]
pub struct Operations<L> {
    done: Family<L, Counter>,
    failed: Family<L, Counter>,
    seconds: Family<L, Histogram, fn() -> Histogram>,
}

impl<L: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static> Operations<L> {
    pub(super) fn registered(registry: &mut Registry, prefix: &str, what: &str) -> Self {
        let seconds = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let (failed, duration) = (format!("{prefix}_failed"), format!("{prefix}_duration_seconds"));
        let help = format!("Time that {} took, in seconds, by class", what.to_lowercase());
        Self {
            done: register(registry, prefix, format!("{what} that succeeded, by class")),
            failed: register(registry, failed, format!("{what} that failed, by class")),
            seconds: register_as(registry, duration, help, seconds),
        }
    }

    fn count_success(&self, labels: &L, took: Duration) {
        self.done.get_or_create(labels).inc();
        // A rate can only be told of what was there before.
        let _ = self.failed.get_or_create(labels);
        self.seconds.get_or_create(labels).observe(took.as_secs_f64());
    }

    fn count_failure(&self, labels: &L) {
        self.failed.get_or_create(labels).inc();
    }
}

impl Operations<ProvisionLabels> {
    /// Counts a volume that was made for a claim of `class`. `source` is the kind of the claim's data source, and
    /// empty for a claim that has none.
    pub fn succeeded(&self, class: &str, source: &'static str, took: Duration) {
        self.count_success(&ProvisionLabels { class: class.to_owned(), source }, took);
    }

    /// Counts a volume that could not be made for a claim of `class`, with the kind of the claim's data source.
    pub fn failed(&self, class: &str, source: &'static str) {
        self.count_failure(&ProvisionLabels { class: class.to_owned(), source });
    }
}

impl Operations<DeletionLabels> {
    /// Counts a volume of `class` that was deleted.
    pub fn succeeded(&self, class: &str, took: Duration) {
        self.count_success(&DeletionLabels { class: class.to_owned() }, took);
    }

    /// Counts a volume of `class` that could not be deleted.
    pub fn failed(&self, class: &str) {
        self.count_failure(&DeletionLabels { class: class.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn volumes_are_counted_by_class_and_those_that_are_made_by_source() {
        let mut registry = Registry::default();
        let provisions = Operations::<ProvisionLabels>::registered(&mut registry, "provision", "Volumes");
        provisions.succeeded("nfs", "", Duration::from_millis(30));
        provisions.failed("nfs", "PersistentVolumeClaim");
        let deletions = Operations::<DeletionLabels>::registered(&mut registry, "delete", "Volumes");
        deletions.failed("nfs");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"provision_total{class="nfs",source=""} 1"#,
            r#"provision_failed_total{class="nfs",source=""} 0"#,
            r#"provision_failed_total{class="nfs",source="PersistentVolumeClaim"} 1"#,
            r#"provision_duration_seconds_bucket{le="0.05",class="nfs",source=""} 1"#,
            r#"delete_failed_total{class="nfs"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
