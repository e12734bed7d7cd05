//! One measurement: so many claims made and deleted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::contestant::Contestant;
use crate::support::space::{Space, from_json};

/// How many claims are made, or deleted, at a time.
const AUTHORS: usize = 32;

/// One claim alone is measured this often, one after the other.
const SINGLES: usize = 20;

/// How long after one of them the next one comes: the control plane is idle again then.
const IDLE: Duration = Duration::from_millis(250);

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_mins(5);

/// What was measured.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// How long each claim took to be Bound, in milliseconds, in order.
    pub(crate) bound: Vec<f64>,
    /// Claims Bound in a second.
    pub(crate) bound_rate: f64,
    /// Volumes gone in a second.
    pub(crate) gone_rate: f64,
    /// CPU time in seconds, for 1000 claims made and deleted.
    pub(crate) cpu: f64,
    /// The most memory it ever had, in MiB.
    pub(crate) memory: f64,
}

/// Has the contestant serve `claims` claims and reclaim their volumes.
pub(crate) async fn measure(space: &Space, contestant: &Contestant, claims: usize, name: &str) -> Round {
    let provisioner = format!("{}-{name}.example.com/nfs", contestant.name());
    let class = format!("{}-{name}", contestant.name());
    let patch =
        json!({"metadata": {"name": class}, "provisioner": provisioner, "parameters": {"onDelete": "delete"}});
    space.class("rates", patch).await;
    let process = contestant.start(space, &provisioner);
    let mut run = Run::new(space, class).await;
    // Once this is through it is up, has its connections, and knows everything.
    run.make("first", 1).await;
    run.delete("first", 1).await;
    run.times.clear();

    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu = process.cpu();
    let (mut binding, mut going) = (Duration::ZERO, Duration::ZERO);
    if claims == 1 {
        for number in 0..SINGLES {
            tokio::time::sleep(IDLE).await;
            binding += run.make(&format!("single-{number}"), 1).await;
            tokio::time::sleep(IDLE).await;
            going += run.delete(&format!("single-{number}"), 1).await;
        }
    } else {
        binding = run.make("data", claims).await;
        // What is written in the background, events say, is not to come on top of what is measured next.
        tokio::time::sleep(Duration::from_secs(2)).await;
        going = run.delete("data", claims).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let made = run.times.len() as f64;
    let mut bound: Vec<f64> = run.times.values().map(|time| time.as_secs_f64() * 1000.0).collect();
    bound.sort_by(f64::total_cmp);
    let round = Round {
        bound,
        bound_rate: made / binding.as_secs_f64(),
        gone_rate: made / going.as_secs_f64(),
        cpu: process.cpu().saturating_sub(cpu).as_secs_f64() / made * 1000.0,
        memory: process.peak() as f64 / 1024.0 / 1024.0,
    };
    drop(process);
    round
}

struct Run {
    claims: Api<PersistentVolumeClaim>,
    class: String,
    bound: UnboundedReceiver<(String, Instant)>,
    gone: UnboundedReceiver<(String, Instant)>,
    times: HashMap<String, Duration>,
    watches: [AbortHandle; 2],
}

impl Drop for Run {
    fn drop(&mut self) {
        self.watches.iter().for_each(AbortHandle::abort);
    }
}

impl Run {
    async fn new(space: &Space, class: String) -> Self {
        let claims: Api<PersistentVolumeClaim> = space.api();
        let (to_bound, bound) = unbounded_channel();
        let wanted = class.clone();
        let url = claims.resource_url().to_owned();
        let watch_claims = watch(space, &url, latest(&claims).await, move |event| {
            let (WatchEvent::Added(claim) | WatchEvent::Modified(claim)) = event else { return };
            if claim.is_of(&wanted) && claim.status.phase == "Bound" {
                // Nobody wants it any more once this is over.
                let _ = to_bound.send((claim.metadata.name, Instant::now()));
            }
        });
        let volumes: Api<PersistentVolume> = space.volumes();
        let (to_gone, gone) = unbounded_channel();
        let wanted = class.clone();
        let url = volumes.resource_url().to_owned();
        let watch_volumes = watch(space, &url, latest(&volumes).await, move |event| {
            let WatchEvent::Deleted(volume) = event else { return };
            if volume.is_of(&wanted) {
                let _ = to_gone.send((volume.metadata.name, Instant::now()));
            }
        });
        Self { claims, class, bound, gone, times: HashMap::new(), watches: [watch_claims, watch_volumes] }
    }

    /// Makes claims and waits until all are Bound; tells how long that took.
    async fn make(&mut self, name: &str, number: usize) -> Duration {
        let start = Instant::now();
        let mut made: HashMap<String, Instant> = HashMap::new();
        let (claims, class) = (&self.claims, &self.class);
        let making = stream::iter(0..number)
            .map(|number| {
                let name = format!("{class}-{name}-{number}");
                let claim: PersistentVolumeClaim = from_json(json!({
                    "metadata": {"name": name},
                    "spec": {
                        "storageClassName": class, "accessModes": ["ReadWriteMany"],
                        "resources": {"requests": {"storage": "1Mi"}},
                    },
                }));
                async move {
                    let at = Instant::now();
                    claims.create(&PostParams::default(), &claim).await.expect("a claim");
                    (name, at)
                }
            })
            .buffer_unordered(AUTHORS)
            .collect::<Vec<_>>();
        let bound = &mut self.bound;
        // A claim may be Bound before its author hears that it has been made.
        let binding = async {
            let mut all: HashMap<String, Instant> = HashMap::new();
            while all.len() < number {
                let (name, at) =
                    timeout(PATIENCE, bound.recv()).await.expect("claims to be Bound").expect("a watch");
                all.entry(name).or_insert(at);
            }
            all
        };
        let (began, all) = futures::join!(making, binding);
        made.extend(began);
        let last = all.values().max().copied().unwrap_or(start);
        self.times.extend(all.into_iter().map(|(name, at)| {
            let began = made[&name];
            (name, at - began)
        }));
        last - start
    }

    /// Deletes these claims and waits until their volumes have gone; tells how long that took.
    async fn delete(&mut self, name: &str, number: usize) -> Duration {
        let start = Instant::now();
        let (claims, class) = (&self.claims, &self.class);
        let deleting = stream::iter(0..number).for_each_concurrent(AUTHORS, |number| async move {
            let name = format!("{class}-{name}-{number}");
            claims.delete(&name, &DeleteParams::default()).await.expect("a claim to delete");
        });
        let gone = &mut self.gone;
        let going = async {
            let mut last = start;
            for _ in 0..number {
                (_, last) = timeout(PATIENCE, gone.recv()).await.expect("volumes to go").expect("a watch");
            }
            last
        };
        let ((), last) = futures::join!(deleting, going);
        // What a claim's name was Bound to may be told once more; it is not to count for the next one.
        while self.bound.try_recv().is_ok() {}
        last - start
    }
}

/// What is read of a claim or a volume. As little as can be: this program shares the machine with what it measures.
#[derive(Debug, Clone, Deserialize)]
struct Slim {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    storage_class_name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
}

impl Slim {
    fn is_of(&self, class: &str) -> bool {
        self.spec.storage_class_name == class
    }
}

/// The version of a list as it is now.
async fn latest<K>(api: &Api<K>) -> String
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = api.list_metadata(&kube::api::ListParams::default().limit(1)).await.expect("a list");
    list.metadata.resource_version.expect("a version")
}

/// Gives all events from a version on to `each`.
fn watch(
    space: &Space,
    url: &str,
    mut version: String,
    mut each: impl FnMut(WatchEvent<Slim>) + Send + 'static,
) -> AbortHandle {
    let (client, request) = (space.client.clone(), Request::new(url));
    let watching = tokio::spawn(async move {
        loop {
            let params = WatchParams::default().timeout(290);
            let request = request.watch(&params, &version).expect("a request");
            let mut events = std::pin::pin!(client.request_events::<Slim>(request).await.expect("a watch"));
            while let Some(event) = events.next().await {
                let event = event.expect("an event");
                match &event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                        version.clone_from(&object.metadata.resource_version);
                    }
                    WatchEvent::Bookmark(mark) => version.clone_from(&mark.metadata.resource_version),
                    WatchEvent::Error(error) => panic!("the watch fails: {error}"),
                }
                each(event);
            }
        }
    });
    watching.abort_handle()
}
