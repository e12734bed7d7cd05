//! Empties the trash in the background, for as long as the program runs.
//!
//! The trash itself is the queue: entries that a crash or another replica has left there are found the next time
//! it is listed. It is listed when there is something new, and every minute.
//!
//! What is kept for some time stays until then, by this machine's clock. It goes earlier only where its name says
//! below which free space, nothing else that is to go is left, and the export has less free than that: one after the
//! other, the oldest first.
//!
//! It also sees to it that the trash is there before it is needed: on a full export none can be made.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use crate::export::Backlog;
use crate::layout::TrashName;
use crate::queue::{Next, Queue, RetryReason};
use crate::storage::{Kept, Left, Problem, Reaped, Storage, StorageError, Trashed};
use crate::values::time::{milliseconds, seconds_now, timestamp};

/// The number of entries that are worked on at a time, so that a huge one does not keep the others waiting.
const ENTRIES_MAX: usize = 2;

/// The time for which an entry is worked on before others have their turn.
const TURN: Duration = Duration::from_secs(30);

/// The time between two listings of the trash: nothing else shows what other replicas and clusters put there.
const LOOK: Duration = Duration::from_mins(1);

/// The time between two looks at the export's root for entries of the trash: only a full export has any there.
const LOOK_AT_ROOT: Duration = Duration::from_hours(1);

/// The time between two looks at whether we still lead.
const LEADS: Duration = Duration::from_secs(1);

/// The number of new entries that one listing may bring. If there are more, the next one brings them, at once when
/// all known entries are gone.
const LEARNED_MAX: usize = 256;

/// How many times as long as a listing took is waited before the next one, and how long at the most for each entry
/// that is kept: where very much is kept, a listing takes long. It also does while the server is away, but then
/// nothing is to wait for that afterwards.
const LOOK_PAUSE: (u32, Duration) = (4, Duration::from_micros(100));

/// The time between the end of a removal and the question whether there is room now: some file systems free what was
/// removed a moment later.
const EARLY_PAUSE: Duration = Duration::from_secs(2);

/// The part of an export, as one of so many, below which free space is little.
const LITTLE: u64 = 10;

/// The time after which it is said again that there is little room, and much that is kept: before the API server
/// forgets the last event about it.
const LITTLE_AGAIN: Duration = Duration::from_mins(50);

/// Empties the trash of `storage` for ever, whenever `leads` returns true. May be dropped at any point.
///
/// An entry that cannot be removed entirely is tried again, later each time, and keeps no other waiting. The log
/// says so once, and again if something else is wrong with the entry.
pub async fn reap_forever(storage: Storage, leads: impl Fn() -> bool, backlog: &Backlog) {
    loop {
        while !leads() {
            sleep(LEADS).await;
        }
        Reaper::new(&storage, backlog).reap_while(&leads).await;
        backlog.update(|counts| {
            (counts.waiting, counts.blocked, counts.kept, counts.due) = Default::default();
        });
    }
}

struct Reaper<'a> {
    storage: &'a Storage,
    backlog: &'a Backlog,
    queue: Queue<TrashName>,
    /// All entries that are queued or worked on.
    known: HashMap<TrashName, Known>,
    /// Those that go before their time as the last listing showed them, the oldest first.
    early: VecDeque<TrashName>,
    /// When to ask whether one of those is to go.
    early_at: Option<Instant>,
    /// When to list the trash, if before the next tick.
    look_at: Option<Instant>,
    /// When the trash may be listed again.
    not_before: Instant,
}

/// Why an entry goes that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WasKept {
    /// Its time has come.
    Due,
    /// The export had too little room.
    Early,
}

/// What is known of an entry.
#[derive(Default)]
struct Known {
    /// Why it goes, if it was kept.
    was_kept: Option<WasKept>,
    /// The error that the log last told of it.
    said: Option<StorageError>,
    /// How many files, links and directories of it were removed by now.
    entries: u64,
    /// How long that took.
    took: Duration,
}

/// The result of work on an entry, and how long that took. There is no result if the work panicked.
type Outcome = (TrashName, Duration, Option<Result<Reaped, StorageError>>);

impl<'a> Reaper<'a> {
    fn new(storage: &'a Storage, backlog: &'a Backlog) -> Self {
        Self {
            storage,
            backlog,
            queue: Queue::default(),
            known: HashMap::new(),
            early: VecDeque::new(),
            early_at: None,
            look_at: None,
            not_before: Instant::now(),
        }
    }

    /// Works until we no longer lead, and then drops the work that is under way.
    async fn reap_while(mut self, leads: &impl Fn() -> bool) {
        let (mut look, mut leading, mut at_root) = (interval(LOOK), interval(LEADS), interval(LOOK_AT_ROOT));
        let mut under_way = FuturesUnordered::new();
        let mut said = Trouble::default();
        let mut returned = self.storage.returned();
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = leading.tick() => if !leads() { return },
                _ = at_root.tick() => self.storage.suspect_root(),
                _ = look.tick() => {
                    self.prepare(&mut said).await;
                    self.want_look(Duration::ZERO);
                }
                () = reached(self.look_at) => self.look(&mut said).await,
                () = reached(self.early_at) => self.go_on_early().await,
                () = self.backlog.changed() => self.want_look(Duration::ZERO),
                // It may be another one that is mounted now.
                Ok(()) = returned.changed() => {
                    said.is_prepared = false;
                    self.storage.suspect_root();
                    self.prepare(&mut said).await;
                    self.queue.wake();
                    self.want_look(Duration::ZERO);
                }
                (name, _) = self.queue.take(), if under_way.len() < ENTRIES_MAX && leads() => {
                    if self.may_go(&name) && self.is_released(&name).await {
                        under_way.push(reap(self.storage, name));
                    }
                }
                Some(outcome) = under_way.next() => {
                    self.finish(outcome);
                    if self.known.is_empty() {
                        // There may be more than the last listing brought.
                        self.want_look(Duration::ZERO);
                    }
                    if !self.early.is_empty() {
                        self.early_at = Some(Instant::now() + EARLY_PAUSE);
                    }
                }
            }
        }
    }

    /// Makes the directories of our own, unless that was done.
    async fn prepare(&self, said: &mut Trouble) {
        if !said.is_prepared {
            said.say_prepared(self.storage.prepare().await);
        }
    }

    /// Has the trash listed after that time, unless it is to be sooner; or once it has been left alone for long
    /// enough.
    fn want_look(&mut self, after: Duration) {
        let at = (Instant::now() + after).max(self.not_before);
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    /// Lists the trash, and queues the entries that are new and to be removed.
    async fn look(&mut self, said: &mut Trouble) {
        let (begun, now) = (Instant::now(), seconds_now());
        self.look_at = None;
        // Even a listing that has all known entries in it then has room for that many new ones.
        let found = self.storage.trashed(self.known.len() + LEARNED_MAX, now).await;
        self.not_before =
            Instant::now() + pause(begun.elapsed(), found.as_ref().map_or(0, |found| found.kept.count));
        said.say(&found);
        let Ok(Trashed { names, kept, .. }) = found else { return self.count() };
        if said.say_little(&kept) {
            self.backlog.press(kept.firm);
        }
        for name in names {
            self.learn(name, None);
        }
        if let Some(left) = kept.next.map(|next| Duration::from_secs(next.saturating_sub(now)))
            && left < LOOK
        {
            self.want_look(left);
        }
        self.early = kept.early.into();
        self.early_at = (!self.early.is_empty()).then(|| Instant::now() + EARLY_PAUSE);
        self.backlog.update(|counts| (counts.kept, counts.due) = (kept.count, kept.next));
        self.count();
    }

    /// Queues an entry, unless that was done.
    fn learn(&mut self, name: TrashName, was_kept: Option<WasKept>) {
        if !self.known.contains_key(&name) {
            self.known.insert(name.clone(), Known { was_kept, ..Known::default() });
            self.queue.push(name);
        }
    }

    /// Has the oldest entry go before its time for which the export has too little room, if nothing else goes.
    async fn go_on_early(&mut self) {
        self.early_at = None;
        // What can be removed anyway makes room, too.
        if self.known.values().any(|known| known.said.is_none()) {
            return;
        }
        // Anew: what has gone since the listing may be enough.
        let Ok(usage) = self.storage.measure().await else { return };
        let gives_way = |name: &TrashName| name.keep().is_some_and(|keep| keep.gives_way(&usage));
        while let Some(name) = self.early.pop_front() {
            if self.known.contains_key(&name) || !gives_way(&name) {
                continue;
            }
            let until = name.kept_until().map(timestamp).unwrap_or_default();
            let least = name.keep().and_then(|keep| keep.min_free()).map(ToString::to_string);
            warn!(
                volume = name.volume(), entry = %name, %until, least, free = usage.bytes_free,
                "the export has less free than the class wants: removing before its time what was deleted"
            );
            match self.storage.release(&name).await {
                Ok(Some(released)) => self.learn(released, Some(WasKept::Early)),
                Ok(None) => {}
                Err(error) => {
                    warn!(entry = %name, %error, "failed to remove it before its time");
                    // The next look at the trash is early enough.
                    self.early.clear();
                    return;
                }
            }
            break;
        }
        if self.early.is_empty() {
            // There may be more than the last listing brought.
            self.want_look(EARLY_PAUSE);
        }
    }

    /// Tells whether an entry that was queued may still be removed: the clock may have been ahead when it was. Else
    /// it is forgotten until it is listed again.
    fn may_go(&mut self, name: &TrashName) -> bool {
        let may_go = name.is_due(seconds_now());
        if !may_go {
            self.forget(name);
        }
        may_go
    }

    /// Tells whether an entry has the name of one that is not kept. One whose time has come gets that name before anything
    /// of it is removed, so that nobody takes for whole what is gone in part, and is then worked on under that.
    async fn is_released(&mut self, name: &TrashName) -> bool {
        if name.keep().is_none() {
            return true;
        }
        match self.storage.release(name).await {
            Ok(released) => {
                self.forget(name);
                if let Some(released) = released {
                    self.learn(released, Some(WasKept::Due));
                }
            }
            // Nobody can restore what is no directory; and what makes room must not wait for room.
            Err(error) if error.problem.is_lack_of_room() || error.problem == Problem::NotDirectory => {
                self.known.entry(name.clone()).or_default().was_kept = Some(WasKept::Due);
                return true;
            }
            Err(error) => self.block(name, 1, error),
        }
        false
    }

    fn forget(&mut self, name: &TrashName) {
        self.queue.finish(name, Next::Done);
        self.known.remove(name);
    }

    /// Logs the result of work on an entry, and decides when the entry is tried again.
    fn finish(&mut self, (name, took, result): Outcome) {
        let progress = result.as_ref().and_then(|result| result.as_ref().ok()).map_or(0, |reaped| reaped.entries);
        self.backlog.update(|counts| counts.removed += progress);
        let known = self.known.entry(name.clone()).or_default();
        known.entries += progress;
        known.took += took;
        let (entries, milliseconds) = (known.entries, milliseconds(known.took));
        match result {
            Some(Ok(Reaped { left: Left::Nothing, .. })) => {
                info!(volume = name.volume(), entry = %name, entries, milliseconds, "removed from the trash");
                self.queue.finish(&name, Next::Done);
                let was_kept = self.known.remove(&name).and_then(|known| known.was_kept);
                self.backlog.update(|counts| match was_kept {
                    Some(WasKept::Early) => counts.freed_early += 1,
                    Some(WasKept::Due) => counts.freed_due += 1,
                    None => {}
                });
            }
            // The entry is tried again at once, after the others: only when nothing else is left of it does it
            // show what cannot be removed.
            Some(Ok(_)) if progress > 0 => {
                debug!(entry = %name, entries, milliseconds, "removed in part from the trash, will go on");
                self.queue.finish(&name, Next::Done);
                self.queue.push(name);
            }
            Some(Ok(Reaped { left: Left::Blocked { entries, first }, .. })) => self.block(&name, entries, first),
            Some(Ok(Reaped { left: Left::More, .. })) => {
                debug!(entry = %name, milliseconds, "nothing was removed from the trash in the time allowed");
                self.queue.finish(&name, Next::Retry(RetryReason::Export));
            }
            Some(Err(error)) => self.block(&name, 1, error),
            None => {
                error!(entry = %name, "a defect of this program broke off the removal; will try it again");
                self.queue.finish(&name, Next::Retry(RetryReason::Export));
            }
        }
        self.count();
    }

    /// Logs once that an entry cannot be removed, and queues it to be tried again later.
    fn block(&mut self, name: &TrashName, entries: u64, problem: StorageError) {
        self.queue.finish(name, Next::Retry(RetryReason::Export));
        let (volume, entry) = (name.volume().to_owned(), name.to_string());
        let known = self.known.entry(name.clone()).or_default();
        if known.said.as_ref() == Some(&problem) {
            debug!(volume, entry, entries, %problem, "still cannot be removed from the trash");
        } else if problem.problem == Problem::StillOpen {
            info!(volume, entry, entries, %problem, "cannot be removed from the trash yet, will be tried again");
        } else {
            warn!(volume, entry, entries, %problem, "cannot be removed from the trash, will be tried again");
        }
        known.said = Some(problem);
    }

    fn count(&self) {
        let blocked = self.known.values().filter(|known| known.said.is_some()).count();
        let waiting = self.known.len();
        self.backlog.update(|counts| (counts.waiting, counts.blocked) = (waiting, blocked));
    }
}

/// Returns how long the trash is left alone after a listing that took so long, where so many entries are kept.
fn pause(took: Duration, kept: usize) -> Duration {
    let (times, for_each) = LOOK_PAUSE;
    (took * times).min(for_each * u32::try_from(kept).unwrap_or(u32::MAX))
}

/// Waits for a time; for ever if there is none.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn reap(storage: &Storage, name: TrashName) -> Outcome {
    let begun = Instant::now();
    // A panic must not stop the work on the other entries.
    let result = AssertUnwindSafe(storage.reap(&name, TURN)).catch_unwind().await.ok();
    (name, begun.elapsed(), result)
}

/// The trouble with the trash as a whole, as the log last told it.
#[derive(Default)]
struct Trouble {
    /// Whether the directories of our own were made since this process leads, or the export came back.
    is_prepared: bool,
    unprepared: Option<StorageError>,
    error: Option<StorageError>,
    closed: Vec<StorageError>,
    unlisted: Vec<StorageError>,
    foreign: Option<(usize, String)>,
    /// When it was said last that there is little room.
    little: Option<Instant>,
}

impl Trouble {
    /// Notes whether the directories of our own could be made, and logs why not, unless that was logged.
    fn say_prepared(&mut self, made: Result<(), StorageError>) {
        self.is_prepared = made.is_ok();
        let Err(error) = made else { return };
        if error.problem != Problem::NotLeading && self.unprepared.as_ref() != Some(&error) {
            warn!(%error, "failed to make the directories for what is deleted and archived, will try it again");
            self.unprepared = Some(error);
        }
    }

    /// Logs from time to time that there is little room while entries are kept that never go before their time, and
    /// tells whether it has.
    fn say_little(&mut self, kept: &Kept) -> bool {
        let is_little = kept.usage.is_some_and(|usage| usage.bytes_free < usage.bytes / LITTLE);
        if kept.firm == 0 || !is_little || self.little.is_some_and(|said| said.elapsed() < LITTLE_AGAIN) {
            return false;
        }
        warn!(
            kept = kept.firm,
            "the export has little room left, and what was deleted is kept on it whatever room that takes: classes \
             without deleteRetentionMinFree want that. Remove from the trash what nobody needs, or make room"
        );
        self.little = Some(Instant::now());
        true
    }

    /// Logs trouble that has not been logged yet.
    fn say(&mut self, found: &Result<Trashed, StorageError>) {
        match found {
            Ok(found) => {
                self.error = None;
                for error in found.closed.iter().filter(|error| !self.closed.contains(error)) {
                    warn!(
                        %error,
                        "a directory of the trash is another user's to the server, as where root was not squashed \
                         before: another one is used, and this one has to be emptied on the server"
                    );
                }
                self.closed.clone_from(&found.closed);
                for error in found.unlisted.iter().filter(|error| !self.unlisted.contains(error)) {
                    warn!(%error, "cannot look for what is to be removed there, will try it again");
                }
                self.unlisted.clone_from(&found.unlisted);
                if let Some((count, name)) = found.foreign.as_ref().filter(|_| found.foreign != self.foreign) {
                    warn!(
                        count,
                        ?name,
                        "the trash holds entries that are not ours: check what they are, and remove them"
                    );
                }
                self.foreign.clone_from(&found.foreign);
            }
            Err(error) => {
                if self.error.as_ref() != Some(error) {
                    warn!(%error, "failed to list the trash, will try it again");
                }
                self.error = Some(error.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_paused_after_where_much_is_kept_and_not_where_the_server_was_away() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        assert_eq!(pause(minute, 0), Duration::ZERO);
        assert!(pause(minute, 100) < second);
        assert_eq!(pause(10 * second, 1_000_000), 40 * second);
        assert_eq!(pause(minute, 1_000_000), 100 * second);
    }
}
