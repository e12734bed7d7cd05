//! The watches that keep the [`ClusterState`] up to date.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::cluster::setback;
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
    let (setbacks, setback) = watch::channel(0);
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
    let seen = AtomicU64::new(0);
    let following = Following { client: &client, state: &state, health: &health, seen: &seen, setback };
    join!(
        following.kind::<StorageClass>(listing, classes),
        following.kind::<Slim<PersistentVolumeClaim>>(listing, claims),
        following.kind::<Slim<PersistentVolume>>(listing, volumes),
        setback::notice(client.clone(), &seen, setbacks),
        all_listed,
    );
}

/// What all watches share.
struct Following<'a> {
    client: &'a Client,
    state: &'a ClusterState,
    health: &'a WatchHealth,
    /// The greatest version of an object that was seen.
    seen: &'a AtomicU64,
    /// Changes when the API server has gone back to an earlier state.
    setback: watch::Receiver<u32>,
}

impl Following<'_> {
    /// Follows the objects of one kind, for ever.
    async fn kind<K: Recorded>(&self, first: ListMode, listed: watch::Sender<bool>) {
        let (mut listing, mut pause) = (first, REWATCH.0);
        let mut setback = self.setback.clone();
        loop {
            let mut events = std::pin::pin!(watcher(Api::<K>::all(self.client.clone()), listing.config()));
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    // The sender lives as long as the watches.
                    Ok(()) = setback.changed() => None,
                };
                match event {
                    Some(Ok(event)) => {
                        pause = REWATCH.0;
                        self.health.works(K::KIND.as_str());
                        self.see(&event);
                        take_in(self.state, event, &listed);
                    }
                    Some(Err(error)) if listing == ListMode::Streamed && is_unsupported(&error) => {
                        debug!(kind = ?K::KIND, "the API server does not stream lists, reading pages");
                        listing = ListMode::Paged;
                        break;
                    }
                    Some(Err(error)) => pause = self.wait::<K>(&error, pause).await,
                    // From the beginning.
                    None => break,
                }
            }
        }
    }

    fn see<K: Recorded>(&self, event: &Event<K>) {
        if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = event {
            let version = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
            self.seen.fetch_max(version.unwrap_or_default(), Ordering::Relaxed);
        }
    }

    /// Notes that a watch has failed, and waits before it is tried again. Returns how long to wait the next time.
    async fn wait<K: Recorded>(&self, error: &watcher::Error, pause: Duration) -> Duration {
        let watched = K::KIND.as_str();
        warn!(kind = ?K::KIND, %error, "a watch failed, will try again");
        if K::KIND == Watched::Volumes {
            self.state.doubt();
        }
        let unreachable = !is_answer(error);
        let wait = pause.mul_f64(1.0 + fastrand::f64() / 2.0);
        self.health.failed(watched, error.to_string(), unreachable, wait);
        sleep(wait).await;
        // A watch that goes on says nothing until something changes.
        if unreachable && answered(self.client.apiserver_version()).await.is_ok() {
            self.health.works(watched);
        }
        (pause * 2).min(if unreachable { RECONNECT } else { REWATCH.1 })
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
