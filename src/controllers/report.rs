//! The report of a round: a log line, an event, counts, and when the object is looked at again.

use std::borrow::Cow;
use std::time::Duration;

use tracing::{Level, debug, error, info, warn};

use crate::cluster::events::Reason;
use crate::observe::metrics::{self, Metrics};
use crate::queue::Next;
use crate::values::names::ClassName;

/// The report of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    /// The level of the log line.
    pub(super) level: Level,
    /// The text of the log line, always the same for the same kind of outcome.
    pub(super) message: Cow<'static, str>,
    /// The fields of the log line: to whom it happened, where and why.
    pub(super) fields: Fields,
    /// The event on the object, for its author.
    pub(super) event: Option<(Reason, String)>,
    /// The counts for the metrics.
    pub(super) counts: Vec<Count>,
    /// When the object is looked at again.
    pub(super) next: Next,
}

/// The fields of a log line. Unset ones are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) claim: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) volume: Option<String>,
    pub(super) class: Option<String>,
    pub(super) export: Option<String>,
    pub(super) path: Option<String>,
    pub(super) adopted: Option<bool>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) done: Option<String>,
    pub(super) doubt: Option<String>,
    pub(super) milliseconds: Option<u64>,
    pub(super) reason: Option<String>,
    pub(super) error: Option<String>,
}

/// A count for the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Count {
    /// A volume was made for a claim of this class, with a data source of this kind.
    Provisioned { class: ClassName, source: &'static str, took: Duration },
    /// A volume could not be made.
    NotProvisioned { class: ClassName, source: &'static str },
    /// A claim was refused.
    ClaimRefused(&'static str),
    /// A volume was deleted. Its class is left out if it does not exist, because anybody may write any class on a
    /// volume.
    Deleted { class: Option<ClassName>, took: Duration },
    /// A volume could not be deleted.
    NotDeleted { class: Option<ClassName> },
    /// A volume was reclaimed, with this result for its directory.
    Reclaimed(&'static str),
    /// A volume was refused.
    VolumeRefused(&'static str),
    /// A claim's volume was to be expanded, with this result.
    Expansion(&'static str),
}

impl Report {
    /// Creates a report of nothing but a debug line.
    pub(super) fn quiet(message: impl Into<Cow<'static, str>>, fields: Fields, next: Next) -> Self {
        Self { level: Level::DEBUG, message: message.into(), fields, event: None, counts: Vec::new(), next }
    }

    /// Creates a report of a failure that only the log tells.
    pub(super) fn warning(message: impl Into<Cow<'static, str>>, fields: Fields, next: Next) -> Self {
        Self { level: Level::WARN, ..Self::quiet(message, fields, next) }
    }

    /// Writes the log line.
    pub(super) fn log(&self) {
        macro_rules! line {
            ($say:ident, $($field:ident)*) => {{
                let Fields { $($field),* } = &self.fields;
                $say!($($field),*, "{}", self.message)
            }};
        }
        macro_rules! at {
            ($say:ident) => {
                line!(
                    $say, claim uid volume class export path adopted from to done doubt milliseconds reason error
                )
            };
        }
        match self.level {
            Level::ERROR => at!(error),
            Level::WARN => at!(warn),
            Level::INFO => at!(info),
            _ => at!(debug),
        }
    }

    /// Adds the counts to the metrics.
    pub(super) fn count(&self, metrics: &Metrics) {
        for count in &self.counts {
            count.count(metrics);
        }
    }
}

impl Count {
    fn count(&self, metrics: &Metrics) {
        let known = |class: &Option<ClassName>| class.as_ref().map_or("", ClassName::as_str).to_owned();
        match self {
            Self::Provisioned { class, source, took } => {
                metrics.provisions.succeeded(class.as_str(), source, *took);
            }
            Self::NotProvisioned { class, source } => metrics.provisions.failed(class.as_str(), source),
            Self::ClaimRefused(reason) => {
                let _ = metrics.claims_refused.get_or_create(&metrics::reason(reason)).inc();
            }
            Self::Deleted { class, took } => metrics.deletions.succeeded(&known(class), *took),
            Self::NotDeleted { class } => metrics.deletions.failed(&known(class)),
            Self::Reclaimed(what) => {
                let _ = metrics.volumes_reclaimed.get_or_create(&metrics::directory(what)).inc();
            }
            Self::VolumeRefused(reason) => {
                let _ = metrics.volumes_refused.get_or_create(&metrics::reason(reason)).inc();
            }
            Self::Expansion(result) => {
                let _ = metrics.expansions.get_or_create(&metrics::result(result)).inc();
            }
        }
    }
}
