//! All judgement: what is to be done for a claim, a volume or a claim that grows, as values. No I/O, no clock.

use std::time::Duration;

mod identity;
mod volume;
mod copy;
mod claim;
mod growth;

pub use claim::{BadAnnotation, ClaimIgnored, ClaimRefusal, ClaimStep, Passing, for_claim};
pub use copy::{BadSource, CopyOf, Origin};
pub use growth::{GrowthIgnored, GrowthRefusal, GrowthStep, Means, for_growth};
pub use identity::Identity;
pub use volume::{Doubt, VolumeIgnored, VolumeRefusal, VolumeStep, for_volume, is_work, located};

/// The longest wait between two tries of the same thing (behaviour 1.30).
pub const RETRY_MAX: Duration = Duration::from_mins(5);

/// How long to wait before the next try after `failures` in a row, the latest included: half a second at first,
/// doubling up to [`RETRY_MAX`].
#[must_use]
pub fn retry_after(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    Duration::from_millis(500).saturating_mul(doubled).min(RETRY_MAX)
}

#[cfg(test)]
mod tests;
