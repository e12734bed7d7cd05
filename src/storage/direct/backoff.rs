//! How long is waited before something is tried again.

use std::thread;
use std::time::{Duration, Instant};

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);

/// The longest: work goes on so soon after a server has come back.
const LONGEST: Duration = Duration::from_secs(1);

/// Pauses that double, until a deadline.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    deadline: Instant,
}

impl Backoff {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { next: FIRST, deadline }
    }

    /// Sets another deadline.
    pub(crate) fn extend(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Blocks this thread for the next pause. Returns no, at once, if the deadline came before its end.
    pub(crate) fn pause(&mut self) -> bool {
        // Not all at the same moment.
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        if Instant::now() + pause >= self.deadline {
            return false;
        }
        thread::sleep(pause);
        self.next = (self.next * 2).min(LONGEST);
        true
    }
}
