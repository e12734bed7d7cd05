//! The export's directories, for asynchronous callers: the one way by which the rest of the program reaches files.
//!
//! File system calls block, for as long as the server pleases. They run on threads of their own, a bounded number
//! at a time, and are always waited for: a call that the server has not answered may still be carried out when it
//! comes back, so nobody may go on as if it had not been made. Whoever waits learns from [`Storage::silent_for`]
//! for how long there has been no answer.
//!
//! What is above knows only [`Storage`]'s methods, [`RelPath`](crate::values::path::RelPath)s and [`StorageError`]s: no descriptor, no library's
//! error and no engine. How an export is reached is decided in two files, `dir.rs`, below all operations, and
//! `reach.rs`.

mod error;
mod explain;
mod entry;
mod mounted;
mod direct;
mod dir;
mod root;
mod ops;
mod calls;
mod pool;
mod reach;
mod supervise;
mod handle;
mod copies;
mod notes;

pub use calls::STUCK_AFTER;
pub use copies::CopyTo;
pub use direct::server::{Minor, Servers};
pub use error::{Errno, Problem, StorageError};
pub use explain::{advice, explain};
pub use handle::{Storage, Survey};
pub use mounted::mount::Mount;
pub use ops::archives::{Archive, Archives};
pub use ops::complete::Complete;
pub use ops::copy_file::Progress;
pub use ops::create::Created;
pub use ops::disk_usage::{Begun, DiskUsage, Found};
pub use ops::notes::{Entries, FoundNote, ListOf, NoteOf, Seen};
pub use ops::stage::{Source, Staged};
pub use ops::trash::{Kept, Left, Reaped, Trashed};
pub use ops::write_test::{Leftovers, Made, WriteStep, WriteTest};
pub use pool::{COPY_PAUSE_MAX, Opened, State};
pub use reach::{ExportSpec, MustBeNfs, Reach};
pub use root::Root;

#[cfg(test)]
mod tests;
