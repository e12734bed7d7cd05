//! One answer for all who ask the same at the same time.

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// Who waits for an answer, and the question.
type Waiting<Q, A> = Vec<(Q, oneshot::Sender<A>)>;

/// Runs what is expensive, such as a list, once for all who ask while an earlier run is under way.
#[derive(Debug)]
pub(super) struct Batch<Q, A> {
    waiting: Mutex<Waiting<Q, A>>,
    turn: tokio::sync::Mutex<()>,
}

impl<Q, A> Default for Batch<Q, A> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }
}

impl<Q: Clone, A> Batch<Q, A> {
    /// Returns the answer to a question. `run` answers several, in their order; what it does begins after the call.
    /// May be dropped at any point: others run it then themselves.
    ///
    /// # Errors
    /// Returns the error of the run. It is told to one who asks; the others run it themselves.
    pub(super) async fn ask<E, F: Future<Output = Result<Vec<A>, E>>>(
        &self,
        question: Q,
        run: impl Fn(Vec<Q>) -> F,
    ) -> Result<A, E> {
        loop {
            let (send, mut receive) = oneshot::channel();
            self.waiting.lock().push((question.clone(), send));
            let _turn = self.turn.lock().await;
            match receive.try_recv() {
                Ok(answer) => return Ok(answer),
                // Whoever had the run has failed, or was stopped.
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => {}
            }
            let (questions, asked): (Vec<_>, Vec<_>) =
                std::mem::take(&mut *self.waiting.lock()).into_iter().unzip();
            for (answer, to) in run(questions).await?.into_iter().zip(asked) {
                // Who does not wait any more does not need it.
                let _ = to.send(answer);
            }
            if let Ok(answer) = receive.try_recv() {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_at_once_share_a_run_and_each_gets_its_own_answer() {
        let (batch, runs) = (Batch::default(), AtomicUsize::new(0));
        let run = async |questions: Vec<usize>| {
            runs.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
            Ok::<_, Infallible>(questions.into_iter().map(|question| question * 2).collect())
        };
        let answers = join_all((0..100).map(|number| batch.ask(number, run))).await;
        assert_eq!(answers, (0..100).map(|number| Ok(number * 2)).collect::<Vec<_>>());
        assert_eq!(runs.into_inner(), 2);
    }

    #[tokio::test]
    async fn who_has_the_run_may_be_stopped_or_fail() {
        let (batch, runs) = (Batch::default(), AtomicUsize::new(0));
        let run = async |questions: Vec<u8>| match runs.fetch_add(1, Ordering::Relaxed) {
            0 => std::future::pending().await,
            1 => Err("no such luck"),
            _ => Ok(questions),
        };
        let mut stopped = Box::pin(batch.ask(1, run));
        assert!(futures::poll!(&mut stopped).is_pending());
        let others = join_all([batch.ask(2, run), batch.ask(3, run)]);
        drop(stopped);
        assert_eq!(others.await, [Err("no such luck"), Ok(3)]);
    }
}
