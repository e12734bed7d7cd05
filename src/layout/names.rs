//! The names at an export's root: which ones are ours, and which ones a volume can get.

use crate::values::path::{NAME_MAX, PathError, RelPath};

/// The beginning of the names at an export's root that we keep for ourselves: no claim gets one.
///
/// Covers the names of later versions too, so that this version leaves alone what it does not know.
pub const RESERVED_PREFIX: &str = ".nfs-provisioner";

/// The beginning of an archive's name, which is the same as upstream's.
pub const ARCHIVE_PREFIX: &str = "archived-";

/// The trash: the directory of entries to be removed, each under a [`super::TrashName`]. Others may lie beside it,
/// see [`numbered`], and entries for which there was no room in any of them, see [`super::TrashPlace`].
pub const TRASH: &str = ".nfs-provisioner-trash";

/// The entry that is made in a directory of the trash to find out whether anything can be, and removed at once. It is no
/// [`super::TrashName`]: if it stays, it is nothing that was to be removed.
pub const TRASH_TRIED: &str = ".nfs-provisioner-tried";

/// The directory of notes: a [`super::Note`] for each archive, whose own name does not tell whose it was. Others may
/// lie beside it; see [`numbered`].
pub const NOTES: &str = ".nfs-provisioner-archives";

/// The directory of notes of volumes: in it a directory for each cluster, which [`super::ClusterMark`] names, and in that
/// a [`super::Note`] for each volume, under the volume's name. Others may lie beside it; see [`numbered`].
pub const VOLUME_NOTES: &str = ".nfs-provisioner-notes";

/// The directory in which copies are made; see [`super::staging`].
pub const STAGING: &str = ".nfs-provisioner-clones";

/// How many directories [`numbered`] names for one purpose, at most.
pub const NUMBERED_MAX: u8 = 4;

/// The beginning of the name of a write test's directory; see [`write_test`].
pub const WRITE_TEST_PREFIX: &str = ".nfs-provisioner-doctor-";

/// The file in a write test's directory.
pub const WRITE_TEST_FILE: &str = "file";

/// The directory in a write test's directory that stands for a volume.
pub const WRITE_TEST_VOLUME: &str = "volume";

/// The directory in a write test's directory that stands for the trash.
pub const WRITE_TEST_TRASH: &str = "trash";

/// The beginning of the names that [`moved_up`] gives.
const MOVED_UP_PREFIX: &str = ".nfs-provisioner-deep-";

/// The kind of an entry of an export's root, as far as its name tells.
///
/// A name is a claim, not a proof: anybody who can write at the root can give any name to anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootEntry {
    /// A volume's directory, a directory above one, or somebody's own.
    Volume,
    /// An archive, ours or upstream's. Or a live volume's directory: if the volume was made by hand, or the
    /// directory is the [`default_directory`] of a claim in a namespace such as `archived`. So ask for volumes
    /// before touching it.
    Archive,
    /// [`TRASH`], one beside it, or an entry that lies at the root itself.
    Trash,
    /// [`NOTES`], [`VOLUME_NOTES`], or one beside them.
    Notes,
    /// [`STAGING`].
    Staging,
    /// The directory of a write test.
    WriteTest,
    /// A reserved name that this version does not know. A later version may have made it: leave it alone.
    Reserved,
}

/// Tells from the name what an entry of an export's root is.
#[must_use]
pub fn classify(name: &str) -> RootEntry {
    match name {
        _ if is_numbered(TRASH, name) || is_trash_entry(name) => RootEntry::Trash,
        _ if is_numbered(NOTES, name) || is_numbered(VOLUME_NOTES, name) => RootEntry::Notes,
        STAGING => RootEntry::Staging,
        _ if is_write_test(name) => RootEntry::WriteTest,
        _ if name.starts_with(RESERVED_PREFIX) => RootEntry::Reserved,
        _ if name.starts_with(ARCHIVE_PREFIX) => RootEntry::Archive,
        _ => RootEntry::Volume,
    }
}

/// Makes the name of the directory for a purpose of ours: `name` itself for the number 1, `<name>-<number>` for the
/// numbers from 2 to [`NUMBERED_MAX`].
///
/// Each belongs to one user of the server. Whom the server takes us for depends on how it exports to this node (root
/// may be squashed on one and not on another), and nobody but root can use what another has made.
#[must_use]
pub fn numbered(name: &str, number: u8) -> String {
    if number <= 1 { name.to_owned() } else { format!("{name}-{number}") }
}

fn is_numbered(name: &str, found: &str) -> bool {
    found.starts_with(name) && (1..=NUMBERED_MAX).any(|number| numbered(name, number) == found)
}

/// Tells whether a name at the root is that of an entry of the trash, which [`super::TrashName::at_root`] reads.
fn is_trash_entry(name: &str) -> bool {
    name.strip_prefix(TRASH).is_some_and(|rest| rest.starts_with('~'))
}

/// Tells whether a path is at or in something that we keep for ourselves, such as the trash. No volume's path is.
#[must_use]
pub fn is_reserved(path: &RelPath) -> bool {
    path.as_str().starts_with(RESERVED_PREFIX)
}

/// Makes the name of a write test's directory; `number` is random, so that two tests do not meet.
#[must_use]
pub fn write_test(number: u64) -> String {
    format!("{WRITE_TEST_PREFIX}{number:016x}")
}

/// Tells whether [`write_test`] can have made a name.
#[must_use]
pub fn is_write_test(name: &str) -> bool {
    let is_digit = |digit: char| matches!(digit, '0'..='9' | 'a'..='f');
    name.strip_prefix(WRITE_TEST_PREFIX).is_some_and(|rest| rest.len() == 16 && rest.chars().all(is_digit))
}

/// Makes the name under which a directory that lies very deep in an entry of the trash is moved to the top of it.
///
/// Everything in that entry is removed anyway, so nothing has to recognise this name.
#[must_use]
pub fn moved_up(number: u64) -> String {
    format!("{MOVED_UP_PREFIX}{number}")
}

/// Parses the directory that a new volume asks for: as [`RelPath::parse`], and stricter.
///
/// # Errors
/// Returns the errors of [`RelPath::parse`]. Also refuses control characters, reserved and archives' names.
pub fn new_directory(text: &str) -> Result<RelPath, PathError> {
    let path = unreserved(text)?;
    if path.as_str().starts_with(ARCHIVE_PREFIX) { Err(PathError::Reserved) } else { Ok(path) }
}

/// Makes the default directory of a claim: `<namespace>-<claim>-<volume>`, as upstream does.
///
/// A name that is too long for a file system is cut; the volume's name, which makes it unique, is kept whole.
///
/// # Errors
/// Returns the errors of [`new_directory`], but accepts an archive's name: a namespace may be called `archived`,
/// and the volume's name tells this directory from any archive. Names that the API server accepts give no error.
pub fn default_directory(namespace: &str, claim: &str, volume: &str) -> Result<RelPath, PathError> {
    unreserved(&shorten(&format!("{namespace}-{claim}-{volume}"), volume))
}

fn unreserved(text: &str) -> Result<RelPath, PathError> {
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    let path = RelPath::parse(text)?;
    if is_reserved(&path) { Err(PathError::Reserved) } else { Ok(path) }
}

/// Cuts `text` to the length of a directory entry's name, with `-<unique>` at the end if anything had to go.
pub(super) fn shorten(text: &str, unique: &str) -> String {
    if text.len() <= NAME_MAX {
        return text.to_owned();
    }
    let mut end = NAME_MAX.saturating_sub(unique.len() + 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{unique}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_root_are_told_apart_by_their_names() {
        let rows = [
            ("shop-data-pvc-1", RootEntry::Volume),
            ("archived", RootEntry::Volume),
            ("Archived-x", RootEntry::Volume),
            (".hidden", RootEntry::Volume),
            (".nfs-provisione", RootEntry::Volume),
            (".NFS-provisioner-trash", RootEntry::Volume),
            ("x.nfs-provisioner-trash", RootEntry::Volume),
            (".nfs0000000000000001", RootEntry::Volume),
            ("", RootEntry::Volume),
            ("archived-", RootEntry::Archive),
            ("archived-x", RootEntry::Archive),
            ("archived-.nfs-provisioner-trash", RootEntry::Archive),
            (".nfs-provisioner-trash", RootEntry::Trash),
            (".nfs-provisioner-trash-2", RootEntry::Trash),
            (".nfs-provisioner-trash-4", RootEntry::Trash),
            (".nfs-provisioner-trash~1~pvc-1~ns%2Fclaim", RootEntry::Trash),
            (".nfs-provisioner-trash~1~pvc-1~", RootEntry::Trash),
            (".nfs-provisioner-archives", RootEntry::Notes),
            (".nfs-provisioner-archives-3", RootEntry::Notes),
            (".nfs-provisioner-clones", RootEntry::Staging),
            (".nfs-provisioner-doctor-0123456789abcdef", RootEntry::WriteTest),
            (".nfs-provisioner-doctor-0123456789ABCDEF", RootEntry::Reserved),
            (".nfs-provisioner-doctor-0123456789abcde", RootEntry::Reserved),
            (".nfs-provisioner-doctor-0123456789abcdef0", RootEntry::Reserved),
            (".nfs-provisioner-doctor-0123456789abcdeé", RootEntry::Reserved),
            (".nfs-provisioner-doctor-", RootEntry::Reserved),
            (".nfs-provisioner-deep-1", RootEntry::Reserved),
            (".nfs-provisioner-trash2", RootEntry::Reserved),
            (".nfs-provisioner-trash-1", RootEntry::Reserved),
            (".nfs-provisioner-trash-5", RootEntry::Reserved),
            (".nfs-provisioner-trash-02", RootEntry::Reserved),
            (".nfs-provisioner-trash+", RootEntry::Reserved),
            (".nfs-provisioner-archives-9", RootEntry::Reserved),
            (".nfs-provisioner-trash\n", RootEntry::Reserved),
            (".nfs-provisioner", RootEntry::Reserved),
            (".nfs-provisioners", RootEntry::Reserved),
        ];
        for (name, expected) in rows {
            assert_eq!(classify(name), expected, "{name:?}");
        }
    }

    /// The names are on disk.
    #[test]
    fn made_names_never_change() {
        assert_eq!(write_test(0xabc), ".nfs-provisioner-doctor-0000000000000abc");
        assert_eq!(moved_up(1), ".nfs-provisioner-deep-1");
        assert_eq!([1, 2].map(|number| numbered(TRASH, number)), [TRASH, ".nfs-provisioner-trash-2"]);
    }

    #[test]
    fn new_volumes_get_neither_control_characters_nor_our_names() {
        for text in ["a\nb", "a\u{7f}", "archived-x", "archived-x/y", ".nfs-provisioner", ".nfs-provisioner-x/y"] {
            assert!(new_directory(text).is_err(), "{text:?}");
        }
        for text in ["x/archived-x", "x/.nfs-provisioner", "Archived-x", ".hidden", "archived"] {
            assert!(new_directory(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn long_default_names_keep_the_volume() {
        let volume = "pvc-0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a";
        let plain = default_directory("ns", "claim", volume).unwrap();
        assert_eq!(plain.as_str(), format!("ns-claim-{volume}"));
        let long = default_directory(&"n".repeat(63), &"c".repeat(253), volume).unwrap();
        assert_eq!(long.as_str().len(), NAME_MAX);
        assert!(long.as_str().ends_with(&format!("-{volume}")), "{long}");
    }

    #[test]
    fn a_default_directory_may_look_like_an_archive_and_is_never_reserved() {
        let archived = default_directory("archived", "data", "pvc-1").unwrap();
        assert_eq!(archived.as_str(), "archived-data-pvc-1");
        for namespace in [".nfs-provisioner", "/.nfs-provisioner-trash/x", "./.nfs-provisioner"] {
            assert_eq!(default_directory(namespace, "data", "pvc-1"), Err(PathError::Reserved), "{namespace}");
        }
        assert_eq!(default_directory("a\n", "data", "pvc-1"), Err(PathError::Control));
    }
}
