//! The names of archives.

use crate::layout::names::{ARCHIVE_PREFIX, shorten};
use crate::values::path::{Name, PathError, RelPath};
use crate::values::text::fnv1a;

/// The number of bytes of an archive's name that a volume's name may take. The names of our volumes have 40; the
/// name of a volume that was made by hand may leave no room for anything else, and is then replaced by its hash.
const VOLUME_SHOWN: usize = 128;

/// Makes the name for the archive of a volume's `directory` at the export's root, at the `nth` attempt.
///
/// Attempt 0 gives upstream's name, `archived-<leaf>`. Later attempts, for when that name is taken, append the
/// volume's name and then a number. A name that is too long is cut in front of the volume's name.
///
/// # Errors
/// Returns an error if the volume's name cannot be part of a directory entry's name. The API server accepts no
/// such name: it would have to contain `/` or NUL.
pub fn archive_name(directory: &RelPath, volume: &str, nth: u32) -> Result<Name, PathError> {
    let mut unique = if volume.len() <= VOLUME_SHOWN {
        volume.to_owned()
    } else {
        format!("{:016x}", fnv1a(volume.as_bytes()))
    };
    let mut whole = format!("{ARCHIVE_PREFIX}{}", directory.leaf());
    if nth > 1 {
        unique = format!("{unique}-{nth}");
    }
    if nth > 0 {
        whole = format!("{whole}-{unique}");
    }
    Name::parse(&shorten(&whole, &unique))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::path::NAME_MAX;

    #[test]
    fn archives_have_the_peers_name_where_it_is_free_and_fits() {
        let volume = "pvc-1";
        let rows = [
            ("ns-c-pvc-1", 0, "archived-ns-c-pvc-1"),
            ("ns/c", 0, "archived-c"),
            ("ns/c", 1, "archived-c-pvc-1"),
            ("ns/c", 3, "archived-c-pvc-1-3"),
        ];
        for (directory, nth, expected) in rows {
            let directory = RelPath::parse(directory).unwrap();
            assert_eq!(archive_name(&directory, volume, nth).unwrap().as_str(), expected);
        }
        let longest = RelPath::parse(&"é".repeat(NAME_MAX / 2)).unwrap();
        for nth in [0, 1, 2] {
            let name = archive_name(&longest, volume, nth).unwrap();
            assert!(name.as_str().len() <= NAME_MAX && name.as_str().contains("-pvc-1"), "{name}");
        }
        assert_ne!(archive_name(&longest, volume, 1), archive_name(&longest, volume, 2));
        assert_eq!(archive_name(&longest, "a/b", 1), Err(PathError::Outside));
    }
}
