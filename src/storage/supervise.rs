//! Watches an export: whether it is there, whether it answers, and what is said in the log when that changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{interval, sleep};
use tracing::{debug, info, warn};

use crate::storage::calls::STUCK_AFTER;
use crate::storage::error::{Problem, StorageError};
use crate::storage::explain::explain;
use crate::storage::mounted::mount::Mount;
use crate::storage::pool::{Pool, State, on_thread};
use crate::storage::reach::ExportSpec;
use crate::values::address::ExportAddress;
use crate::values::headroom::FsUsage;

/// How often it is seen whether the export is still what is mounted, and how full it is.
const LOOK: Duration = Duration::from_secs(10);

/// How often, while it cannot be used.
const LOOK_SOON: Duration = Duration::from_secs(2);

/// How often it is seen whether the export answers.
const LISTEN: Duration = Duration::from_secs(1);

/// What is known of an export beside its calls.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pool: Arc<Pool>,
    usage: watch::Sender<Option<FsUsage>>,
    /// Counts how often the export has come back.
    returned: watch::Sender<u64>,
    /// Whether something failed for a reason that concerns the whole export.
    failing: AtomicBool,
    /// Whether the export has been an NFS mount.
    was_nfs: AtomicBool,
    /// Asks for a look at the export.
    suspected: Notify,
}

impl Supervisor {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            usage: watch::Sender::new(None),
            returned: watch::Sender::new(0),
            failing: AtomicBool::new(false),
            was_nfs: AtomicBool::new(false),
            suspected: Notify::new(),
        }
    }

    /// Tells how full the export was at the last look.
    pub(crate) fn usage(&self) -> Option<FsUsage> {
        *self.usage.borrow()
    }

    /// Changes each time the export can be used again after it could not.
    pub(crate) fn returned(&self) -> watch::Receiver<u64> {
        self.returned.subscribe()
    }

    /// Draws conclusions from how a change has ended.
    pub(crate) fn heard(&self, problem: Option<Problem>) {
        match problem {
            None if self.failing.swap(false, Ordering::Relaxed) => self.has_returned(),
            Some(problem) if problem.concerns_export() => {
                self.failing.store(true, Ordering::Relaxed);
                self.suspected.notify_one();
            }
            None | Some(_) => {}
        }
    }

    /// Opens the export, sees from time to time whether it is still there, opens it anew if something else has
    /// been mounted, and says in the log what changes; for ever.
    pub(crate) async fn keep(&self, spec: &ExportSpec) {
        futures::join!(self.watch(spec), self.listen(&spec.address));
    }

    async fn watch(&self, spec: &ExportSpec) {
        loop {
            let pause = match self.look(spec).await {
                Ok((state, usage)) => {
                    self.usage.send_replace(Some(usage));
                    self.becomes(state, spec);
                    LOOK
                }
                Err(error) => {
                    self.becomes(State::Unusable(error), spec);
                    LOOK_SOON
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.suspected.notified() => {}
            }
        }
    }

    /// Looks at the export. What was open before stays open unless something else is mounted now.
    pub(crate) async fn look(&self, spec: &ExportSpec) -> Result<(State, FsUsage), StorageError> {
        let (spec, was_nfs) = (spec.clone(), self.was_nfs.load(Ordering::Relaxed));
        let (before, running) = (self.pool.state.borrow().clone(), self.pool.calls.probe());
        on_thread(move || {
            let _running = running;
            let open = match &before {
                State::Open(opened) => Some(&opened.root),
                State::Unknown | State::Unusable(_) => None,
            };
            let (found, usage) = spec.reach.look(&spec.address, open, was_nfs)?;
            Ok((found.map_or(before, |root| State::Open(Arc::new(root.into()))), usage))
        })
        .await
    }

    /// Notes how it stands with the export, and says what has changed.
    pub(crate) fn becomes(&self, state: State, spec: &ExportSpec) {
        let before = self.pool.state.send_replace(state.clone());
        match (&before, &state) {
            (State::Open(before), State::Open(now)) if Arc::ptr_eq(before, now) => return,
            (State::Unusable(before), State::Unusable(now)) if before == now => return,
            _ => {}
        }
        if let State::Open(before) = &before {
            // Who waits for one of its threads looks again for what is open.
            before.calls.close();
        }
        match state {
            State::Open(now) => {
                let mount = now.root.mount();
                warn_of_difference(spec, mount.as_ref());
                if mount.is_some_and(|mount| mount.is_nfs()) {
                    self.was_nfs.store(true, Ordering::Relaxed);
                }
                let mount = spec.reach.mount_path().map(|path| tracing::field::display(path.display()));
                info!(export = %spec.address, mount, "the export is open");
                if !matches!(before, State::Unknown) {
                    self.has_returned();
                }
            }
            State::Unusable(error) => warn!("the export cannot be used: {}", explain(&error, &spec.address)),
            State::Unknown => {}
        }
    }

    /// Says when the export stops answering, and when it begins to again.
    async fn listen(&self, address: &ExportAddress) {
        let mut ticks = interval(LISTEN);
        let mut longest = Duration::ZERO;
        let mut next = STUCK_AFTER;
        loop {
            ticks.tick().await;
            let silent = self.pool.calls.silent_for().unwrap_or_default();
            if silent >= next {
                let (seconds, stuck_calls) = (silent.as_secs(), self.pool.calls.stuck());
                warn!(export = %address, seconds, stuck_calls, "the export does not answer");
                next = silent * 2;
            }
            if silent < longest {
                if longest >= STUCK_AFTER {
                    info!(export = %address, seconds = longest.as_secs(), "the export answers again");
                    self.has_returned();
                }
                (longest, next) = (Duration::ZERO, STUCK_AFTER);
            }
            longest = longest.max(silent);
        }
    }

    fn has_returned(&self) {
        self.returned.send_modify(|times| *times += 1);
    }
}

fn warn_of_difference(ExportSpec { address, reach, .. }: &ExportSpec, mount: Option<&Mount>) {
    match mount.map(|mount| mount.difference(address)) {
        Some(None) => {}
        Some(Some(difference)) => warn!("what is {reach} may not be the export {address}: {difference}"),
        None => debug!("the kernel does not tell what is {reach}"),
    }
}
