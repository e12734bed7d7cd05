//! Whether the program can do its work now, for those who watch it from outside.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::exports::PerExport;
use crate::site::Site;
use crate::storage::{STUCK_AFTER, State, explain};

/// How long a watch counts as failed that has not said anything since. One that goes on failing says so more often.
const FAILED_FOR: Duration = Duration::from_mins(1);

/// What is looked at. Clones look at the same.
#[derive(Debug, Clone)]
pub struct Health {
    sites: PerExport<Site>,
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
    pub fn new(sites: PerExport<Site>, cluster: Arc<ClusterHealth>) -> Self {
        Self { sites, cluster }
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
        let export = |site: &Site| Check { name: format!("export/{}", site.name).into(), state: export(site) };
        cluster.into_iter().chain(self.sites.values().map(export)).collect()
    }
}

fn export(Site { source, storage, .. }: &Site) -> Result<&'static str, String> {
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
    /// When a watch last failed, and of what, by what it watches.
    failed: BTreeMap<&'static str, Failed>,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
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

    /// Notes that a watch has failed, because the API server could not be reached, or for another reason.
    pub fn failed(&self, watched: &'static str, error: String, unreachable: bool) {
        self.known().failed.insert(watched, Failed { at: Instant::now(), error, unreachable });
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
            .filter(|(_, failed)| failed.at.elapsed() < FAILED_FOR)
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
        health.failed("claims", "forbidden".to_owned(), false);
        assert_eq!(states(), (true, false));
        health.failed("volumes", "connection refused".to_owned(), true);
        assert_eq!(states(), (false, false));
        health.works("volumes");
        health.works("claims");
        assert_eq!(states(), (true, true));
    }
}
