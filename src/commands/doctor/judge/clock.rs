//! Judges how far two clocks are apart.

use crate::commands::doctor::facts::Skew;
use crate::commands::doctor::report::Finding;

/// The number of seconds by which clocks may differ before the doctor warns.
const SKEW_MAX: u64 = 30;

pub(super) fn clock(check: &'static str, Skew(seconds): Skew, fix: &str) -> Finding {
    let difference = seconds.unsigned_abs();
    if difference <= SKEW_MAX {
        return Finding::ok(check, "agrees with the clock here");
    }
    let side = if seconds > 0 { "ahead of" } else { "behind" };
    Finding::warning(check, format!("is {difference} s {side} the clock here"), fix)
}
