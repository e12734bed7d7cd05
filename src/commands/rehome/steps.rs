//! The calls to the API server, one step at a time. What the next step is, [`Keeper::next`] decides, on what has just
//! been read.
//!
//! Each change names the uid and the version that the decision was made on, so the API server refuses it if anything
//! has changed meanwhile, be it by another run of this command; then the decision is made anew.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::cluster::api::{ApiError, Cluster, answered};
use crate::commands::rehome::keeper::{
    Keeper, Object, Stage, Step, is_settled, manifest_text, new_keeper, volume_of,
};
use crate::commands::rehome::plan::User;
use crate::model::volume::{NfsSource, ReclaimPolicy, Volume, annotation};

/// The number of objects on one page of a list, which bounds our memory.
const PAGE: u32 = 100;

/// How often a decision is made anew because something has changed, before that is given up.
const TRIES: u32 = 100;

/// The pause before a decision is made anew, or a volume is looked at again that has not got its claim yet.
const PAUSE: Duration = Duration::from_millis(100);

/// How long no volume may get its claim back until that is given up. Kubernetes looks at a lost claim every 15 s.
const PATIENCE: Duration = Duration::from_mins(1);

/// Reasons why a volume cannot be brought to where it is to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Somebody has to decide or to mend something; the other volumes go on.
    #[error("{0}")]
    Stuck(String),
    /// The API server does not do what it is asked for.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The volumes of the API server, with all their fields, and what decides on them.
pub(super) struct Volumes {
    client: Client,
    api: Api<Object>,
    cluster: Cluster,
    until: Instant,
}

impl Volumes {
    pub(super) fn new(client: Client, provisioner: &str) -> Self {
        let api = Api::all_with(client.clone(), &ApiResource::erase::<PersistentVolume>(&()));
        let cluster = Cluster::new(client.clone(), provisioner);
        Self { client, api, cluster, until: Instant::now() + PATIENCE }
    }

    /// Reads all volumes, page by page, and passes them to `each`.
    pub(super) async fn all(&self, mut each: impl FnMut(Object)) -> Result<(), ApiError> {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = answered(self.api.list(&params)).await?;
            page.items.into_iter().for_each(&mut each);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// Reads a volume; returns `None` if it does not exist.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Object>, ApiError> {
        answered(self.api.get_opt(name)).await
    }

    /// Reads the Pods of a namespace that have not ended; returns `None` if that is not allowed.
    pub(super) async fn users(&self, namespace: &str) -> Result<Option<Vec<User>>, ApiError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let (mut users, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let page = match answered(pods.list(&params)).await {
                Err(error) if error.is_forbidden() => return Ok(None),
                page => page?,
            };
            users.extend(page.items.iter().filter_map(user));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(Some(users)),
            }
        }
    }

    /// Makes the keeper of a volume, unless the volume is another than was planned with. Of two runs that do so at the same
    /// time, the second goes on with the keeper of the first.
    pub(super) async fn keep(&self, planned: &Volume, to: &NfsSource) -> Result<(), Trouble> {
        let found = self.read(planned.name.as_str()).await?;
        let is_planned = |now: &Volume| now.uid == planned.uid && now.source == planned.source && !now.deleting;
        let old = found.filter(|found| volume_of(found).as_ref().is_ok_and(is_planned));
        let old = old.ok_or_else(|| Trouble::Stuck("it has changed meanwhile: run this again".to_owned()))?;
        let keeper = new_keeper(&old, to);
        match answered(self.api.create(&PostParams::default(), &keeper)).await {
            Err(error) if is_there(&error) => Ok(()),
            made => Ok(made.map(drop)?),
        }
    }

    /// Brings the volume of a keeper to a stage, if it is not there. Returns also if the keeper has gone.
    pub(super) async fn advance(&self, keeper: &str, stage: Stage) -> Result<(), Trouble> {
        for _ in 0..TRIES {
            let Some(found) = self.read(keeper).await? else { return Ok(()) };
            if found.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
            let keeper = Keeper::read(&found).map_err(|words| Trouble::Stuck(words_on_keeper(keeper, &words)))?;
            let now = self.read(keeper.of()).await?;
            let step = keeper.next(now.as_ref()).map_err(Trouble::Stuck)?;
            if step.stage() > stage {
                return Ok(());
            }
            match self.take(&step, &keeper, &found, now.as_ref()).await {
                Ok(()) => {}
                // It is another volume by now, another version, gone, or there already.
                Err(error) if error.is_conflict() || error.is_not_found() || is_there(&error) => {
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Trouble::Stuck("somebody else changes it all the time: run this again".to_owned()))
    }

    /// Takes one step.
    ///
    /// What a leading provisioner makes of each: nothing is ever reclaimed whose policy is not Delete, by the very first
    /// question of `decide::volume::for_volume` after whose it is, before class and annotations are asked; and what a
    /// leader remembers it confirms by reading the volume, and its claim, before it touches a directory
    /// (`controllers::confirm`). So from the mark on it leaves the old volume alone, at most takes its own finalizer off; a
    /// volume that has gone while its claim had it is reclaimed by how it was seen last, which is with Retain, since
    /// the deletion comes after that. The new volume has Retain, too, until it is what the old one was to its claim.
    async fn take(
        &self,
        step: &Step,
        keeper: &Keeper,
        found: &Object,
        now: Option<&Object>,
    ) -> Result<(), ApiError> {
        match (step, now) {
            (Step::Create, _) => {
                answered(self.api.create(&PostParams::default(), &keeper.replacement())).await.map(drop)
            }
            (Step::Forget, _) => self.delete(&found.metadata).await,
            (Step::Abandon, _) => {
                warn!(volume = keeper.of(), "somebody has deleted the volume before anything was done to it");
                self.delete(&found.metadata).await
            }
            (Step::Mark, Some(now)) => {
                let mark = json!({annotation::REHOMED_BY: keeper.volume.name.as_str()});
                self.patch(&now.metadata, &mark, Some(ReclaimPolicy::Retain.as_str())).await
            }
            (Step::Record, Some(now)) => {
                let is_ready = keeper.is_safe(now).then_some("true");
                let recorded = manifest_text(&keeper.recorded(now));
                let record = json!({annotation::REHOME_OF: recorded, annotation::REHOME_READY: is_ready});
                self.patch(&found.metadata, &record, None).await
            }
            (Step::Delete, Some(now)) => self.delete(&now.metadata).await,
            (Step::Strip, Some(now)) => self.strip(&now.metadata).await,
            (Step::Restore, Some(now)) => {
                self.patch(&now.metadata, &json!({annotation::REHOMED_BY: null}), Some(keeper.policy())).await
            }
            (Step::Mark | Step::Record | Step::Delete | Step::Strip | Step::Restore, None) => Ok(()),
        }
    }

    /// Sets annotations, and the policy if there is one to set, of a volume as it was read.
    async fn patch(&self, read: &ObjectMeta, annotations: &Value, policy: Option<&str>) -> Result<(), ApiError> {
        let metadata =
            json!({"annotations": annotations, "uid": read.uid, "resourceVersion": read.resource_version});
        let patch = match policy {
            Some(policy) => json!({"metadata": metadata, "spec": {"persistentVolumeReclaimPolicy": policy}}),
            None => json!({"metadata": metadata}),
        };
        self.send(read, patch).await
    }

    /// Takes all finalizers off a volume as it was read.
    async fn strip(&self, read: &ObjectMeta) -> Result<(), ApiError> {
        let metadata = json!({"finalizers": null, "uid": read.uid, "resourceVersion": read.resource_version});
        self.send(read, json!({"metadata": metadata})).await
    }

    async fn send(&self, to: &ObjectMeta, patch: Value) -> Result<(), ApiError> {
        let name = to.name.as_deref().unwrap_or_default();
        answered(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }

    /// Deletes a volume as it was read.
    async fn delete(&self, read: &ObjectMeta) -> Result<(), ApiError> {
        let only = Preconditions { uid: read.uid.clone(), resource_version: read.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        answered(self.api.delete(read.name.as_deref().unwrap_or_default(), &params)).await.map(drop)
    }

    /// Waits until the new volume of a keeper is to its claim what the old one was. Gives up once no volume got there
    /// for [`PATIENCE`].
    pub(super) async fn settle(&mut self, keeper: &str) -> Result<(), Trouble> {
        let Some(found) = self.read(keeper).await? else { return Ok(()) };
        let keeper = Keeper::read(&found).map_err(|words| Trouble::Stuck(words_on_keeper(keeper, &words)))?;
        loop {
            let now = self.read(keeper.of()).await?.and_then(|now| volume_of(&now).ok());
            let Some(volume) = now else {
                return Err(Trouble::Stuck("somebody has deleted it again: run this again".to_owned()));
            };
            let claim = match volume.own_claim() {
                Some(own) => self.cluster.source_claim(&own.namespace, &own.name).await?,
                None => None,
            };
            if is_settled(&volume, claim.as_ref()) {
                self.until = Instant::now() + PATIENCE;
                info!(volume = keeper.of(), "the volume is at its new address");
                return Ok(());
            }
            if Instant::now() > self.until {
                let words = format!(
                    "it is there anew, but its claim is not Bound after {} s: see what kubectl describe says of both, and \
                     whether the controller manager runs, then run this again",
                    PATIENCE.as_secs()
                );
                return Err(Trouble::Stuck(words));
            }
            sleep(PAUSE).await;
        }
    }

    /// Begins the wait for claims.
    pub(super) fn begin_to_settle(&mut self) {
        self.until = Instant::now() + PATIENCE;
    }
}

/// Tells whether an object of that name exists already.
fn is_there(error: &ApiError) -> bool {
    matches!(error, ApiError::Kube(kube::Error::Api(status)) if status.is_already_exists())
}

fn words_on_keeper(name: &str, words: &str) -> String {
    format!("the volume {name} is in the way of its keeper: {words}. Delete it if it is nothing of yours")
}

/// Reads who uses which claims; `None` if the Pod has ended or uses none.
fn user(pod: &Pod) -> Option<User> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let claims: Vec<String> = volumes
        .iter()
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        })
        .collect();
    let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
    (!has_ended && !claims.is_empty()).then_some(User { name, claims })
}
