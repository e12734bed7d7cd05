//! Which calls are under way, for how long the export has not answered them, and which directories they change.
//!
//! Three places know that a directory is being changed, because they answer three questions. Here: may another
//! call change the same path now? The ledger: may a claim be given this path, or one in or above it? The pool: may
//! the process end, or is a change under way that the server could still carry out?

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::values::path::RelPath;
use crate::values::time::milliseconds;

/// A call that has not been answered for so long counts as stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The calls on one export.
#[derive(Debug)]
pub(crate) struct Calls {
    epoch: Instant,
    /// When any call was last answered.
    answered: AtomicU64,
    running: Mutex<Running>,
    /// Tells that a directory is not being changed any more.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Running {
    /// When each call was begun, or last answered in part.
    begun: BTreeMap<u64, Arc<AtomicU64>>,
    next: u64,
    /// The call that asks nothing but whether the server answers.
    probe: Option<u64>,
    /// The directories that are being changed.
    changing: HashSet<RelPath>,
}

impl Default for Calls {
    fn default() -> Self {
        let (answered, running, freed) = (AtomicU64::new(0), Mutex::default(), Notify::new());
        Self { epoch: Instant::now(), answered, running, freed }
    }
}

impl Calls {
    /// Notes that a call begins which only the server can answer. It ends when the value is dropped.
    pub(crate) fn probe(self: &Arc<Self>) -> Call {
        let call = self.begin();
        self.running.lock().probe = Some(call.number);
        call
    }

    /// Notes that a call begins. It ends when the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        let begun = Arc::new(AtomicU64::new(self.now()));
        let mut running = self.running.lock();
        let number = running.next;
        running.next += 1;
        running.begun.insert(number, Arc::clone(&begun));
        Call { calls: Arc::clone(self), number, begun }
    }

    /// Waits until no call changes any of the directories. Others wait until the value is dropped: a call that
    /// hangs is not made twice, and of two that move the same directory none is surprised by the other.
    ///
    /// All are taken at once, so that two who want the same ones never wait for each other.
    pub(crate) async fn change(self: &Arc<Self>, directories: Vec<RelPath>) -> Change {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.running.lock().take(&directories) {
                return Change { calls: Arc::clone(self), directories };
            }
            freed.await;
        }
    }

    /// Tells for how long the export has answered nothing, though it was asked; `None` if it is not being asked.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let running = self.running.lock();
        let oldest = running.begun.values().map(|begun| begun.load(Ordering::Relaxed)).min()?;
        let since = oldest.max(self.answered.load(Ordering::Relaxed));
        // What the kernel has cached of a server that is away, it answers meanwhile.
        let probe = running.probe.and_then(|number| running.begun.get(&number));
        let since = probe.map_or(since, |probe| since.min(probe.load(Ordering::Relaxed)));
        Some(Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// Counts the calls that are stuck.
    pub(crate) fn stuck(&self) -> usize {
        let (now, limit) = (self.now(), milliseconds(STUCK_AFTER));
        let is_stuck = |begun: &&Arc<AtomicU64>| now.saturating_sub(begun.load(Ordering::Relaxed)) >= limit;
        self.running.lock().begun.values().filter(is_stuck).count()
    }

    /// Returns the milliseconds since these calls were first counted.
    fn now(&self) -> u64 {
        milliseconds(self.epoch.elapsed())
    }
}

impl Running {
    /// Notes that directories are being changed, unless one of them is already.
    fn take(&mut self, directories: &[RelPath]) -> bool {
        let is_free = !directories.iter().any(|directory| self.changing.contains(directory));
        if is_free {
            self.changing.extend(directories.iter().cloned());
        }
        is_free
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<Calls>,
    number: u64,
    begun: Arc<AtomicU64>,
}

impl Call {
    /// Notes that the export has answered a part of it.
    pub(crate) fn answered(&self) {
        let now = self.calls.now();
        self.begun.store(now, Ordering::Relaxed);
        self.calls.answered.store(now, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.answered.store(self.calls.now(), Ordering::Relaxed);
        self.calls.running.lock().begun.remove(&self.number);
    }
}

/// Directories that are being changed.
#[derive(Debug)]
pub(crate) struct Change {
    calls: Arc<Calls>,
    directories: Vec<RelPath>,
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut running = self.calls.running.lock();
        for directory in &self.directories {
            running.changing.remove(directory);
        }
        drop(running);
        self.calls.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use futures::FutureExt;

    use super::*;

    fn rel(path: &str) -> RelPath {
        RelPath::parse(path).unwrap()
    }

    #[test]
    fn silence_lasts_from_the_last_answer_or_the_oldest_question() {
        let calls = Arc::new(Calls::default());
        assert_eq!(calls.silent_for(), None);
        let first = calls.begin();
        sleep(Duration::from_millis(40));
        let second = calls.begin();
        assert!(calls.silent_for().unwrap() >= Duration::from_millis(40));
        drop(second);
        assert!(calls.silent_for().unwrap() < Duration::from_millis(40), "the second was answered");
        sleep(Duration::from_millis(40));
        first.answered();
        assert!(calls.silent_for().unwrap() < Duration::from_millis(40), "the first was answered in part");
        let probe = calls.probe();
        sleep(Duration::from_millis(40));
        drop(calls.begin());
        assert!(calls.silent_for().unwrap() >= Duration::from_millis(40), "the probe was not answered");
        drop(probe);
        assert!(calls.silent_for().unwrap() < Duration::from_millis(40), "the probe was answered");
        drop(first);
        assert_eq!(calls.silent_for(), None);
        assert_eq!(calls.stuck(), 0);
    }

    #[tokio::test]
    async fn a_directory_is_changed_by_one_at_a_time() {
        let calls = Arc::new(Calls::default());
        let first = calls.change(vec![rel("a/b")]).await;
        assert!(calls.change(vec![rel("a/c")]).now_or_never().is_some());
        let mut second = std::pin::pin!(calls.change(vec![rel("a/b")]));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_changes_two_directories_has_both_or_none() {
        let calls = Arc::new(Calls::default());
        let first = calls.change(vec![rel("a")]).await;
        let mut both = std::pin::pin!(calls.change(vec![rel("b"), rel("a")]));
        assert!(both.as_mut().now_or_never().is_none());
        assert!(calls.change(vec![rel("b")]).now_or_never().is_some(), "who waits holds nothing");
        drop(first);
        let both = both.now_or_never().unwrap();
        for one in ["a", "b"] {
            assert!(calls.change(vec![rel(one)]).now_or_never().is_none(), "{one}");
        }
        drop(both);
        assert!(calls.change(vec![rel("a"), rel("a")]).now_or_never().is_some(), "once is enough");
    }
}
