//! How much a directory holds.

use crate::storage::{Begun, Storage};
use crate::values::path::RelPath;

/// How many calls are made between two lines of progress.
const CALLS: u64 = 1000;

/// Counts what a directory takes on the export, in bytes; `None` if that cannot be found out.
///
/// Where that takes long, a line on the terminal says so if `shows_progress`.
pub(super) async fn used(storage: &Storage, directory: &RelPath, shows_progress: bool) -> Option<u64> {
    let mut survey = match storage.survey(directory).await.ok()?? {
        Begun::Known(found) => return Some(found.bytes),
        Begun::DiskUsage(survey) => survey,
    };
    let mut calls = 0;
    let found = loop {
        let (rest, found) = storage.advance(survey, CALLS).await.ok()?;
        if let Some(found) = found {
            break found;
        }
        survey = rest;
        calls += CALLS;
        if shows_progress {
            progress(&format!("counting {directory}: {calls} calls so far"));
        }
    };
    if shows_progress && calls > 0 {
        progress("");
    }
    Some(found.bytes)
}

/// Replaces the last line on the terminal.
fn progress(line: &str) {
    use std::io::Write;
    // What is said of progress is of no account.
    let _ = write!(std::io::stderr(), "\r\u{1b}[K{}", crate::values::text::printable(line));
}
