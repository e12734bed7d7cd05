//! What the engines tell of the entries of directories, and what they are asked for, in terms of our own.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::time::{Duration, SystemTime};

use crate::storage::error::{Errno, Problem};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A file with content.
    File,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device that is read and written byte by byte.
    CharacterDevice,
    /// A device that is read and written block by block.
    BlockDevice,
    /// Something that this program has no name for.
    Other,
}

/// What a file system tells of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// What the entry is.
    pub(crate) kind: FileKind,
    /// The bits of its mode, those of the kind left out: at most `0o7777`.
    pub(crate) mode: u32,
    /// The number of its owner.
    pub(crate) uid: u32,
    /// The number of its group.
    pub(crate) gid: u32,
    /// How long its content is, in bytes.
    pub(crate) size: u64,
    /// What its content takes on disk, in bytes. Less than `size` where it has holes.
    pub(crate) on_disk: u64,
    /// The number that no other entry of its file system has.
    pub(crate) inode: u64,
    /// How many names it has.
    pub(crate) links: u64,
    /// The number of its file system.
    pub(crate) file_system: u64,
    /// Which device a node stands for.
    pub(crate) device: u64,
    /// When its content was last read.
    pub(crate) accessed: Time,
    /// When its content was last written; of a directory, when an entry was last made, renamed or removed in it.
    pub(crate) modified: Time,
    /// When anything about it was last changed, its names included. Nobody can set it.
    pub(crate) changed: Time,
}

/// A time by the file system's clock, in seconds since 1970 and nanoseconds after that.
///
/// A tenant can set it to anything, so it is not reckoned with where that could overflow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    /// Seconds since 1970; negative before.
    pub(crate) seconds: i64,
    /// Nanoseconds after those seconds.
    pub(crate) nanoseconds: u32,
}

impl From<Time> for SystemTime {
    /// Returns the same time, or the beginning of 1970 for one that the system has no value for.
    fn from(Time { seconds, nanoseconds }: Time) -> Self {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let epoch = Self::UNIX_EPOCH;
        let time = if seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
        time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(epoch)
    }
}

/// What is needed of a directory that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To reach the entries in it.
    Pass,
    /// To list it, or to change its attributes.
    Read,
}

/// What can be the name of an entry: as a file system lists it, or as text of ours.
pub(crate) trait EntryName {
    /// Returns the name as an engine takes it.
    ///
    /// # Errors
    /// `EINVAL` for a text that holds a NUL, which no entry's name does.
    fn entry_name(&self) -> Result<Cow<'_, CStr>, Problem>;
}

impl EntryName for CStr {
    fn entry_name(&self) -> Result<Cow<'_, CStr>, Problem> {
        Ok(Cow::Borrowed(self))
    }
}

impl EntryName for str {
    fn entry_name(&self) -> Result<Cow<'_, CStr>, Problem> {
        CString::new(self).map(Cow::Owned).map_err(|_| Problem::Os(Errno::EINVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_a_tenant_has_made_up_are_times_too() {
        let time = |seconds, nanoseconds| SystemTime::from(Time { seconds, nanoseconds });
        assert_eq!(time(1, 5), SystemTime::UNIX_EPOCH + Duration::new(1, 5));
        assert_eq!(time(-1, 500_000_000), SystemTime::UNIX_EPOCH - Duration::from_millis(500));
        for seconds in [i64::MIN, i64::MAX] {
            let _ = time(seconds, 999_999_999);
        }
        assert_eq!(time(i64::MAX, 1_999_999_999), SystemTime::UNIX_EPOCH, "there is no such time");
    }
}
