//! Files that are open at the server.

use std::ops::Range;
use std::time::Duration;

use parking_lot::Mutex;

use crate::storage::direct::attributes::Changes;
use crate::storage::direct::compound::{Compound, Opens, Results, Share, StateId};
use crate::storage::direct::filesystem::Feature;
use crate::storage::direct::node::Node;
use crate::storage::direct::rpc::Who;
use crate::storage::direct::status::Status;
use crate::storage::error::{Errno, Problem};

/// How much of a request or a reply may be something else than data.
const OVERHEAD: u32 = 1 << 10;

/// How long a server is asked to close a file.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A file that is open. It is closed when the value is dropped.
#[derive(Debug)]
pub(crate) struct FileHandle {
    node: Node,
    share: Share,
    state: Mutex<StateId>,
    unkept: Mutex<Unkept>,
}

/// What was written and is not known to be there for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unkept {
    Nothing,
    /// Something, all of it in the same run of the server.
    Since([u8; 8]),
    /// Something that a run of the server has lost.
    Lost,
}

impl FileHandle {
    pub(crate) fn new(node: Node, state: StateId, share: Share) -> Self {
        Self { node, share, state: Mutex::new(state), unkept: Mutex::new(Unkept::Nothing) }
    }

    /// Returns what the file has in common with directories.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Finds the next part of a file of this `size` that holds data, from `at` on.
    pub(crate) fn next_data(&self, at: u64, size: u64) -> Result<Option<Range<u64>>, Problem> {
        if !self.node.filesystem.may(Feature::Seek) {
            return Ok(Some(at..size));
        }
        let seek = |at, hole| self.ask(|state| self.node.here().seek(state, at, hole), |results| results.seek());
        let unknown = Problem::Os(Errno::EOPNOTSUPP);
        let data = match seek(at, false) {
            // It lies at or beyond the end.
            Err(Problem::Os(Errno::ENXIO)) | Ok(None) => return Ok(None),
            Err(problem) if problem == unknown || problem == Problem::Os(Errno::EINVAL) => {
                self.node.filesystem.lacks(Feature::Seek);
                return Ok(Some(at..size));
            }
            Ok(Some(data)) => data,
            Err(problem) => return Err(problem),
        };
        // A server that lies must not send anybody backwards.
        let end = seek(data, true)?.filter(|end| *end > data).unwrap_or(size).min(size);
        Ok(Some(data.max(at)..end))
    }

    /// Reads what is at `at` into a block.
    pub(crate) fn read_at(&self, block: &mut [u8], at: u64) -> Result<usize, Problem> {
        let limit = self.node.filesystem.server.limits()?.reply.saturating_sub(OVERHEAD);
        let length = u32::try_from(block.len()).unwrap_or(u32::MAX).min(limit);
        self.ask(
            |state| self.node.here().read(state, at, length),
            |results| {
                let data = results.read()?;
                let block = block.get_mut(..data.len()).ok_or(Status(10036))?;
                block.copy_from_slice(data);
                Ok(data.len())
            },
        )
    }

    /// Writes a whole block at `at`.
    pub(crate) fn write_at(&self, block: &[u8], at: u64) -> Result<(), Problem> {
        let limit = self.node.filesystem.server.limits()?.request.saturating_sub(OVERHEAD);
        let (mut rest, mut at) = (block, at);
        while !rest.is_empty() {
            let part = rest.get(..rest.len().min(usize::try_from(limit).unwrap_or(usize::MAX))).unwrap_or(rest);
            let (written, is_kept, run) =
                self.ask(|state| self.node.here().write(state, at, false, part), |results| results.write())?;
            self.wrote(is_kept, run);
            let done = usize::try_from(written).unwrap_or(usize::MAX);
            rest = rest.get(done..).filter(|_| done > 0).ok_or(Problem::Os(Errno::EIO))?;
            at += u64::from(written);
        }
        Ok(())
    }

    fn wrote(&self, is_kept: bool, run: [u8; 8]) {
        let mut unkept = self.unkept.lock();
        *unkept = match *unkept {
            Unkept::Nothing if is_kept => Unkept::Nothing,
            Unkept::Nothing => Unkept::Since(run),
            Unkept::Since(before) if before == run => Unkept::Since(run),
            Unkept::Since(_) | Unkept::Lost => Unkept::Lost,
        };
    }

    /// Has the server copy up to `length` bytes at `at` into `to`, by sharing blocks if it can.
    pub(crate) fn copy_range(&self, to: &Self, at: u64, length: usize) -> Result<usize, Problem> {
        let filesystem = &self.node.filesystem;
        if filesystem.fsid != to.node.filesystem.fsid || !filesystem.is_on_server_of(&to.node.filesystem) {
            return Err(Problem::Os(Errno::EXDEV));
        }
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if filesystem.may(Feature::Clone) {
            match self.clone_range(to, at, length) {
                Ok(()) => return Ok(usize::try_from(length).unwrap_or(usize::MAX)),
                Err(Problem::Os(Errno::EOPNOTSUPP)) => filesystem.lacks(Feature::Clone),
                // Not this part.
                Err(Problem::Os(Errno::EINVAL | Errno::EXDEV)) => {}
                Err(problem) => return Err(problem),
            }
        }
        if !filesystem.may(Feature::Copy) {
            return Err(Problem::Os(Errno::EOPNOTSUPP));
        }
        let copied = self.ask_both(
            to,
            |from, state| self.node.here().save().put(&to.node.handle).copy_range(from, state, at, length),
            |results| {
                results.save()?;
                results.put()?;
                results.copy_range()
            },
        );
        match copied {
            Ok((copied, is_kept, run)) => {
                to.wrote(is_kept, run);
                usize::try_from(copied.min(length)).map_err(|_| Problem::Os(Errno::EOVERFLOW))
            }
            Err(problem) => {
                if problem == Problem::Os(Errno::EOPNOTSUPP) {
                    filesystem.lacks(Feature::Copy);
                }
                Err(problem)
            }
        }
    }

    fn clone_range(&self, to: &Self, at: u64, length: u64) -> Result<(), Problem> {
        self.ask_both(
            to,
            |from, state| self.node.here().save().put(&to.node.handle).clone_range(from, state, at, length),
            |results| {
                results.save()?;
                results.put()?;
                results.clone_range()
            },
        )
    }

    /// Makes the file as long as this.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), Problem> {
        let changes = Changes { size: Some(size), ..Changes::default() };
        self.ask(|state| self.node.here().set(state, &changes), |results| results.set())
    }

    /// Has the server take the file for good.
    ///
    /// # Errors
    /// `EIO` if the server has been restarted and has lost something.
    pub(crate) fn sync(&self) -> Result<(), Problem> {
        let unkept = *self.unkept.lock();
        let before = match unkept {
            Unkept::Nothing => return Ok(()),
            Unkept::Since(run) => run,
            Unkept::Lost => return Err(Problem::Os(Errno::EIO)),
        };
        let run = self.node.ask(Who::ROOT, &self.node.here().commit(), |results| results.commit())?;
        if run != before {
            return Err(Problem::Os(Errno::EIO));
        }
        *self.unkept.lock() = Unkept::Nothing;
        Ok(())
    }

    /// Makes a call with what stands for the open file, and opens it anew if the server does not know it any more.
    fn ask<T>(
        &self,
        compound: impl Fn(StateId) -> Compound,
        reads: impl FnMut(&mut Results<'_>) -> Result<T, Status>,
    ) -> Result<T, Problem> {
        let state = *self.state.lock();
        self.ask_again(&compound(state), || Ok(compound(self.reopen(state)?)), reads)
    }

    /// Does the same with this file and another.
    fn ask_both<T>(
        &self,
        to: &Self,
        compound: impl Fn(StateId, StateId) -> Compound,
        reads: impl FnMut(&mut Results<'_>) -> Result<T, Status>,
    ) -> Result<T, Problem> {
        let (state, to_state) = (*self.state.lock(), *to.state.lock());
        let again = || Ok(compound(self.reopen(state)?, to.reopen(to_state)?));
        self.ask_again(&compound(state, to_state), again, reads)
    }

    fn ask_again<T>(
        &self,
        first: &Compound,
        again: impl FnOnce() -> Result<Compound, Problem>,
        mut reads: impl FnMut(&mut Results<'_>) -> Result<T, Status>,
    ) -> Result<T, Problem> {
        let server = &self.node.filesystem.server;
        let mut after_put = |results: &mut Results<'_>| {
            results.put()?;
            reads(results)
        };
        match server.call(Who::ROOT, first)?.read(&mut after_put) {
            Err(status) if status.is_loss_of_open() => Ok(server.call(Who::ROOT, &again()?)?.read(after_put)?),
            done => Ok(done?),
        }
    }

    /// Opens the file anew, unless somebody else has since `lost` was what stood for it.
    fn reopen(&self, lost: StateId) -> Result<StateId, Problem> {
        let mut state = self.state.lock();
        if *state == lost {
            let compound = self.node.here().open(self.node.filesystem.next_owner(), self.share, Opens::This)?;
            *state = self.node.ask(Who::ROOT, &compound, |results| results.open())?;
        }
        Ok(*state)
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        // What is no file was not opened.
        if *self.state.get_mut() == StateId::ANONYMOUS {
            return;
        }
        let close = self.node.here().close(*self.state.get_mut());
        // What the server does not hear of, it forgets with the session.
        let _ = self.node.filesystem.server.call_within(CLOSE_MAX, Who::ROOT, &close);
    }
}
