//! Readiness checks: whether the program can do its work now, for those who watch it from outside.

use std::borrow::Cow;
use std::sync::Arc;

use crate::cluster::election::Leadership;
use crate::cluster::watch_health::WatchHealth;
use crate::export::Export;
use crate::model::exports::PerExport;
use crate::storage::{STUCK_AFTER, State, explain};

/// The parts that readiness checks ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    exports: PerExport<Export>,
    watches: Arc<WatchHealth>,
    leadership: Leadership,
}

/// A readiness check and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The name of the check, for administrators.
    pub name: Cow<'static, str>,
    /// The state in a few words, or what is wrong.
    pub state: Result<&'static str, String>,
}

impl Health {
    /// Makes checks that ask these parts.
    #[must_use]
    pub fn new(exports: PerExport<Export>, watches: Arc<WatchHealth>, leadership: Leadership) -> Self {
        Self { exports, watches, leadership }
    }

    /// Makes all checks. None of them waits for anything. The program is ready if nothing is wrong with any.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        // A process that stands by is ready to take over; one that cannot is not.
        let leadership = match self.leadership.trouble() {
            Some(words) => Err(words),
            None => Ok(if self.leadership.is_held() { "leading" } else { "standing by" }),
        };
        let cluster = [
            Check { name: "api-server".into(), state: self.watches.api_server() },
            Check { name: "watches".into(), state: self.watches.watches() },
            Check { name: "leadership".into(), state: leadership },
        ];
        let check =
            |export: &Export| Check { name: format!("export/{}", export.name).into(), state: state_of(export) };
        cluster.into_iter().chain(self.exports.values().map(check)).collect()
    }
}

fn state_of(Export { address, storage, .. }: &Export) -> Result<&'static str, String> {
    if let Some(silent) = storage.silent_for().filter(|silent| *silent >= STUCK_AFTER) {
        return Err(format!("{address} has not answered for {} s", silent.as_secs()));
    }
    match storage.state() {
        State::Open(_) => Ok("open"),
        State::Unknown => Err(format!("{address} has not been opened yet")),
        State::Unusable(error) => Err(explain(&error, address)),
    }
}
