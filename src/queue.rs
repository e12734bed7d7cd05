//! A work queue of keys: each is worked on by one worker at a time, again after a failure, and at once when its
//! object has changed.
//!
//! It is written by hand because kube's own is tied to its streams and shows neither depth nor age, and a queue of
//! delays alone, as in tokio-util, is the smaller part of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Range;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The longest wait between two tries of the same key: what failed for long may come right at any time.
pub const RETRY_MAX: Duration = Duration::from_mins(5);

/// Returns how long to wait before the next try after `failures` in a row, the latest included: half a second at
/// first, doubling up to [`RETRY_MAX`].
#[must_use]
pub fn retry_after(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    Duration::from_millis(500).saturating_mul(doubled).min(RETRY_MAX)
}

/// For how long, in seconds, what was refused is set aside before that is said again: Kubernetes keeps an event for an
/// hour. Any time in between, so that what was refused together does not come back together.
const SAY_AGAIN: Range<u64> = 30 * 60..50 * 60;

/// What happens next to a key whose round has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The key leaves the queue until it is pushed again: there is nothing more to do.
    Done,
    /// The key is tried again, later after each failure, for this reason.
    Retry(RetryReason),
    /// The key is set aside: only a push can change anything. It is taken again after half an hour or more, as one that
    /// has not failed, so that what was said is said again before it is forgotten.
    SayAgain,
    /// The key goes back as if it had not been taken: the round could not begin.
    PutBack,
}

/// Why a round failed and is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The export refused, or could not be used.
    Export,
    /// The API server refused, or could not be reached.
    ApiServer,
    /// Another volume uses the directory for now, or all groups are taken.
    Neighbour,
    /// The object has changed since the decision.
    Changed,
    /// The claim to be copied cannot be copied yet.
    Source,
    /// No export has the room that the class demands.
    Headroom,
    /// A defect of this program broke the round off.
    Defect,
}

impl RetryReason {
    /// Returns the name of the reason in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::ApiServer => "api-server",
            Self::Neighbour => "neighbour",
            Self::Changed => "changed",
            Self::Source => "source",
            Self::Headroom => "room",
            Self::Defect => "defect",
        }
    }

    /// Returns the longest wait before the next try.
    fn longest_wait(self) -> Duration {
        match self {
            // Nothing tells when there is room again, and to look costs nothing.
            Self::Headroom | Self::Source => Duration::from_secs(30),
            Self::Export | Self::ApiServer | Self::Neighbour | Self::Changed | Self::Defect => RETRY_MAX,
        }
    }

    /// Returns whether to say again why something waits for this reason, after `failures` in a row: the first times, and
    /// then each half-hour, so that it is among the events of the last hour.
    #[must_use]
    pub fn is_worth_saying(self, failures: u32) -> bool {
        const FIRST: u32 = 7;
        let each = SAY_AGAIN.start / self.longest_wait().as_secs();
        failures <= FIRST || u64::from(failures).is_multiple_of(each)
    }
}

/// A queue of keys.
///
/// Guarantees: a key that was pushed is taken at least once afterwards; no key is taken that is taken already;
/// a key whose rounds fail is taken again, [`retry_after`] later, for ever; a push starts it afresh. Keys that are set
/// aside do not count as waiting.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    items: HashMap<K, Item>,
    ready: VecDeque<K>,
    /// The keys that wait for a time, by that time and a number that tells equal times apart.
    delayed: BTreeMap<Due, K>,
    /// The keys that are set aside, likewise.
    aside: BTreeMap<Due, K>,
    sequence: u64,
}

type Due = (Instant, u64);

#[derive(Debug)]
struct Item {
    /// When the key entered the queue.
    since: Instant,
    failures: u32,
    position: Position,
}

#[derive(Debug, Clone, Copy)]
enum Position {
    Ready,
    Delayed(Due),
    Aside(Due),
    Taken,
    /// Taken, and pushed since, as a key that has failed so many times.
    TakenAgain(u32),
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let (delayed, aside) = (BTreeMap::new(), BTreeMap::new());
        let state = State { items: HashMap::new(), ready: VecDeque::new(), delayed, aside, sequence: 0 };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Makes `key` ready to be taken, as if it had never failed. A key that is taken becomes ready once it is
    /// finished.
    pub fn push(&self, key: K) {
        let mut state = self.state.lock();
        match state.items.get_mut(&key) {
            None => state.make_ready(key, 0),
            Some(item) => match item.position {
                Position::Ready => item.failures = 0,
                Position::Taken | Position::TakenAgain(_) => item.position = Position::TakenAgain(0),
                Position::Delayed(due) => {
                    state.delayed.remove(&due);
                    state.make_ready(key, 0);
                }
                Position::Aside(due) => state.take_up(due, 0),
            },
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Makes `key` ready to be taken as one that has failed so many times in a row: what was done for it outside of
    /// its rounds has failed again. A key that is taken becomes ready once it is finished.
    pub fn push_failed(&self, key: K, failures: u32) {
        let mut state = self.state.lock();
        match state.items.get_mut(&key) {
            None => state.make_ready(key, failures),
            Some(item) => match item.position {
                // Ready as one that has not failed, or pushed as such: that is newer.
                Position::Ready | Position::TakenAgain(_) => {}
                Position::Taken => item.position = Position::TakenAgain(failures),
                Position::Delayed(due) => {
                    let failures = item.failures.max(failures);
                    state.delayed.remove(&due);
                    state.make_ready(key, failures);
                }
                Position::Aside(due) => state.take_up(due, failures),
            },
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Makes all keys ready that wait because they failed. How often they failed is not forgotten.
    pub fn wake(&self) {
        let mut state = self.state.lock();
        for key in std::mem::take(&mut state.delayed).into_values() {
            let failures = state.items.get(&key).map_or(0, |item| item.failures);
            state.make_ready(key, failures);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for a key that is ready, and takes it. Returns how often it has failed in a row, too. The caller must
    /// [`Queue::finish`] the key. For one caller at a time.
    pub async fn take(&self) -> (K, u32) {
        loop {
            let due = {
                let mut state = self.state.lock();
                state.move_due(Instant::now());
                if let Some(taken) = state.take_ready() {
                    return taken;
                }
                let first = |keys: &BTreeMap<Due, K>| keys.keys().next().map(|(due, _)| *due);
                [first(&state.delayed), first(&state.aside)].into_iter().flatten().min()
            };
            match due {
                None => self.changed.notified().await,
                Some(due) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// Ends the round of a key that was taken. A key that was pushed meanwhile is ready again, whatever is `next`.
    pub fn finish(&self, key: &K, next: Next) {
        let mut state = self.state.lock();
        let Some(item) = state.items.get(key) else { return };
        let failures = item.failures;
        match (item.position, next) {
            (Position::TakenAgain(failures), _) => state.make_ready(key.clone(), failures),
            (_, Next::PutBack) => state.make_ready(key.clone(), failures),
            (_, Next::Done) => drop(state.items.remove(key)),
            (_, Next::SayAgain) => state.set_aside(key.clone()),
            (_, Next::Retry(reason)) => {
                state.delay(key.clone(), failures.saturating_add(1), reason.longest_wait());
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Returns how many keys wait or are taken, and for how long the oldest of them has been in the queue.
    pub fn depth_and_age(&self) -> (usize, Duration) {
        let state = self.state.lock();
        let waiting = state.items.values().filter(|item| !matches!(item.position, Position::Aside(_)));
        let oldest = waiting.map(|item| item.since).min();
        (state.len(), oldest.map(|since| since.elapsed()).unwrap_or_default())
    }

    /// Returns how many keys wait or are taken.
    pub fn len(&self) -> usize {
        self.state.lock().len()
    }

    /// Returns whether any key is ready and waits for a worker.
    pub fn is_behind(&self) -> bool {
        !self.state.lock().ready.is_empty()
    }

    /// Returns whether no key waits or is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn make_ready(&mut self, key: K, failures: u32) {
        self.place(key.clone(), failures, Position::Ready);
        self.ready.push_back(key);
    }

    fn delay(&mut self, key: K, failures: u32, longest: Duration) {
        // Up to a tenth more, so that keys that failed together do not come back together.
        let delay = retry_after(failures).min(longest).mul_f64(1.0 + fastrand::f64() / 10.0);
        self.sequence += 1;
        let due = (Instant::now() + delay, self.sequence);
        self.place(key.clone(), failures, Position::Delayed(due));
        self.delayed.insert(due, key);
    }

    fn set_aside(&mut self, key: K) {
        self.sequence += 1;
        let due = (Instant::now() + Duration::from_secs(fastrand::u64(SAY_AGAIN)), self.sequence);
        self.place(key.clone(), 0, Position::Aside(due));
        self.aside.insert(due, key);
    }

    /// Makes a key ready that was set aside. It enters the queue now.
    fn take_up(&mut self, due: Due, failures: u32) {
        let Some(key) = self.aside.remove(&due) else { return };
        self.items.remove(&key);
        self.make_ready(key, failures);
    }

    /// How many keys wait or are taken.
    fn len(&self) -> usize {
        self.items.len() - self.aside.len()
    }

    fn place(&mut self, key: K, failures: u32, position: Position) {
        let since = self.items.get(&key).map_or_else(Instant::now, |item| item.since);
        self.items.insert(key, Item { since, failures, position });
    }

    /// Makes the keys ready whose wait is over.
    fn move_due(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            let key = first.remove();
            let failures = self.items.get(&key).map_or(0, |item| item.failures);
            self.make_ready(key, failures);
        }
        while let Some(due) = self.aside.keys().next().copied().filter(|(due, _)| *due <= now) {
            self.take_up(due, 0);
        }
    }

    fn take_ready(&mut self) -> Option<(K, u32)> {
        let key = self.ready.pop_front()?;
        let item = self.items.get_mut(&key)?;
        item.position = Position::Taken;
        Some((key, item.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn taken_within(queue: &Queue<&'static str>, wait: Duration) -> Option<(&'static str, u32)> {
        tokio::time::timeout(wait, queue.take()).await.ok()
    }

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn keys_come_in_the_order_they_were_pushed_and_once() {
        let queue = Queue::default();
        for key in ["a", "b", "a"] {
            queue.push(key);
        }
        assert_eq!(queue.take().await, ("a", 0));
        assert_eq!(queue.take().await, ("b", 0));
        assert_eq!(taken_within(&queue, RETRY_MAX).await, None);
        queue.finish(&"a", Next::Done);
        assert_eq!(queue.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_while_taken_comes_again_but_not_before_it_is_finished() {
        let queue = Queue::default();
        queue.push("a");
        assert_eq!(queue.take().await, ("a", 0));
        queue.push("a");
        assert_eq!(taken_within(&queue, SOON).await, None);
        queue.finish(&"a", Next::Retry(RetryReason::Export));
        assert_eq!(taken_within(&queue, SOON).await, Some(("a", 0)));
        queue.finish(&"a", Next::Done);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_longer_for_ever() {
        let queue = Queue::default();
        queue.push("a");
        let mut last = Duration::ZERO;
        for failures in 0..40 {
            let start = Instant::now();
            assert_eq!(queue.take().await, ("a", failures));
            let waited = start.elapsed();
            assert!(waited >= last.min(RETRY_MAX) && waited <= RETRY_MAX.mul_f64(1.2), "{failures}: {waited:?}");
            last = waited;
            queue.finish(&"a", Next::Retry(RetryReason::Export));
        }
        assert!(last >= RETRY_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_ends_a_wait_and_forgets_the_failures() {
        let queue = Queue::default();
        queue.push("a");
        for _ in 0..20 {
            queue.take().await;
            queue.finish(&"a", Next::Retry(RetryReason::Export));
        }
        queue.push("a");
        assert_eq!(taken_within(&queue, SOON).await, Some(("a", 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_elsewhere_waits_longer_though_its_key_was_pushed() {
        let queue = Queue::default();
        for failures in 0..9 {
            queue.push_failed("a", failures);
            assert_eq!(taken_within(&queue, SOON).await, Some(("a", failures)));
            queue.finish(&"a", Next::Retry(RetryReason::Export));
            let begun = Instant::now();
            assert_eq!(queue.take().await, ("a", failures + 1));
            assert!(begun.elapsed() >= retry_after(failures + 1));
            queue.finish(&"a", Next::Done);
        }
        // Its round may not have ended by then.
        queue.push("a");
        queue.take().await;
        queue.push_failed("a", 5);
        queue.finish(&"a", Next::Done);
        assert_eq!(queue.take().await, ("a", 5));
        queue.push("a");
        queue.push_failed("a", 5);
        queue.finish(&"a", Next::Done);
        assert_eq!(queue.take().await, ("a", 0), "it has changed meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_failed_are_woken_and_wait_longer_still_if_they_fail_again() {
        let queue = Queue::default();
        // The second is through, and due, before the first one's last wait is over, whatever is added to each
        // wait.
        for (key, failures) in [("a", 10), ("b", 8)] {
            queue.push(key);
            for _ in 0..failures {
                assert_eq!(queue.take().await.0, key);
                queue.finish(&key, Next::Retry(RetryReason::Export));
            }
        }
        queue.wake();
        assert_eq!(taken_within(&queue, SOON).await, Some(("b", 8)));
        assert_eq!(taken_within(&queue, SOON).await, Some(("a", 10)));
        queue.finish(&"a", Next::Retry(RetryReason::Export));
        assert_eq!(taken_within(&queue, RETRY_MAX / 2).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_back_comes_at_once_and_has_not_failed_again() {
        let queue = Queue::default();
        queue.push("a");
        queue.take().await;
        queue.finish(&"a", Next::Retry(RetryReason::Export));
        assert_eq!(queue.take().await, ("a", 1));
        queue.finish(&"a", Next::PutBack);
        assert_eq!(taken_within(&queue, SOON).await, Some(("a", 1)));
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_stay_there() {
        let waits: Vec<u128> = (1..=12).map(|n| retry_after(n).as_millis()).collect();
        let expected =
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000];
        assert_eq!(waits, expected);
        assert_eq!(RETRY_MAX.as_secs(), 300);
        assert_eq!(retry_after(0), retry_after(1));
        for failures in [31, 32, 33, 34, 63, 64, 65, u32::MAX - 1, u32::MAX] {
            assert_eq!(retry_after(failures), RETRY_MAX, "{failures}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_set_aside_does_not_wait_and_comes_back_before_its_event_is_forgotten() {
        let queue = Queue::default();
        queue.push("a");
        assert_eq!(queue.take().await, ("a", 0));
        queue.finish(&"a", Next::SayAgain);
        assert_eq!((queue.len(), queue.depth_and_age()), (0, (0, Duration::ZERO)));
        queue.wake();
        assert_eq!(taken_within(&queue, Duration::from_secs(SAY_AGAIN.start - 1)).await, None);
        let begun = Instant::now();
        assert_eq!(taken_within(&queue, Duration::from_mins(21)).await, Some(("a", 0)));
        assert_eq!(queue.depth_and_age(), (1, Duration::ZERO), "{:?}", begun.elapsed());
        queue.finish(&"a", Next::SayAgain);
        queue.push("a");
        assert_eq!(taken_within(&queue, SOON).await, Some(("a", 0)));
        queue.finish(&"a", Next::SayAgain);
        queue.push_failed("a", 3);
        assert_eq!(taken_within(&queue, SOON).await, Some(("a", 3)));
        queue.finish(&"a", Next::Done);
        assert_eq!(taken_within(&queue, Duration::from_hours(2)).await, None);
    }

    #[test]
    fn why_something_waits_is_said_each_half_hour() {
        for reason in [RetryReason::Headroom, RetryReason::Source, RetryReason::Neighbour, RetryReason::Export] {
            let mut silent = Duration::ZERO;
            for failures in 1..500 {
                silent += retry_after(failures).min(reason.longest_wait());
                if reason.is_worth_saying(failures) {
                    silent = Duration::ZERO;
                }
                assert!(silent < Duration::from_mins(40), "{reason:?} {failures}");
            }
            assert!(!reason.is_worth_saying(8 + u32::from(reason.is_worth_saying(8))), "{reason:?}");
        }
    }
}
