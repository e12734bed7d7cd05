//! Labels, each with values from a closed set, and how families of series are registered.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// One label with a fixed set of values.
pub(super) type Label = [(&'static str, &'static str); 1];

/// Two labels, each with a fixed set of values.
pub(super) type Labels = [(&'static str, &'static str); 2];

/// The label that names an export that is served.
pub type ExportLabel = [(&'static str, String); 1];

/// Gauges of exports that are served.
pub type ExportGauges = Family<ExportLabel, Gauge>;

/// Registers a new metric under this name, and returns a handle of it.
pub(super) fn register<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: impl Into<String>,
    help: impl Into<String>,
) -> M {
    register_as(registry, name, help, M::default())
}

/// Registers this metric under this name, and returns a handle of it.
pub(super) fn register_as<M: Metric + Clone>(
    registry: &mut Registry,
    name: impl Into<String>,
    help: impl Into<String>,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Returns the label that says why something was refused.
#[must_use]
pub fn reason(reason: &'static str) -> [(&'static str, &'static str); 1] {
    [("reason", reason)]
}

/// The result of what was done.
pub const SUCCEEDED: &str = "succeeded";
/// The result of what could not be done, and is tried again.
pub const FAILED: &str = "failed";
/// The result of what is not done at all.
pub const REFUSED: &str = "refused";

/// Returns the label that says how something ended: [`SUCCEEDED`], [`FAILED`] or [`REFUSED`].
#[must_use]
pub fn result(result: &'static str) -> [(&'static str, &'static str); 1] {
    [("result", result)]
}

/// Returns the label that says what happened to a directory.
#[must_use]
pub fn directory(what: &'static str) -> [(&'static str, &'static str); 1] {
    [("directory", what)]
}

/// Returns the label that names an export.
#[must_use]
pub fn export_label(name: &str) -> ExportLabel {
    [("export", name.to_owned())]
}
