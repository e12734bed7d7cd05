//! Times and durations as whole numbers, for names on the export, logs and metrics.

use std::time::Duration;

/// Returns the time of this machine's clock, in seconds since 1970.
#[must_use]
pub fn seconds_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

/// Returns a duration in whole milliseconds, as logs and tables show it.
#[must_use]
pub fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
