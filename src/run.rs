//! The program: puts the parts together, runs them until it is told to stop, and ends in order.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt;
use kube::Client;
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::background::orphans;
use crate::background::reaper::reap_forever;
use crate::background::usage;
use crate::cluster::api::Cluster;
use crate::cluster::connect::{ListMode, connect, kube_config, own_namespace};
use crate::cluster::election::{Leadership, Lock, elect};
use crate::cluster::events::Recorder;
use crate::cluster::grants::{Granted, Locks, check_access};
use crate::cluster::permissions::Awaited;
use crate::cluster::state::{Catalog, Key};
use crate::cluster::watches::follow;
use crate::commands::remove_finalizers;
use crate::config::Config;
use crate::controllers::context::{Context, Slot};
use crate::controllers::copies::Cloner;
use crate::controllers::expander::Expander;
use crate::controllers::provisioner::Provisioner;
use crate::controllers::reclaimer::Reclaimer;
use crate::decide::Scope;
use crate::export::Export;
use crate::model::exports::{Exports, PerExport};
use crate::observe::health::{ClusterHealth, Health};
use crate::observe::http;
use crate::observe::metrics::{Durations, Metrics};
use crate::queue::{Next, Queue, RetryReason};
use crate::storage::{ExportSpec, Storage};

/// How many claims, how many volumes, and how many claims that grow are worked on at a time.
const WORKERS: usize = 16;

/// What the queues are called in metrics.
const CLAIMS: &str = "claims";
const VOLUMES: &str = "volumes";
const EXPANSIONS: &str = "expansions";

/// How long work that is under way may take when the program is to end.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long after we have stopped leading a change of a directory may still be under way. Together with what was left
/// of the lock then it is less than the lock's whole duration.
const FENCE_AFTER: Duration = Duration::from_secs(4);

/// How long after the export has come back it is not heard when it does so again.
const WAKE_AGAIN: Duration = Duration::from_secs(1);

/// How long giving the lock back and writing the last events may take then, each.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT; a second one ends it on the spot.
///
/// # Errors
/// If it cannot start: the export is not there, or the kubeconfig cannot be used. An API server that cannot be
/// reached is waited for.
pub async fn run(config: Config) -> Result<()> {
    let stop = stop_on_signal()?;
    // A volume's directory is open to all whatever the umask was.
    umask(Mode::empty());
    let durations = Durations::default();
    let exports = open(&config.exports, &config.specs, &durations).await?;
    let client = Client::try_from(kube_config(config.kubeconfig.as_deref()).await?)?;
    let metrics = Metrics::new(exports.clone(), &durations);
    let cluster_health = Arc::new(ClusterHealth::default());
    let health = Health::new(exports.clone(), Arc::clone(&cluster_health));
    if let Some(address) = config.http {
        let listener = http::listen(address).await;
        let listener = listener.with_context(|| format!("failed to listen on {address} (set by HTTP_ADDR)"))?;
        tokio::spawn(http::serve(listener, metrics.clone(), health));
    }
    for (id, export) in exports.iter() {
        let (storage, place) = (export.storage.clone(), config.specs.get(id).clone());
        tokio::spawn(async move { storage.keep(&place).await });
    }
    let parts = Parts { client, exports, metrics, health: cluster_health };
    let listing = tokio::select! {
        listing = connect(&parts.client) => listing,
        () = came_true(stop.clone()) => return Ok(()),
    };
    info!(
        provisioner = config.provisioner, exports = %config.exports,
        version = env!("CARGO_PKG_VERSION"), "started"
    );
    serve(config, parts, listing, stop).await;
    Ok(())
}

/// The exports as they are worked on. Those that do not answer yet are waited for later.
async fn open(
    exports: &Exports,
    places: &PerExport<ExportSpec>,
    durations: &Durations,
) -> Result<PerExport<Export>> {
    let open = places.try_map(|(id, place)| async move {
        let storage = Storage::at(place, durations.of(&place.name)).await;
        let unless = || format!("the export {:?} is not where NFS_MOUNT_PATH or EXPORTS_FILE says", place.name);
        Ok(Export::new(exports.get(id), storage.with_context(unless)?))
    });
    open.await
}

/// Takes our finalizer off all volumes of the provisioner of this name, and says so in the log.
///
/// # Errors
/// If the kubeconfig cannot be used, or the API server refuses.
pub async fn remove_finalizers(provisioner: &str, kubeconfig: Option<&Path>) -> Result<()> {
    let client = Client::try_from(kube_config(kubeconfig).await?)?;
    let released = remove_finalizers::remove_finalizers(&Cluster::new(client, provisioner), provisioner).await?;
    for volume in &released {
        info!(volume = &**volume, "took the finalizer off");
    }
    info!("took the finalizer off {} volumes", released.len());
    Ok(())
}

/// What stands before the API server has answered.
struct Parts {
    client: Client,
    exports: PerExport<Export>,
    metrics: Metrics,
    health: Arc<ClusterHealth>,
}

async fn serve(config: Config, parts: Parts, listing: ListMode, stop: watch::Receiver<bool>) {
    let Parts { client, exports, metrics, health } = parts;
    health.connected();
    let namespace = config.namespace.clone().unwrap_or_else(own_namespace);
    let Granted { locks, may_patch, expand } = check_access(&client, &namespace, config.lock).await;
    let scope = Arc::new(Scope {
        provisioner: config.provisioner.clone(),
        exports: config.exports,
        share: config.share,
        may_patch,
    });
    let catalog = Arc::new(Catalog::new(Arc::clone(&scope)));
    let (synced, is_synced) = watch::channel(false);
    let following = follow(client.clone(), Arc::clone(&catalog), listing, synced, Arc::clone(&health));
    let following = tokio::spawn(following);
    let own_identity = own_identity();
    let (recorder, events) = Recorder::new(client.clone(), format!("{}_{own_identity}", config.provisioner));
    let events = tokio::spawn(events);

    let (leave, leaving) = watch::channel(false);
    let (leadership, election) = if let Some(Locks { own, other }) = locks {
        let lock = |kind| Lock::new(client.clone(), kind, &namespace, &config.provisioner);
        let (leadership, election) = elect(lock(own), other.map(lock), own_identity, came_true(leaving));
        // A leader that does not know everything yet helps nobody.
        (leadership, tokio::spawn(came_true(is_synced.clone()).then(|()| election)))
    } else {
        (Leadership::uncontested(), tokio::spawn(async {}))
    };

    tokio::spawn(show_leadership(leadership.clone(), health, metrics.clone()));
    let cluster = Cluster::new(client, &config.provisioner);
    tokio::select! {
        () = came_true(is_synced) => {
            let refreshed = Arc::default();
            let context = Context { scope, catalog, exports, cluster, recorder, metrics, refreshed };
            work_until(context, (expand, config.usage_calls), leadership, stop).await;
        }
        () = came_true(stop.clone()) => {}
    }
    following.abort();
    leave.send_replace(true);
    within(FAREWELL_MAX, "giving the leader lock back", election).await;
    within(FAREWELL_MAX, "writing the last events", events).await;
    info!("ended");
}

/// Works on claims, volumes and claims that grow, empties the trash and counts what belongs to nobody, until `stop`.
async fn work_until(
    mut context: Context,
    (expand, usage_calls): (Awaited, u32),
    leadership: Leadership,
    stop: watch::Receiver<bool>,
) {
    let fencing = tokio::spawn(fence(context.exports.clone(), leadership.clone()));
    context.exports = context.exports.map(|(_, export)| {
        let leadership = leadership.clone();
        let storage = export.storage.clone().fenced_by(move || leadership.is_held());
        Export { storage, ..export.clone() }
    });
    let Context { catalog, exports, metrics, .. } = context.clone();
    let (claims, volumes) = (Arc::clone(&catalog.changed_claims), Arc::clone(&catalog.changed_volumes));
    let expansions = Arc::clone(&catalog.changed_expansions);
    let mut background = JoinSet::new();
    for Export { storage, backlog, .. } in exports.values().cloned() {
        background.spawn(wake(storage.returned(), Arc::clone(&claims), Arc::clone(&volumes)));
        let leadership = leadership.clone();
        background.spawn(async move { reap_forever(storage, || leadership.is_held(), &backlog).await });
    }
    background.spawn(orphans::count_forever(exports, catalog, metrics.clone(), leadership.clone()));
    if usage_calls > 0 {
        background.spawn(usage::watch_forever(context.clone(), leadership.clone(), usage_calls));
    }
    let cloner = Cloner::new(context.clone(), leadership.clone());
    background.spawn(cloner.clone().sweep_forever());
    let provisioner = Arc::new(Provisioner::new(context.clone(), leadership.clone(), cloner));
    let expander = Arc::new(Expander::new(context.clone(), expand));
    let reclaimer = Arc::new(Reclaimer::new(context, leadership.clone()));
    for (name, queue) in [(CLAIMS, &claims), (VOLUMES, &volumes), (EXPANSIONS, &expansions)] {
        let queue = Arc::clone(queue);
        metrics.show_queue(name, move || queue.depth_and_age());
    }
    let queue = |name, queue| Work { name, queue, metrics: metrics.clone(), leadership: leadership.clone() };
    let claims = work(queue(CLAIMS, claims), stop.clone(), move |uid, failures, mut slot| {
        let provisioner = Arc::clone(&provisioner);
        async move { provisioner.reconcile(uid, failures, &mut slot).await }
    });
    let expansions = work(queue(EXPANSIONS, expansions), stop.clone(), move |uid, failures, slot| {
        let expander = Arc::clone(&expander);
        async move {
            let after = expander.reconcile(uid, failures).await;
            drop(slot);
            after
        }
    });
    let volumes = work(queue(VOLUMES, volumes), stop, move |name, failures, mut slot| {
        let reclaimer = Arc::clone(&reclaimer);
        async move { reclaimer.reconcile(name, failures, &mut slot).await }
    });
    futures::join!(claims, volumes, expansions);
    fencing.abort();
    // What runs in the background is cut off when it is dropped.
    drop(background);
}

/// Shows in health and metrics whether we lead, for ever.
async fn show_leadership(mut leadership: Leadership, health: Arc<ClusterHealth>, metrics: Metrics) {
    loop {
        leadership.held().await;
        health.leads(true);
        metrics.leader.set(1);
        leadership.lost().await;
        health.leads(false);
        metrics.leader.set(0);
    }
}

/// Ends the program if it stops to lead while a directory is being changed and the server does not say whether that has
/// been done: it could be done later, when another one leads and has given the path to a new claim. The kernel gives up
/// the calls of a process that has ended.
async fn fence(exports: PerExport<Export>, mut leadership: Leadership) {
    loop {
        leadership.held().await;
        leadership.lost().await;
        sleep(FENCE_AFTER).await;
        let under_way: usize = exports.values().map(|export| export.storage.changes_under_way()).sum();
        if under_way > 0 && !leadership.is_held() {
            error!(
                under_way,
                "stopped leading while the export has not answered whether directories have been changed; ending, so \
                 that they will not be changed later"
            );
            #[expect(clippy::exit, reason = "an end in order would wait for what must not happen any more")]
            std::process::exit(1);
        }
    }
}

/// Has what has failed tried again whenever the export has come back, for ever.
async fn wake(mut returned: watch::Receiver<u64>, claims: Arc<Queue<Key>>, volumes: Arc<Queue<Key>>) {
    while returned.changed().await.is_ok() {
        claims.wake();
        volumes.wake();
        // It may come and go.
        sleep(WAKE_AGAIN).await;
    }
}

/// What [`work`] works on.
struct Work {
    /// What the queue is called in metrics.
    name: &'static str,
    queue: Arc<Queue<Key>>,
    metrics: Metrics,
    leadership: Leadership,
}

/// Takes what is in a queue while we lead, and has each thing worked on in a task of its own, until `stop`.
/// Then waits for what is under way.
async fn work<F>(
    Work { name, queue, metrics, mut leadership }: Work,
    stop: watch::Receiver<bool>,
    round: impl Fn(Key, u32, Slot) -> F,
) where
    F: Future<Output = Next> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(WORKERS));
    // Nothing is sent: what counts is that the last sender goes.
    let (under_way, mut all_done) = mpsc::channel::<Infallible>(1);
    let mut stopping = std::pin::pin!(came_true(stop));
    loop {
        let next = async {
            leadership.held().await;
            // The semaphore is never closed.
            let permit = Arc::clone(&free).acquire_owned().await.ok();
            (permit, queue.take().await)
        };
        let (permit, (key, failures)) = tokio::select! {
            biased;
            () = &mut stopping => break,
            next = next => next,
        };
        let (queue, under_way, retries) = (Arc::clone(&queue), under_way.clone(), metrics.retries.clone());
        let round = round(key.clone(), failures, Slot::new(permit));
        tokio::spawn(async move {
            // A defect of ours must not stop the others, nor leave the key taken for ever.
            let after = std::panic::AssertUnwindSafe(round).catch_unwind().await.unwrap_or_else(|_| {
                error!(%key, "a defect in this program was met; it will be tried again");
                Next::Retry(RetryReason::Defect)
            });
            if let Next::Retry(why) = after {
                retries.get_or_create(&[("queue", name), ("reason", why.as_str())]).inc();
            }
            queue.finish(&key, after);
            drop(under_way);
        });
    }
    drop(under_way);
    if timeout(DRAIN_MAX, all_done.recv()).await.is_err() {
        warn!("some work was still under way and was left; it will be done again by the next to lead");
    }
}

async fn within(limit: Duration, what: &str, task: JoinHandle<()>) {
    if timeout(limit, task).await.is_err() {
        warn!("{what} took too long and was left");
    }
}

/// Waits until the value is true; for ever, if it never can become so any more.
async fn came_true(mut value: watch::Receiver<bool>) {
    if value.wait_for(|value| *value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Becomes true at the first SIGTERM or SIGINT. The second ends the program.
fn stop_on_signal() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.send_replace(true) {
                #[expect(clippy::exit, reason = "whoever asks twice does not want to wait")]
                std::process::exit(1);
            }
            info!("stopping; a second signal stops at once");
        }
    });
    Ok(stopped)
}

/// A name for this process that no other has.
fn own_identity() -> String {
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{host}_{:032x}", fastrand::u128(..))
}
