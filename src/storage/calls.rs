//! Which calls are under way, and for how long the export has not answered them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::values::path::RelPath;
use crate::values::time::milliseconds;

/// A call that has not been answered for so long counts as stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The calls on an export.
#[derive(Debug)]
pub(super) struct Calls {
    epoch: Instant,
    /// When any call was last answered.
    answered: AtomicU64,
    running: Mutex<Running>,
    /// That a directory is not being changed any more.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Running {
    /// When each was begun, or last answered in part.
    begun: BTreeMap<u64, Arc<AtomicU64>>,
    next: u64,
    /// That of them which asks nothing but whether the server answers.
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
    pub(super) fn probe(self: &Arc<Self>) -> Call {
        let call = self.begin();
        self.running().probe = Some(call.number);
        call
    }

    /// Notes that a call begins. It ends when the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        let begun = Arc::new(AtomicU64::new(self.now()));
        let mut running = self.running();
        let number = running.next;
        running.next += 1;
        running.begun.insert(number, Arc::clone(&begun));
        Call { calls: Arc::clone(self), number, begun }
    }

    /// Waits until no call changes the directory. Others wait until the value is dropped: a call that hangs is not
    /// made twice, and of two that move the same directory none is surprised by the other.
    pub(super) async fn change(self: &Arc<Self>, directory: &RelPath) -> Change {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.running().changing.insert(directory.clone()) {
                return Change { calls: Arc::clone(self), directory: directory.clone() };
            }
            freed.await;
        }
    }

    /// For how long the export has answered nothing, though it was asked; `None` if it is not being asked.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        let running = self.running();
        let oldest = running.begun.values().map(|begun| begun.load(Ordering::Relaxed)).min()?;
        let since = oldest.max(self.answered.load(Ordering::Relaxed));
        // What the kernel has cached of a server that is away, it answers meanwhile.
        let probe = running.probe.and_then(|number| running.begun.get(&number));
        let since = probe.map_or(since, |probe| since.min(probe.load(Ordering::Relaxed)));
        Some(Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// How many calls are stuck.
    pub(super) fn stuck(&self) -> usize {
        let (now, limit) = (self.now(), milliseconds(STUCK_AFTER));
        let is_stuck = |begun: &&Arc<AtomicU64>| now.saturating_sub(begun.load(Ordering::Relaxed)) >= limit;
        self.running().begun.values().filter(is_stuck).count()
    }

    /// Milliseconds since these calls were first counted.
    fn now(&self) -> u64 {
        milliseconds(self.epoch.elapsed())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // No code that holds it panics in between two changes that belong together.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    number: u64,
    begun: Arc<AtomicU64>,
}

impl Call {
    /// Notes that the export has answered a part of it.
    pub(super) fn answered(&self) {
        let now = self.calls.now();
        self.begun.store(now, Ordering::Relaxed);
        self.calls.answered.store(now, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.answered.store(self.calls.now(), Ordering::Relaxed);
        self.calls.running().begun.remove(&self.number);
    }
}

/// A directory that is being changed.
#[derive(Debug)]
pub(super) struct Change {
    calls: Arc<Calls>,
    directory: RelPath,
}

impl Drop for Change {
    fn drop(&mut self) {
        self.calls.running().changing.remove(&self.directory);
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
        let first = calls.change(&rel("a/b")).await;
        assert!(calls.change(&rel("a/c")).now_or_never().is_some());
        let again = rel("a/b");
        let mut second = std::pin::pin!(calls.change(&again));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
    }
}
