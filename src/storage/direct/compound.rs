//! Compounds (RFC 8881, section 16.2, and the operations in its section 18): several operations that are sent at
//! once. The first that fails is the last that is carried out.

use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::Arc;

use crate::storage::direct::attributes::{Changes, Facts, Mask};
use crate::storage::direct::status::Status;
use crate::storage::direct::xdr::{Decoder, Encoder, Malformed};
use crate::storage::entry::FileKind;
use crate::storage::error::{Errno, Problem};

/// How long a file handle may be.
const HANDLE_MAX: usize = 128;

/// How long a name, or where a link leads to, may be.
const NAME_MAX: usize = 4096;

/// How much may be read at once, as much as any record may hold.
const READ_MAX: usize = 1 << 20;

/// Names the operations by their numbers.
mod op {
    pub(super) const CLOSE: u32 = 4;
    pub(super) const COMMIT: u32 = 5;
    pub(super) const CREATE: u32 = 6;
    pub(super) const GETATTR: u32 = 9;
    pub(super) const GETFH: u32 = 10;
    pub(super) const LINK: u32 = 11;
    pub(super) const LOOKUP: u32 = 15;
    pub(super) const NVERIFY: u32 = 17;
    pub(super) const OPEN: u32 = 18;
    pub(super) const PUTFH: u32 = 22;
    pub(super) const PUTROOTFH: u32 = 24;
    pub(super) const READ: u32 = 25;
    pub(super) const READDIR: u32 = 26;
    pub(super) const READLINK: u32 = 27;
    pub(super) const REMOVE: u32 = 28;
    pub(super) const RENAME: u32 = 29;
    pub(super) const SAVEFH: u32 = 32;
    pub(super) const SETATTR: u32 = 34;
    pub(super) const VERIFY: u32 = 37;
    pub(super) const WRITE: u32 = 38;
    pub(super) const EXCHANGE_ID: u32 = 42;
    pub(super) const CREATE_SESSION: u32 = 43;
    pub(super) const DESTROY_SESSION: u32 = 44;
    pub(super) const SEQUENCE: u32 = 53;
    pub(super) const RECLAIM_COMPLETE: u32 = 58;
    pub(super) const COPY: u32 = 60;
    pub(super) const SEEK: u32 = 69;
    pub(super) const CLONE: u32 = 71;
    pub(super) const GETXATTR: u32 = 72;
    pub(super) const SETXATTR: u32 = 73;
    pub(super) const LISTXATTRS: u32 = 74;
    pub(super) const ILLEGAL: u32 = 10_044;
}

/// What a server calls a file or a directory, wherever that is by now.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Handle(Arc<[u8]>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The number of a session.
pub(crate) type SessionId = [u8; 16];

/// What stands for an open file (`stateid4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateId([u8; 16]);

impl StateId {
    /// The one that an operation before it in the same compound has brought (RFC 8881, section 16.2.3.1.2).
    pub(crate) const CURRENT: Self = Self([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    /// None: what may be done without having anything open.
    pub(crate) const ANONYMOUS: Self = Self([0; 16]);
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Read,
    Write,
}

/// Which file is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opens<'a> {
    /// The entry of this name.
    Existing(&'a CStr),
    /// The entry of this name, made if there is none, and cut to nothing if there is.
    Replacing(&'a CStr, Changes),
    /// An entry of this name that is not there yet.
    New(&'a CStr, Changes),
    /// The one whose handle is there.
    This,
}

/// What is made by [`Compound::create`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Makes<'a> {
    Directory,
    Link(&'a CStr),
    Node(FileKind, u32, u32),
}

/// What a session is asked for, and what a server grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long a request may be.
    pub(crate) request: u32,
    /// How long a reply may be.
    pub(crate) reply: u32,
    /// How long a reply may be that the server keeps, to repeat it.
    pub(crate) kept_reply: u32,
    /// How many operations a compound may have.
    pub(crate) operations: u32,
    /// How many requests may be under way.
    pub(crate) slots: u32,
}

/// Checks the name of an entry that is to be sent. Servers refuse these names, too, but not all of them refuse all.
fn sendable(name: &CStr) -> Result<&[u8], Problem> {
    let bytes = name.to_bytes();
    if is_name(bytes) { Ok(bytes) } else { Err(Problem::Os(Errno::EINVAL)) }
}

/// Tells whether bytes can be the name of one entry.
fn is_name(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Operations that are to be sent at once.
#[derive(Debug, Default, Clone)]
pub(crate) struct Compound {
    operations: Encoder,
    count: u32,
    /// The index of the first operation that changes something.
    first_change: Option<u32>,
}

impl Compound {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Begins with the object of this handle.
    pub(crate) fn at(handle: &Handle) -> Self {
        Self::new().put(handle)
    }

    fn op(mut self, number: u32, arguments: impl FnOnce(&mut Encoder)) -> Self {
        self.operations.u32(number);
        arguments(&mut self.operations);
        self.count += 1;
        self
    }

    fn change(mut self, number: u32, arguments: impl FnOnce(&mut Encoder)) -> Self {
        self.first_change.get_or_insert(self.count);
        self.op(number, arguments)
    }

    pub(crate) fn put(self, handle: &Handle) -> Self {
        self.op(op::PUTFH, |to| {
            to.opaque(&handle.0);
        })
    }

    pub(crate) fn put_root(self) -> Self {
        self.op(op::PUTROOTFH, |_| ())
    }

    pub(crate) fn lookup(self, name: &CStr) -> Result<Self, Problem> {
        let name = sendable(name)?;
        Ok(self.op(op::LOOKUP, |to| {
            to.opaque(name);
        }))
    }

    /// Goes on only if the object is a directory, or only if it is none.
    pub(crate) fn verify_directory(self, is_directory: bool) -> Self {
        self.op(if is_directory { op::VERIFY } else { op::NVERIFY }, Facts::encode_directory)
    }

    pub(crate) fn handle(self) -> Self {
        self.op(op::GETFH, |_| ())
    }

    pub(crate) fn save(self) -> Self {
        self.op(op::SAVEFH, |_| ())
    }

    pub(crate) fn attributes(self, mask: Mask) -> Self {
        self.op(op::GETATTR, |to| mask.encode(to))
    }

    pub(crate) fn set(self, state: StateId, changes: &Changes) -> Self {
        self.change(op::SETATTR, |to| changes.encode(to.fixed(&state.0)))
    }

    pub(crate) fn create(self, makes: Makes<'_>, name: &CStr, changes: &Changes) -> Result<Self, Problem> {
        let name = sendable(name)?;
        let (kind, link, device) = match makes {
            Makes::Directory => (2, None, None),
            Makes::Link(leads_to) => (5, Some(leads_to), None),
            Makes::Node(FileKind::BlockDevice, major, minor) => (3, None, Some((major, minor))),
            Makes::Node(FileKind::CharacterDevice, major, minor) => (4, None, Some((major, minor))),
            Makes::Node(FileKind::Socket, ..) => (6, None, None),
            Makes::Node(FileKind::Fifo, ..) => (7, None, None),
            Makes::Node(FileKind::Directory | FileKind::Link | FileKind::File | FileKind::Other, ..) => {
                return Err(Problem::Os(Errno::EINVAL));
            }
        };
        Ok(self.change(op::CREATE, |to| {
            to.u32(kind);
            link.map(|leads_to| to.opaque(leads_to.to_bytes()));
            device.map(|(major, minor)| to.u32(major).u32(minor));
            changes.encode(to.opaque(name));
        }))
    }

    pub(crate) fn remove(self, name: &CStr) -> Result<Self, Problem> {
        let name = sendable(name)?;
        Ok(self.change(op::REMOVE, |to| {
            to.opaque(name);
        }))
    }

    /// Renames an entry of the saved directory to one of this.
    pub(crate) fn rename(self, name: &CStr, to_name: &CStr) -> Result<Self, Problem> {
        let (name, to_name) = (sendable(name)?, sendable(to_name)?);
        Ok(self.change(op::RENAME, |to| {
            to.opaque(name).opaque(to_name);
        }))
    }

    /// Gives the saved object a name in this directory.
    pub(crate) fn link(self, name: &CStr) -> Result<Self, Problem> {
        let name = sendable(name)?;
        Ok(self.change(op::LINK, |to| {
            to.opaque(name);
        }))
    }

    pub(crate) fn read_link(self) -> Self {
        self.op(op::READLINK, |_| ())
    }

    /// Lists entries after the one of this cookie, in up to `bytes`.
    pub(crate) fn list(self, cookie: u64, verifier: [u8; 8], bytes: u32, mask: Mask) -> Self {
        self.op(op::READDIR, |to| mask.encode(to.u64(cookie).fixed(&verifier).u32(bytes).u32(bytes)))
    }

    /// Opens a file for the `owner` of that number. No delegation is wanted.
    pub(crate) fn open(self, owner: u64, share: Share, opens: Opens<'_>) -> Result<Self, Problem> {
        let name = match opens {
            Opens::Existing(name) | Opens::Replacing(name, _) | Opens::New(name, _) => Some(sendable(name)?),
            Opens::This => None,
        };
        let open = |to: &mut Encoder| {
            let access = match share {
                Share::Read => 1,
                Share::Write => 2,
            };
            // The client's number is that of the session. Nothing is denied to others.
            to.u32(0).u32(access | 0x400).u32(0).u64(0).opaque(&owner.to_be_bytes());
            match opens {
                Opens::Existing(_) | Opens::This => {
                    to.u32(0);
                }
                Opens::Replacing(_, changes) => changes.encode(to.u32(1).u32(0)),
                Opens::New(_, changes) => changes.encode(to.u32(1).u32(1)),
            }
            match name {
                Some(name) => to.u32(0).opaque(name),
                None => to.u32(4),
            };
        };
        // To open what is there changes nothing.
        let is_change = matches!(opens, Opens::Replacing(..) | Opens::New(..));
        Ok(if is_change { self.change(op::OPEN, open) } else { self.op(op::OPEN, open) })
    }

    pub(crate) fn close(self, state: StateId) -> Self {
        self.op(op::CLOSE, |to| {
            to.u32(0).fixed(&state.0);
        })
    }

    pub(crate) fn read(self, state: StateId, at: u64, length: u32) -> Self {
        self.op(op::READ, |to| {
            to.fixed(&state.0).u64(at).u32(length);
        })
    }

    /// Writes, and has the server take it for good at once if it is to be `stable`.
    pub(crate) fn write(self, state: StateId, at: u64, stable: bool, data: &[u8]) -> Self {
        let stable = if stable { 2 } else { 0 };
        self.change(op::WRITE, |to| {
            to.fixed(&state.0).u64(at).u32(stable).opaque(data);
        })
    }

    /// Has the server take all that was written for good.
    pub(crate) fn commit(self) -> Self {
        self.change(op::COMMIT, |to| {
            to.u64(0).u32(0);
        })
    }

    /// Finds data, or a hole, from `at` on.
    pub(crate) fn seek(self, state: StateId, at: u64, hole: bool) -> Self {
        self.op(op::SEEK, |to| {
            to.fixed(&state.0).u64(at).u32(hole.into());
        })
    }

    /// Has the saved file's blocks be those of this one, too.
    pub(crate) fn clone_range(self, from: StateId, to: StateId, at: u64, length: u64) -> Self {
        self.change(op::CLONE, |into| {
            into.fixed(&from.0).fixed(&to.0).u64(at).u64(at).u64(length);
        })
    }

    /// Has the server copy from the saved file to this one, and answer when it has.
    pub(crate) fn copy_range(self, from: StateId, to: StateId, at: u64, length: u64) -> Self {
        self.change(op::COPY, |into| {
            into.fixed(&from.0).fixed(&to.0).u64(at).u64(at).u64(length).bool(true).bool(true).u32(0);
        })
    }

    pub(crate) fn xattr_names(self, cookie: u64, bytes: u32) -> Self {
        self.op(op::LISTXATTRS, |to| {
            to.u64(cookie).u32(bytes);
        })
    }

    pub(crate) fn xattr(self, name: &[u8]) -> Self {
        self.op(op::GETXATTR, |to| {
            to.opaque(name);
        })
    }

    pub(crate) fn set_xattr(self, name: &[u8], value: &[u8]) -> Self {
        self.change(op::SETXATTR, |to| {
            to.u32(0).opaque(name).opaque(value);
        })
    }

    /// Tells the server who we are. A client of the same `owner` with another `verifier` is another run of it: what
    /// the one before had is gone.
    pub(crate) fn exchange_id(self, owner: &[u8], verifier: [u8; 8]) -> Self {
        // No pNFS, no protection of state beyond the credential, nothing about the implementation.
        self.op(op::EXCHANGE_ID, |to| {
            to.fixed(&verifier).opaque(owner).u32(0x0001_0000).u32(0).u32(0);
        })
    }

    /// Asks for a session without a back channel.
    pub(crate) fn create_session(self, client: u64, sequence: u32, limits: Limits) -> Self {
        self.op(op::CREATE_SESSION, |to| {
            to.u64(client).u32(sequence).u32(0);
            channel(to, limits);
            channel(to, Limits { request: 4096, reply: 4096, kept_reply: 0, operations: 2, slots: 1 });
            // The callback program, and how it would be called: by nobody.
            to.u32(0x4000_0000).u32(1).u32(0);
        })
    }

    pub(crate) fn destroy_session(self, id: &SessionId) -> Self {
        self.op(op::DESTROY_SESSION, |to| {
            to.fixed(id);
        })
    }

    pub(crate) fn reclaim_complete(self) -> Self {
        self.op(op::RECLAIM_COMPLETE, |to| {
            to.bool(false);
        })
    }

    /// Tells whether anything is changed by it.
    pub(crate) fn changes(&self) -> bool {
        self.first_change.is_some()
    }

    /// Tells whether a compound of which so many operations were answered, the last with a failure, has changed
    /// nothing.
    pub(crate) fn has_changed_nothing(&self, answered: u32) -> bool {
        self.first_change.is_none_or(|first| answered <= first + 1)
    }

    /// Writes the arguments of the procedure, what comes before the operations and these.
    pub(crate) fn arguments(&self, minor: u32, sequence: Option<&Sequence>) -> (Vec<u8>, &[u8]) {
        let mut before = Encoder::default();
        before.opaque(b"").u32(minor).u32(self.count + u32::from(sequence.is_some()));
        if let Some(sequence) = sequence {
            before.u32(op::SEQUENCE).fixed(&sequence.session).u32(sequence.number).u32(sequence.slot);
            // What changes something is kept by the server, to be repeated. What only asks is asked again.
            before.u32(sequence.highest_slot).bool(self.changes());
        }
        (before.into_bytes(), self.operations.bytes())
    }
}

fn channel(to: &mut Encoder, limits: Limits) {
    to.u32(0).u32(limits.request).u32(limits.reply).u32(limits.kept_reply);
    to.u32(limits.operations).u32(limits.slots).u32(0);
}

/// Which request of a session a compound is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence {
    pub(crate) session: SessionId,
    pub(crate) slot: u32,
    pub(crate) number: u32,
    pub(crate) highest_slot: u32,
}

/// What a server has answered to the operations of a compound, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Results<'a> {
    from: Decoder<'a>,
    count: u32,
}

/// A page of a listing.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) verifier: [u8; 8],
    pub(crate) entries: Vec<(CString, Facts)>,
    /// Where the next page goes on.
    pub(crate) cookie: u64,
    pub(crate) is_last: bool,
}

impl<'a> Results<'a> {
    /// Begins to read the results of the procedure. Returns with them the status of the whole.
    pub(crate) fn new(mut from: Decoder<'a>) -> Result<(Status, Self), Malformed> {
        let status = Status(from.u32()?);
        from.opaque(NAME_MAX)?;
        let count = from.u32()?;
        Ok((status, Self { from, count }))
    }

    /// Goes on to read results of which so many are left.
    pub(crate) fn of(from: Decoder<'a>, count: u32) -> Self {
        Self { from, count }
    }

    /// Returns how many bytes were not read.
    pub(crate) fn left(&self) -> usize {
        self.from.left()
    }

    /// Returns how many results there are that were not read.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Reads the result of the operation `number`.
    fn next(&mut self, number: u32) -> Result<&mut Decoder<'a>, Status> {
        if self.count == 0 {
            return Err(Malformed.into());
        }
        self.count -= 1;
        match self.from.u32()? {
            answered if answered == number => {}
            // What a server does not know at all, or not in this version, it calls by this name.
            op::ILLEGAL => return Err(Status(self.from.u32()?)),
            _ => return Err(Malformed.into()),
        }
        match Status(self.from.u32()?) {
            Status::OK => Ok(&mut self.from),
            failed => Err(failed),
        }
    }

    fn change_info(&mut self, number: u32) -> Result<(), Status> {
        let from = self.next(number)?;
        from.fixed::<20>()?;
        Ok(())
    }

    pub(crate) fn put(&mut self) -> Result<(), Status> {
        self.next(op::PUTFH).map(drop)
    }

    pub(crate) fn put_root(&mut self) -> Result<(), Status> {
        self.next(op::PUTROOTFH).map(drop)
    }

    pub(crate) fn lookup(&mut self) -> Result<(), Status> {
        self.next(op::LOOKUP).map(drop)
    }

    pub(crate) fn verify_directory(&mut self, is_directory: bool) -> Result<(), Status> {
        self.next(if is_directory { op::VERIFY } else { op::NVERIFY }).map(drop)
    }

    pub(crate) fn save(&mut self) -> Result<(), Status> {
        self.next(op::SAVEFH).map(drop)
    }

    pub(crate) fn handle(&mut self) -> Result<Handle, Status> {
        match self.next(op::GETFH)?.opaque(HANDLE_MAX)? {
            [] => Err(Malformed.into()),
            handle => Ok(Handle(handle.into())),
        }
    }

    pub(crate) fn attributes(&mut self) -> Result<Facts, Status> {
        Ok(Facts::decode(self.next(op::GETATTR)?)?)
    }

    pub(crate) fn set(&mut self) -> Result<(), Status> {
        Mask::decode(self.next(op::SETATTR)?)?;
        Ok(())
    }

    pub(crate) fn create(&mut self) -> Result<(), Status> {
        self.change_info(op::CREATE)?;
        Mask::decode(&mut self.from)?;
        Ok(())
    }

    pub(crate) fn remove(&mut self) -> Result<(), Status> {
        self.change_info(op::REMOVE)
    }

    pub(crate) fn rename(&mut self) -> Result<(), Status> {
        self.change_info(op::RENAME)?;
        self.from.fixed::<20>()?;
        Ok(())
    }

    pub(crate) fn link(&mut self) -> Result<(), Status> {
        self.change_info(op::LINK)
    }

    pub(crate) fn read_link(&mut self) -> Result<CString, Status> {
        let leads_to = self.next(op::READLINK)?.opaque(NAME_MAX)?;
        CString::new(leads_to).map_err(|_| Malformed.into())
    }

    /// Reads a page that was asked for from `cookie` on.
    pub(crate) fn list(&mut self, cookie: u64) -> Result<Page, Status> {
        let from = self.next(op::READDIR)?;
        let mut page = Page { verifier: from.fixed()?, cookie, ..Page::default() };
        while from.bool()? {
            let next = from.u64()?;
            let name = from.opaque(NAME_MAX)?;
            let facts = Facts::decode(from)?;
            // What does not advance would never end. The first two are never those of an entry.
            if next == page.cookie || !is_name(name) {
                return Err(Malformed.into());
            }
            page.cookie = next;
            page.entries.push((CString::new(name).map_err(|_| Malformed)?, facts));
        }
        page.is_last = from.bool()?;
        if page.entries.is_empty() && !page.is_last { Err(Malformed.into()) } else { Ok(page) }
    }

    pub(crate) fn open(&mut self) -> Result<StateId, Status> {
        let from = self.next(op::OPEN)?;
        let state = StateId(from.fixed()?);
        from.fixed::<20>()?;
        from.u32()?;
        Mask::decode(from)?;
        delegation(from)?;
        Ok(state)
    }

    pub(crate) fn close(&mut self) -> Result<(), Status> {
        self.next(op::CLOSE)?.fixed::<16>()?;
        Ok(())
    }

    /// Reads what was read of a file.
    pub(crate) fn read(&mut self) -> Result<&'a [u8], Status> {
        let from = self.next(op::READ)?;
        from.bool()?;
        Ok(from.opaque(READ_MAX)?)
    }

    /// Returns how much was written, whether that is there for good, and what tells one run of the server from
    /// another.
    pub(crate) fn write(&mut self) -> Result<(u32, bool, [u8; 8]), Status> {
        let from = self.next(op::WRITE)?;
        Ok((from.u32()?, from.u32()? == 2, from.fixed()?))
    }

    pub(crate) fn commit(&mut self) -> Result<[u8; 8], Status> {
        Ok(self.next(op::COMMIT)?.fixed()?)
    }

    /// Returns what was looked for; `None` if there is none.
    pub(crate) fn seek(&mut self) -> Result<Option<u64>, Status> {
        let from = self.next(op::SEEK)?;
        let (is_end, at) = (from.bool()?, from.u64()?);
        Ok(Some(at).filter(|_| !is_end))
    }

    pub(crate) fn clone_range(&mut self) -> Result<(), Status> {
        self.next(op::CLONE).map(drop)
    }

    /// Returns how much was copied, whether that is there for good, and what tells one run of the server from
    /// another.
    pub(crate) fn copy_range(&mut self) -> Result<(u64, bool, [u8; 8]), Status> {
        let from = self.next(op::COPY)?;
        // It was asked to answer only then.
        if from.u32()? != 0 {
            return Err(Malformed.into());
        }
        let copied = (from.u64()?, from.u32()? == 2, from.fixed()?);
        from.fixed::<8>()?;
        Ok(copied)
    }

    /// Returns names and where the next ones are; `None` if there are no more.
    pub(crate) fn xattr_names(&mut self) -> Result<(Vec<Vec<u8>>, Option<u64>), Status> {
        let from = self.next(op::LISTXATTRS)?;
        let (cookie, count) = (from.u64()?, from.u32()?);
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(from.opaque(NAME_MAX)?.to_vec());
        }
        let is_last = from.bool()?;
        Ok((names, Some(cookie).filter(|_| !is_last)))
    }

    pub(crate) fn xattr(&mut self) -> Result<Vec<u8>, Status> {
        Ok(self.next(op::GETXATTR)?.opaque(READ_MAX)?.to_vec())
    }

    pub(crate) fn set_xattr(&mut self) -> Result<(), Status> {
        self.change_info(op::SETXATTR)
    }

    /// Returns the client's number, and that of its first request for a session.
    pub(crate) fn exchange_id(&mut self) -> Result<(u64, u32), Status> {
        let from = self.next(op::EXCHANGE_ID)?;
        let found = (from.u64()?, from.u32()?);
        // Flags, and the protection that was asked for: none. The rest tells of the server.
        from.u32()?;
        if from.u32()? == 0 { Ok(found) } else { Err(Malformed.into()) }
    }

    pub(crate) fn create_session(&mut self) -> Result<(SessionId, Limits), Status> {
        let from = self.next(op::CREATE_SESSION)?;
        let id = from.fixed()?;
        from.fixed::<12>()?;
        let (request, reply, kept_reply) = (from.u32()?, from.u32()?, from.u32()?);
        let (operations, slots) = (from.u32()?, from.u32()?);
        Ok((id, Limits { request, reply, kept_reply, operations, slots }))
    }

    pub(crate) fn reclaim_complete(&mut self) -> Result<(), Status> {
        self.next(op::RECLAIM_COMPLETE).map(drop)
    }

    /// Reads what tells which request this was.
    pub(crate) fn sequence(&mut self) -> Result<(), Status> {
        self.next(op::SEQUENCE)?.fixed::<36>()?;
        Ok(())
    }
}

/// Reads a delegation, which nobody has wanted.
fn delegation(from: &mut Decoder<'_>) -> Result<(), Malformed> {
    let kind = from.u32()?;
    match kind {
        0 => return Ok(()),
        1 | 2 => {}
        // None, and why: for two reasons, with something more to say.
        3 => return if matches!(from.u32()?, 1 | 2) { from.bool().map(drop) } else { Ok(()) },
        _ => return Err(Malformed),
    }
    from.fixed::<16>()?;
    from.bool()?;
    if kind == 2 {
        from.fixed::<12>()?;
    }
    from.fixed::<12>()?;
    from.opaque(NAME_MAX)?;
    Ok(())
}
