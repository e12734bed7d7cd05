//! Directories by their handles, and the calls on their entries.
//!
//! A handle names a directory wherever it is by now, as an open descriptor does. Each call takes a handle and one
//! name; servers follow no link there (RFC 8881, section 18.13.4).

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::storage::direct::attributes::{Changes, Facts, Mask, Stamp, UNKNOWN};
use crate::storage::direct::compound::{Compound, Handle, Makes, Opens, Share, StateId};
use crate::storage::direct::filehandle::FileHandle;
use crate::storage::direct::filesystem::{Filesystem, fsid_of_directory};
use crate::storage::direct::node::Node;
use crate::storage::direct::rpc::Who;
use crate::storage::direct::server::Server;
use crate::storage::direct::status::Status;
use crate::storage::entry::{Attributes, FileKind, Time};
use crate::storage::error::{Errno, Problem};
use crate::values::headroom::FsUsage;

/// How long a page of a listing may be, in bytes.
const PAGE: u32 = 64 << 10;

/// How often a listing begins anew of which the server has lost the place.
const RESTARTS_MAX: u32 = 8;

/// How many entries are removed at once, at the most. More gain nothing.
const REMOVED_MAX: usize = 40;

/// How long the result of one removal is, and how much comes before those of all.
const REMOVED: usize = 28;
const REMOVED_BEFORE: usize = 128;

/// How long a name and what comes with it may be.
const NAMED_MAX: usize = 264;

/// A directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    node: Node,
    /// Whether only its owner gets anything done in it.
    takes_owner: AtomicBool,
}

impl DirHandle {
    /// Finds the directory at a path of an administrator's.
    pub(crate) fn open_top(server: Arc<Server>, path: &str) -> Result<Self, Problem> {
        let (filesystem, handle) = Filesystem::find(server, path)?;
        Ok(Self::new(Arc::new(filesystem), handle))
    }

    fn new(filesystem: Arc<Filesystem>, handle: Handle) -> Self {
        Self { node: Node { filesystem, handle }, takes_owner: AtomicBool::new(false) }
    }

    /// Returns what the directory has in common with files.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    fn here(&self) -> Compound {
        self.node.here()
    }

    fn filesystem(&self) -> &Filesystem {
        &self.node.filesystem
    }

    /// Finds the directory `name` in this one.
    pub(crate) fn open(&self, name: &CStr) -> Result<Self, Problem> {
        let (handle, facts) = self.find(name).map_err(entered)?;
        if fsid_of_directory(&facts)? != self.filesystem().fsid {
            return Err(Problem::MountPoint);
        }
        Ok(Self::new(Arc::clone(&self.node.filesystem), handle))
    }

    fn find(&self, name: &CStr) -> Result<(Handle, Facts), Problem> {
        let compound = self.here().lookup(name)?.handle().attributes(Mask::PLACE);
        self.as_able(|who| {
            self.node.ask(who, &compound, |results| {
                results.lookup()?;
                Ok((results.handle()?, results.attributes()?))
            })
        })
    }

    /// Returns this directory once more.
    pub(crate) fn reopen(&self) -> Self {
        Self::new(Arc::clone(&self.node.filesystem), self.node.handle.clone())
    }

    /// Asks for the attributes of the entry `name`, of a link itself.
    pub(crate) fn entry(&self, name: &CStr) -> Result<Attributes, Problem> {
        let compound = self.here().lookup(name)?.attributes(Mask::ALL);
        let facts = self.as_able(|who| {
            self.node.ask(who, &compound, |results| {
                results.lookup()?;
                results.attributes()
            })
        })?;
        Ok(facts.attributes()?)
    }

    /// Makes the directory `name`.
    pub(crate) fn make(&self, name: &CStr, mode: u32) -> Result<(), Problem> {
        self.create(Makes::Directory, name, &Changes::mode(mode))
    }

    fn create(&self, makes: Makes<'_>, name: &CStr, changes: &Changes) -> Result<(), Problem> {
        let compound = self.here().create(makes, name, changes)?;
        let created = self.node.ask(Who::ROOT, &compound, |results| results.create());
        created.map_err(entered)
    }

    /// Renames `name` in this directory to `to_name` in `to`.
    pub(crate) fn rename(&self, name: &CStr, to: &Self, to_name: &CStr) -> Result<(), Problem> {
        self.needs_same_filesystem(to)?;
        let compound = self.here().save().put(&to.node.handle).rename(name, to_name)?;
        let renamed = |who| {
            self.node.ask(who, &compound, |results| {
                results.save()?;
                results.put()?;
                results.rename()
            })
        };
        match self.as_able(renamed) {
            Err(problem) if problem.is_denial() => to.as_able(renamed),
            renamed => renamed,
        }
    }

    fn needs_same_filesystem(&self, other: &Self) -> Result<(), Problem> {
        let (ours, theirs) = (self.filesystem(), other.filesystem());
        let is_same = ours.is_on_server_of(theirs) && ours.fsid == theirs.fsid;
        if is_same { Ok(()) } else { Err(Problem::Os(Errno::EXDEV)) }
    }

    /// Writes a file, or replaces the content of the one that is there, for good.
    pub(crate) fn write(&self, name: &CStr, content: &[u8]) -> Result<(), Problem> {
        let filesystem = self.filesystem();
        let changes = Changes { size: Some(0), ..Changes::mode(0o600) };
        let opening = self.here().open(filesystem.next_owner(), Share::Write, Opens::Replacing(name, changes))?;
        let compound = opening.handle().write(StateId::CURRENT, 0, true, content).close(StateId::CURRENT);
        let answer = filesystem.server.call(Who::ROOT, &compound)?;
        let mut opened = None;
        let written = answer.read(|results| {
            results.put()?;
            let state = results.open()?;
            opened = Some((results.handle()?, state));
            let (length, is_stable, _) = results.write()?;
            results.close()?;
            Ok(is_stable && usize::try_from(length).is_ok_and(|length| length == content.len()))
        });
        match written {
            Ok(true) => Ok(()),
            Ok(false) => Err(Problem::Os(Errno::EIO)),
            Err(status) => {
                if let Some((handle, state)) = opened {
                    let node = Node { filesystem: Arc::clone(&self.node.filesystem), handle };
                    drop(FileHandle::new(node, state, Share::Write));
                }
                Err(status.into())
            }
        }
    }

    /// Removes the entry `name`, which is not a directory.
    pub(crate) fn unlink(&self, name: &CStr) -> Result<(), Problem> {
        self.remove(name, false)
    }

    /// Removes the directory `name` if it is empty.
    pub(crate) fn remove_empty(&self, name: &CStr) -> Result<(), Problem> {
        self.remove(name, true)
    }

    /// Servers remove files and empty directories by the same operation, so which it is is looked at before, in the
    /// same call.
    fn remove(&self, name: &CStr, is_directory: bool) -> Result<(), Problem> {
        let compound = self.here().lookup(name)?.verify_directory(is_directory);
        let compound = compound.put(&self.node.handle).remove(name)?;
        self.as_able(|who| {
            let answer = self.filesystem().server.call(who, &compound)?;
            let removed = answer.read(|results| {
                results.put()?;
                results.lookup()?;
                results.verify_directory(is_directory)?;
                results.put()?;
                results.remove()
            });
            match removed {
                // By the request whose answer was lost, or by somebody else: what was wanted.
                Err(Status::NOENT) if answer.may_be_repeated => Ok(()),
                Err(Status::SAME) => Err(Problem::Os(Errno::EISDIR)),
                Err(Status::NOT_SAME) => Err(Problem::Os(Errno::ENOTDIR)),
                removed => Ok(removed?),
            }
        })
    }

    /// Removes entries that are not directories, many at a time.
    pub(crate) fn remove_many(&self, names: &[CString], goes_on: &dyn Fn() -> bool) -> Vec<Result<(), Problem>> {
        let mut results: Vec<Result<(), Problem>> = Vec::with_capacity(names.len());
        while let Some(rest) = names.get(results.len()..).filter(|rest| !rest.is_empty()) {
            if !goes_on() {
                break;
            }
            let count = match self.at_once() {
                Ok(most) => most.min(rest.len()),
                Err(problem) => {
                    results.push(Err(problem));
                    break;
                }
            };
            let tried = self.remove_at_once(rest.get(..count).unwrap_or_default());
            let has_failed = tried.iter().any(Result::is_err);
            results.extend(tried);
            if has_failed {
                break;
            }
        }
        results
    }

    /// Returns how many entries are removed at once.
    fn at_once(&self) -> Result<usize, Problem> {
        let limits = self.filesystem().server.limits()?;
        let number = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        let by_operations = number(limits.operations).saturating_sub(2);
        let by_reply = number(limits.kept_reply).saturating_sub(REMOVED_BEFORE) / REMOVED;
        let by_request = number(limits.request) / NAMED_MAX;
        Ok(by_operations.min(by_reply).min(by_request).clamp(1, REMOVED_MAX))
    }

    /// Removes so many entries that one call takes them, up to the first that cannot be removed.
    fn remove_at_once(&self, names: &[CString]) -> Vec<Result<(), Problem>> {
        let mut done = Vec::with_capacity(names.len());
        let removed = self.as_able(|who| {
            let left = names.get(done.len()..).unwrap_or_default();
            let mut compound = self.here();
            for name in left {
                compound = compound.remove(name)?;
            }
            let answer = self.filesystem().server.call(who, &compound)?;
            Ok(answer.read(|results| {
                results.put()?;
                for _ in left {
                    match results.remove() {
                        Err(Status::NOENT) if answer.may_be_repeated => done.push(Ok(())),
                        // It has become a directory.
                        Err(Status::NOTEMPTY | Status::EXIST) => return Ok(true),
                        removed => done.push(Ok(removed?)),
                    }
                }
                Ok(false)
            })?)
        });
        match removed {
            Ok(true) => done.push(Err(Problem::Os(Errno::EISDIR))),
            // Whoever asks again is answered when the server is ready.
            Err(Problem::InGrace | Problem::Os(Errno::EAGAIN)) if !done.is_empty() => {}
            Err(problem) => done.push(Err(problem)),
            Ok(false) => {}
        }
        done
    }

    /// Begins to list this directory.
    pub(crate) fn listing(&self) -> Pages {
        Pages { dir: self.reopen(), next: Some((0, [0; 8])), restarts: 0, listed: VecDeque::new() }
    }

    /// Gives this directory's owner all rights in it.
    pub(crate) fn unlock(&self) -> Result<(), Problem> {
        let found = self.node.attributes()?;
        if found.mode & 0o700 == 0o700 {
            return Ok(());
        }
        let changes = Changes::mode(found.mode | 0o700);
        match self.node.set(Who::ROOT, &changes) {
            Err(problem) if problem.is_denial() => self.node.set(owner(&found).ok_or(problem)?, &changes),
            set => set,
        }
    }

    /// Asks how full the file system is.
    pub(crate) fn usage(&self) -> Result<FsUsage, Problem> {
        Ok(self.node.facts(Mask::USAGE)?.usage()?)
    }

    /// Tells whether another directory is the same one of the same server.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.node.handle == other.node.handle && self.needs_same_filesystem(other).is_ok()
    }

    /// Opens the file `name` for reading. What is there and is no file cannot be opened at a server, nor read, but
    /// looked at.
    pub(crate) fn open_file(&self, name: &CStr) -> Result<FileHandle, Problem> {
        match self.open_as(Share::Read, Opens::Existing(name)) {
            Err(Problem::Os(Errno::EISDIR | Errno::EINVAL)) => {
                let (handle, _) = self.find(name)?;
                let node = Node { filesystem: Arc::clone(&self.node.filesystem), handle };
                Ok(FileHandle::new(node, StateId::ANONYMOUS, Share::Read))
            }
            opened => opened,
        }
    }

    /// Makes the file `name`, which its owner alone may read and write, and opens it for writing.
    pub(crate) fn create_file(&self, name: &CStr) -> Result<FileHandle, Problem> {
        self.open_as(Share::Write, Opens::New(name, Changes::mode(0o600)))
    }

    fn open_as(&self, share: Share, opens: Opens<'_>) -> Result<FileHandle, Problem> {
        let filesystem = Arc::clone(&self.node.filesystem);
        let compound = self.here().open(filesystem.next_owner(), share, opens)?.handle();
        let (state, handle) =
            self.node.ask(Who::ROOT, &compound, |results| Ok((results.open()?, results.handle()?)))?;
        Ok(FileHandle::new(Node { filesystem, handle }, state, share))
    }

    /// Gives the entry `name` another name, `to_name` in `to`.
    pub(crate) fn link(&self, name: &CStr, to: &Self, to_name: &CStr) -> Result<(), Problem> {
        self.needs_same_filesystem(to)?;
        let compound = self.here().lookup(name)?.save().put(&to.node.handle).link(to_name)?;
        self.node.ask(Who::ROOT, &compound, |results| {
            results.lookup()?;
            results.save()?;
            results.put()?;
            results.link()
        })
    }

    /// Makes the symbolic link `name`.
    pub(crate) fn symlink(&self, leads_to: &CStr, name: &CStr) -> Result<(), Problem> {
        self.create(Makes::Link(leads_to), name, &Changes::default())
    }

    /// Reads where the symbolic link `name` leads to.
    pub(crate) fn read_link(&self, name: &CStr) -> Result<CString, Problem> {
        let compound = self.here().lookup(name)?.read_link();
        self.node.ask(Who::ROOT, &compound, |results| {
            results.lookup()?;
            results.read_link()
        })
    }

    /// Makes a pipe, a socket or a device.
    pub(crate) fn make_node(&self, name: &CStr, kind: FileKind, mode: u32, device: u64) -> Result<(), Problem> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        self.create(Makes::Node(kind, major, minor), name, &Changes::mode(mode))
    }

    /// Sets the owner and the group of the entry `name`, of a link itself.
    pub(crate) fn set_owners_of(&self, name: &CStr, uid: u32, gid: u32) -> Result<(), Problem> {
        self.set_of(name, &Changes::owners(Some(uid), Some(gid)))
    }

    /// Sets the mode of the entry `name`. A link is refused.
    pub(crate) fn set_mode_of(&self, name: &CStr, mode: u32) -> Result<(), Problem> {
        if self.entry(name)?.kind == FileKind::Link {
            return Err(Problem::Link);
        }
        self.set_of(name, &Changes::mode(mode))
    }

    /// Sets the times of the entry `name`, of a link itself.
    pub(crate) fn set_times_of(&self, name: &CStr, accessed: Time, modified: Time) -> Result<(), Problem> {
        self.set_of(name, &Changes::times(Stamp::At(accessed), Stamp::At(modified)))
    }

    fn set_of(&self, name: &CStr, changes: &Changes) -> Result<(), Problem> {
        let compound = self.here().lookup(name)?.set(StateId::ANONYMOUS, changes);
        self.node.ask(Who::ROOT, &compound, |results| {
            results.lookup()?;
            results.set()
        })
    }

    /// Makes a call as root, and again as the directory's owner if root is nobody to the server.
    fn as_able<T>(&self, mut call: impl FnMut(Who) -> Result<T, Problem>) -> Result<T, Problem> {
        if self.takes_owner.load(Ordering::Relaxed)
            && let Some(owner) = self.owner()?
        {
            return call(owner);
        }
        match call(Who::ROOT) {
            Err(denied) if denied.is_denial() => {
                let Some(owner) = self.owner()? else { return Err(denied) };
                let done = call(owner).map_err(|problem| if problem.is_denial() { denied } else { problem })?;
                self.takes_owner.store(true, Ordering::Relaxed);
                Ok(done)
            }
            done => done,
        }
    }

    /// Returns the directory's owner, unless that is root or nobody that is known.
    fn owner(&self) -> Result<Option<Who>, Problem> {
        Ok(owner(&self.node.attributes()?))
    }
}

/// Says of an entry that the server does not let be entered what it is.
fn entered(problem: Problem) -> Problem {
    if problem == Problem::Os(Errno::EXDEV) { Problem::MountPoint } else { problem }
}

fn owner(found: &Attributes) -> Option<Who> {
    let is_somebody = ![0, UNKNOWN].contains(&found.uid) && found.gid != UNKNOWN;
    is_somebody.then_some(Who { uid: found.uid, gid: found.gid })
}

/// A listing of a directory that is under way.
#[derive(Debug)]
pub(crate) struct Pages {
    dir: DirHandle,
    /// Where the next page begins; `None` at the end.
    next: Option<(u64, [u8; 8])>,
    restarts: u32,
    /// What was listed and not handed out yet.
    listed: VecDeque<(CString, Facts)>,
}

impl Pages {
    /// Reads up to `limit` more entries, with what they are where the server says so.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Vec<(CString, Option<FileKind>)>, Problem> {
        while self.listed.is_empty()
            && let Some((cookie, verifier)) = self.next
        {
            let compound = self.dir.here().list(cookie, verifier, PAGE, Mask::LISTED);
            let listed = self.dir.as_able(|who| {
                let answer = self.dir.filesystem().server.call(who, &compound)?;
                let page = answer.read(|results| {
                    results.put()?;
                    results.list(cookie)
                });
                match page {
                    Err(Status::BAD_COOKIE | Status::NOT_SAME) => Ok(Err((0, [0; 8]))),
                    // No answer to this operation, but what Ganesha says when an entry goes while it lists.
                    Err(Status::NOENT) => Ok(Err((cookie, verifier))),
                    page => Ok(Ok(page?)),
                }
            })?;
            match listed {
                Ok(page) => {
                    self.next = (!page.is_last).then_some((page.cookie, page.verifier));
                    self.listed = page.entries.into();
                }
                // What was removed meanwhile has taken the place along. What is listed again is only seen again.
                Err(from) if self.restarts < RESTARTS_MAX => {
                    self.restarts += 1;
                    self.next = Some(from);
                }
                Err(_) => return Err(Problem::Os(Errno::ESTALE)),
            }
        }
        let count = limit.min(self.listed.len());
        Ok(self.listed.drain(..count).map(|(name, facts)| (name, facts.kind)).collect())
    }
}
