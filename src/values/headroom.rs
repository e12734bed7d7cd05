//! How much room there is on an export, and how much of it a class leaves alone.
//!
//! A watermark looks at what is free now: NFS reserves nothing, so what claims ask for has no part in it. A ratio looks at
//! what volumes have been promised, whatever they use of it. A class may have either, or both.

use std::fmt;
use std::str::FromStr;

use crate::values::quantity::{BILLION, billionths};

/// The class parameter of [`Requirements::space`].
pub const MIN_FREE_SPACE: &str = "minFreeSpace";

/// The class parameter of [`Requirements::inodes`].
pub const MIN_FREE_INODES: &str = "minFreeInodes";

/// The class parameter of [`Requirements::ratio`].
pub const MAX_OVERCOMMIT: &str = "maxOvercommit";

/// How full a file system is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Its size in bytes.
    pub bytes: u64,
    /// How many of those can be written by users that are not root.
    pub bytes_free: u64,
    /// How many files and directories it can have; 0 where there is no such limit.
    pub inodes: u64,
    /// How many more of those users that are not root can make.
    pub inodes_free: u64,
}

/// How an export stands, as far as is known, for a claim that may be served there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Whether it can be used and answers.
    pub usable: bool,
    /// Whether the claim's directory has been begun there. Then it stays there, and has room.
    pub begun: bool,
    /// How full it is; `None` before the first answer.
    pub usage: Option<FsUsage>,
    /// The capacities of all volumes there but the claim's own, in bytes.
    pub promised: u128,
}

/// The least that is to be free: a number, or a part of the whole. It is shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Least {
    text: Box<str>,
    amount: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Number(u64),
    /// In billionths of the whole.
    Part(u128),
}

/// How many times the size of an export may be promised to volumes. It is shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ratio {
    text: Box<str>,
    billionths: u128,
}

/// What a class demands of an export before a volume is made there, or grows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The least that must be free of its space.
    pub space: Option<Least>,
    /// The least number of files and directories that it must still be possible to make.
    pub inodes: Option<Least>,
    /// How many times its size volumes may be promised.
    pub ratio: Option<Ratio>,
}

/// Why an export has no room. Its text ends a sentence that begins with the export, and has no number in it that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    /// Too little of its space is free.
    Space(Box<str>),
    /// Too few files and directories can be made.
    Inodes(Box<str>),
    /// Its volumes would be promised too much.
    Promised(Box<str>),
    /// It has not said yet how full it is.
    Unknown,
}

impl Least {
    /// How much that is of a whole.
    fn of(&self, whole: u64) -> u128 {
        match self.amount {
            Amount::Number(number) => number.into(),
            Amount::Part(part) => (u128::from(whole) * part).div_ceil(BILLION),
        }
    }
}

impl FromStr for Least {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let amount = match text.strip_suffix('%') {
            Some(number) => Amount::Part(percent(number).filter(|part| *part <= BILLION).ok_or(())?),
            None => {
                Amount::Number(billionths(text).and_then(|of| u64::try_from(of.div_ceil(BILLION)).ok()).ok_or(())?)
            }
        };
        Ok(Self { text: text.into(), amount })
    }
}

impl FromStr for Ratio {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let billionths = text.strip_suffix('%').map_or_else(|| plain(text), percent);
        Ok(Self { text: text.into(), billionths: billionths.filter(|ratio| *ratio > 0).ok_or(())? })
    }
}

/// What stands before a percent sign, in billionths of the whole.
fn percent(text: &str) -> Option<u128> {
    plain(text.trim_end()).map(|number| number / 100)
}

/// A number without a unit, in billionths, and small enough to be multiplied by a size.
fn plain(text: &str) -> Option<u128> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    billionths(text).filter(|number| is_plain && *number <= 1_000_000 * BILLION)
}

impl Requirements {
    /// What an export lacks for a volume of `request` bytes, if anything.
    #[must_use]
    pub fn shortage(&self, room: &Headroom, request: u64) -> Option<Shortage> {
        if room.begun || *self == Self::default() {
            return None;
        }
        let Some(usage) = room.usage else { return Some(Shortage::Unknown) };
        let lacks = |least: &&Least, free: u64, whole: u64| u128::from(free) < least.of(whole);
        if let Some(least) = self.space.as_ref().filter(|least| lacks(least, usage.bytes_free, usage.bytes)) {
            return Some(Shortage::Space(least.text.clone()));
        }
        let counts = |_: &&Least| usage.inodes > 0;
        let least = self.inodes.as_ref().filter(counts);
        if let Some(least) = least.filter(|least| lacks(least, usage.inodes_free, usage.inodes)) {
            return Some(Shortage::Inodes(least.text.clone()));
        }
        let ratio = self.ratio.as_ref()?;
        let after = room.promised.saturating_add(request.into());
        (after > ratio.of(usage.bytes)).then(|| Shortage::Promised(ratio.text.clone()))
    }

    /// How many bytes volumes may be promised on an export.
    #[must_use]
    pub fn limit(&self, room: &Headroom) -> Option<u128> {
        self.ratio.as_ref().zip(room.usage).map(|(ratio, usage)| ratio.of(usage.bytes))
    }
}

impl Ratio {
    fn of(&self, size: u64) -> u128 {
        u128::from(size) * self.billionths / BILLION
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(least) => {
                write!(f, "has less free space than the class parameter {MIN_FREE_SPACE} ({least})")
            }
            Self::Inodes(least) => {
                write!(f, "has fewer free inodes than the class parameter {MIN_FREE_INODES} ({least})")
            }
            Self::Promised(ratio) => write!(
                f,
                "would have its volumes promised more of its size than the class parameter {MAX_OVERCOMMIT} ({ratio})"
            ),
            Self::Unknown => f.write_str("has not said yet how full it is"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: FsUsage = FsUsage { bytes: 1000, bytes_free: 400, inodes: 200, inodes_free: 20 };

    fn room(promised: u128) -> Headroom {
        Headroom { usable: true, begun: false, usage: Some(USAGE), promised }
    }

    fn needs(space: &str, inodes: &str, ratio: &str) -> Requirements {
        let (space, inodes, ratio) = (space.parse().ok(), inodes.parse().ok(), ratio.parse().ok());
        Requirements { space, inodes, ratio }
    }

    #[test]
    fn there_is_room_up_to_the_mark_and_not_beyond() {
        let rows = [
            (needs("400", "", ""), 0, None),
            (needs("401", "", ""), 0, Some(Shortage::Space("401".into()))),
            (needs("40%", "", ""), 0, None),
            (needs("40.1 %", "", ""), 0, Some(Shortage::Space("40.1 %".into()))),
            (needs("0", "0%", ""), 0, None),
            (needs("", "20", ""), 0, None),
            (needs("", "21", ""), 0, Some(Shortage::Inodes("21".into()))),
            (needs("", "10%", ""), 0, None),
            (needs("", "10.1%", ""), 0, Some(Shortage::Inodes("10.1%".into()))),
            (needs("", "", "1.5"), 1400, None),
            (needs("", "", "1.5"), 1401, Some(Shortage::Promised("1.5".into()))),
            (needs("", "", "150%"), 1400, None),
            (needs("", "", "150%"), 1401, Some(Shortage::Promised("150%".into()))),
            (needs("", "", "0.1"), 0, None),
            (needs("", "", "0.1"), u128::MAX, Some(Shortage::Promised("0.1".into()))),
            (needs("1k", "1k", "0.1"), 1, Some(Shortage::Space("1k".into()))),
            (needs("", "", ""), u128::MAX, None),
        ];
        for (needs, promised, expected) in rows {
            assert_eq!(needs.shortage(&room(promised), 100), expected, "{needs:?} {promised}");
            let begun = Headroom { begun: true, ..room(promised) };
            assert_eq!(needs.shortage(&begun, 100), None, "{needs:?}: it has been begun");
        }
    }

    #[test]
    fn an_export_without_inodes_of_its_own_has_enough_and_one_that_says_nothing_is_waited_for() {
        let usage = FsUsage { inodes: 0, inodes_free: 0, ..USAGE };
        let unlimited = Headroom { usage: Some(usage), ..room(0) };
        assert_eq!(needs("", "50%", "").shortage(&unlimited, 1), None);
        let silent = Headroom { usage: None, ..room(0) };
        assert_eq!(needs("", "", "2").shortage(&silent, 1), Some(Shortage::Unknown));
        assert_eq!(needs("", "", "").shortage(&silent, 1), None);
    }

    #[test]
    fn what_means_nothing_is_no_demand() {
        for text in ["", "-1", "%", "101%", "5Gi%", "much", "1e2%", "10%%", "1,5"] {
            assert_eq!(text.parse::<Least>(), Err(()), "{text:?}");
        }
        for text in ["", "-1", "0", "0%", "1Gi", "%", "1e2", "1/2", "2000000"] {
            assert_eq!(text.parse::<Ratio>(), Err(()), "{text:?}");
        }
    }
}
