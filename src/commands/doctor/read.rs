//! Reads the facts about the cluster, and tries the export. Every wait has an end.

use std::time::{Duration, SystemTime};

use hyper::Request;
use hyper::header::DATE;
use jiff::fmt::rfc2822::DateTimeParser;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::facts::{ClusterFacts, ExportFacts, Missing, Skew, Try, Volumes};
use super::process;
use crate::cluster::api::{ApiError, Cluster, answered};
use crate::cluster::connect::{Connection, connection, own_namespace};
use crate::cluster::permissions::{self, Permission};
use crate::config::Config;
use crate::decide::record;
use crate::decide::volume::located;
use crate::layout::ClusterMark;
use crate::ledger::Entry;
use crate::model::class::Class;
use crate::storage::{ExportSpec, STUCK_AFTER, Storage, StorageError, WriteStep};

/// The time that the API server may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The time that all steps on the export may take, if the server answers each.
const EXPORT_MAX: Duration = Duration::from_mins(1);

/// The number of volumes that are read at the most, so that this takes little memory.
const VOLUMES_MAX: usize = 10_000;

/// The time after which no more volumes are asked for.
const VOLUMES_FOR: Duration = Duration::from_secs(15);

/// Reads the facts about the cluster. An error says why the API server cannot be reached.
pub(super) async fn cluster(config: &Config) -> Result<ClusterFacts, String> {
    let connected = connection(config.kubeconfig.as_deref()).await;
    let Connection { client, proxy } = connected.map_err(|error| format!("{error:#}"))?;
    let version = soon(answered(client.apiserver_version())).await.map_err(|error| match &proxy {
        Some(proxy) => format!("through the proxy {proxy}: {error}"),
        None => error,
    });
    let version = version?.git_version;
    let namespace = config.namespace.clone().unwrap_or_else(own_namespace);
    let (user, clock, missing, classes) =
        futures::join!(user(&client), clock(&client), missing(&client, &namespace), classes(&client));
    let cluster = Cluster::new(client.clone(), &config.provisioner);
    let mark = match timeout(ANSWER_MAX, cluster.mark()).await {
        Ok(Err(error)) if error.is_forbidden() => Ok(ClusterMark::unknown()),
        Ok(mark) => mark.map_err(|error| error.to_string()),
        Err(_) => Err(unanswered()),
    };
    let volumes = volumes(&cluster, config, classes.as_deref().unwrap_or_default()).await;
    Ok(ClusterFacts { version, proxy, user, clock, namespace, missing, classes, mark, volumes })
}

/// Reads which volumes this provisioner has on its exports, and which of them are to have notes.
async fn volumes(cluster: &Cluster, config: &Config, classes: &[Class]) -> Result<Volumes, String> {
    let until = Instant::now() + VOLUMES_FOR;
    let (mut found, mut token, mut count) = (Volumes::default(), None, 0);
    loop {
        let (page, next) = soon(cluster.volumes_from(token)).await?;
        for volume in page.into_iter().filter(|volume| volume.is_of(&config.provisioner)) {
            let Ok(at) = located(&volume, &config.exports) else { continue };
            found.ledger.settle(&volume.name, Entry { at: Some(&at), namespace: None, bytes: 0, gid: None });
            count += 1;
            let class = classes.iter().find(|class| class.name == volume.class);
            if volume.disposed.is_none() && record::is_wanted(class, config.record) {
                found.noted.push((volume.name, at));
            }
        }
        token = next;
        found.is_partial = token.is_some();
        if token.is_none() || count >= VOLUMES_MAX || Instant::now() > until {
            return Ok(found);
        }
    }
}

async fn soon<T>(call: impl Future<Output = Result<T, ApiError>>) -> Result<T, String> {
    match timeout(ANSWER_MAX, call).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(unanswered()),
    }
}

fn unanswered() -> String {
    format!("the API server did not answer within {} s", ANSWER_MAX.as_secs())
}

async fn user(client: &Client) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let (params, review) = (PostParams::default(), SelfSubjectReview::default());
    let review = soon(answered(reviews.create(&params, &review))).await.ok()?;
    review.status?.user_info?.username
}

/// Reads the API server's clock from the date of an answer, whatever the answer says.
async fn clock(client: &Client) -> Option<Skew> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    let before = SystemTime::now();
    let response = timeout(ANSWER_MAX, client.send(request)).await.ok()?.ok()?;
    let after = SystemTime::now();
    let date = response.headers().get(DATE)?.to_str().ok()?;
    let date = DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(Skew::new((before, after), date.into(), Duration::from_secs(1)))
}

async fn missing(client: &Client, namespace: &str) -> Result<Missing, String> {
    let ask =
        |permissions: &'static [Permission], namespace| soon(permissions::missing(client, permissions, namespace));
    let own = Some(namespace);
    let (needed, protect, expand, lease, lease_watch, endpoints, endpoints_read) = futures::join!(
        ask(permissions::NEEDED, None),
        ask(permissions::PROTECT, None),
        ask(permissions::EXPAND, None),
        ask(permissions::LEASE, own),
        ask(permissions::LEASE_WATCH, own),
        ask(permissions::ENDPOINTS, own),
        ask(permissions::ENDPOINTS_READ, own),
    );
    Ok(Missing {
        needed: needed?,
        protect: protect?,
        expand: expand?,
        lease: lease?,
        lease_watch: lease_watch?,
        endpoints: endpoints?,
        endpoints_read: endpoints_read?,
    })
}

async fn classes(client: &Client) -> Result<Vec<Class>, String> {
    let classes: Api<StorageClass> = Api::all(client.clone());
    let list = soon(answered(classes.list(&ListParams::default()))).await?;
    Ok(list.items.iter().map(Class::read).collect())
}

/// Tries the export, as far as its server answers.
pub(super) async fn export(spec: &ExportSpec) -> ExportFacts {
    let user = nix::unistd::geteuid().as_raw();
    let service = timeout(ANSWER_MAX, process::service(spec.address.server_name())).await.ok().flatten();
    let (tell, mut told) = watch::channel(ExportFacts { user, service, ..ExportFacts::default() });
    // If the server does not answer, the thread of that call ends with the process.
    let trying = tokio::spawn(try_out(spec.clone(), Tell(tell)));
    let ended = timeout(EXPORT_MAX, async {
        loop {
            match timeout(STUCK_AFTER, told.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return true,
                Err(_) => return false,
            }
        }
    });
    if ended.await.unwrap_or(false)
        && let Err(error) = trying.await
    {
        // A bug of ours: the panic goes on where it can be seen.
        std::panic::resume_unwind(error.into_panic());
    }
    told.borrow().clone()
}

/// Publishes each step that is tried on the export, and its result. Clones publish to the same place.
#[derive(Clone)]
struct Tell(watch::Sender<ExportFacts>);

impl Tell {
    async fn tries<T>(&self, what: Try, call: impl Future<Output = Result<T, StorageError>>) -> Option<T> {
        self.note(|facts| facts.unanswered = Some(what));
        let (value, result) = match call.await {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.note(|facts| {
            facts.unanswered = None;
            facts.tried.push((what, result));
        });
        value
    }

    fn note(&self, note: impl FnOnce(&mut ExportFacts)) {
        self.0.send_modify(note);
    }
}

/// Tries one step after the other, and waits for each as long as the server takes.
async fn try_out(spec: ExportSpec, tell: Tell) {
    let Some(storage) = tell.tries(Try::Open, Storage::visit(&spec)).await else { return };
    // The export is open, and this asks the kernel, not the server, so it cannot hang.
    let mount = storage.mount().await.ok().flatten();
    tell.note(|facts| facts.mount.clone_from(&mount));
    let usage = tell.tries(Try::Statfs, storage.measure()).await;
    tell.note(|facts| facts.usage = usage);
    if mount.is_some_and(|mount| spec.reach.refuses(&mount)) {
        // The provisioner writes nothing there either.
        return;
    }
    let Some(test) = tell.tries(Try::Mkdir, storage.begin_write_test()).await else { return };
    let made = test.made();
    tell.note(|facts| {
        facts.write_test = Some(test.name().to_owned());
        facts.owner = Some(made.owner);
        facts.clock = Some(Skew::new(made.between, made.at, Duration::ZERO));
    });
    for (what, step) in
        [(Try::Write, WriteStep::Write), (Try::Chmod, WriteStep::SetMode), (Try::Rename, WriteStep::Rename)]
    {
        if tell.tries(what, storage.write_test(&test, step)).await.is_none() {
            break;
        }
    }
    if tell.tries(Try::Remove, storage.write_test(&test, WriteStep::Remove)).await.is_some() {
        tell.note(|facts| facts.write_test = None);
    }
    let told = tell.clone();
    let removing = storage.remove_leftovers(&test, move || told.note(|_| {}));
    if let Some(leftovers) = tell.tries(Try::List, removing).await {
        tell.note(|facts| facts.leftovers = leftovers);
    }
}
