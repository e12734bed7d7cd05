//! Notices that the API server has gone back to an earlier state, as it does when etcd is restored from a snapshot.
//!
//! A watch that goes on from a version which is in the future by then says nothing until that version has come
//! again, and nothing tells that it does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::cluster::api::answered;

/// How often the API server is asked for its version.
const ASK: Duration = Duration::from_secs(10);

/// Asks the API server for the version of its state from time to time, for ever, and counts in `setbacks` how often
/// that was smaller than one that was seen before, here or by the watches, whose greatest is `seen`. Versions grow with
/// each change of anything, and are numbers that can be compared:
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
pub(super) async fn notice(client: Client, seen: &AtomicU64, setbacks: watch::Sender<u32>) {
    // As little as can be asked for; the answer has the version of everything.
    let (classes, minimal) = (Api::<StorageClass>::all(client), ListParams::default().limit(1));
    let mut versions = Versions::default();
    loop {
        let before = seen.load(Ordering::Relaxed);
        match answered(classes.list_metadata(&minimal)).await {
            Ok(list) => {
                let version = list.metadata.resource_version.and_then(|version| version.parse().ok());
                if version.is_some_and(|version| versions.is_setback(version, before)) {
                    warn!(?version, "the API server has gone back to an earlier state; reading everything anew");
                    seen.store(0, Ordering::Relaxed);
                    setbacks.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
            Err(error) => debug!(%error, "failed to ask the API server for its version"),
        }
        sleep(ASK).await;
    }
}

/// The versions that the API server has told.
#[derive(Debug, Default)]
struct Versions {
    told: Option<u64>,
    /// Whether the watches' versions are of another count: some clusters keep some objects in an etcd of their own.
    /// `None` until the watches have seen one.
    are_apart: Option<bool>,
}

impl Versions {
    /// Tells whether a version is of an earlier state than the last one that was told, or than one that the watches
    /// had seen before it was asked for.
    fn is_setback(&mut self, version: u64, seen: u64) -> bool {
        let is_before_seen = version < seen;
        let are_apart = seen > 0 && *self.are_apart.get_or_insert(is_before_seen);
        let is_before_told = self.told.replace(version).is_some_and(|told| version < told);
        is_before_told || (is_before_seen && !are_apart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_before_one_that_was_seen_is_of_an_earlier_state() {
        let mut versions = Versions::default();
        let rows =
            [(10, 8, false), (10, 10, false), (12, 11, false), (11, 0, true), (11, 0, false), (13, 20, true)];
        for (version, seen, expected) in rows {
            assert_eq!(versions.is_setback(version, seen), expected, "{version} {seen}");
        }
        // Where the two have nothing to do with each other.
        let mut versions = Versions::default();
        for (version, seen, expected) in [(10, 0, false), (10, 1000, false), (11, 1001, false), (9, 1002, true)] {
            assert_eq!(versions.is_setback(version, seen), expected, "{version} {seen}");
        }
    }
}
