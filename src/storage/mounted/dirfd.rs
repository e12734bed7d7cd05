//! Open directories, and the system calls on their entries. One call a method; nothing here decides.
//!
//! Every call takes a directory's descriptor and one name in it, never a path: whatever anybody does to the
//! tree meanwhile, the call acts in the directory that was opened. Links are not followed and mount points not
//! crossed on the way down.

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno as Raw;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::storage::entry::{Access, Attributes, FileKind, Time};
use crate::storage::error::{Errno, Problem};
use crate::storage::mounted::file::{Fd, FileFd, attributes, number, timespec};
use crate::storage::mounted::mount::Mount;
use crate::values::headroom::FsUsage;

/// Where the kernel tells what is mounted.
const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// How directories are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// By `openat2`: the kernel refuses links and mount points.
    Openat2,
    /// By `openat` and a look at the device, for kernels before 5.6 and for seccomp profiles without `openat2`.
    Openat,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirFd {
    fd: Fd,
    resolver: Resolver,
}

impl Access {
    fn flags(self) -> OFlag {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match self {
            Self::Pass => flags | OFlag::O_PATH,
            Self::Read => flags | OFlag::O_RDONLY,
        }
    }
}

impl DirFd {
    /// Opens the top directory. This path is an admin's, and followed wherever it leads. The directories beneath
    /// it are opened by `openat2` where that can be used.
    pub(crate) fn open_top(path: &Path) -> Result<Self, Problem> {
        let top = Self::open_top_by(path, Resolver::Openat2)?;
        match top.open_openat2(c".", Access::Pass) {
            Err(Problem::Os(Errno::ENOSYS | Errno::EPERM)) => Ok(Self { resolver: Resolver::Openat, ..top }),
            _ => Ok(top),
        }
    }

    /// Opens the top directory, with the way in which the directories beneath it are opened.
    pub(crate) fn open_top_by(path: &Path, resolver: Resolver) -> Result<Self, Problem> {
        let fd = open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_PATH, Mode::empty())?;
        Ok(Self { fd: Fd(fd.into()), resolver })
    }

    /// Opens the directory `name` in this one. A link, a mount point and anything else that is no directory are
    /// refused, whatever they lead to.
    pub(crate) fn open(&self, name: &CStr, access: Access) -> Result<Self, Problem> {
        let opened = match self.resolver {
            Resolver::Openat2 => self.open_openat2(name, access),
            Resolver::Openat => self.open_openat(name, access),
        };
        let fd = opened.map_err(|problem| self.explained(name, problem))?;
        Ok(Self { fd, resolver: self.resolver })
    }

    fn open_openat2(&self, name: &CStr, access: Access) -> Result<Fd, Problem> {
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(access.flags()).resolve(resolve);
        loop {
            match openat2(&self.fd, name, how) {
                // The kernel could not be sure, because something was renamed meanwhile.
                Err(Raw::EAGAIN | Raw::EINTR) => {}
                Err(Raw::EXDEV) => return Err(Problem::MountPoint),
                result => return Ok(Fd(result?.into())),
            }
        }
    }

    fn open_openat(&self, name: &CStr, access: Access) -> Result<Fd, Problem> {
        let fd = self.open_by(name, access.flags(), Mode::empty())?;
        let same_device = fstat(&fd)?.st_dev == fstat(&self.fd)?.st_dev;
        if same_device && fd.mount_id() == self.fd.mount_id() { Ok(fd) } else { Err(Problem::MountPoint) }
    }

    fn open_by(&self, name: &CStr, flags: OFlag, mode: Mode) -> Result<Fd, Problem> {
        Ok(Fd(openat(&self.fd, name, flags, mode)?.into()))
    }

    /// Says of an entry that could not be opened as a directory what it is instead. Only words depend on it.
    fn explained(&self, name: &CStr, problem: Problem) -> Problem {
        if !matches!(problem, Problem::Os(Errno::ELOOP | Errno::ENOTDIR)) {
            return problem;
        }
        match self.entry(name).map(|entry| entry.kind) {
            Ok(FileKind::Link) => Problem::Link,
            Ok(FileKind::Directory) | Err(_) => problem,
            Ok(_) => Problem::NotDirectory,
        }
    }

    /// Returns what the directory has in common with files.
    pub(crate) fn fd(&self) -> &Fd {
        &self.fd
    }

    /// Makes the directory `name`. The process's umask applies to `mode`.
    pub(crate) fn make(&self, name: &CStr, mode: u32) -> Result<(), Problem> {
        Ok(mkdirat(&self.fd, name, Mode::from_bits_truncate(mode))?)
    }

    /// Renames `name` in this directory to `to_name` in `to`. An empty directory of that name is replaced.
    pub(crate) fn rename(&self, name: &CStr, to: &Self, to_name: &CStr) -> Result<(), Problem> {
        Ok(renameat(&self.fd, name, &to.fd, to_name)?)
    }

    /// Writes a file, or replaces the content of the one that is there, and waits until the file system has taken it
    /// for good: earlier, an NFS server has not been asked whether there is room. A link is not followed.
    pub(crate) fn write(&self, name: &CStr, content: &[u8]) -> Result<(), Problem> {
        let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Fd(mut file) = self.open_by(name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        file.write_all(content)?;
        Ok(file.sync_all()?)
    }

    /// Removes the entry `name`, which is not a directory.
    pub(crate) fn unlink(&self, name: &CStr) -> Result<(), Problem> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            // The NFS client's own name for a file that has none on the server any more.
            Err(Raw::EBUSY) if name.to_bytes().starts_with(b".nfs") => Err(Problem::StillOpen),
            removed => Ok(removed?),
        }
    }

    /// Removes entries that are not directories, one after the other: the kernel knows no faster way.
    pub(crate) fn remove_many(&self, names: &[CString], goes_on: &dyn Fn() -> bool) -> Vec<Result<(), Problem>> {
        let mut results = Vec::with_capacity(names.len());
        for name in names {
            if !goes_on() {
                break;
            }
            results.push(self.unlink(name));
            if results.last().is_some_and(Result::is_err) {
                break;
            }
        }
        results
    }

    /// Removes the directory `name` if it is empty.
    pub(crate) fn remove_empty(&self, name: &CStr) -> Result<(), Problem> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Asks for the attributes of the entry `name`, of a link itself.
    pub(crate) fn entry(&self, name: &CStr) -> Result<Attributes, Problem> {
        Ok(attributes(&fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }

    /// Returns the mount that this directory is on, as far as the kernel tells.
    pub(crate) fn mount(&self) -> Option<Mount> {
        let table = std::fs::read_to_string(MOUNT_TABLE).ok()?;
        Mount::find(&table, self.fd.mount_id()?)
    }

    /// Tells whether another directory is on the same mount. Where the kernel does not tell, all are.
    pub(crate) fn is_on_same_mount(&self, other: &Self) -> bool {
        self.fd.mount_id() == other.fd.mount_id()
    }

    /// Asks how full the file system is. On NFS the server is asked each time.
    pub(crate) fn usage(&self) -> Result<FsUsage, Problem> {
        let found = fstatvfs(&self.fd)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok(FsUsage {
            bytes: bytes(found.blocks()),
            bytes_free: bytes(found.blocks_available()),
            inodes: found.files(),
            inodes_free: found.files_available(),
        })
    }

    /// Begins to list this directory.
    pub(crate) fn listing(&self) -> Result<DirStream, Problem> {
        // A descriptor of its own: a listing has a position, and this directory may be open for passing only.
        Ok(DirStream(Dir::openat(&self.fd, c".", Access::Read.flags(), Mode::empty())?.into_iter()))
    }

    /// Gives this directory's owner all rights in it, whatever it is open for.
    pub(crate) fn unlock(&self) -> Result<(), Problem> {
        let current = Mode::from_bits_truncate(fstat(&self.fd)?.st_mode);
        if current.contains(Mode::S_IRWXU) {
            return Ok(());
        }
        self.fd.set_mode_by_path((current | Mode::S_IRWXU).bits() & 0o7777)
    }

    /// Opens the file `name` for reading. Whatever it is by now, it is not waited for and not followed.
    pub(crate) fn open_file(&self, name: &CStr) -> Result<FileFd, Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(FileFd(self.open_by(name, flags, Mode::empty())?))
    }

    /// Makes the file `name`, which its owner alone may read and write, and opens it for writing.
    pub(crate) fn create_file(&self, name: &CStr) -> Result<FileFd, Problem> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(FileFd(self.open_by(name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Gives the entry `name` another name, `to_name` in `to`.
    pub(crate) fn link(&self, name: &CStr, to: &Self, to_name: &CStr) -> Result<(), Problem> {
        Ok(linkat(&self.fd, name, &to.fd, to_name, AtFlags::empty())?)
    }

    /// Makes the symbolic link `name`.
    pub(crate) fn symlink(&self, leads_to: &CStr, name: &CStr) -> Result<(), Problem> {
        Ok(symlinkat(leads_to, &self.fd, name)?)
    }

    /// Reads where the symbolic link `name` leads to.
    pub(crate) fn read_link(&self, name: &CStr) -> Result<CString, Problem> {
        // It holds no NUL.
        Ok(CString::new(readlinkat(&self.fd, name)?.into_vec()).unwrap_or_default())
    }

    /// Makes a pipe, a socket or a device. The process's umask applies to `mode`.
    pub(crate) fn make_node(&self, name: &CStr, kind: FileKind, mode: u32, device: u64) -> Result<(), Problem> {
        let kind = match kind {
            FileKind::Fifo => SFlag::S_IFIFO,
            FileKind::Socket => SFlag::S_IFSOCK,
            FileKind::CharacterDevice => SFlag::S_IFCHR,
            FileKind::BlockDevice => SFlag::S_IFBLK,
            FileKind::Directory | FileKind::Link | FileKind::File | FileKind::Other => {
                return Err(Problem::Os(Errno::EINVAL));
            }
        };
        Ok(mknodat(&self.fd, name, kind, Mode::from_bits_truncate(mode), number(device))?)
    }

    /// Sets the owner and the group of the entry `name`, of a link itself.
    pub(crate) fn set_owners_of(&self, name: &CStr, uid: u32, gid: u32) -> Result<(), Problem> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(fchownat(&self.fd, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Sets the mode of the entry `name`, which is not opened for that. A link is refused.
    pub(crate) fn set_mode_of(&self, name: &CStr, mode: u32) -> Result<(), Problem> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let entry = self.open_by(name, flags, Mode::empty())?;
        if entry.attributes()?.kind == FileKind::Link {
            return Err(Problem::Link);
        }
        entry.set_mode_by_path(mode)
    }

    /// Sets the times of the entry `name`, of a link itself.
    pub(crate) fn set_times_of(&self, name: &CStr, accessed: Time, modified: Time) -> Result<(), Problem> {
        let (accessed, modified) = (timespec(accessed), timespec(modified));
        Ok(utimensat(&self.fd, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
    }
}

/// A listing of a directory that is under way.
#[derive(Debug)]
pub(crate) struct DirStream(OwningIter);

impl DirStream {
    /// Reads up to `limit` more entries, `.` and `..` left out, with what they are where the file system says so.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Vec<(CString, Option<FileKind>)>, Problem> {
        let mut entries = Vec::new();
        while entries.len() < limit
            && let Some(entry) = self.0.next()
        {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.push((name.to_owned(), entry.file_type().map(kind)));
            }
        }
        Ok(entries)
    }
}

fn kind(listed: Type) -> FileKind {
    match listed {
        Type::Directory => FileKind::Directory,
        Type::Symlink => FileKind::Link,
        Type::File => FileKind::File,
        Type::Fifo => FileKind::Fifo,
        Type::Socket => FileKind::Socket,
        Type::CharacterDevice => FileKind::CharacterDevice,
        Type::BlockDevice => FileKind::BlockDevice,
    }
}
