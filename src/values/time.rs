//! Times and durations as whole numbers, for names on the export, logs and metrics; and a clock that no suspension
//! stops.

use std::ops::Add;
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Returns the time of this machine's clock, in seconds since 1970.
#[must_use]
pub fn seconds_now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}

/// Returns the time of so many seconds since 1970, to be shown; the latest that there is for one that is later.
#[must_use]
pub fn timestamp(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).ok();
    seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}

/// Returns a duration in whole milliseconds, as logs and tables show it.
#[must_use]
pub fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// A moment of a clock that nobody sets, and that goes on while the machine is suspended, which the clock of
/// [`std::time::Instant`] does not: a virtual machine that was paused or moved has slept without knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Returns this moment. Where there is no such clock, it is always the same one.
    #[must_use]
    pub fn now() -> Self {
        Self(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shown_as_a_time() {
        assert_eq!(timestamp(1_700_000_000).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!((timestamp(u64::MAX), timestamp(1 << 60)), (Timestamp::MAX, Timestamp::MAX));
    }

    #[test]
    fn the_clock_that_no_suspension_stops_goes_on() {
        let before = BootTime::now();
        std::thread::sleep(Duration::from_millis(2));
        let after = BootTime::now();
        assert!(after >= before + Duration::from_millis(2), "{before:?} {after:?}");
        assert!(before > BootTime(Duration::ZERO));
    }
}
