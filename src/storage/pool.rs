//! The threads on which calls run, how many there are, and the fence before those that change something.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::storage::calls::{Call, Calls};
use crate::storage::error::{Doing, Problem, StorageError};
use crate::storage::ops::copy_file::Progress;
use crate::storage::root::Root;
use crate::values::path::RelPath;
use crate::values::time::BootTime;

/// How many calls on an export run at a time: so many threads can be lost to a server that does not answer.
pub(crate) const CALLS_MAX: usize = 16;

/// How many threads work on one copy.
const COPIERS: usize = 8;

/// How long a copy waits to be allowed to go on when nothing may be changed for a while: hours of copying are not
/// thrown away because another process led, or none, for a moment. What it writes meanwhile lies aside.
pub const COPY_PAUSE_MAX: Duration = Duration::from_mins(10);

/// The interval at which a copy that waits looks whether it may go on.
const PAUSE: Duration = Duration::from_millis(100);

/// How many threads remove what is in the trash at a time, beside those of the other calls.
const REAPERS_MAX: usize = 16;

/// How many of those work on one entry of the trash: never all, so that a small one need not wait for a huge one.
const REAPERS_EACH: usize = 12;

/// How it stands with an export.
#[derive(Debug, Clone)]
pub enum State {
    /// It has not been looked at yet.
    Unknown,
    /// It can be used.
    Open(Arc<Opened>),
    /// It cannot be used, until that changes by itself or somebody changes it.
    Unusable(StorageError),
}

impl State {
    /// Tells whether what is open now is another opening than that one. While nothing is, it may come back.
    pub(crate) fn replaces(&self, opening: &Weak<Opened>) -> bool {
        matches!(self, Self::Open(now) if !std::ptr::eq(Arc::as_ptr(now), opening.as_ptr()))
    }
}

/// An export that has been opened.
#[derive(Debug)]
pub struct Opened {
    pub(crate) root: Root,
    /// How many calls more may run. Each opened root has its own: calls that hang on what was mounted before do
    /// not keep what is mounted now waiting.
    pub(crate) calls: Arc<Semaphore>,
    reapers: Arc<Semaphore>,
}

impl From<Root> for Opened {
    fn from(root: Root) -> Self {
        let (calls, reapers) = (Arc::new(Semaphore::new(CALLS_MAX)), Arc::new(Semaphore::new(REAPERS_MAX)));
        Self { root, calls, reapers }
    }
}

/// Whether files may be changed now. It is asked last thing before each change.
#[derive(Clone)]
pub(crate) struct Fence {
    leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// When it closes for good.
    until: Option<BootTime>,
}

impl Fence {
    pub(crate) fn new(leads: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { leads: Arc::new(leads), until: None }
    }

    /// Returns the same fence, which closes at that time at the latest.
    pub(crate) fn until(self, until: BootTime) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Lets a change pass, or tells why not.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        if !(self.leads)() {
            Err(Problem::NotLeading)
        } else if self.until.is_some_and(|until| BootTime::now() >= until) {
            Err(Problem::TooLate)
        } else {
            Ok(())
        }
    }

    pub(crate) fn lets_pass(&self) -> bool {
        self.check().is_ok()
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({:?})", self.check())
    }
}

/// How long a thread that empties the trash lets others go first, before each removal.
const COURTESY: Duration = Duration::from_millis(5);

/// Whether claims or volumes wait to be worked on, so that what has time lets them go first.
#[derive(Clone)]
pub(crate) struct Others(Arc<dyn Fn() -> bool + Send + Sync>);

impl Others {
    pub(crate) fn new(wait: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wait))
    }

    /// Pauses this thread if others wait: for so short a time that it gets on even if others wait for ever.
    fn go_first(&self) {
        if (self.0)() {
            std::thread::sleep(COURTESY);
        }
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Others")
    }
}

/// Is told how long each call took, and what it did.
pub(crate) struct Observer(Box<dyn Fn(&'static str, Duration) + Send + Sync>);

impl Observer {
    pub(crate) fn new(observe: impl Fn(&'static str, Duration) + Send + Sync + 'static) -> Self {
        Self(Box::new(observe))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// The calls on an export, and what they run on.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) state: watch::Sender<State>,
    pub(crate) calls: Arc<Calls>,
    /// How many calls that change a directory have passed the fence.
    changing: AtomicUsize,
    observer: Observer,
}

impl Pool {
    pub(crate) fn new(state: State, observer: Observer) -> Self {
        let changing = AtomicUsize::new(0);
        Self { state: watch::Sender::new(state), calls: Arc::default(), changing, observer }
    }

    /// Counts the directories that are just being changed.
    pub(crate) fn changes_under_way(&self) -> usize {
        self.changing.load(Ordering::SeqCst)
    }

    /// Runs a call that changes directories, after any other that changes one of them, unless the fence is closed
    /// by then.
    pub(crate) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        fence: &Fence,
        doing: &'static str,
        directories: Vec<RelPath>,
        call: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let path = directories.first().map(ToString::to_string).unwrap_or_default();
        let change = self.calls.change(directories).await;
        let (fence, pool) = (fence.clone(), Arc::clone(self));
        self.call(doing, move |root| {
            // Until the call has ended, not until nobody waits for it any more.
            let _change = change;
            // Counted first, so that whoever has closed the fence and finds none knows that there is none.
            let _counted = Counted::new(&pool.changing);
            fence.check().doing("change", path)?;
            call(root)
        })
        .await
    }

    /// Runs a call to its end, even if whoever waits for it goes away meanwhile.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        call: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        loop {
            let opened = self.opened().await?;
            // It is closed when something else has been mounted.
            if let Ok(permit) = Arc::clone(&opened.calls).acquire_owned().await {
                return self.block(doing, opened, permit, |root, _| call(root)).await;
            }
        }
    }

    /// Runs a removal, which is given how many threads it may have, and what to ask before each change, which is slow to
    /// answer while others wait. Ends after
    /// `limit`, and when whoever waits for it goes away, but for the one call in each thread that the server has
    /// not answered.
    pub(crate) async fn remove<T: Send + 'static>(
        self: &Arc<Self>,
        fence: &Fence,
        others: &Others,
        limit: Duration,
        call: impl FnOnce(&Root, usize, &(dyn Fn() -> bool + Sync)) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let opened = self.opened().await?;
        // The semaphore is never closed.
        let mut workers = Arc::clone(&opened.reapers).acquire_owned().await.ok();
        for _ in 1..REAPERS_EACH {
            if let (Some(workers), Ok(more)) = (&mut workers, Arc::clone(&opened.reapers).try_acquire_owned()) {
                workers.merge(more);
            }
        }
        let count = workers.as_ref().map_or(1, OwnedSemaphorePermit::num_permits);
        let abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = SetOnDrop(Arc::clone(&abandoned));
        let (fence, others, deadline) = (fence.clone(), others.clone(), Instant::now() + limit);
        self.block("reap", opened, workers, move |root, running| {
            let goes_on = || {
                others.go_first();
                running.answered();
                !abandoned.load(Ordering::Relaxed) && Instant::now() < deadline && fence.lets_pass()
            };
            call(root, count, &goes_on)
        })
        .await
    }

    /// Runs a copy, which is given how many threads it may have, and what to ask before each change. Ends soon
    /// after `progress` is stopped, or whoever waits for it goes away, but for the one call in each thread that
    /// the server has not answered. Pauses while the fence is closed, for [`COPY_PAUSE_MAX`] at most.
    pub(crate) async fn copy<T: Send + 'static>(
        self: &Arc<Self>,
        fence: &Fence,
        progress: &Progress,
        call: impl FnOnce(usize, &(dyn Fn() -> bool + Sync), &Progress) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let opened = self.opened().await?;
        let (progress, fence) = (progress.clone(), fence.clone());
        let mut stop = StopOnDrop(Some(progress.clone()));
        let copied = self
            .block("copy", opened, (), move |_, running| {
                let goes_on = || {
                    let begun = Instant::now();
                    loop {
                        running.answered();
                        let is_over = progress.is_stopped() || begun.elapsed() >= COPY_PAUSE_MAX;
                        // Asked once: the process may be stopped between two questions, and the second be denied.
                        let passes = fence.lets_pass();
                        if passes || is_over {
                            return passes;
                        }
                        thread::sleep(PAUSE);
                    }
                };
                call(COPIERS, &goes_on, &progress)
            })
            .await;
        stop.0 = None;
        copied
    }

    /// Returns the export, once it has been looked at.
    async fn opened(&self) -> Result<Arc<Opened>, StorageError> {
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Open(opened) => return Ok(opened),
                State::Unusable(error) => return Err(error),
                // The sender lives as long as `self`.
                State::Unknown => drop(states.changed().await),
            }
        }
    }

    /// Returns by which opening the export is reached now, without keeping it open.
    pub(crate) async fn opening(&self) -> Result<Weak<Opened>, StorageError> {
        self.opened().await.map(|opened| Arc::downgrade(&opened))
    }

    /// Waits until something else is open than by that opening.
    pub(crate) async fn replaced(&self, opening: &Weak<Opened>) {
        // The sender lives as long as `self`.
        let _ = self.state.subscribe().wait_for(|state| state.replaces(opening)).await;
    }

    /// Runs a call on a thread of its own, which holds `permit` as long as it runs.
    async fn block<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        opened: Arc<Opened>,
        permit: impl Send + 'static,
        call: impl FnOnce(&Root, &Call) -> T + Send + 'static,
    ) -> T {
        let (running, pool) = (self.calls.begin(), Arc::clone(self));
        on_thread(move || {
            let _permit = permit;
            let begun = Instant::now();
            let result = call(&opened.root, &running);
            (pool.observer.0)(doing, begun.elapsed());
            result
        })
        .await
    }
}

/// Runs a call on a thread of its own, to its end.
pub(crate) async fn on_thread<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        // Only a panic ends it, which is a defect of ours: it goes on where it can be seen.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Adds one to a count, for as long as the value lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Stops a copy that nobody waits for any more.
struct StopOnDrop(Option<Progress>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(progress) = &self.0 {
            progress.stop();
        }
    }
}

/// Tells those who work for somebody that he has gone away.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
