//! What is the same for files and directories.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use crate::storage::direct::attributes::{Changes, Facts, Mask};
use crate::storage::direct::compound::{Compound, Handle, Results, StateId};
use crate::storage::direct::filesystem::{Feature, Filesystem};
use crate::storage::direct::rpc::Who;
use crate::storage::direct::status::Status;
use crate::storage::entry::{Attributes, Time};
use crate::storage::error::{Errno, Problem};

/// What the names of extended attributes begin with that are kept by way of NFS (RFC 8276, section 5).
const USER: &[u8] = b"user.";

/// How long a list of names of extended attributes may be, in bytes.
const XATTR_NAMES: u32 = 64 << 10;

/// How many lists there may be.
const XATTR_LISTS_MAX: u32 = 64;

/// A file or a directory of a server.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) filesystem: Arc<Filesystem>,
    pub(crate) handle: Handle,
}

impl Node {
    /// Begins a compound with it.
    pub(crate) fn here(&self) -> Compound {
        Compound::at(&self.handle)
    }

    /// Has a compound carried out that begins with it, and reads the results after that.
    ///
    /// # Errors
    /// Those of [`Filesystem::ask`].
    pub(crate) fn ask<T>(
        &self,
        who: Who,
        compound: &Compound,
        reads: impl FnOnce(&mut Results<'_>) -> Result<T, Status>,
    ) -> Result<T, Problem> {
        self.filesystem.ask(who, compound, |results| {
            results.put()?;
            reads(results)
        })
    }

    /// Asks for attributes.
    pub(crate) fn facts(&self, mask: Mask) -> Result<Facts, Problem> {
        self.ask(Who::ROOT, &self.here().attributes(mask), |results| results.attributes())
    }

    /// Asks for the attributes that all engines tell.
    pub(crate) fn attributes(&self) -> Result<Attributes, Problem> {
        Ok(self.facts(Mask::ALL)?.attributes()?)
    }

    /// Sets attributes.
    pub(crate) fn set(&self, who: Who, changes: &Changes) -> Result<(), Problem> {
        if *changes == Changes::default() {
            return Ok(());
        }
        self.ask(who, &self.here().set(StateId::ANONYMOUS, changes), |results| results.set())
    }

    /// Finds when it was made.
    pub(crate) fn born(&self) -> Option<Time> {
        self.facts(Mask::BORN).ok()?.born
    }

    /// Lists the names of the extended attributes.
    pub(crate) fn xattr_names(&self) -> Result<Vec<CString>, Problem> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        for _ in 0..XATTR_LISTS_MAX {
            let listing = self.here().xattr_names(cookie, XATTR_NAMES);
            let (listed, next) = self.xattrs(|| self.ask(Who::ROOT, &listing, |results| results.xattr_names()))?;
            names.extend(listed.into_iter().filter_map(|name| CString::new([USER, &name].concat()).ok()));
            match next {
                Some(next) if next != cookie => cookie = next,
                _ => return Ok(names),
            }
        }
        Err(Problem::Os(Errno::EPROTO))
    }

    /// Reads an extended attribute.
    pub(crate) fn xattr(&self, name: &CStr) -> Result<Vec<u8>, Problem> {
        let name = user(name)?;
        self.xattrs(|| self.ask(Who::ROOT, &self.here().xattr(name), |results| results.xattr()))
    }

    /// Writes an extended attribute.
    pub(crate) fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<(), Problem> {
        let name = user(name)?;
        self.xattrs(|| self.ask(Who::ROOT, &self.here().set_xattr(name, value), |results| results.set_xattr()))
    }

    /// Makes a call on extended attributes, unless the server was found not to keep any.
    fn xattrs<T>(&self, call: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
        let none = Problem::Os(Errno::EOPNOTSUPP);
        if !self.filesystem.may(Feature::Xattrs) {
            return Err(none);
        }
        let done = call();
        if matches!(done, Err(problem) if problem == none) {
            self.filesystem.lacks(Feature::Xattrs);
        }
        done
    }
}

/// Returns the name that the server has for an extended attribute.
fn user(name: &CStr) -> Result<&[u8], Problem> {
    name.to_bytes().strip_prefix(USER).ok_or(Problem::Os(Errno::EOPNOTSUPP))
}
