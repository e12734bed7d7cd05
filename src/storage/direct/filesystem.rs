//! A file system of a server, and what it has turned out not to be able to do.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::storage::direct::attributes::{Facts, Fsid, Mask};
use crate::storage::direct::compound::{Compound, Handle, Results};
use crate::storage::direct::rpc::Who;
use crate::storage::direct::server::Server;
use crate::storage::direct::status::Status;
use crate::storage::direct::xdr::Malformed;
use crate::storage::entry::FileKind;
use crate::storage::error::Problem;

/// What a server need not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Feature {
    /// To have two files share blocks.
    Clone = 1,
    /// To copy from file to file.
    Copy = 2,
    /// To tell where a file has holes.
    Seek = 4,
    /// To keep extended attributes.
    Xattrs = 8,
}

/// A file system of a server. Nothing that is done in one directory of it enters another file system.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) server: Arc<Server>,
    pub(crate) fsid: Fsid,
    lacking: AtomicU8,
    /// The number of the last file that was opened.
    opened: AtomicU64,
}

impl Filesystem {
    /// Finds the directory that a path of an administrator's leads to from the server's root, and its file system.
    ///
    /// # Errors
    /// If there is no such directory, or the server does not answer.
    pub(crate) fn find(server: Arc<Server>, path: &str) -> Result<(Self, Handle), Problem> {
        let mut compound = Compound::new().put_root();
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for name in &names {
            compound = compound.lookup(&CString::new(*name).map_err(|_| Problem::NotDirectory)?)?;
        }
        let answer = server.call(Who::ROOT, &compound.handle().attributes(Mask::PLACE))?;
        let (handle, facts) = answer.read(|results| {
            results.put_root()?;
            names.iter().try_for_each(|_| results.lookup())?;
            Ok((results.handle()?, results.attributes()?))
        })?;
        let fsid = fsid_of_directory(&facts)?;
        let filesystem =
            Self { server, fsid, lacking: AtomicU8::new(0), opened: AtomicU64::new(fastrand::u64(..)) };
        Ok((filesystem, handle))
    }

    /// Has a compound carried out, and reads the results.
    ///
    /// # Errors
    /// Those of [`Server::call`], and what `read` finds.
    pub(crate) fn ask<T>(
        &self,
        who: Who,
        compound: &Compound,
        reads: impl FnOnce(&mut Results<'_>) -> Result<T, Status>,
    ) -> Result<T, Problem> {
        Ok(self.server.call(who, compound)?.read(reads)?)
    }

    /// Tells whether the same server has it.
    pub(crate) fn is_on_server_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.server, &other.server)
    }

    /// Returns a number that no other file was opened by.
    pub(crate) fn next_owner(&self) -> u64 {
        self.opened.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells whether the server may be able to do this.
    pub(crate) fn may(&self, feature: Feature) -> bool {
        self.lacking.load(Ordering::Relaxed) & feature as u8 == 0
    }

    /// Notes that the server is not.
    pub(crate) fn lacks(&self, feature: Feature) {
        self.lacking.fetch_or(feature as u8, Ordering::Relaxed);
    }
}

/// Makes sure that what was found is a directory, and returns on which file system it is.
pub(crate) fn fsid_of_directory(found: &Facts) -> Result<Fsid, Problem> {
    let (Some(kind), Some(fsid)) = (found.kind, found.fsid) else { return Err(Malformed.into()) };
    if kind == FileKind::Link {
        return Err(Problem::Link);
    }
    if kind == FileKind::Directory { Ok(fsid) } else { Err(Problem::NotDirectory) }
}
