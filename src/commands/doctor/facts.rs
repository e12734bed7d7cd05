//! The facts that the doctor finds, without any judgement.

use std::time::{Duration, SystemTime};

use crate::cluster::permissions::Permission;
use crate::layout::ClusterMark;
use crate::ledger::Ledger;
use crate::model::class::Class;
use crate::model::exports::Location;
use crate::storage::{Leftovers, Mount, StorageError};
use crate::values::headroom::FsUsage;
use crate::values::names::VolumeName;

/// The facts about the cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterFacts {
    /// The API server's version.
    pub(super) version: String,
    /// The proxy that it is reached through, if by any.
    pub(super) proxy: Option<String>,
    /// The user that the API server takes this process for, if it says so.
    pub(super) user: Option<String>,
    /// The API server's clock, if it tells the time.
    pub(super) clock: Option<Skew>,
    /// The namespace of the leader lock.
    pub(super) namespace: String,
    /// The permissions that this process lacks, or why they are not known.
    pub(super) missing: Result<Missing, String>,
    /// All classes, of any provisioner.
    pub(super) classes: Result<Vec<Class>, String>,
    /// The mark of the cluster's notes; that of an unknown cluster if it may not be read.
    pub(super) mark: Result<ClusterMark, String>,
    /// The volumes of this provisioner.
    pub(super) volumes: Result<Volumes, String>,
}

/// The volumes of this provisioner that lie on its exports.
#[derive(Debug, Clone, Default)]
pub(super) struct Volumes {
    /// Those that are to have notes, and where they lie.
    pub(super) noted: Vec<(VolumeName, Location)>,
    /// Where all of them lie.
    pub(super) ledger: Ledger,
    /// Whether there are more, which were not read.
    pub(super) is_partial: bool,
}

/// The facts about the notes of volumes on an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NotesFacts {
    /// Whether some directories of notes are another user's, so that what they hold is not known.
    pub(super) is_closed: bool,
    /// How many volumes are to have notes.
    pub(super) wanted: usize,
    /// How many of those have none.
    pub(super) missing: usize,
    /// The first of those.
    pub(super) first_missing: Vec<VolumeName>,
    /// How many of those that were looked at have no directory either.
    pub(super) without_directory: usize,
    /// How many notes of this cluster were read.
    pub(super) read: usize,
    /// Those among them that are no notes, and why.
    pub(super) bad: Vec<String>,
    /// The other clusters that are at work on the export.
    pub(super) others: Vec<OtherCluster>,
    /// Whether there are volumes or clusters that were not looked at, because there are so many.
    pub(super) is_partial: bool,
}

/// Another cluster that is at work on an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherCluster {
    /// The mark of its notes.
    pub(super) mark: ClusterMark,
    /// How many of its notes were read.
    pub(super) read: usize,
    /// The directories among those that this cluster's volumes have a part in.
    pub(super) shared: Vec<String>,
}

/// The state of the port that HTTP is to be served on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Port {
    /// Nobody has it, or none is wanted.
    #[default]
    Free,
    /// A provisioner serves on it.
    Served,
    /// It cannot be had. The text says why.
    Taken(String),
}

/// The facts about this process.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessFacts {
    /// The user that it runs as.
    pub(super) user: u32,
    /// Whether it may do to other users' files what their owners may (`CAP_FOWNER`), if the kernel says so.
    pub(super) fowner: Option<bool>,
    /// The state of the port for HTTP.
    pub(super) port: Port,
    /// Whether it reaches other machines by IPv4.
    pub(super) ipv4: bool,
    /// Whether it reaches other machines by IPv6.
    pub(super) ipv6: bool,
}

/// The permissions that this process lacks, for each list in [`crate::cluster::permissions`].
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

/// The number of seconds by which another clock is certainly ahead of ours, or, if negative, behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skew(pub(super) i64);

impl Skew {
    /// Compares clocks: the other one showed `theirs`, exact to `precision`, between two times of ours.
    pub(super) fn new((before, after): (SystemTime, SystemTime), theirs: SystemTime, precision: Duration) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        if let Ok(ahead) = theirs.duration_since(after) {
            return Self(seconds(ahead));
        }
        let behind = before.duration_since(theirs).unwrap_or_default();
        Self(-seconds(behind.saturating_sub(precision)))
    }
}

/// The steps that are tried on the export, in this order.
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

/// The facts about an export.
#[derive(Debug, Clone, Default)]
pub(super) struct ExportFacts {
    /// The user that this process runs as.
    pub(super) user: u32,
    /// The Service that the server's name stands for here, if it does.
    pub(super) service: Option<String>,
    /// The mount that the export is reached by, as far as the kernel tells.
    pub(super) mount: Option<Mount>,
    /// The steps that were tried, with their results. Once a step that changes something has failed, nothing more
    /// is tried but to remove what was made.
    pub(super) tried: Vec<(Try, Result<(), StorageError>)>,
    /// The step that the server has not answered.
    pub(super) unanswered: Option<Try>,
    /// Size and free space of the export.
    pub(super) usage: Option<FsUsage>,
    /// The user that the server takes this process for.
    pub(super) owner: Option<u32>,
    /// The server's clock.
    pub(super) clock: Option<Skew>,
    /// The name of the write test's directory, while it exists.
    pub(super) write_test: Option<String>,
    /// The directories that earlier runs had left.
    pub(super) leftovers: Leftovers,
    /// The notes of volumes, if they were looked at; else why they could not be.
    pub(super) notes: Option<Result<NotesFacts, String>>,
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
