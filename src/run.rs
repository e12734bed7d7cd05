//! The program: puts the parts together, runs them until it is told to stop, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use nix::sys::stat::{Mode, umask};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::background::fence::{end_if_changes_outlive_leadership, fenced};
use crate::background::reaper::reap_forever;
use crate::background::{expiry, notes, orphans, pressure, staging, usage};
use crate::cluster::api::Cluster;
use crate::cluster::connect::{Connection, ListMode, connect, connection, own_namespace};
use crate::cluster::election::{Lead, Leadership, elect, own_identity};
use crate::cluster::events::Recorder;
use crate::cluster::grants::{Granted, Locks, find_locks};
use crate::cluster::lock::{Lock, LockChoice};
use crate::cluster::permissions::Awaited;
use crate::cluster::state::ClusterState;
use crate::cluster::watch_health::WatchHealth;
use crate::cluster::watches::follow;
use crate::config::{Config, Http};
use crate::controllers::context::Context;
use crate::controllers::copies::Copies;
use crate::controllers::expander::Expander;
use crate::controllers::pool::{Workers, wake_on_return};
use crate::controllers::provisioner::Provisioner;
use crate::controllers::reclaimer::Reclaimer;
use crate::controllers::records::Records;
use crate::controllers::restorable::Restorable;
use crate::decide::scope::Scope;
use crate::export::{self, Export};
use crate::model::exports::PerExport;
use crate::observe::health::Health;
use crate::observe::http;
use crate::observe::metrics::{Durations, Metrics};
use crate::values::names::ClaimUid;

/// How long giving the lock back and writing the last events may take at the end, each.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How many files this process may have open. Enough for copies of deep trees, which take the most.
const OPEN_FILES: u64 = 65_536;

/// Serves until SIGTERM or SIGINT; a second signal ends the program on the spot.
///
/// # Errors
/// Returns why it cannot start: the export is not there, or the kubeconfig cannot be used. An API server that
/// cannot be reached is waited for.
pub async fn run(config: Config) -> Result<()> {
    let stop = stop_on_signal()?;
    // A volume's directory is open to all whatever the umask was.
    umask(Mode::empty());
    raise_open_files();
    let durations = Durations::default();
    let exports = export::open_all(&config.exports, &config.specs, |name| durations.of(name)).await?;
    let connection = connection(config.kubeconfig.as_deref()).await?;
    let (lead, leadership) = Leadership::new();
    let watches = Arc::new(WatchHealth::default());
    let metrics = Metrics::new(exports.clone(), &durations, leadership.clone());
    let health = Health::new(exports.clone(), Arc::clone(&watches), leadership.clone());
    if let Some(listener) = listener(config.http).await? {
        tokio::spawn(http::serve(listener, metrics.clone(), health));
    }
    for (id, export) in exports.iter() {
        let (storage, place) = (export.storage.clone(), config.specs.get(id).clone());
        tokio::spawn(async move { storage.keep(&place).await });
    }
    let parts = Parts { connection, exports, metrics, watches, leadership };
    let listing = tokio::select! {
        listing = connect(&parts.connection) => listing,
        () = came_true(stop.clone()) => return Ok(()),
    };
    info!(
        provisioner = config.provisioner, exports = %config.exports,
        version = env!("CARGO_PKG_VERSION"), "started"
    );
    Box::pin(serve(config, parts, lead, listing, stop)).await;
    Ok(())
}

/// Listens for HTTP, if that is wanted and can be had.
async fn listener(http: Option<Http>) -> Result<Option<TcpListener>> {
    let Some(Http { address, is_asked_for }) = http else { return Ok(None) };
    match http::listen(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if is_asked_for => {
            Err(error).with_context(|| format!("failed to listen on {address} (set by HTTP_ADDR)"))
        }
        Err(error) => {
            warn!(
                %error,
                "cannot listen on {address}: there is no /metrics, /livez and /readyz. Set HTTP_ADDR to a free port, or to \
                 nothing if they are not wanted"
            );
            Ok(None)
        }
    }
}

/// The parts that exist before the API server has answered.
struct Parts {
    connection: Connection,
    exports: PerExport<Export>,
    metrics: Metrics,
    watches: Arc<WatchHealth>,
    leadership: Leadership,
}

/// Follows the cluster, takes part in the election, works once everything is known, and ends in order.
async fn serve(config: Config, parts: Parts, lead: Lead, listing: ListMode, stop: watch::Receiver<bool>) {
    let Parts { connection: Connection { client, .. }, exports, metrics, watches, leadership } = parts;
    watches.connected();
    let namespace = config.namespace.clone().unwrap_or_else(own_namespace);
    let granted = Granted::ask(&client).await;
    let expand = granted.expand();
    let scope = Arc::new(Scope {
        provisioner: config.provisioner.clone(),
        exports: config.exports,
        share: config.share,
        may_patch: granted.may_patch.clone(),
    });
    let state = Arc::new(ClusterState::new(Arc::clone(&scope)));
    let following = tokio::spawn(follow(client.clone(), Arc::clone(&state), listing, Arc::clone(&watches)));
    let own_identity = own_identity();
    let (recorder, events) = Recorder::new(client.clone(), format!("{}_{own_identity}", config.provisioner));
    let events = tokio::spawn(events);

    let (leave, leaving) = watch::channel(false);
    let candidate = Candidate {
        client: client.clone(),
        namespace,
        provisioner: config.provisioner.clone(),
        lock: config.lock,
        identity: own_identity,
        exports: exports.clone(),
    };
    let election = tokio::spawn(candidate.stand(lead, Arc::clone(&watches), leaving));

    let cluster = Cluster::new(client, &config.provisioner);
    tokio::spawn(granted.follow(cluster.clone(), Arc::clone(&scope), leadership.clone()));
    tokio::select! {
        () = watches.all_listed() => {
            let exports = staging::noted_as_ours(&fenced(&exports, &leadership), &state);
            let (refreshed, classes) = (Arc::default(), Arc::default());
            let restorable = Restorable::default();
            let records = Records::new(config.record);
            notes::learn_mark(&cluster, &records).await;
            let context =
                Context { scope, state, exports, cluster, recorder, metrics, refreshed, classes, records, restorable };
            Box::pin(work_until(context, expand, config.usage_calls, leadership, stop)).await;
        }
        () = came_true(stop.clone()) => {}
    }
    following.abort();
    leave.send_replace(true);
    within(FAREWELL_MAX, "giving the leader lock back", election).await;
    within(FAREWELL_MAX, "writing the last events", events).await;
    info!("ended");
}

/// The settings with which this process takes part in the election.
struct Candidate {
    client: Client,
    namespace: String,
    provisioner: String,
    lock: LockChoice,
    identity: String,
    exports: PerExport<Export>,
}

impl Candidate {
    /// Takes part in the election, if there is one, until `leaving`.
    async fn stand(self, lead: Lead, watches: Arc<WatchHealth>, leaving: watch::Receiver<bool>) {
        let Self { client, namespace, provisioner, lock, identity, exports } = self;
        let locks = find_locks(&client, &namespace, &provisioner, lock, &lead);
        // A leader that does not know everything yet helps nobody.
        let (locks, ()) = tokio::select! {
            found = futures::future::join(locks, watches.all_listed()) => found,
            () = came_true(leaving.clone()) => return,
        };
        let Some(Locks { own, other }) = locks else { return lead.uncontested() };
        let lock = |kind| Lock::new(client.clone(), kind, &namespace, &provisioner);
        let is_quiet = || exports.values().all(|export| export.storage.changes_under_way() == 0);
        elect(lead, lock(own), other.map(lock), identity, is_quiet, came_true(leaving)).await;
    }
}

/// Works on claims, volumes and claims that grow, and on what is done in the background, until `stop`.
async fn work_until(
    context: Context,
    expand: Awaited,
    usage_calls: u32,
    leadership: Leadership,
    stop: watch::Receiver<bool>,
) {
    let Context { exports, state, metrics, .. } = context.clone();
    let copies = Copies::new(context.clone(), leadership.clone());
    let provisioner = Arc::new(Provisioner::new(context.clone(), leadership.clone(), copies.clone()));
    let mut background = background(&context, &leadership, usage_calls);
    let waited_for = Arc::clone(&provisioner);
    let is_needed = move |claim: &ClaimUid| waited_for.is_waited_for(claim);
    background.spawn(staging::sweep_forever(exports, copies, leadership.clone(), is_needed));
    let expander = Arc::new(Expander::new(context.clone(), expand));
    let reclaimer = Arc::new(Reclaimer::new(context, leadership.clone()));
    let workers = Workers { metrics, leadership };
    let stopped = || came_true(stop.clone());
    let claims = workers.pool("claims", &state.changed_claims).work(stopped(), move |uid, failures, mut slot| {
        let provisioner = Arc::clone(&provisioner);
        async move { provisioner.reconcile(uid, failures, &mut slot).await }
    });
    let volumes =
        workers.pool("volumes", &state.changed_volumes).work(stopped(), move |name, failures, mut slot| {
            let reclaimer = Arc::clone(&reclaimer);
            async move { reclaimer.reconcile(name, failures, &mut slot).await }
        });
    let expansions =
        workers.pool("expansions", &state.changed_expansions).work(stopped(), move |uid, failures, slot| {
            let expander = Arc::clone(&expander);
            async move {
                let next = expander.reconcile(uid, failures).await;
                drop(slot);
                next
            }
        });
    futures::join!(claims, volumes, expansions);
    // What runs in the background is cut off when it is dropped.
    drop(background);
}

/// Raises the number of files that this process may have open to what it may raise it to, up to [`OPEN_FILES`].
/// Container runtimes leave it at 1024, for programs that use `select`.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        warn!(%error, "failed to raise the number of files that may be open");
    }
}

/// Starts what runs on a timer, or when an export comes back.
fn background(context: &Context, leadership: &Leadership, usage_calls: u32) -> JoinSet<()> {
    let Context { state, exports, metrics, .. } = context;
    let mut background = JoinSet::new();
    background.spawn(end_if_changes_outlive_leadership(exports.clone(), leadership.clone()));
    for Export { storage, backlog, .. } in exports.values().cloned() {
        background.spawn(wake_on_return(storage.returned(), Arc::clone(&state.changed_claims)));
        background.spawn(wake_on_return(storage.returned(), Arc::clone(&state.changed_volumes)));
        let (leadership, busy) = (leadership.clone(), Arc::clone(state));
        let storage = storage.yielding_to(move || busy.is_busy());
        background.spawn(async move { reap_forever(storage, || leadership.is_held(), &backlog).await });
    }
    let counting =
        orphans::count_forever(exports.clone(), state.ledger().clone(), metrics.clone(), leadership.clone());
    background.spawn(counting);
    background.spawn(notes::keep_forever(context.clone(), leadership.clone()));
    background.spawn(expiry::expire_forever(context.clone(), leadership.clone()));
    background.spawn(pressure::say_forever(context.clone()));
    if usage_calls > 0 {
        background.spawn(usage::watch_forever(context.clone(), leadership.clone(), usage_calls));
    }
    background
}

async fn within(limit: Duration, what: &str, task: JoinHandle<()>) {
    if timeout(limit, task).await.is_err() {
        warn!("{what} took longer than {} s; ending without it", limit.as_secs());
    }
}

/// Waits until the value is true; for ever, if it cannot become true any more.
async fn came_true(mut value: watch::Receiver<bool>) {
    if value.wait_for(|value| *value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns what becomes true at the first SIGTERM or SIGINT. The second ends the program.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_files_may_be_open_than_a_container_runtime_gives() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum }).unwrap();
        raise_open_files();
        let raised = getrlimit(Resource::Nofile);
        let expected = maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
        assert!(expected > 1024, "this machine allows no more");
        assert_eq!((raised.current, raised.maximum), (Some(expected), maximum));
        raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile), raised, "once is enough");
    }
}
