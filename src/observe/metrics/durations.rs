//! How long calls on exports take.

use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Half a millisecond, doubled up to 16 s: from a server next door to one in trouble.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
    16.384,
];

/// Durations in seconds, by two labels.
pub(super) type Histograms = Family<[(&'static str, String); 2], Histogram, fn() -> Histogram>;

/// How long calls on exports take, by export and by what they do; the wait for a thread does not count. Clones
/// count together.
#[derive(Debug, Clone)]
pub struct Durations(pub(super) Histograms);

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }
}

impl Durations {
    /// Returns what notes the calls on one export.
    pub fn of(&self, export: &str) -> impl Fn(&'static str, Duration) + Send + Sync + use<> {
        let (durations, export) = (self.0.clone(), export.to_owned());
        move |operation, took| {
            let labels = [("export", export.clone()), ("operation", operation.to_owned())];
            durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }
}
