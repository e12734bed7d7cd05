//! How an export is reached. Beside [`crate::storage::dir`] this is the only place where engines differ.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::storage::direct::server::{Minor, Servers};
use crate::storage::error::{Problem, StorageError};
use crate::storage::mounted::mount::Mount;
use crate::storage::root::Root;
use crate::values::address::ExportAddress;
use crate::values::headroom::FsUsage;

/// An export as an administrator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// What the export is called.
    pub name: Box<str>,
    /// Where the nodes find it.
    pub address: ExportAddress,
    /// How this process gets to it.
    pub reach: Reach,
}

/// How this process gets to an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// The kernel has mounted it.
    Mounted {
        /// Where.
        at: PathBuf,
        /// When to do nothing because what is there is no NFS mount. Otherwise that is only said.
        must_be_nfs: MustBeNfs,
    },
    /// Nobody has mounted it: this process speaks NFS with the server.
    Direct {
        /// The servers that this process speaks with.
        servers: Servers,
        /// At which of its ports the server listens.
        port: u16,
        /// Which versions may be spoken.
        minor: Minor,
    },
}

/// When an export must be an NFS mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MustBeNfs {
    /// At any time.
    Always,
    /// As soon as it was one once: then what is there instead must be what lies under the mount.
    OnceItWas,
    /// At no time.
    Never,
}

/// Says how the export is reached, as "mounted at /persistentvolumes".
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at, .. } => write!(f, "mounted at {}", at.display()),
            Self::Direct { port, .. } => write!(f, "reached without a mount, at port {port}"),
        }
    }
}

impl Reach {
    /// Returns where the kernel has mounted the export; `None` if it is reached in another way.
    #[must_use]
    pub fn mount_path(&self) -> Option<&Path> {
        match self {
            Self::Mounted { at, .. } => Some(at),
            Self::Direct { .. } => None,
        }
    }

    /// Tells whether this mount is never worked on, because it is no NFS mount and has to be one.
    #[must_use]
    pub fn refuses(&self, mount: &Mount) -> bool {
        match self {
            Self::Mounted { must_be_nfs, .. } => *must_be_nfs == MustBeNfs::Always && !mount.is_nfs(),
            Self::Direct { .. } => false,
        }
    }

    /// Opens the export's root, whatever is there.
    pub(crate) fn open(&self, address: &ExportAddress) -> Result<Root, StorageError> {
        match self {
            Self::Mounted { at, .. } => Root::open(at),
            Self::Direct { servers, port, minor } => Root::open_direct(servers, address, *port, *minor),
        }
    }

    /// Looks at the export: opens its root, and asks how full it is. Returns no root if `before`, which is open,
    /// is still what is there. `was_nfs` tells whether it was ever an NFS mount. Blocks.
    ///
    /// # Errors
    /// If it cannot be reached, or may not be used.
    pub(crate) fn look(
        &self,
        address: &ExportAddress,
        before: Option<&Root>,
        was_nfs: bool,
    ) -> Result<(Option<Root>, FsUsage), StorageError> {
        let found = self.open(address)?;
        let usage = found.usage()?;
        if before.is_some_and(|before| before.dir.is_reached_as(&found.dir)) {
            return Ok((None, usage));
        }
        match self {
            Self::Mounted { at, must_be_nfs } => {
                let must_be_nfs = match must_be_nfs {
                    MustBeNfs::Always => true,
                    MustBeNfs::OnceItWas => was_nfs,
                    MustBeNfs::Never => false,
                };
                if must_be_nfs && found.mount().is_some_and(|mount| !mount.is_nfs()) {
                    let path = at.display().to_string();
                    return Err(StorageError { doing: "use", path, problem: Problem::NotNfs });
                }
            }
            Self::Direct { .. } => {}
        }
        Ok((Some(found), usage))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::values::path::RelPath;

    /// A file system on a directory, for as long as the value lives.
    struct Mounted<'a>(&'a Path);

    impl<'a> Mounted<'a> {
        fn on(dir: &'a Path) -> Self {
            let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir).status().unwrap();
            assert!(mounted.success(), "these tests need root");
            Self(dir)
        }
    }

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
        }
    }

    fn address() -> ExportAddress {
        ExportAddress::parse("nas:/export").unwrap()
    }

    fn mounted(at: &Path, must_be_nfs: MustBeNfs) -> Reach {
        Reach::Mounted { at: at.to_owned(), must_be_nfs }
    }

    #[test]
    fn what_must_be_an_nfs_mount_and_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            (MustBeNfs::Always, false, true),
            (MustBeNfs::OnceItWas, true, true),
            (MustBeNfs::OnceItWas, false, false),
            (MustBeNfs::Never, true, false),
        ];
        for (must_be_nfs, was_nfs, is_refused) in rows {
            match mounted(dir.path(), must_be_nfs).look(&address(), None, was_nfs) {
                Err(error) => assert!(is_refused && error.problem == Problem::NotNfs, "{must_be_nfs:?} {error}"),
                Ok((root, usage)) => assert!(!is_refused && root.is_some() && usage.bytes > 0, "{must_be_nfs:?}"),
            }
        }
    }

    #[test]
    fn what_is_open_stays_open_until_something_else_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let look = |before| mounted(dir.path(), MustBeNfs::Never).look(&address(), before, false).unwrap().0;
        let first = look(None).unwrap();
        assert!(look(Some(&first)).is_none());
        let mounted = Mounted::on(dir.path());
        let second = look(Some(&first)).unwrap();
        second.create(&RelPath::parse("a").unwrap()).unwrap();
        assert!(dir.path().join("a").exists());
        drop(mounted);
        assert!(!dir.path().join("a").exists());
        assert!(look(Some(&second)).is_some());
    }
}
