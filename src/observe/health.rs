//! Whether the program can do its work now, for those who watch it from outside.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::export::Export;
use crate::model::exports::PerExport;
use crate::storage::{STUCK_AFTER, State, explain};

/// How long after its next try a watch counts as failed that has not said anything since: one that works again says
/// nothing until something changes. The first is for an API server that was not there, which may take long to say that
/// it still is not; the second for one that answers.
const FAILED_FOR: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(3));

/// What is looked at. Clones look at the same.
#[derive(Debug, Clone)]
pub struct Health {
    exports: PerExport<Export>,
    cluster: Arc<ClusterHealth>,
}

/// One thing that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, as an administrator reads it.
    pub name: Cow<'static, str>,
    /// How it is, in a few words, or what is wrong with it.
    pub state: Result<&'static str, String>,
}

impl Health {
    /// Puts it together from what others keep up to date.
    #[must_use]
    pub fn new(exports: PerExport<Export>, cluster: Arc<ClusterHealth>) -> Self {
        Self { exports, cluster }
    }

    /// All checks. The program is ready if nothing is wrong with any. None of them waits for anything.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let known = self.cluster.known();
        let cluster = [
            Check { name: "api-server".into(), state: known.api_server() },
            Check { name: "watches".into(), state: known.watches() },
            // One that stands by is ready to take over.
            Check { name: "leadership".into(), state: Ok(if known.leads { "leading" } else { "standing by" }) },
        ];
        let check =
            |export: &Export| Check { name: format!("export/{}", export.name).into(), state: state_of(export) };
        cluster.into_iter().chain(self.exports.values().map(check)).collect()
    }
}

fn state_of(Export { source, storage, .. }: &Export) -> Result<&'static str, String> {
    if let Some(silent) = storage.silent_for().filter(|silent| *silent >= STUCK_AFTER) {
        return Err(format!("{source} has not answered for {} s", silent.as_secs()));
    }
    match storage.state() {
        State::Open(_) => Ok("open"),
        State::Unknown => Err(format!("{source} has not been opened yet")),
        State::Unusable(error) => Err(explain(&error, source)),
    }
}

/// How we stand with the cluster, as those who talk to it have found.
#[derive(Debug, Default)]
pub struct ClusterHealth(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Whether the API server has answered at all.
    connected: bool,
    /// Whether all that is watched has been listed once.
    listed: bool,
    leads: bool,
    /// Of what a watch last failed, by what it watches.
    failed: BTreeMap<&'static str, Failed>,
}

#[derive(Debug)]
struct Failed {
    /// When it is taken to work again.
    until: Instant,
    error: String,
    /// Whether the API server was not to be reached.
    unreachable: bool,
}

impl ClusterHealth {
    /// Notes that the API server has answered for the first time.
    pub fn connected(&self) {
        self.known().connected = true;
    }

    /// Notes that everything has been listed once.
    pub fn listed(&self) {
        self.known().listed = true;
    }

    /// Notes whether we lead.
    pub fn leads(&self, leads: bool) {
        self.known().leads = leads;
    }

    /// Notes that a watch has failed, because the API server could not be reached, or for another reason, and how long
    /// it is until it is tried again.
    pub fn failed(&self, watched: &'static str, error: String, unreachable: bool, wait: Duration) {
        let silence = if unreachable { FAILED_FOR.0 } else { FAILED_FOR.1 };
        let until = Instant::now() + wait + silence;
        self.known().failed.insert(watched, Failed { until, error, unreachable });
    }

    /// Notes that a watch works.
    pub fn works(&self, watched: &'static str) {
        self.known().failed.remove(watched);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn failed(&self) -> impl Iterator<Item = (&'static str, &Failed)> {
        self.failed
            .iter()
            .filter(|(_, failed)| Instant::now() < failed.until)
            .map(|(watched, failed)| (*watched, failed))
    }

    fn api_server(&self) -> Result<&'static str, String> {
        if !self.connected {
            return Err("it has not answered yet".to_owned());
        }
        match self.failed().find(|(_, failed)| failed.unreachable) {
            Some((_, failed)) => Err(failed.error.clone()),
            None => Ok("answers"),
        }
    }

    fn watches(&self) -> Result<&'static str, String> {
        if let Some((watched, failed)) = self.failed().next() {
            return Err(format!("{watched}: {}", failed.error));
        }
        if self.listed { Ok("up to date") } else { Err("not everything has been listed yet".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_well_once_all_is_listed_and_as_long_as_no_watch_fails() {
        let health = ClusterHealth::default();
        let states = || {
            let known = health.known();
            (known.api_server().is_ok(), known.watches().is_ok())
        };
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
}
