//! The staging place of a volume, in which a copy for it is made: `<STAGING>/<volume>/copy`, which is then renamed
//! to the volume's directory.
//!
//! A file named [`MAKER`] says who makes the copy, and is touched as long as it is being made: by that others tell a
//! copy that is being made from one that somebody has left.
//!
//! When the copy is complete, a file named `complete-<inode>` is put beside it. A directory with that inode's number,
//! of which the rest is as the file says, is then known to be the copy, even after a crash at any point.

use serde::{Deserialize, Serialize};

use crate::layout::names::STAGING;
use crate::values::path::{Name, PathError, RelPath};

/// The directory that becomes the copy, in a volume's place.
pub const COPY: &str = "copy";

/// The directory for files that have several names in the copy, in a volume's place.
pub const LINKS: &str = "links";

/// The file that says who makes the copy, in a volume's place.
pub const MAKER: &str = "maker";

/// The largest size in bytes of a file of ours in a volume's place. Those that are written are far smaller.
pub const FILE_MAX: usize = 64 * 1024;

const MARK_PREFIX: &str = "complete-";

/// Makes the path of the directory that holds the places of all volumes.
///
/// # Errors
/// Returns no error: the path is one valid name.
pub fn above_places() -> Result<RelPath, PathError> {
    RelPath::parse(STAGING)
}

/// Makes the path of the place in which the copy for a volume is made.
///
/// # Errors
/// Returns an error if the volume's name is not the name of one directory entry: the path must not lead to another
/// volume's place, or to all of them. Names that the API server accepts give no error.
pub fn place(volume: &str) -> Result<RelPath, PathError> {
    RelPath::parse(&format!("{STAGING}/{}", Name::parse(volume)?))
}

/// Makes the name of the file in a volume's place that marks the copy with this inode's number as complete.
#[must_use]
pub fn mark(inode: u64) -> String {
    format!("{MARK_PREFIX}{inode}")
}

/// Reads the inode's number from a name that [`mark`] has made; returns `None` for any other name.
#[must_use]
pub fn parse_mark(name: &str) -> Option<u64> {
    let inode = name.strip_prefix(MARK_PREFIX)?.parse().ok()?;
    // One number has one name: neither "+1" nor "01" is one.
    (mark(inode) == name).then_some(inode)
}

/// The makers of a copy, as its place says.
///
/// Whoever reads it takes the copy for his own if he knows one of the names. They must be such that nobody else who
/// shares the export has them, in whatever cluster. Unknown fields are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// The names that the maker goes by.
    pub owners: Vec<String>,
}

impl Maker {
    /// Writes it as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        line(self)
    }

    /// Reads what [`Maker::to_json`] has written; a text that is nothing such names nobody.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Tells whether one of these names is one of the maker's.
    #[must_use]
    pub fn is_one_of(&self, owners: &[String]) -> bool {
        self.owners.iter().any(|owner| owners.contains(owner))
    }
}

/// A time on the export, as a mark says it: seconds since 1970, and nanoseconds.
pub type MarkTime = (i64, u32);

/// What a mark says of the complete copy, beside its inode's number: that may be another directory's one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The path of the directory that the copy is for.
    pub directory: String,
    /// The mode that the copy's own directory got.
    pub mode: u32,
    /// The owner that it got.
    pub uid: u32,
    /// The group that it got.
    pub gid: u32,
    /// The time of its last change, which it has from its source.
    pub modified: MarkTime,
    /// The time at which it was made, where the file system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<MarkTime>,
}

/// How long after its mark a copy may have been changed, in seconds, where nobody tells when it was made: servers may
/// take the rename for a change.
const RENAMED_WITHIN: i64 = 120;

impl Mark {
    /// Writes it as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        line(self)
    }

    /// Tells whether a mark's `text`, which was written at `marked`, was written for the directory of which `found`
    /// says the same as a mark would. Its inode's number is not looked at here.
    ///
    /// If it is known when each was made, that decides. Else the owners and the mode have to be the same, and the time
    /// of the last change, too, unless that is a time at which the rename may have been. A mark of a version that
    /// wrote only the path is taken at its word.
    #[must_use]
    pub fn is_for(text: &str, marked: i64, found: &Self) -> bool {
        let Ok(mark) = serde_json::from_str::<Self>(text) else { return text == found.directory };
        if let (Some(born), Some(found)) = (mark.born, found.born) {
            return born == found;
        }
        let is_unchanged = mark.modified == found.modified
            || (marked.saturating_sub(1)..=marked.saturating_add(RENAMED_WITHIN)).contains(&found.modified.0);
        (mark.mode, mark.uid, mark.gid) == (found.mode, found.uid, found.gid) && is_unchanged
    }
}

fn line(value: &impl Serialize) -> String {
    // Text and numbers can always be written.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_in_a_place_of_its_volume_alone() {
        assert_eq!(place("pvc-1").unwrap().as_str(), ".nfs-provisioner-clones/pvc-1");
        for volume in ["", ".", "..", "a/b", "../x", "/", "a\0"] {
            assert!(place(volume).is_err(), "{volume:?}");
        }
    }

    #[test]
    fn marks_are_read_as_they_are_written_and_nothing_else_is_one() {
        assert_eq!(mark(42), "complete-42");
        for inode in [0, 42, u64::MAX] {
            assert_eq!(parse_mark(&mark(inode)), Some(inode));
        }
        for name in
            ["", "42", "complete-", "complete-+1", "complete-01", "complete- 1", "complete-1\n", "Complete-1"]
        {
            assert_eq!(parse_mark(name), None, "{name:?}");
        }
        assert_eq!(parse_mark("complete-18446744073709551616"), None);
    }
    #[test]
    fn a_mark_is_for_the_directory_that_was_marked_and_no_later_one_of_its_number() {
        let mark = Mark {
            directory: "ns/to".to_owned(),
            mode: 0o2770,
            uid: 3,
            gid: 4,
            modified: (1_000, 5),
            born: Some((2_000, 6)),
        };
        let (text, marked) = (mark.to_json(), 3_000);
        let is_for = |found: Mark| Mark::is_for(&text, marked, &found);
        assert!(is_for(mark.clone()));
        assert!(is_for(Mark { mode: 0, uid: 0, modified: (9_999, 0), ..mark.clone() }), "used since");
        assert!(!is_for(Mark { born: Some((2_000, 7)), ..mark.clone() }), "another");
        let untold = Mark { born: None, ..mark };
        assert!(is_for(untold.clone()));
        assert!(is_for(Mark { modified: (marked + 3, 0), ..untold.clone() }), "the rename may have changed it");
        for other in [
            Mark { modified: (marked + 3_600, 0), ..untold.clone() },
            Mark { modified: (1_000, 6), ..untold.clone() },
            Mark { mode: 0o777, ..untold.clone() },
            Mark { uid: 0, ..untold.clone() },
            Mark { gid: 0, ..untold.clone() },
        ] {
            assert!(!is_for(other.clone()), "{other:?}");
        }
        // By the version that wrote the path alone.
        assert!(Mark::is_for("ns/to", marked, &untold));
        for torn in ["", "{\"dire", "ns/other"] {
            assert!(!Mark::is_for(torn, marked, &untold), "{torn:?}");
        }
    }

    #[test]
    fn a_place_is_ones_own_only_if_its_note_says_so() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let maker = Maker { owners: names(&["a", "b"]) };
        let read = Maker::parse(&maker.to_json());
        assert_eq!(read, maker);
        assert!(read.is_one_of(&names(&["c", "b"])));
        assert!(!read.is_one_of(&names(&["c"])) && !read.is_one_of(&[]));
        for none in ["", "{}", "{\"owners\":", "null", "[\"a\"]"] {
            assert!(!Maker::parse(none).is_one_of(&names(&["a", "b"])), "{none:?}");
        }
    }
}
