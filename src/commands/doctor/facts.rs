//! Facts that the doctor has found, and nothing of what they mean.

use std::time::{Duration, SystemTime};

use crate::cluster::permissions::Permission;
use crate::model::class::Class;
use crate::storage::{Leftovers, Mount, StorageError};
use crate::values::headroom::FsUsage;

/// What the doctor has found of the cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterFacts {
    /// The API server's version.
    pub(super) version: String,
    /// Whom the API server takes us for, if it says so.
    pub(super) user: Option<String>,
    /// The API server's clock, if it tells the time.
    pub(super) clock: Option<Skew>,
    /// The namespace of the leader lock.
    pub(super) namespace: String,
    /// The rights that we lack.
    pub(super) missing: Result<Missing, String>,
    /// All classes, whichever provisioner they name.
    pub(super) classes: Result<Vec<Class>, String>,
}

/// The rights that we lack, of each list in [`crate::cluster::permissions`].
#[derive(Debug, Clone, Default)]
pub(super) struct Missing {
    pub(super) needed: Vec<Permission>,
    pub(super) protect: Vec<Permission>,
    pub(super) expand: Vec<Permission>,
    pub(super) lease: Vec<Permission>,
    pub(super) lease_watch: Vec<Permission>,
    pub(super) endpoints: Vec<Permission>,
    pub(super) endpoints_read: Vec<Permission>,
}

/// By how many seconds another clock is ahead of ours, as far as that is certain; behind, if it is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skew(pub(super) i64);

impl Skew {
    /// Compares clocks, where the other one showed `theirs`, exact to `precision`, between two times of ours.
    pub(super) fn new((before, after): (SystemTime, SystemTime), theirs: SystemTime, precision: Duration) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        if let Ok(ahead) = theirs.duration_since(after) {
            return Self(seconds(ahead));
        }
        let behind = before.duration_since(theirs).unwrap_or_default();
        Self(-seconds(behind.saturating_sub(precision)))
    }
}

/// What the doctor tries on an export, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    Open,
    Statfs,
    Mkdir,
    Write,
    Chmod,
    Rename,
    Remove,
    List,
}

/// What the doctor has found of an export.
#[derive(Debug, Clone, Default)]
pub(super) struct ExportFacts {
    /// The user that we run as.
    pub(super) user: u32,
    /// What is mounted, as far as the kernel tells.
    pub(super) mount: Option<Mount>,
    /// What was tried, and what came of it. After a change has failed, no other is tried but to remove what was
    /// made.
    pub(super) tried: Vec<(Try, Result<(), StorageError>)>,
    /// What was tried, and has not been answered.
    pub(super) unanswered: Option<Try>,
    /// How full the export is.
    pub(super) usage: Option<FsUsage>,
    /// Whom the server takes us for.
    pub(super) owner: Option<u32>,
    /// The server's clock.
    pub(super) clock: Option<Skew>,
    /// The name of the write test's directory, while it is there.
    pub(super) test_directory: Option<String>,
    /// What earlier runs had left.
    pub(super) leftovers: Leftovers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_only_as_wrong_as_is_certain() {
        let at = |milliseconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let rows = [
            ((10_000, 12_000), 11_000, 0),
            ((10_900, 10_950), 10_000, 0),
            ((10_000, 12_000), 9_000, 0),
            ((10_000, 12_000), 15_000, 3),
            ((50_000, 51_000), 9_000, -40),
        ];
        for ((before, after), theirs, expected) in rows {
            let found = Skew::new((at(before), at(after)), at(theirs), Duration::from_secs(1));
            assert_eq!(found, Skew(expected), "{before} {after} {theirs}");
        }
    }
}
