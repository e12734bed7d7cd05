//! Mode, owner and group of a volume's directory, from class parameters and claim annotations.

use std::fmt;
use std::str::FromStr;

/// Mode, owner and group that a volume's directory gets, and whether an existing directory gets them too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The directory's mode. If unset, everybody may write, as upstream has it, and an existing directory loses no
    /// bits.
    pub mode: Option<Mode>,
    /// The directory's owner. If unset, the user who makes the directory.
    pub uid: Option<u32>,
    /// The directory's group. If unset, the group that the file system gives.
    pub gid: Option<u32>,
    /// Whether an existing directory is left as it is.
    pub keep: bool,
}

/// The mode of a directory that only its owner and its group may enter. Entries made in it inherit the group.
pub const GROUP_MODE: Mode = Mode(0o2770);

/// The highest group id that a Pod can have.
const GID_MAX: u32 = i32::MAX.unsigned_abs();

/// A directory's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Returns the mode's bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_octal = (3..=5).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| is_octal && *bits <= 0o7777);
        bits.map(Self).ok_or(())
    }
}

/// Parses the id of a user or a group. The highest number is refused: to the kernel it means "no change".
#[must_use]
pub fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

/// The range of groups of a class, of which each volume gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GidRange {
    first: u32,
    last: u32,
}

impl GidRange {
    /// Makes the range of one group; `None` for one that is never given to a volume.
    #[must_use]
    pub fn only(gid: u32) -> Option<Self> {
        (0 < gid && gid <= GID_MAX).then_some(Self { first: gid, last: gid })
    }

    /// Tells whether a group is in the range.
    #[must_use]
    pub fn contains(self, gid: u32) -> bool {
        (self.first..=self.last).contains(&gid)
    }

    /// Iterates over the whole range once, starting after `gid` if that is in the range, else at the beginning.
    pub fn behind(self, gid: u32) -> impl Iterator<Item = u32> {
        let from = if self.contains(gid) { gid + 1 } else { self.first };
        (from..=self.last).chain(self.first..from)
    }
}

impl FromStr for GidRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').ok_or(())?;
        let (first, last) = (id(first.trim()).ok_or(())?, id(last.trim()).ok_or(())?);
        // Root's group is not given away.
        if 0 < first && first <= last && last <= GID_MAX { Ok(Self { first, last }) } else { Err(()) }
    }
}

impl fmt::Display for GidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A property of a volume's directory that a claim may set, if its class allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// The directory's mode.
    Mode,
    /// The directory's owner.
    Uid,
    /// The directory's group.
    Gid,
}

impl Aspect {
    /// All aspects.
    pub const ALL: [Self; 3] = [Self::Mode, Self::Uid, Self::Gid];

    /// Returns the aspect's spelling in class parameters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
        }
    }

    /// Returns the claim annotation that sets the aspect.
    #[must_use]
    pub fn annotation(self) -> &'static str {
        match self {
            Self::Mode => "nfs-provisioner/directory-mode",
            Self::Uid => "nfs-provisioner/directory-uid",
            Self::Gid => "nfs-provisioner/directory-gid",
        }
    }

    /// Describes the valid values of the aspect.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Mode => "an octal mode, such as \"0750\" or \"2770\"",
            Self::Uid | Self::Gid => "a number from 0 to 4294967294",
        }
    }

    /// Returns `of` with this aspect set to the value in `text`; `None` if that is not a valid value.
    #[must_use]
    pub fn say(self, text: &str, of: Ownership) -> Option<Ownership> {
        Some(match self {
            Self::Mode => Ownership { mode: Some(text.parse().ok()?), ..of },
            Self::Uid => Ownership { uid: Some(id(text)?), ..of },
            Self::Gid => Ownership { gid: Some(id(text)?), ..of },
        })
    }
}

impl FromStr for Aspect {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|aspect| aspect.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        let rows = [
            ("750", Some(0o750)),
            ("0750", Some(0o750)),
            ("2770", Some(0o2770)),
            ("02770", Some(0o2770)),
            ("7777", Some(0o7777)),
            ("000", Some(0)),
            ("10000", None),
            ("77", None),
            ("780", None),
            ("0o770", None),
            ("+770", None),
            ("-770", None),
            (" 770", None),
            ("rwx", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Mode>().ok().map(Mode::bits), expected, "{text:?}");
        }
    }

    #[test]
    fn ids_are_decimal_and_not_the_one_that_means_no_change() {
        let rows = [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("4294967294", Some(4_294_967_294)),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("root", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(id(text), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_have_at_least_one_group_and_none_that_pods_cannot_have() {
        let good =
            [("1-1", "1-1"), ("50000-60000", "50000-60000"), ("5 - 6", "5-6"), ("1-2147483647", "1-2147483647")];
        for (text, expected) in good {
            assert_eq!(
                text.parse::<GidRange>().map(|range| range.to_string()),
                Ok(expected.to_owned()),
                "{text:?}"
            );
        }
        for text in ["", "5", "-", "5-", "-5", "6-5", "0-5", "1-2147483648", "a-b", "1-2-3"] {
            assert_eq!(text.parse::<GidRange>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn a_range_is_gone_through_from_behind_any_group_and_whole() {
        let range: GidRange = "3-5".parse().unwrap();
        let rows = [(0, [3, 4, 5]), (3, [4, 5, 3]), (4, [5, 3, 4]), (5, [3, 4, 5]), (9, [3, 4, 5])];
        for (behind, expected) in rows {
            assert_eq!(range.behind(behind).collect::<Vec<_>>(), expected, "{behind}");
        }
        let all: GidRange = "1-2147483647".parse().unwrap();
        assert_eq!(all.behind(2_147_483_647).next(), Some(1));
    }

    #[test]
    fn aspects_are_spelled_as_they_are_read() {
        for aspect in Aspect::ALL {
            assert_eq!(aspect.as_str().parse(), Ok(aspect));
            assert!(aspect.annotation().ends_with(aspect.as_str()));
            assert!(aspect.say("750", Ownership::default()).is_some_and(|said| said != Ownership::default()));
            assert_eq!(aspect.say("rwx", Ownership::default()), None);
        }
    }
}
