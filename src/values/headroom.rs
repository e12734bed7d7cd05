//! Capacity limits: how full an export is, and how much of it a class leaves free.
//!
//! A watermark (`minFreeSpace`, `minFreeInodes`) looks at what is free now; the sizes that claims request do not
//! count, because NFS reserves nothing. A ratio (`maxOvercommit`) looks at the sizes promised to volumes, however
//! much of that they use. A class may set either, or both.

use std::fmt;
use std::str::FromStr;

use crate::values::quantity::{BILLION, billionths};

/// The class parameter that sets [`Requirements::space`].
pub const MIN_FREE_SPACE: &str = "minFreeSpace";

/// The class parameter that sets [`Requirements::inodes`].
pub const MIN_FREE_INODES: &str = "minFreeInodes";

/// The class parameter that sets [`Requirements::ratio`].
pub const MAX_OVERCOMMIT: &str = "maxOvercommit";

/// A percent, in billionths.
const PERCENT: u128 = BILLION / 100;

/// The size of a file system, and what is free of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// The file system's size in bytes.
    pub bytes: u64,
    /// The number of bytes that users other than root can still write.
    pub bytes_free: u64,
    /// The number of files and directories that there can be; 0 if there is no such limit.
    pub inodes: u64,
    /// The number of files and directories that users other than root can still make.
    pub inodes_free: u64,
}

/// The state of an export, as far as known, for a claim that may be served there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Whether the export can be used and answers.
    pub usable: bool,
    /// Whether the claim's directory has been begun there. The claim then stays on this export, and has room.
    pub begun: bool,
    /// Size and free space of the export; `None` before its first answer.
    pub usage: Option<FsUsage>,
    /// The capacities of all volumes on the export but the claim's own, in bytes.
    pub promised: u128,
}

/// The least amount that must be free: a number, or a part of the whole. Shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Least {
    text: Box<str>,
    amount: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Amount {
    Number(u64),
    /// A part of the whole, in billionths.
    Part(u128),
}

/// The number of times that an export's size may be promised to volumes. Shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ratio {
    text: Box<str>,
    billionths: u128,
}

/// The demands of a class on an export before a volume is made there, or grows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The least space that must be free.
    pub space: Option<Least>,
    /// The least number of files and directories that it must still be possible to make.
    pub inodes: Option<Least>,
    /// The limit of what volumes may be promised together, as a multiple of the export's size.
    pub ratio: Option<Ratio>,
}

/// The reason why an export has no room.
///
/// The text follows the export's address in a sentence. It contains no number that changes, so that an event which
/// is repeated at each try stays one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    /// Too little space is free.
    Space(Box<str>),
    /// Too few files and directories can still be made.
    Inodes(Box<str>),
    /// The volumes would be promised too much.
    Promised(Box<str>),
    /// The export has not said yet how full it is.
    Unknown,
}

impl Least {
    /// Returns the amount for a file system of this size.
    fn of(&self, whole: u64) -> u128 {
        match self.amount {
            Amount::Number(number) => number.into(),
            Amount::Part(part) => (u128::from(whole) * part).div_ceil(BILLION),
        }
    }

    /// Tells whether `free` of a `whole` is less than this.
    #[must_use]
    pub fn is_lacking(&self, free: u64, whole: u64) -> bool {
        u128::from(free) < self.of(whole)
    }

    /// Returns the same amount as it is written on disk: as a number, or as a number of percent. Each amount is
    /// written in one way, of at most 20 characters, which [`FromStr`] reads to an equal value.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let text = match self.amount {
            Amount::Number(number) => number.to_string(),
            Amount::Part(part) => {
                let (whole, rest) = (part / PERCENT, part % PERCENT);
                let fraction = format!(".{rest:07}");
                format!("{whole}{}%", fraction.trim_end_matches('0').trim_end_matches('.'))
            }
        };
        Self { text: text.into(), amount: self.amount }
    }
}

impl fmt::Display for Least {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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

/// Parses the text before a percent sign, as billionths of the whole.
fn percent(text: &str) -> Option<u128> {
    plain(text.trim_end()).map(|number| number / 100)
}

/// Parses a number without a unit, as billionths; `None` if it is too large to be multiplied by a size.
fn plain(text: &str) -> Option<u128> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    billionths(text).filter(|number| is_plain && *number <= 1_000_000 * BILLION)
}

impl Requirements {
    /// Finds what an export lacks for a volume of `request` bytes, if anything.
    #[must_use]
    pub fn shortage(&self, headroom: &Headroom, request: u64) -> Option<Shortage> {
        if headroom.begun || *self == Self::default() {
            return None;
        }
        let Some(usage) = headroom.usage else { return Some(Shortage::Unknown) };
        let lacks = |least: &&Least, free: u64, whole: u64| least.is_lacking(free, whole);
        if let Some(least) = self.space.as_ref().filter(|least| lacks(least, usage.bytes_free, usage.bytes)) {
            return Some(Shortage::Space(least.text.clone()));
        }
        let counts = |_: &&Least| usage.inodes > 0;
        let least = self.inodes.as_ref().filter(counts);
        if let Some(least) = least.filter(|least| lacks(least, usage.inodes_free, usage.inodes)) {
            return Some(Shortage::Inodes(least.text.clone()));
        }
        let ratio = self.ratio.as_ref()?;
        let after = headroom.promised.saturating_add(request.into());
        (after > ratio.of(usage.bytes)).then(|| Shortage::Promised(ratio.text.clone()))
    }

    /// Returns how many bytes volumes may be promised together on an export; `None` if there is no ratio, or the
    /// export's size is not known.
    #[must_use]
    pub fn limit(&self, headroom: &Headroom) -> Option<u128> {
        self.ratio.as_ref().zip(headroom.usage).map(|(ratio, usage)| ratio.of(usage.bytes))
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

    fn headroom(promised: u128) -> Headroom {
        Headroom { usable: true, begun: false, usage: Some(USAGE), promised }
    }

    fn demands(space: &str, inodes: &str, ratio: &str) -> Requirements {
        let (space, inodes, ratio) = (space.parse().ok(), inodes.parse().ok(), ratio.parse().ok());
        Requirements { space, inodes, ratio }
    }

    #[test]
    fn there_is_room_up_to_the_mark_and_not_beyond() {
        let rows = [
            (demands("400", "", ""), 0, None),
            (demands("401", "", ""), 0, Some(Shortage::Space("401".into()))),
            (demands("40%", "", ""), 0, None),
            (demands("40.1 %", "", ""), 0, Some(Shortage::Space("40.1 %".into()))),
            (demands("0", "0%", ""), 0, None),
            (demands("", "20", ""), 0, None),
            (demands("", "21", ""), 0, Some(Shortage::Inodes("21".into()))),
            (demands("", "10%", ""), 0, None),
            (demands("", "10.1%", ""), 0, Some(Shortage::Inodes("10.1%".into()))),
            (demands("", "", "1.5"), 1400, None),
            (demands("", "", "1.5"), 1401, Some(Shortage::Promised("1.5".into()))),
            (demands("", "", "150%"), 1400, None),
            (demands("", "", "150%"), 1401, Some(Shortage::Promised("150%".into()))),
            (demands("", "", "0.1"), 0, None),
            (demands("", "", "0.1"), u128::MAX, Some(Shortage::Promised("0.1".into()))),
            (demands("1k", "1k", "0.1"), 1, Some(Shortage::Space("1k".into()))),
            (demands("", "", ""), u128::MAX, None),
        ];
        for (demands, promised, expected) in rows {
            assert_eq!(demands.shortage(&headroom(promised), 100), expected, "{demands:?} {promised}");
            let begun = Headroom { begun: true, ..headroom(promised) };
            assert_eq!(demands.shortage(&begun, 100), None, "{demands:?}: it has been begun");
        }
    }

    #[test]
    fn an_export_without_inodes_of_its_own_has_enough_and_one_that_says_nothing_is_waited_for() {
        let usage = FsUsage { inodes: 0, inodes_free: 0, ..USAGE };
        let unlimited = Headroom { usage: Some(usage), ..headroom(0) };
        assert_eq!(demands("", "50%", "").shortage(&unlimited, 1), None);
        let silent = Headroom { usage: None, ..headroom(0) };
        assert_eq!(demands("", "", "2").shortage(&silent, 1), Some(Shortage::Unknown));
        assert_eq!(demands("", "", "").shortage(&silent, 1), None);
    }

    #[test]
    fn an_amount_is_normalized_to_one_text_that_is_read_back() {
        let rows = [
            ("400", "400"),
            ("1Ki", "1024"),
            ("1.5Ki", "1536"),
            ("10%", "10%"),
            ("010.50 %", "10.5%"),
            ("0.00%", "0%"),
            ("100%", "100%"),
            ("0.0000001%", "0.0000001%"),
            ("99.9999999%", "99.9999999%"),
            ("18446744073709551615", "18446744073709551615"),
        ];
        for (text, expected) in rows {
            let normalized = text.parse::<Least>().unwrap().normalized();
            assert_eq!(normalized.to_string(), expected, "{text}");
            assert!(expected.len() <= 20);
            assert_eq!(expected.parse(), Ok(normalized), "{text}");
        }
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
