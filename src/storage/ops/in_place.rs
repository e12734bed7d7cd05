//! Whether a name still leads to the directory that was opened by it.

use crate::storage::dir::Dir;
use crate::storage::entry::EntryName;
use crate::storage::error::{Errno, Problem};

/// How many times both are looked at while somebody changes the directory.
const LOOKS: u32 = 16;

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The directory that is open.
    Same,
    /// Something else, perhaps under the number of the directory, which has gone.
    Another,
    /// Nothing.
    Nothing,
}

/// Finds what a name in `above` leads to, now that the directory that was opened by it may have been moved or removed.
///
/// A number alone does not tell: a directory that is made right after another one was removed often gets the same. But
/// what is one directory has one time of its last change, which nobody can set. That of a directory that has gone stays as it
/// is; so where both keep changing between two looks, the one that is open is still there, and no other has its number.
///
/// # Errors
/// If the file system refuses.
pub(super) fn shown<N: EntryName + ?Sized>(above: &Dir, name: &N, opened: &Dir) -> Result<Shown, Problem> {
    let (mut before, mut keeps_changing) = (None, false);
    for _ in 0..LOOKS {
        let named = match above.entry(name) {
            Err(Problem::Os(Errno::ENOENT | Errno::ESTALE)) => return Ok(Shown::Nothing),
            named => named?,
        };
        let own = match opened.inode().attributes() {
            Err(Problem::Os(Errno::ENOENT | Errno::ESTALE)) => return Ok(Shown::Another),
            own => own?,
        };
        if (named.inode, named.file_system) != (own.inode, own.file_system) {
            return Ok(Shown::Another);
        }
        if named.changed == own.changed {
            return Ok(Shown::Same);
        }
        keeps_changing |= before.replace(own.changed).is_some_and(|before| before != own.changed);
    }
    Ok(if keeps_changing { Shown::Same } else { Shown::Another })
}
