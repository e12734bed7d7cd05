//! The staging place of a volume, in which a copy for it is made: `<STAGING>/<volume>/copy`, which is then renamed
//! to the volume's directory.
//!
//! Before the rename, a file named `complete-<inode>` is put beside the copy. A directory with that inode's number
//! is then known to be the copy, even after a crash at any point.

use crate::layout::names::STAGING;
use crate::values::path::{Name, PathError, RelPath};

/// The directory that becomes the copy, in a volume's place.
pub const COPY: &str = "copy";

/// The directory for files that have several names in the copy, in a volume's place.
pub const LINKS: &str = "links";

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
}
