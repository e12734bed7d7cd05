//! Tests that lack what they need.

use std::env;

/// Whether a test that lacks `missing` is to be left out: it says so, and fails where nothing may be left out.
pub(crate) fn skips(missing: Option<String>) -> bool {
    let Some(missing) = missing else { return false };
    assert!(env::var_os("CI").is_none(), "needs {missing}");
    eprintln!("SKIPPED: needs {missing}");
    true
}
