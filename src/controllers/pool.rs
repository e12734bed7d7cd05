//! Workers: take what is in a queue, one round for each object in a task of its own, so many at a time.

use std::convert::Infallible;
use std::fmt::Display;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use crate::cluster::election::Leadership;
use crate::controllers::context::Slot;
use crate::observe::metrics::Metrics;
use crate::queue::{Next, Queue, RetryReason};

/// How many objects of one queue are worked on at a time.
const WORKERS: usize = 16;

/// How long work that is under way may take when the program is to end.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long further returns of an export are not heeded after one: an export may come and go.
const WAKE_AGAIN: Duration = Duration::from_secs(1);

/// What the workers of all queues need.
#[derive(Debug)]
pub struct Workers {
    /// Where retries are counted.
    pub metrics: Metrics,
    /// Whether to work at all.
    pub leadership: Leadership,
}

impl Workers {
    /// Puts together the workers of one queue; `name` is what the queue is called in metrics.
    #[must_use]
    pub fn pool<K>(&self, name: &'static str, queue: &Arc<Queue<K>>) -> Pool<K> {
        let (queue, metrics, leadership) = (Arc::clone(queue), self.metrics.clone(), self.leadership.clone());
        Pool { name, queue, metrics, leadership }
    }
}

/// A queue, and what its workers need.
#[derive(Debug)]
pub struct Pool<K> {
    /// The name of the queue in metrics.
    pub name: &'static str,
    /// What is to be worked on.
    pub queue: Arc<Queue<K>>,
    /// Where retries are counted.
    pub metrics: Metrics,
    /// Whether to work at all.
    pub leadership: Leadership,
}

impl<K: Clone + Display + Eq + Hash + Send + Sync + 'static> Pool<K> {
    /// Shows the queue in metrics, and works on what is in it while this process leads, until `stop` ends; then
    /// waits for the rounds under way.
    ///
    /// `round` is given the key, how often it has failed in a row, and the worker's slot, which it may give up
    /// early.
    ///
    /// Guarantees: one round at a time for one key; a round that panics is tried again, as one that has failed.
    pub async fn work<F>(self, stop: impl Future<Output = ()>, round: impl Fn(K, u32, Slot) -> F)
    where
        F: Future<Output = Next> + Send + 'static,
    {
        let Self { name, queue, metrics, mut leadership } = self;
        let shown = Arc::clone(&queue);
        metrics.show_queue(name, move || shown.depth_and_age());
        let free = Arc::new(Semaphore::new(WORKERS));
        // Nothing is sent: what counts is that the last sender goes.
        let (under_way, mut all_done) = mpsc::channel::<Infallible>(1);
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = async {
                leadership.held().await;
                // The semaphore is never closed.
                let permit = Arc::clone(&free).acquire_owned().await.ok();
                (permit, queue.take().await)
            };
            let (permit, (key, failures)) = tokio::select! {
                biased;
                () = &mut stop => break,
                next = next => next,
            };
            let (queue, under_way, retries) = (Arc::clone(&queue), under_way.clone(), metrics.retries.clone());
            let round = round(key.clone(), failures, Slot::new(permit));
            tokio::spawn(async move {
                // A defect must not stop the others, nor leave the key taken for ever.
                let next = AssertUnwindSafe(round).catch_unwind().await.unwrap_or_else(|_| {
                    error!(%key, "a defect of this program broke off the work on this object; will try it again");
                    Next::Retry(RetryReason::Defect)
                });
                if let Next::Retry(reason) = next {
                    retries.get_or_create(&[("queue", name), ("reason", reason.as_str())]).inc();
                }
                queue.finish(&key, next);
                drop(under_way);
            });
        }
        drop(under_way);
        if timeout(DRAIN_MAX, all_done.recv()).await.is_err() {
            warn!(queue = name, "shutdown timed out with work in flight; the next leader will redo it");
        }
    }
}

/// Wakes what waits in a queue after a failure whenever an export has come back, which `returned` tells, until the
/// export is given up.
pub async fn wake_on_return<K: Clone + Eq + Hash>(mut returned: watch::Receiver<u64>, queue: Arc<Queue<K>>) {
    while returned.changed().await.is_ok() {
        queue.wake();
        sleep(WAKE_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::export::Export;
    use crate::model::exports::Exports;
    use crate::observe::metrics::Durations;
    use crate::storage::{Root, Storage};
    use crate::values::address::ExportAddress;

    #[tokio::test(start_paused = true)]
    async fn a_round_that_panics_is_tried_again_and_those_under_way_end_before_the_pool() {
        let dir = tempfile::tempdir().unwrap();
        let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
        let storage = Storage::from(Root::open(dir.path()).unwrap());
        let exports = exports.map(|(_, export)| Export::new(export, storage.clone()));
        let (lead, leadership) = Leadership::new();
        let metrics = Metrics::new(exports, &Durations::default(), leadership.clone());
        let queue = Arc::new(Queue::default());
        queue.push("key");
        let pool = Pool { name: "claims", queue: Arc::clone(&queue), metrics: metrics.clone(), leadership };
        let (rounds, (stop, stopped)) = (Arc::new(AtomicU32::new(0)), tokio::sync::oneshot::channel::<()>());
        let stop = Arc::new(parking_lot::Mutex::new(Some(stop)));
        let counted = Arc::clone(&rounds);
        let working = pool.work(async { drop(stopped.await) }, move |_, failures, slot| {
            let (rounds, stop) = (Arc::clone(&rounds), Arc::clone(&stop));
            async move {
                assert!(failures > 0, "the first round breaks off");
                drop((slot, stop.lock().take()));
                sleep(Duration::from_millis(50)).await;
                rounds.fetch_add(1, Ordering::Relaxed);
                Next::Done
            }
        });
        // Nothing is begun before this process leads.
        let mut working = std::pin::pin!(working);
        assert!(timeout(Duration::from_millis(50), &mut working).await.is_err() && queue.len() == 1);
        assert!(metrics.text().contains("nfs_provisioner_leader 0"));
        lead.uncontested();
        working.await;
        assert_eq!((counted.load(Ordering::Relaxed), queue.len()), (1, 0));
        let text = metrics.text();
        for line in [
            "nfs_provisioner_leader 1",
            "nfs_provisioner_retries_total{queue=\"claims\",reason=\"defect\"} 1",
            "nfs_provisioner_queue_depth{queue=\"claims\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
