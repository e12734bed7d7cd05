//! The turns of copies: which of those that wait is made next.
//!
//! So many copies at a time for each export, be it the source's or the copy's own, so that one that is slow or has
//! gone holds up no other; and of those, one namespace has no more than half, so that its long copies keep a place
//! free in which the first one of another namespace begins at once. A copy that hangs because one of its exports has
//! gone takes no place on the other.
//!
//! Of the copies that wait, those of the namespace come first that has the fewest under way where they are to be made,
//! and among equals of the one that has waited longest for a turn: nobody who orders many keeps others waiting for
//! longer than the copies that are under way. For those that wait for a full export, one place is kept on their other one,
//! else none of them would ever get both at once while others come that need only one. Copies of its own namespace may
//! overtake it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::model::exports::ExportId;

/// The number of copies that are made at the same time on each export. With eight threads each, they make 32 calls at
/// a time, half of what the kernel's NFS 4.1 client has under way on one connection, which the Pods of the node may
/// share.
const AT_A_TIME: usize = 4;

/// How many of those may be of one namespace.
const OF_A_NAMESPACE: usize = AT_A_TIME / 2;

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
        let own = |turn: &Turn, export| self.load(export, Some(&turn.namespace), is_usable);
        let ready =
            self.waiting.iter().enumerate().filter(|(_, (turn, _))| turn.exports.into_iter().all(is_usable));
        let mut ordered: Vec<_> = ready
            .map(|(index, (turn, _))| {
                let running = turn.exports.map(|export| own(turn, export)).into_iter().max();
                ((running, self.served.get(&turn.namespace).copied(), turn.number), index, turn)
            })
            .collect();
        ordered.sort_unstable_by_key(|(order, ..)| *order);
        // One place of each, for those that are before the one that is looked at, but must wait for another export.
        let mut kept: Vec<ExportId> = Vec::new();
        for (_, index, turn) in ordered {
            if turn.exports.into_iter().any(|export| own(turn, export) >= OF_A_NAMESPACE) {
                continue;
            }
            let load = |export| self.load(export, None, is_usable) + usize::from(kept.contains(&export));
            if turn.exports.into_iter().all(|export| load(export) < AT_A_TIME) {
                return Some(index);
            }
            kept.extend(turn.exports);
        }
        None
    }

    /// Counts the copies on an export, all or those of a namespace, but for those that hang because of their other
    /// one.
    fn load(&self, export: ExportId, of: Option<&str>, is_usable: &dyn Fn(ExportId) -> bool) -> usize {
        let counts = |turn: &&Turn| {
            of.is_none_or(|namespace| *turn.namespace == *namespace)
                && turn.exports.contains(&export)
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

    fn is_granted(slots: &CopySlots, namespace: &str, exports: [ExportId; 2]) -> bool {
        slots.take(namespace, exports).now_or_never().is_some()
    }

    async fn take_all<const N: usize>(slots: &CopySlots, turns: [(&str, [ExportId; 2]); N]) -> Vec<CopySlot> {
        let takes = turns.map(|(namespace, exports)| slots.take(namespace, exports));
        futures::future::join_all(takes).await
    }

    #[tokio::test(start_paused = true)]
    async fn each_export_has_four_and_one_that_hangs_holds_up_no_other() {
        let [a, b] = exports();
        let is_up = Arc::new(AtomicBool::new(true));
        let is_usable = Arc::clone(&is_up);
        let slots = CopySlots::new(move |export| export == b || is_usable.load(Ordering::Relaxed));
        let hung = take_all(&slots, [("n", [a, b]), ("n", [a, a]), ("m", [b, a]), ("m", [a, a])]).await;
        assert!(!is_granted(&slots, "o", [a, a]), "a has four");
        let own = take_all(&slots, [("n", [b, b]), ("o", [b, b])]).await;
        assert!(!is_granted(&slots, "p", [b, b]), "b has four");
        is_up.store(false, Ordering::Relaxed);
        let more = take_all(&slots, [("n", [b, b]), ("p", [b, b])]).await;
        assert!(!is_granted(&slots, "q", [b, b]), "b has four that do not hang");
        drop((own, hung));
        let mut waits = std::pin::pin!(slots.take("n", [b, a]));
        assert!(timeout(LOOK * 2, &mut waits).await.is_err(), "a is not to be had");
        is_up.store(true, Ordering::Relaxed);
        let back = waits.await;
        drop((more, back));
        assert!(slots.turns.lock().served.is_empty(), "nothing is kept of those who are done");
    }

    #[tokio::test(start_paused = true)]
    async fn long_copies_of_a_namespace_leave_room_for_the_first_one_of_another() {
        let [a, b] = exports();
        let slots = CopySlots::new(|_| true);
        let long = take_all(&slots, [("many", [a, a]), ("many", [b, a])]).await;
        let mut third = std::pin::pin!(slots.take("many", [a, b]));
        assert!(third.as_mut().now_or_never().is_none(), "it has its half of a");
        let of_b = take_all(&slots, [("many", [b, b]), ("x", [b, b]), ("y", [b, b])]).await;
        drop(of_b);
        assert!(is_granted(&slots, "few", [a, a]), "and few begins at once");
        drop(long);
        third.await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_needs_two_exports_is_not_kept_waiting_by_those_that_need_one() {
        let [a, b] = exports();
        let slots = CopySlots::new(|_| true);
        let mut busy = take_all(&slots, [("x", [a, a]), ("x", [a, a]), ("y", [a, a]), ("y", [a, a])]).await;
        let mut both = std::pin::pin!(slots.take("both", [a, b]));
        assert!(both.as_mut().now_or_never().is_none(), "a is full");
        let others = take_all(&slots, [("s", [b, b]), ("s", [b, b]), ("t", [b, b])]).await;
        for namespace in ["t", "u", "v"] {
            assert!(!is_granted(&slots, namespace, [b, b]), "the last place on b is kept");
            assert!(!is_granted(&slots, namespace, [a, a]), "a is full");
        }
        busy.pop();
        let mut later = std::pin::pin!(slots.take("u", [a, a]));
        assert!(later.as_mut().now_or_never().is_none(), "the other one was first");
        drop(both.as_mut().now_or_never().expect("it has both"));
        drop(others);
        later.await;
    }

    #[tokio::test(start_paused = true)]
    async fn copies_that_wait_for_one_export_keep_no_more_than_a_place_on_another() {
        let [a, b] = exports();
        let slots = CopySlots::new(|_| true);
        let _busy = take_all(&slots, [("x", [a, a]), ("x", [a, a]), ("y", [a, a]), ("y", [a, a])]).await;
        let mut both = std::pin::pin!(futures::future::join_all((0..4).map(|_| slots.take("both", [a, b]))));
        assert!(both.as_mut().now_or_never().is_none(), "a is full");
        let of_b = take_all(&slots, [("s", [b, b]), ("s", [b, b]), ("t", [b, b])]).now_or_never();
        assert_eq!(of_b.expect("b is idle").len(), AT_A_TIME - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn copies_elsewhere_and_copies_that_hang_count_against_no_namespace() {
        let [a, b] = exports();
        let is_up = Arc::new(AtomicBool::new(true));
        let is_usable = Arc::clone(&is_up);
        let slots = CopySlots::new(move |export| export == a || is_usable.load(Ordering::Relaxed));
        let elsewhere = take_all(&slots, [("n", [b, b]), ("n", [a, b])]).await;
        is_up.store(false, Ordering::Relaxed);
        let mut busy = take_all(&slots, [("x", [a, a]), ("x", [a, a]), ("y", [a, a]), ("y", [a, a])]).await;
        let mut of_n = std::pin::pin!(slots.take("n", [a, a]));
        assert!(of_n.as_mut().now_or_never().is_none(), "a is full");
        let mut of_m = std::pin::pin!(slots.take("m", [a, a]));
        assert!(of_m.as_mut().now_or_never().is_none(), "a is full");
        busy.pop();
        assert!(of_m.as_mut().now_or_never().is_none(), "n has waited for longer, and none under way that counts");
        of_n.as_mut().now_or_never().expect("it is first");
        drop((elsewhere, busy));
        of_m.await;
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns_and_who_goes_away_takes_none() {
        let [a, _] = exports();
        let slots = CopySlots::new(|_| true);
        let order = Arc::new(Mutex::new(Vec::new()));
        let at_a = [a, a];
        let busy = take_all(&slots, [("many", at_a), ("many", at_a), ("else", at_a), ("else", at_a)]).await;
        assert!(!is_granted(&slots, "gone", at_a));
        let names = ["many", "many", "many", "few", "other", "few", "many", "late"];
        let tasks = names.map(|name| {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            async move {
                let slot = slots.take(name, at_a).await;
                order.lock().push(name);
                tokio::time::sleep(Duration::from_mins(1)).await;
                drop(slot);
            }
        });
        let all = futures::future::join_all(tasks);
        let free = async {
            for slot in busy {
                tokio::time::sleep(Duration::from_secs(10)).await;
                drop(slot);
            }
        };
        futures::join!(all, free);
        assert_eq!(*order.lock(), ["few", "many", "other", "late", "few", "many", "many", "many"]);
    }
}
