//! The seam: an open directory or file of an export, whichever engine has opened it.
//!
//! All operations stand on this and know no engine; an engine is a variant of the enums here, and this file is the
//! only one that matches on them, once for each primitive. Nothing here decides anything. An engine guarantees of
//! each call:
//!
//! - It takes an open directory and one name in it, never a path, and acts in the directory that was opened,
//!   whatever anybody does to the tree meanwhile. No link is followed and no other file system entered.
//! - It ends when the file system has answered, however long that takes, and is never given up: a call that was
//!   given up could still be carried out.
//! - It may have been carried out though it fails, as when an answer is lost and the call sent again: making what
//!   is there, and removing what is not, must be taken for success where what is found is what was wanted.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::storage::direct::attributes::{Changes, Stamp};
use crate::storage::direct::dirhandle::{DirHandle, Pages};
use crate::storage::direct::filehandle::FileHandle;
use crate::storage::direct::node::Node;
use crate::storage::direct::rpc::Who;
use crate::storage::direct::server::Server;
use crate::storage::entry::{Access, Attributes, EntryName, FileKind, Time};
use crate::storage::error::{Errno, Problem};
use crate::storage::mounted::dirfd::{DirFd, DirStream, Resolver};
use crate::storage::mounted::file::{Fd, FileFd};
use crate::storage::mounted::mount::Mount;
use crate::values::headroom::FsUsage;

/// An open directory.
#[derive(Debug)]
pub(crate) enum Dir {
    /// On an export that the kernel has mounted.
    Mounted(DirFd),
    /// On an export that is spoken to.
    Direct(DirHandle),
}

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    /// On an export that the kernel has mounted.
    Mounted(FileFd),
    /// On an export that is spoken to.
    Direct(FileHandle),
}

/// What is open, a directory or a file, as far as these are the same.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inode<'a> {
    /// On an export that the kernel has mounted.
    Mounted(&'a Fd),
    /// On an export that is spoken to.
    Direct(&'a Node),
}

/// A listing of a directory that is under way.
#[derive(Debug)]
pub(crate) enum Listing {
    /// Of an export that the kernel has mounted.
    Mounted(DirStream),
    /// Of an export that is spoken to.
    Direct(Pages),
}

impl Dir {
    /// Opens the directory where the kernel has mounted an export.
    pub(crate) fn open_mounted(path: &Path) -> Result<Self, Problem> {
        DirFd::open_top(path).map(Self::Mounted)
    }

    /// Opens the directory where the kernel has mounted an export, and those beneath it by `openat2` or without
    /// it.
    pub(crate) fn open_mounted_by(path: &Path, openat2: bool) -> Result<Self, Problem> {
        let resolver = if openat2 { Resolver::Openat2 } else { Resolver::Openat };
        DirFd::open_top_by(path, resolver).map(Self::Mounted)
    }

    /// Finds the directory at a path of an administrator's on a server.
    pub(crate) fn open_direct(server: Arc<Server>, path: &str) -> Result<Self, Problem> {
        DirHandle::open_top(server, path).map(Self::Direct)
    }

    /// Returns what this directory has in common with files.
    pub(crate) fn inode(&self) -> Inode<'_> {
        match self {
            Self::Mounted(dir) => Inode::Mounted(dir.fd()),
            Self::Direct(dir) => Inode::Direct(dir.node()),
        }
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    /// Refuses a link, a mount point and anything else that is no directory, whatever they lead to.
    pub(crate) fn open<N: EntryName + ?Sized>(&self, name: &N, access: Access) -> Result<Self, Problem> {
        match self {
            Self::Mounted(dir) => dir.open(&name.entry_name()?, access).map(Self::Mounted),
            Self::Direct(dir) => dir.open(&name.entry_name()?).map(Self::Direct),
        }
    }

    /// Opens this directory once more, for another access.
    pub(crate) fn reopen(&self, access: Access) -> Result<Self, Problem> {
        match self {
            Self::Mounted(dir) => dir.open(c".", access).map(Self::Mounted),
            Self::Direct(dir) => Ok(Self::Direct(dir.reopen())),
        }
    }

    /// Asks for the attributes of the entry `name`; of a link, its own.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub(crate) fn entry<N: EntryName + ?Sized>(&self, name: &N) -> Result<Attributes, Problem> {
        match self {
            Self::Mounted(dir) => dir.entry(&name.entry_name()?),
            Self::Direct(dir) => dir.entry(&name.entry_name()?),
        }
    }

    /// Makes the directory `name`. The process's umask may take bits from `mode`.
    ///
    /// # Errors
    /// `EEXIST` if anything has that name.
    pub(crate) fn make<N: EntryName + ?Sized>(&self, name: &N, mode: u32) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.make(&name.entry_name()?, mode),
            Self::Direct(dir) => dir.make(&name.entry_name()?, mode),
        }
    }

    /// Renames `name` in this directory to `to_name` in `to`. An empty directory of that name is replaced.
    ///
    /// # Errors
    /// `ENOTEMPTY` or `EEXIST` if a directory with entries has the new name, `EXDEV` if an engine or a server cannot
    /// rename from the one to the other.
    pub(crate) fn rename<N: EntryName + ?Sized, M: EntryName + ?Sized>(
        &self,
        name: &N,
        to: &Self,
        to_name: &M,
    ) -> Result<(), Problem> {
        match (self, to) {
            (Self::Mounted(dir), Self::Mounted(to)) => dir.rename(&name.entry_name()?, to, &to_name.entry_name()?),
            (Self::Direct(dir), Self::Direct(to)) => dir.rename(&name.entry_name()?, to, &to_name.entry_name()?),
            (Self::Mounted(_), Self::Direct(_)) | (Self::Direct(_), Self::Mounted(_)) => {
                Err(Problem::Os(Errno::EXDEV))
            }
        }
    }

    /// Removes the entry `name`, which is not a directory.
    pub(crate) fn unlink<N: EntryName + ?Sized>(&self, name: &N) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.unlink(&name.entry_name()?),
            Self::Direct(dir) => dir.unlink(&name.entry_name()?),
        }
    }

    /// Removes entries that are not directories, and asks `goes_on` before each. Returns one result for each of
    /// the names that it came to, which are the first ones.
    ///
    /// It may leave the others after one that cannot be removed, for the caller to see to that first, and must
    /// leave them when `goes_on` says no; it comes to at least one unless that says no. The kernel's engine sends
    /// one call after the other. Another may send many at a time, as long as it asks before it sends each.
    pub(crate) fn remove_many(&self, names: &[CString], goes_on: &dyn Fn() -> bool) -> Vec<Result<(), Problem>> {
        match self {
            Self::Mounted(dir) => dir.remove_many(names, goes_on),
            Self::Direct(dir) => dir.remove_many(names, goes_on),
        }
    }

    /// Removes the directory `name` if it is empty.
    ///
    /// # Errors
    /// `ENOTEMPTY` or `EEXIST` if it is not.
    pub(crate) fn remove_empty<N: EntryName + ?Sized>(&self, name: &N) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.remove_empty(&name.entry_name()?),
            Self::Direct(dir) => dir.remove_empty(&name.entry_name()?),
        }
    }

    /// Writes a file, or replaces the content of the one that is there, and waits until the file system has taken it
    /// for good. A link is not followed.
    pub(crate) fn write<N: EntryName + ?Sized>(&self, name: &N, content: &[u8]) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.write(&name.entry_name()?, content),
            Self::Direct(dir) => dir.write(&name.entry_name()?, content),
        }
    }

    /// Begins to list this directory.
    pub(crate) fn listing(&self) -> Result<Listing, Problem> {
        match self {
            Self::Mounted(dir) => dir.listing().map(Listing::Mounted),
            Self::Direct(dir) => Ok(Listing::Direct(dir.listing())),
        }
    }

    /// Gives this directory's owner all rights in it, whatever it is open for.
    ///
    /// # Errors
    /// `EPERM` if we are not the owner.
    pub(crate) fn unlock(&self) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.unlock(),
            Self::Direct(dir) => dir.unlock(),
        }
    }

    /// Asks how full the file system is. A server is asked each time.
    pub(crate) fn usage(&self) -> Result<FsUsage, Problem> {
        match self {
            Self::Mounted(dir) => dir.usage(),
            Self::Direct(dir) => dir.usage(),
        }
    }

    /// Returns the mount that this directory is on; `None` if it is on none, or the kernel does not tell.
    pub(crate) fn mount(&self) -> Option<Mount> {
        match self {
            Self::Mounted(dir) => dir.mount(),
            Self::Direct(_) => None,
        }
    }

    /// Tells whether both directories were reached in the same way, and would be by the same server.
    pub(crate) fn is_reached_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mounted(dir), Self::Mounted(other)) => dir.is_on_same_mount(other),
            (Self::Direct(dir), Self::Direct(other)) => dir.is_same_as(other),
            (Self::Mounted(_), Self::Direct(_)) | (Self::Direct(_), Self::Mounted(_)) => false,
        }
    }

    /// Opens the file `name` for reading. Whatever it is by now, it is not waited for and not followed.
    pub(crate) fn open_file<N: EntryName + ?Sized>(&self, name: &N) -> Result<File, Problem> {
        match self {
            Self::Mounted(dir) => dir.open_file(&name.entry_name()?).map(File::Mounted),
            Self::Direct(dir) => dir.open_file(&name.entry_name()?).map(File::Direct),
        }
    }

    /// Makes the file `name`, which its owner alone may read and write, and opens it for writing.
    ///
    /// # Errors
    /// `EEXIST` if anything has that name.
    pub(crate) fn create_file<N: EntryName + ?Sized>(&self, name: &N) -> Result<File, Problem> {
        match self {
            Self::Mounted(dir) => dir.create_file(&name.entry_name()?).map(File::Mounted),
            Self::Direct(dir) => dir.create_file(&name.entry_name()?).map(File::Direct),
        }
    }

    /// Gives the entry `name` another name, `to_name` in `to`.
    pub(crate) fn link<N: EntryName + ?Sized, M: EntryName + ?Sized>(
        &self,
        name: &N,
        to: &Self,
        to_name: &M,
    ) -> Result<(), Problem> {
        match (self, to) {
            (Self::Mounted(dir), Self::Mounted(to)) => dir.link(&name.entry_name()?, to, &to_name.entry_name()?),
            (Self::Direct(dir), Self::Direct(to)) => dir.link(&name.entry_name()?, to, &to_name.entry_name()?),
            (Self::Mounted(_), Self::Direct(_)) | (Self::Direct(_), Self::Mounted(_)) => {
                Err(Problem::Os(Errno::EXDEV))
            }
        }
    }

    /// Makes the symbolic link `name`.
    pub(crate) fn symlink<N: EntryName + ?Sized>(&self, leads_to: &CStr, name: &N) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.symlink(leads_to, &name.entry_name()?),
            Self::Direct(dir) => dir.symlink(leads_to, &name.entry_name()?),
        }
    }

    /// Reads where the symbolic link `name` leads to.
    pub(crate) fn read_link<N: EntryName + ?Sized>(&self, name: &N) -> Result<CString, Problem> {
        match self {
            Self::Mounted(dir) => dir.read_link(&name.entry_name()?),
            Self::Direct(dir) => dir.read_link(&name.entry_name()?),
        }
    }

    /// Makes a pipe, a socket or a device. The process's umask may take bits from `mode`.
    ///
    /// # Errors
    /// `EINVAL` for any other kind.
    pub(crate) fn make_node<N: EntryName + ?Sized>(
        &self,
        name: &N,
        kind: FileKind,
        mode: u32,
        device: u64,
    ) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.make_node(&name.entry_name()?, kind, mode, device),
            Self::Direct(dir) => dir.make_node(&name.entry_name()?, kind, mode, device),
        }
    }

    /// Sets the owner and the group of the entry `name`; of a link, its own.
    pub(crate) fn set_owners_of<N: EntryName + ?Sized>(
        &self,
        name: &N,
        uid: u32,
        gid: u32,
    ) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.set_owners_of(&name.entry_name()?, uid, gid),
            Self::Direct(dir) => dir.set_owners_of(&name.entry_name()?, uid, gid),
        }
    }

    /// Sets the mode of the entry `name`, which is a pipe, a socket or a device; a link is refused.
    pub(crate) fn set_mode_of<N: EntryName + ?Sized>(&self, name: &N, mode: u32) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.set_mode_of(&name.entry_name()?, mode),
            Self::Direct(dir) => dir.set_mode_of(&name.entry_name()?, mode),
        }
    }

    /// Sets the times of the last reading and the last writing of the entry `name`; of a link, its own.
    pub(crate) fn set_times_of<N: EntryName + ?Sized>(
        &self,
        name: &N,
        accessed: Time,
        modified: Time,
    ) -> Result<(), Problem> {
        match self {
            Self::Mounted(dir) => dir.set_times_of(&name.entry_name()?, accessed, modified),
            Self::Direct(dir) => dir.set_times_of(&name.entry_name()?, accessed, modified),
        }
    }
}

impl Inode<'_> {
    /// Asks for the attributes, whatever it is open for.
    pub(crate) fn attributes(self) -> Result<Attributes, Problem> {
        match self {
            Self::Mounted(fd) => fd.attributes(),
            Self::Direct(node) => node.attributes(),
        }
    }

    /// Sets the owner and the group, as far as they are named; a directory must be open for [`Access::Read`].
    ///
    /// # Errors
    /// [`Problem::Capability`] if that is what lacks. On NFS the server decides.
    pub(crate) fn set_owners(self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Problem> {
        match self {
            Self::Mounted(fd) => fd.set_owners(uid, gid),
            Self::Direct(node) => node.set(Who::ROOT, &Changes::owners(uid, gid)),
        }
    }

    /// Sets the mode; a directory must be open for [`Access::Read`].
    pub(crate) fn set_mode(self, mode: u32) -> Result<(), Problem> {
        match self {
            Self::Mounted(fd) => fd.set_mode(mode),
            Self::Direct(node) => node.set(Who::ROOT, &Changes::mode(mode)),
        }
    }

    /// Sets the times of the last reading and the last writing; a directory must be open for [`Access::Read`].
    pub(crate) fn set_times(self, accessed: Time, modified: Time) -> Result<(), Problem> {
        match self {
            Self::Mounted(fd) => fd.set_times(accessed, modified),
            Self::Direct(node) => node.set(Who::ROOT, &Changes::times(Stamp::At(accessed), Stamp::At(modified))),
        }
    }

    /// Sets both times to what the file system's own clock says; a directory must be open for [`Access::Read`].
    pub(crate) fn touch(self) -> Result<(), Problem> {
        match self {
            Self::Mounted(fd) => fd.touch(),
            Self::Direct(node) => node.set(Who::ROOT, &Changes::times(Stamp::Now, Stamp::Now)),
        }
    }

    /// Finds when it was made; `None` where that is not told. What is made later under the same number has another
    /// time.
    pub(crate) fn born(self) -> Option<Time> {
        match self {
            Self::Mounted(fd) => fd.born(),
            Self::Direct(node) => node.born(),
        }
    }

    /// Lists the names of the extended attributes, access lists among them.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or `ENOSYS` where there are none.
    pub(crate) fn xattr_names(self) -> Result<Vec<CString>, Problem> {
        match self {
            Self::Mounted(fd) => fd.xattr_names(),
            Self::Direct(node) => node.xattr_names(),
        }
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` if there is none of that name.
    pub(crate) fn xattr(self, name: &CStr) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Mounted(fd) => fd.xattr(name),
            Self::Direct(node) => node.xattr(name),
        }
    }

    /// Writes an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where there are none.
    pub(crate) fn set_xattr(self, name: &CStr, value: &[u8]) -> Result<(), Problem> {
        match self {
            Self::Mounted(fd) => fd.set_xattr(name, value),
            Self::Direct(node) => node.set_xattr(name, value),
        }
    }
}

impl File {
    /// Returns what this file has in common with directories.
    pub(crate) fn inode(&self) -> Inode<'_> {
        match self {
            Self::Mounted(file) => Inode::Mounted(file.fd()),
            Self::Direct(file) => Inode::Direct(file.node()),
        }
    }

    /// Finds the next part that holds data in a file of this `size`, from `at` on; `None` if there is no more.
    /// Where the file system cannot tell, all does.
    pub(crate) fn next_data(&self, at: u64, size: u64) -> Result<Option<Range<u64>>, Problem> {
        match self {
            Self::Mounted(file) => file.next_data(at, size),
            Self::Direct(file) => file.next_data(at, size),
        }
    }

    /// Reads what is at `at` into a block, and returns how much that was; nothing at the end.
    pub(crate) fn read_at(&self, block: &mut [u8], at: u64) -> Result<usize, Problem> {
        match self {
            Self::Mounted(file) => file.read_at(block, at),
            Self::Direct(file) => file.read_at(block, at),
        }
    }

    /// Writes a whole block at `at`.
    pub(crate) fn write_at(&self, block: &[u8], at: u64) -> Result<(), Problem> {
        match self {
            Self::Mounted(file) => file.write_at(block, at),
            Self::Direct(file) => file.write_at(block, at),
        }
    }

    /// Has the server copy up to `length` bytes at `at` into `to`, at the same place, and returns how many that
    /// were; none at the end.
    ///
    /// # Errors
    /// `EXDEV`, `EINVAL`, `ENOSYS`, `EOPNOTSUPP` or `EPERM` where it does not copy from the one to the other.
    pub(crate) fn copy_range(&self, to: &Self, at: u64, length: usize) -> Result<usize, Problem> {
        match (self, to) {
            (Self::Mounted(file), Self::Mounted(to)) => file.copy_range(to, at, length),
            (Self::Direct(file), Self::Direct(to)) => file.copy_range(to, at, length),
            (Self::Mounted(_), Self::Direct(_)) | (Self::Direct(_), Self::Mounted(_)) => {
                Err(Problem::Os(Errno::EXDEV))
            }
        }
    }

    /// Makes the file as long as this, with a hole at its end if it was shorter.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), Problem> {
        match self {
            Self::Mounted(file) => file.truncate(size),
            Self::Direct(file) => file.truncate(size),
        }
    }

    /// Waits until the file system has taken the file for good. Only then has an NFS server been asked whether
    /// there is room.
    pub(crate) fn sync(&self) -> Result<(), Problem> {
        match self {
            Self::Mounted(file) => file.sync(),
            Self::Direct(file) => file.sync(),
        }
    }
}

impl Listing {
    /// Reads a page: up to `limit` more names, with what they are where the file system says so; none at the end.
    /// `.` and `..` are left out.
    ///
    /// Entries that come or go meanwhile may show or not, and some file systems then skip others, too.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Vec<(CString, Option<FileKind>)>, Problem> {
        match self {
            Self::Mounted(listing) => listing.next(limit),
            Self::Direct(listing) => listing.next(limit),
        }
    }
}
