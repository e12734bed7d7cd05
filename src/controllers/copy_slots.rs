//! The turns of copies: which of those that wait is made next.
//!
//! So many copies at a time for each export, be it the source's or the copy's own, so that one that is slow or has
//! gone holds up no other. Of the copies that could be made, those of the namespace come first that has the fewest
//! under way, and among equals of the one that has waited longest for a turn: nobody who orders many keeps others
//! waiting for longer than the copies that are under way.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::model::exports::ExportId;

/// The number of copies that are made at the same time on each export.
const AT_A_TIME: usize = 2;

/// The interval at which waiting copies look whether an export has come back.
const LOOK: Duration = Duration::from_secs(2);

/// The turns of copies. Clones are the same.
#[derive(Clone)]
pub(super) struct CopySlots {
    turns: Arc<Mutex<Turns>>,
    is_usable: Arc<dyn Fn(ExportId) -> bool + Send + Sync>,
}

impl fmt::Debug for CopySlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.turns.lock().fmt(f)
    }
}

/// A turn, which ends when the value is dropped.
#[derive(Debug)]
pub(super) struct CopySlot {
    slots: CopySlots,
    number: u64,
}

#[derive(Debug, Default)]
struct Turns {
    running: Vec<Turn>,
    waiting: Vec<(Turn, oneshot::Sender<()>)>,
    /// When each namespace that has copies got its last turn, or ordered its first copy, in turns so far.
    served: HashMap<Box<str>, u64>,
    /// The number of copies and turns so far.
    count: u64,
    looked: Option<Instant>,
}

/// A copy that waits, or is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    number: u64,
    namespace: Box<str>,
    /// The exports that the copy needs.
    exports: [ExportId; 2],
}

impl CopySlots {
    /// Begins with no copy. An export for which `is_usable` returns false takes no more copies, and those that hang
    /// there do not count on other exports.
    pub(super) fn new(is_usable: impl Fn(ExportId) -> bool + Send + Sync + 'static) -> Self {
        Self { turns: Arc::default(), is_usable: Arc::new(is_usable) }
    }

    /// Waits for the turn of a copy for a claim of `namespace` that needs these exports.
    pub(super) async fn take(&self, namespace: &str, exports: [ExportId; 2]) -> CopySlot {
        let (sender, mut granted) = oneshot::channel();
        let number = self.turns.lock().add(namespace, exports, sender);
        // Gives its place up if the caller does not wait any more.
        let slot = CopySlot { slots: self.clone(), number };
        self.grant();
        while timeout(LOOK, &mut granted).await.is_err() {
            self.look();
        }
        slot
    }

    /// Gives turns to all whose turn it is.
    fn grant(&self) {
        let mut turns = self.turns.lock();
        while let Some(index) = turns.next(&*self.is_usable) {
            turns.begin(index);
        }
    }

    /// Gives turns, unless somebody has just looked.
    fn look(&self) {
        let is_due = self.turns.lock().is_due();
        if is_due {
            self.grant();
        }
    }
}

impl Drop for CopySlot {
    fn drop(&mut self) {
        self.slots.turns.lock().end(self.number);
        self.slots.grant();
    }
}

impl Turns {
    fn add(&mut self, namespace: &str, exports: [ExportId; 2], granted: oneshot::Sender<()>) -> u64 {
        self.count += 1;
        let number = self.count;
        self.served.entry(namespace.into()).or_insert(number);
        self.waiting.push((Turn { number, namespace: namespace.into(), exports }, granted));
        number
    }

    /// Tells which of the waiting copies is next, if one can be made now.
    fn next(&self, is_usable: &dyn Fn(ExportId) -> bool) -> Option<usize> {
        let has_room = |export: &ExportId| is_usable(*export) && self.load(*export, is_usable) < AT_A_TIME;
        let ready = self.waiting.iter().enumerate().filter(|(_, (turn, _))| turn.exports.iter().all(has_room));
        let next = ready.min_by_key(|(_, (turn, _))| {
            let running = self.running.iter().filter(|other| other.namespace == turn.namespace).count();
            (running, self.served.get(&turn.namespace).copied(), turn.number)
        });
        next.map(|(index, _)| index)
    }

    /// Counts the copies on an export, but for those that hang because of their other one.
    fn load(&self, export: ExportId, is_usable: &dyn Fn(ExportId) -> bool) -> usize {
        let counts = |turn: &&Turn| {
            turn.exports.contains(&export)
                && turn.exports.iter().all(|other| *other == export || is_usable(*other))
        };
        self.running.iter().filter(counts).count()
    }

    fn begin(&mut self, index: usize) {
        let (turn, granted) = self.waiting.remove(index);
        self.count += 1;
        self.served.insert(turn.namespace.clone(), self.count);
        self.running.push(turn);
        // One that does not wait any more ends its turn by itself.
        let _ = granted.send(());
    }

    fn end(&mut self, number: u64) {
        self.running.retain(|turn| turn.number != number);
        self.waiting.retain(|(turn, _)| turn.number != number);
        let (running, waiting) = (&self.running, &self.waiting);
        self.served.retain(|namespace, _| {
            let mut all = running.iter().chain(waiting.iter().map(|(turn, _)| turn));
            all.any(|turn| turn.namespace == *namespace)
        });
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK / 2);
        if is_due {
            self.looked = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::model::exports::{Exports, NamedExport};
    use crate::values::address::ExportAddress;

    /// The exports "a" and "b".
    fn exports() -> [ExportId; 2] {
        let named = |name: &str| NamedExport {
            name: name.into(),
            address: ExportAddress::new("nas".into(), format!("/{name}").into()),
        };
        let (exports, _) = Exports::new(vec![(named("a"), ()), (named("b"), ())]).unwrap();
        ["/a/x", "/b/x"].map(|path| exports.locate("nas", path).unwrap().export)
    }

    #[tokio::test(start_paused = true)]
    async fn each_export_has_two_and_one_that_hangs_holds_up_no_other() {
        let [a, b] = exports();
        let is_up = Arc::new(AtomicBool::new(true));
        let is_usable = Arc::clone(&is_up);
        let slots = CopySlots::new(move |export| export == b || is_usable.load(Ordering::Relaxed));
        let hung = [slots.take("n", [a, b]).await, slots.take("n", [a, a]).await];
        assert!(slots.take("n", [a, a]).now_or_never().is_none(), "a has two");
        let own = slots.take("n", [b, b]).await;
        assert!(slots.take("n", [b, b]).now_or_never().is_none(), "b has two");
        is_up.store(false, Ordering::Relaxed);
        let more = slots.take("n", [b, b]).await;
        assert!(slots.take("n", [b, b]).now_or_never().is_none(), "b has two that do not hang");
        drop((own, hung));
        let mut waits = std::pin::pin!(slots.take("n", [b, a]));
        assert!(timeout(LOOK * 2, &mut waits).await.is_err(), "a is not to be had");
        is_up.store(true, Ordering::Relaxed);
        let back = waits.await;
        drop((more, back));
        assert!(slots.turns.lock().served.is_empty(), "nothing is kept of those who are done");
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns_and_who_goes_away_takes_none() {
        let [a, _] = exports();
        let slots = CopySlots::new(|_| true);
        let order = Arc::new(Mutex::new(Vec::new()));
        let busy = [slots.take("many", [a, a]).await, slots.take("many", [a, a]).await];
        assert!(slots.take("gone", [a, a]).now_or_never().is_none());
        let names = ["many", "many", "many", "few", "other", "few", "many", "late"];
        let tasks = names.map(|name| {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            async move {
                let slot = slots.take(name, [a, a]).await;
                order.lock().push(name);
                tokio::time::sleep(Duration::from_mins(1)).await;
                drop(slot);
            }
        });
        let all = futures::future::join_all(tasks);
        let free = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let [one, other] = busy;
            drop(one);
            tokio::time::sleep(Duration::from_secs(30)).await;
            drop(other);
        };
        futures::join!(all, free);
        assert_eq!(*order.lock(), ["few", "many", "other", "late", "few", "many", "many", "many"]);
    }
}
