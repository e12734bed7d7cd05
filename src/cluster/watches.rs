//! The watches that keep the [`ClusterState`] up to date.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, join};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::Api;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error as KubeError};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::cluster::api::answered;
use crate::cluster::connect::ListMode;
use crate::cluster::slim::Slim;
use crate::cluster::state::{ClusterState, Watched};
use crate::cluster::watch_health::WatchHealth;
use crate::model::claim::Claim;
use crate::model::class::Class;
use crate::model::expansion::Expansion;
use crate::model::volume::Volume;

/// The shortest and the longest wait before a failed watch is tried again.
const REWATCH: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The longest wait before an API server that cannot be reached is tried again. Short, because its first answer is
/// often that the known version is too old, which costs one more try.
const RECONNECT: Duration = Duration::from_secs(2);

/// A kind of object that the state keeps records of.
trait Recorded: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    const KIND: Watched;

    /// Returns the key of the object's record.
    fn key(&self) -> Option<&str>;

    /// Records the object, or forgets it if it is gone.
    fn put(state: &ClusterState, key: &str, object: Option<&Self>);
}

impl Recorded for StorageClass {
    const KIND: Watched = Watched::Classes;

    fn key(&self) -> Option<&str> {
        self.metadata.name.as_deref()
    }

    fn put(state: &ClusterState, key: &str, object: Option<&Self>) {
        state.put_class(&key.into(), object.map(Class::read));
    }
}

impl Recorded for Slim<PersistentVolumeClaim> {
    const KIND: Watched = Watched::Claims;

    fn key(&self) -> Option<&str> {
        self.0.metadata.uid.as_deref()
    }

    fn put(state: &ClusterState, key: &str, object: Option<&Self>) {
        let uid = key.into();
        state.put_claim(&uid, object.and_then(|claim| Claim::read(&claim.0, state.provisioner())));
        state.put_expansion(&uid, object.and_then(|claim| Expansion::read(&claim.0)));
    }
}

impl Recorded for Slim<PersistentVolume> {
    const KIND: Watched = Watched::Volumes;

    fn key(&self) -> Option<&str> {
        self.0.metadata.name.as_deref()
    }

    fn put(state: &ClusterState, key: &str, object: Option<&Self>) {
        state.put_volume(&key.into(), object.map(|volume| Volume::read(&volume.0)));
    }
}

/// Keeps the state up to date, for ever, and notes in `health` when everything has been listed once, and which
/// watches fail.
///
/// A watch that fails is tried again, and what was missed meanwhile is found out; what is known stays known.
pub async fn follow(client: Client, state: Arc<ClusterState>, listing: ListMode, health: Arc<WatchHealth>) {
    let (classes, classes_listed) = watch::channel(false);
    let (claims, claims_listed) = watch::channel(false);
    let (volumes, volumes_listed) = watch::channel(false);
    let all_listed = async {
        for mut listed in [classes_listed, claims_listed, volumes_listed] {
            // The sender lives as long as its watch, which never ends.
            let _ = listed.wait_for(|listed| *listed).await;
        }
        health.listed();
        info!("all StorageClasses, PersistentVolumeClaims and PersistentVolumes have been read");
    };
    join!(
        follow_kind::<StorageClass>(&client, &state, listing, classes, &health),
        follow_kind::<Slim<PersistentVolumeClaim>>(&client, &state, listing, claims, &health),
        follow_kind::<Slim<PersistentVolume>>(&client, &state, listing, volumes, &health),
        all_listed,
    );
}

/// Follows the objects of one kind, for ever.
async fn follow_kind<K: Recorded>(
    client: &Client,
    state: &ClusterState,
    first: ListMode,
    listed: watch::Sender<bool>,
    health: &WatchHealth,
) {
    let watched = K::KIND.as_str();
    let mut listing = first;
    let mut pause = REWATCH.0;
    loop {
        let mut events = std::pin::pin!(watcher(Api::<K>::all(client.clone()), listing.config()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    pause = REWATCH.0;
                    health.works(watched);
                    take_in(state, event, &listed);
                }
                Err(error) if listing == ListMode::Streamed && is_unsupported(&error) => {
                    debug!(kind = ?K::KIND, "the API server does not stream lists, reading pages");
                    listing = ListMode::Paged;
                    break;
                }
                Err(error) => {
                    warn!(kind = ?K::KIND, %error, "a watch failed, will try again");
                    let unreachable = !is_answer(&error);
                    let wait = pause.mul_f64(1.0 + fastrand::f64() / 2.0);
                    health.failed(watched, error.to_string(), unreachable, wait);
                    sleep(wait).await;
                    pause = (pause * 2).min(if unreachable { RECONNECT } else { REWATCH.1 });
                    // A watch that goes on says nothing until something changes.
                    if unreachable && answered(client.apiserver_version()).await.is_ok() {
                        health.works(watched);
                    }
                }
            }
        }
    }
}

/// Returns whether the API server has refused to stream a list, which is normal for older ones.
fn is_unsupported(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(KubeError::Api(status)) if matches!(status.code, 400 | 422))
}

/// Returns whether the API server has answered with an error; otherwise it has not answered.
fn is_answer(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => matches!(error, KubeError::Api(_)),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
    }
}

/// Brings the state up to date with what a watch has brought.
fn take_in<K: Recorded>(state: &ClusterState, event: Event<K>, listed: &watch::Sender<bool>) {
    match event {
        Event::Init => state.begin_list(K::KIND),
        Event::InitDone => {
            state.end_list(K::KIND);
            listed.send_replace(true);
        }
        Event::InitApply(object) | Event::Apply(object) => {
            if let Some(key) = object.key() {
                K::put(state, key, Some(&object));
            }
        }
        Event::Delete(object) => {
            if let Some(key) = object.key() {
                K::put(state, key, None);
            }
        }
    }
}
