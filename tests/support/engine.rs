//! The ways in which an export is reached, for tests that must come out the same by each.

use std::path::Path;
use std::sync::LazyLock;

use nfs_provisioner::storage::{Minor, Root, Servers, StorageError};
use nfs_provisioner::values::address::ExportAddress;

use crate::ganesha;
use crate::skip::skips;

/// A way to reach an export, by its name.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// Opens the export that lies in a directory of this machine.
    pub(crate) open: fn(&Path) -> Result<Root, StorageError>,
    /// Whether the kernel has it mounted: only then do this machine's mounts, and the user of a thread, count.
    pub(crate) is_mounted: bool,
}

/// The way in which exports are reached unless somebody says otherwise, for tests that need only one.
pub(crate) const USUAL: Engine =
    Engine { name: "mounted, by openat2", open: Root::open_by_openat2, is_mounted: true };

/// Every way there is. A test that runs by each engine runs by one more with a line here.
static ENGINES: &[Engine] = &[
    USUAL,
    Engine { name: "mounted, by openat", open: Root::open_by_openat, is_mounted: true },
    Engine { name: "direct, 4.2", open: |directory| direct(directory, Minor::Two), is_mounted: false },
    Engine { name: "direct, 4.1", open: |directory| direct(directory, Minor::One), is_mounted: false },
];

/// Every way that there is on this machine.
pub(crate) fn engines() -> &'static [Engine] {
    if skips(ganesha::port().err()) { ENGINES.split_at(2).0 } else { ENGINES }
}

fn direct(directory: &Path, minor: Minor) -> Result<Root, StorageError> {
    static SERVERS: LazyLock<Servers> = LazyLock::new(Servers::default);
    let address = ExportAddress::parse(&format!("127.0.0.1:{}", ganesha::path_of(directory)));
    Root::open_direct(&SERVERS, &address.unwrap(), ganesha::port().unwrap(), minor)
}
