//! How much the directories of claims hold, as series by claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::values::names::VolumeName;

/// What a claim's directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldByClaim {
    /// The claim's namespace.
    pub namespace: Box<str>,
    /// The claim's name.
    pub claim: Box<str>,
    /// What the directory takes on disk, in bytes.
    pub bytes: u64,
    /// How many files and directories there are.
    pub inodes: u64,
}

/// What is known of the usage of volumes, by volume name. Clones share it.
///
/// Claims become labels, which is no closed set: an administrator has asked for that by a setting, and the series
/// of a volume end with the volume.
#[derive(Debug, Clone, Default)]
pub struct Usages(Arc<Mutex<BTreeMap<VolumeName, HeldByClaim>>>);

impl Usages {
    /// Locks what is known, to read or change it.
    pub fn known(&self) -> MutexGuard<'_, BTreeMap<VolumeName, HeldByClaim>> {
        self.0.lock()
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
