//! The API calls that the provisioner makes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error as KubeError};
use serde_json::json;
use tokio::time::timeout;

use crate::cluster::slim::Slim;
use crate::layout::ClusterMark;
use crate::model::claim::SourceClaim;
use crate::model::class::Class;
use crate::model::expansion::Expansion;
use crate::model::volume::{FINALIZER, NewVolume, ReclaimPolicy, Volume, annotation};
use crate::values::names::{ClassName, VolumeName};
use crate::values::quantity::STORAGE;

/// The longest time that the API server may take to answer one request.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The namespace that each cluster has for as long as it lives.
const SYSTEM: &str = "kube-system";

/// The number of volumes on one page of a list, which bounds our memory.
const PAGE: u32 = 100;

/// Reasons why an API call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", ANSWER_MAX.as_secs())]
    Timeout,
    /// Another object of that name exists already, not the one that we wanted to create.
    #[error("the PersistentVolume {0:?} already exists, and was not made here for this claim")]
    Taken(VolumeName),
    /// The API server refused the request, or could not be reached.
    #[error("{}", in_words(.0))]
    Kube(KubeError),
}

/// Puts an error into words: the API server's own if it has answered, else the whole chain of causes. Control
/// characters in its answer become blanks, because webhooks have it repeat what tenants have written.
fn in_words(error: &KubeError) -> String {
    if let KubeError::Api(status) = error {
        return status.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

impl ApiError {
    /// Tells whether the API server answered that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_not_found())
    }

    /// Tells whether the API server answered that the object is no longer the one that the request was made for.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_conflict())
    }

    /// Tells whether the API server answered that there is an object of that name already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_already_exists())
    }

    /// Tells whether the API server answered that we lack the permission.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_forbidden())
    }

    /// Tells whether the request certainly had no effect, because the API server refused it. Any other failed
    /// request may have been carried out.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Taken(_) => true,
            Self::Kube(KubeError::Api(status)) => (400..500).contains(&status.code) && status.code != 408,
            Self::Kube(_) | Self::Timeout => false,
        }
    }
}

/// Awaits a call to the API server, and gives up when the answer takes too long.
///
/// # Errors
/// Returns the call's error, or [`ApiError::Timeout`].
pub async fn answered<T>(call: impl Future<Output = Result<T, KubeError>>) -> Result<T, ApiError> {
    timeout(ANSWER_MAX, call).await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::Kube)
}

/// The outcome of deleting a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The call deleted the volume.
    Now,
    /// The volume was gone before the call.
    Before,
}

/// The API server, as the provisioner uses it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    volumes: Api<Slim<PersistentVolume>>,
    classes: Api<StorageClass>,
    provisioner: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("provisioner", &self.provisioner).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Creates a handle for the provisioner of this name.
    #[must_use]
    pub fn new(client: Client, provisioner: &str) -> Self {
        let (volumes, classes) = (Api::all(client.clone()), Api::all(client.clone()));
        Self { client, volumes, classes, provisioner: provisioner.to_owned() }
    }

    /// Reads the mark of this cluster, the uid of its namespace `kube-system`.
    ///
    /// # Errors
    /// Returns any API error; [`ApiError::is_forbidden`] if the right to read that namespace lacks, as with the rights
    /// that upstream's manifests give.
    pub async fn mark(&self) -> Result<ClusterMark, ApiError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = answered(namespaces.get_metadata(SYSTEM)).await?;
        Ok(found.metadata.uid.as_deref().and_then(ClusterMark::parse).unwrap_or_else(ClusterMark::unknown))
    }

    /// Creates a volume, and returns it as it is. Succeeds also if the same volume exists already, see
    /// [`NewVolume::is`].
    ///
    /// # Errors
    /// Returns any API error, or [`ApiError::Taken`] if another volume has the name.
    pub async fn create_volume(&self, volume: &NewVolume) -> Result<Volume, ApiError> {
        match answered(self.volumes.create(&PostParams::default(), &Slim(volume.object()))).await {
            Ok(made) => Ok(Volume::read(&made.0)),
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_already_exists() => {
                // The existing volume may be gone by now; the next try tells.
                let there = self.volume(&volume.name()).await?;
                there.filter(|there| volume.is(there)).ok_or_else(|| ApiError::Taken(volume.name()))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a volume; returns `None` if it does not exist.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>, ApiError> {
        Ok(answered(self.volumes.get_opt(name.as_str())).await?.map(|volume| Volume::read(&volume.0)))
    }

    /// Creates a volume as it is spelled, by an admin's order; returns false if one of its name exists.
    ///
    /// # Errors
    /// Returns any other API error.
    pub async fn create_as_spelled(&self, volume: &PersistentVolume) -> Result<bool, ApiError> {
        match answered(self.volumes.create(&PostParams::default(), &Slim(volume.clone()))).await {
            Ok(_) => Ok(true),
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets a volume's reclaim policy.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn set_policy(&self, volume: &Volume, policy: ReclaimPolicy) -> Result<(), ApiError> {
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": volume.uid},
            "spec": {"persistentVolumeReclaimPolicy": policy.as_str()},
        }));
        answered(self.volumes.patch(volume.name.as_str(), &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Creates a claim, or only has the API server say whether it would (`dry_run`).
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn create_claim(&self, claim: &PersistentVolumeClaim, dry_run: bool) -> Result<(), ApiError> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let claims: Api<Slim<PersistentVolumeClaim>> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { dry_run, ..PostParams::default() };
        answered(claims.create(&params, &Slim(claim.clone()))).await.map(drop)
    }

    /// Finds the volume that a claim names, bound or not: `None` if the claim does not exist, and none if it names none.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn named_by_claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Option<VolumeName>>, ApiError> {
        let claims: Api<Slim<PersistentVolumeClaim>> = Api::namespaced(self.client.clone(), namespace);
        // As for a source: our RBAC grants `list`, but not `get`.
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = answered(claims.list(&only)).await?;
        let named = |claim: &Slim<PersistentVolumeClaim>| {
            claim.0.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty()).map(VolumeName::from)
        };
        Ok(found.items.first().map(named))
    }

    /// Reads what is needed to copy a claim; returns `None` if the claim does not exist.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn source_claim(&self, namespace: &str, name: &str) -> Result<Option<SourceClaim>, ApiError> {
        let claims: Api<Slim<PersistentVolumeClaim>> = Api::namespaced(self.client.clone(), namespace);
        // Our RBAC grants `list` on claims, which the watch needs anyway, but not `get`.
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        Ok(answered(claims.list(&only)).await?.items.first().map(|claim| SourceClaim::read(&claim.0)))
    }

    /// Reads a class; returns `None` if it does not exist.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn class(&self, name: &ClassName) -> Result<Option<Class>, ApiError> {
        if !name.may_exist() {
            return Ok(None);
        }
        Ok(answered(self.classes.get_opt(name.as_str())).await?.as_ref().map(Class::read))
    }

    /// Reads all volumes, page by page, and passes them to `each`.
    ///
    /// # Errors
    /// Returns any API error. The volumes read until then have been passed to `each`.
    pub async fn volumes(&self, mut each: impl FnMut(Volume)) -> Result<(), ApiError> {
        let mut token = None;
        loop {
            let (page, next) = self.volumes_from(token).await?;
            page.into_iter().for_each(&mut each);
            token = next;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads a page of all volumes, and returns it with what the next one is asked for by, if there is any; the first
    /// page is asked for by nothing.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn volumes_from(&self, token: Option<String>) -> Result<(Vec<Volume>, Option<String>), ApiError> {
        let params = ListParams { continue_token: token, ..ListParams::default().limit(PAGE) };
        let page = answered(self.volumes.list(&params)).await?;
        let volumes = page.items.iter().map(|volume| Volume::read(&volume.0)).collect();
        Ok((volumes, page.metadata.continue_.filter(|token| !token.is_empty())))
    }

    /// Adds our finalizer to a volume.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn protect(&self, volume: &Volume) -> Result<(), ApiError> {
        self.patch(volume, json!({ "finalizers": [FINALIZER], "uid": volume.uid })).await
    }

    /// Adds our finalizer to a volume, unless the volume has changed since it was read.
    ///
    /// # Errors
    /// Returns any API error; a conflict if the volume has changed since it was read.
    pub async fn protect_unchanged(&self, volume: &Volume) -> Result<(), ApiError> {
        let metadata = json!({
            "finalizers": [FINALIZER], "uid": volume.uid, "resourceVersion": volume.resource_version,
        });
        self.patch(volume, metadata).await
    }

    /// Removes our finalizer from a volume. Succeeds also if the volume is gone.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn unprotect(&self, volume: &Volume) -> Result<(), ApiError> {
        let metadata = json!({ "$deleteFromPrimitiveList/finalizers": [FINALIZER], "uid": volume.uid });
        unless_gone(self.patch(volume, metadata).await)
    }

    /// Notes on a volume what was done to its directory, and removes our finalizer. Succeeds also if the volume is
    /// gone.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn dispose(&self, volume: &Volume, done: &str) -> Result<(), ApiError> {
        let claim = volume.own_claim().map(|claim| claim.uid.as_str()).unwrap_or_default();
        let metadata = json!({
            "$deleteFromPrimitiveList/finalizers": [FINALIZER], "uid": volume.uid,
            "annotations": {annotation::DISPOSED: format!("{claim} {done}")},
        });
        unless_gone(self.patch(volume, metadata).await)
    }

    /// Sets a volume's capacity, unless the volume has changed since it was read.
    ///
    /// # Errors
    /// Returns any API error; a conflict if the volume has changed since it was read.
    pub async fn grow_volume(&self, volume: &Volume, capacity: &Quantity) -> Result<(), ApiError> {
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": volume.uid, "resourceVersion": volume.resource_version},
            "spec": {"capacity": {STORAGE: capacity}},
        }));
        answered(self.volumes.patch(volume.name.as_str(), &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Sets the capacity in a claim's status, and as much as what is allocated for it, as Kubernetes' own resizers do
    /// (`status.allocatedResources`), and clears what says that the claim is being resized, unless the claim has changed
    /// since it was read.
    ///
    /// # Errors
    /// Returns any API error; a conflict if the claim has changed since it was read.
    pub async fn grow_claim(&self, claim: &Expansion, capacity: &Quantity) -> Result<(), ApiError> {
        let mut status = json!({
            "capacity": {STORAGE: capacity},
            "allocatedResources": {STORAGE: capacity},
            "allocatedResourceStatuses": {STORAGE: null},
        });
        // Only conditions that the claim has: a patch that deletes any other would add it.
        let conditions: Vec<_> =
            claim.conditions.iter().map(|kind| json!({"$patch": "delete", "type": kind})).collect();
        if let (false, Some(status)) = (conditions.is_empty(), status.as_object_mut()) {
            status.insert("conditions".to_owned(), conditions.into());
        }
        let metadata = json!({"uid": claim.claim.uid.as_str(), "resourceVersion": claim.resource_version});
        let patch = Patch::Strategic(json!({"metadata": metadata, "status": status}));
        let claims: Api<Slim<PersistentVolumeClaim>> =
            Api::namespaced(self.client.clone(), &claim.claim.namespace);
        answered(claims.patch_status(&claim.claim.name, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Patches a volume's metadata. The uid in it makes the API server refuse a later volume of the same name.
    async fn patch(&self, volume: &Volume, metadata: serde_json::Value) -> Result<(), ApiError> {
        let patch = Patch::Strategic(json!({ "metadata": metadata }));
        answered(self.volumes.patch_metadata(volume.name.as_str(), &PatchParams::default(), &patch))
            .await
            .map(drop)
    }

    /// Deletes this volume by its uid, and never a later one of the same name. Returns [`Gone::Before`] if the
    /// volume was already gone.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn delete_volume(&self, volume: &Volume) -> Result<Gone, ApiError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(volume.uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        match answered(self.volumes.delete(volume.name.as_str(), &params)).await {
            Ok(_) => Ok(Gone::Now),
            // A conflict means another uid: our volume is gone.
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_not_found() || status.is_conflict() => {
                Ok(Gone::Before)
            }
            Err(error) => Err(error),
        }
    }
}

/// Takes it for success that there is no such volume any more. A conflict means another uid.
fn unless_gone(result: Result<(), ApiError>) -> Result<(), ApiError> {
    result.or_else(|error| if error.is_not_found() || error.is_conflict() { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_the_api_server_says_is_one_line() {
        let said = Status::failure("denied:\n\u{1b}[1mforged", "Forbidden");
        assert_eq!(ApiError::Kube(KubeError::Api(said.boxed())).to_string(), "denied:  [1mforged");
    }
}
