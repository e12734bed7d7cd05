//! Open files, what they have in common with open directories, and the system calls on them. One call a method.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, fchown};

use nix::errno::Errno as Raw;
use nix::fcntl::{AT_FDCWD, copy_file_range};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, futimens};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};
use rustix::fs::{AtFlags, StatxFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr, statx};

use crate::storage::entry::{Attributes, FileKind, Time};
use crate::storage::error::{Errno, Problem};

/// How long a list of extended attributes, or the value of one, can be on Linux.
const XATTR_MAX: usize = 64 << 10;

/// What is open: a file or a directory, as far as they are the same.
#[derive(Debug)]
pub(crate) struct Fd(pub(super) File);

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Fd {
    /// Asks for the attributes, whatever it is open for.
    pub(crate) fn attributes(&self) -> Result<Attributes, Problem> {
        Ok(attributes(&fstat(self)?))
    }

    /// Sets the owner and the group, as far as they are named. On NFS the server decides whether that is allowed;
    /// elsewhere it takes a capability, and the problem says so if that is what lacks.
    pub(crate) fn set_owners(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Problem> {
        let Err(error) = fchown(self, uid, gid) else { return Ok(()) };
        let problem = Problem::from(error);
        let lacking = problem == Problem::Os(Errno::EPERM) && !self.is_nfs() && lacks_chown();
        Err(if lacking { Problem::Capability("CHOWN") } else { problem })
    }

    /// Sets the mode.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<(), Problem> {
        Ok(fchmod(self, Mode::from_bits_truncate(mode))?)
    }

    /// Sets the mode of what is open for its path only, and is no link: that cannot be handed to fchmod.
    pub(super) fn set_mode_by_path(&self, mode: u32) -> Result<(), Problem> {
        // This path is no tenant's: it leads to the very entry that is open, which is not looked up by a name.
        let this = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(fchmodat(AT_FDCWD, &*this, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?)
    }

    /// Sets the times of the last reading and the last writing.
    pub(crate) fn set_times(&self, accessed: Time, modified: Time) -> Result<(), Problem> {
        Ok(futimens(self, &timespec(accessed), &timespec(modified))?)
    }

    /// Sets both times to what the file system's own clock says.
    pub(crate) fn touch(&self) -> Result<(), Problem> {
        Ok(futimens(self, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?)
    }

    /// Finds when it was made; `None` where the kernel, or the file system, does not tell.
    pub(crate) fn born(&self) -> Option<Time> {
        let found = statx(self, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
        let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        is_told.then_some(Time { seconds: found.stx_btime.tv_sec, nanoseconds: found.stx_btime.tv_nsec })
    }

    /// Lists the names of the extended attributes, access lists among them.
    pub(crate) fn xattr_names(&self) -> Result<Vec<CString>, Problem> {
        let mut names = vec![0; XATTR_MAX];
        let length = flistxattr(self, &mut *names)?;
        let names = names.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == 0);
        Ok(names.filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(ToOwned::to_owned)).collect())
    }

    /// Reads an extended attribute.
    pub(crate) fn xattr(&self, name: &CStr) -> Result<Vec<u8>, Problem> {
        let mut value = vec![0; XATTR_MAX];
        let length = fgetxattr(self, name, &mut *value)?;
        value.truncate(length);
        Ok(value)
    }

    /// Writes an extended attribute.
    pub(crate) fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<(), Problem> {
        Ok(fsetxattr(self, name, value, XattrFlags::empty())?)
    }

    /// Returns the number of the mount that it is on, as the kernel tells in /proc: another mount of the same file
    /// system has the same device. Where there is no /proc, nothing is told of any.
    pub(super) fn mount_id(&self) -> Option<u64> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
        info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
    }

    fn is_nfs(&self) -> bool {
        // NFS_SUPER_MAGIC, of which not every libc has the name.
        fstatfs(self).is_ok_and(|found| found.filesystem_type() == FsType(0x6969))
    }
}

/// Tells whether this thread lacks `CAP_CHOWN`, the first of the capabilities; unknown is no.
fn lacks_chown() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 == 0)
}

/// An open file.
#[derive(Debug)]
pub(crate) struct FileFd(pub(super) Fd);

impl FileFd {
    /// Returns what the file has in common with directories.
    pub(crate) fn fd(&self) -> &Fd {
        &self.0
    }

    /// Finds the next part of a file of this `size` that holds data, from `at` on; `None` if there is no more.
    /// Where the file system cannot tell, all does.
    pub(crate) fn next_data(&self, at: u64, size: u64) -> Result<Option<Range<u64>>, Problem> {
        let seek = |at: u64, whence| lseek(&self.0, number(at), whence).map(number::<_, u64>);
        let data = match seek(at, Whence::SeekData) {
            Err(Raw::ENXIO) => return Ok(None),
            Err(Raw::EINVAL | Raw::EOPNOTSUPP) => at,
            data => data?,
        };
        let end = match seek(data, Whence::SeekHole) {
            Err(Raw::EINVAL | Raw::EOPNOTSUPP | Raw::ENXIO) => size,
            end => end?.min(size),
        };
        Ok(Some(data..end))
    }

    /// Reads what is at `at` into a block, and returns how much that was; nothing at the end.
    pub(crate) fn read_at(&self, block: &mut [u8], at: u64) -> Result<usize, Problem> {
        loop {
            match self.0.0.read_at(block, at) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return Ok(read?),
            }
        }
    }

    /// Writes a whole block at `at`.
    pub(crate) fn write_at(&self, block: &[u8], at: u64) -> Result<(), Problem> {
        Ok(self.0.0.write_all_at(block, at)?)
    }

    /// Has the kernel, or the server, copy up to `length` bytes at `at` into `to`, at the same place, and returns
    /// how many that were; none at the end.
    pub(crate) fn copy_range(&self, to: &Self, at: u64, length: usize) -> Result<usize, Problem> {
        loop {
            let (mut from_at, mut to_at) = (number(at), number(at));
            match copy_file_range(&self.0, Some(&mut from_at), &to.0, Some(&mut to_at), length) {
                Err(Raw::EINTR) => {}
                copied => return Ok(copied?),
            }
        }
    }

    /// Makes the file as long as this, with a hole at its end if it was shorter.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), Problem> {
        Ok(self.0.0.set_len(size)?)
    }

    /// Waits until the file system has taken the file for good. An NFS client says only then that there was no
    /// room.
    pub(crate) fn sync(&self) -> Result<(), Problem> {
        Ok(self.0.0.sync_all()?)
    }
}

/// Reads what the kernel tells of an entry.
pub(super) fn attributes(found: &FileStat) -> Attributes {
    Attributes {
        kind: kind(SFlag::from_bits_truncate(found.st_mode)),
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        size: number(found.st_size),
        on_disk: number::<_, u64>(found.st_blocks).saturating_mul(512),
        inode: number(found.st_ino),
        links: number(found.st_nlink),
        file_system: number(found.st_dev),
        device: number(found.st_rdev),
        accessed: Time { seconds: number(found.st_atime), nanoseconds: number(found.st_atime_nsec) },
        modified: Time { seconds: number(found.st_mtime), nanoseconds: number(found.st_mtime_nsec) },
        changed: Time { seconds: number(found.st_ctime), nanoseconds: number(found.st_ctime_nsec) },
    }
}

fn kind(mode: SFlag) -> FileKind {
    match mode & SFlag::S_IFMT {
        SFlag::S_IFDIR => FileKind::Directory,
        SFlag::S_IFLNK => FileKind::Link,
        SFlag::S_IFREG => FileKind::File,
        SFlag::S_IFIFO => FileKind::Fifo,
        SFlag::S_IFSOCK => FileKind::Socket,
        SFlag::S_IFCHR => FileKind::CharacterDevice,
        SFlag::S_IFBLK => FileKind::BlockDevice,
        _ => FileKind::Other,
    }
}

pub(super) fn timespec(Time { seconds, nanoseconds }: Time) -> TimeSpec {
    TimeSpec::new(number(seconds), number(nanoseconds))
}

/// Turns a number of the kernel's into one of ours, or back. Their widths are not the same on all machines.
pub(super) fn number<T, U: TryFrom<T> + Default>(number: T) -> U {
    U::try_from(number).unwrap_or_default()
}
