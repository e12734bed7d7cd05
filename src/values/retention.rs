//! How long something is kept that is to go: archives, and what lies in the trash.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::values::headroom::{FsUsage, Least};

/// The units of a retention and their seconds, the longest first.
const UNITS: [(char, u64); 5] = [('w', 7 * 24 * 3600), ('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];

/// The longest retention in seconds, a hundred years: with it any time of today is one that can be written.
const LONGEST: u64 = 36_500 * 24 * 3600;

/// A time to keep something, of a second up to a hundred years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Retention(u64);

impl Retention {
    /// Makes a retention of so many seconds; `None` for none, or for more than a hundred years.
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Option<Self> {
        (1..=LONGEST).contains(&seconds).then_some(Self(seconds))
    }

    /// Returns the seconds.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Returns the time at which it has passed since `begun`; the latest that there is if it is later.
    #[must_use]
    pub fn after(self, begun: Timestamp) -> Timestamp {
        begun.checked_add(Duration::from_secs(self.0)).unwrap_or(Timestamp::MAX)
    }
}

impl fmt::Display for Retention {
    /// Writes the number of the longest unit that needs no fraction, weeks left out. [`FromStr`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(unit, seconds): &&(char, u64)| *unit != 'w' && self.0.is_multiple_of(*seconds);
        let (unit, seconds) = UNITS.iter().find(fits).unwrap_or(&('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

impl FromStr for Retention {
    type Err = ();

    /// Reads a whole number with one unit: `s`, `m`, `h`, `d` or `w`. Nothing else is taken for one, not even 0: it
    /// could mean to keep nothing, or to keep for ever.
    fn from_str(text: &str) -> Result<Self, ()> {
        let seconds = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, seconds)));
        let (number, seconds) = seconds.ok_or(())?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(());
        }
        let number: u64 = number.parse().map_err(|_| ())?;
        number.checked_mul(*seconds).and_then(Self::of_seconds).ok_or(())
    }
}

/// How long a deleted directory is kept in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keep {
    retention: Retention,
    min_free: Option<Least>,
}

impl Keep {
    /// Keeps for that time; or, where `min_free` is set, until the export has less free than that. It is written as
    /// in the names of entries of the trash from now on, whatever it was written like.
    #[must_use]
    pub fn new(retention: Retention, min_free: Option<&Least>) -> Self {
        Self { retention, min_free: min_free.map(Least::normalized) }
    }

    /// Returns the time to keep it.
    #[must_use]
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// Returns the least space that must be free for it to be kept.
    #[must_use]
    pub fn min_free(&self) -> Option<&Least> {
        self.min_free.as_ref()
    }

    /// Tells whether it goes before its time on an export that is so full.
    #[must_use]
    pub fn gives_way(&self, usage: &FsUsage) -> bool {
        self.min_free.as_ref().is_some_and(|least| least.is_lacking(usage.bytes_free, usage.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_whole_number_with_one_unit() {
        let rows = [
            ("1s", 1, "1s"),
            ("90m", 5400, "90m"),
            ("60m", 3600, "1h"),
            ("12h", 43_200, "12h"),
            ("30d", 2_592_000, "30d"),
            ("2w", 1_209_600, "14d"),
            ("007d", 604_800, "7d"),
            ("36500d", LONGEST, "36500d"),
        ];
        for (text, seconds, shown) in rows {
            let read: Retention = text.parse().unwrap();
            assert_eq!((read.seconds(), read.to_string().as_str()), (seconds, shown), "{text}");
            assert_eq!(shown.parse(), Ok(read), "{text}");
        }
        for text in [
            "",
            "0",
            "0s",
            "0d",
            "1",
            "s",
            "d",
            "-1d",
            "+1d",
            "1.5d",
            "1 d",
            " 1d",
            "1d ",
            "1D",
            "1h30m",
            "1y",
            "1ms",
            "1M",
            "36501d",
            "18446744073709551615s",
            "18446744073709551616s",
            "9999999999999999w",
            "٣d",
            "forever",
        ] {
            assert_eq!(text.parse::<Retention>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn what_has_a_mark_gives_way_below_it_and_nothing_else_does() {
        let usage = FsUsage { bytes: 1000, bytes_free: 400, ..FsUsage::default() };
        let day: Retention = "1d".parse().unwrap();
        for (least, expected) in [("400", false), ("401", true), ("40%", false), ("40.1%", true), ("0", false)] {
            let least: Least = least.parse().unwrap();
            assert_eq!(Keep::new(day, Some(&least)).gives_way(&usage), expected, "{least:?}");
        }
        assert!(!Keep::new(day, None).gives_way(&FsUsage::default()));
    }
}
