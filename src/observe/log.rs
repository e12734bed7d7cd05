//! The log: which lines are written, and in which form.

use std::env::VarError;
use std::io::stderr;

use tracing::warn;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that chooses what is logged.
const RUST_LOG: &str = "RUST_LOG";

/// Starts the log on standard error: objects of JSON, or lines for people, with colours if that is a terminal; of errors
/// alone if it `is_quiet`, unless `RUST_LOG` says otherwise.
///
/// A `RUST_LOG` that cannot be read does not keep the program from starting: the log says what is wrong with it,
/// and is written as if it were not set.
pub fn start(json: bool, on_terminal: bool, is_quiet: bool) {
    let (filter, wrong) = match filter(std::env::var(RUST_LOG)) {
        Ok(filter) => (filter, None),
        Err(wrong) => (default_filter(), Some(wrong)),
    };
    let is_set = std::env::var_os(RUST_LOG).is_some_and(|value| !value.is_empty());
    let filter = if is_quiet && !is_set { Targets::new().with_default(LevelFilter::ERROR) } else { filter };
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_target(false)
        .with_writer(stderr)
        .with_ansi(on_terminal);
    if json {
        log.json().flatten_event(true).finish().with(filter).init();
    } else {
        log.finish().with(filter).init();
    }
    if let Some(wrong) = wrong {
        warn!("{RUST_LOG} {wrong}; logging as if it were not set");
    }
}

/// What is logged unless `RUST_LOG` says otherwise. Errors of the API client are left out: the provisioner reports
/// each itself, with what it means.
const LOGGED: &str = "warn,nfs_provisioner=info,kube_client=off,kube_runtime=off";

/// Returns what is logged unless `RUST_LOG` says otherwise.
fn default_filter() -> Targets {
    // A test reads it.
    LOGGED.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}

/// Reads `RUST_LOG`: levels, targets, and targets with levels, with commas between them.
///
/// `EnvFilter` would read spans and fields, too, of which this program has none, and needs regular expressions for
/// that.
///
/// # Errors
/// Returns what is wrong with it, in words that follow its name.
fn filter(value: Result<String, VarError>) -> Result<Targets, String> {
    let value = match value {
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(value)) => return Err(format!("is not UTF-8: {:?}", value.to_string_lossy())),
        Ok(value) => value,
    };
    if value.contains(['[', '{']) {
        return Err(format!("must name levels and targets only, no spans and no fields: {value:?}"));
    }
    let parts: Vec<&str> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Ok(default_filter());
    }
    let example = "for example \"warn,nfs_provisioner=debug\"";
    parts.join(",").parse().map_err(|error| format!("cannot be read ({error}; {example}): {value:?}"))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    /// The most detailed level that is logged of this program, of another crate, and of the API client.
    fn levels(filter: &Targets) -> [Option<Level>; 3] {
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        ["nfs_provisioner::run", "other", "kube_client::client"]
            .map(|target| levels.into_iter().find(|level| filter.would_enable(target, level)))
    }

    #[test]
    fn the_usual_forms_of_rust_log_are_read() {
        let by_default = [Some(Level::INFO), Some(Level::WARN), None];
        let rows = [
            ("", by_default),
            (" , ", by_default),
            ("debug", [Some(Level::DEBUG); 3]),
            ("Warn", [Some(Level::WARN); 3]),
            ("off", [None; 3]),
            ("nfs_provisioner=debug,warn", [Some(Level::DEBUG), Some(Level::WARN), Some(Level::WARN)]),
            ("warn, nfs_provisioner=debug,", [Some(Level::DEBUG), Some(Level::WARN), Some(Level::WARN)]),
            ("nfs_provisioner=debug", [Some(Level::DEBUG), None, None]),
            ("nfs_provisioner::run", [Some(Level::TRACE), None, None]),
            ("warn,nfs_provisioner=info,kube_client=off,kube_runtime=off", by_default),
        ];
        for (value, expected) in rows {
            assert_eq!(levels(&filter(Ok(value.to_owned())).unwrap()), expected, "{value:?}");
        }
        assert_eq!(levels(&filter(Err(VarError::NotPresent)).unwrap()), by_default);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for value in ["nfs_provisioner=loud", "a=b=c", "nfs_provisioner[claim]=debug", "nfs[{claim}]=debug"] {
            let wrong = filter(Ok(value.to_owned())).unwrap_err();
            assert!(wrong.contains(&format!("{value:?}")), "{wrong}");
        }
        let not_text = std::os::unix::ffi::OsStringExt::from_vec(vec![b'x', 0xff]);
        assert!(filter(Err(VarError::NotUnicode(not_text))).unwrap_err().contains("UTF-8"));
    }
}
