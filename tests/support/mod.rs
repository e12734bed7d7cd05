//! What the tests and the demo stand on: a real control plane, provisioner processes, and waiting.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

pub(crate) mod debian;
pub(crate) mod skip;
pub(crate) mod deploy;
pub(crate) mod http;
pub(crate) mod plane;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod space;

use std::time::{Duration, Instant};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks again and again until the answer is there, or panics with `what` after [`PATIENCE`].
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
