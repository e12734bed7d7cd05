//! Empties the trash in the background, for as long as the program runs.
//!
//! The trash itself is the queue: entries that a crash or another replica has left there are found the next time
//! it is listed. It is listed when there is something new, and every minute.
//!
//! It also sees to it that the trash is there before it is needed: on a full export none can be made.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, error, info, warn};

use crate::export::{Backlog, Counts};
use crate::layout::TrashName;
use crate::queue::{Next, Queue, RetryReason};
use crate::storage::{Left, Problem, Reaped, Storage, StorageError, Trashed};
use crate::values::time::milliseconds;

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

/// Empties the trash of `storage` for ever, whenever `leads` returns true. May be dropped at any point.
///
/// An entry that cannot be removed entirely is tried again, later each time, and keeps no other waiting. The log
/// says so once, and again if something else is wrong with the entry.
pub async fn reap_forever(storage: Storage, leads: impl Fn() -> bool, backlog: &Backlog) {
    loop {
        while !leads() {
            sleep(LEADS).await;
        }
        let reaper = Reaper { storage: &storage, backlog, queue: Queue::default(), known: HashMap::new() };
        reaper.reap_while(&leads).await;
        backlog.update(|counts| *counts = Counts { removed: counts.removed, ..Counts::default() });
    }
}

struct Reaper<'a> {
    storage: &'a Storage,
    backlog: &'a Backlog,
    queue: Queue<TrashName>,
    /// All entries that are queued or worked on.
    known: HashMap<TrashName, Known>,
}

/// What is known of an entry.
#[derive(Default)]
struct Known {
    /// The error that the log last told of it.
    said: Option<StorageError>,
    /// How many files, links and directories of it were removed by now.
    entries: u64,
    /// How long that took.
    took: Duration,
}

/// The result of work on an entry, and how long that took. There is no result if the work panicked.
type Outcome = (TrashName, Duration, Option<Result<Reaped, StorageError>>);

impl Reaper<'_> {
    /// Works until we no longer lead, and then drops the work that is under way.
    async fn reap_while(mut self, leads: &impl Fn() -> bool) {
        let (mut look, mut leading, mut at_root) = (interval(LOOK), interval(LEADS), interval(LOOK_AT_ROOT));
        let mut under_way = FuturesUnordered::new();
        let mut said = Trouble::default();
        let mut returned = self.storage.returned();
        loop {
            tokio::select! {
                _ = leading.tick() => if !leads() { return },
                _ = at_root.tick() => self.storage.suspect_root(),
                _ = look.tick() => {
                    self.prepare(&mut said).await;
                    self.look(&mut said).await;
                }
                () = self.backlog.changed() => self.look(&mut said).await,
                // It may be another one that is mounted now.
                Ok(()) = returned.changed() => {
                    said.is_prepared = false;
                    self.storage.suspect_root();
                    self.prepare(&mut said).await;
                    self.queue.wake();
                    self.look(&mut said).await;
                }
                (name, _) = self.queue.take(), if under_way.len() < ENTRIES_MAX && leads() => {
                    under_way.push(reap(self.storage, name));
                }
                Some(outcome) = under_way.next() => {
                    self.finish(outcome);
                    if self.known.is_empty() {
                        // There may be more than the last listing brought.
                        self.look(&mut said).await;
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

    /// Lists the trash, and queues the entries that are new.
    async fn look(&mut self, said: &mut Trouble) {
        // Even a listing that has all known entries in it then has room for that many new ones.
        let found = self.storage.trashed(self.known.len() + LEARNED_MAX).await;
        said.say(&found);
        for name in found.map(|found| found.names).unwrap_or_default() {
            if !self.known.contains_key(&name) {
                self.known.insert(name.clone(), Known::default());
                self.queue.push(name);
            }
        }
        self.count();
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
                self.known.remove(&name);
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
