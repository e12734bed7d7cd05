//! The names of entries in the trash. Each says everything that the program needs to know of its entry.
//!
//! The trash is the directory [`super::TRASH`] at the export's root. A volume's directory that is to be deleted is
//! renamed into it, and removed from there by this process, even after a restart, by another replica, or by
//! another cluster that shares the export. There is no other record: the directory is the queue.
//!
//! Where that directory is another user's, there is one beside it; where there is no room to make one or to take one
//! more entry, an entry lies at the root itself, because what is deleted from a full export is what makes room there.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use crate::layout::names::{TRASH, numbered};
use crate::values::path::{NAME_MAX, RelPath};
use crate::values::retention::{Keep, Retention};
use crate::values::text::fnv1a;

/// The separator between a name's parts. Inside the parts it is escaped.
const SEPARATOR: char = '~';

/// What the largest number and two separators take of a name.
const REST_MAX: usize = 22;

/// The separator between the numbers at the beginning of the name of an entry that is kept.
const PLUS: char = '+';

/// What the numbers take that say for how long an entry is kept, with the [`PLUS`] before each: at most 20 digits,
/// and an amount of at most 20 characters.
const KEEP_MAX: usize = 42;

/// Where an entry of the trash lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrashPlace {
    /// In the directory that [`numbered`] names with [`TRASH`] and this number.
    Directory(u8),
    /// At the export's root, where its name begins with [`TRASH`] and `~`.
    Root,
}

impl TrashPlace {
    /// Returns the longest name that an entry can have there, after the beginning that all have.
    fn name_max(self) -> usize {
        match self {
            Self::Directory(_) => NAME_MAX,
            Self::Root => NAME_MAX - TRASH.len() - SEPARATOR.len_utf8(),
        }
    }
}

/// The name of an entry in the trash: `<seconds>~<volume>~<directory>`, or, of one that is kept for some time,
/// `<seconds>+<seconds to keep>~<volume>~<directory>` or `<seconds>+<seconds to keep>+<least
/// free>~<volume>~<directory>`.
///
/// The parts are the time at which the directory was put there, in seconds since 1970, the volume's name, and the
/// path of the volume's directory beneath the export. `%`, `~`, `/` and control characters in the last two are
/// written `%XX`. The least free space is a number of bytes, or of percent of the export with `%` behind it: where
/// less is free, the entry need not be kept.
///
/// Guarantees: a name fits into a directory entry, and [`FromStr`] reads text that [`fmt::Display`] has written to an
/// equal value, [`TrashPlace::Directory`] 1 being taken for its place. To fit, a volume's name of more than 233 bytes
/// (191 where the entry is kept) is cut and gets `-` and a hash of the whole name, in 16 hexadecimal digits, at its
/// end; a directory that then still does not fit is left out. At the root, names are shorter by what stands before
/// them there.
///
/// Names of any other shape are not ours to touch. The first version knew no entries that are kept, and so leaves
/// alone what is named like one. A later version that wants something else of entries must give them yet another
/// shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrashName {
    place: TrashPlace,
    at: u64,
    keep: Option<Keep>,
    volume: Box<str>,
    directory: Option<RelPath>,
}

/// The error for a text that is not the name of an entry in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a name that the provisioner gives in its trash")]
pub struct NotATrashName;

impl TrashName {
    /// Makes the name for the `directory` of `volume`, put into the trash at `at`, in seconds since 1970.
    #[must_use]
    pub fn new(at: u64, volume: &str, directory: &RelPath) -> Self {
        Self::new_in(TrashPlace::Directory(1), at, None, volume, directory)
    }

    /// Makes the name as [`TrashName::new`] does, for an entry that lies in `place`, and is kept there if `keep` says
    /// so.
    #[must_use]
    pub fn new_in(place: TrashPlace, at: u64, keep: Option<&Keep>, volume: &str, directory: &RelPath) -> Self {
        let rest = REST_MAX + keep.map_or(0, |_| KEEP_MAX);
        let volume = shortened(volume, place.name_max() - rest).into();
        let mut name = Self { place, at, keep: keep.cloned(), volume, directory: Some(directory.clone()) };
        if name.to_string().len() > place.name_max() {
            name.directory = None;
        }
        name
    }

    /// Reads the name of an entry that lies at the export's root; returns `None` for any other name.
    #[must_use]
    pub fn at_root(entry: &str) -> Option<Self> {
        let name: Self = entry.strip_prefix(TRASH)?.strip_prefix(SEPARATOR)?.parse().ok()?;
        let name = name.found_in(TrashPlace::Root);
        (entry.len() <= NAME_MAX).then_some(name)
    }

    /// Returns the same name, of an entry that was found in `place`.
    #[must_use]
    pub fn found_in(self, place: TrashPlace) -> Self {
        Self { place, ..self }
    }

    /// Returns where the entry lies.
    #[must_use]
    pub fn place(&self) -> TrashPlace {
        self.place
    }

    /// Returns the name of the entry in the directory where it lies.
    #[must_use]
    pub fn entry(&self) -> String {
        match self.place {
            TrashPlace::Directory(_) => self.to_string(),
            TrashPlace::Root => format!("{TRASH}{SEPARATOR}{self}"),
        }
    }

    /// Returns the path of the entry beneath the export.
    #[must_use]
    pub fn path(&self) -> String {
        match self.place {
            TrashPlace::Directory(number) => format!("{}/{self}", numbered(TRASH, number)),
            TrashPlace::Root => self.entry(),
        }
    }

    /// Returns the time at which the entry was put into the trash, in seconds since 1970.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Returns for how long the entry is kept, if it is.
    #[must_use]
    pub fn keep(&self) -> Option<&Keep> {
        self.keep.as_ref()
    }

    /// Returns the time until which the entry is kept, in seconds since 1970; `None` if it is to go at once. It
    /// counts from [`TrashName::at`], also where that lies in the future: a clock that is wrong never has an entry go
    /// earlier than it says itself.
    #[must_use]
    pub fn kept_until(&self) -> Option<u64> {
        self.keep.as_ref().map(|keep| self.at.saturating_add(keep.retention().seconds()))
    }

    /// Tells whether nothing keeps the entry any more at the time `now`, in seconds since 1970.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        self.kept_until().is_none_or(|until| until <= now)
    }

    /// Returns the name of the same entry when it is not kept any more.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { keep: None, ..self.clone() }
    }

    /// Returns the volume's name, cut if it is very long.
    #[must_use]
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// Returns the path that the directory had beneath the export, if there was room for it in the name.
    #[must_use]
    pub fn directory(&self) -> Option<&RelPath> {
        self.directory.as_ref()
    }
}

impl fmt::Display for TrashName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.directory.as_ref().map_or("", RelPath::as_str);
        write!(f, "{}", self.at)?;
        if let Some(keep) = &self.keep {
            write!(f, "{PLUS}{}", keep.retention().seconds())?;
        }
        if let Some(least) = self.keep.as_ref().and_then(Keep::min_free) {
            write!(f, "{PLUS}{least}")?;
        }
        write!(f, "{SEPARATOR}{}{SEPARATOR}{}", escaped(&self.volume), escaped(directory))
    }
}

impl FromStr for TrashName {
    type Err = NotATrashName;

    fn from_str(text: &str) -> Result<Self, NotATrashName> {
        let read = || {
            let mut parts = text.split(SEPARATOR);
            let (when, volume, directory) = (parts.next()?, parts.next()?, parts.next()?);
            let (at, keep) = read_when(when)?;
            let directory = match directory {
                "" => None,
                directory => Some(RelPath::parse(&unescaped(directory)?).ok()?),
            };
            let volume = Some(unescaped(volume)?).filter(|volume| !volume.is_empty())?;
            let place = TrashPlace::Directory(1);
            Some(Self { place, at, keep, volume: volume.into(), directory })
        };
        // Only a name that we would have written ourselves counts: one entry has one name.
        let is_ours = |name: &Self| text.len() <= NAME_MAX && name.to_string() == text;
        read().filter(is_ours).ok_or(NotATrashName)
    }
}

/// Reads the first part of a name: when the entry was put into the trash, and for how long it is kept.
fn read_when(text: &str) -> Option<(u64, Option<Keep>)> {
    let mut numbers = text.split(PLUS);
    let at = numbers.next()?.parse().ok()?;
    let Some(seconds) = numbers.next() else { return Some((at, None)) };
    let retention = Retention::of_seconds(seconds.parse().ok()?)?;
    let least = match numbers.next() {
        None => None,
        Some(least) => Some(least.parse().ok()?),
    };
    Some((at, Some(Keep::new(retention, least.as_ref()))))
}

/// Returns the volume's name if it takes no more than `most` bytes when it is escaped, else its beginning and a hash
/// of all of it, which is the same everywhere.
fn shortened(volume: &str, most: usize) -> String {
    if escaped(volume).len() <= most {
        return volume.to_owned();
    }
    let hash = format!("-{:016x}", fnv1a(volume.as_bytes()));
    let mut kept = String::new();
    let mut room = most - hash.len();
    for character in volume.chars() {
        let needed = escaped(character.encode_utf8(&mut [0; 4])).len();
        let Some(left) = room.checked_sub(needed) else { break };
        room = left;
        kept.push(character);
    }
    kept + &hash
}

fn escaped(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for character in text.chars() {
        if !matches!(character, '%' | '/' | SEPARATOR) && !character.is_control() {
            written.push(character);
            continue;
        }
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a String does not fail.
            let _ = write!(written, "%{byte:02X}");
        }
    }
    written
}

/// Returns the text that [`escaped`] was given; `None` for text that it cannot have written.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(at: u64, volume: &str, directory: &str) -> TrashName {
        TrashName::new(at, volume, &RelPath::parse(directory).unwrap())
    }

    #[test]
    fn names_say_when_whose_and_where() {
        let rows = [
            (name(0, "v", "a"), "0~v~a"),
            (name(1_700_000_000, "pvc-1", "ns/claim"), "1700000000~pvc-1~ns%2Fclaim"),
            (name(1, "a.b", "100%/x~y/ü"), "1~a.b~100%25%2Fx%7Ey%2Fü"),
            (name(1, "v", "new\nline\u{85}"), "1~v~new%0Aline%C2%85"),
            (name(u64::MAX, "v", "%2F"), "18446744073709551615~v~%252F"),
        ];
        for (name, text) in rows {
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_we_would_not_have_written_is_no_name() {
        let long = format!("1~v~{}", "x".repeat(252));
        for text in [
            "",
            "1",
            "1~v",
            "~v~a",
            "1~~a",
            "1~v~a~b",
            "01~v~a",
            "+1~v~a",
            "-1~v~a",
            "1 ~v~a",
            "x~v~a",
            "1~v~a/b",
            "1~v~..",
            "1~v~a%2F..",
            "1~v~%2Fa",
            "1~v~a%2F",
            "1~v~a%2f",
            "1~v~%41",
            "1~v~%",
            "1~v~%2",
            "1~v~%zz",
            "1~v~%FF",
            "1~v~%00",
            "1~v~a\n",
            "1~v%~a",
            "18446744073709551616~v~a",
            "1+~v~a",
            "1+0~v~a",
            "+60~v~a",
            "1++60~v~a",
            "1+060~v~a",
            "1+60s~v~a",
            "1+-60~v~a",
            "1-60~v~a",
            "1+3153600001~v~a",
            "1+60+~v~a",
            "1+60+5~v~a~",
            "1+60+5+5~v~a",
            "1+60+05~v~a",
            "1+60+5Gi~v~a",
            "1+60+10.0%~v~a",
            "1+60+101%~v~a",
            "1+60+%~v~a",
            "1+60+10%25~v~a",
            "1%2B60~v~a",
            "1+60~~a",
            "1~+60~v~a",
            "1~v~%+2",
            &long,
        ] {
            assert_eq!(text.parse::<TrashName>(), Err(NotATrashName), "{text:?}");
        }
    }

    #[test]
    fn names_that_do_not_fit_lose_the_directory_and_then_the_end_of_the_volume() {
        let fits = name(1, "v", &"x".repeat(NAME_MAX - 4));
        assert_eq!(fits.to_string().len(), NAME_MAX);
        assert_eq!(name(1, "v", &format!("x/{}", "x".repeat(NAME_MAX - 5))).to_string(), "1~v~");
        let longest = ["a".repeat(252) + "b", "a".repeat(252) + "c"].map(|volume| name(1, &volume, "d"));
        assert_ne!(longest[0], longest[1]);
        for name in longest {
            assert_eq!(name.volume().len(), 233, "{name}");
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        // Names on disk: this one must never change.
        assert_eq!(shortened(&"é".repeat(200), 233), format!("{}-bd62f1ecfb466f85", "é".repeat(108)));
        assert!(name(u64::MAX, &"~".repeat(253), "d").to_string().len() <= NAME_MAX);
    }

    fn keep(retention: &str, min_free: Option<&str>) -> Keep {
        Keep::new(retention.parse().unwrap(), min_free.map(|text| text.parse().unwrap()).as_ref())
    }

    /// Makes the name of an entry that is kept.
    fn kept(place: TrashPlace, at: u64, keep: &Keep, volume: &str, directory: &str) -> TrashName {
        TrashName::new_in(place, at, Some(keep), volume, &RelPath::parse(directory).unwrap())
    }

    #[test]
    fn names_say_for_how_long() {
        let rows = [
            (keep("30d", None), "1700000000+2592000~v~ns%2Fa", 1_702_592_000),
            (keep("1s", Some("5Gi")), "1700000000+1+5368709120~v~ns%2Fa", 1_700_000_001),
            (keep("1h", Some("10.50 %")), "1700000000+3600+10.5%~v~ns%2Fa", 1_700_003_600),
        ];
        for (keep, text, until) in rows {
            let name = kept(TrashPlace::Directory(1), 1_700_000_000, &keep, "v", "ns/a");
            assert_eq!((name.to_string().as_str(), name.kept_until()), (text, Some(until)));
            assert_eq!((name.at(), name.keep()), (1_700_000_000, Some(&keep)));
            assert_eq!(text.parse(), Ok(name.clone()), "{text}");
            assert!(!name.is_due(until - 1) && name.is_due(until), "{text}");
            assert!(!name.is_due(0), "a clock that is far behind keeps it");
        }
        assert!(name(u64::MAX, "v", "a").is_due(0), "what is not kept is always due");
        let never = kept(TrashPlace::Directory(1), u64::MAX, &keep("30d", None), "v", "a");
        assert_eq!(never.kept_until(), Some(u64::MAX));
    }

    /// How the first version that had a trash read names. Whoever still runs it must not remove what is kept.
    fn first_version_reads(text: &str) -> bool {
        let mut parts = text.split('~');
        let (Some(at), Some(volume), Some(directory)) = (parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        let (Ok(at), Some(volume), Some(directory)) = (at.parse::<u64>(), unescaped(volume), unescaped(directory))
        else {
            return false;
        };
        let is_path = directory.is_empty() || RelPath::parse(&directory).is_ok();
        let again = format!("{at}~{}~{}", escaped(&volume), escaped(&directory));
        is_path && !volume.is_empty() && text.len() <= NAME_MAX && again == text
    }

    #[test]
    fn the_first_version_leaves_alone_what_is_kept() {
        assert!(first_version_reads("1700000000~pvc-1~ns%2Fclaim") && first_version_reads("1~v~"));
        let at_root = |entry: &str| {
            let name = entry.strip_prefix(TRASH).and_then(|rest| rest.strip_prefix('~'));
            name.is_some_and(first_version_reads)
        };
        assert!(at_root(".nfs-provisioner-trash~1~pvc-1~a"));
        for keep in [keep("1s", None), keep("36500d", Some("0")), keep("1d", Some("10%"))] {
            for directory in ["a", "ns/claim", "1~2~3", &"x".repeat(255)] {
                let name = kept(TrashPlace::Directory(1), 0, &keep, "pvc-1", directory);
                assert!(!first_version_reads(&name.to_string()), "{name}");
                let name = kept(TrashPlace::Root, 0, &keep, "pvc-1", directory);
                assert!(!at_root(&name.entry()) && TrashName::at_root(&name.entry()) == Some(name));
            }
        }
    }

    #[test]
    fn the_longest_names_of_what_is_kept_fit() {
        let longest = keep("36500d", Some("18446744073709551615"));
        for place in [TrashPlace::Directory(1), TrashPlace::Root] {
            for volume in ["pvc-1", &"v".repeat(253), &"~".repeat(253)] {
                let name = kept(place, u64::MAX, &longest, volume, &"x".repeat(255));
                assert!(name.entry().len() <= NAME_MAX, "{name}");
                let read: Option<TrashName> = name.to_string().parse().ok();
                assert_eq!(read.map(|read| read.found_in(place)), Some(name));
            }
        }
        let cut = kept(TrashPlace::Directory(1), 1, &longest, &"v".repeat(253), "a");
        assert_eq!(cut.volume().len(), 191);
    }

    #[test]
    fn a_name_at_the_root_is_read_back_and_fits() {
        let directory = RelPath::parse("ns/claim").unwrap();
        let name = TrashName::new_in(TrashPlace::Root, 1, None, "pvc-1", &directory);
        assert_eq!(name.entry(), ".nfs-provisioner-trash~1~pvc-1~ns%2Fclaim");
        assert_eq!((name.path(), name.to_string()), (name.entry(), "1~pvc-1~ns%2Fclaim".to_owned()));
        for volume in ["pvc-1", &"v".repeat(253), &"~".repeat(253)] {
            for directory in ["a", &"x".repeat(255), &"x/".repeat(127)] {
                let directory = RelPath::parse(directory).unwrap();
                let name = TrashName::new_in(TrashPlace::Root, u64::MAX, None, volume, &directory);
                assert!(name.entry().len() <= NAME_MAX, "{name}");
                assert_eq!(TrashName::at_root(&name.entry()), Some(name));
            }
        }
        let second = name.found_in(TrashPlace::Directory(2));
        assert_eq!(second.path(), ".nfs-provisioner-trash-2/1~pvc-1~ns%2Fclaim");
        for other in ["1~pvc-1~a", ".nfs-provisioner-trash", ".nfs-provisioner-trash-2~1~pvc-1~a", "~1~pvc-1~a"] {
            assert_eq!(TrashName::at_root(other), None, "{other}");
        }
    }

    #[test]
    fn any_name_is_read_as_it_was_written() {
        let characters: Vec<char> = "az09.-~%/\n\u{0}\u{7f}é€𝄞+ 2F".chars().collect();
        let mut random = fastrand::Rng::with_seed(7);
        let mut met = [0; 2];
        for _ in 0..20_000 {
            let length = random.usize(1..300);
            let text: String = (0..length).map(|_| characters[random.usize(..characters.len())]).collect();
            let Ok(directory) = RelPath::parse(&text.replace('\0', "")) else { continue };
            let keep = match random.u8(..3) {
                0 => None,
                1 => Some(keep("36500d", None)),
                _ => Some(keep("90m", Some(&random.u64(..).to_string()))),
            };
            let place = TrashPlace::Directory(1);
            let name = TrashName::new_in(place, random.u64(..), keep.as_ref(), &text, &directory);
            let written = name.to_string();
            assert!(written.len() <= NAME_MAX && !written.contains(['/', '\0', '\n']), "{written:?}");
            assert_eq!(written.parse().as_ref(), Ok(&name), "{written:?}");
            assert!(name.directory().is_none_or(|kept| *kept == directory));
            met[usize::from(name.directory().is_some())] += 1;
        }
        assert!(met.iter().all(|times| *times > 100), "{met:?}");
    }
}
