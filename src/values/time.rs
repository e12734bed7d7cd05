//! Times and durations as whole numbers, for names on the export, logs and metrics; and a clock that no suspension
//! stops.

use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

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
    fn the_clock_that_no_suspension_stops_goes_on() {
        let before = BootTime::now();
        std::thread::sleep(Duration::from_millis(2));
        let after = BootTime::now();
        assert!(after >= before + Duration::from_millis(2), "{before:?} {after:?}");
        assert!(before > BootTime(Duration::ZERO));
    }
}
