//! Copies one entry: its content, owners, mode, times and extended attributes.

use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::storage::dir::{Dir, File, Inode};
use crate::storage::entry::{Attributes, FileKind};
use crate::storage::error::{Errno, Problem};

/// How many bytes are asked to be copied in one call. Between two of them the copy can be stopped.
const CHUNK: usize = 8 << 20;

/// How many bytes are copied at a time where the kernel or the server does not copy by itself. One such block of
/// nothing but zeros is left out: the file then has a hole there.
const BLOCK: usize = 128 << 10;

/// How many times an entry is tried that is another each time it is looked at.
pub(super) const TRIES: u32 = 16;

/// Why an entry is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// The source has nothing of that name any more, or something else than before: it is worth another look.
    Changed(Problem),
    /// It cannot be copied.
    Failed(Problem),
}

/// Unless it is said to lie in the source, a problem lies in the copy, where nothing comes or goes by itself.
impl From<Problem> for Missed {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl Missed {
    /// Sorts what was answered to a look at the source, in which others come and go.
    pub(super) fn in_source(problem: Problem) -> Self {
        use Errno::{EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, ESTALE};
        let has_changed = matches!(
            problem,
            Problem::Link
                | Problem::NotDirectory
                | Problem::Os(EISDIR | ELOOP | ENOENT | ENOTDIR | ENXIO | ESTALE)
        );
        if has_changed { Self::Changed(problem) } else { Self::Failed(problem) }
    }
}

/// How far a copy is. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    left_out: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Returns how many files and others have been copied, directories included.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// Returns how many bytes have been copied.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Returns how many devices and sockets were left out, because this process may not make any.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Has the copy stopped soon.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }

    /// Tells whether the copy has been stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    /// Counts one entry that has been copied.
    pub(super) fn count_entry(&self) {
        self.0.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one entry that was left out.
    pub(super) fn count_left_out(&self) {
        self.0.left_out.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is the same for all entries of a copy.
pub(super) struct Entries<'a> {
    /// A group, and the one that takes its place in the copy.
    pub(super) group: Option<(u32, u32)>,
    /// What counts how far the copy is.
    pub(super) progress: &'a Progress,
    /// Whether to go on; asked before each entry, and now and then in a large file.
    pub(super) goes_on: &'a (dyn Fn() -> bool + Sync),
}

impl Entries<'_> {
    /// Tells whether the copy goes on.
    pub(super) fn go_on(&self) -> bool {
        !self.progress.is_stopped() && (self.goes_on)()
    }

    /// Opens the file `name` in `source`, and finds out what it is as it is open.
    pub(super) fn open(source: &Dir, name: &CStr) -> Result<(File, Attributes), Missed> {
        let from = source.open_file(name).map_err(Missed::in_source)?;
        let found = from.inode().attributes().map_err(Missed::in_source)?;
        if found.kind == FileKind::File {
            Ok((from, found))
        } else {
            Err(Missed::Changed(Problem::Os(Errno::ESTALE)))
        }
    }

    /// Copies an open file to a new file `new` in `target`. Half a copy is not left where the source has changed.
    pub(super) fn file(&self, from: &File, found: &Attributes, target: &Dir, new: &CStr) -> Result<(), Missed> {
        let to = made_anew(target, new, || target.create_file(new))?;
        let copied = self.content(from, &to, found).and_then(|()| copy_xattrs(from.inode(), to.inode()));
        if let Err(Missed::Changed(_)) = copied {
            take_away(target, new)?;
        }
        copied?;
        self.own(to.inode(), found)?;
        // An NFS client says only now that there was no room.
        Ok(to.sync()?)
    }

    /// Copies a symbolic link. It is not followed.
    pub(super) fn link(&self, source: &Dir, target: &Dir, name: &CStr, found: &Attributes) -> Result<(), Missed> {
        let is_no_link = Problem::Os(Errno::EINVAL);
        let leads_to = source.read_link(name).map_err(|problem| {
            if problem == is_no_link { Missed::Changed(problem) } else { Missed::in_source(problem) }
        })?;
        let now = source.entry(name).map_err(Missed::in_source)?;
        if (now.inode, now.changed) != (found.inode, found.changed) {
            return Err(Missed::Changed(Problem::Os(Errno::ESTALE)));
        }
        made_anew(target, name, || target.symlink(&leads_to, name))?;
        Ok(self.own_entry(target, name, found)?)
    }

    /// Copies a pipe, a socket or a device; tells whether it has. Only what this process, or the file system, has no
    /// leave to make is left out.
    pub(super) fn node(&self, target: &Dir, name: &CStr, found: &Attributes) -> Result<bool, Missed> {
        // Anybody may make a pipe.
        let takes_leave = found.kind != FileKind::Fifo;
        let node = || target.make_node(name, found.kind, found.mode, found.device);
        match made_anew(target, name, node) {
            Err(Problem::Os(Errno::EOPNOTSUPP | Errno::EINVAL)) => return Ok(false),
            Err(Problem::Os(Errno::EPERM | Errno::EACCES)) if takes_leave => return Ok(false),
            made => made?,
        }
        self.own_entry(target, name, found)?;
        // The umask may have taken bits from it, and the change of owners others.
        if target.entry(name)?.mode != found.mode {
            target.set_mode_of(name, found.mode)?;
            target.set_times_of(name, found.accessed, found.modified)?;
        }
        Ok(true)
    }

    /// Gives a copy its owners, its mode and its times, in this order: an owner loses some of the mode's bits.
    pub(super) fn own(&self, copy: Inode<'_>, found: &Attributes) -> Result<(), Problem> {
        copy.set_owners(Some(found.uid), Some(self.group_of(found)))?;
        copy.set_mode(found.mode)?;
        copy.set_times(found.accessed, found.modified)
    }

    /// Gives the copy of what cannot be opened its owners and its times.
    fn own_entry(&self, target: &Dir, name: &CStr, found: &Attributes) -> Result<(), Problem> {
        target.set_owners_of(name, found.uid, self.group_of(found))?;
        target.set_times_of(name, found.accessed, found.modified)
    }

    fn group_of(&self, found: &Attributes) -> u32 {
        match self.group {
            Some((from, to)) if found.gid == from => to,
            _ => found.gid,
        }
    }

    /// Copies what is in a file, and leaves holes where it has some.
    fn content(&self, from: &File, to: &File, found: &Attributes) -> Result<(), Missed> {
        let size = found.size;
        to.truncate(size)?;
        let mut at = 0;
        while at < size {
            let Some(data) = from.next_data(at, size).map_err(Missed::in_source)? else { break };
            let end = data.end;
            // Where it has holes of which nobody tells, as over NFS v3, they are looked for.
            let has_hidden_holes = data == (0..size) && found.on_disk < size;
            if data.is_empty() || !self.part(from, to, data, has_hidden_holes)? {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// Copies a part of a file, by reading it if that is wanted or there is no other way; tells whether it was all
    /// there.
    fn part(&self, from: &File, to: &File, part: Range<u64>, by_reading: bool) -> Result<bool, Missed> {
        let Range { start: mut at, end } = part;
        let mut block = if by_reading { vec![0; BLOCK] } else { Vec::new() };
        while at < end {
            if !self.go_on() {
                return Err(Missed::Failed(Problem::NotLeading));
            }
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let copied = if block.is_empty() {
                match from.copy_range(to, at, left.min(CHUNK)) {
                    // Some kernels and servers say "nothing" where they do not copy. Reading tells.
                    Ok(0)
                    | Err(Problem::Os(
                        Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM,
                    )) => None,
                    copied => Some(copied.map_err(Missed::in_source)?),
                }
            } else {
                Some(copy_block(from, to, at, block.get_mut(..left.min(BLOCK)).unwrap_or_default())?)
            };
            match copied {
                None => block = vec![0; BLOCK],
                Some(0) => return ended(from, at).map(|()| false),
                Some(copied) => {
                    at += copied as u64;
                    self.progress.0.bytes.fetch_add(copied as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(true)
    }
}

/// Makes sure that a file ends where nothing more could be read: it may have become shorter, but what is there and
/// cannot be read is no end.
fn ended(from: &File, at: u64) -> Result<(), Missed> {
    match from.inode().attributes().map_err(Missed::in_source)?.size {
        size if size > at => Err(Missed::Changed(Problem::Os(Errno::EIO))),
        _ => Ok(()),
    }
}

/// Makes an entry of a copy. One of that name that is there already, and is no directory, is taken away first: a lost
/// answer has made it, or a listing has shown its name twice while others came and went. Nobody else makes entries
/// in a copy.
pub(super) fn made_anew<T>(
    target: &Dir,
    name: &CStr,
    make: impl Fn() -> Result<T, Problem>,
) -> Result<T, Problem> {
    for _ in 1..TRIES {
        match make() {
            Err(Problem::Os(Errno::EEXIST)) => take_away(target, name)?,
            done => return done,
        }
    }
    make()
}

/// Takes an entry of a copy away that is no directory. None there is success.
pub(super) fn take_away(target: &Dir, name: &CStr) -> Result<(), Problem> {
    match target.unlink(name) {
        Err(Problem::Os(Errno::ENOENT)) => Ok(()),
        removed => removed,
    }
}

/// Copies one block by reading and writing it, unless it is nothing but zeros.
fn copy_block(from: &File, to: &File, at: u64, block: &mut [u8]) -> Result<usize, Missed> {
    let read = from.read_at(block, at).map_err(Missed::in_source)?;
    let block = block.get(..read).unwrap_or_default();
    if block.iter().any(|byte| *byte != 0) {
        to.write_at(block, at)?;
    }
    Ok(read)
}

/// Copies extended attributes, access lists among them, where both sides have such. Those of the kernel's security
/// modules are nobody's to copy.
pub(super) fn copy_xattrs(from: Inode<'_>, to: Inode<'_>) -> Result<(), Missed> {
    let names = match from.xattr_names() {
        Err(Problem::Os(Errno::EOPNOTSUPP | Errno::ENOSYS)) => return Ok(()),
        names => names.map_err(Missed::in_source)?,
    };
    for name in names {
        if name.to_bytes().starts_with(b"security.") || name.to_bytes().starts_with(b"trusted.") {
            continue;
        }
        let value = match from.xattr(&name) {
            Err(Problem::Os(Errno::ENODATA)) => continue,
            value => value.map_err(Missed::in_source)?,
        };
        match to.set_xattr(&name, &value) {
            Err(Problem::Os(Errno::EOPNOTSUPP)) => {}
            set => set?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn blocks_of_zeros_are_left_out_where_nobody_else_tells_of_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; 5 * BLOCK + 10];
        content[2 * BLOCK + 5] = 1;
        let last = content.len() - 1;
        content[last] = 2;
        fs::write(dir.path().join("from"), &content).unwrap();
        let top = Dir::open_mounted(dir.path()).unwrap();
        let (from, to) = (top.open_file("from").unwrap(), top.create_file("to").unwrap());
        to.truncate(content.len() as u64).unwrap();
        let (mut at, mut block) = (0, vec![0; BLOCK]);
        while at < content.len() as u64 {
            at += copy_block(&from, &to, at, &mut block).unwrap() as u64;
        }
        assert_eq!(fs::read(dir.path().join("to")).unwrap(), content);
        assert!(fs::metadata(dir.path().join("to")).unwrap().blocks() * 512 <= 3 * BLOCK as u64);
    }
}
