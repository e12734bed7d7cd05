//! Notices that the API server has gone back to an earlier state, as it does when etcd is restored from a snapshot.
//!
//! A watch that goes on from a version which is in the future by then says nothing until that version has come
//! again, and nothing tells that it does not.

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
/// that has become smaller. Versions grow with each change of anything, and are numbers that can be compared:
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
pub(super) async fn notice(client: Client, setbacks: watch::Sender<u32>) {
    // As little as can be asked for; the answer has the version of everything.
    let (classes, least) = (Api::<StorageClass>::all(client), ListParams::default().limit(1));
    let mut last = 0;
    loop {
        match answered(classes.list_metadata(&least)).await {
            Ok(list) => {
                let version = list.metadata.resource_version.and_then(|version| version.parse::<u64>().ok());
                let version = version.unwrap_or(last);
                if version < last {
                    warn!(
                        version,
                        before = last,
                        "the API server has gone back to an earlier state; reading everything anew"
                    );
                    setbacks.send_modify(|count| *count = count.wrapping_add(1));
                }
                last = version;
            }
            Err(error) => debug!(%error, "failed to ask the API server for its version"),
        }
        sleep(ASK).await;
    }
}
