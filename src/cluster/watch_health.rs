//! What the watches know of the API server: whether it answers, and whether what they have brought is complete and
//! current.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long after its next try a watch that says nothing counts as failed: a watch that works again says nothing
/// until something changes. The first is for an API server that could not be reached, which may take long to show
/// that it still cannot; the second for one that answers.
const FAILED_FOR: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(3));

/// The state of the connection to the API server and of the watches. The watches keep it up to date, health checks
/// and whatever waits for complete knowledge read it.
#[derive(Debug)]
pub struct WatchHealth {
    known: Mutex<Known>,
    /// Whether everything that is watched has been listed once.
    listed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Known {
    /// Whether the API server has answered at all.
    connected: bool,
    /// The last failure of each watch that has not been seen to work since.
    failed: BTreeMap<&'static str, Failed>,
}

#[derive(Debug)]
struct Failed {
    /// When the watch is taken to work again.
    until: Instant,
    error: String,
    /// Whether the API server could not be reached.
    unreachable: bool,
}

impl Default for WatchHealth {
    fn default() -> Self {
        Self { known: Mutex::default(), listed: watch::Sender::new(false) }
    }
}

impl WatchHealth {
    /// Notes that the API server has answered for the first time.
    pub fn connected(&self) {
        self.known.lock().connected = true;
    }

    /// Notes that everything has been listed once.
    pub(super) fn listed(&self) {
        self.listed.send_replace(true);
    }

    /// Waits until everything has been listed once.
    pub async fn all_listed(&self) {
        // The sender lives as long as this value.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// Notes that the watch of these objects has failed with this error, whether that was because the API server
    /// could not be reached, and how long it is until the next try.
    pub(super) fn failed(&self, watched: &'static str, error: String, unreachable: bool, wait: Duration) {
        let silence = if unreachable { FAILED_FOR.0 } else { FAILED_FOR.1 };
        let until = Instant::now() + wait + silence;
        self.known.lock().failed.insert(watched, Failed { until, error, unreachable });
    }

    /// Notes that the watch of these objects works.
    pub(super) fn works(&self, watched: &'static str) {
        self.known.lock().failed.remove(watched);
    }

    /// Returns whether the API server answers, in a few words.
    ///
    /// # Errors
    /// Returns why it does not.
    pub fn api_server(&self) -> Result<&'static str, String> {
        let known = self.known.lock();
        if !known.connected {
            return Err("it has not answered yet".to_owned());
        }
        match known.failed().find(|(_, failed)| failed.unreachable) {
            Some((_, failed)) => Err(failed.error.clone()),
            None => Ok("answers"),
        }
    }

    /// Returns whether the watches are up to date, in a few words.
    ///
    /// # Errors
    /// Returns which watch fails, and why.
    pub fn watches(&self) -> Result<&'static str, String> {
        if let Some((watched, failed)) = self.known.lock().failed().next() {
            return Err(format!("{watched}: {}", failed.error));
        }
        if *self.listed.borrow() { Ok("up to date") } else { Err("not everything has been listed yet".to_owned()) }
    }
}

impl Known {
    fn failed(&self) -> impl Iterator<Item = (&'static str, &Failed)> {
        let now = Instant::now();
        self.failed
            .iter()
            .filter(move |(_, failed)| now < failed.until)
            .map(|(watched, failed)| (*watched, failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_well_once_all_is_listed_and_as_long_as_no_watch_fails() {
        let health = WatchHealth::default();
        let states = || (health.api_server().is_ok(), health.watches().is_ok());
        assert_eq!(states(), (false, false));
        health.connected();
        assert_eq!(states(), (true, false));
        health.listed();
        assert_eq!(states(), (true, true));
        health.failed("claims", "forbidden".to_owned(), false, Duration::ZERO);
        assert_eq!(states(), (true, false));
        health.failed("volumes", "connection refused".to_owned(), true, Duration::ZERO);
        assert_eq!(states(), (false, false));
        health.works("volumes");
        health.works("claims");
        assert_eq!(states(), (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_says_nothing_more_counts_as_failed_for_a_while() {
        let health = WatchHealth::default();
        health.listed();
        let rows = [(false, Duration::from_secs(3)), (true, Duration::from_mins(1))];
        for (unreachable, silence) in rows {
            health.failed("claims", "why".to_owned(), unreachable, Duration::from_secs(5));
            tokio::time::advance(Duration::from_secs(4) + silence).await;
            assert_eq!(health.watches(), Err("claims: why".to_owned()));
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(health.watches(), Ok("up to date"));
        }
    }

    #[tokio::test]
    async fn what_waits_for_everything_to_be_listed_goes_on_then() {
        let health = WatchHealth::default();
        let listing = async { health.listed() };
        futures::join!(health.all_listed(), listing);
        health.all_listed().await;
    }
}
