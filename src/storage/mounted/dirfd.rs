//! Open directories, and the system calls on their entries. One call a method; nothing here decides.
//!
//! Every call takes a directory's descriptor and one name in it, never a path: whatever anybody does to the
//! tree meanwhile, the call acts in the directory that was opened. Links are not followed and mount points not
//! crossed on the way down.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;
use std::time::SystemTime;

use nix::NixPath;
use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::values::headroom::FsUsage;

/// Why a call on the file system failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A symbolic link is where a directory should be.
    Link,
    /// Something else than a directory is where one should be.
    NotDirectory,
    /// Another file system is mounted there.
    MountPoint,
    /// It was removed while this machine had it open: the NFS client keeps it, under a name that begins with
    /// `.nfs`, until it is closed.
    StillOpen,
    /// It is one of the provisioner's own directories.
    Reserved,
    /// This process does not lead, or not any more, and so changes nothing.
    NotLeading,
    /// No NFS export is mounted there, though one should be.
    NotNfs,
    /// This process lacks the capability of this name.
    Capability(&'static str),
    /// What the kernel said.
    Os(Errno),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => f.write_str("is a symbolic link, which is never followed"),
            Self::NotDirectory => f.write_str("is not a directory"),
            Self::MountPoint => f.write_str("is a mount point of another file system, which is never crossed"),
            Self::StillOpen => f.write_str("is still open on this node, and goes when it is closed"),
            Self::Reserved => f.write_str("is kept by the provisioner for itself"),
            Self::NotLeading => f.write_str("is not changed, because this provisioner does not lead any more"),
            Self::NotNfs => f.write_str("is not an NFS mount"),
            Self::Capability(name) => write!(f, "takes the capability {name}, which this process does not have"),
            // Lower case, as errors are: "permission denied".
            Self::Os(errno) => f.write_str(&errno.desc().to_lowercase()),
        }
    }
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Os(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

/// How directories are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// By `openat2`: the kernel refuses links and mount points.
    Openat2,
    /// By `openat` and a look at the device, for kernels before 5.6 and for seccomp profiles without `openat2`.
    Openat,
}

/// An open directory.
#[derive(Debug)]
pub struct DirFd {
    fd: OwnedFd,
    resolver: Resolver,
}

/// What is needed of a directory that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To reach the entries in it.
    Pass,
    /// To list it, or to change its mode.
    Read,
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
    /// Opens the top directory. This path is an admin's, and followed wherever it leads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_top(path: &Path) -> Result<Self, Problem> {
        let fd = open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_PATH, Mode::empty())?;
        let probe = Self { fd, resolver: Resolver::Openat2 };
        let resolver = match probe.open_openat2(c".", Access::Pass) {
            Err(Problem::Os(Errno::ENOSYS | Errno::EPERM)) => Resolver::Openat,
            _ => Resolver::Openat2,
        };
        Ok(Self { resolver, ..probe })
    }

    /// Opens directories beneath this one in the given way; the fallback is chosen by itself where it is needed.
    #[must_use]
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    /// A link, a mount point and anything else that is no directory are refused, whatever they lead to.
    pub fn open<N: ?Sized + NixPath>(&self, name: &N, access: Access) -> Result<Self, Problem> {
        let opened = match self.resolver {
            Resolver::Openat2 => self.open_openat2(name, access),
            Resolver::Openat => self.open_openat(name, access),
        };
        opened.map_err(|problem| self.explained(name, problem)).map(|fd| Self { fd, resolver: self.resolver })
    }

    fn open_openat2<N: ?Sized + NixPath>(&self, name: &N, access: Access) -> Result<OwnedFd, Problem> {
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(access.flags()).resolve(resolve);
        loop {
            match openat2(&self.fd, name, how) {
                // The kernel could not be sure, because something was renamed meanwhile.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(Errno::EXDEV) => return Err(Problem::MountPoint),
                result => return Ok(result?),
            }
        }
    }

    fn open_openat<N: ?Sized + NixPath>(&self, name: &N, access: Access) -> Result<OwnedFd, Problem> {
        let fd = openat(&self.fd, name, access.flags(), Mode::empty())?;
        let same_device = fstat(&fd)?.st_dev == fstat(&self.fd)?.st_dev;
        if same_device && mount_id(&fd) == mount_id(&self.fd) { Ok(fd) } else { Err(Problem::MountPoint) }
    }

    /// Says of an entry that could not be opened as a directory what it is instead. Only words depend on it.
    fn explained<N: ?Sized + NixPath>(&self, name: &N, problem: Problem) -> Problem {
        match problem {
            Problem::Os(Errno::ELOOP | Errno::ENOTDIR) => match self.kind(name) {
                Ok(FileKind::Link) => Problem::Link,
                Ok(FileKind::File) => Problem::NotDirectory,
                Ok(FileKind::Directory) | Err(_) => problem,
            },
            Problem::Link
            | Problem::NotDirectory
            | Problem::MountPoint
            | Problem::StillOpen
            | Problem::Reserved
            | Problem::NotLeading
            | Problem::NotNfs
            | Problem::Capability(_)
            | Problem::Os(_) => problem,
        }
    }

    /// Makes the directory `name`. The process's umask applies to `mode`.
    ///
    /// # Errors
    /// `EEXIST` if anything has that name, else what the kernel says.
    pub fn make<N: ?Sized + NixPath>(&self, name: &N, mode: Mode) -> Result<(), Problem> {
        Ok(mkdirat(&self.fd, name, mode)?)
    }

    /// Sets bits in this directory's own mode that are not set; it must be open for [`Access::Read`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn grant(&self, mode: Mode) -> Result<(), Problem> {
        let current = Mode::from_bits_truncate(fstat(&self.fd)?.st_mode);
        if current.contains(mode) {
            return Ok(());
        }
        Ok(fchmod(&self.fd, current | mode)?)
    }

    /// This directory's own mode, whatever it is open for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mode(&self) -> Result<Mode, Problem> {
        Ok(Mode::from_bits_truncate(fstat(&self.fd)?.st_mode))
    }

    /// This directory's own group, whatever it is open for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn group(&self) -> Result<u32, Problem> {
        Ok(fstat(&self.fd)?.st_gid)
    }

    /// Sets this directory's own mode; it must be open for [`Access::Read`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mode(&self, mode: Mode) -> Result<(), Problem> {
        Ok(fchmod(&self.fd, mode)?)
    }

    /// Gives this directory an owner and a group, as far as they are named and it has others, and says whether it had;
    /// it must be open for [`Access::Read`].
    ///
    /// # Errors
    /// What the kernel says; on NFS the server decides, and elsewhere it takes a capability.
    pub fn set_owners(&self, uid: Option<u32>, gid: Option<u32>) -> Result<bool, Problem> {
        let found = fstat(&self.fd)?;
        let is = |wanted: Option<u32>, found| wanted.is_none_or(|wanted| wanted == found);
        if is(uid, found.st_uid) && is(gid, found.st_gid) {
            return Ok(false);
        }
        let Err(error) = fchown(&self.fd, uid, gid) else { return Ok(true) };
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        let lacking = errno == Errno::EPERM && !self.is_nfs() && lacks_chown();
        Err(if lacking { Problem::Capability("CHOWN") } else { Problem::Os(errno) })
    }

    fn is_nfs(&self) -> bool {
        // NFS_SUPER_MAGIC, of which not every libc has the name.
        fstatfs(&self.fd).is_ok_and(|found| found.filesystem_type() == FsType(0x6969))
    }

    /// Renames `name` in this directory to `to_name` in `to`. An empty directory of that name is replaced.
    ///
    /// # Errors
    /// `ENOTEMPTY` or `EEXIST` if a directory with entries has the new name, else what the kernel says.
    pub fn rename<N: ?Sized + NixPath, M: ?Sized + NixPath>(
        &self,
        name: &N,
        to: &Self,
        to_name: &M,
    ) -> Result<(), Problem> {
        Ok(renameat(&self.fd, name, &to.fd, to_name)?)
    }

    /// Makes the file `name`, for its owner only, or empties the one that is there, and writes `content` into it.
    ///
    /// # Errors
    /// `ELOOP` if it is a link, else what the kernel says.
    pub fn write<N: ?Sized + NixPath>(&self, name: &N, content: &[u8]) -> Result<(), Problem> {
        self.written(name, content).map(drop)
    }

    /// As [`DirFd::write`], and waits until the file system has taken it for good: before that, an NFS server has not
    /// been asked whether there is room.
    ///
    /// # Errors
    /// As [`DirFd::write`].
    pub fn write_through<N: ?Sized + NixPath>(&self, name: &N, content: &[u8]) -> Result<(), Problem> {
        Ok(self.written(name, content)?.sync_all()?)
    }

    fn written<N: ?Sized + NixPath>(&self, name: &N, content: &[u8]) -> Result<File, Problem> {
        let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        file.write_all(content)?;
        Ok(file)
    }

    /// Removes the entry `name`, which is not a directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unlink<N: ?Sized + NixPath>(&self, name: &N) -> Result<(), Problem> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes the directory `name` if it is empty.
    ///
    /// # Errors
    /// `ENOTEMPTY` or `EEXIST` if it is not, else what the kernel says.
    pub fn remove_empty<N: ?Sized + NixPath>(&self, name: &N) -> Result<(), Problem> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)?)
    }

    /// What the entry `name` is.
    ///
    /// # Errors
    /// `ENOENT` if there is none, else what the kernel says.
    pub fn kind<N: ?Sized + NixPath>(&self, name: &N) -> Result<FileKind, Problem> {
        Ok(FileKind::of(&fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }

    /// What the entry `name` is, and what it takes.
    ///
    /// # Errors
    /// `ENOENT` if there is none, else what the kernel says.
    pub fn entry<N: ?Sized + NixPath>(&self, name: &N) -> Result<Entry, Problem> {
        let found = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let bytes = u64::try_from(found.st_blocks).unwrap_or_default().saturating_mul(512);
        Ok(Entry { kind: FileKind::of(&found), bytes, inode: found.st_ino, names: found.st_nlink })
    }

    /// Whose this directory is, and when it was last changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn status(&self) -> Result<Status, Problem> {
        let found = File::from(self.fd.try_clone()?).metadata()?;
        Ok(Status { owner: found.uid(), modified: found.modified()? })
    }

    /// The number of the mount that this directory is on, in /proc/self/mountinfo; `None` where there is no /proc.
    #[must_use]
    pub fn mount_id(&self) -> Option<u64> {
        mount_id(&self.fd)
    }

    /// How full the file system is. On NFS the server is asked each time.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn usage(&self) -> Result<FsUsage, Problem> {
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
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listing(&self) -> Result<Listing, Problem> {
        // A descriptor of its own: a listing has a position, and this directory may be open for passing only.
        Ok(Listing(Dir::openat(&self.fd, c".", Access::Read.flags(), Mode::empty())?.into_iter()))
    }

    /// Makes this directory the program's own, with mode 0700; it must be open for [`Access::Read`].
    ///
    /// # Errors
    /// `EPERM` if it belongs to somebody else and cannot be taken from them.
    pub fn make_private(&self) -> Result<(), Problem> {
        let found = fstat(&self.fd)?;
        let is_private = Mode::from_bits_truncate(found.st_mode) == Mode::S_IRWXU;
        if found.st_uid == 0 && is_private {
            return Ok(());
        }
        if found.st_uid != 0 {
            // Not allowed where the server takes us for somebody else than root, or we are not root. Then only its
            // owner can change the mode, which is what tells whether it is ours.
            let _ = fchown(&self.fd, Some(0), None);
        }
        Ok(fchmod(&self.fd, Mode::S_IRWXU)?)
    }

    /// Gives this directory's owner all rights in it, whatever it is open for.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` if we are not the owner.
    pub fn unlock(&self) -> Result<(), Problem> {
        let current = Mode::from_bits_truncate(fstat(&self.fd)?.st_mode);
        if current.contains(Mode::S_IRWXU) {
            return Ok(());
        }
        // A descriptor for passing cannot be handed to fchmod. This path is no tenant's: it leads to the very
        // directory that is open, which is neither a link nor looked up by a name.
        let this = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(fchmodat(AT_FDCWD, &*this, current | Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?)
    }
}

/// What an entry is, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: FileKind,
    /// What it takes on disk.
    pub bytes: u64,
    /// Its number.
    pub inode: u64,
    /// How many names it has.
    pub names: u64,
}

/// Whose a directory is, and when it was last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The number of the user.
    pub owner: u32,
    /// When an entry was last made, renamed or removed in it, by the file system's clock.
    pub modified: SystemTime,
}

/// A listing of a directory that is under way.
#[derive(Debug)]
pub struct Listing(OwningIter);

impl Listing {
    /// Up to `limit` more entries, `.` and `..` left out; none at the end.
    ///
    /// Entries that come or go meanwhile may show or not, and some file systems then skip others, too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn next(&mut self, limit: usize) -> Result<Vec<(CString, Option<FileKind>)>, Problem> {
        let mut entries = Vec::new();
        while entries.len() < limit
            && let Some(entry) = self.0.next()
        {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.push((name.to_owned(), entry.file_type().map(FileKind::from)));
            }
        }
        Ok(entries)
    }
}

impl AsFd for DirFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The number of the mount that a descriptor is on, as the kernel tells in /proc: another one of the same file system
/// has the same device. Where there is no /proc, nothing is told of any.
fn mount_id(fd: &OwnedFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Whether this thread lacks `CAP_CHOWN`, the first of the capabilities; unknown is no.
fn lacks_chown() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 == 0)
}

/// What an entry is, as far as we treat entries differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    File,
}

impl FileKind {
    fn of(stat: &FileStat) -> Self {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFLNK => Self::Link,
            _ => Self::File,
        }
    }
}

impl From<Type> for FileKind {
    fn from(entry: Type) -> Self {
        match entry {
            Type::Directory => Self::Directory,
            Type::Symlink => Self::Link,
            Type::Fifo | Type::CharacterDevice | Type::BlockDevice | Type::File | Type::Socket => Self::File,
        }
    }
}
