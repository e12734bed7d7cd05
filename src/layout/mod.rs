//! The names, prefixes and notes that we put on an export beside volumes, or recognise there.
//!
//! ```text
//! <export>/<namespace>-<claim>-<volume>        a volume, by default          default_directory
//!          archived-<leaf>                     an archive                    archive_name
//!          .nfs-provisioner-trash/             directories to be removed     TrashName
//!          .nfs-provisioner-trash-<number>/    the same, of another user     numbered
//!          .nfs-provisioner-trash~<entry>      one, where no room was        TrashPlace
//!          .nfs-provisioner-archives/<archive> the archive's origin          Note
//!          .nfs-provisioner-notes/<cluster>/<volume>  the volume's           ClusterMark, Note
//!          .nfs-provisioner-clones/<volume>/   a copy in the making          staging
//!          .nfs-provisioner-doctor-<hex>/      a write test of the doctor    write_test
//! ```
//!
//! Pure: no I/O, no clock. Nothing else in the program spells one of these names. They are on disk, so none of
//! them may change: older and newer versions, and other clusters that share the export, have to know them too.

mod names;
mod archive;
mod trash;
pub mod staging;
mod note;
mod mark;

pub use archive::archive_name;
pub use mark::ClusterMark;
pub use names::{
    ARCHIVE_PREFIX, NOTES, NUMBERED_MAX, RESERVED_PREFIX, RootEntry, STAGING, TRASH, TRASH_TRIED, VOLUME_NOTES,
    WRITE_TEST_FILE, WRITE_TEST_PREFIX, WRITE_TEST_TRASH, WRITE_TEST_VOLUME, classify, default_directory,
    is_reserved, is_write_test, moved_up, new_directory, numbered, write_test,
};
pub use note::{NOTE_MAX, Note, NoteError, Owners};
pub use trash::{NotATrashName, TrashName, TrashPlace};

#[cfg(test)]
mod tests;
