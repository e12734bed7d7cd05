//! The ways in which an export is reached, for tests that must come out the same by each.

use std::path::Path;

use nfs_provisioner::storage::{Root, StorageError};

/// A way to reach an export, by its name.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// Opens the export that lies in a directory of this machine.
    pub(crate) open: fn(&Path) -> Result<Root, StorageError>,
}

/// The way in which exports are reached unless somebody says otherwise, for tests that need only one.
pub(crate) const USUAL: Engine = Engine { name: "mounted, by openat2", open: Root::open_by_openat2 };

/// Every way there is. A test that runs by each engine runs by one more with a line here.
pub(crate) const ENGINES: &[Engine] = &[USUAL, Engine { name: "mounted, by openat", open: Root::open_by_openat }];
